//! The settings in force, each with where it comes from, and no secret among them.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::{
    files::Files,
    layer::Path,
    loader::{Loaded, Loader},
    problem::{ConfigError, Place},
    reference::{self, Fallback},
    toml_text, version,
};

/// What a node with these sources would run with, as a TOML file: comments say where each setting comes from, what depends
/// on the machine is commented out, secrets are `***`.
///
/// # Errors
/// As [`Loader::load`].
pub fn show(loader: &Loader) -> Result<String, ConfigError> {
    let shown = Shown::new(loader)?;
    let mut file = String::new();
    for (section, table) in shown.tree.as_object().into_iter().flatten() {
        shown.table(&mut vec![section.clone()], table, &mut file);
    }
    Ok(file.trim_start().to_owned())
}

/// The same as JSON: one entry a setting, by its name.
///
/// # Errors
/// As [`Loader::load`].
pub fn show_json(loader: &Loader) -> Result<Json, ConfigError> {
    let shown = Shown::new(loader)?;
    let mut all = Map::new();
    shown.flatten(&mut Vec::new(), &shown.tree, &mut all);
    Ok(Json::Object(all))
}

struct Shown {
    loaded: Loaded,
    /// Without what stands in a file of its own: there is its path instead.
    tree: Json,
    /// What depends on the machine, and on what of it.
    made: Vec<(Path, String)>,
}

impl Shown {
    fn new(loader: &Loader) -> Result<Self, ConfigError> {
        let loaded = loader.read(&mut Files::default())?;
        let mut tree = loaded.settings.tree();
        version::mask(&mut tree);
        leave_out_twins(&mut tree);
        if let Some(personal) = tree.pointer_mut("/namespaces/#user").and_then(Json::as_object_mut) {
            personal.remove("subscribe"); // nobody may write it there
        }
        let sections = reference::sections().into_iter();
        let made = sections.flat_map(|section| {
            let entries = section.entries.into_iter();
            entries.filter_map(move |entry| match entry.default {
                Fallback::Made(words) => Some(([section.path.as_slice(), &[entry.key]].concat(), words)),
                _ => None,
            })
        });
        Ok(Self { loaded, tree, made: made.collect() })
    }

    /// Where it comes from; `Err` if it depends on the machine.
    fn origin(&self, path: &[String]) -> Result<Place, String> {
        let place = self.loaded.sources.origin(path);
        match self.made.iter().find(|(made, _)| made == path) {
            Some((_, words)) if place == Place::Default => Err(format!("default: {words}")),
            _ => Ok(place),
        }
    }

    /// A table: first what stands in it, then the tables in it.
    fn table(&self, path: &mut Path, table: &Json, file: &mut String) {
        let Some(table) = table.as_object() else { return };
        let (tables, plain): (Vec<_>, Vec<_>) = table.iter().partition(|(_, value)| is_table(value));
        if !plain.is_empty() {
            let _ = writeln!(file, "\n[{}]", toml_text::keys(path));
            self.settings(path, &plain, file);
        }
        for (key, value) in tables {
            path.push(key.clone());
            match value.as_array() {
                Some(list) => self.list(path, list, file),
                None => self.table(path, value, file),
            }
            path.pop();
        }
    }

    fn list(&self, path: &mut Path, list: &[Json], file: &mut String) {
        for (index, entry) in list.iter().enumerate() {
            let _ = writeln!(file, "\n[[{}]]", toml_text::keys(path));
            path.push(index.to_string());
            self.settings(path, &entry.as_object().into_iter().flatten().collect::<Vec<_>>(), file);
            path.pop();
        }
    }

    fn settings(&self, path: &mut Path, settings: &[(&String, &Json)], file: &mut String) {
        for (key, value) in settings {
            path.push((*key).clone());
            let (key, text) = (toml_text::key(key), toml_text::value(value));
            let _ = match self.origin(path) {
                _ if value.is_null() => writeln!(file, "# {key} is not set"),
                Ok(place) => writeln!(file, "{key} = {text}  # {place}"),
                Err(words) => writeln!(file, "# {key} = {text}  # {words}"),
            };
            path.pop();
        }
    }

    fn flatten(&self, path: &mut Path, value: &Json, all: &mut Map<String, Json>) {
        let inside: Vec<(String, &Json)> = match value {
            Json::Object(table) => table.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Json::Array(list) if is_table(value) => {
                list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
            }
            plain => {
                let from = self.origin(path).map_or_else(|words| words, |place| place.to_string());
                all.insert(path.join("."), json!({ "value": plain, "from": from }));
                return;
            }
        };
        for (key, value) in inside {
            path.push(key);
            self.flatten(path, value, all);
            path.pop();
        }
    }
}

fn is_table(value: &Json) -> bool {
    value.is_object() || value.as_array().is_some_and(|list| list.first().is_some_and(Json::is_object))
}

/// A setting that was read from a file of its own is the path of that file; a path that nobody wrote is nothing to speak of.
fn leave_out_twins(tree: &mut Json) {
    match tree {
        Json::Object(table) => {
            let twins = table.iter().filter(|(key, _)| key.ends_with("_file"));
            let twins: Vec<_> = twins.map(|(key, value)| (key.clone(), value.is_null())).collect();
            for (twin, is_unused) in twins {
                table.remove(if is_unused { twin.as_str() } else { twin.trim_end_matches("_file") });
            }
            table.values_mut().for_each(leave_out_twins);
        }
        Json::Array(list) => list.iter_mut().for_each(leave_out_twins),
        _ => {}
    }
}
