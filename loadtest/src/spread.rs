//! How a time is spread over many samples.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A histogram of nanoseconds with three digits, from 1 µs to 10 minutes. About 200 KiB: one per thread, not per client.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Spread(Histogram<u64>);

/// The usual points of a [`Spread`], in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the points")]
pub struct Percentiles {
    pub samples: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub max_us: f64,
}

impl Default for Spread {
    fn default() -> Self {
        let bounds = (1_000, Duration::from_secs(600));
        let high = u64::try_from(bounds.1.as_nanos()).unwrap_or(u64::MAX);
        Self(Histogram::new_with_bounds(bounds.0, high, 3).expect("bounds and digits are in hdrhistogram's range"))
    }
}

/// What was recorded, and how often: for another process.
impl From<Spread> for Vec<(u64, u64)> {
    fn from(spread: Spread) -> Self {
        spread.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_since_last_iteration())).collect()
    }
}

impl From<Vec<(u64, u64)>> for Spread {
    fn from(steps: Vec<(u64, u64)>) -> Self {
        let mut spread = Self::default();
        steps.into_iter().for_each(|(value, times)| spread.0.saturating_record_n(value, times));
        spread
    }
}

impl Spread {
    /// Takes one sample in nanoseconds; what is out of range counts as its end.
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// Takes over the samples of another thread.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// The usual points.
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        if self.0.is_empty() {
            return Percentiles::default();
        }
        Percentiles {
            samples: self.0.len(),
            mean_us: self.0.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: self.0.max() as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_where_the_samples_are() {
        let (mut one, mut other) = (Spread::default(), Spread::default());
        (1..=500).for_each(|ms| one.record(ms * 1_000_000));
        (501..=1000).for_each(|ms| other.record(ms * 1_000_000));
        one.merge(&other);
        let points = one.percentiles();
        assert_eq!(points.samples, 1000);
        for (point, ms) in [(points.p50_us, 500.0), (points.p99_us, 990.0), (points.max_us, 1000.0)] {
            assert!((point / 1e3 - ms).abs() < ms * 0.002, "{point} is not {ms} ms");
        }
    }

    #[test]
    fn a_spread_is_the_same_in_another_process() {
        let mut spread = Spread::default();
        (1..=1000).for_each(|ms| spread.record(ms * ms * 1_000));
        let text = serde_json::to_string(&spread).unwrap();
        let (there, here) = (serde_json::from_str::<Spread>(&text).unwrap().percentiles(), spread.percentiles());
        for (there, here) in [(there.p50_us, here.p50_us), (there.p99_us, here.p99_us), (there.max_us, here.max_us)] {
            assert!((there - here).abs() <= here * 0.002, "{there} is not {here}");
        }
        assert_eq!(there.samples, 1000);
    }

    #[test]
    fn no_samples_are_zero() {
        assert_eq!(Spread::default().percentiles(), Percentiles::default());
    }
}
