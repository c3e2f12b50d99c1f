//! Which key may have signed a token.

use std::fmt;

use jsonwebtoken::{
    DecodingKey, crypto,
    jwk::{AlgorithmParameters, Jwk, KeyOperations, PublicKeyUse},
};
use tracing::error;

use super::jose::Parts;
use crate::config::{TokenAlgorithm, TokenSettings, fits};

/// The most keys that one token is held against: a signature costs up to 51 us.
const MAX_TRIED: usize = 16;

/// Some keys. Each is used with its own algorithm and no other, whatever a token says: so neither `none` nor a public key
/// in the place of a secret can open anything.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

struct Key {
    alg: TokenAlgorithm,
    kid: Option<Box<str>>,
    key: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("alg", &self.alg).field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// What a set of keys says of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One of them made it.
    Good,
    /// Some may have made it, and none did.
    Bad,
    /// None has the token's `kid` and `alg`.
    NoneFits,
}

impl Keys {
    /// Those of the configuration, which was checked when it was read.
    pub(super) fn configured(settings: &TokenSettings) -> Self {
        let usable = settings.keys.iter().enumerate().filter_map(|(index, entry)| match entry.decoding_key() {
            Ok(key) => Some(Key { alg: entry.alg, kid: entry.kid.as_deref().map(Into::into), key }),
            Err(problem) => {
                error!(index, %problem, "a key of auth.tokens.keys cannot be used");
                None
            }
        });
        Self(usable.collect())
    }

    /// Those of a key server's set that can be used, at most so many. Not the others: of another use, of an unknown kind, or with
    /// a secret in them, which a server must not hand to strangers.
    pub(super) fn published(set: impl IntoIterator<Item = Jwk>, at_most: usize) -> Self {
        Self(set.into_iter().filter_map(|jwk| read(&jwk)).take(at_most).collect())
    }

    /// Whether one of them made the token's signature. Costs up to [`MAX_TRIED`] checks.
    pub(super) fn check(&self, token: &Parts<'_>) -> Verdict {
        let mut verdict = Verdict::NoneFits;
        for key in self.0.iter().filter(|key| key.fits(token)).take(MAX_TRIED) {
            // The library compares in constant time. An error is a signature that is none.
            if crypto::verify(token.signature, token.message, &key.key, key.alg.algorithm()).unwrap_or(false) {
                return Verdict::Good;
            }
            verdict = Verdict::Bad;
        }
        verdict
    }

    /// Whether one of them is for this algorithm.
    pub(super) fn has(&self, alg: TokenAlgorithm) -> bool {
        self.0.iter().any(|key| key.alg == alg)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Key {
    fn fits(&self, token: &Parts<'_>) -> bool {
        let named = match (self.kid.as_deref(), token.kid.as_deref()) {
            (Some(mine), Some(named)) => mine == named,
            _ => true,
        };
        self.alg == token.alg && named
    }
}

fn read(jwk: &Jwk) -> Option<Key> {
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature)
        || common.key_operations.as_ref().is_some_and(|allowed| !allowed.contains(&KeyOperations::Verify))
    {
        return None;
    }
    let alg = match (common.key_algorithm, &jwk.algorithm) {
        (Some(alg), _) => TokenAlgorithm::from_name(&alg.to_string())?,
        // Some key servers do not say it (RFC 7517 §4.4): then it is the one that everybody uses.
        (None, AlgorithmParameters::RSA(_)) => TokenAlgorithm::Rs256,
        (None, _) => [TokenAlgorithm::Es256, TokenAlgorithm::Es384, TokenAlgorithm::EdDsa]
            .into_iter()
            .find(|alg| fits(*alg, jwk).is_ok())?,
    };
    fits(alg, jwk).ok()?;
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { alg, kid: common.key_id.as_deref().map(Into::into), key })
}
