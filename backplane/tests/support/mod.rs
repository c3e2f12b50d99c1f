//! A Redis of one's own.
// Each test file uses its part; and what clippy.toml allows in tests it does not see here.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod cluster;
pub(crate) mod log;
pub(crate) mod program;
pub(crate) mod traffic;

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use skywave_backplane::{
    Backplane as _, BackplaneState, Redis, RedisOptions, Sink,
    conformance::{DEADLINE, World},
};
use tempfile::TempDir;

/// A redis-server on a free port, in a temporary directory, without persistence. Killed when dropped.
pub(crate) struct Server {
    port: u16,
    child: Option<Child>,
    directory: TempDir,
    persistence: &'static [&'static str],
}

impl Server {
    /// A port on which nobody listens yet: [`Server::start`] comes later.
    pub(crate) fn not_started() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self {
            port,
            child: None,
            directory: TempDir::new().unwrap(),
            persistence: &["--save", "", "--appendonly", "no"],
        }
    }

    /// Started, and answering.
    pub(crate) async fn started() -> Self {
        let mut server = Self::not_started();
        server.start().await;
        server
    }

    /// Started, and keeping what these settings keep.
    pub(crate) async fn persistent(persistence: &'static [&'static str]) -> Self {
        let mut server = Self::not_started();
        server.persistence = persistence;
        server.start().await;
        server
    }

    /// Starts it, empty but for what it has kept.
    pub(crate) async fn start(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(self.persistence)
            .args(["--logfile", "redis.log", "--dir", self.directory.path().to_str().unwrap()])
            .current_dir(self.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        let connect = || async { tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() };
        until("redis-server to listen", connect).await;
    }

    /// What `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // it may be gone already
            let _ = child.wait();
        }
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// Runs one command, as an operator would.
    pub(crate) async fn command(&self, words: &[&str]) -> redis::Value {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn options(&self) -> RedisOptions {
        RedisOptions::parse(&self.url(), "skywave", None, None, "test node").unwrap()
    }

    /// A node that is live.
    pub(crate) async fn node(&self, sink: Arc<dyn Sink>) -> Redis {
        let redis = Redis::new(self.options(), sink);
        until("the node to be live", || async { redis.state() == BackplaneState::Live }).await;
        redis
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl World for Server {
    type Node = Redis;
    const JOINS_NODES: bool = true;

    async fn node(&self, sink: Arc<dyn Sink>) -> Redis {
        self.node(sink).await
    }

    async fn pass(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Asks again and again, with a deadline.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
