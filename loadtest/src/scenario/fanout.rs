//! Many subscribers on one channel, few publishers: what a chat room, a ticker or a live score is to a node.

use std::time::Duration;

use indicatif::ProgressBar;

use super::{Access, Load, ScenarioError, Seats, broadcast::Broadcast, publisher::Schedule};
use crate::report::Report;

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to get in.
    pub access: Access,
    /// Subscribers.
    pub clients: usize,
    /// Publishers, each with a connection of its own and subscribed like everybody.
    pub publishers: usize,
    /// When to publish.
    pub load: Load,
    /// All publications of a window are written at once, when all earlier ones have arrived everywhere.
    pub burst: bool,
    /// For how long.
    pub duration: Duration,
    /// Bytes of JSON in each publication.
    pub size: usize,
    /// The channel; a new one if there is none.
    pub channel: Option<String>,
    /// How long nothing may happen after the last publication until what is missing is given up.
    pub patience: Duration,
    /// The verdict fails above this latency from schedule.
    pub max_p99: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            clients: 1000,
            publishers: 1,
            load: Load::Rate(10.0),
            burst: false,
            duration: Duration::from_secs(10),
            size: 128,
            channel: None,
            patience: Duration::from_secs(5),
            max_p99: None,
        }
    }
}

impl Settings {
    pub(super) fn broadcast(&self, scenario: &'static str, stalled: f64) -> Result<Broadcast<'_>, ScenarioError> {
        if self.clients == 0 {
            return Err(ScenarioError::Usage("--clients must be at least 1".to_owned()));
        }
        Ok(Broadcast {
            scenario,
            access: &self.access,
            seats: Seats { channels: 1, listeners: self.clients, publishers: self.publishers, stalled },
            schedule: Schedule { load: self.load, burst: self.burst, duration: self.duration },
            size: self.size,
            channel: self.channel.as_deref(),
            patience: self.patience,
            max_p99: self.max_p99,
            expected: None,
        })
    }
}

/// Runs the scenario. `bar` shows how far it is.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all. What goes wrong while it runs is in the report.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Report, ScenarioError> {
    settings.broadcast("fanout", 0.0)?.run(bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_wrong_usage() {
        // Nobody listens there: what could be run ends with another error.
        let access = Access::to(vec!["ws://127.0.0.1:9/ws".to_owned()]);
        let good = Settings { access, clients: 1, ..Settings::default() };
        let usage = |settings: &Settings| run(settings, &ProgressBar::hidden()).unwrap_err().is_usage();
        assert!(!usage(&good));
        for wrong in [
            Settings { access: Access::default(), ..good.clone() },
            Settings { clients: 0, ..good.clone() },
            Settings { publishers: 0, ..good.clone() },
            Settings { load: Load::Rate(0.0), ..good.clone() },
            Settings { load: Load::Window(0), ..good.clone() },
            Settings { burst: true, ..good.clone() },
            Settings { size: 10, ..good.clone() },
            Settings { duration: Duration::ZERO, ..good.clone() },
        ] {
            assert!(usage(&wrong), "{wrong:?}");
        }
    }
}
