//! One connection, as its shard sees it: a place to put frames.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Waker},
};

use skywave_proto::{CloseCode, StreamPosition};

use super::{
    Owner,
    backlog::Waiting,
    delivery::{Delivery, Parcel, Ready},
    flush::Dirty,
    outbox::{self, Outbox, Pushed},
};
use crate::{
    config::SlowConsumer,
    push::{Encoded, Format, Frame, Goodbye, Prepared, Push},
};

/// The sending half of one connection. The shard appends, and writes to the socket at the end of its turn; what the socket
/// does not take then the connection's task writes as it drains.
///
/// In the order that it has here: a pass over ten thousand of them waits for memory most of all, and what it looks at
/// stands together.
#[repr(C)]
pub struct Link {
    format: &'static dyn Format,
    /// The connection itself, once its shard drives it.
    owner: OnceCell<Weak<dyn Owner>>,
    /// It is written to at the end of the turn that goes on.
    is_dirty: Cell<bool>,
    /// Its own task is at work, and writes when it is done.
    is_attended: Cell<bool>,
    /// The socket takes nothing: its task is woken when it does.
    is_blocked: Cell<bool>,
    /// … and publications have been left out for it since.
    is_conflating: Cell<bool>,
    ping: Cell<bool>,
    slow: Cell<bool>,
    outbox: RefCell<Outbox>,
    waker: RefCell<Option<Waker>>,
    /// What of the outbox is counted among what waits on the node, in bytes.
    counted: Cell<usize>,
    dirty: Rc<Dirty>,
    waiting: Rc<Waiting>,
    me: Weak<Link>,
    key: u64,
    /// Whose publications `"echo":false` leaves out; set once the client is known.
    client: RefCell<Option<Arc<str>>>,
}

/// What became of a publication for a slow consumer, where it was not just queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slow {
    /// It lost some, and was not behind before.
    Lost(SlowConsumer),
    /// It goes on from history after this position.
    Behind(StreamPosition),
}

impl Link {
    pub(super) fn new(
        key: u64,
        format: &'static dyn Format,
        outbox_bytes: usize,
        dirty: Rc<Dirty>,
        waiting: Rc<Waiting>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            key,
            me: me.clone(),
            format,
            outbox: RefCell::new(Outbox::new(outbox_bytes)),
            owner: OnceCell::new(),
            dirty,
            waiting,
            counted: Cell::new(0),
            is_dirty: Cell::new(false),
            is_attended: Cell::new(false),
            is_blocked: Cell::new(false),
            is_conflating: Cell::new(false),
            ping: Cell::new(false),
            waker: RefCell::new(None),
            client: RefCell::new(None),
            slow: Cell::new(false),
        })
    }

    /// Names the connection within its node, for as long as the node runs.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// From now on the connection is written to through its owner.
    pub(super) fn set_owner(&self, owner: Weak<dyn Owner>) {
        let _ = self.owner.set(owner); // a connection is adopted once
    }

    /// Says whose connection this is.
    pub fn set_client(&self, client: Arc<str>) {
        *self.client.borrow_mut() = Some(client);
    }

    /// Whether the client is known.
    pub(super) fn has_client(&self) -> bool {
        self.client.borrow().is_some()
    }

    /// Whether that client published this.
    pub(super) fn is_own(&self, publisher: Option<&Arc<str>>) -> bool {
        publisher.is_some() && self.client.borrow().as_ref() == publisher
    }

    /// Gives the socket these at once, if nothing waits for it. Returns how many it took; the others are not queued.
    pub(super) fn offer(&self, frames: &[&Frame]) -> usize {
        let must_wait = self.is_blocked.get() || self.is_dirty.get() || self.is_attended.get();
        if must_wait || !self.outbox.borrow().is_idle() {
            return 0;
        }
        let Some(owner) = self.owner.get().and_then(Weak::upgrade) else { return 0 };
        let (taken, is_all) = owner.offer(frames);
        if taken > 0 && !is_all {
            self.appended(); // of the last a part is left
        }
        if let Some(position) = taken.checked_sub(1).and_then(|last| frames[last].position()) {
            self.set_position(Some(position));
        }
        taken
    }

    /// Appends a push that others get too. Over the bound its channel's policy decides, and what is done is returned.
    pub(super) fn deliver(&self, delivery: &Delivery) -> Option<Slow> {
        match delivery.ready(self.format) {
            Ready::Parcel(parcel) => self.append(parcel.clone()),
            Ready::Nothing => None,
            Ready::Close(goodbye) => {
                self.close(goodbye.clone());
                None
            }
        }
    }

    /// Appends what was prepared for others too, and must not be left out.
    pub(super) fn deliver_surely(&self, push: &Prepared) {
        self.send(push.encoding(self.format).clone());
    }

    /// Appends a push for this connection alone.
    pub fn tell(&self, push: &Push) {
        self.send(self.format.encode(push));
    }

    /// Appends what was encoded.
    pub fn send(&self, encoded: Encoded) {
        match encoded {
            Encoded::Frame(frame) => drop(self.append(Parcel::of(frame))),
            Encoded::Nothing => {}
            Encoded::Close(goodbye) => self.close(goodbye),
        }
    }

    fn append(&self, parcel: Rc<Parcel>) -> Option<Slow> {
        if !self.is_blocked.get() && !self.outbox.borrow().fits(&parcel) {
            // Nobody is slow before the socket has been tried.
            if self.is_attended.get() {
                self.outbox.borrow_mut().push_unjudged(parcel);
                return None;
            }
            if let Some(owner) = self.owner.get().and_then(Weak::upgrade) {
                owner.drain();
            }
        }
        let pushed = self.outbox.borrow_mut().push(parcel, self.is_blocked.get());
        let slow = match pushed {
            Pushed::Queued => None,
            Pushed::Conflated => (!self.is_conflating.replace(true)).then_some(Slow::Lost(SlowConsumer::Latest)),
            Pushed::Behind(after) => Some(Slow::Behind(after)),
            Pushed::Dropped if self.tells_gaps() => Some(Slow::Lost(SlowConsumer::DropOldest)),
            Pushed::Dropped | Pushed::Full => {
                self.give_up();
                None
            }
        };
        self.appended();
        slow
    }

    /// Whether the client can be told that publications were dropped; otherwise the connection can only end.
    fn tells_gaps(&self) -> bool {
        !matches!(self.format.encode(&outbox::any_gap()), Encoded::Close(_))
    }

    /// The client does not read fast enough: drops what waits for it and ends the connection.
    pub fn give_up(&self) {
        self.slow.set(self.slow.get() || !self.is_closing());
        self.outbox.borrow_mut().clear();
        self.close(CloseCode::SlowConsumer.into());
    }

    /// The node has too much waiting, and here is the most of it: makes it less.
    pub(super) fn shed(&self, bytes: usize) {
        if !self.tells_gaps() || !self.outbox.borrow_mut().shed(bytes) {
            self.give_up();
        }
        self.settle();
    }

    /// Counts what waits among what waits on the node.
    fn settle(&self) {
        let (before, now) = (self.counted.get(), self.outbox.borrow().bytes());
        if before != now {
            self.counted.set(now);
            self.waiting.changed(self.key, &self.me, before, now);
        }
    }

    /// Sees to it that what was appended is written.
    fn appended(&self) {
        if self.is_blocked.get() {
            return self.settle();
        }
        if self.is_attended.get() || self.is_dirty.get() {
            return;
        }
        let noted = self.me.upgrade().is_some_and(|link| self.dirty.note(&link));
        if noted { self.is_dirty.set(true) } else { self.wake() }
    }

    /// Leaves what waits to the shard's next turn, which comes soon: what else comes for the connection until then goes out
    /// with it.
    pub fn defer(&self) {
        if !self.is_blocked.get()
            && !self.is_dirty.replace(true)
            && let Some(link) = self.me.upgrade()
        {
            self.dirty.note_for_next(&link);
        }
    }

    /// Writes what waits, as far as the socket takes it without being waited for.
    pub(super) fn flush(&self) {
        self.is_dirty.set(false);
        if self.is_blocked.get() {
            return;
        }
        match self.owner.get().and_then(Weak::upgrade) {
            Some(owner) => owner.flush(),
            None => self.wake(),
        }
    }

    /// Ends the connection after what is queued.
    pub fn close(&self, goodbye: Goodbye) {
        let last = match self.format.encode(&Push::Disconnect(goodbye.clone())) {
            Encoded::Frame(frame) => Some(frame),
            Encoded::Nothing | Encoded::Close(_) => None,
        };
        self.outbox.borrow_mut().finish(goodbye, last);
        self.wake();
    }

    /// Asks the connection to ping its client.
    pub fn ping(&self) {
        self.ping.set(true);
        self.appended();
    }

    /// Wakes the connection's task.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Wakes this task when there is something that only it can do.
    pub fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    /// The task that writes what the socket does not take at once; nobody before there is one. Borrowed for one write.
    pub fn waker(&self) -> std::cell::Ref<'_, Option<Waker>> {
        self.waker.borrow()
    }

    /// The connection's task is at work now, or done: meanwhile nobody need wake it.
    pub fn attend(&self, is_attended: bool) {
        self.is_attended.set(is_attended);
    }

    /// Says whether the socket takes nothing more for now.
    pub fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.set(is_blocked);
        if !is_blocked {
            self.is_conflating.set(false);
        }
        self.settle();
    }

    /// What waits for the socket. Borrowed for one write.
    pub fn outbox(&self) -> std::cell::RefMut<'_, Outbox> {
        self.outbox.borrow_mut()
    }

    /// The format of the frames in it.
    pub fn format(&self) -> &'static dyn Format {
        self.format
    }

    /// The next frame for the socket.
    pub fn pop(&self) -> Option<Frame> {
        self.outbox.borrow_mut().pop(self.format)
    }

    /// The position of the last publication that the socket has been given.
    pub fn position(&self) -> Option<StreamPosition> {
        self.outbox.borrow().position()
    }

    /// Says where the client stands before its first publication.
    pub fn set_position(&self, position: Option<StreamPosition>) {
        self.outbox.borrow_mut().set_position(position);
    }

    /// Whether a ping is asked for; asked once.
    pub fn take_ping(&self) -> bool {
        self.ping.take()
    }

    /// The goodbye, once all before it has been taken.
    pub fn goodbye(&self) -> Option<Goodbye> {
        self.outbox.borrow().goodbye().cloned()
    }

    /// The goodbye, whatever is to be taken before it.
    pub fn ending(&self) -> Option<Goodbye> {
        self.outbox.borrow().ending().cloned()
    }

    /// Whether the connection is ending.
    pub fn is_closing(&self) -> bool {
        self.outbox.borrow().is_finished()
    }

    /// Whether there is nothing to be written, and no end to come to.
    pub fn is_idle(&self) -> bool {
        !self.ping.get() && self.outbox.borrow().is_idle()
    }

    /// Whether the socket takes nothing more for now.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    /// Whether so much waits that the socket is to be tried before more is asked of the client.
    pub fn is_loaded(&self) -> bool {
        let outbox = self.outbox.borrow();
        outbox.bytes() > outbox.bound() / 2
    }

    /// Whether the socket has taken everything.
    pub fn is_drained(&self) -> bool {
        self.outbox.borrow().is_empty()
    }

    /// Whether it ends because the client did not read.
    pub fn is_slow(&self) -> bool {
        self.slow.get()
    }

    /// What may be set aside for this connection beside its outbox, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.outbox.borrow().bound() / 4
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.waiting.changed(self.key, &self.me, self.counted.get(), 0);
    }
}
