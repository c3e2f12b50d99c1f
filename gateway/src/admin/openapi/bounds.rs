//! What the schema has no words for: the bounds that the methods check, from the constants that they check with.

use serde_json::{Value, json};
use skywave_proto::ChannelName;

use crate::{
    admin::api::{
        AFTER_BYTES, BROADCAST_CHANNELS, CHANNELS_AT_MOST, COMMANDS, NODE_BYTES, REPLICAS, WHO_BYTES, WITHIN_MS,
    },
    control::SURVEY_AT_MOST,
    session::{KEY_BYTES, PAGE_PUBLICATIONS},
};

type Bounds = fn() -> Value;

/// A bound in bytes is one in characters too; what is within it in characters may still be over it in bytes.
fn length(least: usize, most: usize) -> Value {
    json!({ "minLength": least, "maxLength": most })
}

fn channel() -> Value {
    length(1, ChannelName::MAX_BYTES)
}

fn who() -> Value {
    length(1, WHO_BYTES)
}

fn key() -> Value {
    length(1, KEY_BYTES)
}

fn survey() -> Value {
    json!({ "minimum": 1, "maximum": u64::try_from(SURVEY_AT_MOST.as_millis()).unwrap_or(u64::MAX) })
}

/// Field -> what stands in its schema beside its type. (Channels of a broadcast are refused one by one.)
pub(super) const BOUNDS: &[(&str, Bounds)] = &[
    ("PublishRequest.channel", channel),
    ("PublishRequest.key", key),
    ("BroadcastRequest.channels", || json!({ "maxItems": BROADCAST_CHANNELS })),
    ("BroadcastRequest.key", key),
    ("Durability.replicated", || json!({ "minimum": REPLICAS.start(), "maximum": REPLICAS.end() })),
    ("Durability.within_ms", || json!({ "minimum": WITHIN_MS.start(), "maximum": WITHIN_MS.end() })),
    ("BatchRequest.commands", || json!({ "maxItems": COMMANDS })),
    ("HistoryRequest.channel", channel),
    ("HistoryRequest.limit", || json!({ "minimum": 0, "maximum": PAGE_PUBLICATIONS })),
    ("PresenceRequest.channel", channel),
    ("PresenceRequest.after", || length(0, AFTER_BYTES)),
    ("PresenceCountRequest.channel", channel),
    ("ForgetRequest.channel", channel),
    ("ConnectionsRequest.user", who),
    ("ConnectionsRequest.client", who),
    ("ConnectionsRequest.within_ms", survey),
    ("ChannelsRequest.prefix", || length(0, ChannelName::MAX_BYTES)),
    ("ChannelsRequest.after", || length(0, ChannelName::MAX_BYTES)),
    ("ChannelsRequest.limit", || json!({ "minimum": 1, "maximum": CHANNELS_AT_MOST })),
    ("ChannelsRequest.within_ms", survey),
    ("DisconnectRequest.user", who),
    ("DisconnectRequest.client", who),
    ("SubscribeRequest.user", who),
    ("SubscribeRequest.client", who),
    ("SubscribeRequest.channel", channel),
    ("UnsubscribeRequest.user", who),
    ("UnsubscribeRequest.client", who),
    ("UnsubscribeRequest.channel", channel),
    ("RefreshRequest.user", who),
    ("RevokeRequest.user", || length(1, skywave_backplane::MAX_SUBJECT_BYTES)),
    ("RevokeRequest.jti", || length(1, skywave_backplane::MAX_SUBJECT_BYTES)),
    ("DrainRequest.node", || length(1, NODE_BYTES)),
    ("TailRequest.channel", channel),
];

/// Fields that an answer in JSON leaves out where there is nothing to say.
pub(super) const SOMETIMES: &[&str] =
    &["ConnectionsResponse.more", "HistoryPage.more", "Subscribed.publications", "Subscribed.members"];

/// Method -> what somebody may call it with.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    ("publish", r#"{"channel":"chat:lobby","data":{"text":"hello"},"key":"order-17"}"#),
    ("broadcast", r#"{"channels":["chat:lobby","chat:kitchen"],"data":"dinner"}"#),
    ("batch", r#"{"commands":[{"publish":{"channel":"chat:lobby","data":1}},{"nodes":{}}]}"#),
    ("history", r#"{"channel":"chat:lobby","limit":10}"#),
    ("presence", r#"{"channel":"chat:lobby"}"#),
    ("presence_count", r#"{"channel":"chat:lobby"}"#),
    ("forget", r#"{"channel":"chat:lobby"}"#),
    ("nodes", "{}"),
    ("connections", r#"{"user":"ada"}"#),
    ("channels", r#"{"prefix":"chat:","limit":100}"#),
    ("disconnect", r#"{"user":"ada"}"#),
    ("subscribe", r#"{"user":"ada","channel":"chat:lobby"}"#),
    ("unsubscribe", r#"{"user":"ada","channel":"chat:lobby"}"#),
    ("refresh", r#"{"user":"ada"}"#),
    ("revoke", r#"{"user":"ada"}"#),
    ("drain", r#"{"node":"gw-1"}"#),
    ("tail", r#"{"channel":"chat:lobby"}"#),
];
