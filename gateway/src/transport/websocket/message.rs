use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Event, Violation, inflater::Inflater};

/// A message that comes in pieces: what there is of it so far.
///
/// Bound: `Limits::message_bytes`, which [`Frame::parse`](super::frame::Frame::parse) checks for plain messages when
/// a frame is declared, and [`Message::push`] for compressed ones while they are inflated. Grows with what has come only.
pub(super) struct Message {
    body: Body,
    inflater: Option<Inflater>,
    fragments: u32,
}

enum Body {
    Text(Text),
    Binary(Vec<u8>),
}

impl Message {
    /// Nothing yet.
    pub(super) fn begin(is_text: bool, is_compressed: bool) -> Self {
        let body = if is_text { Body::Text(Text::default()) } else { Body::Binary(Vec::new()) };
        Self { body, inflater: is_compressed.then(Inflater::take), fragments: 0 }
    }

    /// One more frame of it has begun.
    pub(super) fn fragment(&mut self) {
        self.fragments = self.fragments.saturating_add(1);
    }

    /// How many frames it has until now.
    pub(super) fn fragments(&self) -> u32 {
        self.fragments
    }

    /// Whether [`Message::len`] says nothing about what is still to come.
    pub(super) fn is_compressed(&self) -> bool {
        self.inflater.is_some()
    }

    /// Bytes until now, inflated.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// Takes what came next, unmasked.
    pub(super) fn push(&mut self, bytes: &[u8], limit: usize) -> Result<(), Violation> {
        let Self { body, inflater, .. } = self;
        match inflater {
            Some(inflater) => inflater.push(bytes, |inflated| body.push_within(inflated, limit)),
            None => body.push(bytes),
        }
    }

    /// The last frame has ended.
    pub(super) fn end(mut self, limit: usize) -> Result<Event, Violation> {
        if let Some(mut inflater) = self.inflater.take() {
            inflater.end(|inflated| self.body.push_within(inflated, limit))?;
            inflater.give_back();
        }
        match self.body {
            Body::Text(text) => text.end().map(Event::Text),
            Body::Binary(mut bytes) => {
                bytes.shrink_to_fit(); // it may live long, as part of a history
                Ok(Event::Binary(Bytes::from(bytes)))
            }
        }
    }
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.whole.len() + usize::from(text.begun),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        match self {
            Self::Text(text) => text.push(bytes),
            Self::Binary(whole) => {
                whole.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn push_within(&mut self, bytes: &[u8], limit: usize) -> Result<(), Violation> {
        match bytes.split_at_checked(limit.saturating_sub(self.len())) {
            // What fits is judged first: else the verdict depends on how the input was cut.
            Some((fits, [_, ..])) => self.push(fits).and(Err(Violation::MESSAGE_TOO_BIG)),
            _ => self.push(bytes),
        }
    }
}

/// Text that comes in pieces, cut anywhere. It is refused with the first byte that cannot belong to UTF-8, however much
/// is still to come (RFC 6455 §8.1).
#[derive(Default)]
struct Text {
    whole: String,
    /// The beginning of a character whose end has not come yet: `begun` bytes of it.
    character: [u8; 4],
    begun: u8,
}

impl Text {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while self.begun > 0
            && let [next, rest @ ..] = bytes
        {
            bytes = rest;
            self.go_on(*next)?;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.whole.push_str(text),
            Err(error) if error.error_len().is_some() => return Err(Violation::NOT_UTF8),
            Err(error) => {
                let (text, cut) = bytes.split_at(error.valid_up_to());
                self.whole.push_str(std::str::from_utf8(text).map_err(|_| Violation::NOT_UTF8)?);
                for byte in cut {
                    self.go_on(*byte)?;
                }
            }
        }
        Ok(())
    }

    /// One more byte of the character that has begun.
    fn go_on(&mut self, byte: u8) -> Result<(), Violation> {
        let at = usize::from(self.begun);
        let Some(place) = self.character.get_mut(at) else { return Err(Violation::NOT_UTF8) };
        *place = byte;
        match std::str::from_utf8(&self.character[..=at]) {
            Ok(character) => {
                self.whole.push_str(character);
                self.begun = 0;
            }
            Err(error) if error.error_len().is_some() => return Err(Violation::NOT_UTF8),
            Err(_) => self.begun += 1,
        }
        Ok(())
    }

    fn end(mut self) -> Result<Utf8Bytes, Violation> {
        if self.begun > 0 {
            return Err(Violation::NOT_UTF8);
        }
        self.whole.shrink_to_fit(); // it may live long, as part of a history
        Ok(Utf8Bytes::from(self.whole))
    }
}
