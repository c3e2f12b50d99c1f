//! Publishers and clients on many channels, while something goes wrong; and what is to be said of it in the end.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use skywave_proto::StreamPosition;

use crate::{
    client::{Client, Record, Wants, all_subscribed},
    ledger::{Acknowledged, Heard, Number, Verdict, Word},
    node::Node,
    publisher::{Counts, Publisher, Task},
    wait::until,
};

/// How much goes on.
#[derive(Clone, Copy)]
pub struct Plan {
    pub namespace: &'static str,
    pub channels: usize,
    /// Clients of each node, each subscribed to all channels.
    pub clients: usize,
    /// Publishers of each channel, each at a node of its own.
    pub publishers: usize,
    /// Publishers of all channels together, each at a node of its own.
    pub broadcasters: usize,
    /// From an acknowledgement to the next publication.
    pub pace: Duration,
    /// Bytes beside the number.
    pub padding: usize,
    /// Clients and publishers go to another node when theirs does not answer.
    pub roams: bool,
    /// How long clients bear with a silent node.
    pub patience: Duration,
}

/// As the design has it: 20 channels.
pub const PLAN: Plan = Plan {
    namespace: "news",
    channels: 20,
    clients: 2,
    publishers: 1,
    broadcasters: 0,
    pace: Duration::from_millis(30),
    padding: 0,
    roams: false,
    patience: Duration::from_secs(60),
};

pub struct Traffic {
    pub clients: Vec<Client>,
    channels: Vec<String>,
    pub counts: Arc<Counts>,
    publishers: Vec<Publisher>,
}

impl Traffic {
    /// Begins once every client is subscribed to every channel.
    pub async fn begin(plan: Plan, nodes: &[&Node]) -> Self {
        Self::begin_at(plan, nodes, nodes).await
    }

    /// Publishes through other nodes than clients are at.
    pub async fn begin_at(plan: Plan, nodes: &[&Node], publishing: &[&Node]) -> Self {
        let channels: Vec<_> = (0..plan.channels).map(|number| format!("{}:{number}", plan.namespace)).collect();
        // The own node first, the others only for who roams.
        let order = |nodes: &[&Node], own: usize| {
            let mut nodes = nodes.iter().map(|node| (node.public(), node.internal())).collect::<Vec<_>>();
            let count = nodes.len();
            nodes.rotate_left(own % count);
            nodes.truncate(if plan.roams { count } else { 1 });
            nodes
        };
        let clients: Vec<_> = (0..nodes.len() * plan.clients)
            .map(|number| {
                Client::start(Wants {
                    name: format!("client {number} of {}", nodes[number % nodes.len()].name()),
                    nodes: order(nodes, number).into_iter().map(|(public, _)| public).collect(),
                    channels: channels.clone(),
                    since: BTreeMap::new(),
                    presence: false,
                    patience: plan.patience,
                })
            })
            .collect();
        all_subscribed(&clients).await;
        let counts = Arc::new(Counts::default());
        let task = |publisher: usize, place: usize, channels: &[String]| Task {
            publisher: u8::try_from(publisher).expect("a few"),
            channels: channels.to_vec(),
            addresses: order(publishing, place + publisher).into_iter().map(|(_, internal)| internal).collect(),
            pace: plan.pace,
            padding: plan.padding,
            replicated: false,
        };
        let each = |place| (0..plan.publishers).map(move |publisher| (publisher, place));
        let of_one = (0..channels.len()).flat_map(each);
        let of_one = of_one.map(|(publisher, place)| task(publisher, place, &channels[place..=place]));
        let of_all = (0..plan.broadcasters).map(|number| task(plan.publishers + number, 0, &channels));
        let publishers = of_one.chain(of_all).map(|task| Publisher::start(task, counts.clone())).collect();
        Self { clients, channels, counts, publishers }
    }

    /// A client of this node that is subscribed to all channels, or comes back to them, and is not part of the traffic.
    pub async fn visitor(&self, node: &Node, since: BTreeMap<String, StreamPosition>) -> Client {
        let visitor = Client::start(Wants {
            name: format!("visitor of {}", node.name()),
            nodes: vec![node.public()],
            channels: self.channels.clone(),
            since,
            presence: false,
            patience: PLAN.patience,
        });
        visitor.subscribed().await;
        visitor
    }

    /// Has one more back end publish on all channels, through this node.
    pub fn also(&mut self, publisher: u8, node: &Node) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        let task = Task {
            publisher,
            channels: self.channels.clone(),
            addresses: vec![node.internal()],
            pace: PLAN.pace,
            padding: 0,
            replicated: false,
        };
        self.publishers.push(Publisher::start(task, counts.clone()));
        counts
    }

    /// Waits until every client has heard so many more publications on every channel.
    pub async fn flow(&self, more: usize) {
        Self::flow_of(&self.clients, more).await;
    }

    /// The same for some clients only.
    pub async fn flow_of(clients: &[Client], more: usize) {
        let heard =
            |record: &Record| record.channels.values().map(|account| account.publications()).collect::<Vec<_>>();
        let before: Vec<_> = clients.iter().map(|client| client.look(heard)).collect();
        for (client, before) in clients.iter().zip(before) {
            let what = format!("{more} more on each channel");
            client
                .until(&what, |record| heard(record).iter().zip(&before).all(|(now, then)| *now >= then + more))
                .await;
        }
    }

    /// Waits until every client has been told something on every channel.
    pub async fn all_told(&self) {
        for client in &self.clients {
            let told = |record: &Record| record.channels.values().all(|account| !account.told().is_empty());
            client.until("to be told on every channel", told).await;
        }
    }

    /// Waits until every client has been told that the backplane is away, or that it is there.
    pub async fn until_backplane(&self, ok: bool) {
        for client in &self.clients {
            let what = format!("to be told that the backplane is there: {ok}");
            client.until(&what, |record| record.backplane.last() == Some(&ok)).await;
        }
    }

    /// Has the publishers finish, waits for what they published last, and judges.
    pub async fn end(mut self) -> Outcome {
        self.publishers.iter().for_each(Publisher::finish);
        let mut acknowledged: BTreeMap<String, Acknowledged> = BTreeMap::new();
        for publisher in std::mem::take(&mut self.publishers) {
            let number = publisher.number();
            for (channel, positions) in publisher.end().await {
                acknowledged.entry(channel).or_default().insert(number, positions);
            }
        }
        let has_last = |record: &Record| {
            acknowledged.iter().all(|(channel, publishers)| {
                publishers.iter().all(|(&publisher, positions)| {
                    let last = Number { publisher, number: positions.len() as u64 - 1 };
                    record.channels[channel].has(last)
                })
            })
        };
        let mut records = Vec::new();
        for client in std::mem::take(&mut self.clients) {
            client.until("the last publication of every channel", has_last).await;
            let name = client.name.clone();
            records.push((name, client.end().await));
        }
        Outcome { acknowledged, records, counts: self.counts.clone() }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what publishers were answered: {:#?}", self.counts);
        }
    }
}

/// What came of it.
pub struct Outcome {
    pub acknowledged: BTreeMap<String, Acknowledged>,
    /// By the clients' names.
    pub records: Vec<(String, Record)>,
    pub counts: Arc<Counts>,
}

impl Outcome {
    /// Nothing was lost, doubled or reordered without a word, and nothing was overwritten.
    pub fn assert_kept(&self) {
        let verdicts = self.judge();
        let overwritten: usize = verdicts.iter().map(|(.., verdict)| verdict.overwritten).sum();
        assert_eq!(overwritten, 0, "publications were acknowledged and lost");
    }

    /// As [`Outcome::assert_kept`], and nobody was told anything.
    pub fn assert_unnoticed(&self) {
        self.assert_kept();
        for (name, record) in &self.records {
            for (channel, account) in &record.channels {
                assert_eq!(account.told(), [], "{name} of {channel}");
            }
        }
    }

    /// Replication is asynchronous: what was on its way when a master died may be acknowledged and lost, and who saw it is
    /// told. Nothing else is, and nobody is told anything else.
    pub fn assert_lost_what_was_on_its_way_at_most(&self) {
        let overwritten: usize = self.judge().iter().map(|(.., verdict)| verdict.overwritten).sum();
        assert!(overwritten < 100, "{overwritten} were acknowledged and lost");
        for (name, record) in &self.records {
            for (channel, account) in &record.channels {
                let told = account.told();
                assert!(told.iter().all(|word| *word == Word::Rollback), "{name} of {channel}: {told:?}");
            }
        }
    }

    /// As [`Outcome::assert_kept`], and on every channel every client was told this and nothing else.
    pub fn assert_told(&self, words: &[Word]) {
        self.assert_kept();
        for (name, record) in &self.records {
            for (channel, account) in &record.channels {
                assert_eq!(account.told(), words, "{name} of {channel}");
            }
        }
    }

    /// Nothing was lost, doubled or reordered without a word. A verdict for every client and channel.
    pub fn judge(&self) -> Vec<(&str, &str, Verdict)> {
        let mut verdicts = Vec::new();
        for (name, record) in &self.records {
            for (channel, account) in &record.channels {
                let verdict = account.judge(&self.acknowledged[channel]);
                verdicts.push((name.as_str(), channel.as_str(), account.heard(), verdict));
            }
        }
        let sum = |count: fn(&Verdict) -> usize| verdicts.iter().map(|(.., verdict)| count(verdict)).sum::<usize>();
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let silence = self.records.iter().map(|(_, record)| record.silence).max().unwrap_or_default();
        let recovered: usize = self.records.iter().map(|(_, record)| record.recovered).sum();
        let summary = format!(
            "acknowledged {}, refused {}, unknown {}, duplicates {}; heard {}, told {}, recovered subscriptions {recovered}, \
             longest silence {silence:?}; lost {}, doubled {}, reordered {}, overwritten {}",
            load(&self.counts.acknowledged),
            load(&self.counts.refused),
            load(&self.counts.unknown),
            load(&self.counts.duplicates),
            sum(|verdict| verdict.heard),
            sum(|verdict| verdict.told),
            sum(Verdict::lost),
            sum(Verdict::doubled),
            sum(Verdict::reordered),
            sum(|verdict| verdict.overwritten),
        );
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        println!("{test}: {summary}");
        let mut wrong = String::new();
        for (name, channel, heard, verdict) in verdicts.iter().filter(|(.., verdict)| !verdict.faults.is_empty()) {
            let _ = writeln!(wrong, "{name} on {channel}: {:?}", &verdict.faults[..verdict.faults.len().min(10)]);
            let place = verdict.faults[0].0;
            let around = &heard[place.saturating_sub(6)..(place + 5).min(heard.len())];
            let _ = writeln!(
                wrong,
                "    around the first: {}",
                around.iter().map(Heard::to_string).collect::<Vec<_>>().join(", ")
            );
        }
        let is_wrong = !wrong.is_empty();
        for (name, record) in self.records.iter().filter(|_| is_wrong) {
            let _ = writeln!(wrong, "{name} noted\n    {}", record.notes.join("\n    "));
        }
        assert!(wrong.is_empty(), "{summary}\n{wrong}");
        verdicts.into_iter().map(|(name, channel, _, verdict)| (name, channel, verdict)).collect()
    }
}

/// Waits until publishers have been answered so.
pub async fn until_count(what: &str, count: &std::sync::atomic::AtomicU64, least: u64) {
    until(what, async || count.load(Ordering::Relaxed) >= least).await;
}
