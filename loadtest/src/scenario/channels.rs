//! Many small channels whose members all publish: chats, documents, games.

use std::time::Duration;

use indicatif::ProgressBar;

use super::{Access, Load, ScenarioError, Seats, broadcast::Broadcast, publisher::Schedule};
use crate::report::Report;

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to get in.
    pub access: Access,
    /// Channels.
    pub channels: usize,
    /// Members of each; all publish.
    pub members: usize,
    /// When to publish: a rate is each member's own, a window all channels' together.
    pub load: Load,
    /// All publications of a window are written at once, when all earlier ones have arrived everywhere.
    pub burst: bool,
    /// For how long.
    pub duration: Duration,
    /// Bytes of JSON in each publication.
    pub size: usize,
    /// What the channels' names begin with; a new one if there is none.
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
            channels: 100,
            members: 10,
            load: Load::Rate(1.0),
            burst: false,
            duration: Duration::from_secs(10),
            size: 128,
            channel: None,
            patience: Duration::from_secs(5),
            max_p99: None,
        }
    }
}

/// Runs the scenario. `bar` shows how far it is.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all. What goes wrong while it runs is in the report.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Report, ScenarioError> {
    let Settings { channels, members, .. } = *settings;
    let load = match settings.load {
        // One after the other at even distances, each on another channel than the one before.
        Load::Rate(rate) => Load::Rate(rate * (channels * members) as f64),
        window @ Load::Window(_) => window,
    };
    let broadcast = Broadcast {
        scenario: "channels",
        access: &settings.access,
        seats: Seats { channels, listeners: 0, publishers: members, stalled: 0.0 },
        schedule: Schedule { load, burst: settings.burst, duration: settings.duration },
        size: settings.size,
        channel: settings.channel.as_deref(),
        patience: settings.patience,
        max_p99: settings.max_p99,
        expected: None,
    };
    broadcast.run(bar)
}
