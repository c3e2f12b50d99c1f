//! A master, its replicas and three sentinels, on a network that can be cut in two.
//!
//! Each stands behind a proxy of its own and is known to all others, the nodes included, by the proxy's address. So a
//! partition is a real one: it separates processes, not addresses.

use std::{fs, net::SocketAddr};

use tempfile::TempDir;

use crate::{
    node::Node,
    process::Process,
    proxy::Proxy,
    redis::{Redis, command, free_port, program, try_command},
    wait::{SENTINEL_DEADLINE, until, until_within},
};

/// How long a master is silent before a sentinel calls it down.
const DOWN_AFTER_MS: u32 = 1500;
const NAME: &str = "mymaster";

/// See the module. Everything ends when it is dropped.
pub struct Watched {
    servers: Vec<(Redis, Proxy)>,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    address: SocketAddr,
    proxy: Proxy,
    _process: Process,
    _folder: TempDir,
}

impl Watched {
    /// Returns when the sentinels know the replicas and each other.
    pub async fn start(replicas: usize, options: &[&str]) -> Self {
        let mut servers = Vec::<(Redis, Proxy)>::new();
        for _ in 0..=replicas {
            let mut server = Redis::absent(options);
            let proxy = Proxy::start(server.address()).await;
            let port = proxy.address().port().to_string();
            server.add(&["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", &port]);
            if let Some((_, master)) = servers.first() {
                server.add(&["--replicaof", "127.0.0.1", &master.address().port().to_string()]);
            }
            server.launch().await;
            servers.push((server, proxy));
        }
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Sentinel::start(servers[0].1.address()).await);
        }
        let watched = Self { servers, sentinels };
        for sentinel in &watched.sentinels {
            until("the sentinels to know all", async || {
                sentinel.count("REPLICAS").await == replicas && sentinel.count("SENTINELS").await == 2
            })
            .await;
        }
        // Whoever has not synchronised cannot be promoted.
        until("the replicas to be synchronised", async || watched.are_synchronised().await).await;
        watched
    }

    async fn are_synchronised(&self) -> bool {
        let master: String = self.servers[0].0.command(&["INFO", "replication"]).await;
        master.matches("state=online").count() == self.servers.len() - 1
    }

    /// How nodes find the master.
    pub fn url(&self) -> String {
        let sentinels: Vec<_> = self.sentinels.iter().map(|sentinel| sentinel.proxy.address().to_string()).collect();
        format!("redis-sentinel://{}/{NAME}", sentinels.join(","))
    }

    pub fn server(&mut self, place: usize) -> &mut Redis {
        &mut self.servers[place].0
    }

    /// Which of the servers most sentinels call the master.
    pub async fn master(&self) -> Option<usize> {
        let mut votes = vec![0; self.servers.len()];
        for sentinel in &self.sentinels {
            let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
            let answer = try_command(sentinel.address, &asked).await.and_then(|at| Ok(redis::from_redis_value(at)?));
            let Ok((_, port)): redis::RedisResult<(String, u16)> = answer else { continue };
            if let Some(place) = self.servers.iter().position(|(_, proxy)| proxy.address().port() == port) {
                votes[place] += 1;
            }
        }
        votes.iter().position(|votes| *votes >= 2)
    }

    /// Waits until another server is the master, for the sentinels and for itself.
    pub async fn until_promoted(&self, old: usize) -> usize {
        let mut new = None;
        until_within(SENTINEL_DEADLINE, "a replica to be promoted", async || {
            new = self.master().await.filter(|new| *new != old);
            let Some(new) = new else { return false };
            self.role(new).await.as_deref() == Some("master")
        })
        .await;
        new.expect("waited for")
    }

    /// `master` or `slave`, if it answers.
    pub async fn role(&self, place: usize) -> Option<String> {
        let role = self.servers[place].0.try_command(&["ROLE"]).await.ok()?;
        let fields: Vec<redis::Value> = redis::from_redis_value(role).ok()?;
        redis::from_redis_value(fields.into_iter().next()?).ok()
    }

    /// Cuts the network: one server and these nodes here, all else there.
    pub fn part(&self, place: usize, nodes: &[&Node]) {
        let here: Vec<_> =
            nodes.iter().map(|node| node.process().id()).chain([self.servers[place].0.process().id()]).collect();
        for (other, (_, proxy)) in self.servers.iter().enumerate() {
            proxy.part(&here, other == place);
        }
        for sentinel in &self.sentinels {
            sentinel.proxy.part(&here, false);
        }
    }

    /// The network is whole again.
    pub fn heal(&self) {
        self.servers.iter().for_each(|(_, proxy)| proxy.heal());
        self.sentinels.iter().for_each(|sentinel| sentinel.proxy.heal());
    }
}

impl Sentinel {
    async fn start(master: SocketAddr) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let proxy = Proxy::start(address).await;
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("sentinel.conf");
        let settings = format!(
            "port {}\nbind 127.0.0.1\nsentinel announce-ip 127.0.0.1\nsentinel announce-port {}\n\
             sentinel monitor {NAME} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n\
             sentinel failover-timeout {NAME} 4000\nsentinel parallel-syncs {NAME} 2\n",
            address.port(),
            proxy.address().port(),
            master.port(),
        );
        fs::write(&file, settings).unwrap();
        let process = Process::spawn(program(), |command| {
            command.arg(&file).arg("--sentinel").current_dir(folder.path());
        });
        until("the sentinel to answer", async || try_command(address, &["PING"]).await.is_ok()).await;
        Self { address, proxy, _process: process, _folder: folder }
    }

    /// How many of these it knows.
    async fn count(&self, what: &str) -> usize {
        command::<Vec<redis::Value>>(self.address, &["SENTINEL", what, NAME]).await.len()
    }
}
