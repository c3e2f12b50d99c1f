//! Clients that stay while nodes are replaced or die: they come back with what they hold, and every publication is held
//! against what each of them got.
//!
//! - [`kind`]: what a client speaks; `speech`: what it says and hears, whatever that is
//! - `member`: one client over all its connections; `rest`: when it comes back; `seat`: its place on a channel, with its books
//! - `storm`: the moment in which everybody is cut, if that is wanted
//! - `crew`: all of them, on their threads; `backend`: who publishes, through the server API
//!
//! Replacing the nodes is somebody else's part: this only watches.

mod backend;
mod crew;
pub mod kind;
mod member;
mod notes;
mod rest;
mod seat;
mod speech;
mod storm;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use crew::Crew;
use indicatif::ProgressBar;
use kind::{Kind, Mix};
use notes::Notes;
use seat::Seat;
pub use storm::Cut;
use storm::Watched;

use super::{
    Access, SPARE_FILES, ScenarioError, check_files,
    crew::{LOOK, on_this_thread, spawn},
    heap,
    meter::{Meter, RECEIVING, Servers},
    stop,
};
use crate::{
    client::Manner,
    pace::Pace,
    report::{
        Generator,
        rolling::{Acknowledged, Party, Rolling, Thresholds, add},
        storm::Storm,
    },
    stamp::{Clock, Stamp, run_id},
};

/// Within this nobody should come back in heaps.
const HEAP: Duration = Duration::from_millis(100);
/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to get in. Bare clients use the same addresses with `/raw/CHANNEL` in place of `/ws`.
    pub access: Access,
    /// Clients.
    pub clients: usize,
    /// Of which kinds.
    pub mix: Mix,
    /// Channels.
    pub channels: usize,
    /// How their names begin; the namespace must have a history that holds what is published while a client is away.
    pub channel: String,
    /// Channels of each client that can have several.
    pub subscriptions: usize,
    /// Publications a second, over all channels.
    pub rate: f64,
    /// For how long, unless a signal ends it.
    pub duration: Duration,
    /// Bytes of JSON in each publication.
    pub size: usize,
    /// The server API of the nodes.
    pub api: Vec<String>,
    /// The key to it.
    pub key: Option<String>,
    /// How long nothing may happen after the last publication until what is missing is given up.
    pub patience: Duration,
    /// Cut everybody at once.
    pub cut: Option<Cut>,
    /// What fails the run.
    pub thresholds: Thresholds,
}

impl Settings {
    /// What client `n` speaks, and which channels it is on.
    fn place(&self, n: usize) -> (Kind, impl Iterator<Item = usize>) {
        let (kind, number) = self.mix.kind(n);
        let (seats, channels) = (if kind == Kind::Raw { 1 } else { self.subscriptions }, self.channels);
        (kind, (number..number + seats).map(move |channel| channel % channels))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            clients: 300,
            mix: Mix::EQUAL,
            channels: 10,
            channel: "roll-".to_owned(),
            subscriptions: 1,
            rate: 50.0,
            duration: Duration::from_secs(60),
            size: 128,
            api: Vec::new(),
            key: None,
            patience: Duration::from_secs(10),
            cut: None,
            thresholds: Thresholds::default(),
        }
    }
}

/// What everybody has to know.
struct Task {
    run: String,
    clock: Clock,
    /// Their names.
    channels: Vec<String>,
    token: Option<String>,
    manner: Manner,
}

/// Runs the scenario. `bar` shows how far it is.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all, also if a client never got in.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Rolling, ScenarioError> {
    let Settings { access, clients, channels, size, .. } = settings;
    let api = backend::Api::parse(&settings.api, settings.key.clone())?;
    let pace = check(settings)?;
    let targets = access.targets()?;
    let run = run_id();
    let task = Arc::new(Task {
        channels: (0..*channels).map(|n| format!("{}{run}-{n}", settings.channel)).collect(),
        run,
        clock: Clock::start(),
        token: access.token.clone(),
        manner: access.manner(),
    });
    let is_stopped = stop::listen()?;
    let crew = Crew::start(settings, &task, &targets)?;
    if crew.await_connected(*clients as u64, bar) {
        let servers =
            if settings.cut.is_some() { Servers::find(access, &targets)? } else { Servers { pids: Vec::new() } };
        let meter = Meter::start(&servers, &[]);
        let mut storm = settings.cut.as_ref().map(|cut| Watched::new(cut, &servers, task.clock));
        let (publisher, size) = (task.clone(), *size);
        let publish = move || backend::publish(publisher, api, pace, size, is_stopped);
        let publishing = spawn("load-publish".to_owned(), || on_this_thread(|| async { Ok(publish().await) }))?;
        bar.set_message("publishing");
        bar.set_length(settings.duration.as_secs());
        while !publishing.is_finished() && !crew.is_broken() {
            bar.set_position(meter.began().elapsed().as_secs());
            if let Some(storm) = &mut storm {
                storm.look(&crew, meter.began().elapsed());
            }
            thread::park_timeout(LOOK);
        }
        let published = publishing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        bar.set_message("waiting");
        crew.await_all(settings, &published);
        let missing = (*clients as u64).saturating_sub(crew.standing.present.load(Relaxed));
        let (wall, own) = (meter.began().elapsed(), meter.own());
        let storm = storm.map(Watched::end);
        bar.finish_and_clear();
        let (members, notes) = crew.dismiss()?;
        let generator = Generator::new(&own, RECEIVING, access.threads, wall);
        return Ok(closed(settings, &published, &members, notes, missing, storm, generator));
    }
    bar.finish_and_clear();
    Err(crew.dismiss().err().unwrap_or_else(|| ScenarioError::Usage("a thread ended too early".to_owned())))
}

/// Whether it makes sense; the schedule.
fn check(settings: &Settings) -> Result<Pace, ScenarioError> {
    let Settings { access, clients, channels, subscriptions, rate, duration, size, api, .. } = settings;
    access.check(*clients)?;
    check_files((clients + channels * api.len()) as u64 + SPARE_FILES)?;
    let usage = |what: &str| Err(ScenarioError::Usage(what.to_owned()));
    if *channels == 0 || *subscriptions == 0 || subscriptions > channels {
        return usage("--channels must be at least 1, and --subscriptions not more than that");
    }
    if access.deflate || access.processes > 1 || (settings.cut.is_none() && !access.server_pids.is_empty()) {
        return usage("--deflate, --processes and, except in a storm, --server-pid do not go with this load");
    }
    if settings.cut.as_ref().is_some_and(|cut| cut.after >= *duration) {
        return usage("--cut-after must come before the end of --duration");
    }
    if *size < Stamp::MIN_SIZE {
        return usage(&format!("--size must be at least {}", Stamp::MIN_SIZE));
    }
    Pace::new(*rate, *duration)
        .ok_or_else(|| ScenarioError::Usage("--rate must be a positive number, --duration not zero".to_owned()))
}

/// Closes the books of all, and judges.
fn closed(
    settings: &Settings,
    published: &backend::Published,
    members: &[(Kind, Vec<Seat>)],
    mut notes: Notes,
    missing: u64,
    storm: Option<Storm>,
    generator: Generator,
) -> Rolling {
    let storm = storm.map(|storm| {
        let (cut, back) = (notes.cut, notes.storm.percentiles());
        Storm { cut, back, refused: notes.refused.values().sum(), ..storm }
    });
    for (kind, seats) in members {
        let party = notes.party(*kind);
        party.clients += 1;
        for seat in seats {
            let (outcome, uncovered) = seat.close(&published.sent[seat.channel]);
            party.deliveries += outcome;
            party.uncovered += uncovered;
        }
    }
    let largest_heap = heap::largest(&mut notes.dials, u64::try_from(HEAP.as_nanos()).unwrap_or(u64::MAX));
    let mut closes = BTreeMap::new();
    notes.parties.values().for_each(|Party { closes: some, .. }| add(&mut closes, some.clone()));
    Rolling {
        scenario: if storm.is_some() { "storm" } else { "roll" },
        urls: settings.access.urls.clone(),
        api: settings.api.clone(),
        channel: settings.channel.clone(),
        channels: settings.channels,
        clients: settings.clients,
        rate: settings.rate,
        size: settings.size,
        publications: Acknowledged {
            sent: published.sent.iter().map(|sent| sent.count).sum(),
            acknowledged: published.acknowledged,
            repeated: published.repeated,
            duplicates: published.duplicates,
            failures: published.failures.clone(),
            answer: published.answer.percentiles(),
            lateness: published.lateness.percentiles(),
        },
        connect: notes.connect.percentiles(),
        away: notes.away.percentiles(),
        delivery: notes.delivery.percentiles(),
        parties: notes.parties.into_iter().map(|(kind, party)| (kind.name(), party)).collect(),
        closes,
        reconnects: notes.dials.len() as u64,
        largest_heap,
        refused: notes.refused,
        wrong: notes.wrong,
        foreign: notes.foreign,
        missing,
        storm,
        thresholds: settings.thresholds.clone(),
        generator,
        ..Rolling::default()
    }
    .judged()
}
