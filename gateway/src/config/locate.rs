//! Where in a TOML file a setting stands.

use toml_edit::{Document, Item, TableLike, Value};

/// Line and column, from 1, of the key at `path`, or of the nearest table or list around it, and whether it is the key
/// itself; none if nothing of the path is there. In a list the steps are indices.
pub(super) fn locate(document: &Document<String>, path: &[String]) -> Option<((usize, usize), bool)> {
    let mut step = Step::Table(document.as_table());
    let mut found = None;
    for segment in path {
        let Some((span, next)) = step.into(segment) else { return found.map(|at| (at, false)) };
        found = span.map(|span| line_and_column(document.raw(), span.start)).or(found);
        step = next;
    }
    found.map(|at| (at, true))
}

enum Step<'a> {
    Table(&'a dyn TableLike),
    Item(&'a Item),
    Value(&'a Value),
}

type Span = std::ops::Range<usize>;

impl<'a> Step<'a> {
    fn into(self, segment: &str) -> Option<(Option<Span>, Step<'a>)> {
        let table = match self {
            Step::Table(table) => Some(table),
            Step::Item(item) => item.as_table_like(),
            Step::Value(value) => value.as_inline_table().map(|table| table as &dyn TableLike),
        };
        if let Some(table) = table {
            let (key, item) = table.get_key_value(segment)?;
            return Some((key.span().or(item.span()), Step::Item(item)));
        }
        let index: usize = segment.parse().ok()?;
        if let Step::Item(Item::ArrayOfTables(tables)) = self {
            let table = tables.get(index)?;
            return Some((table.span(), Step::Table(table)));
        }
        let array = match self {
            Step::Item(item) => item.as_array(),
            Step::Value(value) => value.as_array(),
            Step::Table(_) => None,
        };
        let value = array?.get(index)?;
        Some((value.span(), Step::Value(value)))
    }
}

/// Counts characters, as editors do.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[limits]
connections = 5
[[api.keys]]
name = "a"
[[api.keys]]
  name = "b"
[public]
listen = ["x", "y"]
[namespaces]
chat = { history = { size = 1 } }
list = [{ a = 1 }, { "ü" = 2, b = 3 }]
"#;

    fn at(path: &str) -> Option<((usize, usize), bool)> {
        let path: Vec<String> = path.split('/').map(Into::into).collect();
        locate(&Document::parse(FILE.to_owned()).unwrap(), &path)
    }

    #[test]
    fn finds_keys_in_every_kind_of_table() {
        assert_eq!(at("limits"), Some(((2, 2), true)));
        assert_eq!(at("limits/connections"), Some(((3, 1), true)));
        assert_eq!(at("api/keys/1"), Some(((6, 1), true)));
        assert_eq!(at("api/keys/1/name"), Some(((7, 3), true)));
        assert_eq!(at("public/listen/1"), Some(((9, 16), true)));
        assert_eq!(at("namespaces/chat/history/size"), Some(((11, 22), true)));
        assert_eq!(at("namespaces/list/1/b"), Some(((12, 31), true)));
    }

    #[test]
    fn falls_back_to_what_is_around() {
        assert_eq!(at("limits/missing"), Some(((2, 2), false)));
        assert_eq!(at("api/keys/0/key"), Some(((4, 1), false)));
        assert_eq!(at("nothing/here"), None);
    }
}
