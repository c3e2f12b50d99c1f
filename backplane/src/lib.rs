//! Carries publications between nodes and keeps their history. Knows nothing of clients, sockets or protocols.
//!
//! Five traits say what a backplane does for a node, one says what the node does for it:
//!
//! - [`Backplane`]: publish, subscribe, history; [`Presence`]: who is on a channel; [`Cluster`]: which nodes there are;
//!   [`Revocations`]: which tokens no longer count; [`Ownership`]: which node has a session without a connection
//! - [`Sink`]: what comes up, by call into queues that never wait
//!
//! [`Memory`] serves one node and is the reference; [`Redis`] joins many; [`Any`] is the one that was configured.
//! `conformance` (a feature, for tests) holds the promises as tests that every implementation runs.

mod any;
#[cfg(feature = "conformance")]
pub mod conformance;
mod memory;
mod metrics;
mod ownership;
mod redis;
mod revocation;
mod transition;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use skywave_proto::{ChannelName, Member, Payload, Publication, StreamPosition};

pub use any::Any;
pub use memory::Memory;
pub use metrics::describe_metrics;
pub use ownership::{Ownership, SESSION_LEASE, SessionKey};
pub use redis::{
    FormatError, Generation, MAX_WITHIN, Needs, Redis, RedisOptions, RedisOptionsError, SharedSecretError,
};
pub use revocation::{MAX_REVOCATIONS, MAX_SUBJECT_BYTES, Revocation, Revocations, RevokeError, Subject};
pub use transition::{Transition, TransitionKind};

/// What a namespace keeps of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryPolicy {
    /// The largest number of publications kept; at least 1.
    pub size: u32,
    /// How long the publications outlive the last of them.
    pub ttl: Duration,
    /// How long the position outlives the last publication; at least `ttl`.
    pub meta_ttl: Duration,
}

/// A channel, and what its namespace says about it: who subscribes needs both, for on a channel with history an empty
/// line of offsets is begun, so that even its first subscriber holds a position to come back with.
#[derive(Debug, Clone)]
pub struct Interest {
    /// Which channel.
    pub channel: ChannelName,
    /// What is kept of it; `None`: live only.
    pub history: Option<HistoryPolicy>,
    /// Whether joins and leaves are delivered too.
    pub presence: bool,
}

/// When a publication counts as accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It is stored and published by the backplane. A failover to a replica that had not got it yet loses it; whoever
    /// has seen it is told [`Gap::Rollback`].
    #[default]
    Accepted,
    /// So many replicas have it too. That is no consensus: another replica may be promoted.
    Replicated {
        /// How many; at least 1.
        replicas: u32,
        /// How long they may take; then the answer is [`PublishError::NotReplicated`].
        within: Duration,
    },
}

/// A publication before it has a position.
#[derive(Debug, Clone)]
pub struct NewPublication {
    /// Where to.
    pub channel: ChannelName,
    /// What.
    pub payload: Payload,
    /// The client that publishes; none for a back end.
    pub client: Option<Arc<str>>,
    /// The user behind it.
    pub user: Option<Arc<str>>,
    /// When the node took it in: milliseconds since 1970.
    pub published_at_ms: u64,
    /// Makes a retry safe for [`IDEMPOTENCY_WINDOW`].
    pub key: Option<IdempotencyKey>,
    /// What is kept of the channel; `None`: live only.
    pub history: Option<HistoryPolicy>,
    /// When it counts as accepted. Publications of one channel keep the order of their calls among those of equal
    /// durability.
    pub durability: Durability,
}

/// How long the same key is known again.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(300);

/// What makes two publications the same one. It belongs to a channel and a publisher, so that nobody can take another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// API key name, user, or anonymous client id, each with a prefix that tells them apart.
    pub publisher: Arc<str>,
    /// What the publisher chose.
    pub key: Arc<str>,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Where it stands; none on a live-only channel.
    pub position: Option<StreamPosition>,
    /// The key was known: nothing was published now, `position` is the first one's.
    pub duplicate: bool,
}

/// Part of a channel's history, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// Where the channel stood when the page was read; none if it has no line of offsets.
    pub top: Option<StreamPosition>,
    /// The publications, none missing between the first and the last.
    pub publications: Vec<Publication>,
    /// Whether the page begins right after `since`: false says that something between is lost, or that the position is
    /// of another line. Without `since`: true.
    pub complete: bool,
    /// Whether there is more after the last one.
    pub more: bool,
}

/// What to read of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HistoryQuery {
    /// Only what comes after this; `None`: the newest.
    pub since: Option<StreamPosition>,
    /// At most this many; 0: the position only.
    pub limit: u32,
    /// At most this many bytes of payload, except that one publication always fits.
    pub bytes: usize,
    /// Whoever asks follows the channel and gets what comes after the page: a node may answer with how far it has
    /// delivered the channel itself, or with what somebody else has just asked for. Otherwise the page has everything
    /// that was acknowledged before it was asked for.
    pub followed: bool,
}

/// Carries publications and keeps their history.
///
/// Order: publications of one channel have one order, the same for every node and for the publisher, and nothing is
/// delivered to the [`Sink`] before it has its place in it.
pub trait Backplane: Send + Sync + 'static {
    /// Publishes. The publication takes its place behind earlier calls for the same channel *when this is called*, not
    /// when the future is first polled.
    ///
    /// # Errors
    /// [`PublishError`] says for certain whether it may have happened.
    /// # Cancel safety
    /// Dropping the future forgets the answer, not the publication.
    fn publish(
        &self,
        publication: NewPublication,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + 'static;

    /// Starts delivering these channels to the [`Sink`]. Everything after the returned position comes, in order, or a
    /// gap is told. Idempotent: for a channel that is delivered already, says where it stands. One result for each
    /// channel, in their order; `None` on a live-only channel.
    ///
    /// # Errors
    /// [`SubscribeError::Unavailable`] when the backplane is away and did not say in time. The interest stands: whoever
    /// does not ask again gives it up with [`Backplane::unsubscribe`].
    fn subscribe(
        &self,
        channels: &[Interest],
    ) -> impl Future<Output = Vec<Result<Option<StreamPosition>, SubscribeError>>> + Send;

    /// Stops delivering these channels, perhaps a second later.
    fn unsubscribe(&self, channels: &[ChannelName]);

    /// Reads a channel's history.
    ///
    /// # Errors
    /// [`HistoryError::Unavailable`] when the backplane is away.
    /// # Cancel safety
    /// Cancel-safe: only reads.
    fn history(
        &self,
        channel: &ChannelName,
        query: HistoryQuery,
    ) -> impl Future<Output = Result<HistoryPage, HistoryError>> + Send;

    /// Where these channels stand; `None` where there is no line of offsets. One result for each, in their order.
    ///
    /// # Errors
    /// [`HistoryError::Unavailable`] when the backplane is away.
    fn positions(
        &self,
        channels: &[ChannelName],
    ) -> impl Future<Output = Result<Vec<Option<StreamPosition>>, HistoryError>> + Send;

    /// Drops a channel's history and begins a new epoch. Subscribers are told [`Gap::Reset`].
    ///
    /// # Errors
    /// [`HistoryError::Unavailable`] when the backplane is away.
    fn forget(&self, channel: &ChannelName) -> impl Future<Output = Result<(), HistoryError>> + Send;

    /// Whether this node can reach its backplane now, and whether it ever could.
    fn state(&self) -> BackplaneState;
}

/// Who is on a channel. First join and last leave of a client are told to the [`Sink`]s of subscribed nodes, exactly
/// once each.
pub trait Presence: Send + Sync + 'static {
    /// Adds a member, or renews what is known of it. A client that is marked as leaving stays, and nothing is told.
    ///
    /// `connection` tells two connections of one client apart, on whatever nodes; the newer one has the larger number.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`]: not recorded yet. It is as soon as the backplane is back, unless the member leaves
    /// before.
    fn join(
        &self,
        channel: &ChannelName,
        member: Member,
        connection: u64,
    ) -> impl Future<Output = Result<(), PresenceError>> + Send;

    /// Takes a member away after `grace`, unless it joins again before, on whatever node. Does nothing if `connection` is
    /// no longer the client's.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`]: not done yet. It is as soon as the backplane is back.
    fn leave(
        &self,
        channel: &ChannelName,
        client: &Arc<str>,
        connection: u64,
        grace: Duration,
    ) -> impl Future<Output = Result<(), PresenceError>> + Send;

    /// At most `limit` members, by client id, after `after`.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`] when the backplane is away.
    fn members(
        &self,
        channel: &ChannelName,
        after: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<MemberPage, PresenceError>> + Send;

    /// How many members there are, without loading them.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`] when the backplane is away.
    fn count(&self, channel: &ChannelName) -> impl Future<Output = Result<u64, PresenceError>> + Send;

    /// Whether this node is told of [`Transition`]s from now on; at first it is not. Each is told once, by
    /// [`Sink::transition`] of the node whose client made it, or for a dead node by the one that takes its members away:
    /// so let all nodes of a cluster ask, or what those make that do not is told to nobody.
    fn tell_transitions(&self, tell: bool);
}

/// Which nodes there are, and a way to speak to them.
///
/// A node that stops beating for a lease is dead: others see it go from [`Cluster::nodes`], and its members leave.
pub trait Cluster: Send + Sync + 'static {
    /// This run of this node: never the same again, not even after a restart under the same name. A node that was taken
    /// for dead and comes back is another one from then on.
    fn incarnation(&self) -> Arc<str>;

    /// What others are told about this node from the next beat on.
    fn announce(&self, info: NodeInfo);

    /// The nodes that are alive, this one included, by name.
    ///
    /// # Errors
    /// [`ClusterError::Unavailable`] when the backplane is away.
    fn nodes(&self) -> impl Future<Output = Result<Vec<NodeRecord>, ClusterError>> + Send;

    /// Hands a message to the [`Sink`] of a node, or of every node, this one included. Each gets it at most once; what
    /// becomes of one that is away for a moment says `delivery`.
    ///
    /// # Errors
    /// [`ClusterError::Unavailable`]: perhaps nobody gets it.
    fn signal(
        &self,
        to: Target,
        message: Bytes,
        delivery: Delivery,
    ) -> impl Future<Output = Result<(), ClusterError>> + Send;
}

/// Whether a signal is of use late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// No: only nodes that hear it now get it, and nothing is kept of it.
    Live,
    /// Yes: it is kept for a minute, and a node that was away gets it afterwards.
    Kept,
}

/// Whom a signal is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every node.
    All,
    /// The node of this incarnation.
    Node(Arc<str>),
}

/// What a node tells about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Which version of the program it runs.
    pub version: Arc<str>,
    /// When it was started: milliseconds since 1970 on its clock.
    pub started_at_ms: u64,
    /// How many clients are connected to it.
    pub connections: u64,
    /// How many channels its clients are subscribed to.
    pub channels: u64,
    /// Where other nodes reach its internal listener, `host:port`; empty: they do not, or its version does not say.
    pub advertise: Arc<str>,
}

/// One node, as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Which run of it.
    pub incarnation: Arc<str>,
    /// What it told last.
    pub info: NodeInfo,
    /// How long ago that was.
    pub beat_age: Duration,
}

/// Part of a channel's members, by client id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberPage {
    /// The members.
    pub members: Vec<Member>,
    /// How many there are in all.
    pub total: u64,
    /// Give this as `after` for the next page; `None` after the last.
    pub next: Option<Arc<str>>,
}

/// What a node does with what comes up. Called in a channel's order, from a few tasks; **must not wait**: hand over to
/// bounded queues, and where one is full mark the channel as behind.
pub trait Sink: Send + Sync + 'static {
    /// A publication on a subscribed channel: the next one, or one after a [`Gap`].
    fn publication(&self, channel: &ChannelName, publication: Publication);

    /// Something is missing before the next publication.
    fn gap(&self, channel: &ChannelName, gap: Gap);

    /// A client joined or left.
    fn presence(&self, channel: &ChannelName, event: PresenceEvent);

    /// Joins or leaves may be missing before the next one: a list of members has to be read again.
    fn presence_gap(&self, channel: &ChannelName);

    /// A user came to a channel or went: to exactly one node of those that asked with [`Presence::tell_transitions`], and to
    /// no other. Whether anybody on the node is subscribed there does not count. By default nobody cares.
    fn transition(&self, _channel: &ChannelName, _transition: Transition) {}

    /// A node has sent [`Cluster::signal`].
    fn signal(&self, from: Arc<str>, message: Bytes);

    /// The backplane came or went.
    fn state(&self, state: BackplaneState);
}

/// What is missing, and where the channel stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// A new line of offsets, or the history does not reach back: subscribers start over.
    Reset {
        /// Where live goes on.
        now: Option<StreamPosition>,
    },
    /// Subscribers saw publications that the backplane has lost.
    Rollback {
        /// Where live goes on.
        now: StreamPosition,
    },
    /// A live-only channel whose publications may have passed by unheard.
    Possible,
}

/// A change of who is on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceEvent {
    /// The client was not there before.
    Join(Member),
    /// The client is not there any more.
    Leave(Member),
}

/// Whether a node can reach its backplane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackplaneState {
    /// Not yet reached since the node started: the node is not ready.
    Never,
    /// Connected, subscribed and caught up.
    Live,
    /// It was live; until it is again publications may be refused and deliveries late.
    Degraded,
}

/// An error, kept as the `source` of ours and no part of the promise.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why a publication was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The backplane is away, or refuses writes: certainly not done, retry.
    #[error("the backplane did not accept a publication on {channel}")]
    Unavailable {
        /// Where to.
        channel: ChannelName,
        /// Why, where something is known.
        #[source]
        source: Option<Cause>,
    },
    /// The queue towards the backplane is full: certainly not done, retry later.
    #[error("too many publications are waiting for the backplane")]
    Overloaded,
    /// Stored and published, but not on as many replicas in time. Retrying with the same key waits for them again.
    #[error("a publication on {channel} is stored, but {replicas} replicas have it and not as many as were asked for")]
    NotReplicated {
        /// Where to.
        channel: ChannelName,
        /// Where it stands.
        published: Published,
        /// How many replicas have it.
        replicas: u32,
    },
    /// Sent, and no answer came: done or not. Retry with the same key.
    #[error("the backplane did not answer to a publication on {channel}")]
    UnknownOutcome {
        /// Where to.
        channel: ChannelName,
    },
}

/// Why a channel is not delivered.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The backplane is away: ask again, or unsubscribe.
    #[error("the backplane is away")]
    Unavailable,
}

/// Why a history could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HistoryError {
    /// The backplane is away.
    #[error("the backplane is away")]
    Unavailable(#[source] Option<Cause>),
}

/// Why presence is not known.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// The backplane is away.
    #[error("the backplane is away")]
    Unavailable(#[source] Option<Cause>),
}

/// Why the cluster could not be asked or told.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The backplane is away.
    #[error("the backplane is away")]
    Unavailable(#[source] Option<Cause>),
}
