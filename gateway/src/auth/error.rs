//! Why a token is not believed.

use std::borrow::Cow;

use skywave_proto::{CloseCode, ErrorCode};

/// Why a token is not believed. `Display` is for the client: what to do, and nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not three parts of base64url with JSON in the first (RFC 7515), or its header wants something that nobody here
    /// understands (`crit`).
    #[error("the token is no JWT; send header.payload.signature as its issuer made it")]
    Malformed,
    /// Its `alg` is none that keys here are used with; `none` is not one either.
    #[error("the token is signed with an algorithm that is not accepted here; get one from the right issuer")]
    Algorithm,
    /// No key has its `kid` and its `alg`.
    #[error("the token is signed with a key that is not known here; get a new one from the right issuer")]
    UnknownKey,
    /// A key fits, and the signature is not its own.
    #[error("the token's signature is wrong; get a new one from the right issuer")]
    Signature,
    /// Its `exp` has passed.
    #[error("the token has expired; come back with a new one")]
    Expired,
    /// Its `nbf` or `iat` is still to come.
    #[error("the token is not valid yet; come back later, and see that the issuer's clock is right")]
    NotYetValid,
    /// Its `iss` is not `auth.tokens.issuer`.
    #[error("the token is from an issuer that is not accepted here; get one from the right one")]
    Issuer,
    /// Its `aud` does not name this node.
    #[error("the token is meant for somebody else (aud); get one for this service")]
    Audience,
    /// What it says of its holder cannot be used.
    #[error("the token cannot be used: {0}; its issuer has to make it differently")]
    Claims(Cow<'static, str>),
    /// It, or all of its user's from that time, were revoked through the server API.
    #[error("the token has been revoked; sign in again")]
    Revoked,
    /// It has more bytes than a token may have.
    #[error("the token has more than {limit} bytes; its issuer has to say less in it", limit = super::MAX_TOKEN_BYTES)]
    TooLarge,
    /// The key server does not answer, so nobody can say; a retry may help.
    #[error("the token cannot be checked now, its issuer's keys are out of reach; come back later")]
    KeysUnavailable,
}

impl TokenError {
    /// The word for metrics and logs: one of [`crate::metrics::TOKEN_REASONS`].
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims(_) => "claims",
            Self::Revoked => "revoked",
            Self::TooLarge => "too_large",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }

    /// The code of the one table: `unavailable` where a retry may help, else `unauthenticated`.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::KeysUnavailable => ErrorCode::Unavailable,
            _ => ErrorCode::Unauthenticated,
        }
    }

    /// How the connection is closed that came with it: a client that can get a new token comes back with one.
    pub const fn close(&self) -> CloseCode {
        match self {
            Self::Expired => CloseCode::TokenExpired,
            Self::KeysUnavailable => CloseCode::TryAgainLater,
            _ => CloseCode::BadToken,
        }
    }

    pub(super) const fn claims(what: &'static str) -> Self {
        Self::Claims(Cow::Borrowed(what))
    }
}
