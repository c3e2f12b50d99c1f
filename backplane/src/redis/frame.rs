//! One publication as bytes: the same in the history list and in pub/sub.
//!
//! ```text
//! version (1) | flags | varint offset | 8 bytes of epoch | v1::Envelope
//!                       `- both only with POSITIONED -'
//! version (1) | BEGUN | 8 bytes of epoch      a new line of offsets has begun, by `scripts/forget.lua`
//! ```
//! A frame with a position is put together by `scripts/publish.lua`, for only the script knows it; the version and flag
//! bytes stand there too.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use prost::Message as _;
use skywave_proto::{
    Epoch, Payload, PayloadKind, Publication, StreamPosition,
    v1::{self, payload::Kind},
};

use crate::NewPublication;

const VERSION: u8 = 1;
const POSITIONED: u8 = 1;
const BEGUN: u8 = 2;

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Something was published.
    Publication(Publication),
    /// A new line has begun, and nothing is on it yet.
    Begun(Epoch),
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// A newer version of us wrote it.
    #[error("a frame of version {0}, and this release reads {VERSION}")]
    Version(u8),
    /// Somebody else wrote into our keys.
    #[error("not a frame")]
    Malformed,
}

/// What stands behind the position.
pub(super) fn envelope(new: &NewPublication, node: &str) -> Vec<u8> {
    let data = new.payload.data().clone();
    let kind = match new.payload.kind() {
        PayloadKind::Json => Kind::Json(data),
        PayloadKind::Text => Kind::Text(data),
        PayloadKind::Binary => Kind::Binary(data),
    };
    let envelope = v1::Envelope {
        data: Some(v1::Payload { kind: Some(kind) }),
        published_at_ms: new.published_at_ms,
        client: new.client.as_deref().map(str::to_owned),
        user: new.user.as_deref().map(str::to_owned),
        node: node.to_owned(),
    };
    envelope.encode_to_vec()
}

/// The whole frame of a publication without a position.
pub(super) fn live(envelope: &[u8]) -> Vec<u8> {
    [&[VERSION, 0], envelope].concat()
}

/// Reads what stands in a history list: publications and nothing else. The payload shares its bytes.
pub(super) fn read(frame: Bytes) -> Result<Publication, FrameError> {
    match read_any(frame)? {
        Frame::Publication(publication) => Ok(publication),
        Frame::Begun(_) => Err(FrameError::Malformed),
    }
}

/// Reads a frame. The payload shares its bytes.
pub(super) fn read_any(mut frame: Bytes) -> Result<Frame, FrameError> {
    if frame.len() < 2 {
        return Err(FrameError::Malformed);
    }
    match frame.get_u8() {
        VERSION => {}
        other => return Err(FrameError::Version(other)),
    }
    let position = match frame.get_u8() {
        0 => None,
        BEGUN => return Epoch::from_bytes(&frame).map(Frame::Begun).map_err(|_| FrameError::Malformed),
        POSITIONED => Some(read_position(&mut frame)?),
        _ => return Err(FrameError::Malformed),
    };
    let envelope = v1::Envelope::decode(frame).map_err(|_| FrameError::Malformed)?;
    let payload = match envelope.data.and_then(|data| data.kind).ok_or(FrameError::Malformed)? {
        // Only its newlines were ever at stake, and the publishing node has replaced them.
        Kind::Json(data) => Payload::json(data),
        Kind::Text(data) => Payload::text(data),
        Kind::Binary(data) => Payload::binary(data),
    };
    Ok(Frame::Publication(Publication {
        position,
        payload,
        client: envelope.client.map(Arc::from),
        user: envelope.user.map(Arc::from),
        published_at_ms: envelope.published_at_ms,
    }))
}

fn read_position(frame: &mut Bytes) -> Result<StreamPosition, FrameError> {
    let offset = prost::encoding::decode_varint(frame).map_err(|_| FrameError::Malformed)?;
    if frame.len() < 8 {
        return Err(FrameError::Malformed);
    }
    let epoch = Epoch::from_bytes(&frame.split_to(8)).map_err(|_| FrameError::Malformed)?;
    Ok(StreamPosition { epoch, offset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skywave_proto::ChannelName;

    fn new() -> NewPublication {
        NewPublication {
            channel: ChannelName::parse("chat").unwrap(),
            payload: Payload::text(Bytes::from_static(b"hello")),
            client: Some("c1".into()),
            user: None,
            published_at_ms: 1_700_000_000_000,
            key: None,
            history: None,
            durability: crate::Durability::Accepted,
        }
    }

    #[test]
    fn reads_back_what_was_written() {
        let new = new();
        let publication = read(live(&envelope(&new, "n1")).into()).unwrap();
        assert_eq!((publication.position, &publication.payload), (None, &new.payload));
        assert_eq!((publication.client.as_deref(), publication.published_at_ms), (Some("c1"), new.published_at_ms));

        for (offset, varint) in [(1u64, vec![1u8]), (300, vec![0xac, 2]), (1 << 40, vec![128, 128, 128, 128, 128, 32])]
        {
            let frame = [&[1, 1], &varint[..], b"abcdefgh", &envelope(&new, "n1")].concat();
            let expected = StreamPosition { epoch: "abcdefgh".parse().unwrap(), offset };
            assert_eq!(read(frame.into()).unwrap().position, Some(expected));
        }
    }

    #[test]
    fn reads_that_a_line_begins() {
        let frame = Bytes::from_static(b"\x01\x02abcdefgh");
        assert_eq!(read_any(frame.clone()), Ok(Frame::Begun("abcdefgh".parse().unwrap())));
        assert_eq!(read(frame), Err(FrameError::Malformed), "no history holds it");
        assert_eq!(read_any(Bytes::from_static(b"\x01\x02abc")), Err(FrameError::Malformed));
    }

    #[test]
    fn refuses_anything_else() {
        let good = [&[1, 1, 1], &b"abcdefgh"[..], &envelope(&new(), "n1")].concat();
        for end in 0..good.len() {
            let _ = read(Bytes::copy_from_slice(&good[..end])); // cut anywhere: an error or another frame, never a panic
        }
        for bad in [&b""[..], b"\x01", b"\x01\x02", b"\x01\x01\x01abc", b"\x01\x00", b"\x01\x01\x01abc efgh"] {
            assert_eq!(read(Bytes::copy_from_slice(bad)), Err(FrameError::Malformed), "{bad:?}");
        }
        for newer in [&b"\x02\x00"[..], b"\x02\x01\x01abcdefgh", b"\x02\x80\x00"] {
            assert_eq!(read(Bytes::copy_from_slice(newer)), Err(FrameError::Version(2)), "{newer:?}");
        }
    }
}
