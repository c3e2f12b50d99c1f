//! What this node wants to stand in Redis: its clients' memberships. Pure.
//!
//! Not a queue of steps but the state that is wanted: who joins and leaves while Redis is away leaves nothing behind, and
//! what comes late cannot undo what came after it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use skywave_proto::{ChannelName, Member};
use tokio::{sync::oneshot, time::Instant};

use crate::redis::keys;

/// Bound: the memberships of the node's clients.
#[derive(Default)]
pub(super) struct Table {
    channels: HashMap<ChannelName, HashMap<Arc<str>, Seat, ahash::RandomState>, ahash::RandomState>,
    /// What differs from what stands in Redis, oldest first.
    dirty: VecDeque<(ChannelName, Arc<str>)>,
    /// Who leaves when, unless they come back.
    leaving: BTreeMap<(Instant, u64), (ChannelName, Arc<str>)>,
    changes: u64,
}

struct Seat {
    member: Member,
    serial: u64,
    wanted: Wanted,
    /// Others have been told of the member, or need not be: writing it again tells nobody.
    is_told: bool,
    /// It may stand in Redis: a write has been begun.
    is_begun: bool,
    is_dirty: bool,
    /// Grows with each wish.
    version: u64,
    waiting: Vec<oneshot::Sender<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Present,
    /// Present until then; the number tells moments apart that are the same.
    Leaving(Instant, u64),
    Gone,
}

/// Why everything is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) enum Resync {
    /// Redis has lost it: nobody has been told that they left.
    Quiet,
    /// This node was taken for dead, and others were told that its members have left.
    Loud,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) member: Member,
    pub(super) serial: u64,
    pub(super) is_told: bool,
    version: u64,
}

/// What is to be written of one channel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Writes {
    pub(super) joins: Vec<Write>,
    pub(super) leaves: Vec<Write>,
    /// Nobody of this node stays.
    pub(super) is_last: bool,
}

impl Table {
    /// The client is a member now. The answer comes when that stands in Redis; never if a later wish takes its place.
    pub(super) fn join(&mut self, channel: &ChannelName, member: Member, serial: u64) -> oneshot::Receiver<()> {
        let (answer, written) = oneshot::channel();
        self.changes += 1;
        let version = self.changes;
        let seats = self.channels.entry(channel.clone()).or_default();
        let client = member.client.clone();
        match seats.get_mut(&client) {
            Some(seat) if seat.serial > serial => return written, // an older connection: dropped, as if written
            Some(seat) => {
                if let Wanted::Leaving(at, number) = seat.wanted {
                    self.leaving.remove(&(at, number));
                }
                (seat.member, seat.serial, seat.wanted, seat.version) = (member, serial, Wanted::Present, version);
                seat.waiting.push(answer);
            }
            None => {
                let seat = Seat {
                    member,
                    serial,
                    wanted: Wanted::Present,
                    is_told: false,
                    is_begun: false,
                    is_dirty: false,
                    version,
                    waiting: vec![answer],
                };
                seats.insert(client.clone(), seat);
            }
        }
        self.soil(channel, &client);
        written
    }

    /// The client leaves at `at`, or now. `None`: there is nothing to wait for.
    pub(super) fn leave(
        &mut self,
        channel: &ChannelName,
        client: &Arc<str>,
        serial: u64,
        at: Option<Instant>,
    ) -> Option<oneshot::Receiver<()>> {
        self.changes += 1;
        let version = self.changes;
        let seat = self.seat(channel, client).filter(|seat| seat.serial == serial && seat.wanted == Wanted::Present)?;
        if let Some(at) = at {
            seat.wanted = Wanted::Leaving(at, version);
            self.leaving.insert((at, version), (channel.clone(), client.clone()));
            return None;
        }
        self.go(channel, client, version)
    }

    fn go(&mut self, channel: &ChannelName, client: &Arc<str>, version: u64) -> Option<oneshot::Receiver<()>> {
        let seat = self.seat(channel, client)?;
        if !seat.is_begun {
            // It never came to stand in Redis.
            self.remove(channel, client);
            return None;
        }
        let (answer, written) = oneshot::channel();
        (seat.wanted, seat.version) = (Wanted::Gone, version);
        seat.waiting.clear();
        seat.waiting.push(answer);
        self.soil(channel, client);
        Some(written)
    }

    /// Those whose time has come leave. Gives when the next one's comes.
    pub(super) fn pass(&mut self, now: Instant) -> Option<Instant> {
        while let Some(first) = self.leaving.first_entry()
            && first.key().0 <= now
        {
            let ((_, number), (channel, client)) = first.remove_entry();
            let still = self
                .seat(&channel, &client)
                .is_some_and(|seat| matches!(seat.wanted, Wanted::Leaving(_, its_number) if its_number == number));
            if still {
                self.changes += 1;
                self.go(&channel, &client, self.changes);
            }
        }
        self.leaving.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes at most `count` of what is to be written.
    pub(super) fn take(&mut self, count: usize) -> HashMap<ChannelName, Writes> {
        let mut writes = HashMap::<ChannelName, Writes>::new();
        for _ in 0..count {
            let Some((channel, client)) = self.dirty.pop_front() else { break };
            let Some(seat) = self.seat(&channel, &client) else { continue };
            (seat.is_dirty, seat.is_begun) = (false, true);
            let write = Write {
                member: seat.member.clone(),
                serial: seat.serial,
                is_told: seat.is_told,
                version: seat.version,
            };
            let is_gone = seat.wanted == Wanted::Gone;
            let writes = writes.entry(channel).or_default();
            if is_gone { writes.leaves.push(write) } else { writes.joins.push(write) }
        }
        for (channel, writes) in &mut writes {
            let mut seats = self.channels.get(channel).into_iter().flat_map(HashMap::values);
            writes.is_last = seats.all(|seat| seat.wanted == Wanted::Gone);
        }
        writes
    }

    /// These stand in Redis as they were wanted when they were taken.
    pub(super) fn written(&mut self, channel: &ChannelName, writes: &Writes) {
        for write in &writes.joins {
            let Some(seat) = self.seat(channel, &write.member.client) else { continue };
            seat.is_told = true;
            if seat.version == write.version {
                seat.answer();
            }
        }
        for write in &writes.leaves {
            let Some(seat) = self.seat(channel, &write.member.client) else { continue };
            // Whoever came back meanwhile has left in between, and that was told.
            seat.is_told = false;
            if seat.version == write.version {
                seat.answer();
                self.remove(channel, &write.member.client);
            }
        }
    }

    /// These may stand in Redis or not: they are written again.
    pub(super) fn failed(&mut self, channel: &ChannelName, writes: &Writes) {
        for write in writes.joins.iter().chain(&writes.leaves) {
            self.soil(channel, &write.member.client);
        }
    }

    /// Everything in these partitions is written again.
    pub(super) fn resync(&mut self, resync: Resync, is_meant: impl Fn(usize) -> bool) {
        let channels = self.channels.keys().filter(|channel| is_meant(keys::partition(channel)));
        for channel in channels.cloned().collect::<Vec<_>>() {
            let Some(seats) = self.channels.get_mut(&channel) else { continue };
            for seat in seats.values_mut() {
                // Who was not told of before is told in any case.
                seat.is_told &= resync == Resync::Quiet;
            }
            for client in seats.keys().cloned().collect::<Vec<_>>() {
                self.soil(&channel, &client);
            }
        }
    }

    /// Every channel with a member.
    pub(super) fn channels(&self) -> Vec<ChannelName> {
        self.channels.keys().cloned().collect()
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    fn seat(&mut self, channel: &ChannelName, client: &Arc<str>) -> Option<&mut Seat> {
        self.channels.get_mut(channel)?.get_mut(client)
    }

    fn soil(&mut self, channel: &ChannelName, client: &Arc<str>) {
        if let Some(seat) = self.seat(channel, client)
            && !std::mem::replace(&mut seat.is_dirty, true)
        {
            self.dirty.push_back((channel.clone(), client.clone()));
        }
    }

    fn remove(&mut self, channel: &ChannelName, client: &Arc<str>) {
        if let Some(seats) = self.channels.get_mut(channel) {
            seats.remove(client);
            if seats.is_empty() {
                self.channels.remove(channel);
            }
        }
    }
}

impl Seat {
    fn answer(&mut self) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(()); // who asked may have given up
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn channel() -> ChannelName {
        ChannelName::parse("chat").unwrap()
    }

    fn ada() -> Member {
        Member { client: "ada".into(), user: None, info: None }
    }

    fn taken(table: &mut Table) -> (Vec<(u64, bool)>, Vec<u64>, bool) {
        let writes = table.take(100).remove(&channel()).unwrap_or_default();
        table.written(&channel(), &writes);
        let joins = writes.joins.iter().map(|write| (write.serial, write.is_told)).collect();
        (joins, writes.leaves.iter().map(|write| write.serial).collect(), writes.is_last)
    }

    #[test]
    fn what_is_wanted_is_written_once_and_answered() {
        let mut table = Table::default();
        let mut written = table.join(&channel(), ada(), 1);
        assert!(written.try_recv().is_err());
        assert_eq!(taken(&mut table), (vec![(1, false)], vec![], false));
        assert_eq!(written.try_recv(), Ok(()));
        assert_eq!(taken(&mut table), (vec![], vec![], false), "nothing more");
        table.join(&channel(), ada(), 2);
        assert!(table.leave(&channel(), &"ada".into(), 1, None).is_none(), "an older connection does not leave");
        assert_eq!(taken(&mut table), (vec![(2, true)], vec![], false));
        let mut left = table.leave(&channel(), &"ada".into(), 2, None).unwrap();
        assert_eq!(taken(&mut table), (vec![], vec![2], true));
        assert_eq!(left.try_recv(), Ok(()));
        assert!(table.channels().is_empty());
    }

    #[test]
    fn who_comes_and_goes_before_anything_was_written_leaves_nothing() {
        let mut table = Table::default();
        table.join(&channel(), ada(), 1);
        assert!(table.leave(&channel(), &"ada".into(), 1, None).is_none());
        assert_eq!(taken(&mut table), (vec![], vec![], false));
        assert!(table.channels().is_empty());
    }

    #[test]
    fn what_failed_is_written_again_unless_it_is_not_wanted_any_more() {
        let mut table = Table::default();
        table.join(&channel(), ada(), 1);
        let writes = table.take(100).remove(&channel()).unwrap();
        table.failed(&channel(), &writes);
        table.leave(&channel(), &"ada".into(), 1, None);
        assert_eq!(taken(&mut table), (vec![], vec![1], true), "it may stand there, so it is taken away");
    }

    #[test]
    fn who_comes_back_in_time_stays() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.join(&channel(), ada(), 1);
        taken(&mut table);
        let after = |seconds| now + Duration::from_secs(seconds);
        table.leave(&channel(), &"ada".into(), 1, Some(after(5)));
        assert_eq!(table.pass(after(4)), Some(after(5)));
        table.join(&channel(), ada(), 2);
        assert_eq!(table.pass(after(6)), None);
        assert_eq!(taken(&mut table), (vec![(2, true)], vec![], false));
        table.leave(&channel(), &"ada".into(), 2, Some(after(9)));
        table.pass(after(9));
        assert_eq!(taken(&mut table), (vec![], vec![2], true));
    }

    #[test]
    fn who_comes_back_while_its_leave_is_on_its_way_joins_again() {
        let mut table = Table::default();
        table.join(&channel(), ada(), 1);
        taken(&mut table);
        table.leave(&channel(), &"ada".into(), 1, None);
        let writes = table.take(100).remove(&channel()).unwrap();
        table.join(&channel(), ada(), 2);
        table.written(&channel(), &writes);
        assert_eq!(taken(&mut table), (vec![(2, false)], vec![], false), "its leave was told, so its join is");
    }

    #[test]
    fn a_resync_is_quiet_about_those_that_others_know() {
        let mut table = Table::default();
        table.join(&channel(), ada(), 1);
        table.resync(Resync::Quiet, |_| true);
        assert_eq!(taken(&mut table), (vec![(1, false)], vec![], false), "nobody knew it yet");
        table.resync(Resync::Quiet, |_| true);
        assert_eq!(taken(&mut table), (vec![(1, true)], vec![], false));
        table.resync(Resync::Quiet, |_| false);
        assert_eq!(taken(&mut table), (vec![], vec![], false));
        table.resync(Resync::Loud, |_| true);
        assert_eq!(taken(&mut table), (vec![(1, false)], vec![], false));
    }
}
