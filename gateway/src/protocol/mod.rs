//! Client protocols. Each is a folder or file behind one narrow seam, and the rooms below never name one.
//!
//! A protocol implements three traits, each defined where it is needed: [`Format`] encodes pushes for a shard,
//! [`Voice`] encodes replies for a session, [`Codec`] decodes messages for a transport.

use crate::session::{Envelope, Voice};
#[cfg(doc)]
use crate::shard::Format;

/// A client protocol: WebSocket messages on one side, commands, replies and pushes on the other. One value serves every
/// connection, so it keeps nothing about any of them.
pub trait Codec: Voice {
    /// Decodes one message, which may hold several commands, and hands each over in order.
    fn decode(&self, message: Incoming<'_>, each: &mut dyn FnMut(Envelope));
}

/// A message that a client sent.
#[derive(Debug, Clone, Copy)]
pub enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a bytes::Bytes),
}
