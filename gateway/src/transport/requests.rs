//! What an HTTP connection has open, and since when nothing.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::time::{Instant, sleep_until};

/// The requests of one HTTP connection that are not done yet, the WebSockets of HTTP/2 among them.
///
/// One rule bounds all that a client can do without asking for anything, whatever version it speaks: the head that comes
/// byte by byte, the connection kept alive and never used again, the HTTP/2 connection without streams.
pub(super) struct Requests {
    open: Cell<usize>,
    quiet_since: Cell<Instant>,
}

impl Requests {
    /// None, since then.
    pub(super) fn none_since(since: Instant) -> Rc<Self> {
        Rc::new(Self { open: Cell::new(0), quiet_since: Cell::new(since) })
    }

    /// One more, until what is returned is dropped.
    pub(super) fn begin(self: &Rc<Self>) -> Request {
        self.open.set(self.open.get() + 1);
        Request(self.clone())
    }

    /// Ready once there has been none for so long, counted from `none_since` or from the last one's end.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(super) async fn quiet_for(&self, patience: Duration) {
        while let Some(until) = self.not_before(Instant::now(), patience) {
            sleep_until(until).await;
        }
    }

    /// When to look again; `None`: it has been quiet for so long.
    fn not_before(&self, now: Instant, patience: Duration) -> Option<Instant> {
        let since = if self.open.get() > 0 { now } else { self.quiet_since.get() };
        Some(since + patience).filter(|until| *until > now)
    }
}

/// A request that is not done yet.
pub(super) struct Request(Rc<Requests>);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.quiet_since.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_is_counted_from_the_end_of_the_last_request() {
        let patience = Duration::from_secs(5);
        let begun = Instant::now();
        let requests = Requests::none_since(begun);
        assert_eq!(requests.not_before(begun, patience), Some(begun + patience));
        assert_eq!(requests.not_before(begun + patience, patience), None);

        let (one, other) = (requests.begin(), requests.begin());
        let later = begun + patience * 3;
        assert_eq!(requests.not_before(later, patience), Some(later + patience), "in use");
        drop(one);
        assert_eq!(requests.not_before(later, patience), Some(later + patience), "still in use");
        drop(other);
        let end = requests.quiet_since.get();
        assert!(end >= begun);
        assert_eq!(requests.not_before(end, patience), Some(end + patience));
        assert_eq!(requests.not_before(end + patience, patience), None);
    }
}
