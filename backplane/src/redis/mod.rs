//! The backplane through one Redis or Valkey (7.0 or later): joins many nodes.
//!
//! - the way out: [`publish`], in batches through scripts ([`scripts`], `scripts/*.lua`) that give a publication its
//!   place, keep it and publish it in one step
//! - the way in: [`subscriber`], a connection of its own; [`pump`], which applies the live rule ([`cursor`]) to each
//!   channel; [`catchup`], which asks the history for what passed by unheard ([`history`], [`line`])
//! - [`supervisor`] owns the connections ([`link`] carries the commands); [`heartbeat`] says when to doubt them
//! - [`keys`] and [`frame`] are what stands in Redis: nodes of different versions read each other's
//!
//! What it does against losing publications without saying so: a line of offsets gets a new epoch whenever the master may
//! be another one than before (its replication id, read inside a script, has changed), with a boundary up to which the
//! old epoch still holds.
//!
//! Not built yet: Sentinel, Cluster, TLS; presence; publications that wait for replicas; a service that hides the
//! replication id. A master that is demoted and promoted again while a connection to it survives is not noticed.

mod catchup;
mod cursor;
mod frame;
mod heartbeat;
mod history;
mod keys;
mod line;
mod link;
mod options;
mod presence;
mod publish;
mod pump;
mod scripts;
mod secret;
mod subscriber;
mod supervisor;

use std::{sync::Arc, time::Duration};

use deadpool_redis::Pool;
use skywave_proto::{ChannelName, StreamPosition};
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{
    catchup::CatchUp,
    keys::Keys,
    link::Link,
    publish::Publisher,
    pump::{Interested, Pump},
    subscriber::Heard,
    supervisor::Supervisor,
};
pub use self::{
    options::{RedisOptions, RedisOptionsError},
    secret::SharedSecretError,
};
use crate::{
    Backplane, BackplaneState, HistoryError, HistoryPage, HistoryQuery, Interest, NewPublication, PublishError,
    Published, Sink, SubscribeError,
};

/// How long whoever subscribes waits for a backplane that is away.
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
    publisher: Publisher,
    link: watch::Receiver<Option<Arc<Link>>>,
    /// For what is asked now and then and may wait: everything else has a connection of its own.
    occasional: Pool,
    state: watch::Receiver<BackplaneState>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stops_when_dropped: DropGuard,
}

impl Redis {
    /// Begins to connect in the background and delivers to `sink`. Never fails and never waits: what Redis says, and
    /// whether it is there, is in [`Backplane::state`]. Must be called within a tokio runtime.
    pub fn new(options: RedisOptions, sink: Arc<dyn Sink>) -> Self {
        let stop = CancellationToken::new();
        let keys = Keys::new(&options.prefix);
        let occasional = options.pool();
        let (pump, queues) = Pump::new(&sink);
        let pump = Arc::new(pump);
        let (link, link_now) = watch::channel(None);
        let (state, state_now) = watch::channel(BackplaneState::Never);
        let (publisher, writers) = Publisher::new(link_now.clone(), keys.clone(), &options.node, &stop);

        let (tasks, writing) = (TaskTracker::new(), TaskTracker::new());
        for writer in writers {
            tasks.spawn(writing.track_future(writer.run()));
        }
        writing.close();
        // Until the supervisor ends, and it ends last.
        let ended = CancellationToken::new();
        for queue in queues {
            tasks.spawn(ended.clone().run_until_cancelled_owned(pump.clone().run(queue)));
        }
        let catch_up = CatchUp { pump: pump.clone(), keys: keys.clone(), link: link_now.clone() };
        tasks.spawn(ended.clone().run_until_cancelled_owned(catch_up.clone().run()));
        let supervisor = Supervisor {
            options,
            keys: keys.clone(),
            pump: pump.clone(),
            publisher: publisher.clone(),
            catch_up,
            link,
            state,
            sink,
            writers: writing,
            stop: stop.clone(),
            heard: Arc::new(Heard::new()),
            probe: ChannelName::parse(&format!("#probe:{:032x}", rand::random::<u128>())).expect("a good name"),
        };
        tasks.spawn(async move {
            let _ended = ended.drop_guard();
            supervisor.run().await;
        });
        tasks.close();
        Self(Arc::new(Inner {
            keys,
            pump,
            publisher,
            link: link_now,
            occasional,
            state: state_now,
            tasks,
            _stops_when_dropped: stop.clone().drop_guard(),
            stop,
        }))
    }

    /// Sends what was published before, then ends all connections and tasks. Afterwards everything is unavailable.
    ///
    /// # Cancel safety
    /// Cancel-safe: it goes on ending by itself.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }

    fn link(&self) -> Result<Arc<Link>, HistoryError> {
        self.0.link.borrow().clone().filter(|link| !link.is_broken()).ok_or(HistoryError::Unavailable(None))
    }

    /// Returns when there is no more hope for a subscription.
    async fn lose_patience(&self) {
        let mut state = self.0.state.clone();
        let lose = async {
            loop {
                // An error: closed, and never live again.
                if state.wait_for(|state| *state != BackplaneState::Live).await.is_err() {
                    return;
                }
                let back = state.wait_for(|state| *state == BackplaneState::Live);
                match tokio::time::timeout(PATIENCE, back).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(SUBSCRIBE_DEADLINE, lose).await;
    }
}

impl Backplane for Redis {
    fn publish(
        &self,
        publication: NewPublication,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + 'static {
        self.0.publisher.publish(&publication)
    }

    /// # Cancel safety
    /// The interests stay: unsubscribe what is not wanted.
    async fn subscribe(&self, channels: &[Interest]) -> Vec<Result<Option<StreamPosition>, SubscribeError>> {
        let interested: Vec<_> = channels.iter().map(|interest| self.0.pump.subscribe(interest)).collect();
        let mut out_of_patience = std::pin::pin!(self.lose_patience());
        let mut is_out = false;
        let mut answers = Vec::with_capacity(channels.len());
        for (interest, interested) in channels.iter().zip(interested) {
            let answer = match interested {
                Interested::Already(position) => Some(position),
                Interested::Waiting(mut answer) if is_out => answer.try_recv().ok(),
                Interested::Waiting(mut answer) => tokio::select! {
                    biased;
                    position = &mut answer => position.ok(),
                    () = &mut out_of_patience => {
                        is_out = true;
                        answer.try_recv().ok()
                    }
                },
            };
            if answer.is_none() {
                self.0.pump.forget_askers(&interest.channel);
            }
            answers.push(answer.ok_or(SubscribeError::Unavailable));
        }
        answers
    }

    fn unsubscribe(&self, channels: &[ChannelName]) {
        for channel in channels {
            self.0.pump.unsubscribe(channel);
        }
    }

    async fn history(&self, channel: &ChannelName, query: HistoryQuery) -> Result<HistoryPage, HistoryError> {
        let link = self.link()?;
        history::history(&link, &self.0.keys, channel, query).await
    }

    async fn positions(&self, channels: &[ChannelName]) -> Result<Vec<Option<StreamPosition>>, HistoryError> {
        let link = self.link()?;
        let positions = history::positions(&link, &self.0.keys, channels).await.map_err(history::unavailable)?;
        positions.into_iter().map(|position| position.map_err(history::unavailable)).collect()
    }

    async fn forget(&self, channel: &ChannelName) -> Result<(), HistoryError> {
        let link = self.link()?;
        history::forget(&link, &self.0.keys, channel).await.map_err(history::unavailable)
    }

    fn state(&self) -> BackplaneState {
        *self.0.state.borrow()
    }
}
