//! Who asks more than it may is told which limit and for how long, and costs nobody else anything.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod support;

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, future::join_all};
use serde_json::{Value, json};
use support::{Client, DEADLINE, Running, tls::Files};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

const ANYONE: (&str, &str) = ("SKYWAVE__NAMESPACES__DEFAULT", "{ subscribe = \"anyone\", publish = \"anyone\" }");

/// What came back to a flood.
#[derive(Default)]
struct Flood {
    sent: u64,
    accepted: u64,
    refusals: Vec<Value>,
    disconnect: Value,
    closed: Option<(u16, String)>,
    took: Duration,
}

impl Flood {
    /// Sends this command ten times a tenth of `rate` a second, until the node closes.
    async fn of(mut client: Client, command: Value, rate: u32, accepted: &str) -> Self {
        let mut flood = Self::default();
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while flood.closed.is_none() && begun.elapsed() < DEADLINE {
            tokio::select! {
                biased;
                message = client.stream.next() => flood.hear(message.unwrap().unwrap(), accepted),
                _ = ticks.tick() => {
                    // As many as are due by now, however late the tick comes.
                    let due = (begun.elapsed().as_secs_f64() * f64::from(rate) * 10.0) as u64;
                    for _ in flood.sent..due {
                        flood.sent += 1;
                        let mut command = command.clone();
                        command["id"] = flood.sent.into();
                        if client.stream.feed(Message::text(command.to_string())).await.is_err() {
                            break;
                        }
                    }
                    let _ = client.stream.flush().await; // the close frame is on its way, and is read above
                }
            }
        }
        flood.took = begun.elapsed();
        flood
    }

    fn hear(&mut self, message: Message, accepted: &str) {
        match message {
            Message::Close(close) => self.closed = close.map(|close| (close.code.into(), close.reason.to_string())),
            Message::Text(text) => {
                let mut value: Value = serde_json::from_str(&text).unwrap();
                if value.get(accepted).is_some() {
                    self.accepted += 1;
                } else if value.get("error").is_some() {
                    assert!(value["id"].is_u64(), "each command is refused under its own id: {value}");
                    self.refusals.push(value["error"].take());
                } else if value.get("disconnect").is_some() {
                    self.disconnect = value["disconnect"].take();
                }
            }
            _ => {}
        }
    }

    /// It was held to the limit, told so with every refusal, and at last sent away.
    fn was_held_to(&self, setting: &str, rate: u32) {
        let most = f64::from(rate) * (1.0 + self.took.as_secs_f64());
        assert!(self.accepted as f64 <= most, "{} accepted in {:?}", self.accepted, self.took);
        assert!(self.accepted >= u64::from(rate), "a second's worth is let through: {}", self.accepted);
        assert!(self.refusals.len() as u32 >= 5 * rate, "five seconds' worth was refused: {}", self.refusals.len());
        for refusal in &self.refusals {
            let words = refusal["message"].as_str().unwrap();
            assert!(words.starts_with(&format!("limits.{setting} is {rate}: wait ")), "{words}");
            let after_ms = refusal["after_ms"].as_u64().unwrap();
            assert!(refusal["code"] == "limit" && (1..=1000).contains(&after_ms), "{refusal}");
        }
        let (code, reason) = self.closed.clone().expect("sent away");
        assert!(code == 4007 && reason.contains(setting) && reason.contains("5000 ms"), "{code} {reason}");
        assert_eq!((&self.disconnect["code"], &self.disconnect["after_ms"]), (&json!(4007), &json!(5000)));
    }
}

#[tokio::test]
async fn publications_ten_times_too_fast_are_held_to_the_limit_and_a_neighbour_loses_nothing() {
    let variables = [ANYONE, ("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "40")];
    let node = support::node(&variables).await;
    let mut neighbours = [node.client(&["lobby"]).await, node.client(&["lobby"]).await];
    let flooder = node.client(&[]).await;
    let flood =
        tokio::spawn(Flood::of(flooder, json!({"publish": {"channel": "lobby", "data": "flood"}}), 40, "published"));
    // Meanwhile a neighbour says what it has to say, and is heard.
    for n in 0..20 {
        let reply = neighbours[0].ask(json!({"publish": {"channel": "lobby", "data": n}})).await;
        assert!(reply["published"].is_object(), "{reply}");
    }
    let flood = flood.await.unwrap();
    flood.was_held_to("publications_per_second", 40);
    let last = node.publish("lobby", json!("last")).await;
    assert!(last["position"].is_null() || last["position"].is_object());
    for neighbour in &mut neighbours {
        let mut heard = Vec::new();
        while heard.last() != Some(&json!("last")) {
            heard.push(neighbour.push("publication").await["data"].take());
        }
        let floods = heard.iter().filter(|data| **data == "flood").count() as u64;
        assert_eq!(floods, flood.accepted, "what was refused went nowhere, what was accepted to everybody");
        let said: Vec<_> = heard.iter().filter_map(Value::as_u64).collect();
        assert_eq!(said, (0..20).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn commands_ten_times_too_fast_are_held_to_the_limit() {
    let node = support::node(&[("SKYWAVE__LIMITS__COMMANDS_PER_SECOND", "50")]).await;
    let mut other = node.client(&["a"]).await;
    let flood = Flood::of(node.socket("/ws").await, json!({"ping": {}}), 50, "pong").await;
    flood.was_held_to("commands_per_second", 50);
    assert!(other.ask(json!({"ping": {}})).await["pong"].is_object(), "each connection has its own limit");
}

#[tokio::test]
async fn whoever_waits_as_long_as_it_is_told_is_let_through() {
    let node = support::node(&[("SKYWAVE__LIMITS__COMMANDS_PER_SECOND", "20")]).await;
    let mut client = node.client(&[]).await;
    let mut refused = 0;
    for _ in 0..60 {
        let reply = client.ask(json!({"ping": {}})).await;
        if let Some(after_ms) = reply["error"]["after_ms"].as_u64() {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(after_ms)).await; // as it was told to
            assert!(client.ask(json!({"ping": {}})).await["pong"].is_object());
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn what_is_in_a_message_that_is_too_much_is_refused() {
    let node = support::node(&[ANYONE, ("SKYWAVE__LIMITS__BYTES_PER_SECOND", "2000")]).await;
    let mut listener = node.client(&["a"]).await;
    let mut client = node.client(&[]).await;
    let publish = |data: &str| json!({"publish": {"channel": "a", "data": data}});
    let first = client.ask(publish(&"x".repeat(1500))).await;
    assert!(first["published"].is_object(), "{first}");
    let second = client.ask(publish(&"y".repeat(1500))).await;
    let words = second["error"]["message"].as_str().unwrap();
    assert!(words.starts_with("limits.bytes_per_second is 2000: wait "), "{words}");
    tokio::time::sleep(Duration::from_millis(second["error"]["after_ms"].as_u64().unwrap())).await; // as it was told to
    assert!(client.ask(publish(&"z".repeat(1500))).await["published"].is_object());
    let heard = listener.data(2).await;
    assert!(heard[0].as_str().unwrap().starts_with('x') && heard[1].as_str().unwrap().starts_with('z'));
}

#[tokio::test]
async fn new_channels_are_counted_whatever_is_done_on_them() {
    let node = support::node(&[("SKYWAVE__LIMITS__NEW_CHANNELS_PER_MINUTE", "5")]).await;
    let mut client = node.client(&["a", "b"]).await;
    for _ in 0..20 {
        let reply = client.ask(json!({"history": {"channel": "c"}})).await;
        assert!(reply["history"].is_object(), "{reply}");
        let reply = client.ask(json!({"publish": {"channel": "a", "data": 1}})).await;
        assert!(reply["published"].is_object(), "one that it is subscribed to is not new: {reply}");
    }
    assert!(client.ask(json!({"presence": {"channel": "d"}})).await["presence"].is_object());
    assert!(client.ask(json!({"subscribe": {"channel": "e"}})).await["subscribed"].is_object());
    let commands = ["subscribe", "history", "presence", "publish"];
    for (place, command) in commands.into_iter().enumerate() {
        let reply = client.ask(json!({command: {"channel": format!("new{place}"), "data": 1}})).await;
        let reply = if reply["error"]["code"] == "bad_request" {
            client.ask(json!({command: {"channel": format!("new{place}")}})).await
        } else {
            reply
        };
        let words = reply["error"]["message"].as_str().unwrap_or_default();
        assert!(words.starts_with("limits.new_channels_per_minute is 5: wait "), "{command}: {reply}");
    }
    let mut other = node.socket("/ws").await;
    let subscribe: Vec<_> = (0..6).map(|n| json!({"channel": format!("of-connect-{n}")})).collect();
    let reply = other.ask(json!({"connect": {"subscribe": subscribe}})).await;
    let outcomes = reply["connected"]["subscribed"].as_array().unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| outcome["error"]["code"] == "limit").count(), 1, "{reply}");
    // Who asks for a hundred at once is told so and stays: it would come back with the same list.
    let mut other = node.socket("/ws").await;
    let subscribe: Vec<_> = (0..100).map(|n| json!({"channel": format!("of-connect-{n}")})).collect();
    let reply = other.ask(json!({"connect": {"subscribe": subscribe}})).await;
    let outcomes = reply["connected"]["subscribed"].as_array().unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| outcome["error"]["code"] == "limit").count(), 95);
    assert!(other.ask(json!({"ping": {}})).await["pong"].is_object());
}

#[tokio::test]
async fn raw_has_no_words_and_closes_with_the_position_and_the_limit() {
    let node = support::node(&[("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "3")]).await;
    let mut client = node.socket("/raw/a").await;
    for n in 0..3 {
        client.send(n.to_string()).await;
        assert_eq!(client.message().await, Message::text(n.to_string()));
    }
    client.send("one too many").await;
    let (code, reason) = client.closed().await;
    let (position, words) = reason.split_once(' ').unwrap();
    assert!(code == 4007 && words.starts_with("limits.publications_per_second is 3: wait "), "{code} {reason}");
    assert!(position.ends_with(":3"), "{reason}");
    node.publish("a", json!("missed")).await;
    // As it came, or the position alone.
    for since in [reason.replace(' ', "%20"), position.to_owned()] {
        let mut back = node.socket(&format!("/raw/a?since={since}")).await;
        assert_eq!(back.message().await, Message::text("\"missed\""));
    }
}

/// The head and body of the answer to a handshake.
async fn handshake(node: &Running) -> String {
    let mut socket = TcpStream::connect(node.public()).await.unwrap();
    answered(&mut socket).await
}

async fn answered(socket: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) -> String {
    let request = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = timeout(DEADLINE, socket.read_buf(&mut answer)).await.expect("an answer in time").unwrap_or(0);
        if read == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn retry_after(answer: &str) -> u64 {
    let line = answer.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("says when to come back");
    line.parse().unwrap()
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let node = support::node(&[
        ("SKYWAVE__LIMITS__CONNECTIONS_PER_IP", "2"),
        ("SKYWAVE__PUBLIC__TRUSTED_PROXIES", "[\"127.0.0.0/8\"]"),
    ])
    .await;
    let of = async |address: &str| node.try_socket("/ws", &[("x-forwarded-for", address)]).await;
    let (first, _second) = (of("2001:db8::1").await.unwrap(), of("2001:db8::2").await.unwrap());
    let (status, words) = of("2001:db8::3").await.err().unwrap();
    assert!(status == 429 && words.starts_with("limits.connections_per_ip is 2"), "{status} {words}");
    let _neighbour = of("2001:db8:0:1::1").await.unwrap();
    let _proxies_own = [of("127.0.0.1").await.unwrap(), of("127.0.0.1").await.unwrap(), of("127.0.0.1").await.unwrap()];
    drop(first);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while of("2001:db8::3").await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "a place is free once one has gone");
    }
}

#[tokio::test]
async fn an_address_that_is_full_is_told_when_to_come_back() {
    let node = support::node(&[("SKYWAVE__LIMITS__CONNECTIONS_PER_IP", "1")]).await;
    let _one = node.socket("/ws").await;
    let answer = handshake(&node).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!((1..=5).contains(&retry_after(&answer)));
}

#[tokio::test]
async fn handshakes_wait_their_turn_and_those_behind_the_last_place_are_refused() {
    let node = support::measured_node(&[("SKYWAVE__LIMITS__HANDSHAKES_PER_SECOND", "8")]).await;
    let begun = Instant::now();
    let answers = join_all((0..20).map(|_| handshake(&node))).await;
    let (in_, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.starts_with("HTTP/1.1 101 "));
    // One at once; of the others the address has a quarter of the eight places.
    assert_eq!((in_.len(), refused.len()), (3, 17));
    assert!(begun.elapsed() >= Duration::from_millis(245), "an eighth of a second each: {:?}", begun.elapsed());
    for answer in refused {
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!((1..=5).contains(&retry_after(answer)));
    }
    let (status, words) = {
        let (_, answers) = tokio::join!(
            join_all((0..10).map(|_| node.try_socket("/ws", &[]))).map(drop),
            join_all((0..10).map(|_| node.try_socket("/ws", &[])))
        );
        answers.into_iter().find_map(Result::err).unwrap()
    };
    assert!(status == 503 && words.starts_with("limits.handshakes_per_second is 8"), "{status} {words}");
    // The metrics are the process's, and other tests of this file are refused something too.
    let page = node.http("GET", "/metrics", &[], "").await.1;
    let series = "skywave_handshakes_refused_total{node=\"measured\",reason=\"handshakes\"} ";
    let counted = page.lines().find_map(|line| line.strip_prefix(series)?.parse::<u32>().ok());
    assert!(counted.is_some_and(|counted| counted >= 18), "{counted:?}");
    assert!(page.contains("skywave_limited_total{node=\"measured\",limit=\"commands_per_second\"} "));
    assert!(node.http("GET", "/readyz", &[], "").await.0 == 200, "that many come is no reason to send all away");
}

#[tokio::test]
async fn over_tls_the_turn_comes_before_the_handshake_of_tls_and_is_the_first_websockets_too() {
    let files = Files::new();
    let tls = files.setting(false);
    let variables = [("SKYWAVE__PUBLIC__TLS", tls.as_str()), ("SKYWAVE__LIMITS__HANDSHAKES_PER_SECOND", "8")];
    let node = support::node(&variables).await;
    let connect = async || {
        let socket = TcpStream::connect(node.public()).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut stream = files.client(&["http/1.1"], None).connect(name, socket).await.ok()?;
        Some(answered(&mut stream).await)
    };
    let answers = join_all((0..20).map(|_| connect())).await;
    let in_ = answers.iter().flatten().filter(|answer| answer.starts_with("HTTP/1.1 101 ")).count();
    let closed = answers.iter().filter(|answer| answer.is_none()).count();
    assert_eq!((in_, closed), (3, 17), "who is refused is spared the handshake of TLS: {answers:?}");
}

#[tokio::test]
async fn a_node_without_memory_lets_nobody_in_and_keeps_who_is_there() {
    let node = support::node(&[]).await;
    let mut here = node.client(&["a"]).await;
    // All that a process uses is more than this.
    let full = support::node(&[("SKYWAVE__LIMITS__OVERLOAD_MEMORY", "0.0000001")]).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let red = loop {
        let (status, words) = full.http("GET", "/readyz", &[], "").await;
        if status == 503 {
            break words;
        }
        assert!(tokio::time::Instant::now() < deadline, "the node sees that it has too little memory");
        tokio::time::sleep(Duration::from_millis(10)).await; // between two looks at the condition
    };
    assert!(red.starts_with("overloaded: memory"), "{red}");
    let answer = handshake(&full).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!((1..=5).contains(&retry_after(&answer)));
    assert_eq!(full.http("GET", "/livez", &[], "").await.0, 200, "it lives");
    assert!(here.ask(json!({"ping": {}})).await["pong"].is_object());
}

#[tokio::test]
async fn one_user_has_so_many_connections_and_floods_with_no_more_than_theirs() {
    use support::token;
    let variables = [
        token::TOKENS,
        ("SKYWAVE__NAMESPACES__DEFAULT", "{ subscribe = \"users\", publish = \"anyone\" }"),
        ("SKYWAVE__LIMITS__CONNECTIONS_PER_USER", "2"),
        ("SKYWAVE__LIMITS__COMMANDS_PER_SECOND", "50"),
    ];
    let node = support::closed_node(&variables).await;
    let connect = async |user: &str, session: Option<&Value>| {
        let mut client = node.socket("/ws").await;
        let reply = client.ask(json!({"connect": {"token": token::user(user, &[], &[]), "session": session}})).await;
        (client, reply)
    };
    let (mut first, reply) = connect("ada", None).await;
    let session = reply["connected"]["session"].clone();
    let (second, _) = connect("ada", None).await;
    let (mut third, reply) = connect("ada", None).await;
    assert_eq!(reply["error"]["code"], "limit", "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("limits.connections_per_user is 2"), "{reply}");
    assert_eq!(third.closed().await.0, 4505);
    let (_bob, reply) = connect("bob", None).await;
    assert!(reply["connected"].is_object(), "another user has connections of its own: {reply}");

    // Whoever comes back as the client that it was takes its own place.
    let (third, reply) = connect("ada", Some(&session)).await;
    assert!(reply["connected"].is_object(), "{reply}");
    assert_eq!(first.closed().await.0, 4506);

    // Both of hers at ten times the limit get what two connections may, and no more.
    let floods = join_all([second, third].map(|client| Flood::of(client, json!({"ping": {}}), 50, "pong"))).await;
    for flood in &floods {
        flood.was_held_to("commands_per_second", 50);
    }
}
