//! The two connections that carry commands, and what is known about the master at their other end.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use redis::{AsyncConnectionConfig, Client, PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    keys::{Keys, PARTITIONS},
    options::RedisOptions,
    scripts::SCRIPTS,
};

/// How long a connection may take to come up.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer may take. What was sent and not answered by then may still happen.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// So many requests without an answer in a row, and the connections are made anew.
const UNANSWERED: u32 = 3;
/// How many commands of one kind go out together: at 1 to 3 us each, Redis is not held up for longer than a moment.
pub(super) const PIPELINE: usize = 128;

/// What Redis says when it is not there as a whole, whatever it was asked.
const AWAY: [&str; 7] = ["NOSCRIPT", "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOAUTH"];

/// Two connections to one master. Neither ever subscribes: redis 1.8 takes an unsolicited push for a reply.
pub(super) struct Link {
    publish: MultiplexedConnection,
    query: MultiplexedConnection,
    keys: Keys,
    generations: Vec<AtomicU64>,
    unanswered: AtomicU32,
    broken: CancellationToken,
}

impl Link {
    /// Connects, loads the scripts, and learns the generation of every partition: before the first publication, so that
    /// a master that may have lost something gives every line a new epoch.
    pub(super) async fn open(options: &RedisOptions, keys: &Keys) -> RedisResult<Self> {
        let client = Client::open(options.connection.clone())?;
        let broken = CancellationToken::new();
        let publish = connect(&client, options, &broken).await?;
        let query = connect(&client, options, &broken).await?;
        let generations = (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect();
        let link = Self { publish, query, keys: keys.clone(), generations, unanswered: AtomicU32::new(0), broken };
        run(&mut link.publish.clone(), &SCRIPTS.load()).await?;
        for first in (0..PARTITIONS).step_by(PIPELINE) {
            link.learn_generations(&(first..first + PIPELINE).map(|partition| (partition, 0)).collect::<Vec<_>>())
                .await?;
        }
        Ok(link)
    }

    /// Asks which generation these partitions are of; `least`: some line knows of a newer one.
    async fn learn_generations(&self, partitions: &[(usize, u64)]) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for (partition, least) in partitions {
            let mut call = SCRIPTS.generation.call(&[&self.keys.generation(*partition)]);
            call.arg(*least);
            pipeline.add_command(call);
        }
        let answers = run(&mut self.publish.clone(), &pipeline).await?;
        for ((partition, _), answer) in partitions.iter().zip(answers) {
            self.generations[*partition].store(redis::from_redis_value(answer)?, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn generation(&self, partition: usize) -> u64 {
        self.generations[partition].load(Ordering::Relaxed)
    }

    /// Brings back what Redis had forgotten: the scripts (`SCRIPT FLUSH`), or that a master which never restarted has a
    /// new replication id (it drops its own an hour after its last replica has left).
    pub(super) async fn repair(&self, stale: &[(usize, u64)]) -> RedisResult<()> {
        run(&mut self.publish.clone(), &SCRIPTS.load()).await?;
        self.learn_generations(stale).await
    }

    /// Sends publications; one answer for each, errors of Redis among them. An error of the whole: perhaps done.
    pub(super) async fn publish(&self, pipeline: &redis::Pipeline) -> RedisResult<Vec<Value>> {
        let answers = send(&mut self.publish.clone(), pipeline).await;
        self.watch(&answers);
        answers
    }

    /// Sends requests that may be repeated; one answer for each. Errors that concern one key are among them, those that
    /// concern Redis as a whole are the error.
    pub(super) async fn ask(&self, pipeline: &redis::Pipeline) -> RedisResult<Vec<Value>> {
        let mut query = self.query.clone();
        let mut answers = send(&mut query, pipeline).await;
        if answers.as_ref().is_ok_and(|answers| answers.iter().any(|answer| code(answer) == Some("NOSCRIPT"))) {
            run(&mut query, &SCRIPTS.load()).await?;
            answers = send(&mut query, pipeline).await;
        }
        self.watch(&answers);
        let mut answers = answers?;
        let is_away = |answer: &Value| code(answer).is_some_and(|code| AWAY.contains(&code));
        if let Some(index) = answers.iter().position(is_away) {
            answers.swap_remove(index).extract_error()?;
        }
        Ok(answers)
    }

    fn watch(&self, answers: &RedisResult<Vec<Value>>) {
        match answers {
            Ok(_) => self.unanswered.store(0, Ordering::Relaxed),
            Err(error) if error.is_timeout() => {
                if self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= UNANSWERED {
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
            warn!(reason, "giving up the command connections to redis");
            self.broken.cancel();
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }
}

async fn connect(
    client: &Client,
    options: &RedisOptions,
    broken: &CancellationToken,
) -> RedisResult<MultiplexedConnection> {
    let broken = broken.clone();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                broken.cancel();
            }
            Ok::<_, std::convert::Infallible>(())
        });
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    redis::cmd("CLIENT").arg("SETNAME").arg(options.client_name()).exec_async(&mut connection).await?;
    Ok(connection)
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

fn code(answer: &Value) -> Option<&str> {
    match answer {
        Value::ServerError(error) => Some(error.code()),
        _ => None,
    }
}
