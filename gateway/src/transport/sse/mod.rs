//! `GET /sse`: channels as a stream of HTTP, for an `EventSource` or for whoever reads lines.
//!
//! An `EventSource` comes back by itself after a stream that has ended, and never again after any status but 200. So whoever may
//! not come in at all is told so with a status, and hears why; whoever may, only not now, gets a stream that says how long to
//! wait (`retry:`) and ends.

mod body;
mod wish;

use std::{rc::Rc, sync::Arc};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use rand::Rng as _;
use skywave_proto::{CloseCode, ErrorCode};
use tokio::time::timeout;

pub(super) use self::wish::channel;
use self::{
    body::{EventStream, Shape},
    wish::Wish,
};
use super::{
    Arrival,
    cors::{self, Cors},
    credentials,
    detached::{Detached, Next, Terms},
    forwarded,
    http::{Answer, Door, text},
    origin::OriginRules,
    problem::problem,
    upgrade::{Held, visitor},
};
use crate::{
    metrics::{self, Transport},
    protocol::{Codec, Lines, ManyChannels, OneChannel, Positions, refusal_of},
    push::Goodbye,
    session::{Command, Connect, Envelope, Refusal, Session, Since},
    webhooks::Hook,
};

/// How long a client waits before it comes back, in milliseconds: each another time, or all of them would come together.
const COME_BACK: std::ops::RangeInclusive<u64> = 1000..=3000;
const METHODS: &str = "GET, OPTIONS";

/// Answers a request for a stream.
pub(super) async fn answer(request: Request<Incoming>, door: &Rc<Door>) -> Answer {
    let settings = Arc::clone(&door.public.ground.settings());
    let client = forwarded::client(request.headers(), door.arrival.client, &settings.public.trusted_proxies);
    let arrival = Arrival { client, ..door.arrival };
    let cors = match Cors::check(OriginRules::of(&settings), &request, &arrival) {
        Ok(cors) => cors,
        Err(page) => return cors::foreign(page),
    };
    match *request.method() {
        Method::GET => {}
        Method::OPTIONS => return cors.preflight(METHODS),
        _ => return cors.on(wrong_method(METHODS)),
    }
    let version = request.version();
    let wish = match Wish::of(&request) {
        Ok(wish) => wish,
        Err(refusal) => {
            metrics::refused("channel");
            return cors.on(problem(&refusal));
        }
    };
    let lines = wish.lines;
    let answer = match open(&request, door, arrival, &cors, wish).await {
        Ok(stream) => streaming(stream, lines),
        Err(Outcome::NotNow(goodbye)) => not_now(&goodbye, lines),
        Err(Outcome::Never(refusal)) => {
            metrics::refused("rights");
            problem(&refusal)
        }
    };
    cors.on(with_connection(answer, version))
}

/// Why there is no stream.
enum Outcome {
    /// It may be had later, or elsewhere.
    NotNow(Goodbye),
    /// Not by this client.
    Never(Refusal),
}

impl From<super::admission::Refused> for Outcome {
    fn from(refused: super::admission::Refused) -> Self {
        metrics::refused(refused.reason);
        let after_ms = u64::try_from(refused.after.as_millis()).unwrap_or(u64::MAX);
        let reason = refused.words.trim_end().to_owned().into();
        Self::NotNow(Goodbye { code: CloseCode::Overloaded, reason, after_ms })
    }
}

async fn open(
    request: &Request<Incoming>,
    door: &Rc<Door>,
    arrival: Arrival,
    cors: &Cors,
    wish: Wish,
) -> Result<EventStream, Outcome> {
    let (shard, public) = (&door.shard, &door.public);
    let settings = Arc::clone(&public.ground.settings());
    if public.is_draining() {
        metrics::refused("draining");
        return Err(Outcome::NotNow(CloseCode::Draining.into()));
    }
    if !public.is_ready() {
        metrics::refused("not_ready");
        return Err(Outcome::NotNow(CloseCode::TryAgainLater.into()));
    }
    // Before anything that costs more, such as a signature.
    public.admit(arrival.client, door.has_queued.take()).await?;
    let seat = public.seat(arrival.client)?;
    let held = Held::of_request(seat, door, request.version());
    let timeouts = &settings.timeouts;
    let terms = Terms {
        beat_interval: Some(timeouts.ping_interval),
        patience: timeouts.pong,
        close: timeouts.close,
        age: timeouts.connection_age.choose(rand::random()),
    };
    let (codec, shape): (&'static dyn Codec, _) = match &wish.channels[..] {
        _ if wish.lines => (&Lines, Shape::Lines),
        [_] => (&OneChannel, Shape::Events),
        all => {
            let positions = all.iter().map(|asked| match asked.since {
                Some(Since::Position(since)) => (&asked.channel, Some(since)),
                Some(Since::Foreign) | None => (&asked.channel, None),
            });
            (&ManyChannels, Shape::ManyChannels(Box::new(Positions::new(positions))))
        }
    };
    let link = shard.link(codec, settings.limits.outbox_bytes);
    let session = Session::new(public.ground.clone(), shard.clone(), link.clone(), codec);
    if public.ground.webhooks.wants(Hook::Connect, None) {
        session.set_visitor(visitor(request.headers(), &arrival, cors.may_use_cookies()));
    }
    let detached = Detached::adopted(shard, session, link, codec, None, Transport::Sse, terms);
    let connect = Connect {
        token: credentials::token(request, &settings, cors.may_use_cookies()),
        subscribe: wish.channels.into_iter().map(Ok).collect(),
        ..Connect::default()
    };
    let envelope = Envelope { id: Some(0), command: Ok(Command::Connect(connect)) };
    detached.session().handle(envelope);
    let first = match timeout(timeouts.handshake, detached.next()).await {
        Ok(Next::Frame(frame)) => frame.payload().clone(),
        Ok(Next::Beat) | Err(_) => {
            let reason = "not subscribed within timeouts.handshake".into();
            return Err(Outcome::NotNow(Goodbye { code: CloseCode::TryAgainLater, reason, after_ms: 0 }));
        }
        Ok(Next::End(goodbye)) => return Err(turned_away(goodbye)),
    };
    if let Some(goodbye) = detached.ending().filter(|goodbye| refusal_of(goodbye).is_some()) {
        return Err(turned_away(goodbye));
    }
    detached.begin();
    if request.version() < Version::HTTP_2 {
        let door = door.clone();
        detached.on_cut(move || door.cut.notify_one());
    }
    tracing::debug!(address = %arrival.client, version = ?request.version(), "a stream is opened");
    let head = if matches!(shape, Shape::Lines) { String::new() } else { format!("retry: {}\n\n", come_back()) };
    Ok(EventStream::new(detached, shape, &head, &first, held))
}

/// What a connection that has ended before it began is to its client.
fn turned_away(goodbye: Goodbye) -> Outcome {
    match refusal_of(&goodbye) {
        Some(refusal) if refusal.code.retry() || refusal.code == ErrorCode::Internal => Outcome::NotNow(goodbye),
        Some(refusal) => Outcome::Never(refusal),
        None => Outcome::NotNow(goodbye),
    }
}

fn streaming(stream: EventStream, lines: bool) -> Answer {
    with_headers(super::content::Content::stream(stream), lines)
}

/// A stream that says how long to wait, and ends.
fn not_now(goodbye: &Goodbye, lines: bool) -> Answer {
    let after_ms = goodbye.after_ms.max(come_back());
    let goodbye = Goodbye { after_ms, ..goodbye.clone() };
    let codec: &dyn Codec = if lines { &Lines } else { &OneChannel };
    let words = match codec.encode(&crate::push::Push::Disconnect(goodbye)) {
        crate::push::Encoded::Frame(frame) => frame.payload().clone(),
        crate::push::Encoded::Nothing | crate::push::Encoded::Close(_) => bytes::Bytes::new(),
    };
    let end = if lines { "\n" } else { "" };
    with_headers(Full::from([&words[..], end.as_bytes()].concat()).into(), lines)
}

fn come_back() -> u64 {
    rand::rng().random_range(COME_BACK)
}

fn with_headers(content: super::content::Content, lines: bool) -> Answer {
    let mut answer = Response::new(content);
    let headers = answer.headers_mut();
    let kind = if lines { "application/x-ndjson" } else { "text/event-stream" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Whoever comes back does so over a new connection, which a balancer may take to another node.
fn with_connection(mut answer: Answer, version: Version) -> Answer {
    if version < Version::HTTP_2 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// The answer to a method that is not served at a path where these are.
pub(super) fn wrong_method(methods: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {methods} are served here\n"));
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}
