//! Whether the node has more than it can carry. Then those who are connected get what there is, and nobody else is let in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Public;
use crate::{
    config::{self, Limits},
    metrics, open_files,
    shard::ShardHandle,
};

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// So far below `limits.overload_memory` the node opens again: not at once, or it would open and close all the time.
const RELIEF: f64 = 0.05;

const MEMORY: u8 = 1;
const LAG: u8 = 2;
const FILES: u8 = 4;

/// What was found at one look.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Of the memory that the node may use, the part that it does.
    memory: f64,
    /// How late the latest shard is.
    lag: Duration,
    /// Connections that there are files left for.
    room: usize,
}

/// What there is too much of.
#[derive(Debug)]
pub(super) struct Overload {
    what: AtomicU8,
    /// `WebSockets` that the process has files for, as of the last look.
    most: AtomicUsize,
}

impl Default for Overload {
    fn default() -> Self {
        Self { what: AtomicU8::new(0), most: AtomicUsize::new(usize::MAX) }
    }
}

impl Overload {
    /// In words, when there are so many `WebSockets`; `None` as long as all is well.
    pub(super) fn what(&self, websockets: usize) -> Option<&'static str> {
        // Between two looks there can come more than there are files left.
        let full = websockets >= self.most.load(Ordering::Relaxed);
        let now = self.what.load(Ordering::Relaxed) | if full { FILES } else { 0 };
        // The first of them: one is enough to send somebody elsewhere.
        match now {
            0 => None,
            _ if now & FILES != 0 => Some("overloaded: open files (raise the process's limit, as ulimit -n)\n"),
            _ if now & MEMORY != 0 => Some("overloaded: memory (limits.overload_memory)\n"),
            _ => Some("overloaded: a shard is late (limits.overload_lag)\n"),
        }
    }

    /// Takes in what was found.
    fn judge(&self, limits: &Limits, websockets: usize, Load { memory, lag, room }: Load) {
        let was = self.what.load(Ordering::Relaxed);
        let share = limits.overload_memory;
        let memory = share > 0.0 && is_over(was & MEMORY != 0, memory, share, share - RELIEF);
        let late = limits.overload_lag.as_secs_f64();
        let lag = late > 0.0 && is_over(was & LAG != 0, lag.as_secs_f64(), late, late / 2.0);
        let now =
            [(memory, MEMORY), (lag, LAG), (room == 0, FILES)].iter().filter(|(is, _)| *is).map(|(_, bit)| bit).sum();
        self.most.store(websockets.saturating_add(room), Ordering::Relaxed);
        if now != was {
            self.what.store(now, Ordering::Relaxed);
            match self.what(websockets) {
                Some(what) => tracing::warn!(what = what.trim_end(), "handshakes are refused"),
                None => tracing::info!("handshakes are taken again"),
            }
        }
    }
}

/// Over the one it begins, under the other it ends; between them it stays as it was.
fn is_over(was: bool, value: f64, above: f64, below: f64) -> bool {
    value > if was { below } else { above }
}

/// Watches the node until it is `gone`.
pub async fn watch(public: Arc<Public>, gone: CancellationToken) {
    let mut probes: Vec<_> = public.ground.shards.iter().cloned().map(Probe::new).collect();
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = gone.cancelled() => return,
        }
        // Files of the kernel, and yet files.
        let look = || (config::memory_used(), open_files::room());
        let (memory, room) = tokio::task::spawn_blocking(look).await.unwrap_or((0.0, usize::MAX));
        let lag = probes.iter_mut().map(Probe::look).max().unwrap_or_default();
        metrics::load(memory, lag);
        public.overload.judge(&public.ground.settings().limits, public.websockets(), Load { memory, lag, room });
    }
}

/// Asks a shard for a sign now and then, through the same mailbox as everybody.
struct Probe {
    shard: ShardHandle,
    asked: Instant,
    /// Nanoseconds that the answer took; 0 until there is one.
    took: Arc<AtomicU64>,
}

impl Probe {
    fn new(shard: ShardHandle) -> Self {
        Self { shard, asked: Instant::now(), took: Arc::new(AtomicU64::new(1)) }
    }

    /// How late the shard is: what its last answer took, or the time for which there has been none. Asks again once it has
    /// answered.
    fn look(&mut self) -> Duration {
        let took = Duration::from_nanos(self.took.load(Ordering::Relaxed));
        if took.is_zero() {
            return self.asked.elapsed();
        }
        let (answer, asked) = (self.took.clone(), Instant::now());
        answer.store(0, Ordering::Relaxed);
        self.asked = asked;
        self.shard.run(move |_| {
            let took = u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX);
            answer.store(took.max(1), Ordering::Relaxed);
        });
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Duration = Duration::from_millis(1);
    const ROOM: usize = 100;

    fn after(overload: &Overload, memory: f64, lag: Duration) -> bool {
        overload.judge(&Limits::default(), 5, Load { memory, lag, room: ROOM });
        overload.what(5).is_some()
    }

    #[test]
    fn too_much_memory_until_it_is_well_below() {
        let overload = Overload::default();
        let found = [0.9, 0.91, 0.89, 0.86, 0.85, 0.89].map(|memory| after(&overload, memory, WELL));
        assert_eq!(found, [false, true, true, true, false, false]);
    }

    #[test]
    fn a_late_shard_until_it_is_half_as_late() {
        let overload = Overload::default();
        let found = [1000, 1001, 999, 501, 500].map(|ms| after(&overload, 0.1, Duration::from_millis(ms)));
        assert_eq!(found, [false, true, true, true, false]);
    }

    #[test]
    fn says_which() {
        let overload = Overload::default();
        let late = Duration::from_secs(2);
        for (memory, lag, room, word) in [
            (1.0, WELL, ROOM, Some("memory")),
            (1.0, late, ROOM, Some("memory")),
            (0.0, late, ROOM, Some("late")),
            (1.0, late, 0, Some("open files")),
            (0.0, WELL, ROOM, None),
        ] {
            overload.judge(&Limits::default(), 5, Load { memory, lag, room });
            match (overload.what(5), word) {
                (Some(what), Some(word)) => assert!(what.starts_with("overloaded: ") && what.contains(word), "{what}"),
                (what, word) => assert_eq!(what, word),
            }
        }
    }

    #[test]
    fn more_come_between_two_looks_than_there_are_files_left() {
        let overload = Overload::default();
        overload.judge(&Limits::default(), 5, Load { memory: 0.0, lag: WELL, room: 10 });
        assert_eq!([5, 14, 15].map(|websockets| overload.what(websockets).is_some()), [false, false, true]);
    }

    #[test]
    fn what_is_not_limited_is_never_too_much() {
        let overload = Overload::default();
        let limits = Limits { overload_memory: 0.0, overload_lag: Duration::ZERO, ..Limits::default() };
        overload.judge(&limits, 5, Load { memory: 1.0, lag: Duration::from_secs(100), room: ROOM });
        assert_eq!(overload.what(5), None);
    }
}
