//! Bytes -> commands. A message holds one `v1::Command` after the other, each behind its length.

use bytes::Bytes;
use prost::Message as _;
use serde_json::value::RawValue;
use skywave_proto::{
    ErrorCode, Payload,
    v1::{self, command::Command as Word, payload::Kind},
};

use crate::{
    protocol::{
        COMMANDS_PER_MESSAGE,
        parts::{self, bad_request},
    },
    session::{Command, Connect, Envelope, Refusal, Since, Subscribe},
};

/// Subscriptions in the `connect`s of one message. One costs two bytes to send and some hundred to keep, so the size of
/// the message does not bound them well enough.
const SUBSCRIPTIONS_PER_MESSAGE: usize = 10_000;

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
        let message = format!(
            "the connects of one message hold at most {SUBSCRIPTIONS_PER_MESSAGE} subscriptions; subscribe to the others \
             in further messages"
        );
        return Ok(Envelope { id: outline.id, command: Err(Refusal::new(ErrorCode::TooLarge, message)) });
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
        Word::Publish(words) => parts::publish(&words.channel, payload(words.data), words.key),
        Word::Presence(words) => Ok(Command::Presence { channel: parts::channel(&words.channel)?, after: words.after }),
        Word::History(words) => Ok(Command::History {
            channel: parts::channel(&words.channel)?,
            since: words.since.as_ref().map(since),
            limit: words.limit,
        }),
        Word::Refresh(words) => Ok(Command::Refresh(words.token)),
        Word::Rpc(words) => Ok(Command::Rpc(words.method)),
        Word::Ping(v1::Ping {}) => Ok(Command::Ping),
    }
}

fn connect(words: v1::Connect) -> Result<Command, Refusal> {
    let info = words.info.as_deref().map(|info| {
        let info = serde_json::from_slice::<&RawValue>(info).map_err(|_| bad_request("info is a JSON object"))?;
        parts::info(info)
    });
    Ok(Command::Connect(Connect {
        token: words.token,
        session: words.session,
        info: info.transpose()?,
        subscribe: words.subscribe.into_iter().map(subscribe).collect(),
    }))
}

fn subscribe(words: v1::Subscribe) -> Result<Subscribe, (String, Refusal)> {
    let since = words.since.as_ref().map(since);
    let echo = words.echo.unwrap_or(true);
    parts::subscribe(&words.channel, since, words.presence, echo, words.token.as_deref())
}

fn since(position: &v1::Position) -> Since {
    parts::since(&position.epoch, position.offset)
}

fn payload(data: Option<v1::Payload>) -> Result<Payload, Refusal> {
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
