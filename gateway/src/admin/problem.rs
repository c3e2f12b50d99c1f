//! How the server API says no: RFC 9457 problem details with the code of the one table, or a status of gRPC.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use skywave_proto::ErrorCode;
use tonic::{Status, metadata::MetadataValue};

use crate::session::Refusal;

/// With every error of a gRPC call: the code's word of the one table.
const CODE: &str = "skywave-code";
/// How long to wait before trying again, in milliseconds, where there is something to wait for.
const AFTER_MS: &str = "skywave-after-ms";
/// With `not_replicated`: where the publication stands, as `epoch:offset`.
const POSITION: &str = "skywave-position";

/// A refusal as an HTTP answer.
#[derive(Debug)]
pub(super) struct Problem(pub(super) Refusal, pub(super) StatusCode);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self(refusal, status)
    }
}

impl Problem {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Refusal::new(code, message).into()
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self(self.0, status)
    }
}

/// A refusal as a gRPC status; what it has no words for is in its metadata.
pub(super) fn status(refusal: Refusal) -> Status {
    let mut status = Status::new(refusal.code.grpc_code(), refusal.message);
    let metadata = status.metadata_mut();
    metadata.insert(CODE, MetadataValue::from_static(refusal.code.as_str()));
    if refusal.after_ms > 0 {
        metadata.insert(AFTER_MS, refusal.after_ms.into());
    }
    let position = refusal.position.and_then(|at| at.to_string().parse().ok());
    if let Some(position) = position {
        metadata.insert(POSITION, position);
    }
    status
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(refusal, status) = self;
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": refusal.message,
            "code": refusal.code.as_str(),
            "retry": refusal.code.retry(),
            "after_ms": refusal.after_ms,
        });
        // `not_replicated` says where the publication stands.
        if let Some(at) = refusal.position {
            body["position"] = json!({ "epoch": at.epoch.as_str(), "offset": at.offset });
        }
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        if refusal.after_ms > 0 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(refusal.after_ms.div_ceil(1000)));
        }
        response
    }
}
