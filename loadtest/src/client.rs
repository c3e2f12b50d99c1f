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
use tokio::time::{Instant, sleep, timeout, timeout_at};

pub use crate::upgrade::Manner;
use crate::{
    incoming::{ErrorReply, Incoming, lines},
    stream::{Outlet, Reader},
    target::Target,
    upgrade::{Upgraded, upgrade},
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
                Ok(upgraded) => return Self::begin(upgraded, retries),
                Err(error) => return Err(error),
            }
        }
    }

    fn begin(upgraded: Upgraded, retries: u64) -> Result<Self, ClientError> {
        let Upgraded { reader, outlet, rest } = upgraded;
        let (mut inbox, mut early) = (Inbox::default(), Vec::new());
        let said = inbox.take(&rest, |event| {
            if let Event::Message(text) = event {
                early.push(String::from_utf8_lossy(text).into_owned());
            }
        });
        said.map_err(|error| ClientError::Ended(error.to_string()))?;
        Ok(Self { reader, outlet, inbox, masks: Masks::default(), next_id: 1, early, retries })
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

/// Reads once into the thread's buffer and hands over what came; returns the bytes that were read.
///
/// # Errors
/// The connection ended: in words, how.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_told_in_words() {
        assert_eq!(
            (ending(1005, b""), ending(4002, b"slow")),
            ("closed without a code".to_owned(), "4002 slow".to_owned())
        );
    }
}
