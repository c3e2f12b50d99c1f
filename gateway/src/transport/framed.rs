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
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{
    socket::Socket,
    websocket::{self, Agreed, Decoder, Deflater, Event, Header, Limits, Role, Violation},
};
use crate::{
    push::{Frame, Window},
    shard::{Link, Outbox},
};

/// What is read at once. One buffer for each thread: a connection that is silent holds none.
const READ_BYTES: usize = 64 * 1024;
/// What is handed to the socket at once: enough for one system call to pay, little enough for the outbox to count what
/// waits …
const BATCH_BYTES: usize = 64 * 1024;
/// … and in frames.
const BATCH_FRAMES: usize = 64;

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
    fn send(&mut self, frame: &Frame) {
        self.output.append(wire(frame, self.compression).clone());
    }

    /// Appends a message, compressed if that was agreed on, whether it pays or not.
    pub(super) fn send_compressed(&mut self, frame: &Frame) {
        let deflated = self.compression.and_then(|compression| {
            DEFLATERS.with_borrow_mut(|all| all.of(compression.window()).compress_always(frame.payload()))
        });
        self.output.append(match deflated {
            Some(deflated) => framed(frame.is_text(), true, &deflated),
            None => framed(frame.is_text(), false, frame.payload()),
        });
    }

    /// Whether the socket has taken, and passed on, all that was appended.
    pub(super) fn is_flushed(&self) -> bool {
        !self.output.owes_flush
    }

    /// Appends a ping (RFC 6455 §5.5.2) with at most 125 bytes of payload.
    pub(super) fn ping(&mut self, payload: Bytes) {
        self.output.append(whole(OpCode::Control(Control::Ping), false, &payload));
    }

    /// Appends the answer to a ping (RFC 6455 §5.5.3).
    pub(super) fn pong(&mut self, payload: Bytes) {
        self.output.append(whole(OpCode::Control(Control::Pong), false, &payload));
    }

    /// Appends the close frame (RFC 6455 §5.5.1). Nothing may follow.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str) {
        let payload = code.map_or_else(Bytes::new, |code| websocket::close_payload(code, reason));
        self.output.append(whole(OpCode::Control(Control::Close), false, &payload));
    }

    /// Gives a bare socket these frames, if nothing that was appended goes before them, and only what it takes now. Returns
    /// how many it has taken, and whether that is all; what is left of the last is appended. What is wrong with the socket
    /// [`Framed::poll_send`] finds, too.
    pub(super) fn offer(&mut self, frames: &[&Frame], wrote: &Cell<bool>) -> (usize, bool) {
        let mut taken = 0;
        if let Socket::Tcp(socket) = &self.socket
            && self.output.chunks.is_empty()
        {
            for frames in frames.chunks(BATCH_FRAMES) {
                let wires = frames.iter().map(|frame| wire(frame, self.compression));
                let Ok((count, is_all)) = write_row(socket, wires, &mut self.output) else { break };
                wrote.set(true);
                taken += count;
                if !is_all {
                    return (taken, false);
                }
            }
        }
        (taken, taken == frames.len())
    }

    /// Writes what was appended, and then what waits for the socket in the link's outbox. Ready once the socket has taken
    /// all of it. `wrote` is set if it took anything. The task is woken when it takes more.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, link: &Link, wrote: &Cell<bool>) -> Poll<io::Result<()>> {
        loop {
            if self.output.chunks.is_empty()
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
            if self.output.chunks.is_empty() {
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

/// A message as it goes out, made once for all its receivers: compressed if that was agreed on and pays.
fn wire(frame: &Frame, compression: Option<Compression>) -> &Bytes {
    if let Some(compression) = compression
        && frame.payload().len() >= compression.threshold
    {
        let window = compression.window();
        let deflate = |frame: &Frame| {
            let deflated = DEFLATERS.with_borrow_mut(|all| all.of(window).compress(frame.payload()))?;
            Some(framed(frame.is_text(), true, &deflated))
        };
        if let Some(deflated) = frame.deflated(window, deflate) {
            return deflated;
        }
    }
    frame.plain(|frame| framed(frame.is_text(), false, frame.payload()))
}

fn framed(is_text: bool, is_compressed: bool, payload: &[u8]) -> Bytes {
    whole(OpCode::Data(if is_text { Data::Text } else { Data::Binary }), is_compressed, payload)
}

/// A frame with its header.
fn whole(opcode: OpCode, is_compressed: bool, payload: &[u8]) -> Bytes {
    let header = Header::new(opcode, is_compressed, payload.len(), None);
    let header: &[u8] = header.as_ref();
    let mut frame = Vec::with_capacity(header.len() + payload.len());
    frame.extend_from_slice(header);
    frame.extend_from_slice(payload);
    frame.into()
}

/// Gives a bare socket what waits, from where it waits: no byte is copied. What it takes only a part of goes on in
/// `output`. False if it takes nothing now.
fn write_through(
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
struct Output {
    chunks: VecDeque<Bytes>,
    /// What is still to be taken, in bytes.
    bytes: usize,
    /// The first chunk is many in one.
    is_joined: bool,
    /// Something was appended, and the socket has not passed on all of it.
    owes_flush: bool,
}

impl Output {
    /// Whether one system call has enough to do: then it comes first.
    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.chunks.len() >= BATCH_FRAMES
    }

    fn append(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        self.owes_flush = true;
        self.chunks.push_back(chunk);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, socket: &mut Socket, wrote: &Cell<bool>) -> Poll<io::Result<()>> {
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
    use super::*;

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
