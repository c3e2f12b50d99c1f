use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{Role, Violation};

/// The longest header: two bytes, eight of length, four of key (RFC 6455 §5.2).
pub(super) const LONGEST_HEADER: usize = 14;
/// The largest payload of a control frame (RFC 6455 §5.5), and of a length in one byte.
pub(super) const SHORT: u8 = 125;
/// Says that the length follows in two bytes.
pub(super) const TWO_BYTES: u8 = 126;
/// Says that the length follows in eight bytes.
pub(super) const EIGHT_BYTES: u8 = 127;

/// What a frame's header said.
#[derive(Debug)]
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
pub(super) struct Place {
    pub(super) role: Role,
    /// Whether permessage-deflate was agreed on.
    pub(super) inflates: bool,
    /// Whether a message has begun that this frame may continue.
    pub(super) is_within_message: bool,
    /// The largest frame, in bytes.
    pub(super) frame_bytes: usize,
    /// What the message that has begun may still grow by, in bytes; `None` if that cannot be told by lengths, for it is
    /// compressed.
    pub(super) message_room: Option<usize>,
}

impl Frame {
    /// Reads the header at the beginning of `bytes`, and how long it is; `None` if there is more of it to come. Each byte
    /// is judged when it is there, and in the order in which they come, so the verdict is the same however the input is
    /// cut.
    ///
    /// Source: RFC 6455 §5.2.
    pub(super) fn parse(bytes: &[u8], place: &Place) -> Result<Option<(Self, usize)>, Violation> {
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
            OpCode::Data(Data::Continue) if !place.is_within_message => return Err(Violation::NOTHING_TO_CONTINUE),
            OpCode::Data(Data::Continue) => {}
            OpCode::Data(_) if is_compressed && !place.inflates => return Err(Violation::RESERVED_BITS),
            OpCode::Data(_) if place.is_within_message => return Err(Violation::NOT_CONTINUED),
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
        // Whoever announces too much need not send any of it.
        if length > place.frame_bytes as u64 && matches!(opcode, OpCode::Data(_)) {
            return Err(Violation::FRAME_TOO_BIG);
        }
        if place.message_room.is_some_and(|room| !is_compressed && length > room as u64)
            && matches!(opcode, OpCode::Data(_))
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
