//! Durations as people write them: with their unit.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::written::written_as;

/// Nothing here waits longer; a point in time this far ahead can still be computed without overflow.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Reads `"500ms"`, `"10s"`, `"10m"`, `"24h"`, also put together: `"1m 30s"`.
///
/// # Errors
/// In words for whoever wrote it; a bare number is refused, for nobody can see its unit.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '+')) {
        return Err(unit_missing(text));
    }
    let duration = humantime::parse_duration(text).map_err(|error| {
        let reason = error.to_string();
        format!(r#""{text}" is not a duration ({reason}): write it with its unit, like "500ms", "10s", "10m" or "24h""#)
    })?;
    if duration > LONGEST {
        return Err(format!(r#""{text}" is over the longest duration, 10 years"#));
    }
    Ok(duration)
}

/// For `#[serde(with = …)]`.
pub(super) struct Field;

impl Field {
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Written::deserialize(deserializer).map(|written| written.0)
    }

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        Written(*duration).serialize(serializer)
    }
}

const TITLE: &str = "duration, like `\"500ms\"` or `\"10m\"`";
written_as!(Field, TITLE, { "type": "string" });
written_as!(Written, TITLE, { "type": "string" });

/// A duration inside another type, such as an `Option`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written(pub(super) Duration);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor).map(Self)
    }
}

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

fn unit_missing(number: impl fmt::Display) -> String {
    format!(r#"{number} has no unit: write "{number}s" or "{number}ms""#)
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a duration with its unit, like "500ms", "10s", "10m" or "24h""#)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        Err(E::custom(unit_missing(number)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
        Err(E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Duration, E> {
        Err(E::custom(unit_missing(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("10m", 600_000),
            ("24h", 86_400_000),
            ("1m 30s", 90_000),
            ("0s", 0),
            (" 5 s ", 5_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(parse("10"), Err(r#"10 has no unit: write "10s" or "10ms""#.to_owned()));
        assert_eq!(parse("0"), Err(r#"0 has no unit: write "0s" or "0ms""#.to_owned()));
        for text in ["", "s", "10 parsecs", "-5s", "20y"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
