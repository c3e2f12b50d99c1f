//! Where a run stands: written by all threads, read by those that wait.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread::{self, Thread},
    time::Duration,
};

use super::publisher::Mouth;

/// A waiter that is forgotten looks again after this.
const LOOK: Duration = Duration::from_millis(2);

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Clients that are as far in as the plan wants them.
    pub(super) connected: AtomicU64,
    /// Publications that were due; nobody can have received one beyond.
    pub(super) queued: AtomicU64,
    pub(super) sent: AtomicU64,
    /// Publications that could not be sent: the publisher's connection had ended.
    pub(super) unsent: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Publications received, each once per receiver that is meant to read.
    delivered: AtomicU64,
    /// Reads that brought something: says whether anything still comes.
    pub(super) frames: AtomicU64,
    /// Connections that ended unasked, of those that are meant to read.
    pub(super) ended: AtomicU64,
    /// So many deliveries are waited for.
    goal: AtomicU64,
    waiter: OnceLock<Thread>,
    /// Publishers that have subscribed, until they are taken.
    mouths: Mutex<Vec<Mouth>>,
}

impl Progress {
    /// So many more arrived, in one read.
    pub(super) fn add_delivered(&self, fresh: u64) {
        let before = self.delivered.fetch_add(fresh, SeqCst);
        let goal = self.goal.load(SeqCst);
        if before < goal && before + fresh >= goal {
            // One wake-up for each goal, not one look every so often: the receivers need the core.
            self.waiter.get().into_iter().for_each(Thread::unpark);
        }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// Parks until so many were delivered, or for a while. One thread only may ever wait.
    pub(super) fn park_until_delivered(&self, goal: u64) {
        self.park_for(goal, LOOK);
    }

    fn park_for(&self, goal: u64, at_most: Duration) {
        self.waiter.get_or_init(thread::current);
        self.goal.store(goal, SeqCst);
        if self.delivered.load(SeqCst) < goal {
            thread::park_timeout(at_most);
        }
    }

    pub(super) fn add_mouth(&self, mouth: Mouth) {
        self.mouths.lock().unwrap_or_else(PoisonError::into_inner).push(mouth);
    }

    /// All publishers, in their order.
    pub(super) fn take_mouths(&self) -> Vec<Mouth> {
        let mut mouths = std::mem::take(&mut *self.mouths.lock().unwrap_or_else(PoisonError::into_inner));
        mouths.sort_by_key(|mouth| (mouth.from, mouth.channel));
        mouths
    }

    /// Every publication of the schedule was sent (or could not be) and answered, and all who should have them do.
    pub(super) fn is_complete(&self, receivers_of_each: u64) -> bool {
        let accepted = self.sent.load(Relaxed).saturating_sub(self.refused.load(Relaxed));
        self.sent.load(Relaxed) + self.unsent.load(Relaxed) == self.queued.load(Relaxed)
            && self.answered.load(Relaxed) >= self.sent.load(Relaxed)
            && self.delivered() >= accepted * receivers_of_each
    }

    /// Nobody is left who could receive anything.
    pub(super) fn is_deserted(&self, receivers: u64) -> bool {
        self.ended.load(Relaxed) >= receivers
    }

    /// Changes whenever anything happens.
    pub(super) fn pulse(&self) -> u64 {
        self.frames.load(Relaxed) + self.sent.load(Relaxed) + self.ended.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::*;

    #[test]
    fn who_waits_is_woken_when_the_goal_is_reached() {
        // Whoever is not woken looks again after an hour.
        const NEVER: Duration = Duration::from_secs(3600);
        let progress = Arc::new(Progress::default());
        let waiting = thread::spawn({
            let progress = progress.clone();
            move || {
                while progress.delivered() < 10 {
                    progress.park_for(10, NEVER);
                }
            }
        });
        while progress.goal.load(SeqCst) < 10 {
            thread::yield_now();
        }
        for _ in 0..5 {
            progress.add_delivered(2);
        }
        let latest = Instant::now() + Duration::from_secs(10);
        while !waiting.is_finished() {
            assert!(Instant::now() < latest, "nobody woke it");
            thread::park_timeout(Duration::from_millis(1));
        }
        waiting.join().unwrap();
    }
}
