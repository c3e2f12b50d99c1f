//! What becomes of one message between its bytes and its command, step by step, without a socket.

use std::{hint::black_box, num::NonZeroU32};

use bytes::Bytes;
use skywave_gateway::{
    protocol::{Body, Codec as _, Incoming, Json},
    transport::websocket::{Decoder, Event, Limits, Role},
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::{
    client,
    cpu::{self, median},
};

const TURNS: usize = 100_000;
const LIMITS: Limits = Limits { frame_bytes: 1 << 20, message_bytes: 1 << 20, fragments: NonZeroU32::new(1024) };

/// Prints nanoseconds a message.
pub(crate) fn measure(rounds: usize) {
    for bytes in [24, 128] {
        let message = client::publication(bytes);
        // The same command in another form: nothing is made of it that depends on how it is written.
        let spaced = [b" ", &message[..]].concat();
        let mut frame = client::frame(OpCode::Data(Data::Text), &message);
        let masked = frame.clone();
        let (mut frames, mut plain, mut general) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            frames.push(time(|| {
                frame.copy_from_slice(&masked);
                let mut decoder = Decoder::new(Role::Server, LIMITS, false);
                let (_, event) = decoder.decode(&mut frame).unwrap();
                assert!(matches!(black_box(event), Some(Event::Text(_))));
            }));
            plain.push(time(|| command(&message)));
            general.push(time(|| command(&spaced)));
        }
        let [frames, plain, general] = [frames, plain, general].map(median);
        println!(
            "{bytes} B of data: frame -> message {frames:.0} ns; message -> command {plain:.0} ns as browsers write it, \
             {general:.0} ns otherwise, ratio {:.2}",
            plain / general
        );
    }
}

fn command(message: &[u8]) {
    // The decoder of frames hands over a message of its own.
    let message = Bytes::copy_from_slice(message);
    Json.decode(Incoming { channel: None, body: Body::Text(&message) }, &mut |envelope| {
        assert!(black_box(envelope).command.is_ok());
    });
}

fn time(mut once: impl FnMut()) -> f64 {
    let before = cpu::own();
    (0..TURNS).for_each(|_| once());
    (cpu::own() - before).as_nanos() as f64 / TURNS as f64
}
