//! What nobody may read in a log.

use std::fmt;

use serde::Deserialize;

/// A password or key. `Debug` shows `***`; the one way to the text is [`Secret::reveal`], so that each use can be found.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl Secret {
    /// The text itself: for a signature or a comparison, never for a message. Compare it in constant time.
    pub fn reveal(&self) -> &str {
        &self.0
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
