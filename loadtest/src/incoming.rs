//! What a node says in `skywave.v1.json`, as far as a load test looks at it.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// One object from the node. Of all that can be in it, what a load test looks at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Incoming<'a> {
    /// The command that this answers.
    pub id: Option<u64>,
    /// A publication.
    #[serde(borrow)]
    pub publication: Option<Publication<'a>>,
    /// The answer to connect.
    #[serde(borrow)]
    pub connected: Option<Connected<'a>>,
    /// The answer to subscribe.
    #[serde(borrow)]
    pub subscribed: Option<Subscribed<'a>>,
    /// The answer to publish.
    pub published: Option<IgnoredAny>,
    /// A command was refused.
    pub error: Option<ErrorReply>,
    /// A subscription ended unasked.
    pub unsubscribed: Option<Reason>,
    /// Publications are missing, and the node says so.
    pub gap: Option<Gap>,
    /// The connection is about to end.
    pub disconnect: Option<Disconnect>,
}

/// A publication as it arrives. Borrows from the frame; the payload is not looked into.
#[derive(Debug, Deserialize)]
pub struct Publication<'a> {
    /// The channel; not said in the answer to a subscription.
    #[serde(borrow, default)]
    pub channel: Cow<'a, str>,
    /// Its place; none on a live-only channel.
    #[serde(default)]
    pub offset: Option<u64>,
    /// The line of offsets, as JSON text: it is only compared.
    #[serde(borrow, default)]
    pub epoch: Option<&'a RawValue>,
    /// The payload, as JSON text.
    #[serde(borrow, default)]
    pub data: Option<&'a RawValue>,
}

/// A client is in.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connected<'a> {
    /// Who it is; the same after a reconnect with its session.
    pub client: String,
    /// What to come back with.
    pub session: Option<String>,
    /// What became of the subscriptions that it asked for.
    #[serde(borrow)]
    pub subscribed: Vec<Outcome<'a>>,
}

/// What became of one subscription that was asked for with connect: that of [`Subscribed`], or an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Outcome<'a> {
    /// The channel.
    #[serde(borrow)]
    pub channel: Cow<'a, str>,
    /// See [`Subscribed`].
    #[serde(borrow)]
    pub position: Option<Position<'a>>,
    /// See [`Subscribed`].
    pub recovered: Option<bool>,
    /// See [`Subscribed`].
    #[serde(borrow)]
    pub publications: Vec<Publication<'a>>,
    /// Why there is no subscription.
    pub error: Option<ErrorReply>,
}

/// A subscription began.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Subscribed<'a> {
    /// Everything after this comes; none on a live-only channel.
    #[serde(borrow)]
    pub position: Option<Position<'a>>,
    /// Said only to who asked to go on where it was, or was made to: whether nothing is missing.
    pub recovered: Option<bool>,
    /// What was missed.
    #[serde(borrow)]
    pub publications: Vec<Publication<'a>>,
}

/// A place on a line of offsets.
#[derive(Debug, Deserialize)]
pub struct Position<'a> {
    /// The line, as JSON text.
    #[serde(borrow)]
    pub epoch: &'a RawValue,
    /// The place.
    #[serde(default)]
    pub offset: u64,
}

/// Why something ended.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reason {
    /// In the node's words.
    pub reason: String,
}

/// The node says that it left publications out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Gap {
    /// Why.
    pub reason: String,
}

/// The node says why it is about to close.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Disconnect {
    /// The close code.
    pub code: u16,
    /// In the node's words.
    pub reason: String,
    /// When to come back.
    pub after_ms: u64,
}

/// The node refuses a command.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ErrorReply {
    /// One of the table.
    pub code: String,
    /// In the node's words.
    pub message: String,
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl ErrorReply {
    /// What whoever runs the test can do about this code.
    pub fn advice(&self) -> &'static str {
        match self.code.as_str() {
            "permission_denied" => {
                "grant it: --token with the channel in `subscribe` and `publish`, or run the node with --dev, \
                 or set subscribe = \"anyone\" and publish = \"subscribers\" on the namespace"
            }
            "unauthenticated" => "give a valid --token, or allow anonymous clients (auth.anonymous = true)",
            "unknown_namespace" => "choose --channel in a namespace that the node has configured, or run it with --dev",
            "limit" => {
                "spread the load with more --publishers or a lower --rate, or raise the node's \
                 limits.publications_per_second and limits.commands_per_second"
            }
            "too_large" => "lower --size, or raise the node's limits.publication_bytes",
            "unavailable" | "not_replicated" | "unknown_outcome" => "the backplane is away or slow: see the node's log",
            "bad_request" => {
                "node and loadtest do not speak the same version of the protocol: build both from one source"
            }
            _ => "see the node's log",
        }
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.reason)
    }
}

/// The objects in a message.
pub fn lines(message: &str) -> impl Iterator<Item = &str> {
    message.split('\n').filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_read_without_looking_into_it() {
        let line = r#"{"publication":{"channel":"l\"oad","offset":7,"epoch":"k3","data":{"a":[1, 2]},"client":"01J"}}"#;
        let publication = serde_json::from_str::<Incoming<'_>>(line).unwrap().publication.unwrap();
        assert_eq!((&*publication.channel, publication.offset), ("l\"oad", Some(7)));
        assert_eq!(publication.epoch.unwrap().get(), r#""k3""#);
        assert_eq!(publication.data.unwrap().get(), r#"{"a":[1, 2]}"#);
    }

    #[test]
    fn what_nobody_told_us_about_is_ignored() {
        let incoming: Incoming<'_> = serde_json::from_str(r#"{"backplane":{"state":"ok"},"id":4}"#).unwrap();
        assert!(incoming.publication.is_none() && incoming.id == Some(4));
    }
}
