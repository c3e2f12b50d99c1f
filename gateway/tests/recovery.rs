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

#[tokio::test]
async fn without_an_id_what_was_missed_follows_as_pushes() {
    let node = support::node(&[]).await;
    let since = position(&node, "a").await;
    for n in 1..=3 {
        node.publish("a", json!(n)).await;
    }
    let mut client = node.client(&[]).await;
    client.send(json!({"subscribe": {"channel": "a", "since": since}}).to_string()).await;
    assert_eq!(client.data(3).await, [1, 2, 3]);
    client.ask(json!({"unsubscribe": {"channel": "a"}})).await;
    let foreign = json!({"epoch": "AAAAAAAA", "offset": 1});
    client.send(json!({"subscribe": {"channel": "a", "since": foreign}}).to_string()).await;
    let gap = client.push("gap").await;
    assert_eq!((&gap["reason"], &gap["position"]["offset"]), (&json!("reset"), &json!(3)));
}

#[tokio::test]
async fn many_channels_with_large_publications_come_back_within_the_bounds() {
    const CHANNELS: usize = 30;
    let node = support::node(&[]).await;
    let filler = "x".repeat(60_000);
    let mut subscribe = Vec::new();
    for n in 0..CHANNELS {
        let channel = format!("c{n}");
        subscribe.push(json!({"channel": channel, "since": position(&node, &channel).await}));
        for offset in 1..=2 {
            node.publish(&channel, json!([offset, filler])).await;
        }
    }
    let mut client = node.socket("/ws").await;
    let reply = client.ask(json!({"connect": {"subscribe": subscribe}})).await;
    assert!(reply.to_string().len() < 100_000, "{} bytes in one reply", reply.to_string().len());
    let mut at: std::collections::HashMap<String, u64> = std::collections::HashMap::new();
    for outcome in reply["connected"]["subscribed"].as_array().unwrap() {
        assert_eq!(outcome["recovered"], true);
        let channel = outcome["channel"].as_str().unwrap().to_owned();
        at.insert(channel, outcome["position"]["offset"].as_u64().unwrap());
    }
    while at.values().any(|offset| *offset < 2) {
        let publication = client.push("publication").await;
        let offset = at.get_mut(publication["channel"].as_str().unwrap()).unwrap();
        *offset += 1;
        assert_eq!(publication["offset"], *offset);
    }
}

#[tokio::test]
async fn commands_behind_connect_wait_for_it_and_one_may_end_what_it_began() {
    let node = support::node(&[]).await;
    let mut client = node.socket("/ws").await;
    client
        .send(
            "{\"id\":1,\"connect\":{\"subscribe\":[{\"channel\":\"a\",\"presence\":true}]}}\n\
             {\"id\":2,\"unsubscribe\":{\"channel\":\"a\"}}\n{\"id\":3,\"ping\":{}}",
        )
        .await;
    for (id, kind) in [(1, "connected"), (2, "unsubscribed"), (3, "pong")] {
        let reply = client.next().await;
        assert!(reply["id"] == id && reply[kind].is_object(), "{reply}");
    }
}

#[tokio::test]
async fn a_quiet_channel_keeps_its_line_while_somebody_is_subscribed() {
    let brief = "{ history = { size = 10, ttl = \"1s\", meta_ttl = \"1s\" }, subscribe = \"anyone\" }";
    let node = support::node(&[("SKYWAVE__NAMESPACES__BRIEF", brief)]).await;
    let mut client = node.client(&["brief:a"]).await;
    let first = node.publish("brief:a", json!(1)).await;
    // Until the history is seen to have expired.
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    let mut reader = node.client(&[]).await;
    while reader.ask(json!({"history": {"channel": "brief:a"}})).await["history"]["publications"] != json!([]) {
        assert!(tokio::time::Instant::now() < deadline, "the history expires");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await; // between two looks at the condition
    }
    let second = node.publish("brief:a", json!(2)).await;
    assert_eq!(second["position"]["epoch"], first["position"]["epoch"]);
    assert_eq!(second["position"]["offset"], 2);
    assert_eq!(client.next().await["publication"]["data"], 1);
    assert_eq!(client.next().await["publication"]["data"], 2, "and no gap between");
}

#[tokio::test]
async fn an_answer_belongs_to_the_subscription_that_asked() {
    let node = support::node(&[]).await;
    let mut keepers = Vec::new();
    for _ in 0..4 {
        keepers.push(node.client(&["a"]).await); // the channel is live on every shard
    }
    let start = position(&node, "a").await;
    for n in 1..=50 {
        node.publish("a", json!(n)).await;
    }
    let at = |offset: u64| json!({"epoch": start["epoch"], "offset": offset});
    for _ in 0..20 {
        let mut client = node.client(&[]).await;
        let commands = [
            json!({"subscribe": {"channel": "a", "since": at(40)}}),
            json!({"unsubscribe": {"channel": "a"}}),
            json!({"id": 1000, "subscribe": {"channel": "a", "since": at(20)}}),
            json!({"unsubscribe": {"channel": "a"}}),
            json!({"id": 1001, "subscribe": {"channel": "a"}}),
        ];
        client.send(commands.map(|command| command.to_string()).join("\n")).await;
        let reply = client.reply(1001).await;
        assert!(reply["subscribed"].get("recovered").is_none(), "nobody asked for it: {reply}");
        let again = json!([
            json!({"unsubscribe": {"channel": "a"}}),
            json!({"subscribe": {"channel": "a", "since": at(40)}}),
            json!({"unsubscribe": {"channel": "a"}}),
            json!({"id": 1002, "subscribe": {"channel": "a", "since": at(20)}}),
        ]);
        let lines: Vec<_> = again.as_array().unwrap().iter().map(Value::to_string).collect();
        client.send(lines.join("\n")).await;
        let reply = client.reply(1002).await;
        let publications = reply["subscribed"]["publications"].as_array().unwrap();
        let data: Vec<_> = publications.iter().map(|publication| publication["data"].clone()).collect();
        assert_eq!((&reply["subscribed"]["recovered"], data), (&json!(true), (21..=50).map(Value::from).collect()));
    }
}
