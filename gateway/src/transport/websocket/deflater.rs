use std::fmt;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::inflater::TAIL;

/// Compresses messages, each for itself (RFC 7692 §7.2.1): what it makes can be sent to every client with a window of at
/// least its own.
///
/// It takes about 300 KB whatever it does, so it belongs to a thread, not to a connection.
pub struct Deflater {
    compress: Compress,
    /// Where the compressed form is made. Bound: the largest payload, but no more than [`KEPT`] between two.
    out: Vec<u8>,
}

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
        self.within(message.len(), message).filter(|payload| payload.len() < message.len())
    }

    /// The same however long it gets, for who tests the compression itself.
    pub fn compress_anyway(&mut self, message: &[u8]) -> Option<Bytes> {
        // What cannot be compressed is stored, in blocks of at least 1 KiB with 5 bytes before each.
        self.within(message.len() + message.len() / 128 + 64, message)
    }

    /// As much as it takes, or `None` if that is more than this room, in bytes.
    fn within(&mut self, room: usize, message: &[u8]) -> Option<Bytes> {
        self.compress.reset();
        self.out.clear();
        self.out.reserve(room);
        let room = self.out.capacity();
        let compressed = self.compress.compress_vec(message, &mut self.out, FlushCompress::Sync);
        // A full buffer may leave something behind in the compressor. It is as long as the message at least.
        let is_whole = matches!(compressed, Ok(Status::Ok)) && self.out.len() < room;
        let payload = self.out.strip_suffix(&TAIL).filter(|_| is_whole);
        let payload = payload.map(Bytes::copy_from_slice);
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        }
        payload
    }
}
