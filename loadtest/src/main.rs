//! `loadtest`: reads the command line, runs a scenario, prints its report. The work is in the library.

use std::{error::Error as _, fs, iter::successors, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use skywave_loadtest::{
    floor,
    scenario::{
        Load, ScenarioError,
        fanout::{self, Settings, default_threads},
    },
    selftest,
};

/// Wrong usage, as in sysexits.h.
const USAGE: u8 = 64;

/// Loads a Skywave cluster as clients would, and counts what was lost, doubled or reordered.
///
/// Exit code 0: passed. 1: a threshold was missed, or anything was lost, doubled or reordered, or no client got in.
/// 64: wrong usage.
#[derive(Parser)]
#[command(name = "loadtest", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Many subscribers on one channel.
    Fanout(Fanout),
    /// What the generator itself can take on this machine, and whether it notices faults. Needs no node.
    Selftest(SelfTest),
    /// A server that does the bare work and nothing else, for a node's figures to be ratios to. Ends at SIGTERM.
    Floor(Floor),
}

#[derive(Args)]
struct Fanout {
    /// A node's WebSocket; several spread the clients in turn.
    #[arg(long = "url", value_name = "URL", default_value = "ws://127.0.0.1:8000/ws")]
    urls: Vec<String>,
    /// Subscribers.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    clients: usize,
    /// Publications a second, of all publishers together; on schedule, whatever the node does.
    #[arg(long, value_name = "R", default_value_t = 10.0, conflicts_with = "window")]
    rate: f64,
    /// Instead of a rate: publish as soon as all but W publications have arrived everywhere.
    #[arg(long, value_name = "W")]
    window: Option<u32>,
    /// How long to publish.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Bytes of JSON in each publication.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// The channel; by default one of its own for each run.
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Publishers; each has a connection of its own and is subscribed, too.
    #[arg(long, value_name = "N", default_value_t = 1)]
    publishers: usize,
    /// Sent with `connect`.
    #[arg(long, value_name = "TOKEN", env = "LOADTEST_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Fail if the 99th percentile of the latency from schedule is above.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_p99: Option<Duration>,
    /// Also write all figures as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A node's process, for its CPU and memory; by default whoever listens behind a loopback URL.
    #[arg(long = "server-pid", value_name = "PID")]
    server_pids: Vec<u32>,
    /// Connections opened at the same time.
    #[arg(long, value_name = "N", default_value_t = 200)]
    connecting: usize,
    /// Receiving threads; by default half the cores.
    #[arg(long, value_name = "N", default_value_t = default_threads())]
    threads: usize,
    /// How long nothing may happen after the last publication until what is missing is given up.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    patience: Duration,
}

#[derive(Args)]
struct SelfTest {
    /// Subscribers.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    clients: usize,
    /// Bytes of JSON in each publication.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// Receiving threads.
    #[arg(long, value_name = "N", default_value_t = default_threads())]
    threads: usize,
    /// Also write all figures as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Floor {
    /// Which work.
    #[arg(value_enum)]
    work: FloorWork,
    /// Where; port 0 is a free one. Never more than this machine's own.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Of `fanout`: write what was read at once socket by socket, with one call each.
    #[arg(long)]
    batched: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FloorWork {
    /// Every publication to every subscriber: a bare `send()` for each socket.
    Fanout,
    /// Take frames apart, unmask them, nothing else.
    Read,
    /// A bare hyper upgrade; each message is answered with one.
    Upgrade,
    /// A tokio task and a socket for each connection, which wait.
    Idle,
}

impl Floor {
    /// Returns only when it fails.
    fn run(&self) -> ExitCode {
        let work = match self.work {
            FloorWork::Fanout => floor::Work::Fanout { batched: self.batched },
            _ if self.batched => {
                eprintln!("loadtest: --batched is for fanout");
                return ExitCode::from(USAGE);
            }
            FloorWork::Read => floor::Work::Read,
            FloorWork::Upgrade => floor::Work::Upgrade,
            FloorWork::Idle => floor::Work::Idle,
        };
        if !self.listen.ip().is_loopback() {
            eprintln!("loadtest: a floor trusts its clients: --listen must be a loopback address");
            return ExitCode::from(USAGE);
        }
        if let Err(error) = floor::run(work, self.listen, |address| println!("listening on {address}")) {
            eprintln!("loadtest: {error}");
        }
        ExitCode::FAILURE
    }
}

impl Fanout {
    fn settings(self) -> Settings {
        Settings {
            urls: self.urls,
            clients: self.clients,
            publishers: self.publishers,
            load: self.window.map_or(Load::Rate(self.rate), Load::Window),
            duration: self.duration,
            size: self.size,
            channel: self.channel,
            token: self.token,
            connecting: self.connecting,
            threads: self.threads,
            patience: self.patience,
            max_p99: self.max_p99,
            server_pids: self.server_pids,
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match cli.scenario {
        Scenario::Floor(floor) => return floor.run(),
        Scenario::Fanout(options) => {
            let json = options.json.clone();
            fanout::run(&options.settings(), &bar()).map(|report| {
                println!("{report}");
                report.verdict.passed & written(json, &report)
            })
        }
        Scenario::Selftest(SelfTest { clients, size, threads, json }) => selftest::run(clients, size, threads, &bar())
            .map(|found| {
                println!("{found}");
                found.passed() & written(json, &found)
            }),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => explain(&error),
    }
}

/// Draws on a terminal and nowhere else.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg:12} {wide_bar} {percent:>3} %") {
        bar.set_style(style);
    }
    bar
}

/// False if it could not be written; the report is on the screen already.
fn written(file: Option<PathBuf>, figures: &impl Serialize) -> bool {
    let Some(file) = file else { return true };
    let text = serde_json::to_string_pretty(figures).map_err(std::io::Error::from);
    match text.and_then(|text| fs::write(&file, text + "\n")) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("loadtest: cannot write {}: {error}", file.display());
            false
        }
    }
}

fn explain(error: &ScenarioError) -> ExitCode {
    let causes = successors(error.source(), |cause| (*cause).source()).map(ToString::to_string);
    let chain: Vec<String> = [error.to_string()].into_iter().chain(causes).collect();
    eprintln!("loadtest: {}", chain.join(": "));
    if let Some(advice) = error.advice() {
        eprintln!("  try: {advice}");
    }
    if error.is_usage() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
