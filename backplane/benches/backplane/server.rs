//! A Redis of one's own.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use skywave_backplane::{Backplane as _, BackplaneState, Redis, RedisOptions};

use crate::{as_sink, cpu, sinks::Counting};

pub(crate) struct Server {
    pub(crate) port: u16,
    child: Child,
}

impl Server {
    pub(crate) async fn started() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--client-output-buffer-limit", "pubsub 64mb 16mb 60"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: make setup");
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { port, child }
    }

    pub(crate) async fn node(&self, sink: Arc<Counting>) -> Redis {
        let url = format!("redis://127.0.0.1:{}", self.port);
        let options = RedisOptions::parse(&url, "skywave", None, None, "bench").unwrap();
        let node = Redis::new(options, as_sink(sink));
        while node.state() != BackplaneState::Live {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        node
    }

    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let info: redis::ConnectionInfo =
            redis::IntoConnectionInfo::into_connection_info(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        let client = redis::Client::open(info).unwrap();
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    pub(crate) fn cpu(&self) -> Duration {
        cpu::main_thread(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // gone already is as good
        let _ = self.child.wait();
    }
}
