//! Bad input gets a code from the one table, and the connection is kept where it can be.
#![allow(missing_docs)]

mod support;

use futures_util::SinkExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

#[tokio::test]
async fn commands_that_are_none_are_refused_and_the_connection_is_kept() {
    let closed = "{ subscribe = \"anyone\", publish = \"nobody\" }";
    let node = support::node(&[("SKYWAVE__NAMESPACES__CLOSED", closed)]).await;
    let mut client = node.client(&["a", "closed:a"]).await;
    let long = "x".repeat(256);
    let large = "x".repeat(64 * 1024);
    for (command, code) in [
        (json!({"dance": {}}), "bad_request"),
        (json!({"subscribe": {"channel": 7}}), "bad_request"),
        (json!({"subscribe": {"channel": ""}}), "bad_request"),
        (json!({"subscribe": {"channel": long}}), "bad_request"),
        (json!({"subscribe": {"channel": "a\nb"}}), "bad_request"),
        (json!({"subscribe": {"channel": " a"}}), "bad_request"),
        (json!({"subscribe": {"channel": "#user:1"}}), "permission_denied"),
        (json!({"subscribe": {"channel": "a"}}), "already_subscribed"),
        (json!({"subscribe": {"channel": "z", "token": "x"}}), "unauthenticated"),
        (json!({"unsubscribe": {"channel": "z"}}), "not_subscribed"),
        (json!({"publish": {"channel": "z", "data": 1}}), "permission_denied"),
        (json!({"publish": {"channel": "closed:a", "data": 1}}), "permission_denied"),
        (json!({"publish": {"channel": "a"}}), "bad_request"),
        (json!({"publish": {"channel": "a", "data": large}}), "too_large"),
        (json!({"publish": {"channel": "a", "data": 1, "key": ""}}), "bad_request"),
        (json!({"publish": {"channel": "a", "data_base64": "*"}}), "bad_request"),
        (json!({"history": {"channel": "closed:a"}}), "no_history"),
        (json!({"history": {"channel": "a", "limit": -1}}), "bad_request"),
        (json!({"connect": {}}), "bad_request"),
        (json!({"refresh": {"token": "x"}}), "bad_request"),
        (json!({"rpc": {"method": "x"}}), "not_found"),
    ] {
        let reply = client.ask(command.clone()).await;
        assert_eq!(reply["error"]["code"], code, "{command} -> {reply}");
        assert!(!reply["error"]["message"].as_str().unwrap().is_empty());
        assert_eq!((&reply["error"]["retry"], &reply["error"]["after_ms"]), (&json!(false), &json!(0)));
    }
    client.send("this is no JSON").await;
    assert_eq!(client.push("error").await["code"], "bad_request");
    client.send(Message::Binary(vec![1, 2, 3].into())).await;
    assert_eq!(client.push("error").await["code"], "bad_request");
    assert_eq!(client.ask(json!({"ping": {}})).await["pong"], json!({}), "still here");
}

#[tokio::test]
async fn a_publish_without_an_id_is_silent_unless_it_fails() {
    let node = support::node(&[]).await;
    let mut client = node.client(&["a"]).await;
    client.send(json!({"publish": {"channel": "a", "data": 1}}).to_string()).await;
    assert!(client.next().await["publication"].is_object());
    client.send(json!({"publish": {"channel": "b", "data": 1}}).to_string()).await;
    let error = client.next().await;
    assert_eq!((error.get("id"), &error["error"]["code"]), (None, &json!("permission_denied")));
}

#[tokio::test]
async fn too_many_channels_are_refused_with_the_limit() {
    let node = support::node(&[("SKYWAVE__LIMITS__CHANNELS_PER_CONNECTION", "2")]).await;
    let mut client = node.client(&["a", "b"]).await;
    let error = client.ask(json!({"subscribe": {"channel": "c"}})).await["error"].clone();
    assert_eq!((&error["code"], &error["retry"]), (&json!("limit"), &json!(true)));
    assert!(error["message"].as_str().unwrap().contains("limits.channels_per_connection"));
}

#[tokio::test]
async fn messages_that_break_the_websocket_protocol_end_with_its_codes() {
    let node = support::node(&[("SKYWAVE__LIMITS__FRAME_BYTES", "70000")]).await;
    let text = |payload: Vec<u8>| Message::Frame(Frame::message(payload, OpCode::Data(Data::Text), true));
    for (message, code) in [
        (text(vec![0xff, 0xfe]), 1007),
        (Message::text("x".repeat(70_001)), 1009),
        (Message::Frame(Frame::message(vec![0; 4], OpCode::Data(Data::Reserved(5)), true)), 1002),
        (Message::Frame(Frame::message(vec![0; 4], OpCode::Data(Data::Continue), true)), 1002),
    ] {
        let mut client = node.client(&[]).await;
        client.stream.send(message).await.unwrap();
        assert_eq!(client.closed().await.0, code);
    }
    node.client(&["a"]).await; // the node is none the worse
}

#[tokio::test]
async fn who_says_nothing_is_let_go() {
    let node = support::node(&[("SKYWAVE__TIMEOUTS__CONNECT", "1s")]).await;
    assert_eq!(node.socket("/ws").await.closed().await.0, 4504);
}

#[tokio::test]
async fn who_does_not_answer_a_ping_is_let_go() {
    let variables = [
        ("SKYWAVE__TIMEOUTS__PING_INTERVAL", "1s"),
        ("SKYWAVE__TIMEOUTS__PONG", "1s"),
        ("SKYWAVE__TIMEOUTS__CLOSE", "100ms"),
        ("SKYWAVE__TIMEOUTS__SESSION_GRACE", "0s"),
    ];
    let node = support::node(&variables).await;
    let mut watcher = node.client(&[]).await;
    watcher.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    let deaf = node.client(&["a"]).await; // nobody reads from it, so nobody answers
    watcher.push("join").await;
    watcher.push("leave").await;
    drop(deaf);
}
