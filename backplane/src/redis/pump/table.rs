//! The channels of one lane, and how far each has been delivered.

use std::{collections::HashMap, sync::Arc};

use skywave_proto::{ChannelName, StreamPosition};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Gap, HistoryPolicy, Sink, metrics,
    redis::{
        cursor::{Cursor, Event, Next},
        ring::Rings,
    },
};

/// One channel that somebody is subscribed to.
pub(super) struct Entry {
    pub(super) partition: usize,
    pub(super) cursor: Cursor,
    pub(super) history: Option<HistoryPolicy>,
    pub(super) waiting: Vec<oneshot::Sender<Option<StreamPosition>>>,
    pub(super) lingers_until: Option<Instant>,
    /// When its line was last made to live on.
    pub(super) touched_at: Option<Instant>,
}

/// Bound: the channels that the node's clients are subscribed to.
pub(super) struct Table {
    pub(super) channels: HashMap<ChannelName, Entry, ahash::RandomState>,
    pub(super) rings: Rings,
    pub(super) events: Vec<Event>,
    pub(super) sink: Arc<dyn Sink>,
}

impl Table {
    /// One step of a channel's cursor, and what it wants told. Gives the channel if its history has to be asked.
    pub(super) fn step(
        &mut self,
        channel: &str,
        step: impl FnOnce(&mut Cursor, &mut Vec<Event>) -> Next,
    ) -> Option<ChannelName> {
        // Unsubscribed meanwhile: nobody wants it.
        let name = self.channels.get_key_value(channel).map(|(name, _)| name.clone())?;
        let entry = self.channels.get_mut(channel)?;
        let next = step(&mut entry.cursor, &mut self.events);
        for event in self.events.drain(..) {
            match event {
                Event::Publication(publication) => {
                    self.rings.push(&name, &publication);
                    self.sink.publication(&name, publication);
                }
                Event::Gap(gap) => {
                    self.rings.forget(&name);
                    metrics::gap(gap);
                    self.sink.gap(&name, gap);
                }
            }
        }
        (next == Next::Fetch).then_some(name)
    }

    /// Tells the channels without history that something may have passed by, by their partition and whether they were
    /// marked.
    pub(super) fn tell_missed(&mut self, tell: impl Fn(usize, bool) -> bool) {
        for (channel, entry) in &mut self.channels {
            if let Cursor::Live { missed } = &mut entry.cursor
                && tell(entry.partition, *missed)
            {
                *missed = false;
                metrics::gap(Gap::Possible);
                self.sink.gap(channel, Gap::Possible);
            }
        }
    }
}
