//! The `session` that a client brings back to keep its id, on whatever node.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// A session is of no use after this; whoever comes back later is a new client.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Longer ones are not looked at.
const MAX_BYTES: usize = 2048;

/// What a session says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Whose it is.
    pub client: Arc<str>,
    /// The serial of the connection that it was given to.
    pub serial: u64,
    /// The run of the node that gave it.
    pub incarnation: Arc<str>,
}

/// The serial of a connection: larger than that of every earlier one of its client, on whatever node. It follows the
/// clock, and where clocks disagree the chain of sessions: each is sealed with its connection's.
pub(super) fn serial(earlier: Option<&Sealed>, now_ms: u64) -> u64 {
    earlier.map_or(now_ms, |earlier| now_ms.max(earlier.serial.saturating_add(1)))
}

/// Signs sessions with the secret that all nodes share.
#[derive(Clone)]
pub struct Seal(Hmac<Sha256>);

impl Seal {
    /// With `[node] secret`.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// A key of its own for another purpose. Sessions begin with `[`: a label must not.
    pub(crate) fn derive(&self, label: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(label);
        mac.finalize().into_bytes().into()
    }

    /// A session for this client, readable by anyone, made by nobody else. `serial` is its connection's, and since it
    /// follows the clock it also says when the session was made; `incarnation` is the node's.
    pub fn seal(&self, client: &str, user: Option<&str>, serial: u64, incarnation: &str) -> String {
        let text = serde_json::to_vec(&(client, user, serial, incarnation)).expect("strings and a number are JSON");
        let mut mac = self.0.clone();
        mac.update(&text);
        let tag = mac.finalize().into_bytes();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(text), URL_SAFE_NO_PAD.encode(tag))
    }

    /// What this cluster sealed for this user not too long ago.
    pub fn open(&self, session: &str, user: Option<&str>, now_ms: u64) -> Option<Sealed> {
        if session.len() > MAX_BYTES {
            return None;
        }
        let (text, tag) = session.split_once('.')?;
        let (text, tag) = (URL_SAFE_NO_PAD.decode(text).ok()?, URL_SAFE_NO_PAD.decode(tag).ok()?);
        let mut mac = self.0.clone();
        mac.update(&text);
        mac.verify_slice(&tag).ok()?; // constant time
        let (client, sealed_for, serial, incarnation): (String, Option<String>, u64, String) =
            serde_json::from_slice(&text).ok()?;
        let fresh = u128::from(now_ms.saturating_sub(serial)) < LIFETIME.as_millis();
        let sealed = Sealed { client: client.into(), serial, incarnation: incarnation.into() };
        (fresh && sealed_for.as_deref() == user).then_some(sealed)
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
        let session = ours.seal("c1", Some("ada"), 1000, "run-1");
        let sealed = Sealed { client: "c1".into(), serial: 1000, incarnation: "run-1".into() };
        assert_eq!(ours.open(&session, Some("ada"), 2000), Some(sealed));
        assert_eq!(ours.open(&session, Some("bob"), 2000), None);
        assert_eq!(ours.open(&session, None, 2000), None);
        assert_eq!(theirs.open(&session, Some("ada"), 2000), None);
        assert_eq!(ours.open(&session, Some("ada"), 1000 + 24 * 3600 * 1000), None);
    }

    #[test]
    fn refuses_what_nobody_sealed() {
        let seal = Seal::new(&[1; 32]);
        let forged = seal.seal("c1", None, 0, "run-1").replacen('W', "X", 1);
        for text in ["", ".", "a.b", "not base64!.x", &forged, &"x".repeat(5000)] {
            assert_eq!(seal.open(text, None, 0), None, "{text:.20}");
        }
    }

    #[test]
    fn a_serial_grows_along_the_chain_whatever_the_clocks_say() {
        let sealed = |serial| Sealed { client: "c1".into(), serial, incarnation: "run-1".into() };
        assert_eq!(serial(None, 1000), 1000);
        assert_eq!(serial(Some(&sealed(1000)), 5000), 5000);
        assert_eq!(serial(Some(&sealed(9000)), 5000), 9001, "the other node's clock is ahead");
        assert_eq!(serial(Some(&sealed(u64::MAX)), 5000), u64::MAX);
    }
}
