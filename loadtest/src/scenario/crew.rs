//! All clients of a run: started, waited for, told what to do, and sent home.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use tokio::{runtime, sync::watch};

use super::{
    Plan, Progress, Samples, ScenarioError,
    books::{Books, LastSeen},
    meter::RECEIVING,
    publisher::Mouth,
    receiver::{Phase, Received, receive},
};

/// How often whoever waits looks again.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// The receiving threads and what they share.
pub(super) struct Crew {
    pub(super) plan: Arc<Plan>,
    pub(super) progress: Arc<Progress>,
    phase: watch::Sender<Phase>,
    receiving: Vec<JoinHandle<Result<Received, ScenarioError>>>,
}

/// What all threads brought home.
#[derive(Default)]
pub(super) struct Gathered {
    /// With the channel of each.
    pub(super) books: Vec<(usize, Books)>,
    pub(super) samples: Samples,
    pub(super) last: LastSeen,
}

impl Crew {
    /// Starts the threads; their clients connect at once.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn start(plan: Arc<Plan>, threads: usize) -> Result<Self, ScenarioError> {
        let (phase, is_phase) = watch::channel(Phase::Running);
        let progress = Arc::<Progress>::default();
        let mut receiving = Vec::new();
        for thread in 0..threads {
            let members: Vec<usize> = (thread..plan.seats.clients()).step_by(threads).collect();
            let (plan, progress, is_phase) = (plan.clone(), progress.clone(), is_phase.clone());
            receiving.push(spawn(format!("{RECEIVING}-{thread}"), move || {
                on_this_thread(|| receive(members, plan, progress, is_phase))
            })?);
        }
        Ok(Self { plan, progress, phase, receiving })
    }

    /// Waits until all are in. False: a thread ended, which it does only with an error; [`dismiss`](Self::dismiss) has it.
    pub(super) fn await_connected(&self, bar: &ProgressBar) -> bool {
        let clients = self.plan.seats.clients() as u64;
        bar.set_length(clients);
        bar.set_message("connecting");
        loop {
            let connected = self.progress.connected.load(Relaxed);
            bar.set_position(connected);
            if connected == clients {
                return true;
            }
            if self.receiving.iter().any(JoinHandle::is_finished) {
                return false;
            }
            thread::park_timeout(LOOK);
        }
    }

    /// Everybody who is ready to publish.
    pub(super) fn mouths(&self) -> Vec<Mouth> {
        self.progress.take_mouths()
    }

    /// Waits until nothing has happened for so long; at most until `latest`.
    pub(super) fn await_quiet(&self, quiet: Duration, latest: Instant) {
        let (mut pulse, mut changed) = (self.progress.pulse(), Instant::now());
        while changed.elapsed() < quiet && Instant::now() < latest {
            thread::park_timeout(LOOK);
            if self.progress.pulse() != pulse {
                (pulse, changed) = (self.progress.pulse(), Instant::now());
            }
        }
    }

    /// Those who stall read again.
    pub(super) fn resume(&self) {
        let _ = self.phase.send(Phase::Resumed);
    }

    /// Sends everybody home.
    ///
    /// # Errors
    /// Of a client that could not get in.
    pub(super) fn dismiss(self) -> Result<Gathered, ScenarioError> {
        let _ = self.phase.send(Phase::Over);
        let mut gathered = Gathered::default();
        for thread in self.receiving {
            let received = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            gathered.books.extend(received.books);
            gathered.samples.merge(&received.samples);
            gathered.last.merge(&received.last);
        }
        Ok(gathered)
    }
}

/// Starts a thread of the generator; its name tells the figures of its CPU time from those of others.
///
/// # Errors
/// The system has none left.
pub(super) fn spawn<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ScenarioError> {
    thread::Builder::new().name(name).spawn(work).map_err(ScenarioError::Start)
}

/// Runs a future on a runtime of this thread's own.
pub(super) fn on_this_thread<T, F: Future<Output = Result<T, ScenarioError>>>(
    work: impl FnOnce() -> F,
) -> Result<T, ScenarioError> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(ScenarioError::Start)?.block_on(work())
}
