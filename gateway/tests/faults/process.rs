//! A child process that ends with its owner.

use std::{
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
};

use crate::wait::until;

/// A child process. Killed when dropped, and by the kernel should the test itself be killed.
pub struct Process(Child);

impl Process {
    /// Starts a program; `prepare` adds what it needs.
    pub fn spawn(program: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = if has_setpriv() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", program]);
            command
        } else {
            Command::new(program)
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        prepare(&mut command);
        Self(command.spawn().unwrap_or_else(|error| panic!("{program} cannot be started: {error}")))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(status.unwrap().success(), "process {} takes a signal", self.id());
    }

    pub fn take_stderr(&mut self) -> std::process::ChildStderr {
        self.0.stderr.take().expect("piped, and taken once")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Returns when it has ended by itself.
    pub async fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process to end", async || {
            status = self.ended();
            status.is_some()
        })
        .await;
        status.expect("waited for")
    }

    /// What `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.0.kill(); // it may be gone already
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn has_setpriv() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    let asks = || Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).stderr(Stdio::null()).status();
    *HAS.get_or_init(|| asks().is_ok_and(|status| status.success()))
}
