//! What a subscription hears, and what commands answer.

use std::sync::Arc;

use skywave_proto::{Member, Payload, StreamPosition};

use crate::error::Refusal;

/// What happens on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Somebody has published. Each comes once, in the channel's order.
    Publication(Publication),
    /// Publications were missed that cannot be had any more: what is shown of the channel is to be loaded anew.
    Gap(Gap),
    /// The members, as they are now: the first event of a subscription with presence, and after whatever made
    /// joins and leaves uncertain (a reconnect, a queue that was full).
    Members(MemberPage),
    /// Somebody is there who was not.
    Join(Member),
    /// Somebody has gone.
    Leave(Member),
    /// The subscription is over, and nobody here asked for that: the back end, or a lost right. The last event.
    Ended(Refusal),
}

/// Whether the client is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connection {
    /// To this node, as this client; the id stays the same over reconnects.
    Up {
        /// Its id.
        client: Arc<str>,
        /// The node's name.
        node: Arc<str>,
    },
    /// Not now: it comes back by itself.
    Down {
        /// Why, for a log; nothing if it was never up.
        why: Arc<str>,
    },
}

/// One payload on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its place; none on a channel that keeps nothing.
    pub position: Option<StreamPosition>,
    /// What it carries.
    pub payload: Payload,
    /// The client that published it; none for a back end.
    pub client: Option<Arc<str>>,
    /// The user behind that client.
    pub user: Option<Arc<str>>,
}

/// Where something was missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// `reset` (start over), `rollback` (Redis lost what this client saw), `slow_consumer`, or `possible` (nothing is kept on the
    /// channel, and a connection was away).
    pub reason: String,
    /// How many, where that is known.
    pub missed: Option<u64>,
    /// Behind which position it goes on; none on a channel that keeps nothing.
    pub position: Option<StreamPosition>,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its place; none on a live-only channel.
    pub position: Option<StreamPosition>,
    /// It had been published before, under the same key.
    pub is_duplicate: bool,
}

/// A piece of a channel's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// The place of the newest that the answer speaks of.
    pub position: Option<StreamPosition>,
    /// Oldest first.
    pub publications: Vec<Publication>,
    /// Whether it reaches back to the position that was asked for.
    pub is_complete: bool,
    /// Whether there is more behind it.
    pub has_more: bool,
}

/// A piece of a channel's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPage {
    /// By client id.
    pub members: Vec<Member>,
    /// How many there are in all.
    pub total: u64,
    /// Ask for what follows with this; none at the end.
    pub next: Option<Arc<str>>,
}
