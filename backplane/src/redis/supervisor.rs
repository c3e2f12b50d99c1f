//! Keeps the connections to one master up, and every channel of it subscribed.
//!
//! One session after the other: connect, subscribe everything, catch up, *live*; until the subscriber ends, the way
//! through Redis is silent, or the command connections are given up. A session owns the subscriber; what subscribes and
//! what unsubscribes is in this one task, so the two never overtake each other.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use skywave_proto::{ChannelName, Payload};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    catchup::CatchUp,
    format::Format,
    heartbeat::{Backoff, Beat, Heartbeat},
    history,
    inbox::Inbox,
    inspect::Inspector,
    keys::{self, Keys},
    link::{Link, RESPONSE_TIMEOUT, Target},
    options::RedisOptions,
    publish::Publisher,
    pump::Pump,
    states::States,
    subscriber::{Heard, PROBE, Subscriber},
};
use crate::{BackplaneState, Durability, NewPublication, PublishError, Published, metrics};

/// How often the clock is looked at for the heartbeat and for channels that have lingered long enough.
const TICK: Duration = Duration::from_millis(100);
/// A session that has been live for this long was a good one: the next attempt comes at once.
const GOOD_SESSION: Duration = Duration::from_secs(10);
/// How often a master is asked whether it still is the same.
const VERIFY_INTERVAL: Duration = Duration::from_secs(5);
/// How long the directory may take to find out where a slot has gone.
const MOVE_PATIENCE: Duration = Duration::from_secs(1);
/// How often a failure to connect is a warning; those between are for the debug log.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    pub(super) number: usize,
    pub(super) options: RedisOptions,
    pub(super) target: watch::Receiver<Target>,
    pub(super) keys: Keys,
    pub(super) pump: Arc<Pump>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) publisher: Publisher,
    pub(super) catch_up: CatchUp,
    pub(super) link: watch::Sender<Option<Arc<Link>>>,
    pub(super) states: Arc<States>,
    /// Notified when the directory should look where the masters are.
    pub(super) stale: Arc<Notify>,
    /// Notified when the master may be another one than before.
    pub(super) relinked: Arc<Notify>,
    pub(super) writers: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) heard: Arc<Heard>,
    /// The partitions of the last session.
    pub(super) served: Arc<BTreeSet<usize>>,
    pub(super) inspector: Inspector,
    pub(super) format: Arc<Format>,
}

/// Where a session is, and what it has subscribed.
struct Session {
    link: Arc<Link>,
    subscriber: Subscriber,
    at: Option<String>,
    partitions: Arc<BTreeSet<usize>>,
    /// Subscribed like any channel, and published to when all is silent. Nobody else has it.
    probe: ChannelName,
}

/// Why a session has ended, and whether the command connections are of any more use.
struct Ended {
    why: Box<dyn std::error::Error + Send + Sync>,
    keeps_link: bool,
}

impl Ended {
    fn anew(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { why: why.into(), keeps_link: false }
    }
}

type Probe = Pin<Box<dyn Future<Output = Result<Published, PublishError>> + Send>>;

impl Supervisor {
    pub(super) async fn run(mut self) {
        let (mut backoff, mut warned_at) = (Backoff::default(), None);
        let stop = self.stop.clone();
        loop {
            let target = self.target.borrow_and_update().clone();
            if target.address.is_none() {
                self.states.tell(self.number, None);
                self.drop_link();
                tokio::select! {
                    changed = self.target.changed() => if changed.is_err() { break },
                    () = stop.cancelled() => break,
                }
                continue;
            }
            self.states.tell(self.number, Some(BackplaneState::Degraded));
            let mut live_since = None;
            let ended = tokio::select! {
                ended = self.session(target, &mut live_since) => ended,
                () = stop.cancelled() => break,
            };
            // The subscriber is gone with its session and says nothing any more: mark the place.
            let was_live = self.degrade(&ended, live_since, &mut warned_at);
            self.pump.lost(self.number).await;
            // Without a connection nothing has to be unsubscribed, and the next session subscribes whatever is there then:
            // so that who comes and goes during a long outage leaves nothing behind.
            self.pump.expire(self.number, Instant::now());
            self.pump.take_joining(self.number);
            if !ended.keeps_link {
                self.drop_link();
            }
            self.stale.notify_one();
            if was_live.is_some_and(|lasted| lasted >= GOOD_SESSION) {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause(rand::random())) => {}
                // Another master is another chance.
                _ = self.target.changed() => backoff.reset(),
                () = stop.cancelled() => break,
            }
        }
        // What was published before the end still goes out, if it can.
        let _ = tokio::time::timeout(2 * RESPONSE_TIMEOUT, self.writers.wait()).await;
        self.drop_link();
        self.states.tell(self.number, Some(BackplaneState::Degraded));
    }

    fn degrade(&self, ended: &Ended, live_since: Option<Instant>, warned_at: &mut Option<Instant>) -> Option<Duration> {
        self.states.tell(self.number, Some(BackplaneState::Degraded));
        let lasted = live_since.map(|since| since.elapsed());
        let redis = self.target.borrow().at();
        if lasted.is_some() || warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
            *warned_at = Some(Instant::now());
            warn!(redis, error = %ended.why, "redis is away; trying to reach it");
        } else {
            debug!(redis, error = %ended.why, "redis is still away");
        }
        lasted
    }

    fn drop_link(&self) {
        if let Some(link) = self.link.send_replace(None) {
            link.end();
        }
    }

    async fn link(&self, target: &Target) -> Result<Arc<Link>, Ended> {
        let at = target.at();
        let current = self.link.borrow().clone().filter(|link| !link.is_broken() && Some(link.at()) == at.as_deref());
        if let Some(link) = current {
            link.learn_new(&target.partitions).await.map_err(Ended::anew)?;
            return Ok(link);
        }
        self.drop_link();
        self.inspector.look(&self.options, target).await.map_err(Ended::anew)?;
        // Before the first write: what is there may be another version's.
        self.format.check(self.number, target).await.map_err(Ended::anew)?;
        let link = Link::open(&self.options, target, &self.keys, &self.stale).await.map_err(Ended::anew)?;
        let link = Arc::new(link);
        self.link.send_replace(Some(link.clone()));
        Ok(link)
    }

    /// From connecting to the end of the connection. Cancelled at the end of all.
    async fn session(&mut self, target: Target, live_since: &mut Option<Instant>) -> Ended {
        let mut session = match self.establish(&target).await {
            Ok(session) => session,
            Err(ended) => return ended,
        };
        *live_since = Some(Instant::now());
        let channels = self.pump.channels(self.number).len();
        info!(redis = session.at, channels, "redis is there, every channel is delivered");
        self.states.tell(self.number, Some(BackplaneState::Live));
        self.relinked.notify_one();
        self.live(&mut session).await
    }

    async fn establish(&mut self, target: &Target) -> Result<Session, Ended> {
        let began = Instant::now();
        let link = self.link(target).await?;
        let mut subscriber = Subscriber::open(&self.options, target, &self.keys, &self.pump, &self.inbox, &self.heard)
            .await
            .map_err(Ended::anew)?;
        // Nothing of this is subscribed on this connection.
        self.inbox.dropped.lock().clear();
        self.pump.expire(self.number, Instant::now());
        self.pump.expire_in(&target.partitions, Instant::now());
        self.pump.take_joining(self.number); // they are among all others
        let channels = self.pump.channels(self.number);
        let probe = probe(&target.partitions);
        subscriber.subscribe(std::slice::from_ref(&probe)).await.map_err(Ended::anew)?;
        subscriber.subscribe(&channels).await.map_err(Ended::anew)?;
        // What has come from another master was not heard by a session of ours that has ended.
        let gained = Arc::new(target.partitions.difference(&self.served).copied().collect());
        self.pump.moved(&gained).await;
        self.pump.restored(self.number).await;
        self.served = target.partitions.clone();
        self.settle(&link, channels.clone()).await?;
        self.catch_up.sweep(&link, channels).await.map_err(Ended::anew)?;
        metrics::caught_up(began.elapsed());
        Ok(Session { link, subscriber, at: target.at(), partitions: target.partitions.clone(), probe })
    }

    /// These are subscribed: finds out where those stand that nobody knew before.
    async fn settle(&self, link: &Link, channels: Vec<ChannelName>) -> Result<(), Ended> {
        let mut with_history = Vec::new();
        for channel in channels {
            match self.pump.joining_policy(&channel) {
                Some(Some(policy)) => with_history.push((channel, policy)),
                Some(None) => self.pump.settle(&channel, None),
                None => {}
            }
        }
        let lines = history::lines(link, &self.keys, &with_history).await.map_err(Ended::anew)?;
        for ((channel, _), line) in with_history.iter().zip(lines) {
            match line {
                Ok(line) => self.pump.settle(channel, Some(line.top)),
                Err(error) => {
                    warn!(%channel, %error, "a channel cannot be joined");
                    self.pump.refuse(channel);
                }
            }
        }
        Ok(())
    }

    async fn live(&mut self, session: &mut Session) -> Ended {
        let lost = session.subscriber.lost();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut verify = tokio::time::interval_at(Instant::now() + VERIFY_INTERVAL, VERIFY_INTERVAL);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat = Heartbeat::new(Instant::now());
        let mut probe: Option<Probe> = None;
        let inbox = self.inbox.clone();
        loop {
            let done = tokio::select! {
                () = lost.cancelled() => {
                    return Ended { why: "the subscriber's connection has ended".into(), keeps_link: true };
                }
                () = session.link.broken() => return Ended::anew("the command connections have ended"),
                changed = self.target.changed() => match changed {
                    Ok(()) => self.retarget(session).await,
                    Err(_) => return Ended::anew("the node ends"),
                },
                () = inbox.joined.notified() => self.join(session).await,
                () = inbox.was_dropped.notified() => self.resubscribe_dropped(session).await,
                _ = verify.tick() => self.verify(session).await,
                _ = tick.tick() => match heartbeat.poll(Instant::now(), self.heard.last()) {
                    Beat::Dead => return Ended::anew("nothing comes through, although it seems connected"),
                    Beat::Probe => {
                        self.heard.probe_goes();
                        probe = Some(Box::pin(self.publisher.publish(&probe_publication(&session.probe))));
                        self.leave(session).await
                    }
                    Beat::Wait => self.leave(session).await,
                },
                answer = async { probe.as_mut().expect("guarded").await }, if probe.is_some() => {
                    probe = None;
                    // Without an answer it may have been published, and counts.
                    if let Err(PublishError::Unavailable { .. } | PublishError::Overloaded) = answer {
                        heartbeat.refused(Instant::now());
                    }
                    Ok(())
                }
            };
            if let Err(ended) = done {
                return ended;
            }
        }
    }

    /// The directory has said something new about this master.
    async fn retarget(&mut self, session: &mut Session) -> Result<(), Ended> {
        let target = self.target.borrow_and_update().clone();
        if target.at() != session.at {
            return Err(Ended::anew("another master has taken over"));
        }
        if !target.partitions.contains(&keys::partition(&session.probe)) {
            return Err(Ended::anew("the partition of the probe has moved"));
        }
        let gained: BTreeSet<_> = target.partitions.difference(&session.partitions).copied().collect();
        session.partitions = target.partitions.clone();
        self.served = target.partitions.clone();
        self.adopt(session, gained).await
    }

    /// These partitions have come from another master: subscribes and catches up on all that is in them.
    async fn adopt(&self, session: &mut Session, partitions: BTreeSet<usize>) -> Result<(), Ended> {
        if partitions.is_empty() {
            return Ok(());
        }
        let partitions = Arc::new(partitions);
        session.link.learn_new(&partitions).await.map_err(Ended::anew)?;
        self.pump.expire_in(&partitions, Instant::now());
        let channels = self.pump.channels_in(&partitions);
        session.subscriber.subscribe(&channels).await.map_err(Ended::anew)?;
        self.pump.moved(&partitions).await;
        self.settle(&session.link, channels.clone()).await?;
        self.relinked.notify_one();
        info!(redis = session.at, partitions = partitions.len(), channels = channels.len(), "slots have moved here");
        self.catch_up.sweep(&session.link, channels).await.map_err(Ended::anew)
    }

    /// Redis has ended subscriptions by itself, as it does when their slot leaves. What is still ours (or ours again) is
    /// subscribed anew; for the rest the directory finds out who has it.
    async fn resubscribe_dropped(&mut self, session: &mut Session) -> Result<(), Ended> {
        self.stale.notify_one();
        let _ = tokio::time::timeout(MOVE_PATIENCE, self.target.changed()).await;
        self.retarget(session).await?;
        let dropped = std::mem::take(&mut *self.inbox.dropped.lock());
        let ours = dropped.intersection(&session.partitions).copied().collect();
        self.adopt(session, ours).await
    }

    /// A master that was demoted and promoted again while the connections stayed may have lost something.
    async fn verify(&self, session: &Session) -> Result<(), Ended> {
        match session.link.is_same_master(&session.partitions).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.relinked.notify_one();
                let channels = self.pump.channels(self.number);
                self.catch_up.sweep(&session.link, channels).await.map_err(Ended::anew)
            }
            // While it refuses writes it is not asked; if it is another master by now, the directory says so.
            Err(error) => {
                debug!(%error, "redis does not say which generation it is of");
                self.stale.notify_one();
                Ok(())
            }
        }
    }

    /// Subscribes who has asked.
    async fn join(&self, session: &mut Session) -> Result<(), Ended> {
        let joining = self.pump.take_joining(self.number);
        if joining.is_empty() {
            return Ok(());
        }
        session.subscriber.subscribe(&joining).await.map_err(Ended::anew)?;
        self.settle(&session.link, joining).await
    }

    /// Unsubscribes who has lingered long enough.
    async fn leave(&self, session: &mut Session) -> Result<(), Ended> {
        let expired = self.pump.expire(self.number, Instant::now());
        if expired.is_empty() {
            return Ok(());
        }
        session.subscriber.unsubscribe(&expired).await.map_err(Ended::anew)
    }
}

/// A channel in one of these partitions.
fn probe(partitions: &BTreeSet<usize>) -> ChannelName {
    let random = || ChannelName::parse(&format!("{PROBE}{:032x}", rand::random::<u128>())).expect("a good name");
    // Of 1,024 partitions even a small master has some: found after as many tries as there are masters.
    let mut tries = std::iter::repeat_with(random).take(100_000);
    tries.find(|channel| partitions.contains(&keys::partition(channel))).unwrap_or_else(random)
}

fn probe_publication(channel: &ChannelName) -> NewPublication {
    NewPublication {
        channel: channel.clone(),
        payload: Payload::binary(bytes::Bytes::new()),
        client: None,
        user: None,
        published_at_ms: 0,
        key: None,
        history: None,
        durability: Durability::Accepted,
    }
}
