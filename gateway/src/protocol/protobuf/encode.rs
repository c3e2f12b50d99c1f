//! Replies and pushes -> `v1::Reply` behind its length. A payload leaves as the kind that it came as.

use skywave_backplane::{HistoryPage, MemberPage, PresenceEvent};
use skywave_proto::{
    ChannelName, Member, Payload, PayloadKind, Publication, StreamPosition,
    v1::{self, payload::Kind, reply::Reply as Word, subscribe_outcome::Outcome},
};

use crate::{
    push::{Encoded, Frame, Goodbye, Push},
    session::{Connected, Refusal, Reply, Subscribed},
};

pub(super) fn push(push: &Push) -> Encoded {
    let mut at = None;
    let word = match push {
        Push::Publication(channel, said) => {
            at = said.position;
            Word::Publication(publication(channel, said))
        }
        Push::Presence(channel, PresenceEvent::Join(who)) => {
            Word::Join(v1::Join { channel: channel.to_string(), member: Some(member(who)) })
        }
        Push::Presence(channel, PresenceEvent::Leave(who)) => {
            Word::Leave(v1::Leave { channel: channel.to_string(), member: Some(member(who)) })
        }
        Push::Roll(channel, at, page) => Word::Subscribed(v1::Subscribed {
            channel: channel.to_string(),
            position: at.map(position_message),
            ..roll(Some(page))
        }),
        Push::Gap(channel, reason, detail) => Word::Gap(v1::Gap {
            channel: channel.to_string(),
            reason: reason.as_str().into(),
            missed: detail.missed,
            position: detail.position.map(position_message),
        }),
        Push::Unsubscribed(channel, reason) => {
            Word::Unsubscribed(v1::Unsubscribed { channel: channel.to_string(), reason: Some((*reason).into()) })
        }
        Push::Backplane(live) => Word::Backplane(v1::Backplane { state: if *live { "ok" } else { "degraded" }.into() }),
        Push::Disconnect(said) => Word::Disconnect(goodbye(said)),
    };
    frame(None, word, at)
}

pub(super) fn reply(id: Option<u64>, reply: &Reply) -> Encoded {
    let word = match reply {
        Reply::Connected(said) => Word::Connected(connected(said)),
        Reply::Subscribed(said) => Word::Subscribed(subscribed(said)),
        Reply::Unsubscribed(channel) => {
            Word::Unsubscribed(v1::Unsubscribed { channel: channel.to_string(), reason: None })
        }
        Reply::Published(said) => {
            Word::Published(v1::Published { position: said.position.map(position_message), duplicate: said.duplicate })
        }
        Reply::Presence(page) => Word::Presence(members_message(page)),
        Reply::History(channel, page) => Word::History(history_message(channel, page)),
        Reply::Refreshed(expires_in_ms) => Word::Refreshed(v1::Refreshed { expires_in_ms: *expires_in_ms }),
        Reply::Result(data) => Word::Result(v1::Result { data: Some(payload(data)) }),
        Reply::Pong => Word::Pong(v1::Pong {}),
        Reply::Error(refusal) => Word::Error(error_message(refusal)),
    };
    frame(id, word, None)
}

/// One message of one reply. Several may stand in a message, but nothing here waits to be joined.
fn frame(id: Option<u64>, word: Word, position: Option<StreamPosition>) -> Encoded {
    let bytes = prost::Message::encode_length_delimited_to_vec(&v1::Reply { id, reply: Some(word) });
    Encoded::Frame(Frame::new(false, bytes.into(), position))
}

/// A position as a message of the schema.
pub fn position_message(position: StreamPosition) -> v1::Position {
    v1::Position { epoch: position.epoch.to_string(), offset: position.offset }
}

fn publication(channel: &ChannelName, publication: &Publication) -> v1::Publication {
    v1::Publication {
        channel: channel.to_string(),
        position: publication.position.map(position_message),
        data: Some(payload(&publication.payload)),
        client: publication.client.as_deref().map(str::to_owned),
        user: publication.user.as_deref().map(str::to_owned),
    }
}

fn publications(channel: &ChannelName, all: &[Publication]) -> Vec<v1::Publication> {
    all.iter().map(|one| publication(channel, one)).collect()
}

fn payload(payload: &Payload) -> v1::Payload {
    let data = payload.data().clone();
    let kind = match payload.kind() {
        PayloadKind::Json => Kind::Json(data),
        PayloadKind::Text => Kind::Text(data),
        PayloadKind::Binary => Kind::Binary(data),
    };
    v1::Payload { kind: Some(kind) }
}

fn member(member: &Member) -> v1::Member {
    v1::Member {
        client: member.client.to_string(),
        user: member.user.as_deref().map(str::to_owned),
        info: member.info.clone(),
    }
}

/// A list of members as a message of the schema.
pub fn members_message(page: &MemberPage) -> v1::Members {
    v1::Members { members: members(page), total: page.total, next: next(page) }
}

fn members(page: &MemberPage) -> Vec<v1::Member> {
    page.members.iter().map(member).collect()
}

fn next(page: &MemberPage) -> Option<String> {
    page.next.as_deref().map(str::to_owned)
}

/// The part of a `Subscribed` that says who is there. `total` is what says that there is such a part at all.
fn roll(page: Option<&MemberPage>) -> v1::Subscribed {
    v1::Subscribed {
        members: page.map(members).unwrap_or_default(),
        total: page.map(|page| page.total),
        next: page.and_then(next),
        ..v1::Subscribed::default()
    }
}

fn connected(connected: &Connected) -> v1::Connected {
    let outcome = |outcome: &Result<Subscribed, (String, Refusal)>| match outcome {
        Ok(said) => {
            let channel = said.channel.to_string();
            v1::SubscribeOutcome { channel, outcome: Some(Outcome::Subscribed(subscribed(said))) }
        }
        Err((channel, refusal)) => {
            v1::SubscribeOutcome { channel: channel.clone(), outcome: Some(Outcome::Error(error_message(refusal))) }
        }
    };
    v1::Connected {
        client: connected.client.to_string(),
        session: connected.session.clone(),
        node: connected.node.to_string(),
        ping_interval_ms: connected.ping_interval_ms,
        expires_in_ms: connected.expires_in_ms,
        subscribed: connected.subscribed.iter().map(outcome).collect(),
    }
}

fn subscribed(subscribed: &Subscribed) -> v1::Subscribed {
    v1::Subscribed {
        channel: subscribed.channel.to_string(),
        position: subscribed.position.map(position_message),
        recovered: subscribed.recovered,
        publications: publications(&subscribed.channel, &subscribed.publications),
        ..roll(subscribed.members.as_ref())
    }
}

/// A page of history as a message of the schema.
pub fn history_message(channel: &ChannelName, page: &HistoryPage) -> v1::HistoryPage {
    v1::HistoryPage {
        position: page.top.map(position_message),
        publications: publications(channel, &page.publications),
        complete: page.complete,
        more: page.more,
    }
}

/// A refusal as a message of the schema.
pub fn error_message(refusal: &Refusal) -> v1::Error {
    v1::Error {
        code: refusal.code.as_str().into(),
        message: refusal.message.clone(),
        retry: refusal.code.retry(),
        after_ms: refusal.after_ms,
        position: refusal.position.map(position_message),
    }
}

fn goodbye(goodbye: &Goodbye) -> v1::Disconnect {
    v1::Disconnect {
        code: u32::from(goodbye.code.code()),
        reason: goodbye.reason.to_string(),
        reconnect: goodbye.code.may_reconnect(),
        after_ms: goodbye.after_ms,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_what_a_client_decodes(
            bytes: Vec<u8>,
            text: String,
            offset: u64,
            client in proptest::option::of("[A-Z0-9]{26}"),
        ) {
            let channel = ChannelName::parse("a").unwrap();
            let at = StreamPosition { epoch: "k3x9k3x9".parse().unwrap(), offset };
            let json = Bytes::from(serde_json::to_vec(&text).unwrap());
            for (payload, kind) in [
                (Payload::json(json.clone()), Kind::Json(json)),
                (Payload::text(text.clone().into()), Kind::Text(text.into())),
                (Payload::binary(bytes.clone().into()), Kind::Binary(bytes.into())),
            ] {
                let client_id = client.as_deref().map(Into::into);
                let said = Publication { position: Some(at), payload, client: client_id, user: None, published_at_ms: 1 };
                let Encoded::Frame(frame) = push(&Push::Publication(channel.clone(), said)) else { panic!("a frame") };
                prop_assert_eq!((frame.is_text(), frame.position()), (false, Some(at)));
                let publication = v1::Publication {
                    channel: "a".into(),
                    position: Some(v1::Position { epoch: "k3x9k3x9".into(), offset }),
                    data: Some(v1::Payload { kind: Some(kind) }),
                    client: client.clone(),
                    user: None,
                };
                let expected = v1::Reply { id: None, reply: Some(Word::Publication(publication)) };
                prop_assert_eq!(v1::Reply::decode_length_delimited(frame.payload().clone()), Ok(expected));
            }
        }
    }
}
