use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::inflater::TAIL;

/// The window in bits that every client can take.
const LARGEST_WINDOW: u8 = 15;
/// As small as level 9, nearly, at a third of its cost.
const LEVEL: Compression = Compression::new(6);
/// What compressing may add to what cannot be compressed: then it is sent as it is, and this is only room to notice.
const SLACK: usize = 64;

/// Compresses messages (RFC 7692 §7.2.1), each without a context, so that whoever inflates may have seen none or all of
/// those before. It holds about 300 KB: one for each thread, not for each connection.
pub struct Deflater {
    /// The usual one.
    largest: Compress,
    /// For who wants a smaller window: the last such.
    smaller: Option<(u8, Compress)>,
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deflater") // its memory holds a payload
    }
}

impl Default for Deflater {
    fn default() -> Self {
        Self { largest: Compress::new(LEVEL, false), smaller: None }
    }
}

impl Deflater {
    /// The payload of a compressed message, or `None` if it is not smaller than the plain one. `window_bits`: 9 to 15.
    pub fn deflate(&mut self, payload: &[u8], window_bits: u8) -> Option<Bytes> {
        self.within(payload.len() + SLACK, payload, window_bits).filter(|deflated| deflated.len() < payload.len())
    }

    /// The same whatever comes of it, for who tests the compression itself.
    pub fn deflate_anyway(&mut self, payload: &[u8], window_bits: u8) -> Option<Bytes> {
        // What cannot be compressed is stored, in blocks of at least 1 KiB with 5 bytes before each.
        self.within(payload.len() + payload.len() / 128 + SLACK, payload, window_bits)
    }

    fn within(&mut self, room: usize, payload: &[u8], window_bits: u8) -> Option<Bytes> {
        let deflate = if window_bits >= LARGEST_WINDOW {
            &mut self.largest
        } else {
            if self.smaller.as_ref().is_none_or(|(bits, _)| *bits != window_bits) {
                self.smaller = Some((window_bits, Compress::new_with_window_bits(LEVEL, false, window_bits)));
            }
            &mut self.smaller.as_mut()?.1
        };
        deflate.reset();
        let mut out = Vec::with_capacity(room);
        let status = deflate.compress_vec(payload, &mut out, FlushCompress::Sync).ok()?;
        let is_done = status == Status::Ok && deflate.total_in() == payload.len() as u64 && out.ends_with(&TAIL);
        if !is_done {
            return None; // there was no room for all of it
        }
        out.truncate(out.len() - TAIL.len());
        out.shrink_to_fit(); // it may wait for a slow reader
        Some(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::inflater::Inflater, *};

    fn inflated(deflated: &[u8]) -> Vec<u8> {
        let mut whole = Vec::new();
        let mut inflater = Inflater::take();
        let mut keep = |chunk: &[u8]| {
            whole.extend_from_slice(chunk);
            Ok(())
        };
        inflater.push(deflated, &mut keep).unwrap();
        inflater.end(keep).unwrap();
        whole
    }

    #[test]
    fn each_message_stands_for_itself() {
        let mut deflater = Deflater::default();
        let text = "a row of a table, and another ".repeat(100);
        let first = deflater.deflate(text.as_bytes(), 15).unwrap();
        assert!(first.len() < text.len() / 5, "{}", first.len());
        assert_eq!(deflater.deflate(text.as_bytes(), 15).unwrap(), first, "nothing is remembered");
        for bits in 9..=15 {
            assert_eq!(inflated(&deflater.deflate(text.as_bytes(), bits).unwrap()), text.as_bytes(), "{bits}");
        }
    }

    #[test]
    fn what_would_not_shrink_is_left_as_it_is() {
        let mut deflater = Deflater::default();
        let noise: Vec<u8> = (0..100_000).map(|_| rand::random()).collect();
        assert_eq!(deflater.deflate(&noise, 15), None);
        assert_eq!(deflater.deflate(b"", 15), None);
        assert_eq!(deflater.deflate(b"abc", 15), None);
        for bits in 9..=15 {
            for payload in [&noise[..], b"", b"abc"] {
                assert_eq!(inflated(&deflater.deflate_anyway(payload, bits).unwrap()), payload, "{bits}");
            }
        }
        let text = "and on it goes ".repeat(1000);
        assert_eq!(inflated(&deflater.deflate(text.as_bytes(), 15).unwrap()), text.as_bytes(), "goes on behind noise");
    }
}
