//! How long a session lives, when it gives a sign of life, and what its receivers are told; pure.

use std::time::Duration;

use tokio::time::Instant;

/// How long a session outlives its last receiver: time enough to ask for the next frames, and for a network that was away.
pub(super) const DISCONNECT_DELAY: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Life {
    heartbeat: Duration,
    receiver: Receiver,
    /// Since when no message can come any more.
    closed: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    /// There is none, since then.
    Nobody(Instant),
    /// There is one, which was given something then, or came.
    There(Instant),
}

/// What becomes of somebody who wants to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attached {
    /// It is the receiver.
    Receives,
    /// There is another one, and it stays.
    Second,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before then.
    Wait(Instant),
    /// A sign of life.
    Heartbeat,
    /// Nobody has asked for so long: it is over.
    Over,
}

impl Life {
    /// One that nobody receives from yet; `heartbeat` is the silence before a sign of life.
    pub(super) fn new(heartbeat: Duration, now: Instant) -> Self {
        Self { heartbeat, receiver: Receiver::Nobody(now), closed: None }
    }

    /// Somebody wants to receive.
    pub(super) fn attach(&mut self, now: Instant) -> Attached {
        match self.receiver {
            Receiver::There(_) => Attached::Second,
            Receiver::Nobody(_) => {
                self.receiver = Receiver::There(now);
                Attached::Receives
            }
        }
    }

    /// The receiver was given something.
    pub(super) fn gave(&mut self, now: Instant) {
        if let Receiver::There(_) = self.receiver {
            self.receiver = Receiver::There(now);
        }
    }

    /// The receiver has what it wanted.
    pub(super) fn detached(&mut self, now: Instant) {
        self.receiver = Receiver::Nobody(now);
    }

    /// Whatever asks from now on hears the same end.
    pub(super) fn close(&mut self, now: Instant) {
        self.closed.get_or_insert(now);
    }

    /// Decides.
    pub(super) fn poll(&self, now: Instant) -> Step {
        let (until, step) = match (self.receiver, self.closed) {
            // Whoever asks a closed session again and again does not keep it.
            (_, Some(closed)) => (closed + DISCONNECT_DELAY, Step::Over),
            (Receiver::Nobody(since), None) => (since + DISCONNECT_DELAY, Step::Over),
            (Receiver::There(since), None) => (since + self.heartbeat, Step::Heartbeat),
        };
        if now >= until { step } else { Step::Wait(until) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn life() -> (Life, Instant) {
        let now = Instant::now();
        (Life::new(25 * SECOND, now), now)
    }

    #[test]
    fn a_session_without_a_receiver_dies_after_the_delay() {
        let (mut life, start) = life();
        assert_eq!(life.poll(start), Step::Wait(start + 5 * SECOND));
        assert_eq!(life.attach(start + SECOND), Attached::Receives);
        assert_eq!(life.poll(start + 20 * SECOND), Step::Wait(start + 26 * SECOND));
        life.detached(start + 20 * SECOND);
        assert_eq!(life.poll(start + 24 * SECOND), Step::Wait(start + 25 * SECOND));
        assert_eq!(life.attach(start + 24 * SECOND), Attached::Receives, "within the delay it is the same session");
        life.detached(start + 24 * SECOND);
        assert_eq!(life.poll(start + 29 * SECOND), Step::Over);
    }

    #[test]
    fn a_receiver_that_waits_gets_a_sign_of_life() {
        let (mut life, start) = life();
        life.attach(start);
        assert_eq!(life.poll(start + 24 * SECOND), Step::Wait(start + 25 * SECOND));
        assert_eq!(life.poll(start + 25 * SECOND), Step::Heartbeat);
        life.gave(start + 25 * SECOND);
        assert_eq!(life.poll(start + 26 * SECOND), Step::Wait(start + 50 * SECOND));
    }

    #[test]
    fn a_second_receiver_is_sent_away_and_the_first_stays() {
        let (mut life, start) = life();
        life.attach(start);
        assert_eq!(life.attach(start + SECOND), Attached::Second);
        assert_eq!(life.poll(start + 2 * SECOND), Step::Wait(start + 25 * SECOND));
    }

    #[test]
    fn nobody_keeps_a_closed_session() {
        let (mut life, start) = life();
        life.attach(start);
        life.close(start + SECOND);
        life.detached(start + SECOND);
        for second in 2..6 {
            assert_eq!(life.attach(start + second * SECOND), Attached::Receives);
            life.close(start + second * SECOND);
            life.detached(start + second * SECOND);
            assert_eq!(life.poll(start + second * SECOND), Step::Wait(start + 6 * SECOND));
        }
        assert_eq!(life.poll(start + 6 * SECOND), Step::Over);
    }
}
