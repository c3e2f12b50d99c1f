//! A client's place on one channel: its position, and the books of what it got. Pure.

use super::speech::Position;
use crate::tally::{Arrival, Outcome, Sent, Tally};

/// One place. The channel has one publisher, whose own count tells what is missing.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) channel: usize,
    /// The last that was seen.
    position: Option<Position>,
    tally: Tally,
    /// All below this are accounted for: arrived, missing or uncovered.
    next: u64,
    /// It holds no position: what was published while it was away cannot be asked for.
    is_blind: bool,
    /// Publications that it could not ask for.
    uncovered: u64,
}

impl Seat {
    pub(super) fn new(channel: usize) -> Self {
        Self { channel, position: None, tally: Tally::new(1), next: 0, is_blind: false, uncovered: 0 }
    }

    pub(super) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The subscription begins after this position, or begins anew there after history was lost.
    pub(super) fn begin(&mut self, position: Position) {
        if self.position.is_none() {
            self.tally.start(&position.epoch, position.offset);
        }
        self.position = Some(position);
    }

    /// The client comes back with nothing to tell where it was.
    pub(super) fn come_back_blind(&mut self) {
        self.is_blind = true;
    }

    /// A publication of the run arrived. Returns how many are accounted for thereby: none if it had arrived before, and more
    /// than one if those before it could not be had.
    pub(super) fn take(&mut self, place: Option<(&str, u64)>, seq: u64) -> u64 {
        if let Some((epoch, offset)) = place {
            self.tally.stood_at(Some(epoch), offset);
            match &mut self.position {
                Some(position) if position.epoch == epoch => position.offset = offset,
                position => *position = Some(Position { epoch: epoch.to_owned(), offset }),
            }
        }
        let uncovered = if self.is_blind { seq.saturating_sub(self.next) } else { 0 };
        self.uncovered += uncovered;
        self.is_blind &= seq < self.next;
        self.next = self.next.max(seq + 1);
        uncovered + u64::from(self.tally.arrived(0, seq) != Some(Arrival::Doubled))
    }

    /// Closes the books: what became of what was sent, and how much of it could not be asked for.
    pub(super) fn close(&self, sent: &Sent) -> (Outcome, u64) {
        let mut outcome = self.tally.close(std::slice::from_ref(sent));
        let tail = if self.is_blind { sent.count.saturating_sub(self.next) } else { 0 };
        let uncovered = (self.uncovered + tail).min(outcome.lost);
        outcome.lost -= uncovered;
        (outcome, uncovered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: u64) -> Sent {
        Sent { count, refused: Vec::new() }
    }

    fn at(offset: u64) -> Position {
        Position { epoch: "k".to_owned(), offset }
    }

    #[test]
    fn a_seat_remembers_the_last_place_it_saw() {
        let mut seat = Seat::new(0);
        seat.begin(at(7));
        assert_eq!((seat.take(Some(("k", 8)), 0), seat.take(Some(("k", 8)), 0)), (1, 0));
        assert_eq!(seat.position(), Some(&at(8)));
        let (outcome, _) = seat.close(&sent(2));
        assert_eq!((outcome.received, outcome.lost, outcome.doubled, outcome.offset_steps_back), (1, 1, 1, 1));
    }

    #[test]
    fn only_what_a_blind_client_missed_while_it_was_away_is_uncovered() {
        let mut seat = Seat::new(0);
        for seq in [0, 2] {
            seat.take(None, seq);
        }
        seat.come_back_blind();
        assert_eq!((seat.take(None, 5), seat.take(None, 7)), (3, 1));
        let (outcome, uncovered) = seat.close(&sent(8));
        assert_eq!((outcome.lost, uncovered), (2, 2), "1 and 6 are lost, 3 and 4 could not be had");
        seat.come_back_blind();
        assert_eq!(seat.close(&sent(10)).1, 4, "it is back, and nothing came any more");
    }
}
