use std::fmt;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

use super::inflater::TAIL;

/// Compresses messages, each for itself (RFC 7692 §7.2.1): what it makes can be sent to every client with a window of at
/// least its own.
///
/// It takes about 300 KB whatever it does, so it belongs to a thread, not to a connection.
pub struct Deflater {
    compress: Compress,
    /// Where the compressed form is made. Bound: twice the largest message, but no more than [`KEPT`]
    /// between two.
    out: Vec<u8>,
}

/// With less room than this zlib may end a message for ever: it writes the mark of its end again (zlib.h, `deflate`).
const MARKER_ROOM: usize = 16;
/// What is kept of a buffer between two messages, in bytes.
const KEPT: usize = 64 * 1024;

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deflater") // its memory holds a payload
    }
}

impl Deflater {
    /// `level` from 1 (fast) to 9 (small): 6 for what many receive, 1 for what one receives. `window_bits` from 9 to 15
    /// (see [`Agreed::window_bits`](super::Agreed::window_bits)). Both are brought into their range.
    pub fn new(level: u8, window_bits: u8) -> Self {
        let level = Compression::new(u32::from(level.clamp(1, 9)));
        let compress = Compress::new_with_window_bits(level, false, window_bits.clamp(9, 15));
        Self { compress, out: Vec::new() }
    }

    /// The payload of a frame with RSV1, or `None` if it would not be shorter than the message: then the message goes
    /// out as it is, which is always allowed (RFC 7692 §6).
    pub fn compress(&mut self, message: &[u8]) -> Option<Bytes> {
        self.deflate(message, message.len().checked_sub(1)?)
    }

    /// The same, also if it is longer than the message. For conformance tests, some of which want every answer compressed.
    /// `None` if zlib fails, which it has no reason to.
    pub fn compress_always(&mut self, message: &[u8]) -> Option<Bytes> {
        if message.is_empty() {
            return Some(Bytes::from_static(&[0x00])); // RFC 7692 §7.2.3.6
        }
        self.deflate(message, usize::MAX)
    }

    /// At most `most` bytes of payload.
    fn deflate(&mut self, message: &[u8], most: usize) -> Option<Bytes> {
        self.compress.reset();
        self.out.clear();
        let mut rest = message;
        loop {
            self.out.reserve(rest.len().max(MARKER_ROOM));
            let read = self.compress.total_in();
            self.compress.compress_vec(rest, &mut self.out, FlushCompress::Sync).ok()?;
            rest = &rest[usize::try_from(self.compress.total_in() - read).ok()?..];
            // A full buffer may leave something behind in the compressor.
            if self.out.len() < self.out.capacity() || self.out.len() - TAIL.len() > most {
                break;
            }
        }
        let payload = self.out.strip_suffix(&TAIL).filter(|payload| rest.is_empty() && payload.len() <= most);
        let payload = payload.map(Bytes::copy_from_slice);
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        }
        payload
    }
}
