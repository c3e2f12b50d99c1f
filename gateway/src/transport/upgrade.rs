//! How a request becomes a WebSocket, or why not.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use skywave_proto::{ChannelName, CloseCode, ErrorCode, StreamPosition};
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Arrival, Load, Public, WebSocketLimits, WebSocketSeat,
    connection::{Adopted, Connection},
    credentials, echo, forwarded,
    framed::Framed,
    handshake::{self, Handshake, HandshakeError},
    http::{Answer, Door, refused, text},
    origin::OriginRules,
    prepare::Compression,
    requests,
    socket::Socket,
    sockjs, websocket,
    wire::Wire,
};
use crate::{
    auth::Claims,
    clock::now_ms,
    config::PublicSettings,
    metrics::{self, Figures},
    protocol::{self, Codec, Raw},
    push::{Encoded, Frame, Goodbye},
    session::{
        self, Command, Credential, Envelope, Grant, RETRY_AFTER_MS, Refusal, Session, Since, Standing, Subscribe,
        Visitor,
    },
    shard::Shard,
    webhooks::Hook,
};

/// Where a WebSocket leads.
pub(super) enum Endpoint {
    /// Our protocols, by subprotocol.
    Native,
    /// One channel's payloads.
    Raw(ChannelName),
    /// Every message comes back.
    Echo,
    /// In frames of SockJS: our protocol, or one channel's payloads.
    SockJs(Option<ChannelName>),
    /// A service of SockJS for tests.
    Toy(sockjs::Toy),
}

impl Endpoint {
    /// One channel, as it stands in the path.
    ///
    /// # Errors
    /// If it is no channel.
    pub(super) fn raw(encoded: &str) -> Result<Self, Refusal> {
        let bad = |message: String| Refusal::new(ErrorCode::BadRequest, message);
        let name = percent_encoding::percent_decode_str(encoded).decode_utf8();
        let name = name.map_err(|_| bad("the channel in the path is not UTF-8".into()))?;
        ChannelName::parse(&name).map(Self::Raw).map_err(|error| bad(error.to_string()))
    }
}

/// Answers a handshake, and makes a connection of it if all is well.
pub(super) async fn answer(mut request: Request<Incoming>, endpoint: Endpoint, door: &Rc<Door>) -> Answer {
    let (shard, public) = (&door.shard, &door.public);
    let settings = Arc::clone(&public.ground.settings());
    let client = forwarded::client(request.headers(), door.arrival.client, &settings.public.trusted_proxies);
    let arrival = Arrival { client, ..door.arrival };
    let handshake = match Handshake::check(&request) {
        Ok(handshake) => handshake,
        Err(error) => return no_upgrade(error, request.version()),
    };
    if public.is_draining() {
        metrics::refused("draining");
        return not_now("this node is leaving: connect again, to another one\n");
    }
    if !public.is_ready() {
        metrics::refused("not_ready");
        return not_now("this node has not reached its backplane yet: try again\n");
    }
    if let Err(foreign) = OriginRules::of(&settings).check(&request, &arrival) {
        metrics::refused("origin");
        return text(StatusCode::FORBIDDEN, format!("{foreign}\n"));
    }
    // Before anything that costs more, such as a signature.
    let seat = match public.admit(client, door.has_queued.take()).await.and_then(|()| public.seat(client)) {
        Ok(seat) => seat,
        Err(refused) => return refused.answer(),
    };
    let may_ride = OriginRules::of(&settings).may_use_cookies(&request, &arrival);
    let token = credentials::token(&request, &settings, may_ride);
    let (codec, subprotocol, introduction): (&'static dyn Codec, _, _) = match &endpoint {
        Endpoint::Raw(channel) => match may_open_raw(public, channel, token).await {
            Ok(introduction) => (&Raw, None, introduction),
            Err(refusal) => {
                metrics::refused("rights");
                return refused(&refusal);
            }
        },
        Endpoint::Echo | Endpoint::Toy(_) => (&Raw, None, Introduction::Nobody),
        Endpoint::SockJs(None) => {
            (&protocol::sockjs::JSON_SOCKET, None, token.map_or(Introduction::Nobody, Introduction::Token))
        }
        Endpoint::SockJs(Some(channel)) => match may_open_raw(public, channel, token).await {
            Ok(introduction) => (&protocol::sockjs::RAW_SOCKET, None, introduction),
            Err(refusal) => {
                metrics::refused("rights");
                return refused(&refusal);
            }
        },
        Endpoint::Native => match handshake::subprotocol(request.headers()) {
            Ok((codec, subprotocol)) => (codec, subprotocol, token.map_or(Introduction::Nobody, Introduction::Token)),
            Err(error) => return no_upgrade(error, request.version()),
        },
    };
    let held = match handshake {
        Handshake::Http1 { .. } => Held { _seat: seat, _load: door.load.clone(), _request: None },
        Handshake::Http2 => Held::of_request(seat, door, request.version()),
    };
    tracing::debug!(address = %arrival.client, version = ?request.version(), "a WebSocket is opened");
    let since = since(request.uri().query());
    let (compression, extensions) = compression(request.headers(), &settings.public).unzip();
    let upgrade = hyper::upgrade::on(&mut request);
    let asks = public.ground.webhooks.wants(Hook::Connect, None);
    let visitor = asks.then(|| visitor(request.headers(), &arrival, may_ride));
    let opening = Opening { shard, public, codec, endpoint, since, introduction, visitor, compression };
    let deadline = settings.timeouts.handshake;
    let opened = match opening.opened(deadline).await {
        Ok(opened) => opened,
        Err(refusal) => {
            metrics::refused("rights");
            return refused(&refusal);
        }
    };
    tokio::task::spawn_local(open(opened, upgrade, deadline, held));
    handshake.answer(subprotocol, extensions)
}

/// What the client offers to compress by, as far as that is wanted here; and the answer to it.
fn compression(headers: &HeaderMap, settings: &PublicSettings) -> Option<(Compression, HeaderValue)> {
    if !settings.deflate {
        return None;
    }
    let offers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok());
    let agreed = websocket::negotiate(offers)?;
    let answer = HeaderValue::try_from(agreed.to_string()).ok()?;
    Some((Compression { agreed, threshold: settings.deflate_threshold }, answer))
}

/// 503 for a reason that passes, or that other nodes do not have.
fn not_now(words: &'static str) -> Answer {
    let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, words);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

fn no_upgrade(error: HandshakeError, version: Version) -> Answer {
    metrics::refused(error.reason());
    let mut answer = text(error.status(version), format!("{error}\n"));
    let headers = answer.headers_mut();
    if error == HandshakeError::Version || error == HandshakeError::NoUpgrade {
        headers.insert(header::SEC_WEBSOCKET_VERSION, header::HeaderValue::from_static("13"));
        if version < Version::HTTP_2 {
            headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        }
    }
    if error == HandshakeError::Method {
        headers.insert(header::ALLOW, header::HeaderValue::from_static("GET"));
    }
    answer
}

fn since(query: Option<&str>) -> Option<Since> {
    let text = credentials::decoded(credentials::parameter(query, "since")?);
    // A close reason as it came: behind the position may stand why (see `Raw::farewell`).
    let text = text.split([' ', '+']).next().unwrap_or_default();
    Some(text.parse::<StreamPosition>().map_or(Since::Foreign, Since::Position))
}

/// Whether the token, and whoever has it, may have a channel by its address. Where the back end is asked who comes in, it
/// has the last word, and later.
pub(super) async fn may_open_raw(
    public: &Public,
    channel: &ChannelName,
    token: Option<Credential>,
) -> Result<Introduction, Refusal> {
    let ground = &public.ground;
    let settings = Arc::clone(&ground.settings());
    let is_asked = ground.webhooks.wants(Hook::Connect, None);
    let introduction = match token {
        Some(token) if ground.authority.accepts_tokens() => {
            let checked = ground.authority.verify(token.reveal(), now_ms()).await;
            Introduction::Checked(Box::new(checked.map_err(|error| Refusal::from(&error))?))
        }
        Some(token) if is_asked => Introduction::Token(token),
        Some(_) => {
            let message = "this node has no token keys, so it cannot accept a token";
            return Err(Refusal::new(ErrorCode::Unauthenticated, message));
        }
        None if settings.auth.anonymous || is_asked => Introduction::Nobody,
        None => {
            let message = "anonymous clients are not allowed here: bring a token";
            return Err(Refusal::new(ErrorCode::PermissionDenied, message));
        }
    };
    let namespace = session::namespace(&settings, channel)?;
    if !is_asked {
        let grant = match &introduction {
            Introduction::Checked(claims) => Some(Grant::of_token((**claims).clone())),
            Introduction::Token(_) | Introduction::Nobody => None,
        };
        let user = grant.as_ref().and_then(|grant| grant.token()?.user.as_deref());
        session::may_subscribe(namespace, channel, Standing { user, grant: grant.as_ref() })?;
    }
    Ok(introduction)
}

/// Who the handshake says the client is.
pub(super) enum Introduction {
    /// It does not say.
    Nobody,
    /// Whose token this is, which has not been looked at.
    Token(Credential),
    /// Whose token this was.
    Checked(Box<Claims>),
}

/// What the back end may be told of a handshake.
pub(super) fn visitor(headers: &HeaderMap, arrival: &Arrival, may_ride: bool) -> Visitor {
    let told = ["origin", "user-agent", "cookie"].into_iter().filter(|name| may_ride || *name != "cookie");
    let value = |name: &'static str| Some((name, headers.get(name)?.to_str().ok()?.into()));
    Visitor { address: arrival.client, headers: told.filter_map(value).collect() }
}

/// What a WebSocket, or what stands for one, keeps as long as it is open.
pub(super) struct Held {
    _seat: WebSocketSeat,
    _load: Rc<Load>,
    /// Over HTTP/2: its connection is in use.
    _request: Option<requests::Request>,
}

impl Held {
    /// Of a session that outlives its requests.
    pub(super) fn of_session(seat: WebSocketSeat, door: &Door) -> Self {
        Self { _seat: seat, _load: Rc::new(door.load.another()), _request: None }
    }

    /// Of a request that goes on: its connection of HTTP is in use.
    pub(super) fn of_request(seat: WebSocketSeat, door: &Door, version: Version) -> Self {
        let load = if version < Version::HTTP_2 { door.load.clone() } else { Rc::new(door.load.another()) };
        Self { _seat: seat, _load: load, _request: Some(door.requests.begin()) }
    }
}

/// Takes the socket out of HTTP and serves the connection in a task of its own, so that nothing of the handshake lives as
/// long as it.
async fn open(opened: Opened, upgrade: OnUpgrade, deadline: Duration, held: Held) {
    let Ok(Ok(upgraded)) = timeout(deadline, upgrade).await else { return };
    let (socket, early) = taken_out(upgraded);
    // Two tasks, each no larger than it has to be: it lives as long as the connection.
    match opened {
        Opened::Session(adopted) => {
            adopted.begin(socket, early);
            tokio::task::spawn_local(async move { Box::pin(let_go(adopted.run().await, held)).await });
        }
        Opened::Echo { toy, limits, compression, figures, leaving } => {
            let wire = Box::new(Framed::new(socket, early, limits.message, compression));
            tokio::task::spawn_local(async move {
                let socket = match toy {
                    Some(toy) => sockjs::run_toy(toy, wire, limits, figures, leaving).await,
                    None => echo::run(wire, limits, figures, leaving).await,
                };
                Box::pin(let_go(Some(socket), held)).await;
            });
        }
    }
}

/// A stream whose client gives no window lives on with what was written to it, and counts as long.
async fn let_go(socket: Option<Socket>, held: Held) {
    if let Some(Socket::Http2(mut stream)) = socket {
        let _ = stream.shutdown().await;
    }
    drop(held);
}

/// The socket itself where HTTP is over, and what the client has sent behind its handshake; else the stream.
fn taken_out(upgraded: Upgraded) -> (Socket, Bytes) {
    match upgraded.downcast::<TokioIo<Wire>>() {
        Ok(parts) => {
            let (socket, unread) = parts.io.into_inner().into_parts();
            // A copy: the buffer that it stands in is hyper's, of 8 KiB and more, and would live as long as the connection.
            let early = Bytes::from([parts.read_buf, unread].concat());
            (socket, early)
        }
        Err(stream) => (Socket::Http2(TokioIo::new(stream)), Bytes::new()),
    }
}

/// What the WebSocket is for.
enum Opened {
    Session(Adopted),
    Echo {
        toy: Option<sockjs::Toy>,
        limits: Rc<WebSocketLimits>,
        compression: Option<Compression>,
        figures: Rc<Figures>,
        leaving: CancellationToken,
    },
}

/// A WebSocket that is about to be opened.
struct Opening<'a> {
    shard: &'a Rc<Shard>,
    public: &'a Arc<Public>,
    codec: &'static dyn Codec,
    endpoint: Endpoint,
    since: Option<Since>,
    introduction: Introduction,
    visitor: Option<Visitor>,
    compression: Option<Compression>,
}

impl Opening<'_> {
    /// Makes the connection. One that is subscribed by its address is answered only when the subscription is there, or
    /// cannot be: its client has no other way to know from when on it hears everything.
    ///
    /// # Errors
    /// If such a client may not be here: it hears that by HTTP.
    async fn opened(self, deadline: Duration) -> Result<Opened, Refusal> {
        let settings = Arc::clone(&self.public.ground.settings());
        let limits = Rc::new(WebSocketLimits {
            message: websocket::Limits {
                frame_bytes: settings.limits.frame_bytes,
                message_bytes: settings.limits.message_bytes,
                fragments: settings.limits.fragments,
            },
            assembly: settings.timeouts.message,
            ping_interval: settings.timeouts.ping_interval,
            pong: settings.timeouts.pong,
            close: settings.timeouts.close,
            age: settings.timeouts.connection_age.choose(rand::random()),
        });
        let compression = self.compression;
        let toy = match self.endpoint {
            Endpoint::Toy(toy) => Some(toy),
            _ => None,
        };
        if toy.is_some() || matches!(self.endpoint, Endpoint::Echo) {
            let (figures, leaving) = (self.shard.figures().clone(), self.public.draining.clone());
            return Ok(Opened::Echo { toy, limits, compression, figures, leaving });
        }
        let link = self.shard.link(self.codec, settings.limits.outbox_bytes);
        if matches!(self.endpoint, Endpoint::SockJs(_)) {
            // Before anything that the session says.
            link.send(Encoded::Frame(Frame::text(protocol::sockjs::OPEN)));
        }
        let session = Session::new(self.public.ground.clone(), self.shard.clone(), link.clone(), self.codec);
        let adopt =
            |session, channel| Connection::adopted(self.shard, session, link, self.codec, channel, limits, compression);
        if let Some(visitor) = self.visitor {
            session.set_visitor(visitor);
        }
        let (Endpoint::Raw(channel) | Endpoint::SockJs(Some(channel))) = self.endpoint else {
            let adopted = adopt(session, None);
            // A browser cannot read a status, so bad credentials are told over the open connection.
            if let Introduction::Token(token) = self.introduction {
                adopted.session().introduce(token);
            }
            return Ok(Opened::Session(adopted));
        };
        let adopted = adopt(session, Some(channel.clone()));
        let session = adopted.session();
        match self.introduction {
            Introduction::Nobody => drop(session.welcome()),
            Introduction::Token(token) => session.introduce(token),
            Introduction::Checked(claims) => session.introduce_as(*claims),
        }
        let until = Instant::now() + deadline;
        if timeout_at(until, session.known()).await.is_err() {
            let message = "nobody has said in time (timeouts.handshake) who you are: come back later";
            return Err(Refusal { after_ms: RETRY_AFTER_MS, ..Refusal::new(ErrorCode::Unavailable, message) });
        }
        let request =
            Subscribe { channel: channel.clone(), since: self.since, presence: false, echo: true, token: None };
        session.handle(Envelope { id: Some(0), command: Ok(Command::Subscribe(request)) });
        // Should it take too long, the connection goes on waiting for it.
        let _ = timeout_at(until, session.subscribed(&channel)).await;
        match adopted.ending().and_then(|goodbye| forbidden(&goodbye)) {
            Some(refusal) => Err(refusal),
            None => Ok(Opened::Session(adopted)),
        }
    }
}

/// What becomes a status of HTTP. All else has its own close code, of which the client is to hear.
fn forbidden(goodbye: &Goodbye) -> Option<Refusal> {
    let code = match goodbye.code {
        CloseCode::BadToken | CloseCode::TokenExpired => ErrorCode::Unauthenticated,
        CloseCode::PermissionDenied => ErrorCode::PermissionDenied,
        _ => return None,
    };
    Some(Refusal::new(code, goodbye.reason.to_string()))
}
