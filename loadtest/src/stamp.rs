//! What a publication of ours carries, so that whoever receives it can tell whose it is, which one, and how old.

use std::{
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

/// This machine's monotonic clock, in nanoseconds since the run began. Sender and receiver of a run share one.
///
/// On its way to another process of this machine it is the time of day when it stood at 0: right to some microseconds,
/// unless somebody sets that just then.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(from = "SystemTime", into = "SystemTime")]
pub struct Clock(Instant);

impl From<SystemTime> for Clock {
    fn from(began: SystemTime) -> Self {
        let ago = began.elapsed().unwrap_or_default();
        Self(Instant::now().checked_sub(ago).unwrap_or_else(Instant::now))
    }
}

impl From<Clock> for SystemTime {
    fn from(clock: Clock) -> Self {
        Self::now() - clock.0.elapsed()
    }
}

impl Clock {
    /// A clock that stands at 0.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Eight random hex digits that tell this run's publications from those of another on the same channel.
pub fn run_id() -> String {
    format!("{:08x}", RandomState::new().hash_one(std::process::id()) >> 32)
}

/// The payload of one publication, without its padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Stamp<'a> {
    /// The run it belongs to.
    pub run: &'a str,
    /// The publisher's number in the run.
    pub from: u32,
    /// The publisher's count, from 0 without holes.
    pub seq: u64,
    /// When it was to be sent.
    pub due: u64,
    /// When it was sent.
    pub sent: u64,
}

impl Stamp<'_> {
    /// Room for every stamp of a run of ten days; a smaller `--size` cannot be kept.
    pub const MIN_SIZE: usize = 104;

    /// Appends the stamp as a JSON object of `size` bytes (more, if it does not fit).
    pub fn write(&self, size: usize, out: &mut String) {
        let start = out.len();
        let Self { run, from, seq, due, sent } = self;
        // Writing to a String cannot fail.
        let _ = write!(out, r#"{{"run":"{run}","from":{from},"seq":{seq},"due":{due},"sent":{sent},"pad":""#);
        let end = (start + size).saturating_sub(r#""}"#.len());
        out.extend(std::iter::repeat_n('x', end.saturating_sub(out.len())));
        out.push_str(r#""}"#);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_as_long_as_asked_and_reads_back() {
        let stamp = Stamp { run: "0123abcd", from: 9999, seq: 9_999_999_999, due: 999_999_999_999_999, sent: 7 };
        for size in [Stamp::MIN_SIZE, 128, 4096] {
            let mut text = String::from("before");
            stamp.write(size, &mut text);
            assert_eq!(text.len() - "before".len(), size);
            assert_eq!(serde_json::from_str::<Stamp<'_>>(&text["before".len()..]).unwrap(), stamp);
        }
    }

    #[test]
    fn a_clock_goes_the_same_in_another_process() {
        const MAY_BE_OFF: u64 = 100_000_000;
        let clock = Clock::start();
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        let other: Clock = serde_json::from_str(&serde_json::to_string(&clock).unwrap()).unwrap();
        let (before, there, after) = (clock.now(), other.now(), clock.now());
        assert!(before <= there + MAY_BE_OFF && there <= after + MAY_BE_OFF, "{before} {there} {after}");
    }

    #[test]
    fn run_ids_have_eight_digits() {
        assert_eq!(run_id().len(), 8);
    }
}
