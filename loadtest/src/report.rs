//! The figures of a run, what they mean, and how they are shown: as a table for people, as one JSON object for machines.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use crate::{process::ThreadUse, scenario::Load, spread::Percentiles, tally::Outcome};

/// Above this share of a core a thread has no more to give.
const BUSY: f64 = 0.9;
/// Waiting for a core this share of the time spoils figures.
const STARVED: f64 = 0.2;
/// Publications later than this at the 99th percentile were not an open loop.
const LATE_US: f64 = 5_000.0;

/// All figures of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was asked for.
    pub setting: Setting,
    /// Getting in.
    pub connecting: Connecting,
    /// Going up.
    pub publications: Publications,
    /// Coming down: how many were expected.
    pub deliveries_expected: u64,
    /// What became of them.
    pub deliveries: Outcome,
    /// Deliveries received in a second, from the first publication to the last delivery.
    pub deliveries_per_second: f64,
    /// What else was met.
    pub sightings: Sightings,
    /// Times.
    pub latency: Latency,
    /// Ourselves.
    pub generator: Generator,
    /// The nodes, if they run on this machine.
    pub server: Option<Server>,
    /// Passed or not.
    pub verdict: Verdict,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names are the options")]
pub struct Setting {
    pub scenario: &'static str,
    pub run: String,
    pub channel: String,
    pub urls: Vec<String>,
    pub clients: usize,
    pub publishers: usize,
    pub load: Load,
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
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sightings {
    /// Publications with an offset.
    pub positioned: u64,
    /// Publications of a channel that nobody subscribed to.
    pub strays: u64,
    /// Publications of somebody else on our channel.
    pub foreign: u64,
    /// Lines that are not what the protocol says.
    pub unreadable: u64,
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
        for (reason, times) in &other.gaps {
            *self.gaps.entry(reason.clone()).or_default() += times;
        }
        for (reason, times) in &other.endings {
            *self.endings.entry(reason.clone()).or_default() += times;
        }
    }
}

/// Times. Receiving is part of them: a receiver is late also because its thread still reads for others.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Latency {
    /// From the time a publication was due to each delivery: what a user would see, stalls included.
    pub from_schedule: Percentiles,
    /// From the time it was really sent.
    pub from_send: Percentiles,
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
    /// For each delivery.
    pub cpu_us_per_delivery: f64,
    /// Resident memory before the first client. On a node that had clients before, the difference to the next says
    /// little: what they left behind is used again.
    pub resident_bytes_before: u64,
    /// With all clients subscribed.
    pub resident_bytes_connected: u64,
    /// After the last delivery.
    pub resident_bytes_after: u64,
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

impl Report {
    /// Puts the parts together, and judges.
    #[expect(clippy::too_many_arguments, reason = "one for each part of the report")]
    pub fn new(
        setting: Setting,
        connecting: Connecting,
        publications: Publications,
        deliveries: Outcome,
        sightings: Sightings,
        latency: Latency,
        mut generator: Generator,
        mut server: Option<Server>,
    ) -> Self {
        let receivers = (setting.clients + setting.publishers) as u64;
        let each = |seconds: f64, count: u64| if count == 0 { 0.0 } else { seconds / count as f64 * 1e6 };
        // The publishers' own deliveries are read by the thread that publishes.
        let by_clients = deliveries.received * setting.clients as u64 / receivers.max(1);
        generator.cpu_us_per_delivery = each(generator.receiving_cpu_seconds, by_clients);
        generator.own_burst_us =
            generator.cpu_us_per_delivery * setting.clients.div_ceil(generator.threads.max(1)) as f64;
        if let Some(server) = &mut server {
            server.cpu_us_per_delivery = each(server.cpu_seconds, deliveries.received);
        }
        let wall = generator.wall_seconds;
        let mut report = Self {
            deliveries_expected: publications.sent.saturating_sub(publications.refused) * receivers,
            deliveries_per_second: if wall > 0.0 { deliveries.received as f64 / wall } else { 0.0 },
            setting,
            connecting,
            publications,
            deliveries,
            sightings,
            latency,
            generator,
            server,
            verdict: Verdict::default(),
        };
        report.verdict = report.judge();
        report
    }

    fn judge(&self) -> Verdict {
        let (publications, deliveries, sightings) = (&self.publications, &self.deliveries, &self.sightings);
        let mut reasons = Vec::new();
        let mut count = |times: u64, what: &str| {
            if times > 0 {
                reasons.push(format!("{} {what}", grouped(times)));
            }
        };
        count(deliveries.lost, "deliveries lost");
        count(deliveries.doubled, "deliveries doubled");
        count(deliveries.reordered, "deliveries out of order");
        count(deliveries.offset_holes, "offsets skipped on the channel");
        count(deliveries.offset_steps_back, "offsets that did not rise on the channel");
        count(deliveries.epoch_changes, "changes of the channel's epoch");
        count(sightings.strays, "deliveries of a channel that was not subscribed to");
        count(sightings.unreadable, "lines that are not of the protocol");
        count(publications.unsent, "publications could not be sent");
        count(publications.unanswered, "publications never answered");
        for (words, times) in &publications.refusals {
            count(*times, &format!("publications refused: {words}"));
        }
        for (reason, times) in &sightings.gaps {
            count(*times, &format!("gaps told: {reason}"));
        }
        for (how, times) in &sightings.endings {
            count(*times, &format!("× {how}"));
        }
        if deliveries.received == 0 {
            reasons.push("nothing was delivered at all".to_owned());
        }
        let p99 = self.latency.from_schedule.p99_us;
        if let Some(limit) = self.setting.max_p99_us.filter(|limit| p99 > *limit) {
            reasons.push(format!("p99 of {} is over the limit of {}", time(p99), time(limit)));
        }
        Verdict { passed: reasons.is_empty(), reasons, notes: self.notes() }
    }

    /// What makes the figures less than they seem.
    fn notes(&self) -> Vec<String> {
        let (generator, latency) = (&self.generator, &self.latency);
        let mut notes = Vec::new();
        if generator.busiest >= BUSY {
            let share = percent(generator.busiest);
            notes.push(format!(
                "the generator was the limit (a thread used {share} of a core): raise --threads or add a machine"
            ));
        } else if generator.starved >= STARVED {
            let share = percent(generator.starved);
            notes.push(format!(
                "a thread of the generator waited {share} of the time for a free core: the machine was the limit"
            ));
        }
        if matches!(self.setting.load, Load::Rate(_)) && latency.send_lateness.p99_us > LATE_US {
            let late = time(latency.send_lateness.p99_us);
            notes.push(format!(
                "the generator missed its schedule (p99 {late} late): `from schedule` holds it, `from send` does not"
            ));
        }
        if matches!(self.setting.load, Load::Rate(_)) && generator.own_burst_us > latency.from_schedule.p50_us {
            let own = time(generator.own_burst_us);
            notes.push(format!(
                "reading one publication on all clients takes a generator thread {own}: much of the latency is its own"
            ));
        }
        if let Load::Window(_) = self.setting.load {
            notes.push("a closed loop: compare cost per delivery, not latency".to_owned());
        }
        if self.sightings.foreign > 0 {
            notes.push(format!("{} deliveries of somebody else on the channel", grouped(self.sightings.foreign)));
        }
        if self.sightings.positioned == 0 && self.deliveries.received > 0 {
            notes.push(
                "the channel is live-only: without offsets only the publishers' own order was checked".to_owned(),
            );
        }
        notes
    }

    fn sections(&self) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
        let Self { setting, connecting, publications, deliveries, latency, generator, .. } = self;
        let load = match setting.load {
            Load::Rate(rate) => format!("{rate}/s for {} s", setting.duration_seconds),
            Load::Window(window) => format!("{window} in flight for {} s", setting.duration_seconds),
        };
        let mut sections = vec![
            (
                "load",
                vec![
                    ("nodes", setting.urls.join(" ")),
                    ("channel", setting.channel.clone()),
                    (
                        "clients",
                        format!(
                            "{} and {} publishing",
                            grouped(setting.clients as u64),
                            grouped(setting.publishers as u64)
                        ),
                    ),
                    ("publications", format!("{load}, {} B", grouped(setting.size as u64))),
                ],
            ),
            (
                "connecting",
                vec![
                    ("connect", points(&connecting.connect)),
                    ("subscribe", points(&connecting.subscribe)),
                    ("refused for now", grouped(connecting.retries)),
                ],
            ),
            (
                "publications",
                vec![
                    ("due / sent", format!("{} / {}", grouped(publications.due), grouped(publications.sent))),
                    ("refused", grouped(publications.refused)),
                    ("unanswered", grouped(publications.unanswered)),
                ],
            ),
            (
                "deliveries",
                vec![
                    ("expected", grouped(self.deliveries_expected)),
                    ("received", grouped(deliveries.received)),
                    ("lost", grouped(deliveries.lost)),
                    ("doubled", grouped(deliveries.doubled)),
                    ("reordered", grouped(deliveries.reordered)),
                    ("offset holes", grouped(deliveries.offset_holes)),
                    ("per second", grouped_f(self.deliveries_per_second)),
                ],
            ),
            (
                "latency",
                vec![
                    ("from schedule", points(&latency.from_schedule)),
                    ("from send", points(&latency.from_send)),
                    ("publish to reply", points(&latency.publish_to_reply)),
                    ("sent late by", points(&latency.send_lateness)),
                ],
            ),
            (
                "generator",
                vec![
                    ("CPU", format!("{:.2} s in {:.2} s", generator.cpu_seconds, generator.wall_seconds)),
                    ("per delivery", format!("{:.2} µs", generator.cpu_us_per_delivery)),
                    (
                        "busiest thread",
                        format!(
                            "{} of a core, most hindered waited {}",
                            percent(generator.busiest),
                            percent(generator.starved)
                        ),
                    ),
                    ("own share", format!("{} to read one publication on all clients", time(generator.own_burst_us))),
                ],
            ),
        ];
        if let Some(server) = &self.server {
            let per_client = server.resident_bytes_connected.saturating_sub(server.resident_bytes_before) as f64
                / (setting.clients + setting.publishers) as f64;
            let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
            let pids: Vec<String> = server.pids.iter().map(ToString::to_string).collect();
            sections.push((
                "server",
                vec![
                    ("processes", pids.join(" ")),
                    ("CPU", format!("{:.2} s", server.cpu_seconds)),
                    ("per delivery", format!("{:.2} µs", server.cpu_us_per_delivery)),
                    (
                        "memory",
                        format!(
                            "{} MiB before, {} connected, {} after; {:.1} KiB more per client",
                            mib(server.resident_bytes_before),
                            mib(server.resident_bytes_connected),
                            mib(server.resident_bytes_after),
                            per_client / 1024.0
                        ),
                    ),
                ],
            ));
        }
        sections
    }
}

/// The table, and the verdict as its last line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (section, rows) in self.sections() {
            for (n, (name, value)) in rows.iter().enumerate() {
                writeln!(f, "{:<14}{name:<18}{value}", if n == 0 { section } else { "" })?;
            }
        }
        for note in &self.verdict.notes {
            writeln!(f, "note: {note}")?;
        }
        if self.verdict.passed { write!(f, "PASSED") } else { write!(f, "FAILED: {}", self.verdict.reasons.join("; ")) }
    }
}

fn points(spread: &Percentiles) -> String {
    if spread.samples == 0 {
        return "-".to_owned();
    }
    format!(
        "p50 {:<9} p90 {:<9} p99 {:<9} p99.9 {:<9} max {}",
        time(spread.p50_us),
        time(spread.p90_us),
        time(spread.p99_us),
        time(spread.p99_9_us),
        time(spread.max_us)
    )
}

fn time(microseconds: f64) -> String {
    match microseconds {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn grouped_f(count: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "saturates; shown to people")]
    let count = count.round() as u64;
    grouped(count)
}

/// 1234567 is 1,234,567.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(change: impl FnOnce(&mut Outcome, &mut Latency, &mut Generator, &mut Publications)) -> Report {
        let setting = Setting {
            scenario: "fanout",
            run: "r".to_owned(),
            channel: "c".to_owned(),
            urls: vec!["ws://localhost/ws".to_owned()],
            clients: 9,
            publishers: 1,
            load: Load::Rate(10.0),
            duration_seconds: 1.0,
            size: 128,
            max_p99_us: Some(50_000.0),
        };
        let mut publications = Publications { due: 10, sent: 10, ..Publications::default() };
        let mut outcome = Outcome { received: 100, ..Outcome::default() };
        let mut latency = Latency::default();
        let mut generator = Generator { wall_seconds: 1.0, threads: 1, ..Generator::default() };
        change(&mut outcome, &mut latency, &mut generator, &mut publications);
        let sightings = Sightings { positioned: 100, ..Sightings::default() };
        Report::new(setting, Connecting::default(), publications, outcome, sightings, latency, generator, None)
    }

    #[test]
    fn a_clean_run_passes_without_notes() {
        let report = report(|_, _, _, _| {});
        assert_eq!(report.verdict, Verdict { passed: true, ..Verdict::default() });
        assert_eq!(report.deliveries_expected, 100);
        assert!(report.to_string().ends_with("PASSED"));
    }

    #[test]
    fn whatever_went_wrong_fails_with_its_reason() {
        for (failed, word) in [
            (report(|outcome, _, _, _| outcome.lost = 1), "lost"),
            (report(|outcome, _, _, _| outcome.doubled = 1), "doubled"),
            (report(|outcome, _, _, _| outcome.reordered = 1), "out of order"),
            (report(|outcome, _, _, _| outcome.received = 0), "nothing"),
            (report(|_, latency, _, _| latency.from_schedule.p99_us = 50_001.0), "over the limit of 50.00 ms"),
            (report(|_, _, _, publications| publications.unanswered = 1), "never answered"),
        ] {
            assert!(!failed.verdict.passed);
            assert!(failed.verdict.reasons[0].contains(word), "{:?}", failed.verdict);
        }
    }

    #[test]
    fn a_generator_at_its_limit_says_so_and_still_passes() {
        let busy = report(|_, _, generator, _| generator.busiest = 0.95);
        let late = report(|_, latency, _, _| latency.send_lateness.p99_us = 6_000.0);
        assert!(busy.verdict.passed && busy.verdict.notes[0].contains("the generator was the limit"));
        assert!(late.verdict.passed && late.verdict.notes[0].contains("missed its schedule"));
    }

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([12.4, 1_234.0, 2_500_000.0].map(time), ["12 µs", "1.23 ms", "2.50 s"]);
    }
}
