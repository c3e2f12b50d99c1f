//! What a node says unasked, and how it is encoded once for all who get it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use skywave_backplane::{Gap, MemberPage, PresenceEvent};
use skywave_proto::{ChannelName, CloseCode, Publication, StreamPosition};

/// Something for clients that did not ask.
#[derive(Debug, Clone)]
pub enum Push {
    /// A publication on a channel.
    Publication(ChannelName, Publication),
    /// A client joined or left a channel.
    Presence(ChannelName, PresenceEvent),
    /// A list of members that is up to date again, and where the client stands.
    Roll(ChannelName, Option<StreamPosition>, MemberPage),
    /// Something is missing on a channel.
    Gap(ChannelName, GapReason, GapDetail),
    /// A subscription has ended and the client did not ask for it.
    Unsubscribed(ChannelName, &'static str),
    /// The backplane came (`true`) or went.
    Backplane(bool),
    /// The connection ends; a close frame follows.
    Disconnect(Goodbye),
}

/// Why a client does not have everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// It did not read fast enough.
    SlowConsumer,
    /// It saw what the backplane has lost.
    Rollback,
    /// It must start over.
    Reset,
    /// The backplane was away and the channel keeps no history.
    Possible,
}

impl GapReason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::Rollback => "rollback",
            Self::Reset => "reset",
            Self::Possible => "possible",
        }
    }
}

/// How much is missing, and where the channel goes on, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GapDetail {
    /// Publications that are missing.
    pub missed: Option<u64>,
    /// Where live goes on.
    pub position: Option<StreamPosition>,
}

impl Push {
    /// The push that tells subscribers of a backplane's gap.
    pub fn gap(channel: ChannelName, gap: Gap) -> Self {
        let (reason, position) = match gap {
            Gap::Reset { now } => (GapReason::Reset, now),
            Gap::Rollback { now } => (GapReason::Rollback, Some(now)),
            Gap::Possible => (GapReason::Possible, None),
        };
        Self::Gap(channel, reason, GapDetail { missed: None, position })
    }
}

/// Why a connection ends, and what the client does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goodbye {
    /// The close code.
    pub code: CloseCode,
    /// For the person who debugs the client; at most 123 bytes. Usually the code's own word.
    pub reason: std::borrow::Cow<'static, str>,
    /// How long the client waits before it comes back, in milliseconds.
    pub after_ms: u64,
}

impl From<CloseCode> for Goodbye {
    fn from(code: CloseCode) -> Self {
        Self { code, reason: code.reason().into(), after_ms: 0 }
    }
}

/// One WebSocket message. Cloning shares it, and with it the bytes that go out: they are made once, for however many
/// receivers.
#[derive(Debug, Clone)]
pub struct Frame(Arc<Content>);

#[derive(Debug)]
struct Content {
    is_text: bool,
    payload: Bytes,
    position: Option<StreamPosition>,
    plain: OnceLock<Bytes>,
    deflated: [OnceLock<Option<Bytes>>; Window::COUNT],
}

/// What a client can take of what was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Nearly everybody: the largest window.
    Usual,
    /// Whoever asked for a smaller one, whichever that is.
    Small,
}

impl Window {
    const COUNT: usize = 2;
}

impl Frame {
    /// What one costs beside its payload, in bytes.
    pub const OVERHEAD: usize = size_of::<Content>() + 2 * size_of::<usize>();

    /// A text message; the payload is UTF-8.
    pub fn text(payload: impl Into<Bytes>) -> Self {
        Self::new(true, payload.into(), None)
    }

    /// A binary message.
    pub fn binary(payload: impl Into<Bytes>) -> Self {
        Self::new(false, payload.into(), None)
    }

    /// A message that carries the publication at this position, if it has one: so a connection knows how far its client
    /// has come.
    pub fn new(is_text: bool, payload: Bytes, position: Option<StreamPosition>) -> Self {
        Self(Arc::new(Content { is_text, payload, position, plain: OnceLock::new(), deflated: Default::default() }))
    }

    /// Text, or binary.
    pub fn is_text(&self) -> bool {
        self.0.is_text
    }

    /// The message.
    pub fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// The position of the publication in it.
    pub fn position(&self) -> Option<StreamPosition> {
        self.0.position
    }

    /// The message with its frame header, as it goes out; `make` is asked once.
    pub fn plain(&self, make: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.0.plain.get_or_init(|| make(self))
    }

    /// The same, compressed for such clients; `None` if that made it no smaller. `make` is asked once.
    pub fn deflated(&self, window: Window, make: impl FnOnce(&Self) -> Option<Bytes>) -> Option<&Bytes> {
        self.0.deflated[window as usize].get_or_init(|| make(self)).as_ref()
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        let parts = |frame: &Self| (frame.is_text(), frame.payload().clone(), frame.position());
        parts(self) == parts(other)
    }
}

impl Eq for Frame {}

/// What a push is in one wire format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    /// Send this.
    Frame(Frame),
    /// This format has no word for it.
    Nothing,
    /// This format can only end the connection.
    Close(Goodbye),
}

/// A wire format, as far as a shard has to know it. Every format has a slot of its own in a [`Prepared`].
pub trait Format: Send + Sync + 'static {
    /// Where this format's encoding is kept: below [`SLOTS`], and nobody else's.
    fn slot(&self) -> usize;

    /// Encodes a push. Called once for each push and format, whatever the number of receivers.
    fn encode(&self, push: &Push) -> Encoded;
}

/// How many wire formats there can be.
pub const SLOTS: usize = 7;

/// A push with its encodings, each made once and shared by every connection of the node that needs it.
#[derive(Debug)]
pub struct Prepared {
    push: Push,
    encodings: [OnceLock<Encoded>; SLOTS],
}

impl Prepared {
    /// Nothing is encoded yet.
    pub fn new(push: Push) -> Arc<Self> {
        Arc::new(Self { push, encodings: [const { OnceLock::new() }; SLOTS] })
    }

    /// What it is.
    pub fn push(&self) -> &Push {
        &self.push
    }

    /// Its encoding in this format, made now if nobody needed it before.
    pub fn encoding(&self, format: &dyn Format) -> &Encoded {
        self.encodings[format.slot()].get_or_init(|| format.encode(&self.push))
    }

    /// Bytes of payload that it carries.
    pub fn payload_bytes(&self) -> usize {
        match &self.push {
            Push::Publication(_, publication) => publication.payload.data().len(),
            _ => 0,
        }
    }

    /// The publication's position, if it is a publication that has one.
    pub fn position(&self) -> Option<StreamPosition> {
        match &self.push {
            Push::Publication(_, publication) => publication.position,
            _ => None,
        }
    }
}
