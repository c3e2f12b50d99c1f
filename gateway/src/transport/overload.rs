//! Whether the node has more than it can carry. Then those who are connected get what there is, and nobody else is let in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Public;
use crate::{
    config::{self, Limits},
    metrics,
    shard::ShardHandle,
};

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// So far below `limits.overload_memory` the node opens again: not at once, or it would open and close all the time.
const RELIEF: f64 = 0.05;

const MEMORY: u8 = 1;
const LAG: u8 = 2;

/// What there is too much of.
#[derive(Debug, Default)]
pub(super) struct Overload(AtomicU8);

impl Overload {
    /// In words; `None` as long as all is well.
    pub(super) fn what(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            MEMORY => Some("overloaded: memory (limits.overload_memory)\n"),
            LAG => Some("overloaded: a shard is late (limits.overload_lag)\n"),
            _ => Some("overloaded: memory (limits.overload_memory), and a shard is late (limits.overload_lag)\n"),
        }
    }

    /// Takes in how much of its memory the node uses and how late it is.
    fn judge(&self, limits: &Limits, memory: f64, lag: Duration) {
        let was = self.0.load(Ordering::Relaxed);
        let share = limits.overload_memory;
        let memory = share > 0.0 && is_over(was & MEMORY != 0, memory, share, share - RELIEF);
        let late = limits.overload_lag.as_secs_f64();
        let lag = late > 0.0 && is_over(was & LAG != 0, lag.as_secs_f64(), late, late / 2.0);
        let now = if memory { MEMORY } else { 0 } | if lag { LAG } else { 0 };
        if now != was {
            self.0.store(now, Ordering::Relaxed);
            match self.what() {
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
        let memory = tokio::task::spawn_blocking(config::memory_used).await.unwrap_or_default();
        let lag = probes.iter_mut().map(Probe::look).max().unwrap_or_default();
        metrics::load(memory, lag);
        public.overload.judge(&public.ground.settings().limits, memory, lag);
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

    fn after(overload: &Overload, memory: f64, lag: Duration) -> bool {
        overload.judge(&Limits::default(), memory, lag);
        overload.what().is_some()
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
    fn says_which_and_both() {
        let overload = Overload::default();
        let late = Duration::from_secs(2);
        for (memory, lag, words) in [
            (1.0, WELL, Some("overloaded: memory (limits.overload_memory)\n")),
            (0.0, late, Some("overloaded: a shard is late (limits.overload_lag)\n")),
            (0.0, WELL, None),
        ] {
            overload.judge(&Limits::default(), memory, lag);
            assert_eq!(overload.what(), words);
        }
        assert!(after(&overload, 1.0, late) && overload.what().is_some_and(|what| what.contains(", and a shard")));
    }

    #[test]
    fn what_is_not_limited_is_never_too_much() {
        let overload = Overload::default();
        let limits = Limits { overload_memory: 0.0, overload_lag: Duration::ZERO, ..Limits::default() };
        overload.judge(&limits, 1.0, Duration::from_secs(100));
        assert_eq!(overload.what(), None);
    }
}
