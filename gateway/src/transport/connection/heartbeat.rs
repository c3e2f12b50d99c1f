//! When to ping, when to give up; pure.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// The part of the interval by which a ping may be early.
const JITTER: f64 = 0.2;

/// Pings only after silence; a client that does not answer in time is dead.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    patience: Duration,
    last_heard: Instant,
    /// How long the silence before the next ping is: another time for each, so that those who came together, after a
    /// deploy say, are not pinged together for ever after.
    silence: Duration,
    pinged: Option<Instant>,
    /// The last ping that went out: what it said, and when. Until it is answered.
    sent: Option<(u32, Instant)>,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// Ping the client, and come back.
    Ping,
    /// Nothing until then.
    Wait(Instant),
    /// Nothing has come since the ping: the client is gone.
    Dead,
}

impl Heartbeat {
    /// Pings after `interval` of silence and gives up `patience` after that.
    pub(super) fn new(interval: Duration, patience: Duration, now: Instant) -> Self {
        Self { interval, patience, last_heard: now, silence: early(interval), pinged: None, sent: None }
    }

    /// The client has sent something, whatever it was.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.pinged = None;
    }

    /// Decides.
    pub(super) fn poll(&mut self, now: Instant) -> Beat {
        match self.pinged {
            Some(at) if now >= at + self.patience => Beat::Dead,
            Some(at) => Beat::Wait(at + self.patience),
            None if now >= self.last_heard + self.silence => {
                self.pinged = Some(now);
                self.silence = early(self.interval);
                Beat::Ping
            }
            None => Beat::Wait(self.last_heard + self.silence),
        }
    }

    /// A ping goes out now. Returns what it says.
    pub(super) fn sent(&mut self, now: Instant) -> Bytes {
        let word = rand::random::<u32>();
        self.sent = Some((word, now));
        Bytes::copy_from_slice(&word.to_be_bytes())
    }

    /// A pong has come. Returns how long it took, if it answers the last ping.
    pub(super) fn answered(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        let (_, at) = self.sent.take_if(|(word, _)| word.to_be_bytes() == payload)?;
        Some(now.saturating_duration_since(at))
    }
}

/// The interval, or up to a fifth less: a client counts on it as the longest silence.
fn early(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - JITTER * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pings_after_silence_and_gives_up_after_patience() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(25 * SECOND, 10 * SECOND, start);
        let wait = |heartbeat: &mut Heartbeat, now| match heartbeat.poll(now) {
            Beat::Wait(until) => until,
            other => panic!("{other:?}"),
        };
        let first = wait(&mut heartbeat, start) - start;
        assert!((20 * SECOND..=25 * SECOND).contains(&first), "{first:?}");
        let heard = start + 15 * SECOND;
        heartbeat.heard(heard);
        assert_eq!(wait(&mut heartbeat, heard), heard + first, "silence counts anew");
        let pinged = heard + first;
        assert_eq!(heartbeat.poll(pinged), Beat::Ping);
        assert_eq!(wait(&mut heartbeat, pinged + SECOND), pinged + 10 * SECOND);
        heartbeat.heard(pinged + 2 * SECOND);
        let next = wait(&mut heartbeat, pinged + 10 * SECOND);
        assert_ne!(next - (pinged + 2 * SECOND), first, "each silence is its own");
        assert_eq!(heartbeat.poll(next), Beat::Ping);
        assert_eq!(heartbeat.poll(next + 10 * SECOND), Beat::Dead);
    }

    #[test]
    fn only_the_answer_to_the_last_ping_says_how_long_it_took() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(25 * SECOND, 10 * SECOND, start);
        let (first, second) = (heartbeat.sent(start), heartbeat.sent(start + SECOND));
        assert_eq!(heartbeat.answered(&first, start + 2 * SECOND), None);
        assert_eq!(heartbeat.answered(b"", start + 2 * SECOND), None);
        assert_eq!(heartbeat.answered(&second, start + 3 * SECOND), Some(2 * SECOND));
        assert_eq!(heartbeat.answered(&second, start + 3 * SECOND), None, "once");
    }
}
