//! Replies and pushes -> text. Written straight into one string: a payload is JSON already and is not parsed again.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use skywave_backplane::{HistoryPage, MemberPage, PresenceEvent};
use skywave_proto::{ChannelName, Member, Payload, PayloadKind, Publication, StreamPosition};

use crate::{
    push::{Encoded, Frame, Goodbye, Push},
    session::{Connected, Refusal, Reply, Subscribed},
};

pub(super) fn push(push: &Push) -> Encoded {
    let mut out = Writer::default();
    let mut position = None;
    out.object(|out| match push {
        Push::Publication(channel, publication) => {
            position = publication.position;
            out.key("publication").object(|out| out.publication(Some(channel), publication));
        }
        Push::Presence(channel, event) => {
            let (word, member) = match event {
                PresenceEvent::Join(member) => ("join", member),
                PresenceEvent::Leave(member) => ("leave", member),
            };
            out.key(word).object(|out| {
                out.key("channel").string(channel.as_str());
                out.key("member").member(member);
            });
        }
        Push::Roll(channel, position, page) => out.key("subscribed").object(|out| {
            out.key("channel").string(channel.as_str());
            out.position(*position);
            out.members(page);
        }),
        Push::Gap(channel, reason, detail) => out.key("gap").object(|out| {
            out.key("channel").string(channel.as_str());
            out.key("reason").string(reason.as_str());
            if let Some(missed) = detail.missed {
                out.key("missed").number(missed);
            }
            out.position(detail.position);
        }),
        Push::Unsubscribed(channel, reason) => out.key("unsubscribed").object(|out| {
            out.key("channel").string(channel.as_str());
            out.key("reason").string(reason);
        }),
        Push::Backplane(live) => out.key("backplane").object(|out| {
            out.key("state").string(if *live { "ok" } else { "degraded" });
        }),
        Push::Disconnect(goodbye) => out.key("disconnect").object(|out| out.goodbye(goodbye)),
    });
    Encoded::Frame(Frame::new(true, out.0.into(), position))
}

pub(super) fn reply(id: Option<u64>, reply: &Reply) -> Encoded {
    let mut out = Writer::default();
    out.object(|out| {
        if let Some(id) = id {
            out.key("id").number(id);
        }
        match reply {
            Reply::Connected(connected) => out.key("connected").object(|out| out.connected(connected)),
            Reply::Subscribed(subscribed) => out.key("subscribed").object(|out| out.subscribed(subscribed)),
            Reply::Unsubscribed(channel) => out.key("unsubscribed").object(|out| {
                out.key("channel").string(channel.as_str());
            }),
            Reply::Published(published) => out.key("published").object(|out| {
                out.position(published.position);
                out.key("duplicate").boolean(published.duplicate);
            }),
            Reply::Presence(page) => out.key("presence").object(|out| out.members(page)),
            Reply::History(channel, page) => out.key("history").object(|out| out.history(channel, page)),
            Reply::Refreshed(expires_in_ms) => out.key("refreshed").object(|out| out.expires_in(*expires_in_ms)),
            Reply::Result(data) => out.key("result").object(|out| out.payload(data)),
            Reply::Pong => out.key("pong").object(|_| {}),
            Reply::Error(refusal) => out.key("error").refusal(refusal),
        }
    });
    Encoded::Frame(Frame::text(out.0))
}

/// The object in the reply to `history`.
pub fn history_object(channel: &ChannelName, page: &HistoryPage) -> String {
    let mut out = Writer::default();
    out.object(|out| out.history(channel, page));
    out.0
}

/// The object in the reply to `presence`.
pub fn members_object(page: &MemberPage) -> String {
    let mut out = Writer::default();
    out.object(|out| out.members(page));
    out.0
}

/// Appends JSON; the caller keeps keys and values in turn.
#[derive(Default)]
struct Writer(String);

impl Writer {
    fn object(&mut self, fill: impl FnOnce(&mut Self)) {
        self.0.push('{');
        fill(self);
        self.0.push('}');
    }

    fn array<T>(&mut self, items: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut Self, T)) {
        self.0.push('[');
        for item in items {
            self.comma();
            each(self, item);
        }
        self.0.push(']');
    }

    fn comma(&mut self) {
        if !self.0.ends_with(['{', '[']) {
            self.0.push(',');
        }
    }

    /// One of our own words, which need no escaping.
    fn key(&mut self, key: &str) -> &mut Self {
        self.comma();
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
        self
    }

    fn string(&mut self, text: &str) {
        // Serialising a str cannot fail.
        self.0.push_str(&serde_json::to_string(text).unwrap_or_default());
    }

    fn number(&mut self, number: u64) {
        self.0.push_str(&number.to_string());
    }

    fn boolean(&mut self, value: bool) {
        self.0.push_str(if value { "true" } else { "false" });
    }

    fn position(&mut self, position: Option<StreamPosition>) {
        if let Some(position) = position {
            self.key("position").object(|out| {
                out.key("epoch").string(position.epoch.as_str());
                out.key("offset").number(position.offset);
            });
        }
    }

    fn publication(&mut self, channel: Option<&ChannelName>, publication: &Publication) {
        if let Some(channel) = channel {
            self.key("channel").string(channel.as_str());
        }
        if let Some(position) = publication.position {
            self.key("offset").number(position.offset);
            self.key("epoch").string(position.epoch.as_str());
        }
        self.payload(&publication.payload);
        if let Some(client) = &publication.client {
            self.key("client").string(client);
        }
        if let Some(user) = &publication.user {
            self.key("user").string(user);
        }
    }

    fn payload(&mut self, payload: &Payload) {
        match (payload.kind(), std::str::from_utf8(payload.data())) {
            (PayloadKind::Json, Ok(json)) => self.key("data").0.push_str(json),
            (PayloadKind::Text, Ok(text)) => match serde_json::from_str::<serde::de::IgnoredAny>(text) {
                Ok(_) => {
                    let line = Payload::json(payload.data().clone());
                    self.key("data").0.push_str(&String::from_utf8_lossy(line.data()));
                }
                Err(_) => self.key("data").string(text),
            },
            (PayloadKind::Binary, _) | (_, Err(_)) => {
                let base64 = STANDARD.encode(payload.data());
                self.key("data_base64").string(&base64);
            }
        }
    }

    fn member(&mut self, member: &Member) {
        self.object(|out| {
            out.key("client").string(&member.client);
            if let Some(user) = &member.user {
                out.key("user").string(user);
            }
            if let Some(info) = &member.info {
                out.key("info").0.push_str(&String::from_utf8_lossy(info));
            }
        });
    }

    fn members(&mut self, page: &MemberPage) {
        self.key("members").array(&page.members, Self::member);
        self.key("total").number(page.total);
        if let Some(next) = &page.next {
            self.key("next").string(next);
        }
    }

    fn connected(&mut self, connected: &Connected) {
        self.key("client").string(&connected.client);
        self.key("session").string(&connected.session);
        self.key("node").string(&connected.node);
        self.key("ping_interval_ms").number(connected.ping_interval_ms);
        self.expires_in(connected.expires_in_ms);
        self.key("subscribed").array(&connected.subscribed, |out, outcome| {
            out.object(|out| match outcome {
                Ok(subscribed) => out.subscribed(subscribed),
                Err((channel, refusal)) => {
                    out.key("channel").string(channel);
                    out.key("error").refusal(refusal);
                }
            });
        });
    }

    fn expires_in(&mut self, expires_in_ms: Option<u64>) {
        if let Some(expires_in_ms) = expires_in_ms {
            self.key("expires_in_ms").number(expires_in_ms);
        }
    }

    fn subscribed(&mut self, subscribed: &Subscribed) {
        self.key("channel").string(subscribed.channel.as_str());
        self.position(subscribed.position);
        if let Some(recovered) = subscribed.recovered {
            self.key("recovered").boolean(recovered);
            self.publications(&subscribed.channel, &subscribed.publications);
        }
        if let Some(page) = &subscribed.members {
            self.members(page);
        }
    }

    fn publications(&mut self, channel: &ChannelName, publications: &[Publication]) {
        self.key("publications").array(publications, |out, publication| {
            out.object(|out| out.publication(Some(channel), publication));
        });
    }

    fn history(&mut self, channel: &ChannelName, page: &HistoryPage) {
        self.position(page.top);
        self.publications(channel, &page.publications);
        self.key("complete").boolean(page.complete);
        if page.more {
            self.key("more").boolean(true);
        }
    }

    fn refusal(&mut self, refusal: &Refusal) {
        self.object(|out| {
            out.key("code").string(refusal.code.as_str());
            out.key("message").string(&refusal.message);
            out.key("retry").boolean(refusal.code.retry());
            out.key("after_ms").number(refusal.after_ms);
            out.position(refusal.position);
        });
    }

    fn goodbye(&mut self, goodbye: &Goodbye) {
        self.key("code").number(u64::from(goodbye.code.code()));
        self.key("reason").string(&goodbye.reason);
        self.key("reconnect").boolean(goodbye.code.may_reconnect());
        self.key("after_ms").number(goodbye.after_ms);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::push::{GapDetail, GapReason};

    fn value(encoded: Encoded) -> Value {
        let Encoded::Frame(frame) = encoded else { panic!("{encoded:?}") };
        assert!(frame.is_text() && !frame.payload().contains(&b'\n'));
        serde_json::from_slice(frame.payload()).unwrap()
    }

    fn publication(payload: Payload) -> Push {
        let channel = ChannelName::parse("a\"b").unwrap();
        let position = Some(StreamPosition { epoch: "k3x9k3x9".parse().unwrap(), offset: 44 });
        Push::Publication(
            channel,
            Publication { position, payload, client: Some("c1".into()), user: None, published_at_ms: 7 },
        )
    }

    #[test]
    fn a_publication_keeps_its_kind() {
        let data = |payload| value(push(&publication(payload)))["publication"]["data"].clone();
        assert_eq!(data(Payload::json(Bytes::from_static(b"{\"x\":1}"))), json!({"x": 1}));
        assert_eq!(data(Payload::text(Bytes::from_static(b"{\"x\":\n1}"))), json!({"x": 1}), "text that is JSON");
        assert_eq!(data(Payload::text(Bytes::from_static("héllo\n\"".as_bytes()))), json!("héllo\n\""));
        let binary = value(push(&publication(Payload::binary(Bytes::from_static(&[0, 255])))));
        assert_eq!(
            binary["publication"],
            json!({"channel": "a\"b", "offset": 44, "epoch": "k3x9k3x9", "data_base64": "AP8=", "client": "c1"})
        );
    }

    #[test]
    fn a_gap_says_what_is_known() {
        let channel = ChannelName::parse("a").unwrap();
        let gap = Push::Gap(channel, GapReason::SlowConsumer, GapDetail { missed: Some(12), position: None });
        assert_eq!(value(push(&gap)), json!({"gap": {"channel": "a", "reason": "slow_consumer", "missed": 12}}));
    }

    proptest! {
        #[test]
        fn any_text_leaves_as_one_line_of_json(text in "\\PC*|[\n\r\\{\\}\"]*") {
            let frame = push(&publication(Payload::text(Bytes::from(text.clone().into_bytes()))));
            let data = value(frame)["publication"]["data"].clone();
            let expected = serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text));
            prop_assert_eq!(data, expected);
        }
    }
}
