//! Lines in the log about what may happen thousands of times a second.

use std::sync::atomic::{AtomicU64, Ordering};

/// From one line to the next, in milliseconds.
const COMPLAIN_EVERY_MS: u64 = 10_000;

/// Lets one line in [`COMPLAIN_EVERY`] through: there may be thousands of failures a second.
#[derive(Default)]
pub(super) struct Complaints {
    /// Milliseconds since 1970.
    last: AtomicU64,
    since: AtomicU64,
}

impl Complaints {
    /// How many there were since the last line, if it is time for one.
    pub(super) fn count(&self, now_ms: u64) -> Option<u64> {
        let since = self.since.fetch_add(1, Ordering::Relaxed) + 1;
        let last = self.last.load(Ordering::Relaxed);
        let is_time = now_ms.saturating_sub(last) >= COMPLAIN_EVERY_MS;
        let won = is_time && self.last.compare_exchange(last, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        won.then(|| {
            self.since.fetch_sub(since, Ordering::Relaxed);
            since
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_not_flooded() {
        let complaints = Complaints::default();
        let now = 1_790_000_000_000;
        assert_eq!(complaints.count(now), Some(1), "the first at once");
        for later in 1..1000 {
            assert_eq!(complaints.count(now + later), None);
        }
        assert_eq!(complaints.count(now + 10_000), Some(1000));
    }
}
