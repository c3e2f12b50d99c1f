//! Waiting for a condition, with a deadline.

use std::time::Duration;

use tokio::time::Instant;

/// Whatever is waited for has come by then, or never does. Generous: the machine may be busy with others.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A sentinel that got no processor for two seconds does nothing for the next thirty (its TILT mode), and votes then.
pub const SENTINEL_DEADLINE: Duration = Duration::from_secs(90);

/// Asks again and again, until it holds.
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(DEADLINE, what, holds).await;
}

/// The same with another deadline.
pub async fn until_within(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks at the condition
    }
}

/// For as long as a fault lasts that is the subject of a test.
pub async fn last(duration: Duration) {
    tokio::time::sleep(duration).await;
}
