//! `skywave.v1.protobuf`: what the JSON protocol can do, in binary frames.
#![allow(missing_docs)]

mod support;

use std::collections::VecDeque;

use futures_util::StreamExt as _;
use prost::Message as _;
use serde_json::json;
use skywave_proto::v1::{self, command::Command, payload::Kind, reply::Reply, subscribe_outcome::Outcome};
use support::Running;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

const SUBPROTOCOL: [(&str, &str); 1] = [("sec-websocket-protocol", "skywave.v1.protobuf")];

/// A client that speaks it.
struct Client {
    socket: support::Client,
    waiting: VecDeque<v1::Reply>,
    ids: u64,
}

impl Client {
    /// One that has not said anything.
    async fn silent(node: &Running) -> Self {
        let socket = node.try_socket("/ws", &SUBPROTOCOL).await.expect("the handshake is good");
        Self { socket, waiting: VecDeque::new(), ids: 0 }
    }

    async fn connected(node: &Running) -> (Self, v1::Connected) {
        let mut client = Self::silent(node).await;
        let Reply::Connected(connected) = client.ask(Command::Connect(v1::Connect::default())).await else { panic!() };
        (client, connected)
    }

    async fn subscribed(node: &Running, channel: &str) -> (Self, v1::Subscribed) {
        let (mut client, _) = Self::connected(node).await;
        let subscribed = client.subscribe(subscribe(channel)).await;
        (client, subscribed)
    }

    /// Sends these commands in one message.
    async fn send(&mut self, commands: &[v1::Command]) {
        let message: Vec<u8> = commands.iter().flat_map(v1::Command::encode_length_delimited_to_vec).collect();
        self.socket.send(Message::Binary(message.into())).await;
    }

    async fn ask(&mut self, command: Command) -> Reply {
        self.ids += 1;
        self.send(&[v1::Command { id: Some(self.ids), command: Some(command) }]).await;
        self.reply(self.ids).await
    }

    async fn reply(&mut self, id: u64) -> Reply {
        loop {
            let reply = self.receive().await;
            if reply.id == Some(id) {
                return reply.reply.expect("a reply says something");
            }
            self.waiting.push_back(reply);
        }
    }

    async fn subscribe(&mut self, request: v1::Subscribe) -> v1::Subscribed {
        match self.ask(Command::Subscribe(request)).await {
            Reply::Subscribed(subscribed) => subscribed,
            other => panic!("{other:?}"),
        }
    }

    async fn publish(&mut self, channel: &str, kind: Kind, key: Option<&str>) -> v1::Published {
        match self.ask(publish(channel, Some(kind), key)).await {
            Reply::Published(published) => published,
            other => panic!("{other:?}"),
        }
    }

    async fn receive(&mut self) -> v1::Reply {
        let Message::Binary(bytes) = self.socket.message().await else { panic!("a binary message") };
        let mut replies = replies(&bytes);
        let first = replies.pop_front().expect("a message holds a reply");
        self.waiting.extend(replies);
        first
    }

    /// The next that the node said, in the order in which it came.
    async fn next(&mut self) -> v1::Reply {
        match self.waiting.pop_front() {
            Some(reply) => reply,
            None => self.receive().await,
        }
    }

    /// The next push of a kind; others are passed over.
    async fn push<T>(&mut self, wanted: impl Fn(Reply) -> Option<T>) -> T {
        loop {
            let said = self.next().await;
            if let (None, Some(found)) = (said.id, said.reply.and_then(&wanted)) {
                return found;
            }
        }
    }

    async fn publication(&mut self) -> v1::Publication {
        self.push(|said| if let Reply::Publication(publication) = said { Some(publication) } else { None }).await
    }

    async fn kinds(&mut self, count: usize) -> Vec<Kind> {
        let mut kinds = Vec::new();
        while kinds.len() < count {
            let data = self.publication().await.data;
            kinds.push(data.and_then(|data| data.kind).expect("a publication has a payload of a kind"));
        }
        kinds
    }

    /// The next error that answers to no command.
    async fn error(&mut self) -> v1::Error {
        self.push(|said| if let Reply::Error(error) = said { Some(error) } else { None }).await
    }
}

fn replies(mut bytes: &[u8]) -> VecDeque<v1::Reply> {
    let mut all = VecDeque::new();
    while !bytes.is_empty() {
        all.push_back(v1::Reply::decode_length_delimited(&mut bytes).expect("replies, each behind its length"));
    }
    all
}

fn subscribe(channel: &str) -> v1::Subscribe {
    v1::Subscribe { channel: channel.into(), ..v1::Subscribe::default() }
}

fn publish(channel: &str, kind: Option<Kind>, key: Option<&str>) -> Command {
    let data = Some(v1::Payload { kind });
    Command::Publish(v1::Publish { channel: channel.into(), data, key: key.map(str::to_owned) })
}

fn history(channel: &str) -> v1::History {
    v1::History { channel: channel.into(), ..v1::History::default() }
}

fn json(text: &'static str) -> Kind {
    Kind::Json(text.into())
}

#[tokio::test]
async fn a_whole_conversation() {
    let node = support::node(&[]).await;
    let mut ada = Client::silent(&node).await;
    let info = Some("{\"name\":\"Ada\"}".into());
    let Reply::Connected(connected) = ada.ask(Command::Connect(v1::Connect { info, ..v1::Connect::default() })).await
    else {
        panic!("connected")
    };
    assert!(!connected.client.is_empty() && !connected.session.is_empty() && !connected.node.is_empty());
    assert!(connected.ping_interval_ms > 0 && connected.subscribed.is_empty());

    let subscribed = ada.subscribe(v1::Subscribe { presence: true, ..subscribe("a") }).await;
    let start = subscribed.position.clone().unwrap();
    assert_eq!((subscribed.recovered, subscribed.total, subscribed.members.len()), (None, Some(1), 1));
    assert_eq!(subscribed.members[0].client, connected.client);
    assert_eq!(subscribed.members[0].info.as_deref(), Some(&b"{\"name\":\"Ada\"}"[..]));

    let published = ada.publish("a", json("{\"x\":1}"), Some("k")).await;
    let position = published.position.clone().unwrap();
    assert_eq!((&position.epoch, position.offset, published.duplicate), (&start.epoch, start.offset + 1, false));
    let again = ada.publish("a", json("2"), Some("k")).await;
    assert_eq!((again.position, again.duplicate), (published.position.clone(), true));
    let publication = ada.publication().await;
    assert_eq!((publication.channel.as_str(), &publication.position), ("a", &published.position));
    assert_eq!(publication.client.as_ref(), Some(&connected.client));
    assert_eq!(publication.data.unwrap().kind, Some(json("{\"x\":1}")));

    let (mut bob, bobs) = Client::connected(&node).await;
    let quiet = bob.subscribe(v1::Subscribe { echo: Some(false), ..subscribe("a") }).await;
    assert_eq!((quiet.members.len(), quiet.total), (0, None), "bob did not ask");
    let joined = ada.push(|said| if let Reply::Join(join) = said { join.member } else { None }).await;
    assert_eq!(joined.client, bobs.client);
    bob.publish("a", json("\"from bob\""), None).await;
    ada.publish("a", json("\"from ada\""), None).await;
    assert_eq!(bob.kinds(1).await, [json("\"from ada\"")], "without an echo");
    assert_eq!(ada.kinds(2).await, [json("\"from bob\""), json("\"from ada\"")]);

    let Reply::Presence(members) = ada.ask(Command::Presence(v1::Presence { channel: "a".into(), after: None })).await
    else {
        panic!("members")
    };
    assert_eq!((members.members.len(), members.total, members.next), (2, 2, None));

    let Reply::History(page) =
        ada.ask(Command::History(v1::History { since: Some(position), limit: Some(1), ..history("a") })).await
    else {
        panic!("a page")
    };
    assert_eq!((page.complete, page.more, page.position.unwrap().offset), (true, true, start.offset + 3));
    assert_eq!(page.publications.len(), 1);
    assert_eq!(page.publications[0].data.clone().unwrap().kind, Some(json("\"from bob\"")));

    let unsubscribe = || Command::Unsubscribe(v1::Unsubscribe { channel: "a".into() });
    let Reply::Unsubscribed(unsubscribed) = bob.ask(unsubscribe()).await else { panic!("unsubscribed") };
    assert_eq!((unsubscribed.channel.as_str(), unsubscribed.reason), ("a", None));
    let left = ada.push(|said| if let Reply::Leave(leave) = said { leave.member } else { None }).await;
    assert_eq!(left.client, bobs.client);
    assert_eq!(bob.ask(Command::Ping(v1::Ping {})).await, Reply::Pong(v1::Pong {}));
}

#[tokio::test]
async fn both_protocols_see_each_others_publications_of_all_kinds() {
    let node = support::node(&[]).await;
    let (mut protobuf, _) = Client::subscribed(&node, "a").await;
    let mut json_client = node.client(&["a"]).await;
    let mut raw = node.socket("/raw/a").await;
    let kinds = [
        json("{\"x\": 1}"),
        Kind::Text("no JSON".into()),
        Kind::Text("[1]".into()),
        Kind::Text("".into()),
        Kind::Binary(vec![0, 255].into()),
    ];
    for kind in kinds.clone() {
        protobuf.publish("a", kind, None).await;
    }
    for data in [json!({"x": 1}), json!("no JSON"), json!([1]), json!("")] {
        assert_eq!(json_client.push("publication").await["data"], data);
    }
    assert_eq!(json_client.push("publication").await["data_base64"], "AP8=");
    for message in ["{\"x\": 1}", "no JSON", "[1]", ""] {
        assert_eq!(raw.message().await, Message::text(message));
    }
    assert_eq!(raw.message().await, Message::Binary(vec![0, 255].into()));
    assert_eq!(protobuf.kinds(5).await, kinds, "its own come back as they were");

    json_client.ask(json!({"publish": {"channel": "a", "data": {"y": [null]}}})).await;
    json_client.ask(json!({"publish": {"channel": "a", "data": "a string"}})).await;
    json_client.ask(json!({"publish": {"channel": "a", "data_base64": "AAE="}})).await;
    let from_json = [json("{\"y\":[null]}"), json("\"a string\""), Kind::Binary(vec![0, 1].into())];
    assert_eq!(protobuf.kinds(3).await, from_json);
    raw.send("raw text").await;
    raw.send(Message::Binary(vec![9].into())).await;
    assert_eq!(protobuf.kinds(2).await, [Kind::Text("raw text".into()), Kind::Binary(vec![9].into())]);
    node.publish("a", json!(7)).await;
    let publication = protobuf.publication().await;
    assert_eq!((publication.data.unwrap().kind, publication.client), (Some(json("7")), None), "a back end's");
}

#[tokio::test]
async fn who_comes_back_gets_what_was_missed_or_is_told() {
    let node = support::node(&[]).await;
    let (mut client, connected) = Client::connected(&node).await;
    let since = client.subscribe(subscribe("a")).await.position;
    drop(client);
    for n in 1..=3 {
        node.publish("a", json!(n)).await;
    }
    let mut back = Client::silent(&node).await;
    let foreign = v1::Position { epoch: "?".into(), offset: 2 };
    let request = v1::Connect {
        session: Some(connected.session),
        subscribe: vec![
            v1::Subscribe { since: since.clone(), ..subscribe("a") },
            v1::Subscribe { since: Some(foreign), ..subscribe("b") },
            subscribe(""),
        ],
        ..v1::Connect::default()
    };
    let Reply::Connected(again) = back.ask(Command::Connect(request)).await else { panic!("connected") };
    assert_eq!(again.client, connected.client, "the session keeps the client");
    let [missed, lost, refused] = &again.subscribed[..] else { panic!("{again:?}") };
    let Some(Outcome::Subscribed(missed)) = &missed.outcome else { panic!("{missed:?}") };
    assert_eq!((missed.channel.as_str(), missed.recovered), ("a", Some(true)));
    let data: Vec<_> = missed.publications.iter().map(|one| one.data.clone().unwrap().kind.unwrap()).collect();
    assert_eq!(data, [json("1"), json("2"), json("3")]);
    assert_eq!(missed.position, missed.publications[2].position);
    let Some(Outcome::Subscribed(lost)) = &lost.outcome else { panic!("{lost:?}") };
    assert_eq!(lost.recovered, Some(false));
    let Some(Outcome::Error(refused)) = &refused.outcome else { panic!("{refused:?}") };
    assert_eq!(refused.code, "bad_request");
    node.publish("a", json!(4)).await;
    assert_eq!(back.kinds(1).await, [json("4")], "live follows");
}

#[tokio::test]
async fn what_was_missed_and_is_too_much_for_a_reply_follows_in_order() {
    const BUSY: &str = "{ history = { size = 1000, ttl = \"1m\" }, subscribe = \"anyone\" }";
    let node = support::node(&[("SKYWAVE__NAMESPACES__BUSY", BUSY)]).await;
    let (_, subscribed) = Client::subscribed(&node, "busy:a").await;
    let filler = "x".repeat(10_000);
    for n in 1..=50 {
        node.publish("busy:a", json!([n, filler])).await;
    }
    let (mut client, _) = Client::connected(&node).await;
    let since = subscribed.position;
    let subscribed = client.subscribe(v1::Subscribe { since, ..subscribe("busy:a") }).await;
    assert_eq!(subscribed.recovered, Some(true));
    let mut offset = subscribed.position.unwrap().offset;
    assert_eq!(subscribed.publications.len() as u64, offset);
    while offset < 50 {
        offset += 1;
        assert_eq!(client.publication().await.position.unwrap().offset, offset);
    }
}

#[tokio::test]
async fn what_is_no_command_is_refused_and_the_connection_goes_on() {
    let node = support::node(&[]).await;
    let (mut client, _) = Client::subscribed(&node, "a").await;
    let large = Kind::Text("x".repeat(64 * 1024 + 1).into());
    for (command, code) in [
        (Command::Connect(v1::Connect::default()), "bad_request"),
        (Command::Subscribe(subscribe("")), "bad_request"),
        (Command::Subscribe(subscribe("a")), "already_subscribed"),
        (Command::Subscribe(subscribe("#user:1")), "permission_denied"),
        (Command::Subscribe(v1::Subscribe { token: Some("x".into()), ..subscribe("z") }), "unauthenticated"),
        (Command::Unsubscribe(v1::Unsubscribe { channel: "z".into() }), "not_subscribed"),
        (publish("z", Some(json("1")), None), "permission_denied"),
        (publish("a", None, None), "bad_request"),
        (publish("a", Some(json("{")), None), "bad_request"),
        (publish("a", Some(Kind::Text(vec![255].into())), None), "bad_request"),
        (publish("a", Some(json("1")), Some("")), "bad_request"),
        (publish("a", Some(large), None), "too_large"),
        (Command::Refresh(v1::Refresh { token: "x".into() }), "bad_request"),
        (Command::Rpc(v1::Rpc { method: "x".into(), data: None }), "not_found"),
    ] {
        let Reply::Error(error) = client.ask(command.clone()).await else { panic!("{command:?}") };
        assert_eq!(error.code, code, "{command:?} -> {error:?}");
        assert!(!error.message.is_empty() && !error.retry && error.after_ms == 0);
    }
    client.socket.send("{\"id\":1,\"ping\":{}}").await;
    let error = client.error().await;
    assert!(error.code == "bad_request" && error.message.contains("binary"), "{error:?}");
    for garbage in [vec![], vec![0], vec![255; 20], vec![3, 1, 2, 3], vec![200, 1, 8, 1]] {
        client.socket.send(Message::Binary(garbage.into())).await;
    }
    for _ in 0..4 {
        assert_eq!(client.error().await.code, "bad_request");
    }
    let Reply::Error(cut) = client.reply(1).await else { panic!("the id of the last could be read") };
    assert_eq!(cut.code, "bad_request");
    client.send(&[v1::Command { id: None, command: Some(publish("z", Some(json("1")), None)) }]).await;
    assert_eq!(client.error().await.code, "permission_denied", "without an id there is an error all the same");
    assert_eq!(client.ask(Command::Ping(v1::Ping {})).await, Reply::Pong(v1::Pong {}), "still here");
}

#[tokio::test]
async fn a_message_holds_many_commands_and_not_too_many() {
    let node = support::node(&[]).await;
    let mut client = Client::silent(&node).await;
    let command = |id, command| v1::Command { id: Some(id), command: Some(command) };
    let first = [
        command(1, Command::Connect(v1::Connect::default())),
        command(2, Command::Subscribe(subscribe("a"))),
        command(3, publish("a", Some(json("1")), None)),
    ];
    client.send(&first).await;
    assert!(matches!(client.reply(1).await, Reply::Connected(_)));
    assert!(matches!(client.reply(2).await, Reply::Subscribed(_)));
    assert!(matches!(client.reply(3).await, Reply::Published(_)));
    assert_eq!(client.kinds(1).await, [json("1")]);
    let pings: Vec<_> = (1..=300).map(|id| command(id, Command::Ping(v1::Ping {}))).collect();
    client.send(&pings).await;
    for id in 1..=256 {
        assert_eq!(client.next().await, v1::Reply { id: Some(id), reply: Some(Reply::Pong(v1::Pong {})) });
    }
    assert_eq!(client.error().await.code, "too_large");
    assert_eq!(client.ask(Command::Ping(v1::Ping {})).await, Reply::Pong(v1::Pong {}), "nothing in between");
}

#[tokio::test]
async fn what_a_back_end_orders_is_told() {
    let node = support::node(&[]).await;
    let (mut client, _) = Client::subscribed(&node, "a").await;
    node.publish("a", json!(1)).await;
    assert_eq!(node.call("forget", json!({"channel": "a"})).await.0, 200);
    let gap = client.push(|said| if let Reply::Gap(gap) = said { Some(gap) } else { None }).await;
    assert_eq!((gap.channel.as_str(), gap.reason.as_str()), ("a", "reset"));
    let (mut other, who) = Client::connected(&node).await;
    let (_, answer) = node.call("connections", json!({"client": who.client})).await;
    assert_eq!(answer["connections"][0]["protocol"], "protobuf", "{answer}");
    other.subscribe(subscribe("a")).await;
    let order = json!({"client": who.client, "channel": "a"});
    assert_eq!(node.call("unsubscribe", order).await.0, 200);
    let ended = other.push(|said| if let Reply::Unsubscribed(ended) = said { Some(ended) } else { None }).await;
    assert_eq!((ended.channel.as_str(), ended.reason.as_deref()), ("a", Some("api")));
}

#[tokio::test]
async fn a_node_that_drains_says_so_and_loses_nothing() {
    let node = support::node(&[]).await;
    let (mut client, _) = Client::subscribed(&node, "a").await;
    node.publish("a", json!("last")).await;
    let drained = tokio::spawn(node.node.drain());
    let mut said = VecDeque::new();
    let (code, reason) = loop {
        match timeout(support::DEADLINE, client.socket.stream.next()).await.expect("the close comes in time") {
            Some(Ok(Message::Binary(bytes))) => said.extend(replies(&bytes)),
            Some(Ok(Message::Close(Some(frame)))) => break (u16::from(frame.code), frame.reason.to_string()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("the connection ended with {other:?}"),
        }
    };
    assert_eq!((code, reason.as_str()), (4001, "draining"));
    assert!(matches!(said.pop_front().unwrap().reply, Some(Reply::Publication(_))));
    let Some(v1::Reply { id: None, reply: Some(Reply::Disconnect(goodbye)) }) = said.pop_back() else { panic!() };
    assert_eq!((goodbye.code, goodbye.reason.as_str(), goodbye.reconnect), (4001, "draining", true));
    assert!(goodbye.after_ms <= 1000);
    drained.await.unwrap();
}

#[tokio::test]
async fn the_best_of_what_is_offered_is_spoken_and_the_list_is_told() {
    let node = support::node(&[]).await;
    let (status, body) = node.refused("/ws", &[("sec-websocket-protocol", "other")]).await;
    assert!(status == 400 && body.contains("skywave.v1.json, skywave.v1.protobuf"), "{body}");
    let both = [("sec-websocket-protocol", "skywave.v1.protobuf, skywave.v1.json")];
    let mut client = node.try_socket("/ws", &both).await.unwrap();
    assert!(client.ask(json!({"connect": {}})).await["connected"].is_object());
}
