//! `/poll`: what comes next on a channel, as one answer, on any node.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{DEADLINE, Running, ready, redis::RedisServer, token};
use tokio::time::{Instant, timeout};

const OPEN: &str =
    "{ history = { size = 5, ttl = \"10m\" }, presence = true, subscribe = \"anyone\", publish = \"anyone\" }";
const LIVE: &str = "{ subscribe = \"anyone\", publish = \"anyone\" }";
const MINE: &str = "{ history = { size = 100, ttl = \"10m\" }, subscribe = \"token\", publish = \"token\" }";

async fn open_node(variables: &[(&str, &str)]) -> Running {
    let open = [
        ("SKYWAVE__AUTH__ANONYMOUS", "true"),
        ("SKYWAVE__NAMESPACES__DEFAULT", OPEN),
        ("SKYWAVE__NAMESPACES__LIVE", LIVE),
        ("SKYWAVE__NAMESPACES__MINE", MINE),
    ];
    support::closed_node(&[&open, variables].concat()).await
}

async fn poll(node: &Running, query: &str) -> (u16, Value) {
    let path = format!("/poll?{query}");
    let (status, body) = support::request(&node.public(), "GET", &path, &[], "").await;
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

fn at(answer: &Value) -> String {
    let position = &answer["position"];
    format!("{}:{}", position["epoch"].as_str().unwrap(), position["offset"])
}

fn data(answer: &Value) -> Vec<Value> {
    answer["publications"].as_array().unwrap().iter().map(|publication| publication["data"].clone()).collect()
}

async fn publish(client: &mut support::Client, channel: &str, data: Value) {
    let reply = client.ask(json!({"publish": {"channel": channel, "data": data}})).await;
    assert!(reply["published"].is_object(), "{reply}");
}

#[tokio::test]
async fn without_a_position_the_answer_says_where_the_channel_stands() {
    let node = open_node(&[]).await;
    let mut ws = node.client(&[]).await;
    publish(&mut ws, "a", json!(1)).await;
    let begun = Instant::now();
    let (status, answer) = poll(&node, "channel=a").await;
    assert_eq!((status, &answer["publications"], &answer["position"]["offset"]), (200, &json!([]), &json!(1)));
    assert!(begun.elapsed() < Duration::from_secs(5), "at once");
}

#[tokio::test]
async fn what_was_missed_comes_at_once_and_what_is_next_when_it_comes() {
    let node = open_node(&[]).await;
    let mut ws = node.client(&[]).await;
    publish(&mut ws, "a", json!(0)).await;
    let since = at(&poll(&node, "channel=a").await.1);
    for n in 1..=3 {
        publish(&mut ws, "a", json!(n)).await;
    }
    let (_, answer) = poll(&node, &format!("channel=a&since={since}")).await;
    assert_eq!((data(&answer), &answer["recovered"]), (vec![json!(1), json!(2), json!(3)], &json!(true)));
    assert_eq!(answer["publications"][0]["channel"], "a");
    let since = at(&answer);
    let address = node.public();
    let waiting = tokio::spawn(async move {
        let path = format!("/poll?channel=a&since={since}");
        support::request(&address, "GET", &path, &[], "").await
    });
    // It gets what is published, and nobody sees it.
    let mut watcher = node.socket("/ws").await;
    let members = watcher.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    assert_eq!(members["subscribed"]["total"], 1, "{members}");
    publish(&mut ws, "a", json!({"x": 1.0})).await;
    let (status, body) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert_eq!(status, 200);
    assert!(body.contains("\"data\":{\"x\":1.0}"), "a payload is not written anew: {body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["position"]["offset"], 5);
}

#[tokio::test]
async fn a_poll_whose_time_is_over_says_that_nothing_was_missed() {
    let node = open_node(&[]).await;
    let mut ws = node.client(&[]).await;
    publish(&mut ws, "a", json!(1)).await;
    let since = at(&poll(&node, "channel=a").await.1);
    let begun = Instant::now();
    let (status, answer) = poll(&node, &format!("channel=a&since={since}&timeout_ms=300")).await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((status, at(&answer), data(&answer)), (200, since, vec![]));
    assert_eq!(answer["recovered"], true);
}

#[tokio::test]
async fn what_cannot_be_had_any_more_is_said() {
    let node = open_node(&[]).await;
    let mut ws = node.client(&[]).await;
    publish(&mut ws, "a", json!(0)).await;
    let since = at(&poll(&node, "channel=a").await.1);
    for n in 1..=10 {
        publish(&mut ws, "a", json!(n)).await;
    }
    for since in [since.as_str(), "zzzzzzzz:1", "nonsense"] {
        let (status, answer) = poll(&node, &format!("channel=a&since={since}")).await;
        assert_eq!((status, &answer["recovered"], data(&answer)), (200, &json!(false), vec![]), "{since}");
        assert_eq!(answer["position"]["offset"], 11);
    }
}

#[tokio::test]
async fn whoever_may_not_is_refused_with_the_code_of_the_table() {
    let node = open_node(&[token::TOKENS]).await;
    let code = async |query: &str| {
        let (status, answer) = poll(&node, query).await;
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    };
    let is = |status, code: &str| (status, code.to_owned());
    assert_eq!(code("channel=mine:a").await, is(403, "permission_denied"));
    assert_eq!(code("channel=a&token=x").await, is(401, "unauthenticated"));
    assert_eq!(code("channel=nowhere:a").await, is(404, "unknown_namespace"));
    assert_eq!(code("channel=live:a").await, is(409, "no_history"));
    assert_eq!(code("").await, is(400, "bad_request"));
    let good = token::user("ada", &["mine:*"], &[]);
    assert_eq!(poll(&node, &format!("channel=mine:a&timeout_ms=1&token={good}")).await.0, 200);
}

#[tokio::test]
async fn a_poll_goes_on_on_another_node() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let [paris, oslo] =
        [open_node(&[("SKYWAVE__BACKPLANE__URL", &url)]).await, open_node(&[("SKYWAVE__BACKPLANE__URL", &url)]).await];
    ready(&paris).await;
    ready(&oslo).await;
    let mut ws = paris.client(&[]).await;
    publish(&mut ws, "a", json!(0)).await;
    let mut since = at(&poll(&paris, "channel=a").await.1);
    let mut seen = Vec::new();
    let publisher = tokio::spawn(async move {
        for n in 1..=50 {
            publish(&mut ws, "a", json!(n)).await;
        }
    });
    while seen.len() < 50 {
        for node in [&oslo, &paris] {
            let (status, answer) = poll(node, &format!("channel=a&since={since}&timeout_ms=500")).await;
            // A window of five: whoever is too slow for it is told.
            assert_eq!(status, 200, "{answer}");
            if answer["recovered"] == false {
                let from = seen.last().copied().unwrap_or(0);
                let now = answer["position"]["offset"].as_u64().unwrap() - 1;
                seen.extend(from + 1..=now);
            }
            seen.extend(data(&answer).iter().map(|n| n.as_u64().unwrap()));
            since = at(&answer);
        }
    }
    assert_eq!(seen, (1..=50).collect::<Vec<_>>());
    publisher.await.unwrap();
}

/// A poll that has a place: it may have come while another one had the last.
async fn seated(address: &str, path: &str) -> (u16, String) {
    loop {
        let answer = support::request(address, "GET", path, &[], "").await;
        if answer.0 != 429 {
            return answer;
        }
    }
}

#[tokio::test]
async fn in_a_drain_a_poll_is_answered_at_once() {
    let drain = [
        ("SKYWAVE__DRAIN__GRACE", "0s"),
        ("SKYWAVE__DRAIN__WINDOW", "0s"),
        ("SKYWAVE__DRAIN__DEADLINE", "8s"),
        ("SKYWAVE__LIMITS__CONNECTIONS_PER_IP", "2"),
    ];
    let node = open_node(&drain).await;
    let mut ws = node.client(&[]).await;
    publish(&mut ws, "a", json!(1)).await;
    let since = at(&poll(&node, "channel=a").await.1);
    let address = node.public();
    let begun = Instant::now();
    let path = format!("/poll?channel=a&since={since}");
    let waiting = tokio::spawn(async move { seated(&address, &path).await });
    let deadline = Instant::now() + DEADLINE;
    while poll(&node, "channel=a").await.0 != 429 {
        assert!(Instant::now() < deadline, "the poll waits, and has the second place");
    }
    let drained = tokio::spawn(node.node.drain());
    let (status, body) = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, at(&answer), data(&answer)), (200, since, vec![]));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    timeout(DEADLINE, drained).await.expect("nobody is left").unwrap();
}

#[tokio::test]
async fn polls_count_as_connections_of_their_address_and_one_that_is_given_up_does_not() {
    let node = open_node(&[("SKYWAVE__LIMITS__CONNECTIONS_PER_IP", "2")]).await;
    let mut ws = node.client(&[]).await;
    publish(&mut ws, "a", json!(1)).await;
    let since = at(&poll(&node, "channel=a").await.1);
    let address = node.public();
    let path = format!("/poll?channel=a&since={since}");
    let waiting = tokio::spawn(async move { seated(&address, &path).await });
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (status, answer) = poll(&node, "channel=a").await;
        if status == 429 {
            assert_eq!(answer["code"], "limit");
            break;
        }
        assert!(Instant::now() < deadline, "a poll that waits has the place");
    }
    waiting.abort();
    while poll(&node, "channel=a").await.0 != 200 {
        assert!(Instant::now() < deadline, "the place of one that was given up is free");
    }
}
