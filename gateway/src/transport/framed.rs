//! A WebSocket over its socket: bytes in become events, frames become bytes out.
//!
//! What the messages are made of is `websocket`'s business; this is the only place that moves its bytes.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use skywave_proto::CloseCode;
use smallvec::SmallVec;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{
    socket::Socket,
    websocket::{self, Agreed, Decoder, Deflater, Event, Header, Limits, Role, Violation},
};
use crate::push::Frame;

/// What is read at once. One buffer for each thread: a connection that is silent holds none.
const READ_BYTES: usize = 64 * 1024;
/// What is handed to the socket at once: enough for one system call to pay, little enough for the outbox to count what
/// waits …
const BATCH_BYTES: usize = 64 * 1024;
/// … and in frames: each is two slices of at most 64.
const BATCH_FRAMES: usize = 32;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static DEFLATER: RefCell<Deflater> = RefCell::default();
}

/// When messages are compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compression {
    /// What was agreed on in the handshake.
    pub(super) agreed: Agreed,
    /// Shorter messages, in bytes, are not.
    pub(super) threshold: usize,
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The peer broke a rule.
    Broken(Violation),
    /// The socket is gone, or ended without a close frame.
    Lost,
}

/// See the module.
pub(super) struct Framed {
    socket: Socket,
    decoder: Decoder,
    compression: Option<Compression>,
    /// What was read and is not decoded yet. Bound: one read. While there is any, nothing is read.
    unread: Unread,
    output: Output,
    heard: bool,
}

impl Framed {
    /// A server's end. `early` are bytes that came behind the handshake.
    pub(super) fn new(socket: Socket, early: &[u8], limits: Limits, compression: Option<Compression>) -> Self {
        Self {
            socket,
            decoder: Decoder::new(Role::Server, limits, compression.is_some()),
            compression,
            unread: Unread::from(early),
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
            let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; READ_BYTES].into());
            let event = self.read(cx, &mut scratch);
            SCRATCH.set(Some(scratch));
            if let Some(event) = ready!(event)? {
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
        self.output.bytes >= BATCH_BYTES || self.output.chunks.len() >= BATCH_FRAMES
    }

    /// Appends a message, compressed if that was agreed on and pays.
    pub(super) fn send(&mut self, frame: &Frame) {
        let compression = self.compression.filter(|compression| frame.payload().len() >= compression.threshold);
        let deflated = compression.and_then(|Compression { agreed, .. }| {
            let deflate = |payload: &Bytes| DEFLATER.with_borrow_mut(|all| all.deflate(payload, agreed.window_bits()));
            // Who wants a small window gets a form of its own.
            if agreed.is_usual() { frame.deflated(deflate).cloned() } else { deflate(frame.payload()) }
        });
        self.append(frame, deflated);
    }

    /// Appends a message, compressed if that was agreed on, whether it pays or not.
    pub(super) fn send_compressed(&mut self, frame: &Frame) {
        let deflated = self.compression.and_then(|Compression { agreed, .. }| {
            DEFLATER.with_borrow_mut(|all| all.deflate_anyway(frame.payload(), agreed.window_bits()))
        });
        self.append(frame, deflated);
    }

    fn append(&mut self, frame: &Frame, deflated: Option<Bytes>) {
        let opcode = OpCode::Data(if frame.is_text() { Data::Text } else { Data::Binary });
        match deflated {
            Some(deflated) => self.output.append(Header::compressed(opcode, deflated.len()), deflated),
            None => self.output.append(Header::new(opcode, frame.payload().len()), frame.payload().clone()),
        }
    }

    /// Appends a ping (RFC 6455 §5.5.2) with at most 125 bytes of payload.
    pub(super) fn ping(&mut self, payload: Bytes) {
        self.output.append(Header::new(OpCode::Control(Control::Ping), payload.len()), payload);
    }

    /// Appends the answer to a ping (RFC 6455 §5.5.3).
    pub(super) fn pong(&mut self, payload: Bytes) {
        self.output.append(Header::new(OpCode::Control(Control::Pong), payload.len()), payload);
    }

    /// Appends the close frame (RFC 6455 §5.5.1). Nothing may follow.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str) {
        let payload = websocket::close_payload(code, reason);
        self.output.append(Header::new(OpCode::Control(Control::Close), payload.len()), payload);
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
        let mut scratch = [0; 1024];
        while self.socket.read(&mut scratch).await? > 0 {}
        Ok(())
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

/// A frame that the socket has not taken, or not all of it.
struct Chunk {
    header: Header,
    payload: Bytes,
}

impl Chunk {
    fn len(&self) -> usize {
        self.header.len() + self.payload.len()
    }
}

/// What goes out next. Bound: [`BATCH_BYTES`] and [`BATCH_FRAMES`], one frame more, and control frames.
#[derive(Default)]
struct Output {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

impl Output {
    fn append(&mut self, header: Header, payload: Bytes) {
        let chunk = Chunk { header, payload };
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, socket: &mut Socket, wrote: &Cell<bool>) -> Poll<io::Result<()>> {
        let mut socket = Pin::new(socket);
        if self.chunks.is_empty() {
            return socket.poll_flush(cx);
        }
        if !socket.is_write_vectored() {
            self.join();
        }
        while !self.chunks.is_empty() {
            let mut slices = SmallVec::<[IoSlice<'_>; 2 * BATCH_FRAMES]>::new();
            for chunk in self.chunks.iter().take(BATCH_FRAMES) {
                let parts = [chunk.header.as_ref(), &chunk.payload];
                slices.extend(parts.into_iter().filter(|part| !part.is_empty()).map(IoSlice::new));
            }
            let taken = ready!(socket.as_mut().poll_write_vectored(cx, &slices))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            drop(slices);
            wrote.set(true);
            self.advance(taken);
        }
        self.chunks = VecDeque::new(); // an idle connection keeps nothing
        socket.poll_flush(cx)
    }

    /// One piece of all: for sockets that make a record, or a frame of their own, of each write.
    fn join(&mut self) {
        if self.chunks.len() > 1 || self.chunks.front().is_some_and(|chunk| !chunk.header.is_empty()) {
            let mut all = Vec::with_capacity(self.bytes);
            for chunk in self.chunks.drain(..) {
                all.extend_from_slice(chunk.header.as_ref());
                all.extend_from_slice(&chunk.payload);
            }
            self.chunks.push_back(Chunk { header: Header::default(), payload: all.into() });
        }
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(chunk) = self.chunks.front_mut() {
            if count < chunk.len() {
                let of_header = count.min(chunk.header.len());
                chunk.header.advance(of_header);
                chunk.payload.advance(count - of_header);
                return;
            }
            count -= chunk.len();
            self.chunks.pop_front();
        }
    }
}
