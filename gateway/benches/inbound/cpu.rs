//! CPU time, from the scheduler's own books.

use std::time::Duration;

/// The middle one.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Of this process without the thread that asks.
pub(crate) fn of_others() -> Duration {
    let all = std::fs::read_dir("/proc/self/task").unwrap();
    let all: Duration = all.filter_map(|task| spent(&task.ok()?.path())).sum();
    all.saturating_sub(own())
}

/// Of the thread that asks.
pub(crate) fn own() -> Duration {
    spent("/proc/thread-self".as_ref()).unwrap()
}

fn spent(task: &std::path::Path) -> Option<Duration> {
    let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}
