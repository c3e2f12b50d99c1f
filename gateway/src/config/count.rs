//! Counts where 0 means "no limit".

use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer};

/// For `#[serde(deserialize_with = …)]`: 0 is `None`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    u32::deserialize(deserializer).map(NonZeroU32::new)
}
