//! What nobody may read in a log.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::written::written_as;

/// A password or key. `Debug` shows `***`, and what is serialized is a [`fingerprint`](is_fingerprint); the one way to the
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

/// What stands for a secret that nobody may read.
pub(super) const MASK: &str = "***";

/// Whether it stands for a secret: [`MASK`] and the hash of the text, so that two of them can be compared. The hash is for
/// this process only, for a password that a person made up can be guessed from it.
pub(super) fn is_fingerprint(text: &str) -> bool {
    text.strip_prefix(MASK).is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() {
            return serializer.serialize_str("");
        }
        let hash = Sha256::digest(self.0.as_bytes());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.collect_str(&format_args!("{MASK}{hash}"))
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
        assert!(is_fingerprint(one.as_str().unwrap()) && !one.to_string().contains("hunter2"));
        assert_eq!(text(""), "");
        assert!(!is_fingerprint(MASK) && !is_fingerprint("hunter2"));
    }
}
