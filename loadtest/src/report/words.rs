//! Figures as people read them.

use std::fmt;

use super::Verdict;
use crate::spread::Percentiles;

/// Named rows under a heading.
pub(crate) type Section = (&'static str, Vec<(&'static str, String)>);

/// Writes sections, then the verdict as the last line.
///
/// # Errors
/// Of the formatter only.
pub(crate) fn write_table(f: &mut fmt::Formatter<'_>, sections: &[Section], verdict: &Verdict) -> fmt::Result {
    for (section, rows) in sections {
        for (n, (name, value)) in rows.iter().enumerate() {
            writeln!(f, "{:<14}{name:<18}{value}", if n == 0 { section } else { "" })?;
        }
    }
    for note in &verdict.notes {
        writeln!(f, "note: {note}")?;
    }
    if verdict.passed { write!(f, "PASSED") } else { write!(f, "FAILED: {}", verdict.reasons.join("; ")) }
}

/// Binary, with one digit.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The points of a spread.
pub(crate) fn points(spread: &Percentiles) -> String {
    if spread.samples == 0 {
        return "-".to_owned();
    }
    format!(
        "p50 {:<9} p90 {:<9} p99 {:<9} p99.9 {:<9} max {}",
        time(spread.p50_us),
        time(spread.p90_us),
        time(spread.p99_us),
        time(spread.p99_9_us),
        time(spread.max_us)
    )
}

/// A time, in the unit that suits it.
pub(crate) fn time(microseconds: f64) -> String {
    match microseconds {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A share.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A rate.
pub(crate) fn grouped_f(count: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "saturates; shown to people")]
    let count = count.round() as u64;
    grouped(count)
}

/// 1234567 is 1,234,567.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([12.4, 1_234.0, 2_500_000.0].map(time), ["12 µs", "1.23 ms", "2.50 s"]);
    }
}
