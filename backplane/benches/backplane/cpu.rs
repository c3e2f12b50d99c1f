//! CPU time, from the scheduler's own books.

use std::time::Duration;

/// Of this process, all of its threads.
pub(crate) fn own() -> Duration {
    std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| spent(&task.ok()?.path())).sum()
}

/// Of one thread of a process: Redis does everything that counts in its first.
pub(crate) fn main_thread(pid: u32) -> Duration {
    spent(format!("/proc/{pid}/task/{pid}").as_ref()).unwrap()
}

fn spent(task: &std::path::Path) -> Option<Duration> {
    let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}
