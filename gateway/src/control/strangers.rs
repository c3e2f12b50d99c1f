//! Nodes that say what this one does not understand.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use skywave_backplane::{NodeRecord, Unreadable};

use super::Control;

/// How often the log says so of one node.
const INTERVAL: Duration = Duration::from_secs(60);

/// When it was last said of each, by its incarnation. Bound: those of the last minute, and the nodes of a cluster are few.
#[derive(Default)]
pub(super) struct Strangers(Mutex<BTreeMap<Arc<str>, Instant>>);

impl Strangers {
    fn is_due(&self, from: &Arc<str>, now: Instant) -> bool {
        let mut said = self.0.lock();
        said.retain(|_, at| now.saturating_duration_since(*at) < INTERVAL);
        let is_due = !said.contains_key(from);
        if is_due {
            said.insert(from.clone(), now);
        }
        is_due
    }
}

impl Control {
    /// Counts it, and says now and then who it was and what to do.
    pub(super) fn not_understood(self: &Arc<Self>, from: Arc<str>) {
        Unreadable::Signal.count();
        if !self.strangers.is_due(&from, Instant::now()) {
            return;
        }
        let control = self.clone();
        tokio::spawn(async move {
            let nodes = control.nodes().await.unwrap_or_default(); // then without its name
            let (node, release) = who(&nodes, &from);
            tracing::warn!(
                node,
                release,
                own_release = env!("CARGO_PKG_VERSION"),
                from = &*from,
                "a node says what this one does not understand: it is ignored here. Bring all nodes to one release"
            );
        });
    }
}

/// The name and release of an incarnation, as far as it is known.
fn who<'a>(nodes: &'a [NodeRecord], incarnation: &str) -> (Option<&'a str>, Option<&'a str>) {
    nodes
        .iter()
        .find(|node| &*node.incarnation == incarnation)
        .map(|node| (&*node.info.name, &*node.info.version))
        .unzip()
}

#[cfg(test)]
mod tests {
    use skywave_backplane::NodeInfo;

    use super::*;

    #[test]
    fn each_is_named_once_a_minute() {
        let (strangers, start) = (Strangers::default(), Instant::now());
        let due = |from: &str, second| strangers.is_due(&from.into(), start + Duration::from_secs(second));
        assert_eq!(
            [due("a", 0), due("b", 0), due("a", 1), due("a", 59), due("a", 60)],
            [true, true, false, false, true]
        );
        assert_eq!((due("b", 61), strangers.0.lock().len()), (true, 2));
        let info = NodeInfo { name: "gw-2".into(), version: "0.2.0".into(), ..NodeInfo::default() };
        let nodes = [NodeRecord { incarnation: "a".into(), info, beat_age: Duration::ZERO }];
        assert_eq!(who(&nodes, "a"), (Some("gw-2"), Some("0.2.0")));
        assert_eq!(who(&nodes, "b"), (None, None));
    }
}
