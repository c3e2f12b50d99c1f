//! `POST /publish`: a publication of a client that has no connection to say it on, with the client's own rights.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use skywave_proto::{ErrorCode, StreamPosition};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    callers::Caller,
    detached::{Detached, Next},
    http::{Answer, Door},
    passing::{self, Passer},
    problem::problem,
    sse,
};
use crate::{
    config::{PublishRight, Settings},
    protocol::{Json, publication},
    session::{self, Command, Envelope, Refusal, Subscribe},
    webhooks::Hook,
};

const METHODS: &str = "POST, OPTIONS";
/// Backplane and back end have deadlines of their own, and answer with them; this is longer than any.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Answers a request to publish: `{"position","duplicate"}`, or problem details.
pub(super) async fn answer(request: Request<Incoming>, door: &Rc<Door>) -> Answer {
    let passer = match Passer::of(&request, door) {
        Ok(passer) => passer,
        Err(answer) => return *answer,
    };
    let cors = passer.cors.clone();
    let answer = match *request.method() {
        Method::POST => publish(request, passer, door).await.unwrap_or_else(|refusal| problem(&refusal)),
        Method::OPTIONS => return cors.preflight(METHODS),
        _ => sse::wrong_method(METHODS),
    };
    cors.on(answer)
}

async fn publish(request: Request<Incoming>, passer: Passer, door: &Rc<Door>) -> Result<Answer, Refusal> {
    let settings = passer.settings.clone();
    let seat = passer.seat(door, false).await?;
    let body = read(request, &settings).await?;
    let command = publication(&body)?;
    let client = passer.arrival.client;
    let subscribe = subscription(&command, &settings, door)?;
    let within = settings.timeouts.handshake;
    let detached = passer.enter(door, &Json, subscribe);
    let until = Instant::now() + within;
    let connected = said(&detached, until).await.ok_or_else(|| passing::too_late(within))??;
    if let Some(refusal) = connected.refusal() {
        return Err(refusal);
    }
    let user = detached.session().describe().and_then(|description| description.user);
    let caller = match (user, door.public.block(client)) {
        (Some(user), _) => Caller::User(user),
        (None, Some(block)) => Caller::Address(block),
        (None, None) => Caller::Unknown,
    };
    door.public.callers.admit(caller, body.len(), &settings.limits)?;
    detached.session().handle(Envelope { id: Some(1), command: Ok(command) });
    let answered = said(&detached, Instant::now() + ANSWER_WITHIN).await;
    drop(seat);
    let answered = answered.unwrap_or_else(|| Err(unknown()))?;
    match (answered.refusal(), answered.published()) {
        (Some(refusal), _) => Err(refusal),
        (None, Some(published)) => Ok(passing::json(published)),
        (None, None) => Err(unknown()),
    }
}

/// Reads the body, at most `limits.message_bytes` of it within `timeouts.message`.
async fn read(request: Request<Incoming>, settings: &Settings) -> Result<Bytes, Refusal> {
    let limit = settings.limits.message_bytes;
    let too_large = || Refusal::new(ErrorCode::TooLarge, format!("a body has at most limits.message_bytes, {limit}"));
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|declared: u64| declared > limit as u64) {
        return Err(too_large());
    }
    let body = timeout(settings.timeouts.message, Limited::new(request.into_body(), limit).collect()).await;
    match body {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::new(ErrorCode::BadRequest, "the body has not come")),
        Err(_) => Err(Refusal::new(ErrorCode::BadRequest, "the body took longer than timeouts.message")),
    }
}

/// Where subscribers may publish and the back end says who is one, the client has to be one for a moment.
fn subscription(command: &Command, settings: &Settings, door: &Door) -> Result<Vec<Subscribe>, Refusal> {
    let Command::Publish { channel, .. } = command else { return Ok(Vec::new()) };
    let (name, namespace) = session::named_namespace(settings, channel)?;
    let is_wanted = namespace.publish == PublishRight::Subscribers
        && door.public.ground.webhooks.wants(Hook::Subscribe, Some(name));
    let subscribe = Subscribe { channel: channel.clone(), since: None, presence: false, echo: false, token: None };
    Ok(is_wanted.then_some(subscribe).into_iter().collect())
}

/// What the session says next that is an answer; `None`: nothing in time.
async fn said(detached: &Detached, until: Instant) -> Option<Result<Said, Refusal>> {
    loop {
        match timeout_at(until, detached.next()).await.ok()? {
            Next::Frame(frame) => {
                let said = serde_json::from_slice(frame.payload());
                match said.unwrap_or_default() {
                    Said { id: None, error: None, .. } => {} // what is published meanwhile
                    said => return Some(Ok(said)),
                }
            }
            Next::Beat => {}
            Next::End(_) => return Some(Err(passing::gone())),
        }
    }
}

/// An answer of the JSON protocol.
#[derive(Deserialize, Default)]
struct Said {
    id: Option<u64>,
    error: Option<ErrorWords>,
    published: Option<Box<RawValue>>,
    connected: Option<ConnectedWords>,
}

#[derive(Deserialize)]
struct ConnectedWords {
    #[serde(default)]
    subscribed: Vec<SubscribedWords>,
}

#[derive(Deserialize)]
struct SubscribedWords {
    error: Option<ErrorWords>,
}

#[derive(Deserialize)]
struct ErrorWords {
    code: String,
    message: String,
    after_ms: u64,
    position: Option<PositionWords>,
}

#[derive(Deserialize)]
struct PositionWords {
    epoch: String,
    offset: u64,
}

impl Said {
    fn refusal(&self) -> Option<Refusal> {
        let subscribed = self.connected.iter().flat_map(|connected| &connected.subscribed);
        let refused = subscribed.filter_map(|subscribed| subscribed.error.as_ref());
        let error = self.error.iter().chain(refused).next()?;
        let code = ErrorCode::ALL.into_iter().find(|code| code.as_str() == error.code).unwrap_or(ErrorCode::Internal);
        let position = error
            .position
            .as_ref()
            .and_then(|at| Some(StreamPosition { epoch: at.epoch.parse().ok()?, offset: at.offset }));
        Some(Refusal { after_ms: error.after_ms, position, ..Refusal::new(code, error.message.clone()) })
    }

    fn published(self) -> Option<String> {
        Some(self.published?.get().to_owned())
    }
}

fn unknown() -> Refusal {
    let message = "no answer in time: published or not; try again with the same key";
    Refusal { after_ms: 1000, ..Refusal::new(ErrorCode::UnknownOutcome, message) }
}
