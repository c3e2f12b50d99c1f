//! Behind a proxy: who the client is, and who may say so.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use support::{DEADLINE, Running, tls::Files};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

const V2: (&str, &str) = ("SKYWAVE__PUBLIC__PROXY_PROTOCOL", "v2");
const LOOPBACK: (&str, &str) = ("SKYWAVE__PUBLIC__TRUSTED_PROXIES", "127.0.0.0/8");
const HANDSHAKE: (&str, &str) = ("SKYWAVE__TIMEOUTS__HANDSHAKE", "500ms");

/// A header for a client at 192.0.2.`last`, with something added that nobody has to know.
fn header(last: u8) -> Vec<u8> {
    let rest = [&[192, 0, 2, last, 127, 0, 0, 1, 0x1f, 0x90, 0, 80][..], &[0xe0, 0, 3, 1, 2, 3]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0", &[u8::try_from(rest.len()).unwrap()][..], &rest].concat()
}

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

async fn connect(node: &Running, first: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(node.public()).await.unwrap();
    socket.write_all(first).await.unwrap();
    socket
}

/// The connection ends, without a word to whoever is not understood.
async fn is_closed(mut socket: TcpStream) {
    let mut answer = Vec::new();
    drop(timeout(DEADLINE, socket.read_to_end(&mut answer)).await.expect("it is closed")); // with a reset or without
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
}

/// What the node has logged, of all tests of this file.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn of_this_process() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let begin = || {
            let log = Log::default();
            let lines = log.clone();
            let writer = move || lines.clone();
            tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).with_writer(writer).init();
            log
        };
        LOG.get_or_init(begin).clone()
    }

    /// Whether a WebSocket of this client's was opened.
    fn has_opened(&self, address: &str) -> bool {
        let lines = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let address = format!("address={address} ");
        lines.lines().any(|line| line.contains("a WebSocket is opened") && line.contains(&address))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_client_is_whom_the_proxy_names() {
    let log = Log::of_this_process();
    let node = support::node(&[V2, LOOPBACK]).await;
    let socket = connect(&node, &header(1)).await;
    let mut client = support::upgrade(socket, "/ws", &[]).await.unwrap().subscribed(&["a"]).await;
    assert!(log.has_opened("192.0.2.1"));
    // Its own word does not count: it is no proxy.
    let socket = connect(&node, &header(2)).await;
    support::upgrade(socket, "/ws", &[("x-forwarded-for", "198.51.100.1")]).await.unwrap();
    assert!(log.has_opened("192.0.2.2") && !log.has_opened("198.51.100.1"));
    // The proxy for itself; and it may be one that also speaks HTTP.
    let socket = connect(&node, LOCAL).await;
    support::upgrade(socket, "/ws", &[("x-forwarded-for", "198.51.100.2")]).await.unwrap();
    assert!(log.has_opened("198.51.100.2"));
    client.ask(serde_json::json!({"ping": {}})).await;
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let log = Log::of_this_process();
    let files = Files::new();
    let node = support::node(&[V2, LOOPBACK, ("SKYWAVE__PUBLIC__TLS", &files.setting(false))]).await;
    let socket = connect(&node, &header(3)).await;
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = files.client(&["h2"], None).connect(name, socket).await.unwrap();
    let (http2, _) = support::http2::Http2::over(stream, "https", "localhost").await;
    http2.socket("/ws").await.subscribed(&["a"]).await;
    assert!(log.has_opened("192.0.2.3"));
}

#[tokio::test]
async fn a_connection_without_the_header_is_closed() {
    let node = support::node(&[V2, LOOPBACK, HANDSHAKE]).await;
    let mut long = header(4);
    long[14..16].copy_from_slice(&[0xff, 0xff]);
    for first in [
        &b"GET /ws HTTP/1.1\r\nhost: localhost\r\n\r\n"[..],
        b"PROXY TCP4 192.0.2.4 127.0.0.1 8080 80\r\n",
        &[0x16; 64],
        &long,
        &header(4)[..20],
        b"",
    ] {
        is_closed(connect(&node, first).await).await;
    }
    let begun = Instant::now();
    let mut slow = TcpStream::connect(node.public()).await.unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    for byte in header(4) {
        tick.tick().await;
        if slow.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    is_closed(slow).await;
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    let socket = connect(&node, &header(5)).await;
    support::upgrade(socket, "/ws", &[]).await.expect("others are served");
}

#[tokio::test]
async fn only_trusted_proxies_are_heard() {
    let log = Log::of_this_process();
    let node = support::node(&[V2, ("SKYWAVE__PUBLIC__TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    is_closed(connect(&node, &header(6)).await).await;
    // Without the PROXY protocol: what a stranger says of itself is not believed.
    let node = support::node(&[("SKYWAVE__PUBLIC__TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    node.try_socket("/ws", &[("x-forwarded-for", "198.51.100.3")]).await.unwrap();
    assert!(!log.has_opened("198.51.100.3") && log.has_opened("127.0.0.1"));
    let node = support::node(&[LOOPBACK]).await;
    node.try_socket("/ws", &[("forwarded", "for=1.1.1.1, for=198.51.100.4;proto=https")]).await.unwrap();
    assert!(log.has_opened("198.51.100.4") && !log.has_opened("1.1.1.1"));
}
