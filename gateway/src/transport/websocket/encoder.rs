use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;

use super::{
    frame::{EIGHT_BYTES, LONGEST_HEADER, SHORT, TWO_BYTES},
    mask,
};

/// The longest reason of a close frame, in bytes: with the code it makes a control frame (RFC 6455 §5.5).
const REASON_BYTES: usize = SHORT as usize - 2;

/// The header of an unmasked frame that is a whole message. It stands before the payload, which stays where it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Header {
    bytes: [u8; LONGEST_HEADER],
    from: u8,
    to: u8,
}

impl Header {
    /// For a payload of this length, in bytes. Source: RFC 6455 §5.2.
    pub fn new(opcode: OpCode, length: usize) -> Self {
        Self::with(0x80 | u8::from(opcode), 0, length)
    }

    /// For a message that was compressed to this length: RSV1 is set (RFC 7692 §6).
    pub fn compressed(opcode: OpCode, length: usize) -> Self {
        Self::with(0xc0 | u8::from(opcode), 0, length)
    }

    fn with(first: u8, mask: u8, length: usize) -> Self {
        let mut header = Self::default();
        header.push(&[first]);
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ ..=SHORT), _) => header.push(&[mask | short]),
            (_, Ok(long)) => {
                header.push(&[mask | TWO_BYTES]);
                header.push(&long.to_be_bytes());
            }
            _ => {
                header.push(&[mask | EIGHT_BYTES]);
                header.push(&(length as u64).to_be_bytes());
            }
        }
        header
    }

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.bytes[usize::from(self.to)] = *byte;
            self.to += 1;
        }
    }

    /// What of it is still to be written, in bytes.
    pub fn len(&self) -> usize {
        usize::from(self.to - self.from)
    }

    /// Whether all of it is written.
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// So many bytes more are written; at most [`Header::len`].
    pub fn advance(&mut self, count: usize) {
        self.from = u8::try_from(count).map_or(self.to, |count| self.from.saturating_add(count).min(self.to));
    }
}

impl AsRef<[u8]> for Header {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[usize::from(self.from)..usize::from(self.to)]
    }
}

/// A client's frame that is a whole message, masked with this key (RFC 6455 §5.3). `is_compressed` as in
/// [`Header::compressed`].
pub fn masked(opcode: OpCode, is_compressed: bool, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let first = 0x80 | u8::from(opcode) | if is_compressed { 0x40 } else { 0 };
    let mut header = Header::with(first, 0x80, payload.len());
    header.push(&key);
    let mut frame = [header.as_ref(), payload].concat();
    mask::apply(&mut frame[header.len()..], key);
    frame
}

/// The payload of a close frame. A reason over 123 bytes is cut, at the end of a character; without a code there is none
/// (RFC 6455 §5.5.1).
pub fn close_payload(code: Option<u16>, reason: &str) -> Bytes {
    let Some(code) = code else { return Bytes::new() };
    let end = (0..=REASON_BYTES.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    let reason = &reason[..end];
    [&code.to_be_bytes(), reason.as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

    use super::*;

    #[test]
    fn a_length_takes_as_few_bytes_as_it_can() {
        let header = |length| Header::new(OpCode::Data(Data::Text), length).as_ref().to_vec();
        assert_eq!(header(0), [0x81, 0]);
        assert_eq!(header(125), [0x81, 125]);
        assert_eq!(header(126), [0x81, 126, 0, 126]);
        assert_eq!(header(0xffff), [0x81, 126, 0xff, 0xff]);
        assert_eq!(header(0x1_0000), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(Header::compressed(OpCode::Data(Data::Binary), 1).as_ref(), [0xc2, 1]);
    }

    #[test]
    fn a_header_may_go_out_in_pieces() {
        let mut header = Header::new(OpCode::Data(Data::Text), 126);
        header.advance(3);
        assert_eq!((header.as_ref(), header.len()), (&[126u8][..], 1));
        header.advance(1);
        assert!(header.is_empty());
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(close_payload(None, "x").as_ref(), b"");
        assert_eq!(close_payload(Some(1000), "").as_ref(), [3, 232]);
        let long = close_payload(Some(1000), &"\u{e9}".repeat(100));
        assert_eq!(long.len(), 2 + 122);
        assert!(std::str::from_utf8(&long[2..]).is_ok());
    }
}
