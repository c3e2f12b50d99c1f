//! What one client has asked for and may do.

mod command;

pub use command::{Command, Connect, Connected, Envelope, Refusal, Reply, Since, Subscribe, Subscribed};

use crate::shard::{Encoded, Format};

/// A wire format that has words for replies too.
pub trait Voice: Format {
    /// Encodes the answer to a command. `id` is the command's; a reply to a command without one is only ever an error
    /// or an unasked `connected`.
    fn reply(&self, id: Option<u64>, reply: &Reply) -> Encoded;
}
