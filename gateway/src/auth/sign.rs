//! Makes tokens: for `skywave token` and for tests. A node itself makes none.

use std::fmt;

use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header, crypto};
use serde_json::Value as Json;

use super::{claims, claims::Rules, error::TokenError, jose::Parts};
use crate::config::{TokenAlgorithm, TokenSettings, check_secret};

/// What tokens are signed with.
pub struct SigningKey {
    alg: TokenAlgorithm,
    kid: Option<String>,
    key: EncodingKey,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// It is not a key for the algorithm; says what to do, nothing of the key.
    #[error("the key {0}")]
    Key(String),
    /// A node with these settings would refuse the token.
    #[error("a node with this configuration would refuse it: {0}")]
    Refused(#[source] TokenError),
}

impl SigningKey {
    /// The first key with a secret in the settings: of all others they have only the public half.
    pub fn configured(settings: &TokenSettings) -> Option<Self> {
        settings.keys.iter().find_map(|entry| {
            let secret = entry.secret.as_ref().filter(|_| entry.alg.is_symmetric())?;
            Self::read(entry.alg, entry.kid.clone(), secret.reveal()).ok()
        })
    }

    /// Of a secret, or of a private key in PEM (PKCS#8; RSA also PKCS#1).
    ///
    /// # Errors
    /// [`SigningKeyError::Key`].
    pub fn read(alg: TokenAlgorithm, kid: Option<String>, text: &str) -> Result<Self, SigningKeyError> {
        let wrong = |message: String| SigningKeyError::Key(message);
        let key = match alg.algorithm().family() {
            AlgorithmFamily::Hmac => {
                check_secret(alg, text).map_err(wrong)?;
                Ok(EncodingKey::from_secret(text.as_bytes()))
            }
            AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(text.as_bytes()),
            AlgorithmFamily::Ec => EncodingKey::from_ec_pem(text.as_bytes()),
            AlgorithmFamily::Ed => EncodingKey::from_ed_pem(text.as_bytes()),
        };
        let useless = || {
            wrong(format!(
                "is no private key for {alg} in PEM (-----BEGIN PRIVATE KEY-----); `openssl pkcs8 -topk8 -nocrypt -in key.pem` \
                 turns others into one"
            ))
        };
        let key = Self { alg, kid, key: key.map_err(|_| useless())? };
        // Whether it can sign shows when it does.
        crypto::sign(b"", &key.key, alg.algorithm()).map_err(|_| useless())?;
        Ok(key)
    }

    /// Signs these claims as they are.
    ///
    /// # Errors
    /// [`SigningKeyError::Key`].
    pub fn sign(&self, claims: &Json) -> Result<String, SigningKeyError> {
        let header = Header { kid: self.kid.clone(), ..Header::new(self.alg.algorithm()) };
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|_| SigningKeyError::Key("cannot sign".to_owned()))
    }

    /// Signs these claims, if a node with these settings would take them.
    ///
    /// # Errors
    /// [`SigningKeyError`].
    pub fn sign_for(&self, claims: &Json, settings: &TokenSettings, now_ms: u64) -> Result<String, SigningKeyError> {
        let token = self.sign(claims)?;
        let check = || {
            let payload = Parts::of(&token)?.payload()?;
            let rules = Rules::new(settings);
            match claims.get("channel") {
                Some(_) => claims::read_channel(&payload, &rules, now_ms).map(drop),
                None => claims::read(&payload, &rules, now_ms).map(drop),
            }
        };
        check().map_err(SigningKeyError::Refused)?;
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("alg", &self.alg).field("kid", &self.kid).finish_non_exhaustive()
    }
}
