//! Values as they stand in a TOML file.

use serde_json::Value as Json;
use toml_edit::{Key, Value};

/// In one line. There is no word for nothing: it is an empty text.
pub(super) fn value(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => Value::from(text.as_str()).to_string(),
        Json::Array(list) => format!("[{}]", list.iter().map(self::value).collect::<Vec<_>>().join(", ")),
        Json::Object(table) => {
            let entries = table.iter().filter(|(_, value)| !value.is_null());
            let entries: Vec<_> =
                entries.map(|(key, value)| format!("{} = {}", self::key(key), self::value(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        plain => plain.to_string(),
    }
}

/// With quotes where it needs them.
pub(super) fn key(key: &str) -> String {
    Key::new(key).to_string()
}

/// The same for all steps of a path.
pub(super) fn keys(path: &[String]) -> String {
    path.iter().map(|step| key(step)).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn what_it_writes_is_read_again() {
        for value in [json!("a \"b\"\n"), json!([1, "x"]), json!(true), json!({"a b": {"ü": [0.5]}})] {
            let text = format!("{} = {}", super::key("a.b"), super::value(&value));
            let read: toml::Table = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(serde_json::to_value(&read["a.b"]).unwrap(), value, "{text}");
        }
    }
}
