//! Which node owns a session that has no connection of its own.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use crate::ClusterError;

/// How long a claim holds unless it is made again.
pub const SESSION_LEASE: Duration = Duration::from_secs(60);

/// Names a session: a digest, so that what strangers call theirs is neither long nor to be read in Redis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub [u8; 32]);

impl fmt::Debug for SessionKey {
    /// The beginning of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Says which node owns a session. An owner is an incarnation: whether it still lives says [`crate::Cluster::nodes`].
pub trait Ownership: Send + Sync + 'static {
    /// Makes these sessions this incarnation's for [`SESSION_LEASE`], but for those that another one has. Again: for as long
    /// from now. `former`: who this incarnation was before; what was its is ours. Gives the owner of each, in their order.
    ///
    /// Nobody else's claim is ever taken over, not even a dead node's: it goes with its lease.
    ///
    /// # Errors
    /// [`ClusterError::Unavailable`] when the backplane is away: some may be claimed.
    fn claim(
        &self,
        sessions: &[SessionKey],
        former: Option<&str>,
    ) -> impl Future<Output = Result<Vec<Arc<str>>, ClusterError>> + Send;

    /// Who owns a session; `None`: nobody.
    ///
    /// # Errors
    /// [`ClusterError::Unavailable`] when the backplane is away.
    fn owner(&self, session: SessionKey) -> impl Future<Output = Result<Option<Arc<str>>, ClusterError>> + Send;

    /// Gives up these sessions. What is another's stays.
    ///
    /// # Errors
    /// [`ClusterError::Unavailable`] when the backplane is away: they end with their leases.
    fn release(&self, sessions: &[SessionKey]) -> impl Future<Output = Result<(), ClusterError>> + Send;
}
