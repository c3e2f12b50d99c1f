//! All clients of a run: started, waited for, told what to do, and sent home.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use tokio::{runtime, sync::watch};

use super::{
    Orders, Plan, Progress, ScenarioError,
    ledger::{Gathered, Ledger},
    meter::RECEIVING,
    outpost::Outpost,
    publisher::Mouth,
    receiver::{Phase, Received, receive},
};

/// How often whoever waits looks again.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// The receiving threads and what they share, and the processes that help.
pub(super) struct Crew {
    pub(super) plan: Arc<Plan>,
    pub(super) progress: Arc<Progress>,
    /// The processes that help.
    pub(super) children: Vec<u32>,
    outposts: Vec<Outpost>,
    phase: watch::Sender<Phase>,
    receiving: Vec<JoinHandle<Result<Received, ScenarioError>>>,
}

impl Crew {
    /// Starts everybody whom the orders name, in as many processes as they need. Those who publish are in this one.
    ///
    /// # Errors
    /// No thread or process can be had, or there are not files enough.
    pub(super) fn start(orders: &Orders, plan: Arc<Plan>) -> Result<Self, ScenarioError> {
        let (seats, clients) = (plan.seats, plan.seats.clients());
        let processes = orders.access.processes_for(clients)?;
        let each = clients.div_ceil(processes);
        let here = clients - each;
        if seats.all_publishers() > each {
            let what = "all who publish must be in one process, and do not fit: lower --clients, or --processes";
            return Err(ScenarioError::Usage(what.to_owned()));
        }
        let mut crew = Self::of(here..clients, plan, orders.access.threads)?;
        for first in (0..here).step_by(each) {
            let members = first..(first + each).min(here);
            let outpost = Outpost::start(orders, members, crew.progress.clone())?;
            crew.children.push(outpost.pid());
            crew.outposts.push(outpost);
        }
        Ok(crew)
    }

    /// Starts these clients on threads of this process; they connect at once.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn of(members: Range<usize>, plan: Arc<Plan>, threads: usize) -> Result<Self, ScenarioError> {
        let (phase, is_phase) = watch::channel(Phase::Running);
        let progress = Arc::<Progress>::default();
        let mut receiving = Vec::new();
        for thread in 0..threads {
            let members: Vec<usize> = members.clone().skip(thread).step_by(threads).collect();
            let (plan, progress, is_phase) = (plan.clone(), progress.clone(), is_phase.clone());
            receiving.push(spawn(format!("{RECEIVING}-{thread}"), move || {
                on_this_thread(|| receive(members, plan, progress, is_phase))
            })?);
        }
        Ok(Self { plan, progress, children: Vec::new(), outposts: Vec::new(), phase, receiving })
    }

    /// Somebody ended before the end, which happens only with an error; [`dismiss`](Self::dismiss) has it.
    pub(super) fn is_broken(&self) -> bool {
        self.receiving.iter().any(JoinHandle::is_finished) || self.outposts.iter().any(Outpost::is_finished)
    }

    /// Receiving threads, of all processes.
    pub(super) fn threads(&self) -> usize {
        self.receiving.len() * (self.outposts.len() + 1)
    }

    /// Waits until all are in, and says so on standard error, for whoever watches the node from then on. False: they are
    /// [broken](Self::is_broken).
    pub(super) fn await_connected(&self, bar: &ProgressBar) -> bool {
        let clients = self.plan.seats.clients() as u64;
        bar.set_length(clients);
        bar.set_message("connecting");
        loop {
            let connected = self.progress.connected.load(Relaxed);
            bar.set_position(connected);
            if connected == clients {
                bar.suspend(|| eprintln!("all {clients} are in"));
                return true;
            }
            if self.is_broken() {
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
    pub(super) fn resume(&mut self) {
        let _ = self.phase.send(Phase::Resumed);
        self.outposts.iter_mut().for_each(Outpost::resume);
    }

    /// Sends everybody home, and closes their books with what was sent.
    ///
    /// # Errors
    /// Of a client that could not get in.
    pub(super) fn dismiss(mut self, ledger: &Ledger) -> Result<Gathered, ScenarioError> {
        let _ = self.phase.send(Phase::Over);
        self.outposts.iter_mut().for_each(|outpost| outpost.dismiss(ledger));
        let mut gathered = Gathered::default();
        let mut failed = None;
        for thread in self.receiving {
            match thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(Received { books, samples, last }) => gathered.close(&books, &samples, &last, ledger),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        // All of them are waited for, whatever happened to one.
        for outpost in self.outposts {
            match outpost.join() {
                Ok(there) => gathered.merge(&there),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(gathered), Err)
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
