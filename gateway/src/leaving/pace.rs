//! When each of many connections is to leave.

use std::time::Duration;

use crate::config::DrainSettings;

/// A client is asked to wait at most this long before it comes back.
const COME_BACK_WITHIN: Duration = Duration::from_secs(1);

/// So many connections leave one after the other, evenly: each has a slot of its own, and its moment is a random one within
/// that. Independent moments would come in heaps, and a heap is what the other nodes are to be spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    slot: Duration,
}

impl Pace {
    /// What `drain.rate`, or else `drain.window`, makes of so many; `at_most` is the time that there is for all of them. Whoever
    /// sets a rate that would take longer is told so by [`Pace::hurries`].
    pub(super) fn of(settings: &DrainSettings, count: usize, at_most: Duration) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let wished = settings.rate.map_or_else(|| settings.window / count, |rate| Duration::from_secs(1) / rate.get());
        Self { slot: wished.min(at_most / count) }
    }

    /// Whether it is faster than `drain.rate`.
    pub(super) fn hurries(self, settings: &DrainSettings) -> bool {
        settings.rate.is_some_and(|rate| self.slot < Duration::from_secs(1) / rate.get())
    }

    /// From the beginning until whoever has this place leaves; `random` is from 0 to 1.
    pub(super) fn moment(self, place: usize, random: f64) -> Duration {
        self.slot * u32::try_from(place).unwrap_or(u32::MAX) + self.slot.mul_f64(random)
    }

    /// How long the client is asked to stay away: no longer than a slot, or those who come back would make the heaps again that
    /// those who leave do not.
    pub(super) fn away(self, random: f64) -> Duration {
        self.slot.min(COME_BACK_WITHIN).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const FOREVER: Duration = Duration::from_secs(1 << 32);

    fn settings(window_ms: u64, rate: u32) -> DrainSettings {
        DrainSettings {
            window: Duration::from_millis(window_ms),
            rate: NonZeroU32::new(rate),
            ..DrainSettings::default()
        }
    }

    /// The most of the sorted moments that are within 100 ms of each other.
    fn largest_heap(moments: &[Duration]) -> usize {
        let behind = |from: Duration| moments.partition_point(|at| *at < from);
        let within = |from: &Duration| behind(*from + Duration::from_millis(100)) - behind(*from);
        moments.iter().map(within).max().unwrap_or_default()
    }

    #[test]
    fn in_no_100_ms_do_twice_as_many_leave_or_come_back_as_the_rate_says() {
        for (count, rate) in [(1000, 500), (500, 50), (200, 20)] {
            let pace = Pace::of(&settings(0, rate), count, FOREVER);
            let moments: Vec<_> = (0..count).map(|place| pace.moment(place, rand::random())).collect();
            assert!(moments.is_sorted(), "each in its own slot");
            let rate = usize::try_from(rate).unwrap();
            assert!(largest_heap(&moments) <= 2 * rate / 10, "{count} at {rate}: {}", largest_heap(&moments));
            let mut back: Vec<_> = moments.iter().map(|at| *at + pace.away(rand::random())).collect();
            back.sort_unstable();
            assert!(largest_heap(&back) <= 2 * rate / 10, "{count} at {rate} come back: {}", largest_heap(&back));
        }
    }

    #[test]
    fn a_window_is_shared_by_all_whatever_their_number() {
        for count in [1, 7, 10_000] {
            let pace = Pace::of(&settings(60_000, 0), count, FOREVER);
            let last = pace.moment(count - 1, 1.0);
            assert!(last <= Duration::from_secs(60) && last > Duration::from_millis(59_990), "{count}: {last:?}");
            assert!(pace.away(1.0) <= COME_BACK_WITHIN);
        }
        assert_eq!(
            Pace::of(&settings(60_000, 0), 0, FOREVER).slot,
            Duration::from_secs(60),
            "nobody is no special case"
        );
    }

    #[test]
    fn the_deadline_comes_before_the_rate_and_that_is_known() {
        let settings = settings(60_000, 10);
        let calm = Pace::of(&settings, 100, Duration::from_secs(30));
        assert_eq!((calm.slot, calm.hurries(&settings)), (Duration::from_millis(100), false));
        let hurried = Pace::of(&settings, 1000, Duration::from_secs(30));
        assert_eq!((hurried.slot, hurried.hurries(&settings)), (Duration::from_millis(30), true));
    }
}
