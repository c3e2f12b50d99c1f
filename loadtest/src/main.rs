//! `loadtest`: reads the command line, runs a scenario, prints its report. The work is in the library.

mod options;

use std::{fmt::Display, fs, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use skywave_loadtest::{
    report::Verdict,
    scenario::{ScenarioError, channels, churn, default_threads, echo, fanout, idle, outpost, recover, roll, stalled},
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
    Fanout(options::Fanout),
    /// Many small channels whose members all publish.
    Channels(options::Channels),
    /// Connections that rest: the memory of each, the CPU of all.
    Idle(options::Idle),
    /// Small messages going in: publications that nobody listens to, or frames that come back.
    Echo(options::Echo),
    /// Connections that come and go.
    Churn(options::Churn),
    /// Fan-out while some of the clients have stopped reading.
    Stalled(options::Stalled),
    /// Clients that stay while somebody replaces the nodes: what they lose, and how they come back.
    Roll(options::roll::Roll),
    /// Everybody is cut in one moment and comes back: how long that takes, what the nodes refuse and hold, what is lost.
    Storm(options::storm::Storm),
    /// The client library, over connections that are given up all the time: what code that uses it sees.
    Recover(options::recover::Recover),
    /// A part of another load's clients; takes its orders from that.
    #[command(name = outpost::SUBCOMMAND, hide = true)]
    Outpost,
    /// What the generator itself can take on this machine, and whether it notices faults. Needs no node.
    Selftest(SelfTest),
    /// A server that does the bare work and nothing else, for a node's figures to be ratios to. Ends at SIGTERM.
    Floor(options::floor::Floor),
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
            let json = options.nodes.json.clone();
            fanout::run(&options.settings(), &bar()).map(|report| shown(json, &report, &report.verdict))
        }
        Scenario::Channels(options) => {
            let json = options.nodes.json.clone();
            channels::run(&options.settings(), &bar()).map(|report| shown(json, &report, &report.verdict))
        }
        Scenario::Idle(options) => {
            let json = options.nodes.json.clone();
            idle::run(&options.settings(), &bar()).map(|report| shown(json, &report, &report.verdict))
        }
        Scenario::Echo(options) => {
            let json = options.nodes.json.clone();
            echo::run(&options.settings(), &bar()).map(|report| shown(json, &report, &report.verdict))
        }
        Scenario::Churn(options) => {
            let json = options.nodes.json.clone();
            churn::run(&options.settings(), &bar()).map(|report| shown(json, &report, &report.verdict))
        }
        Scenario::Stalled(options) => {
            let json = options.fanout.nodes.json.clone();
            stalled::run(&options.settings(), &bar()).map(|report| shown(json, &report, &report.verdict))
        }
        Scenario::Roll(options) => {
            let json = options.nodes.json.clone();
            roll::run(&options.settings(), &bar()).map(|report| shown(json, &report, &report.verdict))
        }
        Scenario::Storm(options) => {
            let json = options.nodes.json.clone();
            roll::run(&options.settings(), &bar()).map(|report| shown(json, &report, &report.verdict))
        }
        Scenario::Recover(options) => {
            let json = options.nodes.json.clone();
            recover::run(&options.settings(), &bar()).map(|report| shown(json, &report, &report.verdict))
        }
        Scenario::Outpost => Ok(outpost::serve()),
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

/// Shows a report; whether it passed.
fn shown(json: Option<PathBuf>, report: &(impl Display + Serialize), verdict: &Verdict) -> bool {
    println!("{report}");
    verdict.passed & written(json, report)
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
    eprintln!("loadtest: {}", error.in_full());
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
