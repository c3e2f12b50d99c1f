//! A Redis Cluster of one's own, shared by the tests of one file.

use std::{
    io::Write as _,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use skywave_backplane::{Backplane as _, BackplaneState, Redis, RedisOptions, Sink, conformance::World};
use tempfile::TempDir;

use super::until;

const SLOTS: u16 = 16384;

/// Three masters without replicas.
pub(crate) struct Cluster {
    ports: Vec<u16>,
    _children: Vec<Guarded>,
    _directory: TempDir,
}

/// A program that ends when this process does: a static is never dropped.
struct Guarded {
    _child: Child,
}

impl Guarded {
    fn spawn(program: &str, arguments: &[String]) -> Self {
        let script = r#""$0" "$@" & pid=$!; cat >/dev/null; kill -9 $pid"#;
        let child = Command::new("sh")
            .args(["-c", script, program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { _child: child }
    }
}

impl Cluster {
    pub(crate) async fn started() -> Self {
        let directory = TempDir::new().unwrap();
        let mut children = Vec::new();
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        for port in &ports {
            let folder = directory.path().join(port.to_string());
            std::fs::create_dir(&folder).unwrap();
            let mut settings = std::fs::File::create(folder.join("redis.conf")).unwrap();
            writeln!(
                settings,
                "port {port}\nbind 127.0.0.1\nsave \"\"\nappendonly no\ncluster-enabled yes\ncluster-config-file nodes.conf\n\
                 cluster-node-timeout 2000\ncluster-allow-pubsubshard-when-down no\ndir {}",
                folder.display()
            )
            .unwrap();
            let settings = folder.join("redis.conf").display().to_string();
            children.push(Guarded::spawn("redis-server", &[settings]));
        }
        let cluster = Self { ports, _children: children, _directory: directory };
        for port in &cluster.ports {
            until("redis-server to listen", || async {
                tokio::net::TcpStream::connect(("127.0.0.1", *port)).await.is_ok()
            })
            .await;
        }
        let share = SLOTS / 3 + 1;
        for (number, port) in (0..).zip(&cluster.ports) {
            let (first, last) = (number * share, ((number + 1) * share).min(SLOTS) - 1);
            let slots = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()];
            command(*port, &slots).await;
            command(*port, &["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
            command(cluster.ports[0], &["CLUSTER", "MEET", "127.0.0.1", &port.to_string()]).await;
        }
        for port in &cluster.ports {
            until("the cluster to form", || async {
                let info: String = redis::from_redis_value(command(*port, &["CLUSTER", "INFO"]).await).unwrap();
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
            .await;
        }
        cluster
    }

    pub(crate) fn options(&self, prefix: &str) -> RedisOptions {
        RedisOptions::parse(&self.url(), prefix, None, None, "test node").unwrap()
    }

    pub(crate) fn url(&self) -> String {
        let seeds: Vec<_> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis-cluster://{}", seeds.join(","))
    }

    /// Runs one command on each master.
    pub(crate) async fn each(&self, words: &[&str]) -> Vec<redis::Value> {
        let mut answers = Vec::new();
        for port in &self.ports {
            answers.push(command(*port, words).await);
        }
        answers
    }

    /// Runs one command on one master.
    pub(crate) async fn of(&self, master: usize, words: &[&str]) -> redis::Value {
        command(self.ports[master], words).await
    }
}

fn free_port() -> u16 {
    // The bus of a cluster listens 10,000 higher.
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 55000 && TcpListener::bind(("127.0.0.1", port + 10000)).is_ok() {
            return port;
        }
    }
}

async fn command(port: u16, words: &[&str]) -> redis::Value {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.unwrap()
}

/// A corner of something shared, under a prefix of its own.
pub(crate) struct Corner<F>(pub(crate) F);

impl<F: Fn() -> RedisOptions> World for Corner<F> {
    type Node = Redis;
    const JOINS_NODES: bool = true;

    async fn node(&self, sink: Arc<dyn Sink>) -> Redis {
        let redis = Redis::new((self.0)(), sink);
        until("the node to be live", || async { redis.state() == BackplaneState::Live }).await;
        redis
    }

    async fn pass(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
