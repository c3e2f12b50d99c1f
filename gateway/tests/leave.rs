//! Slow consumers and nodes that leave.
#![allow(missing_docs)]

mod support;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_its_neighbour_misses_nothing() {
    const PUBLICATIONS: usize = 400;
    let node = support::node(&[("SKYWAVE__LIMITS__OUTBOX_BYTES", "256KiB"), ("SKYWAVE__TIMEOUTS__CLOSE", "1m")]).await;
    let mut slow = node.client(&["a"]).await;
    let mut neighbour = node.client(&["a"]).await;
    let filler = "x".repeat(60_000);
    for n in 0..PUBLICATIONS {
        node.publish("a", json!([n, filler])).await;
        assert_eq!(neighbour.push("publication").await["data"][0], n);
    }
    // 24 MB were published; what the kernel had taken comes, then the goodbye.
    assert_eq!(slow.closed().await, (4002, "slow_consumer".into()));
    let before = slow.before_close();
    assert!(before.len() < PUBLICATIONS, "not everything was kept for it");
    assert_eq!(before.last().unwrap()["disconnect"]["code"], 4002);
    assert_eq!(before.last().unwrap()["disconnect"]["reconnect"], true);
}

#[tokio::test]
async fn a_node_that_drains_tells_everybody_and_loses_nothing() {
    let node = support::node(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(node.client(&["a"]).await);
    }
    let mut raw = node.socket("/raw/a").await;
    let answer = node.publish("a", json!("last")).await;
    let position = &answer["position"];
    let (public, internal) = (node.public(), node.internal());
    let drained = tokio::spawn(node.node.drain());
    for client in &mut clients {
        assert_eq!(client.closed().await, (4001, "draining".into()));
        let before = client.before_close();
        assert_eq!(before[0]["publication"]["data"], "last");
        let goodbye = &before.last().unwrap()["disconnect"];
        assert_eq!((&goodbye["code"], &goodbye["reconnect"]), (&json!(4001), &json!(true)));
        assert!(goodbye["after_ms"].as_u64().unwrap() <= 1000);
    }
    assert_eq!(raw.message().await, Message::text("\"last\""));
    let place = format!("{}:{}", position["epoch"].as_str().unwrap(), position["offset"]);
    assert_eq!(raw.closed().await, (1012, place));
    drained.await.unwrap();
    for address in [public, internal] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nothing listens any more");
    }
}

#[tokio::test]
async fn an_http_1_0_client_and_half_a_request_do_no_harm() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = support::node(&[("SKYWAVE__TIMEOUTS__HANDSHAKE", "500ms")]).await;
    let mut socket = tokio::net::TcpStream::connect(node.public()).await.unwrap();
    socket.write_all(b"GET /ws HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(support::DEADLINE, socket.read_to_end(&mut answer))
        .await
        .expect("the deadline ends it")
        .unwrap();
    let mut socket = tokio::net::TcpStream::connect(node.public()).await.unwrap();
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}
