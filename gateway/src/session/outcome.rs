//! What the backplane's errors are to a client.

use skywave_backplane::{ClusterError, HistoryError, PresenceError, PublishError, SubscribeError};
use skywave_proto::ErrorCode;

use super::Refusal;
use crate::relay::Overloaded;

/// How long a client waits before it tries again what the backplane could not do.
const RETRY_AFTER_MS: u64 = 1000;

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Unavailable { .. } => unavailable("the backplane is away: nothing was published, try again"),
            PublishError::Overloaded => Self {
                code: ErrorCode::Limit,
                message: "too many publications are waiting for the backplane: nothing was published, try again later"
                    .into(),
                after_ms: RETRY_AFTER_MS,
                position: None,
            },
            PublishError::NotReplicated { published, replicas, .. } => Self {
                message: format!(
                    "stored and delivered, but in time only {replicas} replicas have it; try again with the same key to \
                     wait for more"
                ),
                position: published.position,
                ..Self::new(ErrorCode::NotReplicated, "")
            },
            PublishError::UnknownOutcome { .. } => Self {
                code: ErrorCode::UnknownOutcome,
                message: "the backplane did not answer: published or not; try again with the same key".into(),
                after_ms: RETRY_AFTER_MS,
                position: None,
            },
        }
    }
}

impl From<SubscribeError> for Refusal {
    fn from(SubscribeError::Unavailable: SubscribeError) -> Self {
        unavailable("the backplane is away: not subscribed, try again")
    }
}

impl From<HistoryError> for Refusal {
    fn from(HistoryError::Unavailable(_): HistoryError) -> Self {
        unavailable("the backplane is away: the history cannot be read now, try again")
    }
}

impl From<PresenceError> for Refusal {
    fn from(PresenceError::Unavailable(_): PresenceError) -> Self {
        unavailable("the backplane is away: who is there cannot be told now, try again")
    }
}

impl From<ClusterError> for Refusal {
    fn from(ClusterError::Unavailable(_): ClusterError) -> Self {
        unavailable("the backplane is away: other nodes cannot be asked or told now, try again")
    }
}

impl From<Overloaded> for Refusal {
    fn from(Overloaded: Overloaded) -> Self {
        unavailable("too much is waiting for the backplane: nothing was done, try again")
    }
}

fn unavailable(message: &str) -> Refusal {
    Refusal { code: ErrorCode::Unavailable, message: message.into(), after_ms: RETRY_AFTER_MS, position: None }
}
