//! The connections of a bare loop, and the two ways to write to them. Nothing is queued.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};

use mio::net::TcpStream;
use slab::Slab;

use super::wire;

/// The most slices that one call may carry (`IOV_MAX` of Linux).
const SLICES: usize = 1024;

/// All connections; each has a number that it keeps.
#[derive(Default)]
pub(super) struct Crowd(Slab<Connection>);

/// One connection.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// The beginning of what is not all there yet. Bound: one frame, which `wire` limits. No buffer while idle.
    pub(super) rest: Vec<u8>,
    pub(super) is_open: bool,
}

impl Crowd {
    /// The number that the next connection will have.
    pub(super) fn next(&self) -> usize {
        self.0.vacant_key()
    }

    pub(super) fn enter(&mut self, stream: TcpStream) {
        self.0.insert(Connection { stream, rest: Vec::new(), is_open: false });
    }

    pub(super) fn leave(&mut self, who: usize) {
        self.0.try_remove(who);
    }

    pub(super) fn get_mut(&mut self, who: usize) -> Option<&mut Connection> {
        self.0.get_mut(who)
    }

    /// One `send`. Who has left gets nothing.
    ///
    /// # Errors
    /// The socket takes no more: a floor has no queue, so its receivers must keep up.
    pub(super) fn send(&mut self, to: usize, bytes: &[u8]) -> io::Result<()> {
        let Some(connection) = self.0.get_mut(to) else { return Ok(()) };
        check(connection.stream.write(bytes), bytes.len())
    }

    /// All of them with one call (with more than 1,024 frames: with as few as possible).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) fn send_all(&mut self, to: usize, frames: &[IoSlice<'_>]) -> io::Result<()> {
        let Some(connection) = self.0.get_mut(to) else { return Ok(()) };
        for frames in frames.chunks(SLICES) {
            check(connection.stream.write_vectored(frames), frames.iter().map(|frame| frame.len()).sum())?;
        }
        Ok(())
    }
}

fn check(written: io::Result<usize>, length: usize) -> io::Result<()> {
    match written {
        Ok(written) if written == length => Ok(()),
        // It is gone, and whoever reads from it will notice.
        Err(error) if is_goodbye(&error) => Ok(()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::other("a receiver does not keep up, and a floor has no queue: lower the window")),
    }
}

fn is_goodbye(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected)
}

/// What one read found.
pub(super) enum Read {
    /// So many bytes at the beginning of the buffer, and whether there may be more in the socket.
    Bytes(usize, bool),
    /// Nothing for now.
    Nothing,
    /// The other end is gone.
    End,
}

impl Connection {
    /// Reads once, behind what is left of the last time. A buffer that was not filled has emptied the socket, so that
    /// the call which only finds nothing is saved; tokio does the same.
    ///
    /// # Errors
    /// The system's, other than that the connection is gone.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>, room: usize) -> io::Result<Read> {
        let kept = self.rest.len();
        if buffer.len() < kept + room {
            buffer.resize(kept + room, 0);
        }
        buffer[..kept].copy_from_slice(&self.rest);
        match self.stream.read(&mut buffer[kept..kept + room]) {
            Ok(0) => Ok(Read::End),
            Ok(read) => {
                self.rest = Vec::new();
                Ok(Read::Bytes(kept + read, read == room))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Read::Nothing),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Read::Bytes(0, true)),
            Err(error) if is_goodbye(&error) => Ok(Read::End),
            Err(error) => Err(error),
        }
    }

    /// Answers the handshake once the request is whole. Returns how many bytes it was: 0 if it is not.
    ///
    /// # Errors
    /// It is no handshake, or the answer could not be written.
    pub(super) fn shake_hands(&mut self, input: &[u8]) -> io::Result<usize> {
        let Some(end) = wire::request_end(input) else { return Ok(0) };
        let answer = wire::switching(&input[..end])?;
        check(self.stream.write(answer.as_bytes()), answer.len())?;
        self.is_open = true;
        Ok(end)
    }
}
