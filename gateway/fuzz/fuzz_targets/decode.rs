//! Any bytes from the network: no panic, no limit passed, and the same verdict however they are cut.

#![no_main]

use std::num::NonZeroU32;

use libfuzzer_sys::fuzz_target;

#[path = "../../src/transport/websocket/mod.rs"]
pub mod websocket;

use websocket::{Decoder, Event, Limits, Role, Violation};

const LIMITS: Limits = Limits { frame_bytes: 2000, message_bytes: 5000, fragments: NonZeroU32::new(5) };

fuzz_target!(|data: &[u8]| {
    let [settings, cut, bytes @ ..] = data else { return };
    // Frames that are not masked are easier to come by.
    let role = if settings & 1 == 0 { Role::Client } else { Role::Server };
    let inflates = settings & 2 == 0;
    let whole = decode(Decoder::new(role, LIMITS, inflates), bytes, bytes.len().max(1));
    let pieces = decode(Decoder::new(role, LIMITS, inflates), bytes, usize::from(*cut).max(1));
    assert_eq!(whole, pieces);
});

fn decode(mut decoder: Decoder, bytes: &[u8], size: usize) -> (Vec<Event>, Option<Violation>) {
    let mut events = Vec::new();
    for piece in bytes.chunks(size) {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        while !rest.is_empty() {
            match decoder.decode(rest) {
                Ok((taken, event)) => {
                    assert!(taken > 0 && (event.is_some() || taken == rest.len()));
                    rest = &mut rest[taken..];
                    events.extend(event.inspect(within_limits));
                }
                Err(violation) => return (events, Some(violation)),
            }
        }
    }
    (events, None)
}

fn within_limits(event: &Event) {
    let (length, limit) = match event {
        Event::Text(text) => (text.len(), LIMITS.message_bytes),
        Event::Binary(bytes) => (bytes.len(), LIMITS.message_bytes),
        Event::Ping(bytes) | Event::Pong(bytes) => (bytes.len(), 125),
        Event::Close(close) => (close.as_ref().map_or(0, |(_, reason)| reason.len()), 123),
    };
    assert!(length <= limit);
}
