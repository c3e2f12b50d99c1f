//! The figures of a run, what they mean, and how they are shown: as a table for people, as one JSON object for machines.

pub mod coming;
pub mod inbound;
mod parts;
pub mod resting;
pub mod rolling;
pub mod storm;
mod table;
pub(crate) mod words;

pub use parts::{Connecting, Generator, Latency, Publications, Server, Setting, Sightings, Stalled, Verdict};
use parts::{IN_TICKS, Reasons};
pub(crate) use parts::{LEFT_OUT, NOT_IN_ORDER};
use serde::Serialize;
use words::{grouped, percent, time};

use crate::{scenario::Load, tally::Outcome};

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
    /// Those who stopped reading, if any were to.
    pub stalled: Option<Stalled>,
    /// Passed or not.
    pub verdict: Verdict,
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
        stalled: Option<Stalled>,
    ) -> Self {
        let receivers = setting.receivers_of_each;
        let accepted = publications.sent.saturating_sub(publications.refused);
        let each = |seconds: f64, count: u64| if count == 0 { 0.0 } else { seconds / count as f64 * 1e6 };
        generator.cpu_us_per_delivery = each(generator.receiving_cpu_seconds, deliveries.received);
        generator.own_burst_us =
            generator.cpu_us_per_delivery * receivers.div_ceil(generator.threads.max(1) as u64) as f64;
        if let Some(server) = &mut server {
            server.cpu_us_per_publication = each(server.cpu_seconds, accepted);
            server.cpu_us_per_delivery = each(server.cpu_seconds, deliveries.received);
        }
        let wall = generator.wall_seconds;
        let mut report = Self {
            deliveries_expected: accepted * receivers,
            deliveries_per_second: if wall > 0.0 { deliveries.received as f64 / wall } else { 0.0 },
            setting,
            connecting,
            publications,
            deliveries,
            sightings,
            latency,
            generator,
            server,
            stalled,
            verdict: Verdict::default(),
        };
        report.verdict = report.judge();
        report
    }

    fn judge(&self) -> Verdict {
        let publications = &self.publications;
        let mut reasons = Reasons::default();
        reasons.count_outcome(&self.deliveries);
        reasons.count(publications.unsent, "publications could not be sent");
        reasons.count(publications.unanswered, "publications never answered");
        reasons.count_each(&publications.refusals, "publications refused: ");
        reasons.count_sightings(&self.sightings);
        self.stalled.iter().for_each(|stalled| stalled.judge(&mut reasons));
        reasons.add(self.deliveries.received == 0, "nothing was delivered at all");
        let p99 = self.latency.from_schedule.p99_us;
        let limit = self.setting.max_p99_us.filter(|limit| p99 > *limit);
        let told = |limit| format!("p99 of {} is over the limit of {}", time(p99), time(limit));
        reasons.add(limit.is_some(), limit.map(told).unwrap_or_default());
        reasons.verdict(self.notes())
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
        if self.server.as_ref().is_some_and(|server| server.cpu_in_ticks) {
            notes.push(IN_TICKS.to_owned());
        }
        if self.sightings.foreign > 0 {
            notes.push(format!("{} deliveries of somebody else on the channel", grouped(self.sightings.foreign)));
        }
        if self.sightings.compressed > 0 {
            notes.push(format!(
                "{} messages came compressed and were counted, each as one delivery: their order was not checked",
                grouped(self.sightings.compressed)
            ));
        } else if self.sightings.positioned == 0 && self.deliveries.received > 0 {
            notes.push(
                "the channel is live-only: without offsets only the publishers' own order was checked".to_owned(),
            );
        }
        notes
    }
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
            channels: 1,
            clients: 9,
            publishers: 1,
            receivers_of_each: 10,
            load: Load::Rate(10.0),
            burst: false,
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
        Report::new(setting, Connecting::default(), publications, outcome, sightings, latency, generator, None, None)
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
    fn those_who_stall_are_judged_by_how_they_end() {
        let reasons = |outcome: &str, expected: Option<&str>| {
            let outcomes = [(outcome.to_owned(), 2)].into();
            let stalled = Stalled { clients: 2, expected: expected.map(str::to_owned), outcomes, ..Stalled::default() };
            let mut reasons = Reasons::default();
            stalled.judge(&mut reasons);
            reasons.verdict(Vec::new()).reasons
        };
        let (ended, latest) = ("ended: 4002 slow_consumer", "open, some left out without a word, ends with the last");
        for (outcome, expected) in
            [(ended, None), (ended, Some("ended")), ("open, recovered", None), (latest, Some(latest))]
        {
            assert!(reasons(outcome, expected).is_empty(), "{outcome}, {expected:?}");
        }
        for (outcome, expected) in [
            (latest, None),
            (ended, Some("open, recovered")),
            ("open, continuous, not in order", None),
            ("open, continuous, not in order", Some("open, continuous")),
        ] {
            assert_eq!(reasons(outcome, expected), [format!("2 × stalled: {outcome}")]);
        }
        let missing = Stalled { clients: 3, ..Stalled::default() };
        let mut reasons = Reasons::default();
        missing.judge(&mut reasons);
        assert!(!reasons.verdict(Vec::new()).passed);
    }

    #[test]
    fn a_generator_at_its_limit_says_so_and_still_passes() {
        let busy = report(|_, _, generator, _| generator.busiest = 0.95);
        let late = report(|_, latency, _, _| latency.send_lateness.p99_us = 6_000.0);
        assert!(busy.verdict.passed && busy.verdict.notes[0].contains("the generator was the limit"));
        assert!(late.verdict.passed && late.verdict.notes[0].contains("missed its schedule"));
    }
}
