//! HTTP on a public listener: what is served where.

use std::{cell::Cell, convert::Infallible, pin::pin, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, ext::Protocol, rt::Executor, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Notify, time::Instant};

use super::{
    Arrival, Load, Public,
    carrier::Stream,
    content::Content,
    page, poll, publish,
    requests::Requests,
    route::Route,
    sockjs, sse,
    upgrade::{self, Endpoint},
    wire::Wire,
};
use crate::{metrics, session::Refusal, shard::Shard};

/// A request head has at most this many lines (HTTP/1) …
const MAX_HEADERS: usize = 64;
/// … and this many bytes; in HTTP/2 counted as RFC 9113 §6.5.2 does.
const MAX_HEAD: usize = 16 * 1024;
/// Requests and WebSockets that an HTTP/2 connection has open at the same time.
const STREAMS: u32 = 256;
/// Bytes of one HTTP/2 stream that wait for its session: the least that every client starts with.
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
/// The same of a whole connection: as much as all its streams together, so that a session that takes nothing for a while
/// holds up no other one. A connection that carries one WebSocket, as a browser's, holds no more than a stream's.
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
/// Bytes of one HTTP/2 stream that are on their way out beyond what its client has room for.
const SEND_BUFFER: usize = 32 * 1024;

pub(super) type Answer = Response<Content>;

/// What the requests of one HTTP connection share.
pub(super) struct Door {
    pub(super) shard: Rc<Shard>,
    pub(super) public: Arc<Public>,
    pub(super) arrival: Arrival,
    pub(super) load: Rc<Load>,
    pub(super) requests: Rc<Requests>,
    /// Whether its next handshake has had its turn before HTTP began: with that of TLS.
    pub(super) has_queued: Cell<bool>,
    /// Told when the client does not read what is written to it: a connection of HTTP/1 ends then.
    pub(super) cut: Notify,
}

/// Serves a socket on this shard until it ends or becomes a WebSocket, or nothing has been asked on it for
/// `timeouts.handshake`, which is first counted from `since`.
pub(super) fn serve(
    shard: &Rc<Shard>,
    stream: Stream,
    arrival: Arrival,
    since: Instant,
    public: Arc<Public>,
    load: Load,
) {
    let requests = Requests::none_since(since);
    let has_queued = Cell::new(arrival.encrypted);
    let door = Rc::new(Door {
        shard: shard.clone(),
        public,
        arrival,
        load: Rc::new(load),
        requests,
        has_queued,
        cut: Notify::new(),
    });
    tokio::task::spawn_local(async move {
        let socket = match stream.settle() {
            Ok(socket) => socket,
            Err(error) => return tracing::warn!(%error, "a socket could not be taken over"),
        };
        let patience = door.public.ground.settings().timeouts.handshake;
        let opened = tokio::select! {
            opened = Wire::open(socket) => opened,
            () = door.requests.quiet_for(patience) => return tracing::debug!("no request came in time"),
        };
        let served = match opened {
            Ok((wire, true)) => http2(wire, door, patience).await,
            Ok((wire, false)) => http1(wire, door, patience).await,
            Err(error) => return tracing::debug!(%error, "a socket was lost before its request"),
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a request was not served");
        }
    });
}

async fn http1(wire: Wire, door: Rc<Door>, patience: Duration) -> hyper::Result<()> {
    let requests = door.requests.clone();
    let service = service_fn(async |request| Ok::<_, Infallible>(count(request, &door).await));
    let connection = conn::http1::Builder::new()
        .header_read_timeout(None) // `quiet_for` sees to that
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades();
    tokio::select! {
        served = connection => served,
        () = requests.quiet_for(patience) => Ok(()),
        () = door.cut.notified() => Ok(()),
    }
}

async fn http2(wire: Wire, door: Rc<Door>, patience: Duration) -> hyper::Result<()> {
    let (requests, timeouts) = (door.requests.clone(), door.public.ground.settings().timeouts.clone());
    let leaving = door.public.draining();
    // A client that still comes hears why it is not let in.
    let has_left = leaving.is_cancelled();
    let service = service_fn(move |request| {
        let door = door.clone();
        async move { Ok::<_, Infallible>(count(request, &door).await) }
    });
    let connection = conn::http2::Builder::new(OnShard)
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(timeouts.ping_interval)
        .keep_alive_timeout(timeouts.pong)
        .serve_connection(TokioIo::new(wire), service);
    let mut connection = pin!(connection);
    tokio::select! {
        served = connection.as_mut() => return served,
        () = requests.quiet_for(patience) => {}
        // Else a browser would open its next WebSocket over the same connection, to the node that it is to leave.
        () = leaving.cancelled(), if !has_left => {}
    }
    connection.as_mut().graceful_shutdown();
    // What the client asked before it saw that is still answered (RFC 9113 §6.8); a WebSocket opened then stays.
    tokio::select! {
        served = connection.as_mut() => served,
        () = requests.quiet_for(patience + timeouts.close) => Ok(()),
    }
}

/// Runs what HTTP/2 does beside its connection on the same shard.
#[derive(Clone, Copy)]
struct OnShard;

impl<F: Future<Output: 'static> + 'static> Executor<F> for OnShard {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn count(request: Request<Incoming>, door: &Rc<Door>) -> Answer {
    let (open, version) = (door.requests.begin(), request.version());
    let mut answer = answer(request, door).await;
    // Its next request is for another node.
    if door.public.is_draining() && version < Version::HTTP_2 && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    drop(open);
    answer
}

async fn answer(request: Request<Incoming>, door: &Rc<Door>) -> Answer {
    let settings = Arc::clone(&door.public.ground.settings());
    let path = request.uri().path().to_owned();
    if let Some((service, rest)) = sockjs::find(&settings, &path) {
        return sockjs::answer(request, &settings, service, rest, door).await;
    }
    let found = Route::of(&path);
    let endpoint = match found {
        Some((Route::Native, _)) => Some(Ok(Endpoint::Native)),
        Some((Route::Raw, channel)) => Some(Endpoint::raw(channel.unwrap_or_default())),
        Some((Route::Echo, _)) if settings.debug.echo => Some(Ok(Endpoint::Echo)),
        _ => None,
    };
    match endpoint {
        Some(Ok(endpoint)) => return upgrade::answer(request, endpoint, door).await,
        Some(Err(refusal)) => {
            metrics::refused("channel");
            return refused(&refusal);
        }
        None => {}
    }
    if request.extensions().get::<Protocol>().is_some() {
        return page::not_found().map(Into::into); // a WebSocket over HTTP/2 that leads nowhere
    }
    match found {
        Some((Route::Sse, _)) => return sse::answer(request, door).await,
        Some((Route::Poll, _)) => return poll::answer(request, door).await,
        Some((Route::Publish, _)) => return publish::answer(request, door).await,
        _ => {}
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n");
        answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    page::answer(&request, &settings).map(Into::into)
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    page::with_type(status, "text/plain; charset=utf-8", body.into()).map(Into::into)
}

/// A refusal as an answer before the upgrade.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let status = StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut answer = text(status, format!("{}: {}\n", refusal.code, refusal.message));
    if refusal.after_ms > 0 {
        answer.headers_mut().insert(header::RETRY_AFTER, refusal.after_ms.div_ceil(1000).into());
    }
    answer
}
