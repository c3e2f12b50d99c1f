//! `[webhooks]`: what the user's back end decides, and what it is told.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Authorities, Secret, duration, hook_url::HookUrl, size};

/// `[webhooks]`: what the user's back end decides (`connect`, `subscribe`, `publish`, `rpc`), and what it is told (`events`).
/// Default: nothing, the node asks nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookSettings {
    /// A PEM file with authorities whose certificates the back end may show, beside those that the machine trusts. Read at
    /// start and when it changes.
    pub ca: Option<Authorities>,
    /// Asked whether a client may connect, who it is and what it may do.
    pub connect: Option<DecideHook>,
    /// Asked whether a client may subscribe, once its rights allow it.
    pub subscribe: Option<DecideHook>,
    /// Asked whether a client may publish, once its rights allow it; may change the payload.
    pub publish: Option<DecideHook>,
    /// Answers the clients' `rpc` command.
    pub rpc: Option<DecideHook>,
    /// Told what has happened.
    pub events: Option<EventHook>,
}

/// One of `[webhooks.connect]`, `subscribe`, `publish`, `rpc`: somebody waits for the answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideHook {
    /// Where the back end is asked: `https://…`, or `http://…` inside a network that nobody else reads.
    pub url: HookUrl,
    /// A file with `url`, read at start and when it changes; a newline at its end does not
    /// count.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// From the client's command to the back end's answer, all tries and the wait for a free place together: 10 ms to 30 s.
    /// Default 1 s: a client waits for it.
    #[serde(default = "one_second", with = "duration::Field")]
    pub timeout: Duration,
    /// Further tries when there was no answer, or 429 or 5xx: 0 to 5, all within `timeout`. Default 0: the back end may have
    /// done it already. It can tell a repeated call by its id.
    #[serde(default)]
    pub retries: u8,
    /// What holds when there is no answer that can be used. Default `refuse`.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Signs what is sent: at least 16 bytes. Default: none, and the back end cannot tell the node from somebody else.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// A file with `secret`, read at start and when it changes; a newline at its end does not
    /// count.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Only for channels of these namespaces; `subscribe` and `publish` only. Default: all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Calls under way at once from this node: 1 to 10,000. As many again wait within `timeout`; the next one has failed.
    /// Each holds what it sends, so `limits.publication_bytes` times twice this is what they may need. Default 256.
    #[serde(default = "concurrency")]
    pub concurrency: u32,
}

/// What holds when the back end gives no answer that can be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// As if there were no hook: what tokens and namespaces allow. Whoever can keep the back end from answering gets that.
    Allow,
    /// The client hears `unavailable` and may try again.
    #[default]
    Refuse,
}

/// `[webhooks.events]`: nobody waits for the answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventHook {
    /// Where the back end is told: `https://…`, or `http://…` inside a network that nobody else reads.
    pub url: HookUrl,
    /// A file with `url`, read at start and when it changes; a newline at its end does not
    /// count.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// How long one delivery may take: 10 ms to 60 s. Default 5 s.
    #[serde(default = "five_seconds", with = "duration::Field")]
    pub timeout: Duration,
    /// Signs what is sent: at least 16 bytes. Default: none, and the back end cannot tell the node from somebody else.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// A file with `secret`, read at start and when it changes; a newline at its end does not
    /// count.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// What is told. Default: all.
    #[serde(default = "all_types")]
    pub types: Vec<EventType>,
    /// Only of channels of these namespaces; events of clients have none. Default: all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// How long an event waits for its opposite, which takes both away: at most 1 min. Default 1 s: a page that is loaded
    /// again is no news.
    #[serde(default = "one_second", with = "duration::Field")]
    pub debounce: Duration,
    /// Events in one delivery: 1 to 1,000. Default 100.
    #[serde(default = "batch")]
    pub batch: u16,
    /// How long a delivery that is not full waits for more, after `debounce`: at most 10 s. Default 100 ms.
    #[serde(default = "batch_wait", with = "duration::Field")]
    pub batch_wait: Duration,
    /// How old the oldest event of a delivery may become before it is no longer tried: 1 s to 24 h. Default 1 h.
    #[serde(default = "give_up_after", with = "duration::Field")]
    pub give_up_after: Duration,
    /// Events that wait on this node: 1 to 1,000,000; the next is lost and counted. Default 10,000.
    #[serde(default = "queue")]
    pub queue: u32,
    /// Bytes that they may take. Default 16 MiB.
    #[serde(default = "queue_bytes", with = "size::Field")]
    pub queue_bytes: usize,
}

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// A channel has its first subscriber.
    ChannelOccupied,
    /// A channel has lost its last subscriber.
    ChannelVacated,
    /// A user came to a channel with presence.
    MemberJoined,
    /// A user left it.
    MemberLeft,
    /// A client connected.
    ClientConnected,
    /// A client is gone.
    ClientDisconnected,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 6] = [
        Self::ChannelOccupied,
        Self::ChannelVacated,
        Self::MemberJoined,
        Self::MemberLeft,
        Self::ClientConnected,
        Self::ClientDisconnected,
    ];

    /// Whether it is of channels and who is on them, not of clients.
    pub const fn is_of_members(self) -> bool {
        !matches!(self, Self::ClientConnected | Self::ClientDisconnected)
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChannelOccupied => "channel_occupied",
            Self::ChannelVacated => "channel_vacated",
            Self::MemberJoined => "member_joined",
            Self::MemberLeft => "member_left",
            Self::ClientConnected => "client_connected",
            Self::ClientDisconnected => "client_disconnected",
        }
    }
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn concurrency() -> u32 {
    256
}

fn all_types() -> Vec<EventType> {
    EventType::ALL.to_vec()
}

fn batch() -> u16 {
    100
}

fn batch_wait() -> Duration {
    Duration::from_millis(100)
}

fn give_up_after() -> Duration {
    Duration::from_secs(60 * 60)
}

fn queue() -> u32 {
    10_000
}

fn queue_bytes() -> usize {
    16 << 20
}
