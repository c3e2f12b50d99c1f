//! A shard as the rest of the node sees it.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use skywave_backplane::{BackplaneState, SubscribeError};
use skywave_proto::{ChannelName, StreamPosition};
use tokio::sync::mpsc;

use super::Shard;
use crate::{
    clock::now_ms,
    push::{Prepared, Push},
    relay::{Answer, Lost, Mailbox, Receipt, Relay},
};

/// Bound of a mailbox, in items: pushes, which when it is full are fetched again from history, and answers, of which
/// there are never more than were asked for.
const MAILBOX: usize = 16 * 1024;

/// Something to be done on a shard's thread.
pub(super) type Job = Box<dyn FnOnce(&Rc<Shard>) + Send>;

/// What a shard finds in its mailbox.
pub enum Item {
    /// For everybody on a channel.
    Push(Arc<Prepared>),
    /// The backplane has answered to a join.
    Joined(ChannelName, u64, Result<Option<StreamPosition>, SubscribeError>),
    /// The backplane has answered to a connection's order.
    Answer(Receipt, Answer),
    /// The backplane came or went.
    Backplane(BackplaneState),
    /// To be done on the shard's thread.
    Run(Job),
    /// The end.
    Stop,
}

/// Cloning shares it.
#[derive(Clone)]
pub struct ShardHandle(Arc<Inner>);

struct Inner {
    index: usize,
    mailbox: mpsc::Sender<Item>,
    /// Bound: the channels of this shard.
    lost: Mutex<BTreeMap<ChannelName, Lost>>,
    any_lost: AtomicBool,
    connections: AtomicUsize,
    turned_at: AtomicU64,
    runtime: tokio::runtime::Handle,
}

/// The thread of a shard could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread of a shard")]
pub struct ShardSpawnError(#[source] std::io::Error);

/// What a new shard finds in its mailbox once its thread runs.
pub struct Seat(ShardHandle, mpsc::Receiver<Item>);

impl ShardHandle {
    /// Makes the mailbox of shard `index`. What does not fit at once is put into it from `runtime`.
    pub fn new(index: usize, runtime: tokio::runtime::Handle) -> (Self, Seat) {
        let (mailbox, items) = mpsc::channel(MAILBOX);
        let handle = Self(Arc::new(Inner {
            index,
            mailbox,
            lost: Mutex::default(),
            any_lost: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            turned_at: AtomicU64::new(now_ms()),
            runtime,
        }));
        (handle.clone(), Seat(handle, items))
    }

    /// Which shard.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Connections that it owns, those on their way to it included.
    pub fn connections(&self) -> &AtomicUsize {
        &self.0.connections
    }

    /// How long ago the shard's loop last came round.
    pub fn idle_ms(&self) -> u64 {
        now_ms().saturating_sub(self.0.turned_at.load(Ordering::Relaxed))
    }

    pub(super) fn turned(&self) {
        self.0.turned_at.store(now_ms(), Ordering::Relaxed);
    }

    /// Does something on the shard's thread.
    pub fn run(&self, job: impl FnOnce(&Rc<Shard>) + Send + 'static) {
        self.put(Item::Run(Box::new(job)));
    }

    /// Ends the shard.
    pub fn stop(&self) {
        self.put(Item::Stop);
    }

    /// Puts in what must not be lost: if there is no room now, a task waits for it.
    fn put(&self, item: Item) {
        if let Err(mpsc::error::TrySendError::Full(item)) = self.0.mailbox.try_send(item) {
            let mailbox = self.0.mailbox.clone();
            self.0.runtime.spawn(async move { mailbox.send(item).await });
        }
    }

    fn lose(&self, channel: &ChannelName, what: Lost) {
        let mut all = self.0.lost.lock();
        let lost = all.entry(channel.clone()).or_default();
        lost.presence |= what.presence;
        lost.publications |= what.publications;
        self.0.any_lost.store(true, Ordering::Release);
    }

    pub(super) fn take_lost(&self, mut each: impl FnMut(&ChannelName, Lost)) {
        if self.0.any_lost.swap(false, Ordering::AcqRel) {
            let lost = std::mem::take(&mut *self.0.lost.lock());
            lost.iter().for_each(|(channel, lost)| each(channel, *lost));
        }
    }
}

impl Seat {
    /// Starts the shard's thread; it ends with [`ShardHandle::stop`].
    ///
    /// # Errors
    /// [`ShardSpawnError`] if the machine has no thread to give.
    pub fn spawn(self, relay: Relay) -> Result<std::thread::JoinHandle<()>, ShardSpawnError> {
        let Self(handle, items) = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ShardSpawnError)?;
        std::thread::Builder::new()
            .name(format!("shard-{}", handle.index()))
            .spawn(move || {
                let local = tokio::task::LocalSet::new();
                let turning = AssertUnwindSafe(|| local.block_on(&runtime, Shard::new(handle, relay).run(items)));
                // A node without one of its shards would take connections and never serve them. It is better gone: what
                // must survive it does not live in it.
                if catch_unwind(turning).is_err() {
                    tracing::error!("a shard has panicked, the node ends");
                    std::process::abort();
                }
            })
            .map_err(ShardSpawnError)
    }
}

impl Mailbox for ShardHandle {
    fn push(&self, channel: &ChannelName, push: Arc<Prepared>) {
        if let Err(mpsc::error::TrySendError::Full(Item::Push(push))) = self.0.mailbox.try_send(Item::Push(push)) {
            let presence = matches!(push.push(), Push::Presence(..));
            self.lose(channel, Lost { presence, publications: !presence });
        }
    }

    fn presence_gap(&self, channel: &ChannelName) {
        self.lose(channel, Lost { presence: true, publications: false });
    }

    fn joined(&self, channel: ChannelName, join: u64, outcome: Result<Option<StreamPosition>, SubscribeError>) {
        self.put(Item::Joined(channel, join, outcome));
    }

    fn answer(&self, receipt: Receipt, answer: Answer) {
        self.put(Item::Answer(receipt, answer));
    }

    fn backplane(&self, state: BackplaneState) {
        self.put(Item::Backplane(state));
    }
}
