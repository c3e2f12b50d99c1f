//! How a request becomes a WebSocket, or why not.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use skywave_proto::{ChannelName, ErrorCode, StreamPosition};
use tokio::{io::AsyncWriteExt as _, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Arrival, Load, Public, WebSocketLimits, WebSocketSeat,
    connection::{Adopted, Connection},
    echo, forwarded,
    framed::Framed,
    handshake::{self, Handshake, HandshakeError},
    http::{Answer, Door, refused, text},
    origin::OriginRules,
    prepare::Compression,
    requests,
    socket::Socket,
    websocket,
    wire::Wire,
};
use crate::{
    config::PublicSettings,
    metrics::{self, Figures},
    protocol::{Codec, Raw},
    session::{self, Command, Envelope, Refusal, Session, Since, Subscribe},
    shard::Shard,
};

/// Where a WebSocket leads.
pub(super) enum Endpoint {
    /// Our protocols, by subprotocol.
    Native,
    /// One channel's payloads.
    Raw(ChannelName),
    /// Every message comes back.
    Echo,
}

impl Endpoint {
    /// What is served at this path, if it is a WebSocket; an error for a channel that is none.
    pub(super) fn at(path: &str, echo: bool) -> Option<Result<Self, Refusal>> {
        match path {
            "/ws" => Some(Ok(Self::Native)),
            "/echo" if echo => Some(Ok(Self::Echo)),
            _ => path.strip_prefix("/raw/").map(Self::raw),
        }
    }

    fn raw(encoded: &str) -> Result<Self, Refusal> {
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
        return text(StatusCode::SERVICE_UNAVAILABLE, "this node is leaving: connect again, to another one\n");
    }
    if !public.is_ready() {
        metrics::refused("not_ready");
        return text(StatusCode::SERVICE_UNAVAILABLE, "this node has not reached its backplane yet: try again\n");
    }
    if let Err(foreign) = OriginRules::of(&settings).check(&request, &arrival) {
        metrics::refused("origin");
        return text(StatusCode::FORBIDDEN, format!("{foreign}\n"));
    }
    let token = has_credentials(&request);
    let (codec, subprotocol): (&'static dyn Codec, _) = match &endpoint {
        Endpoint::Raw(channel) => match may_open_raw(public, channel, token) {
            Ok(()) => (&Raw, None),
            Err(refusal) => {
                metrics::refused("rights");
                return refused(&refusal);
            }
        },
        Endpoint::Echo => (&Raw, None),
        Endpoint::Native => match handshake::subprotocol(request.headers()) {
            Ok(chosen) => chosen,
            Err(error) => return no_upgrade(error, request.version()),
        },
    };
    let Some(seat) = public.seat() else {
        metrics::refused("connections");
        return text(StatusCode::SERVICE_UNAVAILABLE, "limits.connections is reached: connect to another node\n");
    };
    let held = match handshake {
        Handshake::Http1 { .. } => Held { _seat: seat, _load: door.load.clone(), _request: None },
        Handshake::Http2 => {
            let load = Rc::new(door.load.another());
            Held { _seat: seat, _load: load, _request: Some(door.requests.begin()) }
        }
    };
    tracing::debug!(address = %arrival.client, version = ?request.version(), "a WebSocket is opened");
    let since = since(request.uri().query());
    let (compression, extensions) = compression(request.headers(), &settings.public).unzip();
    let upgrade = hyper::upgrade::on(&mut request);
    let opening = Opening { shard, public, codec, endpoint, since, token, compression };
    let deadline = settings.timeouts.handshake;
    let opened = opening.opened(deadline).await;
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

/// Whether the client brings credentials along, in whatever way the handshake allows.
fn has_credentials(request: &Request<Incoming>) -> bool {
    request.headers().contains_key(header::AUTHORIZATION) || parameter(request.uri().query(), "token").is_some()
}

fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

fn since(query: Option<&str>) -> Option<Since> {
    let text = percent_encoding::percent_decode_str(parameter(query, "since")?).decode_utf8_lossy();
    Some(text.parse::<StreamPosition>().map_or(Since::Foreign, Since::Position))
}

fn may_open_raw(public: &Public, channel: &ChannelName, token: bool) -> Result<(), Refusal> {
    let settings = public.ground.settings();
    if token {
        let message = "this node has no token keys, so it cannot accept a token";
        return Err(Refusal::new(ErrorCode::Unauthenticated, message));
    }
    if !settings.auth.anonymous {
        let message = "anonymous clients are not allowed here";
        return Err(Refusal::new(ErrorCode::PermissionDenied, message));
    }
    session::may_subscribe(session::namespace(&settings, channel)?, channel, None)
}

/// What a WebSocket keeps as long as it is open.
struct Held {
    _seat: WebSocketSeat,
    _load: Rc<Load>,
    /// Over HTTP/2: its connection is in use.
    _request: Option<requests::Request>,
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
        Opened::Echo { limits, compression, figures, leaving } => {
            let wire = Box::new(Framed::new(socket, early, limits.message, compression));
            tokio::task::spawn_local(async move {
                let socket = echo::run(wire, limits, figures, leaving).await;
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
    token: bool,
    compression: Option<Compression>,
}

impl Opening<'_> {
    /// Makes the connection. One that is subscribed by its address is answered only when the subscription is there, or
    /// cannot be: its client has no other way to know from when on it hears everything.
    async fn opened(self, deadline: Duration) -> Opened {
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
        });
        let compression = self.compression;
        if matches!(self.endpoint, Endpoint::Echo) {
            let (figures, leaving) = (self.shard.figures().clone(), self.public.draining.clone());
            return Opened::Echo { limits, compression, figures, leaving };
        }
        let link = self.shard.link(self.codec, settings.limits.outbox_bytes);
        let session = Session::new(self.public.ground.clone(), self.shard.clone(), link.clone(), self.codec);
        let adopt = |channel| Connection::adopted(self.shard, session, link, self.codec, channel, limits, compression);
        let Endpoint::Raw(channel) = self.endpoint else {
            let adopted = adopt(None);
            // A browser cannot read a status, so bad credentials are told over the open connection.
            if self.token {
                adopted.session().turn_away(None, "this node has no token keys, so it cannot accept a token");
            }
            return Opened::Session(adopted);
        };
        let adopted = adopt(Some(channel.clone()));
        let request =
            Subscribe { channel: channel.clone(), since: self.since, presence: false, echo: true, token: None };
        adopted.session().handle(Envelope { id: Some(0), command: Ok(Command::Subscribe(request)) });
        // Should it take too long, the connection goes on waiting for it.
        let _ = timeout(deadline, adopted.session().subscribed(&channel)).await;
        Opened::Session(adopted)
    }
}
