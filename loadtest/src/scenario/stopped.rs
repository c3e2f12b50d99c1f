//! Processes held still for a moment, so that what is sent to them meanwhile waits in their sockets.
//!
//! A shell of its own sends the signals. It is told to stop them and to let them go on, and lets them go on by itself when
//! the generator's end of its pipe is closed: at the end of the run, and however the generator dies, be it by SIGKILL. One
//! process sends both, so that no stop can come after the last go. Only who kills that shell, too, leaves them stopped.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::ScenarioError;

/// How long a process may take to stand still.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(1);

/// A signal is a system call that only unsafe code makes; to a shell it is a word, which needs no program either. It reads
/// one signal a line and answers each with `ok` or with why not, in one line.
const SHELL: &str = r#"
trap "" INT TERM HUP QUIT
while read -r signal; do
    words=$(kill -s "$signal" "$@" 2>&1) && words=ok
    echo $words
done
kill -s CONT "$@"
"#;

/// Processes that may be stopped. Once this is dropped, all of them go on.
#[derive(Debug)]
pub(super) struct Keeper {
    pids: Vec<u32>,
    shell: Child,
    answers: BufReader<ChildStdout>,
}

/// The processes stand still until this is dropped.
#[derive(Debug)]
pub(super) struct Stopped<'a>(&'a mut Keeper);

impl Keeper {
    /// Nothing is stopped yet.
    ///
    /// # Errors
    /// There is no shell.
    pub(super) fn new(pids: &[u32]) -> Result<Self, ScenarioError> {
        let refused = |source| ScenarioError::Signal { pids: pids.to_vec(), source };
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "sh"])
            .args(pids.iter().map(ToString::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What a terminal sends to all of our group is not for it.
            .process_group(0)
            .spawn()
            .map_err(refused)?;
        let answers = shell.stdout.take().ok_or_else(|| refused(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { pids: pids.to_vec(), shell, answers: BufReader::new(answers) })
    }

    /// Stops them; returns once all of their threads stand still.
    ///
    /// # Errors
    /// They belong to somebody else, are gone, or do not stand still.
    pub(super) fn stop(&mut self) -> Result<Stopped<'_>, ScenarioError> {
        let pids = self.pids.clone();
        let refused = |source| ScenarioError::Signal { pids: pids.clone(), source };
        // From here on a drop lets them go on, whether all, some or none of them stand.
        let stopped = Stopped(self);
        stopped.0.send("STOP").map_err(refused)?;
        let latest = Instant::now() + PATIENCE;
        while !pids.iter().all(|pid| stands_still(*pid)) {
            if Instant::now() > latest {
                return Err(refused(io::ErrorKind::TimedOut.into()));
            }
            thread::park_timeout(LOOK);
        }
        Ok(stopped)
    }

    /// Returns once the signal is sent.
    fn send(&mut self, signal: &str) -> io::Result<()> {
        let stdin = self.shell.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(stdin, "{signal}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim_end() {
            "ok" => Ok(()),
            "" => Err(io::ErrorKind::UnexpectedEof.into()),
            words => Err(io::Error::other(words.to_owned())),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = self.0.send("CONT");
    }
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

    /// A process that does nothing, ended with the test.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("30").spawn().unwrap())
        }

        fn goes_on(&self) {
            let latest = Instant::now() + PATIENCE;
            while stands_still(self.0.id()) {
                assert!(Instant::now() < latest, "it still stands");
                thread::park_timeout(LOOK);
            }
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_stands_still_until_the_moment_is_over() {
        let sleeper = Sleeper::start();
        let mut keeper = Keeper::new(&[sleeper.0.id()]).unwrap();
        for _ in 0..2 {
            let moment = keeper.stop().unwrap();
            assert!(stands_still(sleeper.0.id()));
            drop(moment);
            sleeper.goes_on();
        }
    }

    #[test]
    fn it_goes_on_when_nobody_is_left_to_say_so() {
        let sleeper = Sleeper::start();
        let mut keeper = Keeper::new(&[sleeper.0.id()]).unwrap();
        // As if the generator had been killed: nothing is said, the pipe is closed. What interrupts us does not end the shell.
        std::mem::forget(keeper.stop().unwrap());
        let interrupt = "kill -s INT $0; kill -s TERM $0; kill -s HUP $0; kill -s QUIT $0";
        let told = Command::new("sh").args(["-c", interrupt, &keeper.shell.id().to_string()]).status().unwrap();
        assert!(told.success() && stands_still(sleeper.0.id()));
        drop(keeper);
        sleeper.goes_on();
    }

    #[test]
    fn a_process_that_is_gone_is_an_error_that_says_why() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let error = Keeper::new(&[child.id()]).unwrap().stop().unwrap_err();
        assert!(error.in_full().contains("No such process") && error.advice().is_some(), "{}", error.in_full());
    }
}
