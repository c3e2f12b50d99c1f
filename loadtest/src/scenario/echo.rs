//! What a small message costs on its way in: publications that nobody listens to, or frames that come back.
//!
//! Stopped, the node finds the frames of all connections in its sockets at once and has nothing else to do: that is the
//! cost of reading them, whatever the generator costs.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;

use super::{
    Access, Entry, Orders, ScenarioError, Seats,
    crew::{Crew, LOOK},
    ledger::{Gathered, Ledger},
    meter::{Meter, RECEIVING, Servers},
    publisher::Mouth,
    stopped::Keeper,
};
use crate::{
    pace::Pace,
    report::{Generator, inbound::Inbound},
    stamp::Clock,
    wire::Masks,
};

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to get in.
    pub access: Access,
    /// Connections; all of them send.
    pub clients: usize,
    /// A path that sends every message back; `None`: publish.
    pub path: Option<String>,
    /// The channel to publish to, which nobody subscribes to; a new one if there is none.
    pub publish_to: Option<String>,
    /// Bytes of JSON in each publication, or of each frame that is to come back.
    pub size: usize,
    /// Frames in each write.
    pub in_flight: u32,
    /// Whether the nodes stand still while the frames are written.
    pub stopped: bool,
    /// How often, then.
    pub rounds: u32,
    /// Without a path, and not stopped: writes a second of each connection.
    pub rate: f64,
    /// For how long, unless stopped.
    pub duration: Duration,
    /// How long the nodes may take for one round, or for the last publications.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            clients: 1000,
            path: None,
            publish_to: None,
            size: 64,
            in_flight: 1,
            stopped: false,
            rounds: 10,
            rate: 10.0,
            duration: Duration::from_secs(10),
            patience: Duration::from_secs(30),
        }
    }
}

/// Runs the scenario. `bar` shows how far it is.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all. What goes wrong while it runs is in the report.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Inbound, ScenarioError> {
    settings.check()?;
    let orders = Orders {
        access: settings.access.clone(),
        path: settings.path.clone(),
        channel: settings.publish_to.clone(),
        seats: Seats { channels: 1, listeners: 0, publishers: settings.clients, stalled: 0.0 },
        size: settings.size,
        ..Orders::new(if settings.path.is_some() { Entry::Bare } else { Entry::Connected })
    };
    let plan = Arc::new(orders.plan()?);
    let servers = Servers::find(&settings.access, &plan.targets)?;
    if settings.stopped && servers.pids.is_empty() {
        return Err(ScenarioError::Usage("--stopped needs a node on this machine, or its --server-pid".to_owned()));
    }
    let keeper = settings.stopped.then(|| Keeper::new(&servers.pids)).transpose()?;
    let crew = Crew::start(&orders, plan.clone())?;
    let sent =
        if crew.await_connected(bar) { Some(Sending::new(settings, &crew, &servers).send(keeper, bar)?) } else { None };
    bar.finish_and_clear();
    let echoed = crew.progress.delivered();
    let Gathered { sightings, .. } = crew.dismiss(&Ledger::default())?;
    let Sent { frames, unsent, cpu, in_ticks, rounds, generator, timed_out } = sent.unwrap_or_default();
    Ok(Inbound {
        scenario: "echo",
        urls: settings.access.urls.clone(),
        to: settings.path.clone().unwrap_or_else(|| plan.channels[0].name.clone()),
        comes_back: settings.path.is_some(),
        clients: settings.clients,
        size: settings.size,
        in_flight: settings.in_flight,
        stopped: settings.stopped,
        frames,
        unsent,
        echoed,
        timed_out,
        server_pids: servers.pids,
        server_cpu_seconds: cpu.map(|cpu| cpu.as_secs_f64()),
        server_cpu_in_ticks: in_ticks,
        rounds_us_per_frame: rounds,
        sightings,
        generator,
        ..Inbound::default()
    }
    .judged())
}

impl Settings {
    fn check(&self) -> Result<(), ScenarioError> {
        self.access.check(self.clients)?;
        let wrong = |what: &str| Err(ScenarioError::Usage(what.to_owned()));
        if self.in_flight == 0 || self.rounds == 0 || self.size < 2 {
            return wrong("--in-flight and --rounds must be at least 1, --size at least 2");
        }
        if !self.stopped && Pace::new(self.rate, self.duration).is_none() {
            return wrong("--rate must be a positive number and --duration longer than 0s");
        }
        Ok(())
    }

    /// What every connection writes, ready for the wire.
    fn frames(&self, channel: &str) -> Vec<u8> {
        let filling = "x".repeat(self.size - 2);
        let text = match self.path {
            Some(_) => format!("\"{filling}\""),
            // Without an id there is no answer: nothing is measured but the way in.
            None => {
                let channel = serde_json::Value::from(channel);
                format!(r#"{{"publish":{{"channel":{channel},"data":"{filling}"}}}}"#)
            }
        };
        let (mut masks, mut frames) = (Masks::default(), Vec::new());
        (0..self.in_flight).for_each(|_| masks.text(&text, &mut frames));
        frames
    }
}

/// What was sent, and what it cost.
#[derive(Default)]
struct Sent {
    frames: u64,
    unsent: u64,
    cpu: Option<Duration>,
    in_ticks: bool,
    /// Microseconds of each.
    rounds: Vec<f64>,
    generator: Generator,
    timed_out: bool,
}

struct Sending<'a> {
    settings: &'a Settings,
    crew: &'a Crew,
    servers: &'a Servers,
    mouths: Vec<Mouth>,
    frames: Vec<u8>,
    sent: Sent,
}

impl<'a> Sending<'a> {
    fn new(settings: &'a Settings, crew: &'a Crew, servers: &'a Servers) -> Self {
        let frames = settings.frames(&crew.plan.channels[0].name);
        Self { settings, crew, servers, mouths: crew.mouths(), frames, sent: Sent::default() }
    }

    /// `keeper`: of the nodes, if they are to stand still.
    fn send(mut self, keeper: Option<Keeper>, bar: &ProgressBar) -> Result<Sent, ScenarioError> {
        // What connecting left behind is no part of it.
        Meter::start(self.servers, &[]).await_still(self.settings.patience);
        bar.set_message("sending");
        let meter = Meter::start(self.servers, &[]);
        self.sent.cpu = if let Some(mut keeper) = keeper {
            self.send_stopped(&mut keeper, bar)?
        } else if self.settings.path.is_some() {
            self.send_and_wait(&meter)
        } else {
            self.send_at_rate(&meter)
        };
        self.sent.in_ticks |= meter.is_in_ticks();
        let (own, wall) = (meter.own(), meter.began().elapsed());
        self.sent.generator = Generator::new(&own, RECEIVING, self.settings.access.threads, wall);
        Ok(self.sent)
    }

    /// Every round: stop, write, go on, wait until all is used.
    fn send_stopped(&mut self, keeper: &mut Keeper, bar: &ProgressBar) -> Result<Option<Duration>, ScenarioError> {
        bar.set_length(self.settings.rounds.into());
        let mut total = Some(Duration::ZERO);
        for round in 0..self.settings.rounds {
            let before = (self.sent.frames, Meter::start(self.servers, &[]));
            let moment = keeper.stop()?;
            (0..self.mouths.len()).for_each(|place| self.write(place));
            drop(moment);
            self.await_echoes();
            let used = before.1.await_still(self.settings.patience);
            self.sent.timed_out |= used.is_none() && self.servers.cpu().is_some();
            self.sent.in_ticks |= before.1.is_in_ticks();
            total = total.zip(used).map(|(total, used)| total + used);
            let frames = self.sent.frames - before.0;
            if let Some(used) = used.filter(|_| frames > 0) {
                self.sent.rounds.push(used.as_secs_f64() * 1e6 / frames as f64);
            }
            bar.set_position(u64::from(round) + 1);
        }
        Ok(total)
    }

    /// Writes on all connections, waits until all came back, and again.
    fn send_and_wait(&mut self, meter: &Meter<'_>) -> Option<Duration> {
        while meter.began().elapsed() < self.settings.duration && !self.sent.timed_out && self.sent.unsent == 0 {
            (0..self.mouths.len()).for_each(|place| self.write(place));
            self.await_echoes();
        }
        meter.nodes()
    }

    /// Writes on one connection after the other, whatever the nodes do.
    fn send_at_rate(&mut self, meter: &Meter<'_>) -> Option<Duration> {
        let pace = Pace::new(self.settings.rate * self.mouths.len() as f64, self.settings.duration)?;
        let (clock, count) = (Clock::start(), self.mouths.len() as u64);
        for (n, due) in (0..).map_while(|n| Some((n, pace.due(n)?))) {
            while let Some(early) = due.checked_sub(clock.now()).filter(|early| *early > 0) {
                thread::park_timeout(Duration::from_nanos(early));
            }
            self.write(usize::try_from(n % count).unwrap_or_default());
        }
        let used = meter.await_still(self.settings.patience);
        self.sent.timed_out |= used.is_none() && self.servers.cpu().is_some();
        used
    }

    fn write(&mut self, place: usize) {
        let frames = u64::from(self.settings.in_flight);
        match self.mouths[place].outlet.send(&self.frames) {
            Ok(_) => self.sent.frames += frames,
            Err(_) => self.sent.unsent += frames,
        }
    }

    /// Waits until everything came back, if it is to; what a connection did not take is tried again meanwhile.
    fn await_echoes(&mut self) {
        let progress = &self.crew.progress;
        let latest = Instant::now() + self.settings.patience;
        let mut blocked: Vec<&Mouth> = self.mouths.iter().collect();
        loop {
            blocked.retain(|mouth| matches!(mouth.outlet.pump(), Ok(false)));
            let is_back = self.settings.path.is_none() || progress.delivered() >= self.sent.frames;
            if is_back && blocked.is_empty() {
                return;
            }
            if Instant::now() > latest || progress.ended.load(Relaxed) > 0 {
                self.sent.timed_out = true;
                return;
            }
            if blocked.is_empty() {
                progress.park_until_delivered(self.sent.frames);
            } else {
                thread::park_timeout(LOOK);
            }
        }
    }
}
