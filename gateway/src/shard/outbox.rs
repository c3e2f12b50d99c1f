//! One connection's queue of frames that its socket has not taken yet.

use std::collections::VecDeque;

use crate::push::{Frame, Goodbye};

/// What an entry costs beside its bytes: the frame itself and a frame header.
const ENTRY_BYTES: usize = Frame::OVERHEAD + 14;
/// An emptied queue larger than this gives its memory back.
const KEEP_ENTRIES: usize = 32;

/// A bounded queue of shared frames, ended by at most one goodbye.
///
/// Bound: `limits.outbox_bytes`, payloads and what each entry costs, emptied by the connection as its socket drains.
/// Full: [`Outbox::push`] refuses and the caller decides; one slow reader never holds up a channel. A single frame
/// always fits into an empty queue.
#[derive(Debug)]
pub struct Outbox {
    frames: VecDeque<Frame>,
    bytes: usize,
    bound: usize,
    goodbye: Option<Goodbye>,
}

/// The queue is full: the client does not read fast enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowConsumer;

impl Outbox {
    /// An empty queue of at most `bound` bytes.
    pub fn new(bound: usize) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, bound, goodbye: None }
    }

    /// Appends a frame. Never waits. After a goodbye it is dropped.
    ///
    /// # Errors
    /// [`SlowConsumer`] if it does not fit; nothing was appended.
    pub fn push(&mut self, frame: Frame) -> Result<(), SlowConsumer> {
        if self.goodbye.is_some() {
            return Ok(());
        }
        let cost = frame.payload().len() + ENTRY_BYTES;
        if self.bytes + cost > self.bound && !self.frames.is_empty() {
            return Err(SlowConsumer);
        }
        self.bytes += cost;
        self.frames.push_back(frame);
        Ok(())
    }

    /// Ends the queue: what is in it goes out, then `last` if the client's protocol has one, then the close frame. The
    /// first goodbye wins.
    pub fn finish(&mut self, goodbye: Goodbye, last: Option<Frame>) {
        if self.goodbye.is_none() {
            if let Some(last) = last {
                self.bytes += last.payload().len() + ENTRY_BYTES;
                self.frames.push_back(last);
            }
            self.goodbye = Some(goodbye);
        }
    }

    /// Drops what is queued, for a client that does not read.
    pub fn clear(&mut self) {
        self.frames = VecDeque::new();
        self.bytes = 0;
    }

    /// The next frame.
    pub fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front();
        match &frame {
            Some(frame) => self.bytes -= frame.payload().len() + ENTRY_BYTES,
            None if self.frames.capacity() > KEEP_ENTRIES => self.frames = VecDeque::new(),
            None => {}
        }
        frame
    }

    /// The goodbye, once all before it has been taken.
    pub fn goodbye(&self) -> Option<&Goodbye> {
        self.goodbye.as_ref().filter(|_| self.frames.is_empty())
    }

    /// The goodbye, whatever is to be taken before it.
    pub fn ending(&self) -> Option<&Goodbye> {
        self.goodbye.as_ref()
    }

    /// Whether the connection is to end, now or after what is queued.
    pub fn is_finished(&self) -> bool {
        self.goodbye.is_some()
    }

    /// Nothing is waiting for the socket.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The most that may wait, in bytes.
    pub fn bound(&self) -> usize {
        self.bound
    }
}

#[cfg(test)]
mod tests {
    use skywave_proto::CloseCode;

    use super::*;

    fn frame(size: usize) -> Frame {
        Frame::text("x".repeat(size))
    }

    #[test]
    fn refuses_what_is_over_the_bound_and_takes_it_after_a_pop() {
        let mut outbox = Outbox::new(2 * (100 + ENTRY_BYTES));
        assert_eq!((outbox.push(frame(100)), outbox.push(frame(100))), (Ok(()), Ok(())));
        assert_eq!(outbox.push(frame(1)), Err(SlowConsumer));
        assert_eq!(outbox.pop(), Some(frame(100)));
        assert_eq!(outbox.push(frame(1)), Ok(()));
    }

    #[test]
    fn one_frame_fits_however_large() {
        assert_eq!(Outbox::new(10).push(frame(1000)), Ok(()));
    }

    #[test]
    fn the_goodbye_comes_last_and_once() {
        let mut outbox = Outbox::new(1000);
        outbox.push(frame(1)).unwrap();
        outbox.finish(CloseCode::Draining.into(), None);
        outbox.finish(CloseCode::Normal.into(), None);
        assert_eq!(outbox.goodbye(), None);
        assert_eq!((outbox.push(frame(2)), outbox.pop(), outbox.pop()), (Ok(()), Some(frame(1)), None));
        assert_eq!(outbox.goodbye().map(|g| g.code), Some(CloseCode::Draining));
    }

    #[test]
    fn a_long_queue_gives_its_memory_back() {
        let mut outbox = Outbox::new(usize::MAX);
        for _ in 0..10_000 {
            outbox.push(frame(1)).unwrap();
        }
        while outbox.pop().is_some() {}
        assert_eq!((outbox.frames.capacity(), outbox.bytes), (0, 0));
    }
}
