//! Coarse timers: one wheel for a shard, not a timer for each connection.

use std::time::Duration;

/// One slot of the wheel. Whatever is due is late by at most this.
pub const TICK: Duration = Duration::from_secs(1);
const SLOTS: usize = 64;

/// Says which keys are due, a second at a time. A wait longer than the wheel comes round early and is scheduled again
/// by whoever it was for. Bound: one entry for each connection.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: [Vec<u64>; SLOTS],
    now: usize,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { slots: std::array::from_fn(|_| Vec::new()), now: 0 }
    }
}

impl Wheel {
    /// Comes back to `key` after about `wait`: at least a tick, at most a turn of the wheel.
    pub(super) fn schedule(&mut self, key: u64, wait: Duration) {
        let ticks = usize::try_from(wait.as_secs()).unwrap_or(usize::MAX).clamp(1, SLOTS - 1);
        self.slots[(self.now + ticks) % SLOTS].push(key);
    }

    /// A second has passed: these are due.
    pub(super) fn tick(&mut self) -> Vec<u64> {
        self.now = (self.now + 1) % SLOTS;
        std::mem::take(&mut self.slots[self.now])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_due_after_its_wait_and_only_once() {
        let mut wheel = Wheel::default();
        wheel.schedule(7, Duration::from_secs(3));
        assert_eq!((wheel.tick(), wheel.tick(), wheel.tick()), (vec![], vec![], vec![7]));
        assert!((0..SLOTS).all(|_| wheel.tick().is_empty()));
    }

    #[test]
    fn no_wait_is_shorter_than_a_tick_or_longer_than_a_turn() {
        let mut wheel = Wheel::default();
        wheel.schedule(1, Duration::ZERO);
        wheel.schedule(2, Duration::from_secs(3600));
        assert_eq!(wheel.tick(), [1]);
        assert_eq!((2..SLOTS).flat_map(|_| wheel.tick()).collect::<Vec<_>>(), [2]);
    }
}
