use std::fmt;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::{
    Utf8Bytes,
    protocol::frame::coding::{CloseCode, Control, Data, OpCode},
};

use super::{
    Event, Limits, Role, Violation,
    frame::{Frame, LONGEST_HEADER, Place},
    mask,
    message::Message,
};

/// Makes events of the bytes that come in on one connection.
///
/// Between messages it owns no heap, whatever went through it. Bounds: a header's 14 bytes, a control frame's 125, and
/// [`Limits::message_bytes`] for a message that is not whole yet; a compressed one holds an inflater (about 40 KB) besides,
/// from its first frame to its last. How long a message may take is for the caller to say: see
/// [`Decoder::is_within_message`].
pub struct Decoder {
    role: Role,
    limits: Limits,
    inflates: bool,
    is_over: bool,
    /// A header that is not whole yet: `header_bytes` of it.
    header: [u8; LONGEST_HEADER],
    header_bytes: u8,
    /// The frame whose payload comes next; its length is what is still missing.
    frame: Option<Frame>,
    /// The payload of a control frame that is not whole yet.
    control: Vec<u8>,
    message: Option<Message>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("role", &self.role).finish_non_exhaustive() // the rest holds a payload
    }
}

impl Decoder {
    /// Waits for the first frame. `inflates`: permessage-deflate was agreed on, with the other end's
    /// `no_context_takeover` (see [`negotiate`](super::negotiate)).
    pub fn new(role: Role, limits: Limits, inflates: bool) -> Self {
        Self {
            role,
            limits,
            inflates,
            is_over: false,
            header: [0; LONGEST_HEADER],
            header_bytes: 0,
            frame: None,
            control: Vec::new(),
            message: None,
        }
    }

    /// Reads `input` up to the end of the next event; returns how many bytes that took, and the event. Without an event
    /// all of the input was taken. Payloads are unmasked in place: bytes that were taken are worth nothing afterwards.
    ///
    /// The events, and the violation that ends them, are the same however the input is cut. After a close frame or a
    /// violation everything is taken and nothing said (RFC 6455 §5.5.1, §7.1.7).
    ///
    /// # Errors
    /// The rule that was broken, with the code to close with.
    pub fn decode(&mut self, input: &mut [u8]) -> Result<(usize, Option<Event>), Violation> {
        let decoded = self.next(input);
        if matches!(decoded, Err(_) | Ok((_, Some(Event::Close(_))))) {
            *self = Self { is_over: true, ..Self::new(self.role, self.limits, self.inflates) };
        }
        decoded
    }

    /// Whether a header, a frame or a message has begun that has not ended: the other end owes the rest of it.
    pub fn is_within_message(&self) -> bool {
        self.header_bytes > 0 || self.frame.is_some() || self.message.is_some()
    }

    fn next(&mut self, input: &mut [u8]) -> Result<(usize, Option<Event>), Violation> {
        if self.is_over {
            return Ok((input.len(), None));
        }
        let mut taken = 0;
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.header(&input[taken..])? {
                    (read, Some(frame)) => {
                        taken += read;
                        frame
                    }
                    (_, None) => return Ok((input.len(), None)),
                },
            };
            let left = input.len() - taken;
            let here = usize::try_from(frame.length).map_or(left, |length| length.min(left));
            let payload = &mut input[taken..taken + here];
            taken += here;
            frame.length -= here as u64;
            if let Some(key) = &mut frame.key {
                *key = mask::apply(payload, *key);
            }
            let is_whole = frame.length == 0;
            let event = match frame.opcode {
                OpCode::Control(kind) => self.control(kind, payload, is_whole)?,
                OpCode::Data(_) => self.data(&frame, payload, is_whole)?,
            };
            if !is_whole {
                self.frame = Some(frame);
                return Ok((taken, None));
            }
            if event.is_some() {
                return Ok((taken, event));
            }
        }
    }

    /// Reads a header; returns how many bytes it took. Without one all of the input was taken: it is kept.
    fn header(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), Violation> {
        let place =
            Place { role: self.role, limits: self.limits, inflates: self.inflates, message: self.message.as_ref() };
        let kept = usize::from(self.header_bytes);
        let parsed = if kept == 0 {
            Frame::parse(input, &place)?
        } else {
            let here = input.len().min(LONGEST_HEADER - kept);
            self.header[kept..kept + here].copy_from_slice(&input[..here]);
            Frame::parse(&self.header[..kept + here], &place)?
        };
        match parsed {
            Some((frame, bytes)) => {
                self.header_bytes = 0;
                if let OpCode::Data(kind) = frame.opcode {
                    let begin = || Message::begin(kind == Data::Text, frame.is_compressed);
                    self.message.get_or_insert_with(begin).fragment();
                }
                Ok((bytes - kept, Some(frame)))
            }
            None => {
                // Shorter than the longest header, else it would be one.
                if kept == 0 {
                    self.header[..input.len()].copy_from_slice(input);
                }
                self.header_bytes += u8::try_from(input.len()).unwrap_or(0);
                Ok((input.len(), None))
            }
        }
    }

    /// Takes payload of a control frame; its event when the frame has ended.
    fn control(&mut self, kind: Control, payload: &[u8], is_whole: bool) -> Result<Option<Event>, Violation> {
        if !is_whole {
            self.control.extend_from_slice(payload);
            return Ok(None);
        }
        let payload = if self.control.is_empty() {
            Bytes::copy_from_slice(payload)
        } else {
            self.control.extend_from_slice(payload);
            Bytes::from(std::mem::take(&mut self.control))
        };
        Ok(match kind {
            Control::Ping => Some(Event::Ping(payload)),
            Control::Pong => Some(Event::Pong(payload)),
            Control::Close => Some(Event::Close(close(&payload)?)),
            Control::Reserved(_) => return Err(Violation::RESERVED_OPCODE), // the header was refused for it
        })
    }

    /// Takes payload of a message; the message when its last frame has ended.
    fn data(&mut self, frame: &Frame, payload: &[u8], is_whole: bool) -> Result<Option<Event>, Violation> {
        let Some(message) = &mut self.message else { return Ok(None) };
        message.push(payload, self.limits.message_bytes)?;
        if !(is_whole && frame.is_final) {
            return Ok(None);
        }
        self.message.take().map(|message| message.end(self.limits.message_bytes)).transpose()
    }
}

/// Reads the payload of a close frame (RFC 6455 §5.5.1).
fn close(payload: &[u8]) -> Result<Option<(u16, Utf8Bytes)>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::CLOSE_PAYLOAD),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !may_be_sent(code) {
        return Err(Violation::CLOSE_CODE);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::NOT_UTF8)?;
    Ok(Some((code, Utf8Bytes::from(reason))))
}

/// Whether an endpoint may send this code (RFC 6455 §7.4): what the RFC or the IANA registry defines for the wire, and
/// what is left to libraries and applications. tungstenite does not know 1014 (bad gateway), which is registered.
fn may_be_sent(code: u16) -> bool {
    code == 1014 || CloseCode::from(code).is_allowed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_decoder_is_small_and_owns_nothing() {
        assert!(size_of::<Decoder>() <= 192, "{} bytes for each connection", size_of::<Decoder>());
        let limits = Limits { frame_bytes: 1000, message_bytes: 1000, fragments: None };
        let mut decoder = Decoder::new(Role::Client, limits, false);
        let owns = |decoder: &Decoder| decoder.message.is_some() || decoder.control.capacity() > 0;
        assert!(!owns(&decoder));
        for bytes in [&mut [0x01, 1, b'a'][..], &mut [0x89, 2, b'b']] {
            assert_eq!(decoder.decode(bytes), Ok((3, None)));
            assert!(owns(&decoder));
        }
        assert_eq!(decoder.decode(&mut [b'c']), Ok((1, Some(Event::Ping("bc".into())))));
        assert_eq!(decoder.decode(&mut [0x80, 1, b'd']), Ok((3, Some(Event::Text("ad".into())))));
        assert!(!owns(&decoder));
    }
}
