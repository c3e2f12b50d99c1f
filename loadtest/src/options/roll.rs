//! `roll`.

use std::time::Duration;

use clap::Args;
use skywave_loadtest::{
    report::rolling::Thresholds,
    scenario::roll::{self, kind::Mix},
};

use super::Nodes;

/// `roll`.
#[derive(Args)]
pub(crate) struct Roll {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 300)]
    clients: usize,
    /// The kinds of clients and their shares.
    #[arg(long, value_name = "SHARES", default_value = "json,protobuf,raw")]
    mix: Mix,
    /// Channels.
    #[arg(long, value_name = "C", default_value_t = 10)]
    channels: usize,
    /// How their names begin, in a namespace that has a history.
    #[arg(long, value_name = "PREFIX", default_value = "roll-")]
    channel: String,
    /// Channels of each client that is not a bare one.
    #[arg(long, value_name = "N", default_value_t = 1)]
    subscriptions: usize,
    /// Publications a second, over all channels.
    #[arg(long, value_name = "R", default_value_t = 50.0)]
    rate: f64,
    /// How long to publish; SIGINT and SIGTERM end it, and then the books are closed as usual.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Bytes of JSON in each publication.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// A node's server API, without TLS; several take turns, and stand in for each other.
    #[arg(long = "api", value_name = "URL", default_value = "http://127.0.0.1:8001")]
    api: Vec<String>,
    /// The key to it.
    #[arg(long, value_name = "KEY", env = "LOADTEST_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Fail if more than so many come back within any 100 ms.
    #[arg(long, value_name = "N")]
    max_reconnects: Option<u64>,
    /// Fail if a client is away for longer.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_away: Option<Duration>,
    /// Fail if clients did not come back so many times, all together.
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_returns: u64,
    /// Fail if a connection ends with another code; `none`: without a word, as when a node dies.
    #[arg(long, value_name = "CODES", value_delimiter = ',', default_values_t = Thresholds::default().closes)]
    closes: Vec<String>,
    /// How long nothing may happen after the last publication until what is missing is given up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

impl Roll {
    pub(crate) fn settings(self) -> roll::Settings {
        let access = self.nodes.access();
        let Self { clients, mix, channels, channel, subscriptions, rate, duration, size, api, key, patience, .. } =
            self;
        let thresholds = Thresholds {
            closes: self.closes,
            reconnects: self.max_reconnects,
            away: self.max_away,
            returns: self.min_returns,
        };
        roll::Settings {
            access,
            clients,
            mix,
            channels,
            channel,
            subscriptions,
            rate,
            duration,
            size,
            api,
            key,
            patience,
            thresholds,
            cut: None,
        }
    }
}
