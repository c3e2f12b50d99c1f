//! When to probe the way through Redis, when to give it up, and how long to wait before trying again. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Silence after which a probe is published to ourselves.
const SILENCE: Duration = Duration::from_millis(800);
/// How long the probe may take. Together: a connection that is dead without saying so is noticed after 2.3 s.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    Wait,
    Probe,
    Dead,
}

/// Watches over the way out through the publishers and in through the subscriber.
pub(super) struct Heartbeat {
    alive_at: Instant,
    probed_at: Option<Instant>,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self { alive_at: now, probed_at: None }
    }

    /// `heard`: when anything came in last.
    pub(super) fn poll(&mut self, now: Instant, heard: Instant) -> Beat {
        if heard > self.alive_at {
            (self.alive_at, self.probed_at) = (heard, None);
        }
        match self.probed_at {
            Some(at) if now >= at + PATIENCE => Beat::Dead,
            Some(_) => Beat::Wait,
            None if now >= self.alive_at + SILENCE => {
                self.probed_at = Some(now);
                Beat::Probe
            }
            None => Beat::Wait,
        }
    }

    /// Redis does not take publications now: that is no sign of being deaf.
    pub(super) fn refused(&mut self, now: Instant) {
        (self.alive_at, self.probed_at) = (now, None);
    }
}

/// The pauses between attempts to connect: full jitter, so that nodes do not come back in step.
#[derive(Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_millis(500);

    /// How long to wait before the next attempt: not at all before the first. `random` is between 0 and 1.
    pub(super) fn pause(&mut self, random: f64) -> Duration {
        let attempt = self.0;
        self.0 += 1;
        match attempt {
            0 => Duration::ZERO,
            _ => (Self::FIRST * 2u32.pow(attempt.min(8) - 1)).min(Self::LONGEST).mul_f64(random),
        }
    }

    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_silence_and_gives_up_on_it() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut heartbeat = Heartbeat::new(start);
        assert_eq!(heartbeat.poll(after(799), start), Beat::Wait);
        assert_eq!(heartbeat.poll(after(800), start), Beat::Probe);
        assert_eq!(heartbeat.poll(after(900), start), Beat::Wait);
        assert_eq!(heartbeat.poll(after(950), after(920)), Beat::Wait, "the probe came back");
        assert_eq!(heartbeat.poll(after(1720), after(920)), Beat::Probe);
        assert_eq!(heartbeat.poll(after(3219), after(920)), Beat::Wait);
        assert_eq!(heartbeat.poll(after(3220), after(920)), Beat::Dead);
    }

    #[test]
    fn a_refused_probe_is_no_silence() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut heartbeat = Heartbeat::new(start);
        assert_eq!(heartbeat.poll(after(800), start), Beat::Probe);
        heartbeat.refused(after(801));
        assert_eq!(heartbeat.poll(after(2500), start), Beat::Probe);
    }

    #[test]
    fn pauses_grow_to_half_a_second() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..8).map(|_| backoff.pause(1.0).as_millis()).collect();
        assert_eq!(pauses, [0, 20, 40, 80, 160, 320, 500, 500]);
        backoff.reset();
        assert_eq!(backoff.pause(1.0), Duration::ZERO);
    }
}
