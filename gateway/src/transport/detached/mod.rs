//! A connection without a WebSocket: a session whose frames are taken one by one, by whoever is there to take them.
//!
//! [`Detached`] is to `/sse`, `/poll` and `/sockjs` what `transport/connection` is to `/ws`. Its shard drives it in the same
//! way (deadlines, expired tokens, orders of back ends, the drain), and its outbox has the same bound and policies. What is
//! different is who writes:
//!
//! - **Out.** The transport takes: [`Detached::poll_next`], or [`Detached::next`] as a future. At most one taker at a time: the
//!   last that asked is the one that is woken. Whatever it has taken is its own; as long as it has not come back for more, or
//!   nobody takes at all, the link counts as blocked, so what is published waits in the outbox, within
//!   `limits.outbox_bytes` and by the channel's `slow_consumer`. A taker that goes says so with [`Detached::let_go`] (a
//!   dropped [`Detached::next`] does): from then on silence is the transport's business, such as the time between two polls.
//!   One that has taken something and does not come back within [`Terms::patience`] has a slow client behind it.
//! - **In.** [`Detached::hear`] takes one message, through the codec, with the limits of the session. What has to wait for
//!   earlier commands is parked; until that is done, [`Detached::is_ready`] is false, and a transport that takes more in
//!   before [`Detached::ready`] has returned lets a client pile it up.
//! - **End.** Either side: [`Next::End`] is the last thing to take, after all that waits (drain, revoked token, age, too slow).
//!   Dropping the handle is the client's own end, so it is held as long as there is a client. A client that does not take its goodbye is cut: the session ends, and [`Detached::on_cut`] tells the transport to
//!   let go of the socket.
//!
//! It never pings and never reads a clock for the client's sake: [`Next::Beat`] says that nothing has been taken for so long
//! that a proxy may think the worst.

mod taking;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use skywave_backplane::SubscribeError;
use skywave_proto::{ChannelName, CloseCode, StreamPosition};
use tokio::{sync::Notify, time::Instant};

use self::taking::{Step, Taking};
use super::{goodbye, parked::Parked};
use crate::{
    clock::now_ms,
    metrics::{Figures, Transport},
    protocol::{Body, Codec, Incoming},
    push::{Frame, Goodbye},
    relay::Answer,
    session::Session,
    shard::{Description, Link, Owner, Shard, TICK},
};

/// What one turn of the shard may bring to a taker that waits, in bytes of payload, before it counts as slow for not having
/// taken it: as much as the kernel keeps for a socket. The bytes are shared with all who get the same.
const HANDED_BYTES: usize = 1024 * 1024;

/// How long what takes time may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// So much silence towards a taker that waits, then a [`Next::Beat`]; `None`: never one.
    pub(super) beat_interval: Option<Duration>,
    /// A taker that has taken something comes back within this (`timeouts.pong`).
    pub(super) patience: Duration,
    /// How long the goodbye may take (`timeouts.close`).
    pub(super) close: Duration,
    /// How long the connection may last; `None`: for ever.
    pub(super) age: Option<Duration>,
}

/// What is there to take.
#[derive(Debug)]
pub(super) enum Next {
    /// A frame, in the format of the codec.
    Frame(Frame),
    /// Nothing: show the client, and whatever stands between, that somebody is there.
    Beat,
    /// The last: the connection ends, and has ended for the session.
    End(Goodbye),
}

/// See the module. This handle is the transport's; when it is dropped the session has ended.
pub(super) struct Detached(Rc<Inner>);

struct Inner {
    shard: Rc<Shard>,
    link: Rc<Link>,
    figures: Rc<Figures>,
    session: Session,
    codec: &'static dyn Codec,
    transport: Transport,
    /// The one in the address, if it names one.
    channel: Option<ChannelName>,
    taking: RefCell<Taking>,
    /// Taken out of the outbox for a taker that waits and has not had its turn. Bound: [`HANDED_BYTES`], and one outbox.
    handed: RefCell<Handed>,
    parked: Parked,
    /// Told when commands that were parked are done.
    done: Notify,
    lasts_until: Option<Instant>,
    /// Whether it is counted among the connections.
    has_begun: Cell<bool>,
    has_ended: Cell<bool>,
    on_cut: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Detached {
    /// A connection in the care of its shard, which nobody takes from yet. `channel` is the one in the address, if it names
    /// one. It is not counted before [`Detached::begin`].
    pub(super) fn adopted(
        shard: &Rc<Shard>,
        session: Session,
        link: Rc<Link>,
        codec: &'static dyn Codec,
        channel: Option<ChannelName>,
        transport: Transport,
        terms: Terms,
    ) -> Self {
        let now = Instant::now();
        link.set_blocked(true); // nobody takes
        let inner = Rc::new(Inner {
            link,
            figures: shard.figures().clone(),
            session,
            codec,
            transport,
            channel,
            taking: RefCell::new(Taking::new(terms, now)),
            handed: RefCell::default(),
            parked: Parked::default(),
            done: Notify::new(),
            lasts_until: terms.age.and_then(|age| now.checked_add(age)),
            has_begun: Cell::new(false),
            has_ended: Cell::new(false),
            on_cut: RefCell::default(),
            shard: shard.clone(),
        });
        shard.adopt(inner.clone());
        Self(inner)
    }

    /// What the client asks.
    pub(super) fn session(&self) -> &Session {
        &self.0.session
    }

    /// Why the connection ends, if it does, whatever is to be taken before it.
    pub(super) fn ending(&self) -> Option<Goodbye> {
        self.0.link.ending()
    }

    /// The client is let in: it counts as a connection from now on, until it ends.
    pub(super) fn begin(&self) {
        if !self.0.has_begun.replace(true) {
            self.0.figures.opened(self.0.transport, self.0.codec.name());
        }
    }

    /// What lets go of the socket of a client that does not take its goodbye.
    pub(super) fn on_cut(&self, act: impl FnOnce() + 'static) {
        self.0.on_cut.replace(Some(Box::new(act)));
    }

    /// The next thing to take. Pending: the caller's task is woken when there is one. Not to be called after [`Next::End`].
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Next> {
        let inner = &*self.0;
        inner.link.register(cx);
        inner.link.attend(true);
        let next = inner.poll_next();
        inner.link.attend(false);
        next
    }

    /// As [`Detached::poll_next`].
    ///
    /// # Cancel safety
    /// Cancel-safe: nothing is lost. Dropped before it is ready it is a [`Detached::let_go`]; after that the caller comes back
    /// for more, or lets go.
    pub(super) fn next(&self) -> impl Future<Output = Next> {
        Taker { from: self, is_waiting: false }
    }

    /// Another frame that is there already, for a taker that has just taken one and comes back at once.
    pub(super) fn more(&self) -> Option<Frame> {
        let frame = self.0.handed.borrow_mut().pop();
        frame.or_else(|| self.0.link.pop())
    }

    /// What the client hears at the end.
    pub(super) fn farewell(&self, goodbye: &Goodbye) -> (CloseCode, std::borrow::Cow<'static, str>) {
        self.0.codec.farewell(goodbye, self.0.link.position())
    }

    /// Nobody takes for now.
    pub(super) fn let_go(&self) {
        self.0.link.set_blocked(true);
        self.0.taking.borrow_mut().left(Instant::now());
    }

    /// Takes a message in, at most `limits.message_bytes` of it, which the caller has seen to.
    pub(super) fn hear(&self, body: Body<'_>) {
        let inner = &*self.0;
        let incoming = Incoming { channel: inner.channel.as_ref(), body };
        inner.parked.take_in(inner.codec, incoming, &inner.session, &inner.link);
    }

    /// Whether all that was heard is done, or on its way, so that more may be heard.
    pub(super) fn is_ready(&self) -> bool {
        self.0.parked.carry_out(&self.0.session, &self.0.link)
    }

    /// Returns once more may be heard, or the connection is ending.
    ///
    /// # Cancel safety
    /// Cancel-safe: only waits.
    pub(super) async fn ready(&self) {
        loop {
            let done = self.0.done.notified();
            if self.is_ready() || self.0.link.is_closing() || self.0.has_ended.get() {
                return;
            }
            done.await;
        }
    }

    /// Says goodbye: what waits can still be taken, and then that.
    #[cfg(test)]
    pub(super) fn leave(&self, goodbye: Goodbye) {
        self.0.session.leave(goodbye);
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        // A client of HTTP leaves by closing, and says no word.
        self.0.end("none");
    }
}

/// See [`Detached::next`].
struct Taker<'a> {
    from: &'a Detached,
    is_waiting: bool,
}

impl Future for Taker<'_> {
    type Output = Next;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        let next = self.from.poll_next(cx);
        self.is_waiting = next.is_pending();
        next
    }
}

impl Drop for Taker<'_> {
    fn drop(&mut self) {
        if self.is_waiting {
            self.from.let_go();
        }
    }
}

impl Inner {
    fn poll_next(&self) -> Poll<Next> {
        loop {
            let handed = self.handed.borrow_mut().pop();
            if let Some(frame) = handed.or_else(|| self.link.pop()) {
                return self.take(Next::Frame(frame));
            }
            if let Some(goodbye) = self.link.goodbye() {
                let reason = goodbye.code.reason();
                self.end(reason);
                return Poll::Ready(Next::End(goodbye));
            }
            if self.link.take_ping() {
                return self.take(Next::Beat);
            }
            self.link.set_blocked(false);
            // Everything has been taken: what was missed comes a piece at a time.
            if self.session.wants_drained() {
                self.session.drained();
            }
            if self.link.is_drained() && !self.link.is_closing() {
                self.taking.borrow_mut().waits(Instant::now());
                return Poll::Pending;
            }
        }
    }

    fn take(&self, next: Next) -> Poll<Next> {
        self.link.set_blocked(true); // until the taker comes back
        self.taking.borrow_mut().took(Instant::now());
        Poll::Ready(next)
    }

    fn end(&self, reason: &'static str) {
        if self.has_ended.replace(true) {
            return;
        }
        self.shard.release(self.link.key());
        let protocol = self.codec.name();
        if self.has_begun.get() {
            self.figures.closed(self.transport, protocol, reason, self.link.is_slow());
            tracing::debug!(reason, protocol, client = self.session.client_id().as_deref(), "connection ended");
        }
        self.session.ended(reason, false);
        self.done.notify_waiters();
    }

    /// The session may have made room for what is parked.
    fn proceed(&self) {
        if !self.parked.is_empty() {
            self.parked.carry_out(&self.session, &self.link);
        }
        self.done.notify_waiters();
    }

    fn cut(&self) {
        let reason = self.link.ending().map_or("abnormal", |goodbye| goodbye.code.reason());
        self.end(reason);
        if let Some(act) = self.on_cut.take() {
            act();
        }
    }
}

/// See [`Inner`]. Holds nothing once all of it is taken.
#[derive(Default)]
struct Handed {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Handed {
    fn push(&mut self, frame: Frame) {
        self.bytes += frame.payload().len();
        self.frames.push_back(frame);
    }

    fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.payload().len();
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
        Some(frame)
    }
}

impl Owner for Inner {
    fn link(&self) -> &Rc<Link> {
        &self.link
    }

    fn attached(&self, channel: &ChannelName, outcome: Result<Option<StreamPosition>, SubscribeError>) {
        self.session.attached(channel, outcome);
        self.proceed();
    }

    fn answer(&self, ticket: u64, answer: Answer) {
        self.session.answer(ticket, answer);
        self.proceed();
    }

    fn beat(&self) -> Duration {
        let now = Instant::now();
        if self.session.is_overdue() {
            self.link.close(goodbye::overdue());
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
        let step = self.taking.borrow_mut().poll(self.link.is_closing(), now);
        let next = match step {
            Step::Wait(_) if !self.session.is_connected() => TICK,
            Step::Wait(wait) => wait,
            Step::Beat => {
                self.link.ping();
                self.link.wake();
                TICK
            }
            Step::Slow => {
                self.link.give_up();
                TICK
            }
            Step::Cut => {
                self.cut();
                TICK
            }
        };
        self.proceed();
        next.min(lasts)
    }

    fn expire(&self) -> Option<Duration> {
        self.session.expire(now_ms()).map(Duration::from_millis)
    }

    fn leave(&self, goodbye: Goodbye) {
        self.session.leave(goodbye);
    }

    fn flush(&self) {
        self.link.wake();
    }

    /// The taker waits and has not had its turn: it is given what there is. What is too much for one turn is judged as for one
    /// that is busy.
    fn drain(&self) {
        let mut handed = self.handed.borrow_mut();
        while let Some(frame) = self.link.pop() {
            handed.push(frame);
        }
        if handed.bytes > HANDED_BYTES {
            self.link.set_blocked(true);
        }
        drop(handed);
        self.link.wake();
    }

    fn offer(&self, _: &[&Frame]) -> (usize, bool) {
        (0, true)
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
