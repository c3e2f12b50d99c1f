//! The reference as a page in Markdown: `docs/CONFIGURATION.md`.

use std::fmt::Write as _;

use super::{ENTRY, Entry, Fallback, NAME, Section, dotted, sections};
use crate::config::{toml_text, twins};

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `skywave config reference`: change the comments of the settings in gateway/src/config, then `make reference`. -->

A node reads a TOML file (`--config FILE`), then variables, then flags; the later one wins. `skywave config check` says what
is wrong, with file, line and key; `skywave config show` prints what is in force and where each setting comes from;
`skywave config reference --format toml` prints this page as a file to begin with.

- **Durations** carry their unit: `\"500ms\"`, `\"10s\"`, `\"1m 30s\"`, `\"24h\"`. **Sizes** are bytes, or carry theirs: `65536`,
  `\"64KiB\"` (of 1,024), `\"10kB\"` (of 1,000).
- **Variables**: `SKYWAVE__SECTION__KEY`. A list or a table is TOML there (`[\"a\", \"b\"]`, `{ presence = true }`); addresses,
  origins and proxies may also be given with commas between them. In a list of tables an entry has no variable of its own: one
  variable holds the whole list.
- **Secrets** and URLs have a twin that ends in `_file`: the path of a file that holds the value, without the newline at its
  end. One of the two is written, not both.
- **Nothing unknown** is passed over: a wrong name, type or value ends the process with exit code 64 before a port is bound.

A running node takes a change of the file, or of a file that it names, within four seconds, and at once on SIGHUP: it is
checked first, and a wrong one changes nothing but the log. Settings marked ↻ are taken so, some of them (what waits for a
connection, how long it may take) by connections and subscriptions that are made from then on; the others need a restart, and the
log says so. `skywave_config_info{version}` tells which nodes run with which settings, `skywave_config_reloads_total{outcome}` what
became of each reload. A certificate that changes is taken too, but for other paths to it.
";

/// The whole page.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for section in sections() {
        write_section(&section, &mut page);
    }
    page
}

fn write_section(section: &Section, page: &mut String) {
    let name = dotted(&section.path);
    let (open, close) = if section.path.last().is_some_and(|last| last == ENTRY) { ("[[", "]]") } else { ("[", "]") };
    let _ = write!(page, "\n## `{open}{}{close}`\n\n{}\n", name.trim_end_matches(ENTRY), about(section));
    if section.path.last().is_some_and(|last| last == ENTRY) {
        let _ = write!(page, "\nAll entries together: `{}`.\n", variable(&section.path[..section.path.len() - 1]));
    }
    if !section.entries.is_empty() {
        page.push('\n');
    }
    for entry in &section.entries {
        write_entry(section, entry, page);
    }
}

fn write_entry(section: &Section, entry: &Entry, page: &mut String) {
    let path = [section.path.as_slice(), std::slice::from_ref(&entry.key)].concat();
    let default = match &entry.default {
        Fallback::Required => "required".to_owned(),
        Fallback::None => "not set".to_owned(),
        Fallback::Made(words) => format!("default: {words}"),
        Fallback::Value(value) => format!("default `{}`", toml_text::value(value)),
    };
    let _ = write!(page, "- **`{}`** · {} · {default}", entry.key, entry.kind);
    if twins::of(&path).is_some() && !entry.key.ends_with("_file") {
        let _ = write!(page, " · or `{}_file`", entry.key);
    }
    if !path.iter().any(|step| step == ENTRY) {
        let _ = write!(page, " · `{}`", variable(&path));
    }
    if crate::config::running::is_taken(&path) {
        page.push_str(" · ↻");
    }
    let _ = writeln!(page, "\\\n  {}", entry.text);
    for (word, text) in &entry.words {
        let _ = writeln!(page, "  - `\"{word}\"`: {text}");
    }
}

/// What the section is, without its name in front.
fn about(section: &Section) -> String {
    let text = section.text.as_str();
    let text = text.split_once("]`: ").filter(|_| text.starts_with("`[")).map_or(text, |(_, rest)| rest);
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn variable(path: &[String]) -> String {
    let steps = path.iter().map(|step| if step == NAME { step.clone() } else { step.to_uppercase() });
    format!("SKYWAVE__{}", steps.collect::<Vec<_>>().join("__"))
}

#[cfg(test)]
mod tests {
    /// `make reference` writes it.
    #[test]
    fn the_page_in_the_repository_is_this_one() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CONFIGURATION.md");
        let there = std::fs::read_to_string(file).unwrap_or_default();
        assert!(there == super::page(), "docs/CONFIGURATION.md is out of date: make reference");
    }
}
