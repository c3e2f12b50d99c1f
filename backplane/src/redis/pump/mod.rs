//! What comes in from Redis, on its way to the sink.
//!
//! A channel belongs to one of [`LANES`] lanes. Redis' connection hands a frame to the lane's queue and never waits; the
//! lane's task empties it, and calls the [`Sink`] under the lane's lock, so that what the sink sees of a channel is in
//! order whoever delivers it. Under a lock nothing waits, and the sink must not call back. Order of locks: `lingering`,
//! then one lane's table, then `joining` or `behind` of an inbox.

mod table;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use skywave_proto::{ChannelName, StreamPosition};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::warn;

use self::table::{Entry, Table};
use super::{
    cursor::{Cursor, Event, Next},
    frame::{self, Frame},
    inbox::Inboxes,
    keys,
    line::Line,
    ring::Rings,
};
use crate::{HistoryPage, HistoryPolicy, HistoryQuery, Interest, Sink, Unreadable, metrics};

/// How many lanes there are.
pub(super) const LANES: usize = 4;
/// How many frames wait for one lane. Full: they are dropped, and the lane's channels are looked after as after an
/// outage. So a sink that is slow for a while costs a catch-up, and Redis never has to wait for us (it would cut us off).
const QUEUE: usize = 8192;
/// How many frames a lane takes at a time.
const BATCH: usize = 256;
/// How long a channel is kept after its last subscriber, since the next one often comes soon.
const LINGER: Duration = Duration::from_secs(1);

/// What waits for a lane. The marks stand in the queue exactly where something is missing.
enum Item {
    Frame {
        channel: Box<str>,
        frame: Bytes,
    },
    /// The queue was full: frames are missing here.
    Overflow,
    /// A master's connection has ended: from here on frames are missing on its channels.
    Lost(usize),
    /// Every channel of that master is subscribed again: up to here frames were missing.
    Restored(usize),
    /// These partitions have come to another master, and are subscribed there: up to here frames may be missing.
    Moved(Arc<BTreeSet<usize>>),
}

struct Lane {
    queue: mpsc::Sender<Item>,
    /// What is in the queue, or taken out of it and not done yet.
    waiting: AtomicUsize,
    overflowed: AtomicBool,
    table: Mutex<Table>,
}

/// What became of an interest.
pub(super) enum Interested {
    /// Delivered already, from here on.
    Already(Option<StreamPosition>),
    /// The answer comes when the subscription is confirmed.
    Waiting(oneshot::Receiver<Option<StreamPosition>>),
}

/// All lanes.
pub(super) struct Pump {
    lanes: Vec<Lane>,
    hasher: ahash::RandomState,
    /// What the masters are to do.
    inboxes: Arc<Inboxes>,
    tickets: std::sync::atomic::AtomicU64,
}

/// What a lane's task reads from.
pub(super) struct LaneQueue {
    number: usize,
    items: mpsc::Receiver<Item>,
}

impl Pump {
    /// `ring_bytes`: how much is kept of what was delivered.
    pub(super) fn new(sink: &Arc<dyn Sink>, inboxes: Arc<Inboxes>, ring_bytes: usize) -> (Self, Vec<LaneQueue>) {
        let (lanes, queues) = (0..LANES)
            .map(|number| {
                let (queue, items) = mpsc::channel(QUEUE);
                let table = Table {
                    channels: HashMap::default(),
                    rings: Rings::new(ring_bytes / LANES),
                    events: Vec::new(),
                    sink: sink.clone(),
                };
                let lane = Lane {
                    queue,
                    waiting: AtomicUsize::new(0),
                    overflowed: AtomicBool::new(false),
                    table: Mutex::new(table),
                };
                (lane, LaneQueue { number, items })
            })
            .unzip();
        let pump = Self { lanes, hasher: ahash::RandomState::new(), inboxes, tickets: 1.into() };
        (pump, queues)
    }

    fn lane(&self, channel: &str) -> &Lane {
        let lane = self.hasher.hash_one(channel) % LANES as u64;
        &self.lanes[usize::try_from(lane).expect("less than LANES")]
    }

    /// Delivers a frame, or hands it to its lane. Called by the connection itself: never waits.
    ///
    /// `may_deliver`: little comes in, so it is delivered here and now if nothing of its lane is before it. That saves a
    /// lone publication the way through another task; when much comes in the lanes share the work.
    pub(super) fn dispatch(&self, channel: &str, frame: Vec<u8>, may_deliver: bool) {
        let lane = self.lane(channel);
        // Only this connection brings frames of this channel. What waits of other connections is not of it, but their
        // marks stand for all.
        if may_deliver
            && lane.waiting.load(Ordering::Acquire) == 0
            && !lane.overflowed.load(Ordering::Acquire)
            && let Some(mut table) = lane.table.try_lock()
        {
            return self.deliver(&mut table, channel, frame.into());
        }
        if lane.overflowed.load(Ordering::Acquire) {
            // The mark goes first, or this frame would stand before the hole that it comes after.
            if !lane.put(Item::Overflow) {
                return;
            }
            lane.overflowed.store(false, Ordering::Release);
        }
        if !lane.put(Item::Frame { channel: channel.into(), frame: frame.into() }) {
            lane.overflowed.store(true, Ordering::Release);
        }
    }

    /// Empties one lane's queue, for as long as it is polled.
    pub(super) async fn run(self: Arc<Self>, mut queue: LaneQueue) {
        let lane = &self.lanes[queue.number];
        let mut batch = Vec::with_capacity(BATCH);
        while queue.items.recv_many(&mut batch, BATCH).await > 0 {
            let count = batch.len();
            for item in batch.drain(..) {
                self.take(lane, item);
            }
            lane.waiting.fetch_sub(count, Ordering::AcqRel);
            // Nothing may come in for long after an overflow, and so no mark either.
            if queue.items.is_empty() && lane.overflowed.swap(false, Ordering::AcqRel) {
                self.take(lane, Item::Overflow);
            }
            tokio::task::yield_now().await;
        }
    }

    fn take(&self, lane: &Lane, item: Item) {
        match item {
            Item::Frame { channel, frame } => self.deliver(&mut lane.table.lock(), &channel, frame),
            Item::Overflow => {
                warn!("publications come in faster than they are taken; catching up from history");
                metrics::overflowed();
                lane.table.lock().tell_missed(|_, _| true);
                self.inboxes.overflow();
            }
            Item::Lost(master) => {
                for entry in lane.table.lock().channels.values_mut() {
                    if let Cursor::Live { missed } = &mut entry.cursor
                        && self.inboxes.owner_of(entry.partition) == Some(master)
                    {
                        *missed = true;
                    }
                }
            }
            Item::Restored(master) => lane
                .table
                .lock()
                .tell_missed(|partition, missed| missed && self.inboxes.owner_of(partition) == Some(master)),
            Item::Moved(partitions) => {
                lane.table.lock().tell_missed(|partition, _| partitions.contains(&partition));
            }
        }
    }

    fn deliver(&self, table: &mut Table, channel: &str, frame: Bytes) {
        let frame = match frame::read_any(frame) {
            Ok(frame) => frame,
            Err(error) => {
                Unreadable::Publication.tell(&channel, &error);
                return self.advance(table, channel, Cursor::unreadable);
            }
        };
        self.advance(table, channel, |cursor, events| match frame {
            Frame::Publication(publication) => cursor.offer(publication, events),
            Frame::Begun(epoch) => cursor.begun(epoch),
        });
    }

    /// Marks the place in every queue where a master's connection ended.
    pub(super) async fn lost(&self, master: usize) {
        for lane in &self.lanes {
            lane.mark(Item::Lost(master)).await;
        }
    }

    /// Marks the place in every queue from which on every channel of a master is delivered again.
    pub(super) async fn restored(&self, master: usize) {
        for lane in &self.lanes {
            lane.mark(Item::Restored(master)).await;
        }
    }

    /// Marks the place in every queue from which on these partitions are delivered by another master.
    pub(super) async fn moved(&self, partitions: &Arc<BTreeSet<usize>>) {
        for lane in &self.lanes {
            lane.mark(Item::Moved(partitions.clone())).await;
        }
    }

    /// One step of one channel's cursor; its history is asked if it wants that.
    fn advance(&self, table: &mut Table, channel: &str, step: impl FnOnce(&mut Cursor, &mut Vec<Event>) -> Next) {
        // Without a master nobody can be asked: whoever takes the partition over looks after all of its channels.
        if let Some(channel) = table.step(channel, step)
            && let Some(inbox) = self.inboxes.of(keys::partition(&channel))
        {
            inbox.behind.lock().push_back(channel);
            inbox.fell_behind.notify_one();
        }
    }

    /// Takes an interest in a channel, or takes back that it was given up.
    pub(super) fn subscribe(&self, interest: &Interest) -> Interested {
        let channel = &interest.channel;
        let mut table = self.lane(channel.as_str()).table.lock();
        let entry = table.channels.entry(channel.clone()).or_insert_with(|| Entry {
            partition: keys::partition(channel),
            cursor: Cursor::joining(),
            history: interest.history,
            waiting: Vec::new(),
            lingers_until: None,
            touched_at: None,
        });
        entry.lingers_until = None;
        match (entry.cursor.standing(), interest.history) {
            (Some(Some(position)), Some(policy)) => {
                entry.history = Some(policy);
                return Interested::Already(Some(position));
            }
            (Some(_), None) => return Interested::Already(None),
            (Some(None), Some(policy)) => {
                // It kept nothing when it was subscribed, and does now: its line has to be found.
                entry.history = Some(policy);
                entry.cursor = Cursor::joining();
            }
            (None, history) => entry.history = entry.history.or(history),
        }
        let (answer, receiver) = oneshot::channel();
        entry.waiting.retain(|answer| !answer.is_closed());
        entry.waiting.push(answer);
        // Still under the lock: whoever takes the partition over either finds the channel here or is its owner by now.
        if let Some(inbox) = self.inboxes.of(entry.partition) {
            // Also for one that was refused before, or whose master has changed meanwhile: to subscribe it twice is harmless.
            inbox.joining.lock().push(channel.clone());
            inbox.joined.notify_one();
        }
        Interested::Waiting(receiver)
    }

    /// Gives a channel up a little later.
    pub(super) fn unsubscribe(&self, channel: &ChannelName) {
        let until = Instant::now() + LINGER;
        let partition = match self.lane(channel.as_str()).table.lock().channels.get_mut(channel) {
            Some(entry) => {
                entry.lingers_until = Some(until);
                entry.partition
            }
            None => return,
        };
        // Without a master: the next one does not subscribe what has lingered long enough.
        if let Some(inbox) = self.inboxes.of(partition) {
            inbox.lingering.lock().push_back((until, channel.clone()));
        }
    }

    /// The answer to an interest did not come in time and nobody waits for it any more. The interest stands until it is
    /// given up: another shard of the node may have had it before.
    pub(super) fn forget_askers(&self, channel: &ChannelName) {
        if let Some(entry) = self.lane(channel.as_str()).table.lock().channels.get_mut(channel) {
            entry.waiting.retain(|answer| !answer.is_closed());
        }
    }

    /// Forgets the channels of a master that have lingered long enough, and says which. Only its supervisor asks, and
    /// unsubscribes them before it subscribes anything else: so nobody who comes back falls in between.
    pub(super) fn expire(&self, master: usize, now: Instant) -> Vec<ChannelName> {
        let (mut expired, mut moved) = (Vec::new(), Vec::new());
        let inbox = self.inboxes.inbox(master);
        let mut lingering = inbox.lingering.lock();
        while lingering.front().is_some_and(|(until, _)| *until <= now)
            && let Some((until, channel)) = lingering.pop_front()
        {
            let mut table = self.lane(channel.as_str()).table.lock();
            let Some(entry) = table.channels.get(&channel) else { continue };
            if entry.lingers_until.is_none_or(|until| until > now) {
                continue;
            }
            match self.inboxes.owner_of(entry.partition) {
                Some(other) if other != master => moved.push((other, until, channel)),
                _ => {
                    table.channels.remove(&channel);
                    table.rings.forget(&channel);
                    expired.push(channel);
                }
            }
        }
        drop(lingering);
        for (other, until, channel) in moved {
            self.inboxes.inbox(other).lingering.lock().push_front((until, channel));
        }
        expired
    }

    /// Forgets the channels of partitions that come from elsewhere and have lingered long enough.
    pub(super) fn expire_in(&self, partitions: &BTreeSet<usize>, now: Instant) {
        for lane in &self.lanes {
            let Table { channels, rings, .. } = &mut *lane.table.lock();
            channels.retain(|channel, entry| {
                let has_expired = entry.lingers_until.is_some_and(|until| until <= now);
                let is_gone = has_expired && partitions.contains(&entry.partition);
                if is_gone {
                    rings.forget(channel);
                }
                !is_gone
            });
        }
    }

    /// The channels that have asked a master to be subscribed since the last time and still are.
    pub(super) fn take_joining(&self, master: usize) -> Vec<ChannelName> {
        let mut joining = std::mem::take(&mut *self.inboxes.inbox(master).joining.lock());
        joining.sort_unstable();
        joining.dedup();
        joining.retain(|channel| self.is_joining(channel, master));
        joining
    }

    fn is_joining(&self, channel: &ChannelName, master: usize) -> bool {
        let table = self.lane(channel.as_str()).table.lock();
        table.channels.get(channel).is_some_and(|entry| {
            entry.cursor.standing().is_none() && self.inboxes.owner_of(entry.partition) == Some(master)
        })
    }

    /// Every channel of a master.
    pub(super) fn channels(&self, master: usize) -> Vec<ChannelName> {
        self.channels_where(|partition| self.inboxes.owner_of(partition) == Some(master))
    }

    /// Every channel of some partitions.
    pub(super) fn channels_in(&self, partitions: &BTreeSet<usize>) -> Vec<ChannelName> {
        self.channels_where(|partition| partitions.contains(&partition))
    }

    fn channels_where(&self, is_wanted: impl Fn(usize) -> bool) -> Vec<ChannelName> {
        let mut channels = Vec::new();
        for lane in &self.lanes {
            let table = lane.table.lock();
            let wanted = table.channels.iter().filter(|(_, entry)| is_wanted(entry.partition));
            channels.extend(wanted.map(|(channel, _)| channel.clone()));
        }
        channels
    }

    /// Where a channel with history has been delivered up to; `None` without one.
    pub(super) fn last(&self, channel: &ChannelName) -> Option<StreamPosition> {
        self.lane(channel.as_str()).table.lock().channels.get(channel)?.cursor.standing().flatten()
    }

    /// What the node itself has of a channel's history, if that is all that is asked for.
    pub(super) fn recent(&self, channel: &ChannelName, query: &HistoryQuery) -> Option<HistoryPage> {
        let Table { channels, rings, .. } = &mut *self.lane(channel.as_str()).table.lock();
        let entry = channels.get(channel)?;
        rings.page(channel, query, entry.cursor.standing()??, entry.history?)
    }

    /// How much the node itself has of all histories, in bytes.
    pub(super) fn ring_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.table.lock().rings.bytes()).sum()
    }

    /// The channels of a master whose lines have to be made to live on: they would end while somebody is subscribed.
    pub(super) fn untouched(&self, master: usize) -> Vec<(ChannelName, HistoryPolicy)> {
        let mut untouched = Vec::new();
        for lane in &self.lanes {
            for (channel, entry) in &mut lane.table.lock().channels {
                if let Some(policy) = entry.history
                    && entry.touched_at.is_none_or(|at| at.elapsed() >= policy.meta_ttl.max(policy.ttl) / 4)
                    && self.inboxes.owner_of(entry.partition) == Some(master)
                {
                    entry.touched_at = Some(Instant::now());
                    untouched.push((channel.clone(), policy));
                }
            }
        }
        untouched
    }

    /// What is kept of a channel.
    pub(super) fn policy(&self, channel: &ChannelName) -> Option<HistoryPolicy> {
        self.lane(channel.as_str()).table.lock().channels.get(channel)?.history
    }

    /// The same, if the channel is one whose subscription is not confirmed yet.
    pub(super) fn joining_policy(&self, channel: &ChannelName) -> Option<Option<HistoryPolicy>> {
        let table = self.lane(channel.as_str()).table.lock();
        table.channels.get(channel).filter(|entry| entry.cursor.standing().is_none()).map(|entry| entry.history)
    }

    /// The subscription is confirmed, and the channel stood at `position` after that. Whoever waits hears this position
    /// and no later one: all that came meanwhile is delivered after it.
    pub(super) fn settle(&self, channel: &ChannelName, position: Option<StreamPosition>) {
        let mut table = self.lane(channel.as_str()).table.lock();
        if let Some(entry) = table.channels.get_mut(channel)
            && entry.cursor.standing().is_none()
        {
            for answer in entry.waiting.drain(..) {
                let _ = answer.send(position); // whoever asked may have given up
            }
        }
        self.advance(&mut table, channel.as_str(), |cursor, events| cursor.settle(position, events));
    }

    /// Redis says that the channel stands at `position`. True if it has not been delivered up to there: then its history
    /// has to be asked, by the caller, also where another request is on its way (it may be lost).
    pub(super) fn start_catching(&self, channel: &ChannelName, position: Option<StreamPosition>) -> bool {
        let mut table = self.lane(channel.as_str()).table.lock();
        let Some(entry) = table.channels.get_mut(channel) else { return false };
        match entry.cursor {
            Cursor::Following { last } if Some(last) == position => false,
            Cursor::Following { .. } => entry.cursor.start_catching() == Next::Fetch,
            Cursor::Catching { .. } => true,
            Cursor::Joining(_) | Cursor::Live { .. } => false,
        }
    }

    /// The next channels whose history a master has to be asked for.
    pub(super) fn take_behind(&self, master: usize, count: usize) -> Vec<ChannelName> {
        let inbox = self.inboxes.inbox(master);
        let mut behind = inbox.behind.lock();
        let count = count.min(behind.len());
        behind.drain(..count).collect()
    }

    /// See [`Cursor::ask`]; also gives the ticket.
    pub(super) fn ask(&self, channel: &ChannelName) -> Option<(u64, StreamPosition)> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let mut table = self.lane(channel.as_str()).table.lock();
        let position = table.channels.get_mut(channel)?.cursor.ask(ticket)?;
        Some((ticket, position))
    }

    /// See [`Cursor::absorb`]. True if the history has to be asked once more; then that is up to the caller.
    pub(super) fn absorb(
        &self,
        channel: &ChannelName,
        ticket: u64,
        line: &Line,
        publications: Vec<skywave_proto::Publication>,
    ) -> bool {
        metrics::recovered(publications.len());
        let mut table = self.lane(channel.as_str()).table.lock();
        table.step(channel.as_str(), |cursor, events| cursor.absorb(ticket, line, publications, events)).is_some()
    }

    /// What was taken out is not done yet.
    pub(super) fn put_behind(&self, master: usize, channels: Vec<ChannelName>) {
        let inbox = self.inboxes.inbox(master);
        inbox.behind.lock().extend(channels);
        inbox.fell_behind.notify_one();
    }

    /// The channel could not be joined: whoever waits for it hears so.
    pub(super) fn refuse(&self, channel: &ChannelName) {
        if let Some(entry) = self.lane(channel.as_str()).table.lock().channels.get_mut(channel) {
            entry.waiting.clear();
        }
    }

    /// See [`Cursor::give_up`].
    pub(super) fn give_up(&self, channel: &ChannelName, ticket: u64) {
        if let Some(entry) = self.lane(channel.as_str()).table.lock().channels.get_mut(channel) {
            entry.cursor.give_up(ticket);
        }
    }
}

impl Lane {
    /// False if there is no room.
    fn put(&self, item: Item) -> bool {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let is_in = self.queue.try_send(item).is_ok();
        if !is_in {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        is_in
    }

    async fn mark(&self, item: Item) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if self.queue.send(item).await.is_err() {
            self.waiting.fetch_sub(1, Ordering::AcqRel); // closed only when nobody is left to tell
        }
    }
}
