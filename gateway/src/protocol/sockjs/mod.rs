//! Another protocol inside the frames of SockJS: each of its messages is one string there.
//!
//! A push is put into its frame once for all who get it, as in any other format. What a client sends comes in a frame too over a
//! WebSocket; over HTTP the transport has unpacked it.

mod frames;

use std::borrow::Cow;

use bytes::Bytes;
use skywave_proto::{CloseCode, ErrorCode, StreamPosition};

pub use self::frames::{Broken, HEARTBEAT, OPEN, array, close, joined, message, message_or_array, script_string};
use super::{Body, Codec, Incoming, Json, Raw};
use crate::{
    push::{Encoded, Format, Frame, Goodbye, Push},
    session::{Envelope, Refusal, Reply, Voice},
};

/// What a WebSocket is closed with whose client sends no frame of SockJS.
const BROKEN_FRAMING: &str = "Broken framing.";

/// See the module.
pub struct SockJs {
    inner: &'static dyn Codec,
    slot: usize,
    name: &'static str,
    /// Whether messages come in frames.
    is_framed: bool,
}

/// Our JSON protocol over a WebSocket.
pub static JSON_SOCKET: SockJs = SockJs { inner: &Json, slot: 5, name: "sockjs_json", is_framed: true };
/// The same over HTTP.
pub static JSON_REQUESTS: SockJs = SockJs { is_framed: false, ..JSON };
/// One channel's payloads over a WebSocket.
pub static RAW_SOCKET: SockJs = SockJs { inner: &Raw, slot: 6, name: "sockjs_raw", is_framed: true };
/// The same over HTTP.
pub static RAW_REQUESTS: SockJs = SockJs { is_framed: false, ..RAW };

const JSON: SockJs = SockJs { inner: &Json, slot: 5, name: "sockjs_json", is_framed: true };
const RAW: SockJs = SockJs { inner: &Raw, slot: 6, name: "sockjs_raw", is_framed: true };

fn framed(encoded: Encoded) -> Encoded {
    match encoded {
        Encoded::Frame(frame) => Encoded::Frame(Frame::new(true, frame_of(&frame), frame.position())),
        other => other,
    }
}

/// SockJS carries text. Bytes that are none, which only a channel's payload can be, travel in base64 and say so.
fn frame_of(frame: &Frame) -> Bytes {
    match std::str::from_utf8(frame.payload()) {
        Ok(text) if frame.is_text() => message(text),
        _ => {
            use base64::Engine as _;
            let data = base64::engine::general_purpose::STANDARD.encode(frame.payload());
            message(&format!(r#"{{"data_base64":"{data}"}}"#))
        }
    }
}

impl Format for SockJs {
    fn slot(&self) -> usize {
        self.slot
    }

    fn encode(&self, push: &Push) -> Encoded {
        framed(self.inner.encode(push))
    }
}

impl Voice for SockJs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn reply(&self, id: Option<u64>, reply: &Reply) -> Encoded {
        match reply {
            Reply::Error(refusal) if id.is_none() && refusal.message == BROKEN_FRAMING => {
                Encoded::Close(Goodbye { code: CloseCode::InvalidPayload, reason: BROKEN_FRAMING.into(), after_ms: 0 })
            }
            _ => framed(self.inner.reply(id, reply)),
        }
    }

    fn carries_publications(&self) -> bool {
        self.inner.carries_publications()
    }

    fn names_channels(&self) -> bool {
        self.inner.names_channels()
    }
}

impl Codec for SockJs {
    fn decode(&self, incoming: Incoming<'_>, each: &mut dyn FnMut(Envelope)) {
        let Body::Text(text) = incoming.body else { return broken(each) };
        if !self.is_framed {
            return self.inner.decode(incoming, each);
        }
        let Ok(messages) = message_or_array(text) else { return broken(each) };
        // As of any message: what is said in one is bounded, however it is packed.
        let (mut room, mut is_over) = (super::COMMANDS_PER_MESSAGE, false);
        for message in messages {
            let text = Bytes::from(message);
            let incoming = Incoming { channel: incoming.channel, body: Body::Text(&text) };
            self.inner.decode(incoming, &mut |envelope| match room.checked_sub(1) {
                Some(left) => {
                    room = left;
                    each(envelope);
                }
                None => is_over = true,
            });
            if is_over {
                break;
            }
        }
        if is_over {
            let message = format!("a message has at most {} commands", super::COMMANDS_PER_MESSAGE);
            each(Envelope { id: None, command: Err(Refusal::new(ErrorCode::TooLarge, message)) });
        }
    }

    fn farewell(&self, goodbye: &Goodbye, position: Option<StreamPosition>) -> (CloseCode, Cow<'static, str>) {
        self.inner.farewell(goodbye, position)
    }

    fn last_words(&self, code: CloseCode, reason: &str) -> Option<Frame> {
        Some(Frame::text(close(code.code(), reason)))
    }
}

fn broken(each: &mut dyn FnMut(Envelope)) {
    each(Envelope { id: None, command: Err(Refusal::new(ErrorCode::BadRequest, BROKEN_FRAMING)) });
}

#[cfg(test)]
mod tests {
    use skywave_proto::{ChannelName, Payload, Publication};

    use super::*;
    use crate::session::Command;

    fn decoded(codec: &SockJs, channel: Option<&ChannelName>, text: &str) -> Vec<Envelope> {
        let mut all = Vec::new();
        let body = Bytes::copy_from_slice(text.as_bytes());
        codec.decode(Incoming { channel, body: Body::Text(&body) }, &mut |envelope| all.push(envelope));
        all
    }

    fn text(text: &'static str) -> Payload {
        Payload::text(text.into())
    }

    fn payloads(envelopes: Vec<Envelope>) -> Vec<Payload> {
        let payload = |envelope: Envelope| match envelope.command {
            Ok(Command::Publish { payload, .. }) => payload,
            other => panic!("{other:?}"),
        };
        envelopes.into_iter().map(payload).collect()
    }

    #[test]
    fn each_string_is_a_message_of_the_protocol_inside() {
        let channel = ChannelName::parse("a").unwrap();
        let all = payloads(decoded(&RAW_SOCKET, Some(&channel), r#"["x","\u00e9"]"#));
        assert_eq!(all, [text("x"), text("é")]);
        assert_eq!(payloads(decoded(&RAW_SOCKET, Some(&channel), r#""y""#)), [text("y")]);
        assert_eq!(payloads(decoded(&RAW_REQUESTS, Some(&channel), r#""y""#)), [text("\"y\"")]);
        assert!(decoded(&RAW_SOCKET, Some(&channel), "").is_empty());
        assert!(decoded(&RAW_SOCKET, Some(&channel), "[]").is_empty());
        let pings = decoded(&JSON_SOCKET, None, r#"["{\"ping\":{}}","{\"id\":2,\"ping\":{}}"]"#);
        assert!(pings.len() == 2 && pings.iter().all(|envelope| envelope.command.is_ok()));
    }

    #[test]
    fn what_is_no_frame_ends_the_connection() {
        for broken in ["[\"x\"", "{}", "[1]"] {
            let Err(refusal) = decoded(&JSON_SOCKET, None, broken).remove(0).command else { panic!("{broken}") };
            let Encoded::Close(goodbye) = JSON_SOCKET.reply(None, &Reply::Error(refusal)) else { panic!("{broken}") };
            assert_eq!((goodbye.code.code(), &*goodbye.reason), (1007, BROKEN_FRAMING));
        }
    }

    #[test]
    fn many_messages_in_one_are_bounded() {
        let many = format!("[{}]", vec![r#""{\"ping\":{}}""#; 300].join(","));
        let all = decoded(&JSON_SOCKET, None, &many);
        assert_eq!(all.len(), super::super::COMMANDS_PER_MESSAGE + 1);
        assert!(matches!(&all.last().unwrap().command, Err(refusal) if refusal.code == ErrorCode::TooLarge));
    }

    #[test]
    fn a_payload_of_bytes_travels_in_base64() {
        let publication = |payload| {
            let push = Push::Publication(
                ChannelName::parse("a").unwrap(),
                Publication { position: None, payload, client: None, user: None, published_at_ms: 0 },
            );
            match RAW_SOCKET.encode(&push) {
                Encoded::Frame(frame) => frame.payload().clone(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(publication(text("é\n")), r#"a["é\u000a"]"#);
        assert_eq!(publication(Payload::binary((&b"\xff"[..]).into())), r#"a["{\"data_base64\":\"/w==\"}"]"#);
    }
}
