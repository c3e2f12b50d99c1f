//! `[namespaces.NAME]`: how channels behave.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use skywave_backplane::{Durability, HistoryPolicy};

use super::{
    duration::{self, Written},
    written::written_as,
};

/// The namespace of channels without a `:` in their name.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The namespace of personal channels: `#user:ID` is for the user of this id alone, on whatever connections.
pub const PERSONAL_NAMESPACE: &str = "#user";

const META_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// `[namespaces.NAME]`: how the channels whose name begins with `NAME:` behave. What is not said here is closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// `{ size, ttl, meta_ttl }`: what is kept for clients that come back. Each channel costs the backplane up to `size`
    /// publications for `ttl`, and a few bytes for `meta_ttl` (default 24 h, at least `ttl`; it lets a client that comes
    /// later learn how much it missed). Default: none, also with `size = 0`: live only.
    #[serde(with = "History")]
    pub history: Option<HistoryPolicy>,
    /// Whether its subscribers are members that others may see. Each join and leave then is a step on the backplane.
    /// Default `false`.
    pub presence: bool,
    /// When a publication counts as accepted: `"accepted"`, once Redis has it, or `{ replicated = 1, within = "500ms" }`,
    /// once so many (1 to 5) of its replicas have it too, or an error after so long (1 ms to 10 s). That costs a seventh of
    /// the throughput and the time to the replica. Default `accepted`.
    #[serde(with = "DurabilityWord")]
    pub durability: Durability,
    /// Which clients may publish. Default `token`.
    pub publish: PublishRight,
    /// Which clients may subscribe. Default `token`.
    pub subscribe: SubscribeRight,
    /// What becomes of a connection for which more waits than it may: `limits.outbox_bytes`, or `limits.node_outbox_bytes`
    /// for all of them. Default `disconnect`: who comes back with its position misses nothing where there is history.
    pub slow_consumer: SlowConsumer,
    /// How long publications of a channel are gathered, so that each subscriber gets them in one write: the first after a
    /// silence goes out at once, the others this much later at most. Default 0 ms: what is waiting anyway is written
    /// together, and nothing waits for more. For rooms with hundreds of publications a second 5 to 20 ms save most of the
    /// processor's time. At most 1 s: longer is no delivery but a poll, and what is gathered counts as waiting for its
    /// connection.
    #[serde(with = "duration::Field")]
    pub flush_interval: Duration,
}

/// The longest [`Namespace::flush_interval`].
pub(super) const MAX_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// What becomes of a connection that does not read as fast as its channels speak. Replies and what the WebSocket itself
/// has to say are never left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlowConsumer {
    /// It is closed with 4002, and comes back with its position.
    #[default]
    Disconnect,
    /// The oldest waiting publications are left out, and a gap push says so. `/raw`, which has no word for that, is
    /// closed with 4002.
    DropOldest,
    /// Of each channel only the newest waiting publication is kept, without a word: for values of which the last one
    /// counts.
    Latest,
    /// The channel stops for it until it has read what waits, then history hands over the rest; a gap push says `reset`
    /// if that does not reach back. Needs `history`.
    Resync,
}

impl SlowConsumer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Disconnect, Self::DropOldest, Self::Latest, Self::Resync];

    /// The word in the settings, and the label `policy` of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop_oldest",
            Self::Latest => "latest",
            Self::Resync => "resync",
        }
    }
}

/// Which clients may publish on a namespace's channels. The server API always may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PublishRight {
    /// None, whatever their token says.
    Nobody,
    /// Those who are subscribed to the channel.
    Subscribers,
    /// All that may connect.
    Anyone,
    /// Those whose token names the channel.
    #[default]
    Token,
}

/// Which clients may subscribe to a namespace's channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubscribeRight {
    /// All that may connect.
    Anyone,
    /// Those that said who they are.
    Users,
    /// Those whose token names the channel.
    #[default]
    Token,
}

/// Whether channels can have such a namespace.
///
/// # Errors
/// Says which rule the name breaks.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name == PERSONAL_NAMESPACE {
        return Ok(());
    }
    let rule = if !(1..=64).contains(&name.len()) {
        "has 1 to 64 bytes"
    } else if name.contains(':') {
        "has no `:`, it ends there in a channel's name"
    } else if name.contains('#') {
        "has no `#`, that is for the system; `#user` is the one of personal channels"
    } else if name.chars().any(char::is_control) {
        "has no control characters"
    } else if name.trim() != name {
        "has no spaces at its ends"
    } else {
        return Ok(());
    };
    Err(format!("the name of a namespace {rule}"))
}

/// What is kept of a channel.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table, like { size = 200, ttl = \"10m\" }")]
struct HistoryTable {
    /// Publications that are kept, at most. Default 0: none.
    size: u32,
    /// How long a publication is kept. No default: whoever keeps something says how long.
    ttl: Option<Written>,
    /// How long a channel's position is known after its last publication, at least `ttl`: a client that comes back later
    /// learns how much it missed. Default 24 h.
    meta_ttl: Written,
}

impl Default for HistoryTable {
    fn default() -> Self {
        Self { size: 0, ttl: None, meta_ttl: Written(META_TTL) }
    }
}

/// For `#[serde(with = …)]`.
struct History;

impl History {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HistoryPolicy>, D::Error> {
        let HistoryTable { size, ttl, meta_ttl: Written(meta_ttl) } = HistoryTable::deserialize(deserializer)?;
        let Some(Written(ttl)) = ttl else {
            return match size {
                0 => Ok(None),
                _ => {
                    Err(de::Error::custom(r#"`size` needs a `ttl`: how long publications are kept, like ttl = "10m""#))
                }
            };
        };
        if size == 0 {
            return Ok(None);
        }
        if ttl.is_zero() {
            return Err(de::Error::custom("`ttl` must be more than 0s; for live only write size = 0"));
        }
        if ttl > meta_ttl {
            return Err(de::Error::custom(format!(
                "`ttl` ({}) is longer than `meta_ttl` ({}): positions must outlive publications, so lower `ttl` or raise \
                 `meta_ttl`",
                humantime::format_duration(ttl),
                humantime::format_duration(meta_ttl),
            )));
        }
        Ok(Some(HistoryPolicy { size, ttl, meta_ttl }))
    }

    fn serialize<S: Serializer>(history: &Option<HistoryPolicy>, serializer: S) -> Result<S::Ok, S::Error> {
        let table = history.map_or_else(HistoryTable::default, |HistoryPolicy { size, ttl, meta_ttl }| HistoryTable {
            size,
            ttl: Some(Written(ttl)),
            meta_ttl: Written(meta_ttl),
        });
        table.serialize(serializer)
    }
}

impl JsonSchema for History {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        HistoryTable::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        HistoryTable::json_schema(generator)
    }
}

/// For `#[serde(with = …)]`.
struct DurabilityWord;

impl DurabilityWord {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Durability, D::Error> {
        deserializer.deserialize_any(DurabilityVisitor)
    }

    fn serialize<S: Serializer>(durability: &Durability, serializer: S) -> Result<S::Ok, S::Error> {
        match *durability {
            Durability::Accepted => serializer.serialize_str("accepted"),
            Durability::Replicated { replicas, within } => {
                Replicated { replicated: replicas, within: Written(within) }.serialize(serializer)
            }
        }
    }
}

written_as!(DurabilityWord, "`\"accepted\"` or `{ replicated = 1, within = \"500ms\" }`", {});

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Replicated {
    replicated: u32,
    within: Written,
}

struct DurabilityVisitor;

impl<'de> de::Visitor<'de> for DurabilityVisitor {
    type Value = Durability;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#""accepted" or { replicated = 1, within = "500ms" }"#)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Durability, E> {
        match text {
            "accepted" => Ok(Durability::Accepted),
            _ => Err(E::custom(format!(
                r#""{text}" is not a durability: write "accepted" or {{ replicated = 1, within = "500ms" }}"#
            ))),
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Durability, A::Error> {
        let Replicated { replicated, within: Written(within) } =
            Replicated::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Durability::Replicated { replicas: replicated, within })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_channels_can_begin_with() {
        for name in ["a", "chat", "Game_Room", "game-room.2", "ü", PERSONAL_NAMESPACE, &"x".repeat(64)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "a:b", "#users", "a\nb", " a", "a ", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
