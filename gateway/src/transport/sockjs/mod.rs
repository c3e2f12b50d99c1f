//! `/sockjs` and whatever `[[sockjs]]` names: for clients that cannot open a WebSocket, or not everywhere.
//!
//! A session is one connection to everybody else: a seat, an outbox, a drain. What is special is that its client comes with one
//! request after the other, and that each may reach another node.
//!
//! - `path` what is where · `headers` who may see it · `request` what is asked · `receiver` how frames are answered
//! - `life` how long a session lives · `session` one session · `inside` what it carries · `sessions` all of the node's
//! - `owner` where a session is · `stream` a response that goes on · `iframe` the client's page · `socket` toys
//!
//! A session over a WebSocket is that connection, and no request reaches it: `upgrade` with the codecs of
//! [`protocol::sockjs`](crate::protocol::sockjs).
//!
//! Source: the protocol's own tests (sockjs-protocol 0.3.3); where those open what `public.origins` does not, that comes first.

mod headers;
mod iframe;
mod inside;
mod life;
mod owner;
mod path;
mod receiver;
mod request;
mod session;
mod sessions;
mod socket;
mod stream;

use std::{num::NonZeroU32, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

pub use self::sessions::Sessions;
pub(super) use self::socket::{Toy, run as run_toy};
use self::{
    headers::Visitor,
    owner::Asked,
    path::{Action, Place, Receiver, Sender},
    receiver::Shape,
    request::{callback, jsonp_messages, xhr_messages},
    stream::Stream,
};
use super::{
    Arrival,
    content::Content,
    cors, forwarded,
    handshake::{Handshake, HandshakeError},
    http::{Answer, Door},
    origin::OriginRules,
    page,
    upgrade::{self, Endpoint},
};
use crate::{
    config::{Settings, SockJsMode, SockJsService},
    metrics,
    peers::{PeerError, SessionId, Want},
    protocol::sockjs::close,
};

const TEXT: &str = "text/plain; charset=UTF-8";
const GREETING: &str = "Welcome to SockJS!\n";
/// The cookie by which balancers keep a client with a node, and what is in it where the client has none.
const COOKIE: (&str, &str) = ("JSESSIONID", "dummy");

/// What a client hears whose session was lost, with its node or on the way.
fn interrupted() -> Bytes {
    close(1002, "Connection interrupted")
}

/// The service at a path, and what stands behind its prefix.
pub(super) fn find<'a>(settings: &'a Settings, path: &'a str) -> Option<(&'a SockJsService, &'a str)> {
    settings.sockjs.iter().find_map(|service| {
        let rest = path.strip_prefix(&*service.prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((service, rest))
    })
}

/// Answers any request below the prefix of a service; `rest` is what stands behind it.
pub(super) async fn answer(
    request: Request<Incoming>,
    settings: &Arc<Settings>,
    service: &SockJsService,
    rest: &str,
    door: &Rc<Door>,
) -> Answer {
    let Some(place) = Place::of(rest) else { return page::not_found().map(Into::into) };
    let client = forwarded::client(request.headers(), door.arrival.client, &settings.public.trusted_proxies);
    let site = Site { settings, service, door, arrival: Arrival { client, ..door.arrival } };
    match place {
        Place::Greeting => only("GET", &request, || with_type(StatusCode::OK, TEXT, GREETING)),
        Place::Iframe => only("GET", &request, || iframe::answer(service, settings, request.headers())),
        Place::Client => only("GET", &request, iframe::script),
        Place::Info => site.info(&request),
        Place::RawWebSocket => site.websocket(request, false).await,
        Place::Session(session, action) => {
            let cookie = service.cookie.then(|| cookie(request.headers())).flatten();
            let mut answer = match action {
                Action::WebSocket => site.websocket(request, true).await,
                Action::Receive(receiver) => site.receive(request, session, receiver).await,
                Action::Send(sender) => site.send(request, session, sender).await,
            };
            if let Some(cookie) = cookie {
                answer.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            answer
        }
    }
}

/// Where a request has come to.
struct Site<'a> {
    settings: &'a Arc<Settings>,
    service: &'a SockJsService,
    door: &'a Rc<Door>,
    arrival: Arrival,
}

impl Site<'_> {
    /// What a client asks first: what it can do here.
    fn info<B>(&self, request: &Request<B>) -> Answer {
        self.for_pages(request, "OPTIONS, GET", |_| {
            let info = json!({
                "websocket": self.service.websocket,
                "origins": ["*:*"], // for old clients; who may is in the headers
                "cookie_needed": self.service.cookie,
                "entropy": rand::random::<u32>(),
            });
            with_type(StatusCode::OK, "application/json; charset=UTF-8", info.to_string())
        })
    }

    /// What a page of another host may ask and see: `methods` are `OPTIONS` and one more.
    fn for_pages<B>(
        &self,
        request: &Request<B>,
        methods: &'static str,
        make: impl FnOnce(&Visitor) -> Answer,
    ) -> Answer {
        let visitor = match Visitor::check(OriginRules::of(self.settings), request, &self.arrival) {
            Ok(visitor) => visitor,
            Err(page) => return cors::foreign(page),
        };
        if request.method() == Method::OPTIONS {
            return preflight(&visitor, methods);
        }
        if !methods.ends_with(request.method().as_str()) {
            return wrong_method(methods);
        }
        let mut answer = make(&visitor);
        headers::not_kept(answer.headers_mut());
        visitor.let_see(answer.headers_mut());
        answer
    }

    /// A session over a WebSocket, in frames of SockJS or without.
    async fn websocket(&self, request: Request<Incoming>, is_framed: bool) -> Answer {
        if !self.service.websocket {
            let mut answer: Answer = page::not_found().map(Into::into);
            headers::not_kept(answer.headers_mut());
            return answer;
        }
        // Over HTTP/2 it is a CONNECT.
        if !matches!(*request.method(), Method::GET | Method::CONNECT) {
            return wrong_method("GET");
        }
        match Handshake::check(&request) {
            Ok(_) => {}
            Err(HandshakeError::Method) => return wrong_method("GET"),
            Err(error) => {
                metrics::refused(error.reason());
                return with_type(StatusCode::BAD_REQUEST, TEXT, format!("Not a valid websocket request: {error}\n"));
            }
        }
        let endpoint = match (self.service.mode, self.service.channel(), is_framed) {
            (SockJsMode::Protocol, _, true) => Endpoint::SockJs(None),
            (SockJsMode::Raw, Some(channel), true) => Endpoint::SockJs(Some(channel)),
            (SockJsMode::Echo, _, true) => Endpoint::Toy(Toy::Echo),
            (SockJsMode::Protocol, _, false) => Endpoint::Native,
            (SockJsMode::Raw, Some(channel), false) => Endpoint::Raw(channel),
            (SockJsMode::Echo, _, false) => Endpoint::Echo,
            (SockJsMode::Close | SockJsMode::Raw, _, is_framed) => Endpoint::Toy(Toy::Close { is_framed }),
        };
        upgrade::answer(request, endpoint, self.door).await
    }

    /// The next frame of a session, or one after the other.
    async fn receive(&self, request: Request<Incoming>, session: &str, receiver: Receiver) -> Answer {
        let (rules, arrival) = (OriginRules::of(self.settings), &self.arrival);
        let (methods, visitor) = match receiver {
            Receiver::Xhr | Receiver::XhrStreaming => ("OPTIONS, POST", Visitor::check(rules, &request, arrival)),
            Receiver::EventSource => ("GET", Visitor::check(rules, &request, arrival)),
            Receiver::HtmlFile | Receiver::Jsonp => ("GET", Visitor::check_embedded(rules, &request, arrival)),
        };
        let visitor = match visitor {
            Ok(visitor) => visitor,
            Err(page) => return cors::foreign(page),
        };
        if request.method() == Method::OPTIONS && methods != "GET" {
            return preflight(&visitor, methods);
        }
        if !methods.ends_with(request.method().as_str()) {
            return wrong_method(methods);
        }
        let is_called = matches!(receiver, Receiver::HtmlFile | Receiver::Jsonp);
        let shape = match is_called.then(|| callback(request.uri().query())).transpose() {
            Ok(Some(callback)) => Shape::calling(receiver, callback),
            Ok(None) => Shape::plain(receiver),
            Err(wrong) => {
                let mut answer = with_type(StatusCode::INTERNAL_SERVER_ERROR, TEXT, wrong.to_string());
                headers::not_kept(answer.headers_mut());
                return answer;
            }
        };
        let version = request.version();
        let mut answer = self.frames(&self.asked(&request, &visitor, session), shape, version).await;
        let headers = answer.headers_mut();
        headers::not_kept(headers);
        if !is_called {
            visitor.let_see(headers);
        }
        answer
    }

    async fn frames<B>(&self, asked: &Asked<'_, B>, shape: Shape, version: Version) -> Answer {
        let kind = shape.content_type();
        let bytes = u32::try_from(self.service.response_limit).unwrap_or(u32::MAX);
        let want = Want { frames: shape.is_poll().then_some(NonZeroU32::MIN), bytes };
        let mut frames = match asked.frames(want).await {
            Ok(frames) => frames,
            Err(last) => {
                return with_type(StatusCode::OK, kind, [shape.prelude(), shape.piece(&last)].concat());
            }
        };
        if shape.is_poll() {
            let mut all = Vec::new();
            // To its end: before that the session takes the client for cut off.
            while let Some(frame) = frames.next().await {
                all.extend_from_slice(&shape.piece(&frame.unwrap_or_else(|_| interrupted())));
            }
            if all.is_empty() {
                all.extend_from_slice(&shape.piece(&interrupted())); // it ended just as it was asked
            }
            return with_type(StatusCode::OK, kind, all);
        }
        let timeouts = &self.settings.timeouts;
        let (is_http1, patience) = (version < Version::HTTP_2, timeouts.pong + timeouts.close);
        let stream = Stream::new(shape, frames, self.door, is_http1, patience);
        let mut answer = Response::new(Content::stream(stream));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }

    /// Messages of the client.
    async fn send(&self, request: Request<Incoming>, session: &str, sender: Sender) -> Answer {
        let visitor = match Visitor::check(OriginRules::of(self.settings), &request, &self.arrival) {
            Ok(visitor) => visitor,
            Err(page) => return cors::foreign(page),
        };
        let methods = if sender == Sender::Xhr { "OPTIONS, POST" } else { "POST" };
        if request.method() == Method::OPTIONS && sender == Sender::Xhr {
            return preflight(&visitor, methods);
        }
        if request.method() != Method::POST {
            return wrong_method(methods);
        }
        let mut answer = self.taken_in(request, &visitor, session, sender).await;
        headers::not_kept(answer.headers_mut());
        if sender == Sender::Xhr {
            visitor.let_see(answer.headers_mut());
        }
        answer
    }

    async fn taken_in(&self, request: Request<Incoming>, visitor: &Visitor, session: &str, sender: Sender) -> Answer {
        let (parts, body) = request.into_parts();
        let limit = self.settings.limits.message_bytes;
        let body = match timeout(self.settings.timeouts.message, Limited::new(body, limit).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let words = format!("limits.message_bytes is {limit}\n");
                return with_type(StatusCode::PAYLOAD_TOO_LARGE, TEXT, words);
            }
            Ok(Err(_)) => return with_type(StatusCode::BAD_REQUEST, TEXT, "the body was cut off\n"),
            Err(_) => {
                return with_type(StatusCode::REQUEST_TIMEOUT, TEXT, "not all of it came within timeouts.message\n");
            }
        };
        let messages = match sender {
            Sender::Xhr => xhr_messages(&parts.headers, &body),
            Sender::Jsonp => jsonp_messages(&parts.headers, &body),
        };
        let messages = match messages {
            Ok(messages) => messages,
            Err(wrong) => return with_type(StatusCode::INTERNAL_SERVER_ERROR, TEXT, wrong.to_string()),
        };
        let request = Request::from_parts(parts, ());
        match self.asked(&request, visitor, session).send(messages).await {
            Ok(()) if sender == Sender::Jsonp => with_type(StatusCode::OK, TEXT, "ok"),
            Ok(()) => {
                let mut answer = with_type(StatusCode::NO_CONTENT, TEXT, "");
                answer.headers_mut().remove(header::CONTENT_LENGTH);
                answer
            }
            Err(PeerError::Unknown | PeerError::UnknownOutcome) => page::not_found().map(Into::into),
            Err(error @ (PeerError::Full | PeerError::Unavailable)) => {
                let mut answer = with_type(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n"));
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                answer
            }
        }
    }

    fn asked<'a, B>(&'a self, request: &'a Request<B>, visitor: &'a Visitor, session: &str) -> Asked<'a, B> {
        let Self { settings, service, door, arrival } = *self;
        let id = SessionId::of(&service.prefix, session);
        Asked { request, door, arrival, visitor, settings, service, id }
    }
}

/// An answer to this method, and to a look at its head.
fn only<B>(method: &'static str, request: &Request<B>, make: impl FnOnce() -> Answer) -> Answer {
    if request.method() == Method::HEAD {
        let mut answer = make();
        *answer.body_mut() = Content::default();
        return answer;
    }
    if request.method() == method { make() } else { wrong_method(method) }
}

fn preflight(visitor: &Visitor, methods: &'static str) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    visitor.preflight(methods, answer.headers_mut());
    answer
}

fn wrong_method(methods: &'static str) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let length = HeaderValue::from(body.len());
    let mut answer: Answer = Response::new(Full::from(body).into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// The cookie as the client has it.
fn cookie(headers: &HeaderMap) -> Option<HeaderValue> {
    let (name, fallback) = COOKIE;
    let value = super::credentials::cookie(headers, name).unwrap_or(fallback);
    HeaderValue::try_from(format!("{name}={value}; path=/")).ok()
}
