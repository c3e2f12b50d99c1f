//! Connections that leave because their node says so: all of them, as many as are too many, or one that is too old.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use skywave_gateway::config::{Flags, Settings};
use support::{Client, DEADLINE, Running, ready, redis::RedisServer};
use tokio::{io::AsyncReadExt as _, time::timeout};
use tokio_util::sync::CancellationToken;

/// Not in development mode, so that what a drain takes is what is set.
const OPEN: [(&str, &str); 2] = [("SKYWAVE__AUTH__ANONYMOUS", "true"), ("SKYWAVE__NAMESPACES__DEFAULT", HISTORY)];
const HISTORY: &str =
    "{ history = { size = 100, ttl = \"10m\" }, presence = true, subscribe = \"anyone\", publish = \"anyone\" }";

async fn open_node(variables: &[(&str, &str)]) -> Running {
    support::closed_node(&[&OPEN, variables].concat()).await
}

#[tokio::test]
async fn until_its_moment_a_connection_works_as_ever_and_nobody_new_is_let_in() {
    let drain = [("SKYWAVE__DRAIN__GRACE", "4s"), ("SKYWAVE__DRAIN__WINDOW", "500ms")];
    let node = open_node(&drain).await;
    let mut client = node.client(&["a"]).await;
    let mut neighbour = node.client(&["a"]).await;
    let (public, internal) = (node.public(), node.internal());
    let drained = tokio::spawn(node.node.drain());
    let status = async || reqwest::get(format!("http://{internal}/readyz")).await.unwrap().status().as_u16();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while status().await != 503 {
        assert!(tokio::time::Instant::now() < deadline, "it is not ready at once");
    }
    let refused = reqwest::Client::new()
        .get(format!("http://{public}/ws"))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send()
        .await
        .unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert!(client.ask(json!({"publish": {"channel": "a", "data": "still here"}})).await["published"].is_object());
    assert_eq!(neighbour.data(1).await, ["still here"]);
    assert!(client.ask(json!({"subscribe": {"channel": "b"}})).await["subscribed"].is_object());
    assert_eq!(client.closed().await, (4001, "draining".into()));
    assert_eq!(neighbour.closed().await, (4001, "draining".into()));
    timeout(DEADLINE, drained).await.expect("it has nobody left to wait for").unwrap();
}

#[tokio::test]
async fn who_does_not_go_is_cut_at_the_deadline() {
    let node = open_node(&[
        ("SKYWAVE__DRAIN__GRACE", "0s"),
        ("SKYWAVE__DRAIN__WINDOW", "0s"),
        ("SKYWAVE__DRAIN__DEADLINE", "1s"),
        ("SKYWAVE__TIMEOUTS__CLOSE", "1m"),
    ])
    .await;
    let silent = node.client(&["a"]).await; // it never answers the close
    let begun = tokio::time::Instant::now();
    timeout(DEADLINE, node.node.drain()).await.expect("the deadline ends it");
    assert!(begun.elapsed() >= Duration::from_secs(1), "it was waited for");
    let mut rest = Vec::new();
    let mut socket = silent.stream.into_inner();
    let read = timeout(DEADLINE, socket.read_to_end(&mut rest)).await.expect("the socket is closed");
    assert!(read.is_err() || rest.windows(8).any(|part| part == b"draining"), "it was told all the same");
}

async fn cluster(redis: &RedisServer, names: &[&'static str], variables: &[(&str, &str)]) -> Vec<Running> {
    let url = redis.url();
    let start = |name: &'static str| {
        let own = [("SKYWAVE__BACKPLANE__URL", url.as_str()), ("SKYWAVE__NODE__NAME", name)];
        let variables = [&own, variables].concat();
        async move {
            let node = support::node(&variables).await;
            ready(&node).await;
            node
        }
    };
    join_all(names.iter().map(|name| start(name))).await
}

/// Waits until this node knows that each node has so many connections.
async fn counted(node: &Running, wanted: [u64; 2]) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let nodes = node.call("nodes", json!({})).await.1;
        let mut found: Vec<_> =
            nodes["nodes"].as_array().unwrap().iter().map(|node| node["connections"].as_u64()).collect();
        found.sort_unstable();
        if found == wanted.map(Some) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "counted at last: {nodes}");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
    }
}

/// Reads until all is over, or the node says goodbye: what it said.
async fn stay(mut client: Client, over: CancellationToken) -> Option<Value> {
    let told = async {
        let goodbye = client.push("disconnect").await;
        assert_eq!(client.closed().await, (4003, "rebalanced".into()));
        goodbye
    };
    tokio::select! {
        goodbye = told => Some(goodbye),
        () = over.cancelled() => None,
    }
}

#[tokio::test]
async fn after_a_node_was_added_the_old_one_sends_away_what_it_has_above_the_mean() {
    let redis = RedisServer::start().await;
    let nodes = cluster(&redis, &["paris", "oslo"], &[]).await;
    let [paris, oslo] = &nodes[..] else { unreachable!() };
    let clients = join_all((0..9).map(|_| paris.client(&["a"]))).await;
    let mut there = oslo.client(&["a"]).await;
    counted(oslo, [1, 9]).await;
    let over = CancellationToken::new();
    let stays = clients.into_iter().map(|client| tokio::spawn(stay(client, over.clone())));
    let stays: Vec<_> = stays.collect();
    let (status, answer) = oslo.call("drain", json!({"node": "paris", "down_to_mean": true})).await;
    assert_eq!((status, answer), (200, json!({"nodes": 1})));
    counted(oslo, [1, 5]).await;
    over.cancel();
    let away: Vec<_> = join_all(stays).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(away.len(), 4, "as many as are above the mean: {away:?}");
    for goodbye in away {
        assert_eq!((&goodbye["code"], &goodbye["reconnect"]), (&json!(4003), &json!(true)));
        assert!(goodbye["after_ms"].as_u64().unwrap() <= 1000, "{goodbye}");
    }
    assert_eq!(paris.http("GET", "/readyz", &[], "").await.0, 200, "it stays");
    let mut back = paris.client(&["a"]).await;
    assert!(back.ask(json!({"ping": {}})).await["pong"].is_object());
    assert!(there.ask(json!({"ping": {}})).await["pong"].is_object(), "and nobody else is meant");
}

#[tokio::test]
async fn who_comes_back_elsewhere_in_time_has_never_left() {
    let redis = RedisServer::start().await;
    let mut nodes = cluster(&redis, &["paris", "oslo"], &[("SKYWAVE__TIMEOUTS__SESSION_GRACE", "4s")]).await;
    let (oslo, paris) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let mut watcher = oslo.client(&[]).await;
    watcher.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    let mut ada = paris.socket("/ws").await;
    let connected = ada.ask(json!({"connect": {"subscribe": [{"channel": "a"}]}})).await["connected"].take();
    assert_eq!(watcher.push("join").await["member"]["client"], connected["client"]);
    let drained = tokio::spawn(paris.node.drain());
    assert_eq!(ada.closed().await.0, 4001);
    let mut back = oslo.socket("/ws").await;
    let again = json!({"session": connected["session"], "subscribe": [{"channel": "a", "since": connected["subscribed"][0]["position"]}]});
    let again = back.ask(json!({"connect": again})).await["connected"].take();
    assert_eq!((&again["client"], &again["subscribed"][0]["recovered"]), (&connected["client"], &json!(true)));
    drained.await.unwrap();
    // Somebody else joins after all that, on a node that has seen it: nothing came before.
    let other = oslo.client(&["a"]).await;
    drop(other);
    assert_ne!(watcher.push("join").await["member"]["client"], connected["client"]);
    let left = watcher.push("leave").await;
    assert_ne!(left["member"]["client"], connected["client"], "it has never left");
}

#[tokio::test]
async fn a_connection_that_is_too_old_comes_back() {
    let node = support::node(&[("SKYWAVE__TIMEOUTS__CONNECTION_AGE", "{ max = \"3s\", jitter = 0.1 }")]).await;
    let mut client = node.client(&["a"]).await;
    let mut raw = node.socket("/raw/a").await;
    let position = node.publish("a", json!(1)).await["position"].take();
    assert_eq!(client.closed().await, (4005, "connection_too_old".into()));
    let goodbye = client.before_close().pop().unwrap();
    assert!(goodbye["disconnect"]["after_ms"].as_u64().unwrap() <= 1000, "{goodbye}");
    assert_eq!(raw.message().await.into_text().unwrap(), "1");
    let place = format!("{}:{}", position["epoch"].as_str().unwrap(), position["offset"]);
    assert_eq!(raw.closed().await, (1012, place));
}

#[test]
fn ages_differ_and_are_within_the_jitter() {
    let age = |text: &str| {
        let flags = Flags { dev: true, ..Flags::default() };
        Settings::load(&flags, [("SKYWAVE__TIMEOUTS__CONNECTION_AGE", text)]).unwrap().timeouts.connection_age
    };
    let hour = age("{ max = \"1h\", jitter = 0.5 }");
    assert_eq!([0.0, 0.5, 1.0].map(|random| hour.choose(random).unwrap().as_secs()), [1800, 3600, 5400]);
    assert_eq!(age("{ max = \"0s\" }").choose(0.7), None);
}
