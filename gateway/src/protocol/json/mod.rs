//! The codec for text frames: subprotocol `skywave.v1.json`.

mod decode;
mod encode;
mod plain;

pub use self::{
    decode::{payload, present, publication},
    encode::{history_object, members_object},
};

use crate::{
    protocol::{Body, Codec, Incoming},
    push::{Encoded, Format, Push},
    session::{Envelope, Refusal, Reply, Voice},
};

/// See the module.
pub struct Json;

impl Format for Json {
    fn slot(&self) -> usize {
        0
    }

    fn encode(&self, push: &Push) -> Encoded {
        encode::push(push)
    }
}

impl Voice for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn reply(&self, id: Option<u64>, reply: &Reply) -> Encoded {
        encode::reply(id, reply)
    }
}

impl Codec for Json {
    fn decode(&self, message: Incoming<'_>, each: &mut dyn FnMut(Envelope)) {
        match message.body {
            Body::Text(text) => decode::commands(text, each),
            Body::Binary(_) => {
                let message = "this subprotocol takes text messages, not binary ones";
                let refusal = Refusal::new(skywave_proto::ErrorCode::BadRequest, message);
                each(Envelope { id: None, command: Err(refusal) });
            }
        }
    }
}
