use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::Violation;

/// What is inflated at a time, in bytes: at most so much comes out of a message beyond its limit, and none of it is kept.
const CHUNK: usize = 8 * 1024;
/// Idle ones that a thread keeps: nearly always one is enough, as a message is rarely cut.
const KEPT: usize = 4;
/// What every compressed message leaves out at its end (RFC 7692 §7.2.1).
pub(super) const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

thread_local! {
    /// A thread's idle inflaters. Bound: `KEPT`, about 40 KB each.
    static IDLE: RefCell<Vec<Inflater>> = const { RefCell::new(Vec::new()) };
}

/// Inflates one message (RFC 7692 §7.2.2). Between messages nobody holds one: each message begins without a context.
///
/// The window is the largest, so it serves whatever window the other end compresses with.
pub(super) struct Inflater(Box<State>);

struct State {
    inflate: Decompress,
    chunk: [u8; CHUNK],
}

impl Inflater {
    /// One that is ready, from this thread's if it has any.
    pub(super) fn take() -> Self {
        let idle = IDLE.with_borrow_mut(Vec::pop);
        idle.unwrap_or_else(|| Self(Box::new(State { inflate: Decompress::new(false), chunk: [0; CHUNK] })))
    }

    /// Leaves it for the thread's next message.
    pub(super) fn give_back(mut self) {
        self.0.inflate.reset(false);
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < KEPT {
                idle.push(self);
            }
        });
    }

    /// Inflates what came next, and hands it over a chunk at a time.
    ///
    /// # Errors
    /// [`Violation::NOT_DEFLATE`], or what `each` answers; nothing more is inflated then.
    pub(super) fn push(
        &mut self,
        mut input: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let State { inflate, chunk } = &mut *self.0;
        loop {
            let (read, written) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(input, chunk, FlushDecompress::Sync);
            let (read, written) = (since(read, inflate.total_in()), since(written, inflate.total_out()));
            input = &input[read..];
            each(&chunk[..written])?; // also what came before an error, which may be wrong already
            let status = status.map_err(|_| Violation::NOT_DEFLATE)?;
            if status == Status::StreamEnd {
                // A block that says it is the last one (RFC 7692 §7.2.3.4). What follows is a stream of its own.
                inflate.reset(false);
            } else if read == 0 && written == 0 && !input.is_empty() {
                return Err(Violation::NOT_DEFLATE);
            }
            // A full chunk may leave something behind in the inflater.
            if input.is_empty() && written < chunk.len() {
                return Ok(());
            }
        }
    }

    /// The message has come to its end: what it left out there is put back (RFC 7692 §7.2.2).
    pub(super) fn end(&mut self, each: impl FnMut(&[u8]) -> Result<(), Violation>) -> Result<(), Violation> {
        self.push(&TAIL, each)
    }
}

/// How far a counter went within one call, which is never farther than a buffer is long.
fn since(before: u64, now: u64) -> usize {
    usize::try_from(now - before).unwrap_or(usize::MAX)
}
