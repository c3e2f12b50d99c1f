//! Channel -> this shard's members, each at its own place in the channel's line of offsets.
//!
//! A channel is delivered in order and without holes: where one shows (a mailbox was full), the channel waits, what
//! comes meanwhile is held, and the hole is filled from history. A member that recovers is held back in the same way.

mod roll;

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

use skywave_backplane::{Gap, HistoryError, HistoryPage, HistoryQuery, Interest, SubscribeError};
use skywave_proto::{ChannelName, Publication, StreamPosition};

use self::roll::{Changes, Reread, Roll};
use super::{
    held::{Held, Resume},
    link::Link,
};
use crate::{
    metrics::Figures,
    push::{GapDetail, GapReason, Prepared, Push},
    relay::{Lost, Overloaded, Receipt, Relay},
};

/// What one fetch after a hole asks for.
const CATCH_UP_PUBLICATIONS: u32 = 1000;
const CATCH_UP_BYTES: usize = 1 << 20;
/// What a channel holds while a hole in it is being filled.
const CHANNEL_HELD_BYTES: usize = 1 << 20;

/// The channels of one shard.
pub struct Hub {
    shard: usize,
    relay: Relay,
    figures: Rc<Figures>,
    topics: HashMap<ChannelName, Topic, ahash::RandomState>,
    joins: u64,
    /// Channels whose fetch could not be ordered or failed: tried again at the next tick.
    stalled: Vec<ChannelName>,
    /// Connections that try again at the next tick what could not be done. Bound: one for each of their subscriptions.
    retries: Vec<u64>,
    ticks: u64,
    /// Channels that wait until they ask for their list of members again.
    rereads: Vec<ChannelName>,
}

/// What a shard knows of one channel.
struct Topic {
    join: u64,
    live: bool,
    /// The last publication that was delivered here; where live begins before the first.
    last: Option<StreamPosition>,
    /// While the channel is being joined, or a hole in it filled: what has come meanwhile.
    waiting: Option<Held>,
    members: Vec<Member>,
    /// While the list of members is read again.
    reread: Option<Reread>,
    changes: Changes,
    deliveries: metrics::Counter,
}

struct Member {
    link: Rc<Link>,
    echo: bool,
    roll: Roll,
    /// While what comes before is still on its way to this member: what has come meanwhile.
    held: Option<Held>,
    /// Publications up to this offset have reached the member already.
    skip: u64,
}

/// What a session asks of the hub.
pub struct Attach<'a> {
    /// Which channel, and what is kept of it.
    pub interest: Interest,
    /// The namespace that is configured for it: the label of its metrics.
    pub namespace: &'a str,
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
            stalled: Vec::new(),
            retries: Vec::new(),
            ticks: 0,
            rereads: Vec::new(),
        }
    }

    /// Adds a member. Whatever comes from now on is held for it until [`Hub::activate`].
    ///
    /// # Errors
    /// [`Overloaded`] if the channel has to be joined and too much is waiting for the backplane.
    pub fn attach(&mut self, link: &Rc<Link>, attach: Attach<'_>) -> Result<Attached, Overloaded> {
        let channel = &attach.interest.channel;
        if !self.topics.contains_key(channel) {
            self.joins += 1;
            self.relay.join(self.shard, attach.interest.clone(), self.joins)?;
            self.figures.channels.increment(1.0);
            let topic = Topic {
                join: self.joins,
                live: false,
                last: None,
                waiting: Some(Held::new(CHANNEL_HELD_BYTES)),
                members: Vec::new(),
                reread: None,
                changes: Changes::default(),
                deliveries: self.figures.deliveries(attach.namespace),
            };
            self.topics.insert(channel.clone(), topic);
        }
        let topic = self.topics.get_mut(channel).expect("inserted above");
        topic.members.push(Member {
            link: link.clone(),
            echo: attach.echo,
            roll: if attach.presence { Roll::Collecting(topic.changes.next()) } else { Roll::Off },
            held: Some(Held::new(link.held_bytes())),
            skip: 0,
        });
        self.figures.subscriptions.increment(1.0);
        Ok(if topic.live { Attached::At(topic.last) } else { Attached::Joining })
    }

    /// Makes a member live, behind what it has got up to and including `position` (`None` on a live-only channel).
    pub fn activate(&mut self, channel: &ChannelName, key: u64, position: Option<StreamPosition>) -> Activation {
        let Some(topic) = self.topics.get_mut(channel) else { return Activation::Live };
        let last = topic.last;
        let Some(member) = topic.members.iter_mut().find(|member| member.link.key() == key) else {
            return Activation::Live;
        };
        let Some(held) = member.held.take() else { return Activation::Live };
        let overflowed = held.overflowed();
        let Resume::With(pushes) = held.resume(position) else {
            member.held = Some(Held::new(member.link.held_bytes()));
            return Activation::Fetch;
        };
        let end = pushes.iter().rev().find_map(|push| push.position()).or(position);
        if let (Some(end), Some(last)) = (end, last) {
            if end.epoch != last.epoch {
                // The history has begun a new line of which this shard has not heard, or the other way round. Reading
                // again at once would find the same: first the channel catches up.
                member.held = Some(Held::new(member.link.held_bytes()));
                self.lose(channel);
                return Activation::Later;
            }
            if end.offset < last.offset {
                member.held = Some(Held::new(member.link.held_bytes()));
                return Activation::Fetch;
            }
        }
        for push in &pushes {
            member.deliver(push);
        }
        member.skip = end.map_or(0, |end| end.offset);
        if overflowed {
            let detail = GapDetail::default();
            member.link.tell(&Push::Gap(channel.clone(), GapReason::Possible, detail));
        }
        Activation::Live
    }

    /// Takes a member away; the last one takes the channel with it.
    pub fn detach(&mut self, channel: &ChannelName, key: u64) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        let before = topic.members.len();
        topic.members.retain(|member| member.link.key() != key);
        self.figures.subscriptions.decrement((before - topic.members.len()) as f64);
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

    /// Delivers a push to its channel's members.
    pub(super) fn push(&mut self, push: &Arc<Prepared>) {
        match push.push() {
            Push::Publication(channel, publication) => self.publication(channel, publication, push),
            Push::Gap(channel, _, detail) => {
                if let Some(topic) = self.topics.get_mut(channel) {
                    topic.gap(push, detail.position);
                }
            }
            Push::Presence(channel, event) => {
                if let Some(topic) = self.topics.get_mut(channel) {
                    topic.change_roll(push, event);
                }
            }
            Push::Roll(..) | Push::Unsubscribed(..) | Push::Backplane(_) | Push::Disconnect(_) => {}
        }
    }

    fn publication(&mut self, channel: &ChannelName, publication: &Publication, push: &Arc<Prepared>) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        if let Some(waiting) = &mut topic.waiting {
            waiting.hold(push);
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
        self.figures.delivered(publication);
        topic.deliver(push);
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

    /// Publications of a channel may have passed by unheard: looks into its history.
    fn lose(&mut self, channel: &ChannelName) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        if let Some(waiting) = &mut topic.waiting {
            waiting.lose();
        } else if topic.last.is_some() {
            topic.waiting = Some(Held::new(CHANNEL_HELD_BYTES));
            self.fetch(channel);
        } else {
            topic.gap(&Prepared::new(Push::gap(channel.clone(), Gap::Possible)), None);
        }
    }

    /// Reads what is missing after the last publication that was delivered.
    fn fetch(&mut self, channel: &ChannelName) {
        let Some(topic) = self.topics.get(channel).filter(|topic| topic.live && topic.waiting.is_some()) else {
            return;
        };
        let query =
            HistoryQuery { since: topic.last, limit: CATCH_UP_PUBLICATIONS, bytes: CATCH_UP_BYTES, followed: true };
        let receipt = Receipt { shard: self.shard, connection: None, ticket: topic.join };
        if self.relay.history(channel.clone(), query, receipt).is_err() {
            self.stalled.push(channel.clone());
        }
    }

    /// The history has answered to [`Hub::fetch`].
    pub(super) fn caught_up(&mut self, channel: &ChannelName, join: u64, page: Result<HistoryPage, HistoryError>) {
        let Some(topic) = self.topics.get_mut(channel).filter(|topic| topic.join == join && topic.live) else { return };
        let Ok(page) = page else {
            self.stalled.push(channel.clone());
            return;
        };
        let Some(held) = topic.waiting.take() else { return };
        if !page.complete {
            // What is held of the new line already need not be missed.
            let held_from = held.first().filter(|first| page.top.is_some_and(|top| top.epoch == first.epoch));
            let now = held_from.map(|first| StreamPosition { offset: first.offset - 1, ..first }).or(page.top);
            let push = Prepared::new(Push::gap(channel.clone(), Gap::Reset { now }));
            topic.gap(&push, now);
            self.resume(channel, held);
            return;
        }
        for publication in page.publications {
            // By the offset alone: a complete page goes on where the channel stood, and behind a restart or a failover
            // the same line goes on under another epoch.
            let is_next = |last: StreamPosition| publication.position.is_some_and(|at| at.offset == last.offset + 1);
            if topic.last.is_some_and(is_next) {
                topic.last = publication.position;
                self.figures.delivered(&publication);
                topic.deliver(&Prepared::new(Push::Publication(channel.clone(), publication)));
            }
        }
        if page.more {
            topic.waiting = Some(held);
            self.fetch(channel);
        } else {
            self.resume(channel, held);
        }
    }

    /// Delivers what was held, or fetches again what still lies between.
    fn resume(&mut self, channel: &ChannelName, held: Held) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        let overflowed = held.overflowed();
        match held.resume(topic.last) {
            Resume::With(pushes) => {
                for push in pushes {
                    match push.push() {
                        Push::Gap(_, _, detail) => topic.gap(&push, detail.position),
                        _ => {
                            topic.last = push.position().or(topic.last);
                            if let Push::Publication(_, publication) = push.push() {
                                self.figures.delivered(publication);
                            }
                            topic.deliver(&push);
                        }
                    }
                }
                // Only a live-only channel comes here after an overflow: nothing can be fetched.
                if overflowed {
                    topic.gap(&Prepared::new(Push::gap(channel.clone(), Gap::Possible)), None);
                }
            }
            Resume::Fetch => {
                topic.waiting = Some(Held::new(CHANNEL_HELD_BYTES));
                self.fetch(channel);
            }
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

impl Topic {
    fn deliver(&mut self, push: &Arc<Prepared>) {
        self.deliveries.increment(self.members.len() as u64);
        for member in &mut self.members {
            match &mut member.held {
                Some(held) => held.hold(push),
                None => member.deliver(push),
            }
        }
    }

    /// Something is missing and live goes on at `now`.
    fn gap(&mut self, push: &Arc<Prepared>, now: Option<StreamPosition>) {
        if now.is_some() {
            self.last = now;
        }
        for member in &mut self.members {
            member.skip = 0;
            match &mut member.held {
                Some(held) => held.hold(push),
                None => member.link.deliver(push),
            }
        }
    }
}

impl Member {
    fn deliver(&mut self, push: &Prepared) {
        if let Push::Publication(_, publication) = push.push() {
            if publication.position.is_some_and(|position| position.offset <= self.skip) {
                return;
            }
            if !self.echo && self.link.is_own(publication.client.as_ref()) {
                return;
            }
        }
        self.link.deliver(push);
    }
}
