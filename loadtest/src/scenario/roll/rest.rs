//! When a client comes back after its connection has ended. Pure.

use std::time::Duration;

use skywave_proto::CloseCode;

use crate::client::ClientError;

/// A client that was told nothing waits up to so long the first time, twice as long each further time, and at most
/// [`LONGEST`]: at a random moment of that, so that those who lost the same node do not come back as one.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);
/// How long a bare client waits at most when it is told that the node restarts: nothing tells it a moment of its own.
const BARE: Duration = Duration::from_secs(1);

/// How a connection ended, or why there was none.
#[derive(Debug)]
pub(super) enum Ending {
    /// With a close frame; before it a `disconnect` may have said when to come back.
    Closed {
        /// Of the frame; 1005 if it has none.
        code: u16,
        /// From the `disconnect`.
        after: Option<Duration>,
    },
    /// Without a word.
    Cut,
    /// Before the client was in.
    Refused(ClientError),
    /// By ourselves, as everybody's at that moment.
    Storm,
}

impl Ending {
    /// How it stands in a report: the code, or `none`.
    pub(super) fn code(&self) -> String {
        match self {
            Self::Closed { code, .. } => code.to_string(),
            Self::Cut | Self::Refused(_) => "none".to_owned(),
            Self::Storm => "ours".to_owned(),
        }
    }
}

/// How long to wait after the `attempt`th end in a row (from 0) without having been in; `None`: do not come back.
///
/// `chance` is from 0 to 1.
pub(super) fn rest(ending: &Ending, attempt: u32, is_bare: bool, chance: f64) -> Option<Duration> {
    match ending {
        Ending::Storm => Some(Duration::ZERO), // once all may come back
        Ending::Closed { after: Some(after), code } if may_return(*code) => Some(*after),
        Ending::Closed { code, .. } if !may_return(*code) => None,
        Ending::Closed { code, .. } if is_bare && *code == CloseCode::ServiceRestart.code() => {
            Some(BARE.mul_f64(chance))
        }
        _ => Some(FIRST.saturating_mul(1 << attempt.min(10)).min(LONGEST).mul_f64(chance)),
    }
}

/// Codes that nobody has given a meaning yet are judged by their range.
fn may_return(code: u16) -> bool {
    CloseCode::of(code).map_or(matches!(code, 1005 | 1014 | 4000..=4499), CloseCode::may_reconnect)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn closed(code: u16, after: Option<Duration>) -> Ending {
        Ending::Closed { code, after }
    }

    #[test]
    fn who_is_told_a_moment_keeps_it() {
        assert_eq!(rest(&closed(4001, Some(350 * MS)), 3, false, 0.1), Some(350 * MS));
        assert_eq!(rest(&closed(4001, Some(Duration::ZERO)), 0, false, 0.9), Some(Duration::ZERO));
    }

    #[test]
    fn who_is_told_nothing_waits_at_random_and_ever_longer() {
        let refused = Ending::Refused(ClientError::Ended("no".to_owned()));
        for ending in [Ending::Cut, refused, closed(4001, None), closed(1005, None)] {
            assert_eq!(rest(&ending, 0, false, 1.0), Some(FIRST));
            assert_eq!(rest(&ending, 2, false, 0.5), Some(FIRST * 2));
            assert_eq!(rest(&ending, u32::MAX, true, 1.0), Some(LONGEST));
        }
        assert_eq!(rest(&closed(1012, None), 5, true, 0.5), Some(BARE / 2));
    }

    #[test]
    fn who_is_not_wanted_stays_away() {
        for code in [1000, 1002, 4500, 4506, 4999] {
            assert_eq!(rest(&closed(code, Some(MS)), 0, false, 0.5), None, "{code}");
        }
        assert!(rest(&closed(4499, None), 0, false, 0.5).is_some(), "a code that a later version may have");
    }
}
