//! What others have written and this version cannot read: dropped, counted, and said in the log now and then.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::error;

use crate::metrics;

/// How often the log says so of each kind: a newer node that writes much would fill it.
const INTERVAL: Duration = Duration::from_secs(60);

/// What it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// A publication that came in.
    Publication,
    /// One in a history.
    History,
    /// A member, a join or a leave.
    Presence,
    /// What another node says.
    Signal,
    /// A revoked token: this node would let it in.
    Revocation,
}

impl Unreadable {
    pub(crate) const ALL: [Self; 5] =
        [Self::Publication, Self::History, Self::Presence, Self::Signal, Self::Revocation];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Publication => "publication",
            Self::History => "history",
            Self::Presence => "presence",
            Self::Signal => "signal",
            Self::Revocation => "revocation",
        }
    }

    /// Counts one. Whoever calls says in the log what it was.
    pub fn count(self) {
        metrics::unreadable(self);
    }

    /// Counts one, and says so: where it was found, and what is wrong with it.
    pub(crate) fn tell(self, at: &dyn std::fmt::Display, why: &dyn std::fmt::Display) {
        // One log, as there is one counter, however many nodes a test has in a process.
        static SAID: [Mutex<Option<Instant>>; Unreadable::ALL.len()] = [const { Mutex::new(None) }; _];
        self.count();
        if is_due(&mut SAID[self as usize].lock(), Instant::now()) {
            error!(
                kind = self.word(), %at, %why, release = env!("CARGO_PKG_VERSION"),
                "dropping what this release cannot read: if a node here is of a newer one (`skywave nodes` lists them), bring \
                 this one up to it; if none is, somebody else writes into our keys"
            );
        }
    }
}

fn is_due(said: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = said.is_none_or(|at| now.saturating_duration_since(at) >= INTERVAL);
    if is_due {
        *said = Some(now);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_minute() {
        let (mut said, start) = (None, Instant::now());
        let due: Vec<_> =
            [0, 1, 59, 60, 61, 119, 120].map(|second| is_due(&mut said, start + Duration::from_secs(second))).into();
        assert_eq!(due, [true, false, false, true, false, false, true]);
    }
}
