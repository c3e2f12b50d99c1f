//! Keeps the connections up, and every channel subscribed.
//!
//! One session after the other: connect, subscribe everything, catch up, *live*; until the subscriber ends, the way
//! through Redis is silent, or the command connections are given up. A session owns the subscriber; what subscribes and
//! what unsubscribes is in this one task, so the two never overtake each other.

use std::{pin::Pin, sync::Arc, time::Duration};

use skywave_proto::{ChannelName, Payload};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    catchup::CatchUp,
    heartbeat::{Backoff, Beat, Heartbeat},
    history,
    keys::Keys,
    link::{Link, RESPONSE_TIMEOUT},
    options::RedisOptions,
    publish::Publisher,
    pump::Pump,
    subscriber::{Heard, Subscriber},
};
use crate::{BackplaneState, NewPublication, PublishError, Published, Sink};

/// How often the clock is looked at for the heartbeat and for channels that have lingered long enough.
const TICK: Duration = Duration::from_millis(100);
/// A session that has been live for this long was a good one: the next attempt comes at once.
const GOOD_SESSION: Duration = Duration::from_secs(10);
/// How often a failure to connect is a warning; those between are for the debug log.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    pub(super) options: RedisOptions,
    pub(super) keys: Keys,
    pub(super) pump: Arc<Pump>,
    pub(super) publisher: Publisher,
    pub(super) catch_up: CatchUp,
    pub(super) link: watch::Sender<Option<Arc<Link>>>,
    pub(super) state: watch::Sender<BackplaneState>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) writers: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) heard: Arc<Heard>,
    /// Subscribed like any channel, and published to when all is silent. Nobody else has it.
    pub(super) probe: ChannelName,
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
    pub(super) async fn run(self) {
        let (mut backoff, mut warned_at) = (Backoff::default(), None);
        let stop = self.stop.clone();
        loop {
            let mut live_since = None;
            let ended = tokio::select! {
                ended = self.session(&mut live_since) => ended,
                () = stop.cancelled() => break,
            };
            // The subscriber is gone with its session and says nothing any more: mark the place.
            let was_live = self.degrade(&ended, live_since, &mut warned_at);
            self.pump.lost().await;
            // Without a connection nothing has to be unsubscribed, and the next session subscribes whatever is there then:
            // so that who comes and goes during a long outage leaves nothing behind.
            self.pump.expire(Instant::now());
            self.pump.take_joining();
            if !ended.keeps_link {
                self.drop_link();
            }
            if was_live.is_some_and(|lasted| lasted >= GOOD_SESSION) {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.pause(rand::random())) => {}
                () = stop.cancelled() => break,
            }
        }
        // What was published before the end still goes out, if it can.
        let _ = tokio::time::timeout(2 * RESPONSE_TIMEOUT, self.writers.wait()).await;
        self.drop_link();
        self.tell(BackplaneState::Degraded);
    }

    fn degrade(&self, ended: &Ended, live_since: Option<Instant>, warned_at: &mut Option<Instant>) -> Option<Duration> {
        self.tell(BackplaneState::Degraded);
        let lasted = live_since.map(|since| since.elapsed());
        if lasted.is_some() || warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
            *warned_at = Some(Instant::now());
            warn!(error = %ended.why, "redis is away; trying to reach it");
        } else {
            debug!(error = %ended.why, "redis is still away");
        }
        lasted
    }

    /// Tells a change. A node that never was live is not degraded.
    fn tell(&self, state: BackplaneState) {
        let changed = self.state.send_if_modified(|current| {
            let changes =
                *current != state && !(*current == BackplaneState::Never && state == BackplaneState::Degraded);
            if changes {
                *current = state;
            }
            changes
        });
        if changed {
            self.sink.state(state);
        }
    }

    fn drop_link(&self) {
        if let Some(link) = self.link.send_replace(None) {
            link.give_up("the session has ended");
        }
    }

    async fn link(&self) -> Result<Arc<Link>, Ended> {
        let current = self.link.borrow().clone().filter(|link| !link.is_broken());
        if let Some(link) = current {
            return Ok(link);
        }
        let link = Arc::new(Link::open(&self.options, &self.keys).await.map_err(Ended::anew)?);
        self.link.send_replace(Some(link.clone()));
        Ok(link)
    }

    /// From connecting to the end of the connection. Cancelled at the end of all.
    async fn session(&self, live_since: &mut Option<Instant>) -> Ended {
        let (link, mut subscriber) = match self.establish().await {
            Ok(established) => established,
            Err(ended) => return ended,
        };
        *live_since = Some(Instant::now());
        info!(channels = self.pump.channels().len(), "redis is there, every channel is delivered");
        self.tell(BackplaneState::Live);
        self.live(&link, &mut subscriber).await
    }

    async fn establish(&self) -> Result<(Arc<Link>, Subscriber), Ended> {
        let link = self.link().await?;
        let mut subscriber =
            Subscriber::open(&self.options, &self.keys, &self.pump, &self.heard).await.map_err(Ended::anew)?;
        self.pump.expire(Instant::now()); // this connection has not subscribed them
        self.pump.take_joining(); // they are among all others
        let channels = self.pump.channels();
        subscriber.subscribe(std::slice::from_ref(&self.probe)).await.map_err(Ended::anew)?;
        subscriber.subscribe(&channels).await.map_err(Ended::anew)?;
        self.pump.restored().await;
        self.settle(&link, channels.clone()).await?;
        self.catch_up.sweep(&link, channels).await.map_err(Ended::anew)?;
        Ok((link, subscriber))
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

    async fn live(&self, link: &Link, subscriber: &mut Subscriber) -> Ended {
        let lost = subscriber.lost();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat = Heartbeat::new(Instant::now());
        let mut probe: Option<Probe> = None;
        loop {
            let done = tokio::select! {
                () = lost.cancelled() => {
                    return Ended { why: "the subscriber's connection has ended".into(), keeps_link: true };
                }
                () = link.broken() => return Ended::anew("the command connections have ended"),
                () = self.pump.joined.notified() => self.join(link, subscriber).await,
                _ = tick.tick() => match heartbeat.poll(Instant::now(), self.heard.last()) {
                    Beat::Dead => return Ended::anew("nothing comes through, although it seems connected"),
                    Beat::Probe => {
                        probe = Some(Box::pin(self.publisher.publish(&self.probe_publication())));
                        self.leave(subscriber).await
                    }
                    Beat::Wait => self.leave(subscriber).await,
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

    fn probe_publication(&self) -> NewPublication {
        NewPublication {
            channel: self.probe.clone(),
            payload: Payload::binary(bytes::Bytes::new()),
            client: None,
            user: None,
            published_at_ms: 0,
            key: None,
            history: None,
            durability: crate::Durability::Accepted,
        }
    }

    /// Subscribes who has asked.
    async fn join(&self, link: &Link, subscriber: &mut Subscriber) -> Result<(), Ended> {
        let joining = self.pump.take_joining();
        if joining.is_empty() {
            return Ok(());
        }
        subscriber.subscribe(&joining).await.map_err(Ended::anew)?;
        self.settle(link, joining).await
    }

    /// Unsubscribes who has lingered long enough.
    async fn leave(&self, subscriber: &mut Subscriber) -> Result<(), Ended> {
        let expired = self.pump.expire(Instant::now());
        if expired.is_empty() {
            return Ok(());
        }
        subscriber.unsubscribe(&expired).await.map_err(Ended::anew)
    }
}
