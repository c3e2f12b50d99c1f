//! Publications of back ends.

use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use skywave_backplane::{Durability, IdempotencyKey, NewPublication, Published};
use skywave_proto::{
    ErrorCode, Payload,
    v1::{self, broadcast_result::Result as Single},
};

use super::{Internal, bad_request, channel};
use crate::{
    clock::now_ms,
    metrics,
    protocol::{error_message, payload_of, position_message},
    session::{self, Refusal},
};

/// Channels in one broadcast.
pub(in crate::admin) const BROADCAST_CHANNELS: usize = 1000;
/// The replicas and the time that a publisher may ask for.
pub(in crate::admin) const REPLICAS: RangeInclusive<u32> = 1..=5;
pub(in crate::admin) const WITHIN_MS: RangeInclusive<u32> = 1..=10_000;

fn durability(words: &v1::Durability) -> Result<Durability, Refusal> {
    for (word, value, bounds) in [("replicated", words.replicated, REPLICAS), ("within_ms", words.within_ms, WITHIN_MS)]
    {
        if !bounds.contains(&value) {
            return Err(bad_request(format!("durability.{word} is {} to {}", bounds.start(), bounds.end())));
        }
    }
    Ok(Durability::Replicated { replicas: words.replicated, within: Duration::from_millis(words.within_ms.into()) })
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
        data: Option<v1::Payload>,
        (publisher, key): (String, Option<String>),
        words: Option<&v1::Durability>,
    ) -> Result<Self, Refusal> {
        let key = key.map(|key| session::check_key(&key).map(|()| key)).transpose()?;
        Ok(Self {
            payload: payload_of(data)?,
            key: key.map(|key| IdempotencyKey { publisher: publisher.into(), key: key.into() }),
            durability: words.map(durability).transpose()?,
        })
    }
}

/// `publish`. `publisher` is whose the idempotency key is.
pub(super) async fn publish(
    internal: &Internal,
    publisher: String,
    words: v1::PublishRequest,
) -> Result<v1::PublishResponse, Refusal> {
    let v1::PublishRequest { channel, data, key, durability } = words;
    let what = What::parse(data, (publisher, key), durability.as_ref())?;
    publish_to(internal, &channel, what).await.map(response)
}

/// `broadcast`.
pub(super) async fn broadcast(
    internal: &Internal,
    publisher: String,
    words: v1::BroadcastRequest,
) -> Result<v1::BroadcastResponse, Refusal> {
    let v1::BroadcastRequest { channels, data, key, durability } = words;
    if channels.len() > BROADCAST_CHANNELS {
        let message = format!("a broadcast has at most {BROADCAST_CHANNELS} channels");
        return Err(Refusal::new(ErrorCode::TooLarge, message));
    }
    let what = What::parse(data, (publisher, key), durability.as_ref())?;
    let published = channels.iter().map(|channel| publish_to(internal, channel, what.clone()));
    let results = join_all(published).await.into_iter().map(|outcome| {
        let result = match outcome {
            Ok(published) => Single::Published(response(published)),
            Err(refusal) => Single::Error(error_message(&refusal)),
        };
        v1::BroadcastResult { result: Some(result) }
    });
    Ok(v1::BroadcastResponse { results: results.collect() })
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

fn response(published: Published) -> v1::PublishResponse {
    v1::PublishResponse { position: published.position.map(position_message), duplicate: published.duplicate }
}
