//! A WebSocket of a service that tests want: every message comes back, or there is nothing but the end.

use std::rc::Rc;

use bytes::Bytes;
use skywave_proto::CloseCode;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::session::GO_AWAY;
use crate::{
    metrics::{Figures, Transport},
    protocol::sockjs::{OPEN, close, joined, message, message_or_array},
    push::Frame,
    transport::{
        WebSocketLimits,
        framed::{Ending, Framed},
        socket::Socket,
        websocket::Event,
    },
};

/// The label `protocol` of metrics.
const PROTOCOL: &str = "echo";

/// What is done with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Toy {
    /// They come back, in frames of SockJS as they came.
    Echo,
    /// The connection ends at once; with frames of SockJS, or without.
    Close {
        /// Whether there are frames.
        is_framed: bool,
    },
}

/// How it ended: with this code and reason, or on the wire.
type Ended = Result<(u16, String), Ending>;

/// Serves one connection to its end.
pub(in crate::transport) async fn run(
    toy: Toy,
    mut wire: Box<Framed>,
    limits: Rc<WebSocketLimits>,
    figures: Rc<Figures>,
    leaving: CancellationToken,
) -> Socket {
    figures.opened(Transport::WebSocket, PROTOCOL);
    let is_framed = toy != Toy::Close { is_framed: false };
    if is_framed {
        wire.send(&Frame::text(OPEN));
    }
    let ended = match toy {
        Toy::Close { .. } => Ok((GO_AWAY.0, GO_AWAY.1.to_owned())),
        Toy::Echo => tokio::select! {
            ended = echo(&mut wire, &limits) => ended,
            () = leaving.cancelled() => Ok(said(CloseCode::ServiceRestart)),
        },
    };
    let reason = Box::pin(end(&mut wire, &limits, ended, is_framed)).await;
    figures.closed(Transport::WebSocket, PROTOCOL, reason, false);
    wire.into_socket()
}

fn said(code: CloseCode) -> (u16, String) {
    (code.code(), code.reason().to_owned())
}

async fn end(wire: &mut Framed, limits: &WebSocketLimits, ended: Ended, is_framed: bool) -> &'static str {
    let (code, reason) = match ended {
        Ok(said) => said,
        Err(Ending::Broken(violation)) => (violation.code.code(), violation.what.to_owned()),
        Err(Ending::Lost) => return "abnormal",
    };
    if is_framed {
        wire.send(&Frame::text(close(code, &reason)));
    }
    wire.close(Some(code), &reason);
    let _ = timeout(limits.close, wire.linger()).await; // whoever does not answer is cut
    CloseCode::of(code).map_or("none", CloseCode::reason)
}

async fn echo(wire: &mut Framed, limits: &WebSocketLimits) -> Ended {
    let mut pinged = false;
    loop {
        flush(wire, limits).await?;
        let patience = if pinged { limits.pong } else { limits.ping_interval };
        match timeout(patience, wire.event()).await {
            Ok(event) => {
                pinged = false;
                match event? {
                    Event::Text(text) => match message_or_array(text.as_ref()) {
                        Ok(messages) if messages.is_empty() => {}
                        Ok(messages) => {
                            let frames: Vec<_> = messages.iter().map(|text| message(text)).collect();
                            wire.send(&Frame::text(joined(&frames)));
                        }
                        Err(_) => return Ok((CloseCode::InvalidPayload.code(), "Broken framing.".to_owned())),
                    },
                    Event::Binary(_) => return Ok(said(CloseCode::UnsupportedData)),
                    Event::Ping(payload) => wire.pong(payload),
                    Event::Pong(_) => {}
                    Event::Close(code) => return Ok((code.map_or(1000, |(code, _)| code), String::new())),
                }
            }
            Err(_) if pinged => return Ok(said(CloseCode::PingTimeout)),
            Err(_) => {
                wire.ping(Bytes::new());
                pinged = true;
            }
        }
    }
}

/// Nothing is read before the client has taken what it sent: it cannot make us keep more than one message.
async fn flush(wire: &mut Framed, limits: &WebSocketLimits) -> Result<(), Ending> {
    match timeout(limits.ping_interval + limits.pong, wire.flush()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Ending::Lost),
    }
}
