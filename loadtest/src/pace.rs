//! When each publication is due: an open loop.
//!
//! The schedule is fixed before the first publication and never waits for an answer. A node that stalls therefore finds
//! all that was due in the meantime in its latency, instead of being asked less often (coordinated omission).

use std::time::Duration;

/// An even schedule: publication `n` is due `n / rate` seconds after the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    rate: f64,
    duration: Duration,
}

impl Pace {
    /// `rate` publications a second for `duration`. `None` unless the rate is a positive number and the time is not zero.
    pub fn new(rate: f64, duration: Duration) -> Option<Self> {
        (rate.is_finite() && rate > 0.0 && !duration.is_zero()).then_some(Self { rate, duration })
    }

    /// When publication `n` is due, in nanoseconds after the start; `None` after the end.
    ///
    /// Computed from `n`, not from the one before, so that rounding never adds up.
    pub fn due(&self, n: u64) -> Option<u64> {
        let at = Duration::try_from_secs_f64(n as f64 / self.rate).ok()?;
        (at < self.duration).then(|| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How many publications are due in all.
    pub fn total(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "saturates; a run is never that long")]
        let mut total = (self.rate * self.duration.as_secs_f64()).round() as u64;
        while self.due(total).is_some() {
            total += 1;
        }
        while total > 0 && self.due(total - 1).is_none() {
            total -= 1;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_do_not_drift() {
        let pace = Pace::new(3.0, Duration::from_secs(100_000)).unwrap();
        assert_eq!(pace.due(0), Some(0));
        assert_eq!(pace.due(1), Some(333_333_333));
        assert_eq!(pace.due(299_997), Some(99_999_000_000_000));
    }

    #[test]
    fn the_total_is_what_is_due() {
        for (rate, seconds, total) in
            [(10.0, 10.0, 100), (0.5, 3.0, 2), (0.1, 1.0, 1), (1000.0, 0.25, 250), (7.0, 1.0, 7)]
        {
            let pace = Pace::new(rate, Duration::from_secs_f64(seconds)).unwrap();
            assert_eq!(pace.total(), total, "{rate} a second for {seconds} s");
            assert!(pace.due(total - 1).is_some() && pace.due(total).is_none());
        }
    }

    #[test]
    fn a_rate_that_is_no_rate_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Pace::new(rate, Duration::from_secs(1)), None);
        }
        assert_eq!(Pace::new(1.0, Duration::ZERO), None);
    }
}
