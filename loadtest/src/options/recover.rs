//! `recover`.

use std::time::Duration;

use clap::Args;
use skywave_loadtest::{report::rolling::Thresholds, scenario::recover};

use super::Nodes;

/// `recover`.
#[derive(Args)]
pub(crate) struct Recover {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 100)]
    clients: usize,
    /// Channels.
    #[arg(long, value_name = "C", default_value_t = 10)]
    channels: usize,
    /// How their names begin, in a namespace that has a history.
    #[arg(long, value_name = "PREFIX", default_value = "recover-")]
    channel: String,
    /// Channels of each client.
    #[arg(long, value_name = "N", default_value_t = 2)]
    subscriptions: usize,
    /// Publications a second, over all channels.
    #[arg(long, value_name = "R", default_value_t = 50.0)]
    rate: f64,
    /// How long to publish; SIGINT and SIGTERM end it, and then the books are closed as usual.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Each client, and who publishes, gives its connection up so often: on the average, at random moments.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Bytes of JSON in each publication.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// Fail if a client is away for longer.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_away: Option<Duration>,
    /// How long nothing may happen after the last publication until what is missing is given up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

impl Recover {
    pub(crate) fn settings(self) -> recover::Settings {
        let access = self.nodes.access();
        let Self { clients, channels, channel, subscriptions, rate, duration, every, size, patience, .. } = self;
        let thresholds = Thresholds { away: self.max_away, returns: 1, ..Thresholds::default() };
        recover::Settings {
            access,
            clients,
            channels,
            channel,
            subscriptions,
            rate,
            duration,
            every,
            size,
            patience,
            thresholds,
        }
    }
}
