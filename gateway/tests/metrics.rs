//! What the metrics say is what happened.
#![allow(missing_docs)]

mod support;

use serde_json::json;
use support::raw::{CLOSE, RawClient, TEXT, frame};

#[tokio::test]
async fn they_count_what_happened_and_their_labels_do_not_grow() {
    let node = support::measured_node(&[
        ("SKYWAVE__NAMESPACES__CHAT", "{ subscribe = \"anyone\" }"),
        ("SKYWAVE__TIMEOUTS__CLOSE", "500ms"),
    ])
    .await;
    let value = async |series: &str| {
        let page = node.http("GET", "/metrics", &[], "").await.1;
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        line.and_then(|value| value.parse::<f64>().ok())
    };
    let deliveries =
        |namespace: &str| format!("skywave_deliveries_total{{node=\"measured\",namespace=\"{namespace}\"}}");
    assert_eq!(value(&deliveries("chat")).await, Some(0.0), "counters start at 0");

    let mut clients = [node.client(&["chat:a", "räume:1"]).await, node.client(&["chat:a"]).await];
    node.publish("chat:a", json!(1)).await;
    node.publish("räume:1", json!(2)).await;
    assert_eq!(clients[0].data(2).await, [1, 2]);
    assert_eq!(clients[1].data(1).await, [1]);
    assert_eq!(value(&deliveries("chat")).await, Some(2.0));
    assert_eq!(value(&deliveries("default")).await, Some(1.0), "a name that a client made up is no label");
    assert!(!node.http("GET", "/metrics", &[], "").await.1.contains("räume"));
    assert_eq!(value("skywave_subscriptions{node=\"measured\"}").await, Some(3.0));
    let connections = "skywave_connections{node=\"measured\",transport=\"websocket\",protocol=\"json\"}";
    assert_eq!(value(connections).await, Some(2.0));
    let streams = "skywave_connections{node=\"measured\",transport=\"sse\",protocol=\"events\"}";
    let mut stream = node.stream("/sse?channel=stream").await;
    stream.position().await;
    assert_eq!(value(streams).await, Some(1.0), "each transport has its own");
    drop(stream);

    let accepted = async || {
        let series = "skywave_publications_total{node=\"measured\",namespace=\"chat\",source=\"api\"}";
        value(series).await
    };
    assert_eq!(accepted().await, Some(1.0));
    let replicated = json!({"channel": "chat:a", "data": 3, "durability": {"replicated": 1, "within_ms": 1}});
    let (status, refused) = node.call("publish", replicated).await;
    assert_eq!((status, &refused["code"]), (504, &json!("not_replicated")));
    assert_eq!(accepted().await, Some(2.0), "stored and delivered all the same");

    assert_eq!(value("skywave_nodes{node=\"measured\"}").await, Some(1.0), "this one");
    assert_eq!(value("skywave_signals_dropped_total{node=\"measured\",direction=\"in\"}").await, Some(0.0));
    for reason in skywave_gateway::metrics::TOKEN_REASONS {
        let series = format!("skywave_tokens_refused_total{{node=\"measured\",reason=\"{reason}\"}}");
        assert_eq!(value(&series).await, Some(0.0), "{reason}");
    }

    for client in &mut clients {
        client.stream.close(None).await.unwrap();
    }
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while value(connections).await != Some(0.0)
        || value(streams).await != Some(0.0)
        || value("skywave_subscriptions{node=\"measured\"}").await != Some(0.0)
    {
        assert!(tokio::time::Instant::now() < deadline, "gauges come back to 0");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // between two looks at the condition
    }
    assert_eq!(value("skywave_connections_opened_total{node=\"measured\"}").await, Some(3.0));

    // Each end is counted for what it was.
    let ended = |reason: &str| format!("skywave_connections_closed_total{{node=\"measured\",reason=\"{reason}\"}}");
    let until = async |series: &str, count: f64| {
        let deadline = tokio::time::Instant::now() + support::DEADLINE;
        while value(series).await != Some(count) {
            assert!(tokio::time::Instant::now() < deadline, "{series} becomes {count}: {:?}", value(series).await);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await; // between two looks at the condition
        }
    };
    until(&ended("none"), 3.0).await;
    drop(RawClient::open(&node.public(), "/ws", "").await);
    until(&ended("abnormal"), 1.0).await;
    for (sent, reason) in [
        (frame(CLOSE, &1000u16.to_be_bytes()), "normal"),
        (frame(CLOSE, &1001u16.to_be_bytes()), "going_away"),
        (frame(TEXT | 0x40, b"a"), "protocol_error"),
        (frame(TEXT, b"\xff"), "invalid_payload"),
    ] {
        let mut client = RawClient::open(&node.public(), "/ws", "").await;
        client.write(&sent).await;
        client.closed().await;
        until(&ended(reason), 1.0).await;
    }
    // Whoever is closed and takes nothing is counted by the close, not as gone.
    let _reads_nothing = RawClient::open(&node.public(), "/raw/chat:a", "").await;
    let filler = "x".repeat(60_000);
    for _ in 0..400 {
        node.publish("chat:a", json!(filler)).await;
        if value(&ended("slow_consumer")).await != Some(0.0) {
            break;
        }
    }
    until(&ended("slow_consumer"), 1.0).await;
    assert_eq!(value(&ended("abnormal")).await, Some(1.0));
}
