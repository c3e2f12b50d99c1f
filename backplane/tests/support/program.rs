//! A redis-server, or a sentinel, with settings of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::until;

/// A user that may do everything, and no user without a password: beside those that a test asks for.
const ADMIN: [&str; 4] = ["user default off", "user admin on >admin ~* &* +@all", "save \"\"", "appendonly no"];

/// Listens on a free port of 127.0.0.1. Killed when dropped.
pub(crate) struct Program {
    pub(crate) port: u16,
    pub(crate) directory: TempDir,
    child: Child,
    /// Its settings.
    file: &'static str,
}

impl Program {
    /// A redis-server; `settings` are lines of its file.
    pub(crate) async fn redis(settings: &[&str]) -> Self {
        Self::start("redis.conf", &[], settings, free_port(), TempDir::new().unwrap()).await
    }

    /// One with users: these lines and an administrator, and nobody else.
    pub(crate) async fn with_users(settings: &[&str]) -> Self {
        Self::redis(&[&ADMIN[..], settings].concat()).await
    }

    /// One in `directory` that listens for TLS on its port, with the certificate `server.pem` there.
    pub(crate) async fn with_tls(directory: TempDir) -> Self {
        let port = free_port();
        let tls = format!("tls-port {port}");
        let at = |name: &str, file: &str| format!("{name} {}", directory.path().join(file).display());
        let (certificate, key) = (at("tls-cert-file", "server.pem"), at("tls-key-file", "server.key"));
        let settings = [&*tls, &certificate, &key, "tls-auth-clients no", "port 0", "save \"\"", "appendonly no"];
        let settings = settings.map(str::to_owned);
        Self::start("redis.conf", &[], &settings.each_ref().map(String::as_str), port, directory).await
    }

    /// A sentinel.
    pub(crate) async fn sentinel(settings: &[&str]) -> Self {
        Self::start("sentinel.conf", &["--sentinel"], settings, free_port(), TempDir::new().unwrap()).await
    }

    async fn start(file: &'static str, arguments: &[&str], settings: &[&str], port: u16, directory: TempDir) -> Self {
        let path = directory.path().join(file);
        let listens = if settings.contains(&"port 0") { String::new() } else { format!("port {port}\n") };
        let own = format!("{listens}bind 127.0.0.1\ndir {}\nlogfile log\n", directory.path().display());
        std::fs::write(&path, own + &settings.join("\n") + "\n").unwrap();
        let child = Command::new("redis-server").arg(&path).args(arguments).stdout(Stdio::null()).spawn();
        let child = child.expect("redis-server is installed");
        let program = Self { port, directory, child, file };
        let connect = || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() };
        until("redis-server to listen", connect).await;
        program
    }

    /// What it says to a command of the administrator, where there is one, else of anybody.
    pub(crate) fn ask(&self, words: &[&str]) -> redis::Value {
        let settings = std::fs::read_to_string(self.directory.path().join(self.file)).unwrap();
        let user = if settings.contains("user admin") { "admin:admin@" } else { "" };
        let client = redis::Client::open(format!("redis://{user}127.0.0.1:{}", self.port)).unwrap();
        redis::cmd(words[0]).arg(&words[1..]).query(&mut client.get_connection().unwrap()).unwrap()
    }

    /// Commands that somebody was not allowed, as `ACL LOG` has them.
    pub(crate) fn denied(&self) -> BTreeSet<String> {
        denied(self.ask(&["ACL", "LOG"]))
    }
}

pub(crate) fn denied(log: redis::Value) -> BTreeSet<String> {
    let log: Vec<BTreeMap<String, redis::Value>> = redis::from_redis_value(log).unwrap();
    log.into_iter().map(|mut entry| redis::from_redis_value(entry.remove("object").unwrap()).unwrap()).collect()
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be gone already
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
