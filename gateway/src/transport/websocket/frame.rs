use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{Limits, Role, Violation, message::Message};

/// The longest header: two bytes, eight of length, four of key (RFC 6455 §5.2).
pub(super) const LONGEST_HEADER: usize = 14;
/// The largest payload of a control frame (RFC 6455 §5.5), and of a length in one byte.
pub(super) const SHORT: u8 = 125;
/// Says that the length follows in two bytes.
pub(super) const TWO_BYTES: u8 = 126;
/// Says that the length follows in eight bytes.
pub(super) const EIGHT_BYTES: u8 = 127;

/// What a frame's header said.
pub(super) struct Frame {
    pub(super) opcode: OpCode,
    pub(super) is_final: bool,
    /// Whether RSV1 was set: the message that begins here is compressed.
    pub(super) is_compressed: bool,
    /// The payload's length, in bytes.
    pub(super) length: u64,
    pub(super) key: Option<[u8; 4]>,
}

/// What decides whether a header is good at its place.
pub(super) struct Place<'a> {
    pub(super) role: Role,
    pub(super) limits: Limits,
    /// Whether permessage-deflate was agreed on.
    pub(super) inflates: bool,
    /// The message that has begun, if one has.
    pub(super) message: Option<&'a Message>,
}

impl Frame {
    /// Reads the header at the beginning of `bytes`, and how long it is; `None` if there is more of it to come. Each byte
    /// is judged when it is there, and in the order in which they come, so the verdict is the same however the input is
    /// cut.
    ///
    /// Source: RFC 6455 §5.2.
    pub(super) fn parse(bytes: &[u8], place: &Place<'_>) -> Result<Option<(Self, usize)>, Violation> {
        let [first, rest @ ..] = bytes else { return Ok(None) };
        let opcode = OpCode::from(first & 0x0f);
        let is_final = first & 0x80 != 0;
        let is_compressed = first & 0x40 != 0;
        if first & 0x30 != 0 {
            return Err(Violation::RESERVED_BITS);
        }
        match opcode {
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
                return Err(Violation::RESERVED_OPCODE);
            }
            OpCode::Control(_) if is_compressed => return Err(Violation::RESERVED_BITS),
            OpCode::Control(_) if !is_final => return Err(Violation::FRAGMENTED_CONTROL),
            OpCode::Control(_) => {}
            OpCode::Data(Data::Continue) if is_compressed => return Err(Violation::RESERVED_BITS),
            OpCode::Data(Data::Continue) => match place.message {
                None => return Err(Violation::NOTHING_TO_CONTINUE),
                Some(message) if place.limits.fragments.is_some_and(|most| message.fragments() >= most.get()) => {
                    return Err(Violation::TOO_MANY_FRAGMENTS);
                }
                Some(_) => {}
            },
            OpCode::Data(_) if is_compressed && !place.inflates => return Err(Violation::RESERVED_BITS),
            OpCode::Data(_) if place.message.is_some() => return Err(Violation::NOT_CONTINUED),
            OpCode::Data(_) => {}
        }

        let [second, rest @ ..] = rest else { return Ok(None) };
        let is_masked = second & 0x80 != 0;
        let short = second & 0x7f;
        match place.role {
            Role::Server if !is_masked => return Err(Violation::NOT_MASKED),
            Role::Client if is_masked => return Err(Violation::MASKED),
            _ => {}
        }
        if matches!(opcode, OpCode::Control(_)) && short > SHORT {
            return Err(Violation::LONG_CONTROL);
        }

        let (length, rest) = match short {
            TWO_BYTES => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            EIGHT_BYTES => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (u64::from_be_bytes(*length), rest)
            }
            short => (u64::from(short), rest),
        };
        let least = match short {
            TWO_BYTES => u64::from(SHORT) + 1,
            EIGHT_BYTES => u64::from(u16::MAX) + 1,
            _ => 0,
        };
        if length < least {
            return Err(Violation::LENGTH_NOT_MINIMAL);
        }
        if over(length, place.limits.frame_bytes) {
            return Err(Violation::FRAME_TOO_BIG);
        }
        let had = place.message.map_or(0, Message::len);
        let says_its_size = !is_compressed && !place.message.is_some_and(Message::is_compressed);
        if matches!(opcode, OpCode::Data(_))
            && says_its_size
            && over(length, place.limits.message_bytes.saturating_sub(had))
        {
            return Err(Violation::MESSAGE_TOO_BIG);
        }

        let (key, rest) = match (is_masked, rest.split_first_chunk()) {
            (false, _) => (None, rest),
            (true, Some((key, rest))) => (Some(*key), rest),
            (true, None) => return Ok(None),
        };
        Ok(Some((Self { opcode, is_final, is_compressed, length, key }, bytes.len() - rest.len())))
    }
}

fn over(length: u64, limit: usize) -> bool {
    usize::try_from(length).map_or(true, |length| length > limit)
}
