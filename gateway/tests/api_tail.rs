//! `tail`: a channel as lines of JSON.
#![allow(missing_docs, clippy::unwrap_used)] // helpers stand beside the tests

mod support;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use support::Running;
use tokio::{net::TcpStream, time::timeout};

struct Lines {
    body: Incoming,
    read: BytesMut,
}

impl Lines {
    /// The next line that is not empty; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end);
                self.read.advance(1);
                if line.is_empty() {
                    continue;
                }
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = timeout(support::DEADLINE, self.body.frame()).await.expect("a line comes in time")?;
            self.read.extend_from_slice(frame.ok()?.data_ref()?);
        }
    }

    async fn data(&mut self, count: usize) -> Vec<Value> {
        let mut data = Vec::new();
        while data.len() < count {
            data.push(self.next().await.unwrap()["publication"]["data"].take());
        }
        data
    }
}

async fn try_tail(node: &Running, body: Value) -> Result<Lines, (u16, Value)> {
    let socket = TcpStream::connect(node.internal()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("/api/v1/tail")
        .header("host", node.internal())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let answer = timeout(support::DEADLINE, sender.send_request(request)).await.unwrap().unwrap();
    let status = answer.status().as_u16();
    if status != 200 {
        let problem = answer.into_body().collect().await.unwrap().to_bytes();
        return Err((status, serde_json::from_slice(&problem).unwrap()));
    }
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    Ok(Lines { body: answer.into_body(), read: BytesMut::new() })
}

async fn tail(node: &Running, body: Value) -> Lines {
    try_tail(node, body).await.unwrap()
}

#[tokio::test]
async fn a_tail_begins_where_live_does_and_nobody_sees_it() {
    let node = support::node(&[]).await;
    node.publish("a", json!(1)).await;
    let mut tail = tail(&node, json!({"channel": "a"})).await;
    let first = tail.next().await.unwrap()["subscribed"].take();
    assert_eq!((&first["channel"], &first["position"]["offset"]), (&json!("a"), &json!(1)));
    assert!(first.get("recovered").is_none());
    for n in 2..5 {
        node.publish("a", json!(n)).await;
    }
    assert_eq!(tail.data(3).await, [2, 3, 4]);
    assert_eq!(node.call("presence", json!({"channel": "a"})).await.1["total"], 0);
    assert_eq!(node.call("channels", json!({})).await.1["channels"][0]["subscriptions"], 1, "it is one");
    drop(tail);
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while node.call("channels", json!({})).await.1["channels"] != json!([]) {
        assert!(tokio::time::Instant::now() < deadline, "a tail that nobody reads ends");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // between two looks at the condition
    }
}

#[tokio::test]
async fn since_brings_what_was_missed_first_all_of_it_and_in_order() {
    let node = support::node(&[("SKYWAVE__NAMESPACES__LONG", "{ history = { size = 5000, ttl = \"1m\" } }")]).await;
    let first = node.publish("long:a", json!(0)).await["position"].take();
    let text = "x".repeat(1000);
    // More than one page of it, in publications and in bytes.
    for n in 1..1500 {
        node.publish("long:a", json!({"n": n, "text": text})).await;
    }
    let mut tail = tail(&node, json!({"channel": "long:a", "since": first})).await;
    let said = tail.next().await.unwrap()["subscribed"].take();
    assert_eq!((&said["recovered"], &said["position"]), (&json!(true), &first));
    node.publish("long:a", json!({"n": 1500})).await;
    let numbers: Vec<_> = tail.data(1500).await.iter().map(|data| data["n"].as_u64().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=1500), "{numbers:?}");

    let foreign = json!({"channel": "long:a", "since": {"epoch": "nobodys1", "offset": 1}});
    let said = self::tail(&node, foreign).await.next().await.unwrap()["subscribed"].take();
    assert_eq!((&said["recovered"], &said["position"]["offset"]), (&json!(false), &json!(1501)));
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_told_and_ends() {
    let node = support::node(&[
        ("SKYWAVE__LIMITS__OUTBOX_BYTES", "128KiB"),
        ("SKYWAVE__NAMESPACES__FAST", "{ slow_consumer = \"disconnect\" }"),
    ])
    .await;
    let mut tail = tail(&node, json!({"channel": "fast:a"})).await;
    assert!(tail.next().await.unwrap()["subscribed"].is_object());
    let text = "x".repeat(60_000);
    let mut published = 0;
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    // Until the sockets between us hold no more, and it has not taken its last words for a while.
    while node.call("channels", json!({})).await.1["channels"] != json!([]) {
        node.publish("fast:a", json!(text)).await;
        published += 1;
        assert!(tokio::time::Instant::now() < deadline, "it ends");
    }
    let mut last = Value::Null;
    let mut read = 0;
    while let Some(line) = tail.next().await {
        read += 1;
        last = line;
    }
    assert!(read <= published, "{read} of {published}");
    assert!(last["disconnect"]["code"] == 4002 || last["publication"].is_object(), "{last}");
}

#[tokio::test]
async fn bad_input_and_too_many_are_refused_and_a_node_that_leaves_says_so() {
    let node = support::node(&[]).await;
    for (body, status) in [
        (json!({"channel": ""}), 400),
        (json!({"channel": "a", "extra": 1}), 400),
        (json!({"channel": "a", "since": 1}), 400),
        (json!({}), 400),
    ] {
        assert_eq!(try_tail(&node, body.clone()).await.err().unwrap().0, status, "{body}");
    }
    assert_eq!(
        node.call("batch", json!({"commands": [{"tail": {"channel": "a"}}]})).await.1["results"][0]["error"]["code"],
        "bad_request"
    );
    let mut tails = Vec::new();
    for _ in 0..64 {
        tails.push(tail(&node, json!({"channel": "a"})).await);
    }
    let (status, problem) = try_tail(&node, json!({"channel": "a"})).await.err().unwrap();
    assert_eq!((status, &problem["code"]), (429, &json!("limit")), "{problem}");
    tails.truncate(1);

    // A client keeps the node there for a while, so that there is somebody to hear it.
    let _client = node.client(&["a"]).await;
    let mut tail = tails.remove(0);
    assert!(tail.next().await.unwrap()["subscribed"].is_object());
    let drained = tokio::spawn(node.node.drain());
    assert_eq!(tail.next().await.unwrap()["disconnect"]["code"], 4001);
    assert!(tail.next().await.is_none());
    drained.await.unwrap();
}

/// A command of the program against a node: exit code and what it said.
async fn skywave(args: Vec<String>) -> (Option<i32>, String) {
    let run = move || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_skywave"));
        command.args(args).env_clear().output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn the_command_line_tails_until_the_node_leaves_and_drains_it() {
    let node = support::node(&[("SKYWAVE__NODE__NAME", "paris")]).await;
    let position = node.publish("a", json!(1)).await["position"].take();
    node.publish("a", json!(2)).await;
    let since = format!("{}:1", position["epoch"].as_str().unwrap());
    let api = format!("http://{}", node.internal());
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let tailed = tokio::spawn(skywave(words(&["tail", "a", "--since", &since, "--api", &api])));
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while node.call("channels", json!({})).await.1["channels"] == json!([]) {
        assert!(tokio::time::Instant::now() < deadline, "the tail is there");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // between two looks at the condition
    }
    let data = r#"{"z":1,"a":123456789012345678901234567890}"#;
    let (code, said) = skywave(words(&["publish", "kept", data, "--api", &api])).await;
    assert_eq!(code, Some(0), "{said}");
    let kept =
        node.http("POST", "/api/v1/history", &[("content-type", "application/json")], r#"{"channel":"kept"}"#).await.1;
    assert!(kept.contains(data), "published as it was given: {kept}");
    let (code, said) = skywave(words(&["drain", "oslo", "--api", &api])).await;
    assert!(code == Some(1) && said.contains("paris"), "{said}");
    let _client = node.client(&["a"]).await; // so that there is somebody to wait for
    assert_eq!(skywave(words(&["drain", "paris", "--api", &api])).await.0, Some(0));
    timeout(support::DEADLINE, node.node.asked_to_leave()).await.unwrap();
    node.node.drain().await;
    let (code, said) = tailed.await.unwrap();
    let kinds: Vec<_> = said.lines().map(|line| line.split('"').nth(1).unwrap_or_default()).collect();
    assert_eq!((code, kinds), (Some(0), vec!["subscribed", "publication", "disconnect"]), "{said}");
    assert_eq!(skywave(words(&["tail", "a", "--since", "1", "--api", &api])).await.0, Some(64));
}

#[tokio::test]
async fn the_command_line_speaks_tls_and_checks_who_answers() {
    let files = support::tls::Files::new();
    let keys = r#"[{ name = "reader", key = "0123456789abcdef-r", scopes = ["read"] }]"#;
    let node =
        support::closed_node(&[("SKYWAVE__API__KEYS", keys), ("SKYWAVE__INTERNAL__TLS", &files.setting(false))]).await;
    let api = format!("https://localhost:{}", node.node.internal_addresses()[0].port());
    let mut words = ["nodes", "--api", &api, "--key", "0123456789abcdef-r"].map(str::to_owned).to_vec();
    assert_eq!(skywave(words.clone()).await.0, Some(1), "nobody knows that authority");
    words.extend(["--ca".to_owned(), files.path("ca.crt").display().to_string()]);
    let (code, said) = skywave(words).await;
    assert!(code == Some(0) && said.contains("NAME"), "{said}");
}
