//! How a request becomes a WebSocket, or why not.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{DEADLINE, request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

const UPGRADE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

#[tokio::test]
async fn what_is_no_handshake_is_told_why() {
    let node = support::node(&[]).await;
    let with = |name: &'static str, value: &'static str| {
        UPGRADE.map(|(known, usual)| if known == name { (known, value) } else { (known, usual) })
    };
    let public = node.public();
    for (method, headers, status, word) in [
        ("GET", with("upgrade", "h2c"), 426, "WebSocket endpoint"),
        ("GET", with("sec-websocket-version", "8"), 426, "version 13"),
        ("GET", with("sec-websocket-key", "x"), 400, "Sec-WebSocket-Key"),
        ("POST", UPGRADE, 405, "GET"),
    ] {
        let (found, body) = request(&public, method, "/ws", &headers, "").await;
        assert_eq!(found, status, "{body}");
        assert!(body.contains(word), "{body}");
    }
}

#[tokio::test]
async fn only_unknown_subprotocols_are_answered_with_the_list() {
    let node = support::node(&[]).await;
    let (status, body) = node.refused("/ws", &[("sec-websocket-protocol", "other, another")]).await;
    assert!(status == 400 && body.contains("skywave.v1.json"), "{body}");
    assert!(node.try_socket("/ws", &[("sec-websocket-protocol", "other, skywave.v1.json")]).await.is_ok());
}

#[tokio::test]
async fn over_the_limit_of_connections_the_next_is_sent_elsewhere() {
    let node = support::node(&[("SKYWAVE__LIMITS__CONNECTIONS", "2")]).await;
    let (_one, two) = (node.client(&[]).await, node.client(&[]).await);
    let (status, body) = node.refused("/ws", &[]).await;
    assert!(status == 503 && body.contains("limits.connections"), "{body}");
    drop(two);
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while node.try_socket("/ws", &[]).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "a seat that was left is taken again");
    }
}

#[tokio::test]
async fn pages_are_served_with_a_policy() {
    let node = support::node(&[]).await;
    let public = node.public();
    let (status, line) = request(&public, "GET", "/", &[], "").await;
    assert!(status == 200 && line.contains("development mode") && line.lines().count() == 1, "{line}");
    let (status, page) = request(&public, "GET", "/", &[("accept", "text/html")], "").await;
    assert!(status == 200 && page.contains("Development mode") && page.contains("/demo/"), "{page}");
    let (status, page) = request(&public, "GET", "/demo/", &[], "").await;
    assert!(status == 200 && page.contains("<html"), "{page}");
    assert_eq!(request(&public, "GET", "/demo", &[], "").await.0, 308);
    let (status, page) = request(&public, "GET", "/demo/chat/", &[], "").await;
    assert!(status == 200 && page.contains("Chat"), "{page}");
    assert_eq!(request(&public, "GET", "/demo/chat?room=a", &[], "").await.0, 308);
    assert_eq!(request(&public, "GET", "/demo/chat/main.js", &[], "").await.0, 200);
    assert_eq!(request(&public, "GET", "/demo/chat/nothing/", &[], "").await.0, 404);
    assert_eq!(request(&public, "GET", "/demo/../Cargo.toml", &[], "").await.0, 404);
    assert_eq!(request(&public, "POST", "/", &[], "").await.0, 405);
    assert_eq!(request(&public, "GET", "/nothing", &[], "").await.0, 404);
}

/// Sends this at once and returns all that is answered until the connection ends.
async fn answer(node: &support::Running, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(node.public()).await.unwrap();
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let end = timeout(DEADLINE, socket.read_to_end(&mut answer)).await.expect("the connection ends");
    end.expect("it ends in good order, not with a reset");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_answered_with_words() {
    let node = support::node(&[("SKYWAVE__TIMEOUTS__HANDSHAKE", "500ms")]).await;
    let many: String = (0..100).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = "x".repeat(64 * 1024);
    for (request, status, word) in [
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431, "64 lines"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), 431, "16 KiB"),
        (format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), 431, "16 KiB"),
        ("\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), 400, "not a request"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400, "not a request"),
        ("PRI * HTTP/2.0\r\n\r\nnot quite".to_owned(), 400, "not a request"),
    ] {
        let answer = answer(&node, request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request:.40}: {answer:?}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && body.contains(word), "{request:.40}: {answer}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        assert_eq!(length, body.len().to_string());
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The head of a HEADERS frame of 512 bytes on stream 1 (RFC 9113 §6.2); what follows are pieces of a header block.
const HEADERS: &[u8] = &[0, 2, 0, 1, 4, 0, 0, 0, 1];

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_cut_at_the_deadline() {
    let node = support::node(&[("SKYWAVE__TIMEOUTS__HANDSHAKE", "500ms"), ("SKYWAVE__TIMEOUTS__CLOSE", "100ms")]).await;
    for (at_once, then) in [
        (&b""[..], None),
        (b"GET /ws HTTP/1.1\r\nhost: a\r\n", None),
        (b"GET /ws HTTP/1.1\r\nx: ", Some(b'x')),
        (b"PRI * HTTP", None),
        (PREFACE, None),
        (&[PREFACE, SETTINGS].concat(), None),
        (&[PREFACE, SETTINGS, HEADERS].concat(), Some(0x88)),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nx: ", Some(b'x')),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n", Some(b'x')),
    ] {
        let begun = Instant::now();
        let (mut read, mut write) = TcpStream::connect(node.public()).await.unwrap().into_split();
        write.write_all(at_once).await.unwrap();
        let trickle = async {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            while let Some(byte) = then
                && write.write_all(&[byte]).await.is_ok()
            {
                tick.tick().await;
            }
            std::future::pending::<()>().await
        };
        let mut answer = Vec::new();
        tokio::select! {
            ended = timeout(DEADLINE, read.read_to_end(&mut answer)) => drop(ended.expect("the connection ends")),
            () = trickle => {}
        }
        let shown = String::from_utf8_lossy(at_once);
        // What is answered at all may be cut at once.
        assert!(begun.elapsed() >= Duration::from_millis(450) || !answer.is_empty(), "{shown}: {:?}", begun.elapsed());
    }
    let (status, _) = request(&node.public(), "GET", "/", &[], "").await;
    assert_eq!(status, 200, "others are served");
}

#[tokio::test]
async fn a_connection_that_is_kept_alive_ends_when_it_is_not_used() {
    let node = support::node(&[("SKYWAVE__TIMEOUTS__HANDSHAKE", "500ms")]).await;
    let mut socket = TcpStream::connect(node.public()).await.unwrap();
    let mut used = Instant::now();
    for _ in 0..4 {
        used = Instant::now();
        socket.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"/ws\n") {
            assert!(timeout(DEADLINE, socket.read_buf(&mut answer)).await.expect("an answer").unwrap() > 0);
        }
    }
    let mut rest = Vec::new();
    timeout(DEADLINE, socket.read_to_end(&mut rest)).await.expect("the connection ends").unwrap();
    assert!(rest.is_empty() && used.elapsed() >= Duration::from_millis(450), "{:?}", used.elapsed());
}
