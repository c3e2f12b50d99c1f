//! A publication reaches every subscriber, in one order.
#![allow(missing_docs)]

mod support;

use serde_json::{Value, json};

#[tokio::test]
async fn a_publication_reaches_subscribers_on_every_shard_and_its_publisher() {
    let node = support::node(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(node.client(&["news"]).await);
    }
    let reply = clients[0].ask(json!({"publish": {"channel": "news", "data": {"x": [1, null]}}})).await;
    assert_eq!(reply["published"]["duplicate"], false);
    for client in &mut clients {
        let publication = client.push("publication").await;
        assert_eq!(publication["data"], json!({"x": [1, null]}));
        assert_eq!(publication["offset"], reply["published"]["position"]["offset"]);
        assert_eq!(publication["epoch"], reply["published"]["position"]["epoch"]);
        assert!(publication["client"].is_string());
    }
}

#[tokio::test]
async fn all_see_one_order_whoever_publishes() {
    const EACH: usize = 250;
    let node = support::node(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(node.client(&["order"]).await);
    }
    for round in 0..EACH {
        for (publisher, client) in clients.iter_mut().enumerate() {
            client.send(json!({"publish": {"channel": "order", "data": [publisher, round]}}).to_string()).await;
        }
    }
    let mut orders: Vec<Vec<Value>> = Vec::new();
    for client in &mut clients {
        orders.push(client.data(4 * EACH).await);
    }
    assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "one order for all");
    for publisher in 0..4 {
        let own = orders[0].iter().filter(|data| data[0] == publisher).map(|data| data[1].as_u64().unwrap());
        assert!(own.eq(0..EACH as u64), "a publisher's own order is kept");
    }
}

#[tokio::test]
async fn without_echo_ones_own_publications_are_left_out() {
    let node = support::node(&[]).await;
    let mut ada = node.client(&[]).await;
    ada.ask(json!({"subscribe": {"channel": "a", "echo": false}})).await;
    let mut bob = node.client(&["a"]).await;
    ada.ask(json!({"publish": {"channel": "a", "data": 1}})).await;
    bob.ask(json!({"publish": {"channel": "a", "data": 2}})).await;
    assert_eq!(bob.data(2).await, [1, 2]);
    assert_eq!(ada.data(1).await, [2]);
}

#[tokio::test]
async fn after_unsubscribe_nothing_comes() {
    let node = support::node(&[]).await;
    let mut client = node.client(&["a", "b"]).await;
    assert_eq!(client.ask(json!({"unsubscribe": {"channel": "a"}})).await["unsubscribed"]["channel"], "a");
    node.publish("a", json!("unheard")).await;
    node.publish("b", json!("heard")).await;
    assert_eq!(client.push("publication").await["data"], "heard");
}

#[tokio::test]
async fn the_same_key_is_published_once() {
    let node = support::node(&[]).await;
    let mut client = node.client(&["a"]).await;
    let publish = json!({"publish": {"channel": "a", "data": 1, "key": "k1"}});
    let first = client.ask(publish.clone()).await;
    let second = client.ask(publish).await;
    assert_eq!(second["published"], json!({"position": first["published"]["position"], "duplicate": true}));
    let mut other = node.client(&["a"]).await;
    let third = other.ask(json!({"publish": {"channel": "a", "data": 2, "key": "k1"}})).await;
    assert_eq!(third["published"]["duplicate"], false, "a key belongs to its publisher");
    assert_eq!(client.data(2).await, [1, 2]);
}

#[tokio::test]
async fn several_commands_stand_in_one_frame() {
    let node = support::node(&[]).await;
    let mut client = node.socket("/ws").await;
    client
        .send("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":3,\"ping\":{}}")
        .await;
    assert!(client.reply(1).await["connected"].is_object());
    let (a, b) = (client.next().await, client.next().await);
    assert!([&a, &b].iter().any(|reply| reply["id"] == 3 && reply["pong"] == json!({})));
    assert!([&a, &b].iter().any(|reply| reply["id"] == 2 && reply["subscribed"]["channel"] == "a"));
}
