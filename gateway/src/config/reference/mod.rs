//! Every setting, told from the settings themselves: their comments, their types and their defaults, so that what is written
//! about them cannot be about others.

mod commented;
mod page;

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use super::{layer::Path, schema::Document};

pub use self::{commented::commented, page::page};

/// One table of the file.
#[derive(Debug)]
pub(super) struct Section {
    /// The way to it; [`NAME`] is any name, [`ENTRY`] any entry of a list.
    pub(super) path: Path,
    /// What it is.
    text: String,
    /// Whether all of it may be left out, and is by default.
    optional: bool,
    pub(super) entries: Vec<Entry>,
}

/// One setting.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// The type, in words.
    kind: String,
    pub(super) default: Fallback,
    /// What it is, its unit, and why the default.
    text: String,
    /// What may be written, each with its meaning; empty if that is no closed set.
    words: Vec<(String, String)>,
}

/// What a setting is that nobody wrote.
#[derive(Debug)]
pub(super) enum Fallback {
    /// It has to be written.
    Required,
    /// It is not there.
    None,
    /// This.
    Value(Json),
    /// It depends on the machine, in these words.
    Made(String),
}

/// A name that whoever writes the file chooses.
pub(super) const NAME: &str = "NAME";
/// An entry of a list of tables.
pub(super) const ENTRY: &str = "[]";

/// All of them; a table comes before those inside it.
pub(super) fn sections() -> Vec<Section> {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Document>().to_value();
    let mut sections = Vec::new();
    for (key, schema) in properties(&schema) {
        walk(vec![key.clone()], schema, false, &mut sections);
    }
    sections
}

fn walk(path: Path, schema: &Json, optional: bool, sections: &mut Vec<Section>) {
    let below = |step: &str| [path.as_slice(), &[step.to_owned()]].concat();
    if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
        return walk(below(NAME), inner, true, sections);
    }
    if let Some(inner) = table_in_list(schema) {
        return walk(below(ENTRY), inner, true, sections);
    }
    let optional = optional || is_type(schema, "null");
    let required: Vec<_> = list(schema, "required").iter().filter_map(Json::as_str).collect();
    let (tables, plain): (Vec<_>, Vec<_>) = properties(schema).partition(|(_, schema)| is_table(schema));
    let entries = plain.into_iter().map(|(key, schema)| entry(key, schema, required.contains(&key.as_str())));
    sections.push(Section { path: path.clone(), text: description(schema), optional, entries: entries.collect() });
    for (key, schema) in tables {
        walk(below(key), schema, optional, sections);
    }
}

fn entry(key: &str, schema: &Json, required: bool) -> Entry {
    let closed_set = if is_type(schema, "array") { schema.get("items").unwrap_or(schema) } else { schema };
    let words = list(closed_set, "oneOf").iter().filter_map(|word| {
        let text = word.get("const").and_then(Json::as_str)?;
        Some((text.to_owned(), description(word)))
    });
    let default = match (schema.get("x-default").and_then(Json::as_str), schema.get("default")) {
        (Some(made), _) => Fallback::Made(made.to_owned()),
        (None, _) if required => Fallback::Required,
        (None, None | Some(Json::Null)) => Fallback::None,
        (None, Some(Json::String(text))) if text.is_empty() => Fallback::None,
        (None, Some(value)) => Fallback::Value(value.clone()),
    };
    Entry { key: key.to_owned(), kind: kind(schema), default, text: description(schema), words: words.collect() }
}

fn kind(schema: &Json) -> String {
    if let Some(title) = schema.get("title").and_then(Json::as_str) {
        return title.to_owned();
    }
    let names: Vec<_> = list(schema, "enum").iter().filter_map(Json::as_str).collect();
    if !names.is_empty() {
        return format!("one of `\"{}\"`", names.join("\"`, `\""));
    }
    if let Some(items) = schema.get("items") {
        return format!("list, each: {}", kind(items));
    }
    let of = |name| is_type(schema, name);
    match () {
        () if schema.get("oneOf").is_some() || schema.get("anyOf").is_some() => "one of the words below",
        () if of("boolean") => "`true` or `false`",
        () if of("integer") => "whole number",
        () if of("number") => "number",
        () => "text",
    }
    .to_owned()
}

fn is_table(schema: &Json) -> bool {
    schema.get("properties").is_some()
        || schema.get("additionalProperties").is_some_and(Json::is_object)
        || table_in_list(schema).is_some()
}

fn table_in_list(schema: &Json) -> Option<&Json> {
    schema.get("items").filter(|items| items.get("properties").is_some())
}

fn is_type(schema: &Json, name: &str) -> bool {
    match schema.get("type") {
        Some(Json::String(one)) => one == name,
        Some(Json::Array(several)) => several.iter().any(|one| one == name),
        _ => false,
    }
}

fn properties(schema: &Json) -> impl Iterator<Item = (&String, &Json)> {
    schema.get("properties").and_then(Json::as_object).into_iter().flatten()
}

fn list<'a>(schema: &'a Json, key: &str) -> &'a [Json] {
    schema.get(key).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

/// A comment, in one line; what it says to readers of the code only is left out.
fn description(schema: &Json) -> String {
    let text = schema.get("description").and_then(Json::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" (`None`)", "")
}

/// `public.tls`, `namespaces.NAME.history`, `api.keys[]`.
pub(super) fn dotted(path: &[String]) -> String {
    path.join(".").replace(&format!(".{ENTRY}"), ENTRY)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{Flags, Loader};

    /// The complaints about a file.
    fn complaints(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("skywave.toml");
        std::fs::write(&file, text).unwrap();
        let flags = Flags { config: Some(file), ..Flags::default() };
        let outcome = Loader::new(&flags, [("", "")]).load();
        outcome.err().map(|error| error.to_string()).unwrap_or_default()
    }

    /// `[a.b]`, or `[[a.b]]` for an entry of a list.
    fn header(path: &[String]) -> String {
        match path.split_last() {
            Some((last, list)) if last == ENTRY => format!("[[{}]]", list.join(".")),
            _ => format!("[{}]", path.join(".")),
        }
    }

    #[test]
    fn it_has_the_settings_that_the_file_may_have_and_no_others() {
        let sections = sections();
        for section in &sections {
            // Every table names what it knows when it is shown what it does not.
            let said = complaints(&format!("{}\nzzz = 1\n", header(&section.path)));
            let known = said.split_once("unknown field `zzz`, ").unwrap_or_else(|| panic!("{section:?}: {said}")).1;
            let known: BTreeSet<_> = known.lines().next().unwrap().split('`').skip(1).step_by(2).collect();
            let depth = section.path.len();
            let inside =
                sections.iter().filter(|inner| inner.path.len() > depth && inner.path.starts_with(&section.path));
            let tables = inside.map(|inner| inner.path[depth].as_str()).filter(|step| ![NAME, ENTRY].contains(step));
            let told: BTreeSet<_> = section.entries.iter().map(|entry| entry.key.as_str()).chain(tables).collect();
            assert_eq!(told, known, "{}", dotted(&section.path));
        }
        let said = complaints("zzz = 1\n");
        let known: BTreeSet<_> = said.split('`').skip(3).step_by(2).collect();
        let told: BTreeSet<_> = sections.iter().map(|section| section.path[0].as_str()).collect();
        assert_eq!(told, known);
    }

    #[test]
    fn every_setting_says_what_it_is() {
        for section in sections() {
            assert!(!section.text.is_empty(), "{}", dotted(&section.path));
            for entry in section.entries {
                let name = format!("{}.{}", dotted(&section.path), entry.key);
                assert!(!entry.text.is_empty() && !entry.kind.is_empty(), "{name}");
                assert!(!entry.text.contains("[`"), "{name} links to code: {}", entry.text);
                let is_told = entry.text.to_lowercase().contains("default") || entry.key.ends_with("_file");
                assert!(
                    is_told || !matches!(entry.default, Fallback::Value(_)),
                    "{name} does not speak of its default"
                );
                assert!(entry.words.iter().all(|(_, text)| !text.is_empty()), "{name} has a word without a meaning");
            }
        }
    }

    #[test]
    fn the_commented_file_is_a_good_one_and_changes_nothing() {
        let commented = commented();
        assert_eq!(complaints(&commented), "");
        let of = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            let config = folder.path().join("skywave.toml");
            std::fs::write(&config, text).unwrap();
            let flags = Flags { config: Some(config), name: Some("a".into()), ..Flags::default() };
            Loader::new(&flags, [("", "")]).load().unwrap()
        };
        assert_eq!(of(&commented).differences(&of("")), Vec::<String>::new());
    }
}
