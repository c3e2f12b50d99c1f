//! The parts of a command, checked alike by every codec that has words for them, and said alike when they are none.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use skywave_proto::{ChannelName, ErrorCode, Payload, StreamPosition};

use super::{COMMANDS_PER_MESSAGE, SUBSCRIPTIONS_PER_MESSAGE};
use crate::session::{Command, Credential, Refusal, Since, Subscribe, check_key};

/// A longer `info` is refused: it is kept and sent to every member.
const INFO_BYTES: usize = 4096;

/// The longest name of a back end's method.
const METHOD_BYTES: usize = 128;

const COMMANDS: &str = "connect, subscribe, unsubscribe, publish, presence, history, refresh, rpc, ping";

pub(super) fn bad_request(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, message)
}

/// A message without any command.
pub(super) fn empty_message() -> Refusal {
    bad_request("an empty message holds no command")
}

/// A command of which nothing is known but that it is one.
pub(super) fn unknown_command() -> Refusal {
    bad_request(format!("unknown command; expected one of {COMMANDS}"))
}

/// What stands behind the last command that is decoded.
pub(super) fn too_many_commands() -> Refusal {
    let message =
        format!("a message holds at most {COMMANDS_PER_MESSAGE} commands; send the others again in further ones");
    Refusal::new(ErrorCode::TooLarge, message)
}

/// Over [`SUBSCRIPTIONS_PER_MESSAGE`].
pub(super) fn too_many_subscriptions() -> Refusal {
    let message = format!(
        "the connects of one message hold at most {SUBSCRIPTIONS_PER_MESSAGE} subscriptions; subscribe to the others in \
         further messages"
    );
    Refusal::new(ErrorCode::TooLarge, message)
}

pub(super) fn channel(name: &str) -> Result<ChannelName, Refusal> {
    ChannelName::parse(name).map_err(|error| bad_request(error.to_string()))
}

pub(super) fn since(epoch: &str, offset: u64) -> Since {
    epoch.parse().map_or(Since::Foreign, |epoch| Since::Position(StreamPosition { epoch, offset }))
}

/// What a client says of itself: a JSON object, one line of it.
pub(super) fn info(info: &RawValue) -> Result<Bytes, Refusal> {
    if !info.get().starts_with('{') {
        return Err(bad_request("info is a JSON object"));
    }
    if info.get().len() > INFO_BYTES {
        return Err(Refusal::new(ErrorCode::TooLarge, format!("info has at most {INFO_BYTES} bytes")));
    }
    Ok(Payload::json(Bytes::copy_from_slice(info.get().as_bytes())).data().clone())
}

/// A subscription; a refused one carries its channel as it was written.
pub(super) fn subscribe(
    name: &str,
    since: Option<Since>,
    presence: bool,
    echo: bool,
    token: Option<String>,
) -> Result<Subscribe, (String, Refusal)> {
    let channel = channel(name).map_err(|refusal| (name.to_owned(), refusal))?;
    Ok(Subscribe { channel, since, presence, echo, token: token.map(Credential::new) })
}

/// A call of the back end, its payload read already; none is JSON null.
pub(super) fn rpc(method: String, data: Option<Payload>) -> Result<Command, Refusal> {
    if !(1..=METHOD_BYTES).contains(&method.len()) {
        return Err(bad_request(format!("a method has 1 to {METHOD_BYTES} bytes")));
    }
    Ok(Command::Rpc { method, data: data.unwrap_or_else(|| Payload::json(Bytes::from_static(b"null"))) })
}

/// A publish, its payload read already.
pub(super) fn publish(name: &str, payload: Result<Payload, Refusal>, key: Option<String>) -> Result<Command, Refusal> {
    let (channel, payload) = (channel(name)?, payload?);
    if let Some(key) = &key {
        check_key(key)?;
    }
    Ok(Command::Publish { channel, payload, key: key.map(Arc::from) })
}
