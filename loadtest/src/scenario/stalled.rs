//! Fan-out while some clients have stopped reading: what they cost the others, what they cost the node, and what becomes
//! of them.
//!
//! They keep their connections open, with a small receive buffer in the kernel. When everybody else has everything, they
//! begin to read again, so that each can tell how it ended.

use indicatif::ProgressBar;

use super::{ScenarioError, fanout};
use crate::report::Report;

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The fan-out.
    pub fanout: fanout::Settings,
    /// The share of its clients, 0 to 1, who stop reading.
    pub share: f64,
}

/// Runs the scenario. `bar` shows how far it is. The verdict is about those who read.
///
/// # Errors
/// [`ScenarioError`] if it could not be run at all. What goes wrong while it runs is in the report.
pub fn run(settings: &Settings, bar: &ProgressBar) -> Result<Report, ScenarioError> {
    if !(0.0..=1.0).contains(&settings.share) {
        return Err(ScenarioError::Usage("--stalled must be a share, like 10%".to_owned()));
    }
    settings.fanout.broadcast("stalled", settings.share)?.run(bar)
}
