//! Faults 12 and 21: a Redis Cluster whose slots move and whose masters die.

use crate::{
    cluster::Cluster,
    node,
    traffic::{PLAN, Traffic},
    wait::until,
};

#[tokio::test]
async fn slots_that_move_under_traffic_are_noticed_by_nobody() {
    let cluster = Cluster::start().await;
    let [paris, oslo] = node::pair(&cluster.url(), &cluster.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    let mut moved = 0;
    for (from, to) in [(0, 1), (1, 2)] {
        for slot in cluster.slots(from, "skywave:*:m:news:*").await {
            cluster.move_slot(slot, from, to).await;
            moved += 1;
        }
        traffic.flow(10).await;
    }
    assert!(moved > 5, "{moved} slots moved");
    traffic.end().await.assert_unnoticed();
}

/// One after the other, and each comes back as a replica: whatever is kept once for the whole cluster, the register of
/// nodes above all, loses its master once.
#[tokio::test]
#[ignore = "long"]
async fn every_master_of_a_cluster_dies_once() {
    let mut cluster = Cluster::start().await;
    let [paris, oslo] = node::pair(&cluster.url(), &cluster.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    for master in 0..3 {
        cluster.servers[master].kill();
        until("the replica to be promoted", async || cluster.is_master(master + 3).await).await;
        traffic.flow(10).await;
        cluster.servers[master].launch().await;
        cluster.until_follows(master).await;
        cluster.until_all("to be well", |info| info.contains("cluster_state:ok")).await;
    }
    traffic.flow(10).await;
    traffic.end().await.assert_lost_what_was_on_its_way_at_most();
}
