//! Tokens that no longer count: every node learns it, and whoever is here by one of them leaves.

use std::{sync::Arc, time::Duration};

use skywave_backplane::{BackplaneState, Revocation, Revocations as _, RevokeError, Subject};
use skywave_proto::{ErrorCode, v1::signal};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Control;
use crate::{clock::now_ms, session::Refusal};

/// How often the list that the backplane keeps is read: a signal may be lost, the list is not.
const INTERVAL: Duration = Duration::from_secs(30);
/// How often until it has been read for the first time, and while the backplane is away.
const RETRY: Duration = Duration::from_secs(1);

impl Control {
    /// Makes tokens count no longer, on all nodes: it is kept first, and then told. Returns how many nodes were told.
    ///
    /// # Errors
    /// `unavailable` while the backplane is away: perhaps done, safe to repeat; `limit` when too many hold already.
    pub async fn revoke(&self, revocation: Revocation) -> Result<usize, Refusal> {
        self.relay.backplane().revoke(revocation.clone()).await?;
        self.tell_all(signal::Op::Revoked(said(revocation))).await
    }

    /// Another node, or this one, says so. `None` if it is not understood.
    pub(super) fn revoked(&self, said: signal::Revoked) -> Option<()> {
        let revocation = meant(said)?;
        if self.keep(&revocation) {
            self.fresh_revocations.notify_one();
        }
        Some(())
    }

    /// Sends whoever is here by a token that no longer counts away, until the node is gone. All connections are looked at:
    /// one round at a time, however many tokens are revoked meanwhile.
    pub async fn enforce_revocations(self: Arc<Self>, gone: CancellationToken) {
        loop {
            tokio::select! {
                () = self.fresh_revocations.notified() => self.check_everybody().await,
                () = gone.cancelled() => return,
            }
        }
    }

    /// Keeps this node's list as new as the backplane's until the node is gone.
    pub async fn keep_revocations(self: Arc<Self>, gone: CancellationToken) {
        let mut tick = tokio::time::interval(RETRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read_at = None;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = gone.cancelled() => return,
            }
            if self.relay.state() != BackplaneState::Live {
                read_at = None;
            }
            let is_due = read_at.is_none_or(|at: tokio::time::Instant| at.elapsed() >= INTERVAL);
            if is_due && self.read_revocations().await {
                read_at = Some(tokio::time::Instant::now());
            }
        }
    }

    async fn read_revocations(&self) -> bool {
        let read = tokio::time::timeout(INTERVAL, self.relay.backplane().revocations()).await;
        let Ok(Ok(all)) = read else { return false };
        let fresh = all.iter().filter(|revocation| self.keep(revocation)).count();
        if fresh > 0 {
            self.fresh_revocations.notify_one();
        }
        true
    }

    /// Whether it was not known yet.
    fn keep(&self, revocation: &Revocation) -> bool {
        let Revocation { subject, issued_before_ms, until_ms } = revocation;
        let (revoked, now_ms) = (self.ground.authority.revoked(), now_ms());
        let kept = match subject {
            Subject::User(user) => revoked.user(user, *issued_before_ms, *until_ms, now_ms),
            Subject::Token(id) => revoked.token(id, *until_ms, now_ms),
        };
        kept.unwrap_or_else(|error| {
            tracing::error!(%error, "a token that was revoked goes on counting on this node");
            false
        })
    }

    /// Whoever is here by a token that no longer counts leaves. Returns once all were looked at.
    async fn check_everybody(&self) {
        let (looking, mut all_looked) = mpsc::channel::<()>(1);
        for shard in &self.ground.shards {
            let looking = looking.clone();
            shard.run(move |shard| {
                shard.for_everybody(move |owner| {
                    let _until_the_last = &looking;
                    owner.check_revoked();
                });
            });
        }
        drop(looking);
        let _ = all_looked.recv().await; // none: nobody holds the other end any more
    }
}

fn said(Revocation { subject, issued_before_ms, until_ms }: Revocation) -> signal::Revoked {
    let subject = match subject {
        Subject::User(user) => signal::revoked::Subject::User(user.to_string()),
        Subject::Token(id) => signal::revoked::Subject::Jti(id.to_string()),
    };
    signal::Revoked { subject: Some(subject), issued_before_ms, until_ms }
}

fn meant(said: signal::Revoked) -> Option<Revocation> {
    let subject = match said.subject? {
        signal::revoked::Subject::User(user) => Subject::User(user.into()),
        signal::revoked::Subject::Jti(id) => Subject::Token(id.into()),
    };
    Some(Revocation { subject, issued_before_ms: said.issued_before_ms, until_ms: said.until_ms })
}

impl From<RevokeError> for Refusal {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::Unavailable(_) => Self {
                after_ms: 1000,
                ..Self::new(ErrorCode::Unavailable, "the backplane is away: perhaps revoked, say it again")
            },
            RevokeError::Full => Self::new(ErrorCode::Limit, error.to_string()),
            RevokeError::BadSubject(_) => Self::new(ErrorCode::BadRequest, error.to_string()),
        }
    }
}
