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
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    limits: Limits,
    inflates: bool,
    /// A header that is not whole yet: `header_bytes` of it.
    header: [u8; LONGEST_HEADER],
    header_bytes: u8,
    /// The frame whose payload comes next; its length is what is still missing.
    frame: Option<Frame>,
    /// The payload of a control frame that is not whole yet.
    control: Vec<u8>,
    message: Option<Message>,
    is_over: bool,
}

impl Decoder {
    /// Waits for the first frame. `inflates`: permessage-deflate was agreed on, with the other end's
    /// `no_context_takeover` (see [`negotiate`](super::negotiate)).
    pub fn new(role: Role, limits: Limits, inflates: bool) -> Self {
        Self {
            role,
            limits,
            inflates,
            header: [0; LONGEST_HEADER],
            header_bytes: 0,
            frame: None,
            control: Vec::new(),
            message: None,
            is_over: false,
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

    /// Reads a header, or as much of it as there is; returns how many bytes that took.
    fn header(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), Violation> {
        let message = self.message.as_ref();
        let place = Place {
            role: self.role,
            inflates: self.inflates,
            is_within_message: message.is_some(),
            frame_bytes: self.limits.frame_bytes,
            message_room: match message {
                Some(message) if message.is_compressed() => None,
                Some(message) => Some(self.limits.message_bytes.saturating_sub(message.len())),
                None => Some(self.limits.message_bytes),
            },
        };
        let before = usize::from(self.header_bytes);
        if before == 0
            && let Some((frame, read)) = Frame::parse(input, &place)?
        {
            self.begin(&frame)?;
            return Ok((read, Some(frame)));
        }
        // The input ends within it.
        let here = input.len().min(LONGEST_HEADER - before);
        self.header[before..before + here].copy_from_slice(&input[..here]);
        let gathered = before + here;
        let Some((frame, length)) = Frame::parse(&self.header[..gathered], &place)? else {
            self.header_bytes = u8::try_from(gathered).unwrap_or(u8::MAX); // at most LONGEST_HEADER
            return Ok((here, None));
        };
        self.header_bytes = 0;
        self.begin(&frame)?;
        Ok((length - before, Some(frame)))
    }

    /// A data frame begins, and with it a message if it does not continue one (RFC 6455 §5.4).
    fn begin(&mut self, frame: &Frame) -> Result<(), Violation> {
        let OpCode::Data(kind) = frame.opcode else { return Ok(()) };
        let begin = || Message::begin(matches!(kind, Data::Text), frame.is_compressed);
        let message = self.message.get_or_insert_with(begin);
        message.fragments = message.fragments.saturating_add(1);
        if self.limits.fragments.is_some_and(|limit| message.fragments > limit.get()) {
            return Err(Violation::TOO_MANY_FRAGMENTS);
        }
        Ok(())
    }

    fn data(&mut self, frame: &Frame, payload: &[u8], is_whole: bool) -> Result<Option<Event>, Violation> {
        let limit = self.limits.message_bytes;
        let Some(mut message) = self.message.take() else { return Ok(None) }; // begun with its header
        message.push(payload, limit)?;
        if is_whole && frame.is_final {
            return message.end(limit).map(Some);
        }
        self.message = Some(message);
        Ok(None)
    }

    /// Control frames are short, so a part of one is kept (RFC 6455 §5.5).
    fn control(&mut self, kind: Control, payload: &[u8], is_whole: bool) -> Result<Option<Event>, Violation> {
        if !is_whole || !self.control.is_empty() {
            self.control.extend_from_slice(payload);
        }
        if !is_whole {
            return Ok(None);
        }
        let gathered = std::mem::take(&mut self.control);
        let payload = if gathered.is_empty() { payload } else { &gathered };
        Ok(match kind {
            Control::Ping => Some(Event::Ping(Bytes::copy_from_slice(payload))),
            Control::Pong => Some(Event::Pong(Bytes::copy_from_slice(payload))),
            Control::Close => Some(Event::Close(close(payload)?)),
            Control::Reserved(_) => None, // refused with its header
        })
    }
}

/// The code and the reason of a close frame (RFC 6455 §5.5.1, §7.4).
fn close(payload: &[u8]) -> Result<Option<(u16, Utf8Bytes)>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::CLOSE_PAYLOAD),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    // Which codes may be sent: those of §7.4.1 and of IANA's registry, and 3000 to 4999.
    if !CloseCode::from(code).is_allowed() {
        return Err(Violation::CLOSE_CODE);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::NOT_UTF8)?;
    Ok(Some((code, Utf8Bytes::from(reason))))
}
