//! A shard as the rest of the node sees it.

use std::{
    collections::{BTreeMap, VecDeque},
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

use super::{Backlog, Shard};
use crate::{
    clock::now_ms,
    push::{Prepared, Push},
    relay::{Answer, Lost, Mailbox, Receipt, Relay},
};

/// Bound of a mailbox, in items. Full: pushes are fetched again from history; what must not be lost waits behind it, in
/// its order.
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
    /// Held for one look by whoever puts something in that must not be lost.
    late: Mutex<Late>,
    any_late: AtomicBool,
    connections: AtomicUsize,
    turned_at: AtomicU64,
}

/// What did not fit and must not be lost. Bound: answers that were asked for, jobs of back ends' orders and surveys, and
/// changes of the backplane's state while the shard is behind.
#[derive(Default)]
struct Late {
    items: VecDeque<Item>,
    /// Items that the shard has taken from the mailbox since: after a whole mailbox what stood before these is done.
    passed: usize,
}

/// The thread of a shard could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread of a shard")]
pub struct ShardSpawnError(#[source] std::io::Error);

/// What a new shard finds in its mailbox once its thread runs.
pub struct Seat(ShardHandle, mpsc::Receiver<Item>);

impl ShardHandle {
    /// Makes the mailbox of shard `index`.
    pub fn new(index: usize) -> (Self, Seat) {
        let (mailbox, items) = mpsc::channel(MAILBOX);
        let handle = Self(Arc::new(Inner {
            index,
            mailbox,
            lost: Mutex::default(),
            any_lost: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            late: Mutex::default(),
            any_late: AtomicBool::new(false),
            turned_at: AtomicU64::new(now_ms()),
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

    /// Puts in what must not be lost, behind all that was put in so before.
    fn put(&self, item: Item) {
        let mut late = self.0.late.lock();
        let item = if late.items.is_empty() {
            match self.0.mailbox.try_send(item) {
                Err(mpsc::error::TrySendError::Full(item)) => item,
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        } else {
            item
        };
        late.items.push_back(item);
        self.0.any_late.store(true, Ordering::Release);
    }

    /// Whether something did not fit.
    pub(super) fn has_late(&self) -> bool {
        self.0.any_late.load(Ordering::Acquire)
    }

    /// Adds to `batch` what did not fit, once its turn has come: the mailbox is empty, or `taken` more make up all that
    /// was in it and in the hands of the shard. False if there is nothing to be done now.
    pub(super) fn take_late(&self, batch: &mut Vec<Item>, taken: usize, is_empty: bool) -> bool {
        if !self.0.any_late.load(Ordering::Acquire) {
            return false;
        }
        let mut late = self.0.late.lock();
        late.passed += taken;
        if !is_empty && late.passed < MAILBOX + super::BATCH {
            return false;
        }
        let next = late.items.len().min(super::BATCH);
        batch.extend(late.items.drain(..next));
        if late.items.is_empty() {
            late.passed = 0;
            self.0.any_late.store(false, Ordering::Release);
        }
        true
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
    pub fn spawn(self, relay: Relay, backlog: Arc<Backlog>) -> Result<std::thread::JoinHandle<()>, ShardSpawnError> {
        let Self(handle, items) = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ShardSpawnError)?;
        std::thread::Builder::new()
            .name(format!("shard-{}", handle.index()))
            .spawn(move || {
                let local = tokio::task::LocalSet::new();
                let turning = AssertUnwindSafe(|| {
                    local.block_on(&runtime, tokio::task::unconstrained(Shard::new(handle, relay, backlog).run(items)))
                });
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

#[cfg(test)]
mod tests {
    use skywave_backplane::{Any, Memory};

    use super::*;
    use crate::relay::{Answers, Routes};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_does_not_fit_keeps_its_order() {
        let (handle, seat) = ShardHandle::new(0);
        let mailboxes: Arc<[Arc<dyn Mailbox>]> = Arc::new([Arc::new(handle.clone())]);
        let (routes, _signals) = Routes::new(mailboxes.clone());
        let routes = Arc::new(routes);
        let relay = Relay::start(Any::Memory(Memory::new(routes.clone())), routes, Answers::new(mailboxes));
        let done = Arc::new(Mutex::new(Vec::new()));
        let (all, mut left) = (MAILBOX + 1000, mpsc::channel(1));
        for n in 0..all {
            let done = done.clone();
            handle.run(move |_| done.lock().push(n));
        }
        // The first is in the mailbox, long before these: what comes late waits for all of it, and no longer.
        let thread = seat.spawn(relay, Backlog::new(1, None)).unwrap();
        let last = left.0.clone();
        handle.run(move |_| last.try_send(()).unwrap());
        tokio::time::timeout(std::time::Duration::from_secs(10), left.1.recv()).await.unwrap();
        assert!(done.lock().iter().copied().eq(0..all));
        handle.stop();
        thread.join().unwrap();
    }
}
