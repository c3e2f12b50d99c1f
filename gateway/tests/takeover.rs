//! A client that comes back twice is one client: the newest connection speaks for it.
#![allow(missing_docs)]

mod support;

use prost::Message as _;
use serde_json::{Value, json};
use skywave_proto::v1::{Signal, signal};
use support::{Client, Running, redis::RedisServer};

async fn connect(node: &Running, session: Option<&Value>) -> (Client, Value) {
    let mut client = node.socket("/ws").await;
    let mut connect = json!({"subscribe": [{"channel": "a"}]});
    if let Some(session) = session {
        connect["session"] = session.clone();
    }
    let connected = client.ask(json!({"connect": connect})).await["connected"].take();
    (client, connected)
}

#[tokio::test]
async fn a_newer_connection_closes_the_older_and_presence_notices_nothing() {
    let node = support::node(&[("SKYWAVE__TIMEOUTS__SESSION_GRACE", "50ms")]).await;
    let mut watcher = node.client(&[]).await;
    watcher.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    let (mut first, connected) = connect(&node, None).await;
    assert_eq!(watcher.push("join").await["member"]["client"], connected["client"]);
    let (mut second, again) = connect(&node, Some(&connected["session"])).await;
    assert_eq!(again["client"], connected["client"]);
    assert_eq!(first.closed().await, (4506, "replaced".into()));
    // The session of before is as good: it is the newer connection that counts, not the newer session.
    let (mut third, _) = connect(&node, Some(&connected["session"])).await;
    assert_eq!(second.closed().await, (4506, "replaced".into()));
    // Somebody is cut after both, and has left when the same grace is over: had they counted, their leave came before.
    let (cut, later) = connect(&node, None).await;
    drop(cut);
    assert_eq!(watcher.next().await["join"]["member"]["client"], later["client"]);
    assert_eq!(watcher.next().await["leave"]["member"]["client"], later["client"]);
    third.ask(json!({"unsubscribe": {"channel": "a"}})).await;
    third.ask(json!({"subscribe": {"channel": "a"}})).await;
    assert_eq!(watcher.next().await["leave"]["member"]["client"], connected["client"]);
    assert_eq!(watcher.next().await["join"]["member"]["client"], connected["client"]);
}

#[tokio::test]
async fn what_another_node_says_closes_only_an_older_connection() {
    let node = support::node(&[]).await;
    let (mut ada, connected) = connect(&node, None).await;
    let now = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let sink = node.node.sink();
    let replaced = |client: &str, serial| {
        let op = signal::Op::Replaced(signal::Replaced { client: client.to_owned(), serial });
        sink.signal("elsewhere".into(), Signal { op: Some(op) }.encode_to_vec().into());
    };
    let client = connected["client"].as_str().unwrap();
    replaced(client, now - 60_000);
    replaced("somebody else", now + 60_000);
    // A survey goes through the same queue, so it comes behind them.
    let connections = node.call("connections", json!({"client": client})).await.1;
    assert_eq!(connections["connections"].as_array().unwrap().len(), 1, "what is older closes nothing");
    replaced(client, now + 60_000);
    assert_eq!(ada.closed().await, (4506, "replaced".into()));
}

#[tokio::test]
async fn a_newer_connection_closes_the_older_on_another_node() {
    let redis = RedisServer::start().await;
    let grace = ("SKYWAVE__TIMEOUTS__SESSION_GRACE", "50ms");
    let url = redis.url();
    let start = async || {
        let node = support::node(&[("SKYWAVE__BACKPLANE__URL", &url), grace]).await;
        support::ready(&node).await;
        node
    };
    let (paris, oslo) = (start().await, start().await);
    let mut watcher = oslo.client(&[]).await;
    watcher.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    let (mut first, connected) = connect(&paris, None).await;
    assert_eq!(watcher.push("join").await["member"]["client"], connected["client"]);
    let (mut second, again) = connect(&oslo, Some(&connected["session"])).await;
    assert_eq!(again["client"], connected["client"]);
    assert_eq!(first.closed().await, (4506, "replaced".into()));
    let (mut third, _) = connect(&paris, Some(&again["session"])).await;
    assert_eq!(second.closed().await, (4506, "replaced".into()));
    third.ask(json!({"unsubscribe": {"channel": "a"}})).await;
    assert_eq!(watcher.next().await["leave"]["member"]["client"], connected["client"], "once, and now");
}

#[tokio::test]
async fn orders_and_surveys_reach_every_node() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let start = async |name: &str| {
        let node = support::node(&[("SKYWAVE__BACKPLANE__URL", &url), ("SKYWAVE__NODE__NAME", name)]).await;
        support::ready(&node).await;
        node
    };
    let (paris, oslo) = (start("paris").await, start("oslo").await);
    let (_here, _) = connect(&paris, None).await;
    let (mut there, connected) = connect(&oslo, None).await;
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while paris.call("nodes", json!({})).await.1["nodes"].as_array().is_none_or(|nodes| nodes.len() != 2) {
        assert!(tokio::time::Instant::now() < deadline, "both nodes are known");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // between two looks at the condition
    }
    let counted = paris.call("channels", json!({})).await.1;
    assert_eq!(counted, json!({"channels": [{"channel": "a", "subscriptions": 2}], "silent_nodes": []}));
    let found = paris.call("connections", json!({"client": connected["client"]})).await.1;
    assert_eq!(found["connections"][0]["node"], "oslo");
    let told = paris.call("unsubscribe", json!({"client": connected["client"], "channel": "a"})).await;
    assert_eq!(told, (200, json!({"nodes": 2})));
    assert_eq!(there.push("unsubscribed").await, json!({"channel": "a", "reason": "api"}));
    paris.call("disconnect", json!({"client": connected["client"]})).await;
    assert_eq!(there.closed().await.0, 4503);
}
