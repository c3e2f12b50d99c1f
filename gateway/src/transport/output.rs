//! Bytes on their way into a socket: as many in one system call as pay.

use std::{
    cell::Cell,
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use smallvec::SmallVec;
use tokio::{io::AsyncWrite as _, net::TcpStream};

use super::{
    prepare::{Compression, wire},
    socket::Socket,
};
use crate::{push::Frame, shard::Outbox};

/// What is handed to the socket at once: enough for one system call to pay, little enough for the outbox to count what
/// waits …
const BATCH_BYTES: usize = 64 * 1024;
/// … and in frames.
const BATCH_FRAMES: usize = 64;

/// Gives a bare socket what waits, from where it waits: no byte is copied. What it takes only a part of goes on in
/// `output`. False if it takes nothing now.
pub(super) fn write_through(
    socket: &TcpStream,
    compression: Option<Compression>,
    outbox: &mut Outbox,
    output: &mut Output,
    wrote: &Cell<bool>,
) -> io::Result<bool> {
    while outbox.next_frame().is_some() {
        let wires = outbox.frames().take(BATCH_FRAMES).map(|frame| wire(frame, compression));
        let (taken, is_all) = match write_row(socket, wires, output) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            written => written?,
        };
        wrote.set(true);
        (0..taken).for_each(|_| outbox.advance());
        if !is_all {
            break;
        }
    }
    Ok(true)
}

/// Gives a bare socket these frames, before which nothing waits. Returns how many it took, and whether that is all; what is
/// left of the last goes on in `output`.
pub(super) fn offer(
    socket: &TcpStream,
    compression: Option<Compression>,
    frames: &[&Frame],
    output: &mut Output,
    wrote: &Cell<bool>,
) -> (usize, bool) {
    let mut taken = 0;
    for frames in frames.chunks(BATCH_FRAMES) {
        let wires = frames.iter().map(|frame| wire(frame, compression));
        let Ok((count, is_all)) = write_row(socket, wires, output) else { break };
        wrote.set(true);
        taken += count;
        if !is_all {
            return (taken, false);
        }
    }
    (taken, taken == frames.len())
}

/// Gives a bare socket at most [`BATCH_FRAMES`] pieces, in one system call if they are not too large. Returns how many it
/// took, and whether that is all. What is left of the last goes on in `output`.
fn write_row<'a>(
    socket: &TcpStream,
    wires: impl Iterator<Item = &'a Bytes> + Clone,
    output: &mut Output,
) -> io::Result<(usize, bool)> {
    let mut slices = SmallVec::<[IoSlice<'_>; BATCH_FRAMES]>::new();
    let mut bytes = 0;
    for wire in wires.clone() {
        bytes += wire.len();
        slices.push(IoSlice::new(wire));
    }
    let mut left = match &slices[..] {
        [one] => socket.try_write(one),
        many => socket.try_write_vectored(many),
    }?;
    if left == bytes {
        return Ok((slices.len(), true));
    }
    if left == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut taken = 0;
    for wire in wires {
        if left == 0 {
            break;
        }
        if left < wire.len() {
            output.append(wire.slice(left..));
        }
        left = left.saturating_sub(wire.len());
        taken += 1;
    }
    Ok((taken, false))
}

/// What goes out next: frames, or what is left of them. Bound: [`BATCH_BYTES`] and [`BATCH_FRAMES`], one frame more, and
/// control frames.
#[derive(Default)]
pub(super) struct Output {
    chunks: VecDeque<Bytes>,
    /// What is still to be taken, in bytes.
    bytes: usize,
    /// The first chunk is many in one.
    is_joined: bool,
    /// Something was appended, and the socket has not passed on all of it.
    owes_flush: bool,
}

impl Output {
    /// Nothing waits to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether the socket has not taken, and passed on, all of it yet.
    pub(super) fn owes_flush(&self) -> bool {
        self.owes_flush
    }

    /// Whether one system call has enough to do: then it comes first.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.chunks.len() >= BATCH_FRAMES
    }

    /// Appends what goes out next.
    pub(super) fn append(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        self.owes_flush = true;
        self.chunks.push_back(chunk);
    }

    /// Writes what was appended, see [`Framed::poll_flush`](super::framed::Framed::poll_flush).
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
        wrote: &Cell<bool>,
    ) -> Poll<io::Result<()>> {
        let mut socket = Pin::new(socket);
        while !self.chunks.is_empty() {
            if !socket.is_write_vectored() {
                self.join();
            }
            let taken = ready!(socket.as_mut().poll_write_vectored(cx, &self.slices()))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            wrote.set(true);
            self.take(taken);
        }
        if self.owes_flush {
            self.chunks = VecDeque::new(); // an idle connection keeps nothing
            ready!(socket.poll_flush(cx))?;
            self.owes_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn slices(&self) -> SmallVec<[IoSlice<'_>; BATCH_FRAMES]> {
        self.chunks.iter().take(BATCH_FRAMES).map(|chunk| IoSlice::new(chunk)).collect()
    }

    fn take(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(chunk) = self.chunks.front_mut() {
            if count < chunk.len() {
                chunk.advance(count);
                return;
            }
            count -= chunk.len();
            self.chunks.pop_front();
            self.is_joined = false;
        }
    }

    /// One piece of all, for sockets that make a record, or a frame of their own, of each write. What comes behind such a
    /// piece waits until it is taken: each byte is copied once.
    fn join(&mut self) {
        if self.is_joined || self.chunks.len() < 2 {
            return;
        }
        let mut all = Vec::with_capacity(self.bytes);
        self.chunks.drain(..).for_each(|chunk| all.extend_from_slice(&chunk));
        self.chunks.push_back(all.into());
        self.is_joined = true;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::prepare::framed, *};

    #[test]
    fn what_a_socket_takes_in_pieces_is_what_was_appended() {
        for joined in [false, true] {
            let mut output = Output::default();
            for payload in ["one", "", "three, which is longer"] {
                output.append(framed(true, false, payload.as_bytes()));
            }
            let mut got = Vec::new();
            while !output.chunks.is_empty() {
                if joined {
                    output.join();
                }
                let first = output.slices()[0].to_vec();
                let taken = first.len().min(2);
                got.extend_from_slice(&first[..taken]);
                output.take(taken);
            }
            assert_eq!(got, b"\x81\x03one\x81\x00\x81\x16three, which is longer", "joined: {joined}");
            assert_eq!(output.bytes, 0);
        }
    }
}
