//! The states of the masters, and the one of the node that follows from them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{BackplaneState, Sink, metrics};

/// All of them.
pub(super) struct States {
    /// By the master's number; `None`: it is none now.
    masters: Mutex<Vec<Option<BackplaneState>>>,
    away: watch::Sender<Vec<Away>>,
    node: watch::Sender<BackplaneState>,
    sink: Arc<dyn Sink>,
}

/// Whether a master is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Away {
    /// It was never live.
    Always,
    /// It is not live since then.
    Since(Instant),
    /// It is live.
    No,
}

impl States {
    /// Nothing was reached yet.
    pub(super) fn new(sink: Arc<dyn Sink>) -> Self {
        let (away, node) = (watch::channel(Vec::new()).0, watch::channel(BackplaneState::Never).0);
        Self { masters: Mutex::default(), away, node, sink }
    }

    /// That of the node.
    pub(super) fn node(&self) -> watch::Receiver<BackplaneState> {
        self.node.subscribe()
    }

    /// Since when each master is not live, by its number.
    pub(super) fn away(&self) -> watch::Receiver<Vec<Away>> {
        self.away.subscribe()
    }

    /// Tells a change of one master. One that was never reached is not degraded.
    pub(super) fn tell(&self, master: usize, state: Option<BackplaneState>) {
        let mut masters = self.masters.lock();
        if masters.len() <= master {
            masters.resize(master + 1, None);
        }
        let known = masters[master];
        let state = match (known, state) {
            (None | Some(BackplaneState::Never), Some(BackplaneState::Degraded)) => Some(BackplaneState::Never),
            (_, state) => state,
        };
        masters[master] = state;
        metrics::state(master, state);
        self.away.send_if_modified(|away| {
            away.resize(masters.len(), Away::Always);
            let now = match (state, away[master]) {
                (Some(BackplaneState::Live), _) => Away::No,
                (_, Away::No) => Away::Since(Instant::now()),
                (_, known) => known,
            };
            std::mem::replace(&mut away[master], now) != now
        });
        let changed = self.node.send_if_modified(|node| {
            let now = summary(*node, &masters);
            std::mem::replace(node, now) != now
        });
        // Under the lock, so that the sink hears the changes in their order.
        if changed {
            self.sink.state(*self.node.borrow());
        }
    }
}

/// The node is live when all of its masters are; and once it was it never again is one that never was.
fn summary(before: BackplaneState, masters: &[Option<BackplaneState>]) -> BackplaneState {
    let mut placed = masters.iter().flatten().peekable();
    let all_live = placed.peek().is_some() && placed.all(|state| *state == BackplaneState::Live);
    match before {
        _ if all_live => BackplaneState::Live,
        BackplaneState::Never => BackplaneState::Never,
        BackplaneState::Live | BackplaneState::Degraded => BackplaneState::Degraded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackplaneState::{Degraded, Live, Never};

    #[test]
    fn a_node_is_as_well_as_the_worst_of_its_masters() {
        for (before, masters, node) in [
            (Never, vec![], Never),
            (Never, vec![Some(Live), Some(Never)], Never),
            (Never, vec![Some(Live), Some(Live)], Live),
            (Live, vec![Some(Live), Some(Degraded)], Degraded),
            (Live, vec![Some(Live), None], Live),
            (Live, vec![None, None], Degraded),
            (Degraded, vec![Some(Live), Some(Never)], Degraded),
            (Degraded, vec![Some(Live)], Live),
        ] {
            assert_eq!(summary(before, &masters), node, "{masters:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_master_is_away_since_it_was_live_whatever_it_is_called_meanwhile() {
        let (states, start) = (States::new(crate::conformance::Recorder::new()), Instant::now());
        let mut away = states.away();
        states.tell(1, Some(Degraded));
        assert_eq!(*away.borrow_and_update(), [Away::Always; 2]);
        states.tell(1, Some(Live));
        assert_eq!(*away.borrow_and_update(), [Away::Always, Away::No]);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        for state in [Some(Degraded), None, Some(Degraded)] {
            states.tell(1, state);
            assert_eq!(away.borrow_and_update()[1], Away::Since(start + std::time::Duration::from_secs(1)));
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
        }
    }
}
