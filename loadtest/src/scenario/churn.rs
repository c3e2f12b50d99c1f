//! Connections that come and go: what getting in costs a node, and how long it takes.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use indicatif::ProgressBar;
use tokio::time::sleep;

use super::{
    Access, SPARE_FILES, ScenarioError, check_files,
    crew::{on_this_thread, spawn},
    meter::{Meter, RECEIVING, Servers},
};
use crate::{
    client::{Client, ClientError, Manner},
    pace::Pace,
    report::{Generator, coming::Coming},
    spread::Spread,
    stamp::{Clock, run_id},
    target::Target,
};

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to get in; `connecting` is the bound on connections at the same time.
    pub access: Access,
    /// Connections, in all.
    pub clients: usize,
    /// Connections a second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// Another path than that of the URL.
    pub path: Option<String>,
    /// Only the WebSocket handshake, and one message that is answered.
    pub bare: bool,
    /// The channel; a new one if there is none.
    pub channel: Option<String>,
    /// How long the nodes may be busy after the last connection.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            clients: 10_000,
            rate: None,
            path: None,
            bare: false,
            channel: None,
            patience: Duration::from_secs(30),
        }
    }
}

/// What a thread has to know.
struct Task {
    targets: Vec<Target>,
    token: Option<String>,
    channel: Option<String>,
    manner: Manner,
    pace: Option<Pace>,
    clock: Clock,
    connecting: usize,
}

/// What a thread brings home.
#[derive(Default)]
struct Came {
    connections: u64,
    handshake: Spread,
    connect: Spread,
    subscribe: Spread,
    retries: u64,
    failures: BTreeMap<String, u64>,
    first_failure: Option<ScenarioError>,
}

/// Runs the scenario. `bar` shows that it runs.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all, also if no connection could be had.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Coming, ScenarioError> {
    let Settings { access, clients, .. } = settings;
    access.check(*clients)?;
    check_files(access.connecting.min(*clients) as u64 + SPARE_FILES)?;
    if settings.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(ScenarioError::Usage("--rate must be a positive number".to_owned()));
    }
    let mut targets = access.targets()?;
    let servers = Servers::find(access, &targets)?;
    if let Some(path) = &settings.path {
        targets.iter_mut().for_each(|target| *target = target.at(path));
    }
    let channel = settings.channel.clone().unwrap_or_else(|| format!("load-{}", run_id()));
    let meter = Meter::start(&servers, &[]);
    // Its clock starts with the meter: what is due is counted from there.
    let task = Arc::new(Task {
        targets,
        token: access.token.clone(),
        channel: (!settings.bare).then_some(channel),
        manner: access.manner(),
        pace: settings.rate.and_then(|rate| Pace::new(rate, Duration::MAX)),
        clock: Clock::start(),
        connecting: access.connecting_per_thread(),
    });
    bar.set_message("connecting");
    let mut coming = Vec::new();
    for thread in 0..access.threads {
        let (task, members) = (task.clone(), (thread..*clients).step_by(access.threads).collect::<Vec<_>>());
        coming.push(spawn(format!("{RECEIVING}-{thread}"), move || on_this_thread(|| come_and_go(members, task)))?);
    }
    let mut own = meter.own();
    while coming.iter().any(|thread| !thread.is_finished()) {
        // A thread that ended takes its figures along: the last ones that could be read stand for it.
        let now = meter.own();
        if now.len() >= own.len() {
            own = now;
        }
        thread::park_timeout(super::crew::LOOK);
    }
    let wall = meter.began().elapsed();
    let mut came = Came::default();
    for thread in coming {
        came.merge(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
    }
    bar.finish_and_clear();
    let cpu = meter.await_still(settings.patience);
    if let Some(error) = came.first_failure.take().filter(|_| came.connections == 0) {
        return Err(error);
    }
    Ok(Coming {
        scenario: "churn",
        urls: access.urls.clone(),
        bare: settings.bare,
        clients: *clients,
        connecting: access.connecting,
        rate: settings.rate,
        connections: came.connections,
        wall_seconds: wall.as_secs_f64(),
        connections_per_second: came.connections as f64 / wall.as_secs_f64().max(f64::EPSILON),
        handshake: came.handshake.percentiles(),
        connect: came.connect.percentiles(),
        subscribe: came.subscribe.percentiles(),
        retries: came.retries,
        failures: came.failures,
        server_pids: servers.pids.clone(),
        server_cpu_seconds: cpu.map(|cpu| cpu.as_secs_f64()),
        server_cpu_in_ticks: meter.is_in_ticks(),
        generator: Generator::new(&own, RECEIVING, access.threads, wall),
        ..Coming::default()
    }
    .judged())
}

impl Came {
    fn merge(&mut self, other: Self) {
        self.connections += other.connections;
        self.handshake.merge(&other.handshake);
        self.connect.merge(&other.connect);
        self.subscribe.merge(&other.subscribe);
        self.retries += other.retries;
        for (why, times) in other.failures {
            *self.failures.entry(why).or_default() += times;
        }
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

/// One connection's times, in nanoseconds.
struct Times {
    handshake: u64,
    connect: Option<u64>,
    subscribe: Option<u64>,
    retries: u64,
}

async fn come_and_go(members: Vec<usize>, task: Arc<Task>) -> Result<Came, ScenarioError> {
    let mut came = Came::default();
    let mut coming = stream::iter(members).map(|n| visit(n, &task)).buffer_unordered(task.connecting);
    while let Some(visit) = coming.next().await {
        match visit {
            Ok(times) => {
                came.connections += 1;
                came.retries += times.retries;
                came.handshake.record(times.handshake);
                times.connect.into_iter().for_each(|time| came.connect.record(time));
                times.subscribe.into_iter().for_each(|time| came.subscribe.record(time));
            }
            Err((target, doing, source)) => {
                *came.failures.entry(format!("{doing}: {source} ({})", source.advice())).or_default() += 1;
                let url = target.url().to_owned();
                came.first_failure.get_or_insert(ScenarioError::Client { url, doing, source });
            }
        }
    }
    drop(coming);
    Ok(came)
}

/// Comes, does what is asked, and leaves.
async fn visit(n: usize, task: &Task) -> Result<Times, (Target, &'static str, ClientError)> {
    let Task { targets, token, channel, manner, pace, clock, .. } = task;
    let target = &targets[n % targets.len()];
    let failed = |doing| move |source| (target.clone(), doing, source);
    if let Some(due) = pace.as_ref().and_then(|pace| pace.due(n as u64)) {
        sleep(Duration::from_nanos(due.saturating_sub(clock.now()))).await;
    }
    let began = Instant::now();
    let nanos = |since: Instant| u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut client = Client::open(target, *manner).await.map_err(failed("connect"))?;
    let mut times = Times { handshake: nanos(began), connect: None, subscribe: None, retries: client.retries() };
    let asked = Instant::now();
    if let Some(channel) = channel {
        client.connect(token.as_deref()).await.map_err(failed("connect"))?;
        times.connect = Some(nanos(asked));
        let asked = Instant::now();
        client.subscribe(channel).await.map_err(failed("subscribe"))?;
        times.subscribe = Some(nanos(asked));
    } else {
        client.call("a message", r#"{"id":1,"connect":{}}"#).await.map_err(failed("be answered"))?;
        times.connect = Some(nanos(asked));
    }
    client.leave().await;
    Ok(times)
}
