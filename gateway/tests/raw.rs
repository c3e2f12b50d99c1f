//! `/raw/{channel}`: payloads and nothing else.
#![allow(missing_docs)]

mod support;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn text_stays_text_and_binary_stays_binary_byte_for_byte() {
    let node = support::node(&[]).await;
    let mut ada = node.socket("/raw/chat%3Aa%20b").await;
    let mut bob = node.socket("/raw/chat:a%20b").await;
    let mut native = node.client(&["chat:a b"]).await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let messages = [
        Message::text("héllo 🛰\n\"quoted\""),
        Message::text("{\"json\":\n 1}"),
        Message::text(""),
        Message::Binary(all_bytes.into()),
        Message::Binary(vec![7; 60_000].into()),
    ];
    for message in &messages {
        ada.send(message.clone()).await;
        assert_eq!((ada.message().await, bob.message().await), (message.clone(), message.clone()));
    }
    assert_eq!(native.data(3).await, [json!("héllo 🛰\n\"quoted\""), json!({"json": 1}), json!("")]);
    native.ask(json!({"publish": {"channel": "chat:a b", "data": "a string"}})).await;
    assert_eq!(ada.message().await, Message::text("\"a string\""), "a JSON string leaves as JSON text");
}

#[tokio::test]
async fn since_recovers_and_a_gap_closes_with_the_position() {
    let node = support::node(&[]).await;
    let first = node.publish("a", json!(1)).await;
    let epoch = first["position"]["epoch"].as_str().unwrap();
    for n in 2..=4 {
        node.publish("a", json!(n)).await;
    }
    let mut client = node.socket(&format!("/raw/a?since={epoch}:1")).await;
    for n in 2..=4 {
        assert_eq!(client.message().await, Message::text(n.to_string()));
    }
    node.publish("a", json!(5)).await;
    assert_eq!(client.message().await, Message::text("5"));
    let mut stranger = node.socket("/raw/a?since=nonsense").await;
    assert_eq!(stranger.closed().await, (4002, format!("{epoch}:5")));
}

#[tokio::test]
async fn bad_addresses_and_missing_rights_are_refused_before_the_upgrade() {
    let node = support::node(&[("SKYWAVE__NAMESPACES__CLOSED", "{ publish = \"anyone\" }")]).await;
    for (path, status) in
        [("/raw/", 400), ("/raw/%ff", 400), ("/raw/%0a", 400), ("/raw/closed:a", 403), ("/raw/%23x", 403)]
    {
        let (found, why) = node.refused(path, &[]).await;
        assert_eq!(found, status, "{path}: {why}");
    }
}

#[tokio::test]
async fn what_may_not_be_published_closes_with_the_reason() {
    let node =
        support::node(&[("SKYWAVE__NAMESPACES__READ", "{ subscribe = \"anyone\", publish = \"nobody\" }")]).await;
    let mut client = node.socket("/raw/read:a").await;
    client.send("x").await;
    assert_eq!(client.closed().await, (4502, "permission_denied".into()));
    let mut client = node.socket("/raw/a").await;
    client.send("x".repeat(65 * 1024)).await;
    assert_eq!(client.closed().await, (1009, "too_large".into()));
}

#[tokio::test]
async fn a_slow_reader_is_told_where_it_stands_and_not_further() {
    const PUBLICATIONS: u64 = 400;
    let variables = [
        ("SKYWAVE__LIMITS__OUTBOX_BYTES", "256KiB"),
        ("SKYWAVE__TIMEOUTS__CLOSE", "1m"),
        ("SKYWAVE__NAMESPACES__BIG", "{ history = { size = 1000, ttl = \"1m\" }, subscribe = \"anyone\" }"),
    ];
    let node = support::node(&variables).await;
    let mut client = node.socket("/raw/big:a").await;
    let filler = "x".repeat(60_000);
    for n in 1..=PUBLICATIONS {
        node.publish("big:a", json!([n, filler])).await;
    }
    let mut received = 0; // the first is the first after the subscription began
    let (code, place) = loop {
        match futures_util::StreamExt::next(&mut client.stream).await.unwrap().unwrap() {
            Message::Text(text) => {
                let n: u64 = text[1..text.find(',').unwrap()].parse().unwrap();
                assert!(received == 0 || n == received + 1, "{n} after {received}: in order, none missing");
                received = n;
            }
            Message::Close(Some(frame)) => break (u16::from(frame.code), frame.reason.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, 4002);
    assert!(place.ends_with(&format!(":{received}")), "{place} after {received}");
    // With that position the rest comes.
    let mut back = node.socket(&format!("/raw/big:a?since={place}")).await;
    for n in received + 1..=PUBLICATIONS {
        let Message::Text(text) = back.message().await else { panic!("text") };
        assert!(text.starts_with(&format!("[{n},")));
    }
}

#[tokio::test]
async fn an_open_connection_hears_everything_from_the_handshake_on() {
    let node = support::node(&[("SKYWAVE__NAMESPACES__LIVE", "{ subscribe = \"anyone\" }")]).await;
    for n in 0..50 {
        let channel = format!("live:{n}");
        let mut client = node.socket(&format!("/raw/{channel}")).await;
        node.publish(&channel, json!(n)).await;
        assert_eq!(client.message().await, Message::text(n.to_string()));
    }
}
