//! Many subscribers on one channel, few publishers: what a chat room, a ticker or a live score is to a node.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use tokio::{runtime, sync::watch};

use super::{
    Load, Plan, Progress, Published, Samples, ScenarioError,
    publisher::{keep, publish, schedules, spawn},
    receiver::{Desk, Received, receive},
};
use crate::{
    client::Target,
    pace::Pace,
    process::{Cpu, listeners, open_file_limits, resident_bytes},
    report::{Connecting, Generator, Latency, Publications, Report, Server, Setting, Sightings},
    stamp::{Clock, Stamp, run_id},
    tally::{Outcome, Sent},
};

/// How often whoever waits looks again.
const LOOK: Duration = Duration::from_millis(5);
/// Silence after the last expected delivery that is listened to, for what comes twice.
const QUIET: Duration = Duration::from_millis(250);
/// Files that the generator needs besides its connections.
pub(crate) const SPARE_FILES: u64 = 64;
/// What this generator's threads are called, so that their CPU time can be told apart.
const THREADS: &str = "load-";
const RECEIVING: &str = "load-recv";

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to connect; clients are spread over them in turn.
    pub urls: Vec<String>,
    /// Subscribers.
    pub clients: usize,
    /// Publishers, each with a connection of its own and subscribed like everybody.
    pub publishers: usize,
    /// When to publish.
    pub load: Load,
    /// For how long.
    pub duration: Duration,
    /// Bytes of JSON in each publication.
    pub size: usize,
    /// The channel; a new one if there is none.
    pub channel: Option<String>,
    /// Presented in `connect`.
    pub token: Option<String>,
    /// Connections that are opened at the same time.
    pub connecting: usize,
    /// Receiving threads.
    pub threads: usize,
    /// How long nothing may happen after the last publication until what is missing is given up.
    pub patience: Duration,
    /// The verdict fails above this latency from schedule.
    pub max_p99: Option<Duration>,
    /// The nodes' processes; looked for behind loopback addresses if empty.
    pub server_pids: Vec<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            clients: 1000,
            publishers: 1,
            load: Load::Rate(10.0),
            duration: Duration::from_secs(10),
            size: 128,
            channel: None,
            token: None,
            connecting: 200,
            threads: default_threads(),
            patience: Duration::from_secs(5),
            max_p99: None,
            server_pids: Vec::new(),
        }
    }
}

/// Half the cores, at least one: the other half is left to a node on the same machine.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

impl Settings {
    fn receivers(&self) -> u64 {
        (self.clients + self.publishers) as u64
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let wrong = |what: &str| Err(ScenarioError::Usage(what.to_owned()));
        if self.urls.is_empty()
            || self.clients == 0
            || self.publishers == 0
            || self.threads == 0
            || self.connecting == 0
        {
            return wrong("--url, --clients, --publishers, --threads and --connecting must be at least 1");
        }
        if u32::try_from(self.publishers).is_err() {
            return wrong("--publishers is too large");
        }
        match self.load {
            Load::Window(0) => return wrong("--window must be at least 1"),
            Load::Window(_) if self.duration.is_zero() => return wrong("--duration must be longer than 0s"),
            Load::Rate(rate) if Pace::new(rate, self.duration).is_none() => {
                return wrong("--rate must be a positive number and --duration longer than 0s");
            }
            _ => {}
        }
        if self.size < Stamp::MIN_SIZE {
            return Err(ScenarioError::Usage(format!(
                "--size must be at least {}: each publication carries its publisher, sequence and times",
                Stamp::MIN_SIZE
            )));
        }
        check_files(self.receivers() + SPARE_FILES)
    }
}

/// A connection is a file: says so before the first one is refused.
pub(crate) fn check_files(needed: u64) -> Result<(), ScenarioError> {
    enough_files(needed, open_file_limits())
}

fn enough_files(needed: u64, limits: Option<(u64, u64)>) -> Result<(), ScenarioError> {
    let Some((soft, hard)) = limits.filter(|(soft, _)| *soft < needed) else { return Ok(()) };
    let advice = if hard >= needed {
        format!("run `ulimit -n {needed}` first")
    } else {
        format!("the hard limit is {hard}: lower --clients, or run several loadtest processes on one --channel")
    };
    Err(ScenarioError::Usage(format!("{needed} open files are needed and {soft} allowed; {advice}")))
}

/// Runs the scenario. `bar` shows how far it is.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all. What goes wrong while it runs is in the report.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Report, ScenarioError> {
    settings.check()?;
    let targets = settings.urls.iter().map(|url| Target::parse(url)).collect::<Result<Vec<_>, _>>()?;
    let servers = Servers::find(settings, &targets);
    let run = run_id();
    let plan = Arc::new(Plan {
        channel: settings.channel.clone().unwrap_or_else(|| format!("load-{run}")),
        run,
        targets,
        token: settings.token.clone(),
        publishers: settings.publishers,
        size: settings.size,
        clock: Clock::start(),
        connecting: (settings.connecting / settings.threads).max(1),
    });
    Run { settings, bar, progress: Arc::default(), servers, plan }.go()
}

struct Run<'a> {
    settings: &'a Settings,
    bar: &'a ProgressBar,
    plan: Arc<Plan>,
    progress: Arc<Progress>,
    servers: Servers,
}

type Receiving = JoinHandle<Result<Received, ScenarioError>>;
type Publishing = JoinHandle<Result<(Received, Vec<Published>), ScenarioError>>;

/// What was read between the first publication and the last delivery.
struct Measured {
    wall: Duration,
    generator: Vec<crate::process::ThreadUse>,
    server: Option<Server>,
}

impl Run<'_> {
    fn go(&self) -> Result<Report, ScenarioError> {
        let (over, receiving, publishing, senders) = self.start()?;
        let resident_before = self.servers.resident();
        let all_there = self.await_connected(&receiving, &publishing);
        let measured = if all_there { Some(self.publish(senders, resident_before)?) } else { None };
        let _ = over.send(true);
        self.bar.finish_and_clear();

        let mut gathered = Gathered::default();
        for thread in receiving {
            gathered.received(join(thread)?);
        }
        let (received, published) = join(publishing)?;
        gathered.received(received);
        // Without figures some thread ended early, and has returned its error above.
        let measured = measured.unwrap_or(Measured { wall: Duration::ZERO, generator: Vec::new(), server: None });
        Ok(self.report(&gathered, &published, measured))
    }

    /// Starts all threads; they connect at once.
    #[expect(clippy::type_complexity, reason = "one caller, which takes it apart")]
    fn start(
        &self,
    ) -> Result<
        (watch::Sender<bool>, Vec<Receiving>, Publishing, Vec<tokio::sync::mpsc::Sender<super::publisher::Due>>),
        ScenarioError,
    > {
        let (over, is_over) = watch::channel(false);
        let Settings { clients, threads, publishers, .. } = *self.settings;
        let desk = || (self.plan.clone(), self.progress.clone(), is_over.clone());

        let mut receiving = Vec::new();
        for thread in 0..threads {
            let members: Vec<usize> = (thread..clients).step_by(threads).collect();
            let (plan, progress, is_over) = desk();
            receiving.push(spawn(format!("{RECEIVING}-{thread}"), move || {
                on_this_thread(|| receive(members, Desk::new(plan, progress, is_over)))
            })?);
        }
        let (senders, schedules) = schedules(publishers);
        let (plan, progress, is_over) = desk();
        let publishing = spawn(format!("{THREADS}publish"), move || {
            on_this_thread(|| publish(clients, schedules, Desk::new(plan, progress, is_over)))
        })?;
        Ok((over, receiving, publishing, senders))
    }

    /// Waits until all are subscribed. False: a thread ended, which it does only with an error.
    fn await_connected(&self, receiving: &[Receiving], publishing: &Publishing) -> bool {
        let receivers = self.settings.receivers();
        self.bar.set_length(receivers);
        self.bar.set_message("connecting");
        loop {
            let connected = self.progress.connected.load(Relaxed);
            self.bar.set_position(connected);
            if connected == receivers {
                return true;
            }
            if publishing.is_finished() || receiving.iter().any(JoinHandle::is_finished) {
                return false;
            }
            thread::park_timeout(LOOK);
        }
    }

    /// Keeps the schedule to its end, waits for the stragglers, and reads the figures around it.
    fn publish(
        &self,
        senders: Vec<tokio::sync::mpsc::Sender<super::publisher::Due>>,
        resident_before: Option<u64>,
    ) -> Result<Measured, ScenarioError> {
        let Settings { load, duration, .. } = *self.settings;
        let receivers = self.settings.receivers();
        let resident_connected = self.servers.resident();
        let (own_before, servers_before) = (Cpu::read(process::id()).unwrap_or_default(), self.servers.cpu());
        let began = Instant::now();

        let (plan, progress) = (self.plan.clone(), self.progress.clone());
        let pacing =
            spawn(format!("{THREADS}pace"), move || keep(load, duration, receivers, &plan, &progress, &senders))?;
        let wall = self.await_deliveries(began, &pacing);
        let own = Cpu::read(process::id()).unwrap_or_default();
        let server = self.servers.cpu().zip(servers_before).map(|(now, before)| Server {
            pids: self.servers.pids.clone(),
            cpu_seconds: now.iter().zip(&before).map(|(now, before)| now.since(before)).sum::<Duration>().as_secs_f64(),
            cpu_us_per_delivery: 0.0,
            resident_bytes_before: resident_before.unwrap_or_default(),
            resident_bytes_connected: resident_connected.unwrap_or_default(),
            resident_bytes_after: self.servers.resident().unwrap_or_default(),
        });
        self.await_quiet();
        let mut generator = own.threads_since(&own_before);
        generator.retain(|thread| thread.name.starts_with(THREADS));
        Ok(Measured { wall, generator, server })
    }

    /// Waits until the schedule is done and everything arrived, or nothing happens any more. Returns when the last
    /// thing happened, since `began`.
    fn await_deliveries(&self, began: Instant, pacing: &JoinHandle<()>) -> Duration {
        self.bar.set_length(u64::try_from(self.settings.duration.as_millis()).unwrap_or(u64::MAX));
        self.bar.set_message("publishing");
        let (mut pulse, mut changed) = (self.progress.pulse(), Instant::now());
        let latest = began + self.settings.duration + self.settings.patience * 10;
        loop {
            let now = Instant::now();
            if self.progress.pulse() != pulse {
                (pulse, changed) = (self.progress.pulse(), now);
            }
            let scheduled = pacing.is_finished();
            let receivers = self.settings.receivers();
            if scheduled && (self.progress.is_complete(receivers) || self.progress.is_deserted(receivers)) {
                return changed - began;
            }
            // Silence counts from the end of the schedule: a slow one is silent for long.
            if scheduled && (now.max(began) - changed.max(began + self.settings.duration)) > self.settings.patience {
                return changed - began;
            }
            if now > latest {
                return changed - began;
            }
            self.bar.set_position(u64::try_from((now - began).as_millis()).unwrap_or(u64::MAX));
            thread::park_timeout(LOOK);
        }
    }

    fn await_quiet(&self) {
        let (mut pulse, mut changed) = (self.progress.pulse(), Instant::now());
        let latest = changed + self.settings.patience;
        while changed.elapsed() < QUIET && Instant::now() < latest {
            thread::park_timeout(LOOK);
            if self.progress.pulse() != pulse {
                (pulse, changed) = (self.progress.pulse(), Instant::now());
            }
        }
    }

    fn report(&self, gathered: &Gathered, published: &[Published], measured: Measured) -> Report {
        let Settings { clients, publishers, load, duration, size, max_p99, threads, .. } = *self.settings;
        let sent: Vec<Sent> = published.iter().map(|publisher| publisher.sent.clone()).collect();
        let mut outcome = Outcome::default();
        let mut sightings = Sightings::default();
        for books in &gathered.books {
            outcome += books.tally.close(&sent);
            sightings.merge(&books.sightings);
        }
        let mut refusals = BTreeMap::new();
        for (words, times) in published.iter().flat_map(|publisher| &publisher.refusals) {
            *refusals.entry(words.clone()).or_default() += times;
        }
        let sent = sent.iter().map(|sent| sent.count).sum();
        let refused = self.progress.refused.load(Relaxed);
        let answered = self.progress.answered.load(Relaxed);
        let Samples { connect, subscribe, from_due, from_sent, answer, late, retries } = &gathered.samples;
        Report::new(
            Setting {
                scenario: "fanout",
                run: self.plan.run.clone(),
                channel: self.plan.channel.clone(),
                urls: self.settings.urls.clone(),
                clients,
                publishers,
                load,
                duration_seconds: duration.as_secs_f64(),
                size,
                max_p99_us: max_p99.map(|limit| limit.as_secs_f64() * 1e6),
            },
            Connecting { connect: connect.percentiles(), subscribe: subscribe.percentiles(), retries: *retries },
            Publications {
                due: self.progress.queued.load(Relaxed),
                sent,
                unsent: self.progress.unsent.load(Relaxed),
                refused,
                unanswered: u64::saturating_sub(sent, answered),
                refusals,
            },
            outcome,
            sightings,
            Latency {
                from_schedule: from_due.percentiles(),
                from_send: from_sent.percentiles(),
                publish_to_reply: answer.percentiles(),
                send_lateness: late.percentiles(),
            },
            Generator::new(&measured.generator, RECEIVING, threads, measured.wall),
            measured.server,
        )
    }
}

fn on_this_thread<T, F: Future<Output = Result<T, ScenarioError>>>(
    work: impl FnOnce() -> F,
) -> Result<T, ScenarioError> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(ScenarioError::Start)?.block_on(work())
}

fn join<T>(thread: JoinHandle<Result<T, ScenarioError>>) -> Result<T, ScenarioError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What all threads brought home.
#[derive(Default)]
struct Gathered {
    books: Vec<super::receiver::Books>,
    samples: Samples,
}

impl Gathered {
    fn received(&mut self, mut received: Received) {
        self.books.append(&mut received.books);
        self.samples.merge(&received.samples);
    }
}

/// The nodes' processes, if they can be seen from here.
struct Servers {
    pids: Vec<u32>,
}

impl Servers {
    fn find(settings: &Settings, targets: &[Target]) -> Self {
        let mut pids = settings.server_pids.clone();
        if pids.is_empty() {
            let addresses = targets.iter().flat_map(|target| target.addresses().iter().copied());
            pids = addresses.flat_map(|address: SocketAddr| listeners(address)).collect();
        }
        // The stand-in of the self-test lives in this process.
        pids.retain(|pid| *pid != process::id());
        pids.sort_unstable();
        pids.dedup();
        Self { pids }
    }

    /// `None` also when one of them cannot be read: half a sum is no figure.
    fn cpu(&self) -> Option<Vec<Cpu>> {
        self.pids.iter().map(|pid| Cpu::read(*pid).ok()).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
    }

    fn resident(&self) -> Option<u64> {
        self.pids.iter().map(|pid| resident_bytes(*pid).ok()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_files_are_noticed_before_the_start() {
        assert!(enough_files(1000, Some((1024, 4096))).is_ok());
        assert!(enough_files(1000, None).is_ok());
        let soft = enough_files(2000, Some((1024, 4096))).unwrap_err();
        assert!(soft.is_usage() && soft.to_string().contains("ulimit -n 2000"), "{soft}");
        let hard = enough_files(5000, Some((1024, 4096))).unwrap_err();
        assert!(hard.to_string().contains("hard limit is 4096"), "{hard}");
    }

    #[test]
    fn settings_that_cannot_work_are_wrong_usage() {
        let good = Settings { urls: vec!["ws://localhost/ws".to_owned()], clients: 1, ..Settings::default() };
        assert!(good.check().is_ok());
        for wrong in [
            Settings { urls: Vec::new(), ..good.clone() },
            Settings { clients: 0, ..good.clone() },
            Settings { load: Load::Rate(0.0), ..good.clone() },
            Settings { load: Load::Window(0), ..good.clone() },
            Settings { size: 10, ..good.clone() },
            Settings { duration: Duration::ZERO, ..good.clone() },
        ] {
            assert!(wrong.check().unwrap_err().is_usage());
        }
    }
}
