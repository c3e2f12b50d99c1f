//! The figures of what goes in: what a small message costs a node.

use std::fmt;

use serde::Serialize;

use super::{
    Generator, IN_TICKS, Reasons, Sightings, Verdict,
    words::{Section, grouped, percent, write_table},
};

/// All figures of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Inbound {
    /// The load's name.
    pub scenario: &'static str,
    /// Where.
    pub urls: Vec<String>,
    /// The path that sends back, or the channel that was published to.
    pub to: String,
    /// Whether everything was to come back.
    pub comes_back: bool,
    /// Connections.
    pub clients: usize,
    /// Bytes of each payload.
    pub size: usize,
    /// Frames in each write.
    pub in_flight: u32,
    /// Whether the nodes stood still while they were written.
    pub stopped: bool,
    /// Frames that were written.
    pub frames: u64,
    /// Frames that could not be: the connection had ended, or took no bytes.
    pub unsent: u64,
    /// Frames that came back.
    pub echoed: u64,
    /// The nodes took longer than they may.
    pub timed_out: bool,
    /// The nodes' processes.
    pub server_pids: Vec<u32>,
    /// Their CPU, until they stood still.
    pub server_cpu_seconds: Option<f64>,
    /// In ticks of 10 ms, for one of their threads ended meanwhile.
    pub server_cpu_in_ticks: bool,
    /// For each frame.
    pub server_cpu_us_per_frame: Option<f64>,
    /// Stopped: of each round.
    pub rounds_us_per_frame: Vec<f64>,
    /// Their median.
    pub median_us_per_frame: Option<f64>,
    /// What else was met.
    pub sightings: Sightings,
    /// Ourselves.
    pub generator: Generator,
    /// Passed or not.
    pub verdict: Verdict,
}

impl Inbound {
    /// With what follows from the figures.
    pub(crate) fn judged(mut self) -> Self {
        let each = |seconds: f64| seconds / self.frames.max(1) as f64 * 1e6;
        self.server_cpu_us_per_frame = self.server_cpu_seconds.map(each);
        let mut rounds = self.rounds_us_per_frame.clone();
        rounds.sort_by(f64::total_cmp);
        self.median_us_per_frame = rounds.get(rounds.len() / 2).copied();

        let mut reasons = Reasons::default();
        reasons.count(self.unsent, "frames could not be sent");
        if self.comes_back {
            reasons.count(self.frames.saturating_sub(self.echoed), "frames did not come back");
            reasons.count(self.echoed.saturating_sub(self.frames), "frames too many came back");
        }
        reasons.count_sightings(&self.sightings);
        reasons.add(self.frames == 0, "nothing was sent at all");
        reasons.add(self.timed_out, "the nodes were not done in time");
        let mut notes = Vec::new();
        if self.server_cpu_seconds.is_none() {
            notes.push("no process of a node can be seen from here: no CPU".to_owned());
        }
        if !self.comes_back {
            notes.push(
                "nothing is answered: whether all of it was published is in the node's skywave_publications_total"
                    .to_owned(),
            );
        }
        if self.server_cpu_in_ticks {
            notes.push(IN_TICKS.to_owned());
        }
        self.verdict = reasons.verdict(notes);
        self
    }

    fn sections(&self) -> Vec<Section> {
        let us = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.3} µs"));
        let how = if self.stopped { ", while the nodes stood still" } else { "" };
        vec![
            (
                "load",
                vec![
                    ("nodes", self.urls.join(" ")),
                    (if self.comes_back { "path" } else { "channel" }, self.to.clone()),
                    ("connections", grouped(self.clients as u64)),
                    ("frames", format!("{} of {} B, {} a write{how}", grouped(self.frames), self.size, self.in_flight)),
                ],
            ),
            ("came back", vec![("frames", grouped(self.echoed))]),
            (
                "server",
                vec![
                    ("CPU", self.server_cpu_seconds.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.3} s"))),
                    ("per frame", us(self.server_cpu_us_per_frame)),
                    ("median round", us(self.median_us_per_frame)),
                ],
            ),
            ("generator", vec![("busiest thread", format!("{} of a core", percent(self.generator.busiest)))]),
        ]
    }
}

/// The table, and the verdict as its last line.
impl fmt::Display for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_table(f, &self.sections(), &self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_come_back_fails() {
        let clean = Inbound { frames: 10, echoed: 10, comes_back: true, ..Inbound::default() };
        assert!(clean.clone().judged().verdict.passed);
        assert!(!Inbound { echoed: 9, ..clean.clone() }.judged().verdict.passed);
        assert!(!Inbound { echoed: 11, ..clean.clone() }.judged().verdict.passed);
        assert!(!Inbound { timed_out: true, ..clean }.judged().verdict.passed);
        assert!(!Inbound::default().judged().verdict.passed);
    }

    #[test]
    fn the_cost_of_a_frame_is_told_in_all_and_of_the_median_round() {
        let rounds = vec![9.0, 1.0, 2.0];
        let run = Inbound {
            frames: 1000,
            server_cpu_seconds: Some(0.004),
            rounds_us_per_frame: rounds,
            ..Inbound::default()
        };
        let run = run.judged();
        assert_eq!((run.server_cpu_us_per_frame, run.median_us_per_frame), (Some(4.0), Some(2.0)));
    }
}
