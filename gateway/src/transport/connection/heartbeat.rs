//! When to ping, when to give up; pure.

use std::time::Duration;

use tokio::time::Instant;

/// Pings only after silence; a client that does not answer in time is dead.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    patience: Duration,
    last_heard: Instant,
    pinged: Option<Instant>,
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
        Self { interval, patience, last_heard: now, pinged: None }
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
            None if now >= self.last_heard + self.interval => {
                self.pinged = Some(now);
                Beat::Ping
            }
            None => Beat::Wait(self.last_heard + self.interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_after_silence_and_gives_up_after_patience() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heartbeat = Heartbeat::new(Duration::from_secs(25), Duration::from_secs(10), start);
        assert_eq!(heartbeat.poll(at(0)), Beat::Wait(at(25)));
        heartbeat.heard(at(20));
        assert_eq!(heartbeat.poll(at(25)), Beat::Wait(at(45)));
        assert_eq!(heartbeat.poll(at(45)), Beat::Ping);
        assert_eq!(heartbeat.poll(at(46)), Beat::Wait(at(55)));
        heartbeat.heard(at(50));
        assert_eq!(heartbeat.poll(at(55)), Beat::Wait(at(75)));
        assert_eq!(heartbeat.poll(at(80)), Beat::Ping);
        assert_eq!(heartbeat.poll(at(90)), Beat::Dead);
    }
}
