//! Sessions without a WebSocket of their own, wherever their requests arrive.
//!
//! Each request of such a session may reach another node. One node owns the session, which the backplane's directory
//! says; the node that got a request carries it out there, through the gRPC service `skywave.v1.Node` of the owner's
//! internal listener. Two operations are all that it takes: to receive frames, and to send messages.
//!
//! - [`Host`]: what a node offers for the sessions that it owns; [`Peers`]: what a node asks that got a request
//! - the way there: `link`, its connections to one other node, on which both have proven that they know the cluster's
//!   secret (`proof`, `trust`); `inlet`, a receiver
//! - the owner: `service`, behind the door of `admission`; `outlet`, a receiver; `window`, what was taken already
//! - `claims`: which sessions are this node's · `whereabouts`: where this node and the others are reached
//!
//! What never happens: a frame that is skipped or doubled without the session's end, a message that is taken twice, a
//! queue between nodes without a bound.

mod admission;
mod claims;
mod inlet;
mod link;
mod numbers;
mod outlet;
mod proof;
mod request;
mod service;
mod trust;
mod whereabouts;
mod window;

use std::{
    fmt,
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use skywave_backplane::SessionKey;
use tokio::sync::mpsc;

pub use self::{admission::Proven, request::Peers};
pub(crate) use self::{service::call, whereabouts::find_address};

/// Names a session on all nodes: 32 bytes, whatever a stranger has called it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 32]);

impl SessionId {
    /// Of a session that a client has named so, at this service. Both may be of any length; the lengths keep `ab` of `c`
    /// apart from `a` of `bc`.
    pub fn of(service: &str, session: &str) -> Self {
        let length = (service.len() as u64).to_be_bytes();
        let digest = Sha256::new().chain_update(length).chain_update(service).chain_update(session).finalize();
        Self(digest.into())
    }

    /// What it is called in the backplane.
    pub fn key(self) -> SessionKey {
        SessionKey(self.0)
    }
}

impl fmt::Debug for SessionId {
    /// The beginning of it. Whoever knows what a client called its session could take it over; this does not tell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How much a receiver wants before it is full and its frames end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// After so many frames: 1 for a poll. `None`: any number.
    pub frames: Option<NonZeroU32>,
    /// After so many bytes of frames; the frame that passes it is the last.
    pub bytes: u32,
}

/// No such session here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such session")]
pub struct Unknown;

/// Why messages were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendRefused {
    /// No such session here.
    #[error("no such session")]
    Unknown,
    /// The session has as much to do as it may. None of the messages were taken.
    #[error("the session has as much to do as it may")]
    Full,
}

/// A node that owns sessions. Called on the node's runtime, not on a shard's thread: hand over, and do not compute.
#[tonic::async_trait]
pub trait Host: Send + Sync + 'static {
    /// Attaches a receiver to a session: its frames as they are before any transport wraps them (`o`, `h`, `a[…]`,
    /// `c[…]`), in order.
    ///
    /// The session drops the sender when the receiver has what it wants, and thereby says that it has ended well. Where the
    /// receiver is dropped before, the client was cut off: what it was given and did not take is lost, and the session
    /// decides what that means. What a second receiver of a session gets is the session's to say.
    ///
    /// Bound: make the channel small; what waits belongs into the session's queue, whose bound is the outbox's.
    async fn receive(&self, session: SessionId, want: Want) -> Result<mpsc::Receiver<Bytes>, Unknown>;

    /// Takes messages of the client, all or none, in the order of calls.
    async fn send(&self, session: SessionId, messages: Vec<Bytes>) -> Result<(), SendRefused>;

    /// What a receiver on another node was given may not have reached the client, and that node does not come back to say:
    /// ends the session, for nothing may be skipped or doubled.
    fn lost(&self, session: SessionId);
}

/// A node that owns a session. Cloning shares it.
#[derive(Clone)]
pub struct Peer(Arc<Known>);

/// Where a node is.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    name: Arc<str>,
    incarnation: Arc<str>,
    address: Arc<str>,
}

/// Where a session lives.
#[derive(Debug, Clone)]
pub enum Owner {
    /// On this node.
    Here,
    /// On that one.
    There(Peer),
    /// It lived on a node that is dead: the client gets the protocol's end.
    Gone,
    /// Nowhere.
    Nobody,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.name)
    }
}

/// The frames of a receiver, in order; none is skipped or doubled.
///
/// # Cancel safety
/// Dropping it before its end detaches the receiver: the client was cut off.
pub struct Frames(Source);

enum Source {
    Here(mpsc::Receiver<Bytes>),
    There(mpsc::Receiver<Result<Bytes, Broken>>),
}

/// The owner could not be reached any more in the midst of it: the response is cut, not ended, and the session is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session's node is away")]
pub struct Broken;

impl Frames {
    /// Of a session of this node.
    pub fn here(frames: mpsc::Receiver<Bytes>) -> Self {
        Self(Source::Here(frames))
    }

    /// The next one; `None` once the receiver has what it wants.
    ///
    /// # Errors
    /// [`Broken`]; nothing comes after it.
    /// # Cancel safety
    /// Cancel-safe: what is not returned comes next time.
    pub async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Frames::next`].
    ///
    /// # Errors
    /// As [`Frames::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        match &mut self.0 {
            Source::Here(frames) => frames.poll_recv(cx).map(|frame| frame.map(Ok)),
            Source::There(frames) => frames.poll_recv(cx),
        }
    }
}

/// Why a request was not carried out on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The owner does not know the session, or is of a version that has none.
    #[error("no such session")]
    Unknown,
    /// The session, or the way to its owner, has as much to do as it may. Not done.
    #[error("too much is under way to the session's node")]
    Full,
    /// The owner, or the backplane, is away. Not done.
    #[error("the session's node is away")]
    Unavailable,
    /// The owner did not answer: done or not, and never twice. The session is in doubt.
    #[error("the session's node did not answer")]
    UnknownOutcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_service_and_its_name() {
        assert_eq!(SessionId::of("/echo", "abc"), SessionId::of("/echo", "abc"));
        assert_ne!(SessionId::of("/echo", "abc"), SessionId::of("/ech", "oabc"));
        assert_ne!(SessionId::of("/echo", "abc"), SessionId::of("/other", "abc"));
        assert_eq!(format!("{:?}", SessionId::of("/echo", "abc")).len(), 8);
    }
}
