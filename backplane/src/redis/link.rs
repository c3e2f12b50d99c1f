//! The connections that carry commands, and what is known about the master at their other end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_redis::{Manager, Pool, Runtime};
use futures_util::future::try_join_all;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, PushInfo, PushKind, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    keys::{Keys, PARTITIONS},
    options::{Generation, RedisOptions},
    scripts::{Scripts, scripts},
};

/// How long a connection may take to come up.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer may take. What was sent and not answered by then may still happen.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The connections of a link, in what is counted of them.
const PUBLISH: usize = 0;
const REPLICATED: usize = 1;
const QUERY: usize = 2;
/// So many requests without an answer in a row, and the connections are made anew.
const UNANSWERED: u32 = 3;
/// How many commands of one kind go out together: at 1 to 3 us each, Redis is not held up for longer than a moment.
pub(super) const PIPELINE: usize = 128;
/// Connections for what is asked now and then; made when they are needed.
const OCCASIONAL: usize = 4;

/// What Redis says when it is not there as a whole, whatever it was asked.
const AWAY: [&str; 6] = ["NOSCRIPT", "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH"];
/// What a master says that can be read but not written to: its replicas are away, or its disk fails.
pub(super) const NO_WRITES: [&str; 2] = ["NOREPLICAS", "MISCONF"];
/// What it says of one key that another master has, or is just getting.
const ELSEWHERE: [&str; 3] = ["MOVED", "ASK", "TRYAGAIN"];

/// Where a master is, and what it has.
#[derive(Clone)]
pub(super) struct Target {
    /// `None`: not known now, or no master any more.
    pub(super) address: Option<ConnectionInfo>,
    pub(super) partitions: Arc<BTreeSet<usize>>,
    /// One of a cluster: pub/sub goes by slots.
    pub(super) sharded: bool,
}

impl Target {
    pub(super) fn nowhere() -> Self {
        Self { address: None, partitions: Arc::default(), sharded: false }
    }

    /// The address in words.
    pub(super) fn at(&self) -> Option<String> {
        self.address.as_ref().map(|address| address.addr().to_string())
    }
}

/// The connections to one master. None ever subscribes: redis 1.8 takes an unsolicited push for a reply.
pub(super) struct Link {
    at: String,
    scripts: &'static Scripts,
    publish: MultiplexedConnection,
    /// For publications that wait for replicas: `WAIT` holds up everything behind it.
    replicated: OnceCell<MultiplexedConnection>,
    query: MultiplexedConnection,
    occasional: Pool,
    client: Client,
    client_name: String,
    keys: Keys,
    generation: Generation,
    generations: Vec<AtomicU64>,
    /// By connection, for one of them can be dead while the others are well.
    unanswered: [AtomicU32; 3],
    broken: CancellationToken,
    /// Notified when a key turns out to be with another master.
    elsewhere: Arc<Notify>,
}

impl Link {
    /// Connects to a master, loads the scripts, and learns the generation of every partition: before the first
    /// publication, so that a master that may have lost something gives every line a new epoch.
    pub(super) async fn open(
        options: &RedisOptions,
        target: &Target,
        keys: &Keys,
        elsewhere: &Arc<Notify>,
    ) -> RedisResult<Self> {
        let address = target.address.clone().ok_or((ErrorKind::InvalidClientConfig, "no master is known"))?;
        let at = address.addr().to_string();
        let client = Client::open(address.clone())?;
        let (broken, client_name) = (CancellationToken::new(), options.client_name());
        let publish = connect(&client, &client_name, RESPONSE_TIMEOUT, &broken).await?;
        let query = connect(&client, &client_name, RESPONSE_TIMEOUT, &broken).await?;
        require_master(&mut query.clone()).await?;
        let link = Self {
            at,
            scripts: scripts(target.sharded),
            publish,
            replicated: OnceCell::new(),
            query,
            occasional: pool(address),
            client,
            client_name,
            keys: keys.clone(),
            generation: options.generation,
            generations: (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect(),
            unanswered: Default::default(),
            broken,
            elsewhere: elsewhere.clone(),
        };
        run(&mut link.publish.clone(), &link.scripts.load()).await?;
        link.learn_new(&target.partitions).await?;
        Ok(link)
    }

    /// The address at the other end.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    pub(super) fn scripts(&self) -> &'static Scripts {
        self.scripts
    }

    /// For what is asked now and then and may wait: everything else has a connection of its own.
    pub(super) fn occasional(&self) -> &Pool {
        &self.occasional
    }

    /// Learns the generations of partitions that this connection sees for the first time.
    pub(super) async fn learn(&self, partitions: impl Iterator<Item = usize>) -> RedisResult<()> {
        let mode = match self.generation {
            Generation::Replid => "replid",
            Generation::RunId => "run_id",
            Generation::Connection => "new",
        };
        let partitions: Vec<_> = partitions.map(|partition| (partition, 0)).collect();
        self.ask_all_generations(&partitions, mode).await
    }

    /// Learns those of these that it has not seen yet. Not if Redis takes no writes now: it can be read, and whoever
    /// publishes asks again.
    pub(super) async fn learn_new(&self, partitions: &BTreeSet<usize>) -> RedisResult<()> {
        let new = partitions.iter().copied().filter(|partition| self.generation(*partition) == 0);
        match self.learn(new).await {
            Err(error) if error.code().is_some_and(|code| NO_WRITES.contains(&code)) => {
                warn!(redis = self.at, %error, "redis takes no writes now: clients are served, publications are refused");
                Ok(())
            }
            learned => learned,
        }
    }

    /// Learns them again; with each the least that it must be, for some line knows of a newer one.
    pub(super) async fn relearn(&self, partitions: &[(usize, u64)]) -> RedisResult<()> {
        let mode = match self.generation {
            Generation::Replid => "replid",
            Generation::RunId => "run_id",
            Generation::Connection => "known",
        };
        self.ask_all_generations(partitions, mode).await
    }

    /// Together: a far Redis costs one round trip, not one for each pipeline.
    async fn ask_all_generations(&self, partitions: &[(usize, u64)], mode: &str) -> RedisResult<()> {
        try_join_all(partitions.chunks(PIPELINE).map(|chunk| self.ask_generations(chunk, mode))).await?;
        Ok(())
    }

    async fn ask_generations(&self, partitions: &[(usize, u64)], mode: &str) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for (partition, least) in partitions {
            let mut call = self.scripts.generation.call(&[&self.keys.generation(*partition)]);
            call.arg(*least).arg(mode);
            pipeline.add_command(call);
        }
        let answers = send(&mut self.publish.clone(), &pipeline).await;
        self.watch(PUBLISH, &answers);
        for ((partition, _), answer) in partitions.iter().zip(answers?) {
            // A slot that is on its way is no reason not to serve the others: it stays unknown until somebody publishes.
            if code(&answer).is_some_and(|code| ELSEWHERE.contains(&code)) {
                continue;
            }
            let answer = answer.extract_error()?;
            self.generations[*partition].store(redis::from_redis_value(answer)?, Ordering::Relaxed);
        }
        Ok(())
    }

    /// 0: not learned yet.
    pub(super) fn generation(&self, partition: usize) -> u64 {
        self.generations[partition].load(Ordering::Relaxed)
    }

    /// Whether the master still is the one that it was when its generations were learned. If not they are learned again,
    /// and every channel has to be looked after.
    pub(super) async fn is_same_master(&self, partitions: &BTreeSet<usize>) -> RedisResult<bool> {
        let Some(first) = partitions.first().copied() else { return Ok(true) };
        let before = self.generation(first);
        self.relearn(&[(first, 0)]).await?;
        if self.generation(first) == before {
            return Ok(true);
        }
        self.relearn(&partitions.iter().map(|partition| (*partition, 0)).collect::<Vec<_>>()).await?;
        Ok(false)
    }

    /// Brings back what Redis had forgotten: the scripts (`SCRIPT FLUSH`), or that a master which never restarted has a
    /// new replication id (it drops its own an hour after its last replica has left).
    pub(super) async fn repair(&self, stale: &[(usize, u64)]) -> RedisResult<()> {
        run(&mut self.publish.clone(), &self.scripts.load()).await?;
        self.relearn(stale).await
    }

    /// Sends publications; one answer for each, errors of Redis among them. An error of the whole: perhaps done.
    pub(super) async fn publish(&self, pipeline: &redis::Pipeline) -> RedisResult<Vec<Value>> {
        let answers = send(&mut self.publish.clone(), pipeline).await;
        self.watch(PUBLISH, &answers);
        answers
    }

    /// The same, and waits until so many replicas have got all of them. Gives how many have.
    pub(super) async fn publish_replicated(
        &self,
        pipeline: &redis::Pipeline,
        replicas: u32,
        within: Duration,
    ) -> RedisResult<(Vec<Value>, u32)> {
        let connection = self
            .replicated
            .get_or_try_init(|| connect(&self.client, &self.client_name, REPLICATED_TIMEOUT, &self.broken))
            .await?;
        let mut pipeline = pipeline.clone();
        pipeline.cmd("WAIT").arg(replicas).arg(u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1));
        let answers = send(&mut connection.clone(), &pipeline).await;
        self.watch(REPLICATED, &answers);
        let mut answers = answers?;
        // A master that has become a replica refuses WAIT: nobody has confirmed anything.
        let confirmed = answers.pop().map_or(0, |answer| redis::from_redis_value(answer).unwrap_or(0));
        Ok((answers, confirmed))
    }

    /// Sends requests that may be repeated; one answer for each. Errors that concern one key are among them, those that
    /// concern Redis as a whole are the error.
    pub(super) async fn ask(&self, pipeline: &redis::Pipeline) -> RedisResult<Vec<Value>> {
        let mut query = self.query.clone();
        let mut answers = send(&mut query, pipeline).await;
        if answers.as_ref().is_ok_and(|answers| answers.iter().any(|answer| code(answer) == Some("NOSCRIPT"))) {
            run(&mut query, &self.scripts.load()).await?;
            answers = send(&mut query, pipeline).await;
        }
        self.watch(QUERY, &answers);
        let mut answers = answers?;
        let is_away = |answer: &Value| code(answer).is_some_and(|code| AWAY.contains(&code));
        if let Some(index) = answers.iter().position(is_away) {
            answers.swap_remove(index).extract_error()?;
        }
        Ok(answers)
    }

    fn watch(&self, connection: usize, answers: &RedisResult<Vec<Value>>) {
        match answers {
            Ok(answers) => {
                self.unanswered[connection].store(0, Ordering::Relaxed);
                if answers.iter().any(|answer| code(answer).is_some_and(|code| ELSEWHERE.contains(&code))) {
                    self.elsewhere.notify_one();
                }
            }
            Err(error) if error.is_timeout() => {
                if self.unanswered[connection].fetch_add(1, Ordering::Relaxed) + 1 >= UNANSWERED {
                    self.give_up("too many requests without an answer");
                }
            }
            Err(error) if error.is_unrecoverable_error() || error.is_connection_dropped() => {
                self.give_up("the connection has ended");
            }
            Err(_) => {}
        }
    }

    /// Has the connections made anew.
    pub(super) fn give_up(&self, reason: &'static str) {
        if !self.broken.is_cancelled() {
            warn!(redis = self.at, reason, "giving up the command connections to redis");
            self.broken.cancel();
        }
    }

    /// Nobody needs the connections any more.
    pub(super) fn end(&self) {
        self.broken.cancel();
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }
}

/// `WAIT` waits up to [`MAX_WITHIN`] by itself.
const REPLICATED_TIMEOUT: Duration = Duration::from_secs(12);
/// The longest that a publication may wait for replicas.
pub const MAX_WITHIN: Duration = Duration::from_secs(10);

fn pool(address: ConnectionInfo) -> Pool {
    let manager = Manager::new(address).expect("the address has been connected to");
    Pool::builder(manager)
        .max_size(OCCASIONAL)
        .wait_timeout(Some(RESPONSE_TIMEOUT))
        .create_timeout(Some(RESPONSE_TIMEOUT))
        .recycle_timeout(Some(RESPONSE_TIMEOUT))
        .runtime(Runtime::Tokio1)
        .build()
        .expect("a runtime is given, which is all that the timeouts ask for")
}

async fn connect(
    client: &Client,
    name: &str,
    response_timeout: Duration,
    broken: &CancellationToken,
) -> RedisResult<MultiplexedConnection> {
    let broken = broken.clone();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout))
        .set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                broken.cancel();
            }
            Ok::<_, std::convert::Infallible>(())
        });
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    redis::cmd("CLIENT").arg("SETNAME").arg(name).exec_async(&mut connection).await?;
    Ok(connection)
}

/// A replica would take subscriptions, and most of them would hear everything, late or never.
pub(super) async fn require_master(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
    let role: String = role.into_iter().next().map_or(Ok(String::new()), redis::from_redis_value)?;
    if role == "master" {
        return Ok(());
    }
    Err((ErrorKind::Io, "it is a replica, not the master").into())
}

/// Sends a pipeline. Not an empty one: its answer would be the next one's.
async fn send(connection: &mut MultiplexedConnection, pipeline: &redis::Pipeline) -> RedisResult<Vec<Value>> {
    match pipeline.len() {
        0 => Ok(Vec::new()),
        count => connection.send_packed_commands(pipeline, 0, count).await,
    }
}

/// Runs a pipeline in which nothing may fail.
async fn run(connection: &mut MultiplexedConnection, pipeline: &redis::Pipeline) -> RedisResult<Vec<Value>> {
    let answers = send(connection, pipeline).await?;
    answers.into_iter().map(Value::extract_error).collect()
}

/// The code of an error.
pub(super) fn code(answer: &Value) -> Option<&str> {
    match answer {
        Value::ServerError(error) => Some(error.code()),
        _ => None,
    }
}
