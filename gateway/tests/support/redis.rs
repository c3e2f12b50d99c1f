//! A real Redis on a free port, ended with the test.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

pub struct RedisServer {
    port: u16,
    child: Option<Child>,
    _folder: tempfile::TempDir,
}

impl RedisServer {
    /// A port on which nothing listens yet.
    pub fn absent() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, child: None, _folder: tempfile::tempdir().unwrap() }
    }

    /// A server that answers.
    pub async fn start() -> Self {
        let mut server = Self::absent();
        server.launch().await;
        server
    }

    /// Starts the server, empty.
    pub async fn launch(&mut self) {
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(self._folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed: make setup");
        self.child = Some(child);
        let deadline = tokio::time::Instant::now() + super::DEADLINE;
        while self.command(&["PING"]).await.as_deref() != Some("+PONG") {
            assert!(tokio::time::Instant::now() < deadline, "redis-server answers");
            tokio::time::sleep(Duration::from_millis(10)).await; // between two looks at the condition
        }
    }

    /// Ends the server as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The first line that the server answers to a command; `None` if it cannot be reached.
    pub async fn command(&self, words: &[&str]) -> Option<String> {
        use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let mut socket = BufReader::new(socket);
        socket.write_all(format!("{}\r\n", words.join(" ")).as_bytes()).await.ok()?;
        let mut line = String::new();
        socket.read_line(&mut line).await.ok()?;
        Some(line.trim_end().to_owned())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
