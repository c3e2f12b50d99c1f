//! The command line: what each command prints and how it exits.

mod call;
mod serve;
mod tail;
mod token;

use std::{io::Write as _, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{self, ConfigError, Flags, Loader};

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
    /// Prints what is published on a channel, as it comes, a line of JSON for each event.
    Tail {
        /// Which.
        channel: String,
        /// First what came after this position, as EPOCH:OFFSET.
        #[arg(long)]
        since: Option<String>,
        #[command(flatten)]
        api: call::Api,
    },
    /// Makes a node leave, as SIGTERM does: its clients go elsewhere, each in its time.
    Drain {
        /// Its name, as `skywave nodes` lists it.
        node: String,
        /// It stays, and sends away only as many clients as it has more than the mean of all nodes: after others were added.
        #[arg(long)]
        down_to_mean: bool,
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
    /// Prints the settings in force and where each comes from, without secrets.
    Show {
        /// A file that can be used as one, or one object
        #[arg(long, value_enum, default_value_t = ShowFormat::Toml)]
        format: ShowFormat,
        #[command(flatten)]
        flags: Flags,
    },
    /// Prints every setting there is: type, unit, default, what it is.
    Reference {
        /// A page, or a file with every default to begin with
        #[arg(long, value_enum, default_value_t = ReferenceFormat::Markdown)]
        format: ReferenceFormat,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShowFormat {
    Toml,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ReferenceFormat {
    Markdown,
    Toml,
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
        Command::Config(ConfigCommand::Check { flags }) => {
            print(config::check(&flags, std::env::vars_os()).map(|said| said.trim_end().to_owned() + "\n"))
        }
        Command::Config(ConfigCommand::Show { format, flags }) => print(show(&flags, format)),
        Command::Config(ConfigCommand::Reference { format }) => print(Ok(match format {
            ReferenceFormat::Markdown => config::page(),
            ReferenceFormat::Toml => config::commented(),
        })),
        Command::Token(arguments) => token::run(&arguments),
        Command::Publish { channel, json, api } => call::publish(&api, &channel, &json),
        Command::Nodes { api } => call::nodes(&api),
        Command::Tail { channel, since, api } => tail::tail(&api, &channel, since.as_deref()),
        Command::Drain { node, down_to_mean, api } => call::drain(&api, &node, down_to_mean),
        Command::Healthcheck { api } => call::healthcheck(&api),
    }
}

fn show(flags: &Flags, format: ShowFormat) -> Result<String, ConfigError> {
    let loader = Loader::new(flags, std::env::vars_os());
    match format {
        ShowFormat::Toml => config::show(&loader),
        ShowFormat::Json => config::show_json(&loader).map(|all| format!("{all:#}\n")),
    }
}

fn print(outcome: Result<String, ConfigError>) -> ExitCode {
    match outcome {
        Ok(text) => {
            // Somebody may read the first lines only, and hang up.
            let _ = std::io::stdout().write_all(text.as_bytes());
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
