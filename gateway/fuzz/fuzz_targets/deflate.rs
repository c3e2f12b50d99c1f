//! Any message: what is deflated comes out again. Any offer: it is answered or declined.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

#[path = "../../src/transport/websocket/mod.rs"]
pub mod websocket;

use websocket::{Decoder, Deflater, Event, Limits, Role, masked, negotiate};

fuzz_target!(|data: &[u8]| {
    if let Some(agreed) = std::str::from_utf8(data).ok().and_then(|offer| negotiate([offer])) {
        assert!((9..=15).contains(&agreed.window_bits()));
    }
    let [settings, message @ ..] = data else { return };
    let (level, window_bits) = (settings % 10, 9 + settings / 10 % 7);
    // Short messages are rarely worth it, so here each is said more than once.
    let message = message.repeat(usize::from(settings % 3) + 1);
    let mut deflater = Deflater::new(level, window_bits);
    if let Some(payload) = deflater.compress(&message) {
        assert!(payload.len() < message.len());
    }
    let payload = deflater.compress_always(&message).expect("zlib has no reason to fail");

    let limits = Limits { frame_bytes: payload.len(), message_bytes: message.len(), fragments: None };
    let mut frame = Vec::new();
    masked(&mut frame, OpCode::Data(Data::Binary), true, &payload, [*settings; 4]);
    let length = frame.len();
    let decoded = Decoder::new(Role::Server, limits, true).decode(&mut frame);
    assert_eq!(decoded, Ok((length, Some(Event::Binary(message.into())))));
});
