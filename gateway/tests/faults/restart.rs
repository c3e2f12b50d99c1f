//! Faults 1 to 4: connections that are killed, and a Redis that comes back with everything, or with nothing.

use std::time::Duration;

use crate::{
    ledger::Word,
    node,
    redis::{EMPTY, KEEPING, Redis},
    traffic::{PLAN, Plan, Traffic},
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

/// The snapshot that it comes back with is older than what clients have seen.
#[tokio::test]
async fn a_restart_that_lost_the_end_is_told_as_a_rollback() {
    let mut redis = Redis::start(&["--save", "3600 1000000"]).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    redis.command::<()>(&["SAVE"]).await;
    traffic.flow(10).await;
    redis.kill();
    traffic.until_backplane(false).await;
    redis.launch().await;
    // Beyond the offsets that were there before.
    traffic.flow(20).await;
    traffic.end().await.assert_told(&[Word::Rollback]);
}

#[tokio::test]
async fn without_history_a_broken_subscription_is_told_as_a_possible_gap() {
    let redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(Plan { namespace: "live", ..PLAN }, &[&paris, &oslo]).await;
    for _ in 0..3 {
        traffic.flow(5).await;
        redis.command::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        traffic.until_backplane(true).await;
    }
    traffic.flow(5).await;
    traffic.end().await.assert_told(&[Word::Possible; 3]);
}
