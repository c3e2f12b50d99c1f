//! Which sessions are this node's: claimed in the backplane for a minute, and again while they live.

use std::{collections::HashSet, time::Duration};

use parking_lot::Mutex;
use skywave_backplane::{Ownership as _, SESSION_LEASE};
use tokio::time::Instant;

use super::{Peers, SessionId};
use crate::metrics;

/// How often all are claimed again: twice may fail.
const RENEW_INTERVAL: Duration = Duration::from_secs(SESSION_LEASE.as_secs() / 3);
/// How often it is looked whether the node has become another one, and all have to be claimed anew.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How many at once.
const BATCH: usize = 256;

/// The sessions of this node. Bound: those that hold a seat among its connections.
#[derive(Default)]
pub(super) struct Claims(Mutex<HashSet<SessionId>>);

impl Claims {
    pub(super) fn has(&self, session: SessionId) -> bool {
        self.0.lock().contains(&session)
    }

    pub(super) fn add(&self, session: SessionId) {
        self.0.lock().insert(session);
    }

    /// False if it was not there.
    pub(super) fn remove(&self, session: SessionId) -> bool {
        self.0.lock().remove(&session)
    }

    fn all(&self) -> Vec<SessionId> {
        self.0.lock().iter().copied().collect()
    }
}

impl Peers {
    /// Claims again and again, for as long as it is polled. Where the backplane is away it is tried again; what another
    /// node has got meanwhile is lost.
    pub(super) async fn keep_claims(&self) {
        let mut incarnation = self.relay.incarnation();
        let mut due = Instant::now() + RENEW_INTERVAL;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            metrics::peer_receivers(self.remembered.outlets.count());
            let now = self.relay.incarnation();
            if now == incarnation && Instant::now() < due {
                continue;
            }
            let former = (now != incarnation).then_some(&*incarnation);
            if self.claim_again(former).await {
                due = Instant::now() + RENEW_INTERVAL;
                incarnation = now;
            }
        }
    }

    /// False if the backplane is away.
    async fn claim_again(&self, former: Option<&str>) -> bool {
        for batch in self.claims.all().chunks(BATCH) {
            let keys: Vec<_> = batch.iter().map(|session| session.key()).collect();
            let Ok(owners) = self.relay.backplane().claim(&keys, former).await else { return false };
            let own = self.relay.incarnation();
            for (session, owner) in batch.iter().zip(owners) {
                // One that has ended meanwhile has been claimed once more: that ends with the lease.
                if owner != own && self.claims.remove(*session) {
                    tracing::warn!(?session, "another node has this session now, so it ends here");
                    if let Some(host) = self.host() {
                        host.lost(*session);
                    }
                }
            }
        }
        true
    }
}
