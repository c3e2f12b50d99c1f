//! The moment in which everybody is cut, and what the nodes take until all are back.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::crew::Crew;
use crate::{
    report::storm::{NodesInStorm, Storm},
    scenario::meter::{Meter, Servers},
};

/// A storm, as it is asked for.
#[derive(Debug, Clone)]
pub struct Cut {
    /// How long after the first publication.
    pub after: Duration,
    /// Each client rests at random up to so long before it comes back; zero: all come at once, which no client of ours does.
    pub rest: Duration,
    /// Fail if 99 % are not back by then.
    pub back_within: Option<Duration>,
}

/// A storm, and the nodes in it.
pub(super) struct Watched<'a> {
    cut: &'a Cut,
    servers: &'a Servers,
    /// What the nodes use, since the cut.
    meter: Option<Meter<'a>>,
    seen: NodesInStorm,
    is_over: bool,
}

impl<'a> Watched<'a> {
    pub(super) fn new(cut: &'a Cut, servers: &'a Servers) -> Self {
        Self { cut, servers, meter: None, seen: NodesInStorm::default(), is_over: false }
    }

    /// Looks, every few milliseconds: cuts when it is time, and sees what the nodes hold.
    pub(super) fn look(&mut self, crew: &Crew, elapsed: Duration) {
        let resident = self.servers.resident().unwrap_or_default();
        let Some(meter) = &self.meter else {
            self.seen.resident_before = resident;
            if elapsed >= self.cut.after {
                self.meter = Some(Meter::start(self.servers, &[]));
                crew.cut(self.cut.rest);
            }
            return;
        };
        self.seen.resident_peak = self.seen.resident_peak.max(resident);
        if !self.is_over && crew.standing.back.load(Relaxed) >= crew.standing.came.load(Relaxed) {
            self.is_over = true;
            self.seen.cpu_seconds = meter.nodes().unwrap_or_default().as_secs_f64();
            self.seen.wall_seconds = meter.began().elapsed().as_secs_f64();
        }
    }

    /// What it came to, as far as it is seen from here.
    pub(super) fn end(mut self) -> Storm {
        self.seen.resident_after = self.servers.resident().unwrap_or_default();
        let nodes = (!self.servers.pids.is_empty() && self.is_over).then_some(self.seen);
        Storm { rest: self.cut.rest, back_within: self.cut.back_within, nodes, ..Storm::default() }
    }
}
