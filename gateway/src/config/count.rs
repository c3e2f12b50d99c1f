//! Counts where 0 means "no limit".

use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer, Serializer};

use super::written::written_as;

/// For `#[serde(with = …)]`: 0 is `None`.
pub(super) struct OrNone;

impl OrNone {
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
        u32::deserialize(deserializer).map(NonZeroU32::new)
    }

    pub(super) fn serialize<S: Serializer>(count: &Option<NonZeroU32>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(count.map_or(0, NonZeroU32::get))
    }
}

written_as!(OrNone, "whole number; `0` is no limit", { "type": "integer" });
