//! One connection, as its shard sees it: a place to put frames.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    task::{Context, Waker},
};

use skywave_proto::{CloseCode, StreamPosition};

use super::outbox::Outbox;
use crate::push::{Encoded, Format, Frame, Goodbye, Prepared, Push};

/// The sending half of one connection. The shard appends, the connection's task takes.
pub struct Link {
    key: u64,
    format: &'static dyn Format,
    outbox: RefCell<Outbox>,
    ping: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Whose publications `"echo":false` leaves out; set once the client is known.
    client: RefCell<Option<Arc<str>>>,
    slow: Cell<bool>,
    position: Cell<Option<StreamPosition>>,
}

impl Link {
    pub(super) fn new(key: u64, format: &'static dyn Format, outbox_bytes: usize) -> Self {
        Self {
            key,
            format,
            outbox: RefCell::new(Outbox::new(outbox_bytes)),
            ping: Cell::new(false),
            waker: RefCell::new(None),
            client: RefCell::new(None),
            slow: Cell::new(false),
            position: Cell::new(None),
        }
    }

    /// Names the connection within its node, for as long as the node runs.
    pub fn key(&self) -> u64 {
        self.key
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

    /// Appends a push. Over the bound the client is a slow consumer and the connection ends.
    pub fn deliver(&self, push: &Prepared) {
        self.send(push.encoding(self.format).clone());
    }

    /// Appends a push for this connection alone.
    pub fn tell(&self, push: &Push) {
        self.send(self.format.encode(push));
    }

    /// Appends what was encoded.
    pub fn send(&self, encoded: Encoded) {
        match encoded {
            Encoded::Frame(frame) => self.append(frame),
            Encoded::Nothing => {}
            Encoded::Close(goodbye) => self.close(goodbye),
        }
    }

    fn append(&self, frame: Frame) {
        let full = self.outbox.borrow_mut().push(frame).is_err();
        if full {
            self.slow.set(true);
            self.outbox.borrow_mut().clear();
            self.close(CloseCode::SlowConsumer.into());
        }
        self.wake();
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
        self.wake();
    }

    /// Wakes the connection's task.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Wakes this task when there is something to take.
    pub fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    /// The next frame for the socket.
    pub fn pop(&self) -> Option<Frame> {
        let frame = self.outbox.borrow_mut().pop();
        if let Some(position) = frame.as_ref().and_then(Frame::position) {
            self.position.set(Some(position));
        }
        frame
    }

    /// The position of the last publication that the socket has been given.
    pub fn position(&self) -> Option<StreamPosition> {
        self.position.get()
    }

    /// Says where the client stands before its first publication.
    pub fn set_position(&self, position: Option<StreamPosition>) {
        self.position.set(position);
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
