//! The command line: what each command prints and how it exits.

mod call;
mod serve;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Flags};

/// Wrong usage or configuration: nothing was started (`sysexits.h`, EX_USAGE).
const USAGE: u8 = 64;

/// A horizontally scaled WebSocket gateway. Without a command: `serve`.
#[derive(Debug, Parser)]
#[command(name = "skywave", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a node.
    Serve {
        #[command(flatten)]
        flags: Flags,
    },
    /// Looks at the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes a token for one client and prints it.
    Token(Box<token::Arguments>),
    /// Publishes a JSON value to a channel, through a node's server API.
    Publish {
        /// Where to.
        channel: String,
        /// Any JSON value.
        json: String,
        #[command(flatten)]
        api: call::Api,
    },
    /// Lists the nodes that are alive, as one of them sees them.
    Nodes {
        #[command(flatten)]
        api: call::Api,
    },
    /// Says whether a node is ready, for containers without a shell: exit code 0 or 1.
    Healthcheck {
        #[command(flatten)]
        api: call::Api,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Checks the settings and says what is wrong with them, without starting anything.
    Check {
        #[command(flatten)]
        flags: Flags,
    },
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(message) => {
            // Help and version are no errors; should standard output be closed, nobody is there to tell.
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match line.command.unwrap_or(Command::Serve { flags: line.flags }) {
        Command::Serve { flags } => serve::run(&flags),
        Command::Config(ConfigCommand::Check { flags }) => check(&flags),
        Command::Token(arguments) => token::run(&arguments),
        Command::Publish { channel, json, api } => call::publish(&api, &channel, &json),
        Command::Nodes { api } => call::nodes(&api),
        Command::Healthcheck { api } => call::healthcheck(&api),
    }
}

fn check(flags: &Flags) -> ExitCode {
    match config::check(flags, std::env::vars_os()) {
        Ok(summary) => {
            println!("{}", summary.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => wrong(&error),
    }
}

fn wrong(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(USAGE)
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}
