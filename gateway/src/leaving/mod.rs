//! Connections that leave because the node asks them to: all of them when it drains, or as many as it has too many.
//!
//! One task paces all shards' connections together, in random order. Until its moment each works as ever.

mod pace;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::seq::SliceRandom as _;
use skywave_proto::CloseCode;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::pace::Pace;
use crate::{config::DrainSettings, metrics, push::Goodbye, shard::ShardHandle};

/// A connection: the number of its shard, and its key there.
type Seat = (usize, u64);

/// Who leads the node's connections out.
pub struct Leaving {
    shards: Vec<ShardHandle>,
    is_shedding: AtomicBool,
    /// Cancelled once all have to leave: then nobody is chosen any more.
    draining: CancellationToken,
}

impl Leaving {
    /// For the connections of these shards.
    pub fn new(shards: Vec<ShardHandle>) -> Self {
        Self { shards, is_shedding: AtomicBool::new(false), draining: CancellationToken::new() }
    }

    /// Asks every connection to leave, with 4001, and those that still come at once; returns when all have been asked, after
    /// `at_most`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves those that have not been asked where they are.
    pub async fn drain(&self, settings: &DrainSettings, at_most: Duration) {
        self.draining.cancel();
        let seats = self.seats(true).await;
        let pace = Pace::of(settings, seats.len(), at_most);
        if pace.hurries(settings) {
            tracing::warn!(
                connections = seats.len(),
                "drain.rate would take longer than drain.deadline leaves: they go faster, evenly; raise the one or the other"
            );
        }
        self.lead_out(seats, pace, CloseCode::Draining, |_| {}).await;
    }

    /// Asks as many connections as there are beyond `keep`, chosen at random, to leave with 4003, as fast as in a drain; in a
    /// task of its own. Does nothing while it does so already, or while all leave.
    pub fn shed(self: &Arc<Self>, settings: DrainSettings, keep: usize) {
        if self.draining.is_cancelled() || self.is_shedding.swap(true, Ordering::AcqRel) {
            return tracing::info!("connections leave already: the order to send some away changes nothing");
        }
        let leaving = self.clone();
        tokio::spawn(async move {
            leaving.send_away(&settings, keep).await;
            leaving.is_shedding.store(false, Ordering::Release);
        });
    }

    async fn send_away(&self, settings: &DrainSettings, keep: usize) {
        let mut seats = self.seats(false).await;
        let here = seats.len();
        seats.truncate(here.saturating_sub(keep)); // they come in random order
        tracing::info!(here, keep, leave = seats.len(), "sending connections to other nodes");
        let pace = Pace::of(settings, seats.len(), Duration::MAX);
        tokio::select! {
            () = self.lead_out(seats, pace, CloseCode::Rebalanced, metrics::drain_remaining) => {
                tracing::info!("the connections that were too many have been sent away");
            }
            () = self.draining.cancelled() => {}
        }
    }

    /// Every connection, in random order. `for_good`: those that come from now on are sent away at once.
    async fn seats(&self, for_good: bool) -> Vec<Seat> {
        let mut seats = Vec::new();
        for shard in &self.shards {
            let (found, keys) = oneshot::channel();
            shard.run(move |shard| {
                if for_good {
                    shard.turn_away();
                }
                let _ = found.send(shard.keys()); // whoever asked may have given up
            });
            let keys = keys.await.unwrap_or_default(); // a shard that has stopped has none
            seats.extend(keys.into_iter().map(|key| (shard.index(), key)));
        }
        seats.shuffle(&mut rand::rng());
        seats
    }

    async fn lead_out(&self, seats: Vec<Seat>, pace: Pace, code: CloseCode, remain: impl Fn(usize)) {
        let (begun, mut left) = (Instant::now(), 0);
        remain(seats.len());
        while left < seats.len() {
            let next = begun + pace.moment(left, rand::random());
            sleep_until(next).await;
            // Timers are no finer than a millisecond: who has come due meanwhile goes too.
            let now = Instant::now();
            let mut due = vec![Vec::new(); self.shards.len()];
            while left < seats.len() && (due.iter().all(Vec::is_empty) || begun + pace.moment(left, 0.5) <= now) {
                let (shard, key) = seats[left];
                due[shard].push((key, goodbye(code, pace)));
                left += 1;
            }
            for (shard, due) in self.shards.iter().zip(due).filter(|(_, due)| !due.is_empty()) {
                shard.run(move |shard| {
                    for (key, goodbye) in due {
                        if let Some(owner) = shard.owner(key) {
                            owner.leave(goodbye);
                        }
                    }
                });
            }
            remain(seats.len() - left);
        }
    }
}

fn goodbye(code: CloseCode, pace: Pace) -> Goodbye {
    let after_ms = u64::try_from(pace.away(rand::random()).as_millis()).unwrap_or(u64::MAX);
    Goodbye { after_ms, ..code.into() }
}
