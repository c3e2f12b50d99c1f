//! One subscription, as the driver has it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use skywave_proto::{StreamPosition, v1};
use tokio::{
    sync::mpsc::{Sender, error::TrySendError},
    time::Instant,
};

use crate::{
    event::{Event, Gap, HistoryPage, MemberPage, Publication},
    line::Line,
    order::{Done, Opening},
    speech,
    subscription::{State, SubscribeOptions},
};

/// Its number, its place on the line, its queue, and what it is owed.
pub(super) struct Place {
    pub(super) number: u64,
    options: SubscribeOptions,
    line: Line,
    events: Sender<Event>,
    state: Arc<State>,
    /// Who waits for the first answer.
    pub(super) opening: Option<Done<()>>,
    /// It was subscribed over an earlier connection.
    was_there: bool,
    /// It is asked for over this connection.
    pub(super) is_asked: bool,
    /// The history is being read for it.
    pub(super) is_reading: bool,
    /// When to ask for it again: the node could not do it.
    pub(super) again_at: Option<Instant>,
    /// Told as soon as there is room.
    gap: Option<Gap>,
    /// Joins or leaves were left out.
    members_lost: bool,
}

/// What has to be asked of the node so that a subscription has what it was owed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owed {
    History(StreamPosition),
    Members,
}

impl Place {
    pub(super) fn new(opening: Opening) -> Self {
        let Opening { number, options, events, state, done, .. } = opening;
        let mut line = Line::default();
        line.begin(options.since);
        Self {
            number,
            options,
            line,
            events,
            state,
            opening: Some(done),
            was_there: false,
            is_asked: false,
            is_reading: false,
            again_at: None,
            gap: None,
            members_lost: false,
        }
    }

    /// The words that ask for it, from where it stands.
    pub(super) fn command(&self, channel: &str) -> v1::Subscribe {
        v1::Subscribe {
            channel: channel.to_owned(),
            since: self.line.position().map(speech::wire_position),
            presence: self.options.presence,
            echo: (!self.options.echo).then_some(false),
            token: self.options.token.clone(),
        }
    }

    /// The connection is gone: what was asked over it is not answered any more.
    pub(super) fn interrupt(&mut self) {
        (self.is_asked, self.is_reading, self.again_at) = (false, false, None);
    }

    /// Whether somebody still reads.
    pub(super) fn is_read(&self) -> bool {
        !self.events.is_closed()
    }

    /// The node has subscribed it, for the first time or again.
    pub(super) fn subscribed(&mut self, told: v1::Subscribed) {
        let position = speech::position(told.position);
        let since = self.line.position();
        let is_again = std::mem::replace(&mut self.was_there, true);
        if let Some(done) = self.opening.take() {
            let _ = done.send(Ok(())); // who no longer waits has dropped it
        }
        match (since, told.recovered) {
            // Where it was: what it missed follows, and moves it on. What was left out before comes with it.
            (Some(since), Some(true)) => self.line.begin(Some(since)),
            (Some(_), _) => {
                // With publications the position is the last one's.
                self.line.begin(position.filter(|_| told.publications.is_empty()));
                self.owe(Gap { reason: "reset".to_owned(), missed: None, position });
            }
            (None, _) if is_again && position.is_none() => {
                self.owe(Gap { reason: "possible".to_owned(), missed: None, position: None });
            }
            (None, _) => self.line.begin(position.filter(|_| told.publications.is_empty())),
        }
        self.tell_gap();
        for publication in told.publications {
            self.publication(speech::publication(publication), None);
        }
        if self.options.presence {
            self.members(speech::members(told.members, told.total, told.next));
        }
        self.settle();
    }

    /// A publication has come. `own` is this client's id where its own are to be left out here: the history does not do that.
    /// False: there was no room.
    pub(super) fn publication(&mut self, publication: Publication, own: Option<&Arc<str>>) -> bool {
        let position = publication.position;
        if position.is_some_and(|position| !self.line.is_new(position)) {
            return true;
        }
        if !self.options.echo && own.is_some() && publication.client.as_ref() == own {
            self.line.caught_up_to(position);
            return true;
        }
        // What came before it goes first.
        let waits = self.line.is_behind() && !self.is_reading || self.gap.is_some();
        if !waits && self.give(Event::Publication(publication)) {
            if let Some(position) = position {
                self.line.took(position);
            }
            return true;
        }
        match position {
            Some(position) => self.line.passed_by(position),
            None => self.owe(Gap { reason: "slow_consumer".to_owned(), missed: Some(1), position: None }),
        }
        self.settle();
        false
    }

    /// One that is live. While the history is read for what passed by, it is left to that.
    pub(super) fn live(&mut self, publication: Publication) {
        match publication.position {
            Some(position) if self.is_reading => {
                if self.line.is_new(position) {
                    self.line.passed_by(position);
                }
            }
            _ => drop(self.publication(publication, None)),
        }
    }

    pub(super) fn gap(&mut self, gap: Gap) {
        if gap.position.is_some() {
            self.line.begin(gap.position);
        }
        self.owe(gap);
        self.tell_gap();
        self.settle();
    }

    /// A join or a leave.
    pub(super) fn member(&mut self, event: Event) {
        if self.members_lost || !self.give(event) {
            self.members_lost = true;
            self.settle();
        }
    }

    /// The list of members could not be had.
    pub(super) fn lose_members(&mut self) {
        self.members_lost = true;
        self.settle();
    }

    pub(super) fn members(&mut self, page: MemberPage) {
        self.members_lost = !self.give(Event::Members(page));
        self.settle();
    }

    /// The piece of history that was asked for. True if there is more to be read, and room for it.
    pub(super) fn page(&mut self, page: HistoryPage, own: Option<&Arc<str>>) -> bool {
        if !page.is_complete {
            self.give_up("reset");
            return false;
        }
        let has_room = page.publications.into_iter().all(|publication| self.publication(publication, own));
        if has_room && !page.has_more {
            self.line.caught_up_to(page.position);
        }
        let goes_on = self.line.is_behind() && self.events.capacity() > self.events.max_capacity() / 2;
        self.is_reading = goes_on;
        self.settle();
        goes_on
    }

    /// What was left out cannot be had any more.
    pub(super) fn give_up(&mut self, reason: &str) {
        self.is_reading = false;
        let position = self.line.skip();
        self.owe(Gap { reason: reason.to_owned(), missed: None, position });
        self.tell_gap();
        self.settle();
    }

    /// Everything that waited was read: what it is owed that only the node has.
    pub(super) fn owed(&mut self) -> Vec<Owed> {
        self.tell_gap();
        self.settle();
        let mut owed = Vec::new();
        if let Some(position) = self.line.position().filter(|_| self.line.is_behind() && !self.is_reading) {
            self.is_reading = true;
            owed.push(Owed::History(position));
        }
        if std::mem::take(&mut self.members_lost) {
            owed.push(Owed::Members);
        }
        owed
    }

    /// The end, and why.
    pub(super) fn end(mut self, refusal: crate::Refusal) {
        match self.opening.take() {
            Some(done) => drop(done.send(Err(refusal.into()))),
            None => self.state.end(refusal),
        }
    }

    /// Where it stands.
    pub(super) fn position(&self) -> Option<StreamPosition> {
        self.line.position()
    }

    fn owe(&mut self, gap: Gap) {
        let missed = match (&self.gap, gap.missed) {
            (Some(Gap { missed: Some(before), .. }), Some(now)) => Some(before + now),
            (Some(_), _) => None,
            (None, missed) => missed,
        };
        self.gap = Some(Gap { missed, ..gap });
    }

    fn tell_gap(&mut self) {
        if let Some(gap) = self.gap.take()
            && !self.give(Event::Gap(gap.clone()))
        {
            self.gap = Some(gap);
        }
    }

    fn give(&self, event: Event) -> bool {
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Closed(_)) => true, // nobody reads: it is about to be ended
        }
    }

    fn settle(&self) {
        let is_behind = self.line.is_behind() || self.gap.is_some() || self.members_lost;
        self.state.is_behind.store(is_behind, Relaxed);
    }
}
