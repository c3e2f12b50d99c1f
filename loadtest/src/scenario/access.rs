//! How to get in, whatever the load: which nodes, with what, how many at a time. And what this machine allows.

use std::{path::PathBuf, sync::Arc, thread};

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use super::ScenarioError;
use crate::{
    client::Manner,
    process::open_file_limits,
    target::{Target, trust},
};

/// Files that the generator needs besides its connections.
pub(crate) const SPARE_FILES: u64 = 64;

/// Where and how to connect.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Access {
    /// Where to connect; clients are spread over them in turn.
    pub urls: Vec<String>,
    /// Presented in `connect`.
    pub token: Option<String>,
    /// The certificates to trust, for `wss`.
    pub ca: Option<PathBuf>,
    /// Whether permessage-deflate is offered. What comes compressed is counted, and its order is not checked.
    pub deflate: bool,
    /// Connections that are opened at the same time.
    pub connecting: usize,
    /// Receiving threads.
    pub threads: usize,
    /// Processes of the generator; as many as its open files need if 0.
    pub processes: usize,
    /// The nodes' processes; looked for behind loopback addresses if empty.
    pub server_pids: Vec<u32>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            token: None,
            ca: None,
            deflate: false,
            connecting: 200,
            threads: default_threads(),
            processes: 0,
            server_pids: Vec::new(),
        }
    }
}

/// Half the cores, at least one: the other half is left to a node on the same machine.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

impl Access {
    /// To these nodes, with everything else as usual.
    pub fn to(urls: Vec<String>) -> Self {
        Self { urls, ..Self::default() }
    }

    /// Whether it makes sense, with so many clients.
    pub(super) fn check(&self, clients: usize) -> Result<(), ScenarioError> {
        if self.urls.is_empty() || clients == 0 || self.threads == 0 || self.connecting == 0 {
            let what = "--url, --clients, --threads and --connecting must be at least 1";
            return Err(ScenarioError::Usage(what.to_owned()));
        }
        Ok(())
    }

    /// How many processes it takes for so many connections.
    pub(super) fn processes_for(&self, connections: usize) -> Result<usize, ScenarioError> {
        processes(self.processes, connections, open_file_limits())
    }

    pub(super) fn targets(&self) -> Result<Vec<Target>, ScenarioError> {
        let trusted = self.ca.as_deref().map(trust).transpose()?;
        Ok(self.urls.iter().map(|url| Target::parse(url, trusted.as_ref())).collect::<Result<_, _>>()?)
    }

    /// What the client library is to trust; by itself the machine's authorities.
    pub(super) fn trusted(&self) -> Result<Option<Arc<ClientConfig>>, ScenarioError> {
        Ok(self.ca.as_deref().map(trust).transpose()?)
    }

    pub(super) fn manner(&self) -> Manner {
        Manner { deflate: self.deflate, ..Manner::default() }
    }

    /// Connections that one thread opens at the same time.
    pub(super) fn connecting_per_thread(&self) -> usize {
        (self.connecting / self.threads).max(1)
    }
}

/// A connection is a file: says so before the first one is refused.
pub(crate) fn check_files(needed: u64) -> Result<(), ScenarioError> {
    enough_files(needed, open_file_limits())
}

/// So many as are asked for, or as the limit on open files needs. What could be raised is not spread.
fn processes(asked: usize, connections: usize, limits: Option<(u64, u64)>) -> Result<usize, ScenarioError> {
    let needed = |processes: usize| connections.div_ceil(processes) as u64 + SPARE_FILES;
    if asked > 0 {
        return enough_files(needed(asked), limits).map(|()| asked);
    }
    match limits {
        Some((soft, hard)) if hard < needed(1) && soft > SPARE_FILES => {
            if soft < hard {
                let advice = format!("run `ulimit -n {hard}` first: the rest is spread over processes");
                return Err(ScenarioError::Usage(format!("{} open files are needed; {advice}", needed(1))));
            }
            let room = usize::try_from(soft - SPARE_FILES).unwrap_or(usize::MAX);
            Ok(connections.div_ceil(room))
        }
        limits => enough_files(needed(1), limits).map(|()| 1),
    }
}

fn enough_files(needed: u64, limits: Option<(u64, u64)>) -> Result<(), ScenarioError> {
    let Some((soft, hard)) = limits.filter(|(soft, _)| *soft < needed) else { return Ok(()) };
    let advice = if hard >= needed {
        format!("run `ulimit -n {needed}` first")
    } else {
        format!("the hard limit is {hard}: lower --clients, or run several loadtest processes on one --channel")
    };
    Err(ScenarioError::Usage(format!("{needed} open files are needed and {soft} allowed; {advice}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_files_are_noticed_before_the_start() {
        assert!(enough_files(1000, Some((1024, 4096))).is_ok());
        assert!(enough_files(1000, None).is_ok());
        let soft = enough_files(2000, Some((1024, 4096))).unwrap_err();
        assert!(soft.is_usage() && soft.to_string().contains("ulimit -n 2000"), "{soft}");
        let hard = enough_files(5000, Some((1024, 4096))).unwrap_err();
        assert!(hard.to_string().contains("hard limit is 4096"), "{hard}");
    }

    #[test]
    fn what_the_hard_limit_does_not_allow_is_spread_over_processes() {
        assert_eq!(processes(0, 1000, Some((2000, 4000))).unwrap(), 1);
        assert_eq!(processes(0, 1000, None).unwrap(), 1);
        assert_eq!(processes(3, 1000, Some((1000, 1000))).unwrap(), 3);
        assert_eq!(processes(0, 10_000, Some((4064, 4064))).unwrap(), 3);
        for (asked, connections, limits) in [(0, 3000, (2000, 4000)), (0, 9000, (2000, 4000)), (2, 3000, (1000, 1000))]
        {
            assert!(processes(asked, connections, Some(limits)).unwrap_err().is_usage());
        }
    }

    #[test]
    fn nobody_to_connect_to_is_wrong_usage() {
        let good = Access::to(vec!["ws://localhost/ws".to_owned()]);
        assert!(good.check(1).is_ok());
        assert!(good.check(0).unwrap_err().is_usage());
        for wrong in
            [Access::default(), Access { threads: 0, ..good.clone() }, Access { connecting: 0, ..good.clone() }]
        {
            assert!(wrong.check(1).unwrap_err().is_usage());
        }
        let tls = Access::to(vec!["wss://localhost/ws".to_owned()]);
        assert!(tls.targets().unwrap_err().is_usage());
    }
}
