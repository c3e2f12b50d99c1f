//! A token taken apart (RFC 7515, compact serialization), before anything of it is believed.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{MAX_TOKEN_BYTES, error::TokenError, object::Object};
use crate::config::TokenAlgorithm;

/// The longest `kid`, in bytes.
const MAX_KID_BYTES: usize = 255;

/// The parts of a token. Nobody has looked at the signature yet.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    /// What it says it is signed with; one of those that keys can be used with.
    pub(super) alg: TokenAlgorithm,
    /// Which key it says it is signed with.
    pub(super) kid: Option<Box<str>>,
    /// What is signed: header, dot, payload.
    pub(super) message: &'a [u8],
    /// In base64url.
    pub(super) signature: &'a str,
    payload: &'a str,
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    kid: Option<String>,
    /// What must be understood; nothing of that kind is here.
    crit: Option<serde::de::IgnoredAny>,
    /// A payload that is encrypted or compressed.
    enc: Option<serde::de::IgnoredAny>,
    zip: Option<serde::de::IgnoredAny>,
}

impl<'a> Parts<'a> {
    /// Takes a token apart. Never panics, whatever it is.
    ///
    /// # Errors
    /// [`TokenError::TooLarge`], [`TokenError::Malformed`], [`TokenError::Algorithm`].
    pub(super) fn of(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed)?;
        let Object(header): Object<Header<'_>> = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(TokenError::Malformed);
        }
        let alg = TokenAlgorithm::from_name(&header.alg).ok_or(TokenError::Algorithm)?;
        let kid = header.kid.map(String::into_boxed_str);
        if signature.is_empty() || payload.contains('.') || kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
            return Err(TokenError::Malformed);
        }
        Ok(Self { alg, kid, message: message.as_bytes(), signature, payload })
    }

    /// The payload's bytes.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] if it is not base64url.
    pub(super) fn payload(&self) -> Result<Vec<u8>, TokenError> {
        URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| TokenError::Malformed)
    }
}
