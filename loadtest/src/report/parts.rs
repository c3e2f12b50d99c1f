//! The parts of a report: what was asked for, and what was counted and timed.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::words::grouped;
use crate::{process::ThreadUse, scenario::Load, spread::Percentiles, tally::Outcome};

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names are the options")]
pub struct Setting {
    pub scenario: &'static str,
    pub run: String,
    pub channel: String,
    pub urls: Vec<String>,
    pub channels: usize,
    pub clients: usize,
    pub publishers: usize,
    pub receivers_of_each: u64,
    pub load: Load,
    pub burst: bool,
    pub duration_seconds: f64,
    pub size: usize,
    pub max_p99_us: Option<f64>,
}

/// Getting in.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Connecting {
    /// From the TCP connection to `connected`.
    pub connect: Percentiles,
    /// From `subscribe` to `subscribed`.
    pub subscribe: Percentiles,
    /// Handshakes that the node refused for now (HTTP 429 or 503) and that were tried again.
    pub retries: u64,
}

/// Going up.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Publications {
    /// On the schedule.
    pub due: u64,
    /// Written.
    pub sent: u64,
    /// Not written: the connection had ended, or took no bytes.
    pub unsent: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Never answered.
    pub unanswered: u64,
    /// The errors in the node's words, with what to do.
    pub refusals: BTreeMap<String, u64>,
}

/// What receivers met besides publications of ours.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sightings {
    /// Publications with an offset.
    pub positioned: u64,
    /// Publications of a channel that nobody subscribed to.
    pub strays: u64,
    /// Publications of somebody else on our channel.
    pub foreign: u64,
    /// Lines that are not what the protocol says.
    pub unreadable: u64,
    /// Messages that came compressed: counted, each as one publication, and not read.
    pub compressed: u64,
    /// Their bytes.
    pub compressed_bytes: u64,
    /// Subscriptions that the node continued unasked, with nothing missing.
    pub recovered: u64,
    /// Errors that answer no command.
    pub errors: BTreeMap<String, u64>,
    /// Gap pushes, by reason.
    pub gaps: BTreeMap<String, u64>,
    /// Connections and subscriptions that ended unasked, by reason.
    pub endings: BTreeMap<String, u64>,
}

impl Sightings {
    /// Adds another receiver's.
    pub fn merge(&mut self, other: &Self) {
        self.positioned += other.positioned;
        self.strays += other.strays;
        self.foreign += other.foreign;
        self.unreadable += other.unreadable;
        self.compressed += other.compressed;
        self.compressed_bytes += other.compressed_bytes;
        self.recovered += other.recovered;
        let count = |into: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>| {
            for (reason, times) in from {
                *into.entry(reason.clone()).or_default() += times;
            }
        };
        count(&mut self.errors, &other.errors);
        count(&mut self.gaps, &other.gaps);
        count(&mut self.endings, &other.endings);
    }
}

/// Times. Receiving is part of them: a receiver is late also because its thread still reads for others.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Latency {
    /// From the time a publication was due to each delivery: what a user would see, stalls included.
    pub from_schedule: Percentiles,
    /// From the time it was really sent.
    pub from_send: Percentiles,
    /// From sending to the last of all receivers: one sample for each publication.
    pub last_of_all: Percentiles,
    /// From publish to published.
    pub publish_to_reply: Percentiles,
    /// How late publications were sent.
    pub send_lateness: Percentiles,
}

/// The generator itself, from the first publication to the last delivery.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Generator {
    /// How long that was.
    pub wall_seconds: f64,
    /// Receiving threads.
    pub threads: usize,
    /// CPU of all its threads.
    pub cpu_seconds: f64,
    /// CPU of the receiving threads.
    pub receiving_cpu_seconds: f64,
    /// Bytes that the receivers read, each from its own entry to its goodbye, TLS removed and nothing inflated.
    pub received_bytes: u64,
    /// In so many reads.
    pub reads: u64,
    /// Of the receiving threads, for each delivery.
    pub cpu_us_per_delivery: f64,
    /// How long receiving one publication on all clients keeps a thread busy: latency that is ours, not the node's.
    pub own_burst_us: f64,
    /// Share of a core of the busiest thread.
    pub busiest: f64,
    /// Share of the time that the most hindered thread was ready but had no core.
    pub starved: f64,
}

impl Generator {
    /// From what its threads did. `receiving` is how the names of the receiving ones begin.
    pub fn new(used: &[ThreadUse], receiving: &str, threads: usize, wall: Duration) -> Self {
        let share = |time: Duration| if wall.is_zero() { 0.0 } else { time.as_secs_f64() / wall.as_secs_f64() };
        let receives = |thread: &&ThreadUse| thread.name.starts_with(receiving);
        Self {
            wall_seconds: wall.as_secs_f64(),
            threads,
            cpu_seconds: used.iter().map(|thread| thread.ran).sum::<Duration>().as_secs_f64(),
            receiving_cpu_seconds: used
                .iter()
                .filter(receives)
                .map(|thread| thread.ran)
                .sum::<Duration>()
                .as_secs_f64(),
            received_bytes: 0,
            reads: 0,
            cpu_us_per_delivery: 0.0,
            own_burst_us: 0.0,
            busiest: used.iter().map(|thread| share(thread.ran)).fold(0.0, f64::max),
            starved: used.iter().map(|thread| share(thread.waited)).fold(0.0, f64::max),
        }
    }
}

/// The nodes' processes, from the first publication to the last delivery.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Server {
    /// Which.
    pub pids: Vec<u32>,
    /// CPU of all of them.
    pub cpu_seconds: f64,
    /// In ticks of 10 ms, for one of their threads ended meanwhile.
    pub cpu_in_ticks: bool,
    /// For each delivery.
    pub cpu_us_per_delivery: f64,
    /// For each publication that was accepted.
    pub cpu_us_per_publication: f64,
    /// Resident memory before the first client. On a node that had clients before, the difference to the next says
    /// little: what they left behind is used again.
    pub resident_bytes_before: u64,
    /// With all clients subscribed.
    pub resident_bytes_connected: u64,
    /// After the last delivery.
    pub resident_bytes_after: u64,
}

/// A note: how the nodes' CPU was read.
pub(crate) const IN_TICKS: &str = "a thread of the nodes ended meanwhile: their CPU is in ticks of 10 ms";

/// The clients that stopped reading.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stalled {
    /// How many.
    pub clients: u64,
    /// By how much the nodes' resident memory grew while they did not read, for each of them. The kernel's buffers are not
    /// part of it.
    pub resident_bytes_each: f64,
    /// The same at its highest, as far as was looked: a node that gives up on them gives their memory back.
    pub resident_bytes_each_at_most: f64,
    /// How all of them are to end: the words with which each outcome must begin.
    pub expected: Option<String>,
    /// How each ended, and what it got when it began to read again.
    pub outcomes: BTreeMap<String, u64>,
}

/// In an outcome: publications were left out, and the client was not told.
pub(crate) const LEFT_OUT: &str = ", some left out without a word";
/// At the end of an outcome: something came twice, or after a later one.
pub(crate) const NOT_IN_ORDER: &str = ", not in order";

impl Stalled {
    /// What must not become of somebody who does not read; of what may, only what is expected, if anything is.
    pub(super) fn judge(&self, reasons: &mut Reasons) {
        for (outcome, times) in &self.outcomes {
            let is_expected = self.expected.as_ref().map(|words| outcome.starts_with(words.as_str()));
            let is_silent = outcome.contains(LEFT_OUT) && is_expected != Some(true);
            if outcome.ends_with(NOT_IN_ORDER) || is_silent || is_expected == Some(false) {
                reasons.count(*times, &format!("× stalled: {outcome}"));
            }
        }
        let told: u64 = self.outcomes.values().sum();
        reasons.count(self.clients.saturating_sub(told), "stalled clients of which nothing is known");
    }
}

/// Passed or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// No reason not to.
    pub passed: bool,
    /// Why it did not.
    pub reasons: Vec<String>,
    /// What to know before believing the figures.
    pub notes: Vec<String>,
}

/// Why a run did not pass, as it is found.
#[derive(Debug, Default)]
pub(crate) struct Reasons(Vec<String>);

impl Reasons {
    /// Something that must not happen happened so often; nothing if it did not.
    pub(crate) fn count(&mut self, times: u64, what: &str) {
        if times > 0 {
            self.0.push(format!("{} {what}", grouped(times)));
        }
    }

    /// The same for each of these, with the words before what was told.
    pub(crate) fn count_each(&mut self, times: &BTreeMap<String, u64>, words: &str) {
        times.iter().for_each(|(told, times)| self.count(*times, &format!("{words}{told}")));
    }

    /// What was found among some of the clients.
    pub(crate) fn of(&mut self, whom: &str, found: Self) {
        self.0.extend(found.0.into_iter().map(|reason| format!("{whom}: {reason}")));
    }

    /// Something that is wrong however often it happened.
    pub(crate) fn add(&mut self, is_wrong: bool, reason: impl Into<String>) {
        if is_wrong {
            self.0.push(reason.into());
        }
    }

    /// What is missing in the books of all.
    pub(crate) fn count_outcome(&mut self, outcome: &Outcome) {
        self.count(outcome.lost, "deliveries lost");
        self.count(outcome.doubled, "deliveries doubled");
        self.count(outcome.reordered, "deliveries out of order");
        self.count(outcome.offset_holes, "offsets skipped on the channel");
        self.count(outcome.offset_steps_back, "offsets that did not rise on the channel");
        self.count(outcome.epoch_changes, "changes of the channel's epoch");
    }

    /// What no receiver may meet.
    pub(crate) fn count_sightings(&mut self, sightings: &Sightings) {
        self.count(sightings.strays, "deliveries of a channel that was not subscribed to");
        self.count(sightings.unreadable, "lines that are not of the protocol");
        self.count_each(&sightings.errors, "errors told: ");
        self.count_each(&sightings.gaps, "gaps told: ");
        self.count_each(&sightings.endings, "× ");
    }

    /// The verdict.
    pub(crate) fn verdict(self, notes: Vec<String>) -> Verdict {
        Verdict { passed: self.0.is_empty(), reasons: self.0, notes }
    }
}
