//! Fault 13: a Redis that is there and says no. Publishers are told that certainly nothing was done; nobody else notices.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    node,
    redis::{EMPTY, Redis, free_port},
    traffic::{PLAN, Traffic, until_count},
    wait::last,
};

/// Longer than a node bears with silence: refused probes must not look like a dead connection.
const LONG: Duration = Duration::from_millis(3500);

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// Traffic while the server refuses writes; then all is well again.
async fn refused_while(redis: &Redis, begin: &[&[&str]], end: &[&[&str]], is_degraded: bool) {
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    for command in begin {
        redis.command::<()>(command).await;
    }
    until_count("publishers to be refused", &traffic.counts.refused, load(&traffic.counts.refused) + 20).await;
    last(LONG).await;
    // Who comes now is let in.
    if !is_degraded {
        drop(traffic.visitor(&oslo, Default::default()).await);
        let away = |client: &crate::client::Client| client.look(|record| record.backplane.contains(&false));
        assert!(!traffic.clients.iter().any(away), "a refusal is not an outage");
    }
    for command in end {
        redis.command::<()>(command).await;
    }
    traffic.flow(10).await;
    let outcome = traffic.end().await;
    // A refusal says that nothing was done, so whatever was tried again after one was new.
    if !is_degraded {
        assert_eq!((load(&outcome.counts.unknown), load(&outcome.counts.duplicates)), (0, 0));
    }
    outcome.assert_unnoticed();
}

#[tokio::test]
async fn without_memory_publishers_are_refused_and_subscribers_are_let_in() {
    let redis = Redis::start(EMPTY).await;
    let (full, room) = (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]);
    refused_while(&redis, &[&full], &[&room], false).await;
}

#[tokio::test]
async fn with_too_few_replicas_publishers_are_refused() {
    let redis = Redis::start(EMPTY).await;
    let (one, none) =
        (["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"]);
    refused_while(&redis, &[&one], &[&none], false).await;
}

/// Its master is not there, so it keeps what it has. It comes back under another replication id.
#[tokio::test]
async fn a_master_that_is_a_replica_for_a_while_loses_nothing() {
    let redis = Redis::start(EMPTY).await;
    let port = free_port().to_string();
    refused_while(&redis, &[&["REPLICAOF", "127.0.0.1", &port]], &[&["REPLICAOF", "NO", "ONE"]], true).await;
}

#[tokio::test]
async fn a_busy_script_is_waited_for() {
    let redis = Redis::start(&[EMPTY, &["--busy-reply-threshold", "50"]].concat()).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    let busy = redis.try_command(&["EVAL", "while true do end", "0"]);
    let killed = async {
        until_count("publishers to be refused", &traffic.counts.refused, 20).await;
        last(LONG).await;
        redis.command::<()>(&["SCRIPT", "KILL"]).await;
    };
    let _ = tokio::join!(busy, killed); // the first one is told that it was killed
    traffic.flow(10).await;
    traffic.end().await.assert_unnoticed();
}

#[tokio::test]
async fn a_server_that_loads_its_data_for_long_is_waited_for() {
    let mut redis = Redis::start(&["--save", "3600 1000000"]).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    let many = "for number = 1, 10000 do redis.call('SET', 'other:' .. number, number) end";
    redis.command::<()>(&["EVAL", many, "0"]).await;
    // Ended kindly it writes everything, and then it reads at 300 us for a key.
    redis.end().await;
    redis.add(&["--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024"]);
    redis.spawn();
    let loading = async || {
        let answer = redis.try_command(&["PING"]).await;
        answer.is_err_and(|error| error.code() == Some("LOADING"))
    };
    crate::wait::until("the server to load", loading).await;
    traffic.flow(10).await;
    traffic.end().await.assert_unnoticed();
}
