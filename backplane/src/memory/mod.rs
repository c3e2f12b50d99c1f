//! The backplane inside one process: the reference, and what a single node runs on.
//!
//! Channels are spread over [`STRIPES`] locks; a lock is held for one step on one channel, and the [`Sink`] is called
//! under it, so that what it sees is in order. It never waits and never looks at another channel.

mod line;
mod members;
mod revoked;
mod sessions;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use skywave_proto::{ChannelName, Member, Publication, StreamPosition};
use tokio::time::Instant;

use self::{
    line::Line,
    members::{Change, Members},
    revoked::Revoked,
};
use crate::{
    Backplane, BackplaneState, Cluster, ClusterError, Delivery, Durability, Gap, HistoryError, HistoryPage,
    HistoryQuery, IDEMPOTENCY_WINDOW, IdempotencyKey, Interest, MemberPage, NewPublication, NodeInfo, NodeRecord,
    Presence, PresenceError, PresenceEvent, PublishError, Published, SessionKey, Sink, SubscribeError, Target,
    Transition, TransitionKind,
};

const STRIPES: usize = 64;
/// Idempotency keys of one channel. Full: publications with a new key are refused as [`PublishError::Overloaded`].
const KEYS: usize = 64 * 1024;
/// How often what has expired is swept out. Nothing depends on it but memory: every reader looks at the clock itself.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The embedded backplane. Cloning shares it.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    stripes: [Mutex<HashMap<ChannelName, Channel, ahash::RandomState>>; STRIPES],
    hasher: ahash::RandomState,
    sink: Arc<dyn Sink>,
    incarnation: Arc<str>,
    info: Mutex<NodeInfo>,
    tells_transitions: AtomicBool,
    revoked: Mutex<Revoked>,
    /// Who has claimed them holds a place for each.
    sessions: Mutex<HashSet<SessionKey>>,
}

/// All that is known of one channel. Bound: what its namespace's history allows, the keys of the last
/// [`IDEMPOTENCY_WINDOW`], and its members; gone when all three are empty and nobody is subscribed.
#[derive(Default)]
struct Channel {
    subscribed: bool,
    line: Option<Line>,
    /// Bound: [`KEYS`].
    keys: HashMap<IdempotencyKey, (Instant, Option<StreamPosition>), ahash::RandomState>,
    members: Members,
}

impl Memory {
    /// An empty backplane that delivers to `sink`. Must be called within a tokio runtime, which carries its sweeper
    /// until the last clone is gone.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        let inner = Arc::new(Inner {
            stripes: std::array::from_fn(|_| Mutex::default()),
            hasher: ahash::RandomState::new(),
            sink,
            incarnation: format!("{:016x}", rand::random::<u64>()).into(),
            info: Mutex::default(),
            tells_transitions: AtomicBool::new(false),
            revoked: Mutex::default(),
            sessions: Mutex::default(),
        });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(SWEEP_INTERVAL);
            loop {
                tick.tick().await;
                let Some(inner) = weak.upgrade() else { return };
                inner.sweep();
            }
        });
        Self(inner)
    }

    /// Publishes as [`Backplane::publish`] does, and has the outcome at once: there is nothing to wait for. The [`Sink`] is
    /// called before this returns.
    ///
    /// # Errors
    /// As [`Backplane::publish`], except that nothing is ever unavailable or unknown.
    pub fn publish_now(&self, publication: NewPublication) -> Result<Published, PublishError> {
        self.0.publish(publication)
    }
}

impl Inner {
    fn stripe(&self, channel: &ChannelName) -> MutexGuard<'_, HashMap<ChannelName, Channel, ahash::RandomState>> {
        let hash = self.hasher.hash_one(channel);
        self.stripes[usize::try_from(hash % STRIPES as u64).expect("less than STRIPES")].lock()
    }

    fn publish(&self, new: NewPublication) -> Result<Published, PublishError> {
        let now = Instant::now();
        let mut stripe = self.stripe(&new.channel);
        let channel = stripe.entry(new.channel.clone()).or_default();
        if let Some(key) = &new.key
            && let Some((until, position)) = channel.keys.get(key)
            && *until > now
        {
            let published = Published { position: *position, duplicate: true };
            return confirm(new.channel, published, new.durability);
        }
        if new.key.is_some() && channel.keys.len() >= KEYS {
            channel.keys.retain(|_, (until, _)| *until > now);
            if channel.keys.len() >= KEYS {
                return Err(PublishError::Overloaded);
            }
        }
        let live = Publication {
            position: None,
            payload: new.payload,
            client: new.client,
            user: new.user,
            published_at_ms: new.published_at_ms,
        };
        let publication = match new.history {
            Some(policy) => channel.line_at(now, policy).append(live, policy, now),
            None => live,
        };
        let position = publication.position;
        if let Some(key) = new.key {
            channel.keys.insert(key, (now + IDEMPOTENCY_WINDOW, position));
        }
        if channel.subscribed {
            self.sink.publication(&new.channel, publication);
        }
        confirm(new.channel, Published { position, duplicate: false }, new.durability)
    }

    fn subscribe(&self, interest: &Interest) -> Option<StreamPosition> {
        let now = Instant::now();
        let mut stripe = self.stripe(&interest.channel);
        let channel = stripe.entry(interest.channel.clone()).or_default();
        channel.subscribed = true;
        interest.history.map(|policy| channel.line_at(now, policy).top())
    }

    fn leave_now(&self, channel: &ChannelName, client: &Arc<str>, connection: u64, marked: bool) {
        let mut stripe = self.stripe(channel);
        let Some(entry) = stripe.get_mut(channel) else { return };
        if let Some((member, change)) = entry.members.remove(client, connection, marked) {
            self.tell(channel, &member, TransitionKind::Left, change);
            if entry.subscribed {
                self.sink.presence(channel, PresenceEvent::Leave(member));
            }
        }
    }

    fn tell(&self, channel: &ChannelName, member: &Member, kind: TransitionKind, change: Change) {
        if change.of_user && self.tells_transitions.load(Relaxed) {
            let (member, of_channel) = (member.clone(), change.of_channel);
            let transition = Transition { member, kind, of_channel, position: None, at_ms: now_ms() };
            self.sink.transition(channel, transition);
        }
    }

    fn sweep(&self) {
        self.revoked.lock().expire(now_ms());
        let now = Instant::now();
        for stripe in &self.stripes {
            stripe.lock().retain(|_, channel| {
                channel.keys.retain(|_, (until, _)| *until > now);
                channel.expire(now);
                channel.subscribed || channel.line.is_some() || !channel.keys.is_empty() || !channel.members.is_empty()
            });
        }
    }
}

/// By the clock that tokens and back ends go by.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A process has no replicas.
fn confirm(channel: ChannelName, published: Published, durability: Durability) -> Result<Published, PublishError> {
    match durability {
        Durability::Accepted => Ok(published),
        Durability::Replicated { .. } => Err(PublishError::NotReplicated { channel, published, replicas: 0 }),
    }
}

impl Channel {
    /// Lets go of what is too old. The line of a channel with subscribers stays, however quiet it is: they hold
    /// positions on it.
    fn expire(&mut self, now: Instant) {
        if self.line.as_mut().is_some_and(|line| line.expire(now)) && !self.subscribed {
            self.line = None;
        }
    }

    fn line(&mut self, now: Instant) -> Option<&Line> {
        self.expire(now);
        self.line.as_ref()
    }

    /// The line of offsets, begun or begun anew if there is none or it has expired.
    fn line_at(&mut self, now: Instant, policy: crate::HistoryPolicy) -> &mut Line {
        self.expire(now);
        self.line.get_or_insert_with(|| Line::begin(policy, now))
    }
}

impl Backplane for Memory {
    fn publish(
        &self,
        publication: NewPublication,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + 'static {
        std::future::ready(self.publish_now(publication))
    }

    async fn subscribe(&self, channels: &[Interest]) -> Vec<Result<Option<StreamPosition>, SubscribeError>> {
        channels.iter().map(|interest| Ok(self.0.subscribe(interest))).collect()
    }

    fn unsubscribe(&self, channels: &[ChannelName]) {
        for name in channels {
            if let Some(channel) = self.0.stripe(name).get_mut(name) {
                channel.subscribed = false;
                if let Some(line) = &mut channel.line {
                    line.rest(Instant::now());
                }
            }
        }
    }

    async fn history(&self, channel: &ChannelName, query: HistoryQuery) -> Result<HistoryPage, HistoryError> {
        let now = Instant::now();
        let mut stripe = self.0.stripe(channel);
        Ok(match stripe.get_mut(channel).and_then(|channel| channel.line(now)) {
            Some(line) => line.page(query),
            None => HistoryPage { top: None, publications: Vec::new(), complete: query.since.is_none(), more: false },
        })
    }

    async fn positions(&self, channels: &[ChannelName]) -> Result<Vec<Option<StreamPosition>>, HistoryError> {
        let now = Instant::now();
        let top = |name| {
            let mut stripe = self.0.stripe(name);
            stripe.get_mut(name)?.line(now).map(Line::top)
        };
        Ok(channels.iter().map(top).collect())
    }

    async fn forget(&self, name: &ChannelName) -> Result<(), HistoryError> {
        let mut stripe = self.0.stripe(name);
        let Some(channel) = stripe.get_mut(name) else { return Ok(()) };
        match &mut channel.line {
            Some(line) if channel.subscribed => {
                line.restart(Instant::now());
                self.0.sink.gap(name, Gap::Reset { now: Some(line.top()) });
            }
            line => *line = None,
        }
        Ok(())
    }

    fn state(&self) -> BackplaneState {
        BackplaneState::Live
    }
}

impl Presence for Memory {
    async fn join(&self, channel: &ChannelName, member: Member, connection: u64) -> Result<(), PresenceError> {
        let mut stripe = self.0.stripe(channel);
        let entry = stripe.entry(channel.clone()).or_default();
        if let Some(change) = entry.members.add(member.clone(), connection) {
            self.0.tell(channel, &member, TransitionKind::Joined, change);
            if entry.subscribed {
                self.0.sink.presence(channel, PresenceEvent::Join(member));
            }
        }
        Ok(())
    }

    async fn leave(
        &self,
        channel: &ChannelName,
        client: &Arc<str>,
        connection: u64,
        grace: Duration,
    ) -> Result<(), PresenceError> {
        if grace.is_zero() {
            self.0.leave_now(channel, client, connection, false);
            return Ok(());
        }
        let marked =
            self.0.stripe(channel).get_mut(channel).is_some_and(|entry| entry.members.mark_leaving(client, connection));
        if marked {
            let (weak, channel, client) = (Arc::downgrade(&self.0), channel.clone(), client.clone());
            tokio::spawn(async move {
                tokio::time::sleep(grace).await;
                if let Some(inner) = weak.upgrade() {
                    inner.leave_now(&channel, &client, connection, true);
                }
            });
        }
        Ok(())
    }

    async fn members(
        &self,
        channel: &ChannelName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<MemberPage, PresenceError> {
        let stripe = self.0.stripe(channel);
        Ok(stripe.get(channel).map_or_else(MemberPage::default, |entry| entry.members.page(after, limit)))
    }

    async fn count(&self, channel: &ChannelName) -> Result<u64, PresenceError> {
        let stripe = self.0.stripe(channel);
        Ok(stripe.get(channel).map_or(0, |entry| entry.members.count()))
    }

    fn tell_transitions(&self, tell: bool) {
        self.0.tells_transitions.store(tell, Relaxed);
    }
}

impl Cluster for Memory {
    fn incarnation(&self) -> Arc<str> {
        self.0.incarnation.clone()
    }

    fn announce(&self, info: NodeInfo) {
        *self.0.info.lock() = info;
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, ClusterError> {
        let (incarnation, info) = (self.incarnation(), self.0.info.lock().clone());
        Ok(vec![NodeRecord { incarnation, info, beat_age: Duration::ZERO }])
    }

    async fn signal(&self, to: Target, message: Bytes, _: Delivery) -> Result<(), ClusterError> {
        let for_us = match to {
            Target::All => true,
            Target::Node(incarnation) => incarnation == self.0.incarnation,
        };
        if for_us {
            self.0.sink.signal(self.incarnation(), message);
        }
        Ok(())
    }
}
