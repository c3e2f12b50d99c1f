//! Tokens that no longer count, although nothing about them says so.

use std::sync::Arc;

use crate::{Cause, ClusterError};

/// How many revocations a cluster keeps. Full: [`RevokeError::Full`]; none is dropped for another, for that would let a
/// token in again that somebody has shut out.
pub const MAX_REVOCATIONS: usize = 100_000;

/// The longest user or token id that can be revoked, in bytes.
pub const MAX_SUBJECT_BYTES: usize = 255;

/// Whose tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Every token of this user that was issued early enough.
    User(Arc<str>),
    /// The token with this id (`jti`), whenever it was issued.
    Token(Arc<str>),
}

/// Which tokens no longer count, and for how long that has to be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Whose.
    pub subject: Subject,
    /// A user's tokens issued up to then are meant: milliseconds since 1970. Says nothing about a token id.
    pub issued_before_ms: u64,
    /// It holds until then, when the tokens have expired by themselves: milliseconds since 1970, by the backplane's clock.
    pub until_ms: u64,
}

impl Revocation {
    /// Two revocations of one subject hold as long as the longer of them, for as many tokens as the wider of them.
    #[must_use]
    pub fn merged(self, other: &Self) -> Self {
        Self {
            issued_before_ms: self.issued_before_ms.max(other.issued_before_ms),
            until_ms: self.until_ms.max(other.until_ms),
            subject: self.subject,
        }
    }
}

/// Which tokens were revoked, for every node of the cluster: those that start later and those that were away read it.
///
/// Nobody is told: whoever revokes says so with [`Cluster::signal`](crate::Cluster::signal), and whoever was away for longer than a
/// signal is kept reads the list when its backplane is live again.
pub trait Revocations: Send + Sync + 'static {
    /// Remembers a revocation, merged with what is known of its subject. One that is over already is not kept.
    ///
    /// # Errors
    /// [`RevokeError`]. Repeating it is safe: nothing is done twice.
    /// # Cancel safety
    /// Dropping the future forgets the answer, not the revocation.
    fn revoke(&self, revocation: Revocation) -> impl Future<Output = Result<(), RevokeError>> + Send;

    /// Every revocation that still holds; at most [`MAX_REVOCATIONS`], in no order, one for each subject. One that is made
    /// meanwhile may be among them or not.
    ///
    /// # Errors
    /// [`ClusterError::Unavailable`] when the backplane is away.
    /// # Cancel safety
    /// Cancel-safe: only reads.
    fn revocations(&self) -> impl Future<Output = Result<Vec<Revocation>, ClusterError>> + Send;
}

/// Why tokens were not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The backplane is away, or did not answer: perhaps done, repeat it.
    #[error("the backplane is away")]
    Unavailable(#[source] Option<Cause>),
    /// There are [`MAX_REVOCATIONS`] already. Shorter-lived tokens make for shorter revocations.
    #[error("{MAX_REVOCATIONS} revocations hold already, and none of them is over")]
    Full,
    /// An id of more than [`MAX_SUBJECT_BYTES`], or an empty one. A repetition will not help.
    #[error("a user or token id to revoke has 1 to {MAX_SUBJECT_BYTES} bytes, and this one {0}")]
    BadSubject(usize),
}

impl Subject {
    /// # Errors
    /// [`RevokeError::BadSubject`]
    pub(crate) fn check(&self) -> Result<(), RevokeError> {
        let (Self::User(id) | Self::Token(id)) = self;
        if (1..=MAX_SUBJECT_BYTES).contains(&id.len()) { Ok(()) } else { Err(RevokeError::BadSubject(id.len())) }
    }
}
