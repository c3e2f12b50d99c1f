//! A WebSocket over its socket: bytes in become events, frames become bytes out.
//!
//! What the messages are made of is `websocket`'s business; this is the only place that moves its bytes.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use skywave_proto::CloseCode;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::coding::Control;

use super::{
    output::{self, Output, write_through},
    prepare::{self, Compression},
    socket::Socket,
    websocket::{self, Decoder, Event, Limits, Role, Violation},
};
use crate::{push::Frame, shard::Link};

/// What is read at once. One buffer for each thread: a connection that is silent holds none.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Lends out the thread's read buffer.
fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; READ_BYTES].into());
    let read = read(&mut scratch);
    SCRATCH.set(Some(scratch));
    read
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The peer broke a rule.
    Broken(Violation),
    /// The socket is gone, or ended without a close frame.
    Lost,
}

/// See the module. What a write looks at comes first.
#[repr(C)]
pub(super) struct Framed {
    socket: Socket,
    output: Output,
    compression: Option<Compression>,
    heard: bool,
    /// What was read and is not decoded yet. Bound: one read. While there is any, nothing is read.
    unread: Unread,
    decoder: Decoder,
}

impl Framed {
    /// A server's end. `early` are bytes that came behind the handshake.
    pub(super) fn new(socket: Socket, early: Bytes, limits: Limits, compression: Option<Compression>) -> Self {
        Self {
            socket,
            decoder: Decoder::new(Role::Server, limits, compression.is_some()),
            compression,
            unread: Unread::from(&early),
            output: Output::default(),
            heard: false,
        }
    }

    /// The next event. Bytes are only read when all before are decoded, so an unread event holds the peer back.
    ///
    /// # Errors
    /// [`Ending`] says why there is none any more.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Ending>> {
        loop {
            if let Some(event) = self.decode_unread()? {
                return Poll::Ready(Ok(event));
            }
            if let Some(event) = ready!(with_scratch(|scratch| self.read(cx, scratch)))? {
                return Poll::Ready(Ok(event));
            }
        }
    }

    fn decode_unread(&mut self) -> Result<Option<Event>, Ending> {
        if self.unread.is_empty() {
            return Ok(None);
        }
        let (used, event) = self.decoder.decode(self.unread.rest()).map_err(Ending::Broken)?;
        self.unread.advance(used);
        Ok(event)
    }

    /// Reads once. What comes behind the first event is kept.
    fn read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<Option<Event>, Ending>> {
        let mut buffer = ReadBuf::new(scratch);
        if ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer)).is_err() || buffer.filled().is_empty() {
            return Poll::Ready(Err(Ending::Lost));
        }
        self.heard = true;
        let read = buffer.filled_mut();
        let (used, event) = self.decoder.decode(read).map_err(Ending::Broken)?;
        if used < read.len() {
            self.unread = Unread::from(&read[used..]);
        }
        Poll::Ready(Ok(event))
    }

    /// Whether anything has come since this was last asked.
    pub(super) fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Whether the peer has begun a message, or a frame, and not ended it.
    pub(super) fn is_within_message(&self) -> bool {
        self.decoder.is_within_message()
    }

    /// Whether one system call has enough to do: then it comes first.
    pub(super) fn is_full(&self) -> bool {
        self.output.is_full()
    }

    /// Appends a message, compressed if that was agreed on and pays.
    pub(super) fn send(&mut self, frame: &Frame) {
        self.output.append(prepare::wire(frame, self.compression).clone());
    }

    /// Appends a message, compressed if that was agreed on, whether it pays or not.
    pub(super) fn send_compressed(&mut self, frame: &Frame) {
        self.output.append(prepare::compressed(frame, self.compression));
    }

    /// Whether the socket has taken, and passed on, all that was appended.
    pub(super) fn is_flushed(&self) -> bool {
        !self.output.owes_flush()
    }

    /// Appends a ping (RFC 6455 §5.5.2) with at most 125 bytes of payload.
    pub(super) fn ping(&mut self, payload: Bytes) {
        self.output.append(prepare::control(Control::Ping, &payload));
    }

    /// Appends the answer to a ping (RFC 6455 §5.5.3).
    pub(super) fn pong(&mut self, payload: Bytes) {
        self.output.append(prepare::control(Control::Pong, &payload));
    }

    /// Appends the close frame (RFC 6455 §5.5.1). Nothing may follow.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str) {
        let payload = code.map_or_else(Bytes::new, |code| websocket::close_payload(code, reason));
        self.output.append(prepare::control(Control::Close, &payload));
    }

    /// Gives a bare socket these frames, if nothing that was appended goes before them, and only what it takes now. Returns
    /// how many it has taken, and whether that is all; what is left of the last is appended. What is wrong with the socket
    /// [`Framed::poll_send`] finds, too.
    pub(super) fn offer(&mut self, frames: &[&Frame], wrote: &Cell<bool>) -> (usize, bool) {
        match &self.socket {
            Socket::Tcp(socket) if self.output.is_empty() => {
                output::offer(socket, self.compression, frames, &mut self.output, wrote)
            }
            _ => (0, frames.is_empty()),
        }
    }

    /// Writes what was appended, and then what waits for the socket in the link's outbox. Ready once the socket has taken
    /// all of it. `wrote` is set if it took anything. The task is woken when it takes more.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, link: &Link, wrote: &Cell<bool>) -> Poll<io::Result<()>> {
        loop {
            if self.output.is_empty()
                && let Socket::Tcp(socket) = &self.socket
            {
                let mut outbox = link.outbox();
                while !write_through(socket, self.compression, &mut outbox, &mut self.output, wrote)? {
                    ready!(socket.poll_write_ready(cx))?;
                }
            }
            // What cannot be written from there: a frame that is made for this client, or any to a socket that makes a
            // record, or a frame of its own, of each write. What was taken out is beyond the outbox's policies, so no more
            // is until it is written.
            if self.output.is_empty() {
                while !self.output.is_full()
                    && let Some(frame) = link.pop()
                {
                    self.send(&frame);
                }
            }
            ready!(self.output.poll_write(cx, &mut self.socket, wrote))?;
            if link.is_drained() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Writes what was appended. Ready once the socket has taken all of it. `wrote` is set if it took anything.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, wrote: &Cell<bool>) -> Poll<io::Result<()>> {
        self.output.poll_write(cx, &mut self.socket, wrote)
    }

    /// As [`Framed::poll_flush`].
    ///
    /// # Cancel safety
    /// Cancel-safe: goes on where it was.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let wrote = Cell::new(false);
        poll_fn(|cx| self.poll_flush(cx, &wrote)).await
    }

    /// As [`Framed::poll_event`].
    ///
    /// # Cancel safety
    /// Cancel-safe: no event is lost.
    pub(super) async fn event(&mut self) -> Result<Event, Ending> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Says goodbye and waits for the peer's close frame, then ends the connection (RFC 6455 §7.1).
    ///
    /// Ends with the peer, or not at all: the caller has the deadline.
    pub(super) async fn farewell(&mut self, code: CloseCode, reason: &str) -> io::Result<()> {
        self.close(Some(code.code()), reason);
        self.flush().await?;
        while !matches!(self.event().await, Ok(Event::Close(_)) | Err(_)) {}
        self.linger().await
    }

    /// Lets what was appended out, ends our half of the connection and reads the other to its end. A socket that is
    /// dropped with unread input is reset, and the reset may overtake the close frame.
    pub(super) async fn linger(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.socket.shutdown().await?;
        self.unread = Unread::default();
        poll_fn(|cx| self.poll_discard(cx)).await
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_scratch(|scratch| {
            loop {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
                if buffer.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        })
    }

    /// The socket, for what is to be done with it besides.
    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }
}

/// Bytes with a place in them. Holds nothing once all of them are used.
#[derive(Default)]
struct Unread {
    bytes: Box<[u8]>,
    used: usize,
}

impl Unread {
    fn from(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), used: 0 }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn rest(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used..]
    }

    fn advance(&mut self, count: usize) {
        self.used += count;
        if self.used == self.bytes.len() {
            *self = Self::default();
        }
    }
}
