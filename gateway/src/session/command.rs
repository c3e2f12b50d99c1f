//! What a client can ask, parsed: behind this door a channel name is a name and a position is a position.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use skywave_backplane::{HistoryPage, MemberPage, Published};
use skywave_proto::{ChannelName, ErrorCode, Payload, Publication, StreamPosition};

/// A command with its id, or why it is none.
#[derive(Debug)]
pub struct Envelope {
    /// Without one there is no reply, only an error.
    pub id: Option<u64>,
    /// The command.
    pub command: Result<Command, Refusal>,
}

/// What a client asks.
#[derive(Debug)]
pub enum Command {
    /// Says who the client is; only as the first command.
    Connect(Connect),
    /// Starts a subscription.
    Subscribe(Subscribe),
    /// Ends one.
    Unsubscribe(ChannelName),
    /// Publishes.
    Publish {
        /// Where to.
        channel: ChannelName,
        /// What.
        payload: Payload,
        /// Makes a retry safe.
        key: Option<Arc<str>>,
    },
    /// Asks who is on a channel.
    Presence {
        /// Which.
        channel: ChannelName,
        /// `next` of the page before.
        after: Option<String>,
    },
    /// Asks for a channel's recent publications.
    History {
        /// Which.
        channel: ChannelName,
        /// Only those after this position.
        since: Option<Since>,
        /// How many.
        limit: Option<u32>,
    },
    /// Brings a new token.
    Refresh(Credential),
    /// Calls the back end.
    Rpc {
        /// What it is to do, in its own words.
        method: String,
        /// With what.
        data: Payload,
    },
    /// Asks whether the node is there.
    Ping,
}

/// See [`Command::Connect`].
#[derive(Debug, Default)]
pub struct Connect {
    /// A connection token.
    pub token: Option<Credential>,
    /// From an earlier `connected`.
    pub session: Option<String>,
    /// A JSON object about the client; used in development mode only.
    pub info: Option<Bytes>,
    /// Subscriptions to start at once. A refused one carries its channel as it was written.
    pub subscribe: Vec<Result<Subscribe, (String, Refusal)>>,
}

/// See [`Command::Subscribe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// To what.
    pub channel: ChannelName,
    /// The last position that the client saw.
    pub since: Option<Since>,
    /// Asks for members, joins and leaves.
    pub presence: bool,
    /// `false` leaves out publications with one's own client id.
    pub echo: bool,
    /// A token for this one channel.
    pub token: Option<Credential>,
}

/// A token as a client sent it. It shows itself to nobody who prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(Box<str>);

impl Credential {
    /// As it came.
    pub fn new(token: impl Into<Box<str>>) -> Self {
        Self(token.into())
    }

    /// The token itself, for whoever checks it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// A position that a client gave. One that cannot be of ours is not an error but cannot be recovered from either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// A position.
    Position(StreamPosition),
    /// Something else.
    Foreign,
}

/// The answer to a command.
#[derive(Debug)]
pub enum Reply {
    /// To [`Command::Connect`], or unasked.
    Connected(Connected),
    /// To [`Command::Subscribe`].
    Subscribed(Subscribed),
    /// To [`Command::Unsubscribe`].
    Unsubscribed(ChannelName),
    /// To [`Command::Publish`].
    Published(Published),
    /// To [`Command::Presence`].
    Presence(MemberPage),
    /// To [`Command::History`].
    History(ChannelName, HistoryPage),
    /// To [`Command::Refresh`]: how long the connection lasts now, in milliseconds; `None`: it has no end.
    Refreshed(Option<u64>),
    /// To [`Command::Rpc`].
    Result(Payload),
    /// To [`Command::Ping`].
    Pong,
    /// To any.
    Error(Refusal),
}

/// See [`Reply::Connected`].
#[derive(Debug)]
pub struct Connected {
    /// The client's id.
    pub client: Arc<str>,
    /// Keeps that id over a reconnect, to any node.
    pub session: String,
    /// The node's name.
    pub node: Arc<str>,
    /// After this much silence the client should ping.
    pub ping_interval_ms: u64,
    /// When the connection ends unless a newer token comes; `None`: never.
    pub expires_in_ms: Option<u64>,
    /// What became of the subscriptions in `connect`, in their order, and behind them those that the token asks for.
    pub subscribed: Vec<Result<Subscribed, (String, Refusal)>>,
}

/// See [`Reply::Subscribed`].
#[derive(Debug)]
pub struct Subscribed {
    /// To what.
    pub channel: ChannelName,
    /// The position of the last of `publications`; without any, where live begins.
    pub position: Option<StreamPosition>,
    /// Set when the client gave `since`: whether it gets everything after it.
    pub recovered: Option<bool>,
    /// The first of what was missed; the rest follows as pushes.
    pub publications: Vec<Publication>,
    /// Who is there, if the client asked.
    pub members: Option<MemberPage>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A row of the one table.
    pub code: ErrorCode,
    /// What is wrong and what to do, for the person who writes the client.
    pub message: String,
    /// How long to wait before trying again, in milliseconds; 0: as you like.
    pub after_ms: u64,
    /// With `not_replicated`: where the publication stands.
    pub position: Option<StreamPosition>,
}

impl Refusal {
    /// With a message that says what to do.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), after_ms: 0, position: None }
    }
}
