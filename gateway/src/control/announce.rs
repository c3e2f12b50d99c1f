//! How this node makes itself known, and learns which others there are.

use std::time::Duration;

use skywave_backplane::{Cluster as _, NodeInfo};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{metrics, relay::Relay};

/// How often what others are told is brought up to date.
const INTERVAL: Duration = Duration::from_secs(2);

/// Tells the cluster about this node, now and again until it is gone, and counts who is there.
pub async fn announce(relay: Relay, info: impl Fn() -> NodeInfo + Send, gone: CancellationToken) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = gone.cancelled() => return,
        }
        relay.backplane().announce(info());
        // While the backplane is away nobody knows; the figure then is what it was.
        if let Ok(Ok(nodes)) = tokio::time::timeout(INTERVAL, relay.backplane().nodes()).await {
            metrics::nodes(nodes.len());
        }
    }
}
