//! One WebSocket, from upgrade to close: the connection's task.
//!
//! Reading goes on while writes are blocked, and nothing here waits for anything but the socket.

mod heartbeat;

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use skywave_backplane::SubscribeError;
use skywave_proto::{ChannelName, CloseCode, StreamPosition};
use tokio::time::{Instant, Sleep, timeout};

use self::heartbeat::{Beat, Heartbeat};
use super::{
    framed::{Ending, Framed},
    goodbye,
    parked::Parked,
    prepare::Compression,
    socket::Socket,
    websocket::{self, Event},
};
use crate::{
    clock::now_ms,
    metrics::{Figures, Transport},
    protocol::{Body, Codec, Incoming},
    push::{Frame, Goodbye},
    relay::Answer,
    session::Session,
    shard::{Description, Link, Owner, Shard, TICK},
};

/// Messages read in one turn before other connections of the shard get theirs.
const READS_PER_TURN: usize = 64;

/// Bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub struct WebSocketLimits {
    /// What a message may cost.
    pub message: websocket::Limits,
    /// How long a message may take, from its first byte to its last.
    pub assembly: Duration,
    /// Silence before a ping.
    pub ping_interval: Duration,
    /// How long to wait for an answer to it.
    pub pong: Duration,
    /// How long a close may take.
    pub close: Duration,
    /// How long the connection may last; `None`: for ever.
    pub age: Option<Duration>,
}

/// A connection: its session above the socket, and what its shard drives it by.
#[repr(C)]
pub(super) struct Connection {
    /// The socket and what is read and written there, while the connection is served. What a write looks at comes first:
    /// see [`Link`].
    wire: RefCell<Option<Framed>>,
    wrote: Cell<bool>,
    link: Rc<Link>,
    figures: Rc<Figures>,
    session: Session,
    codec: &'static dyn Codec,
    channel: Option<ChannelName>,
    limits: Rc<WebSocketLimits>,
    compression: Option<Compression>,
    heartbeat: RefCell<Heartbeat>,
    heard: Cell<bool>,
    /// When the connection is too old.
    lasts_until: Option<Instant>,
    /// Since when a message is unfinished.
    begun: Cell<Option<Instant>>,
    /// The answer to the client's last ping. Who pings faster than it reads gets one for all (RFC 6455 §5.5.3).
    pong: RefCell<Option<Bytes>>,
    /// Whether the client has said that it leaves.
    left: Cell<bool>,
    /// Commands of the last message that wait for earlier ones: while there are any, nothing is read.
    parked: Parked,
}

/// A connection in the care of its shard: when this is dropped, however that comes, its session has ended.
pub(super) struct Adopted {
    shard: Rc<Shard>,
    connection: Rc<Connection>,
    /// How it has ended, in a word.
    reason: Cell<&'static str>,
}

impl Adopted {
    /// What the client asks.
    pub(super) fn session(&self) -> &Session {
        &self.connection.session
    }

    /// Why the connection ends before it has begun, if it does.
    pub(super) fn ending(&self) -> Option<Goodbye> {
        self.connection.link.ending()
    }

    /// Gives the connection its socket. `early` are bytes that came behind the handshake.
    pub(super) fn begin(&self, socket: Socket, early: Bytes) {
        let Self { connection, .. } = self;
        connection.figures.opened(Transport::WebSocket, connection.codec.name());
        let wire = Framed::new(socket, early, connection.limits.message, connection.compression);
        connection.wire.replace(Some(wire));
    }

    /// Serves a connection that has [begun](Self::begin) to its end, and returns the socket.
    pub(super) async fn run(self) -> Option<Socket> {
        let end = self.connection.serve().await;
        // What the end takes is not kept room for all the time before.
        Box::pin(self.end(end)).await
    }

    async fn end(&self, end: End) -> Option<Socket> {
        let Self { connection, .. } = self;
        let mut wire = connection.wire.take()?;
        let (reason, at_once) = connection.close(&mut wire, end).await;
        connection.left.set(at_once);
        self.reason.set(reason);
        let protocol = connection.codec.name();
        connection.figures.closed(Transport::WebSocket, protocol, reason, connection.link.is_slow());
        tracing::debug!(reason, protocol, client = connection.session.client_id().as_deref(), "connection ended");
        Some(wire.into_socket())
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        self.shard.release(self.connection.link.key());
        self.connection.session.ended(self.reason.get(), self.connection.left.get());
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The client closed, with this code.
    Client(Option<u16>),
    /// We close.
    Node(Goodbye),
    /// Nothing more comes.
    Wire(Ending),
    /// We wanted to close, and the client did not take what came before that.
    Cut(Goodbye),
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
        limits: Rc<WebSocketLimits>,
        compression: Option<Compression>,
    ) -> Adopted {
        let heartbeat = Heartbeat::new(limits.ping_interval, limits.pong, Instant::now());
        let lasts_until = limits.age.and_then(|age| Instant::now().checked_add(age));
        let connection = Rc::new(Self {
            link,
            figures: shard.figures().clone(),
            session,
            codec,
            channel,
            limits,
            compression,
            wire: RefCell::new(None),
            heartbeat: RefCell::new(heartbeat),
            heard: Cell::new(false),
            lasts_until,
            begun: Cell::new(None),
            pong: RefCell::default(),
            wrote: Cell::new(false),
            left: Cell::new(false),
            parked: Parked::default(),
        });
        shard.adopt(connection.clone());
        Adopted { shard: shard.clone(), connection, reason: Cell::new("abnormal") }
    }

    async fn serve(&self) -> End {
        let mut cut: Option<Pin<Box<Sleep>>> = None;
        let mut latest = None;
        std::future::poll_fn(|cx| {
            self.link.register(cx);
            if let Some(wire) = &mut *self.wire.borrow_mut()
                && let Poll::Ready(end) = self.work(wire, cx)
            {
                return Poll::Ready(end);
            }
            // A client that does not take its goodbye, nor anything before it, has until then; one that takes it drop by drop
            // has a little longer.
            if let Some(goodbye) = self.link.ending() {
                let now = Instant::now();
                let latest = *latest.get_or_insert(now + self.limits.close + self.limits.pong);
                if self.wrote.take() {
                    cut = None;
                }
                let until = latest.min(now + self.limits.close);
                let cut = cut.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                ready!(cut.as_mut().poll(cx));
                return Poll::Ready(End::Cut(goodbye));
            }
            Poll::Pending
        })
        .await
    }

    /// Writes and reads as far as the socket lets us. Ready when the connection ends.
    fn work(&self, wire: &mut Framed, cx: &mut Context<'_>) -> Poll<End> {
        self.link.attend(true);
        // Behind what is read there is more to write: what was asked may have been answered already.
        let end = match self.write(wire, cx) {
            Poll::Pending => self.read(wire, cx),
            ended => ended,
        };
        let end = match end {
            // Its own publication comes back in a moment, and goes out with the answer to it.
            Poll::Pending if self.session.take_published() && !self.link.is_drained() => {
                self.link.defer();
                Poll::Pending
            }
            Poll::Pending => self.write(wire, cx),
            ended => ended,
        };
        self.link.attend(false);
        end
    }

    /// Gives the socket all that it takes. Ready when the connection ends.
    fn write(&self, wire: &mut Framed, cx: &mut Context<'_>) -> Poll<End> {
        if self.has_nothing_to_write(wire) {
            return Poll::Pending;
        }
        loop {
            self.add_control(wire);
            let sent = wire.poll_send(cx, &self.link, &self.wrote);
            self.link.set_blocked(sent.is_pending());
            if ready!(sent).is_err() {
                return Poll::Ready(End::Wire(Ending::Lost));
            }
            if self.pong.borrow().is_some() || !self.link.is_drained() {
                continue;
            }
            if let Some(goodbye) = self.link.goodbye() {
                return Poll::Ready(End::Node(goodbye));
            }
            // The socket has taken everything: what was missed comes a piece at a time.
            if self.session.wants_drained() {
                self.session.drained();
            }
            if self.link.is_drained() {
                return Poll::Pending;
            }
        }
    }

    /// A look that spares most turns of the task the rest: it was woken because its client has said something.
    fn has_nothing_to_write(&self, wire: &Framed) -> bool {
        self.link.is_idle()
            && !self.link.is_blocked()
            && wire.is_flushed()
            && self.pong.borrow().is_none()
            && !self.session.wants_drained()
    }

    /// Appends the control frames that are owed: they go before what waits in the outbox.
    fn add_control(&self, wire: &mut Framed) {
        // While the socket takes nothing the answer waits, and a later one takes its place: pings cannot be piled up.
        if !wire.is_full()
            && let Some(payload) = self.pong.take()
        {
            wire.pong(payload);
        }
        if self.link.take_ping() {
            wire.ping(self.heartbeat.borrow_mut().sent(Instant::now()));
        }
    }

    /// Carries out what the client has sent, as fast as the session takes it, and reads on when all of it is done. Ready
    /// when the connection ends.
    fn read(&self, wire: &mut Framed, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..READS_PER_TURN {
            if !self.parked.carry_out(&self.session, &self.link) {
                return Poll::Pending; // the session wakes us when it goes on
            }
            let polled = wire.poll_event(cx);
            if wire.take_heard() {
                self.heard.set(true);
            }
            let event = match polled {
                Poll::Ready(Ok(event)) => event,
                Poll::Ready(Err(ending)) => return Poll::Ready(End::Wire(ending)),
                Poll::Pending => {
                    let is_begun = wire.is_within_message();
                    self.begun.set(is_begun.then(|| self.begun.get().unwrap_or_else(Instant::now)));
                    return Poll::Pending;
                }
            };
            let body = match &event {
                Event::Text(text) => Body::Text(text.as_ref()),
                Event::Binary(bytes) => Body::Binary(bytes),
                Event::Close(close) => return Poll::Ready(End::Client(close.as_ref().map(|(code, _)| *code))),
                Event::Ping(payload) => {
                    self.session.hear_nothing();
                    self.pong.replace(Some(payload.clone()));
                    continue;
                }
                Event::Pong(payload) => {
                    self.session.hear_nothing();
                    if let Some(took) = self.heartbeat.borrow_mut().answered(payload, Instant::now()) {
                        self.figures.round_trip(took);
                    }
                    continue;
                }
            };
            self.begun.set(None);
            let incoming = Incoming { channel: self.channel.as_ref(), body };
            self.parked.take_in(self.codec, incoming, &self.session, &self.link);
            if self.link.is_loaded() {
                break; // what was answered first
            }
        }
        cx.waker().wake_by_ref(); // other connections of the shard first
        Poll::Pending
    }

    /// Says goodbye (RFC 6455 §7.1) and waits for the client's, for a while. Returns the reason for the metrics, and
    /// whether the client meant to leave.
    async fn close(&self, wire: &mut Framed, end: End) -> (&'static str, bool) {
        let deadline = self.limits.close;
        match end {
            End::Wire(Ending::Lost) => ("abnormal", false),
            End::Cut(goodbye) => (goodbye.code.reason(), false),
            End::Client(code) => {
                self.link.close(CloseCode::Normal.into()); // nothing is queued for it any more
                wire.close(code, "");
                let _ = timeout(deadline, wire.linger()).await;
                (code.and_then(CloseCode::of).map_or("none", CloseCode::reason), matches!(code, Some(1000 | 1001)))
            }
            End::Node(goodbye) => {
                let (code, reason) = self.codec.farewell(&goodbye, self.link.position());
                if let Some(frame) = self.codec.last_words(code, &reason) {
                    wire.send(&frame);
                }
                let _ = timeout(deadline, wire.farewell(code, &reason)).await; // whoever does not answer is cut
                (goodbye.code.reason(), false)
            }
            // What comes behind a broken rule means nothing.
            End::Wire(Ending::Broken(violation)) => {
                self.link.close(violation.code.into());
                wire.close(Some(violation.code.code()), violation.what);
                let _ = timeout(deadline, wire.linger()).await;
                (violation.code.reason(), false)
            }
        }
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
        let is_reading = self.session.takes_commands() && self.parked.is_empty();
        if self.heard.take() || !is_reading {
            heartbeat.heard(now);
        }
        if !is_reading && self.begun.get().is_some() {
            self.begun.set(Some(now));
        }
        if self.session.is_overdue() {
            self.link.close(goodbye::overdue());
        }
        if self.begun.get().is_some_and(|begun| now >= begun + self.limits.assembly) {
            let reason = "a message took longer than timeouts.message".into();
            self.link.close(Goodbye { code: CloseCode::PolicyViolation, reason, after_ms: 0 });
        }
        if self.session.wants_drained() {
            self.link.wake();
        }
        let mut lasts = self.expire().unwrap_or(Duration::MAX);
        if let Some(until) = self.lasts_until {
            lasts = lasts.min(until.saturating_duration_since(now));
            if now >= until && !self.link.is_closing() {
                self.leave(goodbye::too_old());
            }
        }
        let next = match heartbeat.poll(now) {
            Beat::Ping => {
                self.link.ping();
                TICK
            }
            Beat::Wait(_) if !self.session.is_connected() || self.begun.get().is_some() => TICK,
            Beat::Wait(at) => at.saturating_duration_since(now).min(self.limits.assembly),
            Beat::Dead => {
                self.link.close(CloseCode::PingTimeout.into());
                TICK
            }
        };
        next.min(lasts)
    }

    fn expire(&self) -> Option<Duration> {
        self.session.expire(now_ms()).map(Duration::from_millis)
    }

    fn leave(&self, goodbye: Goodbye) {
        self.session.leave(goodbye);
    }

    fn flush(&self) {
        // A connection that is not served yet, or no longer, has nothing to be written to.
        let waker = self.link.waker();
        let (Some(waker), Some(wire)) = (&*waker, &mut *self.wire.borrow_mut()) else { return };
        self.link.attend(true);
        if self.write(wire, &mut Context::from_waker(waker)).is_ready() {
            waker.wake_by_ref(); // the end is the task's business: it finds the same
        }
        self.link.attend(false);
    }

    fn drain(&self) {
        let waker = self.link.waker();
        let (Some(waker), Some(wire)) = (&*waker, &mut *self.wire.borrow_mut()) else { return };
        let sent = wire.poll_send(&mut Context::from_waker(waker), &self.link, &self.wrote);
        self.link.set_blocked(sent.is_pending());
        if matches!(sent, Poll::Ready(Err(_))) {
            waker.wake_by_ref(); // the end is the task's business: it finds the same
        }
    }

    fn offer(&self, frames: &[&Frame]) -> (usize, bool) {
        let Some(wire) = &mut *self.wire.borrow_mut() else { return (0, true) };
        wire.offer(frames, &self.wrote)
    }

    fn fall_behind(&self, channel: &ChannelName, after: StreamPosition) {
        self.session.fall_behind(channel, after);
    }

    fn unsubscribe(&self, channel: &ChannelName, reason: &'static str) {
        self.session.end_subscription(channel, reason);
    }

    fn subscribe(&self, channel: &ChannelName) {
        self.session.subscribe_by_order(channel);
    }

    fn refresh(&self) {
        self.session.refresh();
    }

    fn check_revoked(&self) {
        self.session.check_revoked();
    }

    fn describe(&self) -> Option<Description> {
        self.session.describe()
    }
}
