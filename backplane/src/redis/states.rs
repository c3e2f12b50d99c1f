//! The states of the masters, and the one of the node that follows from them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{BackplaneState, Sink, metrics};

/// All of them.
pub(super) struct States {
    /// By the master's number; `None`: it is none now.
    masters: Mutex<Vec<Option<BackplaneState>>>,
    node: watch::Sender<BackplaneState>,
    sink: Arc<dyn Sink>,
}

impl States {
    /// Nothing was reached yet.
    pub(super) fn new(sink: Arc<dyn Sink>) -> Self {
        Self { masters: Mutex::default(), node: watch::channel(BackplaneState::Never).0, sink }
    }

    /// That of the node.
    pub(super) fn node(&self) -> watch::Receiver<BackplaneState> {
        self.node.subscribe()
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
}
