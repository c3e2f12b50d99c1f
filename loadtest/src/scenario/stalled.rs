//! Fan-out while some clients have stopped reading: what they cost the others, what they cost the node, and what becomes
//! of them.
//!
//! They keep their connections open, with a small receive buffer in the kernel. When everybody else has everything, they
//! begin to read again, so that each can tell how it ended.

use indicatif::ProgressBar;

use super::{ScenarioError, broadcast::Broadcast, fanout};
use crate::report::Report;

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The fan-out.
    pub fanout: fanout::Settings,
    /// The share of its clients, 0 to 1, who stop reading.
    pub share: f64,
    /// How all of them are to end: the words with which each outcome must begin, such as `ended: 4002` or `open, recovered`.
    /// `None`: as the node likes, as long as nothing is left out without a word.
    pub expect: Option<String>,
}

/// Runs the scenario. `bar` shows how far it is. The verdict is about those who read, and about how the others ended.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all. What goes wrong while it runs is in the report.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Report, ScenarioError> {
    if !(0.0..=1.0).contains(&settings.share) {
        return Err(ScenarioError::Usage("--stalled must be a share, like 10%".to_owned()));
    }
    let broadcast = settings.fanout.broadcast("stalled", settings.share)?;
    Broadcast { expected: settings.expect.as_deref(), ..broadcast }.run(bar)
}
