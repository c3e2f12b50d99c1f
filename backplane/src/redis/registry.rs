//! Which nodes are alive; and what becomes of the members of those that are not.
//!
//! Each node beats by Redis' clock. One whose beat stays the same for a lease is dead: any other takes its members away and
//! tells that they left. Only a node that has itself been in touch with Redis for that lease may judge, for after an
//! outage every beat is old; and it measures the lease by its own steady clock, for Redis' may jump. A node that finds
//! that it was taken for dead is another one from then on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use redis::{RedisResult, Value};
use skywave_proto::{ChannelName, Payload, v1};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Redis, history,
    keys::{self, CONTROL, Keys, PARTITIONS},
    link::{Link, PIPELINE},
    masters::Masters,
    presence::{Resync, Writer, writer},
    publish::millis,
};
use crate::{
    BackplaneState, Cluster, ClusterError, Durability, HistoryPolicy, Interest, NewPublication, NodeInfo, NodeRecord,
    PublishError, Target,
};

/// How often a node says that it is alive.
const BEAT: Duration = Duration::from_secs(2);
/// The shortest lease.
const LEAST_LEASE: Duration = Duration::from_secs(6);
/// How long what a node tells of itself outlives its last beat.
const INFO_LIVES: Duration = Duration::from_secs(30);
/// How long a node that was taken for dead can find that out.
const TOMBSTONE_LIVES: Duration = Duration::from_secs(3600);
/// How long the books of a cluster outlive it.
const BOOKS_LIVE: Duration = Duration::from_secs(24 * 3600);
/// How long others leave it to the one that has begun to carry out that a node is dead.
const LOCK_LIVES: Duration = Duration::from_secs(15);
/// Entries of one channel that are looked at in one step.
const REAP: usize = 512;
/// What is kept of signals: who is cut off for that long, or for that many, misses some.
const SIGNALS: HistoryPolicy =
    HistoryPolicy { size: 1000, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(24 * 3600) };

/// One node's place among the others. Cloning shares it.
#[derive(Clone)]
pub(super) struct Registry(Arc<Inner>);

struct Inner {
    masters: Arc<Masters>,
    members: Writer,
    incarnation: Arc<RwLock<Arc<str>>>,
    info: Mutex<NodeInfo>,
    lease: Duration,
    grace: Duration,
    /// For tests: as if this node stood still.
    is_stopped: std::sync::atomic::AtomicBool,
}

/// A new one.
pub(super) fn new_incarnation() -> Arc<str> {
    format!("{:016x}", rand::random::<u64>()).into()
}

/// Each other's last beat, and since when it has stood there.
type Watch = HashMap<String, (u64, Instant)>;

/// A little more than what is waited for.
const MARGIN: Duration = Duration::from_millis(50);

/// For how long an incarnation's beat has been the same. When it was seen first it had stood there for `age`, which is no
/// longer than from one of our beats to the next: what Redis' clock says beyond that is the clock's own.
fn silent(watch: &mut Watch, incarnation: &str, beat: u64, age: Duration, now: Instant) -> Duration {
    match watch.get(incarnation) {
        Some((known, since)) if *known == beat => now.saturating_duration_since(*since),
        _ => {
            watch.insert(incarnation.to_owned(), (beat, now.checked_sub(age).unwrap_or(now)));
            age
        }
    }
}

/// What a beat was answered.
struct Heard {
    now_ms: u64,
    status: String,
    beats: BTreeMap<String, u64>,
    resigned: BTreeSet<String>,
}

impl Registry {
    pub(super) fn new(masters: Arc<Masters>, members: Writer, incarnation: Arc<RwLock<Arc<str>>>) -> Self {
        let options = &masters.options;
        let grace = options.session_grace;
        let lease = options.lease.unwrap_or_else(|| LEAST_LEASE.max(grace + BEAT));
        let info = Mutex::new(NodeInfo { name: options.node.as_str().into(), ..NodeInfo::default() });
        Self(Arc::new(Inner { masters, members, incarnation, info, lease, grace, is_stopped: false.into() }))
    }

    fn link(&self) -> Option<Arc<Link>> {
        self.0.masters.link_of(keys::partition_of(CONTROL))
    }

    fn keys(&self) -> &Keys {
        &self.0.masters.keys
    }

    /// Beats and judges until `stop`.
    pub(super) async fn run(self, mut state: watch::Receiver<BackplaneState>, stop: CancellationToken) {
        self.listen();
        let mut has_beaten = false;
        // What is known of others, while nothing has interrupted the touch with Redis.
        let mut watch = Watch::default();
        let interval = self.interval();
        loop {
            state.mark_unchanged();
            let mut next = interval;
            match self.link().filter(|_| !self.is_stopped()) {
                Some(link) => match self.beat(&link, has_beaten).await {
                    Ok(heard) => {
                        has_beaten = self.judge_ourselves(&heard);
                        next = next.min(self.judge_others(&link, &heard, &mut watch).await);
                    }
                    Err(error) => {
                        debug!(%error, "the registry of nodes does not answer");
                        watch.clear();
                    }
                },
                None => watch.clear(),
            }
            // Not all nodes in step.
            let pause = next.mul_f64(rand::random_range(0.9..=1.0));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = state.changed() => {
                    watch.clear();
                    if changed.is_err() {
                        return;
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }

    fn interval(&self) -> Duration {
        BEAT.min(self.0.lease / 3)
    }

    fn is_stopped(&self) -> bool {
        self.0.is_stopped.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Subscribes to what is said to all and to this incarnation.
    fn listen(&self) {
        let incarnation = self.0.incarnation.read().clone();
        for channel in [control(), control_of(&incarnation)] {
            let interest = Interest { channel, history: Some(SIGNALS), presence: false };
            let _ = self.0.masters.pump.subscribe(&interest); // it stands, whenever it is confirmed
        }
    }

    async fn beat(&self, link: &Link, has_beaten: bool) -> RedisResult<Heard> {
        let incarnation = self.0.incarnation.read().clone();
        let keys = self.keys();
        let mut call = link.scripts().beat.call(&[
            &keys.registry("n"),
            &keys.registry(&format!("n:{incarnation}")),
            &keys.registry(&format!("nt:{incarnation}")),
            &keys.registry("nr"),
        ]);
        let info = encode(&self.0.info.lock());
        call.arg(&*incarnation).arg(info).arg(millis(INFO_LIVES)).arg(u8::from(has_beaten));
        let mut pipeline = redis::pipe();
        pipeline.add_command(call);
        let answer = link.ask(&pipeline).await?.pop().unwrap_or_default().extract_error()?;
        let (now, status, beats, resigned): (String, String, Vec<(String, String)>, Vec<String>) =
            redis::from_redis_value(answer)?;
        let beats = beats.into_iter().map(|(incarnation, at)| (incarnation, milliseconds(&at)));
        Ok(Heard {
            now_ms: milliseconds(&now),
            status,
            beats: beats.collect(),
            resigned: resigned.into_iter().collect(),
        })
    }

    /// True if this incarnation is known now.
    fn judge_ourselves(&self, heard: &Heard) -> bool {
        match heard.status.as_str() {
            "reaped" => {
                let new = new_incarnation();
                let old = std::mem::replace(&mut *self.0.incarnation.write(), new.clone());
                warn!(
                    %old, %new,
                    "this node did not beat for its lease and was taken for dead: its members left, and come back now"
                );
                self.listen();
                self.0.members.resync(Resync::Loud);
                false
            }
            "lost" => {
                warn!("redis has lost the registry of nodes; writing members again");
                self.0.members.resync(Resync::Quiet);
                true
            }
            _ => true,
        }
    }

    /// Carries out what the beats say. Gives when to look again.
    async fn judge_others(&self, link: &Link, heard: &Heard, watch: &mut Watch) -> Duration {
        let own = self.0.incarnation.read().clone();
        watch.retain(|incarnation, _| heard.beats.contains_key(incarnation));
        let mut next = BEAT;
        for (incarnation, beat) in heard.beats.iter().filter(|(incarnation, _)| ***incarnation != *own) {
            let has_resigned = heard.resigned.contains(incarnation);
            let age = Duration::from_millis(heard.now_ms.saturating_sub(*beat));
            // Who has resigned has said by Redis' clock when it is over.
            let seen_age = age.min(self.interval());
            let silent = if has_resigned { age } else { silent(watch, incarnation, *beat, seen_age, Instant::now()) };
            if silent <= self.0.lease {
                next = next.min(self.0.lease - silent + MARGIN);
            } else if let Err(error) = self.bury(link, incarnation, has_resigned).await {
                debug!(incarnation, %error, "a dead node's members could not be taken away; trying again");
            }
        }
        next.max(MARGIN)
    }

    /// Takes away what a dead incarnation has.
    async fn bury(&self, link: &Link, incarnation: &str, has_resigned: bool) -> RedisResult<()> {
        let (keys, began) = (self.keys(), Instant::now());
        let mut pipeline = redis::pipe();
        let lock = keys.registry(&format!("nl:{incarnation}"));
        pipeline
            .cmd("SET")
            .arg(&lock)
            .arg(self.0.masters.options.node.as_str())
            .arg("NX")
            .arg("PX")
            .arg(millis(LOCK_LIVES));
        let answer = link.ask(&pipeline).await?.pop().unwrap_or_default().extract_error()?;
        if answer == Value::Nil {
            return Ok(()); // somebody else is at it
        }
        // First the tombstone: a node that wakes up now knows that its members are being taken away.
        let mut pipeline = redis::pipe();
        let tombstone = keys.registry(&format!("nt:{incarnation}"));
        pipeline.cmd("SET").arg(tombstone).arg(1).arg("PX").arg(millis(TOMBSTONE_LIVES));
        check(link.ask(&pipeline).await?)?;
        let mut left = 0;
        for first in (0..PARTITIONS).step_by(PIPELINE) {
            left += self.bury_partitions(incarnation, first..first + PIPELINE).await?;
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZREM").arg(keys.registry("n")).arg(incarnation);
        pipeline.cmd("SREM").arg(keys.registry("nr")).arg(incarnation);
        pipeline.cmd("DEL").arg(keys.registry(&format!("n:{incarnation}"))).arg(lock);
        pipeline.cmd("PEXPIRE").arg(keys.registry("n")).arg(millis(BOOKS_LIVE));
        check(link.ask(&pipeline).await?)?;
        info!(incarnation, has_resigned, members = left, took = ?began.elapsed(), "a node is gone; its members have left");
        Ok(())
    }

    async fn bury_partitions(&self, incarnation: &str, partitions: std::ops::Range<usize>) -> RedisResult<u64> {
        let mut by_master: Vec<(Arc<Link>, Vec<usize>)> = Vec::new();
        for partition in partitions {
            let Some(link) = self.0.masters.link_of(partition) else {
                return Err((redis::ErrorKind::Io, "a master is away").into());
            };
            match by_master.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &link)) {
                Some((_, partitions)) => partitions.push(partition),
                None => by_master.push((link, vec![partition])),
            }
        }
        let mut left = 0;
        for (link, partitions) in by_master {
            let mut pipeline = redis::pipe();
            for partition in &partitions {
                pipeline.cmd("SMEMBERS").arg(self.keys().membered(*partition, incarnation));
            }
            let mut work = Vec::new();
            for answer in link.ask(&pipeline).await? {
                let channels: Vec<String> = redis::from_redis_value(answer.extract_error()?)?;
                let channels = channels.iter().filter_map(|channel| ChannelName::parse(channel).ok());
                work.extend(channels.map(|channel| (channel, Vec::new())));
            }
            while !work.is_empty() {
                let rest = work.split_off(work.len().min(PIPELINE / 4));
                let (count, again) = self.bury_channels(&link, incarnation, work).await?;
                left += count;
                work = again.into_iter().chain(rest).collect();
            }
        }
        Ok(left)
    }

    /// One step for each channel: from which entry on. Gives those that need another.
    async fn bury_channels(
        &self,
        link: &Link,
        incarnation: &str,
        channels: Vec<(ChannelName, Vec<u8>)>,
    ) -> RedisResult<(u64, Vec<(ChannelName, Vec<u8>)>)> {
        let mut pipeline = redis::pipe();
        for (channel, after) in &channels {
            let mut call = writer::call(link, &link.scripts().reap, self.keys(), incarnation, channel);
            call.arg(after).arg(REAP);
            pipeline.add_command(call);
        }
        let (mut left, mut again, mut stale) = (0, Vec::new(), Vec::new());
        for ((channel, after), answer) in channels.into_iter().zip(link.ask(&pipeline).await?) {
            match answer {
                Value::ServerError(error) if error.code() == "STALE" => {
                    let least = error.details().and_then(|least| least.parse().ok()).unwrap_or(0);
                    stale.push((keys::partition(&channel), least));
                    again.push((channel, after));
                }
                answer => {
                    let (count, after): (u64, Vec<u8>) = redis::from_redis_value(answer.extract_error()?)?;
                    left += count;
                    if !after.is_empty() {
                        again.push((channel, after));
                    }
                }
            }
        }
        if !stale.is_empty() {
            link.relearn(&stale).await?;
        }
        Ok((left, again))
    }

    /// The node goes: its members leave when the grace is over, unless they have come back elsewhere.
    pub(super) async fn resign(&self) {
        let Some(link) = self.link() else { return };
        let incarnation = self.0.incarnation.read().clone();
        let keys = self.keys();
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME");
        let now_ms = match link.ask(&pipeline).await {
            Ok(answers) => answers.into_iter().next().map_or(Ok((0u64, 0u64)), redis::from_redis_value),
            Err(_) => return,
        };
        let Ok((seconds, micros)) = now_ms else { return };
        // As if the last beat were as long ago as leaves just the grace.
        let now_ms = seconds * 1000 + micros / 1000;
        let beat = (now_ms + millis(self.0.grace)).saturating_sub(millis(self.0.lease));
        let mut pipeline = redis::pipe();
        pipeline.cmd("SADD").arg(keys.registry("nr")).arg(&*incarnation);
        pipeline.cmd("PEXPIRE").arg(keys.registry("nr")).arg(millis(BOOKS_LIVE));
        pipeline.cmd("ZADD").arg(keys.registry("n")).arg("XX").arg(beat).arg(&*incarnation);
        if let Err(error) = link.ask(&pipeline).await {
            debug!(%error, "could not resign; the lease ends by itself");
        }
    }

    async fn nodes(&self) -> RedisResult<Vec<NodeRecord>> {
        let link = self.link().ok_or((redis::ErrorKind::Io, "the master of the registry is away"))?;
        let keys = self.keys();
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME");
        pipeline.cmd("ZRANGE").arg(keys.registry("n")).arg(0).arg(-1).arg("WITHSCORES");
        pipeline.cmd("SMEMBERS").arg(keys.registry("nr"));
        let mut answers = link.ask(&pipeline).await?.into_iter().map(Value::extract_error);
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        let (seconds, micros): (u64, u64) = redis::from_redis_value(next()?)?;
        let beats: Vec<(String, f64)> = redis::from_redis_value(next()?)?;
        let resigned: BTreeSet<String> = redis::from_redis_value(next()?)?;
        let now_ms = seconds * 1000 + micros / 1000;
        let age = |beat: f64| Duration::from_millis(now_ms.saturating_sub(whole(beat)));
        let alive: Vec<_> = beats
            .into_iter()
            .map(|(incarnation, beat)| (incarnation, age(beat)))
            .filter(|(incarnation, age)| *age <= self.0.lease && !resigned.contains(incarnation))
            .collect();
        if alive.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for (incarnation, _) in &alive {
            pipeline.cmd("GET").arg(keys.registry(&format!("n:{incarnation}")));
        }
        let mut records = Vec::with_capacity(alive.len());
        for ((incarnation, beat_age), answer) in alive.into_iter().zip(link.ask(&pipeline).await?) {
            let info: Option<Vec<u8>> = redis::from_redis_value(answer.extract_error()?)?;
            let info = decode(&info.unwrap_or_default());
            records.push(NodeRecord { incarnation: incarnation.into(), info, beat_age });
        }
        records.sort_by(|a, b| (&a.info.name, &a.incarnation).cmp(&(&b.info.name, &b.incarnation)));
        Ok(records)
    }
}

impl Cluster for Redis {
    fn incarnation(&self) -> Arc<str> {
        self.0.registry.0.incarnation.read().clone()
    }

    fn announce(&self, info: NodeInfo) {
        *self.0.registry.0.info.lock() = info;
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, ClusterError> {
        self.0.registry.nodes().await.map_err(|error| {
            let crate::HistoryError::Unavailable(cause) = history::unavailable(error);
            ClusterError::Unavailable(cause)
        })
    }

    async fn signal(&self, to: Target, message: Bytes) -> Result<(), ClusterError> {
        let channel = match to {
            Target::All => control(),
            Target::Node(incarnation) => control_of(&incarnation),
        };
        let signal = v1::Carried { from: self.incarnation().to_string(), message };
        let published = self.0.masters.publish(&NewPublication {
            channel,
            payload: Payload::binary(signal.encode_to_vec().into()),
            client: None,
            user: None,
            published_at_ms: 0,
            key: None,
            history: Some(SIGNALS),
            durability: Durability::Accepted,
        });
        match published.await {
            Ok(_) => Ok(()),
            Err(PublishError::Unavailable { source, .. }) => Err(ClusterError::Unavailable(source)),
            Err(error) => Err(ClusterError::Unavailable(Some(Arc::new(error)))),
        }
    }
}

#[cfg(feature = "conformance")]
impl Redis {
    /// For tests: stops the node's beating, as if it stood still, or lets it go on.
    pub fn stand_still(&self, still: bool) {
        self.0.registry.0.is_stopped.store(still, std::sync::atomic::Ordering::Relaxed);
    }
}

fn control() -> ChannelName {
    ChannelName::parse(CONTROL).expect("a good name")
}

fn control_of(incarnation: &str) -> ChannelName {
    ChannelName::parse(&format!("{CONTROL}:{incarnation}")).unwrap_or_else(|_| control())
}

/// A score or a time as text.
fn milliseconds(text: &str) -> u64 {
    text.parse().or_else(|_| text.parse().map(whole)).unwrap_or(0)
}

/// Scores are milliseconds since 1970: whole numbers that a double holds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(score: f64) -> u64 {
    score.max(0.0) as u64
}

fn check(answers: Vec<Value>) -> RedisResult<()> {
    answers.into_iter().try_for_each(|answer| answer.extract_error().map(drop))
}

fn encode(info: &NodeInfo) -> Vec<u8> {
    let info = v1::NodeInfo {
        name: info.name.to_string(),
        version: info.version.to_string(),
        started_at_ms: info.started_at_ms,
        connections: info.connections,
        channels: info.channels,
    };
    info.encode_to_vec()
}

fn decode(bytes: &[u8]) -> NodeInfo {
    // A newer version's: what is not known is left out.
    let info = v1::NodeInfo::decode(bytes).unwrap_or_default();
    NodeInfo {
        name: info.name.into(),
        version: info.version.into(),
        started_at_ms: info.started_at_ms,
        connections: info.connections,
        channels: info.channels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_takes_nobody_for_dead() {
        let mut watch = Watch::new();
        let mut silent = |beat, age| silent(&mut watch, "a", beat, Duration::from_secs(age).min(BEAT), Instant::now());
        assert_eq!(silent(1000, 1), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(silent(1000, 3600), Duration::from_secs(3), "an hour ahead");
        assert_eq!(silent(1000, 0), Duration::from_secs(3), "and back");
        assert_eq!(silent(3000, 3600), BEAT, "it has beaten, whatever the clock says");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(silent(3000, 0), BEAT + Duration::from_secs(6), "it has not beaten");
    }
}
