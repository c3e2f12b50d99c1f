//! The `skywave` binary; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    skywave_gateway::cli::run()
}
