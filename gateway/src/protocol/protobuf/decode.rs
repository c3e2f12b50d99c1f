//! Bytes -> commands. A message holds one `v1::Command` after the other, each behind its length.

use bytes::Bytes;
use prost::Message as _;
use serde_json::value::RawValue;
use skywave_proto::{
    Payload,
    v1::{self, command::Command as Word, payload::Kind},
};

use crate::{
    protocol::{
        COMMANDS_PER_MESSAGE, SUBSCRIPTIONS_PER_MESSAGE,
        parts::{self, bad_request},
    },
    session::{Command, Connect, Credential, Envelope, Refusal, Since, Subscribe},
};

/// Hands over the commands of one message in order. Behind one that cannot be read nothing in the message can be
/// trusted: what follows is dropped.
pub(super) fn commands(message: &Bytes, each: &mut dyn FnMut(Envelope)) {
    if message.is_empty() {
        return each(Envelope { id: None, command: Err(parts::empty_message()) });
    }
    let (mut rest, mut room) = (&message[..], SUBSCRIPTIONS_PER_MESSAGE);
    for _ in 0..COMMANDS_PER_MESSAGE {
        if rest.is_empty() {
            return;
        }
        let command = framed(&mut rest).and_then(|bytes| one(bytes, &mut room));
        let unreadable = command.is_err();
        each(command.unwrap_or_else(|refused| refused));
        if unreadable {
            return;
        }
    }
    if !rest.is_empty() {
        each(Envelope { id: None, command: Err(parts::too_many_commands()) });
    }
}

/// The bytes of the next command, taken off the front. Copies nothing and believes no length that is not there.
fn framed<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Envelope> {
    let unreadable = |id, why| Envelope { id, command: Err(bad_request(format!("not a command: {why}"))) };
    let Ok(length) = prost::decode_length_delimiter(&mut *rest) else {
        return Err(unreadable(None, "a command stands behind its length, a varint"));
    };
    match rest.split_at_checked(length) {
        Some((command, behind)) => {
            *rest = behind;
            Ok(command)
        }
        None => Err(unreadable(Outline::of(rest).id, "the message ends before it")),
    }
}

/// One command. What is none comes back under its id, if that much can be read.
fn one(bytes: &[u8], room: &mut usize) -> Result<Envelope, Envelope> {
    let outline = Outline::of(bytes);
    let subscriptions = outline.connect.map_or(0, |connect| connect.subscribe.len());
    let Some(left) = room.checked_sub(subscriptions) else {
        return Ok(Envelope { id: outline.id, command: Err(parts::too_many_subscriptions()) });
    };
    *room = left;
    // From a slice every payload is copied: a small one that is kept must not keep the whole message.
    match v1::Command::decode(bytes) {
        Ok(v1::Command { id, command: Some(word) }) => Ok(Envelope { id, command: command(word) }),
        Ok(v1::Command { id, command: None }) => Ok(Envelope { id, command: Err(parts::unknown_command()) }),
        Err(error) => Err(Envelope { id: outline.id, command: Err(bad_request(format!("not a command: {error}"))) }),
    }
}

/// As much of a `v1::Command` as has to be known before the whole is read; it takes no memory, whatever is in there.
#[derive(prost::Message)]
struct Outline {
    #[prost(uint64, optional, tag = "1")]
    id: Option<u64>,
    #[prost(message, optional, tag = "2")]
    connect: Option<ConnectOutline>,
}

#[derive(prost::Message)]
struct ConnectOutline {
    #[prost(message, repeated, tag = "4")]
    subscribe: Vec<Counted>,
}

/// It has no fields, so it has no size.
#[derive(prost::Message)]
struct Counted {}

impl Outline {
    /// What stands before the first mistake.
    fn of(bytes: &[u8]) -> Self {
        let mut outline = Self::default();
        let _ = outline.merge(bytes); // the mistake is said when the whole is read
        outline
    }
}

fn command(word: Word) -> Result<Command, Refusal> {
    match word {
        Word::Connect(words) => connect(words),
        Word::Subscribe(words) => subscribe(words).map(Command::Subscribe).map_err(|(_, refusal)| refusal),
        Word::Unsubscribe(words) => Ok(Command::Unsubscribe(parts::channel(&words.channel)?)),
        Word::Publish(words) => parts::publish(&words.channel, payload_of(words.data), words.key),
        Word::Presence(words) => Ok(Command::Presence { channel: parts::channel(&words.channel)?, after: words.after }),
        Word::History(words) => Ok(Command::History {
            channel: parts::channel(&words.channel)?,
            since: words.since.as_ref().map(since_of),
            limit: words.limit,
        }),
        Word::Refresh(words) => Ok(Command::Refresh(Credential::new(words.token))),
        Word::Rpc(words) => {
            let data = words.data.map(|data| payload_of(Some(data))).transpose()?;
            parts::rpc(words.method, data)
        }
        Word::Ping(v1::Ping {}) => Ok(Command::Ping),
    }
}

fn connect(words: v1::Connect) -> Result<Command, Refusal> {
    let info = words.info.as_deref().map(|info| {
        let info = serde_json::from_slice::<&RawValue>(info).map_err(|_| bad_request("info is a JSON object"))?;
        parts::info(info)
    });
    Ok(Command::Connect(Connect {
        token: words.token.map(Credential::new),
        session: words.session,
        info: info.transpose()?,
        subscribe: words.subscribe.into_iter().map(subscribe).collect(),
    }))
}

fn subscribe(words: v1::Subscribe) -> Result<Subscribe, (String, Refusal)> {
    let since = words.since.as_ref().map(since_of);
    let echo = words.echo.unwrap_or(true);
    parts::subscribe(&words.channel, since, words.presence, echo, words.token)
}

/// A position that was given, whatever it says.
pub fn since_of(position: &v1::Position) -> Since {
    parts::since(&position.epoch, position.offset)
}

/// What is published, checked: JSON is JSON and text is text.
///
/// # Errors
/// `bad_request`, with what it is not.
pub fn payload_of(data: Option<v1::Payload>) -> Result<Payload, Refusal> {
    match data.and_then(|data| data.kind) {
        Some(Kind::Json(bytes)) => json(bytes),
        Some(Kind::Text(bytes)) if std::str::from_utf8(&bytes).is_err() => Err(bad_request("data.text is not UTF-8")),
        Some(Kind::Text(bytes)) => Ok(Payload::text(bytes)),
        Some(Kind::Binary(bytes)) => Ok(Payload::binary(bytes)),
        None => Err(bad_request("a publication has data: json, text or binary")),
    }
}

fn json(bytes: Bytes) -> Result<Payload, Refusal> {
    let value =
        serde_json::from_slice::<&RawValue>(&bytes).map_err(|_| bad_request("data.json is not a JSON value"))?;
    let value = value.get();
    // Spaces around it are left behind.
    Ok(Payload::json(if value.len() == bytes.len() { bytes } else { Bytes::copy_from_slice(value.as_bytes()) }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use skywave_proto::ErrorCode;

    use super::*;

    fn decode(message: impl Into<Bytes>) -> Vec<Envelope> {
        let mut all = Vec::new();
        commands(&message.into(), &mut |envelope| all.push(envelope));
        all
    }

    fn framed(commands: impl IntoIterator<Item = v1::Command>) -> Vec<u8> {
        commands.into_iter().flat_map(|command| command.encode_length_delimited_to_vec()).collect()
    }

    fn under(id: u64, word: Word) -> v1::Command {
        v1::Command { id: Some(id), command: Some(word) }
    }

    fn ping(id: u64) -> v1::Command {
        under(id, Word::Ping(v1::Ping {}))
    }

    fn publish(kind: Option<Kind>) -> v1::Command {
        let data = Some(v1::Payload { kind });
        under(3, Word::Publish(v1::Publish { channel: "a".into(), data, key: None }))
    }

    /// Id and code of each refusal; a command that is one has none.
    fn outcomes(message: impl Into<Bytes>) -> Vec<(Option<u64>, Option<ErrorCode>)> {
        decode(message).into_iter().map(|found| (found.id, found.command.err().map(|refusal| refusal.code))).collect()
    }

    const BAD: Option<ErrorCode> = Some(ErrorCode::BadRequest);

    #[test]
    fn several_commands_stand_in_one_message() {
        let unsubscribe = Word::Unsubscribe(v1::Unsubscribe { channel: "a".into() });
        let all = decode(framed([ping(1), v1::Command { id: None, command: Some(unsubscribe) }]));
        assert!(matches!(all[0], Envelope { id: Some(1), command: Ok(Command::Ping) }));
        assert!(matches!(&all[1], Envelope { id: None, command: Ok(Command::Unsubscribe(c)) } if c.as_str() == "a"));
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn a_command_that_is_refused_does_not_end_its_message() {
        let unknown = v1::Command { id: Some(2), command: None };
        let message = framed([ping(1), unknown, publish(None), ping(4)]);
        assert_eq!(outcomes(message), [(Some(1), None), (Some(2), BAD), (Some(3), BAD), (Some(4), None)]);
        assert_eq!(outcomes(vec![]), [(None, BAD)], "an empty message");
        assert_eq!(outcomes(vec![0]), [(None, BAD)], "an empty command");
    }

    #[test]
    fn behind_one_that_cannot_be_read_nothing_is() {
        let broken = [0x08, 7, 0x1a, 9, 0x0a]; // id 7, then a subscribe that is longer than the command
        let mut message = framed([ping(1)]);
        message.push(5);
        message.extend(broken);
        message.extend(framed([ping(2)]));
        assert_eq!(outcomes(message), [(Some(1), None), (Some(7), BAD)]);
        let not_utf8 = [0x08, 7, 0x1a, 3, 0x0a, 1, 0xff]; // as the channel of a subscribe
        assert_eq!(outcomes([&[7][..], &not_utf8].concat()), [(Some(7), BAD)]);
    }

    #[test]
    fn a_length_is_not_believed() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        for length in [&huge[..], &[100], &[0xff; 11]] {
            assert_eq!(outcomes(length.to_vec()), [(None, BAD)], "{length:?}");
        }
        let cut = [&[100][..], &[0x08, 7]].concat();
        assert_eq!(outcomes(cut), [(Some(7), BAD)], "the id of a command that is cut short");
    }

    #[test]
    fn over_the_bound_the_rest_is_not_decoded_and_one_refusal_says_so() {
        let exactly = framed((0..256).map(ping));
        assert!(outcomes(exactly.clone()).iter().all(|(_, refused)| refused.is_none()));
        let over = outcomes([exactly, framed([ping(256), ping(257)])].concat());
        assert_eq!((over.len(), over[256]), (257, (None, Some(ErrorCode::TooLarge))));
    }

    #[test]
    fn a_message_brings_so_many_subscriptions_and_the_others_are_not_made() {
        let connect = |id, count| {
            let subscribe = vec![v1::Subscribe::default(); count];
            under(id, Word::Connect(v1::Connect { subscribe, ..v1::Connect::default() }))
        };
        let half = SUBSCRIPTIONS_PER_MESSAGE / 2;
        let message = framed([connect(1, half), connect(2, half + 1), connect(3, half), ping(4)]);
        let too_large = Some(ErrorCode::TooLarge);
        assert_eq!(outcomes(message), [(Some(1), None), (Some(2), too_large), (Some(3), None), (Some(4), None)]);
    }

    #[test]
    fn a_payload_is_what_it_says_it_is() {
        let payload = |kind| match decode(framed([publish(Some(kind))])).remove(0).command {
            Ok(Command::Publish { payload, .. }) => Ok(payload),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.message),
        };
        let bytes = Bytes::from_static;
        assert_eq!(payload(Kind::Json(bytes(b" {\"x\":\n1} "))), Ok(Payload::json(bytes(b"{\"x\": 1}"))));
        assert_eq!(payload(Kind::Text(bytes(b"{\n"))), Ok(Payload::text(bytes(b"{\n"))));
        assert_eq!(payload(Kind::Binary(bytes(&[255]))), Ok(Payload::binary(bytes(&[255]))));
        for (kind, word) in [
            (Kind::Json(bytes(b"{")), "JSON"),
            (Kind::Json(bytes(b"")), "JSON"),
            (Kind::Json(bytes(b"1 2")), "JSON"),
            (Kind::Json(bytes(&[b'"', 255, b'"'])), "JSON"),
            (Kind::Text(bytes(&[255])), "UTF-8"),
        ] {
            let message = payload(kind.clone()).unwrap_err();
            assert!(message.contains(word), "{kind:?}: {message}");
        }
    }

    prop_compose! {
        fn any_publish()(id: Option<u64>, data: Vec<u8>, key in proptest::option::of("[a-z]{1,9}")) -> v1::Command {
            let data = Some(v1::Payload { kind: Some(Kind::Binary(data.into())) });
            v1::Command { id, command: Some(Word::Publish(v1::Publish { channel: "a".into(), data, key })) }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            decode(bytes);
        }

        #[test]
        fn no_damage_makes_the_decoder_panic(sent in proptest::collection::vec(any_publish(), 1..4), at: usize, with: u8) {
            let mut message = framed(sent);
            let at = at % message.len();
            message[at] = with;
            decode(message.clone());
            message.truncate(at);
            decode(message);
        }

        #[test]
        fn what_a_client_encodes_is_what_is_decoded(sent in proptest::collection::vec(any_publish(), 1..9)) {
            let found = decode(framed(sent.clone()));
            prop_assert_eq!(found.len(), sent.len());
            for (found, sent) in found.into_iter().zip(sent) {
                let Some(Word::Publish(words)) = sent.command else { unreachable!() };
                let Ok(Command::Publish { payload, key, .. }) = found.command else { panic!("refused") };
                prop_assert_eq!((found.id, key.as_deref()), (sent.id, words.key.as_deref()));
                prop_assert_eq!(v1::Payload { kind: Some(Kind::Binary(payload.data().clone())) }, words.data.unwrap());
            }
        }
    }
}
