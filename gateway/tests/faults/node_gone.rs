//! Nodes that die, stand still or leave: clients go on elsewhere, with their positions.

use std::time::Duration;

use crate::{
    node::{self, Node},
    redis::{EMPTY, Redis},
    traffic::{PLAN, Plan, Traffic},
};

const ROAMING: Plan = Plan { roams: true, patience: Duration::from_secs(1), ..PLAN };

#[tokio::test]
async fn clients_of_a_killed_node_go_on_at_another() {
    let redis = Redis::start(EMPTY).await;
    let [mut paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(ROAMING, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    paris.kill();
    traffic.flow(10).await;
    paris.spawn();
    paris.ready().await;
    traffic.flow(10).await;
    traffic.end().await.assert_unnoticed();
}

#[tokio::test]
async fn clients_of_a_node_that_stands_still_go_on_at_another() {
    let redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(ROAMING, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    paris.stall();
    traffic.flow(10).await;
    paris.resume();
    traffic.flow(10).await;
    traffic.end().await.assert_unnoticed();
}

/// One after the other, as an update does.
#[tokio::test]
async fn a_rolling_restart_is_noticed_by_nobody() {
    let redis = Redis::start(EMPTY).await;
    let quick = "[drain]\ngrace = \"100ms\"\nwindow = \"5s\"\ndeadline = \"10s\"\n";
    let url = redis.url();
    let nodes = tokio::join!(Node::start("paris", &url, quick), Node::start("oslo", &url, quick));
    let mut nodes = [nodes.0, nodes.1];
    let traffic = Traffic::begin(ROAMING, &[&nodes[0], &nodes[1]]).await;
    for node in &mut nodes {
        traffic.flow(5).await;
        node.leave().await;
        traffic.flow(5).await;
        node.spawn();
        node.ready().await;
    }
    traffic.end().await.assert_unnoticed();
}
