//! What the internal listener serves.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::State,
    response::IntoResponse,
    routing::{get, post},
};
use http::{StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use skywave_backplane::BackplaneState;
use skywave_proto::ErrorCode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;

use super::{Internal, api, problem::Problem};
use crate::{
    tls::Tls,
    transport::{self, Arrival},
};

/// What is spoken on an internal listener with TLS (ALPN).
pub const PROTOCOLS: [&str; 1] = ["http/1.1"];

/// A shard that has not come round for so long has stopped turning; it turns once a second at least.
const STOPPED_AFTER_MS: u64 = 10_000;
/// How long a request head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// After an accept that failed for want of something.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Serves until `closed`; with TLS if there is one.
pub async fn serve(listener: TcpListener, internal: Arc<Internal>, tls: Option<Arc<Tls>>, closed: CancellationToken) {
    let patience = internal.ground.settings().timeouts.tls;
    let app = Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/api/v1/{method}", post(api::call).fallback(wrong_method))
        .fallback(not_found)
        .with_state(internal);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return,
        };
        let arrival = accepted.and_then(|(socket, peer)| {
            socket.set_nodelay(true)?;
            Ok((Arrival::new(socket.local_addr()?, peer, tls.is_some()), socket))
        });
        let (arrival, socket) = match arrival {
            Ok(arrival) => arrival,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections on the internal listener, waiting");
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(app.clone().layer(Extension(arrival)));
        let (closed, tls) = (closed.clone(), tls.clone());
        tokio::spawn(async move {
            let connection = async {
                match tls {
                    None => serve_one(socket, service).await,
                    Some(tls) => match transport::encrypt(socket, &tls, patience, std::future::ready(Ok(()))).await {
                        Ok(stream) => serve_one(stream, service).await,
                        Err(error) => {
                            tracing::debug!(address = %arrival.client, %error, "no TLS handshake on the internal listener");
                        }
                    },
                }
            };
            tokio::select! {
                () = connection => {}
                () = closed.cancelled() => {}
            }
        });
    }
}

async fn serve_one<S: AsyncRead + AsyncWrite + Unpin>(socket: S, service: TowerToHyperService<Router>) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service)
        .await;
    drop(served); // an error here is the other end's
}

async fn render(State(internal): State<Arc<Internal>>) -> impl IntoResponse {
    let text = internal.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn livez(State(internal): State<Arc<Internal>>) -> (StatusCode, String) {
    match internal.ground.shards.iter().find(|shard| shard.idle_ms() > STOPPED_AFTER_MS) {
        None => (StatusCode::OK, "ok\n".into()),
        Some(shard) => (StatusCode::SERVICE_UNAVAILABLE, format!("shard {} has stopped turning\n", shard.index())),
    }
}

/// Red during start and drain and while the node has too much to do, never because a backplane that was there is away: that must not empty the service.
async fn readyz(State(internal): State<Arc<Internal>>) -> (StatusCode, &'static str) {
    if internal.public.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if internal.relay.state() == BackplaneState::Never || !internal.public.is_ready() {
        (StatusCode::SERVICE_UNAVAILABLE, "the backplane has not been reached yet\n")
    } else if let Some(what) = internal.public.overload() {
        (StatusCode::SERVICE_UNAVAILABLE, what)
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn wrong_method() -> Problem {
    Problem::new(ErrorCode::BadRequest, "methods of the server API are called with POST")
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
}

async fn not_found() -> Result<Infallible, Problem> {
    Err(Problem::new(ErrorCode::NotFound, "here are /api/v1/{method}, /metrics, /livez and /readyz"))
}
