//! What stands on every call, so that a back end knows that this cluster sent it, when, and whether it has seen it.
//!
//! `Skywave-Signature: t=1790000000,v1=<64 hex digits>`: `t` is when this try was made in seconds since 1970, `v1` is
//! HMAC-SHA256 with the hook's `secret` over `t`, a dot, and the body as it came. The back end
//!
//! 1. takes the *bytes* of the body, before any parsing, and computes the same;
//! 2. compares in constant time;
//! 3. refuses a `t` that is more than 5 minutes from its own clock: what somebody recorded is worth nothing later;
//! 4. passes over an `id` that it has carried out already within these minutes: a try may have been repeated.
//!
//! Unknown parts of the header (`v2=…`) are passed over. `Skywave-Webhook` (the hook's name) and `Skywave-Webhook-Id` stand in
//! the body too, as `hook` and `id`: only there are they signed.

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use reqwest::{Method, Request};
use sha2::Sha256;

use crate::config::{HookUrl, Secret};

/// The signature.
pub const SIGNATURE: HeaderName = HeaderName::from_static("skywave-signature");
/// Which hook calls.
pub const WEBHOOK: HeaderName = HeaderName::from_static("skywave-webhook");
/// The same for every try of one call.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("skywave-webhook-id");

/// One call, the same for each of its tries but for the time.
pub(super) struct Letter {
    pub(super) hook: &'static str,
    pub(super) id: String,
    pub(super) body: bytes::Bytes,
}

impl Letter {
    /// A try of it, made at `now` in seconds since 1970.
    pub(super) fn request(&self, url: &HookUrl, secret: Option<&Secret>, now: u64) -> Request {
        let mut request = Request::new(Method::POST, url.reveal().clone());
        *request.headers_mut() = self.headers(secret, now);
        *request.body_mut() = Some(self.body.clone().into());
        request
    }

    fn headers(&self, secret: Option<&Secret>, now: u64) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).expect("made of visible ASCII");
        let mut headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (WEBHOOK, HeaderValue::from_static(self.hook)),
            (WEBHOOK_ID, value(&self.id)),
        ]);
        if let Some(secret) = secret {
            headers.insert(SIGNATURE, value(&signature(secret, now, &self.body)));
        }
        headers
    }
}

fn signature(secret: &Secret, now: u64, body: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()).expect("HMAC takes a key of any length");
    mac.update(now.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut line = format!("t={now},v1=");
    for byte in mac.finalize().into_bytes() {
        let _ = write!(line, "{byte:02x}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against `printf '1790000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef`.
    #[test]
    fn signs_as_openssl_does() {
        assert_eq!(
            signature(&Secret::from("0123456789abcdef"), 1_790_000_000, br#"{"a":1}"#),
            "t=1790000000,v1=d569e4518fe6f4620fd6639233427e7df5e5394d8f14c85c1063b8d90a724dcb"
        );
    }

    #[test]
    fn a_call_without_a_secret_is_not_signed() {
        let letter = Letter { hook: "connect", id: "01J".to_owned(), body: bytes::Bytes::new() };
        let headers = letter.headers(None, 1);
        assert!(!headers.contains_key(SIGNATURE));
        assert_eq!(headers[WEBHOOK], "connect");
        assert_eq!(headers[WEBHOOK_ID], "01J");
    }
}
