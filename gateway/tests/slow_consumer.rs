//! Who does not read fast enough gets what its channel's policy says, exactly, and its neighbours notice nothing.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use support::{Client, Running};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// Many times what fits into the outbox and, with small buffers, into the kernel.
const PUBLICATIONS: u64 = 300;
const FILLER: usize = 4000;

/// A namespace for each policy. What is not read for a while is nobody's fault here.
const VARIABLES: [(&str, &str); 7] = [
    ("SKYWAVE__LIMITS__OUTBOX_BYTES", "64KiB"),
    ("SKYWAVE__TIMEOUTS__CLOSE", "1m"),
    ("SKYWAVE__NAMESPACES__LIVE", r#"{ subscribe = "anyone", publish = "anyone" }"#),
    (
        "SKYWAVE__NAMESPACES__DROP",
        r#"{ subscribe = "anyone", publish = "anyone", slow_consumer = "drop_oldest", history = { size = 10, ttl = "10m" } }"#,
    ),
    (
        "SKYWAVE__NAMESPACES__LATEST",
        r#"{ subscribe = "anyone", publish = "anyone", slow_consumer = "latest", history = { size = 10, ttl = "10m" } }"#,
    ),
    (
        "SKYWAVE__NAMESPACES__RESYNC",
        r#"{ subscribe = "anyone", publish = "anyone", slow_consumer = "resync", history = { size = 1000, ttl = "10m" } }"#,
    ),
    (
        "SKYWAVE__NAMESPACES__SHORT",
        r#"{ subscribe = "anyone", slow_consumer = "resync", history = { size = 20, ttl = "10m" } }"#,
    ),
];

async fn node() -> Running {
    support::node(&VARIABLES).await
}

/// A socket for which the kernel keeps next to nothing.
async fn narrow(node: &Running) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(node.node.public_addresses()[0]).await.unwrap()
}

async fn slow(node: &Running, channels: &[&str]) -> Client<TcpStream> {
    support::upgrade(narrow(node).await, "/ws", &[])
        .await
        .unwrap_or_else(|refused| panic!("{refused:?}"))
        .subscribed(channels)
        .await
}

/// Publishes while a neighbour reads along: it gets everything, whatever becomes of others.
async fn publish(node: &Running, channels: &[&str], numbers: std::ops::Range<u64>) {
    let mut neighbour = node.client(channels).await;
    let filler = "x".repeat(FILLER);
    for n in numbers {
        for channel in channels {
            node.publish(channel, json!([n, filler])).await;
            let publication = neighbour.push("publication").await;
            assert_eq!((&publication["channel"], &publication["data"][0]), (&json!(channel), &json!(n)));
        }
    }
}

fn number(publication: &Value) -> u64 {
    publication["data"][0].as_u64().unwrap()
}

/// What comes on a channel up to the publication with this number, in order.
async fn up_to(client: &mut Client<TcpStream>, last: u64) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let push = client.next().await;
        let is_last = push.get("publication").is_some_and(|publication| number(publication) == last);
        all.push(push);
        if is_last {
            return all;
        }
    }
}

/// So many who read all that comes on a channel: enough for it to be a crowd, whose members are written to another way.
async fn crowd(node: &Running, channel: &str) -> tokio::task::JoinSet<()> {
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..150 {
        let mut reader = node.client(&[channel]).await;
        crowd.spawn(async move { while reader.stream.next().await.is_some_and(|message| message.is_ok()) {} });
    }
    crowd
}

#[tokio::test]
async fn the_oldest_are_dropped_and_the_gap_says_how_many_and_where() {
    for is_crowded in [false, true] {
        let node = node().await;
        let _crowd = if is_crowded { Some(crowd(&node, "drop:a").await) } else { None };
        the_oldest_are_dropped(&node).await;
    }
}

async fn the_oldest_are_dropped(node: &Running) {
    let mut client = slow(node, &["drop:a"]).await;
    let ping = client.tell(json!({"ping": {}})).await;
    publish(node, &["drop:a"], 0..PUBLICATIONS).await;
    let late = client.tell(json!({"history": {"channel": "drop:a", "limit": 0}})).await;

    let mut next = 0;
    let mut gaps = Vec::new();
    let mut replies = Vec::new();
    while next < PUBLICATIONS {
        let push = client.next().await;
        if let Some(publication) = push.get("publication") {
            assert_eq!(number(publication), next, "in order, and all but what was said to be missing");
            next += 1;
        } else if let Some(gap) = push.get("gap") {
            assert_eq!((&gap["channel"], &gap["reason"]), (&json!("drop:a"), &json!("slow_consumer")));
            next += gap["missed"].as_u64().unwrap();
            assert_eq!(gap["position"]["offset"], next, "the last that is missing: offsets begin with 1");
            gaps.push(gap.clone());
        } else {
            replies.push(push["id"].as_u64().unwrap());
        }
    }
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0]["missed"].as_u64().unwrap() > PUBLICATIONS / 2, "little was kept: {gaps:?}");
    if replies.len() < 2 {
        client.reply(late).await;
        replies.push(late);
    }
    assert_eq!(replies, [ping, late], "replies are never dropped");
    publish(node, &["drop:a"], PUBLICATIONS..PUBLICATIONS + 1).await;
    assert_eq!(number(&client.push("publication").await), PUBLICATIONS, "and it goes on");
}

#[tokio::test]
async fn of_each_channel_only_the_latest_waits() {
    let node = node().await;
    let _crowd = crowd(&node, "latest:b").await;
    let mut client = slow(&node, &["latest:a", "latest:b"]).await;
    publish(&node, &["latest:a", "latest:b"], 0..PUBLICATIONS).await;
    let mut got = [Vec::new(), Vec::new()];
    while got.iter().any(|numbers: &Vec<u64>| numbers.last() != Some(&(PUBLICATIONS - 1))) {
        let push = client.next().await;
        let publication = push.get("publication").expect("no gap, and nothing else");
        got[usize::from(publication["channel"] == "latest:b")].push(number(publication));
    }
    for numbers in got {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert!(numbers.len() < 50, "what the kernel had taken, and the last: {numbers:?}");
    }
    publish(&node, &["latest:a"], PUBLICATIONS..PUBLICATIONS + 1).await;
    assert_eq!(number(&client.push("publication").await), PUBLICATIONS);
}

#[tokio::test]
async fn who_is_behind_goes_on_from_history_and_misses_nothing() {
    for is_crowded in [false, true] {
        let node = node().await;
        let _crowd = if is_crowded { Some(crowd(&node, "resync:a").await) } else { None };
        who_is_behind_goes_on(&node).await;
    }
}

async fn who_is_behind_goes_on(node: &Running) {
    let mut client = slow(node, &["resync:a"]).await;
    publish(node, &["resync:a"], 0..PUBLICATIONS).await;
    let got = up_to(&mut client, PUBLICATIONS - 1).await;
    let numbers = got.iter().map(|push| number(push.get("publication").expect("nothing else")));
    assert!(numbers.eq(0..PUBLICATIONS));
    // It is live again, and may fall behind again.
    publish(node, &["resync:a"], PUBLICATIONS..2 * PUBLICATIONS).await;
    let got = up_to(&mut client, 2 * PUBLICATIONS - 1).await;
    assert!(got.iter().map(|push| number(&push["publication"])).eq(PUBLICATIONS..2 * PUBLICATIONS));
}

#[tokio::test]
async fn who_is_behind_for_longer_than_the_window_is_told_to_start_over() {
    let node = node().await;
    let mut client = slow(&node, &["short:a"]).await;
    publish(&node, &["short:a"], 0..PUBLICATIONS).await;
    // The gap says where live goes on: what is published from then on comes.
    let mut before = Vec::new();
    let gap = loop {
        let push = client.next().await;
        match push.get("gap") {
            Some(gap) => break gap.clone(),
            None => before.push(number(&push["publication"])),
        }
    };
    assert_eq!((&gap["reason"], &gap["position"]["offset"]), (&json!("reset"), &json!(PUBLICATIONS)));
    assert!(before.iter().copied().eq(0..before.len() as u64), "{before:?}");
    publish(&node, &["short:a"], PUBLICATIONS..PUBLICATIONS + 1).await;
    assert_eq!(number(&client.push("publication").await), PUBLICATIONS);
}

#[tokio::test]
async fn who_loses_nothing_silently_is_closed_and_so_is_raw_whatever_was_dropped() {
    let node = node().await;
    let mut client = slow(&node, &["live:a"]).await;
    let mut raw = support::upgrade(narrow(&node).await, "/raw/drop%3Aa", &[])
        .await
        .unwrap_or_else(|refused| panic!("{refused:?}"));
    publish(&node, &["live:a", "drop:a"], 0..PUBLICATIONS).await;
    assert_eq!(client.closed().await, (4002, "slow_consumer".into()));
    let before = client.before_close();
    assert!(before.len() < 50 && before.last().unwrap()["disconnect"]["code"] == 4002, "{}", before.len());
    // Its place is that of the last that it was given, so that it can come back.
    let (code, place) = raw.closed().await;
    let last = raw.before_close().last().unwrap()[0].as_u64().unwrap();
    let (_, offset) = place.split_once(':').unwrap();
    assert_eq!((code, offset.parse()), (4002, Ok(last + 1)));
}

#[tokio::test]
async fn reading_goes_on_while_nothing_can_be_written() {
    let node = node().await;
    let mut client = slow(&node, &["drop:a"]).await;
    publish(&node, &["drop:a"], 0..PUBLICATIONS).await;
    let mut neighbour = node.client(&["live:b"]).await;
    for n in 0..100 {
        client.send(json!({"publish": {"channel": "live:b", "data": n}}).to_string()).await;
    }
    assert!(neighbour.data(100).await.iter().map(|data| data.as_u64().unwrap()).eq(0..100));
}

/// Publications that come all at once, and are more than an outbox takes, but not more than it and the kernel.
const BURST: usize = 90;

async fn burst(node: &Running, channel: &str) {
    const PUBLISHERS: usize = 6;
    const EACH: usize = BURST / PUBLISHERS;
    let publish = json!({"publish": {"channel": channel, "data": "x".repeat(1000)}}).to_string();
    let message = vec![publish; EACH].join("\n");
    let mut publishers = Vec::new();
    for _ in 0..PUBLISHERS {
        publishers.push(node.client(&[]).await);
    }
    for publisher in &mut publishers {
        publisher.send(message.clone()).await;
    }
    for publisher in &mut publishers {
        publisher.ask(json!({"ping": {}})).await; // all before it has been carried out
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_slow_before_the_socket_has_been_tried() {
    let node = node().await;
    for channel in ["live:a", "drop:a", "latest:a", "resync:a"] {
        let mut reading = Vec::new();
        for _ in 0..3 {
            let mut reader = node.client(&[channel]).await;
            reading.push(tokio::spawn(async move {
                let mut got = 0;
                while got < BURST {
                    let push = reader.next().await;
                    assert!(push.get("publication").is_some(), "{push}");
                    got += 1;
                }
            }));
        }
        burst(&node, channel).await;
        for reader in reading {
            reader.await.unwrap_or_else(|error| panic!("{channel}: {error}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_is_not_closed_by_its_own_recovery() {
    let node = node().await;
    let mut client = node.client(&[]).await;
    for n in 0..1000 {
        client.send(json!({"publish": {"channel": "resync:b", "data": n}}).to_string()).await;
    }
    let top = client.ask(json!({"history": {"channel": "resync:b", "limit": 0}})).await;
    let epoch = &top["history"]["position"]["epoch"];
    // Without an id what was missed comes as pushes: each costs the outbox many times its few bytes.
    let since = json!({"channel": "resync:b", "since": {"epoch": epoch, "offset": 0}});
    client.send(json!({"subscribe": since}).to_string()).await;
    assert!(client.data(1000).await.iter().map(|data| data.as_u64().unwrap()).eq(0..1000));
}

#[tokio::test]
async fn where_too_much_waits_on_a_node_the_largest_go_first() {
    const BOUND: u64 = 300 * 1024;
    let mut variables: Vec<_> = VARIABLES.into_iter().filter(|(name, _)| !name.contains("OUTBOX")).collect();
    variables.extend([("SKYWAVE__LIMITS__OUTBOX_BYTES", "1MiB"), ("SKYWAVE__LIMITS__NODE_OUTBOX_BYTES", "300KiB")]);
    let node = support::measured_node(&variables).await;
    let mut small = slow(&node, &["live:small"]).await;
    let mut large = Vec::new();
    for _ in 0..3 {
        large.push(slow(&node, &["live:large"]).await);
    }
    publish(&node, &["live:small"], 0..9).await;
    // Three can have 100 KiB each, then two 150; one alone may have the 240 that are published.
    publish(&node, &["live:large"], 0..60).await;
    let value = async |name: &str| {
        let (_, metrics) = node.http("GET", "/metrics", &[], "").await;
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let reaches = async |name: &str, least: f64| {
        let deadline = tokio::time::Instant::now() + support::DEADLINE;
        while value(name).await < least {
            assert!(tokio::time::Instant::now() < deadline, "{name} reaches {least}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await; // between two looks at the condition
        }
    };
    reaches("skywave_outbox_bytes", 100_000.0).await;
    assert!(value("skywave_outbox_bytes").await <= BOUND as f64);
    let mut closed = 0;
    for client in &mut large {
        let mut all = Vec::new();
        while all.last() != Some(&59) {
            match client.stream.next().await.unwrap().unwrap() {
                Message::Text(text) => {
                    let push: Value = serde_json::from_str(&text).unwrap();
                    all.extend(push.get("publication").map(number));
                }
                Message::Close(close) => {
                    assert_eq!(u16::from(close.unwrap().code), 4002);
                    closed += 1;
                    break;
                }
                _ => {}
            }
        }
        assert!(all.iter().copied().eq(0..all.len() as u64), "whatever came is without holes");
    }
    assert_eq!(closed, 2);
    assert_eq!(up_to(&mut small, 8).await.len(), 9, "the smallest keeps all of it");
    drop(large); // they are counted when they are gone
    reaches(r#"skywave_slow_consumers_total{node="measured",policy="disconnect"}"#, 2.0).await;
}
