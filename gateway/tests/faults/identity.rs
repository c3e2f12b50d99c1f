//! Faults 17 and 18: a Redis that forgets its scripts, or who it is. Nobody is told, for nothing is lost.

use std::sync::atomic::Ordering;

use crate::{
    node::{self, Node},
    redis::{EMPTY, Redis},
    traffic::{PLAN, Plan, Traffic, until_count},
    wait::until,
};

#[tokio::test]
async fn forgotten_scripts_are_noticed_by_nobody() {
    let redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    for _ in 0..5 {
        traffic.flow(5).await;
        redis.command::<()>(&["SCRIPT", "FLUSH"]).await;
        // Who comes back asks for history, which is another script.
        let visitor = traffic.visitor(&oslo, Default::default()).await;
        let places = visitor.end().await.places();
        redis.command::<()>(&["SCRIPT", "FLUSH"]).await;
        let visitor = traffic.visitor(&paris, places).await;
        let record = visitor.end().await;
        assert_eq!((record.recovered, record.faults()), (PLAN.channels, vec![]));
    }
    traffic.flow(5).await;
    let outcome = traffic.end().await;
    assert_eq!(outcome.counts.unknown.load(Ordering::Relaxed), 0);
    outcome.assert_unnoticed();
}

/// A master forgets its replication id some time after its last replica has left. Nodes that come later see another
/// generation than those from before, and both publish.
#[tokio::test]
async fn a_master_that_changes_its_replication_id_is_noticed_by_nobody() {
    let redis = Redis::start(&[EMPTY, &["--repl-backlog-ttl", "1"]].concat()).await;
    let replica = Redis::start(&[EMPTY, &["--replicaof", "127.0.0.1", &redis.port().to_string()]].concat()).await;
    let id = async || {
        let info: String = redis.command(&["INFO", "replication"]).await;
        let id = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().to_owned();
        (id, info.contains("connected_slaves:1"))
    };
    until("the replica to be there", async || id().await.1).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    let before = id().await.0;
    drop(replica);
    until("another replication id", async || id().await.0 != before).await;
    traffic.flow(10).await;
    let rome = Node::start("rome", &redis.url(), "").await;
    let more = Traffic::begin(Plan { namespace: "room", ..PLAN }, &[&rome]).await;
    more.flow(5).await;
    traffic.flow(10).await;
    more.end().await.assert_unnoticed();
    traffic.end().await.assert_unnoticed();
}

/// The same, and the newcomer publishes on the channels of the others.
#[tokio::test]
async fn nodes_of_two_generations_publish_on_one_channel() {
    let redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let mut traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    let mut newcomers = Vec::new();
    traffic.flow(10).await;
    let forget = "for _, key in ipairs(redis.call('KEYS', 'skywave:*:gen')) do redis.call('HSET', key, 'r', 'x') end";
    for (publisher, name) in [(1, "rome"), (2, "bern")] {
        redis.command::<()>(&["EVAL", forget, "0"]).await;
        let newcomer = Node::start(name, &redis.url(), "").await;
        let counts = traffic.also(publisher, &newcomer);
        until_count("the newcomer to publish", &counts.acknowledged, 100).await;
        traffic.flow(10).await;
        newcomers.push(newcomer);
    }
    traffic.end().await.assert_unnoticed();
}
