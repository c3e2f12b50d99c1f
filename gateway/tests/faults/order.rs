//! One order for all: whoever publishes where, every subscriber of every node sees the same.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    client::{Client, Wants, all_subscribed},
    ledger::Heard,
    node::Node,
    publisher::{Counts, Publisher, Task},
    redis::{EMPTY, Redis},
    traffic::PLAN,
    wait::until,
};

const CHANNELS: usize = 10;
const SUBSCRIBERS: usize = 8;
const PUBLISHERS: usize = 4;

/// Publishes `count` on `nodes` nodes, four back ends at a time on every channel.
async fn all_see_the_same(nodes: usize, count: u64) {
    let redis = Redis::start(EMPTY).await;
    let mut all = Vec::new();
    for name in ["paris", "oslo", "rome"].into_iter().take(nodes) {
        all.push(Node::start(name, &redis.url(), "").await);
    }
    let channels: Vec<_> = (0..CHANNELS).map(|place| format!("news:{place}")).collect();
    let client = |place: usize| {
        Client::start(Wants {
            name: format!("client {place} of {}", all[place % nodes].name()),
            nodes: vec![all[place % nodes].public()],
            channels: channels.clone(),
            since: BTreeMap::new(),
            presence: false,
            patience: PLAN.patience,
        })
    };
    let clients: Vec<_> = (0..SUBSCRIBERS).map(client).collect();
    all_subscribed(&clients).await;
    let counts = Arc::new(Counts::default());
    let publisher = |place: usize| {
        let task = Task {
            publisher: u8::try_from(place).unwrap(),
            // All of them at once: the same number on each channel.
            channels: channels.clone(),
            addresses: vec![all[place % nodes].internal()],
            pace: Duration::ZERO,
            padding: 0,
            replicated: false,
        };
        Publisher::start(task, counts.clone())
    };
    let publishers: Vec<_> = (0..PUBLISHERS).map(publisher).collect();
    let acknowledged = || counts.acknowledged.load(std::sync::atomic::Ordering::Relaxed);
    // Part by part, so that a machine that is slow is not a failure.
    for part in 1..=20 {
        until("the next part to be acknowledged", async || acknowledged() >= count * part / 20).await;
    }
    publishers.iter().for_each(Publisher::finish);
    let mut total = 0;
    for publisher in publishers {
        total += publisher.end().await.values().map(Vec::len).sum::<usize>();
    }
    let mut records = Vec::new();
    for client in clients {
        client
            .until("everything", |record| {
                record.channels.values().map(|account| account.publications()).sum::<usize>() >= total
            })
            .await;
        records.push((client.name.clone(), client.end().await));
    }
    let sequence = |heard: &[Heard]| {
        heard.iter().filter(|heard| matches!(heard, Heard::Publication(..))).copied().collect::<Vec<_>>()
    };
    for channel in &channels {
        let first = sequence(records[0].1.channels[channel].heard());
        for (name, record) in &records {
            let account = &record.channels[channel];
            assert!(account.told().is_empty(), "{name}, {channel}: {:?}", account.told());
            let same = sequence(account.heard()) == first;
            assert!(same, "{name} and {} see another order of {channel}", records[0].0);
        }
    }
    for (name, record) in &records {
        assert_eq!(record.faults(), [], "{name}");
    }
    println!("{total} publications, {SUBSCRIBERS} subscribers on {nodes} nodes: identical sequences");
}

#[tokio::test]
async fn three_nodes_have_one_order() {
    all_see_the_same(3, 20_000).await;
}

#[tokio::test]
#[ignore = "long"]
async fn two_nodes_have_one_order_over_100_000_publications() {
    all_see_the_same(2, 100_000).await;
}

#[tokio::test]
#[ignore = "long"]
async fn three_nodes_have_one_order_over_100_000_publications() {
    all_see_the_same(3, 100_000).await;
}
