//! One client of a node: connects, subscribes, and hands over its connection. Speaks `skywave.v1.json` and nothing else.
//!
//! It never reconnects by itself: in a load test a connection that ends is a result.

use std::{
    cell::RefCell,
    future::poll_fn,
    io, mem,
    task::{Context, Poll},
    time::Duration,
};

use http::StatusCode;
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use crate::{
    incoming::{ErrorReply, Incoming, lines},
    stream::{Outlet, Reader, Stream},
    target::Target,
    wire::{Event, Inbox, Masks},
};

/// The subprotocol that we offer.
pub const SUBPROTOCOL: &str = "skywave.v1.json";

/// How long one client may take until it is connected, retries included.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a reply may take.
const REPLY: Duration = Duration::from_secs(10);
/// Pause before a node that refused a handshake for now is asked again, when it does not say.
const AGAIN: Duration = Duration::from_millis(250);
/// How long the words of a refusal may take after its status.
const WORDS: Duration = Duration::from_millis(200);
/// Bound on the answer to a handshake, in bytes.
const ANSWER: usize = 16 * 1024;
/// What a client that is to be slow asks the kernel to hold for it, in bytes; the kernel doubles it.
const SMALL: u32 = 4096;

thread_local! {
    /// What all connections of a thread read into. Borrowed for one read and what comes of it.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why a client is not, or no longer, what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No TCP connection.
    #[error("no connection")]
    Tcp(#[source] io::Error),
    /// TCP, but no TLS.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// TCP, but no WebSocket.
    #[error("the WebSocket handshake failed")]
    Handshake(#[source] io::Error),
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
            Self::Tls(_) => "check that the port speaks TLS, and that --ca names what signed its certificate",
            Self::Handshake(_) => "check that a Skywave node listens there and not something else",
            Self::Status { status, .. } => match status.as_u16() {
                404 => "the path is wrong: a node answers on /ws, and on /echo if its debug.echo says so",
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

/// How a connection is to be made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Offers permessage-deflate. What comes compressed is counted and not read.
    pub deflate: bool,
    /// Asks for a small receive buffer, so that a client that does not read is noticed soon.
    pub small: bool,
}

/// A connection whose WebSocket handshake is done; a client once it has introduced itself.
#[derive(Debug)]
pub struct Client {
    reader: Reader,
    outlet: Outlet,
    inbox: Inbox,
    masks: Masks,
    next_id: u64,
    early: Vec<String>,
    retries: u64,
}

/// A client taken apart, for who goes on with it.
#[derive(Debug)]
pub struct Parts {
    /// What reads.
    pub reader: Reader,
    /// What writes.
    pub outlet: Outlet,
    /// What was cut off.
    pub inbox: Inbox,
    /// The id of the next command.
    pub next_id: u64,
    /// Objects that came before anybody looked.
    pub early: Vec<String>,
}

impl Client {
    /// Opens a connection and does the WebSocket handshake.
    ///
    /// A node that refuses the handshake for now (HTTP 429 or 503) is asked again for up to 30 s.
    ///
    /// # Errors
    /// [`ClientError`]; its advice says what to do.
    pub async fn open(target: &Target, manner: Manner) -> Result<Self, ClientError> {
        let deadline = Instant::now() + PATIENCE;
        let mut retries = 0;
        loop {
            let opened = timeout_at(deadline, upgrade(target, manner))
                .await
                .unwrap_or(Err(ClientError::Silent { what: "the handshake", within: PATIENCE }));
            match opened {
                Err(error) if error.is_for_now() && Instant::now() + AGAIN < deadline => {
                    retries += 1;
                    sleep(AGAIN).await;
                }
                Ok(client) => return Ok(Self { retries, ..client }),
                Err(error) => return Err(error),
            }
        }
    }

    /// Introduces itself.
    ///
    /// # Errors
    /// The node refuses, is silent, or the connection ends.
    pub async fn connect(&mut self, token: Option<&str>) -> Result<(), ClientError> {
        let connect = match token {
            Some(token) => serde_json::json!({ "token": token }),
            None => serde_json::json!({}),
        };
        self.ask("connect", &connect, |incoming| incoming.connected.is_some().then_some(())).await
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

    /// Says something and waits for anything that is said back.
    ///
    /// # Errors
    /// The node is silent, or the connection ends.
    pub async fn call(&mut self, what: &'static str, text: &str) -> Result<(), ClientError> {
        self.say(text)?;
        let heard = async {
            loop {
                if !self.messages().await?.is_empty() {
                    return Ok(());
                }
            }
        };
        timeout(REPLY, heard).await.map_err(|_| ClientError::Silent { what, within: REPLY })?
    }

    /// Takes the client apart.
    pub fn into_parts(self) -> Parts {
        let Self { reader, outlet, inbox, next_id, early, .. } = self;
        Parts { reader, outlet, inbox, next_id, early }
    }

    /// How often the node refused the handshake for now.
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Says goodbye and waits up to two seconds for the node to close.
    pub async fn leave(mut self) {
        let mut goodbye = Vec::new();
        self.masks.close(&mut goodbye);
        if self.outlet.send(&goodbye).is_ok() {
            let _ = timeout(Duration::from_secs(2), async { while self.messages().await.is_ok() {} }).await;
        }
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
        let deadline = Instant::now() + REPLY;
        self.say(&serde_json::json!({ "id": id, what: arguments }).to_string())?;
        loop {
            let messages = timeout_at(deadline, self.messages())
                .await
                .map_err(|_| ClientError::Silent { what, within: REPLY })??;
            let mut answer = None;
            for line in messages.iter().flat_map(|message| lines(message)) {
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

    fn say(&mut self, text: &str) -> Result<(), ClientError> {
        let mut frame = Vec::with_capacity(text.len() + 14);
        self.masks.text(text, &mut frame);
        self.outlet.send(&frame).map(|_| ()).map_err(|error| ClientError::Ended(error.to_string()))
    }

    /// What the next read brings: often one message, none if it was cut or is the node's own business.
    async fn messages(&mut self) -> Result<Vec<String>, ClientError> {
        let Self { reader, outlet, inbox, masks, .. } = self;
        let read = poll_fn(|cx| {
            let mut heard = Heard::default();
            let how = poll_events(cx, reader, inbox, |event| match event {
                Event::Message(text) => heard.messages.push(String::from_utf8_lossy(text).into_owned()),
                // Nothing that answers a command of ours is long enough to be compressed.
                Event::Compressed(_) => {}
                Event::Ping(payload) => masks.pong(payload, &mut heard.answers),
                Event::Close(code, reason) => heard.ended = Some(ending(code, reason)),
            });
            how.map(|how| (how, mem::take(&mut heard)))
        });
        let (how, heard) = read.await;
        let _ = outlet.send(&heard.answers);
        match (how, heard.ended) {
            // The words of a disconnect come in the same read as the close frame; they say more.
            (_, Some(_)) if !heard.messages.is_empty() => Ok(heard.messages),
            (_, Some(ended)) => Err(ClientError::Ended(ended)),
            (Err(error), None) => Err(ClientError::Ended(error)),
            (Ok(_), None) => Ok(heard.messages),
        }
    }
}

#[derive(Default)]
struct Heard {
    messages: Vec<String>,
    answers: Vec<u8>,
    ended: Option<String>,
}

/// Reads once into the thread's buffer and hands over what came; returns the bytes that were read. In words how the connection ended, if it did.
///
/// # Cancel safety
/// Cancel-safe: nothing is read unless it is handed over.
pub(crate) fn poll_events(
    cx: &mut Context<'_>,
    reader: &mut Reader,
    inbox: &mut Inbox,
    each: impl FnMut(Event<'_>),
) -> Poll<Result<usize, String>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let start = inbox.lay(scratch);
        reader.poll_read(cx, &mut scratch[start..]).map(|read| match read {
            Ok(0) => Err("closed".to_owned()),
            Ok(read) => match inbox.take(&scratch[..start + read], each) {
                Ok(()) => Ok(read),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        })
    })
}

/// How a connection ended, in the words of a report.
pub(crate) fn ending(code: u16, reason: &[u8]) -> String {
    match code {
        1005 => "closed without a code".to_owned(),
        code => format!("{code} {}", String::from_utf8_lossy(reason)),
    }
}

async fn upgrade(target: &Target, manner: Manner) -> Result<Client, ClientError> {
    let stream = reach(target, manner).await?;
    let key = generate_key();
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n",
        target.path(),
        target.authority()
    );
    if manner.deflate {
        request.push_str("Sec-WebSocket-Extensions: permessage-deflate\r\n");
    }
    request.push_str("\r\n");
    let (mut reader, outlet) = stream.split();
    outlet.send(request.as_bytes()).map_err(ClientError::Handshake)?;
    let (head, rest) = answer(&mut reader).await.map_err(ClientError::Handshake)?;
    let status = head.split(' ').nth(1).and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok());
    let Some(status) = status.filter(|_| head.starts_with("HTTP/1.1 ")) else {
        return Err(ClientError::Handshake(io::Error::other("the answer is not HTTP/1.1")));
    };
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(ClientError::Status { status, body: words(&mut reader, &head, rest).await });
    }
    if field(&head, "sec-websocket-accept") != Some(&derive_accept_key(key.as_bytes())) {
        return Err(ClientError::Handshake(io::Error::other("the answer does not belong to our key")));
    }
    let mut client = Client {
        reader,
        outlet,
        inbox: Inbox::default(),
        masks: Masks::default(),
        next_id: 1,
        early: Vec::new(),
        retries: 0,
    };
    let early = &mut client.early;
    let said = client.inbox.take(&rest, |event| {
        if let Event::Message(text) = event {
            early.push(String::from_utf8_lossy(text).into_owned());
        }
    });
    said.map_err(|error| ClientError::Ended(error.to_string()))?;
    Ok(client)
}

/// A connection, and TLS on it where the target wants it.
async fn reach(target: &Target, manner: Manner) -> Result<Stream, ClientError> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in target.addresses() {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(ClientError::Tcp)?;
        if manner.small {
            // Before the connection is made: the window is agreed on then.
            socket.set_recv_buffer_size(SMALL).map_err(ClientError::Tcp)?;
        }
        match socket.connect(*address).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(ClientError::Tcp)?;
                let Some((config, name)) = target.tls() else { return Ok(Stream::Plain(stream)) };
                let secured = TlsConnector::from(config).connect(name, stream).await.map_err(ClientError::Tls)?;
                return Ok(Stream::Tls(Box::new(secured)));
            }
            Err(error) => last = error,
        }
    }
    Err(ClientError::Tcp(last))
}

/// The head of an HTTP answer, and what came behind it.
async fn answer(reader: &mut Reader) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if read_on(reader, &mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if bytes.len() > ANSWER {
            return Err(io::Error::other("the answer has no end"));
        }
    }
}

async fn read_on(reader: &mut Reader, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut some = [0; 2048];
    let read = poll_fn(|cx| reader.poll_read(cx, &mut some)).await?;
    bytes.extend_from_slice(&some[..read]);
    Ok(read)
}

/// The words of a refusal, shortened.
async fn words(reader: &mut Reader, head: &str, mut body: Vec<u8>) -> String {
    let length = field(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(ANSWER).min(ANSWER);
    let _ =
        timeout(WORDS, async { while body.len() < length && matches!(read_on(reader, &mut body).await, Ok(1..)) {} })
            .await;
    String::from_utf8_lossy(&body).trim().chars().take(200).collect()
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_head_are_found_in_any_case() {
        let head = "HTTP/1.1 503 Busy\r\nContent-LENGTH:  12 \r\nx: y\r\n\r\n";
        assert_eq!((field(head, "content-length"), field(head, "503")), (Some("12"), None));
    }

    #[test]
    fn an_ending_is_told_in_words() {
        assert_eq!(
            (ending(1005, b""), ending(4002, b"slow")),
            ("closed without a code".to_owned(), "4002 slow".to_owned())
        );
    }
}
