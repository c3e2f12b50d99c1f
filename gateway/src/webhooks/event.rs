//! What the back end is told, in JSON: `{"hook":"events","id","node","events":[…]}`.
//!
//! Each event: `id` (a repeated delivery has the same), `type`, `at_ms` (since 1970; of channels and members on the backplane's
//! clock, of clients on this node's), and where they belong `channel`, `user`, `client`, `reason` (the close code's word), `position` (`epoch:offset`).

use std::sync::Arc;

use serde::Serialize;
use skywave_proto::{ChannelName, StreamPosition};

use crate::config::EventType;

/// Something has happened. Made by one of its constructors; never a payload, an `info` or a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    kind: EventType,
    channel: Option<ChannelName>,
    user: Option<Arc<str>>,
    client: Option<Arc<str>>,
    reason: Option<&'static str>,
    position: Option<StreamPosition>,
    /// Where it did not happen on this node, or not now.
    at_ms: Option<u64>,
}

/// What two events that are each other's opposite have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Channel(ChannelName),
    /// A user, else a client.
    Member(ChannelName, Result<Arc<str>, Arc<str>>),
    Client(Arc<str>),
}

impl Event {
    /// A channel has its first subscriber.
    pub fn occupied(channel: ChannelName) -> Self {
        Self { channel: Some(channel), ..Self::new(EventType::ChannelOccupied) }
    }

    /// A channel has lost its last subscriber.
    pub fn vacated(channel: ChannelName) -> Self {
        Self { channel: Some(channel), ..Self::new(EventType::ChannelVacated) }
    }

    /// A user, or an anonymous client, came to a channel with presence; `client` is the one by which it came.
    pub fn joined(channel: ChannelName, user: Option<Arc<str>>, client: Arc<str>) -> Self {
        Self { channel: Some(channel), user, client: Some(client), ..Self::new(EventType::MemberJoined) }
    }

    /// It left; `client` is its last.
    pub fn left(channel: ChannelName, user: Option<Arc<str>>, client: Arc<str>) -> Self {
        Self { channel: Some(channel), user, client: Some(client), ..Self::new(EventType::MemberLeft) }
    }

    /// A client connected.
    pub fn connected(client: Arc<str>, user: Option<Arc<str>>) -> Self {
        Self { client: Some(client), user, ..Self::new(EventType::ClientConnected) }
    }

    /// A client is gone; `reason` is the close code's word, or `abnormal` or `none`.
    pub fn disconnected(client: Arc<str>, user: Option<Arc<str>>, reason: &'static str) -> Self {
        Self { client: Some(client), user, reason: Some(reason), ..Self::new(EventType::ClientDisconnected) }
    }

    /// When it happened, in milliseconds since 1970 on the clock of whoever knows, and where the channel's members stood
    /// then. Without it: now.
    #[must_use]
    pub fn at(self, at_ms: u64, position: Option<StreamPosition>) -> Self {
        Self { at_ms: Some(at_ms), position, ..self }
    }

    pub(super) fn at_ms(&self) -> Option<u64> {
        self.at_ms
    }

    fn new(kind: EventType) -> Self {
        Self { kind, channel: None, user: None, client: None, reason: None, position: None, at_ms: None }
    }

    /// What it says.
    pub fn kind(&self) -> EventType {
        self.kind
    }

    /// On which channel.
    pub fn channel(&self) -> Option<&ChannelName> {
        self.channel.as_ref()
    }

    pub(super) fn subject(&self) -> Subject {
        let client = || self.client.clone().unwrap_or_default();
        match (&self.channel, self.kind) {
            (Some(channel), EventType::MemberJoined | EventType::MemberLeft) => {
                Subject::Member(channel.clone(), self.user.clone().ok_or_else(client))
            }
            (Some(channel), _) => Subject::Channel(channel.clone()),
            (None, _) => Subject::Client(client()),
        }
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        /// The event, its place in the queue and among those that wait for their opposite.
        const BESIDES: usize = 384;
        let texts = [self.channel.as_ref().map(ChannelName::as_str), self.user.as_deref(), self.client.as_deref()];
        BESIDES + texts.into_iter().flatten().map(str::len).sum::<usize>()
    }
}

/// An event as it is sent.
#[derive(Serialize)]
pub(super) struct Sent<'a> {
    id: &'a str,
    r#type: EventType,
    at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
}

impl<'a> Sent<'a> {
    pub(super) fn new(id: &'a str, at_ms: u64, event: &'a Event) -> Self {
        Self {
            id,
            r#type: event.kind,
            at_ms,
            channel: event.channel.as_ref().map(ChannelName::as_str),
            user: event.user.as_deref(),
            client: event.client.as_deref(),
            reason: event.reason,
            position: event.position.map(|position| position.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_as_documented() {
        let channel = || ChannelName::parse("chat:1").unwrap();
        let sent = |event: &Event| serde_json::to_value(Sent::new("01J", 5, event)).unwrap();
        let position: StreamPosition = "abcdefgh:7".parse().unwrap();
        assert_eq!(
            sent(&Event::occupied(channel()).at(5, Some(position))),
            json!({"id": "01J", "type": "channel_occupied", "at_ms": 5, "channel": "chat:1", "position": "abcdefgh:7"})
        );
        assert_eq!(
            sent(&Event::left(channel(), Some("u".into()), "c".into())),
            json!({"id": "01J", "type": "member_left", "at_ms": 5, "channel": "chat:1", "user": "u", "client": "c"})
        );
        assert_eq!(
            sent(&Event::disconnected("c".into(), None, "draining")),
            json!({"id": "01J", "type": "client_disconnected", "at_ms": 5, "client": "c", "reason": "draining"})
        );
    }

    #[test]
    fn opposites_have_one_subject() {
        let channel = || ChannelName::parse("chat:1").unwrap();
        assert_eq!(Event::occupied(channel()).subject(), Event::vacated(channel()).subject());
        let user: Option<Arc<str>> = Some("u".into());
        let joined = Event::joined(channel(), user.clone(), "a".into()).subject();
        assert_eq!(joined, Event::left(channel(), user.clone(), "b".into()).subject(), "a user, by whatever client");
        assert_ne!(joined, Event::joined(channel(), None, "u".into()).subject(), "a client is no user");
        assert_ne!(joined, Event::occupied(channel()).subject());
        let connected = Event::connected("c".into(), user.clone()).subject();
        assert_eq!(connected, Event::disconnected("c".into(), user, "none").subject());
    }

    #[test]
    fn every_type_says_its_word() {
        for kind in EventType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
