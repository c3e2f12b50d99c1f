//! The backplane through Redis or Valkey (7.0 or later): joins many nodes. One master, one that sentinels name, several
//! independent ones or a cluster.
//!
//! - the way out: [`publish`], in batches through scripts ([`scripts`], `scripts/*.lua`) that give a publication its
//!   place, keep it and publish it in one step
//! - the way in: [`subscriber`], a connection of its own; [`pump`], which applies the live rule ([`cursor`]) to each
//!   channel; [`catchup`], which asks the history for what passed by unheard ([`history`], [`line`])
//! - [`masters`]: the channels are spread over one or more of them; [`directory`] finds out where they are, [`inbox`] has
//!   who owns which slot and what waits for each
//! - for each, a [`supervisor`] owns the connections ([`link`] carries the commands); [`heartbeat`] says when to doubt them
//! - [`presence`] writes who is on a channel, [`registry`] knows the nodes and buries the dead; both tell through
//!   channels of their own, which [`demux`] takes out of what comes in
//! - [`revoked`] remembers which tokens no longer count, [`sessions`] which node has a session without a connection
//! - [`keys`] and [`frame`] are what stands in Redis: nodes of different versions read each other's
//!
//! What it does against losing publications without saying so: a line of offsets gets a new epoch whenever the master may
//! be another one than before (its replication id, read inside a script, has changed), with a boundary up to which the
//! old epoch still holds.

mod agreed;
mod catchup;
mod cursor;
mod demux;
mod directory;
mod flights;
mod format;
mod frame;
mod heartbeat;
mod history;
mod inbox;
mod inspect;
mod keys;
mod line;
mod link;
mod masters;
mod options;
mod presence;
mod publish;
mod pump;
mod registry;
mod revoked;
mod ring;
mod scripts;
mod secret;
mod sessions;
mod states;
mod subscriber;
mod supervisor;

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use skywave_proto::{ChannelName, StreamPosition};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{
    demux::Demux,
    flights::Flights,
    inbox::Inboxes,
    keys::Keys,
    link::Link,
    masters::Masters,
    pump::{Interested, Pump},
    registry::Registry,
    states::{Away, States},
};
pub use self::{
    format::FormatError,
    link::MAX_WITHIN,
    options::{Generation, Needs, RedisOptions, RedisOptionsError},
    secret::SharedSecretError,
};
use crate::{
    Backplane, BackplaneState, HistoryError, HistoryPage, HistoryQuery, Interest, NewPublication, PublishError,
    Published, Sink, SubscribeError, metrics,
};

/// How long a master may be away before whoever subscribes there is refused at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a subscription may take at all.
const SUBSCRIBE_DEADLINE: Duration = Duration::from_secs(10);

/// The backplane through Redis. Cloning shares it; when the last clone is gone, it ends as with [`Redis::close`].
///
/// Publications are refused while Redis cannot be reached. Subscriptions last: after an outage every channel is
/// subscribed again and gets what it missed, or is told that this cannot be done.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    keys: Keys,
    pump: Arc<Pump>,
    flights: Flights,
    masters: Arc<Masters>,
    members: presence::Writer,
    registry: Registry,
    state: watch::Receiver<BackplaneState>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stops_when_dropped: DropGuard,
}

impl Redis {
    /// Begins to connect in the background and delivers to `sink`. Never fails and never waits: what Redis says, and
    /// whether it is there, is in [`Backplane::state`]. Must be called within a tokio runtime.
    pub fn new(options: RedisOptions, sink: Arc<dyn Sink>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (keys, inboxes) = (Keys::new(&options.prefix), Arc::new(Inboxes::new()));
        let demux: Arc<dyn Sink> = Arc::new(Demux(sink.clone()));
        let (pump, queues) = Pump::new(&demux, inboxes.clone(), options.ring_bytes);
        let pump = Arc::new(pump);
        let states = Arc::new(States::new(sink.clone()));
        let state = states.node();
        // Until everything else has ended: what comes in last is delivered.
        let ended = CancellationToken::new();
        for queue in queues {
            tokio::spawn(ended.clone().run_until_cancelled_owned(pump.clone().run(queue)));
        }
        tokio::spawn({
            let (stop, tasks) = (stop.clone(), tasks.clone());
            async move {
                stop.cancelled().await;
                tasks.close();
                tasks.wait().await;
                ended.cancel();
            }
        });
        let masters = Arc::new(Masters {
            options,
            keys: keys.clone(),
            pump: pump.clone(),
            inboxes,
            states,
            stale: Arc::new(Notify::new()),
            relinked: Arc::new(Notify::new()),
            tasks: tasks.clone(),
            stop: stop.clone(),
            all: RwLock::default(),
        });
        tasks.spawn(stop.clone().run_until_cancelled_owned(directory::keep(masters.clone())));
        let incarnation = Arc::new(RwLock::new(registry::new_incarnation()));
        let members = presence::Writer::new(masters.clone(), incarnation.clone(), sink);
        tasks.spawn(members.clone().run(stop.clone()));
        let registry = Registry::new(masters.clone(), members.clone(), incarnation);
        tasks.spawn(registry.clone().run(state.clone(), stop.clone()));
        Self(Arc::new(Inner {
            keys,
            pump,
            flights: Flights::default(),
            masters,
            members,
            registry,
            state,
            tasks,
            _stops_when_dropped: stop.clone().drop_guard(),
            stop,
        }))
    }

    /// Sends what was published before, then ends all connections and tasks. Afterwards everything is unavailable. Members
    /// of this node leave after the session grace, unless they come back elsewhere: another node carries that out.
    ///
    /// # Cancel safety
    /// Cancel-safe: it goes on ending by itself.
    pub async fn close(&self) {
        if !self.0.stop.is_cancelled() {
            self.0.registry.resign().await;
        }
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn link(&self, channel: &ChannelName) -> Result<Arc<Link>, HistoryError> {
        self.0.masters.link_of(keys::partition(channel)).ok_or(HistoryError::Unavailable(None))
    }

    async fn subscribe_all(&self, channels: &[Interest]) -> Vec<Result<Option<StreamPosition>, SubscribeError>> {
        let interested: Vec<_> = channels.iter().map(|interest| self.0.pump.subscribe(interest)).collect();
        let called_at = Instant::now();
        let mut answers = Vec::with_capacity(channels.len());
        for (interest, interested) in channels.iter().zip(interested) {
            let answer = match interested {
                Interested::Already(position) => Some(position),
                Interested::Waiting(mut answer) => tokio::select! {
                    biased;
                    position = &mut answer => position.ok(),
                    () = self.lose_patience(&interest.channel, called_at) => None,
                },
            };
            if answer.is_none() {
                self.0.pump.forget_askers(&interest.channel);
            }
            answers.push(answer.ok_or(SubscribeError::Unavailable));
        }
        answers
    }

    /// Returns when there is no more hope for a subscription. What counts is how long its own master has been away, not
    /// since when somebody waits: in an outage only the first wait, and a master that is well keeps nobody waiting for
    /// another. One that was never there is waited for each time.
    async fn lose_patience(&self, channel: &ChannelName, called_at: Instant) {
        let mut away = self.0.masters.states.away();
        let lose = async {
            loop {
                let master = self.0.masters.inboxes.owner_of(keys::partition(channel));
                let known = master.and_then(|master| away.borrow_and_update().get(master).copied());
                let until = match known {
                    Some(Away::No) => called_at + SUBSCRIBE_DEADLINE,
                    Some(Away::Since(since)) => since + PATIENCE,
                    Some(Away::Always) | None => called_at + PATIENCE,
                };
                match tokio::time::timeout_at(until, away.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout_at(called_at + SUBSCRIBE_DEADLINE, lose).await;
    }
}

impl Backplane for Redis {
    fn publish(
        &self,
        publication: NewPublication,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + 'static {
        self.0.masters.publish(&publication)
    }

    /// # Cancel safety
    /// The interests stay: unsubscribe what is not wanted.
    async fn subscribe(&self, channels: &[Interest]) -> Vec<Result<Option<StreamPosition>, SubscribeError>> {
        // The streams of joins and leaves behind the channels that they belong to.
        let streams = channels.iter().filter(|interest| interest.presence).map(|interest| Interest {
            channel: presence::stream(&interest.channel),
            history: Some(presence::STREAM),
            presence: false,
        });
        let all: Vec<_> = channels.iter().cloned().chain(streams).collect();
        let mut answers = self.subscribe_all(&all).await;
        let mut streams = answers.split_off(channels.len()).into_iter();
        for (interest, answer) in channels.iter().zip(&mut answers) {
            if interest.presence
                && let Some(Err(error)) = streams.next()
            {
                *answer = Err(error);
            }
        }
        answers
    }

    fn unsubscribe(&self, channels: &[ChannelName]) {
        for channel in channels {
            self.0.pump.unsubscribe(channel);
            self.0.pump.unsubscribe(&presence::stream(channel));
        }
    }

    async fn history(&self, channel: &ChannelName, query: HistoryQuery) -> Result<HistoryPage, HistoryError> {
        let here = if query.followed { self.0.pump.recent(channel, &query) } else { None };
        metrics::history_read(here.is_some());
        if let Some(page) = here {
            return Ok(page);
        }
        let (keys, name) = (self.0.keys.clone(), channel.clone());
        let read = || {
            let link = self.link(&name);
            async move { history::history(&*link?, &keys, &name, query).await }
        };
        if query.followed { self.0.flights.ask(channel, query, read).await } else { read().await }
    }

    async fn positions(&self, channels: &[ChannelName]) -> Result<Vec<Option<StreamPosition>>, HistoryError> {
        let mut answers = vec![None; channels.len()];
        for (link, places) in self.0.masters.spread(channels.iter()) {
            let link = link.ok_or(HistoryError::Unavailable(None))?;
            let asked: Vec<_> = places.iter().map(|place| channels[*place].clone()).collect();
            let positions = history::positions(&link, &self.0.keys, &asked).await.map_err(history::unavailable)?;
            for (place, position) in places.into_iter().zip(positions) {
                answers[place] = position.map_err(history::unavailable)?;
            }
        }
        Ok(answers)
    }

    async fn forget(&self, channel: &ChannelName) -> Result<(), HistoryError> {
        let link = self.link(channel)?;
        history::forget(&link, &self.0.keys, channel).await.map_err(history::unavailable)
    }

    fn state(&self) -> BackplaneState {
        *self.0.state.borrow()
    }
}
