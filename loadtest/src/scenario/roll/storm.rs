//! The moment in which everybody is cut, and what the nodes take until all are back.

use std::{
    future::pending,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::crew::Crew;
use crate::{
    report::storm::{NodesInStorm, Storm},
    scenario::meter::{Meter, Servers},
    stamp::Clock,
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

/// What the clients are told. First all are cut, and only then the first comes back: a generator that cut and came back one
/// client after the other would make a storm as mild as itself is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    Calm,
    /// Everybody is cut.
    Breaks,
    /// All have been, since then: they may come back, each after a rest of at most so long.
    Passed(u64, Duration),
}

/// Returns when the storm breaks.
pub(super) async fn breaks(storm: &mut watch::Receiver<Weather>) {
    if storm.wait_for(|weather| *weather != Weather::Calm).await.is_err() {
        pending().await // the run is over
    }
}

/// Returns when all have been cut: since when, and how long to rest at most.
pub(super) async fn passed(storm: &mut watch::Receiver<Weather>) -> (u64, Duration) {
    match storm.wait_for(|weather| matches!(weather, Weather::Passed(..))).await.as_deref() {
        Ok(Weather::Passed(since, rest)) => (*since, *rest),
        _ => pending().await, // the run is over
    }
}

/// How long the cut may take.
const CUT_WITHIN: Duration = Duration::from_secs(5);

/// A storm, and the nodes in it.
pub(super) struct Watched<'a> {
    cut: &'a Cut,
    servers: &'a Servers,
    clock: Clock,
    stage: Stage<'a>,
    seen: NodesInStorm,
}

enum Stage<'a> {
    Ahead,
    Breaks(Instant),
    /// With what the nodes use since all were cut.
    Passed(Meter<'a>),
    Over,
}

impl<'a> Watched<'a> {
    pub(super) fn new(cut: &'a Cut, servers: &'a Servers, clock: Clock) -> Self {
        Self { cut, servers, clock, stage: Stage::Ahead, seen: NodesInStorm::default() }
    }

    /// Looks, every few milliseconds: cuts when it is time, and sees what the nodes hold.
    pub(super) fn look(&mut self, crew: &Crew, elapsed: Duration) {
        let resident = self.servers.resident().unwrap_or_default();
        let standing = &crew.standing;
        match &self.stage {
            Stage::Ahead => {
                self.seen.resident_before = resident;
                if elapsed >= self.cut.after {
                    self.stage = Stage::Breaks(Instant::now());
                    crew.tell(Weather::Breaks);
                }
            }
            Stage::Breaks(since) => {
                if standing.present.load(Relaxed) == 0 || since.elapsed() > CUT_WITHIN {
                    self.stage = Stage::Passed(Meter::start(self.servers, &[]));
                    crew.tell(Weather::Passed(self.clock.now(), self.cut.rest));
                }
            }
            Stage::Passed(meter) => {
                if standing.back.load(Relaxed) >= standing.came.load(Relaxed) {
                    self.seen.cpu_seconds = meter.nodes().unwrap_or_default().as_secs_f64();
                    self.seen.wall_seconds = meter.began().elapsed().as_secs_f64();
                    self.stage = Stage::Over;
                }
            }
            Stage::Over => {}
        }
        if !matches!(self.stage, Stage::Ahead) {
            self.seen.resident_peak = self.seen.resident_peak.max(resident);
        }
    }

    /// What it came to, as far as it is seen from here.
    pub(super) fn end(mut self) -> Storm {
        self.seen.resident_after = self.servers.resident().unwrap_or_default();
        let nodes = (!self.servers.pids.is_empty() && matches!(self.stage, Stage::Over)).then_some(self.seen);
        Storm { rest: self.cut.rest, back_within: self.cut.back_within, nodes, ..Storm::default() }
    }
}
