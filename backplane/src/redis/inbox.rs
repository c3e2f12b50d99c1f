//! Which master every slot belongs to, and what waits for each master.
//!
//! A channel belongs to a partition, a partition to a slot, a slot to a master; only the last can change, and only the
//! directory changes it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use skywave_proto::ChannelName;
use tokio::{sync::Notify, time::Instant};

use super::keys::{self, SLOTS};

/// The slot belongs to nobody that is known.
const NOBODY: u16 = u16::MAX;

/// What one master is to do for channels. Bound of each queue: the channels that the node's clients are subscribed to.
#[derive(Default)]
pub(super) struct Inbox {
    /// Channels to subscribe.
    pub(super) joining: Mutex<Vec<ChannelName>>,
    pub(super) joined: Notify,
    /// Channels whose history has to be asked.
    pub(super) behind: Mutex<VecDeque<ChannelName>>,
    pub(super) fell_behind: Notify,
    /// Lanes have lost frames: sweep.
    pub(super) overflow: Notify,
    /// Channels to give up, in the order of their time.
    pub(super) lingering: Mutex<VecDeque<(Instant, ChannelName)>>,
    /// Partitions whose subscriptions Redis has ended by itself.
    pub(super) dropped: Mutex<BTreeSet<usize>>,
    pub(super) was_dropped: Notify,
}

/// All of them.
pub(super) struct Inboxes {
    owners: Box<[AtomicU16]>,
    all: RwLock<Vec<Arc<Inbox>>>,
}

impl Inboxes {
    /// Nobody owns anything yet.
    pub(super) fn new() -> Self {
        Self { owners: (0..SLOTS).map(|_| AtomicU16::new(NOBODY)).collect(), all: RwLock::default() }
    }

    /// One more master. Gives its number.
    pub(super) fn add(&self) -> (usize, Arc<Inbox>) {
        let (mut all, inbox) = (self.all.write(), Arc::new(Inbox::default()));
        all.push(inbox.clone());
        (all.len() - 1, inbox)
    }

    /// From now on the slot belongs to this master, or to nobody.
    pub(super) fn assign(&self, slot: usize, master: Option<usize>) {
        let number = master.map_or(NOBODY, |master| u16::try_from(master).expect("a cluster has fewer masters"));
        self.owners[slot].store(number, Ordering::Release);
    }

    /// The master of a slot.
    pub(super) fn owner(&self, slot: usize) -> Option<usize> {
        match self.owners[slot].load(Ordering::Acquire) {
            NOBODY => None,
            master => Some(usize::from(master)),
        }
    }

    /// The master of a partition.
    pub(super) fn owner_of(&self, partition: usize) -> Option<usize> {
        self.owner(keys::slot(partition))
    }

    /// What waits for the master of a partition.
    pub(super) fn of(&self, partition: usize) -> Option<Arc<Inbox>> {
        self.owner_of(partition).map(|master| self.all.read()[master].clone())
    }

    /// What waits for this master.
    pub(super) fn inbox(&self, master: usize) -> Arc<Inbox> {
        self.all.read()[master].clone()
    }

    /// Every lane may have lost frames of any master.
    pub(super) fn overflow(&self) {
        self.all.read().iter().for_each(|inbox| inbox.overflow.notify_one());
    }
}
