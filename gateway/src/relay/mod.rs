//! The node's one way to its backplane: the first subscriber on the node joins a channel there, the last one leaves it.
//!
//! Shards put orders into bounded queues and never wait; the answer comes back as an item in the shard's mailbox. The
//! queues are emptied by tasks on the small runtime: publications and memberships in the order of their channel, presence in
//! that of each client on a channel, reads side by side. To the embedded backplane publications go at once, on the thread
//! of whoever publishes: it has nothing to wait for, and two changes of thread cost more than all it does.

mod answer;
mod memberships;
mod presence;
mod routes;
mod signals;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use skywave_backplane::{
    Any, Backplane as _, BackplaneState, Cluster as _, ClusterError, Delivery, HistoryQuery, Interest, Memory,
    NewPublication, PublishError, Published, Target,
};
use skywave_proto::{ChannelName, Member, v1::signal};
use tokio::sync::mpsc;

pub use self::{
    answer::{Answer, Answers, MembersAnswer, Receipt, ReplyTo, Verdict},
    routes::{Lost, Mailbox, Routes, SIGNALS, Signal},
};
use self::{memberships::Order as Membership, presence::Order as PresenceOrder};

/// Publications of one channel go through one stripe, so that they keep their order.
const STRIPES: usize = 4;
/// Bound of each stripe, in publications: so many wait, and so many are on their way. Full: [`Overloaded`], and nothing was done.
const STRIPE_ORDERS: usize = 8 * 1024;
/// Bound of the other queues, in orders. Full: [`Overloaded`].
const ORDERS: usize = 64 * 1024;
/// How many orders are taken at once.
const BATCH: usize = 512;
/// Histories being read at the same time.
const READS: usize = 128;

/// The queue towards the backplane is full; nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much is waiting for the backplane")]
pub struct Overloaded;

/// Orders a shard's channels, publications and reads from the backplane. Cloning shares it.
#[derive(Clone)]
pub struct Relay {
    backplane: Arc<Any>,
    stripes: [mpsc::Sender<(NewPublication, ReplyTo)>; STRIPES],
    memberships: mpsc::Sender<Membership>,
    presence: presence::Orders,
    reads: mpsc::Sender<(ChannelName, HistoryQuery, Receipt)>,
    signals: mpsc::Sender<(Target, (Bytes, Delivery))>,
    answers: Answers,
    hasher: ahash::RandomState,
}

/// The largest number of members in one answer.
pub const MEMBERS_PAGE: usize = 1000;

impl Relay {
    /// Starts the tasks on the current runtime; they end when the last clone is gone.
    pub fn start(backplane: Any, routes: Arc<Routes>, answers: Answers) -> Self {
        let backplane = Arc::new(backplane);
        let stripes = std::array::from_fn(|_| {
            let (orders, queue) = mpsc::channel(STRIPE_ORDERS);
            tokio::spawn(publish(backplane.clone(), queue, answers.clone()));
            orders
        });
        let (memberships, queue) = mpsc::channel(ORDERS);
        tokio::spawn(memberships::keep(backplane.clone(), routes, queue, answers.clone()));
        let (presence, queue) = presence::queue(ORDERS);
        tokio::spawn(presence::keep(backplane.clone(), queue, answers.clone()));
        let (reads, queue) = mpsc::channel(ORDERS);
        tokio::spawn(read(backplane.clone(), queue, answers.clone()));
        let (signals, queue) = mpsc::channel(SIGNALS);
        tokio::spawn(signals::send(backplane.clone(), queue));
        Self { backplane, stripes, memberships, presence, reads, signals, answers, hasher: ahash::RandomState::new() }
    }

    /// Whether the node reaches its backplane.
    pub fn state(&self) -> BackplaneState {
        self.backplane.state()
    }

    /// This run of this node, as other nodes know it.
    pub fn incarnation(&self) -> Arc<str> {
        self.backplane.incarnation()
    }

    /// The way back to the shards.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// The backplane itself, for callers outside the shards, which may wait.
    pub fn backplane(&self) -> &Any {
        &self.backplane
    }

    /// The backplane, if it is the embedded one: whoever publishes there has the outcome at once. Publications of a channel
    /// keep the order of all such calls.
    pub fn embedded(&self) -> Option<&Memory> {
        self.backplane.embedded()
    }

    /// Says again by way of the mailbox what is known of a publication: whoever hears it knows that the shard has done
    /// what was in there before.
    pub fn say_again(&self, published: Published, receipt: Receipt) {
        self.answers.send(receipt, Answer::Published(Ok(published)));
    }

    /// Says something to other nodes. Nobody hears whether it came; should too much be waiting, it does not.
    pub fn signal(&self, to: Target, op: signal::Op) {
        if self.signals.try_send((to, signals::encode(op))).is_err() {
            crate::metrics::signal_dropped("out");
            tracing::warn!("too many signals to other nodes are waiting, one is dropped");
        }
    }

    /// Says something to other nodes, and waits until it is on its way.
    ///
    /// # Errors
    /// As [`skywave_backplane::Cluster::signal`].
    pub async fn signal_and_wait(&self, to: Target, op: signal::Op) -> Result<(), ClusterError> {
        let (message, delivery) = signals::encode(op);
        self.backplane.signal(to, message, delivery).await
    }

    /// Publishes; the outcome goes to `reply_to`. Publications of a channel keep the order of these calls.
    ///
    /// # Errors
    /// [`Overloaded`] if too many are waiting.
    pub fn publish(&self, publication: NewPublication, reply_to: ReplyTo) -> Result<(), Overloaded> {
        if let Some(memory) = self.embedded() {
            self.answers.published(reply_to, memory.publish_now(publication));
            return Ok(());
        }
        let stripe = self.hasher.hash_one(&publication.channel) % STRIPES as u64;
        let stripe = &self.stripes[usize::try_from(stripe).expect("less than STRIPES")];
        stripe.try_send((publication, reply_to)).map_err(|_| Overloaded)
    }

    /// Publishes and waits for the outcome; for callers outside the shards.
    ///
    /// # Errors
    /// As [`skywave_backplane::Backplane::publish`].
    pub async fn publish_and_wait(&self, publication: NewPublication) -> Result<Published, PublishError> {
        let channel = publication.channel.clone();
        let (reply, outcome) = tokio::sync::oneshot::channel();
        self.publish(publication, ReplyTo::Waiter(reply)).map_err(|Overloaded| PublishError::Overloaded)?;
        outcome.await.unwrap_or(Err(PublishError::UnknownOutcome { channel }))
    }

    /// Delivers a channel to a shard from now on. The position from which everything comes is answered under `join`.
    ///
    /// # Errors
    /// [`Overloaded`] if too many are waiting.
    pub fn join(&self, shard: usize, interest: Interest, join: u64) -> Result<(), Overloaded> {
        self.memberships.try_send(Membership::Join { shard, interest, join }).map_err(|_| Overloaded)
    }

    /// No longer delivers a channel to a shard. Should the queue be full, the shard goes on receiving what it drops.
    pub fn leave(&self, shard: usize, channel: ChannelName) {
        if self.memberships.try_send(Membership::Leave { shard, channel }).is_err() {
            tracing::warn!("queue of memberships is full, a channel stays subscribed");
        }
    }

    /// Reads a history.
    ///
    /// # Errors
    /// [`Overloaded`] if too many are waiting.
    pub fn history(&self, channel: ChannelName, query: HistoryQuery, receipt: Receipt) -> Result<(), Overloaded> {
        self.reads.try_send((channel, query, receipt)).map_err(|_| Overloaded)
    }

    /// Makes a client a member of a channel, and with `list` answers who else is there.
    ///
    /// # Errors
    /// [`Overloaded`] if too many are waiting.
    pub fn enter(
        &self,
        channel: ChannelName,
        member: Member,
        connection: u64,
        list: bool,
        receipt: Receipt,
    ) -> Result<(), Overloaded> {
        let order = PresenceOrder::Enter { channel, member, connection, receipt, list };
        self.presence.give(order)
    }

    /// Takes a member away that was ordered to [`Relay::enter`], after `grace` unless it comes back.
    pub fn exit(&self, channel: ChannelName, client: Arc<str>, connection: u64, grace: std::time::Duration) {
        self.presence.give_surely(PresenceOrder::Exit { channel, client, connection, grace });
    }

    /// Answers who is on a channel, after what `client` ordered for itself there.
    ///
    /// # Errors
    /// [`Overloaded`] if too many are waiting.
    pub fn members(
        &self,
        channel: ChannelName,
        client: Option<Arc<str>>,
        after: Option<String>,
        receipt: Receipt,
    ) -> Result<(), Overloaded> {
        self.presence.give(PresenceOrder::List { channel, client, after, receipt })
    }
}

async fn publish(backplane: Arc<Any>, mut orders: mpsc::Receiver<(NewPublication, ReplyTo)>, answers: Answers) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            taken = orders.recv_many(&mut batch, BATCH), if waiting.len() < STRIPE_ORDERS => {
                if taken == 0 {
                    return;
                }
                for (publication, reply_to) in batch.drain(..) {
                    let outcome = backplane.publish(publication);
                    waiting.push(async move { (reply_to, outcome.await) });
                }
            }
            Some((reply_to, outcome)) = waiting.next() => answers.published(reply_to, outcome),
        }
    }
}

async fn read(backplane: Arc<Any>, mut orders: mpsc::Receiver<(ChannelName, HistoryQuery, Receipt)>, answers: Answers) {
    let mut reading = FuturesUnordered::new();
    loop {
        tokio::select! {
            order = orders.recv(), if reading.len() < READS => {
                let Some((channel, query, receipt)) = order else { return };
                let backplane = &backplane;
                reading.push(async move {
                    let page = backplane.history(&channel, query).await;
                    (receipt, channel, page)
                });
            }
            Some((receipt, channel, page)) = reading.next() => answers.send(receipt, Answer::History(channel, page)),
        }
    }
}
