//! Sizes: bytes, or a whole number with its unit.

use std::{fmt, num::NonZeroUsize};

use serde::{Deserializer, Serializer, de};

use super::written::written_as;

const UNITS: [(&str, u64); 8] = [
    ("b", 1),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("mb", 1000 * 1000),
    ("mib", 1 << 20),
    ("gb", 1000 * 1000 * 1000),
    ("gib", 1 << 30),
    ("", 1),
];

/// Reads `65536`, `"65536"`, `"64KiB"` (of 1,024) and `"10kB"` (of 1,000). Case does not matter; a bare `K` is refused,
/// for nobody can see which of the two it is.
fn parse(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = unit.trim_start().to_ascii_lowercase();
    let (Ok(number), Some((_, factor))) = (digits.parse::<u64>(), UNITS.iter().find(|(name, _)| *name == unit)) else {
        return Err(format!(
            r#""{text}" is not a size: write bytes, or a whole number with kB, KiB, MB, MiB, GB or GiB"#
        ));
    };
    number
        .checked_mul(*factor)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|bytes| isize::try_from(*bytes).is_ok())
        .ok_or_else(|| format!(r#""{text}" is more than this machine can address"#))
}

/// For `#[serde(with = …)]`.
pub(super) struct Field;

impl Field {
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(Visitor)
    }

    pub(super) fn serialize<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        let number = *bytes as u64;
        let shown = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match shown.into_iter().find(|(factor, _)| number >= *factor && number.is_multiple_of(*factor)) {
            Some((factor, unit)) => serializer.collect_str(&format_args!("{}{unit}", number / factor)),
            None => serializer.serialize_u64(number),
        }
    }
}

/// The same where 0 means "no limit": it is `None`.
pub(super) struct OrNone;

impl OrNone {
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroUsize>, D::Error> {
        Field::deserialize(deserializer).map(NonZeroUsize::new)
    }

    pub(super) fn serialize<S: Serializer>(bytes: &Option<NonZeroUsize>, serializer: S) -> Result<S::Ok, S::Error> {
        Field::serialize(&bytes.map_or(0, NonZeroUsize::get), serializer)
    }
}

written_as!(Field, "bytes, like `65536` or `\"64KiB\"`", { "type": ["integer", "string"] });
written_as!(OrNone, "bytes, like `65536` or `\"64KiB\"`; `0` is no limit", { "type": ["integer", "string"] });

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a size in bytes, like 65536 or "64KiB""#)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<usize, E> {
        parse(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<usize, E> {
        usize::try_from(bytes).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("65536", 65_536),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("10kB", 10_000),
            ("1MiB", 1 << 20),
            ("2MB", 2_000_000),
            ("1GiB", 1 << 30),
            ("7B", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for text in ["", "KiB", "1.5MiB", "64K", "-1", "64 KiB x", "99999999999GiB", "99999999999999999999"] {
            assert!(parse(text).unwrap_err().starts_with(&format!("{text:?} is ")), "{text}");
        }
    }
}
