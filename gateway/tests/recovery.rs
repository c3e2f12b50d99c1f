//! Whoever comes back gets exactly what was missed, or is told that it cannot be had.
#![allow(missing_docs)]

mod support;

use serde_json::{Value, json};
use support::Running;

async fn position(node: &Running, channel: &str) -> Value {
    let mut client = node.client(&[]).await;
    client.ask(json!({"subscribe": {"channel": channel}})).await["subscribed"]["position"].clone()
}

#[tokio::test]
async fn what_was_missed_stands_in_the_reply_and_live_follows() {
    let node = support::node(&[]).await;
    let since = position(&node, "a").await;
    for n in 1..=5 {
        node.publish("a", json!(n)).await;
    }
    let mut client = node.client(&[]).await;
    let reply = client.ask(json!({"subscribe": {"channel": "a", "since": since}})).await;
    let subscribed = &reply["subscribed"];
    assert_eq!(subscribed["recovered"], true);
    let data: Vec<_> = subscribed["publications"].as_array().unwrap().iter().map(|p| p["data"].clone()).collect();
    assert_eq!(data, [1, 2, 3, 4, 5]);
    assert_eq!(subscribed["position"]["offset"], 5);
    node.publish("a", json!(6)).await;
    assert_eq!(client.push("publication").await["offset"], 6);
}

#[tokio::test]
async fn nothing_missed_is_recovered_with_nothing() {
    let node = support::node(&[]).await;
    let since = position(&node, "a").await;
    let mut client = node.client(&[]).await;
    let reply = client.ask(json!({"subscribe": {"channel": "a", "since": since}})).await;
    assert_eq!(reply["subscribed"]["recovered"], true);
    assert_eq!(reply["subscribed"]["publications"], json!([]));
}

#[tokio::test]
async fn what_has_left_the_history_is_not_called_recovered() {
    let node = support::node(&[]).await;
    let epoch = node.publish("other", json!(0)).await["position"]["epoch"].clone();
    let since = position(&node, "a").await;
    for n in 0..101 {
        node.publish("a", json!(n)).await;
    }
    let mut client = node.client(&[]).await;
    let reply = client.ask(json!({"subscribe": {"channel": "a", "since": since}})).await;
    assert_eq!(reply["subscribed"]["recovered"], false, "101 publications, 100 kept");
    assert_eq!(reply["subscribed"]["position"]["offset"], 101);
    for foreign in [json!({"epoch": epoch, "offset": 1}), json!({"epoch": "?", "offset": 0})] {
        client.ask(json!({"unsubscribe": {"channel": "a"}})).await;
        let reply = client.ask(json!({"subscribe": {"channel": "a", "since": foreign}})).await;
        assert_eq!(reply["subscribed"]["recovered"], false, "{foreign}");
    }
}

#[tokio::test]
async fn more_than_a_reply_holds_follows_as_pushes_before_live() {
    const PUBLICATIONS: u64 = 100;
    let node = support::node(&[("SKYWAVE__NAMESPACES__BUSY", BUSY)]).await;
    let since = position(&node, "busy:a").await;
    let filler = "x".repeat(10_000);
    for n in 1..=PUBLICATIONS {
        node.publish("busy:a", json!([n, filler])).await;
    }
    let mut client = node.client(&[]).await;
    let id = client.tell(json!({"subscribe": {"channel": "busy:a", "since": since}})).await;
    for n in 1..=20 {
        node.publish("busy:a", json!(["live", n])).await;
    }
    let reply = client.reply(id).await;
    let subscribed = &reply["subscribed"];
    assert_eq!(subscribed["recovered"], true);
    let first = subscribed["publications"].as_array().unwrap();
    assert!(!first.is_empty() && first.len() <= 7, "at most 64 KiB in the reply, found {}", first.len());
    let mut offset = subscribed["position"]["offset"].as_u64().unwrap();
    assert_eq!(offset, first.len() as u64);
    while offset < PUBLICATIONS + 20 {
        let publication = client.push("publication").await;
        offset += 1;
        assert_eq!(publication["offset"], offset, "in order, none missing, none twice");
    }
}

#[tokio::test]
async fn recovery_under_load_loses_and_doubles_nothing() {
    const PUBLICATIONS: u64 = 3000;
    let node = support::node(&[("SKYWAVE__NAMESPACES__BUSY", BUSY)]).await;
    let since = position(&node, "busy:a").await;
    let mut publisher = node.client(&["busy:a"]).await;
    let mut clients = Vec::new();
    for round in 0..10u64 {
        for n in 0..PUBLICATIONS / 10 {
            let data = json!({"publish": {"channel": "busy:a", "data": round * PUBLICATIONS / 10 + n}});
            publisher.send(data.to_string()).await;
        }
        let mut client = node.client(&[]).await;
        let id = client.tell(json!({"subscribe": {"channel": "busy:a", "since": since}})).await;
        clients.push((client, id));
    }
    for (mut client, id) in clients {
        let reply = client.reply(id).await;
        assert_eq!(reply["subscribed"]["recovered"], true);
        let mut offset = reply["subscribed"]["position"]["offset"].as_u64().unwrap();
        assert_eq!(offset, reply["subscribed"]["publications"].as_array().unwrap().len() as u64);
        while offset < PUBLICATIONS {
            offset += 1;
            assert_eq!(client.push("publication").await["offset"], offset);
        }
    }
}

const BUSY: &str = "{ history = { size = 10000, ttl = \"1m\" }, subscribe = \"anyone\", publish = \"subscribers\" }";

#[tokio::test]
async fn a_session_keeps_the_client_and_replaces_its_older_connection() {
    let node = support::node(&[]).await;
    let mut old = node.socket("/ws").await;
    let connected = old.ask(json!({"connect": {}})).await["connected"].clone();
    let mut new = node.socket("/ws").await;
    let again = new.ask(json!({"connect": {"session": connected["session"]}})).await["connected"].clone();
    assert_eq!(again["client"], connected["client"]);
    assert_eq!(old.closed().await.0, 4506);
    assert_eq!(old.before_close()[0]["disconnect"]["reconnect"], false);
    let mut stranger = node.socket("/ws").await;
    let other = stranger.ask(json!({"connect": {"session": "made.up"}})).await["connected"].clone();
    assert_ne!(other["client"], connected["client"]);
}

#[tokio::test]
async fn connect_recovers_all_subscriptions_in_one_round_trip() {
    let node = support::node(&[]).await;
    let (a, b) = (position(&node, "a").await, position(&node, "b").await);
    node.publish("a", json!(1)).await;
    node.publish("b", json!(2)).await;
    let mut client = node.socket("/ws").await;
    let subscribe = json!([
        {"channel": "a", "since": a}, {"channel": "", "since": a}, {"channel": "b", "since": b}, {"channel": "a"}
    ]);
    let reply = client.ask(json!({"connect": {"subscribe": subscribe}})).await;
    let outcomes = reply["connected"]["subscribed"].as_array().unwrap();
    assert_eq!((&outcomes[0]["recovered"], &outcomes[0]["publications"][0]["data"]), (&json!(true), &json!(1)));
    assert_eq!((&outcomes[1]["channel"], &outcomes[1]["error"]["code"]), (&json!(""), &json!("bad_request")));
    assert_eq!((&outcomes[2]["recovered"], &outcomes[2]["publications"][0]["data"]), (&json!(true), &json!(2)));
    assert_eq!(outcomes[3]["error"]["code"], "already_subscribed");
    node.publish("a", json!(3)).await;
    assert_eq!(client.push("publication").await["data"], 3);
}

#[tokio::test]
async fn history_is_paged_and_says_whether_it_is_complete() {
    let node = support::node(&[]).await;
    for n in 1..=5 {
        node.publish("a", json!(n)).await;
    }
    let mut client = node.client(&[]).await;
    let mut history = async |query: Value| client.ask(json!({"history": query})).await["history"].clone();
    let newest = history(json!({"channel": "a", "limit": 2})).await;
    let data =
        |page: &Value| page["publications"].as_array().unwrap().iter().map(|p| p["data"].clone()).collect::<Vec<_>>();
    assert_eq!(data(&newest), [4, 5]);
    let position = history(json!({"channel": "a", "limit": 0})).await;
    assert_eq!((data(&position), &position["position"]["offset"]), (vec![], &json!(5)));
    let since = json!({"epoch": position["position"]["epoch"], "offset": 1});
    let page = history(json!({"channel": "a", "since": since, "limit": 2})).await;
    assert_eq!((data(&page), &page["complete"], &page["more"]), (vec![json!(2), json!(3)], &json!(true), &json!(true)));
    let foreign = history(json!({"channel": "a", "since": {"epoch": "AAAAAAAA", "offset": 1}})).await;
    assert_eq!(foreign["complete"], false);
}
