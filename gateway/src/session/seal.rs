//! The `session` that a client brings back to keep its id, on whatever node.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// A session is of no use after this; whoever comes back later is a new client.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Longer ones are not looked at.
const MAX_BYTES: usize = 2048;

/// Signs sessions with the secret that all nodes share.
#[derive(Clone)]
pub struct Seal(Hmac<Sha256>);

impl Seal {
    /// With `[node] secret`.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// A session for this client: who it is and since when, readable by anyone, made by nobody else.
    pub fn seal(&self, client: &str, user: Option<&str>, now_ms: u64) -> String {
        let text = serde_json::to_vec(&(client, user, now_ms)).expect("strings and a number are JSON");
        let mut mac = self.0.clone();
        mac.update(&text);
        let tag = mac.finalize().into_bytes();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(text), URL_SAFE_NO_PAD.encode(tag))
    }

    /// The client id in a session that this cluster sealed for this user not too long ago.
    pub fn open(&self, session: &str, user: Option<&str>, now_ms: u64) -> Option<Arc<str>> {
        if session.len() > MAX_BYTES {
            return None;
        }
        let (text, tag) = session.split_once('.')?;
        let (text, tag) = (URL_SAFE_NO_PAD.decode(text).ok()?, URL_SAFE_NO_PAD.decode(tag).ok()?);
        let mut mac = self.0.clone();
        mac.update(&text);
        mac.verify_slice(&tag).ok()?; // constant time
        let (client, sealed_for, at): (String, Option<String>, u64) = serde_json::from_slice(&text).ok()?;
        let fresh = u128::from(now_ms.saturating_sub(at)) < LIFETIME.as_millis();
        (fresh && sealed_for.as_deref() == user).then(|| client.into())
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_it_sealed_for_the_same_user() {
        let (ours, theirs) = (Seal::new(&[1; 32]), Seal::new(&[2; 32]));
        let session = ours.seal("c1", Some("ada"), 1000);
        assert_eq!(ours.open(&session, Some("ada"), 2000).as_deref(), Some("c1"));
        assert_eq!(ours.open(&session, Some("bob"), 2000), None);
        assert_eq!(ours.open(&session, None, 2000), None);
        assert_eq!(theirs.open(&session, Some("ada"), 2000), None);
        assert_eq!(ours.open(&session, Some("ada"), 1000 + 24 * 3600 * 1000), None);
    }

    #[test]
    fn refuses_what_nobody_sealed() {
        let seal = Seal::new(&[1; 32]);
        let forged = seal.seal("c1", None, 0).replacen('W', "X", 1);
        for text in ["", ".", "a.b", "not base64!.x", &forged, &"x".repeat(5000)] {
            assert_eq!(seal.open(text, None, 0), None, "{text:.20}");
        }
    }
}
