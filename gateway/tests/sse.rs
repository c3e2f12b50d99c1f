//! `/sse`: channels as a stream of events, over real sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{
    DEADLINE, Running, ready,
    redis::RedisServer,
    stream::{Event, Stream, client},
    token,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

const OPEN: &str =
    "{ history = { size = 100, ttl = \"10m\" }, presence = true, subscribe = \"anyone\", publish = \"anyone\" }";
const LIVE: &str = "{ subscribe = \"anyone\", publish = \"anyone\" }";
const MINE: &str = "{ history = { size = 100, ttl = \"10m\" }, subscribe = \"token\", publish = \"token\" }";

async fn open_node(variables: &[(&str, &str)]) -> Running {
    let open = [
        ("SKYWAVE__AUTH__ANONYMOUS", "true"),
        ("SKYWAVE__NAMESPACES__DEFAULT", OPEN),
        ("SKYWAVE__NAMESPACES__LIVE", LIVE),
        ("SKYWAVE__NAMESPACES__MINE", MINE),
        ("SKYWAVE__API__KEYS", KEYS),
    ];
    support::closed_node(&[&open, variables].concat()).await
}

const KEYS: &str = "[{ name = \"backend\", key = \"0123456789abcdef\", scopes = [\"publish\"] }]";

async fn publish(node: &Running, channel: &str, data: serde_json::Value) -> serde_json::Value {
    let headers = [("authorization", "Bearer 0123456789abcdef"), ("content-type", "application/json")];
    let body = json!({"channel": channel, "data": data}).to_string();
    let (status, answer) = node.http("POST", "/api/v1/publish", &headers, &body).await;
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn one_channel_is_its_payloads_and_a_browser_that_comes_back_misses_nothing() {
    let node = open_node(&[]).await;
    let mut stream = node.stream("/sse?channel=a").await;
    assert_eq!(stream.status, 200);
    for (name, value) in
        [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")]
    {
        assert_eq!(stream.headers[name], value, "{name}");
    }
    assert!(!stream.headers.contains_key("content-encoding") && !stream.headers.contains_key("content-length"));
    let start = stream.position().await;
    publish(&node, "a", json!({"x": 1})).await;
    let mut ws = node.client(&["a"]).await;
    ws.ask(json!({"publish": {"channel": "a", "data": "text\nof two lines"}})).await;
    let first = stream.event().await.unwrap();
    assert_eq!((&*first.name, first.data.as_deref()), ("", Some("{\"x\":1}")));
    assert_eq!(stream.data().await, "\"text\\nof two lines\"");
    assert!(stream.retry.is_some_and(|retry| (1000..=3000).contains(&retry)), "{:?}", stream.retry);
    let (epoch, _) = start.split_once(':').unwrap();
    assert_eq!(stream.id, format!("{epoch}:2"));
    drop(stream);
    for n in 3..=5 {
        publish(&node, "a", json!(n)).await;
    }
    let mut back = node.stream_with("/sse?channel=a", &[("last-event-id", &format!("{epoch}:2"))]).await;
    for n in 3..=5 {
        assert_eq!(back.event().await.unwrap().data, Some(n.to_string()));
    }
    publish(&node, "a", json!(6)).await;
    assert_eq!(back.data().await, "6");
    // The address says where a client stood that never was here; the header is newer.
    let mut since = node.stream(&format!("/sse?channel=a&since={epoch}:4")).await;
    assert_eq!(since.data().await, "5");
    let mut both =
        node.stream_with(&format!("/sse?channel=a&since={epoch}:1"), &[("last-event-id", &format!("{epoch}:5"))]).await;
    assert_eq!(both.data().await, "6");
}

#[tokio::test]
async fn a_long_absence_is_read_in_pieces_and_live_follows_without_a_seam() {
    let deep = "{ history = { size = 5000, ttl = \"10m\" }, subscribe = \"anyone\", publish = \"anyone\" }";
    let limits = [
        ("SKYWAVE__NAMESPACES__DEEP", deep),
        ("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__COMMANDS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__OUTBOX_BYTES", "65536"),
        ("SKYWAVE__LIMITS__PUBLICATION_BYTES", "16384"),
    ];
    let node = open_node(&limits).await;
    let start = node.stream("/sse?channel=deep:a").await.position().await;
    let mut ws = node.client(&[]).await;
    for n in 1..=2000 {
        ws.tell(json!({"publish": {"channel": "deep:a", "data": format!("{n} {}", "x".repeat(200))}})).await;
    }
    assert!(ws.ask(json!({"ping": {}})).await["pong"].is_object());
    let mut back = node.stream_with("/sse?channel=deep:a", &[("last-event-id", &start)]).await;
    for n in 2001..=2200 {
        ws.tell(json!({"publish": {"channel": "deep:a", "data": format!("{n} ")}})).await;
    }
    for n in 1..=2200 {
        let data = back.data().await;
        assert!(data.starts_with(&format!("\"{n} ")), "{n}: {data:.20}");
    }
}

#[tokio::test]
async fn several_channels_are_push_objects_and_each_id_says_all_positions() {
    let node = open_node(&[]).await;
    publish(&node, "a", json!(0)).await;
    let mut stream = node.stream("/sse?channel=a&channel=b%3D&channel=live:c").await;
    publish(&node, "b=", json!("x")).await;
    let event = stream.event().await.unwrap();
    assert_eq!(event.json()["publication"]["channel"], "b=");
    assert_eq!(event.json()["publication"]["data"], "x");
    let id = event.id.unwrap();
    let positions: Vec<_> = id.split(',').map(|part| part.split_once('=').unwrap()).collect();
    assert!(positions[0].0 == "a" && positions[0].1.ends_with(":1"), "{id}");
    assert!(positions[1].0 == "b%3D" && positions[1].1.ends_with(":1"), "{id}");
    assert_eq!(positions.len(), 2, "one that keeps no history has no position: {id}");
    publish(&node, "live:c", json!(1)).await;
    let live = stream.event().await.unwrap();
    assert_eq!((&live.json()["publication"]["channel"], live.id), (&json!("live:c"), None));
    drop(stream);
    publish(&node, "a", json!("missed")).await;
    publish(&node, "b=", json!("too")).await;
    let mut back = node.stream_with("/sse?channel=a&channel=b%3D&channel=live:c", &[("last-event-id", &id)]).await;
    let mut missed = [back.event().await.unwrap().json(), back.event().await.unwrap().json()];
    missed.sort_by_key(|push| push["publication"]["channel"].to_string());
    assert_eq!(
        (&missed[0]["publication"]["data"], &missed[1]["publication"]["data"]),
        (&json!("missed"), &json!("too"))
    );
    assert!(back.id.contains(":2,") && back.id.ends_with(":2"), "{}", back.id);
}

#[tokio::test]
async fn joins_leaves_and_gaps_are_events_named_so() {
    let node = open_node(&[]).await;
    let mut stream = node.stream("/sse?channel=a&presence=true").await;
    let mut named = async || loop {
        let event = stream.event().await.unwrap();
        if !event.name.is_empty() {
            return event;
        }
    };
    assert_eq!(named().await.name, "members");
    let mut ws = node.client(&["a"]).await;
    let join = named().await;
    assert_eq!((&*join.name, &join.json()["channel"]), ("join", &json!("a")));
    ws.ask(json!({"unsubscribe": {"channel": "a"}})).await;
    let leave = named().await;
    assert_eq!((&*leave.name, &leave.json()["member"]), ("leave", &join.json()["member"]));
    for foreign in ["zzzzzzzz:7", "nonsense"] {
        let mut lost = node.stream_with("/sse?channel=b", &[("last-event-id", foreign)]).await;
        let gap = lost.event().await.unwrap();
        assert_eq!((&*gap.name, &gap.json()["reason"]), ("gap", &json!("reset")));
        // From here on it misses nothing, and says so when it comes back.
        publish(&node, "b", json!(foreign)).await;
        let at = gap.id.unwrap();
        let mut back = node.stream_with("/sse?channel=b", &[("last-event-id", &at)]).await;
        assert_eq!(back.event().await.unwrap().json(), foreign);
    }
}

#[tokio::test]
async fn lines_are_the_pushes_of_the_json_protocol() {
    let node = open_node(&[("SKYWAVE__TIMEOUTS__PING_INTERVAL", "1s"), ("SKYWAVE__TIMEOUTS__PONG", "1s")]).await;
    let accept = [("accept", "application/x-ndjson")];
    let mut lines = node.stream_with("/sse?channel=a", &accept).await;
    assert_eq!(lines.headers["content-type"], "application/x-ndjson");
    let subscribed = lines.line().await.unwrap()["subscribed"].clone();
    assert_eq!(subscribed["channel"], "a");
    publish(&node, "a", json!({"x": [1]})).await;
    let publication = lines.line().await.unwrap()["publication"].clone();
    assert_eq!((&publication["data"], &publication["offset"]), (&json!({"x": [1]}), &json!(1)));
    assert_eq!(publication["epoch"], subscribed["position"]["epoch"]);
    let since = format!("{}:0", publication["epoch"].as_str().unwrap());
    let mut back = node.stream_with(&format!("/sse?channel=a&since={since}"), &accept).await;
    let again = back.line().await.unwrap()["subscribed"].clone();
    assert_eq!((&again["recovered"], &again["publications"][0]["data"]), (&json!(true), &json!({"x": [1]})));
}

#[tokio::test]
async fn what_is_not_json_leaves_as_what_it_is() {
    let node = open_node(&[]).await;
    let mut stream = node.stream("/sse?channel=a").await;
    stream.position().await;
    let mut raw = support::raw::RawClient::open(&node.public(), "/raw/a", "").await;
    raw.write(&support::raw::frame(0x81, "zwei\nZeilen, é".as_bytes())).await;
    raw.write(&support::raw::frame(0x82, &[0, 1, 255])).await;
    assert_eq!(stream.data().await, "zwei\nZeilen, é");
    let binary = stream.event().await.unwrap().json();
    assert_eq!(
        (&binary["publication"]["data_base64"], &binary["publication"]["channel"]),
        (&json!("AAH/"), &json!("a"))
    );
}

#[tokio::test]
async fn whoever_may_not_is_told_why_and_never_comes_back() {
    let node = open_node(&[token::TOKENS]).await;
    let problem = async |path: &str, headers: &[(&str, &str)]| {
        let stream = node.stream_with(path, headers).await;
        let (status, kind) = (stream.status, stream.headers["content-type"].clone());
        assert_eq!(kind, "application/problem+json", "{path}");
        let body: serde_json::Value = serde_json::from_str(&stream.rest().await).unwrap();
        assert!(!body["detail"].as_str().unwrap().is_empty(), "{body}");
        (status, body["code"].as_str().unwrap().to_owned())
    };
    let is = |status, code: &str| (status, code.to_owned());
    assert_eq!(problem("/sse?channel=mine:a", &[]).await, is(403, "permission_denied"));
    assert_eq!(problem("/sse?channel=a&channel=mine:a", &[]).await, is(403, "permission_denied"));
    assert_eq!(problem("/sse?channel=a&token=x", &[]).await, is(401, "unauthenticated"));
    assert_eq!(problem("/sse?channel=%23system", &[]).await, is(403, "permission_denied"));
    assert_eq!(problem("/sse?channel=nowhere:a", &[]).await, is(404, "unknown_namespace"));
    assert_eq!(problem("/sse", &[]).await, is(400, "bad_request"));
    assert_eq!(problem("/sse?channel=live:a&presence=1", &[]).await, is(400, "bad_request"));
    let expired = token::token(json!({"sub": "ada", "exp": token::now() - 3600}));
    assert_eq!(problem(&format!("/sse?channel=a&token={expired}"), &[]).await, is(401, "unauthenticated"));
    let good = token::user("ada", &["mine:*"], &[]);
    let bearer = format!("Bearer {good}");
    for mut stream in [
        node.stream(&format!("/sse?channel=mine:a&token={good}")).await,
        node.stream_with("/sse?channel=mine:a", &[("authorization", &bearer)]).await,
    ] {
        assert_eq!(stream.status, 200);
        stream.position().await;
    }
    let wrong = support::request(&node.public(), "POST", "/sse?channel=a", &[], "").await;
    assert_eq!(wrong.0, 405);
}

#[tokio::test]
async fn a_cookie_counts_only_for_pages_that_are_named() {
    let node = open_node(&[
        token::TOKENS,
        ("SKYWAVE__AUTH__TOKENS__COOKIE", "sid"),
        ("SKYWAVE__PUBLIC__ORIGINS", "[\"https://app.example.com\"]"),
    ])
    .await;
    let cookie = format!("sid={}", token::user("ada", &["mine:*"], &[]));
    let ask = async |origin: &str| {
        let headers = [("origin", origin), ("cookie", cookie.as_str())];
        node.stream_with("/sse?channel=mine:a", &headers).await
    };
    let mut stream = ask("https://app.example.com").await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.headers["access-control-allow-origin"], "https://app.example.com");
    assert_eq!(stream.headers["access-control-allow-credentials"], "true");
    assert_eq!(stream.headers["vary"], "origin");
    stream.position().await;
    let foreign = ask("https://evil.example").await;
    assert_eq!(foreign.status, 403);
    assert!(!foreign.headers.contains_key("access-control-allow-origin"));
    let preflight = async |origin: &str| {
        let request =
            client(false).request(reqwest::Method::OPTIONS, format!("http://{}/sse?channel=a", node.public()));
        let request = request
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization,last-event-id");
        request.send().await.unwrap()
    };
    let answer = preflight("https://app.example.com").await;
    assert_eq!(answer.status().as_u16(), 204);
    assert!(answer.headers()["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
    assert_eq!(preflight("https://evil.example").await.status().as_u16(), 403);
    // The page that is refused a channel may read why.
    let headers = [("origin", "https://app.example.com")];
    let refused = node.stream_with("/sse?channel=mine:a", &headers).await;
    assert_eq!(
        (refused.status, &refused.headers["access-control-allow-origin"]),
        (403, &"https://app.example.com".parse().unwrap())
    );
}

#[tokio::test]
async fn whoever_cannot_be_taken_in_now_is_told_when_and_the_stream_ends() {
    let node = open_node(&[("SKYWAVE__LIMITS__CONNECTIONS_PER_IP", "2")]).await;
    let mut open = [node.stream("/sse?channel=a").await, node.stream("/sse?channel=a").await];
    for stream in &mut open {
        stream.position().await;
    }
    let mut third = node.stream("/sse?channel=a").await;
    assert_eq!((third.status, &third.headers["content-type"]), (200, &"text/event-stream".parse().unwrap()));
    let event = third.event().await.unwrap();
    assert_eq!((&*event.name, &event.json()["reconnect"]), ("disconnect", &json!(true)));
    assert!(event.retry.is_some_and(|retry| retry >= 1000), "{event:?}");
    assert_eq!(third.block().await, None);
    let mut lines = node.stream_with("/sse?channel=a", &[("accept", "application/x-ndjson")]).await;
    assert!(lines.line().await.unwrap()["disconnect"]["after_ms"].as_u64().unwrap() >= 1000);
    assert_eq!(lines.line().await, None);
    // The place is free again once its client is gone.
    let [first, _second] = open;
    drop(first);
    place(&node, "the seat is given back").await;
}

#[tokio::test]
async fn in_a_drain_each_is_told_when_to_come_back_and_ended_at_its_own_moment() {
    let drain = [("SKYWAVE__DRAIN__GRACE", "0s"), ("SKYWAVE__DRAIN__WINDOW", "2s"), ("SKYWAVE__DRAIN__DEADLINE", "8s")];
    let node = open_node(&drain).await;
    let http2 = client(true);
    let mut streams = Vec::new();
    for n in 0..20 {
        let mut stream = if n % 4 == 0 {
            Stream::of(&http2, &node.public(), "/sse?channel=a", &[]).await
        } else {
            node.stream("/sse?channel=a").await
        };
        stream.position().await;
        streams.push(stream);
    }
    let begun = Instant::now();
    let drained = tokio::spawn(node.node.drain());
    let mut ends = Vec::new();
    for stream in streams {
        ends.push(tokio::spawn(async move {
            let mut stream = stream;
            let last = stream.event().await.expect("a goodbye");
            assert_eq!((&*last.name, &last.json()["code"]), ("disconnect", &json!(4001)));
            assert_eq!(stream.block().await, None);
            begun.elapsed()
        }));
    }
    let mut moments = Vec::new();
    for end in ends {
        moments.push(timeout(DEADLINE, end).await.unwrap().unwrap());
    }
    let (first, last) = (moments.iter().min().unwrap(), moments.iter().max().unwrap());
    assert!(*last - *first > Duration::from_millis(500), "{first:?} {last:?}");
    timeout(DEADLINE, drained).await.expect("nobody is left to wait for").unwrap();
}

#[tokio::test]
async fn a_stream_that_is_too_old_ends_and_recovers() {
    let node = open_node(&[("SKYWAVE__TIMEOUTS__CONNECTION_AGE", "{ max = \"1s\", jitter = 0.0 }")]).await;
    let mut stream = node.stream("/sse?channel=a").await;
    publish(&node, "a", json!(1)).await;
    assert_eq!(stream.data().await, "1");
    let last = stream.event().await.unwrap();
    assert_eq!(last.json()["code"], 4005);
    assert_eq!(stream.block().await, None);
    publish(&node, "a", json!(2)).await;
    let mut back = node.stream_with("/sse?channel=a", &[("last-event-id", &stream.id)]).await;
    assert_eq!(back.data().await, "2");
}

#[tokio::test]
async fn a_token_that_ends_ends_the_stream() {
    let node = open_node(&[token::TOKENS, ("SKYWAVE__AUTH__TOKENS__LEEWAY", "0s")]).await;
    let soon = token::token(json!({"sub": "ada", "exp": token::now() + 2, "skywave": {"subscribe": ["mine:*"]}}));
    let mut stream = node.stream(&format!("/sse?channel=mine:a&token={soon}")).await;
    stream.position().await;
    let last = stream.event().await.unwrap();
    assert_eq!((&*last.name, &last.json()["code"]), ("disconnect", &json!(4008)));
    assert_eq!(stream.block().await, None);
    let again = node.stream(&format!("/sse?channel=mine:a&token={soon}")).await;
    assert_eq!(again.status, 401, "and the browser does not come back with it for ever");
}

#[tokio::test]
async fn over_http2_streams_share_a_connection_and_end_apart() {
    let node = open_node(&[]).await;
    let http2 = client(true);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = Stream::of(&http2, &node.public(), "/sse?channel=a", &[]).await;
        assert!(!stream.headers.contains_key("connection"));
        stream.position().await;
        streams.push(stream);
    }
    let left = streams.split_off(5);
    drop(left);
    publish(&node, "a", json!(1)).await;
    for stream in &mut streams {
        assert_eq!(stream.data().await, "1");
    }
}

#[tokio::test]
async fn silence_is_broken_by_comments() {
    let node = open_node(&[("SKYWAVE__TIMEOUTS__PING_INTERVAL", "1s"), ("SKYWAVE__TIMEOUTS__PONG", "1s")]).await;
    let mut stream = node.stream("/sse?channel=a").await;
    stream.position().await;
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(stream.block().await.unwrap(), ":");
    }
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_was_missed_is_recovered_on_another_node() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let [paris, oslo] =
        [open_node(&[("SKYWAVE__BACKPLANE__URL", &url)]).await, open_node(&[("SKYWAVE__BACKPLANE__URL", &url)]).await];
    ready(&paris).await;
    ready(&oslo).await;
    let mut stream = paris.stream("/sse?channel=a&channel=b").await;
    for n in 1..=3 {
        publish(&oslo, "a", json!(n)).await;
        publish(&oslo, "b", json!(n)).await;
    }
    let mut seen = Vec::new();
    let mut take = |event: Event| {
        let push = event.json()["publication"].clone();
        seen.push((push["channel"].as_str().unwrap().to_owned(), push["data"].as_u64().unwrap()));
        seen.len()
    };
    while take(stream.event().await.unwrap()) < 6 {}
    let id = stream.id.clone();
    drop(stream);
    for n in 4..=6 {
        publish(&paris, "a", json!(n)).await;
        publish(&paris, "b", json!(n)).await;
    }
    let mut back = oslo.stream_with("/sse?channel=a&channel=b", &[("last-event-id", &id)]).await;
    while take(back.event().await.unwrap()) < 12 {}
    for channel in ["a", "b"] {
        let of: Vec<_> = seen.iter().filter(|(name, _)| name == channel).map(|(_, n)| *n).collect();
        assert_eq!(of, (1..=6).collect::<Vec<_>>(), "{channel}");
    }
}

/// A stream, if there is a place for one.
async fn let_in(node: &Running) -> Option<Stream> {
    let mut stream = node.stream("/sse?channel=b").await;
    let first = stream.block().await;
    first.is_some_and(|block| !block.contains("disconnect")).then_some(stream)
}

/// The same, once there is a place.
async fn place(node: &Running, why: &str) -> Stream {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(stream) = let_in(node).await {
            return stream;
        }
        assert!(Instant::now() < deadline, "{why}");
    }
}

/// A client with a small window that asks and never reads.
async fn deaf(node: &Running, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(node.public().parse().unwrap()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", node.public());
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

#[tokio::test]
async fn whoever_never_reads_costs_what_the_limits_say_and_is_cut() {
    let node = open_node(&[
        ("SKYWAVE__LIMITS__OUTBOX_BYTES", "1048576"),
        ("SKYWAVE__TIMEOUTS__PONG", "2s"),
        ("SKYWAVE__TIMEOUTS__PING_INTERVAL", "3s"),
        ("SKYWAVE__TIMEOUTS__CLOSE", "1s"),
        ("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__COMMANDS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__BYTES_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__CONNECTIONS_PER_IP", "5"),
    ])
    .await;
    let mut deaf_ones = Vec::new();
    for path in ["/sse?channel=a", "/sse?channel=a&channel=b", "/sse?channel=a"] {
        deaf_ones.push(deaf(&node, path).await);
    }
    let mut reader = node.stream("/sse?channel=a").await;
    reader.position().await;
    // More than kernel and outbox hold together; whoever reads gets all of it.
    let mut ws = node.client(&[]).await;
    for batch in 0..50 {
        for n in 0..20 {
            let publish = json!({"publish": {"channel": "a", "data": format!("{batch}.{n} {}", "x".repeat(16_000))}});
            assert!(ws.ask(publish).await["published"].is_object());
        }
        for n in 0..20 {
            let data = reader.data().await;
            assert!(data.starts_with(&format!("\"{batch}.{n} ")), "{data:.20}");
        }
    }
    // All five places are taken, until those who do not read have lost theirs.
    let mut instead = Vec::new();
    for _ in 0..3 {
        instead.push(place(&node, "whoever does not read has no place for ever").await);
    }
    for mut socket in deaf_ones {
        // What the kernel holds is still read; then it is the end, not a stream that goes on.
        let mut buffer = vec![0; 1 << 16];
        let mut all = 0;
        let ended = async {
            while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                all += read;
            }
        };
        timeout(DEADLINE, ended).await.expect("it was cut");
        assert!(all < 12_000_000, "it did not get all that was published: {all}");
    }
}

#[tokio::test]
async fn over_http2_whoever_gives_no_window_loses_its_session() {
    let node = open_node(&[
        ("SKYWAVE__TIMEOUTS__PONG", "1s"),
        ("SKYWAVE__TIMEOUTS__PING_INTERVAL", "2s"),
        ("SKYWAVE__TIMEOUTS__CLOSE", "1s"),
        ("SKYWAVE__TIMEOUTS__SESSION_GRACE", "0s"),
        ("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__COMMANDS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__BYTES_PER_SECOND", "0"),
    ])
    .await;
    let narrow = reqwest::Client::builder().no_proxy().http2_prior_knowledge().http2_initial_stream_window_size(65_535);
    let http2 = narrow.build().unwrap();
    let deaf = Stream::of(&http2, &node.public(), "/sse?channel=a", &[]).await;
    let mut reader = Stream::of(&http2, &node.public(), "/sse?channel=a", &[]).await;
    reader.position().await;
    let mut ws = node.client(&[]).await;
    let total = async |ws: &mut support::Client| {
        ws.ask(json!({"presence": {"channel": "a"}})).await["presence"]["total"].clone()
    };
    assert_eq!(total(&mut ws).await, 2);
    for n in 0..20 {
        let publish = json!({"publish": {"channel": "a", "data": format!("{n} {}", "x".repeat(16_000))}});
        assert!(ws.ask(publish).await["published"].is_object());
        assert!(
            reader.data().await.starts_with(&format!("\"{n} ")),
            "a neighbour on the same connection is not held up"
        );
    }
    let deadline = Instant::now() + DEADLINE;
    while total(&mut ws).await != 1 {
        assert!(Instant::now() < deadline, "who takes nothing is slow, and gone");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
    }
    drop(deaf);
}
