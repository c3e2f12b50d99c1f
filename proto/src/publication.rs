use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use rand::Rng as _;

/// Names one line of offsets. A new one is drawn whenever offsets start again or may have been lost, so that a position
/// from before can never be mistaken for one after.
///
/// Eight characters of `A-Z a-z 0-9 - _` (48 random bits): they stand as they are in URLs, in JSON and in Redis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch([u8; 8]);

impl Epoch {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// Draws a fresh epoch.
    pub fn random() -> Self {
        let mut rng = rand::rng();
        Self(std::array::from_fn(|_| Self::ALPHABET[rng.random_range(0..64)]))
    }

    /// Reads the eight characters.
    ///
    /// # Errors
    /// [`ParsePositionError`] for another length or another character.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParsePositionError> {
        let bytes: [u8; 8] = bytes.try_into().map_err(|_| ParsePositionError)?;
        if bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            Ok(Self(bytes))
        } else {
            Err(ParsePositionError)
        }
    }

    /// The eight characters.
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// The eight characters as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("from_bytes and random let only ASCII in")
    }
}

impl FromStr for Epoch {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place in a channel's line of offsets, written `epoch:offset`.
///
/// The first publication of a line has offset 1; 0 stands before it. Positions of different epochs have no order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamPosition {
    /// The line.
    pub epoch: Epoch,
    /// The place in it.
    pub offset: u64,
}

impl StreamPosition {
    /// The place before the first publication of a line.
    pub fn start(epoch: Epoch) -> Self {
        Self { epoch, offset: 0 }
    }

    /// The place after this one.
    pub fn next(self) -> Self {
        Self { offset: self.offset + 1, ..self }
    }
}

impl FromStr for StreamPosition {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, offset) = text.split_once(':').ok_or(ParsePositionError)?;
        Ok(Self { epoch: epoch.parse()?, offset: offset.parse().map_err(|_| ParsePositionError)? })
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

impl fmt::Debug for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is written epoch:offset, as an earlier answer gave it")]
pub struct ParsePositionError;

/// What a payload is. It keeps its kind on the way, so that text leaves as text and bytes as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadKind {
    /// A JSON value.
    Json,
    /// Any text.
    Text,
    /// Any bytes.
    Binary,
}

/// What a publication carries. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    kind: PayloadKind,
    data: Bytes,
}

impl Payload {
    /// A JSON value that the caller has checked; newlines between its tokens become spaces, since they end a frame's
    /// line.
    pub fn json(data: Bytes) -> Self {
        // Each look is many bytes at a time, which one look for both is not.
        let data = if data.contains(&b'\n') || data.contains(&b'\r') {
            data.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }).collect()
        } else {
            data
        };
        Self { kind: PayloadKind::Json, data }
    }

    /// Text that the caller knows to be UTF-8.
    pub fn text(data: Bytes) -> Self {
        Self { kind: PayloadKind::Text, data }
    }

    /// Bytes as they are.
    pub fn binary(data: Bytes) -> Self {
        Self { kind: PayloadKind::Binary, data }
    }

    /// What it is.
    pub fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// The bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }
}

impl fmt::Debug for Payload {
    /// Kind and size only: a payload never reaches a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({} bytes)", self.kind, self.data.len())
    }
}

/// One payload on one channel, with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its place; none on a live-only channel.
    pub position: Option<StreamPosition>,
    /// What it carries.
    pub payload: Payload,
    /// The client that published it; none for a back end.
    pub client: Option<Arc<str>>,
    /// The user behind that client.
    pub user: Option<Arc<str>>,
    /// When a node took it in: milliseconds since 1970 on that node's clock.
    pub published_at_ms: u64,
}

/// One client on one channel, as presence shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The client's id, kept over a short reconnect.
    pub client: Arc<str>,
    /// The user, if the client is not anonymous.
    pub user: Option<Arc<str>>,
    /// A JSON object about the client.
    pub info: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_epoch_is_eight_characters_that_a_url_takes() {
        let epoch = Epoch::random();
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        assert_ne!(epoch, Epoch::random());
        for bad in ["", "short", "ninechars", "with:col", "sp ace12"] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn newlines_between_tokens_do_not_end_a_frames_line() {
        assert_eq!(Payload::json(Bytes::from_static(b"{\r\n\"a\": 1}")).data(), &b"{  \"a\": 1}"[..]);
    }

    #[test]
    fn a_payload_does_not_print_its_bytes() {
        assert_eq!(format!("{:?}", Payload::text(Bytes::from_static(b"secret"))), "Text(6 bytes)");
    }

    proptest! {
        #[test]
        fn a_position_reads_back_as_it_was_written(offset: u64) {
            let position = StreamPosition { epoch: Epoch::random(), offset };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<StreamPosition>();
        }
    }
}
