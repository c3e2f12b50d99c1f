//! WebSocket frames at a client's end, as cheap as they can be: a generator that spends more on a message than the node
//! measures itself.
//!
//! Frames are read where they lie, in a buffer that all connections of a thread share; only what is cut off at its end is
//! kept. Nothing is inflated: a compressed message is counted, and not looked into. No I/O here.

use std::hash::{BuildHasher as _, RandomState};

const FIN: u8 = 0x80;
const COMPRESSED: u8 = 0x40;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// What one read brings at most, unless a longer frame is under way.
pub const READ: usize = 64 * 1024;

/// What a node said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message, text or binary.
    Message(&'a [u8]),
    /// A whole compressed message of so many bytes.
    Compressed(usize),
    /// To be answered with [`Masks::pong`].
    Ping(&'a [u8]),
    /// The end, with its code (1005: none) and reason.
    Close(u16, &'a [u8]),
}

/// The node did not speak WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame that no server may send: {0}")]
pub struct Malformed(&'static str);

/// What one connection keeps between two reads: nothing, unless a frame or a message is cut.
#[derive(Debug, Default)]
pub struct Inbox {
    /// The beginning of a frame.
    cut: Vec<u8>,
    /// The fragments of a message so far.
    fragments: Option<Box<Fragments>>,
}

#[derive(Debug, Default)]
struct Fragments {
    compressed: bool,
    bytes: Vec<u8>,
}

/// A frame's header, read.
struct Header {
    first: u8,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Copies what was cut off to the front of `scratch`, which has room for another read behind it, and returns where the
    /// next bytes belong. May be called again if nothing was read.
    pub fn lay(&self, scratch: &mut Vec<u8>) -> usize {
        let kept = self.cut.len();
        // Half of it at least is free, so that a long frame does not come in ever smaller pieces.
        let wanted = READ.max(kept * 2);
        if scratch.len() < wanted {
            scratch.resize(wanted, 0);
        }
        scratch[..kept].copy_from_slice(&self.cut);
        kept
    }

    /// Hands over every message in `bytes`, which begin with what [`lay`](Self::lay) put there. Keeps what is cut off.
    ///
    /// # Errors
    /// [`Malformed`]: the rest cannot be read.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Event<'_>)) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(header) = header(&bytes[at..])? {
            let Some(payload) = bytes[at..].get(header.start..header.end) else { break };
            self.frame(header.first, payload, &mut each)?;
            at += header.end;
        }
        if at == bytes.len() {
            // An idle connection holds no buffer.
            self.cut = Vec::new();
        } else {
            self.cut.clear();
            self.cut.extend_from_slice(&bytes[at..]);
        }
        Ok(())
    }

    fn frame(&mut self, first: u8, payload: &[u8], each: &mut impl FnMut(Event<'_>)) -> Result<(), Malformed> {
        let (whole, compressed) = (first & FIN != 0, first & COMPRESSED != 0);
        match first & 0x0F {
            TEXT | BINARY if self.fragments.is_some() => return Err(Malformed("a message inside another")),
            TEXT | BINARY if whole && compressed => each(Event::Compressed(payload.len())),
            TEXT | BINARY if whole => each(Event::Message(payload)),
            TEXT | BINARY => self.fragments = Some(Box::new(Fragments { compressed, bytes: payload.to_vec() })),
            CONTINUATION => {
                let Some(message) = &mut self.fragments else { return Err(Malformed("the rest of no message")) };
                message.bytes.extend_from_slice(payload);
                if whole && let Some(message) = self.fragments.take() {
                    if message.compressed {
                        each(Event::Compressed(message.bytes.len()));
                    } else {
                        each(Event::Message(&message.bytes));
                    }
                }
            }
            CLOSE => match payload.split_first_chunk() {
                Some((code, reason)) => each(Event::Close(u16::from_be_bytes(*code), reason)),
                None => each(Event::Close(1005, b"")),
            },
            PING => each(Event::Ping(payload)),
            PONG => {}
            _ => return Err(Malformed("an opcode that nobody knows")),
        }
        Ok(())
    }
}

/// `None`: not all of it is here.
fn header(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    if second & MASKED != 0 {
        return Err(Malformed("masked"));
    }
    let (start, length) = match second {
        126 => match bytes.get(2..4).and_then(|length| length.try_into().ok()) {
            Some(length) => (4, u64::from(u16::from_be_bytes(length))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|length| length.try_into().ok()) {
            Some(length) => (10, u64::from_be_bytes(length)),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= isize::MAX.unsigned_abs() - 16);
    let length = length.ok_or(Malformed("longer than any memory"))?;
    Ok(Some(Header { first, start, end: start + length }))
}

/// Where masks come from. They have to be hard to guess for a browser's sake only; here they need to be not all zero.
#[derive(Debug)]
pub struct Masks(u64);

impl Default for Masks {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0_u8) | 1)
    }
}

impl Masks {
    /// Another one: xorshift.
    fn another(&mut self) -> [u8; 4] {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let [.., a, b, c, d] = self.0.to_le_bytes();
        [a, b, c, d]
    }

    /// Appends a text frame.
    pub fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        self.frame(TEXT, text.as_bytes(), out);
    }

    /// Appends a binary frame.
    pub fn binary(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.frame(BINARY, bytes, out);
    }

    /// Appends the answer to a ping.
    pub fn pong(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.frame(PONG, payload, out);
    }

    /// Appends a close frame with code 1000.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.frame(CLOSE, &1000_u16.to_be_bytes(), out);
    }

    fn frame(&mut self, opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
        out.push(FIN | opcode);
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(length @ ..126), _) => out.push(MASKED | length),
            (_, Ok(length)) => {
                out.push(MASKED | 126);
                out.extend(length.to_be_bytes());
            }
            _ => {
                out.push(MASKED | 127);
                out.extend((payload.len() as u64).to_be_bytes());
            }
        }
        let mask = self.another();
        out.extend(mask);
        let start = out.len();
        out.extend_from_slice(payload);
        for (byte, mask) in out[start..].iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An unmasked frame, as a server sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ ..126 => bytes.push(length.try_into().unwrap()),
            length @ ..65536 => {
                bytes.push(126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                bytes.push(127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Reads `bytes` in these pieces, through one scratch buffer, as a connection does.
    fn read(bytes: &[u8], pieces: &[usize]) -> Result<(Vec<String>, Inbox), Malformed> {
        let (mut inbox, mut scratch, mut seen) = (Inbox::default(), Vec::new(), Vec::new());
        let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
        while !rest.is_empty() {
            let start = inbox.lay(&mut scratch);
            let room = scratch.len() - start;
            let count = (*pieces.next().unwrap_or(&1)).clamp(1, room).min(rest.len());
            scratch[start..start + count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            let filled = scratch[..start + count].to_vec();
            // What other connections of the thread leave behind must not matter.
            scratch.fill(0xAA);
            inbox.take(&filled, |event| seen.push(format!("{event:?}")))?;
        }
        Ok((seen, inbox))
    }

    #[derive(Debug, Clone)]
    enum Sent {
        Message(Vec<u8>),
        Fragmented(Vec<Vec<u8>>),
        Compressed(Vec<u8>),
        Ping(Vec<u8>),
        Close(u16, Vec<u8>),
    }

    impl Sent {
        fn bytes(&self) -> Vec<u8> {
            match self {
                Self::Message(payload) => frame(FIN | TEXT, payload),
                Self::Compressed(payload) => frame(FIN | COMPRESSED | TEXT, payload),
                Self::Ping(payload) => frame(FIN | PING, payload),
                Self::Close(code, reason) => frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat()),
                Self::Fragmented(parts) => {
                    let part = |(n, part): (usize, &Vec<u8>)| {
                        let opcode = if n == 0 { TEXT } else { CONTINUATION };
                        let fin = if n + 1 == parts.len() { FIN } else { 0 };
                        // A ping may stand between fragments; this one is a pong, which is not shown.
                        [frame(FIN | PONG, b"-"), frame(fin | opcode, part)].concat()
                    };
                    parts.iter().enumerate().flat_map(part).collect()
                }
            }
        }

        fn shown(&self) -> String {
            match self {
                Self::Message(payload) => format!("{:?}", Event::Message(payload)),
                Self::Fragmented(parts) => format!("{:?}", Event::Message(&parts.concat())),
                Self::Compressed(payload) => format!("{:?}", Event::Compressed(payload.len())),
                Self::Ping(payload) => format!("{:?}", Event::Ping(payload)),
                Self::Close(code, reason) => format!("{:?}", Event::Close(*code, reason)),
            }
        }
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
        prop_oneof![
            bytes(300).prop_map(Sent::Message),
            prop_oneof![Just(70_000_usize), Just(200_000)].prop_map(|length| Sent::Message(vec![7; length])),
            prop::collection::vec(bytes(200), 1..4).prop_map(Sent::Fragmented),
            bytes(300).prop_map(Sent::Compressed),
            bytes(125).prop_map(Sent::Ping),
            (1000..5000_u16, bytes(120)).prop_map(|(code, reason)| Sent::Close(code, reason)),
        ]
    }

    proptest! {
        #[test]
        fn frames_are_read_wherever_they_are_cut(
            sent in prop::collection::vec(sent(), 1..8),
            pieces in prop::collection::vec(prop_oneof![1..20_usize, 100..100_000_usize], 1..20),
        ) {
            let bytes = sent.iter().flat_map(Sent::bytes).collect::<Vec<u8>>();
            // Byte by byte a long frame would be copied as often as it is long.
            let pieces = if bytes.len() > 20_000 { vec![30_000, 50_000] } else { pieces };
            let (seen, inbox) = read(&bytes, &pieces).unwrap();
            prop_assert_eq!(seen, sent.iter().map(Sent::shown).collect::<Vec<_>>());
            prop_assert_eq!(inbox.cut.capacity(), 0, "nothing is kept");
        }

        #[test]
        fn what_is_sent_is_masked_and_reads_back(text in "\\PC{0,300}") {
            let mut bytes = Vec::new();
            Masks::default().text(&text, &mut bytes);
            prop_assert_eq!(bytes[1] & MASKED, MASKED);
            let start = bytes.len() - text.len();
            let mask: [u8; 4] = bytes[start - 4..start].try_into().unwrap();
            let back: Vec<u8> = bytes[start..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            prop_assert_eq!(back, text.as_bytes());
        }

        #[test]
        fn noise_is_never_more_than_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = read(&bytes, &[17, 300]);
        }
    }

    #[test]
    fn a_server_that_breaks_the_rules_is_found_out() {
        for (bytes, word) in [
            (vec![0x81, 0x80, 1, 2, 3, 4], "masked"),
            (frame(FIN | 3, b""), "opcode"),
            (frame(FIN | CONTINUATION, b""), "rest of no message"),
            ([frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat(), "inside"),
            (vec![0x81, 127, 0xFF, 0, 0, 0, 0, 0, 0, 0], "longer"),
        ] {
            let error = read(&bytes, &[1]).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
