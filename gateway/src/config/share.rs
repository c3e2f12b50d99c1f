//! Parts of a whole: numbers from 0 to 1.

use std::fmt;

use serde::{Deserializer, Serializer, de};

use super::written::written_as;

/// For `#[serde(with = …)]`.
pub(super) struct Field;

impl Field {
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        deserializer.deserialize_f64(Visitor)
    }

    pub(super) fn serialize<S: Serializer>(share: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(*share)
    }
}

written_as!(Field, "part of the whole, from `0` to `1`", { "type": "number" });

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 0 to 1, like 0.9")
    }

    fn visit_f64<E: de::Error>(self, share: f64) -> Result<f64, E> {
        if (0.0..=1.0).contains(&share) {
            return Ok(share);
        }
        Err(E::invalid_value(de::Unexpected::Float(share), &self))
    }

    fn visit_i64<E: de::Error>(self, share: i64) -> Result<f64, E> {
        match share {
            0 => Ok(0.0),
            1 => Ok(1.0),
            other => Err(E::invalid_value(de::Unexpected::Signed(other), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, share: u64) -> Result<f64, E> {
        match i64::try_from(share) {
            Ok(share) => self.visit_i64(share),
            Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(share), &self)),
        }
    }
}
