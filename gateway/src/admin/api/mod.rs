//! The server API: every method once, in the types of `api.proto`; [`json`] and [`grpc`] are the two ways to call them.
//!
//! One file for each group of methods. A new one is a field of `BatchCommand` in the schema: then [`METHODS`], [`Call`]'s
//! match in [`run`] and the gRPC service do not compile, or fail a test, until they know it.

mod answer;
mod batch;
mod channels;
mod control;
#[cfg(test)]
mod equality;
mod grpc;
mod json;
mod publish;
mod tail;

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use http::StatusCode;
use skywave_proto::{ChannelName, ErrorCode, v1};
use tokio::sync::Semaphore;

use self::answer::Answer;
pub(super) use self::{
    batch::COMMANDS,
    channels::{AFTER_BYTES, CHANNELS_AT_MOST},
    control::NODE_BYTES,
    grpc::{Grpc, call as call_grpc, is_grpc, is_word_of},
    json::call as call_json,
    publish::{BROADCAST_CHANNELS, REPLICAS, WITHIN_MS},
};
use super::{Internal, guard::Caller, problem::Problem};
use crate::{
    config::{Namespace, Scope, Settings},
    control::{SURVEY_AT_MOST, SURVEY_WITHIN},
    session::{self, Refusal, Who},
};

/// What a body holds beside its payload: names of channels, above all.
const BODY_BESIDE_PAYLOAD: usize = 1 << 20;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest user, client or token id that can be asked for, in bytes.
pub(super) const WHO_BYTES: usize = 1024;
/// Tails that are open on a node. More are refused.
pub(super) const TAILS: usize = 64;

/// One call, in the words of the schema: it has a field for every method that a batch may hold.
pub(super) type Call = v1::batch_command::Command;

/// A method, by its word.
#[derive(Debug)]
pub(super) struct Method {
    /// In the address, in a batch, and, in camel case, in the gRPC service.
    pub(super) word: &'static str,
    /// What opens it; a batch is open to every key, and each call in it needs its own.
    pub(super) scope: Option<Scope>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// One answer. Reads the call from JSON.
    Unary(fn(&[u8]) -> Result<Call, Refusal>),
    Batch,
    Tail,
}

macro_rules! methods {
    ($($word:literal $scope:ident $call:ident $read:expr;)+) => {
        /// Every method.
        pub(super) const METHODS: &[Method] = &[
            $(Method { word: $word, scope: Some(Scope::$scope), kind: Kind::Unary(|body| $read(body).map(Call::$call)) },)+
            Method { word: "tail", scope: Some(Scope::Read), kind: Kind::Tail },
            Method { word: "batch", scope: None, kind: Kind::Batch },
        ];

        /// The word of a call.
        fn word_of(call: &Call) -> &'static str {
            match call { $(Call::$call(_) => $word,)+ }
        }
    };
}

methods! {
    "publish" Publish Publish json::publish;
    "broadcast" Publish Broadcast json::broadcast;
    "history" Read History json::parse;
    "presence" Read Presence json::parse;
    "presence_count" Read PresenceCount json::parse;
    "nodes" Read Nodes json::parse;
    "connections" Read Connections json::parse;
    "channels" Read Channels json::parse;
    "forget" Control Forget json::parse;
    "disconnect" Control Disconnect json::parse;
    "subscribe" Control Subscribe json::parse;
    "unsubscribe" Control Unsubscribe json::parse;
    "refresh" Control Refresh json::parse;
    "revoke" Control Revoke json::parse;
    "drain" Control Drain json::parse;
}

/// Finds a method that the caller may use.
fn open(caller: &Caller, word: &str) -> Result<&'static Method, Refusal> {
    let Some(method) = METHODS.iter().find(|method| method.word == word) else {
        let known: Vec<_> = METHODS.iter().map(|method| method.word).collect();
        let message = format!("no method {word:?}; expected one of {}", known.join(", "));
        return Err(Refusal::new(ErrorCode::NotFound, message));
    };
    method.scope.map_or(Ok(()), |scope| caller.may(scope)).map(|()| method)
}

/// Carries out one call of a caller who may.
async fn run(internal: &Internal, caller: &Caller, call: Call) -> Result<Answer, Refusal> {
    match call {
        Call::Publish(words) => publish::publish(internal, caller.publisher(), words).await.map(Answer::Publish),
        Call::Broadcast(words) => publish::broadcast(internal, caller.publisher(), words).await.map(Answer::Broadcast),
        Call::History(words) => channels::history(internal, words).await,
        Call::Presence(words) => channels::presence(internal, words).await.map(Answer::Presence),
        Call::PresenceCount(words) => channels::presence_count(internal, words).await.map(Answer::PresenceCount),
        Call::Forget(words) => channels::forget(internal, words).await.map(Answer::Forget),
        Call::Channels(words) => channels::channels(internal, words).await.map(Answer::Channels),
        Call::Nodes(words) => control::nodes(internal, words).await.map(Answer::Nodes),
        Call::Connections(words) => control::connections(internal, words).await.map(Answer::Connections),
        Call::Disconnect(words) => control::disconnect(internal, words).await.map(Answer::Told),
        Call::Subscribe(words) => control::subscribe(internal, words).await.map(Answer::Told),
        Call::Unsubscribe(words) => control::unsubscribe(internal, words).await.map(Answer::Told),
        Call::Refresh(words) => control::refresh(internal, words).await.map(Answer::Told),
        Call::Revoke(words) => control::revoke(internal, words).await.map(Answer::Told),
        Call::Drain(words) => control::drain(internal, words).await.map(Answer::Told),
    }
}

/// The places of tails on a node.
pub(super) fn tail_places() -> std::sync::Arc<Semaphore> {
    std::sync::Arc::new(Semaphore::new(TAILS))
}

/// The largest body of a call, in bytes.
fn body_limit(settings: &Settings) -> usize {
    settings.limits.publication_bytes * 2 + BODY_BESIDE_PAYLOAD
}

async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let message = format!("the body was not read: it is over {limit} bytes, or ended early");
            Err(Problem::new(ErrorCode::TooLarge, message))
        }
        Err(_) => {
            let message = format!("the body did not come within {BODY_TIMEOUT:?}");
            Err(Problem::from(bad_request(message)).with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

fn bad_request(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, message)
}

fn channel(name: &str) -> Result<ChannelName, Refusal> {
    ChannelName::parse(name).map_err(|error| bad_request(error.to_string()))
}

/// A channel and the namespace that decides about it.
fn channel_and_namespace(internal: &Internal, name: &str) -> Result<(ChannelName, Namespace), Refusal> {
    let channel = channel(name)?;
    let namespace = session::namespace(&internal.ground.settings(), &channel)?.clone();
    Ok((channel, namespace))
}

/// Whose connections a call is about.
fn who(user: Option<String>, client: Option<String>) -> Result<Who, Refusal> {
    match (user, client) {
        (Some(user), None) => check_who("user", &user).map(|()| Who::User(user.into())),
        (None, Some(client)) => check_who("client", &client).map(|()| Who::Client(client.into())),
        (Some(_), Some(_)) => Err(bad_request("give user or client, not both")),
        (None, None) => Err(bad_request("say whose connections: give user or client")),
    }
}

fn check_who(word: &str, name: &str) -> Result<(), Refusal> {
    if (1..=WHO_BYTES).contains(&name.len()) {
        return Ok(());
    }
    Err(bad_request(format!("{word} has 1 to {WHO_BYTES} bytes")))
}

/// How long a survey may take.
fn within(within_ms: Option<u32>) -> Result<Duration, Refusal> {
    match within_ms.map(|ms| Duration::from_millis(ms.into())) {
        None => Ok(SURVEY_WITHIN),
        Some(within) if (Duration::from_millis(1)..=SURVEY_AT_MOST).contains(&within) => Ok(within),
        Some(_) => Err(bad_request(format!("within_ms is 1 to {}", SURVEY_AT_MOST.as_millis()))),
    }
}
