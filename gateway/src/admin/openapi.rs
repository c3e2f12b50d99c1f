//! `/api/v1/openapi.json`: the server API as an OpenAPI 3.1 document, made from the schema with its comments, so that it
//! cannot say anything else than what there is. It needs no key.

mod bounds;

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use prost_reflect::{
    DescriptorError, DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use serde_json::{Map, Value, json};
use skywave_proto::{
    ErrorCode,
    v1::{self, api_server::SERVICE_NAME},
};

use self::bounds::{BOUNDS, EXAMPLES, SOMETIMES};
use super::{api::METHODS, guard::scope_name};

/// The document, made once. Empty should the schema be unreadable: a test reads it.
pub(super) fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| match make() {
        Ok(document) => document.to_string(),
        Err(error) => {
            tracing::error!(%error, "the schema cannot be read, so there is no OpenAPI document");
            "{}".to_owned()
        }
    });
    &DOCUMENT
}

fn make() -> Result<Value, DescriptorError> {
    let pool = DescriptorPool::decode(v1::DESCRIPTOR)?;
    let mut writer = Writer::default();
    let service = pool.get_service_by_name(SERVICE_NAME);
    let methods: Vec<_> = service.iter().flat_map(|service| service.methods()).collect();
    let mut paths = Map::new();
    for method in METHODS {
        let Some(rpc) = methods.iter().find(|rpc| super::api::is_word_of(method.word, rpc.name())) else { continue };
        let scope = method.scope.map(scope_name);
        paths.insert(format!("/api/v1/{}", method.word), json!({ "post": writer.operation(method.word, scope, rpc) }));
    }
    writer.schemas.insert("Problem".to_owned(), problem());
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Skywave server API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What back ends ask of a node. The same methods, with the same names and fields, are the gRPC \
                            service skywave.v1.Api on the same port. Unknown fields are refused.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "a node's internal listener" }],
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "schemas": writer.schemas,
            "responses": responses(),
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "A key of api.keys." },
            },
        },
    }))
}

/// The statuses of problems that any method can answer with, and when.
const PROBLEMS: [(u16, &str); 11] = [
    (400, "The call cannot be understood, or a field is out of its bounds."),
    (401, "No key, or an unknown one."),
    (403, "The key lacks the method's scope; without a key: whoever asks may be a web page."),
    (404, "No such namespace, node or method."),
    (408, "The body did not come in time."),
    (409, "The namespace keeps no history."),
    (413, "The body, the publication or a list in it is over its bound."),
    (429, "Too much of this is going on; `after_ms` says when to come back."),
    (500, "Our mistake."),
    (503, "The backplane is away, or the node is: certainly not done, safe to retry."),
    (504, "Not on enough replicas in time, or it is not known whether it was done: retry with the same key."),
];

fn responses() -> Map<String, Value> {
    let answer = |(status, when): (u16, &str)| {
        let content = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
        let mut response = json!({ "description": when, "content": content });
        if status == 401 {
            response["headers"] = json!({ "WWW-Authenticate": { "schema": { "type": "string" } } });
        }
        (status.to_string(), response)
    };
    PROBLEMS.into_iter().map(answer).collect()
}

/// RFC 9457, with the words of the one table of errors.
fn problem() -> Value {
    let codes: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "description": "Problem details (RFC 9457) with the code of the one table of errors.",
        "properties": {
            "type": { "const": "about:blank" },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string", "description": "What is wrong and what to do." },
            "code": { "enum": codes },
            "retry": { "type": "boolean", "description": "Whether the same call may succeed later." },
            "after_ms": { "type": "integer", "minimum": 0, "description": "How long to wait before that; 0: as you like." },
            "position": { "$ref": "#/components/schemas/Position" },
        },
        "required": ["type", "title", "status", "detail", "code", "retry", "after_ms"],
        "additionalProperties": false,
    })
}

/// What a message is used for: a call may leave out more than an answer does, and say `null` for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Call,
    Answer,
}

#[derive(Default)]
struct Writer {
    schemas: Map<String, Value>,
    comments: HashMap<String, BTreeMap<Vec<i32>, String>>,
}

impl Writer {
    fn operation(&mut self, word: &str, scope: Option<&str>, rpc: &MethodDescriptor) -> Value {
        let comment = self.comment(&rpc.parent_file(), rpc.path());
        let summary = comment.split_once(". ").map_or(comment.as_str(), |(first, _)| first).trim_end_matches('.');
        let call = self.reference(&rpc.input(), Side::Call);
        let answer = self.reference(&rpc.output(), Side::Answer);
        let kind = if rpc.is_server_streaming() { "application/x-ndjson" } else { "application/json" };
        let mut content = json!({ "schema": call });
        if let Some((_, example)) = EXAMPLES.iter().find(|(of, _)| *of == word) {
            content["example"] = serde_json::from_str(example).unwrap_or_default();
        }
        let mut responses = Map::new();
        responses.insert("200".into(), json!({ "description": "Done.", "content": { kind: { "schema": answer } } }));
        for (status, _) in PROBLEMS {
            let reference = format!("#/components/responses/{status}");
            responses.insert(status.to_string(), json!({ "$ref": reference }));
        }
        json!({
            "operationId": word,
            "summary": summary,
            "description": comment,
            "tags": [scope.unwrap_or("any scope")],
            "requestBody": { "required": true, "content": { "application/json": content } },
            "responses": responses,
        })
    }

    /// A reference to the schema of a message, which is made if it is not there yet.
    fn reference(&mut self, message: &MessageDescriptor, side: Side) -> Value {
        let name = message.name().to_owned();
        if !self.schemas.contains_key(&name) {
            self.schemas.insert(name.clone(), Value::Null); // a message may hold itself
            let schema = self.message(message, side);
            self.schemas.insert(name.clone(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn message(&mut self, message: &MessageDescriptor, side: Side) -> Value {
        let choice = message.oneofs().find(|oneof| !oneof.is_synthetic());
        let mut schema = match (message.name(), choice) {
            // In JSON a result is what the method answers, or an error.
            ("BroadcastResult" | "BatchResult", Some(choice)) => {
                let results = choice.fields().map(|field| match field.name() {
                    "error" => {
                        let error = self.field(&field, side);
                        json!({ "type": "object", "properties": { "error": error }, "required": ["error"],
                                "additionalProperties": false })
                    }
                    _ => self.field(&field, side),
                });
                json!({ "anyOf": results.collect::<Vec<_>>() })
            }
            (_, Some(choice)) => {
                let properties: Map<_, _> =
                    choice.fields().map(|field| (field.name().to_owned(), self.field(&field, side))).collect();
                json!({ "type": "object", "properties": properties, "minProperties": 1, "maxProperties": 1,
                        "additionalProperties": false })
            }
            (_, None) => self.object(message, side),
        };
        let comment = self.comment(&message.parent_file(), message.path());
        if !comment.is_empty() {
            schema["description"] = comment.into();
        }
        schema
    }

    fn object(&mut self, message: &MessageDescriptor, side: Side) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        let mut payload = false;
        for field in message.fields() {
            let name = format!("{}.{}", message.name(), field.name());
            if matches!(field.kind(), Kind::Message(kind) if kind.name() == "Payload") {
                payload = true;
                let bytes = json!({ "type": "string", "contentEncoding": "base64", "description": "Bytes." });
                properties.insert("data".into(), json!({ "description": "Any JSON value." }));
                properties.insert("data_base64".into(), bytes);
                continue;
            }
            if name == "Publication.position" {
                // Its two words stand in it.
                properties.insert("epoch".into(), json!({ "type": "string" }));
                properties.insert("offset".into(), json!({ "type": "integer", "minimum": 0 }));
                continue;
            }
            let is_optional = field.supports_presence() && field.field_descriptor_proto().proto3_optional();
            let mut schema = self.field(&field, side);
            if is_optional && side == Side::Call {
                schema = nullable(schema);
            }
            if !is_optional && !SOMETIMES.contains(&name.as_str()) {
                required.push(field.name().to_owned());
            }
            properties.insert(field.name().to_owned(), schema);
        }
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        let has = |word: &str| schema["properties"].get(word).is_some();
        if payload {
            schema["oneOf"] = json!([{ "required": ["data"] }, { "required": ["data_base64"] }]);
        } else if side == Side::Call && has("user") && (has("client") || has("jti")) {
            let other = if has("client") { "client" } else { "jti" };
            let only = |one: &str, none: &str| json!({ "required": [one], "properties": { one: { "type": "string" }, none: { "type": "null" } } });
            schema["oneOf"] = json!([only("user", other), only(other, "user")]);
        }
        schema
    }

    fn field(&mut self, field: &FieldDescriptor, side: Side) -> Value {
        let mut schema = match field.kind() {
            Kind::String => json!({ "type": "string" }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::Uint32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            Kind::Uint64 => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
            // `info`, the only one.
            Kind::Bytes => json!({ "type": "object" }),
            Kind::Message(message) => self.reference(&message, side),
            _ => json!({}),
        };
        let name = format!("{}.{}", field.parent_message().name(), field.name());
        let bounds = BOUNDS.iter().find(|(of, _)| *of == name).map(|(_, bounds)| bounds());
        let bounds = bounds.and_then(|bounds| if let Value::Object(bounds) = bounds { Some(bounds) } else { None });
        if field.is_list() {
            schema = json!({ "type": "array", "items": schema });
        }
        if let (Some(schema), Some(bounds)) = (schema.as_object_mut(), bounds) {
            schema.extend(bounds);
        }
        let comment = self.comment(&field.parent_message().parent_file(), field.path());
        if !comment.is_empty() {
            schema["description"] = comment.into();
        }
        schema
    }

    /// The comment before something in the schema, in one line.
    fn comment(&mut self, file: &FileDescriptor, path: &[i32]) -> String {
        let comments = self.comments.entry(file.name().to_owned()).or_insert_with(|| {
            let info = file.file_descriptor_proto().source_code_info.as_ref();
            let locations = info.into_iter().flat_map(|info| &info.location);
            let comment = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned();
            locations.map(|place| (place.path.clone(), comment(place.leading_comments()))).collect()
        });
        comments.get(path).cloned().unwrap_or_default()
    }
}

fn nullable(mut schema: Value) -> Value {
    match schema.get("type") {
        Some(kind) => {
            schema["type"] = json!([kind, "null"]);
            schema
        }
        None => {
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let mut either = json!({ "anyOf": [schema, { "type": "null" }] });
            if let Some(description) = description {
                either["description"] = description;
            }
            either
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_there_and_every_reference_leads_somewhere() {
        let document = make().unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), METHODS.len());
        let text = document.to_string();
        let mut references = 0;
        for rest in text.split("\"$ref\":\"#").skip(1) {
            let pointer = rest.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some_and(|found| !found.is_null()), "{pointer}");
            references += 1;
        }
        assert!(references > 100);
        for method in METHODS {
            let operation = &paths[&format!("/api/v1/{}", method.word)]["post"];
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{}", method.word);
            let example = &operation["requestBody"]["content"]["application/json"]["example"];
            assert!(example.is_object(), "{} has an example", method.word);
        }
    }

    #[test]
    fn every_bound_is_of_a_field_that_is_there() {
        let document = make().unwrap();
        let names = BOUNDS.iter().map(|(name, _)| *name).chain(SOMETIMES.iter().copied());
        for name in names {
            let (message, field) = name.split_once('.').unwrap();
            let found = &document["components"]["schemas"][message]["properties"][field];
            assert!(!found.is_null(), "{name}");
        }
        let publish = &document["components"]["schemas"]["PublishRequest"];
        assert_eq!(publish["properties"]["channel"]["maxLength"], 255);
        assert_eq!(publish["required"], json!(["channel"]));
        assert_eq!(publish["additionalProperties"], false);
    }
}
