//! The layers of settings, lowest first: defaults, file, environment, flags; and which of them said what.

use std::ffi::OsString;

use ::config::{Config, File, FileFormat, Map, Source, Value, ValueKind};
use serde_json::Value as Json;
use toml_edit::Document;

use super::{
    locate::{line_and_column, locate},
    problem::{Place, Problem},
    twins,
};

/// The way to a setting: section, key, and so on down; an index inside a list.
pub(super) type Path = Vec<String>;

/// What all variables that are ours begin with.
pub(super) const PREFIX: &str = "SKYWAVE__";

/// Texts, whatever they begin with: never read as TOML. The rest of the environment may hold lists and tables.
const TEXTS: [&[&str]; 5] = [
    &["node", "name"],
    &["node", "secret"],
    &["backplane", "url"],
    &["backplane", "username"],
    &["backplane", "password"],
];

/// Lists that a variable may also give as texts with commas between them.
const LISTS: [&[&str]; 3] = [&["public", "listen"], &["public", "origins"], &["internal", "listen"]];

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

    fn place(&self, path: &[String]) -> Option<&Place> {
        self.entries.iter().find(|entry| path.starts_with(&entry.path)).map(|entry| &entry.place)
    }

    fn place_below(&self, path: &[String]) -> Option<&Place> {
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
            // A twin from a lower layer must not stand beside this one.
            if let Some(twin) = twins::of(&entry.path).filter(|twin| !self.sets(twin)) {
                insert(&mut root, &twin, Value::new(None, ValueKind::Nil));
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

fn read_toml(raw: &str) -> Option<toml::Value> {
    let mut table: toml::Table = format!("v = {}", raw.trim()).parse().ok()?;
    table.remove("v").filter(|_| table.is_empty())
}

/// All layers of one start.
#[derive(Debug)]
pub(super) struct Sources {
    file: Option<ConfigFile>,
    environment: Layer,
    flags: Layer,
}

#[derive(Debug)]
struct ConfigFile {
    name: String,
    document: Document<String>,
}

impl Sources {
    /// Reads the file, if one was given.
    ///
    /// # Errors
    /// It cannot be read, or is not TOML.
    pub(super) fn read(file: Option<&std::path::Path>, environment: Layer, flags: Layer) -> Result<Self, Problem> {
        let file = file.map(ConfigFile::read).transpose()?;
        Ok(Self { file, environment, flags })
    }

    /// One tree of all layers over `defaults`, a higher layer winning.
    ///
    /// # Errors
    /// A file that `toml_edit` takes and `config` does not.
    pub(super) fn merge(&self, defaults: &Layer) -> Result<Json, Problem> {
        let mut builder = Config::builder().add_source(defaults.clone());
        if let Some(file) = &self.file {
            builder = builder.add_source(File::from_str(file.document.raw(), FileFormat::Toml));
        }
        let merged = builder.add_source(self.environment.clone()).add_source(self.flags.clone()).build();
        merged.and_then(Config::try_deserialize).map_err(|error| {
            let place = self.file.as_ref().map_or(Place::Default, |file| file.place(None));
            Problem { place, key: String::new(), message: error.to_string() }
        })
    }

    /// Who said what stands at `path`: the highest layer that sets it (or its `_file` twin), else whoever set the nearest
    /// table around it, else something in it.
    pub(super) fn place(&self, path: &[String]) -> Place {
        let twin = twins::of(path);
        for layer in [&self.flags, &self.environment] {
            if let Some(place) = layer.place(path).or_else(|| layer.place(twin.as_deref()?)) {
                return place.clone();
            }
        }
        let in_file = |path: &[String]| {
            let file = self.file.as_ref()?;
            locate(&file.document, path).map(|(at, exact)| (file.place(Some(at)), exact))
        };
        let exact = in_file(path).filter(|(_, exact)| *exact).or_else(|| in_file(twin.as_deref()?));
        if let Some((place, true)) = exact {
            return place;
        }
        for layer in [&self.flags, &self.environment] {
            if let Some(place) = layer.place_below(path) {
                return place.clone();
            }
        }
        in_file(path).map_or(Place::Default, |(place, _)| place)
    }

    /// Whether anybody wrote exactly this setting, or its `_file` twin.
    pub(super) fn is_set(&self, path: &[String]) -> bool {
        let twin = twins::of(path);
        [Some(path), twin.as_deref()].into_iter().flatten().any(|path| {
            let in_file =
                self.file.as_ref().and_then(|file| locate(&file.document, path)).is_some_and(|(_, exact)| exact);
            in_file || self.flags.place(path).is_some() || self.environment.place(path).is_some()
        })
    }

    /// Another reading of the text that a variable put at `path`, where the schema takes no text: a TOML scalar, or a
    /// list with commas. None if the file says it: there `"5"` is a text and a mistake.
    pub(super) fn reread(&self, path: &[String], text: &str) -> Option<Json> {
        self.flags.place(path).or_else(|| self.environment.place(path))?;
        if LISTS.iter().any(|list| *list == path) {
            return Some(text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect());
        }
        let value = read_toml(text)?;
        (!value.is_str() && !value.is_datetime()).then(|| serde_json::to_value(value).ok()).flatten()
    }
}

impl ConfigFile {
    fn read(path: &std::path::Path) -> Result<Self, Problem> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Problem {
            place: Place::Flag("--config".to_owned()),
            key: String::new(),
            message: format!("cannot read {name}: {error}"),
        })?;
        let document = Document::parse(text.clone()).map_err(|error| Problem {
            place: Place::File { name: name.clone(), at: error.span().map(|span| line_and_column(&text, span.start)) },
            key: String::new(),
            message: error.message().replace('\n', ", "),
        })?;
        Ok(Self { name, document })
    }

    fn place(&self, at: Option<(usize, usize)>) -> Place {
        Place::File { name: self.name.clone(), at }
    }
}
