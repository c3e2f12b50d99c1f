//! The JSON protocol and the protobuf one say the same: what either encodes is read back without the types that made it
//! and compared, for every reply, push and command there is.

use std::{collections::BTreeSet, sync::LazyLock};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, ReflectMessage as _};
use serde_json::{Map, Value, json};
use skywave_backplane::{HistoryPage, MemberPage, PresenceEvent, Published};
use skywave_proto::{
    ChannelName, CloseCode, ErrorCode, Member, Payload, Publication, StreamPosition,
    v1::{self, command::Command as Word, payload::Kind},
};

use super::{Body, Codec, Incoming, Json, Protobuf};
use crate::{
    push::{Encoded, Format as _, Frame, GapDetail, GapReason, Goodbye, Push},
    session::{Command, Connected, Envelope, Refusal, Reply, Subscribed, Voice as _},
};

/// Samples of every variant. There is no wildcard: a new variant without samples does not compile.
macro_rules! every {
    ($kind:ty: $($variant:pat => $samples:expr,)+) => {{
        let _ = |value: &$kind| match value { $($variant => {})+ };
        let samples: Vec<$kind> = [$($samples),+].into_iter().flatten().collect();
        samples
    }};
}

fn replies() -> Vec<Reply> {
    let connected = |subscribed: Vec<_>| {
        let (client, session, node) = ("01J".into(), "sealed".into(), "gw-1".into());
        let expires_in_ms = Some(3_600_000).filter(|_| !subscribed.is_empty());
        Reply::Connected(Connected { client, session, node, ping_interval_ms: 25_000, expires_in_ms, subscribed })
    };
    let refused = |channel: &str| Err((channel.to_owned(), Refusal::new(ErrorCode::BadRequest, "a name has words")));
    let history = |publications, complete, more| {
        Reply::History(channel(), HistoryPage { top: Some(at(9)), publications, complete, more })
    };
    every!(Reply:
        Reply::Connected(_) => vec![
            connected(vec![]),
            connected(subscriptions().into_iter().map(Ok).chain([refused(""), refused("chat:\u{7}")]).collect()),
        ],
        Reply::Subscribed(_) => subscriptions().into_iter().map(Reply::Subscribed).collect(),
        Reply::Unsubscribed(_) => vec![Reply::Unsubscribed(channel())],
        Reply::Published(_) => vec![
            Reply::Published(Published { position: Some(at(u64::MAX)), duplicate: true }),
            Reply::Published(Published { position: None, duplicate: false }),
        ],
        Reply::Presence(_) => rolls().into_iter().map(Reply::Presence).collect(),
        Reply::History(..) => vec![
            history(publications(), true, true),
            history(vec![], false, false),
            Reply::History(channel(), HistoryPage { top: None, publications: vec![], complete: true, more: false }),
        ],
        Reply::Refreshed(_) => vec![Reply::Refreshed(None), Reply::Refreshed(Some(0))],
        Reply::Result(_) => {
            publications().into_iter().map(|publication| Reply::Result(publication.payload)).collect()
        },
        Reply::Pong => vec![Reply::Pong],
        Reply::Error(_) => ErrorCode::ALL.into_iter().flat_map(|code| {
            let bare = Refusal::new(code, "what to do about it");
            [bare.clone(), Refusal { after_ms: 350, position: Some(at(0)), ..bare }]
        }).map(Reply::Error).collect(),
    )
}

fn pushes() -> Vec<Push> {
    let gap = |reason| {
        [
            GapDetail { missed: None, position: None },
            GapDetail { missed: Some(0), position: Some(at(0)) },
            GapDetail { missed: Some(12), position: None },
        ]
        .map(|detail| Push::Gap(channel(), reason, detail))
    };
    let reasons = every!(GapReason:
        GapReason::SlowConsumer => [GapReason::SlowConsumer],
        GapReason::Rollback => [GapReason::Rollback],
        GapReason::Reset => [GapReason::Reset],
        GapReason::Possible => [GapReason::Possible],
    );
    let event = |event| Push::Presence(channel(), event);
    every!(Push:
        Push::Publication(..) => {
            publications().into_iter().map(|publication| Push::Publication(channel(), publication)).collect()
        },
        Push::Presence(_, PresenceEvent::Join(_)) => {
            members().into_iter().map(|member| event(PresenceEvent::Join(member))).collect()
        },
        Push::Presence(_, PresenceEvent::Leave(_)) => {
            members().into_iter().map(|member| event(PresenceEvent::Leave(member))).collect()
        },
        Push::Roll(..) => rolls().into_iter().flat_map(|page| {
            [Push::Roll(channel(), None, page.clone()), Push::Roll(channel(), Some(at(4)), page)]
        }).collect(),
        Push::Gap(..) => reasons.into_iter().flat_map(gap).collect(),
        Push::Unsubscribed(..) => vec![Push::Unsubscribed(channel(), "api")],
        Push::Backplane(_) => vec![Push::Backplane(true), Push::Backplane(false)],
        Push::Disconnect(_) => CloseCode::ALL.into_iter().map(|code| {
            Push::Disconnect(Goodbye { after_ms: 350, ..code.into() })
        }).collect(),
    )
}

/// Commands that both protocols have words for. Payloads are JSON and binary: JSON has no other.
fn commands() -> Vec<Word> {
    let position = |epoch: &str| Some(v1::Position { epoch: epoch.into(), offset: 41 });
    let channel = |name: &str| v1::Subscribe { channel: name.into(), ..v1::Subscribe::default() };
    let subscribes = vec![
        channel("chat:lobby"),
        v1::Subscribe { since: position("k3x9k3x9"), presence: true, echo: Some(false), ..channel("chat:a b") },
        v1::Subscribe { since: position("?"), echo: Some(true), ..channel("a") },
        v1::Subscribe { token: Some(String::new()), ..channel("a") },
        channel(""),
        channel("a\n"),
    ];
    let info = |info: &str| Some(Bytes::from(info.to_owned()));
    let connect = |info| v1::Connect { info, ..v1::Connect::default() };
    let publish = |kind: Option<Kind>, key: Option<&str>| {
        let data = Some(v1::Payload { kind });
        Word::Publish(v1::Publish { channel: "a".into(), data, key: key.map(str::to_owned) })
    };
    let json = |text: &str| Some(Kind::Json(Bytes::from(text.to_owned())));
    let mut all = vec![
        Word::Connect(connect(None)),
        Word::Connect(v1::Connect {
            token: Some("t".into()),
            session: Some("s".into()),
            info: info("{\"name\":\"Ada\"}"),
            subscribe: subscribes.clone(),
        }),
        Word::Connect(connect(info("[1]"))),
        Word::Connect(connect(info(&format!("{{\"a\":\"{}\"}}", "x".repeat(4096))))),
        Word::Unsubscribe(v1::Unsubscribe { channel: "a".into() }),
        Word::Unsubscribe(v1::Unsubscribe { channel: " a".into() }),
        publish(json("{\"x\":[1,null]}"), Some("k")),
        publish(json("null"), None),
        publish(json("\"text\""), Some("")),
        publish(json("1"), Some(&"k".repeat(129))),
        publish(Some(Kind::Binary(Bytes::from_static(&[0, 255]))), None),
        publish(None, None),
        Word::Presence(v1::Presence { channel: "a".into(), after: None }),
        Word::Presence(v1::Presence { channel: "a".into(), after: Some("01J".into()) }),
        Word::History(v1::History { channel: "a".into(), since: None, limit: None }),
        Word::History(v1::History { channel: "a".into(), since: position("k3x9k3x9"), limit: Some(0) }),
        Word::Refresh(v1::Refresh { token: "t".into() }),
        Word::Rpc(v1::Rpc { method: "m".into(), data: Some(v1::Payload { kind: json("1") }) }),
        Word::Rpc(v1::Rpc { method: "m".into(), data: Some(v1::Payload { kind: Some(Kind::Binary(Bytes::new())) }) }),
        Word::Rpc(v1::Rpc { method: "m".into(), data: None }),
        Word::Rpc(v1::Rpc { method: String::new(), data: None }),
        Word::Rpc(v1::Rpc { method: "m".repeat(129), data: None }),
        Word::Ping(v1::Ping {}),
    ];
    all.extend(subscribes.into_iter().map(Word::Subscribe));
    all
}

fn channel() -> ChannelName {
    ChannelName::parse("chat:\"lobby\" é").unwrap()
}

fn at(offset: u64) -> StreamPosition {
    StreamPosition { epoch: "k3x9k3x9".parse().unwrap(), offset }
}

fn publications() -> Vec<Publication> {
    let payloads = [
        Payload::json(Bytes::from_static(b"{\"x\":[1,2.5,null,\"\\n\"]}")),
        Payload::json(Bytes::from_static(b"null")),
        Payload::text(Bytes::from_static("héllo\n\"".as_bytes())),
        Payload::text(Bytes::from_static(b"{\"json\":\n1}")),
        Payload::text(Bytes::new()),
        Payload::binary(Bytes::from_static(&[0, 255])),
        Payload::binary(Bytes::new()),
    ];
    let from = |(n, payload)| Publication {
        position: (n % 2 == 0).then(|| at(n)),
        payload,
        client: (n != 1).then(|| "01J".into()),
        user: (n > 3).then(|| "ada".into()),
        published_at_ms: n,
    };
    (0..).zip(payloads).map(from).collect()
}

fn members() -> Vec<Member> {
    let info = Some(Bytes::from_static(b"{\"name\":\"Ada\"}"));
    vec![
        Member { client: "01J".into(), user: Some("ada".into()), info },
        Member { client: "01K".into(), user: None, info: None },
    ]
}

fn rolls() -> Vec<MemberPage> {
    vec![
        MemberPage { members: members(), total: 3000, next: Some("01K".into()) },
        MemberPage { members: vec![], total: 0, next: None },
    ]
}

fn subscriptions() -> Vec<Subscribed> {
    let live =
        |position| Subscribed { channel: channel(), position, recovered: None, publications: vec![], members: None };
    let mut all = vec![
        live(None),
        live(Some(at(43))),
        Subscribed { recovered: Some(false), ..live(Some(at(0))) },
        Subscribed { recovered: Some(true), ..live(Some(at(0))) },
        Subscribed { recovered: Some(true), publications: publications(), ..live(Some(at(6))) },
    ];
    all.extend(rolls().into_iter().map(|page| Subscribed { members: Some(page), ..live(None) }));
    all
}

/// What is said in a protobuf message, in the words of the JSON protocol. It knows the schema only as data.
fn facts(message: &DynamicMessage) -> Map<String, Value> {
    let descriptor = message.descriptor();
    let mut said = Map::new();
    for field in descriptor.fields().filter(|field| !field.supports_presence() || message.has_field(field)) {
        let (name, value) = (field.name().to_owned(), message.get_field(&field));
        match (field_type(&field).as_deref(), &*value) {
            (Some("skywave.v1.Payload"), prost_reflect::Value::Message(payload)) => said.extend(data(payload)),
            _ => {
                said.insert(name, fact(&value));
            }
        }
    }
    match descriptor.name() {
        // A publication's position stands in it as two words.
        "Publication" => {
            if let Some(Value::Object(position)) = said.remove("position") {
                said.extend(position);
            }
        }
        // A list that nobody asked for is not there, and an empty one is.
        "Subscribed" => {
            for (list, sign) in [("publications", "recovered"), ("members", "total")] {
                if !said.contains_key(sign) {
                    assert_eq!(said.remove(list), Some(json!([])), "{list} without {sign}");
                }
            }
        }
        "SubscribeOutcome" => {
            if let Some(Value::Object(subscribed)) = said.remove("subscribed") {
                assert_eq!(said.get("channel"), subscribed.get("channel"));
                said.extend(subscribed);
            }
        }
        "HistoryPage" => said.retain(|word, value| word != "more" || *value == true),
        _ => {}
    }
    said
}

fn field_type(field: &FieldDescriptor) -> Option<String> {
    field.kind().as_message().map(|message| message.full_name().to_owned())
}

fn fact(value: &prost_reflect::Value) -> Value {
    match value {
        prost_reflect::Value::Bool(value) => json!(value),
        prost_reflect::Value::U32(value) => json!(value),
        prost_reflect::Value::U64(value) => json!(value),
        prost_reflect::Value::String(value) => json!(value),
        prost_reflect::Value::Bytes(info) => serde_json::from_slice(info).unwrap(),
        prost_reflect::Value::Message(message) => Value::Object(facts(message)),
        prost_reflect::Value::List(list) => list.iter().map(fact).collect(),
        other => panic!("the schema has a new type: {other:?}"),
    }
}

/// DESIGN: what a payload of each kind is to a JSON client.
fn data(payload: &DynamicMessage) -> Option<(String, Value)> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let descriptor = payload.descriptor();
    let field = descriptor.fields().find(|field| payload.has_field(field))?;
    let value = payload.get_field(&field);
    let bytes = value.as_bytes().unwrap();
    Some(match field.name() {
        "json" => ("data".into(), serde_json::from_slice(bytes).unwrap()),
        "text" => {
            let text = std::str::from_utf8(bytes).unwrap();
            ("data".into(), serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
        }
        "binary" => ("data_base64".into(), STANDARD.encode(bytes).into()),
        other => panic!("a new kind of payload: {other}"),
    })
}

fn described(message: &str) -> MessageDescriptor {
    static SCHEMA: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(v1::DESCRIPTOR).unwrap());
    SCHEMA.get_message_by_name(message).unwrap()
}

/// The words of a message's one choice.
fn words(message: &str) -> BTreeSet<String> {
    let choice = described(message).oneofs().find(|oneof| !oneof.is_synthetic()).unwrap();
    choice.fields().map(|field| field.name().to_owned()).collect()
}

fn frame(encoded: Encoded) -> Frame {
    match encoded {
        Encoded::Frame(frame) => frame,
        other => panic!("both protocols have a word for everything: {other:?}"),
    }
}

/// Compares, and returns what was said.
fn same(json: Encoded, protobuf: Encoded) -> Value {
    let (json, protobuf) = (frame(json), frame(protobuf));
    assert_eq!((json.is_text(), protobuf.is_text()), (true, false));
    assert_eq!(json.position(), protobuf.position(), "how far the client has come");
    let mut bytes = &protobuf.payload()[..];
    let length = prost::decode_length_delimiter(&mut bytes).unwrap();
    assert_eq!(length, bytes.len(), "one reply, and nothing behind it");
    let told = Value::Object(facts(&DynamicMessage::decode(described("skywave.v1.Reply"), bytes).unwrap()));
    assert_eq!(serde_json::from_slice::<Value>(json.payload()).unwrap(), told);
    told
}

#[test]
fn every_reply_and_push_says_the_same_in_both() {
    let mut said = BTreeSet::new();
    let mut remember = |told: Value| said.extend(told.as_object().unwrap().keys().cloned());
    for reply in replies() {
        for id in [None, Some(0), Some(u64::MAX)] {
            remember(same(Json.reply(id, &reply), Protobuf.reply(id, &reply)));
        }
    }
    for push in pushes() {
        remember(same(Json.encode(&push), Protobuf.encode(&push)));
    }
    let known = words("skywave.v1.Reply");
    said.remove("id");
    assert_eq!(known.difference(&said).cloned().collect::<BTreeSet<_>>(), BTreeSet::new());
}

#[test]
fn every_command_is_the_same_to_both() {
    let mut said = BTreeSet::new();
    for word in commands() {
        let bytes = v1::Command { id: Some(7), command: Some(word) }.encode_to_vec();
        let facts = facts(&DynamicMessage::decode(described("skywave.v1.Command"), &bytes[..]).unwrap());
        said.extend(facts.keys().filter(|word| *word != "id").cloned());
        let text = Value::Object(facts).to_string();
        let from_json = decoded(&Json, Body::Text(&text.clone().into()));
        let mut framed = Vec::new();
        prost::encode_length_delimiter(bytes.len(), &mut framed).unwrap();
        framed.extend(bytes);
        let from_protobuf = decoded(&Protobuf, Body::Binary(&framed.into()));
        assert_eq!((from_json.id, from_protobuf.id), (Some(7), Some(7)), "{text}");
        match (from_json.command, from_protobuf.command) {
            (Ok(json), Ok(protobuf)) => {
                assert_eq!(format!("{json:?}"), format!("{protobuf:?}"), "{text}");
                if let (Command::Publish { payload: json, .. }, Command::Publish { payload: protobuf, .. }) =
                    (json, protobuf)
                {
                    assert_eq!(json, protobuf, "{text}");
                }
            }
            (Err(json), Err(protobuf)) => assert_eq!(json.code, protobuf.code, "{text}"),
            (json, protobuf) => panic!("{text}: {json:?}, but {protobuf:?}"),
        }
    }
    assert_eq!(said, words("skywave.v1.Command"), "a command of the schema is not compared");
}

fn decoded(codec: &dyn Codec, body: Body<'_>) -> Envelope {
    let mut all = Vec::new();
    codec.decode(Incoming { channel: None, body }, &mut |envelope| all.push(envelope));
    assert_eq!(all.len(), 1);
    all.remove(0)
}
