//! `POST /api/v1/{method}`: the server API in JSON.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json,
    body::{Bytes, to_bytes},
    extract::{Path, Request, State},
};
use futures_util::future::join_all;
use http::StatusCode;
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
/// What a body holds beside its payload: names of channels, above all.
const BODY_BESIDE_PAYLOAD: usize = 1 << 20;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Answers one call. The body is read once it is clear that the caller may ask.
pub(super) async fn call(
    State(internal): State<Arc<Internal>>,
    Extension(arrival): Extension<Arrival>,
    Path(method): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let settings = &internal.ground.settings;
    let scope = match method.as_str() {
        "publish" | "broadcast" => Scope::Publish,
        _ => Scope::Read,
    };
    let publisher = guard::admit(settings, request.headers(), arrival, scope)?;
    let body = read(request, settings.limits.publication_bytes * 2 + BODY_BESIDE_PAYLOAD).await?;
    match method.as_str() {
        "publish" => {
            let Publish { channel, data, data_base64, key } = parse(&body)?;
            let payload = payload(data, data_base64.as_deref()).map_err(bad_request)?;
            let key = idempotency(publisher, key)?;
            let published = publish(&internal, &channel, payload, key).await?;
            Ok(Json(answer(published)))
        }
        "broadcast" => {
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
            let message = format!("no method {method:?}; expected one of {METHODS}");
            Err(Problem::new(ErrorCode::NotFound, message))
        }
    }
}

async fn read(request: Request, limit: usize) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), limit)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let message = format!("the body was not read: it is over {limit} bytes, or ended early");
            Err(Problem::new(ErrorCode::TooLarge, message))
        }
        Err(_) => {
            let message = format!("the body did not come within {BODY_TIMEOUT:?}");
            Err(bad_request(&message).with_status(StatusCode::REQUEST_TIMEOUT))
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

fn idempotency(publisher: String, key: Option<String>) -> Result<Option<IdempotencyKey>, Problem> {
    let key = key.map(|key| session::check_key(&key).map(|()| key)).transpose()?;
    Ok(key.map(|key| IdempotencyKey { publisher: publisher.into(), key: key.into() }))
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
    let (name, namespace) = session::named_namespace(settings, &channel)?;
    session::check_size(settings, &payload)?;
    let publication = NewPublication {
        channel,
        payload,
        client: None,
        user: None,
        published_at_ms: now_ms(),
        key,
        history: namespace.history,
        durability: skywave_backplane::Durability::Accepted,
    };
    let at = Instant::now();
    let published = internal.relay.publish_and_wait(publication).await?;
    metrics::published(name, Source::Api, at.elapsed());
    Ok(published)
}

fn answer(published: Published) -> Value {
    let position = published.position.map(|at| json!({ "epoch": at.epoch.as_str(), "offset": at.offset }));
    match position {
        Some(position) => json!({ "position": position, "duplicate": published.duplicate }),
        None => json!({ "duplicate": published.duplicate }),
    }
}
