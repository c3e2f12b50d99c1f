//! Finds out where the masters are, and keeps finding out: failovers and moved slots change that at any time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisResult, Value, aio::MultiplexedConnection};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    inspect::{self, Credentials},
    keys::{self, SLOTS},
    masters::{Found, Masters},
    options::{Access, Topology},
};

/// How often the sentinels are asked although nothing seems wrong. A demoted master may go on answering.
const SENTINEL_INTERVAL: Duration = Duration::from_secs(1);
/// How often the cluster is asked although nothing seems wrong.
const CLUSTER_INTERVAL: Duration = Duration::from_secs(15);
/// At most this often, however much seems wrong.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(700);
/// How many nodes of a cluster are asked at a time.
const WITNESSES: usize = 8;
/// How often it is a warning that nobody answers.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Tells the masters where they are, until the end.
pub(super) async fn keep(masters: Arc<Masters>) {
    match masters.options.topology.clone() {
        Topology::Fixed(addresses) => {
            let count = addresses.len();
            let mut found: Vec<_> =
                addresses.into_iter().map(|address| Found { address, slots: BTreeSet::new() }).collect();
            for slot in 0..SLOTS {
                found[keys::share(slot / (SLOTS / keys::PARTITIONS), count)].slots.insert(slot);
            }
            masters.retarget(found, false);
        }
        Topology::Sentinel { sentinels, name, access } => {
            let mut asked: Vec<_> = sentinels.into_iter().map(|at| Witness::new(at, Credentials::Sentinel)).collect();
            let mut rounds = Rounds::new(SENTINEL_INTERVAL);
            while rounds.next(&masters).await {
                match ask_sentinels(&mut asked, &name, &access).await {
                    Some(address) => {
                        rounds.answered();
                        masters.retarget(vec![Found { address, slots: (0..SLOTS).collect() }], false);
                    }
                    None => rounds.unanswered("no sentinel names a master", &name, asked.iter()),
                }
            }
        }
        Topology::Cluster { seeds, access } => {
            let mut known: BTreeMap<String, Witness> = BTreeMap::new();
            let mut rounds = Rounds::new(CLUSTER_INTERVAL);
            while rounds.next(&masters).await {
                for seed in &seeds {
                    known
                        .entry(seed.addr().to_string())
                        .or_insert_with(|| Witness::new(seed.clone(), Credentials::Redis));
                }
                match ask_cluster(&mut known, &access).await {
                    Some(view) => {
                        rounds.answered();
                        rounds.is_whole = view.is_whole();
                        known.retain(|at, _| view.nodes.contains_key(at));
                        for (at, address) in view.nodes {
                            known.entry(at).or_insert_with(|| Witness::new(address, Credentials::Redis));
                        }
                        masters.retarget(view.masters, true);
                    }
                    None => rounds.unanswered("no node of the cluster says who has which slots", "", known.values()),
                }
            }
        }
    }
}

/// When to ask.
struct Rounds {
    interval: Duration,
    first: bool,
    is_whole: bool,
    warned_at: Option<Instant>,
}

impl Rounds {
    fn new(interval: Duration) -> Self {
        Self { interval, first: true, is_whole: true, warned_at: None }
    }

    /// Waits for the next one; false at the end.
    async fn next(&mut self, masters: &Masters) -> bool {
        if std::mem::take(&mut self.first) {
            return true;
        }
        let interval = if self.is_whole && self.warned_at.is_none() { self.interval } else { 5 * PAUSE };
        let wait = async {
            tokio::time::sleep(PAUSE).await;
            let _ = tokio::time::timeout(interval.saturating_sub(PAUSE), masters.stale.notified()).await;
        };
        masters.stop.run_until_cancelled(wait).await.is_some()
    }

    fn answered(&mut self) {
        self.warned_at = None;
    }

    fn unanswered<'a>(&mut self, what: &str, name: &str, mut asked: impl Iterator<Item = &'a Witness>) {
        if self.warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
            self.warned_at = Some(Instant::now());
            let error =
                asked.find_map(|witness| Some((witness.address.addr().to_string(), witness.silent.as_deref()?)));
            let (at, error) = error.unzip();
            warn!(name, at, error, "{what}; asking again");
        }
    }
}

/// Somebody who can be asked where the masters are.
struct Witness {
    address: ConnectionInfo,
    connection: Option<MultiplexedConnection>,
    /// Who it is asked as.
    credentials: Credentials,
    /// Why it has not answered the last time.
    silent: Option<String>,
}

impl Witness {
    fn new(address: ConnectionInfo, credentials: Credentials) -> Self {
        Self { address, connection: None, credentials, silent: None }
    }

    async fn ask(&mut self, pipeline: &redis::Pipeline) -> Option<Vec<Value>> {
        let silent = match tokio::time::timeout(PATIENCE, self.try_ask(pipeline)).await {
            Ok(Ok(answers)) => {
                self.silent = None;
                return Some(answers);
            }
            Ok(Err(error)) => inspect::explain(&error, self.credentials),
            Err(_) => "no answer in time".to_owned(),
        };
        debug!(at = %self.address.addr(), error = silent, "a witness does not answer");
        (self.connection, self.silent) = (None, Some(silent));
        None
    }

    async fn try_ask(&mut self, pipeline: &redis::Pipeline) -> RedisResult<Vec<Value>> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(PATIENCE))
                    .set_response_timeout(Some(PATIENCE));
                let client = Client::open(self.address.clone())?;
                none.insert(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
        };
        let answers = connection.send_packed_commands(pipeline, 0, pipeline.len()).await?;
        answers.into_iter().map(Value::extract_error).collect()
    }
}

/// What the sentinel with the newest configuration says.
async fn ask_sentinels(sentinels: &mut [Witness], name: &str, access: &Access) -> Option<ConnectionInfo> {
    let mut question = redis::pipe();
    question.cmd("SENTINEL").arg("MASTER").arg(name);
    let answers = join_all(sentinels.iter_mut().map(|sentinel| sentinel.ask(&question))).await;
    let views = answers.into_iter().flatten().filter_map(|mut answers| {
        let fields: BTreeMap<String, String> = redis::from_redis_value(answers.pop()?).ok()?;
        let epoch: u64 = fields.get("config-epoch")?.parse().ok()?;
        Some((epoch, access.to(fields.get("ip")?, fields.get("port")?.parse().ok()?).ok()?))
    });
    views.max_by_key(|(epoch, _)| *epoch).map(|(_, address)| address)
}

/// What a node of a cluster says about it.
struct View {
    masters: Vec<Found>,
    /// All nodes that it names, replicas too.
    nodes: BTreeMap<String, ConnectionInfo>,
}

impl View {
    fn is_whole(&self) -> bool {
        self.masters.iter().map(|found| found.slots.len()).sum::<usize>() == SLOTS
    }
}

/// What the node with the newest configuration says; one that thinks the cluster is well before one that does not.
async fn ask_cluster(known: &mut BTreeMap<String, Witness>, access: &Access) -> Option<View> {
    let mut question = redis::pipe();
    question.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let mut witnesses: Vec<_> = known.values_mut().collect();
    // Others each time, so that some that are gone do not hide the rest.
    let turn = rand::random_range(0..witnesses.len().max(1));
    witnesses.rotate_left(turn);
    let asked = witnesses.into_iter().take(WITNESSES);
    let answers = join_all(asked.map(|witness| async {
        let answers = witness.ask(&question).await?;
        Some((witness.address.clone(), answers))
    }))
    .await;
    let views = answers.into_iter().flatten().filter_map(|(from, answers)| {
        let [info, slots] = <[Value; 2]>::try_from(answers).ok()?;
        let info: String = redis::from_redis_value(info).ok()?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let is_well = field("cluster_state") == Some("ok");
        let epoch: u64 = field("cluster_current_epoch")?.trim().parse().ok()?;
        Some(((is_well, epoch), read_slots(slots, &from, access)?))
    });
    views.max_by_key(|(rank, _)| *rank).map(|(_, view)| view)
}

/// Reads `CLUSTER SLOTS`. `from` is who said it: a node that does not know its own address leaves it out.
fn read_slots(slots: Value, from: &ConnectionInfo, access: &Access) -> Option<View> {
    let ranges: Vec<Vec<Value>> = redis::from_redis_value(slots).ok()?;
    let mut masters: BTreeMap<String, Found> = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    for range in ranges {
        let mut fields = range.into_iter();
        let first: usize = redis::from_redis_value(fields.next()?).ok()?;
        let last: usize = redis::from_redis_value(fields.next()?).ok()?;
        if first > last || last >= SLOTS {
            return None;
        }
        for (place, node) in fields.enumerate() {
            let Some(address) = read_node(node, from, access) else { continue };
            let at = address.addr().to_string();
            nodes.insert(at.clone(), address.clone());
            if place == 0 {
                masters
                    .entry(at)
                    .or_insert_with(|| Found { address, slots: BTreeSet::new() })
                    .slots
                    .extend(first..=last);
            }
        }
    }
    Some(View { masters: masters.into_values().collect(), nodes })
}

fn read_node(node: Value, from: &ConnectionInfo, access: &Access) -> Option<ConnectionInfo> {
    let mut fields = redis::from_redis_value::<Vec<Value>>(node).ok()?.into_iter();
    let host: Option<String> = redis::from_redis_value(fields.next()?).ok()?;
    let port: u16 = redis::from_redis_value(fields.next()?).ok()?;
    match host.filter(|host| !host.is_empty() && host != "?") {
        Some(host) => access.to(&host, port).ok(),
        None => {
            let at = from.addr().to_string();
            access.to(at.rsplit_once(':')?.0.trim_matches(['[', ']']), port).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo as _;

    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn reads_who_has_which_slots() {
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), bulk("id")]);
        let range = |first, last, nodes: Vec<Value>| {
            Value::Array([Value::Int(first), Value::Int(last)].into_iter().chain(nodes).collect())
        };
        let answer = Value::Array(vec![
            range(0, 99, vec![node(bulk("10.0.0.1"), 7000), node(bulk("10.0.0.2"), 7001)]),
            range(100, 16383, vec![node(Value::Nil, 7002)]),
        ]);
        let from = "redis://seed:7000".into_connection_info().unwrap();
        let view = read_slots(answer, &from, &Access::default()).unwrap();
        assert!(view.is_whole());
        let at: Vec<_> =
            view.masters.iter().map(|found| (found.address.addr().to_string(), found.slots.len())).collect();
        assert_eq!(at, [("10.0.0.1:7000".to_owned(), 100), ("seed:7002".to_owned(), 16284)]);
        assert!(view.nodes.contains_key("10.0.0.2:7001"), "a replica can be asked too");
    }
}
