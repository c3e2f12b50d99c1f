//! One client of a node: connects, subscribes, and reads what comes. Speaks `skywave.v1.json` and nothing else.
//!
//! It never reconnects by itself: in a load test a connection that ends is a result.

use std::{
    borrow::Cow,
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use http::{StatusCode, Uri, header};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message, Utf8Bytes,
        client::IntoClientRequest as _,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// The subprotocol that we offer.
pub const SUBPROTOCOL: &str = "skywave.v1.json";

/// tungstenite zero-fills this much before every read, also before one that finds nothing: its default of 128 KiB costs
/// 5x the CPU and 20x the memory.
const READ_BUFFER: usize = 4096;
/// How long one client may take until it is connected, retries included.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a reply may take.
const REPLY: Duration = Duration::from_secs(10);
/// Pause before a node that refused a handshake for now is asked again, when it does not say.
const AGAIN: Duration = Duration::from_millis(250);

/// Where clients connect to: parsed and resolved once.
#[derive(Debug, Clone)]
pub struct Target {
    url: String,
    addresses: Vec<SocketAddr>,
}

/// Why an URL is none that we can use. The user's mistake.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not `ws://host[:port]/path`.
    #[error("{url} is not a WebSocket URL: write ws://host:port/ws")]
    Syntax {
        /// What was given.
        url: String,
    },
    /// TLS is not built in.
    #[error("{url}: loadtest does not speak TLS; use ws:// and the port of a plain listener")]
    Tls {
        /// What was given.
        url: String,
    },
    /// No such host.
    #[error("cannot find the host of {url}")]
    Resolve {
        /// What was given.
        url: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
}

impl Target {
    /// Parses a URL and resolves its host.
    ///
    /// # Errors
    /// [`TargetError`], each telling what to write instead.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let syntax = || TargetError::Syntax { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| syntax())?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => return Err(TargetError::Tls { url: url.to_owned() }),
            _ => return Err(syntax()),
        }
        let host = uri.host().ok_or_else(syntax)?.trim_start_matches('[').trim_end_matches(']');
        let addresses = (host, uri.port_u16().unwrap_or(80))
            .to_socket_addrs()
            .map_err(|source| TargetError::Resolve { url: url.to_owned(), source })?
            .collect();
        Ok(Self { url: url.to_owned(), addresses })
    }

    /// As it was written.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What its host stands for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Why a client is not, or no longer, what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No TCP connection.
    #[error("no connection")]
    Tcp(#[source] io::Error),
    /// TCP, but no WebSocket.
    #[error("the WebSocket handshake failed")]
    Handshake(#[source] Box<tungstenite::Error>),
    /// Answered with HTTP instead of an upgrade.
    #[error("the node answered the handshake with HTTP {status}{}", said(.body))]
    Status {
        /// Its status.
        status: StatusCode,
        /// What it said, shortened.
        body: String,
    },
    /// The node said no.
    #[error("{0}")]
    Refused(ErrorReply),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Ended(String),
    /// No answer.
    #[error("no answer to {what} within {} s", .within.as_secs())]
    Silent {
        /// To what.
        what: &'static str,
        /// How long we waited.
        within: Duration,
    },
}

fn said(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body}") }
}

impl ClientError {
    /// What whoever runs the test can do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Tcp(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "nothing listens there: start a node with `skywave`, or correct --url"
            }
            Self::Tcp(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                "no local port is left: connect to several --url with different addresses, or wait a minute"
            }
            Self::Tcp(_) => "check that the address is reachable, and the limit of open files on both ends",
            Self::Handshake(_) => "check that a Skywave node listens there and not something else",
            Self::Status { status, .. } => match status.as_u16() {
                404 => "the path is wrong: a node answers on /ws",
                401 | 403 => "the node wants a token (--token), or does not take this host name",
                429 | 503 => {
                    "the node refuses connections for now: lower --connecting, or raise its limits.handshakes_per_second"
                }
                _ => "check that a Skywave node listens there and not something else",
            },
            Self::Refused(reply) => reply.advice(),
            Self::Ended(_) => "look into the node's log: it closed, or died",
            Self::Silent { .. } => "the node is overloaded or its backplane is away: see its /readyz and log",
        }
    }

    fn is_for_now(&self) -> bool {
        matches!(self, Self::Status { status, .. }
            if matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE))
    }
}

/// One object from the node. Of all that can be in it, what a load test looks at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Incoming<'a> {
    /// The command that this answers.
    pub id: Option<u64>,
    /// A publication.
    #[serde(borrow)]
    pub publication: Option<Publication<'a>>,
    /// The answer to connect.
    pub connected: Option<IgnoredAny>,
    /// The answer to subscribe.
    #[serde(borrow)]
    pub subscribed: Option<Subscribed<'a>>,
    /// The answer to publish.
    pub published: Option<IgnoredAny>,
    /// A command was refused.
    pub error: Option<ErrorReply>,
    /// A subscription ended unasked.
    pub unsubscribed: Option<Reason>,
    /// Publications are missing, and the node says so.
    pub gap: Option<Gap>,
    /// The connection is about to end.
    pub disconnect: Option<Disconnect>,
}

/// A publication as it arrives. Borrows from the frame; the payload is not looked into.
#[derive(Debug, Deserialize)]
pub struct Publication<'a> {
    /// The channel.
    #[serde(borrow)]
    pub channel: Cow<'a, str>,
    /// Its place; none on a live-only channel.
    #[serde(default)]
    pub offset: Option<u64>,
    /// The line of offsets, as JSON text: it is only compared.
    #[serde(borrow, default)]
    pub epoch: Option<&'a RawValue>,
    /// The payload, as JSON text.
    #[serde(borrow, default)]
    pub data: Option<&'a RawValue>,
}

/// A subscription began.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Subscribed<'a> {
    /// Everything after this comes; none on a live-only channel.
    #[serde(borrow)]
    pub position: Option<Position<'a>>,
}

/// A place on a line of offsets.
#[derive(Debug, Deserialize)]
pub struct Position<'a> {
    /// The line, as JSON text.
    #[serde(borrow)]
    pub epoch: &'a RawValue,
    /// The place.
    #[serde(default)]
    pub offset: u64,
}

/// Why something ended.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reason {
    /// In the node's words.
    pub reason: String,
}

/// The node says that it left publications out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Gap {
    /// Why.
    pub reason: String,
}

/// The node says why it is about to close.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Disconnect {
    /// The close code.
    pub code: u16,
    /// In the node's words.
    pub reason: String,
}

/// The node refuses a command.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ErrorReply {
    /// One of the table.
    pub code: String,
    /// In the node's words.
    pub message: String,
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl ErrorReply {
    /// What whoever runs the test can do about this code.
    pub fn advice(&self) -> &'static str {
        match self.code.as_str() {
            "permission_denied" => {
                "grant it: --token with the channel in `subscribe` and `publish`, or run the node with --dev, \
                 or set subscribe = \"anyone\" and publish = \"subscribers\" on the namespace"
            }
            "unauthenticated" => "give a valid --token, or allow anonymous clients (auth.anonymous = true)",
            "unknown_namespace" => "choose --channel in a namespace that the node has configured, or run it with --dev",
            "limit" => {
                "spread the load with more --publishers or a lower --rate, or raise the node's \
                 limits.publications_per_second and limits.commands_per_second"
            }
            "too_large" => "lower --size, or raise the node's limits.publication_bytes",
            "unavailable" | "not_replicated" | "unknown_outcome" => "the backplane is away or slow: see the node's log",
            "bad_request" => {
                "node and loadtest do not speak the same version of the protocol: build both from one source"
            }
            _ => "see the node's log",
        }
    }
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    next_id: u64,
    early: Vec<String>,
    retries: u64,
}

impl Client {
    /// Opens a connection and introduces itself.
    ///
    /// A node that refuses the handshake for now (HTTP 429 or 503) is asked again for up to 30 s.
    ///
    /// # Errors
    /// [`ClientError`]; its advice says what to do.
    pub async fn connect(target: &Target, token: Option<&str>) -> Result<Self, ClientError> {
        let deadline = Instant::now() + PATIENCE;
        let mut retries = 0;
        let socket = loop {
            let opened = timeout_at(deadline, open(target))
                .await
                .unwrap_or(Err(ClientError::Silent { what: "the handshake", within: PATIENCE }));
            match opened {
                Err(error) if error.is_for_now() && Instant::now() + AGAIN < deadline => {
                    retries += 1;
                    sleep(AGAIN).await;
                }
                opened => break opened?,
            }
        };
        let mut client = Self { socket, next_id: 1, early: Vec::new(), retries };
        let connect = match token {
            Some(token) => serde_json::json!({ "token": token }),
            None => serde_json::json!({}),
        };
        client.ask("connect", &connect, |incoming| incoming.connected.is_some().then_some(())).await?;
        Ok(client)
    }

    /// Subscribes to a channel. Returns the position that live begins after: epoch (as JSON text) and offset.
    ///
    /// # Errors
    /// The node refuses, is silent, or the connection ends.
    pub async fn subscribe(&mut self, channel: &str) -> Result<Option<(String, u64)>, ClientError> {
        let position = |incoming: &Incoming<'_>| {
            let subscribed = incoming.subscribed.as_ref()?;
            Some(subscribed.position.as_ref().map(|position| (position.epoch.get().to_owned(), position.offset)))
        };
        self.ask("subscribe", &serde_json::json!({ "channel": channel }), position).await
    }

    /// The socket, the next command id, and what came before anybody looked.
    pub fn into_parts(self) -> (WebSocketStream<TcpStream>, u64, Vec<String>) {
        (self.socket, self.next_id, self.early)
    }

    /// How often the node refused the handshake for now.
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Sends a command and reads until its reply; whatever else comes is kept in `early`.
    async fn ask<T>(
        &mut self,
        what: &'static str,
        arguments: &serde_json::Value,
        mut reply: impl FnMut(&Incoming<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let command = serde_json::json!({ "id": id, what: arguments }).to_string();
        let deadline = Instant::now() + REPLY;
        self.socket.send(Message::text(command)).await.map_err(|error| ClientError::Ended(error.to_string()))?;
        loop {
            let frame = timeout_at(deadline, next_text(&mut self.socket))
                .await
                .map_err(|_| ClientError::Silent { what, within: REPLY })?
                .map_err(ClientError::Ended)?;
            let mut answer = None;
            for line in lines(&frame) {
                match serde_json::from_str::<Incoming<'_>>(line) {
                    Ok(Incoming { error: Some(error), .. }) => return Err(ClientError::Refused(error)),
                    Ok(Incoming { disconnect: Some(told), .. }) => return Err(ClientError::Ended(told.to_string())),
                    Ok(incoming) if answer.is_none() => match reply(&incoming) {
                        Some(found) => answer = Some(found),
                        None => self.early.push(line.to_owned()),
                    },
                    _ => self.early.push(line.to_owned()),
                }
            }
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.reason)
    }
}

/// The objects in a frame.
pub fn lines(frame: &str) -> impl Iterator<Item = &str> {
    frame.split('\n').filter(|line| !line.is_empty())
}

async fn open(target: &Target) -> Result<WebSocketStream<TcpStream>, ClientError> {
    let stream = TcpStream::connect(target.addresses()).await.map_err(ClientError::Tcp)?;
    stream.set_nodelay(true).map_err(ClientError::Tcp)?;
    let handshake = |error| ClientError::Handshake(Box::new(error));
    let mut request = target.url().into_client_request().map_err(handshake)?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(SUBPROTOCOL));
    let settings = WebSocketConfig::default().read_buffer_size(READ_BUFFER).write_buffer_size(0);
    match client_async_with_config(request, stream, Some(settings)).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            Err(ClientError::Status { status: response.status(), body: body.trim().chars().take(200).collect() })
        }
        Err(error) => Err(handshake(error)),
    }
}

/// The next text message, or in words how the connection ended.
///
/// # Cancel safety
/// Cancel-safe: a message is either returned or still in the socket.
pub(crate) async fn next_text<S>(socket: &mut S) -> Result<Utf8Bytes, String>
where
    S: futures_util::Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
{
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text),
            Some(Ok(Message::Close(Some(frame)))) => return Err(format!("{} {}", u16::from(frame.code), frame.reason)),
            Some(Ok(Message::Close(None))) => return Err("closed without a code".to_owned()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("closed".to_owned()),
        }
    }
}

/// Says goodbye and waits up to two seconds for the node to close.
pub(crate) async fn leave(mut socket: WebSocketStream<TcpStream>) {
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    let _ = timeout(Duration::from_secs(2), async {
        if socket.close(Some(goodbye)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_read_without_looking_into_it() {
        let line = r#"{"publication":{"channel":"l\"oad","offset":7,"epoch":"k3","data":{"a":[1, 2]},"client":"01J"}}"#;
        let publication = serde_json::from_str::<Incoming<'_>>(line).unwrap().publication.unwrap();
        assert_eq!((&*publication.channel, publication.offset), ("l\"oad", Some(7)));
        assert_eq!(publication.epoch.unwrap().get(), r#""k3""#);
        assert_eq!(publication.data.unwrap().get(), r#"{"a":[1, 2]}"#);
    }

    #[test]
    fn what_nobody_told_us_about_is_ignored() {
        let incoming: Incoming<'_> = serde_json::from_str(r#"{"backplane":{"state":"ok"},"id":4}"#).unwrap();
        assert!(incoming.publication.is_none() && incoming.id == Some(4));
    }

    #[test]
    fn urls_that_cannot_work_say_why() {
        for (url, word) in [("wss://localhost/ws", "TLS"), ("http://localhost/ws", "ws://host"), ("", "ws://host")] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let target = Target::parse("ws://[::1]:8000/ws").unwrap();
        assert_eq!(target.addresses(), ["[::1]:8000".parse().unwrap()]);
    }
}
