//! `storm`.

use std::time::Duration;

use clap::Args;
use skywave_loadtest::{
    report::rolling::Thresholds,
    scenario::roll::{self, Cut, kind::Mix},
};

use super::Nodes;

/// `storm`.
#[derive(Args)]
pub(crate) struct Storm {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    clients: usize,
    /// The kinds of clients and their shares.
    #[arg(long, value_name = "SHARES", default_value = "json")]
    mix: Mix,
    /// Channels.
    #[arg(long, value_name = "C", default_value_t = 100)]
    channels: usize,
    /// How their names begin, in a namespace that has a history.
    #[arg(long, value_name = "PREFIX", default_value = "storm-")]
    channel: String,
    /// Channels of each client that is not a bare one.
    #[arg(long, value_name = "N", default_value_t = 1)]
    subscriptions: usize,
    /// Publications a second, over all channels.
    #[arg(long, value_name = "R", default_value_t = 20.0)]
    rate: f64,
    /// How long to publish.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// When to cut everybody, from the first publication on.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    cut_after: Duration,
    /// Each comes back at a random moment within so long; 0s: all at once. After a refusal at ever longer moments, up to 5 s.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    rest: Duration,
    /// Fail if 99 % of the clients are not back by then.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    back_within: Option<Duration>,
    /// Fail if a client is away for longer.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_away: Option<Duration>,
    /// Bytes of JSON in each publication.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// A node's server API, without TLS; several take turns, and stand in for each other.
    #[arg(long = "api", value_name = "URL", default_value = "http://127.0.0.1:8001")]
    api: Vec<String>,
    /// The key to it.
    #[arg(long, value_name = "KEY", env = "LOADTEST_KEY", hide_env_values = true)]
    key: Option<String>,
    /// How long nothing may happen after the last publication until what is missing is given up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

impl Storm {
    pub(crate) fn settings(self) -> roll::Settings {
        let access = self.nodes.access();
        let Self { clients, mix, channels, channel, subscriptions, rate, duration, size, api, key, patience, .. } =
            self;
        let cut = Cut { after: self.cut_after, rest: self.rest, back_within: self.back_within };
        // Nobody else is to end a connection.
        let thresholds = Thresholds { closes: Vec::new(), away: self.max_away, ..Thresholds::default() };
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
            cut: Some(cut),
        }
    }
}
