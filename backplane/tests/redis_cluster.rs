//! The backplane through a Redis Cluster keeps the same promises.

mod support;

use support::cluster::{Cluster, Corner};
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

async fn corner() -> Corner<impl Fn() -> skywave_backplane::RedisOptions> {
    let cluster = CLUSTER.get_or_init(Cluster::started).await;
    let prefix = format!("test-{:08x}", rand::random::<u32>());
    Corner(move || cluster.options(&prefix))
}

skywave_backplane::promises!(corner().await);
