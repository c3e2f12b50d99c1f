//! One channel of a shard: its members, and what is on its way to them.
//!
//! A push is given to all members in one *pass*, a slice at a time, so that a channel with many members does not hold up
//! the others. What comes during a pass goes out with the next one: to each connection in one piece.

use std::{collections::VecDeque, rc::Rc, sync::Arc, time::Duration};

use skywave_proto::StreamPosition;
use tokio::time::Instant;

use super::{
    super::{
        delivery::{Delivery, Label, Row},
        held::Held,
        link::{Link, Slow},
        members::Members,
    },
    roll::{Changes, Reread, Roll},
};
use crate::{
    metrics::Figures,
    push::{Prepared, Push},
};

/// Pushes that wait for the next pass, in number and in bytes of payload. Full: the channel is behind, and reads what it
/// missed from history once these are out.
const PENDING: usize = 1024;
const PENDING_BYTES: usize = 1 << 20;
/// A channel with so many members fills a slice of a turn nearly alone: they are written to as the pass goes. Those of
/// smaller ones are at its end, once, whatever the number of their channels in it.
const CROWD: usize = 64;

/// What a shard knows of one channel.
pub(super) struct Topic {
    pub(super) join: u64,
    pub(super) live: bool,
    /// The last publication that was taken in here; where live begins before the first.
    pub(super) last: Option<StreamPosition>,
    /// While the channel is being joined, or a hole in it filled: what has come meanwhile.
    pub(super) waiting: Option<Held>,
    pub(super) members: Members<Member>,
    /// While the list of members is read again.
    pub(super) reread: Option<Reread>,
    pub(super) changes: Changes,
    deliveries: metrics::Counter,
    label: Rc<Label>,
    /// The places of members that are not live yet.
    opening: Vec<usize>,
    /// What has not reached all members yet. Bound: [`PENDING`] and [`PENDING_BYTES`], and a page of history.
    pending: VecDeque<Delivery>,
    pending_bytes: usize,
    /// The number of the first that is pending; each has the next one.
    first: u64,
    pass: Option<Pass>,
    /// At most one pass in so much time; zero: as they come.
    pub(super) interval: Duration,
    /// When the next pass may begin.
    pub(super) open_at: Option<Instant>,
    /// Whether the hub knows that there is something to be done here.
    pub(super) is_queued: bool,
    /// Too much was pending: what came then is read from history.
    pub(super) is_behind: bool,
}

/// One walk over the members.
#[derive(Debug, Clone, Copy)]
struct Pass {
    /// The next place.
    place: usize,
    /// The number of the first push that does not take part.
    end: u64,
}

pub(super) struct Member {
    pub(super) link: Rc<Link>,
    pub(super) echo: bool,
    pub(super) roll: Roll,
    /// While what comes before is still on its way to this member: what has come meanwhile.
    pub(super) held: Option<Box<Held>>,
    /// Publications up to this offset have reached the member already.
    pub(super) skip: u64,
    /// Pushes before the one with this number have reached it already, or are not for it.
    next: u64,
}

/// How a pass has gone on.
pub(super) struct Progress {
    /// Members that were looked at.
    pub(super) visited: usize,
    /// Whether all members have been walked over.
    pub(super) is_over: bool,
    /// Whether nothing is pending any more.
    pub(super) is_done: bool,
}

impl Topic {
    pub(super) fn new(
        join: u64,
        label: Label,
        waiting: Held,
        deliveries: metrics::Counter,
        interval: Duration,
    ) -> Self {
        Self {
            join,
            live: false,
            last: None,
            waiting: Some(waiting),
            members: Members::default(),
            reread: None,
            changes: Changes::default(),
            deliveries,
            label: Rc::new(label),
            opening: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            first: 0,
            pass: None,
            interval,
            open_at: None,
            is_queued: false,
            is_behind: false,
        }
    }

    /// Adds a member for which everything is held until [`Topic::open`]. Returns its place.
    pub(super) fn enter(&mut self, link: Rc<Link>, echo: bool, roll: Roll) -> usize {
        let held = Some(Box::new(Held::new(link.held_bytes())));
        let place = self.members.insert(Member { link, echo, roll, held, skip: 0, next: self.next() });
        self.opening.push(place);
        place
    }

    /// Gives a member at once what is pending for it, for whom no pass comes any more.
    pub(super) fn settle(&mut self, place: usize, slow: &mut dyn FnMut(u64, Slow)) {
        let (first, next) = (self.first, self.next());
        let Some(member) = self.members.get_mut(place).filter(|member| !member.link.is_closing()) else { return };
        let from = self.pass.filter(|pass| place < pass.place).map_or(first, |pass| pass.end);
        let skipped = usize::try_from(from - first).expect("as many as are pending");
        let delivered = member.pass(from, self.pending.range(skipped..), slow);
        member.next = next;
        self.deliveries.increment(delivered);
    }

    /// Takes a member away.
    pub(super) fn leave(&mut self, place: usize) {
        if self.members.remove(place).is_some_and(|member| member.held.is_some()) {
            self.opening.retain(|opening| *opening != place);
        }
    }

    /// The member at this place, if it still is this connection's.
    pub(super) fn member(&mut self, place: usize, key: u64) -> Option<&mut Member> {
        self.members.get_mut(place).filter(|member| member.link.key() == key)
    }

    /// What is pending has reached the member already, or comes to it another way: it is live from here on.
    pub(super) fn open(&mut self, place: usize) {
        let next = self.next();
        let Some(member) = self.members.get_mut(place) else { return };
        member.held = None;
        member.next = next;
        self.opening.retain(|opening| *opening != place);
    }

    /// The number of the next push.
    pub(super) fn next(&self) -> u64 {
        self.first + self.pending.len() as u64
    }

    /// Whether every push that was taken in has reached every member.
    pub(super) fn is_quiet(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether no more should be taken in before a pass.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= PENDING || self.pending_bytes >= PENDING_BYTES
    }

    /// Takes in a push for the members; the next pass brings it to them.
    pub(super) fn deliver(&mut self, push: &Arc<Prepared>) {
        let is_presence = matches!(push.push(), Push::Presence(..));
        for place in self.opening.iter().filter(|_| !is_presence) {
            if let Some(held) = self.members.get_mut(*place).and_then(|member| member.held.as_mut()) {
                held.hold(push);
            }
        }
        let label = matches!(push.push(), Push::Publication(..)).then(|| self.label.clone());
        self.pending_bytes += push.payload_bytes();
        self.pending.push_back(Delivery::new(push.clone(), label));
    }

    /// Something is missing and live goes on at `now`.
    pub(super) fn gap(&mut self, push: &Arc<Prepared>, now: Option<StreamPosition>) {
        if now.is_some() {
            self.last = now;
        }
        self.deliver(push);
    }

    /// Goes on with the pass for at most `budget` places. `slow` hears of members that lose any, or
    /// have to go on from history.
    pub(super) fn advance(&mut self, budget: usize, figures: &Figures, slow: &mut dyn FnMut(u64, Slow)) -> Progress {
        let next = self.next();
        let Pass { mut place, end } = *self.pass.get_or_insert(Pass { place: 0, end: next });
        let places = self.members.places();
        let mut visited = 0;
        let count = usize::try_from(end - self.first).expect("as many as are pending");
        let row = Row::new(self.pending.range(..count));
        let is_crowd = self.members.len() >= CROWD;
        let mut delivered = 0;
        while place < places && visited < budget {
            if let Some(member) = self.members.get_mut(place) {
                visited += 1;
                let taken = if is_crowd { member.offer(self.first, &row) } else { 0 };
                let was_live = member.held.is_none();
                let rest = self.pending.range(taken..count);
                delivered += taken as u64 + member.pass(self.first + taken as u64, rest, slow);
                if was_live && member.held.is_some() {
                    self.opening.push(place);
                }
            }
            place += 1;
        }
        if delivered > 0 {
            self.deliveries.increment(delivered);
        }
        if place < places {
            self.pass = Some(Pass { place, end });
            return Progress { visited, is_over: false, is_done: false };
        }
        self.pass = None;
        self.first = end;
        for delivery in self.pending.drain(..count) {
            self.pending_bytes -= delivery.push().payload_bytes();
            if let Push::Publication(_, publication) = delivery.push().push() {
                figures.delivered(publication);
            }
        }
        if self.pending.is_empty() && self.pending.capacity() > 32 {
            self.pending = VecDeque::new(); // a queue that was long gives its memory back
        }
        Progress { visited, is_over: true, is_done: self.pending.is_empty() }
    }
}

impl Member {
    /// Gives the member's socket these without a detour, if it gets all of them and nothing waits before them. Returns how
    /// many it took.
    fn offer(&mut self, first: u64, row: &Row<'_>) -> usize {
        if self.held.is_some() || !self.echo || self.next > first || self.skip > 0 && self.skip >= row.offset() {
            return 0;
        }
        row.frames(self.link.format()).map_or(0, |frames| self.link.offer(frames))
    }

    /// Gives the member what it has not got of these, the first of which has the number `first`. Returns how many
    /// publications that was. `slow` hears if it loses any, or has to go on from history.
    fn pass<'a>(
        &mut self,
        first: u64,
        deliveries: impl Iterator<Item = &'a Delivery>,
        slow: &mut dyn FnMut(u64, Slow),
    ) -> u64 {
        let mut delivered = 0;
        for (number, delivery) in (first..).zip(deliveries) {
            let push = delivery.push();
            // Who is there is told by another list than what was said: it has a beginning of its own.
            let is_here = match push.push() {
                Push::Presence(..) => matches!(self.roll, Roll::Following(from) if number >= from),
                _ => self.held.is_none() && number >= self.next && self.wants(push),
            };
            if !is_here {
                continue;
            }
            delivered += u64::from(matches!(push.push(), Push::Publication(..)));
            if let Some(what) = self.link.deliver(delivery) {
                slow(self.link.key(), what);
                if matches!(what, Slow::Behind(_)) {
                    self.hold_nothing();
                }
            }
        }
        delivered
    }

    fn wants(&mut self, push: &Prepared) -> bool {
        match push.push() {
            Push::Publication(_, publication) => {
                publication.position.is_none_or(|position| position.offset > self.skip)
                    && (self.echo || !self.link.is_own(publication.client.as_ref()))
            }
            Push::Gap(..) => {
                self.skip = 0;
                true
            }
            _ => true,
        }
    }

    /// From now on everything is held: what comes before it is still on its way.
    pub(super) fn hold(&mut self) {
        self.held = Some(Box::new(Held::new(self.link.held_bytes())));
    }

    /// The same, but what comes until it has been read from history is not kept: while the member reads nothing that would
    /// be memory beyond its outbox.
    fn hold_nothing(&mut self) {
        self.hold();
        self.held.iter_mut().for_each(|held| held.lose());
    }

    /// Gives the member what was held for it. It must not be left out: the member is not live yet.
    pub(super) fn give(&mut self, push: &Prepared) {
        if self.wants(push) {
            self.link.deliver_surely(push);
        }
    }
}
