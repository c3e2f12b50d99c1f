//! Whoever takes a detached connection's frames: when to give a sign of life, who is too slow, when to cut; pure.

use std::time::Duration;

use tokio::time::Instant;

use super::Terms;
use crate::shard::TICK;

/// The part of the interval by which a beat may be early: so those who came together are not given one together for ever.
const JITTER: f64 = 0.2;

/// What has been seen of whoever takes.
#[derive(Debug)]
pub(super) struct Taking {
    terms: Terms,
    taker: Taker,
    /// Since when the taker is what it is.
    since: Instant,
    /// When something was taken last, or somebody came to take.
    last: Instant,
    /// How long the silence before the next beat is.
    silence: Option<Duration>,
    /// Since when the connection is ending.
    ending: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    /// There is none. For how long that may be is the transport's business.
    Nobody,
    /// It waits for something to take.
    Waits,
    /// It has taken something and not come back.
    Busy,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing for so long.
    Wait(Duration),
    /// A sign of life.
    Beat,
    /// The taker has not come back in time: its client is too slow.
    Slow,
    /// Nor does it take its goodbye.
    Cut,
}

impl Taking {
    /// Nobody takes yet.
    pub(super) fn new(terms: Terms, now: Instant) -> Self {
        let mut taking = Self { terms, taker: Taker::Nobody, since: now, last: now, silence: None, ending: None };
        taking.choose_silence();
        taking
    }

    fn choose_silence(&mut self) {
        let early = 1.0 - JITTER * rand::random::<f64>();
        self.silence = self.terms.beat_interval.map(|interval| interval.mul_f64(early));
    }

    /// Somebody wants to take, and there is nothing.
    pub(super) fn waits(&mut self, now: Instant) {
        if self.taker == Taker::Nobody {
            self.last = now;
        }
        self.turn(Taker::Waits, now);
    }

    /// Something was taken.
    pub(super) fn took(&mut self, now: Instant) {
        self.last = now;
        self.turn(Taker::Busy, now);
    }

    /// Nobody takes any more.
    pub(super) fn left(&mut self, now: Instant) {
        self.turn(Taker::Nobody, now);
    }

    fn turn(&mut self, taker: Taker, now: Instant) {
        self.taker = taker;
        self.since = now;
    }

    /// Decides.
    pub(super) fn poll(&mut self, is_closing: bool, now: Instant) -> Step {
        let Terms { patience, close, .. } = self.terms;
        if is_closing {
            let ending = *self.ending.get_or_insert(now);
            let latest = ending + close + patience;
            let is_stuck = self.taker == Taker::Busy && now >= ending.max(self.since) + close;
            let is_over = self.taker != Taker::Nobody && (is_stuck || now >= latest);
            return if is_over { Step::Cut } else { Step::Wait(TICK) };
        }
        match self.taker {
            Taker::Nobody => Step::Wait(patience),
            Taker::Busy if now >= self.since + patience => Step::Slow,
            Taker::Busy => Step::Wait(self.since + patience - now),
            Taker::Waits => match self.silence {
                Some(silence) if now >= self.last + silence => {
                    self.last = now;
                    self.choose_silence();
                    Step::Beat
                }
                // It may become busy any time, and then it is to be looked at in time.
                Some(silence) => Step::Wait((self.last + silence - now).min(patience)),
                None => Step::Wait(patience),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn terms() -> Terms {
        Terms { beat_interval: Some(25 * SECOND), patience: 10 * SECOND, close: 5 * SECOND, age: None }
    }

    #[test]
    fn whoever_waits_long_is_given_a_sign_of_life() {
        let start = Instant::now();
        let mut taking = Taking::new(terms(), start);
        assert_eq!(taking.poll(false, start + 60 * SECOND), Step::Wait(10 * SECOND), "nobody is there to be given one");
        taking.waits(start + 60 * SECOND);
        assert!(matches!(taking.poll(false, start + 61 * SECOND), Step::Wait(wait) if wait <= 10 * SECOND));
        assert!(matches!(taking.poll(false, start + 79 * SECOND), Step::Wait(wait) if wait <= 6 * SECOND));
        assert_eq!(taking.poll(false, start + 85 * SECOND), Step::Beat);
        taking.took(start + 85 * SECOND);
        taking.waits(start + 85 * SECOND);
        assert!(matches!(taking.poll(false, start + 104 * SECOND), Step::Wait(_)), "silence counts anew");
        assert_eq!(taking.poll(false, start + 110 * SECOND), Step::Beat);
    }

    #[test]
    fn without_an_interval_there_is_none() {
        let start = Instant::now();
        let mut taking = Taking::new(Terms { beat_interval: None, ..terms() }, start);
        taking.waits(start);
        assert_eq!(taking.poll(false, start + 3600 * SECOND), Step::Wait(10 * SECOND));
    }

    #[test]
    fn whoever_takes_and_does_not_come_back_is_slow() {
        let start = Instant::now();
        let mut taking = Taking::new(terms(), start);
        taking.took(start);
        assert_eq!(taking.poll(false, start + 4 * SECOND), Step::Wait(6 * SECOND));
        assert_eq!(taking.poll(false, start + 10 * SECOND), Step::Slow);
        taking.left(start + 10 * SECOND);
        assert_eq!(taking.poll(false, start + 600 * SECOND), Step::Wait(10 * SECOND), "the transport's business");
    }

    #[test]
    fn who_does_not_take_its_goodbye_is_cut() {
        let start = Instant::now();
        let mut taking = Taking::new(terms(), start);
        taking.took(start);
        assert_eq!(taking.poll(true, start + SECOND), Step::Wait(TICK));
        assert_eq!(taking.poll(true, start + 5 * SECOND), Step::Wait(TICK));
        assert_eq!(taking.poll(true, start + 6 * SECOND), Step::Cut);
        // Drop by drop it takes a little longer, and not for ever.
        for second in 2..16 {
            taking.took(start + second * SECOND);
            assert_eq!(taking.poll(true, start + second * SECOND), Step::Wait(TICK), "{second}");
        }
        taking.took(start + 16 * SECOND);
        assert_eq!(taking.poll(true, start + 16 * SECOND), Step::Cut);
        taking.left(start + 16 * SECOND);
        assert_eq!(taking.poll(true, start + 20 * SECOND), Step::Wait(TICK), "nobody is there who could take it");
    }
}
