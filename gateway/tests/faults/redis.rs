//! A Redis, or a Valkey, of one's own.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    process::Stdio,
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use redis::{FromRedisValue, RedisResult, Value};
use tempfile::TempDir;

use crate::{process::Process, wait::until};

/// Keeps nothing over a restart.
pub const EMPTY: &[&str] = &["--save", "", "--appendonly", "no"];
/// Keeps every publication over a restart.
pub const KEEPING: &[&str] = &["--save", "", "--appendonly", "yes", "--appendfsync", "always"];

/// The program under test: `VALKEY_SERVER`, or Debian's `redis-server`.
pub fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let valkey = std::env::var("VALKEY_SERVER").ok().filter(|path| !path.is_empty());
        // Not a print macro: the harness would keep it to itself.
        let _ = match &valkey {
            Some(path) => writeln!(std::io::stderr(), "VALKEY_SERVER is set: the suite ran on {path} only"),
            None => writeln!(std::io::stderr(), "VALKEY_SERVER is not set: the suite ran on redis-server only"),
        };
        valkey.unwrap_or_else(|| "redis-server".to_owned())
    })
}

/// A port that is free, and that nobody else of the suite gets. Not one of the kernel's choosing: a Redis that a test has
/// killed comes back on its port, and until then another test's would be given it, and heard by the first one's nodes.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000; // below what the kernel chooses from (net.ipv4.ip_local_port_range)
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = FIRST + TAKEN.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Runs one command at whoever speaks the protocol there.
pub async fn command<T: FromRedisValue>(at: SocketAddr, words: &[&str]) -> T {
    let answer = try_command(at, words).await.unwrap_or_else(|error| panic!("{at}: {words:?}: {error}"));
    redis::from_redis_value(answer).unwrap_or_else(|error| panic!("{at}: {words:?}: {error}"))
}

pub async fn try_command(at: SocketAddr, words: &[&str]) -> RedisResult<Value> {
    let client = redis::Client::open(format!("redis://{at}"))?;
    // Generous: the machine may be busy with others.
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(5)))
        .set_response_timeout(Some(Duration::from_secs(5)));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
}

/// One server on a port and in a folder of its own. Killed when dropped.
pub struct Redis {
    port: u16,
    options: Vec<String>,
    folder: TempDir,
    process: Option<Process>,
}

impl Redis {
    /// A port on which nothing listens yet.
    pub fn absent(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { port: free_port(), options, folder: TempDir::new().unwrap(), process: None }
    }

    /// A server that answers.
    pub async fn start(options: &[&str]) -> Self {
        let mut server = Self::absent(options);
        server.launch().await;
        server
    }

    /// Starts it, with what its options have kept, until it answers.
    pub async fn launch(&mut self) {
        self.spawn();
        until("the server to answer", async || self.try_command(&["PING"]).await.is_ok()).await;
    }

    /// Starts it.
    pub fn spawn(&mut self) {
        self.process = Some(Process::spawn(program(), |command| {
            command
                .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
                .args(["--logfile", "server.log", "--repl-diskless-sync-delay", "0"])
                .args(&self.options)
                .current_dir(self.folder.path())
                .stdout(Stdio::null());
        }));
    }

    /// More options, from the next start on.
    pub fn add(&mut self, options: &[&str]) {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
    }

    /// Asks it to end, and waits until it has.
    pub async fn end(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal("TERM");
        process.end().await;
    }

    /// What `kill -9` does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Every process of it stands still: connections stay, nothing answers.
    pub fn stall(&self) {
        self.process().signal("STOP");
    }

    /// The end of [`Redis::stall`].
    pub fn resume(&self) {
        self.process().signal("CONT");
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Runs one command, as an operator would.
    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        command(self.address(), words).await
    }

    pub async fn try_command(&self, words: &[&str]) -> RedisResult<Value> {
        try_command(self.address(), words).await
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server on port {} ended its log with\n{}", self.port, self.log());
        }
    }
}
