//! From the merged tree to typed sections, strictly: nothing unknown, nothing converted.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_path_to_error::Segment;

use super::{
    api::ApiSettings,
    backplane::BackplaneSettings,
    layer::Path,
    namespaces::Namespace,
    problem::Problem,
    sections::{
        AuthSettings, DebugSettings, DemoSettings, DrainSettings, InternalSettings, Limits, NodeSettings,
        PublicSettings, Timeouts,
    },
    sockjs::SockJsService,
    source::Sources,
    webhooks::WebhookSettings,
};

/// The whole file.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Document {
    pub(super) node: NodeSettings,
    pub(super) public: PublicSettings,
    pub(super) internal: InternalSettings,
    pub(super) backplane: BackplaneSettings,
    pub(super) auth: AuthSettings,
    pub(super) api: ApiSettings,
    pub(super) limits: Limits,
    pub(super) timeouts: Timeouts,
    pub(super) drain: DrainSettings,
    pub(super) demo: DemoSettings,
    pub(super) debug: DebugSettings,
    pub(super) sockjs: Vec<SockJsService>,
    pub(super) webhooks: WebhookSettings,
    pub(super) namespaces: BTreeMap<String, Namespace>,
}

/// Reads the tree. What is refused is reported, taken out and passed over, so that one run shows all of it.
pub(super) fn read(mut tree: Json, sources: &Sources, problems: &mut Vec<Problem>) -> Document {
    let mut refused: Vec<Path> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, Document>(&tree) {
            Ok(document) => return document,
            Err(error) => error,
        };
        let message = error.inner().to_string();
        let path = path(error.path(), &message);
        // Each turn takes a text or a setting out of the tree, so this ends.
        if message.starts_with("invalid type: string")
            && let Some(value) = find(&mut tree, &path)
            && let Some(other) = value.as_str().and_then(|text| sources.reread(&path, text))
        {
            *value = other;
            continue;
        }
        // What is wrong around something that was taken out may be wrong only for that.
        if !refused.iter().any(|inner| inner.starts_with(&path)) {
            let message = reword(&path, &message);
            problems.push(Problem { place: sources.place(&path), key: path.join("."), message });
        }
        if !forget(&mut tree, &path) {
            return Document::default();
        }
        refused.push(path);
    }
}

fn path(path: &serde_path_to_error::Path, message: &str) -> Path {
    let mut steps: Path = path
        .iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    if let Some(unknown) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next())
        && steps.last().is_none_or(|last| last != unknown)
    {
        steps.push(unknown.to_owned());
    }
    steps
}

/// Serde speaks of Rust types; who writes a file does not know them. And it repeats the value, which may be a secret.
fn reword(path: &[String], message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ").filter(|_| message.starts_with("invalid ")) else {
        return message.to_owned();
    };
    let found = if may_be_secret(path) { found.split(['"', '`']).next().unwrap_or(found).trim_end() } else { found };
    let expected = match expected {
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "string or map" | "path string" => "a string",
        "a map" => "a table",
        table if table.starts_with("struct ") => "a table",
        other => other,
    };
    format!("{found}, expected {expected}")
}

/// Whether a secret may stand here, or somebody may have put one here by mistake.
fn may_be_secret(path: &[String]) -> bool {
    const SECRETS: &[&[&str]] = &[
        &["node", "secret"],
        &["backplane", "url"],
        &["backplane", "urls"],
        &["backplane", "password"],
        &["backplane", "sentinel_password"],
        &["api"],
        &["auth", "tokens"],
        &["public", "tls", "key"],
        &["internal", "tls", "key"],
        &["webhooks"],
    ];
    SECRETS.iter().any(|secret| path.iter().zip(*secret).all(|(a, b)| a == b))
}

fn find<'a>(tree: &'a mut Json, path: &[String]) -> Option<&'a mut Json> {
    path.iter().try_fold(tree, |value, step| match value {
        Json::Object(table) => table.get_mut(step),
        Json::Array(list) => list.get_mut(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Takes a setting out, the whole list if it stands in one: the others must keep their index.
fn forget(tree: &mut Json, path: &[String]) -> bool {
    let [key, rest @ ..] = path else { return false };
    let Some(table) = tree.as_object_mut() else { return false };
    match table.get_mut(key) {
        Some(inner @ Json::Object(_)) if !rest.is_empty() => forget(inner, rest),
        _ => table.remove(key).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(dotted: &str) -> Path {
        dotted.split('.').map(Into::into).collect()
    }

    #[test]
    fn a_refused_setting_is_passed_over() {
        let mut tree = json!({"a": {"b": 1, "c": [1, {"d": 2}]}});
        assert!(forget(&mut tree, &path("a.b")));
        assert!(forget(&mut tree, &path("a.c.1.d")));
        assert_eq!(tree, json!({"a": {}}));
        assert!(!forget(&mut tree, &path("a.b")));
        assert!(!forget(&mut tree, &[]));
    }

    #[test]
    fn a_message_repeats_no_secret() {
        let message = r#"invalid type: string "hunter2, expected", expected a sequence"#;
        assert_eq!(reword(&path("api.keys"), message), "invalid type: string, expected a list");
        assert_eq!(reword(&path("api.keys.0"), message), "invalid type: string, expected a list");
        assert_eq!(reword(&path("backplane"), message), "invalid type: string, expected a list");
        let message = "invalid type: integer `5`, expected a string";
        assert_eq!(reword(&path("node.secret"), message), "invalid type: integer, expected a string");
        assert_eq!(reword(&path("node.name"), message), message);
    }
}
