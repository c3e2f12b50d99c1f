//! One WebSocket, from upgrade to close: the connection's task.
//!
//! The codec here is tungstenite's, with a small read buffer; a message layer of our own takes its place behind
//! [`Connection::run`] later. Reading goes on while writes are blocked, and nothing here waits for anything but the
//! socket.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink as _, SinkExt as _, Stream as _, StreamExt as _};
use skywave_backplane::SubscribeError;
use skywave_proto::{ChannelName, CloseCode, StreamPosition};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, Sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::CapacityError,
        protocol::{
            CloseFrame, Role, WebSocketConfig,
            frame::{
                Frame as WireFrame,
                coding::{Data, OpCode},
            },
        },
    },
};

use crate::{
    protocol::{Body, Codec, Incoming},
    push::{Frame, Goodbye},
    relay::Answer,
    session::{Envelope, Session},
    shard::{Description, Link, Owner, Shard, TICK},
    transport::heartbeat::{Beat, Heartbeat},
};

/// tungstenite fills the whole of it with zeros at each poll, so it is small.
const READ_BUFFER: usize = 4 * 1024;
/// What is gathered before the socket is written to within one turn.
const WRITE_BUFFER: usize = 16 * 1024;
/// Messages read in one turn before other connections of the shard get theirs.
const READS_PER_TURN: usize = 64;

/// Bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub struct WebSocketLimits {
    /// The largest message, in bytes.
    pub message_bytes: usize,
    /// The largest frame, in bytes.
    pub frame_bytes: usize,
    /// Silence before a ping.
    pub ping_interval: Duration,
    /// How long to wait for an answer to it.
    pub pong: Duration,
    /// How long a close may take.
    pub close: Duration,
}

/// A connection: its session above the socket, and what its shard drives it by.
pub(super) struct Connection {
    link: Rc<Link>,
    session: Session,
    codec: &'static dyn Codec,
    channel: Option<ChannelName>,
    limits: WebSocketLimits,
    heartbeat: RefCell<Heartbeat>,
    heard: Cell<bool>,
    wrote: Cell<bool>,
    /// Whether the client has said that it leaves.
    left: Cell<bool>,
    /// Commands of the last message that wait for earlier ones. Bound: what fits into one message; while there are any,
    /// nothing is read.
    parked: RefCell<VecDeque<Envelope>>,
}

/// A connection in the care of its shard: when this is dropped, however that comes, its session has ended.
pub(super) struct Adopted {
    shard: Rc<Shard>,
    connection: Rc<Connection>,
}

impl Adopted {
    /// What the client asks.
    pub(super) fn session(&self) -> &Session {
        &self.connection.session
    }

    /// Serves the connection to its end. `early` are bytes that came behind the handshake.
    pub(super) async fn run(self, socket: TcpStream, early: Bytes) {
        let Self { shard, connection } = &self;
        let (figures, protocol, limits) = (shard.figures(), connection.codec.name(), connection.limits);
        figures.opened(protocol);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(usize::MAX) // the outbox hands over only what the socket takes
            .max_message_size(Some(limits.message_bytes))
            .max_frame_size(Some(limits.frame_bytes));
        let mut stream = WebSocketStream::from_partially_read(socket, early.to_vec(), Role::Server, Some(config)).await;
        let end = connection.serve(&mut stream).await;
        let (reason, at_once) = connection.close(&mut stream, end).await;
        connection.left.set(at_once);
        figures.closed(protocol, reason, connection.link.is_slow());
        tracing::debug!(reason, protocol, client = connection.session.client_id().as_deref(), "connection ended");
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        self.shard.release(self.connection.link.key());
        self.connection.session.ended(self.connection.left.get());
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The client closed, with this code.
    Client(Option<u16>),
    /// We close.
    Node(Goodbye),
    /// The client broke a rule of the WebSocket protocol.
    Broken(CloseCode),
    /// The socket is gone.
    Lost,
}

impl Connection {
    /// A connection that is about to be upgraded, in the care of its shard. `channel` is the one in the address, if it
    /// names one.
    pub(super) fn adopted(
        shard: &Rc<Shard>,
        session: Session,
        link: Rc<Link>,
        codec: &'static dyn Codec,
        channel: Option<ChannelName>,
        limits: WebSocketLimits,
    ) -> Adopted {
        let heartbeat = Heartbeat::new(limits.ping_interval, limits.pong, Instant::now());
        let connection = Rc::new(Self {
            link,
            session,
            codec,
            channel,
            limits,
            heartbeat: RefCell::new(heartbeat),
            heard: Cell::new(false),
            wrote: Cell::new(false),
            left: Cell::new(false),
            parked: RefCell::default(),
        });
        shard.adopt(connection.clone());
        Adopted { shard: shard.clone(), connection }
    }

    async fn serve(&self, stream: &mut WebSocketStream<TcpStream>) -> End {
        let mut cut: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|cx| {
            self.link.register(cx);
            if let Poll::Ready(end) = self.write(stream, cx) {
                return Poll::Ready(end);
            }
            if let Poll::Ready(end) = self.read(stream, cx) {
                return Poll::Ready(end);
            }
            // What was read may have been answered already.
            if let Poll::Ready(end) = self.write(stream, cx) {
                return Poll::Ready(end);
            }
            // A client that does not take its goodbye, nor anything before it, has until then.
            if self.link.is_closing() {
                if self.wrote.take() {
                    cut = None;
                }
                let cut = cut.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.limits.close)));
                ready!(cut.as_mut().poll(cx));
                return Poll::Ready(End::Lost);
            }
            Poll::Pending
        })
        .await
    }

    /// Gives the socket all that it takes. Ready when the connection ends.
    fn write(&self, stream: &mut WebSocketStream<TcpStream>, cx: &mut Context<'_>) -> Poll<End> {
        let mut stream = Pin::new(stream);
        let mut wrote = false;
        loop {
            match stream.as_mut().poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(broken(&error)),
                Poll::Pending => return Poll::Pending,
            }
            let message = if self.link.take_ping() {
                Message::Ping(Bytes::new())
            } else if let Some(frame) = self.link.pop() {
                wire(frame)
            } else if let Some(goodbye) = self.link.goodbye() {
                return Poll::Ready(End::Node(goodbye));
            } else if self.session.wants_drained() && !wrote {
                // The socket has taken everything: what was missed comes a piece at a time.
                self.session.drained();
                if self.link.is_drained() {
                    break;
                }
                continue;
            } else {
                break;
            };
            wrote = true;
            self.wrote.set(true);
            if let Err(error) = stream.as_mut().start_send(message) {
                return Poll::Ready(broken(&error));
            }
        }
        match stream.as_mut().poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(broken(&error)),
            Poll::Ready(Ok(())) if wrote && self.session.wants_drained() => {
                self.session.drained();
                Poll::Pending
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Carries out what the client has sent, as fast as the session takes it, and reads on when all of it is done. Ready
    /// when the connection ends.
    fn read(&self, stream: &mut WebSocketStream<TcpStream>, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..READS_PER_TURN {
            if !self.carry_out() {
                return Poll::Pending; // the session wakes us when it goes on
            }
            let message = match ready!(Pin::new(&mut *stream).poll_next(cx)) {
                None => return Poll::Ready(End::Lost),
                Some(Err(error)) => return Poll::Ready(broken(&error)),
                Some(Ok(message)) => message,
            };
            self.heard.set(true);
            let body = match &message {
                Message::Text(text) => Body::Text(text.as_ref()),
                Message::Binary(bytes) => Body::Binary(bytes),
                Message::Close(frame) => {
                    return Poll::Ready(End::Client(frame.as_ref().map(|frame| frame.code.into())));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            let incoming = Incoming { channel: self.channel.as_ref(), body };
            self.codec.decode(incoming, &mut |envelope| self.parked.borrow_mut().push_back(envelope));
        }
        cx.waker().wake_by_ref(); // other connections of the shard first
        Poll::Pending
    }

    /// Hands over what is parked, as far as the session takes it. True if all of it is done and more may be read.
    fn carry_out(&self) -> bool {
        while self.session.takes_commands() && !self.link.is_closing() {
            let mut parked = self.parked.borrow_mut();
            let Some(next) = parked.front() else { return true };
            if self.session.must_wait(next) {
                return false;
            }
            let next = parked.pop_front();
            drop(parked);
            next.into_iter().for_each(|envelope| self.session.handle(envelope));
        }
        false
    }

    /// Says goodbye (RFC 6455 §7.1) and waits for the client's, for a while. Returns the reason for the metrics, and
    /// whether the client meant to leave.
    async fn close(&self, stream: &mut WebSocketStream<TcpStream>, end: End) -> (&'static str, bool) {
        let (code, reason, word, at_once) = match end {
            End::Lost => return ("abnormal", false),
            End::Client(code) => {
                self.link.close(CloseCode::Normal.into()); // nothing is queued for it any more
                // tungstenite has answered already; what is left is to let the answer out.
                let answering = async {
                    stream.flush().await?;
                    linger(stream.get_mut()).await
                };
                let _ = timeout(self.limits.close, answering).await;
                let known = CloseCode::ALL.into_iter().find(|known| Some(known.code()) == code);
                let word = known.map_or("none", CloseCode::reason);
                return (word, matches!(code, Some(1000 | 1001)));
            }
            End::Node(goodbye) => {
                let (code, reason) = self.codec.farewell(&goodbye, self.link.position());
                (code, reason, goodbye.code.reason(), false)
            }
            End::Broken(code) => {
                self.link.close(code.into());
                (code, code.reason().into(), code.reason(), false)
            }
        };
        let frame = CloseFrame { code: code.code().into(), reason: reason.into_owned().into() };
        let closing = async {
            stream.close(Some(frame)).await?;
            while let Some(Ok(_)) = stream.next().await {}
            linger(stream.get_mut()).await
        };
        let _ = timeout(self.limits.close, closing).await; // whoever does not answer is cut
        (word, at_once)
    }
}

impl Owner for Connection {
    fn link(&self) -> &Rc<Link> {
        &self.link
    }

    fn attached(&self, channel: &ChannelName, outcome: Result<Option<StreamPosition>, SubscribeError>) {
        self.session.attached(channel, outcome);
    }

    fn answer(&self, ticket: u64, answer: Answer) {
        self.session.answer(ticket, answer);
    }

    fn beat(&self) -> Duration {
        let now = Instant::now();
        let mut heartbeat = self.heartbeat.borrow_mut();
        // While we do not read, silence is ours, not the client's.
        if self.heard.take() || !self.session.takes_commands() || !self.parked.borrow().is_empty() {
            heartbeat.heard(now);
        }
        if self.session.is_overdue() {
            let reason = "nothing was said within timeouts.connect".into();
            self.link.close(Goodbye { code: CloseCode::ClientProtocolError, reason, after_ms: 0 });
        }
        if self.session.wants_drained() {
            self.link.wake();
        }
        match heartbeat.poll(now) {
            Beat::Ping => {
                self.link.ping();
                TICK
            }
            Beat::Wait(_) if !self.session.is_connected() => TICK,
            Beat::Wait(at) => at.saturating_duration_since(now),
            Beat::Dead => {
                self.link.close(CloseCode::PingTimeout.into());
                TICK
            }
        }
    }

    fn leave(&self, goodbye: Goodbye) {
        self.session.leave(goodbye);
    }

    fn unsubscribe(&self, channel: &ChannelName, reason: &'static str) {
        self.session.end_subscription(channel, reason);
    }

    fn refresh(&self) {
        self.session.refresh();
    }

    fn describe(&self) -> Option<Description> {
        self.session.describe()
    }
}

/// Ends our half of the connection and reads the other to its end. A socket that is dropped with unread input is reset,
/// and the reset may overtake the close frame.
async fn linger(socket: &mut TcpStream) -> Result<(), Error> {
    socket.shutdown().await?;
    let mut scratch = [0; 1024];
    while socket.read(&mut scratch).await? > 0 {}
    Ok(())
}

/// The shared bytes go out as they are; [`Frame::text`] says that they are UTF-8.
fn wire(frame: Frame) -> Message {
    let kind = if frame.text { Data::Text } else { Data::Binary };
    Message::Frame(WireFrame::message(frame.payload, OpCode::Data(kind), true))
}

fn broken(error: &Error) -> End {
    match error {
        Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake
            | tokio_tungstenite::tungstenite::error::ProtocolError::SendAfterClosing
            | tokio_tungstenite::tungstenite::error::ProtocolError::ReceivedAfterClosing,
        ) => End::Lost,
        Error::Protocol(_) => End::Broken(CloseCode::ProtocolError),
        Error::Utf8(_) => End::Broken(CloseCode::InvalidPayload),
        Error::Capacity(CapacityError::MessageTooLong { .. } | CapacityError::TooManyHeaders) => {
            End::Broken(CloseCode::MessageTooBig)
        }
        _ => End::Lost,
    }
}
