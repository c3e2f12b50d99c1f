//! The handshake of a WebSocket: what the request must say and what is answered, over HTTP/1 (RFC 6455 §4.2) and HTTP/2
//! (RFC 8441 §5).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::ext::Protocol;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::protocol::{Codec, SUBPROTOCOLS};

/// Why there is no WebSocket. The answer's body says it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// A plain request where a WebSocket is served.
    #[error("this is a WebSocket endpoint: connect with ws:// or wss://")]
    NoUpgrade,
    /// RFC 6455 §4.2.1: there is no upgrade in HTTP/1.0.
    #[error("a WebSocket needs HTTP/1.1 or HTTP/2")]
    Http,
    /// RFC 6455 §4.1 wants a GET.
    #[error("a WebSocket handshake is a GET request")]
    Method,
    /// RFC 8441 §4: CONNECT for something else.
    #[error("the only :protocol that is spoken here is websocket")]
    Protocol,
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
    /// The status of the answer. There is no upgrade in HTTP/2, so none is required there.
    pub fn status(self, version: Version) -> StatusCode {
        match self {
            Self::NoUpgrade | Self::Version if version < Version::HTTP_2 => StatusCode::UPGRADE_REQUIRED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Protocol => StatusCode::NOT_IMPLEMENTED,
            Self::Http | Self::NoUpgrade | Self::Version | Self::Key | Self::Subprotocol => StatusCode::BAD_REQUEST,
        }
    }

    /// The word in the metric of refused handshakes.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoUpgrade => "no_upgrade",
            Self::Http => "http_version",
            Self::Method => "method",
            Self::Protocol => "protocol",
            Self::Version => "version",
            Self::Key => "key",
            Self::Subprotocol => "subprotocol",
        }
    }
}

/// A handshake that is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handshake {
    /// An upgrade: HTTP ends on this connection.
    Http1 {
        /// The value of `Sec-WebSocket-Accept`.
        accept: String,
    },
    /// An extended CONNECT: this stream carries the WebSocket, the others of the connection go on.
    Http2,
}

impl Handshake {
    /// Checks a request.
    ///
    /// # Errors
    /// [`HandshakeError`] says what is wrong with it.
    pub fn check<B>(request: &Request<B>) -> Result<Self, HandshakeError> {
        match request.extensions().get::<Protocol>() {
            Some(protocol) => check_http2(request, protocol),
            None => check_http1(request),
        }
    }

    /// The answer that opens the WebSocket, with the extensions that were agreed on.
    pub fn answer<B: Default>(
        &self,
        subprotocol: Option<&'static str>,
        extensions: Option<HeaderValue>,
    ) -> Response<B> {
        let mut response = Response::new(B::default());
        match self {
            Self::Http1 { accept } => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                if let Ok(accept) = HeaderValue::from_str(accept) {
                    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                }
            }
            Self::Http2 => *response.status_mut() = StatusCode::OK,
        }
        if let Some(subprotocol) = subprotocol {
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
        if let Some(extensions) = extensions {
            response.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, extensions);
        }
        response
    }
}

fn check_http1<B>(request: &Request<B>) -> Result<Handshake, HandshakeError> {
    let headers = request.headers();
    if request.version() < Version::HTTP_11 {
        return Err(HandshakeError::Http);
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") || !has_token(headers, &header::UPGRADE, "websocket") {
        return Err(HandshakeError::NoUpgrade);
    }
    if request.method() != Method::GET {
        return Err(HandshakeError::Method);
    }
    check_version(headers)?;
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => {
            Ok(Handshake::Http1 { accept: derive_accept_key(key.as_bytes()) })
        }
        _ => Err(HandshakeError::Key),
    }
}

/// Neither upgrade nor key here: the protocol is in the request, and an HTTP/2 stream is not mistaken for anything else.
fn check_http2<B>(request: &Request<B>, protocol: &Protocol) -> Result<Handshake, HandshakeError> {
    if protocol.as_str() != "websocket" {
        return Err(HandshakeError::Protocol);
    }
    check_version(request.headers()).map(|()| Handshake::Http2)
}

fn check_version(headers: &HeaderMap) -> Result<(), HandshakeError> {
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    version.filter(|version| *version == "13").map(|_| ()).ok_or(HandshakeError::Version)
}

/// 24 characters of base64, two of them padding.
fn is_key(key: &[u8]) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
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
        let handshake = Handshake::check(&request(&GOOD)).unwrap();
        assert_eq!(handshake, Handshake::Http1 { accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into() }); // RFC 6455 §1.3
        let answer = handshake.answer::<()>(Some("skywave.v1.json"), None);
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "skywave.v1.json");
    }

    #[test]
    fn says_what_is_wrong() {
        let without = |name| request(&GOOD.into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>());
        let with = |name, value| request(&GOOD.map(|(n, v)| (n, if n == name { value } else { v })));
        let check = |request| Handshake::check(&request).unwrap_err();
        assert_eq!(check(without("Connection")), HandshakeError::NoUpgrade);
        assert_eq!(check(with("Upgrade", "h2c")), HandshakeError::NoUpgrade);
        assert_eq!(check(with("Sec-WebSocket-Version", "8")), HandshakeError::Version);
        assert_eq!(check(with("Sec-WebSocket-Key", "short")), HandshakeError::Key);
        let mut post = request(&GOOD);
        *post.method_mut() = Method::POST;
        assert_eq!(check(post), HandshakeError::Method);
    }

    #[test]
    fn http2_has_no_upgrade_and_no_key() {
        let connect = |protocol: &'static str, lines: &[(&str, &str)]| {
            let mut connect = request(lines);
            *connect.method_mut() = Method::CONNECT;
            *connect.version_mut() = Version::HTTP_2;
            connect.extensions_mut().insert(Protocol::from_static(protocol));
            Handshake::check(&connect)
        };
        let version = [("Sec-WebSocket-Version", "13")];
        assert_eq!(connect("websocket", &version), Ok(Handshake::Http2));
        assert_eq!(connect("websocket", &[]), Err(HandshakeError::Version));
        assert_eq!(connect("connect-udp", &version), Err(HandshakeError::Protocol));
        let answer = Handshake::Http2.answer::<()>(None, None);
        assert!(answer.status() == 200 && answer.headers().is_empty());
        assert_eq!(HandshakeError::Version.status(Version::HTTP_2), 400);
        assert_eq!(HandshakeError::Version.status(Version::HTTP_11), 426);
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
