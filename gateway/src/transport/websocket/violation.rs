use skywave_proto::CloseCode;

/// A broken rule. It ends the connection (RFC 6455 §7.1.7): `code` goes into the close frame, `what` says which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Violation {
    /// 1002, 1007, 1008 or 1009.
    pub code: CloseCode,
    /// Which rule, in words that may go into a log and a close frame.
    pub what: &'static str,
}

impl Violation {
    const fn protocol(what: &'static str) -> Self {
        Self { code: CloseCode::ProtocolError, what }
    }

    /// RFC 6455 §5.2: reserved bits are 0 unless an extension gives them a meaning; RFC 7692 §6: RSV1 marks a compressed
    /// message, on its first frame only.
    pub(super) const RESERVED_BITS: Self = Self::protocol("a reserved bit is set");
    /// RFC 6455 §5.2: opcodes 3 to 7 and 11 to 15.
    pub(super) const RESERVED_OPCODE: Self = Self::protocol("the opcode is reserved");
    /// RFC 6455 §5.1.
    pub(super) const NOT_MASKED: Self = Self::protocol("a client must mask its frames");
    /// RFC 6455 §5.1.
    pub(super) const MASKED: Self = Self::protocol("a server must not mask its frames");
    /// RFC 6455 §5.5.
    pub(super) const FRAGMENTED_CONTROL: Self = Self::protocol("a control frame must not be fragmented");
    /// RFC 6455 §5.5.
    pub(super) const LONG_CONTROL: Self = Self::protocol("a control frame holds at most 125 bytes");
    /// RFC 6455 §5.4.
    pub(super) const NOTHING_TO_CONTINUE: Self = Self::protocol("a continuation frame continues nothing");
    /// RFC 6455 §5.4.
    pub(super) const NOT_CONTINUED: Self = Self::protocol("a message begins before the last one has ended");
    /// RFC 6455 §5.2: "the minimal number of bytes MUST be used". No client that we know does otherwise, and Chromium
    /// refuses it too: two ways to say one thing help only who wants to be read in two ways.
    pub(super) const LENGTH_NOT_MINIMAL: Self = Self::protocol("a length must be written in its shortest form");
    /// RFC 6455 §5.5.1: the body of a close frame begins with a code of two bytes.
    pub(super) const CLOSE_PAYLOAD: Self =
        Self::protocol("a close frame holds no payload or a code of two bytes first");
    /// RFC 6455 §7.4: codes that are not for the wire, or that nobody has defined.
    pub(super) const CLOSE_CODE: Self = Self::protocol("the close code is not one to be sent");

    /// RFC 6455 §8.1.
    pub(super) const NOT_UTF8: Self = Self { code: CloseCode::InvalidPayload, what: "text must be UTF-8" };
    /// RFC 7692 §7.2.2; it names no code, and 1007 is for data that does not fit the message's kind.
    pub(super) const NOT_DEFLATE: Self =
        Self { code: CloseCode::InvalidPayload, what: "a compressed message must be DEFLATE data" };

    /// RFC 6455 §7.4.1. Also for a length of 2^63 and more, which §5.2 forbids: it is over every limit, and other servers
    /// say so.
    pub(super) const FRAME_TOO_BIG: Self = Self { code: CloseCode::MessageTooBig, what: "the frame is too large" };
    /// RFC 6455 §7.4.1.
    pub(super) const MESSAGE_TOO_BIG: Self = Self { code: CloseCode::MessageTooBig, what: "the message is too large" };
    /// RFC 6455 §7.4.1. 1008 and not 1009, for the message may be small: the number of frames is our own rule.
    pub(super) const TOO_MANY_FRAGMENTS: Self =
        Self { code: CloseCode::PolicyViolation, what: "the message has too many fragments" };
}
