//! Channel -> this shard's members, each at its own place in the channel's line of offsets.
//!
//! A channel is delivered in order and without holes: where one shows (a mailbox was full), the channel waits, what
//! comes meanwhile is held, and the hole is filled from history. A member that recovers is held back in the same way.

mod catch_up;
mod roll;
#[cfg(test)]
mod tests;
mod topic;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use skywave_backplane::{Interest, SubscribeError};
use skywave_proto::{ChannelName, Publication, StreamPosition};
use tokio::time::Instant;

use self::{roll::Roll, topic::Topic};
use super::{
    delivery::Label,
    held::{Held, Resume},
    link::{Link, Slow},
};
use crate::{
    config::SlowConsumer,
    metrics::Figures,
    push::{GapDetail, GapReason, Prepared, Push},
    relay::{Lost, Overloaded, Relay},
};

/// What a channel holds while a hole in it is being filled.
const CHANNEL_HELD_BYTES: usize = 1 << 20;

/// The channels of one shard.
pub struct Hub {
    shard: usize,
    relay: Relay,
    figures: Rc<Figures>,
    topics: HashMap<ChannelName, Topic, ahash::RandomState>,
    joins: u64,
    /// Channels with something pending, in turn.
    queue: VecDeque<ChannelName>,
    /// Channels with something pending whose time has not come, by that time.
    closed: BTreeSet<(Instant, ChannelName)>,
    /// Members that go on from history: whose connection, which channel, after what.
    behind: Vec<(u64, ChannelName, StreamPosition)>,
    /// Channels whose fetch could not be ordered or failed: tried again at the next tick.
    stalled: Vec<ChannelName>,
    /// Connections that try again at the next tick what could not be done. Bound: one for each of their subscriptions.
    retries: Vec<u64>,
    ticks: u64,
    /// Channels that wait until they ask for their list of members again.
    rereads: Vec<ChannelName>,
}

/// What a session asks of the hub.
pub struct Attach<'a> {
    /// Which channel, and what is kept of it.
    pub interest: Interest,
    /// The namespace that is configured for it: the label of its metrics.
    pub namespace: &'a str,
    /// What becomes of publications that a client does not take in time.
    pub slow_consumer: SlowConsumer,
    /// At most one write to each member in so much time.
    pub flush_interval: Duration,
    /// `false` leaves out the client's own publications.
    pub echo: bool,
    /// Asks for joins and leaves.
    pub presence: bool,
}

/// Where a member stands after [`Hub::attach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// The channel is live here: everything after this position comes.
    At(Option<StreamPosition>),
    /// The channel is being joined; the shard says when it is.
    Joining,
}

/// What to do after [`Hub::activate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// The member is live.
    Live,
    /// Something still lies between: read the history after the same position and try again.
    Fetch,
    /// The channel itself has to find out where it stands: try again after [`Hub::retry`].
    Later,
}

impl Hub {
    pub(super) fn new(shard: usize, relay: Relay, figures: Rc<Figures>) -> Self {
        Self {
            shard,
            relay,
            figures,
            topics: HashMap::default(),
            joins: 0,
            queue: VecDeque::new(),
            closed: BTreeSet::new(),
            behind: Vec::new(),
            stalled: Vec::new(),
            retries: Vec::new(),
            ticks: 0,
            rereads: Vec::new(),
        }
    }

    /// Adds a member. Whatever comes from now on is held for it until [`Hub::activate`]. Returns its place on the channel,
    /// which names it together with the connection's key.
    ///
    /// # Errors
    /// [`Overloaded`] if the channel has to be joined and too much is waiting for the backplane.
    pub fn attach(&mut self, link: &Rc<Link>, attach: Attach<'_>) -> Result<(usize, Attached), Overloaded> {
        let channel = &attach.interest.channel;
        if !self.topics.contains_key(channel) {
            self.joins += 1;
            self.relay.join(self.shard, attach.interest.clone(), self.joins)?;
            self.figures.channels.increment(1.0);
            let label = Label { channel: channel.clone(), policy: attach.slow_consumer };
            let deliveries = self.figures.deliveries(attach.namespace);
            let waiting = Held::new(CHANNEL_HELD_BYTES);
            let topic = Topic::new(self.joins, label, waiting, deliveries, attach.flush_interval);
            self.topics.insert(channel.clone(), topic);
        }
        let topic = self.topics.get_mut(channel).expect("inserted above");
        let roll = if attach.presence { Roll::Collecting(topic.changes.next()) } else { Roll::Off };
        let place = topic.enter(link.clone(), attach.echo, roll);
        self.figures.subscriptions.increment(1.0);
        Ok((place, if topic.live { Attached::At(topic.last) } else { Attached::Joining }))
    }

    /// Makes a member live, behind what it has got up to and including `position` (`None` on a live-only channel).
    pub fn activate(
        &mut self,
        channel: &ChannelName,
        place: usize,
        key: u64,
        position: Option<StreamPosition>,
    ) -> Activation {
        let Some(topic) = self.topics.get_mut(channel) else { return Activation::Live };
        let last = topic.last;
        let Some(member) = topic.member(place, key) else { return Activation::Live };
        let Some(held) = member.held.take() else { return Activation::Live };
        let overflowed = held.overflowed();
        let Resume::With(pushes) = held.resume(position) else {
            member.hold();
            return Activation::Fetch;
        };
        let end = pushes.iter().rev().find_map(|push| push.position()).or(position);
        if let (Some(end), Some(last)) = (end, last) {
            if end.epoch != last.epoch {
                // The history has begun a new line of which this shard has not heard, or the other way round. Reading
                // again at once would find the same: first the channel catches up.
                member.hold();
                self.lose(channel);
                return Activation::Later;
            }
            if end.offset < last.offset {
                member.hold();
                return Activation::Fetch;
            }
        }
        for push in &pushes {
            member.give(push);
        }
        member.skip = end.map_or(0, |end| end.offset);
        if overflowed {
            let detail = GapDetail::default();
            member.link.tell(&Push::Gap(channel.clone(), GapReason::Possible, detail));
        }
        topic.open(place);
        Activation::Live
    }

    /// Gives a member what was published before now: its connection is about to be told to leave.
    pub fn settle(&mut self, channel: &ChannelName, place: usize, key: u64) {
        if let Some(topic) = self.topics.get_mut(channel)
            && topic.member(place, key).is_some()
        {
            topic.settle(place, &mut |_, _| {});
        }
    }

    /// Takes a member away, behind what was published before; the last one takes the channel with it.
    pub fn detach(&mut self, channel: &ChannelName, place: usize, key: u64) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        if topic.member(place, key).is_none() {
            return;
        }
        topic.settle(place, &mut |_, _| {});
        topic.leave(place);
        self.figures.subscriptions.decrement(1.0);
        if topic.members.is_empty() {
            self.topics.remove(channel);
            self.figures.channels.decrement(1.0);
            self.relay.leave(self.shard, channel.clone());
        } else {
            topic.forget_changes();
        }
    }

    /// The first `limit` channels of this shard by name, behind `after` and with this prefix, each with how many
    /// subscriptions it has. Looks at every channel.
    pub fn channels(&self, prefix: &str, after: &str, limit: usize) -> Vec<(ChannelName, u64)> {
        let mut first = BTreeMap::new();
        for (channel, topic) in &self.topics {
            if channel.as_str() <= after || !channel.as_str().starts_with(prefix) {
                continue;
            }
            if first.len() < limit || first.last_key_value().is_some_and(|(last, _)| *last > channel) {
                first.insert(channel, topic.members.len() as u64);
                if first.len() > limit {
                    first.pop_last();
                }
            }
        }
        first.into_iter().map(|(channel, members)| (channel.clone(), members)).collect()
    }

    /// The backplane has answered to a join. Returns the members that wait for it.
    pub(super) fn joined(
        &mut self,
        channel: &ChannelName,
        join: u64,
        outcome: Result<Option<StreamPosition>, SubscribeError>,
    ) -> Vec<(u64, Result<Option<StreamPosition>, SubscribeError>)> {
        let Some(topic) = self.topics.get_mut(channel).filter(|topic| topic.join == join) else { return Vec::new() };
        let keys = topic.members.iter().map(|member| member.link.key()).collect::<Vec<_>>();
        match outcome {
            Ok(position) => {
                topic.live = true;
                topic.last = position;
                if let Some(held) = topic.waiting.take() {
                    self.resume(channel, held);
                }
                keys.into_iter().map(|key| (key, Ok(position))).collect()
            }
            Err(SubscribeError::Unavailable) => {
                self.figures.subscriptions.decrement(topic.members.len() as f64);
                self.figures.channels.decrement(1.0);
                self.topics.remove(channel);
                keys.into_iter().map(|key| (key, Err(SubscribeError::Unavailable))).collect()
            }
        }
    }

    /// Takes in a push for its channel's members; [`Hub::advance`] brings it to them. Returns whether that should be done
    /// before more is taken in.
    pub(super) fn push(&mut self, push: &Arc<Prepared>) -> bool {
        match push.push() {
            Push::Publication(channel, publication) => {
                self.publication(channel, publication, push);
                return self.hurry(channel);
            }
            Push::Gap(channel, _, detail) => {
                if let Some(topic) = self.topics.get_mut(channel) {
                    topic.gap(push, detail.position);
                    self.enqueue(channel);
                }
            }
            Push::Presence(channel, event) => {
                let Some(topic) = self.topics.get_mut(channel) else { return false };
                if topic.is_full() {
                    self.lose_roll(channel);
                } else if topic.change_roll(push, event) {
                    self.enqueue(channel);
                }
            }
            Push::Roll(..) | Push::Unsubscribed(..) | Push::Backplane(_) | Push::Disconnect(_) => {}
        }
        false
    }

    /// Puts a channel that takes in no more before the others, whether or not its time has come. Returns whether it is one.
    fn hurry(&mut self, channel: &ChannelName) -> bool {
        let Some(topic) = self.topics.get(channel).filter(|topic| topic.is_full() && !topic.is_behind) else {
            return false;
        };
        if let Some(open_at) = topic.open_at {
            self.closed.remove(&(open_at, channel.clone()));
        }
        self.queue.retain(|queued| queued != channel);
        self.queue.push_front(channel.clone());
        true
    }

    fn publication(&mut self, channel: &ChannelName, publication: &Publication, push: &Arc<Prepared>) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        if let Some(waiting) = &mut topic.waiting {
            waiting.hold(push);
            return;
        }
        if topic.is_full() || topic.is_behind {
            topic.is_behind = true; // what is not taken in now is read once the members have what is pending
            return;
        }
        match (topic.last, publication.position) {
            (Some(last), Some(next)) if next.epoch == last.epoch && next.offset <= last.offset => return,
            (Some(last), Some(next)) if next != last.next() => {
                let mut held = Held::new(CHANNEL_HELD_BYTES);
                held.hold(push);
                topic.waiting = Some(held);
                self.fetch(channel);
                return;
            }
            (Some(_), Some(next)) => topic.last = Some(next),
            (None, _) | (_, None) => {}
        }
        topic.deliver(push);
        self.enqueue(channel);
    }

    /// Something is pending on a channel: its members get it in turn with other channels', or when the time has come.
    fn enqueue(&mut self, channel: &ChannelName) {
        let Some(topic) = self.topics.get_mut(channel).filter(|topic| !topic.is_queued) else { return };
        topic.is_queued = true;
        match topic.open_at.filter(|open_at| *open_at > Instant::now()) {
            Some(open_at) => drop(self.closed.insert((open_at, channel.clone()))),
            None => self.queue.push_back(channel.clone()),
        }
    }

    /// Whether something can be brought to members now.
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When there will be something that waits for its time.
    pub(super) fn next_opening(&self) -> Option<Instant> {
        self.closed.first().map(|(at, _)| *at)
    }

    /// Puts the channels whose time has come in the queue.
    pub(super) fn open(&mut self, now: Instant) {
        while self.closed.first().is_some_and(|(at, _)| *at <= now) {
            self.queue.extend(self.closed.pop_first().map(|(_, channel)| channel));
        }
    }

    /// Brings what is pending to at most `budget` members: of one channel after the other, and of a channel that is not
    /// done again after the others.
    pub(super) fn advance(&mut self, mut budget: usize) {
        while budget > 0
            && let Some(channel) = self.queue.pop_front()
        {
            let Some(topic) = self.topics.get_mut(&channel) else { continue };
            if !topic.is_queued {
                continue; // it is another one of the same name
            }
            let (behind, figures) = (&mut self.behind, &self.figures);
            let progress = topic.advance(budget, figures, &mut |key, slow| match slow {
                Slow::Lost(policy) => figures.slow(policy),
                Slow::Behind(after) => {
                    figures.slow(SlowConsumer::Resync);
                    behind.push((key, channel.clone(), after));
                }
            });
            budget = budget.saturating_sub(progress.visited.max(1));
            if progress.is_over && topic.interval > Duration::ZERO {
                topic.open_at = Some(Instant::now() + topic.interval);
            }
            if !progress.is_over {
                self.queue.push_back(channel);
                continue;
            }
            topic.is_queued = false;
            if topic.is_behind && !topic.is_full() {
                topic.is_behind = false;
                self.go_on(&channel);
            }
            if !progress.is_done {
                self.enqueue(&channel);
            }
        }
    }

    /// Members that go on from history, since this was last asked.
    pub(super) fn take_behind(&mut self) -> Vec<(u64, ChannelName, StreamPosition)> {
        std::mem::take(&mut self.behind)
    }

    /// Something for a channel did not fit into the mailbox.
    pub(super) fn lost(&mut self, channel: &ChannelName, lost: Lost) {
        if lost.presence {
            self.lose_roll(channel);
        }
        if lost.publications {
            self.lose(channel);
        }
    }

    /// How often the shard's clock has struck.
    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Wakes a connection at the next tick; returns the one that it is now.
    pub fn retry(&mut self, key: u64) -> u64 {
        self.retries.push(key);
        self.ticks
    }

    /// Tries again what could not be fetched, and says whose connections try again.
    pub(super) fn tick(&mut self) -> Vec<u64> {
        self.ticks += 1;
        for channel in std::mem::take(&mut self.stalled) {
            self.fetch(&channel);
        }
        self.tick_rolls();
        std::mem::take(&mut self.retries)
    }
}
