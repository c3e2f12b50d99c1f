//! How what nodes keep in Redis, and say to each other through it, is written: a number that all of them agree on.

use std::ops::RangeInclusive;

use super::{Redis, agreed::NotAgreed};
use crate::Cause;

/// What this version writes. Changed when a node of the version before would misread a key, a script's answer or a frame; what it
/// may overlook (a field, a signal) changes nothing. `docs/UPGRADES.md` says how.
const FORMAT: u32 = 1;

/// What this version reads and, where others still do, writes: its own and that of the minor version before.
const UNDERSTOOD: RangeInclusive<u32> = FORMAT..=FORMAT;

/// Why a node must not use what is in Redis.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Redis refused to say, or the backplane was closed meanwhile.
    #[error("redis does not say in which format its keys are")]
    Unavailable(#[source] Option<Cause>),
    /// Nodes of another version work with it.
    #[error(
        "the keys in redis are of format {found:?} (at {key}), and this version, {}, understands {} to {}: run the version that the \
         other nodes have, or use another backplane.prefix",
        env!("CARGO_PKG_VERSION"), UNDERSTOOD.start(), UNDERSTOOD.end()
    )]
    Unknown {
        /// What stands there.
        found: String,
        /// Where.
        key: String,
    },
}

impl Redis {
    /// Whether this version may work with what is in Redis; the first node there writes its own format down. Waits until Redis is
    /// there.
    ///
    /// # Errors
    /// [`FormatError`]: a person has to look at it.
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn check_format(&self) -> Result<(), FormatError> {
        let key = self.0.keys.format();
        let found = self.agree(&key, &FORMAT.to_string()).await;
        let found = found.map_err(|NotAgreed(cause)| FormatError::Unavailable(cause))?;
        if is_understood(&found) { Ok(()) } else { Err(FormatError::Unknown { found, key }) }
    }
}

fn is_understood(found: &str) -> bool {
    found.parse().is_ok_and(|format| UNDERSTOOD.contains(&format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_format_and_no_other() {
        assert!(is_understood("1"));
        for other in ["0", "2", "", "one", "-1", "99999999999999999999"] {
            assert!(!is_understood(other), "{other}");
        }
    }
}
