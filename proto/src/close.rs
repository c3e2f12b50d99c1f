/// The close codes that a node sends: the one table.
///
/// 1xxx mean what RFC 6455 §7.4.1 says. A client that sees 4000-4499 comes back, one that sees 4500-4999 does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// 1000: both have said what they wanted.
    Normal,
    /// 1001: the client goes away.
    GoingAway,
    /// 1002: a rule of RFC 6455 was broken.
    ProtocolError,
    /// 1003: a kind of data that this endpoint does not take.
    UnsupportedData,
    /// 1007: text that is not UTF-8.
    InvalidPayload,
    /// 1008: against the rules of this node.
    PolicyViolation,
    /// 1009: larger than `limits.message_bytes` or `limits.frame_bytes`.
    MessageTooBig,
    /// 1011: our mistake.
    InternalError,
    /// 1012: this node restarts; come back.
    ServiceRestart,
    /// 1013: not now; come back later.
    TryAgainLater,
    /// 4001: this node drains; another one is waiting.
    Draining,
    /// 4002: the client did not read fast enough.
    SlowConsumer,
    /// 4003: moved, so that nodes carry alike.
    Rebalanced,
    /// 4004: no answer to a ping.
    PingTimeout,
    /// 4005: the connection has reached its largest age.
    ConnectionTooOld,
    /// 4006: the node has too much to do.
    Overloaded,
    /// 4007: more than a rate limit allows.
    RateLimit,
    /// 4008: the token has expired; come back with a new one.
    TokenExpired,
    /// 4500: the credentials are no good.
    BadToken,
    /// 4502: the right is missing.
    PermissionDenied,
    /// 4503: disconnected through the server API.
    DisconnectedByApi,
    /// 4504: the client does not speak the protocol.
    ClientProtocolError,
    /// 4505: over a limit of size or count.
    LimitExceeded,
    /// 4506: a newer connection of the same session took over.
    Replaced,
}

impl CloseCode {
    /// Every row of the table.
    pub const ALL: [Self; 24] = [
        Self::Normal,
        Self::GoingAway,
        Self::ProtocolError,
        Self::UnsupportedData,
        Self::InvalidPayload,
        Self::PolicyViolation,
        Self::MessageTooBig,
        Self::InternalError,
        Self::ServiceRestart,
        Self::TryAgainLater,
        Self::Draining,
        Self::SlowConsumer,
        Self::Rebalanced,
        Self::PingTimeout,
        Self::ConnectionTooOld,
        Self::Overloaded,
        Self::RateLimit,
        Self::TokenExpired,
        Self::BadToken,
        Self::PermissionDenied,
        Self::DisconnectedByApi,
        Self::ClientProtocolError,
        Self::LimitExceeded,
        Self::Replaced,
    ];

    const fn row(self) -> (u16, &'static str) {
        match self {
            Self::Normal => (1000, "normal"),
            Self::GoingAway => (1001, "going_away"),
            Self::ProtocolError => (1002, "protocol_error"),
            Self::UnsupportedData => (1003, "unsupported_data"),
            Self::InvalidPayload => (1007, "invalid_payload"),
            Self::PolicyViolation => (1008, "policy_violation"),
            Self::MessageTooBig => (1009, "message_too_big"),
            Self::InternalError => (1011, "internal_error"),
            Self::ServiceRestart => (1012, "service_restart"),
            Self::TryAgainLater => (1013, "try_again_later"),
            Self::Draining => (4001, "draining"),
            Self::SlowConsumer => (4002, "slow_consumer"),
            Self::Rebalanced => (4003, "rebalanced"),
            Self::PingTimeout => (4004, "ping_timeout"),
            Self::ConnectionTooOld => (4005, "connection_too_old"),
            Self::Overloaded => (4006, "overloaded"),
            Self::RateLimit => (4007, "rate_limit"),
            Self::TokenExpired => (4008, "token_expired"),
            Self::BadToken => (4500, "bad_token"),
            Self::PermissionDenied => (4502, "permission_denied"),
            Self::DisconnectedByApi => (4503, "disconnected_by_api"),
            Self::ClientProtocolError => (4504, "protocol"),
            Self::LimitExceeded => (4505, "limit_exceeded"),
            Self::Replaced => (4506, "replaced"),
        }
    }

    /// The number on the wire.
    pub const fn code(self) -> u16 {
        self.row().0
    }

    /// The one with this number on the wire, if it is one of ours.
    pub fn of(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// A word for the close frame, logs and the `reason` label of metrics.
    pub const fn reason(self) -> &'static str {
        self.row().1
    }

    /// Whether a client should come back by itself.
    pub const fn may_reconnect(self) -> bool {
        matches!(self.code(), 1001 | 1011..=1013 | 4000..=4499)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_and_every_reason_stands_once_and_fits_a_close_frame() {
        let codes: HashSet<_> = CloseCode::ALL.iter().map(|c| c.code()).collect();
        let reasons: HashSet<_> = CloseCode::ALL.iter().map(|c| c.reason()).collect();
        assert_eq!((codes.len(), reasons.len()), (CloseCode::ALL.len(), CloseCode::ALL.len()));
        assert!(CloseCode::ALL.iter().all(|c| c.reason().len() <= 123), "RFC 6455 §5.5: 125 bytes with the code");
    }

    #[test]
    fn the_range_says_whether_to_come_back() {
        assert!(CloseCode::Draining.may_reconnect() && CloseCode::ServiceRestart.may_reconnect());
        assert!(!CloseCode::BadToken.may_reconnect() && !CloseCode::Normal.may_reconnect());
    }
}
