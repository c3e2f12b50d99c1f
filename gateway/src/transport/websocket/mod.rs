//! The WebSocket message layer (RFC 6455 §5 to §7, RFC 7692): bytes on one side, messages on the other.
//!
//! There is no I/O, no clock and no task in it: whoever owns the socket hands over what it read and writes what it is
//! given. It keeps the rules of the wire and nothing else; what a message says is the business of the rooms below.
//!
//! - [`Decoder`]: bytes -> [`Event`], or the [`Violation`] that ends the connection. Every limit is checked before
//!   anything is kept, and memory grows only with bytes that have come.
//! - [`Header`], [`close_payload`], [`masked`]: a frame's bytes. The payload stays where it is, so one encoding serves
//!   every receiver.
//! - [`negotiate`], [`Deflater`]: permessage-deflate without context between messages, so that one compressed form
//!   serves every receiver too, and an idle connection holds neither a compressor nor a decompressor.

mod decoder;
mod deflater;
mod encoder;
mod extension;
mod frame;
mod inflater;
mod mask;
mod message;
#[cfg(test)]
mod tests;
mod violation;

use std::num::NonZeroU32;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;

pub use self::{
    decoder::Decoder,
    deflater::Deflater,
    encoder::{Header, close_payload, masked},
    extension::{Agreed, negotiate},
    violation::Violation,
};

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What comes in must be masked (RFC 6455 §5.1).
    Server,
    /// What comes in must not be masked.
    Client,
}

/// What a message may cost. All of it is checked before anything is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest payload of one frame as it comes over the wire, in bytes.
    pub frame_bytes: usize,
    /// The largest message, in bytes; of a compressed one after inflation.
    pub message_bytes: usize,
    /// The largest number of frames that make one message, empty ones too; `None`: any. With `frame_bytes` it also
    /// bounds what a compressed message may send without saying anything.
    pub fragments: Option<NonZeroU32>,
}

/// What the other end said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole text message.
    Text(Utf8Bytes),
    /// A whole binary message.
    Binary(Bytes),
    /// A ping, at most 125 bytes; a pong with the same payload answers it (RFC 6455 §5.5.3).
    Ping(Bytes),
    /// A pong, at most 125 bytes.
    Pong(Bytes),
    /// The close frame, with its code and reason if it has them. Nothing that comes after it is looked at (RFC 6455
    /// §5.5.1).
    Close(Option<(u16, Utf8Bytes)>),
}
