//! A `skywave` process.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use crate::{http::Http, process::Process, wait::until};

/// The key that opens the server API of every node.
pub const API_KEY: &str = "the-key-of-the-fault-suite";
/// Lines of its log that a node keeps for a failure.
const LOG_LINES: usize = 400;

/// Two nodes, each with its way to Redis.
pub async fn pair(paris: &str, oslo: &str) -> [Node; 2] {
    let (paris, oslo) = tokio::join!(Node::start("paris", paris, ""), Node::start("oslo", oslo, ""));
    [paris, oslo]
}

/// A node with a configuration file of its own. Killed when dropped; if a test fails, or with `SHOW_LOGS`, its log is shown.
pub struct Node {
    name: &'static str,
    settings: String,
    folder: TempDir,
    process: Option<Process>,
    log: Arc<Mutex<VecDeque<String>>>,
    public: SocketAddr,
    internal: SocketAddr,
}

impl Node {
    /// A node that lets clients in. What `more` says comes last in its file: whole sections.
    pub async fn start(name: &'static str, backplane: &str, more: &str) -> Self {
        let mut node = Self::launch(name, backplane, more).await;
        node.ready().await;
        node
    }

    /// A node that listens.
    pub async fn launch(name: &'static str, backplane: &str, more: &str) -> Self {
        let settings = format!(
            r#"
node = {{ name = "{name}", shards = 2, log = "json", secret = "what the nodes of this suite have in common" }}
auth = {{ anonymous = true }}
api = {{ keys = [{{ name = "suite", key = "{API_KEY}", scopes = ["publish", "read", "control"] }}] }}
backplane = {{ url = "{backplane}" }}
# How fast a test asks, and what else the machine does, is no concern of the node.
[limits]
handshakes_per_second = 0
new_channels_per_minute = 0
commands_per_second = 0
publications_per_second = 0
bytes_per_second = 0
overload_memory = 0
overload_lag = "0s"
[namespaces.news]
subscribe = "anyone"
publish = "subscribers"
history = {{ size = 4000, ttl = "10m" }}
[namespaces.live]
subscribe = "anyone"
publish = "subscribers"
[namespaces.room]
subscribe = "anyone"
publish = "subscribers"
presence = true
history = {{ size = 4000, ttl = "10m" }}
{more}
"#
        );
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self {
            name,
            settings,
            folder: TempDir::new().unwrap(),
            process: None,
            log: Arc::default(),
            public: nowhere,
            internal: nowhere,
        };
        node.spawn();
        for (listener, message) in [(0, "listening for clients"), (1, "listening for back ends and operators")] {
            let mut address = None;
            until("the node to say where it listens", async || {
                address = node.logged(message).and_then(|line| line["address"].as_str()?.parse().ok());
                let ended = node.process.as_mut().and_then(Process::ended);
                assert!(address.is_some() || ended.is_none(), "{name} has ended: {ended:?}");
                address.is_some()
            })
            .await;
            *[&mut node.public, &mut node.internal][listener] = address.expect("waited for");
        }
        node
    }

    /// Starts it, where it was before if it ran before.
    pub fn spawn(&mut self) {
        let (public, internal) = (self.public, self.internal);
        let listeners = format!("public = {{ listen = [\"{public}\"] }}\ninternal = {{ listen = [\"{internal}\"] }}\n");
        let file = self.folder.path().join("skywave.toml");
        fs::write(&file, listeners + &self.settings).unwrap();
        let mut process = Process::spawn(env!("CARGO_BIN_EXE_skywave"), |command| {
            command.args(["serve", "--config", file.to_str().expect("UTF-8")]).env_clear().stderr(Stdio::piped());
            command.env("SKYWAVE_LOG", std::env::var("SKYWAVE_LOG").unwrap_or_else(|_| "info".to_owned()));
        });
        let (stderr, log) = (process.take_stderr(), self.log.clone());
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = log.lock();
                log.push_back(line);
                if log.len() > LOG_LINES {
                    log.pop_front();
                }
            }
        });
        self.process = Some(process);
    }

    /// Waits until it lets clients in.
    pub async fn ready(&mut self) {
        let (mut internal, mut public) = (Http::new(self.internal), Http::new(self.public));
        until("the node to be ready", async || {
            let ready = internal.request("GET", "/readyz", &[], String::new()).await;
            // A handshake that is none: 503 while clients are not let in.
            let upgrade = public.request("GET", "/ws", &[], String::new()).await;
            ready.is_ok_and(|answer| answer.0 == 200) && upgrade.is_ok_and(|answer| answer.0 != 503)
        })
        .await;
    }

    /// The newest line of its log with this message.
    pub fn logged(&self, message: &str) -> Option<Value> {
        let log = self.log.lock();
        let mut lines = log.iter().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["message"] == message)
    }

    /// What `kill -9` does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// It stands still: connections stay, nothing is read.
    pub fn stall(&self) {
        self.process().signal("STOP");
    }

    /// The end of [`Node::stall`].
    pub fn resume(&self) {
        self.process().signal("CONT");
    }

    /// Asks it to leave, and waits until it has.
    pub async fn leave(&mut self) {
        self.process().signal("TERM");
        let mut process = self.process.take().expect("it runs");
        assert!(process.end().await.success());
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where clients connect.
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    /// Where back ends connect.
    pub fn internal(&self) -> SocketAddr {
        self.internal
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("SHOW_LOGS").is_some() {
            let log = self.log.lock();
            let from = log.len().saturating_sub(60);
            let lines: Vec<_> = log.iter().skip(from).map(String::as_str).collect();
            eprintln!("--- node {} ended its log with\n{}", self.name, lines.join("\n"));
        }
    }
}
