use std::fmt;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;

use super::{
    frame::{EIGHT_BYTES, LONGEST_HEADER, SHORT, TWO_BYTES},
    mask,
};

/// The header of a frame that is a whole message, or a control frame (RFC 6455 §5.2): at most 14 bytes, without the
/// payload.
#[derive(Clone, Copy)]
pub struct Header {
    bytes: [u8; LONGEST_HEADER],
    length: u8,
}

impl Header {
    /// `rsv1`: the payload is compressed. `payload` is its length in bytes; a control frame's is at most 125, which is
    /// for the caller to see to. `key`: what the payload is masked with; a server masks nothing.
    pub fn new(opcode: OpCode, rsv1: bool, payload: usize, key: Option<[u8; 4]>) -> Self {
        let mut header = Self { bytes: [0; LONGEST_HEADER], length: 0 };
        header.put(&[0x80 | if rsv1 { 0x40 } else { 0 } | u8::from(opcode)]);
        let masked = if key.is_some() { 0x80 } else { 0 };
        match (u8::try_from(payload), u16::try_from(payload)) {
            (Ok(short @ 0..=SHORT), _) => header.put(&[masked | short]),
            (_, Ok(medium)) => {
                header.put(&[masked | TWO_BYTES]);
                header.put(&medium.to_be_bytes());
            }
            _ => {
                header.put(&[masked | EIGHT_BYTES]);
                header.put(&(payload as u64).to_be_bytes());
            }
        }
        if let Some(key) = key {
            header.put(&key);
        }
        header
    }

    fn put(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.bytes[usize::from(self.length)] = *byte;
            self.length += 1;
        }
    }
}

impl AsRef<[u8]> for Header {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Header").field(&self.as_ref()).finish()
    }
}

/// The payload of a close frame (RFC 6455 §5.5.1): the code, and as much of the reason as fits into 125 bytes, cut
/// between two characters.
pub fn close_payload(code: u16, reason: &str) -> Bytes {
    let mut payload = Vec::with_capacity(usize::from(SHORT));
    payload.extend_from_slice(&code.to_be_bytes());
    let most = reason.len().min(usize::from(SHORT) - payload.len());
    let fits = (0..=most).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
    payload.extend_from_slice(&reason.as_bytes()[..fits]);
    Bytes::from(payload)
}

/// Appends a whole frame with a masked payload (RFC 6455 §5.3): what a client sends.
pub fn masked(out: &mut Vec<u8>, opcode: OpCode, rsv1: bool, payload: &[u8], key: [u8; 4]) {
    out.extend_from_slice(Header::new(opcode, rsv1, payload.len(), Some(key)).as_ref());
    let from = out.len();
    out.extend_from_slice(payload);
    mask::apply(&mut out[from..], key);
}
