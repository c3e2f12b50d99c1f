//! The loads. Each is a file with the noun it is about; what several need stands beside it.
//!
//! Threads: each receiving thread owns its share of the connections, one thread owns the publishers, and one more keeps
//! the schedule, so that nothing that is received can make a publication late. They meet in the counters of `Progress`.

pub mod fanout;
mod publisher;
mod receiver;

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    client::{ClientError, Target, TargetError},
    report::Sightings,
    spread::Spread,
    stamp::Clock,
    tally::Sent,
};

/// When to publish.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// So many publications a second in all, whatever the node does.
    Rate(f64),
    /// The next publication as soon as all but so many have arrived everywhere: for the cost of one delivery, not for
    /// latency.
    Window(u32),
}

/// What every thread of a run has to know.
#[derive(Debug)]
struct Plan {
    run: String,
    channel: String,
    targets: Vec<Target>,
    token: Option<String>,
    publishers: usize,
    size: usize,
    clock: Clock,
    /// Connections that one thread opens at the same time.
    connecting: usize,
}

/// Where a run stands. Written by all threads, read by the one that waits.
#[derive(Debug, Default)]
struct Progress {
    connected: AtomicU64,
    /// Publications handed to a publisher.
    queued: AtomicU64,
    sent: AtomicU64,
    /// Publications that could not be sent: the publisher's connection had ended.
    unsent: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    /// Publications received, each once per receiver.
    delivered: AtomicU64,
    /// Frames received: says whether anything still comes.
    frames: AtomicU64,
    /// Connections that ended unasked.
    ended: AtomicU64,
}

impl Progress {
    /// Every publication of the schedule was sent (or could not be) and answered, and every receiver has them all.
    fn is_complete(&self, receivers: u64) -> bool {
        let accepted = self.sent.load(Relaxed).saturating_sub(self.refused.load(Relaxed));
        self.sent.load(Relaxed) + self.unsent.load(Relaxed) == self.queued.load(Relaxed)
            && self.answered.load(Relaxed) >= self.sent.load(Relaxed)
            && self.delivered.load(Relaxed) >= accepted * receivers
    }

    /// Nobody is left who could receive anything.
    fn is_deserted(&self, receivers: u64) -> bool {
        self.ended.load(Relaxed) >= receivers
    }

    /// Changes whenever anything happens.
    fn pulse(&self) -> u64 {
        self.frames.load(Relaxed) + self.sent.load(Relaxed) + self.ended.load(Relaxed)
    }
}

/// The samples of one thread.
#[derive(Debug, Default)]
struct Samples {
    connect: Spread,
    subscribe: Spread,
    /// From the time a publication was due to its arrival at a receiver.
    from_due: Spread,
    /// From the time it was really sent.
    from_sent: Spread,
    /// From publish to published.
    answer: Spread,
    /// How late publications were sent.
    late: Spread,
    retries: u64,
}

impl Samples {
    fn merge(&mut self, other: &Self) {
        self.connect.merge(&other.connect);
        self.subscribe.merge(&other.subscribe);
        self.from_due.merge(&other.from_due);
        self.from_sent.merge(&other.from_sent);
        self.answer.merge(&other.answer);
        self.late.merge(&other.late);
        self.retries += other.retries;
    }
}

/// What a publisher did.
#[derive(Debug, Default)]
struct Published {
    sent: Sent,
    /// Refused publications by the node's words.
    refusals: BTreeMap<String, u64>,
}

/// Why a scenario could not be run. What goes wrong *while* it runs is in its report.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// An URL is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The settings contradict each other or this machine.
    #[error("{0}")]
    Usage(String),
    /// A client could not connect or subscribe.
    #[error("a client could not {doing} at {url}")]
    Client {
        /// Where.
        url: String,
        /// `connect` or `subscribe`.
        doing: &'static str,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// The operating system refused a thread or a runtime.
    #[error("cannot start a thread of the generator")]
    Start(#[source] io::Error),
}

impl ScenarioError {
    /// Whether the command line is to blame, and not the node.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::Target(_))
    }

    /// What to do next.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Client { source, .. } => Some(source.advice()),
            Self::Start(_) => Some("lower --threads"),
            Self::Target(_) | Self::Usage(_) => None,
        }
    }
}
