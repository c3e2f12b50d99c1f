//! `POST /api/v1/{method}`: the server API in JSON.
//!
//! What has no payload in it is read into the types of the schema as they are; those refuse what they do not know.

use std::{fmt, sync::Arc};

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, Request, State},
    response::{IntoResponse as _, Response},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use skywave_proto::{
    ErrorCode, Payload, PayloadKind,
    v1::{self, payload::Kind as PayloadOf},
};

use super::{Call, Internal, Kind, Problem, Refusal, answer::error_result, bad_request, batch, open, run, tail};
use crate::{
    admin::guard::{self, Caller},
    protocol::{self, present},
    transport::Arrival,
};

/// Answers one call. The body is read once it is clear that the caller may ask.
pub(in crate::admin) async fn call(
    State(internal): State<Arc<Internal>>,
    Extension(arrival): Extension<Arrival>,
    Path(word): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let settings = Arc::clone(&internal.ground.settings());
    let caller = guard::admit(&settings, &request, arrival)?;
    let method = open(&caller, &word)?;
    let body = super::read(request.into_body(), super::body_limit(&settings)).await?;
    match method.kind {
        Kind::Unary(read) => {
            let answer = run(&internal, &caller, read(&body)?).await?;
            Ok(Json(raw(answer.to_json())?).into_response())
        }
        Kind::Batch => Ok(Json(batch(&internal, &caller, &body).await?).into_response()),
        Kind::Tail => tail::lines(&internal, parse(&body)?).await.map_err(Problem::from),
    }
}

/// Reads a call that has no payload.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    // A derived struct would take an array for an object.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(bad_request("the body is not what this method takes: it is a JSON object, if only {}"));
    }
    serde_json::from_slice(body)
        .map_err(|error| bad_request(format!("the body is not what this method takes: {error}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish<'a> {
    channel: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "not_null")]
    data_base64: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    durability: Option<v1::Durability>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Broadcast<'a> {
    channels: Vec<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "not_null")]
    data_base64: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    durability: Option<v1::Durability>,
}

/// `null` is a value of `data`, so it does not say that there is none.
fn not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// Reads a `publish`.
pub(super) fn publish(body: &[u8]) -> Result<v1::PublishRequest, Refusal> {
    let Publish { channel, data, data_base64, key, durability } = parse(body)?;
    Ok(v1::PublishRequest { channel, data: payload(data, data_base64.as_deref())?, key, durability })
}

/// Reads a `broadcast`.
pub(super) fn broadcast(body: &[u8]) -> Result<v1::BroadcastRequest, Refusal> {
    let Broadcast { channels, data, data_base64, key, durability } = parse(body)?;
    Ok(v1::BroadcastRequest { channels, data: payload(data, data_base64.as_deref())?, key, durability })
}

fn payload(data: Option<&RawValue>, data_base64: Option<&str>) -> Result<Option<v1::Payload>, Refusal> {
    let payload: Payload = protocol::payload(data, data_base64).map_err(bad_request)?;
    let data = payload.data().clone();
    let kind = match payload.kind() {
        PayloadKind::Json => PayloadOf::Json(data),
        PayloadKind::Text => PayloadOf::Text(data),
        PayloadKind::Binary => PayloadOf::Binary(data),
    };
    Ok(Some(v1::Payload { kind: Some(kind) }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    /// Each `{"method": {…}}`.
    #[serde(borrow)]
    commands: Vec<Command<'a>>,
}

/// The fields of an object, a repeated one too.
struct Command<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Command<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Command<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one field, its method")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Command<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Command(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

async fn batch(internal: &Internal, caller: &Caller, body: &Bytes) -> Result<Box<RawValue>, Refusal> {
    let Batch { commands } = parse(body)?;
    batch::check_count(commands.len())?;
    // The shape of all of them is looked at before the first is carried out.
    let commands = commands.iter().map(only).collect::<Result<Vec<_>, _>>()?;
    let calls = commands.into_iter().map(|(word, words)| {
        let method = open(caller, word)?;
        match method.kind {
            Kind::Unary(read) => read(words.get().as_bytes()),
            Kind::Batch | Kind::Tail => Err(bad_request(format!("{word} cannot stand in a batch"))),
        }
    });
    let calls: Vec<Result<Call, Refusal>> = calls.collect();
    let results = batch::batch(internal, caller, calls, |outcome| {
        let result = match outcome {
            Ok(answer) => answer.to_json(),
            Err(refusal) => error_result(&refusal),
        };
        let result = result.unwrap_or_else(|_| "{}".to_owned()); // see Answer::to_json
        let bytes = result.len();
        (result, bytes)
    });
    raw(Ok(format!("{{\"results\":[{}]}}", results.await.join(","))))
}

fn only<'a>(command: &'a Command<'a>) -> Result<(&'a str, &'a RawValue), Refusal> {
    match &command.0[..] {
        [(word, _)] if word == "batch" => Err(bad_request("a batch has no batch in it")),
        [(word, words)] => Ok((word, words)),
        _ => Err(bad_request("a command is an object with one field, its method: {\"publish\":{…}}")),
    }
}

/// What is JSON already.
fn raw(json: serde_json::Result<String>) -> Result<Box<RawValue>, Refusal> {
    json.and_then(RawValue::from_string).map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))
}
