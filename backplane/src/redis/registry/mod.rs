//! Which nodes are alive; and what becomes of the members of those that are not.
//!
//! Each node beats by Redis' clock. One whose beat stays the same for a lease is dead: any other takes its members away and
//! tells that they left. Only a node that has itself been in touch with Redis for that lease may judge, for after an
//! outage every beat is old; and it measures the lease by its own steady clock, for Redis' may jump. A node that finds
//! that it was taken for dead is another one from then on.

mod burial;
mod nodes;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use redis::RedisResult;
use skywave_proto::ChannelName;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    keys::{self, CONTROL, CONTROL_LIVE, Keys},
    link::Link,
    masters::Masters,
    presence::{Resync, Writer},
    publish::millis,
};
use crate::{BackplaneState, Delivery, HistoryPolicy, Interest, NodeInfo};

/// How often a node says that it is alive.
const BEAT: Duration = Duration::from_secs(2);
/// The shortest lease.
const LEAST_LEASE: Duration = Duration::from_secs(6);
/// How long what a node tells of itself outlives its last beat.
const INFO_LIVES: Duration = Duration::from_secs(30);
/// How long the books of a cluster outlive it.
const BOOKS_LIVE: Duration = Duration::from_secs(24 * 3600);
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
    /// Whose members are being taken away. Bound: the nodes of the cluster.
    burying: Mutex<BTreeSet<String>>,
    /// For tests: as if this node stood still. And when it has resigned: another beat would take that back.
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
        let registry = Self(Arc::new(Inner {
            masters,
            members,
            incarnation,
            info,
            lease,
            grace,
            burying: Mutex::default(),
            is_stopped: false.into(),
        }));
        // Before anything is reached: a node that is live hears what is said.
        registry.listen();
        registry
    }

    fn link(&self) -> Option<Arc<Link>> {
        self.0.masters.link_of(keys::partition_of(CONTROL))
    }

    fn keys(&self) -> &Keys {
        &self.0.masters.keys
    }

    /// Beats and judges until `stop`.
    pub(super) async fn run(self, mut state: watch::Receiver<BackplaneState>, stop: CancellationToken) {
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
                        next = next.min(self.judge_others(&link, &heard, &mut watch));
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
        for to in [None, Some(&*incarnation)] {
            for delivery in [Delivery::Kept, Delivery::Live] {
                let interest = Interest { channel: control(to, delivery), history: policy(delivery), presence: false };
                let _ = self.0.masters.pump.subscribe(&interest); // it stands, whenever it is confirmed
            }
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
        let info = nodes::encode(&self.0.info.lock());
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
    fn judge_others(&self, link: &Arc<Link>, heard: &Heard, watch: &mut Watch) -> Duration {
        let own = self.0.incarnation.read().clone();
        watch.retain(|incarnation, _| heard.beats.contains_key(incarnation));
        // Right after an interruption nothing counts that was before it.
        let is_first_look = watch.is_empty();
        let mut next = BEAT;
        for (incarnation, beat) in heard.beats.iter().filter(|(incarnation, _)| ***incarnation != *own) {
            let has_resigned = heard.resigned.contains(incarnation);
            let age = Duration::from_millis(heard.now_ms.saturating_sub(*beat));
            // Who has resigned has said by Redis' clock when it is over.
            let seen_age = if is_first_look { Duration::ZERO } else { age.min(self.interval()) };
            let silent = if has_resigned { age } else { silent(watch, incarnation, *beat, seen_age, Instant::now()) };
            if silent <= self.0.lease {
                next = next.min(self.0.lease - silent + MARGIN);
            } else {
                self.begin_burial(link, incarnation, has_resigned);
            }
        }
        next.max(MARGIN)
    }

    /// The node goes: its members leave when the grace is over, unless they have come back elsewhere.
    pub(super) async fn resign(&self) {
        self.0.is_stopped.store(true, std::sync::atomic::Ordering::Relaxed);
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
}

#[cfg(feature = "conformance")]
impl super::Redis {
    /// For tests: stops the node's beating, as if it stood still, or lets it go on.
    pub fn stand_still(&self, still: bool) {
        self.0.registry.0.is_stopped.store(still, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The channel for signals to all, or to one incarnation. Those that are not kept have one of their own, so that they do
/// not push out those that are.
fn control(to: Option<&str>, delivery: Delivery) -> ChannelName {
    let base = match delivery {
        Delivery::Kept => CONTROL,
        Delivery::Live => CONTROL_LIVE,
    };
    let own = to.and_then(|incarnation| ChannelName::parse(&format!("{base}:{incarnation}")).ok());
    own.unwrap_or_else(|| ChannelName::parse(base).expect("a good name"))
}

/// What is kept of a channel for signals.
fn policy(delivery: Delivery) -> Option<HistoryPolicy> {
    (delivery == Delivery::Kept).then_some(SIGNALS)
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
