//! How to get in, whatever the load: which nodes, with what, how many at a time. And what this machine allows.

use std::{path::PathBuf, thread};

use super::ScenarioError;
use crate::{
    client::Manner,
    process::open_file_limits,
    target::{Target, trust},
};

/// Files that the generator needs besides its connections.
pub(crate) const SPARE_FILES: u64 = 64;

/// Where and how to connect.
#[derive(Debug, Clone)]
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

    /// Whether `connections` can be had.
    pub(super) fn check(&self, connections: usize) -> Result<(), ScenarioError> {
        if self.urls.is_empty() || connections == 0 || self.threads == 0 || self.connecting == 0 {
            let what = "--url, --clients, --threads and --connecting must be at least 1";
            return Err(ScenarioError::Usage(what.to_owned()));
        }
        check_files(connections as u64 + SPARE_FILES)
    }

    pub(super) fn targets(&self) -> Result<Vec<Target>, ScenarioError> {
        let trusted = self.ca.as_deref().map(trust).transpose()?;
        Ok(self.urls.iter().map(|url| Target::parse(url, trusted.as_ref())).collect::<Result<_, _>>()?)
    }

    pub(super) fn manner(&self) -> Manner {
        Manner { deflate: self.deflate, small: false }
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
