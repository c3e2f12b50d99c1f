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

use bytes::Bytes;
use skywave_proto::CloseCode;
use smallvec::SmallVec;
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{
    socket::Socket,
    websocket::{self, Agreed, Decoder, Deflater, Event, Header, Limits, Role, Violation},
};
use crate::push::{Frame, Window};

/// What is read at once. One buffer for each thread: a connection that is silent holds none.
const READ_BYTES: usize = 64 * 1024;
/// What is handed to the socket at once: enough for one system call to pay, little enough for the outbox to count what
/// waits …
const BATCH_BYTES: usize = 64 * 1024;
/// … and in frames: each is two slices of at most 64.
const BATCH_FRAMES: usize = 32;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static DEFLATERS: RefCell<Deflaters> = RefCell::default();
}

/// Lends out the thread's read buffer.
fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; READ_BYTES].into());
    let read = read(&mut scratch);
    SCRATCH.set(Some(scratch));
    read
}

/// When messages are compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compression {
    /// What was agreed on in the handshake.
    pub(super) agreed: Agreed,
    /// Shorter messages, in bytes, are not.
    pub(super) threshold: usize,
}

impl Compression {
    fn window(&self) -> Window {
        if self.agreed.window_bits() == WINDOWS[0] { Window::Usual } else { Window::Small }
    }
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
        self.output.bytes >= BATCH_BYTES || self.output.chunks.len() >= BATCH_FRAMES
    }

    /// Appends a message, compressed if that was agreed on and pays.
    pub(super) fn send(&mut self, frame: &Frame) {
        let compression = self.compression.filter(|compression| frame.payload().len() >= compression.threshold);
        let deflated = compression.and_then(|compression| {
            let window = compression.window();
            let deflate = |payload: &Bytes| DEFLATERS.with_borrow_mut(|all| all.of(window).compress(payload));
            frame.deflated(window, deflate).cloned()
        });
        self.append(frame, deflated);
    }

    /// Appends a message, compressed if that was agreed on, whether it pays or not.
    pub(super) fn send_compressed(&mut self, frame: &Frame) {
        let deflated = self.compression.and_then(|compression| {
            DEFLATERS.with_borrow_mut(|all| all.of(compression.window()).compress_always(frame.payload()))
        });
        self.append(frame, deflated);
    }

    fn append(&mut self, frame: &Frame, deflated: Option<Bytes>) {
        let opcode = OpCode::Data(if frame.is_text() { Data::Text } else { Data::Binary });
        self.output.append(opcode, deflated.is_some(), deflated.unwrap_or_else(|| frame.payload().clone()));
    }

    /// Appends a ping (RFC 6455 §5.5.2) with at most 125 bytes of payload.
    pub(super) fn ping(&mut self, payload: Bytes) {
        self.output.append(OpCode::Control(Control::Ping), false, payload);
    }

    /// Appends the answer to a ping (RFC 6455 §5.5.3).
    pub(super) fn pong(&mut self, payload: Bytes) {
        self.output.append(OpCode::Control(Control::Pong), false, payload);
    }

    /// Appends the close frame (RFC 6455 §5.5.1). Nothing may follow.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str) {
        let payload = code.map_or_else(Bytes::new, |code| websocket::close_payload(code, reason));
        self.output.append(OpCode::Control(Control::Close), false, payload);
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

/// The window of nearly all clients, in bits, and one that every other can take too (RFC 7692 §7.1.2).
const WINDOWS: [u8; 2] = [15, 9];
/// As small as 9 nearly, at a third of its cost: what is compressed once may have many receivers.
const LEVEL: u8 = 6;

/// One thread's compressors, by [`Window`]. Each is made when it is needed: it takes 200 to 300 KB.
#[derive(Default)]
struct Deflaters([Option<Deflater>; WINDOWS.len()]);

impl Deflaters {
    fn of(&mut self, window: Window) -> &mut Deflater {
        self.0[window as usize].get_or_insert_with(|| Deflater::new(LEVEL, WINDOWS[window as usize]))
    }
}

/// A frame that the socket has not taken, or not all of it.
struct Chunk {
    /// `None`: it is in the payload.
    header: Option<Header>,
    payload: Bytes,
}

impl Chunk {
    fn header(&self) -> &[u8] {
        self.header.as_ref().map_or(&[], AsRef::as_ref)
    }

    fn len(&self) -> usize {
        self.header().len() + self.payload.len()
    }
}

/// What goes out next. Bound: [`BATCH_BYTES`] and [`BATCH_FRAMES`], one frame more, and control frames.
#[derive(Default)]
struct Output {
    chunks: VecDeque<Chunk>,
    /// What the socket has taken of the first, in bytes.
    taken: usize,
    /// What is still to be taken, in bytes.
    bytes: usize,
}

impl Output {
    fn append(&mut self, opcode: OpCode, is_compressed: bool, payload: Bytes) {
        let chunk = Chunk { header: Some(Header::new(opcode, is_compressed, payload.len(), None)), payload };
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, socket: &mut Socket, wrote: &Cell<bool>) -> Poll<io::Result<()>> {
        let mut socket = Pin::new(socket);
        if self.chunks.is_empty() {
            return socket.poll_flush(cx);
        }
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
        self.chunks = VecDeque::new(); // an idle connection keeps nothing
        socket.poll_flush(cx)
    }

    fn slices(&self) -> SmallVec<[IoSlice<'_>; 2 * BATCH_FRAMES]> {
        let parts = self.chunks.iter().take(BATCH_FRAMES).flat_map(|chunk| [chunk.header(), &chunk.payload]);
        let mut skip = self.taken;
        let rest = parts.map(|part| {
            let skipped = skip.min(part.len());
            skip -= skipped;
            &part[skipped..]
        });
        rest.filter(|part| !part.is_empty()).map(IoSlice::new).collect()
    }

    fn take(&mut self, count: usize) {
        self.bytes -= count;
        self.taken += count;
        while let Some(chunk) = self.chunks.front()
            && self.taken >= chunk.len()
        {
            self.taken -= chunk.len();
            self.chunks.pop_front();
        }
    }

    /// One piece of all, for sockets that make a record, or a frame of their own, of each write. What comes behind such a
    /// piece waits until it is taken: each byte is copied once.
    fn join(&mut self) {
        if self.chunks.front().is_none_or(|first| first.header.is_none()) {
            return;
        }
        let mut all = Vec::with_capacity(self.bytes);
        for chunk in self.chunks.drain(..) {
            all.extend_from_slice(chunk.header());
            all.extend_from_slice(&chunk.payload);
        }
        self.chunks.push_back(Chunk { header: None, payload: all.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_socket_takes_in_pieces_is_what_was_appended() {
        for joined in [false, true] {
            let mut output = Output::default();
            for payload in ["one", "", "three, which is longer"] {
                output.append(OpCode::Data(Data::Text), false, payload.into());
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
            assert_eq!((output.bytes, output.taken), (0, 0));
        }
    }
}
