//! The layer as a whole. What one file does alone is tested in that file.

mod deflate;
mod oracle;
mod rules;

use std::num::NonZeroU32;

use super::{Decoder, Event, Limits, Role, Violation};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const CONTINUE: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const LIMITS: Limits = Limits { frame_bytes: 1 << 16, message_bytes: 1 << 17, fragments: NonZeroU32::new(8) };

/// A masked frame, written here a second time so that the encoder does not vouch for itself.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ KEY[at % 4]));
    bytes
}

/// Everything a decoder has to say about these bytes when they come in pieces.
fn decode_pieces<'a>(
    decoder: &mut Decoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Event>, Option<Violation>) {
    let mut events = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        while !rest.is_empty() {
            match decoder.decode(rest) {
                Ok((taken, event)) => {
                    assert!(taken > 0, "no progress");
                    assert!(event.is_some() || taken == rest.len(), "stopped without an event");
                    rest = &mut rest[taken..];
                    events.extend(event);
                }
                Err(violation) => return (events, Some(violation)),
            }
        }
    }
    (events, None)
}

fn decode(bytes: &[u8], inflates: bool) -> (Vec<Event>, Option<Violation>) {
    decode_pieces(&mut Decoder::new(Role::Server, LIMITS, inflates), [bytes])
}

/// Checks what the bytes are, whole and byte by byte.
#[track_caller]
fn expect(frames: &[Vec<u8>], inflates: bool, events: &[Event], violation: Option<Violation>) {
    let bytes = frames.concat();
    assert_eq!(decode(&bytes, inflates), (events.to_vec(), violation), "whole");
    let mut decoder = Decoder::new(Role::Server, LIMITS, inflates);
    assert_eq!(decode_pieces(&mut decoder, bytes.chunks(1)), (events.to_vec(), violation), "byte by byte");
}

fn text(text: &str) -> Event {
    Event::Text(text.into())
}

fn binary(bytes: &[u8]) -> Event {
    Event::Binary(bytes.to_vec().into())
}
