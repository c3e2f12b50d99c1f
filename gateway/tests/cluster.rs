//! Several nodes over one Redis.
#![allow(missing_docs)]

mod support;

use serde_json::{Value, json};
use support::{Running, ready, redis::RedisServer};

async fn node(redis: &RedisServer) -> Running {
    let url = redis.url();
    let settings = [
        ("SKYWAVE__BACKPLANE__URL", url.as_str()),
        ("SKYWAVE__NAMESPACES__LIVE", LIVE),
        ("SKYWAVE__NAMESPACES__DEEP", DEEP),
    ];
    support::node(&settings).await
}

const LIVE: &str = "{ subscribe = \"anyone\", publish = \"anyone\" }";
/// Its window holds all that a test publishes, however long an outage is against the speed of the machine.
const DEEP: &str = "{ history = { size = 2000, ttl = \"10m\" }, subscribe = \"anyone\" }";

async fn cluster(redis: &RedisServer) -> [Running; 2] {
    let (paris, oslo) = (node(redis).await, node(redis).await);
    ready(&paris).await;
    ready(&oslo).await;
    [paris, oslo]
}

#[tokio::test]
async fn a_publication_reaches_subscribers_on_every_node() {
    let redis = RedisServer::start().await;
    let [paris, oslo] = cluster(&redis).await;
    let mut ada = paris.client(&["news", "live:x"]).await;
    let mut bob = oslo.client(&["news", "live:x"]).await;
    let reply = ada.ask(json!({"publish": {"channel": "news", "data": "hello"}})).await;
    bob.ask(json!({"publish": {"channel": "live:x", "data": "live"}})).await;
    for client in [&mut ada, &mut bob] {
        let publication = client.push("publication").await;
        assert_eq!(
            (&publication["data"], &publication["epoch"]),
            (&json!("hello"), &reply["published"]["position"]["epoch"])
        );
        assert_eq!(client.data(1).await, ["live"]);
    }
}

#[tokio::test]
async fn one_order_on_all_nodes_and_killed_connections_change_nothing() {
    const EACH: u64 = 500;
    let redis = RedisServer::start().await;
    let [paris, oslo] = cluster(&redis).await;
    let mut clients = Vec::new();
    for node in [&paris, &oslo] {
        for _ in 0..3 {
            clients.push(node.client(&["deep:order"]).await);
        }
    }
    for round in 0..EACH {
        for (place, node) in [&paris, &oslo].into_iter().enumerate() {
            node.publish("deep:order", json!([place, round])).await;
        }
        if round % 100 == 50 {
            let killed = redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
            assert_ne!(killed, ":0", "there was something to kill");
        }
    }
    let mut orders: Vec<Vec<Value>> = Vec::new();
    for client in &mut clients {
        orders.push(client.data(2 * usize::try_from(EACH).unwrap()).await);
    }
    assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "one order for all");
    for place in 0..2 {
        let own = orders[0].iter().filter(|data| data[0] == place).map(|data| data[1].as_u64().unwrap());
        assert!(own.eq(0..EACH), "none lost, none doubled, the order of each publisher kept");
    }
}

#[tokio::test]
async fn who_publishes_right_behind_a_subscribe_hears_it() {
    let redis = RedisServer::start().await;
    let [paris, _oslo] = cluster(&redis).await;
    let mut client = paris.client(&[]).await;
    for n in 0..50 {
        let (subscribe, publish) = (
            json!({"id": 1000 + n, "subscribe": {"channel": format!("c{n}")}}),
            json!({"publish": {"channel": format!("c{n}"), "data": n}}),
        );
        client.send(format!("{subscribe}\n{publish}")).await;
        assert_eq!(client.next().await["subscribed"]["channel"], format!("c{n}"));
        assert_eq!(client.next().await["publication"]["data"], n);
    }
}

#[tokio::test]
async fn a_client_recovers_on_another_node_and_keeps_its_id() {
    let redis = RedisServer::start().await;
    let [paris, oslo] = cluster(&redis).await;
    let mut ada = paris.socket("/ws").await;
    let subscribe = json!({"connect": {"subscribe": [{"channel": "a"}]}});
    let connected = ada.ask(subscribe).await["connected"].clone();
    let since = connected["subscribed"][0]["position"].clone();
    drop(ada);
    for n in 1..=3 {
        paris.publish("a", json!(n)).await;
    }
    let mut ada = oslo.socket("/ws").await;
    let again = json!({"connect": {"session": connected["session"], "subscribe": [{"channel": "a", "since": since}]}});
    let back = ada.ask(again).await["connected"].clone();
    assert_eq!(back["client"], connected["client"]);
    let recovered = &back["subscribed"][0];
    assert_eq!(recovered["recovered"], true);
    let data: Vec<_> = recovered["publications"].as_array().unwrap().iter().map(|p| p["data"].clone()).collect();
    assert_eq!(data, [1, 2, 3]);
}

#[tokio::test]
async fn without_redis_a_node_is_not_ready_delivers_nothing_and_joins_when_it_comes() {
    let mut redis = RedisServer::absent();
    let node = node(&redis).await;
    assert_eq!(node.http("GET", "/readyz", &[], "").await.0, 503);
    assert_eq!(node.http("GET", "/livez", &[], "").await.0, 200);
    assert_eq!(node.refused("/ws", &[]).await.0, 503);
    let (status, problem) = node.call("publish", json!({"channel": "a", "data": 1})).await;
    assert_eq!((status, &problem["code"], &problem["retry"]), (503, &json!("unavailable"), &json!(true)));
    redis.launch().await;
    ready(&node).await;
    let mut client = node.client(&["a"]).await;
    node.publish("a", json!(2)).await;
    assert_eq!(client.data(1).await, [2]);
}

#[tokio::test]
async fn while_redis_is_away_a_subscription_comes_without_members() {
    let mut redis = RedisServer::start().await;
    let paris = node(&redis).await;
    ready(&paris).await;
    // One on each shard, so that the channel is delivered there already.
    let mut clients = [paris.client(&["a"]).await, paris.client(&["a"]).await];
    let mut late = paris.client(&[]).await;
    redis.kill();
    for client in &mut clients {
        assert_eq!(client.push("backplane").await["state"], "degraded");
    }
    let reply = late.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    assert!(reply["subscribed"].is_object() && reply["subscribed"].get("members").is_none(), "{reply}");
}

#[tokio::test]
async fn the_members_that_redis_could_not_tell_follow_when_it_is_back() {
    let mut redis = RedisServer::start().await;
    let paris = node(&redis).await;
    ready(&paris).await;
    let mut clients = [paris.client(&["a"]).await, paris.client(&["a"]).await];
    let mut late = paris.client(&[]).await;
    redis.kill();
    for client in &mut clients {
        assert_eq!(client.push("backplane").await["state"], "degraded");
    }
    let reply = late.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    assert!(reply["subscribed"].get("members").is_none(), "{reply}");
    redis.launch().await;
    while late.push("subscribed").await["total"] != 3 {} // each list is complete for its moment
}

#[tokio::test]
async fn while_redis_is_away_publications_are_refused_and_clients_stay() {
    let mut redis = RedisServer::start().await;
    let [paris, oslo] = cluster(&redis).await;
    let mut ada = paris.client(&["a"]).await;
    redis.kill();
    assert_eq!(ada.push("backplane").await["state"], "degraded");
    let reply = ada.ask(json!({"publish": {"channel": "a", "data": "lost?"}})).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["retry"]), (&json!("unavailable"), &json!(true)));
    assert_eq!(paris.http("GET", "/readyz", &[], "").await.0, 200, "an outage must not empty the service");
    redis.launch().await;
    ready(&oslo).await;
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while oslo.call("publish", json!({"channel": "a", "data": "back"})).await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the other node is back as well");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // between two looks at the condition
    }
    let mut told = Vec::new();
    while !told.iter().any(|value: &Value| value["publication"]["data"] == "back") {
        told.push(ada.next().await);
    }
    let reset = told.iter().position(|value| value["gap"]["reason"] == "reset");
    let back = told.iter().position(|value| value["publication"]["data"] == "back");
    assert!(reset.is_some() && reset < back, "an empty Redis is a new line, and that is said first: {told:?}");
    while !told.iter().any(|value| value["backplane"]["state"] == "ok") {
        told.push(ada.next().await);
    }
}

#[tokio::test]
async fn a_revoked_token_counts_on_no_node_not_even_on_one_that_starts_later() {
    use support::token;
    let redis = RedisServer::start().await;
    let start = async || {
        let node = support::node(&[("SKYWAVE__BACKPLANE__URL", &redis.url()), token::TOKENS]).await;
        ready(&node).await;
        node
    };
    let (paris, oslo) = (start().await, start().await);
    let ada = token::token(json!({"sub": "ada", "iat": token::now() - 60}));
    let connect = async |node: &Running| {
        let mut client = node.socket("/ws").await;
        let reply = client.ask(json!({"connect": {"token": ada}})).await;
        (client, reply)
    };
    let (mut client, reply) = connect(&oslo).await;
    assert!(reply["connected"].is_object(), "{reply}");
    let (status, told) = paris.call("revoke", json!({"user": "ada"})).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(client.closed().await.0, 4500, "she was on the other node");

    // A node that has just begun reads the list; whoever was quicker than that leaves then.
    let rome = start().await;
    let (mut client, reply) = connect(&rome).await;
    assert!(reply["error"]["code"] == "unauthenticated" || reply["connected"].is_object(), "{reply}");
    assert_eq!(client.closed().await.0, 4500);
}

#[tokio::test]
async fn a_node_lets_nobody_in_where_another_version_has_written() {
    let redis = RedisServer::start().await;
    redis.command(&["SET", "skywave:format", "2"]).await.unwrap();
    let oslo = node(&redis).await;
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while let (status, words) = oslo.http("GET", "/readyz", &[], "").await
        && !words.contains("format 2 (skywave:format), written by an unknown release")
    {
        assert!(status == 503 && tokio::time::Instant::now() < deadline, "{status} {words}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // between two looks at the condition
    }
    assert_eq!(oslo.refused("/ws", &[]).await.0, 503);
    assert_eq!(redis.command(&["DBSIZE"]).await.unwrap(), ":1", "nothing was written beside it");
    redis.command(&["SET", "skywave:format", "1"]).await.unwrap();
    ready(&oslo).await; // it asks again by itself
}

#[tokio::test]
async fn what_a_newer_version_says_is_dropped_and_the_rest_goes_on() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let paris = support::measured_node(&[("SKYWAVE__BACKPLANE__URL", url.as_str())]).await;
    let oslo = node(&redis).await;
    ready(&paris).await;
    ready(&oslo).await;
    let mut ada = paris.client(&["news"]).await;
    oslo.publish("news", json!(1)).await;
    assert_eq!(ada.data(1).await, [1]);
    // Quoted, as Redis wants its inline commands.
    let publish = r#""return redis.call('publish', redis.call('pubsub', 'channels', '*:c:'..ARGV[2])[1], ARGV[1])""#;
    for frame in [r#""\x02\x01something of tomorrow""#, r#""\x01\x07unknown flags""#, r#""""#] {
        assert_eq!(redis.command(&["EVAL", publish, "0", frame, "news"]).await.unwrap(), ":1", "one node hears it");
    }
    oslo.publish("news", json!(2)).await;
    assert_eq!(ada.data(1).await, [2], "nothing of it was delivered, and no gap was made of it");

    // A signal whose kind nobody knows yet, from a node called tomorrow.
    let signal = r#""\x01\x00\x0a\x11\x1a\x0f\x0a\x08tomorrow\x12\x03\xa2\x06\x00""#;
    assert_eq!(redis.command(&["EVAL", publish, "0", signal, "#live"]).await.unwrap(), ":2", "both nodes hear it");
    // The metrics are the process's, and so both nodes'.
    let counted = async |kind: &str, count: u64| {
        let series = format!("skywave_backplane_unreadable_total{{node=\"measured\",kind=\"{kind}\"}} {count}");
        paris.http("GET", "/metrics", &[], "").await.1.lines().any(|line| line == series)
    };
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while !counted("signal", 2).await {
        assert!(tokio::time::Instant::now() < deadline, "it is counted");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // between two looks at the condition
    }
    for (kind, count) in [("publication", 3), ("history", 0), ("presence", 0), ("revocation", 0)] {
        assert!(counted(kind, count).await, "{kind}");
    }
}

#[tokio::test]
async fn whoever_comes_back_over_what_cannot_be_read_is_told() {
    let redis = RedisServer::start().await;
    let [paris, oslo] = cluster(&redis).await;
    let mut bob = oslo.client(&["deep:a"]).await;
    paris.publish("deep:a", json!(1)).await;
    let first = bob.push("publication").await;
    let since = json!({"epoch": first["epoch"], "offset": first["offset"]});
    let publish = r#""local function key(kind) return redis.call('keys', '*:'..kind..':deep:a')[1] end
        redis.call('hincrby', key('m'), 'o', 1) redis.call('rpush', key('l'), ARGV[1])
        return redis.call('publish', redis.call('pubsub', 'channels', '*:c:deep:a')[1], ARGV[1])""#;
    let publish = publish.replace('\n', " ");
    redis.command(&["EVAL", &publish, "0", r#""\x02something of tomorrow""#]).await.unwrap();
    assert_eq!(bob.push("gap").await["reason"], "reset", "who is here is told at once");
    // It is the last thing in the history, then it has something readable behind it; by either node, with nothing and all in
    // its own memory.
    for behind in [false, true] {
        if behind {
            paris.publish("deep:a", json!(3)).await;
            assert_eq!(bob.data(1).await, [3]);
        }
        for node in [&paris, &oslo] {
            let mut ada = node.socket("/ws").await;
            let back = ada.ask(json!({"connect": {"subscribe": [{"channel": "deep:a", "since": since}]}})).await;
            let said = &back["connected"]["subscribed"][0];
            assert_eq!((&said["recovered"], &said["position"]["offset"]), (&json!(false), &json!(2 + u64::from(behind))));
        }
    }
}
