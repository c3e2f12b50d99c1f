//! WebSockets over HTTP/2 (RFC 8441), beside HTTP/1 on the same port.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use futures_util::{FutureExt as _, future::join_all};
use serde_json::json;
use support::{DEADLINE, Running, http2::Http2};
use tokio::{net::TcpStream, time::timeout};

const VERSION: (&str, &str) = ("sec-websocket-version", "13");

/// As many as the node allows on one connection.
const STREAMS: usize = 256;

/// Begins with HTTP/2 at once ("prior knowledge").
async fn connect(node: &Running) -> (Http2, tokio::task::JoinHandle<hyper::Result<()>>) {
    let socket = TcpStream::connect(node.public()).await.unwrap();
    Http2::over(socket, "http", &node.public()).await
}

#[tokio::test]
async fn a_websocket_and_pages_share_a_connection() {
    let node = support::node(&[]).await;
    let (http2, _) = connect(&node).await;
    let mut client = http2.socket("/ws").await.subscribed(&["a"]).await;
    let mut raw = http2.socket("/raw/a").await;
    let (status, page) = http2.get("/", &[("accept", "text/html")]).await;
    assert!(status == 200 && page.contains("Development mode"), "{page}");
    client.ask(json!({"publish": {"channel": "a", "data": {"x": 1}}})).await;
    assert_eq!(client.data(1).await, [json!({"x": 1})]);
    assert_eq!(raw.message().await.into_text().unwrap(), r#"{"x":1}"#);
    let mut other = node.client(&["a"]).await; // over HTTP/1, on the same port
    raw.send("from below").await;
    assert_eq!(other.data(1).await, ["from below"]);
    client.stream.close(None).await.unwrap();
    client.closed_by_itself().await;
    raw.send("still here").await;
    assert_eq!(other.data(1).await, ["still here"]);
}

impl support::Client<support::http2::Stream> {
    /// Reads to the end of the stream.
    async fn closed_by_itself(&mut self) {
        use futures_util::StreamExt as _;
        while let Some(Ok(_)) = timeout(DEADLINE, self.stream.next()).await.expect("the stream ends") {}
    }
}

#[tokio::test]
async fn refusals_say_why_over_http2_too() {
    let node = support::node(&[("SKYWAVE__LIMITS__CONNECTIONS", "1")]).await;
    let (http2, _) = connect(&node).await;
    let origin = format!("http://{}", node.public());
    for (path, protocol, headers, status, word) in [
        ("/ws", "websocket", vec![], 400, "version 13"),
        ("/ws", "websocket", vec![("sec-websocket-version", "8")], 400, "version 13"),
        ("/ws", "connect-udp", vec![VERSION], 501, "websocket"),
        ("/nothing", "websocket", vec![VERSION], 404, "not found"),
        ("/ws", "websocket", vec![VERSION, ("sec-websocket-protocol", "other")], 400, "skywave.v1.json"),
        ("/ws", "websocket", vec![VERSION, ("origin", "http://evil.example")], 403, "public.origins"),
        ("/raw/%23a", "websocket", vec![VERSION], 403, "permission_denied"),
    ] {
        let (found, body) = http2.connect(path, protocol, &headers).await.err().expect("it is refused");
        assert!(found == status && body.contains(word), "{path} {headers:?}: {found} {body}");
    }
    let (status, body) = http2.get("/ws", &[]).await;
    assert!(status == 400 && body.contains("WebSocket endpoint"), "{body}");
    // A key is for HTTP/1, and an intermediary may leave it in.
    let headers =
        [VERSION, ("origin", &origin), ("sec-websocket-key", "x"), ("sec-websocket-protocol", "skywave.v1.json")];
    let first = http2.connect("/ws", "websocket", &headers).await.expect("nothing is wrong with it");
    let (status, body) = http2.connect("/ws", "websocket", &[VERSION]).await.err().expect("one is the limit");
    assert!(status == 503 && body.contains("limits.connections"), "{body}");
    drop(first);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while http2.connect("/ws", "websocket", &[VERSION]).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "a seat that was left is taken again");
    }
}

#[tokio::test]
async fn many_websockets_share_a_connection_and_one_more_waits() {
    let node = support::node(&[]).await;
    let (http2, _) = connect(&node).await;
    let mut clients = join_all((0..STREAMS).map(async |_| http2.socket("/ws").await.subscribed(&["a"]).await)).await;
    node.publish("a", json!("all")).await;
    for client in &mut clients {
        assert_eq!(client.data(1).await, ["all"]);
    }
    let (connection, mut waiting) = (http2.clone(), Box::pin(async { http2.socket("/ws").await }));
    assert!(waiting.as_mut().now_or_never().is_none());
    clients.pop();
    waiting.await.subscribed(&["a"]).await;
    drop(connection);
}

#[tokio::test]
async fn a_stream_that_does_not_read_holds_up_no_other() {
    let variables = [("SKYWAVE__LIMITS__OUTBOX_BYTES", "64KiB"), ("SKYWAVE__TIMEOUTS__CLOSE", "100ms")];
    let node = support::node(&variables).await;
    let (http2, _) = connect(&node).await;
    let mut slow = http2.socket("/ws").await.subscribed(&["a"]).await;
    let mut fast = http2.socket("/ws").await.subscribed(&["a"]).await;
    let data = "x".repeat(32 * 1024);
    for number in 0..32 {
        node.publish("a", json!({"number": number, "data": data})).await;
        assert_eq!(fast.push("publication").await["data"]["number"], number);
    }
    // What it had room for, then no more: its outbox was full long ago.
    let mut seen = 0;
    use futures_util::StreamExt as _;
    while let Some(Ok(message)) = timeout(DEADLINE, slow.stream.next()).await.expect("it is closed") {
        seen += usize::from(message.is_text());
    }
    assert!(seen < 16, "{seen} publications wait for it out of sight");
    fast.ask(json!({"ping": {}})).await;
}

#[tokio::test]
async fn a_node_that_leaves_says_so_on_old_connections_and_their_websockets_go_on_until_their_moment() {
    let variables = [
        ("SKYWAVE__AUTH__ANONYMOUS", "true"),
        ("SKYWAVE__NAMESPACES__DEFAULT", "{ subscribe = \"anyone\" }"),
        ("SKYWAVE__DRAIN__GRACE", "1s"),
        ("SKYWAVE__DRAIN__WINDOW", "500ms"),
        ("SKYWAVE__TIMEOUTS__CLOSE", "500ms"),
    ];
    let node = support::closed_node(&variables).await;
    let (http2, connection) = connect(&node).await;
    let mut client = http2.socket("/ws").await.subscribed(&["a"]).await;
    let leaving = tokio::spawn(node.node.drain());
    // GOAWAY: no other stream is begun on this connection, whatever its client wants.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while http2.is_open().await {
        assert!(client.ask(json!({"ping": {}})).await["pong"].is_object(), "its streams go on");
        assert!(tokio::time::Instant::now() < deadline, "the client is told at once");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
    }
    assert!(client.ask(json!({"ping": {}})).await["pong"].is_object(), "its streams go on");
    assert_eq!(client.closed().await, (4001, "draining".into()));
    timeout(DEADLINE, leaving).await.expect("it leaves").unwrap();
    timeout(DEADLINE, connection).await.expect("the connection ends with its last stream").unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_without_streams_ends() {
    let node = support::node(&[("SKYWAVE__TIMEOUTS__HANDSHAKE", "500ms")]).await;
    let (http2, connection) = connect(&node).await;
    let mut client = http2.socket("/ws").await.subscribed(&["a"]).await;
    let used = tokio::time::Instant::now();
    while used.elapsed() < Duration::from_millis(1200) {
        client.ask(json!({"ping": {}})).await; // while a WebSocket is open there is no hurry
    }
    drop(client);
    let left = tokio::time::Instant::now();
    timeout(DEADLINE, connection).await.expect("the connection ends").unwrap().unwrap();
    assert!(left.elapsed() >= Duration::from_millis(450), "{:?}", left.elapsed());
    drop(http2);
}
