//! The HTTP upgrade to a WebSocket: what the request must say (RFC 6455 §4.2.1) and what is answered (§4.2.2).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::protocol::{Codec, SUBPROTOCOLS};

/// Why there is no upgrade. The answer's body says it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// A plain request where a WebSocket is served.
    #[error("this is a WebSocket endpoint: connect with ws:// or wss://")]
    NoUpgrade,
    /// RFC 6455 §4.1 wants a GET.
    #[error("a WebSocket handshake is a GET request")]
    Method,
    /// RFC 6455 §4.4: the answer names the version that is spoken here.
    #[error("only WebSocket version 13 is spoken here")]
    Version,
    /// RFC 6455 §4.1: 16 bytes in base64.
    #[error("Sec-WebSocket-Key is missing or is not 16 bytes in base64")]
    Key,
    /// None of the offered subprotocols is spoken here.
    #[error("none of the offered subprotocols is spoken here; offer one of {}, or none at all", spoken())]
    Subprotocol,
}

impl HandshakeError {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Key | Self::Subprotocol => StatusCode::BAD_REQUEST,
        }
    }

    /// The word in the metric of refused handshakes.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoUpgrade => "no_upgrade",
            Self::Method => "method",
            Self::Version => "version",
            Self::Key => "key",
            Self::Subprotocol => "subprotocol",
        }
    }
}

/// Checks a handshake and returns the value of `Sec-WebSocket-Accept`.
///
/// # Errors
/// [`HandshakeError`] says what is wrong with it.
pub fn accept<B>(request: &Request<B>) -> Result<String, HandshakeError> {
    let headers = request.headers();
    if !has_token(headers, &header::CONNECTION, "upgrade") || !has_token(headers, &header::UPGRADE, "websocket") {
        return Err(HandshakeError::NoUpgrade);
    }
    if request.method() != Method::GET {
        return Err(HandshakeError::Method);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::Version);
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(HandshakeError::Key),
    }
}

/// 24 characters of base64, two of them padding.
fn is_key(key: &[u8]) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// The answer that ends HTTP on this connection.
pub fn switching<B: Default>(
    accept: &str,
    subprotocol: Option<&'static str>,
    extensions: Option<HeaderValue>,
) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(subprotocol) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    if let Some(extensions) = extensions {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, extensions);
    }
    response
}

/// Chooses the client's protocol: the best that it offers, the first of ours if it offers none.
///
/// # Errors
/// [`HandshakeError::Subprotocol`] if it offers only others.
pub fn subprotocol(headers: &HeaderMap) -> Result<(&'static dyn Codec, Option<&'static str>), HandshakeError> {
    let offered: Vec<_> = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        return Ok((SUBPROTOCOLS[0].1, None));
    }
    let chosen = SUBPROTOCOLS.into_iter().find(|(name, _)| offered.contains(name));
    chosen.map(|(name, codec)| (codec, Some(name))).ok_or(HandshakeError::Subprotocol)
}

fn spoken() -> String {
    SUBPROTOCOLS.map(|(name, _)| name).join(", ")
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::get("/ws");
        for (name, value) in lines {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    const GOOD: [(&str, &str); 4] = [
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "WebSocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn answers_the_key_of_the_rfc() {
        assert_eq!(accept(&request(&GOOD)).as_deref(), Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")); // RFC 6455 §1.3
    }

    #[test]
    fn says_what_is_wrong() {
        let without = |name| request(&GOOD.into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>());
        let with = |name, value| request(&GOOD.map(|(n, v)| (n, if n == name { value } else { v })));
        assert_eq!(accept(&without("Connection")), Err(HandshakeError::NoUpgrade));
        assert_eq!(accept(&with("Upgrade", "h2c")), Err(HandshakeError::NoUpgrade));
        assert_eq!(accept(&with("Sec-WebSocket-Version", "8")), Err(HandshakeError::Version));
        assert_eq!(accept(&with("Sec-WebSocket-Key", "short")), Err(HandshakeError::Key));
        let mut post = request(&GOOD);
        *post.method_mut() = Method::POST;
        assert_eq!(accept(&post), Err(HandshakeError::Method));
    }

    #[test]
    fn speaks_what_is_offered_or_says_no() {
        let offer = |offer| {
            let chosen = subprotocol(request(&[("Sec-WebSocket-Protocol", offer)]).headers());
            chosen.map(|(_, name)| name)
        };
        assert_eq!(offer("other, skywave.v1.json"), Ok(Some("skywave.v1.json")));
        assert_eq!(offer("skywave.v1.protobuf"), Ok(Some("skywave.v1.protobuf")));
        assert_eq!(offer("other"), Err(HandshakeError::Subprotocol));
        let why = HandshakeError::Subprotocol.to_string();
        assert!(SUBPROTOCOLS.iter().all(|(name, _)| why.contains(name)), "{why}");
        assert!(matches!(subprotocol(&HeaderMap::new()), Ok((_, None))));
    }
}
