//! From the words of the wire to ours, and back. Pure.

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use skywave_proto::{
    Member, Payload, PayloadKind, StreamPosition,
    v1::{self, payload::Kind},
};

use crate::event::{Gap, HistoryPage, MemberPage, Publication, Published};

/// Commands as one message.
pub(crate) fn encode(commands: &[v1::Command]) -> Bytes {
    let mut message = BytesMut::new();
    for command in commands {
        // A buffer that grows takes everything.
        let _ = command.encode_length_delimited(&mut message);
    }
    message.freeze()
}

/// The replies that stand in a message; what stands behind one that cannot be read is left out.
pub(crate) fn decode(mut message: Bytes) -> Vec<v1::Reply> {
    let mut replies = Vec::new();
    while message.has_remaining() {
        match v1::Reply::decode_length_delimited(&mut message) {
            Ok(reply) => replies.push(reply),
            Err(error) => {
                tracing::warn!(%error, "a message of the node that cannot be read");
                break;
            }
        }
    }
    replies
}

pub(crate) fn position(position: Option<v1::Position>) -> Option<StreamPosition> {
    let v1::Position { epoch, offset } = position?;
    Some(StreamPosition { epoch: epoch.parse().ok()?, offset })
}

pub(crate) fn wire_position(position: StreamPosition) -> v1::Position {
    v1::Position { epoch: position.epoch.to_string(), offset: position.offset }
}

pub(crate) fn payload(data: Option<v1::Payload>) -> Payload {
    match data.and_then(|data| data.kind) {
        Some(Kind::Json(data)) => Payload::json(data),
        Some(Kind::Text(data)) => Payload::text(data),
        Some(Kind::Binary(data)) => Payload::binary(data),
        None => Payload::json(Bytes::from_static(b"null")),
    }
}

pub(crate) fn wire_payload(payload: &Payload) -> v1::Payload {
    let data = payload.data().clone();
    let kind = match payload.kind() {
        PayloadKind::Json => Kind::Json(data),
        PayloadKind::Text => Kind::Text(data),
        PayloadKind::Binary => Kind::Binary(data),
    };
    v1::Payload { kind: Some(kind) }
}

pub(crate) fn publication(publication: v1::Publication) -> Publication {
    Publication {
        position: position(publication.position),
        payload: payload(publication.data),
        client: publication.client.map(Into::into),
        user: publication.user.map(Into::into),
    }
}

pub(crate) fn member(member: Option<v1::Member>) -> Member {
    let v1::Member { client, user, info } = member.unwrap_or_default();
    Member { client: client.into(), user: user.map(Into::into), info }
}

pub(crate) fn published(published: v1::Published) -> Published {
    Published { position: position(published.position), is_duplicate: published.duplicate }
}

pub(crate) fn gap(gap: v1::Gap) -> Gap {
    Gap { reason: gap.reason, missed: gap.missed, position: position(gap.position) }
}

pub(crate) fn members(list: Vec<v1::Member>, total: Option<u64>, next: Option<String>) -> MemberPage {
    let members: Vec<_> = list.into_iter().map(|one| member(Some(one))).collect();
    MemberPage { total: total.unwrap_or(members.len() as u64), members, next: next.map(Into::into) }
}

pub(crate) fn history(page: v1::HistoryPage) -> HistoryPage {
    HistoryPage {
        position: position(page.position),
        publications: page.publications.into_iter().map(publication).collect(),
        is_complete: page.complete,
        has_more: page.more,
    }
}

#[cfg(test)]
mod tests {
    use skywave_proto::v1::reply::Reply as Word;

    use super::*;

    #[test]
    fn what_cannot_be_read_takes_only_what_is_behind_it() {
        let pong = v1::Reply { id: Some(7), reply: Some(Word::Pong(v1::Pong {})) };
        let mut message = BytesMut::new();
        pong.encode_length_delimited(&mut message).unwrap();
        message.extend_from_slice(&[3, 0xff, 0xff, 0xff]);
        assert_eq!(decode(message.freeze()), [pong]);
        assert_eq!(decode(Bytes::from_static(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")), []);
    }

    #[test]
    fn a_payload_keeps_its_kind() {
        let data = Bytes::from_static(b"[1]");
        for kept in [Payload::json(data.clone()), Payload::text(data.clone()), Payload::binary(data)] {
            assert_eq!(payload(Some(wire_payload(&kept))), kept);
        }
    }
}
