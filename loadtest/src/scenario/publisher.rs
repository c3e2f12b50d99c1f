//! The publishing side: one thread that keeps the schedule and writes each publication itself, whoever's connection it goes
//! through, so that nothing that is received can make it late.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use super::{Load, Plan, Progress, Samples};
use crate::{incoming::Incoming, pace::Pace, spread::Spread, stamp::Stamp, stream::Outlet, tally::Sent, wire::Masks};

/// How often what a connection did not take is tried again.
const AGAIN: Duration = Duration::from_millis(1);
/// How long, after the end of the schedule.
const PATIENCE: Duration = Duration::from_secs(10);

/// A publisher that is ready to publish.
#[derive(Debug)]
pub(super) struct Mouth {
    pub(super) channel: usize,
    /// Its number among the channel's publishers.
    pub(super) from: u32,
    pub(super) outlet: Arc<Outlet>,
    pub(super) next_id: u64,
    pub(super) answers: Arc<Answers>,
}

/// What a publisher waits for and what it was told; held for one look by the thread that publishes or the one that
/// receives. Bound: the publications of the run.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// Command id to sequence and time of sending.
    open: HashMap<u64, (u64, u64)>,
    /// Sequences.
    refused: Vec<u64>,
    refusals: BTreeMap<String, u64>,
}

/// What a publisher did.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) channel: usize,
    pub(super) from: u32,
    /// When each publication was due and when it was sent.
    pub(super) times: Vec<(u64, u64)>,
    answers: Arc<Answers>,
}

impl Answers {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reply came.
    pub(super) fn hear(&self, incoming: &Incoming<'_>, now: u64, progress: &Progress, samples: &mut Samples) {
        let mut told = self.told();
        let Some((seq, sent)) = incoming.id.and_then(|id| told.open.remove(&id)) else { return };
        if let Some(error) = &incoming.error {
            told.refused.push(seq);
            *told.refusals.entry(format!("{error} ({})", error.advice())).or_default() += 1;
            progress.refused.fetch_add(1, Relaxed);
        } else {
            samples.answer.record(now.saturating_sub(sent));
        }
        progress.answered.fetch_add(1, Relaxed);
    }
}

impl Published {
    /// What was sent, to be held against what arrived.
    pub(super) fn sent(&self) -> Sent {
        let mut refused = self.answers.told().refused.clone();
        refused.sort_unstable();
        Sent { count: self.times.len() as u64, refused }
    }

    /// Refused publications by the node's words.
    pub(super) fn refusals(&self) -> BTreeMap<String, u64> {
        self.answers.told().refusals.clone()
    }
}

/// Keeps a schedule.
pub(super) struct Pacer {
    mouths: Vec<Mouth>,
    published: Vec<Published>,
    plan: Arc<Plan>,
    progress: Arc<Progress>,
    /// Channel names as JSON.
    channels: Vec<String>,
    masks: Masks,
    late: Spread,
    command: String,
    frames: Vec<u8>,
    /// Who did not take everything.
    blocked: Vec<usize>,
}

/// When to publish, and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) load: Load,
    /// A window's publications in one write.
    pub(super) burst: bool,
    pub(super) duration: Duration,
}

impl Pacer {
    /// Publication `n` goes through `mouths[n % len]`.
    pub(super) fn new(mouths: Vec<Mouth>, plan: Arc<Plan>, progress: Arc<Progress>) -> Self {
        let published = mouths.iter().map(|mouth| Published {
            channel: mouth.channel,
            from: mouth.from,
            times: Vec::new(),
            answers: mouth.answers.clone(),
        });
        let channel = |channel: &super::Channel| serde_json::Value::from(channel.name.as_str()).to_string();
        Self {
            published: published.collect(),
            channels: plan.channels.iter().map(channel).collect(),
            mouths,
            plan,
            progress,
            masks: Masks::default(),
            late: Spread::default(),
            command: String::new(),
            frames: Vec::new(),
            blocked: Vec::new(),
        }
    }

    /// Publishes until the schedule ends. How late each was, and what each publisher did.
    pub(super) fn keep(mut self, schedule: Schedule) -> (Spread, Vec<Published>) {
        let start = self.plan.clock.now();
        let duration = u64::try_from(schedule.duration.as_nanos()).unwrap_or(u64::MAX);
        match schedule.load {
            Load::Rate(rate) => self.at_rate(rate, schedule.duration, start),
            Load::Window(window) if schedule.burst => self.in_bursts(window.into(), start + duration),
            Load::Window(window) => self.in_window(window.into(), start + duration),
        }
        self.finish()
    }

    /// Publishes so many in one write and nothing more.
    pub(super) fn burst(mut self, count: u64) -> (Spread, Vec<Published>) {
        self.write(0, count, self.plan.clock.now());
        self.finish()
    }

    fn at_rate(&mut self, rate: f64, duration: Duration, start: u64) {
        let Some(pace) = Pace::new(rate, duration) else { return };
        for (n, due) in (0..).map_while(|n| Some((n, start + pace.due(n)?))) {
            while let Some(early) = due.checked_sub(self.plan.clock.now()).filter(|early| *early > 0) {
                let early = Duration::from_nanos(early);
                thread::park_timeout(if self.blocked.is_empty() { early } else { early.min(AGAIN) });
                self.pump();
            }
            self.write(n, 1, due);
        }
    }

    fn in_window(&mut self, window: u64, end: u64) {
        for n in 0_u64.. {
            if !self.await_arrival((n + 1).saturating_sub(window), end) {
                return;
            }
            self.write(n, 1, self.plan.clock.now());
        }
    }

    fn in_bursts(&mut self, window: u64, end: u64) {
        for n in (0..).step_by(usize::try_from(window).unwrap_or(usize::MAX)) {
            if !self.await_arrival(n, end) {
                return;
            }
            self.write(n, window, self.plan.clock.now());
        }
    }

    /// Waits until so many publications have arrived everywhere, or were refused. False: the time is over.
    fn await_arrival(&mut self, publications: u64, end: u64) -> bool {
        loop {
            if self.plan.clock.now() >= end {
                return false;
            }
            let refused = self.progress.refused.load(Relaxed);
            let goal = publications.saturating_sub(refused) * self.plan.seats.receivers_of_each();
            if self.progress.delivered() >= goal {
                return true;
            }
            self.progress.park_until_delivered(goal);
            self.pump();
        }
    }

    /// Writes publications `n` to `n + count - 1` through one publisher, at once.
    fn write(&mut self, n: u64, count: u64, due: u64) {
        let place = usize::try_from(n / count.max(1) % self.mouths.len() as u64).unwrap_or_default();
        let Self { mouths, published, plan, progress, .. } = self;
        let (mouth, published) = (&mut mouths[place], &mut published[place]);
        let (channel, run, size) = (&self.channels[mouth.channel], &plan.run, plan.size);
        progress.queued.fetch_add(count, Relaxed);
        self.frames.clear();
        let first = published.times.len() as u64;
        let sent = plan.clock.now();
        {
            let mut told = mouth.answers.told();
            for seq in first..first + count {
                let id = mouth.next_id + (seq - first);
                self.command.clear();
                self.command.push_str("{\"id\":");
                self.command.push_str(&id.to_string());
                self.command.push_str(",\"publish\":{\"channel\":");
                self.command.push_str(channel);
                self.command.push_str(",\"data\":");
                Stamp { run, from: mouth.from, seq, due, sent }.write(size, &mut self.command);
                self.command.push_str("}}");
                self.masks.text(&self.command, &mut self.frames);
                told.open.insert(id, (seq, sent));
            }
        }
        match mouth.outlet.send(&self.frames) {
            Ok(is_all) => {
                progress.sent.fetch_add(count, Relaxed);
                published.times.extend((0..count).map(|_| (due, sent)));
                self.late.record(sent.saturating_sub(due));
                if !is_all {
                    self.blocked.push(place);
                }
            }
            Err(_) => {
                let mut told = mouth.answers.told();
                told.open.retain(|id, _| *id < mouth.next_id);
                progress.unsent.fetch_add(count, Relaxed);
            }
        }
        mouth.next_id += count;
    }

    /// Tries again what was not taken. A connection that has ended is noticed by who reads from it.
    fn pump(&mut self) {
        let mouths = &self.mouths;
        self.blocked.retain(|place| matches!(mouths[*place].outlet.pump(), Ok(false)));
    }

    fn finish(mut self) -> (Spread, Vec<Published>) {
        let end = self.plan.clock.now() + u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        while !self.blocked.is_empty() && self.plan.clock.now() < end {
            thread::park_timeout(AGAIN);
            self.pump();
        }
        (self.late, self.published)
    }
}
