//! The order to a node to send away what it has above the mean, after others were added.

use skywave_backplane::NodeRecord;
use skywave_proto::v1::signal;

use super::Control;
use crate::session::Refusal;

impl Control {
    /// Orders a node to send connections to the others, as many as it has more than the mean of all, and to stay.
    ///
    /// # Errors
    /// As [`Control::drain`].
    pub async fn shed(&self, name: &str) -> Result<(), Refusal> {
        let nodes = self.nodes().await?;
        let keep = mean(&nodes);
        // Not a kind of Drain: a node of an earlier version would overlook what it says, and leave.
        self.tell_node(&nodes, name, &signal::Op::Shed(signal::Shed { keep })).await
    }
}

/// How many connections each node would have, rounded up: what is left over has to be somewhere. A node that leaves takes
/// nobody in, and after a crash a name may be listed twice for a while: only the younger run has clients.
fn mean(nodes: &[NodeRecord]) -> u64 {
    let is_dead = |node: &NodeRecord| {
        let is_younger = |other: &NodeRecord| other.info.started_at_ms > node.info.started_at_ms;
        nodes.iter().any(|other| other.info.name == node.info.name && is_younger(other))
    };
    let counts = nodes.iter().filter(|node| !node.info.leaving && !is_dead(node)).map(|node| node.info.connections);
    let (staying, sum) = counts.fold((0, 0_u64), |(staying, sum), count| (staying + 1, sum.saturating_add(count)));
    sum.div_ceil(1.max(staying))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skywave_backplane::NodeInfo;

    use super::*;

    fn node(name: &str, started_at_ms: u64, connections: u64, leaving: bool) -> NodeRecord {
        let info = NodeInfo { name: name.into(), started_at_ms, connections, leaving, ..NodeInfo::default() };
        NodeRecord { incarnation: format!("{name}{started_at_ms}").into(), info, beat_age: Duration::ZERO }
    }

    #[test]
    fn the_mean_is_that_of_the_nodes_that_stay() {
        let (full, empty) = (node("paris", 1, 101, false), node("oslo", 1, 0, false));
        assert_eq!(mean(&[full.clone(), empty.clone()]), 51, "rounded up");
        let leaving = node("rome", 1, 1, true);
        assert_eq!(mean(&[full.clone(), empty.clone(), leaving.clone()]), 51);
        let died = node("oslo", 0, 40, false);
        assert_eq!(mean(&[died, full, empty]), 51);
        assert_eq!((mean(&[leaving]), mean(&[])), (0, 0));
    }
}
