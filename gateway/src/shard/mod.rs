//! One thread, one runtime, the connections that it owns and which channels they are on.
//!
//! A shard's loop never waits for Redis, a lock or another shard: what it wants goes into bounded queues, and what
//! others want of it comes through its [`ShardHandle`]'s mailbox.

mod backlog;
mod delivery;
mod flush;
mod handle;
mod held;
mod hub;
mod link;
mod members;
mod outbox;
mod wheel;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ops::ControlFlow,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use skywave_backplane::{BackplaneState, SubscribeError};
use skywave_proto::{ChannelName, StreamPosition};
use tokio::{sync::mpsc, time::Instant};

pub use self::{
    backlog::Backlog,
    handle::{Item, Seat, ShardHandle, ShardSpawnError},
    hub::{Activation, Attach, Attached, Hub},
    link::Link,
    outbox::{Outbox, Pushed},
    wheel::TICK,
};
use self::{backlog::Waiting, flush::Dirty, wheel::Wheel};
use crate::{
    metrics::Figures,
    push::{Format, Frame, Goodbye, Push},
    relay::{Answer, MembersAnswer, Relay},
};

/// How many items are taken from the mailbox before the connections get their turn.
const BATCH: usize = 256;

/// How many members are given what is pending before other channels, and the connections, get their turn.
const SLICE: usize = 256;
/// What a shard drives: one connection and the client behind it. The shard knows no protocol.
pub trait Owner {
    /// Where the shard puts frames.
    fn link(&self) -> &Rc<Link>;

    /// The channel is live here, or could not be joined.
    fn attached(&self, channel: &ChannelName, outcome: Result<Option<StreamPosition>, SubscribeError>);

    /// The backplane has answered.
    fn answer(&self, ticket: u64, answer: Answer);

    /// Time has passed: check deadlines, and say when to come back.
    fn beat(&self) -> Duration;

    /// Ends what has come to its end, and says when the next such thing does; `None`: nothing has one.
    fn expire(&self) -> Option<Duration>;

    /// The node asks the connection to leave.
    fn leave(&self, goodbye: Goodbye);

    /// Subscribes the client, who did not ask and need not have the right: a back end has ordered it.
    fn subscribe(&self, channel: &ChannelName);

    /// Ends a subscription that the client would keep; `reason` is the word on the wire.
    fn unsubscribe(&self, channel: &ChannelName, reason: &'static str);

    /// Looks at the client's rights again, and ends the subscriptions that it has none for any more.
    fn refresh(&self);

    /// Ends the connection if it is here by a token that no longer counts.
    fn check_revoked(&self);

    /// Writes what waits for it, as far as its socket takes it without being waited for.
    fn flush(&self);

    /// The same, and nothing but that: whoever calls it has the hub in hand.
    fn drain(&self);

    /// Gives its socket these frames, before which nothing waits. Returns how many of them it took, and whether all there
    /// was: otherwise [`Owner::flush`] is to follow, for of the last it may have taken a part only.
    fn offer(&self, frames: &[&Frame]) -> (usize, bool);

    /// It did not take a channel's publications in time: they come from history, after this position.
    fn fall_behind(&self, channel: &ChannelName, after: StreamPosition);

    /// Whether there is a client of the node's behind it, which could as well be another node's.
    fn is_client(&self) -> bool {
        true
    }

    /// What back ends are told of it; nothing until its client is known.
    fn describe(&self) -> Option<Description>;
}

/// One connection, as back ends see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Whose it is.
    pub client: Arc<str>,
    /// The user behind the client.
    pub user: Option<Arc<str>>,
    /// What it speaks, as in the label of metrics.
    pub protocol: &'static str,
    /// When it was opened: milliseconds since 1970.
    pub connected_at_ms: u64,
    /// Its subscriptions.
    pub channels: Vec<ChannelName>,
}

/// One shard, on its own thread.
pub struct Shard {
    index: usize,
    relay: Relay,
    figures: Rc<Figures>,
    hub: RefCell<Hub>,
    owners: RefCell<HashMap<u64, Rc<dyn Owner>, ahash::RandomState>>,
    wheel: RefCell<Wheel>,
    handle: ShardHandle,
    draining: Cell<bool>,
    dirty: Rc<Dirty>,
    waiting: Rc<Waiting>,
}

static KEYS: AtomicU64 = AtomicU64::new(1);

impl Shard {
    pub(crate) fn new(handle: ShardHandle, relay: Relay, backlog: Arc<Backlog>) -> Rc<Self> {
        let figures = Rc::new(Figures::new());
        Rc::new(Self {
            index: handle.index(),
            hub: RefCell::new(Hub::new(handle.index(), relay.clone(), figures.clone())),
            relay,
            figures,
            owners: RefCell::default(),
            wheel: RefCell::default(),
            draining: Cell::new(false),
            dirty: Rc::default(),
            waiting: Waiting::new(handle.index(), backlog),
            handle,
        })
    }

    /// Which of the node's shards this is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The way to the backplane.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// This shard's handles of the metrics.
    pub fn figures(&self) -> &Rc<Figures> {
        &self.figures
    }

    /// The channels. Borrowed for one call, never across another.
    pub fn hub(&self) -> std::cell::RefMut<'_, Hub> {
        self.hub.borrow_mut()
    }

    /// A link for a new connection.
    pub fn link(&self, format: &'static dyn Format, outbox_bytes: usize) -> Rc<Link> {
        Link::new(KEYS.fetch_add(1, Ordering::Relaxed), format, outbox_bytes, self.dirty.clone(), self.waiting.clone())
    }

    /// The shard drives this connection from now on. Should the node be leaving already, the connection is told.
    pub fn adopt(&self, owner: Rc<dyn Owner>) {
        let key = owner.link().key();
        owner.link().set_owner(Rc::downgrade(&owner));
        if self.draining.get() {
            owner.leave(skywave_proto::CloseCode::Draining.into());
        }
        self.owners.borrow_mut().insert(key, owner);
        self.wheel.borrow_mut().schedule(key, TICK);
    }

    /// The connection has ended.
    pub fn release(&self, key: u64) {
        self.owners.borrow_mut().remove(&key);
    }

    /// The connection with this key, while it lasts.
    pub fn owner(&self, key: u64) -> Option<Rc<dyn Owner>> {
        self.owners.borrow().get(&key).cloned()
    }

    /// Does something to every connection, `SLICE` at a time, so that nobody waits for all of them. Those that come
    /// meanwhile are left out.
    pub fn for_everybody(self: &Rc<Self>, act: impl Fn(&dyn Owner) + 'static) {
        let shard = self.clone();
        let keys: Vec<u64> = self.owners.borrow().keys().copied().collect();
        tokio::task::spawn_local(async move {
            for slice in keys.chunks(SLICE) {
                for owner in slice.iter().filter_map(|key| shard.owner(*key)) {
                    act(&*owner);
                }
                tokio::task::yield_now().await;
            }
        });
    }

    async fn run(self: Rc<Self>, mut mailbox: mpsc::Receiver<Item>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_work = self.hub.borrow().has_work() || (mailbox.is_empty() && self.handle.has_late());
            let opening = self.hub.borrow().next_opening();
            let taken = tokio::select! {
                biased;
                _ = ticks.tick() => {
                    self.dirty.begin();
                    self.tick();
                    0
                }
                taken = mailbox.recv_many(&mut batch, BATCH) => match taken {
                    0 => return,
                    taken => taken,
                },
                () = self.dirty.wanted() => 0,
                // What is pending goes on to members, after a look at what has come.
                () = std::future::ready(()), if has_work => 0,
                () = until(opening), if opening.is_some() => 0,
            };
            self.dirty.begin();
            let mut turn = self.take(&mut batch);
            if turn.is_continue() && self.handle.take_late(&mut batch, taken, mailbox.is_empty()) {
                turn = self.take(&mut batch);
            }
            self.handle.take_lost(|channel, lost| self.hub.borrow_mut().lost(channel, lost));
            self.deliver();
            self.dirty.end();
            self.waiting.relieve();
            if turn.is_break() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Brings what is pending to the next members, and writes to whoever was given something.
    fn deliver(&self) {
        let mut hub = self.hub.borrow_mut();
        if hub.next_opening().is_some() {
            hub.open(Instant::now());
        }
        hub.advance(SLICE);
        drop(hub);
        self.fall_behind();
        self.dirty.flush();
    }

    /// Tells connections which of their channels come from history now.
    fn fall_behind(&self) {
        let behind = self.hub.borrow_mut().take_behind();
        for (key, channel, after) in behind {
            if let Some(owner) = self.owner(key) {
                owner.fall_behind(&channel, after);
            }
        }
    }

    fn take(self: &Rc<Self>, batch: &mut Vec<Item>) -> ControlFlow<()> {
        for item in batch.drain(..) {
            match item {
                Item::Push(push) => {
                    let is_full = self.hub.borrow_mut().push(&push);
                    if is_full {
                        self.deliver(); // before more of it comes than can be kept
                    }
                }
                Item::Joined(channel, join, outcome) => self.joined(&channel, join, outcome),
                Item::Answer(receipt, answer) => self.answer(receipt.connection, receipt.ticket, answer),
                Item::Backplane(state) => self.backplane(state),
                Item::Run(job) => job(self),
                Item::Stop => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    fn joined(&self, channel: &ChannelName, join: u64, outcome: Result<Option<StreamPosition>, SubscribeError>) {
        let waiting = self.hub.borrow_mut().joined(channel, join, outcome);
        for (key, outcome) in waiting {
            if let Some(owner) = self.owner(key) {
                owner.attached(channel, outcome);
            }
        }
    }

    fn answer(&self, connection: Option<u64>, ticket: u64, answer: Answer) {
        match (connection, answer) {
            (Some(key), answer) => {
                if let Some(owner) = self.owner(key) {
                    owner.answer(ticket, answer);
                }
            }
            (None, Answer::History(channel, page)) => self.hub.borrow_mut().caught_up(&channel, ticket, page),
            (None, Answer::Members(channel, MembersAnswer::Listed(page))) => {
                self.hub.borrow_mut().roll_read(&channel, ticket, page);
            }
            (None, Answer::Published(_) | Answer::Members(..) | Answer::Verdict(_)) => {}
        }
    }

    fn backplane(&self, state: BackplaneState) {
        let push = Push::Backplane(state == BackplaneState::Live);
        for owner in self.owners.borrow().values().filter(|owner| owner.link().has_client()) {
            owner.link().tell(&push);
        }
    }

    pub(crate) fn tick(&self) {
        self.handle.turned();
        self.figures.outbox(self.waiting.node().bytes());
        self.handle.take_lost(|channel, lost| self.hub.borrow_mut().lost(channel, lost));
        let retries = self.hub.borrow_mut().tick();
        for owner in retries.into_iter().filter_map(|key| self.owner(key)) {
            owner.link().wake();
        }
        let due = self.wheel.borrow_mut().tick();
        for key in due {
            if let Some(owner) = self.owner(key) {
                let next = owner.beat();
                self.wheel.borrow_mut().schedule(key, next);
            }
        }
    }

    /// Asks every connection to leave that comes from now on.
    pub fn turn_away(&self) {
        self.draining.set(true);
    }

    /// Those of clients, by which [`Shard::owner`] finds them.
    pub fn keys(&self) -> Vec<u64> {
        let owners = self.owners.borrow();
        owners.iter().filter(|(_, owner)| owner.is_client()).map(|(key, _)| *key).collect()
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
