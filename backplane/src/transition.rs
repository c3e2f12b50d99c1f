//! When a user comes to a channel or goes, and when a channel is occupied or vacated.

use skywave_proto::{Member, StreamPosition};

/// A user's first client has joined a channel, or its last one has left. A client without a user counts for itself.
///
/// Other joins and leaves of clients are no transitions: those who follow a channel hear them as
/// [`PresenceEvent`](crate::PresenceEvent). Who comes back within the grace, on whatever node, makes none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The client that joined or left.
    pub member: Member,
    /// What it did.
    pub kind: TransitionKind,
    /// Nobody was there before, or nobody is any more: the channel is occupied now, or vacated.
    pub of_channel: bool,
    /// Of the join or leave on the channel's stream of them. Transitions of one channel in their order over all nodes; the
    /// same one never has another. None on the embedded backplane, which tells them in order.
    pub position: Option<StreamPosition>,
    /// When: milliseconds since 1970, by the backplane's clock.
    pub at_ms: u64,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransitionKind {
    /// It was not there before.
    Joined,
    /// It is not there any more.
    Left,
}
