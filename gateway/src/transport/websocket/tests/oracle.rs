//! Against tungstenite: the same bytes, cut at random places, mean the same to both.
//!
//! Where we mean to differ is not generated here, and tested in `rules`: lengths that are not minimal (tungstenite takes
//! them), close code 1014 (it refuses it), how soon text is refused (it waits for the end of the frame), empty fragments
//! without a bound, and permessage-deflate, which it does not have.

use std::io::{self, Read, Write};

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    protocol::{Role as TheirRole, WebSocketConfig, frame::coding::CloseCode as TheirCode},
};

use super::{super::*, *};

/// A socket that hands over one piece at a time and takes everything.
struct Pieces<'a>(std::slice::Chunks<'a, u8>);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.0.next() else { return Ok(0) };
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite says: its events, and the code for what ended them.
fn theirs(bytes: &[u8], size: usize) -> (Vec<Event>, Option<u16>) {
    let config = WebSocketConfig::default()
        .max_frame_size(Some(LIMITS.frame_bytes))
        .max_message_size(Some(LIMITS.message_bytes));
    let mut socket = WebSocket::from_raw_socket(Pieces(bytes.chunks(size)), TheirRole::Server, Some(config));
    let mut events = Vec::new();
    loop {
        events.push(match socket.read() {
            Ok(Message::Text(text)) => Event::Text(text),
            Ok(Message::Binary(bytes)) => Event::Binary(bytes),
            Ok(Message::Ping(bytes)) => Event::Ping(bytes),
            Ok(Message::Pong(bytes)) => Event::Pong(bytes),
            // It puts this in the place of a close frame whose code is not to be sent.
            Ok(Message::Close(Some(frame)))
                if frame.code == TheirCode::Protocol && frame.reason == "Protocol violation" =>
            {
                return (events, Some(1002));
            }
            Ok(Message::Close(frame)) => {
                events.push(Event::Close(frame.map(|frame| (frame.code.into(), frame.reason))));
                return (events, None);
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Utf8(_)) => return (events, Some(1007)),
            Err(Error::Capacity(_)) => return (events, Some(1009)),
            Err(Error::Protocol(error)) if error.to_string().contains("without closing handshake") => {
                return (events, None); // the input has ended
            }
            Err(Error::Protocol(_)) => return (events, Some(1002)),
            Err(error) => panic!("{error}"),
        });
    }
}

fn payload(largest: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "\\PC{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..40),
        (0..largest, "[aö€𝄞]").prop_map(|(length, character)| character.repeat(length / character.len()).into_bytes()),
    ]
}

/// A message in as many frames as there are parts, which cut text anywhere, with a ping between two of them.
fn message() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), payload(3000), prop::collection::vec(any::<prop::sample::Index>(), 0..4), any::<bool>()).prop_map(
        |(is_text, payload, cuts, pings)| {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
            cuts.push(0);
            cuts.push(payload.len());
            cuts.sort_unstable();
            let last = cuts.len() - 2;
            let mut bytes = Vec::new();
            for (at, ends) in cuts.windows(2).enumerate() {
                let opcode = if at > 0 {
                    CONTINUE
                } else if is_text {
                    TEXT
                } else {
                    BINARY
                };
                let fin = if at == last { FIN } else { 0 };
                bytes.extend(frame(fin | opcode, &payload[ends[0]..ends[1]]));
                if pings && at < last {
                    bytes.extend(frame(FIN | PING, b"between"));
                }
            }
            bytes
        },
    )
}

fn control() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..126);
    (any::<bool>(), payload).prop_map(|(pings, payload)| frame(FIN | if pings { PING } else { PONG }, &payload))
}

/// What ends a connection: a close frame, good or bad, or a broken rule.
fn end() -> impl Strategy<Value = Vec<u8>> {
    let code =
        prop_oneof![0..=1016u16, 2990..=3010u16, 4990..=5010u16].prop_filter("ours is wider", |code| *code != 1014);
    let close = |code: u16, reason: &[u8]| frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat());
    prop_oneof![
        (code, "[a-zö]{0,60}").prop_map(move |(code, reason)| close(code, reason.as_bytes())),
        // With a good code only: of two faults each of us may name another one.
        prop::collection::vec(any::<u8>(), 0..124).prop_map(move |reason| close(1000, &reason)),
        prop::collection::vec(any::<u8>(), 0..2).prop_map(|payload| frame(FIN | CLOSE, &payload)),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_filter("see above", |(first, _)| *first != FIN | CLOSE)
            .prop_map(|(first, payload)| frame(first, &payload)),
        (8u8..16, 126usize..200).prop_map(|(opcode, length)| frame(FIN | opcode, &vec![b'x'; length])),
        Just(vec![0x81, 2, b'h', b'i']),
        (LIMITS.frame_bytes as u64 + 1..)
            .prop_map(|length| { [&[FIN | BINARY, 0x80 | 127][..], &length.to_be_bytes(), &KEY].concat() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn both_hear_the_same(
        frames in prop::collection::vec(prop_oneof![3 => message(), 1 => control()], 0..6),
        end in prop::option::of(end()),
        size in prop_oneof![1usize..20, 20usize..4000],
    ) {
        let bytes: Vec<u8> = frames.into_iter().chain(end).flatten().collect();
        let mut decoder = Decoder::new(Role::Server, LIMITS, false);
        let (events, violation) = decode_pieces(&mut decoder, bytes.chunks(size));
        let ours = (events, violation.map(|violation| violation.code.code()));
        prop_assert_eq!(ours, theirs(&bytes, size));
    }
}
