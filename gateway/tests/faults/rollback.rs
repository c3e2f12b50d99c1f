//! A failover that loses what was acknowledged: from every position that anybody ever saw, recovery says the truth.
//!
//! A master and its replica; the link between them is cut at a random acknowledged publication, the master goes on for a
//! while and dies, the replica is promoted. What was seen on the dead master and never reached the replica is lost: who
//! saw it is told, who comes back from there is not recovered, and everybody else gets everything.
//!
//! `FAULT_SEED` replays one seed.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use skywave_proto::StreamPosition;

use crate::{
    client::{Client, Record, Wants, all_subscribed},
    ledger::{Heard, Word},
    line::Line,
    node::{self, Node},
    proxy::Proxy,
    publisher::{Counts, Positions, Publisher, Task},
    redis::{EMPTY, Redis},
    wait::until,
};

const CHANNELS: usize = 4;

/// Two nodes over a master that can be replaced behind their backs.
struct Pair {
    nodes: [Node; 2],
    /// What the nodes take for the master.
    front: Proxy,
    master: Redis,
}

impl Pair {
    async fn start() -> Self {
        let master = Redis::start(&[EMPTY, &["--repl-diskless-sync-delay", "0"]].concat()).await;
        let front = Proxy::start(master.address()).await;
        let nodes = node::pair(&front.url(), &front.url()).await;
        Self { nodes, front, master }
    }

    /// A replica that has everything, and the link to its master.
    async fn replica(&self) -> (Redis, Proxy) {
        let link = Proxy::start(self.master.address()).await;
        let port = link.address().port().to_string();
        let options = [EMPTY, &["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port]].concat();
        let replica = Redis::start(&options).await;
        until("the replica to be synchronised", async || {
            let info: String = self.master.command(&["INFO", "replication"]).await;
            info.contains("state=online")
        })
        .await;
        (replica, link)
    }

    /// Kills the master and has the replica take its place.
    async fn promote(&mut self, replica: Redis) {
        self.master.kill();
        let _: String = replica.command(&["REPLICAOF", "NO", "ONE"]).await;
        self.front.retarget(replica.address());
        self.master = replica;
    }

    fn publishers(&self, channels: &[String], replicated: bool, counts: &Arc<Counts>) -> Vec<Publisher> {
        let task = |(place, channel): (usize, &String)| Task {
            publisher: u8::try_from(place).expect("a few"),
            channels: vec![channel.clone()],
            addresses: vec![self.nodes[place % 2].internal()],
            pace: Duration::from_millis(2),
            padding: 0,
            replicated,
        };
        channels.iter().enumerate().map(|each| Publisher::start(task(each), counts.clone())).collect()
    }

    fn client(&self, place: usize, channels: &[String], since: BTreeMap<String, StreamPosition>) -> Client {
        Client::start(Wants {
            name: format!("client {place}"),
            nodes: vec![self.nodes[place % 2].public()],
            channels: channels.to_vec(),
            since,
            presence: false,
            patience: Duration::from_secs(60),
        })
    }
}

async fn until_acknowledged(counts: &Counts, count: u64) {
    until(&format!("{count} acknowledged"), async || counts.acknowledged.load(Ordering::Relaxed) >= count).await;
}

async fn end(publishers: Vec<Publisher>) -> Positions {
    publishers.iter().for_each(Publisher::finish);
    let mut positions = Positions::new();
    for publisher in publishers {
        positions.extend(publisher.end().await);
    }
    positions
}

/// One failover. Gives how many acknowledged publications it has lost, and how many positions were tried.
async fn one(pair: &mut Pair, seed: u64) -> (usize, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let channels: Vec<_> = (0..CHANNELS).map(|place| format!("news:{seed}:{place}")).collect();
    let (replica, link) = pair.replica().await;
    let clients: Vec<_> = (0..2).map(|place| pair.client(place, &channels, BTreeMap::new())).collect();
    all_subscribed(&clients).await;
    let counts = Arc::new(Counts::default());
    let publishers = pair.publishers(&channels, false, &counts);
    let cut_at = random.random_range(5..150);
    until_acknowledged(&counts, cut_at).await;
    link.cut();
    let lost = random.random_range(0..100);
    until_acknowledged(&counts, cut_at + lost).await;
    pair.promote(replica).await;
    // More than can have been lost: offsets that were seen before come again, and must not be taken for the old ones.
    let now = counts.acknowledged.load(Ordering::Relaxed);
    until_acknowledged(&counts, now + lost + random.random_range(20..100)).await;
    let acknowledged = end(publishers).await;

    let mut lines = BTreeMap::new();
    for channel in &channels {
        lines.insert(channel.clone(), pair.nodes[0].line(channel).await);
    }
    let records = settled(clients, &lines).await;
    for (name, record) in &records {
        for (channel, line) in &lines {
            let heard = record.channels[channel].heard();
            check_connected(&format!("seed {seed}, {name}, {channel}"), heard, line);
        }
    }
    let tried = check_positions(pair, seed, &records, &lines).await;
    let kept: BTreeMap<_, HashSet<_>> =
        lines.iter().map(|(channel, line)| (channel, line.iter().map(|(at, _)| *at).collect())).collect();
    let is_lost = |channel: &String, at: &Option<StreamPosition>| at.is_some_and(|at| !kept[channel].contains(&at));
    let lost = acknowledged
        .iter()
        .map(|(channel, positions)| positions.iter().filter(|at| is_lost(channel, at)).count())
        .sum();
    (lost, tried)
}

/// Waits until the clients have heard what was published last.
async fn settled(clients: Vec<Client>, lines: &BTreeMap<String, Line>) -> Vec<(String, Record)> {
    let mut records = Vec::new();
    for client in clients {
        let has_last = |record: &Record| {
            let ends =
                |(channel, line): (&String, &Line)| record.channels[channel].at() == line.last().map(|(at, _)| *at);
            lines.iter().all(ends)
        };
        client.until("to stand where the channels end", has_last).await;
        let name = client.name.clone();
        records.push((name, client.end().await));
    }
    records
}

/// Everything that survived was heard once and in order; and if something was heard that did not, that was told behind
/// it.
fn check_connected(who: &str, heard: &[Heard], line: &Line) {
    let mut rest = line.iter();
    let mut has_seen_lost = false;
    for heard in heard {
        match heard {
            Heard::Publication(number, Some(at)) => {
                let is_kept = line.contains(&(*at, *number));
                if is_kept {
                    assert!(!has_seen_lost, "{who}: not told that what it saw was lost, before {at}");
                    assert_eq!(rest.next(), Some(&(*at, *number)), "{who}: once and in order");
                } else {
                    has_seen_lost = true;
                }
            }
            Heard::Publication(number, None) => panic!("{who}: {number} without a position"),
            Heard::Told(Word::Began, _) => {}
            Heard::Told(Word::Rollback | Word::Reset | Word::NotRecovered, _) => {
                assert!(has_seen_lost, "{who}: told of a loss that it never saw");
                has_seen_lost = false;
            }
            Heard::Told(word, _) => panic!("{who}: {word:?} on a channel with history"),
        }
    }
    assert!(!has_seen_lost, "{who}: not told that what it saw last was lost");
    assert_eq!(rest.next(), None, "{who}: everything that survived was heard");
}

/// Comes back from every position that anybody ever saw. Gives how many those were.
async fn check_positions(
    pair: &Pair,
    seed: u64,
    records: &[(String, Record)],
    lines: &BTreeMap<String, Line>,
) -> usize {
    let mut seen: BTreeMap<&String, HashSet<StreamPosition>> = BTreeMap::new();
    for (_, record) in records {
        for (channel, account) in &record.channels {
            let positions = account.heard().iter().filter_map(|heard| match heard {
                Heard::Publication(_, at) | Heard::Told(Word::Began, at) => *at,
                Heard::Told(..) => None, // given by the line that survived, so it is one of its positions
            });
            let (channel, _) = lines.get_key_value(channel).unwrap();
            seen.entry(channel).or_default().extend(positions);
        }
    }
    let seen: BTreeMap<_, Vec<_>> =
        seen.into_iter().map(|(channel, seen)| (channel, seen.into_iter().collect())).collect();
    let most = seen.values().map(Vec::len).max().unwrap_or(0);
    let channels: Vec<_> = lines.keys().cloned().collect();
    let mut visitors = Vec::new();
    for place in 0..most {
        let since = seen.iter().filter_map(|(channel, seen)| Some(((*channel).clone(), *seen.get(place)?))).collect();
        visitors.push(pair.client(place, &channels, since));
    }
    all_subscribed(&visitors).await;
    let mut tried = 0;
    for (visitor, place) in visitors.into_iter().zip(0..) {
        let record = settled(vec![visitor], lines).await.remove(0).1;
        for (channel, seen) in &seen {
            let Some(since) = seen.get(place) else { continue };
            tried += 1;
            check_recovery(
                &format!("seed {seed}, {channel} since {since}"),
                *since,
                record.channels[*channel].heard(),
                &lines[*channel],
            );
        }
    }
    tried
}

/// Everything after the position, or the word that it was not recovered; never the one and not the other.
fn check_recovery(what: &str, since: StreamPosition, heard: &[Heard], line: &Line) {
    // Nothing that was lost has the position of something that survived: each line has epochs of its own.
    let stands = line.iter().position(|(at, _)| *at == since);
    let is_start = since.offset == 0 && line.first().is_none_or(|(at, _)| at.epoch == since.epoch);
    // The replica had perhaps not even heard that the line had begun: then it has begun another one.
    let is_start_of_another =
        since.offset == 0 && line.first().is_some_and(|(at, _)| at.epoch != since.epoch && at.offset == 1);
    let after = match stands {
        Some(place) => Some(&line[place + 1..]),
        None if is_start || is_start_of_another => Some(&line[..]),
        None => None,
    };
    let is_refused = heard.iter().any(|heard| matches!(heard, Heard::Told(Word::NotRecovered, _)));
    if is_refused && is_start_of_another {
        return;
    }
    let Some(after) = after else {
        assert!(is_refused, "{what}: recovered from what was lost: {heard:?}");
        return;
    };
    assert!(!is_refused, "{what}: not recovered, although nothing of it was lost");
    let heard: Line = heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Publication(number, Some(at)) => Some((*at, *number)),
            Heard::Publication(..) | Heard::Told(..) => None,
        })
        .collect();
    assert_eq!(heard, after, "{what}");
}

async fn seeds(count: u64) {
    let seed = std::env::var("FAULT_SEED").ok().map(|seed| seed.parse().expect("FAULT_SEED is a number"));
    let seeds = seed.map_or(1..count + 1, |seed| seed..seed + 1);
    let mut pair = Pair::start().await;
    let (mut lost, mut tried) = (0, 0);
    for seed in seeds.clone() {
        println!("seed {seed} (FAULT_SEED={seed} replays it)");
        let (its_lost, its_tried) = one(&mut pair, seed).await;
        (lost, tried) = (lost + its_lost, tried + its_tried);
    }
    println!("{} failovers, {lost} acknowledged publications lost, each told; {tried} positions tried", seeds.count());
}

#[tokio::test]
async fn recovery_says_the_truth_from_every_position_after_a_failover() {
    seeds(5).await;
}

#[tokio::test]
#[ignore = "long"]
async fn recovery_says_the_truth_after_a_hundred_failovers() {
    seeds(100).await;
}

/// What was acknowledged as replicated survives; what was not is answered with where it stands, and can be tried again.
#[tokio::test]
async fn what_is_on_a_replica_survives_its_master() {
    let mut pair = Pair::start().await;
    for seed in 1..=3 {
        let mut random = StdRng::seed_from_u64(seed);
        let channels: Vec<_> = (0..CHANNELS).map(|place| format!("news:replicated:{seed}:{place}")).collect();
        let (replica, link) = pair.replica().await;
        let counts = Arc::new(Counts::default());
        let publishers = pair.publishers(&channels, true, &counts);
        until_acknowledged(&counts, random.random_range(5..100)).await;
        link.cut();
        until("somebody to hear that no replica has it", async || counts.not_replicated.load(Ordering::Relaxed) > 3)
            .await;
        pair.promote(replica).await;
        // There is no replica any more: nothing is acknowledged until there is.
        let (next, next_link) = pair.replica().await;
        let now = counts.acknowledged.load(Ordering::Relaxed);
        until_acknowledged(&counts, now + 20).await;
        for (channel, positions) in end(publishers).await {
            let kept: HashSet<_> = pair.nodes[0].line(&channel).await.into_iter().map(|(at, _)| at).collect();
            let lost: Vec<_> = positions.iter().flatten().filter(|at| !kept.contains(at)).collect();
            assert!(lost.is_empty(), "seed {seed}, {channel}: acknowledged as replicated, and lost: {lost:?}");
        }
        drop((next, next_link));
    }
}
