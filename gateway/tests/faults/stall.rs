//! Faults 5 and 6: a Redis that does not answer although it seems connected.

use std::time::Duration;

use crate::{
    node,
    proxy::Proxy,
    redis::{EMPTY, Redis},
    traffic::{PLAN, Traffic},
    wait::last,
};

async fn stalled_for(duration: Duration) {
    let redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    redis.stall();
    tokio::join!(last(duration), traffic.until_backplane(false));
    redis.resume();
    traffic.flow(10).await;
    traffic.until_backplane(true).await;
    traffic.end().await.assert_unnoticed();
}

#[tokio::test]
async fn a_stall_of_three_seconds_is_a_delay() {
    stalled_for(Duration::from_secs(3)).await;
}

#[tokio::test]
#[ignore = "long"]
async fn a_stall_of_eight_seconds_is_a_delay() {
    stalled_for(Duration::from_secs(8)).await;
}

/// The publishing node has its own way to Redis: what the other one misses is in the history.
#[tokio::test]
async fn who_sat_in_a_black_hole_gets_what_the_others_heard() {
    let redis = Redis::start(EMPTY).await;
    let proxy = Proxy::start(redis.address()).await;
    let [paris, oslo] = node::pair(&redis.url(), &proxy.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    proxy.black_hole();
    last(Duration::from_secs(4)).await;
    proxy.heal();
    traffic.flow(10).await;
    traffic.end().await.assert_unnoticed();
}

/// Connections that are there swallow everything; new ones are well. When it heals, the old ones bring what they swallowed.
#[tokio::test]
async fn a_connection_that_swallows_everything_is_replaced() {
    let redis = Redis::start(EMPTY).await;
    let proxy = Proxy::start(redis.address()).await;
    let [paris, oslo] = node::pair(&proxy.url(), &proxy.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    proxy.black_hole_old();
    traffic.flow(10).await;
    proxy.heal();
    traffic.flow(10).await;
    traffic.end().await.assert_unnoticed();
}

#[tokio::test]
async fn a_network_that_is_slow_and_then_breaks_is_a_delay() {
    let redis = Redis::start(EMPTY).await;
    let proxy = Proxy::start(redis.address()).await;
    let [paris, oslo] = node::pair(&proxy.url(), &proxy.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    proxy.delay(Duration::from_millis(60));
    traffic.flow(5).await;
    proxy.cut();
    last(Duration::from_secs(1)).await;
    proxy.heal();
    traffic.flow(5).await;
    proxy.delay(Duration::ZERO);
    traffic.flow(5).await;
    traffic.end().await.assert_unnoticed();
}
