//! Processes held still for a moment, so that what is sent to them meanwhile waits in their sockets.
//!
//! Whatever happens they go on: when the moment is dropped, and when somebody interrupts us.

use std::{
    fs, io, process,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    ScenarioError,
    crew::{on_this_thread, spawn},
};

/// How long a process may take to stand still.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(1);

/// These processes stand still until this is dropped.
#[derive(Debug)]
pub(super) struct Stopped<'a>(&'a [u32]);

impl<'a> Stopped<'a> {
    /// Stops them; returns once all of their threads stand still.
    ///
    /// # Errors
    /// They belong to somebody else, or are gone.
    pub(super) fn stop(pids: &'a [u32]) -> Result<Self, ScenarioError> {
        let stopped = Self(pids);
        let refused = |source| ScenarioError::Signal { pids: pids.to_vec(), source };
        kill("-STOP", pids).map_err(refused)?;
        let latest = Instant::now() + PATIENCE;
        while !pids.iter().all(|pid| stands_still(*pid)) {
            if Instant::now() > latest {
                return Err(refused(io::ErrorKind::TimedOut.into()));
            }
            thread::park_timeout(LOOK);
        }
        Ok(stopped)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = kill("-CONT", self.0);
    }
}

/// From now on an interrupt lets these processes go on before it ends this one.
///
/// # Errors
/// No thread can be had.
pub(super) fn go_on_when_interrupted(pids: Vec<u32>) -> Result<(), ScenarioError> {
    let listening = move || {
        on_this_thread(|| async move {
            let (mut interrupt, mut terminate) = (
                signal(SignalKind::interrupt()).map_err(ScenarioError::Start)?,
                signal(SignalKind::terminate()).map_err(ScenarioError::Start)?,
            );
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            let _ = kill("-CONT", &pids);
            process::exit(code)
        })
    };
    spawn::<Result<(), ScenarioError>>("interrupt".to_owned(), listening).map(|_| ())
}

/// By the program, since a signal is a system call that only unsafe code makes.
fn kill(signal: &str, pids: &[u32]) -> io::Result<()> {
    let pids = pids.iter().map(ToString::to_string);
    let status = Command::new("kill").arg(signal).args(pids).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Whether every thread of the process is in state T.
fn stands_still(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stands_still_until_the_moment_is_over() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let pids = [child.id()];
        {
            let _moment = Stopped::stop(&pids).unwrap();
            assert!(stands_still(pids[0]));
        }
        let latest = Instant::now() + PATIENCE;
        while stands_still(pids[0]) {
            assert!(Instant::now() < latest);
            thread::park_timeout(LOOK);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(Stopped::stop(&[child.id()]).is_err());
    }
}
