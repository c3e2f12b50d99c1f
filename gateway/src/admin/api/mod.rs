//! `POST /api/v1/{method}`: the server API in JSON.
//!
//! One file for each group of methods. A method's words are a struct that refuses what it does not know.

mod batch;
mod channels;
mod control;
mod publish;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::{Bytes, to_bytes},
    extract::{Path, Request, State},
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use skywave_proto::{ChannelName, ErrorCode};

use super::{Internal, guard, problem::Problem};
use crate::{
    config::{Namespace, Scope},
    control::{SURVEY_AT_MOST, SURVEY_WITHIN},
    session::{self, Refusal, Who},
    transport::Arrival,
};

/// What a body holds beside its payload: names of channels, above all.
const BODY_BESIDE_PAYLOAD: usize = 1 << 20;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest user or client that can be asked for, in bytes.
const WHO_BYTES: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Publish,
    Broadcast,
    History,
    Presence,
    PresenceCount,
    Forget,
    Nodes,
    Connections,
    Channels,
    Disconnect,
    Unsubscribe,
    Refresh,
}

/// Every method: its word, and the scope that opens it.
const METHODS: [(&str, Scope, Method); 12] = [
    ("publish", Scope::Publish, Method::Publish),
    ("broadcast", Scope::Publish, Method::Broadcast),
    ("history", Scope::Read, Method::History),
    ("presence", Scope::Read, Method::Presence),
    ("presence_count", Scope::Read, Method::PresenceCount),
    ("forget", Scope::Control, Method::Forget),
    ("nodes", Scope::Read, Method::Nodes),
    ("connections", Scope::Read, Method::Connections),
    ("channels", Scope::Read, Method::Channels),
    ("disconnect", Scope::Control, Method::Disconnect),
    ("unsubscribe", Scope::Control, Method::Unsubscribe),
    ("refresh", Scope::Control, Method::Refresh),
];

/// What a method answers: JSON, some of it as it was published.
type Answer = Result<Box<RawValue>, Problem>;

/// Answers one call. The body is read once it is clear that the caller may ask.
pub(super) async fn call(
    State(internal): State<Arc<Internal>>,
    Extension(arrival): Extension<Arrival>,
    Path(word): Path<String>,
    request: Request,
) -> Result<Json<Box<RawValue>>, Problem> {
    let settings = Arc::clone(&internal.ground.settings());
    let caller = guard::admit(&settings, request.headers(), arrival)?;
    let limit = settings.limits.publication_bytes * 2 + BODY_BESIDE_PAYLOAD;
    if word == batch::WORD {
        return batch::batch(&internal, caller, &read(request, limit).await?).await.map(Json);
    }
    let method = open(caller, &word)?;
    run(&internal, caller, method, &read(request, limit).await?).await.map(Json)
}

/// Finds a method that the caller may use.
fn open(caller: guard::Caller<'_>, word: &str) -> Result<Method, Problem> {
    match METHODS.iter().find(|(known, ..)| *known == word) {
        Some((_, scope, method)) => caller.may(*scope).map(|()| *method),
        None => {
            let known: Vec<_> = METHODS.iter().map(|(word, ..)| *word).chain([batch::WORD]).collect();
            let message = format!("no method {word:?}; expected one of {}", known.join(", "));
            Err(Problem::new(ErrorCode::NotFound, message))
        }
    }
}

async fn run(internal: &Internal, caller: guard::Caller<'_>, method: Method, body: &[u8]) -> Answer {
    match method {
        Method::Publish => publish::publish(internal, caller.publisher(), parse(body)?).await,
        Method::Broadcast => publish::broadcast(internal, caller.publisher(), parse(body)?).await,
        Method::History => channels::history(internal, parse(body)?).await,
        Method::Presence => channels::presence(internal, parse(body)?).await,
        Method::PresenceCount => channels::presence_count(internal, parse(body)?).await,
        Method::Forget => channels::forget(internal, parse(body)?).await,
        Method::Channels => channels::channels(internal, parse(body)?).await,
        Method::Nodes => control::nodes(internal, parse(body)?).await,
        Method::Connections => control::connections(internal, parse(body)?).await,
        Method::Disconnect => control::disconnect(internal, parse(body)?).await,
        Method::Unsubscribe => control::unsubscribe(internal, parse(body)?).await,
        Method::Refresh => control::refresh(internal, parse(body)?).await,
    }
}

async fn read(request: Request, limit: usize) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), limit)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let message = format!("the body was not read: it is over {limit} bytes, or ended early");
            Err(Problem::new(ErrorCode::TooLarge, message))
        }
        Err(_) => {
            let message = format!("the body did not come within {BODY_TIMEOUT:?}");
            Err(bad_request(&message).with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

fn bad_request(message: &str) -> Problem {
    Problem::new(ErrorCode::BadRequest, message)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // A derived struct would take an array for an object.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(bad_request("the body is not what this method takes: it is a JSON object, if only {}"));
    }
    serde_json::from_slice(body)
        .map_err(|error| bad_request(&format!("the body is not what this method takes: {error}")))
}

/// Our own words as JSON.
fn answer(value: &Value) -> Answer {
    raw(value.to_string())
}

/// What is JSON already.
fn raw(json: String) -> Answer {
    RawValue::from_string(json).map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))
}

fn channel(name: &str) -> Result<ChannelName, Refusal> {
    ChannelName::parse(name).map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))
}

/// A channel and the namespace that decides about it.
fn channel_and_namespace(internal: &Internal, name: &str) -> Result<(ChannelName, Namespace), Refusal> {
    let channel = channel(name)?;
    let namespace = session::namespace(&internal.ground.settings(), &channel)?.clone();
    Ok((channel, namespace))
}

/// Whose connections a call is about.
fn who(user: Option<String>, client: Option<String>) -> Result<Who, Problem> {
    let (word, name) = match (&user, &client) {
        (Some(user), None) => ("user", user),
        (None, Some(client)) => ("client", client),
        (Some(_), Some(_)) => return Err(bad_request("give user or client, not both")),
        (None, None) => return Err(bad_request("say whose connections: give user or client")),
    };
    check_who(word, name)?;
    Ok(if word == "user" { Who::User(name.as_str().into()) } else { Who::Client(name.as_str().into()) })
}

fn check_who(word: &str, name: &str) -> Result<(), Problem> {
    if (1..=WHO_BYTES).contains(&name.len()) {
        return Ok(());
    }
    Err(bad_request(&format!("{word} has 1 to {WHO_BYTES} bytes")))
}

/// How long a survey may take.
fn within(within_ms: Option<u64>) -> Result<Duration, Problem> {
    match within_ms.map(Duration::from_millis) {
        None => Ok(SURVEY_WITHIN),
        Some(within) if (Duration::from_millis(1)..=SURVEY_AT_MOST).contains(&within) => Ok(within),
        Some(_) => Err(bad_request(&format!("within_ms is 1 to {}", SURVEY_AT_MOST.as_millis()))),
    }
}
