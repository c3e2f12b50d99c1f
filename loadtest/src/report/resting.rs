//! The figures of connections that rest.

use std::fmt;

use serde::Serialize;

use super::{
    Connecting, IN_TICKS, Reasons, Sightings, Verdict,
    words::{Section, grouped, mib, points, write_table},
};
use crate::tally::Outcome;

/// All figures of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Resting {
    /// The load's name.
    pub scenario: &'static str,
    /// Where.
    pub urls: Vec<String>,
    /// Connections, with the one that publishes the burst.
    pub clients: usize,
    /// Getting in.
    pub connecting: Connecting,
    /// How long they rested.
    pub duration_seconds: f64,
    /// The nodes' processes.
    pub server_pids: Vec<u32>,
    /// Whether they stood still between the last connection and the rest; `None` if they cannot be seen.
    pub settled: Option<bool>,
    /// Their resident memory before the first connection.
    pub resident_bytes_before: Option<u64>,
    /// With all connections, when the nodes had come to rest.
    pub resident_bytes_connected: Option<u64>,
    /// The difference, for each connection. The kernel's buffers are not part of it.
    pub resident_bytes_each: Option<f64>,
    /// CPU of the nodes while all rested.
    pub cpu_seconds: Option<f64>,
    /// In ticks of 10 ms, for one of their threads ended meanwhile.
    pub cpu_in_ticks: bool,
    /// As a share of one core, in percent.
    pub cpu_percent_of_a_core: Option<f64>,
    /// What a burst did, if there was one.
    pub burst: Option<AfterBurst>,
    /// What else was met.
    pub sightings: Sightings,
    /// Passed or not.
    pub verdict: Verdict,
}

/// What a burst to all connections did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AfterBurst {
    /// Publications.
    pub publications: u32,
    /// Bytes of JSON in each.
    pub size: usize,
    /// Publications that the node refused.
    pub refused: u64,
    /// What became of the deliveries.
    pub deliveries: Outcome,
    /// Resident memory just before the burst, when all had rested.
    pub resident_bytes_before: Option<u64>,
    /// Resident memory two seconds after the last delivery.
    pub resident_bytes_after: Option<u64>,
    /// How much more that is than before the burst, for each connection.
    pub resident_bytes_grown_each: Option<f64>,
}

impl Resting {
    /// With what follows from the figures.
    pub(crate) fn judged(mut self) -> Self {
        let clients = self.clients.max(1) as f64;
        let each = |after: Option<u64>, before: Option<u64>| {
            after.zip(before).map(|(after, before)| (after as f64 - before as f64) / clients)
        };
        self.resident_bytes_each = each(self.resident_bytes_connected, self.resident_bytes_before);
        self.cpu_percent_of_a_core = self.cpu_seconds.map(|cpu| cpu / self.duration_seconds.max(f64::EPSILON) * 100.0);
        let mut reasons = Reasons::default();
        if let Some(burst) = &mut self.burst {
            burst.resident_bytes_grown_each = each(burst.resident_bytes_after, burst.resident_bytes_before);
            reasons.count(burst.refused, "publications refused");
            reasons.count_outcome(&burst.deliveries);
            reasons.add(burst.deliveries.received == 0, "nothing of the burst was delivered");
        }
        reasons.count_sightings(&self.sightings);
        let mut notes = Vec::new();
        if self.resident_bytes_each.is_none() {
            notes.push("no process of a node can be seen from here: no memory, no CPU".to_owned());
        } else {
            notes.push("memory is of a node's first clients only: later ones use again what those left".to_owned());
        }
        if self.settled == Some(false) {
            notes
                .push("the nodes did not come to rest before the rest: its CPU may hold some of getting in".to_owned());
        }
        if self.cpu_in_ticks {
            notes.push(IN_TICKS.to_owned());
        }
        self.verdict = reasons.verdict(notes);
        self
    }

    fn sections(&self) -> Vec<Section> {
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), mib);
        let each = |each: Option<f64>| each.map_or_else(|| "-".to_owned(), |each| format!("{:.2} KiB", each / 1024.0));
        let cpu = self.cpu_percent_of_a_core.map_or_else(|| "-".to_owned(), |share| format!("{share:.2} % of a core"));
        let mut sections: Vec<Section> = vec![
            ("load", vec![("nodes", self.urls.join(" ")), ("connections", grouped(self.clients as u64))]),
            (
                "connecting",
                vec![
                    ("connect", points(&self.connecting.connect)),
                    ("subscribe", points(&self.connecting.subscribe)),
                    ("refused for now", grouped(self.connecting.retries)),
                ],
            ),
            (
                "server",
                vec![
                    (
                        "memory",
                        format!(
                            "{} before, {} connected",
                            bytes(self.resident_bytes_before),
                            bytes(self.resident_bytes_connected)
                        ),
                    ),
                    ("each", each(self.resident_bytes_each)),
                    ("CPU", format!("{cpu}, over {} s", self.duration_seconds)),
                ],
            ),
        ];
        if let Some(burst) = &self.burst {
            sections.push((
                "burst",
                vec![
                    ("publications", format!("{} of {} B", burst.publications, grouped(burst.size as u64))),
                    ("received", grouped(burst.deliveries.received)),
                    (
                        "memory",
                        format!(
                            "{} before, {} after",
                            bytes(burst.resident_bytes_before),
                            bytes(burst.resident_bytes_after)
                        ),
                    ),
                    ("grown each", each(burst.resident_bytes_grown_each)),
                ],
            ));
        }
        sections
    }
}

/// The table, and the verdict as its last line.
impl fmt::Display for Resting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_table(f, &self.sections(), &self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_for_each_connection() {
        let burst = AfterBurst {
            deliveries: Outcome { received: 1, ..Outcome::default() },
            resident_bytes_before: Some(1_800),
            resident_bytes_after: Some(1_500),
            ..AfterBurst::default()
        };
        let resting = Resting {
            clients: 10,
            duration_seconds: 2.0,
            resident_bytes_before: Some(1_000),
            resident_bytes_connected: Some(2_000),
            cpu_seconds: Some(0.01),
            burst: Some(burst),
            ..Resting::default()
        };
        let resting = resting.judged();
        assert!(resting.verdict.passed);
        assert_eq!((resting.resident_bytes_each, resting.cpu_percent_of_a_core), (Some(100.0), Some(0.5)));
        assert_eq!(resting.burst.unwrap().resident_bytes_grown_each, Some(-30.0));
    }

    #[test]
    fn nodes_that_did_not_settle_are_told() {
        let notes = |settled| Resting { settled, ..Resting::default() }.judged().verdict.notes.join("\n");
        assert!(notes(Some(false)).contains("did not come to rest"));
        assert!(!notes(Some(true)).contains("did not come to rest") && !notes(None).contains("did not come to rest"));
    }

    #[test]
    fn a_connection_that_does_not_rest_fails() {
        let mut resting = Resting { clients: 1, ..Resting::default() };
        resting.sightings.endings.insert("connection ended: 4000".to_owned(), 1);
        assert!(!resting.judged().verdict.passed);
    }
}
