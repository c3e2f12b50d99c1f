//! Why something was not done.

use std::{sync::Arc, time::Duration};

use skywave_proto::v1;

/// Why something was not done. Cloning shares the cause: one end is told to everybody who waits.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address cannot be used.
    #[error("{address:?} is no address of a node, which is like ws://host:8000/ws: {why}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// There was no connection in time, when the client began; later it goes on trying.
    #[error("no connection: {0}")]
    Unreachable(Arc<str>),
    /// The node said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection broke while the back end was being asked: it may have been called or not.
    #[error("the connection broke before the answer came: done or not")]
    UnknownOutcome,
    /// The node wants this client not to come back, or it was closed here.
    #[error("the client has ended: {0}")]
    Ended(Arc<str>),
}

/// What a node says of something that it does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// A word of the one table of errors, like `permission_denied`.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
    /// Whether the same may succeed later.
    pub retry: bool,
    /// How long to wait before that.
    pub after: Duration,
}

impl From<v1::Error> for Refusal {
    fn from(error: v1::Error) -> Self {
        let v1::Error { code, message, retry, after_ms, .. } = error;
        Self { code, message, retry, after: Duration::from_millis(after_ms) }
    }
}
