//! Client protocols. Each is a folder or file behind one narrow seam, and the rooms below never name one.
//!
//! A protocol implements three traits, each defined where it is needed: [`Format`] encodes pushes for a shard,
//! [`Voice`] encodes replies for a session, [`Codec`] decodes messages for a transport.

#[cfg(test)]
mod equality;
mod events;
mod json;
mod parts;
mod protobuf;
mod raw;
pub mod sockjs;

use std::borrow::Cow;

use bytes::Bytes;
use skywave_proto::{ChannelName, CloseCode, StreamPosition};

pub use self::{
    events::{Lines, ManyChannels, OneChannel, Positions, encoded, refusal_of},
    json::{Json, history_object, members_object, payload, present, publication},
    protobuf::{Protobuf, error_message, history_message, members_message, payload_of, position_message, since_of},
    raw::Raw,
};
#[cfg(doc)]
use crate::push::Format;
use crate::{
    push::{Frame, Goodbye},
    session::{Envelope, Voice},
};

/// A client protocol: WebSocket messages on one side, commands, replies and pushes on the other. One value serves every
/// connection, so it keeps nothing about any of them.
pub trait Codec: Voice {
    /// Decodes one message, which may hold several commands, and hands each over in order.
    fn decode(&self, message: Incoming<'_>, each: &mut dyn FnMut(Envelope));

    /// What the close frame says. `position` is that of the last publication the client was given.
    fn farewell(&self, goodbye: &Goodbye, position: Option<StreamPosition>) -> (CloseCode, Cow<'static, str>) {
        let _ = position;
        (goodbye.code, goodbye.reason.clone())
    }

    /// A message that goes before the close frame and says the same, for clients that do not see that frame itself.
    fn last_words(&self, code: CloseCode, reason: &str) -> Option<Frame> {
        let _ = (code, reason);
        None
    }
}

/// A message that a client sent.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The channel in the address that the client connected to, if it names one.
    pub channel: Option<&'a ChannelName>,
    /// The message.
    pub body: Body<'a>,
}

impl Incoming<'_> {
    /// Bytes of the message.
    #[allow(clippy::len_without_is_empty, reason = "whether it holds commands is for the codec to say")]
    pub fn len(&self) -> usize {
        match self.body {
            Body::Text(bytes) | Body::Binary(bytes) => bytes.len(),
        }
    }
}

/// See [`Incoming`].
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// A text message; the bytes are UTF-8.
    Text(&'a Bytes),
    /// A binary message.
    Binary(&'a Bytes),
}

/// The subprotocols of `/ws`, best first. A client that offers none speaks the first.
pub const SUBPROTOCOLS: [(&str, &dyn Codec); 2] = [("skywave.v1.json", &Json), ("skywave.v1.protobuf", &Protobuf)];

/// Commands in one message. What stands behind them is not decoded, and the client is told so with `too_large`: a
/// command can be smaller on the wire than what it becomes here.
pub const COMMANDS_PER_MESSAGE: usize = 256;

/// The most subscriptions in the connects of one message: each takes more memory than it has bytes on the wire, so the size
/// of the message does not bound them well enough.
pub const SUBSCRIPTIONS_PER_MESSAGE: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::push::{Format as _, SLOTS};

    #[test]
    fn every_format_has_a_slot_and_a_name_of_its_own() {
        let others: [&dyn Codec; 5] = [&Raw, &OneChannel, &ManyChannels, &sockjs::JSON_SOCKET, &sockjs::RAW_SOCKET];
        let codecs: Vec<_> = SUBPROTOCOLS.into_iter().map(|(_, codec)| codec).chain(others).collect();
        let slots: HashSet<_> = codecs.iter().map(|codec| codec.slot()).collect();
        let names: HashSet<_> = codecs.iter().map(|codec| codec.name()).collect();
        assert_eq!((slots.len(), names.len()), (codecs.len(), codecs.len()));
        assert!(slots.iter().all(|slot| *slot < SLOTS));
        // The pushes of one are those of the other.
        assert!(Lines.slot() == Json.slot() && !names.contains(Lines.name()));
        let names: HashSet<_> = names.into_iter().chain([Lines.name()]).collect();
        assert!(names.iter().all(|name| crate::metrics::PROTOCOLS.contains(name)), "counted in skywave_connections");
    }
}
