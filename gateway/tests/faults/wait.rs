//! Waiting for a condition, with a deadline.

use std::time::Duration;

use tokio::time::Instant;

/// Whatever is waited for has come by then, or never does. Generous: the machine may be busy with others.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks again and again, until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks at the condition
    }
}

/// For as long as a fault lasts that is the subject of a test.
pub async fn last(duration: Duration) {
    tokio::time::sleep(duration).await;
}
