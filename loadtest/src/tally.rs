//! What one receiver got, against what it should have got: lost, doubled, reordered. Pure.
//!
//! Two lines are checked. Each *publisher's* own count (0, 1, 2 …), which is known at both ends: it tells what was lost
//! and what came twice. And the *channel's* offsets, which the node assigns: they must rise by one without holes.

use std::{collections::VecDeque, ops::AddAssign, ops::Range};

/// Bound on the holes remembered per publisher and receiver. Full: the oldest is given up, so it counts as lost, and what
/// still comes out of it as doubled. A line with a thousand holes has failed either way.
const MAX_HOLES: usize = 1024;

/// What a publication turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The first time, and in order (what lies between may be missing so far).
    New,
    /// The first time, but later ones of the same publisher came before.
    Late,
    /// It was here before.
    Doubled,
}

/// The books of one receiver.
#[derive(Debug, Default)]
pub struct Tally {
    publishers: Vec<PublisherLine>,
    channel: ChannelLine,
    doubled: u64,
    reordered: u64,
}

/// What a publisher is known to have done, to be held against what arrived.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Sent {
    /// It sent 0 to `count - 1`.
    pub count: u64,
    /// Those that the node refused, ascending: nobody has to receive them.
    pub refused: Vec<u64>,
}

/// The result over one receiver, or the sum over many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// Publications that arrived, each counted once.
    pub received: u64,
    /// Publications that never arrived and were not refused.
    pub lost: u64,
    /// Arrivals of a publication that had arrived before.
    pub doubled: u64,
    /// Publications that arrived after a later one of the same publisher.
    pub reordered: u64,
    /// Offsets that were skipped.
    pub offset_holes: u64,
    /// Offsets that were not above the one before.
    pub offset_steps_back: u64,
    /// Times the epoch became another.
    pub epoch_changes: u64,
}

impl Tally {
    /// Empty books for a channel with that many publishers.
    pub fn new(publishers: usize) -> Self {
        Self { publishers: vec![PublisherLine::default(); publishers], ..Self::default() }
    }

    /// The subscription begins after this position: the next offset is the one above.
    pub fn start(&mut self, epoch: &str, offset: u64) {
        self.channel.epoch = Some(epoch.into());
        self.channel.next = Some(offset.saturating_add(1));
    }

    /// A publication of ours arrived. `None`: the run has no such publisher.
    pub fn arrived(&mut self, from: u32, seq: u64) -> Option<Arrival> {
        let arrival = self.publishers.get_mut(from as usize)?.arrived(seq);
        match arrival {
            Arrival::New => {}
            Arrival::Late => self.reordered += 1,
            Arrival::Doubled => self.doubled += 1,
        }
        Some(arrival)
    }

    /// A publication of anybody's arrived at this position of the channel.
    pub fn stood_at(&mut self, epoch: Option<&str>, offset: u64) {
        self.channel.stood_at(epoch, offset);
    }

    /// Closes the books: `sent` has one entry for each publisher.
    pub fn close(&self, sent: &[Sent]) -> Outcome {
        let mut outcome = Outcome {
            doubled: self.doubled,
            reordered: self.reordered,
            offset_holes: self.channel.holes,
            offset_steps_back: self.channel.steps_back,
            epoch_changes: self.channel.epoch_changes,
            ..Outcome::default()
        };
        for (line, sent) in self.publishers.iter().zip(sent) {
            outcome.received += line.received;
            outcome.lost += line.lost(sent);
        }
        outcome
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.offset_holes += other.offset_holes;
        self.offset_steps_back += other.offset_steps_back;
        self.epoch_changes += other.epoch_changes;
    }
}

/// One publisher as one receiver saw it: everything below `next` was here, except the holes.
#[derive(Debug, Clone, Default)]
struct PublisherLine {
    next: u64,
    received: u64,
    given_up: u64,
    /// Ascending, not touching. Bound: [`MAX_HOLES`].
    holes: VecDeque<Range<u64>>,
}

impl PublisherLine {
    fn arrived(&mut self, seq: u64) -> Arrival {
        if seq >= self.next {
            if seq > self.next {
                self.holes.push_back(self.next..seq);
                self.bound();
            }
            self.next = seq + 1;
            self.received += 1;
            return Arrival::New;
        }
        let at = self.holes.partition_point(|hole| hole.end <= seq);
        match self.holes.get(at) {
            Some(hole) if hole.contains(&seq) => {
                let (before, after) = (hole.start..seq, seq + 1..hole.end);
                self.holes.remove(at);
                for part in [after, before].into_iter().filter(|part| !part.is_empty()) {
                    self.holes.insert(at, part);
                }
                self.bound();
                self.received += 1;
                Arrival::Late
            }
            _ => Arrival::Doubled,
        }
    }

    fn bound(&mut self) {
        while self.holes.len() > MAX_HOLES
            && let Some(oldest) = self.holes.pop_front()
        {
            self.given_up += oldest.end - oldest.start;
        }
    }

    fn lost(&self, sent: &Sent) -> u64 {
        let missing = |range: &Range<u64>| {
            let refused = sent.refused.partition_point(|seq| *seq < range.end)
                - sent.refused.partition_point(|seq| *seq < range.start);
            (range.end - range.start).saturating_sub(refused as u64)
        };
        let tail = self.next..sent.count.max(self.next);
        self.given_up + self.holes.iter().chain([&tail]).map(missing).sum::<u64>()
    }
}

/// The channel's offsets as one receiver saw them.
#[derive(Debug, Default)]
struct ChannelLine {
    epoch: Option<Box<str>>,
    next: Option<u64>,
    holes: u64,
    steps_back: u64,
    epoch_changes: u64,
}

impl ChannelLine {
    fn stood_at(&mut self, epoch: Option<&str>, offset: u64) {
        if let Some(epoch) = epoch
            && self.epoch.as_deref() != Some(epoch)
        {
            if self.epoch.replace(epoch.into()).is_some() {
                self.epoch_changes += 1;
            }
            // A new line of offsets: nothing can be said about where it begins.
            self.next = self.next.filter(|_| self.epoch_changes == 0);
        }
        match self.next {
            Some(next) if offset < next => {
                self.steps_back += 1;
                return;
            }
            Some(next) => self.holes += offset - next,
            None => {}
        }
        self.next = Some(offset.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(sent: u64, arrivals: &[u64]) -> Outcome {
        let mut tally = Tally::new(1);
        for &seq in arrivals {
            tally.arrived(0, seq);
        }
        tally.close(&[Sent { count: sent, refused: Vec::new() }])
    }

    #[test]
    fn all_in_order_is_clean() {
        assert_eq!(outcome(4, &[0, 1, 2, 3]), Outcome { received: 4, ..Outcome::default() });
    }

    #[test]
    fn what_is_missing_at_the_front_in_the_middle_or_at_the_end_is_lost() {
        for arrivals in [[1, 2, 3], [0, 1, 3], [0, 1, 2]] {
            assert_eq!(outcome(4, &arrivals), Outcome { received: 3, lost: 1, ..Outcome::default() });
        }
        assert_eq!(outcome(3, &[]), Outcome { lost: 3, ..Outcome::default() });
    }

    #[test]
    fn what_comes_twice_is_doubled_and_not_received_twice() {
        assert_eq!(outcome(3, &[0, 1, 1, 2, 0]), Outcome { received: 3, doubled: 2, ..Outcome::default() });
    }

    #[test]
    fn what_comes_after_a_later_one_is_reordered_and_not_lost() {
        assert_eq!(outcome(4, &[0, 2, 1, 3]), Outcome { received: 4, reordered: 1, ..Outcome::default() });
        assert_eq!(outcome(6, &[5, 2, 4, 3, 0, 1]), Outcome { received: 6, reordered: 5, ..Outcome::default() });
    }

    #[test]
    fn a_late_one_that_comes_again_is_doubled() {
        let wanted = Outcome { received: 3, doubled: 1, reordered: 1, ..Outcome::default() };
        assert_eq!(outcome(3, &[0, 2, 1, 1]), wanted);
    }

    #[test]
    fn what_was_refused_is_not_lost() {
        let mut tally = Tally::new(2);
        for seq in [0, 3, 4] {
            tally.arrived(1, seq);
        }
        let sent = [Sent::default(), Sent { count: 7, refused: vec![1, 6] }];
        assert_eq!(tally.close(&sent), Outcome { received: 3, lost: 2, ..Outcome::default() });
    }

    #[test]
    fn a_publisher_that_the_run_does_not_have_is_nobody() {
        assert_eq!(Tally::new(1).arrived(1, 0), None);
    }

    #[test]
    fn holes_are_bounded_and_what_is_given_up_is_lost() {
        let sent = 2 * (MAX_HOLES as u64 + 10);
        let odd: Vec<u64> = (0..sent).filter(|seq| seq % 2 == 1).collect();
        let outcome = outcome(sent, &odd);
        assert_eq!((outcome.received, outcome.lost), (sent / 2, sent / 2));
    }

    #[test]
    fn offsets_rise_by_one_from_the_position_of_the_subscription() {
        let offsets = |seen: &[(&str, u64)]| {
            let mut tally = Tally::new(0);
            tally.start("a", 10);
            seen.iter().for_each(|&(epoch, offset)| tally.stood_at(Some(epoch), offset));
            let outcome = tally.close(&[]);
            (outcome.offset_holes, outcome.offset_steps_back, outcome.epoch_changes)
        };
        assert_eq!(offsets(&[("a", 11), ("a", 12)]), (0, 0, 0));
        assert_eq!(offsets(&[("a", 12), ("a", 13)]), (1, 0, 0));
        assert_eq!(offsets(&[("a", 11), ("a", 11)]), (0, 1, 0));
        assert_eq!(offsets(&[("a", 11), ("b", 1), ("b", 2), ("b", 4)]), (1, 0, 1));
    }

    #[test]
    fn without_a_position_the_first_offset_begins_the_line() {
        let mut tally = Tally::new(0);
        for offset in [7, 8, 9] {
            tally.stood_at(Some("a"), offset);
        }
        assert_eq!(tally.close(&[]), Outcome::default());
    }
}
