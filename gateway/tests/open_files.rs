//! A node whose process may hardly open files: it raises the limit as far as it may, and says so when it is full.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(10);

struct Node {
    child: Child,
    internal: SocketAddr,
    public: SocketAddr,
}

impl Node {
    /// Starts one under these limits, soft and hard.
    fn start(soft: u32, hard: u32) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"")])
            .args([
                env!("CARGO_BIN_EXE_skywave"),
                "--dev",
                "--listen",
                "127.0.0.1:0",
                "--internal-listen",
                "127.0.0.1:0",
            ])
            .env("SKYWAVE__NODE__SHARDS", "1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = |words: &str| loop {
            let line = lines.next().expect("it says where it listens").unwrap();
            if line.contains(words) {
                break line.rsplit_once("address=").unwrap().1.parse().unwrap();
            }
        };
        let (internal, public) = (address("for back ends and operators"), address("for clients"));
        std::thread::spawn(move || lines.for_each(drop)); // or the pipe fills up
        Self { child, internal, public }
    }

    fn ready(&self) -> String {
        let mut socket = TcpStream::connect(self.internal).unwrap();
        socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Waits until it says so of itself.
    #[allow(clippy::disallowed_methods, reason = "no runtime here that this could hold up")]
    fn becomes(&self, status: &str, words: &str) {
        let deadline = Instant::now() + DEADLINE;
        while let answer = self.ready()
            && !(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words))
        {
            assert!(Instant::now() < deadline, "not {status} {words}: {answer}");
            std::thread::sleep(Duration::from_millis(10)); // between two looks at the condition
        }
    }

    /// A handshake: the connection, and the answer's head.
    fn connect(&self) -> (TcpStream, String) {
        let mut socket = TcpStream::connect(self.public).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = "GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        socket.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(
                socket.read(&mut byte).expect("it is answered, whatever the answer"),
                1,
                "the answer has an end"
            );
            head.push(byte[0]);
        }
        (socket, String::from_utf8(head).unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_node_without_files_says_so_instead_of_letting_clients_wait() {
    let node = Node::start(64, 256);
    node.becomes("200", "");
    let mut open = Vec::new();
    let refused = loop {
        let (socket, head) = node.connect();
        if !head.starts_with("HTTP/1.1 101 ") {
            break head;
        }
        open.push(socket);
        assert!(open.len() < 256, "it cannot have more than it may");
    };
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: "), "{refused}");
    assert!(open.len() > 100, "it may have 64, and raises that: {}", open.len());
    node.becomes("503", "open files");

    // Those who are there are served, and once they have gone there is room again.
    open[0].write_all(b"\x8a\x80\0\0\0\0").unwrap(); // a pong that nobody asked for
    open.truncate(1);
    node.becomes("200", "");
    assert!(node.connect().1.starts_with("HTTP/1.1 101 "));
}
