//! Publications of back ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use skywave_backplane::{Durability, IdempotencyKey, NewPublication, Published};
use skywave_proto::{ErrorCode, Payload};

use super::{Answer, Internal, Problem, answer, bad_request, channel};
use crate::{
    admin::problem::error_object,
    clock::now_ms,
    metrics,
    protocol::{payload, present},
    session::{self, Refusal},
};

/// Channels in one broadcast.
const BROADCAST_CHANNELS: usize = 1000;
/// The replicas and the time that a publisher may ask for.
const REPLICAS: std::ops::RangeInclusive<u32> = 1..=5;
const WITHIN_MS: std::ops::RangeInclusive<u64> = 1..=10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Publish<'a> {
    channel: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    durability: Option<DurabilityWords>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Broadcast<'a> {
    channels: Vec<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    durability: Option<DurabilityWords>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DurabilityWords {
    replicated: u32,
    within_ms: u64,
}

impl DurabilityWords {
    fn parse(&self) -> Result<Durability, Problem> {
        if !REPLICAS.contains(&self.replicated) {
            let message = format!("durability.replicated is {} to {}", REPLICAS.start(), REPLICAS.end());
            return Err(bad_request(&message));
        }
        if !WITHIN_MS.contains(&self.within_ms) {
            let message = format!("durability.within_ms is {} to {}", WITHIN_MS.start(), WITHIN_MS.end());
            return Err(bad_request(&message));
        }
        Ok(Durability::Replicated { replicas: self.replicated, within: Duration::from_millis(self.within_ms) })
    }
}

/// What is published, wherever to.
#[derive(Clone)]
struct What {
    payload: Payload,
    key: Option<IdempotencyKey>,
    /// `None`: as the namespace says.
    durability: Option<Durability>,
}

impl What {
    fn parse(
        data: Option<&RawValue>,
        data_base64: Option<&str>,
        (publisher, key): (String, Option<String>),
        durability: Option<&DurabilityWords>,
    ) -> Result<Self, Problem> {
        let key = key.map(|key| session::check_key(&key).map(|()| key)).transpose()?;
        Ok(Self {
            payload: payload(data, data_base64).map_err(bad_request)?,
            key: key.map(|key| IdempotencyKey { publisher: publisher.into(), key: key.into() }),
            durability: durability.map(DurabilityWords::parse).transpose()?,
        })
    }
}

/// `publish`. `publisher` is whose the idempotency key is.
pub(super) async fn publish(internal: &Internal, publisher: String, words: Publish<'_>) -> Answer {
    let Publish { channel, data, data_base64, key, durability } = words;
    let what = What::parse(data, data_base64.as_deref(), (publisher, key), durability.as_ref())?;
    answer(&object(publish_to(internal, &channel, what).await?))
}

/// `broadcast`.
pub(super) async fn broadcast(internal: &Internal, publisher: String, words: Broadcast<'_>) -> Answer {
    let Broadcast { channels, data, data_base64, key, durability } = words;
    if channels.len() > BROADCAST_CHANNELS {
        let message = format!("a broadcast has at most {BROADCAST_CHANNELS} channels");
        return Err(Problem::new(ErrorCode::TooLarge, message));
    }
    let what = What::parse(data, data_base64.as_deref(), (publisher, key), durability.as_ref())?;
    let published = channels.iter().map(|channel| publish_to(internal, channel, what.clone()));
    let results = join_all(published).await.into_iter().map(|outcome| match outcome {
        Ok(published) => object(published),
        Err(refusal) => json!({ "error": error_object(&refusal) }),
    });
    answer(&json!({ "results": results.collect::<Vec<_>>() }))
}

async fn publish_to(internal: &Internal, name: &str, what: What) -> Result<Published, Refusal> {
    let settings = Arc::clone(&internal.ground.settings());
    let channel = channel(name)?;
    let (name, namespace) = session::named_namespace(&settings, &channel)?;
    session::check_size(&settings, &what.payload)?;
    let publication = NewPublication {
        channel,
        payload: what.payload,
        client: None,
        user: None,
        published_at_ms: now_ms(),
        key: what.key,
        history: namespace.history,
        durability: what.durability.unwrap_or(namespace.durability),
    };
    let at = Instant::now();
    let outcome = internal.relay.publish_and_wait(publication).await;
    metrics::published(name, at.elapsed(), &outcome);
    Ok(outcome?)
}

fn object(published: Published) -> Value {
    let position = published.position.map(|at| json!({ "epoch": at.epoch.as_str(), "offset": at.offset }));
    match position {
        Some(position) => json!({ "position": position, "duplicate": published.duplicate }),
        None => json!({ "duplicate": published.duplicate }),
    }
}
