//! What nobody may read in a log.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::written::written_as;

/// A password or key. `Debug` shows `***`, and what is serialized is a `fingerprint`; the one way to the
/// text is [`Secret::reveal`], so that each use can be found.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl Secret {
    /// The text itself: for a signature or a comparison, never for a message. Compare it in constant time.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

written_as!(Secret, "secret text", { "type": "string" });

/// What stands for what nobody may read.
pub(super) const MASK: &str = "***";

/// What may be seen of something secret, and a fingerprint of it, so that two of them can be compared. The fingerprint is for
/// this process only: a password that a person made up can be guessed from it.
pub(super) fn fingerprint(seen: impl fmt::Display, secret: &str) -> String {
    let hash = Sha256::digest(secret.as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{seen}{MASK}{hash}")
}

/// What may be shown in the place of a [`fingerprint`]; none if this is not one.
pub(super) fn without_fingerprint(text: &str) -> Option<String> {
    let (seen, hash) = text.rsplit_once(MASK)?;
    let is_one = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    is_one.then(|| if seen.contains(MASK) { seen.to_owned() } else { format!("{seen}{MASK}") })
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() { serializer.serialize_str("") } else { serializer.collect_str(&fingerprint("", &self.0)) }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_as_a_fingerprint_only() {
        let text = |secret: &str| serde_json::to_value(Secret::from(secret)).unwrap();
        let [one, other] = [text("hunter2"), text("hunter3")];
        assert_ne!(one, other);
        assert!(!one.to_string().contains("hunter2"));
        assert_eq!(without_fingerprint(one.as_str().unwrap()).as_deref(), Some("***"));
        assert_eq!(text(""), "");
        assert!(without_fingerprint(MASK).is_none() && without_fingerprint("hunter2").is_none());
        let shown = |seen: &str| without_fingerprint(&fingerprint(seen, "hunter2")).unwrap();
        assert_eq!((shown("https://h/").as_str(), shown("redis://***@h").as_str()), ("https://h/***", "redis://***@h"));
    }
}
