use std::fmt;

/// What can be wrong with a command: the one table for clients, HTTP and gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The command cannot be understood.
    BadRequest,
    /// Nobody knows who asks.
    Unauthenticated,
    /// Whoever asks may not.
    PermissionDenied,
    /// No such namespace is configured.
    UnknownNamespace,
    /// No such thing.
    NotFound,
    /// The client has this subscription already.
    AlreadySubscribed,
    /// The client has no such subscription.
    NotSubscribed,
    /// The namespace keeps no history.
    NoHistory,
    /// Larger than a limit.
    TooLarge,
    /// More, or more often, than a limit allows.
    Limit,
    /// The backplane is away: certainly not done, safe to retry.
    Unavailable,
    /// Stored and delivered, but not on enough replicas in time.
    NotReplicated,
    /// Sent to the backplane, which did not answer: done or not. Retry with the same key.
    UnknownOutcome,
    /// Our mistake.
    Internal,
}

impl ErrorCode {
    /// Every row of the table.
    pub const ALL: [Self; 14] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::UnknownNamespace,
        Self::NotFound,
        Self::AlreadySubscribed,
        Self::NotSubscribed,
        Self::NoHistory,
        Self::TooLarge,
        Self::Limit,
        Self::Unavailable,
        Self::NotReplicated,
        Self::UnknownOutcome,
        Self::Internal,
    ];

    const fn row(self) -> (&'static str, u16, bool) {
        match self {
            Self::BadRequest => ("bad_request", 400, false),
            Self::Unauthenticated => ("unauthenticated", 401, false),
            Self::PermissionDenied => ("permission_denied", 403, false),
            Self::UnknownNamespace => ("unknown_namespace", 404, false),
            Self::NotFound => ("not_found", 404, false),
            Self::AlreadySubscribed => ("already_subscribed", 409, false),
            Self::NotSubscribed => ("not_subscribed", 409, false),
            Self::NoHistory => ("no_history", 409, false),
            Self::TooLarge => ("too_large", 413, false),
            Self::Limit => ("limit", 429, true),
            Self::Unavailable => ("unavailable", 503, true),
            Self::NotReplicated => ("not_replicated", 504, true),
            Self::UnknownOutcome => ("unknown_outcome", 504, true),
            Self::Internal => ("internal", 500, false),
        }
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that the server API answers with.
    pub const fn http_status(self) -> u16 {
        self.row().1
    }

    /// The status that a gRPC client gets. What may have been done is never `UNAVAILABLE`, which many clients retry by
    /// themselves.
    pub const fn grpc_code(self) -> tonic::Code {
        match self {
            Self::BadRequest => tonic::Code::InvalidArgument,
            Self::Unauthenticated => tonic::Code::Unauthenticated,
            Self::PermissionDenied => tonic::Code::PermissionDenied,
            Self::UnknownNamespace | Self::NotFound => tonic::Code::NotFound,
            Self::AlreadySubscribed => tonic::Code::AlreadyExists,
            Self::NotSubscribed | Self::NoHistory => tonic::Code::FailedPrecondition,
            Self::TooLarge => tonic::Code::OutOfRange,
            Self::Limit => tonic::Code::ResourceExhausted,
            Self::Unavailable => tonic::Code::Unavailable,
            Self::NotReplicated | Self::UnknownOutcome => tonic::Code::DeadlineExceeded,
            Self::Internal => tonic::Code::Internal,
        }
    }

    /// Whether the same command may succeed later.
    pub const fn retry(self) -> bool {
        self.row().2
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_word_stands_once() {
        let words: HashSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.iter().all(|c| (400..600).contains(&c.http_status())));
    }
}
