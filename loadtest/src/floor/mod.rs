//! Floors: servers that do the bare work and nothing else, so that a node's figures can be ratios to them in one run.
//!
//! They speak just enough of the protocol that the same generator drives them and a node alike. One thread, no limits, no
//! rights, and trust in their clients: never more than a measuring tool.
//!
//! `wire` and `speech` are what is said; `turn` is the loop over epoll with `crowd`'s sockets, and `fanout` and `read`
//! are its work; `upgrade` and `idle` are the least that hyper and tokio can do.

mod crowd;
mod fanout;
mod idle;
mod read;
mod speech;
mod turn;
mod upgrade;
mod wire;

use std::{io, net::SocketAddr};

/// Which work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Every publication to every subscriber of its channel: one `send` a socket.
    Fanout {
        /// All that was read at once goes socket by socket, with one `writev` each.
        batched: bool,
    },
    /// Takes frames apart and unmasks them.
    Read,
    /// A bare hyper upgrade; each message is answered with one.
    Upgrade,
    /// A tokio task and a socket for each connection, which wait.
    Idle,
}

/// Serves on `listen` until the process is ended; `ready` is told the address once it listens.
///
/// # Errors
/// The address is taken; no file is left; a receiver of a fan-out does not keep up, for there is no queue; or a client
/// does what no generator of ours does.
pub fn run(work: Work, listen: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    match work {
        Work::Fanout { batched } => turn::serve(listen, fanout::Fanout::new(batched), ready),
        Work::Read => turn::serve(listen, read::Reader::default(), ready),
        Work::Upgrade => upgrade::serve(listen, ready),
        Work::Idle => idle::serve(listen, ready),
    }
}
