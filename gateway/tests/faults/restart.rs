//! Faults 1 to 4: connections that are killed, and a Redis that comes back with everything, or with nothing.

use std::time::Duration;

use crate::{
    ledger::Word,
    node,
    redis::{EMPTY, KEEPING, Redis},
    traffic::{PLAN, Traffic},
    wait::last,
};

#[tokio::test]
async fn five_killed_subscribers_are_noticed_by_nobody() {
    let redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    for _ in 0..5 {
        traffic.flow(5).await;
        let killed: u64 = redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(killed, 2, "one subscriber of each node");
    }
    traffic.flow(5).await;
    traffic.until_backplane(true).await;
    traffic.end().await.assert_unnoticed();
}

#[tokio::test]
async fn killed_command_connections_are_noticed_by_publishers_only() {
    let redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    for _ in 0..5 {
        traffic.flow(5).await;
        let killed: u64 = redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert!(killed >= 4, "two of each node, and who asks");
    }
    traffic.flow(5).await;
    traffic.end().await.assert_unnoticed();
}

#[tokio::test]
async fn a_restart_that_kept_everything_is_noticed_by_nobody() {
    let mut redis = Redis::start(KEEPING).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    for _ in 0..2 {
        traffic.flow(10).await;
        redis.kill();
        traffic.until_backplane(false).await;
        last(Duration::from_secs(1)).await;
        redis.launch().await;
        traffic.until_backplane(true).await;
    }
    traffic.flow(10).await;
    traffic.end().await.assert_unnoticed();
}

#[tokio::test]
async fn a_restart_that_kept_nothing_is_told_on_every_channel() {
    let mut redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    redis.kill();
    traffic.until_backplane(false).await;
    last(Duration::from_secs(1)).await;
    redis.launch().await;
    traffic.all_told().await;
    traffic.flow(10).await;
    traffic.end().await.assert_told(&[Word::Reset]);
}

#[tokio::test]
async fn an_outage_of_ten_seconds_is_a_delay() {
    let mut redis = Redis::start(KEEPING).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    redis.kill();
    last(Duration::from_secs(10)).await;
    redis.launch().await;
    traffic.flow(10).await;
    traffic.end().await.assert_unnoticed();
}
