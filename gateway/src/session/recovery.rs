//! What a client missed, a piece at a time as its socket drains, and the seam to what comes live.

use skywave_backplane::{HistoryPage, HistoryQuery};
use skywave_proto::{ChannelName, Epoch, Publication, StreamPosition};

use super::{
    Asked, PAGE_PUBLICATIONS, Session, opening,
    subscriptions::{Stage, Subscription, Turn},
};
use crate::{
    push::{GapDetail, GapReason, Push},
    shard::Activation,
};

impl Session {
    /// The client has been given a channel's publications up to here; the rest follows.
    pub(super) fn resume_from(&self, channel: &ChannelName, position: Option<StreamPosition>) {
        if let Some(Subscription { stage: Stage::Replaying { after, .. }, .. }) =
            self.state.borrow_mut().subscriptions.get_mut(channel).map(Box::as_mut)
        {
            *after = position;
        }
    }

    /// The answer is out. Behind it comes the rest of what was missed, if there is more, and then live.
    pub(super) fn go_live(&self, channel: &ChannelName, more: bool) {
        if !more {
            self.activate(channel);
        }
        self.link.wake();
    }

    /// Joins what the client has got to what comes live, or reads what still lies between.
    fn activate(&self, channel: &ChannelName) {
        let mut state = self.state.borrow_mut();
        let Some(Subscription { stage, place, .. }) = state.subscriptions.get_mut(channel).map(Box::as_mut) else {
            return;
        };
        let Stage::Replaying { after, .. } = *stage else { return };
        let activation = self.shard.hub().activate(channel, *place, self.link.key(), after);
        match activation {
            Activation::Live => {
                *stage = Stage::Live;
                self.replaying.set(self.replaying.get() - 1);
            }
            Activation::Fetch => {
                drop(state);
                // Without a position the client starts over; the answer to one that never was says so.
                self.read_after(channel, after.unwrap_or_else(|| StreamPosition::start(Epoch::random())));
            }
            Activation::Later => {
                drop(state);
                self.rest(channel);
            }
        }
    }

    /// The client did not take the channel's publications in time: they follow from history, after this position, once the
    /// socket has taken what waits for it.
    pub fn fall_behind(&self, channel: &ChannelName, after: StreamPosition) {
        let mut state = self.state.borrow_mut();
        let Some(Subscription { stage, .. }) = state.subscriptions.get_mut(channel).map(Box::as_mut) else { return };
        if matches!(stage, Stage::Live) {
            *stage = Stage::Replaying { after: Some(after), turn: Turn::Ready };
            self.replaying.set(self.replaying.get() + 1);
        }
    }

    /// The socket has taken everything: the next piece of what was missed can follow. One at a time, whatever the
    /// number of channels: together they would not fit into the outbox. One that could not be read lets the others go
    /// first.
    pub fn drained(&self) {
        let state = self.state.borrow();
        let now = self.shard.hub().ticks();
        let replaying = state.subscriptions.iter().filter_map(|(channel, subscription)| match subscription.stage {
            Stage::Replaying { turn, .. } => Some((channel, turn)),
            Stage::Opening(_) | Stage::Live => None,
        });
        if state.connecting.is_some() || replaying.clone().any(|(_, turn)| turn == Turn::Reading) {
            return;
        }
        let mut ready = replaying.filter(|(_, turn)| *turn != Turn::Resting(now));
        let next = ready.next().map(|(channel, _)| channel.clone());
        drop(state);
        if let Some(channel) = next {
            self.read_on(&channel);
        }
    }

    fn read_on(&self, channel: &ChannelName) {
        let after = match self.state.borrow().subscriptions.get(channel).map(|subscription| &subscription.stage) {
            Some(Stage::Replaying { after, .. }) => *after,
            Some(Stage::Opening(_) | Stage::Live) | None => return,
        };
        match after {
            Some(after) => self.read_after(channel, after),
            None => self.activate(channel), // nothing was missed, or the channel keeps nothing
        }
    }

    fn read_after(&self, channel: &ChannelName, after: StreamPosition) {
        let Some(number) = self.number_of(channel) else { return };
        self.take_turn(channel, Turn::Reading);
        let query =
            HistoryQuery { since: Some(after), limit: PAGE_PUBLICATIONS, bytes: self.page_bytes(), followed: true };
        let receipt = self.ask(Asked::Missed(number));
        if self.shard.relay().history(channel.clone(), query, receipt).is_err() {
            self.forget(receipt);
            self.rest(channel);
        }
    }

    /// What comes next cannot be had now, and asking again at once would be answered the same.
    pub(super) fn rest(&self, channel: &ChannelName) {
        let tick = self.shard.hub().retry(self.link.key());
        self.take_turn(channel, Turn::Resting(tick));
    }

    pub(super) fn take_turn(&self, channel: &ChannelName, next: Turn) {
        if let Some(Subscription { stage: Stage::Replaying { turn, .. }, .. }) =
            self.state.borrow_mut().subscriptions.get_mut(channel).map(Box::as_mut)
        {
            *turn = next;
        }
    }

    /// Sends a further piece of what was missed.
    pub(super) fn replay(&self, channel: &ChannelName, page: HistoryPage) {
        let more = page.more && page.complete;
        let missed = opening::missed(page);
        if !missed.recovered {
            let detail = GapDetail { missed: None, position: missed.position };
            self.link.tell(&Push::Gap(channel.clone(), GapReason::Reset, detail));
        }
        if let Some(Subscription { stage: Stage::Replaying { after, turn }, .. }) =
            self.state.borrow_mut().subscriptions.get_mut(channel).map(Box::as_mut)
        {
            *after = missed.position;
            *turn = Turn::Ready;
        }
        self.push_all(channel, missed.publications);
        if missed.position.is_none() {
            self.rest(channel); // Redis has no line for it yet: the shard delivers from the first on
        } else if !more {
            self.activate(channel);
        }
    }

    pub(super) fn push_all(&self, channel: &ChannelName, publications: Vec<Publication>) {
        let Some(request) = self.state.borrow().subscriptions.get(channel).map(|known| known.request.clone()) else {
            return;
        };
        let own = self.client().id;
        for publication in publications {
            if opening::wants(&request, &own, &publication) {
                self.link.tell(&Push::Publication(channel.clone(), publication));
            }
        }
    }
}
