//! One WebSocket to a node, or why there is none.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{self, client::IntoClientRequest as _},
};

use crate::builder::Builder;

/// The subprotocol that we speak.
const SUBPROTOCOL: &str = "skywave.v1.protobuf";
/// How long a connection may take: TCP, TLS and the handshake.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct NoConnection {
    pub(crate) words: String,
    /// What the node said about when to come back.
    pub(crate) after: Option<Duration>,
    /// Whoever is there is no node, or never lets us in: there is no sense in trying again at the start.
    pub(crate) is_hopeless: bool,
}

impl NoConnection {
    pub(crate) fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), after: None, is_hopeless: false }
    }
}

/// Opens a WebSocket to the address of this number, counted round.
pub(crate) async fn open(builder: &Builder, number: usize) -> Result<Socket, NoConnection> {
    let address = &builder.addresses[number % builder.addresses.len()];
    let mut request = address.as_str().into_client_request().map_err(|error| NoConnection::new(error.to_string()))?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let opening = connect_async_tls_with_config(request, None, true, builder.connector());
    match timeout(OPEN_WITHIN, opening).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(tungstenite::Error::Http(response))) => Err(refused(&response)),
        Ok(Err(error)) => Err(NoConnection::new(format!("{address}: {error}"))),
        Err(_) => Err(NoConnection::new(format!("{address}: nothing within {} s", OPEN_WITHIN.as_secs()))),
    }
}

fn refused(response: &http::Response<Option<Vec<u8>>>) -> NoConnection {
    let status = response.status();
    let said = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let said: String = said.chars().filter(|char| !char.is_control()).take(200).collect();
    let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    // Everybody is told the same number of seconds: they are not to come back in the same moment.
    let after = after.map(|seconds: u32| Duration::from_secs(seconds.into()).mul_f64(rand::random_range(1.0..1.5)));
    let is_for_now = matches!(status, StatusCode::TOO_MANY_REQUESTS) || status.is_server_error();
    NoConnection {
        words: format!("the handshake was answered with HTTP {status} {said}"),
        after,
        is_hopeless: !is_for_now,
    }
}
