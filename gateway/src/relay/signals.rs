//! What this node says to others, on its way to the backplane.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use prost::Message as _;
use skywave_backplane::{Cluster, Target};
use skywave_proto::v1::{Signal, signal};
use tokio::sync::mpsc;

/// Signals that are under way at once. More wait in the queue.
const UNDER_WAY: usize = 256;

/// A signal as it travels.
pub(super) fn encode(op: signal::Op) -> Bytes {
    Signal { op: Some(op) }.encode_to_vec().into()
}

/// Sends what is in the queue. No order is promised, so none is kept.
pub(super) async fn send<C: Cluster>(cluster: Arc<C>, mut queue: mpsc::Receiver<(Target, Bytes)>) {
    let mut sending = FuturesUnordered::new();
    loop {
        tokio::select! {
            signal = queue.recv(), if sending.len() < UNDER_WAY => {
                let Some((to, message)) = signal else { return };
                sending.push(cluster.signal(to, message));
            }
            Some(sent) = sending.next() => {
                if let Err(error) = sent {
                    tracing::warn!(%error, "another node was not told something");
                }
            }
        }
    }
}
