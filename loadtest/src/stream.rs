//! A connection's two ends: what reads, and what anybody may write to from any thread.

use std::{
    fmt,
    future::{Future as _, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::unconstrained,
};
use tokio_rustls::client::TlsStream;

/// Bound on the bytes that a connection does not take yet, emptied by whoever writes or pumps next. Full: nothing is
/// written.
const WAITING: usize = 16 << 20;

/// A connection, with or without TLS.
#[derive(Debug)]
pub enum Stream {
    /// Without.
    Plain(TcpStream),
    /// With. Boxed: it is larger by far, and rare.
    Tls(Box<TlsStream<TcpStream>>),
}

/// The end that reads.
#[derive(Debug)]
pub enum Reader {
    /// Without TLS.
    Plain(OwnedReadHalf),
    /// With.
    Tls(ReadHalf<Box<TlsStream<TcpStream>>>),
}

#[derive(Debug)]
enum Writer {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<Box<TlsStream<TcpStream>>>),
}

/// The end that writes. Never waits: what the connection does not take is kept and tried again with the next write or
/// [`pump`](Self::pump). The lock is held for one write.
pub struct Outlet(Mutex<Waiting>);

struct Waiting {
    writer: Writer,
    bytes: Vec<u8>,
    is_flushed: bool,
}

impl Stream {
    /// Takes it apart.
    pub fn split(self) -> (Reader, Outlet) {
        let (reader, writer) = match self {
            Self::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Plain(reader), Writer::Plain(writer))
            }
            Self::Tls(stream) => {
                let (reader, writer) = split(stream);
                (Reader::Tls(reader), Writer::Tls(writer))
            }
        };
        (reader, Outlet(Mutex::new(Waiting { writer, bytes: Vec::new(), is_flushed: true })))
    }
}

impl Reader {
    /// Reads into `bytes`; returns how many came, 0 at the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut bytes = ReadBuf::new(bytes);
        let read = match self {
            Self::Plain(reader) => Pin::new(reader).poll_read(cx, &mut bytes),
            Self::Tls(reader) => Pin::new(reader).poll_read(cx, &mut bytes),
        };
        ready!(read)?;
        Poll::Ready(Ok(bytes.filled().len()))
    }
}

impl Outlet {
    /// Writes `bytes`, after all that waits; says whether nothing waits now.
    ///
    /// # Errors
    /// The connection has ended, or takes nothing for so long that too much waits.
    pub fn send(&self, bytes: &[u8]) -> io::Result<bool> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.bytes.is_empty() {
            let written = waiting.writer.write(bytes)?;
            waiting.bytes.extend_from_slice(&bytes[written..]);
            waiting.is_flushed = false;
        } else if waiting.bytes.len() + bytes.len() <= WAITING {
            waiting.bytes.extend_from_slice(bytes);
        } else {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        waiting.pump()
    }

    /// Tries again what waits; says whether nothing does any more.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn pump(&self) -> io::Result<bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pump()
    }
}

impl Waiting {
    fn pump(&mut self) -> io::Result<bool> {
        if !self.bytes.is_empty() {
            let written = self.writer.write(&self.bytes)?;
            self.bytes.drain(..written);
            if !self.bytes.is_empty() {
                return Ok(false);
            }
            self.bytes = Vec::new();
        }
        if !self.is_flushed {
            self.is_flushed = self.writer.flush()?;
        }
        Ok(self.is_flushed)
    }
}

impl Writer {
    /// Writes what the connection takes now.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            let taken = match self {
                Self::Plain(writer) => writer.try_write(&bytes[written..]),
                Self::Tls(writer) => {
                    // Nobody is woken: whoever has something to write comes back by itself.
                    match now(|cx| Pin::new(&mut *writer).poll_write(cx, &bytes[written..])) {
                        Poll::Ready(taken) => taken,
                        Poll::Pending => return Ok(written),
                    }
                }
            };
            match taken {
                Ok(0) => break,
                Ok(taken) => written += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<bool> {
        let Self::Tls(writer) = self else { return Ok(true) };
        match now(|cx| Pin::new(&mut *writer).poll_flush(cx)) {
            Poll::Ready(flushed) => flushed.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }
}

/// Polls once. Outside of the budget that tokio gives a task for its turn: beyond it a poll only says to come back, and who
/// opens hundreds of connections in one task would leave their requests unwritten.
fn now<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    pin!(unconstrained(poll_fn(poll))).poll(&mut Context::from_waker(Waker::noop()))
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}
