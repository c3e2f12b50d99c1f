//! What the clients of a thread met, and where all of them stand.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::kind::Kind;
use crate::{
    report::rolling::{Party, add},
    spread::Spread,
};

/// What the clients of one thread met.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// From the first attempt to the first subscription.
    pub(super) connect: Spread,
    /// From the end of a connection until everything is subscribed again.
    pub(super) away: Spread,
    /// From the time a publication was due to its arrival, recovered or live.
    pub(super) delivery: Spread,
    /// The same, of those whom a storm cut.
    pub(super) storm: Spread,
    /// Connections that a storm cut.
    pub(super) cut: u64,
    /// When each attempt to come back began. Bound: a client's back-off.
    pub(super) dials: Vec<u64>,
    /// Attempts that failed, in words.
    pub(super) refused: BTreeMap<String, u64>,
    /// What no client may meet, in words.
    pub(super) wrong: BTreeMap<String, u64>,
    /// Publications of somebody else.
    pub(super) foreign: u64,
    /// By kind.
    pub(super) parties: BTreeMap<Kind, Party>,
}

impl Notes {
    pub(super) fn merge(&mut self, other: Self) {
        self.connect.merge(&other.connect);
        self.away.merge(&other.away);
        self.delivery.merge(&other.delivery);
        self.storm.merge(&other.storm);
        self.cut += other.cut;
        self.dials.extend(other.dials);
        add(&mut self.refused, other.refused);
        add(&mut self.wrong, other.wrong);
        self.foreign += other.foreign;
        for (kind, party) in other.parties {
            self.party(kind).merge(party);
        }
    }

    pub(super) fn party(&mut self, kind: Kind) -> &mut Party {
        self.parties.entry(kind).or_default()
    }

    pub(super) fn wrong(&mut self, what: impl Into<String>) {
        *self.wrong.entry(what.into()).or_default() += 1;
    }
}

/// Where all clients stand, for who waits for them.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Clients that have been in.
    pub(super) came: AtomicU64,
    /// Clients that are in.
    pub(super) present: AtomicU64,
    /// Clients that are in again after the storm.
    pub(super) back: AtomicU64,
    /// Publications that arrived, each once for each seat.
    pub(super) delivered: AtomicU64,
}

impl Standing {
    /// Anything that happened made it another.
    pub(super) fn pulse(&self) -> (u64, u64) {
        (self.present.load(Relaxed), self.delivered.load(Relaxed))
    }
}
