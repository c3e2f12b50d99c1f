//! The figures of connections that come and go.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    Generator, IN_TICKS, Reasons, Verdict,
    words::{Section, grouped, grouped_f, percent, points, write_table},
};
use crate::spread::Percentiles;

/// All figures of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Coming {
    /// The load's name.
    pub scenario: &'static str,
    /// Where.
    pub urls: Vec<String>,
    /// Only the handshake and one message that is answered.
    pub bare: bool,
    /// Connections that were asked for.
    pub clients: usize,
    /// At the same time.
    pub connecting: usize,
    /// A second, if so many were asked for.
    pub rate: Option<f64>,
    /// Connections that did all they were to do.
    pub connections: u64,
    /// How long all of it took.
    pub wall_seconds: f64,
    /// In a second.
    pub connections_per_second: f64,
    /// From the TCP connection to the upgrade.
    pub handshake: Percentiles,
    /// From `connect` to `connected`, or from the one message to its answer.
    pub connect: Percentiles,
    /// From `subscribe` to `subscribed`.
    pub subscribe: Percentiles,
    /// Handshakes that the node refused for now (HTTP 429 or 503) and that were tried again.
    pub retries: u64,
    /// Connections that did not, in words.
    pub failures: BTreeMap<String, u64>,
    /// The nodes' processes.
    pub server_pids: Vec<u32>,
    /// Their CPU, from the first connection until they stood still after the last.
    pub server_cpu_seconds: Option<f64>,
    /// In ticks of 10 ms, for one of their threads ended meanwhile.
    pub server_cpu_in_ticks: bool,
    /// For each connection, from its opening to its end.
    pub server_cpu_us_per_connection: Option<f64>,
    /// Ourselves.
    pub generator: Generator,
    /// Passed or not.
    pub verdict: Verdict,
}

impl Coming {
    /// With what follows from the figures.
    pub(crate) fn judged(mut self) -> Self {
        let each = |seconds: f64| seconds / self.connections.max(1) as f64 * 1e6;
        self.server_cpu_us_per_connection = self.server_cpu_seconds.map(each);
        let mut reasons = Reasons::default();
        reasons.count_each(&self.failures, "× ");
        if self.failures.is_empty() {
            reasons.count((self.clients as u64).saturating_sub(self.connections), "connections are missing");
        }
        let is_unread = self.server_cpu_seconds.is_none();
        reasons.add(is_unread && !self.server_pids.is_empty(), "the nodes did not come to rest in time: no CPU");
        let mut notes = Vec::new();
        if self.retries > 0 {
            notes.push(format!("{} handshakes were refused for now and tried again", grouped(self.retries)));
        }
        if self.server_pids.is_empty() {
            notes.push("no process of a node can be seen from here: no CPU".to_owned());
        }
        if self.server_cpu_in_ticks {
            notes.push(IN_TICKS.to_owned());
        }
        self.verdict = reasons.verdict(notes);
        self
    }

    fn sections(&self) -> Vec<Section> {
        let each = self.server_cpu_us_per_connection.map_or_else(|| "-".to_owned(), |us| format!("{us:.2} µs"));
        vec![
            (
                "load",
                vec![
                    ("nodes", self.urls.join(" ")),
                    (
                        "connections",
                        format!(
                            "{} of {}, {} at a time",
                            grouped(self.connections),
                            grouped(self.clients as u64),
                            grouped(self.connecting as u64)
                        ),
                    ),
                    ("per second", grouped_f(self.connections_per_second)),
                ],
            ),
            (
                "times",
                vec![
                    ("handshake", points(&self.handshake)),
                    (if self.bare { "answer" } else { "connect" }, points(&self.connect)),
                    ("subscribe", points(&self.subscribe)),
                ],
            ),
            ("server", vec![("CPU each", each)]),
            (
                "generator",
                vec![
                    ("CPU", format!("{:.2} s in {:.2} s", self.generator.cpu_seconds, self.wall_seconds)),
                    ("busiest thread", format!("{} of a core", percent(self.generator.busiest))),
                ],
            ),
        ]
    }
}

/// The table, and the verdict as its last line.
impl fmt::Display for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_table(f, &self.sections(), &self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_did_not_get_in_fails_the_run() {
        let clean = Coming { clients: 10, connections: 10, server_cpu_seconds: Some(0.001), ..Coming::default() };
        let judged = clean.clone().judged();
        assert!(judged.verdict.passed);
        assert_eq!(judged.server_cpu_us_per_connection, Some(100.0));
        assert!(!Coming { connections: 9, ..clean.clone() }.judged().verdict.passed);
        let failures = [("connect: no".to_owned(), 1)].into();
        let failed = Coming { connections: 9, failures, ..clean }.judged();
        assert_eq!(failed.verdict.reasons, ["1 × connect: no"]);
    }

    #[test]
    fn a_node_that_is_seen_and_does_not_come_to_rest_fails_the_run() {
        let unseen = Coming { clients: 1, connections: 1, ..Coming::default() };
        assert!(unseen.clone().judged().verdict.passed);
        let busy = Coming { server_pids: vec![7], ..unseen }.judged();
        assert!(!busy.verdict.passed && busy.verdict.reasons[0].contains("come to rest"), "{:?}", busy.verdict);
    }
}
