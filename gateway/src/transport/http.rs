//! HTTP on a public listener: what is served where.

use std::{convert::Infallible, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::{
    Arrival, Load, Public, page,
    upgrade::{self, Endpoint},
};
use crate::{metrics, session::Refusal, shard::Shard};

/// A request head has at most this many lines …
const MAX_HEADERS: usize = 64;
/// … and this many bytes.
const MAX_HEAD: usize = 16 * 1024;

pub(super) type Answer = Response<Full<Bytes>>;

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
        let service =
            service_fn(async |request| Ok::<_, Infallible>(answer(request, &shard, arrival, &public, &load).await));
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

async fn answer(
    request: Request<Incoming>,
    shard: &Rc<Shard>,
    arrival: Arrival,
    public: &Arc<Public>,
    load: &Rc<Load>,
) -> Answer {
    match Endpoint::at(request.uri().path(), public.ground.settings.debug.echo) {
        Some(Ok(endpoint)) => return upgrade::answer(request, endpoint, shard, arrival, public, load).await,
        Some(Err(refusal)) => {
            metrics::refused("channel");
            return refused(&refusal);
        }
        None => {}
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n");
        answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    page::answer(&request, &public.ground.settings)
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    page::with_type(status, "text/plain; charset=utf-8", body.into())
}

/// A refusal as an answer before the upgrade.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let status = StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::FORBIDDEN);
    text(status, format!("{}: {}\n", refusal.code, refusal.message))
}
