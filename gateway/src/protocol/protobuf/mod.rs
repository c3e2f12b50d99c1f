//! The codec for binary frames: subprotocol `skywave.v1.protobuf`.
//!
//! A message is a sequence of protobuf messages of `client.proto`, each behind its length as a varint: `Command`s in,
//! `Reply`s out. It can say what the JSON protocol can, and a payload keeps its kind both ways.

mod decode;
mod encode;

pub use self::{
    decode::{payload_of, since_of},
    encode::{error_message, history_message, members_message, position_message},
};
use skywave_proto::ErrorCode;

use crate::{
    protocol::{Body, Codec, Incoming},
    push::{Encoded, Format, Push},
    session::{Envelope, Refusal, Reply, Voice},
};

/// See the module.
pub struct Protobuf;

impl Format for Protobuf {
    fn slot(&self) -> usize {
        2
    }

    fn encode(&self, push: &Push) -> Encoded {
        encode::push(push)
    }
}

impl Voice for Protobuf {
    fn name(&self) -> &'static str {
        "protobuf"
    }

    fn reply(&self, id: Option<u64>, reply: &Reply) -> Encoded {
        encode::reply(id, reply)
    }
}

impl Codec for Protobuf {
    fn decode(&self, message: Incoming<'_>, each: &mut dyn FnMut(Envelope)) {
        match message.body {
            Body::Binary(bytes) => decode::commands(bytes, each),
            Body::Text(_) => {
                let message = "this subprotocol takes binary messages, not text ones";
                each(Envelope { id: None, command: Err(Refusal::new(ErrorCode::BadRequest, message)) });
            }
        }
    }
}
