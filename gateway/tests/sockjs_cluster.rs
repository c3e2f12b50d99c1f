//! SockJS without sticky sessions: each request of a session may reach any node.
#![allow(missing_docs)]

mod support;

use serde_json::json;
use support::{Running, ready, redis::RedisServer, request};

const SERVICES: &str = r#"[
    { prefix = "/echo", mode = "echo" },
    { prefix = "/close", mode = "close" },
    { prefix = "/cursors", mode = "raw", channel = "cursors" },
]"#;

async fn cluster(redis: &RedisServer) -> [Running; 2] {
    let url = redis.url();
    let settings = [("SKYWAVE__BACKPLANE__URL", url.as_str()), ("SKYWAVE__SOCKJS", SERVICES)];
    let (paris, oslo) = (support::node(&settings).await, support::node(&settings).await);
    ready(&paris).await;
    ready(&oslo).await;
    [paris, oslo]
}

async fn said(node: &Running, path: &str, body: &str) -> (u16, String) {
    request(&node.public(), "POST", path, &[], body).await
}

#[tokio::test]
async fn any_node_serves_any_request_of_a_session() {
    let redis = RedisServer::start().await;
    let [paris, oslo] = cluster(&redis).await;
    assert_eq!(said(&paris, "/echo/0/a/xhr", "").await, (200, "o\n".to_owned()));
    for (index, (sends, polls)) in [(&oslo, &paris), (&paris, &oslo), (&oslo, &oslo)].into_iter().enumerate() {
        let long = format!("{index}{}", "é".repeat(20_000));
        let (status, body) = said(sends, "/echo/1/a/xhr_send", &json!([long, "b"]).to_string()).await;
        assert_eq!((status, body.as_str()), (204, ""));
        let (status, frame) = said(polls, "/echo/2/a/xhr", "").await;
        assert_eq!((status, frame), (200, format!("a[\"{long}\",\"b\"]\n")));
    }
    // Whichever of the two comes first.
    for round in 0..10 {
        let message = format!("[\"{round}\"]");
        let (frame, sent) =
            tokio::join!(said(&oslo, "/echo/0/a/xhr", ""), said(&paris, "/echo/0/a/xhr_send", &message));
        assert_eq!((frame.1, sent.0), (format!("a{message}\n"), 204));
    }
    assert_eq!(said(&oslo, "/echo/0/nobody/xhr_send", "[\"x\"]").await.0, 404);

    assert_eq!(said(&paris, "/close/0/a/xhr", "").await.1, "o\n");
    assert_eq!(said(&oslo, "/close/0/a/xhr", "").await.1, "c[3000,\"Go away!\"]\n");
}

#[tokio::test]
async fn payloads_reach_sessions_wherever_they_are() {
    let redis = RedisServer::start().await;
    let [paris, oslo] = cluster(&redis).await;
    for (node, path) in [(&paris, "/cursors/0/p/xhr"), (&oslo, "/cursors/0/o/xhr")] {
        assert_eq!(said(node, path, "").await.1, "o\n");
    }
    paris.publish("cursors", json!({"x": 1})).await;
    for path in ["/cursors/0/p/xhr", "/cursors/0/o/xhr"] {
        assert_eq!(said(&oslo, path, "").await.1, "a[\"{\\\"x\\\":1}\"]\n", "{path}");
    }
}
