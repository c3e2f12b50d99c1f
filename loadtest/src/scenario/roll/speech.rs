//! What a client says and hears, whatever it speaks. Pure.

use prost::Message as _;
use serde_json::json;
use skywave_proto::v1::{self, command, payload, reply, subscribe_outcome};

use super::kind::Kind;
use crate::{
    incoming::{Connected, ErrorReply, Incoming, Publication, lines},
    wire::Masks,
};

/// A place on a channel's line of offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) epoch: String,
    pub(super) offset: u64,
}

/// What a client comes with. A bare one has all of it in its address.
#[derive(Debug, Default)]
pub(super) struct Hello<'a> {
    pub(super) token: Option<&'a str>,
    pub(super) session: Option<&'a str>,
    /// The channels, each with the last position that was seen.
    pub(super) channels: Vec<(&'a str, Option<&'a Position>)>,
}

/// What became of one subscription.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) channel: String,
    pub(super) position: Option<Position>,
    pub(super) recovered: Option<bool>,
    pub(super) error: Option<ErrorReply>,
}

/// What a node says, as far as it matters here.
#[derive(Debug)]
pub(super) enum Heard<'a> {
    /// The client is in. What was missed follows as publications.
    Connected { client: String, session: Option<String>, subscribed: Vec<Subscribed> },
    /// A publication; a bare client knows neither channel nor place.
    Publication { channel: Option<&'a str>, place: Option<(&'a str, u64)>, data: &'a [u8] },
    /// The close follows.
    Disconnect { after_ms: u64 },
    /// A command was refused, or the client is.
    Error(ErrorReply),
    /// What no client may meet, in words.
    Wrong(String),
}

/// Appends the first frame of a client.
pub(super) fn greet(kind: Kind, hello: &Hello<'_>, masks: &mut Masks, out: &mut Vec<u8>) {
    match kind {
        Kind::Json => masks.text(&json_greeting(hello), out),
        Kind::Protobuf => masks.binary(&binary_greeting(hello), out),
        Kind::Raw => {}
    }
}

/// Hands over what stands in a message.
pub(super) fn hear<'a>(kind: Kind, message: &'a [u8], each: &mut dyn FnMut(Heard<'_>)) {
    match kind {
        Kind::Json => match str::from_utf8(message) {
            Ok(text) => lines(text).for_each(|line| hear_line(line, each)),
            Err(_) => each(Heard::Wrong("text that is not UTF-8".to_owned())),
        },
        Kind::Protobuf => hear_replies(message, each),
        Kind::Raw => each(Heard::Publication { channel: None, place: None, data: message }),
    }
}

fn json_greeting(hello: &Hello<'_>) -> String {
    let subscribe = |(channel, since): &(&str, Option<&Position>)| match since {
        Some(Position { epoch, offset }) => {
            json!({ "channel": channel, "since": { "epoch": epoch, "offset": offset } })
        }
        None => json!({ "channel": channel }),
    };
    let mut connect = json!({ "subscribe": hello.channels.iter().map(subscribe).collect::<Vec<_>>() });
    for (name, value) in [("token", hello.token), ("session", hello.session)] {
        if let Some(value) = value {
            connect[name] = value.into();
        }
    }
    json!({ "id": 1, "connect": connect }).to_string()
}

fn binary_greeting(hello: &Hello<'_>) -> Vec<u8> {
    let subscribe = |(channel, since): &(&str, Option<&Position>)| v1::Subscribe {
        channel: (*channel).to_owned(),
        since: since.map(|since| v1::Position { epoch: since.epoch.clone(), offset: since.offset }),
        ..v1::Subscribe::default()
    };
    let connect = v1::Connect {
        token: hello.token.map(str::to_owned),
        session: hello.session.map(str::to_owned),
        subscribe: hello.channels.iter().map(subscribe).collect(),
        ..v1::Connect::default()
    };
    v1::Command { id: Some(1), command: Some(command::Command::Connect(connect)) }.encode_length_delimited_to_vec()
}

fn hear_line(line: &str, each: &mut dyn FnMut(Heard<'_>)) {
    let incoming = match serde_json::from_str::<Incoming<'_>>(line) {
        Ok(incoming) => incoming,
        Err(_) => return each(Heard::Wrong("a line that is not of the protocol".to_owned())),
    };
    match incoming {
        Incoming { publication: Some(publication), .. } => {
            hear_publication(&publication, Some(&publication.channel), each);
        }
        Incoming { connected: Some(connected), .. } => hear_connected(connected, each),
        Incoming { disconnect: Some(told), .. } => each(Heard::Disconnect { after_ms: told.after_ms }),
        Incoming { gap: Some(gap), .. } => each(Heard::Wrong(format!("gap {}", gap.reason))),
        Incoming { unsubscribed: Some(told), .. } => each(Heard::Wrong(format!("unsubscribed {}", told.reason))),
        Incoming { error: Some(error), .. } => each(Heard::Error(error)),
        _ => {}
    }
}

fn hear_publication(publication: &Publication<'_>, channel: Option<&str>, each: &mut dyn FnMut(Heard<'_>)) {
    // Epochs are plain characters: as JSON they have quotes and nothing else.
    let place = publication.epoch.map(|epoch| epoch.get().trim_matches('"')).zip(publication.offset);
    let data = publication.data.map_or("null", |data| data.get()).as_bytes();
    each(Heard::Publication { channel, place, data });
}

fn hear_connected(connected: Connected<'_>, each: &mut dyn FnMut(Heard<'_>)) {
    let Connected { client, session, subscribed } = connected;
    let outcomes = subscribed.iter().map(|outcome| Subscribed {
        channel: outcome.channel.clone().into_owned(),
        position: outcome.position.as_ref().map(|position| Position {
            epoch: position.epoch.get().trim_matches('"').to_owned(),
            offset: position.offset,
        }),
        recovered: outcome.recovered,
        error: outcome.error.clone(),
    });
    each(Heard::Connected { client, session, subscribed: outcomes.collect() });
    for outcome in &subscribed {
        outcome.publications.iter().for_each(|missed| hear_publication(missed, Some(&outcome.channel), each));
    }
}

fn hear_replies(mut message: &[u8], each: &mut dyn FnMut(Heard<'_>)) {
    use reply::Reply::{Connected, Disconnect, Error, Gap, Publication, Unsubscribed};
    while !message.is_empty() {
        let Ok(v1::Reply { reply, .. }) = v1::Reply::decode_length_delimited(&mut message) else {
            return each(Heard::Wrong("a message that is not of the protocol".to_owned()));
        };
        match reply {
            Some(Publication(publication)) => hear_binary_publication(&publication, &publication.channel, each),
            Some(Connected(connected)) => hear_binary_connected(connected, each),
            Some(Disconnect(told)) => each(Heard::Disconnect { after_ms: told.after_ms }),
            Some(Gap(gap)) => each(Heard::Wrong(format!("gap {}", gap.reason))),
            Some(Unsubscribed(told)) => {
                each(Heard::Wrong(format!("unsubscribed {}", told.reason.unwrap_or_default())));
            }
            Some(Error(error)) => each(Heard::Error(error_reply(&error))),
            _ => {}
        }
    }
}

fn hear_binary_publication(publication: &v1::Publication, channel: &str, each: &mut dyn FnMut(Heard<'_>)) {
    let place = publication.position.as_ref().map(|position| (position.epoch.as_str(), position.offset));
    let data: &[u8] = match publication.data.as_ref().and_then(|data| data.kind.as_ref()) {
        Some(payload::Kind::Json(data) | payload::Kind::Text(data) | payload::Kind::Binary(data)) => data,
        None => b"",
    };
    each(Heard::Publication { channel: Some(channel), place, data });
}

fn error_reply(error: &v1::Error) -> ErrorReply {
    ErrorReply { code: error.code.clone(), message: error.message.clone() }
}

fn hear_binary_connected(connected: v1::Connected, each: &mut dyn FnMut(Heard<'_>)) {
    let v1::Connected { client, session, subscribed, .. } = connected;
    let outcomes = subscribed.iter().map(|outcome| {
        let (mut subscribed, mut error) = (None, None);
        match &outcome.outcome {
            Some(subscribe_outcome::Outcome::Subscribed(said)) => subscribed = Some(said),
            Some(subscribe_outcome::Outcome::Error(said)) => error = Some(error_reply(said)),
            None => error = Some(ErrorReply::default()),
        }
        let position = subscribed.and_then(|said| said.position.clone());
        Subscribed {
            channel: outcome.channel.clone(),
            position: position.map(|v1::Position { epoch, offset }| Position { epoch, offset }),
            recovered: subscribed.and_then(|said| said.recovered),
            error,
        }
    });
    each(Heard::Connected { client, session: Some(session), subscribed: outcomes.collect() });
    for outcome in &subscribed {
        if let Some(subscribe_outcome::Outcome::Subscribed(said)) = &outcome.outcome {
            said.publications.iter().for_each(|missed| hear_binary_publication(missed, &outcome.channel, each));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(kind: Kind, message: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        hear(kind, message, &mut |heard| all.push(format!("{heard:?}")));
        all
    }

    fn position(offset: u64) -> v1::Position {
        v1::Position { epoch: "k3".to_owned(), offset }
    }

    fn publication(offset: u64) -> v1::Publication {
        let data = v1::Payload { kind: Some(payload::Kind::Json(b"7".to_vec().into())) };
        let channel = if offset == 2 { String::new() } else { "a".to_owned() };
        v1::Publication { channel, position: Some(position(offset)), data: Some(data), ..v1::Publication::default() }
    }

    /// The same, said in both protocols.
    fn said() -> (String, Vec<u8>) {
        let json = concat!(
            r#"{"id":1,"connected":{"client":"c","session":"s","node":"n","subscribed":["#,
            r#"{"channel":"a","position":{"epoch":"k3","offset":2},"recovered":true,"publications":[{"offset":2,"epoch":"k3","data":7}]},"#,
            r#"{"channel":"b","error":{"code":"limit","message":"no"}}]}}"#,
            "\n",
            r#"{"publication":{"channel":"a","offset":3,"epoch":"k3","data":7}}"#,
            "\n",
            r#"{"gap":{"channel":"a","reason":"reset"}}"#,
            "\n",
            r#"{"disconnect":{"code":4001,"reason":"draining","reconnect":true,"after_ms":350}}"#,
        );
        let subscribed = v1::Subscribed {
            channel: "a".to_owned(),
            position: Some(position(2)),
            recovered: Some(true),
            publications: vec![publication(2)],
            ..v1::Subscribed::default()
        };
        let error = v1::Error { code: "limit".to_owned(), message: "no".to_owned(), ..v1::Error::default() };
        let outcome =
            |channel: &str, outcome| v1::SubscribeOutcome { channel: channel.to_owned(), outcome: Some(outcome) };
        let connected = v1::Connected {
            client: "c".to_owned(),
            session: "s".to_owned(),
            subscribed: vec![
                outcome("a", subscribe_outcome::Outcome::Subscribed(subscribed)),
                outcome("b", subscribe_outcome::Outcome::Error(error)),
            ],
            ..v1::Connected::default()
        };
        let disconnect = v1::Disconnect { code: 4001, after_ms: 350, ..v1::Disconnect::default() };
        let gap = v1::Gap { reason: "reset".to_owned(), ..v1::Gap::default() };
        let replies = [
            reply::Reply::Connected(connected),
            reply::Reply::Publication(publication(3)),
            reply::Reply::Gap(gap),
            reply::Reply::Disconnect(disconnect),
        ];
        let replies = replies.map(|reply| v1::Reply { id: None, reply: Some(reply) }.encode_length_delimited_to_vec());
        (json.to_owned(), replies.concat())
    }

    #[test]
    fn both_protocols_are_heard_alike() {
        let (json, binary) = said();
        let all = heard(Kind::Json, json.as_bytes());
        assert_eq!(all, heard(Kind::Protobuf, &binary));
        assert_eq!(all.len(), 5);
        assert!(
            all[0].contains(r#"recovered: Some(true)"#) && all[0].contains(r#"code: "limit", message: "no""#),
            "{}",
            all[0]
        );
        assert!(all[1].contains(r#"channel: Some("a"), place: Some(("k3", 2))"#), "{}", all[1]);
        assert_eq!(all[3..], [r#"Wrong("gap reset")"#, "Disconnect { after_ms: 350 }"]);
    }

    #[test]
    fn what_is_not_of_the_protocol_is_wrong_and_no_panic() {
        for (kind, message) in [(Kind::Json, &b"{"[..]), (Kind::Json, b"\xff"), (Kind::Protobuf, b"\x05\x01")] {
            assert!(heard(kind, message)[0].starts_with("Wrong"), "{kind:?}");
        }
        assert_eq!(heard(Kind::Raw, b"7"), ["Publication { channel: None, place: None, data: [55] }"]);
    }

    #[test]
    fn a_client_comes_back_with_its_session_and_its_positions() {
        let seen = Position { epoch: "k3".to_owned(), offset: 41 };
        let hello = Hello { token: None, session: Some("s"), channels: vec![("a", Some(&seen)), ("b", None)] };
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&json_greeting(&hello)).unwrap(),
            json!({ "id": 1, "connect": { "session": "s", "subscribe": [
                { "channel": "a", "since": { "epoch": "k3", "offset": 41 } }, { "channel": "b" },
            ] } })
        );
        let command = v1::Command::decode_length_delimited(binary_greeting(&hello).as_slice()).unwrap();
        let Some(command::Command::Connect(connect)) = command.command else { panic!("{command:?}") };
        assert_eq!((connect.session.as_deref(), connect.subscribe[0].since.clone()), (Some("s"), Some(position(41))));
        assert_eq!(connect.subscribe[1].since, None);
    }
}
