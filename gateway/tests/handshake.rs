//! How a request becomes a WebSocket, or why not.
#![allow(missing_docs)]

mod support;

use support::request;

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
