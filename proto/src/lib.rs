//! The words that clients, nodes and back ends of Skywave share. No sockets, no Redis, nothing that waits.
//!
//! - [`ChannelName`]: a name that has been checked, and its namespace
//! - [`Publication`], [`Payload`], [`StreamPosition`]: what travels, and its place in a channel's line of offsets
//! - [`Member`]: one client on one channel
//! - [`ErrorCode`] and [`CloseCode`]: the one table of each
//! - [`v1`]: the schema in `proto/skywave/v1`, compiled

mod channel;
mod close;
mod error;
mod publication;

pub use channel::{ChannelName, ChannelNameError};
pub use close::CloseCode;
pub use error::ErrorCode;
pub use publication::{Epoch, Member, ParsePositionError, Payload, PayloadKind, Publication, StreamPosition};

/// The types made from `proto/skywave/v1/*.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("skywave.v1");

    /// The schema itself, for gRPC reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/skywave_descriptor.bin"));
}
