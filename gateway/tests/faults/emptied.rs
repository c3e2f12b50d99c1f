//! Faults 15 and 19: data that somebody deletes under a running Redis. What is gone is told, and never taken for what
//! was there before, not even where offsets have grown past the old ones.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    ledger::Word,
    node::{self, Node},
    redis::{EMPTY, Redis},
    traffic::{PLAN, Plan, Traffic},
};

/// Deletes while publications go on and one client is away, until every line is longer than it was. What the connected
/// are told, and whether who comes back to a node that knows nothing of it has recovered.
async fn emptied(delete: &[&str], told: &[Word], recovered: bool) {
    let redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let traffic = Traffic::begin(Plan { pace: Duration::from_millis(20), ..PLAN }, &[&paris, &oslo]).await;
    let visitor = traffic.visitor(&oslo, BTreeMap::new()).await;
    traffic.flow(20).await;
    let places = visitor.end().await.places();
    assert_eq!(places.len(), PLAN.channels);
    traffic.flow(2).await; // which it misses
    redis.command::<()>(delete).await;
    let longest = places.values().map(|place| place.offset).max().unwrap();
    traffic.flow(usize::try_from(longest).unwrap() + 5).await;
    let rome = Node::start("rome", &redis.url(), "").await;
    for node in [&paris, &oslo, &rome] {
        let visitor = traffic.visitor(node, places.clone()).await;
        traffic.flow(2).await;
        let record = visitor.end().await;
        assert_eq!(record.faults(), [], "coming back to {}", node.name());
        let words: Vec<_> = record.channels.values().map(|account| account.told()).collect();
        let expected = if recovered { vec![] } else { vec![Word::NotRecovered] };
        // Paris and Oslo may know themselves what was on the line that is still theirs.
        let may_recover = told.is_empty() && node.name() != "rome";
        assert!(may_recover || words == vec![expected; PLAN.channels], "coming back to {}: {words:?}", node.name());
    }
    traffic.end().await.assert_told(told);
}

#[tokio::test]
async fn an_emptied_redis_is_told_and_an_old_position_is_not_recovered() {
    emptied(&["FLUSHALL"], &[Word::Reset], false).await;
}

const DELETE: &str = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";

#[tokio::test]
async fn deleted_meta_keys_are_told_and_an_old_position_is_not_recovered() {
    emptied(&["EVAL", DELETE, "0", "skywave:*:m:news:*"], &[Word::Reset], false).await;
}

#[tokio::test]
async fn deleted_lists_are_told_to_those_who_need_them() {
    emptied(&["EVAL", DELETE, "0", "skywave:*:l:news:*"], &[], false).await;
}

#[tokio::test]
async fn whoever_was_away_while_nothing_was_deleted_recovers() {
    emptied(&["PING"], &[], true).await;
}
