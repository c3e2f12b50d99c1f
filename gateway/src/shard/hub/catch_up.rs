//! A channel that has missed something reads it from history: what lies between is delivered first, then what was held.

use skywave_backplane::{Gap, HistoryError, HistoryPage, HistoryQuery};
use skywave_proto::{ChannelName, StreamPosition};

use super::{
    super::held::{Held, Resume},
    CHANNEL_HELD_BYTES, Hub,
};
use crate::{
    push::{Prepared, Push},
    relay::Receipt,
};

/// What one fetch after a hole asks for.
const CATCH_UP_PUBLICATIONS: u32 = 1000;
const CATCH_UP_BYTES: usize = 1 << 20;

impl Hub {
    /// Publications of a channel may have passed by unheard: looks into its history.
    pub(super) fn lose(&mut self, channel: &ChannelName) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        if let Some(waiting) = &mut topic.waiting {
            waiting.lose();
        } else if topic.last.is_some() {
            topic.waiting = Some(Held::new(CHANNEL_HELD_BYTES));
            self.fetch(channel);
        } else {
            topic.gap(&Prepared::new(Push::gap(channel.clone(), Gap::Possible)), None);
            self.enqueue(channel);
        }
    }

    /// The members have all that was pending, and more was not taken in meanwhile.
    pub(super) fn go_on(&mut self, channel: &ChannelName) {
        match self.topics.get(channel).is_some_and(|topic| topic.waiting.is_some()) {
            true => self.fetch(channel),
            false => self.lose(channel),
        }
    }

    /// Reads what is missing after the last publication that was taken in.
    pub(super) fn fetch(&mut self, channel: &ChannelName) {
        let Some(topic) = self.topics.get_mut(channel).filter(|topic| topic.live && topic.waiting.is_some()) else {
            return;
        };
        if topic.is_full() {
            topic.is_behind = true; // the members first
            return;
        }
        let query =
            HistoryQuery { since: topic.last, limit: CATCH_UP_PUBLICATIONS, bytes: CATCH_UP_BYTES, followed: true };
        let receipt = Receipt { shard: self.shard, connection: None, ticket: topic.join };
        if self.relay.history(channel.clone(), query, receipt).is_err() {
            self.stalled.push(channel.clone());
        }
    }

    /// The history has answered to [`Hub::fetch`].
    pub(in crate::shard) fn caught_up(
        &mut self,
        channel: &ChannelName,
        join: u64,
        page: Result<HistoryPage, HistoryError>,
    ) {
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
            self.enqueue(channel);
            self.resume(channel, held);
            return;
        }
        for publication in page.publications {
            // By the offset alone: a complete page goes on where the channel stood, and behind a restart or a failover
            // the same line goes on under another epoch.
            let is_next = |last: StreamPosition| publication.position.is_some_and(|at| at.offset == last.offset + 1);
            if topic.last.is_some_and(is_next) {
                topic.last = publication.position;
                topic.deliver(&Prepared::new(Push::Publication(channel.clone(), publication)));
            }
        }
        let is_quiet = topic.is_quiet();
        if page.more {
            topic.waiting = Some(held);
            self.fetch(channel);
        } else {
            self.resume(channel, held);
        }
        if !is_quiet {
            self.enqueue(channel);
        }
    }
    /// Delivers what was held, or fetches again what still lies between.
    pub(super) fn resume(&mut self, channel: &ChannelName, held: Held) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        let overflowed = held.overflowed();
        match held.resume(topic.last) {
            Resume::With(pushes) => {
                for push in pushes {
                    match push.push() {
                        Push::Gap(_, _, detail) => topic.gap(&push, detail.position),
                        _ => {
                            topic.last = push.position().or(topic.last);
                            topic.deliver(&push);
                        }
                    }
                }
                // Only a live-only channel comes here after an overflow: nothing can be fetched.
                if overflowed {
                    topic.gap(&Prepared::new(Push::gap(channel.clone(), Gap::Possible)), None);
                }
                if !topic.is_quiet() {
                    self.enqueue(channel);
                }
            }
            Resume::Fetch => {
                topic.waiting = Some(Held::new(CHANNEL_HELD_BYTES));
                self.fetch(channel);
            }
        }
    }
}
