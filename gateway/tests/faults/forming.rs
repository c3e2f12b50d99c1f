//! From the first moment: who subscribes and publishes while the cluster is still coming together loses nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{
    client::{Client, Wants},
    cluster::Cluster,
    ledger::{Heard, Word},
    node::Node,
    publisher::{Counts, Publisher, Task},
    redis::{EMPTY, Redis},
    wait::until,
};

const CHANNELS: usize = 8;

/// Clients and back ends that are there as soon as their node listens, whether it is ready or not.
struct Early {
    channels: Vec<String>,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    counts: Arc<Counts>,
}

impl Early {
    fn new() -> Self {
        let channels = (0..CHANNELS).map(|place| format!("news:{place}")).collect();
        Self { channels, clients: Vec::new(), publishers: Vec::new(), counts: Arc::default() }
    }

    /// Two clients on all channels and a back end on one, at this node.
    fn come_to(&mut self, node: &Node) {
        for _ in 0..2 {
            self.clients.push(Client::start(Wants {
                name: format!("client {} of {}", self.clients.len(), node.name()),
                nodes: vec![node.public()],
                channels: self.channels.clone(),
                since: BTreeMap::new(),
                presence: false,
                patience: Duration::from_secs(60),
            }));
        }
        let number = self.publishers.len();
        let task = Task {
            publisher: u8::try_from(number).expect("a few"),
            channels: vec![self.channels[number % CHANNELS].clone()],
            addresses: vec![node.internal()],
            pace: Duration::from_millis(2),
            padding: 0,
            replicated: false,
        };
        self.publishers.push(Publisher::start(task, self.counts.clone()));
    }

    async fn until_acknowledged(&self, more: u64) {
        let now = self.counts.acknowledged.load(Ordering::Relaxed);
        until("more to be acknowledged", async || self.counts.acknowledged.load(Ordering::Relaxed) >= now + more).await;
    }

    /// Each client heard everything behind the position that its subscription was answered with, and no word of a loss.
    async fn end(self, node: &Node) {
        for client in &self.clients {
            client.subscribed().await;
        }
        self.until_acknowledged(50).await;
        self.publishers.iter().for_each(Publisher::finish);
        let mut acknowledged = 0;
        for publisher in self.publishers {
            acknowledged += publisher.end().await.values().map(Vec::len).sum::<usize>();
        }
        let mut lines = BTreeMap::new();
        for channel in &self.channels {
            lines.insert(channel.clone(), node.line(channel).await);
        }
        let stored: usize = lines.values().map(Vec::len).sum();
        assert_eq!(stored, acknowledged, "each is stored once");
        for client in self.clients {
            client
                .until("to stand where the channels end", |record| {
                    lines.iter().all(|(channel, line)| {
                        line.last().is_none_or(|(last, _)| record.channels[channel].at() == Some(*last))
                    })
                })
                .await;
            let name = client.name.clone();
            let record = client.end().await;
            for (channel, line) in &lines {
                let account = &record.channels[channel];
                assert!(account.told().is_empty(), "{name}, {channel}: {:?}", account.told());
                let Some(Heard::Told(Word::Began, Some(began))) = account.heard().first() else {
                    panic!("{name}, {channel}: {:?}", account.heard().first());
                };
                let heard = account.heard().iter().filter_map(|heard| match heard {
                    Heard::Publication(number, Some(at)) => Some((*at, *number)),
                    Heard::Publication(..) | Heard::Told(..) => None,
                });
                let behind = line.iter().filter(|(at, _)| at.offset > began.offset).copied();
                assert!(heard.eq(behind), "{name}, {channel}: everything behind {began}, once and in order");
            }
        }
    }
}

#[tokio::test]
async fn who_is_there_before_redis_and_before_the_other_nodes_loses_nothing() {
    let mut redis = Redis::absent(EMPTY);
    let mut early = Early::new();
    let mut nodes = vec![Node::launch("paris", &redis.url(), "").await];
    early.come_to(&nodes[0]);
    nodes.push(Node::launch("oslo", &redis.url(), "").await);
    early.come_to(&nodes[1]);
    redis.launch().await;
    early.until_acknowledged(1).await;
    nodes.push(Node::launch("rome", &redis.url(), "").await);
    early.come_to(&nodes[2]);
    early.until_acknowledged(200).await;
    early.end(&nodes[0]).await;
}

/// The same while a Redis Cluster is formed: for a moment nobody has some of the slots.
#[tokio::test]
#[ignore = "long"]
async fn who_is_there_before_a_redis_cluster_is_whole_loses_nothing() {
    let mut cluster = Cluster::apart().await;
    let mut early = Early::new();
    let mut nodes = Vec::new();
    for name in ["paris", "oslo", "rome"] {
        nodes.push(Node::launch(name, &cluster.url(), "").await);
        early.come_to(nodes.last().expect("just pushed"));
    }
    cluster.form().await;
    early.until_acknowledged(200).await;
    early.end(&nodes[0]).await;
}
