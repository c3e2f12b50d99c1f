//! The command line, as the library takes it.

pub(crate) mod floor;
pub(crate) mod recover;
pub(crate) mod roll;
pub(crate) mod storm;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use skywave_loadtest::scenario::{
    Access, Load, channels, churn, default_threads, echo, fanout,
    idle::{self, Depth},
    stalled,
};

/// What every load has.
#[derive(Args)]
pub(crate) struct Nodes {
    /// A node's WebSocket; several spread the clients in turn.
    #[arg(long = "url", value_name = "URL", default_value = "ws://127.0.0.1:8000/ws")]
    urls: Vec<String>,
    /// Sent with `connect`.
    #[arg(long, value_name = "TOKEN", env = "LOADTEST_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Over TLS, as if every URL began with wss.
    #[arg(long, requires = "ca")]
    tls: bool,
    /// The certificates that are trusted over TLS, in PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Offer permessage-deflate; what comes compressed is counted and not read.
    #[arg(long)]
    deflate: bool,
    /// A node's process, for its CPU and memory; by default whoever listens behind a loopback URL.
    #[arg(long = "server-pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    server_pids: Vec<u32>,
    /// Connections opened at the same time.
    #[arg(long, value_name = "N", default_value_t = 200)]
    connecting: usize,
    /// Receiving threads; by default half the cores.
    #[arg(long, value_name = "N", default_value_t = default_threads())]
    threads: usize,
    /// Processes of the generator; by default as many as its open files need.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    processes: usize,
    /// Also write all figures as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Nodes {
    pub(crate) fn access(&self) -> Access {
        let url = |url: &String| match url.strip_prefix("ws://") {
            Some(rest) if self.tls => format!("wss://{rest}"),
            _ => url.clone(),
        };
        Access {
            urls: self.urls.iter().map(url).collect(),
            token: self.token.clone(),
            ca: self.ca.clone(),
            deflate: self.deflate,
            connecting: self.connecting,
            threads: self.threads,
            processes: self.processes,
            server_pids: self.server_pids.clone(),
        }
    }
}

/// What every load that publishes has.
#[derive(Args)]
pub(crate) struct Publishing {
    /// Instead of a rate: publish as soon as all but W publications have arrived everywhere.
    #[arg(long, value_name = "W", conflicts_with = "rate")]
    window: Option<u32>,
    /// With --window: all W at once, in one write, as soon as everything before has arrived everywhere.
    #[arg(long, requires = "window")]
    burst: bool,
    /// How long to publish.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Bytes of JSON in each publication.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// The channel; by default one of its own for each run.
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Fail if the 99th percentile of the latency from schedule is above.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_p99: Option<Duration>,
    /// How long nothing may happen after the last publication until what is missing is given up.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

/// `fanout`.
#[derive(Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Subscribers.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    clients: usize,
    /// Publishers; each has a connection of its own and is subscribed, too.
    #[arg(long, value_name = "N", default_value_t = 1)]
    publishers: usize,
    /// Publications a second, of all publishers together; on schedule, whatever the node does.
    #[arg(long, value_name = "R", default_value_t = 10.0)]
    rate: f64,
    #[command(flatten)]
    publishing: Publishing,
}

impl Fanout {
    pub(crate) fn settings(self) -> fanout::Settings {
        let Self { nodes, clients, publishers, rate, publishing } = self;
        fanout::Settings {
            access: nodes.access(),
            clients,
            publishers,
            load: publishing.window.map_or(Load::Rate(rate), Load::Window),
            burst: publishing.burst,
            duration: publishing.duration,
            size: publishing.size,
            channel: publishing.channel,
            patience: publishing.patience,
            max_p99: publishing.max_p99,
        }
    }
}

/// `stalled`.
#[derive(Args)]
pub(crate) struct Stalled {
    #[command(flatten)]
    pub(crate) fanout: Fanout,
    /// The share of the subscribers that stop reading.
    #[arg(long = "stalled", value_name = "SHARE", default_value = "10%", value_parser = share)]
    share: f64,
    /// Fail unless the outcome of each of them begins so, like `ended: 4002` or `open, gap told`.
    #[arg(long, value_name = "WORDS")]
    expect: Option<String>,
}

impl Stalled {
    pub(crate) fn settings(self) -> stalled::Settings {
        stalled::Settings { fanout: self.fanout.settings(), share: self.share, expect: self.expect }
    }
}

/// `channels`.
#[derive(Args)]
pub(crate) struct Channels {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Channels.
    #[arg(long, value_name = "C", default_value_t = 100)]
    channels: usize,
    /// Members of each; all of them publish.
    #[arg(long, value_name = "M", default_value_t = 10)]
    members: usize,
    /// Publications a second of each member, staggered; on schedule, whatever the node does.
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    rate: f64,
    #[command(flatten)]
    publishing: Publishing,
}

impl Channels {
    pub(crate) fn settings(self) -> channels::Settings {
        let Self { nodes, channels, members, rate, publishing } = self;
        channels::Settings {
            access: nodes.access(),
            channels,
            members,
            load: publishing.window.map_or(Load::Rate(rate), Load::Window),
            burst: publishing.burst,
            duration: publishing.duration,
            size: publishing.size,
            channel: publishing.channel,
            patience: publishing.patience,
            max_p99: publishing.max_p99,
        }
    }
}

/// `idle`.
#[derive(Args)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Connections.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    clients: usize,
    /// Connect, and subscribe to nothing.
    #[arg(long)]
    no_subscribe: bool,
    /// The WebSocket handshake only: nothing is sent.
    #[arg(long, conflicts_with = "no_subscribe")]
    bare: bool,
    /// Another path than that of the URL.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// How long they rest.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Then publish so many to all of them at once, of so many bytes each, and see what is left of it.
    #[arg(long, value_name = "COUNTxBYTES", value_parser = burst, conflicts_with_all = ["no_subscribe", "bare"])]
    burst: Option<(u32, usize)>,
    /// The channel; by default one of its own for each run.
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// How long nothing may happen before what is missing of the burst is given up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

impl Idle {
    pub(crate) fn settings(self) -> idle::Settings {
        let Self { nodes, clients, no_subscribe, bare, path, duration, burst, channel, patience } = self;
        let depth = match (bare, no_subscribe) {
            (true, _) => Depth::Bare,
            (_, true) => Depth::Connected,
            _ => Depth::Subscribed,
        };
        idle::Settings { access: nodes.access(), clients, depth, path, duration, burst, channel, patience }
    }
}

/// `echo`.
#[derive(Args)]
pub(crate) struct Echo {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Connections; all of them send.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    clients: usize,
    /// Send to a path that sends every message back, instead of publishing.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The channel to publish to, which nobody subscribes to; by default one of its own for each run.
    #[arg(long, value_name = "NAME", conflicts_with = "path")]
    publish_to: Option<String>,
    /// Bytes of JSON in each publication, or of each frame that is to come back.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    size: usize,
    /// Frames in each write.
    #[arg(long, value_name = "N", default_value_t = 1)]
    in_flight: u32,
    /// Stop the node's process, write on all connections, let it go on, and see what it uses until it stands still.
    #[arg(long)]
    stopped: bool,
    /// With --stopped: how often.
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: u32,
    /// Publishing, and not stopped: writes a second of each connection.
    #[arg(long, value_name = "R", default_value_t = 10.0)]
    rate: f64,
    /// For how long, unless stopped.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How long the node may take for one round, or for the last publications.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

impl Echo {
    pub(crate) fn settings(self) -> echo::Settings {
        let access = self.nodes.access();
        let Self { clients, path, publish_to, size, in_flight, stopped, rounds, rate, duration, patience, .. } = self;
        echo::Settings { access, clients, path, publish_to, size, in_flight, stopped, rounds, rate, duration, patience }
    }
}

/// `churn`.
#[derive(Args)]
pub(crate) struct Churn {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    /// Connections in all; --connecting of them at the same time.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    clients: usize,
    /// Connections a second; by default as fast as it goes.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Another path than that of the URL.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The WebSocket handshake only, and one message that is answered.
    #[arg(long)]
    bare: bool,
    /// The channel; by default one of its own for each run.
    #[arg(long, value_name = "NAME", conflicts_with = "bare")]
    channel: Option<String>,
    /// How long the node may be busy after the last connection.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

impl Churn {
    pub(crate) fn settings(self) -> churn::Settings {
        let Self { nodes, clients, rate, path, bare, channel, patience } = self;
        churn::Settings { access: nodes.access(), clients, rate, path, bare, channel, patience }
    }
}

/// `256x1024`.
fn burst(text: &str) -> Result<(u32, usize), String> {
    let (count, size) = text.split_once('x').ok_or("write it like 256x1024")?;
    let wrong = |error: std::num::ParseIntError| error.to_string();
    Ok((count.parse().map_err(wrong)?, size.parse().map_err(wrong)?))
}

/// `10%` or `0.1`.
fn share(text: &str) -> Result<f64, String> {
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.trim().parse::<f64>().map_err(|error| error.to_string())? / whole;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("not between 0% and 100%".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_a_count_and_a_size() {
        assert_eq!(burst("256x1024"), Ok((256, 1024)));
        for wrong in ["256", "x1024", "256x", "-1x5"] {
            assert!(burst(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_is_a_percentage_or_a_fraction() {
        assert_eq!([share("10%"), share("0.1"), share("0")], [Ok(0.1), Ok(0.1), Ok(0.0)]);
        for wrong in ["101%", "-1", "x", "NaN"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
