//! How the server API says no: RFC 9457 problem details, with the code of the one table.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use skywave_proto::ErrorCode;

use crate::session::Refusal;

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

/// The error object of a reply, the same for clients and back ends.
pub(super) fn error_object(refusal: &Refusal) -> serde_json::Value {
    let mut error = json!({
        "code": refusal.code.as_str(),
        "message": refusal.message,
        "retry": refusal.code.retry(),
        "after_ms": refusal.after_ms,
    });
    add_position(&mut error, refusal);
    error
}

/// `not_replicated` says where the publication stands.
fn add_position(error: &mut serde_json::Value, refusal: &Refusal) {
    if let Some(at) = refusal.position {
        error["position"] = json!({ "epoch": at.epoch.as_str(), "offset": at.offset });
    }
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
        add_position(&mut body, &refusal);
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if refusal.after_ms > 0 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(refusal.after_ms.div_ceil(1000)));
        }
        response
    }
}
