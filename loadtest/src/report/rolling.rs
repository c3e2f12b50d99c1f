//! The figures of clients that stay while nodes are replaced.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{
    BUSY, Generator, Reasons, STARVED, Verdict,
    storm::Storm,
    words::{Section, grouped, percent, points, time, write_table},
};
use crate::{spread::Percentiles, tally::Outcome};

/// What fails a run, besides what is lost, doubled or reordered.
#[derive(Debug, Clone, Serialize)]
pub struct Thresholds {
    /// How a connection may end: codes, or `none` for an end without a word.
    pub closes: Vec<String>,
    /// The most that may come back within any 100 ms.
    pub reconnects: Option<u64>,
    /// The longest that a client may be away.
    pub away: Option<Duration>,
    /// The fewest that must have come back, each time counted: whether anything was replaced at all.
    pub returns: u64,
}

/// The codes of a drain, a shedding and an age, as each kind of client hears them.
impl Default for Thresholds {
    fn default() -> Self {
        let closes = ["1012", "4001", "4003", "4005"].map(str::to_owned).to_vec();
        Self { closes, reconnects: None, away: None, returns: 0 }
    }
}

/// All clients of one kind.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Party {
    /// How many.
    pub clients: u64,
    /// What became of what was sent to them.
    pub deliveries: Outcome,
    /// Of a bare client whose node died, which holds no position: what was published while it was away.
    pub uncovered: u64,
    /// How their connections ended: by code, `none` without a word.
    pub closes: BTreeMap<String, u64>,
    /// How they came back, by subscription: `recovered`, `not recovered`, or with `no position`.
    pub returns: BTreeMap<&'static str, u64>,
}

impl Party {
    pub(crate) fn come_back(&mut self, how: &'static str) {
        *self.returns.entry(how).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.clients += other.clients;
        self.deliveries += other.deliveries;
        self.uncovered += other.uncovered;
        add(&mut self.closes, other.closes);
        for (how, times) in other.returns {
            *self.returns.entry(how).or_default() += times;
        }
    }

    fn times(&self, how: &str) -> u64 {
        self.returns.get(how).copied().unwrap_or_default()
    }
}

/// The publications, as the back end saw them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Acknowledged {
    /// All.
    pub sent: u64,
    /// Those that a node took.
    pub acknowledged: u64,
    /// Sent again, for there was no answer or none that is final.
    pub repeated: u64,
    /// Of those, the ones that the cluster knew already.
    pub duplicates: u64,
    /// Never acknowledged: why, in words.
    pub failures: BTreeMap<String, u64>,
    /// From the first attempt to the acknowledgement.
    pub answer: Percentiles,
    /// How late the first attempt was.
    pub lateness: Percentiles,
}

/// All figures of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rolling {
    /// The load's name.
    pub scenario: &'static str,
    /// Where clients connected.
    pub urls: Vec<String>,
    /// Where the back end published.
    pub api: Vec<String>,
    /// How the channels' names begin.
    pub channel: String,
    /// How many there were.
    pub channels: usize,
    /// Clients.
    pub clients: usize,
    /// Publications a second, over all channels.
    pub rate: f64,
    /// Bytes of each.
    pub size: usize,
    /// Going up.
    pub publications: Acknowledged,
    /// From the first attempt to the first subscription.
    pub connect: Percentiles,
    /// From the end of a connection until everything is subscribed again.
    pub away: Percentiles,
    /// From the time a publication was due to its arrival, recovered or live.
    pub delivery: Percentiles,
    /// By kind of client.
    pub parties: BTreeMap<&'static str, Party>,
    /// How connections ended, over all kinds.
    pub closes: BTreeMap<String, u64>,
    /// Attempts to come back.
    pub reconnects: u64,
    /// The most of them in any 100 ms.
    pub largest_heap: u64,
    /// Those that failed, in words.
    pub refused: BTreeMap<String, u64>,
    /// What no client may meet, in words.
    pub wrong: BTreeMap<String, u64>,
    /// Publications of somebody else.
    pub foreign: u64,
    /// Clients that were not in at the end.
    pub missing: u64,
    /// If everybody was cut at once.
    pub storm: Option<Storm>,
    /// What was asked for.
    pub thresholds: Thresholds,
    /// Ourselves.
    pub generator: Generator,
    /// Passed or not.
    pub verdict: Verdict,
}

impl Rolling {
    /// With what follows from the figures.
    pub(crate) fn judged(mut self) -> Self {
        let mut reasons = Reasons::default();
        for (kind, party) in &self.parties {
            let mut of_kind = Reasons::default();
            of_kind.count_outcome(&party.deliveries);
            of_kind.count(party.times("not recovered"), "returns that were not recovered");
            reasons.of(kind, of_kind);
        }
        let Thresholds { closes, reconnects, away, returns } = &self.thresholds;
        let unwanted = self.closes.iter().filter(|(code, _)| !closes.contains(code));
        unwanted.for_each(|(code, times)| reasons.count(*times, &format!("connections ended with {code}")));
        reasons.count_each(&self.wrong, "× ");
        reasons.count_each(&self.publications.failures, "publications never acknowledged: ");
        reasons.count(self.missing, "clients are not in at the end");
        if let Some(limit) = reconnects.filter(|limit| self.largest_heap > *limit) {
            reasons.add(true, format!("{} came back within 100 ms, the limit is {limit}", grouped(self.largest_heap)));
        }
        if let Some(limit) = away.map(|limit| limit.as_secs_f64() * 1e6).filter(|limit| self.away.max_us > *limit) {
            reasons
                .add(true, format!("a client was away for {}, the limit is {}", time(self.away.max_us), time(limit)));
        }
        if self.away.samples < *returns {
            reasons.add(true, format!("{} returns, there must be {}", grouped(self.away.samples), grouped(*returns)));
        }
        if let Some(storm) = &self.storm {
            storm.judge(&mut reasons);
        }
        let received: u64 = self.parties.values().map(|party| party.deliveries.received).sum();
        reasons.add(received == 0, "nothing was delivered at all");
        self.verdict = reasons.verdict(self.notes());
        self
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.generator.busiest >= BUSY {
            notes.push("the generator was the limit: raise --threads, or lower --clients".to_owned());
        } else if self.generator.starved >= STARVED {
            let share = percent(self.generator.starved);
            notes.push(format!(
                "a thread of the generator waited {share} of the time for a free core: the machine was the limit"
            ));
        }
        let uncovered: u64 = self.parties.values().map(|party| party.uncovered).sum();
        if uncovered > 0 {
            notes.push(format!(
                "{} deliveries to bare clients could not be asked for: their node ended without a word",
                grouped(uncovered)
            ));
        }
        if self.foreign > 0 {
            notes.push(format!("{} deliveries of somebody else on the channels", grouped(self.foreign)));
        }
        notes
    }

    fn sections(&self) -> Vec<Section> {
        let sent = &self.publications;
        let mut sections = vec![
            (
                "load",
                vec![
                    ("nodes", self.urls.join(" ")),
                    (
                        "clients",
                        format!(
                            "{} on {} channels, {}…",
                            grouped(self.clients as u64),
                            grouped(self.channels as u64),
                            self.channel
                        ),
                    ),
                    ("connect", points(&self.connect)),
                ],
            ),
            (
                "publications",
                vec![
                    ("sent", format!("{}, {}/s of {} B", grouped(sent.sent), self.rate, grouped(self.size as u64))),
                    (
                        "acknowledged",
                        format!(
                            "{}, {} sent again, of which {} were known",
                            grouped(sent.acknowledged),
                            grouped(sent.repeated),
                            grouped(sent.duplicates)
                        ),
                    ),
                    ("answer", points(&sent.answer)),
                    ("sent late by", points(&sent.lateness)),
                ],
            ),
            (
                "returns",
                vec![
                    ("reconnects", grouped(self.reconnects)),
                    ("in any 100 ms", format!("at most {}", grouped(self.largest_heap))),
                    ("away", points(&self.away)),
                    ("closes", counts(&self.closes)),
                    ("refused", counts(&self.refused)),
                ],
            ),
        ];
        if let Some(storm) = &self.storm {
            sections.push(("storm", storm.rows()));
        }
        for (kind, party) in &self.parties {
            let Outcome { received, lost, doubled, reordered, offset_holes, .. } = party.deliveries;
            let rows = vec![
                ("clients", format!("{}, returned: {}", grouped(party.clients), counts(&party.returns))),
                ("received", grouped(received)),
                ("lost / doubled", format!("{} / {}", grouped(lost), grouped(doubled))),
                ("reordered", format!("{}, {} offset holes", grouped(reordered), grouped(offset_holes))),
                ("uncovered", grouped(party.uncovered)),
            ];
            sections.push((kind, rows));
        }
        sections.push(("delivery", vec![("from schedule", points(&self.delivery))]));
        let generator = &self.generator;
        let used = format!("{:.2} s in {:.2} s", generator.cpu_seconds, generator.wall_seconds);
        sections
            .push(("generator", vec![("CPU", used), ("busiest thread", percent(generator.busiest) + " of a core")]));
        sections
    }
}

/// Adds up what was counted under the same names.
pub(crate) fn add(counts: &mut BTreeMap<String, u64>, others: BTreeMap<String, u64>) {
    for (what, times) in others {
        *counts.entry(what).or_default() += times;
    }
}

fn counts<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let counts: Vec<String> = counts.iter().map(|(what, times)| format!("{} × {what}", grouped(*times))).collect();
    if counts.is_empty() { "-".to_owned() } else { counts.join(", ") }
}

/// The table, and the verdict as its last line.
impl fmt::Display for Rolling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_table(f, &self.sections(), &self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run in which 10 clients came back once and got everything.
    fn clean() -> Rolling {
        let deliveries = Outcome { received: 100, ..Outcome::default() };
        let closes: BTreeMap<_, _> = [("4001".to_owned(), 10)].into();
        let party = Party { clients: 10, deliveries, closes: closes.clone(), ..Party::default() };
        let away = Percentiles { samples: 10, max_us: 900_000.0, ..Percentiles::default() };
        let thresholds = Thresholds {
            reconnects: Some(4),
            away: Some(Duration::from_secs(1)),
            returns: 10,
            ..Thresholds::default()
        };
        Rolling {
            clients: 10,
            parties: [("json", party)].into(),
            closes,
            away,
            largest_heap: 4,
            thresholds,
            ..Rolling::default()
        }
    }

    #[test]
    fn a_clean_run_passes() {
        let judged = clean().judged();
        assert!(judged.verdict.passed && judged.to_string().ends_with("PASSED"), "{judged}");
    }

    #[test]
    fn whatever_must_not_be_fails_the_run_with_its_reason() {
        let failed = |change: &dyn Fn(&mut Rolling)| {
            let mut run = clean();
            change(&mut run);
            let verdict = run.judged().verdict;
            assert_eq!((verdict.passed, verdict.reasons.len()), (false, 1), "{verdict:?}");
            verdict.reasons[0].clone()
        };
        let json = |run: &mut Rolling, change: &dyn Fn(&mut Party)| run.parties.values_mut().for_each(change);
        assert_eq!(failed(&|run| json(run, &|party| party.deliveries.lost = 2)), "json: 2 deliveries lost");
        assert_eq!(failed(&|run| json(run, &|party| party.deliveries.doubled = 1)), "json: 1 deliveries doubled");
        let not = "json: 1 returns that were not recovered";
        assert_eq!(failed(&|run| json(run, &|party| party.come_back("not recovered"))), not);
        let code = |code: &str| failed(&|run| *run.closes.entry(code.to_owned()).or_default() = 1);
        assert_eq!(
            [code("none"), code("1011")],
            ["none", "1011"].map(|code| format!("1 connections ended with {code}"))
        );
        assert_eq!(failed(&|run| run.largest_heap = 5), "5 came back within 100 ms, the limit is 4");
        assert!(failed(&|run| run.away.max_us = 1_000_001.0).starts_with("a client was away for"));
        assert_eq!(failed(&|run| run.away.samples = 9), "9 returns, there must be 10");
        assert_eq!(failed(&|run| run.missing = 1), "1 clients are not in at the end");
        assert_eq!(failed(&|run| *run.wrong.entry("gap reset".to_owned()).or_default() = 3), "3 × gap reset");
        assert!(
            failed(&|run| run.publications.failures = [("no".to_owned(), 1)].into()).contains("never acknowledged")
        );
        assert_eq!(failed(&|run| json(run, &|party| party.deliveries.received = 0)), "nothing was delivered at all");
    }

    #[test]
    fn what_bare_clients_could_not_ask_for_is_said_and_fails_nothing() {
        let mut run = clean();
        run.parties.insert("raw", Party { clients: 1, uncovered: 7, ..Party::default() });
        let verdict = run.judged().verdict;
        assert!(verdict.passed && verdict.notes[0].starts_with("7 deliveries"), "{verdict:?}");
    }
}
