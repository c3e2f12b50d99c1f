//! Who may use the server API.
//!
//! A key opens it. Without one it is open in development mode only, to programs on this machine, and never to a web
//! page: a browser lets any page send requests to localhost, so whatever only a page of somebody else's would say
//! closes the door.

use http::{HeaderMap, HeaderName, Request, header};
use sha2::{Digest as _, Sha256};
use skywave_proto::ErrorCode;
use subtle::ConstantTimeEq as _;

use crate::{
    config::{Scope, Settings},
    session::Refusal,
    transport::{
        Arrival,
        origin::{self, is_loopback_name},
    },
};

/// What a proxy adds, who speaks for others.
const FORWARDING: [HeaderName; 6] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// Who asks.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// A program on this machine, in development mode: it may do everything.
    Development,
    /// Whoever has the key of this name.
    Key(String, Vec<Scope>),
}

impl Caller {
    /// Whether the caller may use this part of the API.
    ///
    /// # Errors
    /// `permission_denied`, with the scope that the key lacks.
    pub(super) fn may(&self, scope: Scope) -> Result<(), Refusal> {
        match self {
            Self::Key(name, scopes) if !scopes.contains(&scope) => {
                let message = format!("the key {name:?} lacks the scope {}", scope_name(scope));
                Err(Refusal::new(ErrorCode::PermissionDenied, message))
            }
            Self::Key(..) | Self::Development => Ok(()),
        }
    }

    /// The name under which its idempotency keys are kept.
    pub(super) fn publisher(&self) -> String {
        match self {
            Self::Development => "development".to_owned(),
            Self::Key(name, _) => format!("key:{name}"),
        }
    }
}

/// Decides who asks.
///
/// # Errors
/// `unauthenticated` without a key or with a wrong one, `permission_denied` for what might be a web page.
pub(super) fn admit<B>(settings: &Settings, request: &Request<B>, arrival: Arrival) -> Result<Caller, Refusal> {
    let headers = request.headers();
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        if settings.development() {
            let authority = request.uri().authority().map(|authority| authority.as_str());
            return may_do_without_key(headers, authority, arrival).map(|()| Caller::Development);
        }
        let message = if settings.api.keys.is_empty() {
            "the server API is closed: no key is configured, add one to api.keys"
        } else {
            "send a key of api.keys as Authorization: Bearer KEY"
        };
        return Err(Refusal::new(ErrorCode::Unauthenticated, message));
    };
    let given = authorization.as_bytes();
    let given = match given.split_at_checked(7) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
        _ => return Err(Refusal::new(ErrorCode::Unauthenticated, "Authorization is not Bearer KEY")),
    };
    // All keys are compared, whole and hashed: time tells neither which one nor how much of it was right.
    let given = Sha256::digest(given);
    let mut found = None;
    for key in &settings.api.keys {
        if bool::from(Sha256::digest(key.key.reveal().as_bytes()).ct_eq(&given)) {
            found = Some(key);
        }
    }
    found
        .map(|key| Caller::Key(key.name.clone(), key.scopes.clone()))
        .ok_or_else(|| Refusal::new(ErrorCode::Unauthenticated, "this key is not one of api.keys"))
}

/// As it is configured.
pub(super) fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Publish => "publish",
        Scope::Read => "read",
        Scope::Control => "control",
    }
}

/// `authority`: where the request says it goes to, beside `Host` or, in HTTP/2, instead of it.
fn may_do_without_key(headers: &HeaderMap, authority: Option<&str>, arrival: Arrival) -> Result<(), Refusal> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(&header::HOST).or(authority).unwrap_or_default();
    let origin = text(&header::ORIGIN);
    let site = text(&HeaderName::from_static("sec-fetch-site"));
    let content_type = text(&header::CONTENT_TYPE).map(|kind| kind.split(';').next().unwrap_or_default().trim());
    let refused = if !arrival.local.ip().is_loopback() || !arrival.peer.ip().is_loopback() {
        "without a key only programs on this machine may use the server API"
    } else if !is_loopback_name(host) || authority.is_some_and(|authority| authority != host) {
        "without a key the Host must be localhost, 127.0.0.1 or [::1]"
    } else if origin.is_some_and(|origin| origin::authority(origin) != Some(host)) {
        "without a key no web page of another origin may use the server API"
    } else if site.is_some_and(|site| !matches!(site, "none" | "same-origin")) {
        "without a key no web page of another site may use the server API"
    } else if FORWARDING.iter().any(|name| headers.contains_key(name)) {
        "without a key no proxy may use the server API"
    } else if !matches!(content_type, Some("application/json" | "application/grpc" | "application/grpc+proto")) {
        "without a key a body must be application/json"
    } else {
        return Ok(());
    };
    Err(Refusal::new(ErrorCode::PermissionDenied, refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyless(lines: &[(&str, &str)], peer: &str) -> bool {
        keyless_at(None, lines, peer)
    }

    fn keyless_at(authority: Option<&str>, lines: &[(&str, &str)], peer: &str) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let arrival = Arrival::new("127.0.0.1:8001".parse().unwrap(), peer.parse().unwrap(), false);
        may_do_without_key(&headers, authority, arrival).is_ok()
    }

    #[test]
    fn programs_on_this_machine_need_no_key_in_development() {
        let here = "127.0.0.1:5000";
        assert!(keyless(&[("host", "127.0.0.1:8001"), ("content-type", "application/json")], here));
        let grpc = [("content-type", "application/grpc")];
        assert!(keyless_at(Some("localhost:8001"), &grpc, here), "HTTP/2");
        let json = ("content-type", "application/json; charset=utf-8");
        assert!(keyless(&[json, ("host", "localhost:8001")], here));
        assert!(keyless(&[json, ("host", "[::1]:8001"), ("sec-fetch-site", "none")], here));
        assert!(keyless(&[json, ("host", "localhost:8001"), ("origin", "http://localhost:8001")], here));
    }

    #[test]
    fn web_pages_of_others_and_proxies_do() {
        let here = "127.0.0.1:5000";
        let (host, json) = (("host", "localhost:8001"), ("content-type", "application/json"));
        assert!(!keyless(&[host, json], "192.168.1.5:5000"));
        assert!(!keyless(&[("host", "evil.example:8001"), json], here), "DNS rebinding");
        assert!(!keyless(&[json], here));
        assert!(!keyless_at(Some("evil.example:8001"), &[json], here), "DNS rebinding over HTTP/2");
        assert!(!keyless_at(Some("evil.example:8001"), &[json, host], here), "two answers to one question");
        assert!(!keyless(&[host], here), "a page can send a body without a type");
        assert!(!keyless(&[host, json, ("origin", "http://evil.example")], here));
        assert!(!keyless(&[host, json, ("origin", "http://localhost:8000")], here), "the public listener's pages");
        assert!(!keyless(&[host, json, ("origin", "null")], here));
        assert!(!keyless(&[host, json, ("sec-fetch-site", "cross-site")], here));
        assert!(!keyless(&[host, json, ("sec-fetch-site", "same-site")], here));
        assert!(!keyless(&[host, json, ("x-forwarded-for", "10.0.0.1")], here));
        assert!(!keyless(&[host, ("content-type", "text/plain")], here), "needs no CORS preflight");
        assert!(!keyless(&[host, ("content-type", "application/x-www-form-urlencoded")], here));
    }
}
