//! HTTP on a public listener: what is served where, and how a request becomes a WebSocket.

use std::{convert::Infallible, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use skywave_proto::{ChannelName, StreamPosition};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Arrival, Load, Public, WebSocketLimits, WebSocketSeat,
    handshake::{self, HandshakeError},
    page,
    websocket::Connection,
};
use crate::{
    metrics,
    protocol::{Codec, Raw},
    session::{self, Command, Envelope, Refusal, Session, Since, Subscribe},
    shard::Shard,
};

/// A request head has at most this many lines …
const MAX_HEADERS: usize = 64;
/// … and this many bytes.
const MAX_HEAD: usize = 16 * 1024;

type Answer = Response<Full<Bytes>>;

/// Serves a socket on this shard until it ends or becomes a WebSocket.
pub(super) fn serve(shard: &Rc<Shard>, socket: std::net::TcpStream, arrival: Arrival, public: Arc<Public>, load: Load) {
    let shard = shard.clone();
    tokio::task::spawn_local(async move {
        let socket = match TcpStream::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::warn!(%error, "a socket could not be taken over"),
        };
        let load = Rc::new(load);
        let deadline = public.ground.settings.timeouts.handshake;
        let service = service_fn(|request| {
            let answer = answer(request, &shard, arrival, &public, &load);
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(deadline)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a request was not served");
        }
    });
}

fn answer(
    request: Request<Incoming>,
    shard: &Rc<Shard>,
    arrival: Arrival,
    public: &Arc<Public>,
    load: &Rc<Load>,
) -> Answer {
    let path = request.uri().path();
    if path == "/ws" {
        return upgrade(request, Endpoint::Native, shard, arrival, public, load);
    }
    if let Some(channel) = path.strip_prefix("/raw/") {
        let endpoint = raw_endpoint(channel);
        return match endpoint {
            Ok(endpoint) => upgrade(request, endpoint, shard, arrival, public, load),
            Err(refusal) => refused(&refusal),
        };
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n");
        answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    page::answer(&request, &public.ground.settings)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    page::with_type(status, "text/plain; charset=utf-8", body.into())
}

/// Where a WebSocket leads.
enum Endpoint {
    /// Our protocols, by subprotocol.
    Native,
    /// One channel's payloads.
    Raw(ChannelName),
}

fn raw_endpoint(encoded: &str) -> Result<Endpoint, Refusal> {
    let bad = |message: String| Refusal::new(skywave_proto::ErrorCode::BadRequest, message);
    let name = percent_encoding::percent_decode_str(encoded).decode_utf8();
    let name = name.map_err(|_| bad("the channel in the path is not UTF-8".into()))?;
    ChannelName::parse(&name).map(Endpoint::Raw).map_err(|error| bad(error.to_string()))
}

fn upgrade(
    mut request: Request<Incoming>,
    endpoint: Endpoint,
    shard: &Rc<Shard>,
    arrival: Arrival,
    public: &Arc<Public>,
    load: &Rc<Load>,
) -> Answer {
    let accept = match handshake::accept(&request) {
        Ok(accept) => accept,
        Err(error) => return no_upgrade(error),
    };
    if public.is_draining() {
        metrics::refused("draining");
        return text(StatusCode::SERVICE_UNAVAILABLE, "this node is leaving: connect again, to another one\n");
    }
    if !public.is_ready() {
        metrics::refused("not_ready");
        return text(StatusCode::SERVICE_UNAVAILABLE, "this node has not reached its backplane yet: try again\n");
    }
    if let Err(foreign) = public.origins.check(request.headers(), arrival.local.ip().is_loopback()) {
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
        Endpoint::Native => match handshake::subprotocol(request.headers()) {
            Ok(chosen) => chosen,
            Err(error) => return no_upgrade(error),
        },
    };
    let Some(seat) = public.seat() else {
        metrics::refused("connections");
        return text(StatusCode::SERVICE_UNAVAILABLE, "limits.connections is reached: connect to another node\n");
    };
    let since = since(request.uri().query());
    let upgrade = hyper::upgrade::on(&mut request);
    let opening = Opening { shard: shard.clone(), public: public.clone(), codec, endpoint, since, token };
    let load = load.clone();
    tokio::task::spawn_local(opening.open(upgrade, seat, load));
    handshake::switching(&accept, subprotocol)
}

fn no_upgrade(error: HandshakeError) -> Answer {
    metrics::refused(error.reason());
    let mut answer = text(error.status(), format!("{error}\n"));
    let headers = answer.headers_mut();
    if error == HandshakeError::Version || error == HandshakeError::NoUpgrade {
        headers.insert(header::SEC_WEBSOCKET_VERSION, header::HeaderValue::from_static("13"));
        headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    }
    answer
}

fn refused(refusal: &Refusal) -> Answer {
    let status = StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::FORBIDDEN);
    text(status, format!("{}: {}\n", refusal.code, refusal.message))
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
    let settings = &public.ground.settings;
    if token {
        let message = "this node has no token keys, so it cannot accept a token";
        return Err(Refusal::new(skywave_proto::ErrorCode::Unauthenticated, message));
    }
    if !settings.auth.anonymous {
        let message = "anonymous clients are not allowed here";
        return Err(Refusal::new(skywave_proto::ErrorCode::PermissionDenied, message));
    }
    session::may_subscribe(session::namespace(settings, channel)?, channel, None)
}

/// A WebSocket whose handshake has been answered.
struct Opening {
    shard: Rc<Shard>,
    public: Arc<Public>,
    codec: &'static dyn Codec,
    endpoint: Endpoint,
    since: Option<Since>,
    token: bool,
}

impl Opening {
    /// Takes the raw socket out of HTTP and starts the connection in a task of its own, so that nothing of the
    /// handshake lives as long as it.
    async fn open(self, upgrade: hyper::upgrade::OnUpgrade, seat: WebSocketSeat, load: Rc<Load>) {
        let deadline = self.public.ground.settings.timeouts.handshake;
        let Ok(Ok(upgraded)) = timeout(deadline, upgrade).await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
            return tracing::error!("an upgraded connection is not the socket it was made from");
        };
        let connection = self.connection();
        let (socket, early) = (parts.io.into_inner(), parts.read_buf);
        tokio::task::spawn_local(async move {
            connection.run(self.shard, socket, early).await;
            drop((seat, load));
        });
    }

    fn connection(&self) -> Rc<Connection> {
        let settings = &self.public.ground.settings;
        let limits = WebSocketLimits {
            message_bytes: settings.limits.message_bytes,
            frame_bytes: settings.limits.frame_bytes,
            ping_interval: settings.timeouts.ping_interval,
            pong: settings.timeouts.pong,
            close: settings.timeouts.close,
        };
        let link = self.shard.link(self.codec, settings.limits.outbox_bytes);
        let session = Session::new(self.public.ground.clone(), self.shard.clone(), link.clone(), self.codec);
        let channel = match &self.endpoint {
            Endpoint::Native => None,
            Endpoint::Raw(channel) => Some(channel.clone()),
        };
        let connection = Connection::new(session, link, self.codec, channel, limits);
        let session = connection.session();
        match &self.endpoint {
            // A browser cannot read a status, so bad credentials are told over the open connection.
            Endpoint::Native if self.token => {
                session.turn_away(None, "this node has no token keys, so it cannot accept a token");
            }
            Endpoint::Native => {}
            Endpoint::Raw(channel) => {
                let request = Subscribe { channel: channel.clone(), since: self.since, presence: false, echo: true };
                session.handle(Envelope { id: Some(0), command: Ok(Command::Subscribe(request)) });
            }
        }
        connection
    }
}
