//! The reference as a file with every default, to begin with.

use std::fmt::Write as _;

use super::{ENTRY, Entry, Fallback, Section, sections};
use crate::config::toml_text;

/// Columns of a comment.
const WIDTH: usize = 110;

/// A file that says what the node would do without it. What has no default, or one that depends on the machine, is commented
/// out, and so is every table that may be left out.
pub fn commented() -> String {
    let mut file = String::new();
    comment("Every setting with its default. Made by `skywave config reference --format toml`.", &mut file);
    for section in sections() {
        write_section(&section, &mut file);
    }
    file
}

fn write_section(section: &Section, file: &mut String) {
    let out = if section.optional { "# " } else { "" };
    file.push('\n');
    comment(&section.text, file);
    let header = match section.path.split_last() {
        Some((last, list)) if last == ENTRY => format!("[[{}]]", list.join(".")),
        _ => format!("[{}]", section.path.join(".")),
    };
    let _ = writeln!(file, "{out}{header}");
    for entry in &section.entries {
        write_entry(entry, section.optional, file);
    }
}

fn write_entry(entry: &Entry, optional: bool, file: &mut String) {
    let Entry { key, kind, default, text, words } = entry;
    file.push('\n');
    comment(&format!("{text} ({})", kind.replace('`', "")), file);
    for (word, meaning) in words {
        comment(&format!("- \"{word}\": {meaning}"), file);
    }
    let _ = match default {
        Fallback::Value(value) if optional => writeln!(file, "# {key} = {}", toml_text::value(value)),
        Fallback::Value(value) => writeln!(file, "{key} = {}", toml_text::value(value)),
        Fallback::Required => writeln!(file, "# {key} = …  (required)"),
        Fallback::None => writeln!(file, "# {key} = …"),
        Fallback::Made(words) => writeln!(file, "# {key} = …  (default: {words})"),
    };
}

/// Lines of at most [`WIDTH`] columns, as far as its words allow.
fn comment(text: &str, file: &mut String) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(file, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(file, "{line}");
}
