//! When a receiver that does not answer is left alone, and when it is tried again. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which the receiver is left alone.
const FAILURES: u32 = 5;
/// How long it is left alone at first; twice as long after each probe that failed.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest: so late at most is it noticed that the receiver is back.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It goes out.
    Pass,
    /// It has failed without going out; the receiver is tried again so much later.
    Refused(Duration),
}

/// What a try has changed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The receiver is left alone from now on.
    Opened,
    /// It answers again.
    Closed,
}

/// Counts failures of one receiver in a row. While it is open calls fail at once, which keeps clients from waiting and the
/// receiver from being buried when it comes back; after a rest one call is let through to see.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    rest: Duration,
    /// Open until then; half open after.
    until: Option<Instant>,
    /// A call is on its way to see. Its end is always heard of, and should that be wrong, it counts until then.
    probe_until: Option<Instant>,
}

impl Breaker {
    /// Whether a call may go out now. `deadline` is when the call has ended at the latest.
    pub(super) fn admit(&mut self, now: Instant, deadline: Instant) -> Admission {
        let Some(until) = self.until else { return Admission::Pass };
        if now < until {
            return Admission::Refused(until - now);
        }
        if let Some(probe) = self.probe_until.filter(|probe| now < *probe) {
            return Admission::Refused(probe - now);
        }
        self.probe_until = Some(deadline);
        Admission::Pass
    }

    /// The receiver has answered, whatever it said: one that refuses what a stranger sent must not be cut off for others.
    pub(super) fn answered(&mut self) -> Change {
        let was_open = self.until.is_some();
        *self = Self::default();
        if was_open { Change::Closed } else { Change::None }
    }

    /// It has not, or says itself that it cannot.
    pub(super) fn failed(&mut self, now: Instant) -> Change {
        if let Some(until) = self.until {
            // Calls that were under way when it opened say nothing new.
            if now >= until {
                self.rest = (self.rest * 2).min(LONGEST_REST);
                self.until = Some(now + self.rest);
                self.probe_until = None;
            }
            return Change::None;
        }
        self.failures += 1;
        if self.failures < FAILURES {
            return Change::None;
        }
        self.rest = FIRST_REST;
        self.until = Some(now + self.rest);
        Change::Opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES {
            assert_eq!(breaker.admit(now, now + ms(100)), Admission::Pass);
            assert_eq!(breaker.failed(now), Change::None);
        }
        assert_eq!(breaker.failed(now), Change::Opened);
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            for _ in 1..FAILURES {
                assert_eq!(breaker.failed(now), Change::None);
            }
            assert_eq!(breaker.answered(), Change::None, "one answer between them");
        }
        assert_eq!(opened(now).admit(now, now + ms(100)), Admission::Refused(ms(1000)));
    }

    #[test]
    fn lets_one_call_through_after_a_rest() {
        let start = Instant::now();
        let mut breaker = opened(start);
        assert_eq!(breaker.admit(start + ms(999), start + ms(1999)), Admission::Refused(ms(1)));
        assert_eq!(breaker.admit(start + ms(1000), start + ms(1200)), Admission::Pass, "the probe");
        assert_eq!(breaker.admit(start + ms(1100), start + ms(1300)), Admission::Refused(ms(100)), "and no other");
        assert_eq!(breaker.answered(), Change::Closed);
        assert_eq!(breaker.admit(start + ms(1101), start + ms(1301)), Admission::Pass);
        assert_eq!(breaker.failed(start + ms(1101)), Change::None, "failures are counted from the start again");
    }

    #[test]
    fn rests_longer_after_each_probe_that_failed() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for rest in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(breaker.admit(now, now + ms(100)), Admission::Refused(ms(rest * 1000)));
            now += ms(rest * 1000);
            assert_eq!(breaker.admit(now, now + ms(100)), Admission::Pass);
            assert_eq!(breaker.failed(now), Change::None);
        }
    }

    #[test]
    fn stragglers_do_not_make_the_rest_longer() {
        let start = Instant::now();
        let mut breaker = opened(start);
        assert_eq!(breaker.failed(start + ms(500)), Change::None);
        assert_eq!(breaker.admit(start + ms(1000), start + ms(1100)), Admission::Pass);
    }

    #[test]
    fn a_probe_that_nobody_heard_of_does_not_shut_it_for_ever() {
        let start = Instant::now();
        let mut breaker = opened(start);
        assert_eq!(breaker.admit(start + ms(1000), start + ms(1100)), Admission::Pass);
        assert_eq!(breaker.admit(start + ms(1100), start + ms(1200)), Admission::Pass);
    }
}
