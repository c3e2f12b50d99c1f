//! What a storm cost, beside what [`super::rolling`] has of it.

use std::time::Duration;

use serde::Serialize;

use super::{
    Reasons,
    words::{grouped, mib, percent, time},
};
use crate::spread::Percentiles;

/// Everybody's connections cut at once: how they came back, and what that took.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Storm {
    /// Connections that were cut, in one moment.
    pub cut: u64,
    /// Each waited up to so long before it came back; zero: nobody waited.
    pub rest: Duration,
    /// Of those who were cut: from the moment in which all were, until everything was subscribed again.
    pub back: Percentiles,
    /// Attempts that failed.
    pub refused: u64,
    /// Fail if 99 % are not back by then.
    pub back_within: Option<Duration>,
    /// What the nodes' processes took, if they can be seen from here.
    pub nodes: Option<NodesInStorm>,
}

/// The nodes' processes in a storm, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct NodesInStorm {
    /// Resident before the cut, in bytes.
    pub resident_before: u64,
    /// The most that was seen, from the cut on.
    pub resident_peak: u64,
    /// At the end of the run.
    pub resident_after: u64,
    /// From the cut until everybody was back, publications and deliveries included.
    pub cpu_seconds: f64,
    /// How long that was.
    pub wall_seconds: f64,
}

impl Storm {
    pub(super) fn judge(&self, reasons: &mut Reasons) {
        reasons.count(self.cut.saturating_sub(self.back.samples), "clients that were cut never came back");
        reasons.add(self.cut == 0, "nobody was cut: the run was over before --cut-after");
        let limit = self.back_within.map(|limit| limit.as_secs_f64() * 1e6);
        if let Some(limit) = limit.filter(|limit| self.back.p99_us > *limit) {
            let took = time(self.back.p99_us);
            reasons.add(true, format!("99 % were back after {took}, the limit is {}", time(limit)));
        }
    }

    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let rest = if self.rest.is_zero() { "without a rest".to_owned() } else { format!("{:?} at most", self.rest) };
        let back = &self.back;
        let mut rows = vec![
            ("cut at once", format!("{}, back {rest}", grouped(self.cut))),
            (
                "all back after",
                format!("half {}, 99 % {}, all {}", time(back.p50_us), time(back.p99_us), time(back.max_us)),
            ),
            ("attempts refused", grouped(self.refused)),
        ];
        if let Some(nodes) = &self.nodes {
            let [before, peak, after] = [nodes.resident_before, nodes.resident_peak, nodes.resident_after].map(mib);
            rows.push(("nodes' memory", format!("{before} before, {peak} at most, {after} at the end")));
            let cores = nodes.cpu_seconds / nodes.wall_seconds.max(f64::MIN_POSITIVE);
            let used = format!("{:.2} s in {:.2} s", nodes.cpu_seconds, nodes.wall_seconds);
            rows.push(("nodes' CPU", format!("{used}, {} of a core", percent(cores))));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(storm: &Storm) -> Vec<String> {
        let mut reasons = Reasons::default();
        storm.judge(&mut reasons);
        reasons.verdict(Vec::new()).reasons
    }

    #[test]
    fn who_is_not_back_in_time_or_never_fails_the_run() {
        let back = Percentiles { samples: 10, p99_us: 2e6, ..Percentiles::default() };
        let storm = Storm { cut: 10, back, back_within: Some(Duration::from_secs(2)), ..Storm::default() };
        assert!(judged(&storm).is_empty());
        let late = Storm { back_within: Some(Duration::from_secs(1)), ..storm.clone() };
        assert!(judged(&late)[0].starts_with("99 % were back after"));
        assert_eq!(judged(&Storm { cut: 11, ..storm })[0], "1 clients that were cut never came back");
        assert_eq!(judged(&Storm::default()).len(), 1, "a storm without anybody is none");
    }
}
