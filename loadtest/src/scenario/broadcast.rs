//! Publishing to those who listen: what fan-out, small channels and stalled clients have in common. They differ in who sits
//! where.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;

use super::{
    Access, Entry, Load, Orders, Plan, Samples, ScenarioError, Seats,
    books::LastSeen,
    crew::{Crew, LOOK, spawn},
    ledger::{Gathered, Ledger},
    meter::{Meter, RECEIVING, Servers, THREADS},
    publisher::{Pacer, Published, Schedule},
};
use crate::{
    pace::Pace,
    process::ThreadUse,
    report::{Connecting, Generator, Latency, Publications, Report, Server, Setting, Stalled},
    spread::Spread,
    stamp::Stamp,
};

/// Silence after the last expected delivery that is listened to, for what comes twice.
const QUIET: Duration = Duration::from_millis(250);
/// Silence after which those who stalled and read again have everything.
const CAUGHT_UP: Duration = Duration::from_secs(1);

/// What to run.
pub(super) struct Broadcast<'a> {
    pub(super) scenario: &'static str,
    pub(super) access: &'a Access,
    pub(super) seats: Seats,
    pub(super) schedule: Schedule,
    pub(super) size: usize,
    pub(super) channel: Option<&'a str>,
    pub(super) patience: Duration,
    pub(super) max_p99: Option<Duration>,
    /// How those who stall are to end.
    pub(super) expected: Option<&'a str>,
}

/// What was read between the first publication and the last delivery.
#[derive(Default)]
struct Measured {
    wall: Duration,
    generator: Vec<ThreadUse>,
    reads: u64,
    server: Option<Server>,
    late: Spread,
    published: Vec<Published>,
    /// Resident memory of the nodes at its highest, if somebody stalls.
    resident_peak: u64,
}

impl Broadcast<'_> {
    /// Runs it. `bar` shows how far it is.
    pub(super) fn run(&self, bar: &ProgressBar) -> Result<Report, ScenarioError> {
        self.check()?;
        let orders = Orders {
            access: self.access.clone(),
            channel: self.channel.map(str::to_owned),
            seats: self.seats,
            size: self.size,
            ..Orders::new(Entry::Subscribed)
        };
        let plan = Arc::new(orders.plan()?);
        let servers = Servers::find(self.access, &plan.targets)?;
        let resident_before = servers.resident();
        let mut crew = Crew::start(&orders, plan.clone())?;
        let (progress, threads) = (crew.progress.clone(), crew.threads());
        let measured = if crew.await_connected(bar) {
            Some(self.measure(&mut crew, &servers, resident_before, bar)?)
        } else {
            None
        };
        bar.finish_and_clear();
        // Without figures somebody could not get in, and has that error.
        let measured = measured.unwrap_or_default();
        let gathered = crew.dismiss(&Ledger::new(&measured.published))?;
        Ok(self.report(&plan, &progress, threads, gathered, measured))
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let wrong = |what: &str| Err(ScenarioError::Usage(what.to_owned()));
        self.access.check(self.seats.clients())?;
        if self.seats.all_publishers() == 0 || self.seats.receivers_of_each() == 0 {
            return wrong("somebody must publish and somebody must listen");
        }
        if u32::try_from(self.seats.clients()).is_err() {
            return wrong("so many clients cannot be counted");
        }
        match self.schedule.load {
            Load::Window(0) => return wrong("--window must be at least 1"),
            Load::Window(_) if self.schedule.duration.is_zero() => return wrong("--duration must be longer than 0s"),
            Load::Rate(rate) if Pace::new(rate, self.schedule.duration).is_none() => {
                return wrong("--rate must be a positive number and --duration longer than 0s");
            }
            Load::Rate(_) if self.schedule.burst => return wrong("--burst needs a --window"),
            _ => {}
        }
        if self.size < Stamp::MIN_SIZE {
            return Err(ScenarioError::Usage(format!(
                "--size must be at least {}: each publication carries its publisher, sequence and times",
                Stamp::MIN_SIZE
            )));
        }
        Ok(())
    }

    /// Keeps the schedule to its end, waits for the stragglers, and reads the figures around it.
    fn measure(
        &self,
        crew: &mut Crew,
        servers: &Servers,
        resident_before: Option<u64>,
        bar: &ProgressBar,
    ) -> Result<Measured, ScenarioError> {
        let resident_connected = servers.resident();
        let reads_before = crew.progress.frames.load(Relaxed);
        let pacer = Pacer::new(crew.mouths(), crew.plan.clone(), crew.progress.clone());
        let schedule = self.schedule;
        let meter = Meter::start(servers, &crew.children);
        let pacing = spawn(format!("{THREADS}pace"), move || pacer.keep(schedule))?;
        let mut peak = Peak { servers, bytes: 0, looked: meter.began() };
        let wall = self.await_deliveries(crew, meter.began(), &pacing, &mut peak, bar);
        let (own, nodes) = (meter.own(), meter.nodes());
        let reads = crew.progress.frames.load(Relaxed) - reads_before;
        // All of it or nothing: what could not be read is no 0.
        let memory = resident_before.zip(resident_connected).zip(servers.resident());
        let server = nodes.zip(memory).map(|(cpu, ((before, connected), after))| Server {
            pids: servers.pids.clone(),
            cpu_seconds: cpu.as_secs_f64(),
            cpu_in_ticks: meter.is_in_ticks(),
            cpu_us_per_delivery: 0.0,
            cpu_us_per_publication: 0.0,
            resident_bytes_before: before,
            resident_bytes_connected: connected,
            resident_bytes_after: after,
        });
        crew.await_quiet(QUIET, Instant::now() + self.patience);
        if self.seats.stalled() > 0 {
            crew.resume();
            crew.await_quiet(CAUGHT_UP, Instant::now() + self.patience * 2);
        }
        let (late, published) = pacing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Measured { wall, generator: own, reads, server, late, published, resident_peak: peak.bytes })
    }

    /// Waits until the schedule is done and everything arrived, or nothing happens any more. Returns when the last
    /// thing happened, since `began`.
    fn await_deliveries<T>(
        &self,
        crew: &Crew,
        began: Instant,
        pacing: &JoinHandle<T>,
        peak: &mut Peak<'_>,
        bar: &ProgressBar,
    ) -> Duration {
        let (progress, duration) = (&crew.progress, self.schedule.duration);
        bar.set_length(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        bar.set_message("publishing");
        let (mut pulse, mut changed) = (progress.pulse(), Instant::now());
        let latest = began + duration + self.patience * 10;
        loop {
            let now = Instant::now();
            if progress.pulse() != pulse {
                (pulse, changed) = (progress.pulse(), now);
            }
            let is_scheduled = pacing.is_finished();
            let is_complete = || progress.is_complete(self.seats.receivers_of_each());
            if is_scheduled && (is_complete() || progress.is_deserted(self.seats.receivers())) {
                return changed - began;
            }
            // Silence counts from the end of the schedule: a slow one is silent for long.
            if is_scheduled && (now.max(began) - changed.max(began + duration)) > self.patience {
                return changed - began;
            }
            if now > latest {
                return changed - began;
            }
            if self.seats.stalled() > 0 {
                peak.look(now);
            }
            bar.set_position(u64::try_from((now - began).as_millis()).unwrap_or(u64::MAX));
            thread::park_timeout(LOOK);
        }
    }

    fn report(
        &self,
        plan: &Plan,
        progress: &super::Progress,
        threads: usize,
        gathered: Gathered,
        measured: Measured,
    ) -> Report {
        let Gathered { outcome, sightings, fates, samples, last } = gathered;
        let Measured { wall, generator, reads, server, late, published, resident_peak } = measured;
        let before = server.as_ref().map_or(0, |server| server.resident_bytes_connected);
        let grown = |resident: Option<u64>| {
            resident.map_or(0.0, |resident| (resident as f64 - before as f64) / self.seats.stalled() as f64)
        };
        let stalled = (self.seats.stalled() > 0).then(|| Stalled {
            clients: self.seats.stalled(),
            resident_bytes_each: grown(server.as_ref().map(|server| server.resident_bytes_after)),
            resident_bytes_each_at_most: grown(server.as_ref().map(|server| {
                // The last look may have been before the end.
                resident_peak.max(server.resident_bytes_after)
            })),
            expected: self.expected.map(str::to_owned),
            outcomes: fates,
        });
        let Samples { connect, subscribe, from_due, from_sent, answer, retries, bytes } = &samples;
        let mut generator = Generator::new(&generator, RECEIVING, threads, wall);
        (generator.received_bytes, generator.reads) = (*bytes, reads);
        Report::new(
            self.setting(plan),
            Connecting { connect: connect.percentiles(), subscribe: subscribe.percentiles(), retries: *retries },
            publications(progress, &published),
            outcome,
            sightings,
            Latency {
                from_schedule: from_due.percentiles(),
                from_send: from_sent.percentiles(),
                last_of_all: last_of_all(&published, &last).percentiles(),
                publish_to_reply: answer.percentiles(),
                send_lateness: late.percentiles(),
            },
            generator,
            server,
            stalled,
        )
    }

    fn setting(&self, plan: &Plan) -> Setting {
        let seats = self.seats;
        Setting {
            scenario: self.scenario,
            run: plan.run.clone(),
            channel: plan.channels.first().map(|channel| channel.name.clone()).unwrap_or_default(),
            urls: self.access.urls.clone(),
            channels: seats.channels,
            clients: seats.channels * seats.listeners,
            publishers: seats.all_publishers(),
            receivers_of_each: seats.receivers_of_each(),
            load: self.schedule.load,
            burst: self.schedule.burst,
            duration_seconds: self.schedule.duration.as_secs_f64(),
            size: self.size,
            max_p99_us: self.max_p99.map(|limit| limit.as_secs_f64() * 1e6),
        }
    }
}

/// The nodes' resident memory at its highest.
struct Peak<'a> {
    servers: &'a Servers,
    bytes: u64,
    looked: Instant,
}

impl Peak<'_> {
    /// Looks, unless it has just done so.
    fn look(&mut self, now: Instant) {
        if now - self.looked >= LOOK * 10 {
            self.looked = now;
            self.bytes = self.bytes.max(self.servers.resident().unwrap_or_default());
        }
    }
}

fn publications(progress: &super::Progress, published: &[Published]) -> Publications {
    let mut refusals = BTreeMap::new();
    for (words, times) in published.iter().flat_map(Published::refusals) {
        *refusals.entry(words).or_default() += times;
    }
    let sent = progress.sent.load(Relaxed);
    Publications {
        due: progress.queued.load(Relaxed),
        sent,
        unsent: progress.unsent.load(Relaxed),
        refused: progress.refused.load(Relaxed),
        unanswered: sent.saturating_sub(progress.answered.load(Relaxed)),
        refusals,
    }
}

/// For each publication, from sending it to its arrival at the last receiver.
fn last_of_all(published: &[Published], last: &LastSeen) -> Spread {
    let mut spread = Spread::default();
    for publisher in published {
        for (seq, (_, sent)) in publisher.times.iter().enumerate() {
            if let Some(at) = last.at(publisher.channel, publisher.from as usize, seq) {
                spread.record(at.saturating_sub(*sent));
            }
        }
    }
    spread
}
