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
    peers,
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

/// What is served at a path of the internal listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Metrics, for Prometheus. Needs no key.
    Metrics,
    /// Whether the node still turns. Needs no key.
    Livez,
    /// Whether it takes clients. Needs no key.
    Readyz,
    /// The API's description. Needs no key.
    Description,
    /// The API in JSON.
    Json,
    /// The API over gRPC.
    Grpc,
    /// What other nodes ask, who have proven that they are nodes.
    Peer,
    /// gRPC's own way to ask whether the node takes clients. Needs no key.
    Health,
    /// gRPC's own description of the API; as `Description` it needs no key.
    Reflection,
    /// The same in its older version, which some clients still ask for.
    OlderReflection,
}

/// Every path there is. Nothing is served that is not here, so whoever looks whether all of it is closed finds all of it here.
pub const ROUTES: [(&str, Served); 10] = [
    ("/metrics", Served::Metrics),
    ("/livez", Served::Livez),
    ("/readyz", Served::Readyz),
    ("/api/v1/openapi.json", Served::Description),
    ("/api/v1/{method}", Served::Json),
    ("/skywave.v1.Api/{rpc}", Served::Grpc),
    ("/skywave.v1.Node/{rpc}", Served::Peer),
    ("/grpc.health.v1.Health/{rpc}", Served::Health),
    ("/grpc.reflection.v1.ServerReflection/{rpc}", Served::Reflection),
    ("/grpc.reflection.v1alpha.ServerReflection/{rpc}", Served::OlderReflection),
];

/// What is where.
fn routes(internal: &Arc<Internal>) -> Router {
    ROUTES
        .into_iter()
        .fold(Router::new(), |router, (path, served)| serve_at(router, path, served, internal))
        .fallback(not_found)
}

fn serve_at(router: Router, path: &str, served: Served, internal: &Arc<Internal>) -> Router {
    let at = |handler| router.clone().merge(Router::new().route(path, handler).with_state(internal.clone()));
    match served {
        Served::Metrics => at(get(render)),
        Served::Livez => at(get(livez)),
        Served::Readyz => at(get(readyz)),
        Served::Description => at(get(describe).fallback(wrong_method)),
        Served::Json => at(post(api::call_json).fallback(wrong_method)),
        Served::Grpc => {
            let calls = post(api::call_grpc).fallback(wrong_method);
            router.merge(Router::new().route(path, calls).with_state(api::Grpc::new(internal.clone())))
        }
        Served::Peer => {
            let calls = post(peers::call).fallback(wrong_method);
            router.merge(Router::new().route(path, calls).with_state(internal.peers.clone()))
        }
        Served::Health => {
            let health = HealthServer::new(Health(internal.clone())).max_decoding_message_size(PROBE_BYTES);
            router.route_service(path, health)
        }
        Served::Reflection => match description().build_v1() {
            Ok(service) => router.route_service(path, service.max_decoding_message_size(PROBE_BYTES)),
            Err(error) => without_reflection(router, &error),
        },
        Served::OlderReflection => match description().build_v1alpha() {
            Ok(service) => router.route_service(path, service.max_decoding_message_size(PROBE_BYTES)),
            Err(error) => without_reflection(router, &error),
        },
    }
}

/// What the API is, for clients of gRPC that were made without it.
fn description() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure();
    builder.register_encoded_file_descriptor_set(v1::DESCRIPTOR).with_service_name(SERVICE_NAME)
}

/// The schema is part of the program, and a test reads it.
fn without_reflection(router: Router, error: &tonic_reflection::server::Error) -> Router {
    tracing::error!(%error, "no reflection over gRPC");
    router
}

/// Serves until `closed`; with TLS if there is one.
pub async fn serve(listener: TcpListener, internal: Arc<Internal>, tls: Option<Arc<Tls>>, closed: CancellationToken) {
    let patience = internal.ground.settings().timeouts.tls;
    let app = routes(&internal);
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
