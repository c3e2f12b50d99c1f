//! What the internal listener serves.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{StatusCode, header};
use metrics_exporter_prometheus::PrometheusHandle;
use skywave_proto::{
    ErrorCode,
    v1::{self, api_server::SERVICE_NAME},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_health::pb::health_server::HealthServer;

use super::{Internal, api, connection, health::Health, openapi, problem::Problem};
use crate::{
    tls::Tls,
    transport::{self, Arrival},
};

/// What is spoken on an internal listener with TLS, the preferred first (ALPN).
pub const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// A shard that has not come round for so long has stopped turning; it turns once a second at least.
const STOPPED_AFTER_MS: u64 = 10_000;
/// The largest message of a probe or a question about the schema, in bytes.
const PROBE_BYTES: usize = 16 * 1024;
/// After an accept that failed for want of something.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What is where.
fn routes(internal: Arc<Internal>) -> Router {
    let grpc = Router::new()
        .route("/skywave.v1.Api/{rpc}", post(api::call_grpc).fallback(wrong_method))
        .with_state(api::Grpc::new(internal.clone()));
    let health = HealthServer::new(Health(internal.clone())).max_decoding_message_size(PROBE_BYTES);
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/api/v1/openapi.json", get(describe).fallback(wrong_method))
        .route("/api/v1/{method}", post(api::call_json).fallback(wrong_method))
        .with_state(internal)
        .merge(grpc)
        .route_service("/grpc.health.v1.Health/{rpc}", health);
    reflect(router).fallback(not_found)
}

/// What the API is, for clients of gRPC that were made without it: as `/api/v1/openapi.json` it needs no key.
fn reflect(router: Router) -> Router {
    let builder =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(v1::DESCRIPTOR);
    let built = builder().with_service_name(SERVICE_NAME).build_v1().and_then(|new| {
        let old = builder().with_service_name(SERVICE_NAME).build_v1alpha()?;
        Ok((new.max_decoding_message_size(PROBE_BYTES), old.max_decoding_message_size(PROBE_BYTES)))
    });
    match built {
        Ok((new, old)) => router
            .route_service("/grpc.reflection.v1.ServerReflection/{rpc}", new)
            .route_service("/grpc.reflection.v1alpha.ServerReflection/{rpc}", old),
        Err(error) => {
            // The schema is part of the program, and a test reads it.
            tracing::error!(%error, "no reflection over gRPC");
            router
        }
    }
}

/// Serves until `closed`; with TLS if there is one.
pub async fn serve(listener: TcpListener, internal: Arc<Internal>, tls: Option<Arc<Tls>>, closed: CancellationToken) {
    let patience = internal.ground.settings().timeouts.tls;
    let app = routes(internal);
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
        let app = app.clone();
        let (closed, tls) = (closed.clone(), tls.clone());
        tokio::spawn(async move {
            let connection = async {
                match tls {
                    None => connection::serve(socket, app, arrival).await,
                    Some(tls) => match transport::encrypt(socket, &tls, patience, std::future::ready(Ok(()))).await {
                        Ok(stream) => connection::serve(stream, app, arrival).await,
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

async fn readyz(State(internal): State<Arc<Internal>>) -> (StatusCode, String) {
    match internal.not_ready() {
        None => (StatusCode::OK, "ok\n".into()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn describe() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document())
}

async fn wrong_method() -> Problem {
    Problem::new(ErrorCode::BadRequest, "methods of the server API are called with POST")
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
}

async fn not_found(request: Request) -> Response {
    if api::is_grpc(&request) {
        return Status::unimplemented("here are skywave.v1.Api, grpc.health.v1.Health and reflection").into_http();
    }
    Problem::new(ErrorCode::NotFound, "here are /api/v1/{method}, /api/v1/openapi.json, /metrics, /livez and /readyz")
        .into_response()
}
