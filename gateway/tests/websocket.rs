//! The rules of the WebSocket, as a peer sees them that breaks them.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use support::{
    Running,
    http2::Http2,
    raw::{BINARY, CLOSE, PING, PONG, RawClient, TEXT, declared, frame},
    tls::Files,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

const ECHO: (&str, &str) = ("SKYWAVE__DEBUG__ECHO", "true");
const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

/// An unmasked frame: what only a server sends.
fn bare(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(payload.len()).unwrap()], payload].concat()
}

/// A node without TLS and one with it, and every way to a WebSocket of theirs.
struct Nodes {
    plain: Running,
    tls: Running,
    files: Files,
}

impl Nodes {
    async fn start() -> Self {
        let files = Files::new();
        let setting = files.setting(false);
        Self {
            plain: support::node(&[ECHO]).await,
            tls: support::node(&[ECHO, ("SKYWAVE__PUBLIC__TLS", &setting)]).await,
            files,
        }
    }

    async fn clients(&self) -> Vec<(&'static str, RawClient)> {
        let mut clients = Vec::new();
        for path in ["/ws", "/raw/a", "/echo"] {
            clients.push((path, RawClient::open(&self.plain.public(), path, "").await));
        }
        let encrypted = self.files.connect(&self.tls.public(), &["http/1.1"]).await;
        clients.push(("TLS", RawClient::over(encrypted, "localhost", "/echo", "").await.0));
        let socket = TcpStream::connect(self.plain.public()).await.unwrap();
        clients.push((
            "HTTP/2",
            RawClient::opened(Http2::over(socket, "http", &self.plain.public()).await.0.stream("/ws").await),
        ));
        let encrypted = self.files.connect(&self.tls.public(), &["h2"]).await;
        let (http2, _) = Http2::over(encrypted, "https", "localhost").await;
        clients.push(("HTTP/2 and TLS", RawClient::opened(http2.stream("/echo").await)));
        clients
    }
}

#[tokio::test]
async fn each_broken_rule_is_answered_with_its_code() {
    let nodes = Nodes::start().await;
    for (what, bytes, code) in [
        ("not masked", bare(TEXT, b"a"), 1002),
        ("a reserved bit", frame(TEXT | 0x40, b"a"), 1002),
        ("a reserved opcode", frame(0x83, b"a"), 1002),
        ("a ping of 126 bytes", frame(PING, &[b'a'; 126]), 1002),
        ("a ping in fragments", frame(PING & 0x7f, b"a"), 1002),
        ("nothing to continue", frame(0x80, b"a"), 1002),
        ("a new message within one", [frame(0x01, b"a"), frame(TEXT, b"b")].concat(), 1002),
        ("a close code that is not for the wire", frame(CLOSE, &1005u16.to_be_bytes()), 1002),
        ("a close of one byte", frame(CLOSE, b"a"), 1002),
        ("1 GiB", declared(BINARY, 1 << 30), 1009),
        ("2^62 bytes", declared(BINARY, 1 << 62), 1009),
        ("2^63 bytes", declared(BINARY, 1 << 63), 1009),
        ("text that is not UTF-8", frame(TEXT, b"\xc3\x28"), 1007),
        ("a reason that is not UTF-8", frame(CLOSE, b"\x03\xe8\xc3\x28"), 1007),
        ("more than a message may have", frame(BINARY, &vec![0; (1 << 20) + 1]), 1009),
    ] {
        for (way, mut client) in nodes.clients().await {
            client.write(&bytes).await;
            let (found, reason) = client.closed().await;
            assert_eq!(found, code, "{what} by {way}: {reason}");
            assert!(!reason.is_empty(), "{what}: says which rule");
            assert_eq!(client.frame().await, None, "{what}: then the end, in good order");
        }
    }
}

/// Whoever writes on while we close must still be able to read the close frame: no reset overtakes it.
#[tokio::test]
async fn who_is_still_sending_reads_the_close_frame() {
    for (way, mut client) in Nodes::start().await.clients().await {
        client.write(&frame(TEXT | 0x20, b"a")).await;
        // Much more than the kernel holds, so that it is written while we close.
        client.write(&frame(BINARY, &vec![0; 512 << 10]).repeat(8)).await;
        assert_eq!(client.closed().await.0, 1002, "{way}");
        assert_eq!(client.frame().await, None);
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_what_comes_behind_it_means_nothing() {
    for (way, mut client) in Nodes::start().await.clients().await {
        client.write(&[frame(CLOSE, b"\x0f\xa0bye"), frame(TEXT, b"late"), frame(0x83, b"")].concat()).await;
        assert_eq!(client.closed().await.0, 4000, "{way}");
        assert_eq!(client.frame().await, None);
    }
}

#[tokio::test]
async fn pings_between_fragments_are_answered() {
    let node = support::node(&[ECHO]).await;
    let mut client = RawClient::open(&node.public(), "/echo", "").await;
    client.write(&[frame(0x01, b"one "), frame(PING, b"still there?")].concat()).await;
    assert_eq!(client.frame().await.unwrap(), (PONG, b"still there?".to_vec()));
    client.write(&[frame(0x00, b"two "), frame(0x80, b"three")].concat()).await;
    assert_eq!(client.frame().await.unwrap(), (TEXT, b"one two three".to_vec()));
    for size in [0, 1, 125, 126, 0xffff, 0x1_0000, 1 << 20] {
        let payload = vec![7; size];
        client.write(&frame(BINARY, &payload)).await;
        assert!(client.frame().await.unwrap() == (BINARY, payload), "{size}");
    }
}

#[tokio::test]
async fn a_message_that_trickles_in_is_cut_at_the_deadline() {
    let node = support::node(&[ECHO, ("SKYWAVE__TIMEOUTS__MESSAGE", "1s")]).await;
    for path in ["/ws", "/raw/a", "/echo"] {
        let mut client = RawClient::open(&node.public(), path, "").await;
        let begun = Instant::now();
        client.write(&frame(0x01, b"a")).await;
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        let (first, payload) = loop {
            tokio::select! {
                _ = pause.tick() => client.write(&[frame(0x00, b"a"), frame(PING, b"")].concat()).await,
                next = client.frame() => match next.expect("a close frame, not a bare end") {
                    (PONG | TEXT, _) => {} // our own protocol says goodbye in its own words first
                    other => break other,
                },
            }
        };
        assert_eq!((first, u16::from_be_bytes([payload[0], payload[1]])), (CLOSE, 1008), "{path}");
        assert!(begun.elapsed() >= Duration::from_millis(900), "{path}: not before its time");
        let fragments = begun.elapsed().as_millis() / 100;
        assert!(fragments < 500, "{path}: by the deadline, not by the number of fragments ({fragments})");
    }
    // Whole messages may go on for ever.
    let mut client = RawClient::open(&node.public(), "/echo", "").await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        client.write(&[frame(TEXT, b"whole"), frame(0x01, b"half ")].concat()).await;
        assert_eq!(client.frame().await.unwrap().0, TEXT);
        client.write(&frame(0x80, b"a message")).await;
        assert_eq!(client.frame().await.unwrap(), (TEXT, b"half a message".to_vec()));
    }
}

#[tokio::test]
async fn too_many_fragments_end_the_connection() {
    let node = support::node(&[ECHO, ("SKYWAVE__LIMITS__FRAGMENTS", "16")]).await;
    let mut client = RawClient::open(&node.public(), "/echo", "").await;
    client.write(&[frame(0x01, b""), frame(0x00, b"").repeat(14), frame(0x80, b"a")].concat()).await;
    assert_eq!(client.frame().await.unwrap(), (TEXT, b"a".to_vec()), "16 are allowed");
    client.write(&[frame(0x01, b""), frame(0x00, b"").repeat(15), frame(0x80, b"a")].concat()).await;
    let (code, reason) = client.closed().await;
    assert!(code == 1008 || code == 1009, "{code} {reason}");
}

/// Deflates as a client does that keeps no context (RFC 7692 §7.2.1).
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut deflater = Compress::new(Compression::fast(), false);
    let mut out = Vec::with_capacity(payload.len() + 1024);
    deflater.compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

#[tokio::test]
async fn a_bomb_costs_no_more_than_the_limit() {
    let node = support::node(&[ECHO]).await;
    let (mut client, head) = RawClient::answered(&node.public(), "/echo", DEFLATE).await;
    assert!(head.to_lowercase().contains("sec-websocket-extensions: permessage-deflate"), "{head}");
    let bomb = deflated(&vec![0; 64 << 20]);
    assert!(bomb.len() < 1 << 20, "{} bytes fit into a frame", bomb.len());
    let before = resident_kib();
    client.write(&frame(BINARY | 0x40, &bomb)).await;
    assert_eq!(client.closed().await.0, 1009);
    assert!(resident_kib() < before + (32 << 10), "64 MiB were never there");

    let mut client = RawClient::open(&node.public(), "/echo", DEFLATE).await;
    let text = "as much as ".repeat(60_000);
    client.write(&frame(TEXT | 0x40, &deflated(text.as_bytes()))).await;
    let (first, _) = client.frame().await.unwrap();
    assert_eq!(first, TEXT | 0x40, "what is allowed comes back, compressed");
}

#[tokio::test]
async fn declared_lengths_take_no_memory() {
    let node =
        support::node(&[ECHO, ("SKYWAVE__LIMITS__FRAME_BYTES", "1GiB"), ("SKYWAVE__LIMITS__MESSAGE_BYTES", "1GiB")])
            .await;
    let before = resident_kib();
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = RawClient::open(&node.public(), "/echo", "").await;
        client.write(&declared(BINARY, 1 << 30)).await;
        client.write(b"a").await;
        clients.push(client);
    }
    for client in &mut clients {
        client.write(b"b").await;
        let silent = timeout(Duration::from_millis(1), client.frame()).await;
        assert!(silent.is_err(), "waits for the rest");
    }
    assert!(resident_kib() < before + (64 << 10), "100 GiB were only announced");
}

/// What this process, and so the node in it, holds in memory.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
