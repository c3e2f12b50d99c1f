//! As much of RFC 6455 as a floor needs: the answer to a handshake, the frames of a client, one frame back. Pure.

use std::io::{self, Error, ErrorKind};

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::client::SUBPROTOCOL;

/// What a whole frame of a client is, as far as a floor tells them apart (RFC 6455 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text or binary.
    Data,
    Close,
    Ping,
    /// Asks for nothing.
    Pong,
}

/// Where the request ends, if it is all there.
pub(super) fn request_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}

/// The answer to an upgrade request. The subprotocol is ours if any was offered; no extension is agreed on.
///
/// # Errors
/// `InvalidData`: it is no upgrade request.
pub(super) fn switching(request: &[u8]) -> io::Result<String> {
    let request = std::str::from_utf8(request).map_err(|_| wrong("a request that is not text"))?;
    let header = |wanted: &str| {
        let headers = request.split("\r\n").filter_map(|line| line.split_once(':'));
        headers.clone().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let key = header("sec-websocket-key").ok_or_else(|| wrong("a request without Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    if header("sec-websocket-protocol").is_some() {
        answer.push_str(&format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"));
    }
    answer.push_str("\r\n");
    Ok(answer)
}

/// Unmasks each whole frame at the beginning of `input` and hands its payload over. Returns how many bytes they were;
/// the rest is the beginning of a frame that is not there yet.
///
/// # Errors
/// `InvalidData` for what no generator of ours sends: fragments, unknown opcodes, unmasked or absurdly long frames. Also
/// what `each` says.
pub(super) fn frames(input: &mut [u8], mut each: impl FnMut(Kind, &[u8]) -> io::Result<()>) -> io::Result<usize> {
    let mut at = 0;
    while let Some((kind, header, length)) = head(&input[at..])? {
        let Some(frame) = input.get_mut(at..at + header + length) else { break };
        let (head, payload) = frame.split_at_mut(header);
        unmask(payload, [head[header - 4], head[header - 3], head[header - 2], head[header - 1]]);
        each(kind, payload)?;
        at += header + length;
    }
    Ok(at)
}

/// Kind, bytes of the header with its mask, bytes of the payload; nothing while the header is not all there.
fn head(bytes: &[u8]) -> io::Result<Option<(Kind, usize, usize)>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let kind = match first {
        0x81 | 0x82 => Kind::Data,
        0x88 => Kind::Close,
        0x89 => Kind::Ping,
        0x8A => Kind::Pong,
        _ => return Err(wrong("a frame that is a fragment, compressed or unknown")),
    };
    if second & 0x80 == 0 {
        return Err(wrong("a frame without a mask"));
    }
    let (extended, length) = match (second & 0x7F, rest) {
        (126, [a, b, ..]) => (2, u64::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => (8, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        (126 | 127, _) => return Ok(None),
        (short, _) => (0, u64::from(short)),
    };
    let header = 2 + extended + 4;
    let length =
        usize::try_from(length).ok().filter(|length| *length <= MAX).ok_or_else(|| wrong("too long a frame"))?;
    Ok((bytes.len() >= header).then_some((kind, header, length)))
}

/// Longer frames are a mistake, not a load.
const MAX: usize = 16 << 20;

/// Eight bytes at a time: byte by byte this would be what is measured.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A text as one frame.
pub(super) fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

/// One unmasked frame; `first` is its first byte: final bit and opcode.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 10);
    bytes.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => bytes.push(length),
        (_, Ok(length)) => {
            bytes.push(126);
            bytes.extend(length.to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

pub(super) fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the generator sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut bytes = frame(first, payload);
        let header = bytes.len() - payload.len();
        bytes[1] |= 0x80;
        bytes.truncate(header);
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    type Found = (usize, Vec<(Kind, Vec<u8>)>);

    fn read(input: &mut [u8]) -> io::Result<Found> {
        let mut found = Vec::new();
        let used = frames(input, |kind, payload| {
            found.push((kind, payload.to_vec()));
            Ok(())
        })?;
        Ok((used, found))
    }

    #[test]
    fn frames_of_every_length_come_out_as_they_went_in() {
        for length in (0..40).chain([125, 126, 127, 1000, 65_535, 65_536]) {
            let payload: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let mut bytes = masked(0x81, &payload);
            let whole = bytes.len();
            bytes.extend(masked(0x89, b"p"));
            let (used, found) = read(&mut bytes).unwrap();
            assert_eq!(
                (used, found),
                (bytes.len(), vec![(Kind::Data, payload), (Kind::Ping, b"p".to_vec())]),
                "{whole}"
            );
        }
    }

    #[test]
    fn a_frame_that_is_not_all_there_waits() {
        let frame = masked(0x81, &[7; 300]);
        for end in 0..frame.len() {
            assert_eq!(read(&mut frame[..end].to_vec()).unwrap(), (0, Vec::new()));
        }
    }

    #[test]
    fn what_no_generator_sends_is_told() {
        for bytes in
            [&[0x01, 0x80][..], &[0xC1, 0x80], &[0x83, 0x80], &[0x81, 0x01], &[0x82, 0xFF, 1, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(read(&mut bytes.to_vec()).unwrap_err().kind(), ErrorKind::InvalidData, "{bytes:?}");
        }
    }

    #[test]
    fn the_answer_to_a_handshake_is_that_of_the_rfc() {
        let request = "GET /ws HTTP/1.1\r\nSEC-WebSocket-key:  dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        assert_eq!(request_end(request.as_bytes()), Some(request.len()));
        assert_eq!(request_end(&request.as_bytes()[..request.len() - 1]), None);
        let answer = switching(request.as_bytes()).unwrap();
        assert!(
            answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n") && answer.ends_with("\r\n\r\n")
        );
        assert!(!answer.contains("Sec-WebSocket-Protocol"));
        assert!(switching(b"GET / HTTP/1.1\r\n\r\n").is_err());
    }
}
