//! Connections that do nothing: what one costs in memory, what all of them cost in CPU, and what a burst leaves behind.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;

use super::{
    Access, Entry, Orders, ScenarioError, Seats,
    crew::{Crew, LOOK, spawn},
    ledger::{Gathered, Ledger},
    meter::{Meter, Servers, THREADS},
    publisher::{Pacer, Published},
};
use crate::{
    report::{
        Connecting,
        resting::{AfterBurst, Resting},
    },
    stamp::Stamp,
};

/// What a node may give back after a burst, before its memory is read.
const AFTER: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to get in.
    pub access: Access,
    /// Connections.
    pub clients: usize,
    /// How far each goes in.
    pub depth: Depth,
    /// Another path than that of the URL.
    pub path: Option<String>,
    /// How long they rest.
    pub duration: Duration,
    /// Publications to all of them after that, at once, and bytes of JSON in each.
    pub burst: Option<(u32, usize)>,
    /// The channel; a new one if there is none.
    pub channel: Option<String>,
    /// How long nothing may happen before what is missing of the burst is given up.
    pub patience: Duration,
}

/// How far a connection goes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The WebSocket handshake; nothing is sent.
    Bare,
    /// It introduces itself.
    Connected,
    /// It subscribes.
    Subscribed,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            clients: 10_000,
            depth: Depth::Subscribed,
            path: None,
            duration: Duration::from_secs(10),
            burst: None,
            channel: None,
            patience: Duration::from_secs(10),
        }
    }
}

/// Runs the scenario. `bar` shows how far it is.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all. What goes wrong while it runs is in the report.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Resting, ScenarioError> {
    settings.check()?;
    let publishers = usize::from(settings.burst.is_some());
    let orders = Orders {
        access: settings.access.clone(),
        path: settings.path.clone(),
        channel: settings.channel.clone(),
        seats: Seats { channels: 1, listeners: settings.clients, publishers, stalled: 0.0 },
        size: settings.burst.map_or(Stamp::MIN_SIZE, |(_, size)| size),
        ..Orders::new(match settings.depth {
            Depth::Bare => Entry::Bare,
            Depth::Connected => Entry::Connected,
            Depth::Subscribed => Entry::Subscribed,
        })
    };
    let plan = Arc::new(orders.plan()?);
    let servers = Servers::find(&settings.access, &plan.targets)?;
    let resident_before = servers.resident();
    let crew = Crew::start(&orders, plan.clone())?;
    let (mut rest, mut published) = (Rest::default(), Vec::new());
    if crew.await_connected(bar) {
        rest = settings.rest(&servers, bar);
        if let Some((count, _)) = settings.burst {
            published = settings.burst(&crew, count.into(), bar)?;
            pause(AFTER, bar);
            rest.resident_after = servers.resident();
        }
    }
    bar.finish_and_clear();
    let Gathered { outcome, sightings, samples, .. } = crew.dismiss(&Ledger::new(&published))?;
    let (connect, subscribe) = (samples.connect.percentiles(), samples.subscribe.percentiles());
    Ok(Resting {
        scenario: "idle",
        urls: settings.access.urls.clone(),
        clients: plan.seats.clients(),
        connecting: Connecting { connect, subscribe, retries: samples.retries },
        duration_seconds: settings.duration.as_secs_f64(),
        server_pids: servers.pids,
        settled: rest.settled,
        resident_bytes_before: resident_before,
        resident_bytes_connected: rest.resident_connected,
        cpu_seconds: rest.cpu.map(|cpu| cpu.as_secs_f64()),
        cpu_in_ticks: rest.in_ticks,
        burst: settings.burst.map(|(publications, size)| AfterBurst {
            publications,
            size,
            refused: published.iter().map(|publisher| publisher.sent().refused.len() as u64).sum(),
            deliveries: outcome,
            resident_bytes_before: rest.resident_rested,
            resident_bytes_after: rest.resident_after,
            ..AfterBurst::default()
        }),
        sightings,
        ..Resting::default()
    }
    .judged())
}

/// What was read of the nodes while nothing happened.
#[derive(Default)]
struct Rest {
    settled: Option<bool>,
    resident_connected: Option<u64>,
    cpu: Option<Duration>,
    in_ticks: bool,
    /// After the rest: what answering pings has grown is none of a burst's.
    resident_rested: Option<u64>,
    resident_after: Option<u64>,
}

impl Settings {
    fn check(&self) -> Result<(), ScenarioError> {
        self.access.check(self.clients)?;
        let wrong = |what: String| Err(ScenarioError::Usage(what));
        match self.burst {
            Some(_) if self.depth != Depth::Subscribed => wrong("--burst needs subscribers".to_owned()),
            Some((0, _)) => wrong("--burst must be at least one publication".to_owned()),
            Some((_, ..Stamp::MIN_SIZE)) => {
                wrong(format!("--burst must be of publications of {} bytes at least", Stamp::MIN_SIZE))
            }
            _ => Ok(()),
        }
    }

    fn rest(&self, servers: &Servers, bar: &ProgressBar) -> Rest {
        bar.set_message("settling");
        let stood = Meter::start(servers, &[]).await_still(self.patience).is_some();
        let resident_connected = servers.resident();
        let settled = resident_connected.map(|_| stood);
        bar.set_message("resting");
        let meter = Meter::start(servers, &[]);
        pause(self.duration, bar);
        Rest {
            settled,
            resident_connected,
            cpu: meter.nodes(),
            in_ticks: meter.is_in_ticks(),
            resident_rested: servers.resident(),
            resident_after: None,
        }
    }

    /// Publishes to all of them at once, and waits until they have it.
    fn burst(&self, crew: &Crew, count: u64, bar: &ProgressBar) -> Result<Vec<Published>, ScenarioError> {
        bar.set_message("bursting");
        let pacer = Pacer::new(crew.mouths(), crew.plan.clone(), crew.progress.clone());
        let pacing = spawn(format!("{THREADS}pace"), move || pacer.burst(count))?;
        let (mut pulse, mut changed) = (crew.progress.pulse(), Instant::now());
        let is_complete = || pacing.is_finished() && crew.progress.is_complete(crew.plan.seats.receivers_of_each());
        while !is_complete() && changed.elapsed() < self.patience {
            thread::park_timeout(LOOK);
            if crew.progress.pulse() != pulse {
                (pulse, changed) = (crew.progress.pulse(), Instant::now());
            }
        }
        Ok(pacing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).1)
    }
}

/// Lets time pass.
fn pause(time: Duration, bar: &ProgressBar) {
    let until = Instant::now() + time;
    bar.set_length(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        bar.set_position(u64::try_from((time - left.min(time)).as_millis()).unwrap_or(u64::MAX));
        thread::park_timeout(left.min(Duration::from_millis(100)));
    }
}
