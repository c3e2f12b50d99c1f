//! So many handshakes in a second: what comes faster waits its turn.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::addresses::Block;

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// What may come at once, as the time in which the rate gives as much: more would hold up the deliveries of a shard for longer
/// than anybody should see.
const BURST: u64 = SECOND / 10;
/// Nobody waits longer: soon after that clients give up, and then their place was kept for nothing.
const PATIENCE: u64 = SECOND;
/// One address has at most this part of the places.
const SHARE: u32 = 4;

/// See the module. The lock is held for one look.
pub(super) struct Turnstile {
    opened: Instant,
    line: Mutex<Line>,
}

/// Who waits; pure. `now` is in nanoseconds since the node started.
#[derive(Debug, Default)]
struct Line {
    /// When the next one may go through, if all who wait have.
    next: u64,
    /// Turns that have not come, in their order, and whose they are. Bound: what the rate gives within [`PATIENCE`].
    turns: VecDeque<(u64, Block)>,
    /// How many of them each address has.
    waiting: HashMap<Block, u32, ahash::RandomState>,
}

impl Line {
    /// A place behind all others: how long it is until its turn comes. `None` if that is too long, or the address has its share of
    /// the places: also one who gave up has his until its turn comes, or leaving would make room for the next who leaves.
    fn place(&mut self, rate: NonZeroU32, address: Option<Block>, now: u64) -> Option<u64> {
        self.pass(now);
        let step = SECOND.div_ceil(rate.get().into());
        let turn = self.next.max(now.saturating_sub(BURST.saturating_sub(step)));
        let wait = turn.saturating_sub(now);
        if wait > PATIENCE {
            return None;
        }
        if wait > 0
            && let Some(address) = address
        {
            let waiting = self.waiting.entry(address).or_default();
            if *waiting >= (rate.get() / SHARE).max(1) {
                return None;
            }
            *waiting += 1;
            self.turns.push_back((turn, address));
        }
        self.next = turn + step;
        Some(wait)
    }

    /// Forgets the turns that have come.
    fn pass(&mut self, now: u64) {
        while let Some(&(turn, address)) = self.turns.front()
            && turn <= now
        {
            self.turns.pop_front();
            if let Some(waiting) = self.waiting.get_mut(&address) {
                *waiting -= 1;
                if *waiting == 0 {
                    self.waiting.remove(&address);
                }
            }
        }
    }
}

impl Turnstile {
    pub(super) fn new() -> Self {
        Self { opened: Instant::now(), line: Mutex::default() }
    }

    /// Waits for one's turn, and says whether there was one to wait for. Without an `address` it is nobody's share.
    ///
    /// # Cancel safety
    /// Whoever gives up loses the turn, and nobody gets it: otherwise leaving would let others in faster than the rate. It counts
    /// among the address's places until then.
    pub(super) async fn pass(&self, rate: NonZeroU32, address: Option<Block>) -> bool {
        let now = u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let Some(wait) = self.line.lock().place(rate, address, now) else { return false };
        if wait > 0 {
            sleep(Duration::from_nanos(wait)).await;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn rate(rate: u32) -> NonZeroU32 {
        NonZeroU32::new(rate).unwrap()
    }

    fn block(last: u8) -> Option<Block> {
        Some(Block::of([192, 0, 2, last].into()))
    }

    #[test]
    fn a_tenth_of_a_second_at_once_then_one_after_the_other_and_nobody_for_longer_than_a_second() {
        let mut line = Line::default();
        let start = 60 * SECOND;
        let waits: Vec<_> = (0..1000).map_while(|_| line.place(rate(500), None, start)).collect();
        assert_eq!(waits.iter().filter(|wait| **wait == 0).count(), 50);
        assert_eq!(waits[50..53], [2 * MS, 4 * MS, 6 * MS]);
        assert_eq!((waits.len(), waits.last()), (550, Some(&SECOND)));
        assert_eq!(line.place(rate(500), None, start + 2 * MS), Some(SECOND), "a place is free again");
        assert_eq!(line.place(rate(500), None, start + 2 * MS), None);
        assert_eq!(line.place(rate(500), None, start + 5 * SECOND), Some(0));
    }

    #[test]
    fn one_address_has_a_quarter_of_the_places() {
        let mut line = Line::default();
        let start = 60 * SECOND;
        let flood = (0..1000).map_while(|_| line.place(rate(500), block(1), start)).count();
        assert_eq!(flood, 50 + 125);
        assert_eq!(line.place(rate(500), block(2), start), Some(252 * MS), "behind them, and in time");
        assert!(line.place(rate(500), block(1), start + 2 * MS).is_some(), "its first turn has come");
        assert!(line.place(rate(500), block(1), start + 2 * MS).is_none());
        line.pass(start + 5 * SECOND);
        assert!(line.turns.is_empty() && line.waiting.is_empty(), "nothing is left of who is through");
    }

    #[test]
    fn a_slow_rate_lets_somebody_through_too() {
        let mut line = Line::default();
        assert_eq!(line.place(rate(1), block(1), 0), Some(0));
        assert_eq!(line.place(rate(1), block(1), 0), Some(SECOND));
        assert_eq!(line.place(rate(1), block(2), 0), None);
    }

    #[tokio::test]
    async fn who_gives_up_makes_no_room_for_himself() {
        let turnstile = Turnstile::new();
        let rate = rate(10);
        let begun = Instant::now();
        assert!(turnstile.pass(rate, block(1)).await);
        for _ in 0..50 {
            // All that one address can do is to be quick.
            let given_up = tokio::time::timeout(Duration::ZERO, turnstile.pass(rate, block(1))).await;
            assert!(given_up.is_err() || given_up == Ok(false));
        }
        assert!(turnstile.pass(rate, block(2)).await, "and others get in all the same");
        assert!(begun.elapsed() >= Duration::from_millis(300), "the turns that were given up were nobody's");
    }
}
