//! `loadtest floor`: its flags, and how it ends.

use std::{net::SocketAddr, process::ExitCode};

use clap::{Args, ValueEnum};
use skywave_loadtest::{floor, process::open_file_limits};

/// `EMFILE` of Linux.
const NO_FILE_LEFT: i32 = 24;

#[derive(Args)]
pub(crate) struct Floor {
    /// Which work.
    #[arg(value_enum)]
    work: Work,
    /// Where; port 0 is a free one. Never more than this machine's own.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Of `fanout`: write what was read at once socket by socket, with one call each.
    #[arg(long)]
    batched: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
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
    pub(crate) fn run(&self) -> ExitCode {
        let work = match self.work {
            Work::Fanout => floor::Work::Fanout { batched: self.batched },
            _ if self.batched => {
                eprintln!("loadtest: --batched is for fanout");
                return ExitCode::from(crate::USAGE);
            }
            Work::Read => floor::Work::Read,
            Work::Upgrade => floor::Work::Upgrade,
            Work::Idle => floor::Work::Idle,
        };
        if !self.listen.ip().is_loopback() {
            eprintln!("loadtest: a floor trusts its clients: --listen must be a loopback address");
            return ExitCode::from(crate::USAGE);
        }
        if let Err(error) = floor::run(work, self.listen, |address| println!("listening on {address}")) {
            eprintln!("loadtest: {error}");
            if let Some((_, hard)) = open_file_limits().filter(|_| error.raw_os_error() == Some(NO_FILE_LEFT)) {
                eprintln!("  try: run `ulimit -n {hard}` first, or connect fewer clients");
            }
        }
        ExitCode::FAILURE
    }
}
