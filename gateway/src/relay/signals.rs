//! What this node says to others, on its way to the backplane.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use prost::Message as _;
use skywave_backplane::{Cluster, Delivery, Target};
use skywave_proto::v1::{Signal, signal};
use tokio::sync::mpsc;

/// Signals that are under way at once. More wait in the queue.
const UNDER_WAY: usize = 256;

/// A signal as it travels. Nobody waits for an answer by the time a node comes back that was away; an order still stands.
pub(super) fn encode(op: signal::Op) -> (Bytes, Delivery) {
    let delivery = match op {
        signal::Op::Question(_) | signal::Op::Answer(_) => Delivery::Live,
        signal::Op::Disconnect(_)
        | signal::Op::Subscribe(_)
        | signal::Op::Unsubscribe(_)
        | signal::Op::Refresh(_)
        | signal::Op::Replaced(_)
        | signal::Op::Drain(_)
        | signal::Op::Shed(_)
        | signal::Op::Revoked(_) => Delivery::Kept,
    };
    (Signal { op: Some(op) }.encode_to_vec().into(), delivery)
}

/// Sends what is in the queue. No order is promised, so none is kept.
pub(super) async fn send<C: Cluster>(cluster: Arc<C>, mut queue: mpsc::Receiver<(Target, (Bytes, Delivery))>) {
    let mut sending = FuturesUnordered::new();
    loop {
        tokio::select! {
            signal = queue.recv(), if sending.len() < UNDER_WAY => {
                let Some((to, (message, delivery))) = signal else { return };
                sending.push(cluster.signal(to, message, delivery));
            }
            Some(sent) = sending.next() => {
                if let Err(error) = sent {
                    tracing::warn!(%error, "another node was not told something");
                }
            }
        }
    }
}
