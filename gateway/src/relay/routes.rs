//! Which shards want which channel, and the way of a publication up to them.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::RwLock;
use skywave_backplane::{BackplaneState, Gap, PresenceEvent, Sink, SubscribeError, Transition};
use skywave_proto::{ChannelName, Publication, StreamPosition};
use tokio::sync::mpsc;

use super::{Answer, Receipt};
use crate::{
    config::MAX_SHARDS,
    push::{Prepared, Push},
};

const STRIPES: usize = 64;

/// A shard's mailbox, as seen from below. Nothing here waits.
pub trait Mailbox: Send + Sync + 'static {
    /// Hands over a push for everybody on its channel. Full: the shard is told what it [`Lost`] when it comes round.
    fn push(&self, channel: &ChannelName, push: Arc<Prepared>);

    /// Joins or leaves of a channel may be missing.
    fn presence_gap(&self, channel: &ChannelName);

    /// Hands over the answer to a join. Never lost.
    fn joined(&self, channel: ChannelName, join: u64, outcome: Result<Option<StreamPosition>, SubscribeError>);

    /// Hands over the answer to an order. Never lost.
    fn answer(&self, receipt: Receipt, answer: Answer);

    /// The backplane came or went.
    fn backplane(&self, state: BackplaneState);
}

/// What of a channel did not fit into a mailbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Publications: history has them, or the channel is live only.
    pub publications: bool,
    /// Joins or leaves.
    pub presence: bool,
}

/// Channel -> shards that want it; the [`Sink`] of the node's backplane. A lock is held for one look-up.
pub struct Routes {
    stripes: [RwLock<HashMap<ChannelName, Shards, ahash::RandomState>>; STRIPES],
    hasher: ahash::RandomState,
    mailboxes: Arc<[Arc<dyn Mailbox>]>,
    signals: mpsc::Sender<Signal>,
    transitions: OnceLock<Transitions>,
}

/// Hears of users that come to channels and go; must not wait.
type Transitions = Box<dyn Fn(&ChannelName, Transition) + Send + Sync>;

/// What another node has said: its incarnation, and the message.
pub type Signal = (Arc<str>, Bytes);

/// Bound of the queue of signals, in signals; emptied by one task. Full: the signal is dropped, told and counted.
pub const SIGNALS: usize = 4 * 1024;

/// A set of shards is one word.
type Shards = u128;
const _: () = assert!(Shards::BITS as usize >= MAX_SHARDS as usize);

impl Routes {
    /// No channel goes anywhere yet. What other nodes say goes into the queue that comes back.
    pub fn new(mailboxes: Arc<[Arc<dyn Mailbox>]>) -> (Self, mpsc::Receiver<Signal>) {
        assert!(mailboxes.len() <= usize::from(MAX_SHARDS), "the configuration bounds node.shards");
        let (signals, queue) = mpsc::channel(SIGNALS);
        let (stripes, hasher) = (std::array::from_fn(|_| RwLock::default()), ahash::RandomState::new());
        (Self { stripes, hasher, mailboxes, signals, transitions: OnceLock::new() }, queue)
    }

    /// From now on this hears of users that come to channels and go. Set once.
    pub fn hear_transitions(&self, hear: impl Fn(&ChannelName, Transition) + Send + Sync + 'static) {
        let _ = self.transitions.set(Box::new(hear)); // nobody else sets it
    }

    /// How many channels go to some shard.
    pub fn channels(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.read().len()).sum()
    }

    /// The shard wants the channel.
    pub(super) fn add(&self, channel: &ChannelName, shard: usize) {
        *self.stripe(channel).write().entry(channel.clone()).or_default() |= 1 << shard;
    }

    /// The shard no longer wants the channel.
    pub(super) fn remove(&self, channel: &ChannelName, shard: usize) {
        let mut stripe = self.stripe(channel).write();
        if let Some(shards) = stripe.get_mut(channel) {
            *shards &= !(1 << shard);
            if *shards == 0 {
                stripe.remove(channel);
            }
        }
    }

    /// Whether any shard wants the channel.
    pub(super) fn is_wanted(&self, channel: &ChannelName) -> bool {
        self.stripe(channel).read().contains_key(channel)
    }

    fn stripe(&self, channel: &ChannelName) -> &RwLock<HashMap<ChannelName, Shards, ahash::RandomState>> {
        let stripe = self.hasher.hash_one(channel) % STRIPES as u64;
        &self.stripes[usize::try_from(stripe).expect("less than STRIPES")]
    }

    fn deliver(&self, channel: &ChannelName, push: Push) {
        let mut shards = self.shards_of(channel).peekable();
        if shards.peek().is_some() {
            let prepared = Prepared::new(push);
            shards.for_each(|shard| self.mailboxes[shard].push(channel, prepared.clone()));
        }
    }

    fn shards_of(&self, channel: &ChannelName) -> impl Iterator<Item = usize> + use<> {
        let mut shards = self.stripe(channel).read().get(channel).copied().unwrap_or_default();
        std::iter::from_fn(move || {
            let shard = (shards != 0).then(|| shards.trailing_zeros() as usize)?;
            shards &= shards - 1;
            Some(shard)
        })
    }
}

impl Sink for Routes {
    fn publication(&self, channel: &ChannelName, publication: Publication) {
        self.deliver(channel, Push::Publication(channel.clone(), publication));
    }

    fn gap(&self, channel: &ChannelName, gap: Gap) {
        self.deliver(channel, Push::gap(channel.clone(), gap));
    }

    fn presence(&self, channel: &ChannelName, event: PresenceEvent) {
        self.deliver(channel, Push::Presence(channel.clone(), event));
    }

    fn presence_gap(&self, channel: &ChannelName) {
        self.shards_of(channel).for_each(|shard| self.mailboxes[shard].presence_gap(channel));
    }

    fn transition(&self, channel: &ChannelName, transition: Transition) {
        if let Some(hear) = self.transitions.get() {
            hear(channel, transition);
        }
    }

    fn signal(&self, from: Arc<str>, message: Bytes) {
        if let Err(mpsc::error::TrySendError::Full((from, _))) = self.signals.try_send((from, message)) {
            crate::metrics::signal_dropped("in");
            tracing::warn!(from = &*from, "too many signals of other nodes are waiting, one is dropped");
        }
    }

    fn state(&self, state: BackplaneState) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.backplane(state));
    }
}
