//! Whose tokens are believed, and what they allow.
//!
//! A token (JWT, RFC 7519) comes in as text and goes out as [`Claims`]: its signature is right, it holds now, is meant for
//! this service and not revoked. What the claims allow on a channel is the session's business. Nothing of a token gets
//! into a log or a message; of a refused one the reason is counted.

mod claims;
mod error;
mod jose;
mod jwks;
mod keys;
mod object;
mod pattern;
mod revoked;
mod sign;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use self::{
    claims::Rules,
    jose::Parts,
    jwks::{Jwks, Wanted},
    keys::{Keys, Verdict},
};
pub use self::{
    claims::{ChannelClaims, Claims, MAX_CHANNELS, MAX_ID_BYTES, MAX_INFO_BYTES, MAX_PATTERNS},
    error::TokenError,
    pattern::{MAX_PATTERN_BYTES, Pattern, PatternError, Patterns},
    revoked::{MAX_REVOKED, Revoked, RevokedFull},
    sign::{SigningKey, SigningKeyError},
};
use crate::{
    config::{TokenAlgorithm, TokenSettings},
    metrics,
    outbound::Outbound,
};

/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

/// Says whose tokens are believed. Cloning shares it; one for the whole node.
#[derive(Debug, Clone)]
pub struct Authority(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// As the settings in force want it; read for each token, replaced at a reload.
    state: ArcSwap<State>,
    outbound: Outbound,
    revoked: Revoked,
    /// The runtime that it was made on, and that does what a shard must not.
    runtime: Option<Handle>,
}

#[derive(Debug)]
struct State {
    keys: Keys,
    rules: Rules,
    jwks: Option<Arc<Jwks>>,
    refresh: Duration,
}

/// The two kinds of tokens; each kind is refused in the place of the other.
trait Held: Sized + Send + 'static {
    fn read(payload: &[u8], rules: &Rules, now_ms: u64) -> Result<Self, TokenError>;
    fn is_revoked(&self, revoked: &Revoked, now_ms: u64) -> bool;
}

impl Held for Claims {
    fn read(payload: &[u8], rules: &Rules, now_ms: u64) -> Result<Self, TokenError> {
        claims::read(payload, rules, now_ms)
    }

    fn is_revoked(&self, revoked: &Revoked, now_ms: u64) -> bool {
        revoked.has(self.user.as_deref(), self.issued_at_ms, self.id.as_deref(), now_ms)
    }
}

impl Held for ChannelClaims {
    fn read(payload: &[u8], rules: &Rules, now_ms: u64) -> Result<Self, TokenError> {
        claims::read_channel(payload, rules, now_ms)
    }

    fn is_revoked(&self, revoked: &Revoked, now_ms: u64) -> bool {
        revoked.has(Some(&self.user), self.issued_at_ms, self.id.as_deref(), now_ms)
    }
}

impl Authority {
    /// Of checked settings. Made on the runtime that is to fetch keys and check expensive signatures: the small one.
    pub fn new(settings: &TokenSettings, outbound: Outbound) -> Self {
        let state = ArcSwap::from_pointee(State::new(settings, &outbound, None));
        Self(Arc::new(Shared { state, outbound, revoked: Revoked::default(), runtime: Handle::try_current().ok() }))
    }

    /// Puts other settings in force, at once and for everybody. Keys that were fetched from the same address stay. Sessions
    /// that live by a token keep what it gave them.
    pub fn replace(&self, settings: &TokenSettings) {
        let before = self.0.state.load().jwks.clone();
        self.0.state.store(Arc::new(State::new(settings, &self.0.outbound, before)));
    }

    /// Whether there is any way to check a token: some key, or an address to fetch them from.
    pub fn accepts_tokens(&self) -> bool {
        let state = self.0.state.load();
        !state.keys.is_empty() || state.jwks.is_some()
    }

    /// Checks the token of a connection, if that takes no longer than microseconds: one with a secret, or one that is no
    /// token at all. `None`: ask [`Authority::verify`].
    pub fn verify_now(&self, token: &str, now_ms: u64) -> Option<Result<Claims, TokenError>> {
        self.now(token, now_ms)
    }

    /// Checks the token of a connection. May wait for the key server, 5 s at most.
    ///
    /// It may be awaited on any runtime. Public-key signatures (20 to 51 us each) are checked on the runtime that the authority was
    /// made on, right there and not with `spawn_blocking`: its two threads are the bound on what a flood of bad tokens can
    /// take from the shards, where the blocking pool would give it every core.
    ///
    /// # Errors
    /// [`TokenError`].
    /// # Cancel safety
    /// Cancel-safe; a request to the key server goes on for all others who wait for it.
    pub async fn verify(&self, token: &str, now_ms: u64) -> Result<Claims, TokenError> {
        self.whenever(token, now_ms).await
    }

    /// As [`Authority::verify_now`], for the token of one subscription.
    pub fn verify_channel_now(&self, token: &str, now_ms: u64) -> Option<Result<ChannelClaims, TokenError>> {
        self.now(token, now_ms)
    }

    /// As [`Authority::verify`], for the token of one subscription. Whose it is and for which channel the caller compares.
    ///
    /// # Errors
    /// [`TokenError`].
    /// # Cancel safety
    /// As [`Authority::verify`].
    pub async fn verify_channel(&self, token: &str, now_ms: u64) -> Result<ChannelClaims, TokenError> {
        self.whenever(token, now_ms).await
    }

    /// Whether a token that was good still is: somebody else may have been asked since, and have taken his time.
    ///
    /// # Errors
    /// [`TokenError::Expired`], [`TokenError::Revoked`].
    pub fn recheck(&self, claims: &Claims, now_ms: u64) -> Result<(), TokenError> {
        let outcome = match claims.ends_at_ms {
            Some(end) if end <= now_ms => Err(TokenError::Expired),
            _ if claims.is_revoked(&self.0.revoked, now_ms) => Err(TokenError::Revoked),
            _ => Ok(()),
        };
        outcome.map_err(|error| refuse(error, None))
    }

    /// What has been revoked; also what is now written there.
    pub fn revoked(&self) -> &Revoked {
        &self.0.revoked
    }

    fn now<T: Held>(&self, token: &str, now_ms: u64) -> Option<Result<T, TokenError>> {
        let parts = match Parts::of(token) {
            Ok(parts) if parts.alg.is_symmetric() => parts,
            Ok(_) => return None,
            Err(error) => return Some(Err(refuse(error, None))),
        };
        let state = self.0.state.load();
        // A key server publishes no secrets, so there is nobody else to ask.
        let signed = state.conclude(state.keys.check(&parts), parts.alg);
        let outcome = signed.and_then(|()| self.read(&parts, &state.rules, now_ms));
        Some(outcome.map_err(|error| refuse(error, parts.kid.as_deref())))
    }

    async fn whenever<T: Held>(&self, token: &str, now_ms: u64) -> Result<T, TokenError> {
        // Here is also where what is too long to be copied ends.
        if let Some(outcome) = self.now(token, now_ms) {
            return outcome;
        }
        let (authority, token) = (self.clone(), token.to_owned());
        let check = async move { authority.public(&token, now_ms).await };
        match &self.0.runtime {
            // Only a runtime that stops loses it.
            Some(runtime) => {
                let outcome = AbortOnDropHandle::new(runtime.spawn(check)).await;
                outcome.unwrap_or_else(|_| Err(refuse(TokenError::KeysUnavailable, None)))
            }
            None => check.await,
        }
    }

    /// Checks a token that is signed with a private key.
    async fn public<T: Held>(&self, token: &str, now_ms: u64) -> Result<T, TokenError> {
        let parts = Parts::of(token).map_err(|error| refuse(error, None))?;
        let state = self.0.state.load_full();
        let signed = state.check_public(&parts, now_ms).await;
        let outcome = signed.and_then(|()| self.read(&parts, &state.rules, now_ms));
        outcome.map_err(|error| refuse(error, parts.kid.as_deref()))
    }

    fn read<T: Held>(&self, parts: &Parts<'_>, rules: &Rules, now_ms: u64) -> Result<T, TokenError> {
        let claims = T::read(&parts.payload()?, rules, now_ms)?;
        if claims.is_revoked(&self.0.revoked, now_ms) { Err(TokenError::Revoked) } else { Ok(claims) }
    }
}

impl State {
    fn new(settings: &TokenSettings, outbound: &Outbound, before: Option<Arc<Jwks>>) -> Self {
        let jwks = settings.jwks_url.as_ref().map(|url| match before {
            Some(before) if before.is_of(url) => before,
            _ => Arc::new(Jwks::new(url.clone(), outbound.clone())),
        });
        Self { keys: Keys::configured(settings), rules: Rules::new(settings), jwks, refresh: settings.jwks_refresh }
    }

    async fn check_public(&self, parts: &Parts<'_>, now_ms: u64) -> Result<(), TokenError> {
        let ours = self.keys.check(parts);
        let Some(jwks) = self.jwks.as_ref().filter(|_| ours != Verdict::Good) else {
            return self.conclude(ours, parts.alg);
        };
        for wanted in [Wanted::Fresh, Wanted::Newer] {
            let published = jwks.keys(wanted, self.refresh, now_ms).await;
            match published.map_or(Verdict::NoneFits, |keys| keys.check(parts)) {
                Verdict::Good => return Ok(()),
                // Whoever gives a key no name replaces it by another without one.
                Verdict::Bad if wanted == Wanted::Fresh && parts.kid.is_none() => {}
                Verdict::Bad => return Err(TokenError::Signature),
                Verdict::NoneFits => {}
            }
        }
        // What fits none of those from before may fit one that cannot be had now.
        if jwks.is_out_of_reach() { Err(TokenError::KeysUnavailable) } else { self.conclude(ours, parts.alg) }
    }

    fn conclude(&self, verdict: Verdict, alg: TokenAlgorithm) -> Result<(), TokenError> {
        match verdict {
            Verdict::Good => Ok(()),
            Verdict::Bad => Err(TokenError::Signature),
            Verdict::NoneFits => Err(self.stranger(alg)),
        }
    }

    /// No key fits: because of the algorithm, or of the name.
    fn stranger(&self, alg: TokenAlgorithm) -> TokenError {
        let by_server = self.jwks.is_some() && !alg.is_symmetric();
        if by_server || self.keys.has(alg) { TokenError::UnknownKey } else { TokenError::Algorithm }
    }
}

/// Counts a refusal and says it in the log, without the token.
fn refuse(error: TokenError, kid: Option<&str>) -> TokenError {
    metrics::token_refused(error.reason());
    debug!(reason = error.reason(), ?kid, "token refused");
    error
}
