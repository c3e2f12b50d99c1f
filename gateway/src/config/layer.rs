//! What one place outside the file says.

use std::ffi::OsString;

use ::config::{Map, Source, Value, ValueKind};

use super::{
    problem::{Place, Problem},
    twins,
};

/// The way to a setting: section, key, and so on down; an index inside a list.
pub(super) type Path = Vec<String>;

/// What all variables that are ours begin with.
pub(super) const PREFIX: &str = "SKYWAVE__";

/// Texts, whatever they begin with: never read as TOML. The rest of the environment may hold lists and tables.
const TEXTS: &[&[&str]] = &[
    &["node", "name"],
    &["node", "secret"],
    &["backplane", "url"],
    &["backplane", "username"],
    &["backplane", "password"],
    &["backplane", "sentinel_username"],
    &["backplane", "sentinel_password"],
    &["backplane", "ca"],
    &["auth", "tokens", "jwks_url"],
    &["auth", "tokens", "issuer"],
    &["auth", "tokens", "cookie"],
    &["public", "tls", "certificate"],
    &["public", "tls", "key"],
    &["public", "tls", "client_ca"],
    &["internal", "tls", "certificate"],
    &["internal", "tls", "key"],
    &["internal", "tls", "client_ca"],
    &["webhooks", "ca"],
    &["webhooks", "connect", "url"],
    &["webhooks", "connect", "secret"],
    &["webhooks", "subscribe", "url"],
    &["webhooks", "subscribe", "secret"],
    &["webhooks", "publish", "url"],
    &["webhooks", "publish", "secret"],
    &["webhooks", "rpc", "url"],
    &["webhooks", "rpc", "secret"],
    &["webhooks", "events", "url"],
    &["webhooks", "events", "secret"],
];

/// Lists that a variable may also give as texts with commas between them.
const LISTS: [&[&str]; 9] = [
    &["public", "listen"],
    &["public", "origins"],
    &["public", "trusted_proxies"],
    &["internal", "listen"],
    &["backplane", "urls"],
    &["webhooks", "subscribe", "namespaces"],
    &["webhooks", "publish", "namespaces"],
    &["webhooks", "events", "namespaces"],
    &["webhooks", "events", "types"],
];

/// What one place outside the file says: variables, or flags.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    path: Path,
    place: Place,
    value: Value,
}

impl Layer {
    /// Adds a setting; a table is taken apart, so that each of its keys has its place.
    pub(super) fn push(&mut self, path: Path, place: Place, value: impl Into<Value>) {
        let value = value.into();
        match value.kind {
            ValueKind::Table(table) if !table.is_empty() => {
                for (key, value) in table {
                    self.push([path.as_slice(), &[key]].concat(), place.clone(), value);
                }
            }
            _ => self.entries.push(Entry { path, place, value }),
        }
    }

    /// Reads the variables that begin with [`PREFIX`].
    ///
    /// Values stay texts unless they are a TOML list or table: only the schema knows whether `5` is a number or a
    /// password.
    pub(super) fn environment<K: Into<OsString>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (K, V)>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut layer = Self::default();
        for (name, value) in variables {
            let name = name.into();
            let shown = name.to_string_lossy().into_owned();
            if !shown.starts_with(PREFIX) {
                continue;
            }
            let place = Place::Environment(shown);
            match variable(&name, value.into()) {
                Ok((path, value)) => layer.push(path, place, value),
                Err(message) => problems.push(Problem { place, key: String::new(), message }),
            }
        }
        layer.entries.sort_by(|a, b| a.path.cmp(&b.path));
        for pair in layer.entries.windows(2) {
            if pair[1].path.starts_with(&pair[0].path) {
                problems.push(Problem {
                    place: pair[1].place.clone(),
                    key: pair[1].path.join("."),
                    message: format!("also set by {}; set one of them", pair[0].place),
                });
            }
        }
        layer
    }

    /// Whether nothing is set.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn sets(&self, path: &[String]) -> bool {
        self.entries.iter().any(|entry| entry.path == path)
    }

    /// Where `path`, or a list that it stands in, was set.
    pub(super) fn place(&self, path: &[String]) -> Option<&Place> {
        self.entries.iter().find(|entry| path.starts_with(&entry.path)).map(|entry| &entry.place)
    }

    /// Where something inside `path` was set.
    pub(super) fn place_below(&self, path: &[String]) -> Option<&Place> {
        self.entries.iter().find(|entry| entry.path.starts_with(path)).map(|entry| &entry.place)
    }
}

/// Gives the `config` crate a tree, for it takes a dotted name apart by rules that are not ours (a namespace may contain
/// a dot).
impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        let mut root = Map::new();
        for entry in &self.entries {
            insert(&mut root, &entry.path, entry.value.clone());
            // What a lower layer says instead must not stand beside this one.
            for other in twins::instead_of(&entry.path).filter(|other| !self.sets(other)) {
                insert(&mut root, &other, Value::new(None, ValueKind::Nil));
            }
        }
        Ok(root)
    }
}

fn insert(table: &mut Map<String, Value>, path: &[String], value: Value) {
    let [key, rest @ ..] = path else { return };
    if rest.is_empty() {
        table.insert(key.clone(), value);
        return;
    }
    let next = table.entry(key.clone()).or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
    if let ValueKind::Table(table) = &mut next.kind {
        insert(table, rest, value);
    }
}

fn variable(name: &OsString, value: OsString) -> Result<(Path, Value), String> {
    let Some(name) = name.to_str() else { return Err("its name is not UTF-8".to_owned()) };
    let Ok(value) = value.into_string() else { return Err("its value is not UTF-8".to_owned()) };
    let path: Path = name[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
    if path.iter().any(String::is_empty) || path[0].contains(['.', '[']) {
        return Err("not the name of a setting: the shape is SKYWAVE__SECTION__KEY, with two underscores between the \
                    steps and none empty"
            .to_owned());
    }
    let text = TEXTS.iter().any(|text| *text == path) || path.last().is_some_and(|key| key.ends_with("_file"));
    let toml = if !text && value.trim_start().starts_with(['[', '{']) { read_toml(&value) } else { None };
    let value = match toml {
        Some(toml) => toml.try_into::<Value>().map_err(|error| error.to_string())?,
        None => Value::new(None, value),
    };
    Ok((path, value))
}

/// A TOML value; none if it is not one, or more than one.
pub(super) fn read_toml(raw: &str) -> Option<toml::Value> {
    let mut table: toml::Table = format!("v = {}", raw.trim()).parse().ok()?;
    table.remove("v").filter(|_| table.is_empty())
}

/// Whether a variable may give texts with commas between them for it.
pub(super) fn is_list(path: &[String]) -> bool {
    LISTS.iter().any(|list| *list == path)
}
