//! The loads. Each is a file with the noun it is about; what several need stands beside it.
//!
//! - [`fanout`]: many subscribers on one channel; [`channels`] and [`stalled`] are the same with other seats
//! - [`idle`]: connections that rest; [`churn`]: connections that come and go; [`echo`]: what comes in
//! - [`roll`]: clients that stay while nodes are replaced; [`recover`]: the client library, over connections that are given up
//!
//! Threads: each receiving thread owns its share of the connections, and one more keeps the schedule and writes the
//! publications, so that nothing that is received can make one late. They meet in the counters of `Progress`.

mod access;
mod books;
mod broadcast;
pub mod channels;
pub mod churn;
mod crew;
pub mod echo;
pub mod fanout;
mod heap;
pub mod idle;
mod ledger;
mod meter;
pub mod outpost;
mod plan;
mod progress;
mod publisher;
mod receiver;
pub mod recover;
pub mod roll;
pub mod stalled;
mod stop;
mod stopped;

use std::{error::Error as _, io, iter::successors};

pub use access::{Access, default_threads};
pub(crate) use access::{SPARE_FILES, check_files};
use plan::{Channel, Entry, Orders, Plan, Seats};
use progress::Progress;

use crate::{client::ClientError, spread::Spread, target::TargetError};

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

/// The samples of one thread.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Samples {
    connect: Spread,
    subscribe: Spread,
    /// From the time a publication was due to its arrival at a receiver.
    from_due: Spread,
    /// From the time it was really sent.
    from_sent: Spread,
    /// From publish to published.
    answer: Spread,
    /// Handshakes that were refused for now.
    retries: u64,
    /// Bytes that were read, from each one's own entry to its goodbye, TLS removed.
    bytes: u64,
}

impl Samples {
    fn merge(&mut self, other: &Self) {
        self.connect.merge(&other.connect);
        self.subscribe.merge(&other.subscribe);
        self.from_due.merge(&other.from_due);
        self.from_sent.merge(&other.from_sent);
        self.answer.merge(&other.answer);
        self.retries += other.retries;
        self.bytes += other.bytes;
    }
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
    /// A node's process could not be stopped.
    #[error("cannot stop the processes {pids:?}")]
    Signal {
        /// Which.
        pids: Vec<u32>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process of the generator could not be heard.
    #[error("another process of the generator ended")]
    Outpost(#[source] io::Error),
    /// Another process of the generator could not run its part.
    #[error("{words}")]
    Elsewhere {
        /// Why, in full.
        words: String,
        /// What to do next.
        advice: Option<String>,
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
    pub fn advice(&self) -> Option<&str> {
        match self {
            Self::Client { source, .. } => Some(source.advice()),
            // The shell's own words, about who may signal whom.
            Self::Signal { source, .. } if source.kind() == io::ErrorKind::Other => {
                Some("run as who runs the node, and correct --server-pid")
            }
            Self::Start(_) => Some("lower --threads"),
            Self::Elsewhere { advice, .. } => advice.as_deref(),
            Self::Target(_) | Self::Usage(_) | Self::Signal { .. } | Self::Outpost(_) => None,
        }
    }

    /// With all causes.
    pub fn in_full(&self) -> String {
        let causes = successors(self.source(), |cause| (*cause).source()).map(ToString::to_string);
        [self.to_string()].into_iter().chain(causes).collect::<Vec<_>>().join(": ")
    }
}
