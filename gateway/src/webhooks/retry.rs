//! How long to wait before something is tried again. Pure.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

/// A receiver that asks for more is not believed: what waits for it is bounded, and it may be a mistake.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The pauses between tries: full jitter, so that nodes do not come back in step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// While a client waits.
    pub(super) const DECIDE: Self = Self { first: Duration::from_millis(50), longest: Duration::from_secs(1) };
    /// While nobody does.
    pub(super) const EVENTS: Self = Self { first: Duration::from_millis(500), longest: Duration::from_secs(30) };

    /// How long to wait after so many tries failed, 1 or more; at least what the receiver asked for. `random` is between 0
    /// and 1.
    pub(super) fn pause(self, failed: u32, asked: Option<Duration>, random: f64) -> Duration {
        let most = self.first.saturating_mul(2u32.saturating_pow(failed.saturating_sub(1).min(16))).min(self.longest);
        most.mul_f64(random).max(asked.unwrap_or_default())
    }
}

/// What an answer without success means for the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The receiver is alive and does not want this: the same again will not help.
    Unwanted,
    /// Not now; so much later if it said so.
    Later(Option<Duration>),
}

/// Source: RFC 9110 §15.5, §15.6; RFC 6585 §4 for 429.
pub(super) fn verdict(status: StatusCode, headers: &HeaderMap) -> Verdict {
    let later =
        status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if later { Verdict::Later(retry_after(headers)) } else { Verdict::Unwanted }
}

/// `Retry-After` in seconds. A date is passed over: it would compare two clocks.
///
/// Source: RFC 9110 §10.2.3.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let pauses: Vec<_> = (1..=8).map(|failed| Backoff::EVENTS.pause(failed, None, 1.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(Backoff::EVENTS.pause(u32::MAX, None, 1.0), Duration::from_secs(30));
        assert_eq!(Backoff::DECIDE.pause(3, None, 0.0), Duration::ZERO, "full jitter");
    }

    #[test]
    fn what_the_receiver_asked_for_is_the_least() {
        let asked = Some(Duration::from_secs(7));
        assert_eq!(Backoff::EVENTS.pause(1, asked, 1.0), Duration::from_secs(7));
        assert_eq!(Backoff::EVENTS.pause(6, asked, 1.0), Duration::from_secs(16));
    }

    #[test]
    fn statuses_say_whether_to_come_back() {
        let verdict = |status: u16, retry_after: Option<&'static str>| {
            let headers = retry_after.map(|text| (header::RETRY_AFTER, text.parse().unwrap()));
            super::verdict(StatusCode::from_u16(status).unwrap(), &headers.into_iter().collect())
        };
        for status in [400, 401, 403, 404, 410, 413, 422, 301, 307] {
            assert_eq!(verdict(status, Some("3")), Verdict::Unwanted, "{status}");
        }
        for status in [408, 429, 500, 502, 503, 504] {
            assert_eq!(verdict(status, None), Verdict::Later(None), "{status}");
            assert_eq!(verdict(status, Some("3")), Verdict::Later(Some(Duration::from_secs(3))));
        }
        assert_eq!(verdict(503, Some("99999999999")), Verdict::Later(Some(LONGEST_RETRY_AFTER)));
        for odd in ["", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(verdict(503, Some(odd)), Verdict::Later(None), "{odd}");
        }
    }
}
