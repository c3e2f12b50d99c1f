//! A refusal as an answer of HTTP: problem details (RFC 9457), with the code of the one table.

use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::{http::Answer, page};
use crate::session::Refusal;

/// The answer to a request of a client that may not, cannot, or not now.
pub(super) fn problem(refusal: &Refusal) -> Answer {
    let status = StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::FORBIDDEN);
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
    let mut answer = page::with_type(status, "application/problem+json", body.to_string().into()).map(Into::into);
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if refusal.after_ms > 0 {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(refusal.after_ms.div_ceil(1000)));
    }
    answer
}
