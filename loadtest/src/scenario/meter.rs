//! What a stretch of the run cost: the nodes' processes and our own threads, read before and after.

use std::{
    cell::Cell,
    net::SocketAddr,
    process, thread,
    time::{Duration, Instant},
};

use super::{Access, ScenarioError};
use crate::{
    process::{Cpu, ThreadUse, listeners, resident_bytes},
    target::Target,
};

/// What this generator's threads are called, so that their CPU time can be told apart.
pub(super) const THREADS: &str = "load-";
/// The receiving ones among them.
pub(super) const RECEIVING: &str = "load-recv";

/// The nodes' processes, if they can be seen from here.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    pub(super) pids: Vec<u32>,
}

impl Servers {
    /// Those that were named, or who listens where the targets lead.
    ///
    /// # Errors
    /// [`ScenarioError::Usage`]: one that was named cannot be read. Its figures would be missing without a word.
    pub(super) fn find(access: &Access, targets: &[Target]) -> Result<Self, ScenarioError> {
        let mut pids = access.server_pids.clone();
        for pid in &pids {
            if let Err(error) = Cpu::read(*pid).and_then(|_| resident_bytes(*pid)) {
                return Err(ScenarioError::Usage(format!("--server-pid {pid} cannot be read: {error}")));
            }
        }
        if pids.is_empty() {
            let addresses = targets.iter().flat_map(|target| target.addresses().iter().copied());
            pids = addresses.flat_map(|address: SocketAddr| listeners(address)).collect();
        }
        // The stand-in of the self-test lives in this process.
        pids.retain(|pid| *pid != process::id());
        pids.sort_unstable();
        pids.dedup();
        Ok(Self { pids })
    }

    /// `None` also when one of them cannot be read: half a sum is no figure.
    pub(super) fn cpu(&self) -> Option<Vec<Cpu>> {
        self.pids.iter().map(|pid| Cpu::read(*pid).ok()).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
    }

    /// Bytes, of all of them.
    pub(super) fn resident(&self) -> Option<u64> {
        if self.pids.is_empty() {
            return None;
        }
        self.pids.iter().map(|pid| resident_bytes(*pid).ok()).sum()
    }
}

/// A stretch that is being measured.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    servers: &'a Servers,
    began: Instant,
    /// Our processes.
    own: Vec<(u32, Cpu)>,
    nodes: Option<Vec<Cpu>>,
    in_ticks: Cell<bool>,
}

/// The nodes stand still when they use less than this over [`STILL_FOR`]: timers tick on in an idle process.
const STILL: Duration = Duration::from_millis(1);
const STILL_FOR: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(10);

impl<'a> Meter<'a> {
    /// `children`: processes of the generator besides this one.
    pub(super) fn start(servers: &'a Servers, children: &[u32]) -> Self {
        let read = |pid: &u32| (*pid, Cpu::read(*pid).unwrap_or_default());
        let own = [&[process::id()], children].concat().iter().map(read).collect();
        Self { servers, own, nodes: servers.cpu(), in_ticks: Cell::new(false), began: Instant::now() }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// CPU of the nodes since the start.
    pub(super) fn nodes(&self) -> Option<Duration> {
        let (now, before) = (self.servers.cpu()?, self.nodes.as_ref()?);
        self.in_ticks.set(now.iter().zip(before).any(|(now, before)| now.is_in_ticks_since(before)));
        Some(now.iter().zip(before).map(|(now, before)| now.since(before)).sum())
    }

    /// Whether what was last read of the nodes was in ticks of 10 ms: a thread of theirs had ended.
    pub(super) fn is_in_ticks(&self) -> bool {
        self.in_ticks.get()
    }

    /// Waits until the nodes stand still; returns what they had used by then, since the start. `None`: they did not within
    /// `patience`, or cannot be seen.
    pub(super) fn await_still(&self, patience: Duration) -> Option<Duration> {
        let latest = Instant::now() + patience;
        let mut stood = (Instant::now(), self.nodes()?);
        loop {
            thread::park_timeout(LOOK);
            let (now, used) = (Instant::now(), self.nodes()?);
            if used.saturating_sub(stood.1) >= STILL {
                stood = (now, used);
            } else if now - stood.0 >= STILL_FOR {
                return Some(used);
            }
            if now > latest {
                return None;
            }
        }
    }

    /// What each of our threads did since the start.
    pub(super) fn own(&self) -> Vec<ThreadUse> {
        let used = |(pid, before): &(u32, Cpu)| Cpu::read(*pid).unwrap_or_default().threads_since(before);
        let mut used: Vec<ThreadUse> = self.own.iter().flat_map(used).collect();
        used.retain(|thread| thread.name.starts_with(THREADS));
        used
    }
}
