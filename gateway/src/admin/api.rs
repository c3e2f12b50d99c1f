//! `POST /api/v1/{method}`: the server API in JSON.

use std::{sync::Arc, time::Instant};

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
};
use futures_util::future::join_all;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use skywave_backplane::{IdempotencyKey, NewPublication, Published};
use skywave_proto::{ChannelName, ErrorCode, Payload};

use super::{
    Internal, guard,
    problem::{Problem, error_object},
};
use crate::{
    clock::now_ms,
    config::Scope,
    metrics::{self, Source},
    protocol::{payload, present},
    session::{self, Refusal},
    transport::Arrival,
};

/// Channels in one broadcast.
const BROADCAST_CHANNELS: usize = 1000;
const METHODS: &str = "publish, broadcast";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish<'a> {
    channel: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Broadcast<'a> {
    channels: Vec<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
    #[serde(default)]
    key: Option<String>,
}

/// Answers one call.
pub(super) async fn call(
    State(internal): State<Arc<Internal>>,
    Extension(arrival): Extension<Arrival>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let body = body.map_err(|rejection| {
        let too_large = rejection.status() == http::StatusCode::PAYLOAD_TOO_LARGE;
        let code = if too_large { ErrorCode::TooLarge } else { ErrorCode::BadRequest };
        Problem::new(code, format!("the body was not read: {}", rejection.body_text()))
    })?;
    let settings = &internal.ground.settings;
    match method.as_str() {
        "publish" => {
            let publisher = guard::admit(settings, &headers, arrival, Scope::Publish)?;
            let Publish { channel, data, data_base64, key } = parse(&body)?;
            let payload = payload(data, data_base64.as_deref()).map_err(bad_request)?;
            let key = idempotency(publisher, key)?;
            let published = publish(&internal, &channel, payload, key).await?;
            Ok(Json(answer(published)))
        }
        "broadcast" => {
            let publisher = guard::admit(settings, &headers, arrival, Scope::Publish)?;
            let Broadcast { channels, data, data_base64, key } = parse(&body)?;
            if channels.len() > BROADCAST_CHANNELS {
                let message = format!("a broadcast has at most {BROADCAST_CHANNELS} channels");
                return Err(Problem::new(ErrorCode::TooLarge, message));
            }
            let payload = payload(data, data_base64.as_deref()).map_err(bad_request)?;
            let key = idempotency(publisher, key)?;
            let published = channels.iter().map(|channel| publish(&internal, channel, payload.clone(), key.clone()));
            let results = join_all(published).await.into_iter().map(|outcome| match outcome {
                Ok(published) => answer(published),
                Err(refusal) => json!({ "error": error_object(&refusal) }),
            });
            Ok(Json(json!({ "results": results.collect::<Vec<_>>() })))
        }
        _ => {
            guard::admit(settings, &headers, arrival, Scope::Read)?;
            let message = format!("no method {method:?}; expected one of {METHODS}");
            Err(Problem::new(ErrorCode::NotFound, message))
        }
    }
}

fn bad_request(message: &str) -> Problem {
    Problem::new(ErrorCode::BadRequest, message)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| bad_request(&format!("the body is not what this method takes: {error}")))
}

/// The longest key: it is kept for minutes.
const KEY_BYTES: usize = 128;

fn idempotency(publisher: String, key: Option<String>) -> Result<Option<IdempotencyKey>, Problem> {
    match key {
        Some(key) if key.is_empty() || key.len() > KEY_BYTES => {
            Err(bad_request(&format!("a key has 1 to {KEY_BYTES} bytes")))
        }
        key => Ok(key.map(|key| IdempotencyKey { publisher: publisher.into(), key: key.into() })),
    }
}

async fn publish(
    internal: &Internal,
    channel: &str,
    payload: Payload,
    key: Option<IdempotencyKey>,
) -> Result<Published, Refusal> {
    let settings = &internal.ground.settings;
    let channel =
        ChannelName::parse(channel).map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))?;
    let namespace = session::namespace(settings, &channel)?;
    session::check_size(settings, &payload)?;
    let publication = NewPublication {
        channel: channel.clone(),
        payload,
        client: None,
        user: None,
        published_at_ms: now_ms(),
        key,
        history: namespace.history,
    };
    let at = Instant::now();
    let published = internal.relay.publish_and_wait(publication).await?;
    metrics::published(channel.namespace(), Source::Api, at.elapsed());
    Ok(published)
}

fn answer(published: Published) -> Value {
    let position = published.position.map(|at| json!({ "epoch": at.epoch.as_str(), "offset": at.offset }));
    match position {
        Some(position) => json!({ "position": position, "duplicate": published.duplicate }),
        None => json!({ "duplicate": published.duplicate }),
    }
}
