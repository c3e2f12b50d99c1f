//! All clients of a run, on their threads.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use tokio::{
    sync::{Semaphore, watch},
    task::{JoinSet, LocalSet},
};

use super::{
    Settings, Task, backend,
    kind::Kind,
    member::{Desk, Member},
    notes::{Notes, Standing},
    seat::Seat,
    storm::Weather,
};
use crate::{
    scenario::{
        ScenarioError,
        crew::{LOOK, on_this_thread, spawn},
        meter::RECEIVING,
    },
    target::Target,
    wire::Masks,
};

/// How long nothing may happen after the last delivery: something that comes twice would come now.
const SETTLED: Duration = Duration::from_millis(500);
/// From the last publication at most so many times the patience.
const LATEST: u32 = 6;

/// What a receiving thread brings home.
pub(super) type Home = (Vec<(Kind, Vec<Seat>)>, Notes);

/// All clients: started, waited for, and sent home.
pub(super) struct Crew {
    pub(super) standing: Arc<Standing>,
    over: watch::Sender<bool>,
    storm: watch::Sender<Weather>,
    receiving: Vec<JoinHandle<Result<Home, ScenarioError>>>,
}

impl Crew {
    pub(super) fn start(settings: &Settings, task: &Arc<Task>, targets: &[Target]) -> Result<Self, ScenarioError> {
        let Settings { access, clients, .. } = settings;
        let (over, is_over) = watch::channel(false);
        let (storm, breaks) = watch::channel(Weather::Calm);
        let standing = Arc::<Standing>::default();
        let mut receiving = Vec::new();
        for thread in 0..access.threads {
            let member = |n: usize| {
                let (kind, channels) = settings.place(n);
                Member::new(kind, targets[n % targets.len()].clone(), channels)
            };
            let members: Vec<Member> = (thread..*clients).step_by(access.threads).map(member).collect();
            let (task, standing) = (task.clone(), standing.clone());
            let (over, storm) = (is_over.clone(), breaks.clone());
            let entering = access.connecting_per_thread();
            receiving.push(spawn(format!("{RECEIVING}-{thread}"), move || {
                on_this_thread(|| receive(members, task, standing, (over, storm), entering))
            })?);
        }
        Ok(Self { standing, over, storm, receiving })
    }

    /// Tells all clients of the storm.
    pub(super) fn tell(&self, weather: Weather) {
        self.storm.send_replace(weather);
    }

    /// Somebody ended before the end, which happens only with an error.
    pub(super) fn is_broken(&self) -> bool {
        self.receiving.iter().any(JoinHandle::is_finished)
    }

    /// Waits until all are in, and says so on standard error, for whoever is to replace the nodes then. False: they are
    /// broken.
    pub(super) fn await_connected(&self, clients: u64, bar: &ProgressBar) -> bool {
        bar.set_length(clients);
        bar.set_message("connecting");
        while !self.is_broken() {
            let came = self.standing.came.load(Relaxed);
            bar.set_position(came);
            if came == clients {
                bar.suspend(|| eprintln!("all {clients} are in"));
                return true;
            }
            thread::park_timeout(LOOK);
        }
        false
    }

    /// Waits until everybody is in and has everything, or nothing happens any more.
    pub(super) fn await_all(&self, settings: &Settings, published: &backend::Published) {
        let (clients, patience) = (settings.clients as u64, settings.patience);
        let accepted = |channel: usize| {
            let sent = &published.sent[channel];
            sent.count - sent.refused.len() as u64
        };
        let expected: u64 = (0..settings.clients).flat_map(|n| settings.place(n).1).map(accepted).sum();
        let latest = Instant::now() + patience * LATEST;
        let (mut pulse, mut changed) = (self.standing.pulse(), Instant::now());
        while Instant::now() < latest && !self.is_broken() {
            let is_complete = pulse.0 == clients && pulse.1 >= expected;
            if changed.elapsed() >= if is_complete { SETTLED.min(patience) } else { patience } {
                return;
            }
            thread::park_timeout(LOOK);
            if self.standing.pulse() != pulse {
                (pulse, changed) = (self.standing.pulse(), Instant::now());
            }
        }
    }

    pub(super) fn dismiss(self) -> Result<Home, ScenarioError> {
        let _ = self.over.send(true);
        let (mut members, mut notes, mut failed) = (Vec::new(), Notes::default(), None);
        for thread in self.receiving {
            match thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok((there, met)) => {
                    members.extend(there);
                    notes.merge(met);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok((members, notes)), Err)
    }
}

/// One thread's clients, until the run is over; the first that never gets in ends it.
async fn receive(
    members: Vec<Member>,
    task: Arc<Task>,
    standing: Arc<Standing>,
    (over, storm): (watch::Receiver<bool>, watch::Receiver<Weather>),
    entering: usize,
) -> Result<Home, ScenarioError> {
    let desk = Rc::new(Desk {
        task,
        standing,
        over,
        storm,
        notes: RefCell::default(),
        masks: RefCell::<Masks>::default(),
        entering: Semaphore::new(entering),
    });
    let all = async {
        let mut staying = JoinSet::new();
        for member in members {
            staying.spawn_local(member.stay(desk.clone()));
        }
        let mut home = Vec::new();
        while let Some(member) = staying.join_next().await {
            home.push(member.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?);
        }
        Ok::<_, ScenarioError>(home)
    };
    let home = LocalSet::new().run_until(all).await?;
    Ok((home, desk.notes.take()))
}
