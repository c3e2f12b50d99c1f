//! Faults 7 and 8: a node that does not keep up, and one that Redis cuts off for its backlog.

use std::time::Duration;

use crate::{
    node,
    redis::{EMPTY, Redis},
    traffic::{PLAN, Plan, Traffic},
    wait::last,
};

/// All that comes in while it stands still waits for it, and then comes at once: more than its queues hold, and more than
/// its clients' outboxes. Its clients are cut off as slow ones are and come back with their positions.
#[tokio::test]
async fn a_node_that_stood_still_catches_up() {
    let unlimited = ["--client-output-buffer-limit", "pubsub 0 0 0"];
    let redis = Redis::start(&[EMPTY, &unlimited].concat()).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    // Oslo's API stands still with it.
    let plan = Plan { publishers: 0, broadcasters: 8, pace: Duration::ZERO, clients: 1, ..PLAN };
    let traffic = Traffic::begin_at(plan, &[&paris, &oslo], &[&paris]).await;
    traffic.flow(10).await;
    oslo.stall();
    last(Duration::from_secs(4)).await;
    oslo.resume();
    traffic.flow(10).await;
    let outcome = traffic.end().await;
    let overflow = oslo.logged("publications come in faster than they are taken; catching up from history");
    let slow = outcome.records.iter().map(|(_, record)| record.connections.len() - 1).sum::<usize>();
    println!("a lane overflowed: {}; clients that were cut off: {slow}", overflow.is_some());
    outcome.assert_unnoticed();
}

#[tokio::test]
async fn a_subscriber_that_redis_cuts_off_for_its_backlog_catches_up() {
    let limited = ["--client-output-buffer-limit", "pubsub 64kb 64kb 1"];
    let redis = Redis::start(&[EMPTY, &limited].concat()).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let plan = Plan { padding: 16 * 1024, ..PLAN };
    let traffic = Traffic::begin_at(plan, &[&paris, &oslo], &[&paris]).await;
    traffic.flow(5).await;
    oslo.stall();
    // The kernel holds some megabytes for it, and then Redis begins to count.
    let cut_off = async || redis.log().contains("overcoming of output buffer limits");
    crate::wait::until("the server to lose patience", cut_off).await;
    oslo.resume();
    traffic.flow(5).await;
    // First it reads the megabytes that came before the end.
    let noticed = async || oslo.logged("redis is away; trying to reach it").is_some();
    crate::wait::until("the node to see that it was cut off", noticed).await;
    traffic.end().await.assert_unnoticed();
}
