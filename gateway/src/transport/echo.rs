//! `/echo`: every message comes back as it is, compressed wherever that was agreed on. For those who test the WebSocket
//! itself; there is no session behind it.

use std::rc::Rc;

use bytes::Bytes;
use skywave_proto::CloseCode;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    WebSocketLimits,
    framed::{Ending, Framed},
    socket::Socket,
    websocket::Event,
};
use crate::{
    metrics::{Figures, Transport},
    push::Frame,
};

/// The label `protocol` of metrics.
const PROTOCOL: &str = "echo";

/// Serves one connection to its end: the client's, silence, or `leaving`.
pub(super) async fn run(
    mut wire: Box<Framed>,
    limits: Rc<WebSocketLimits>,
    figures: Rc<Figures>,
    leaving: CancellationToken,
) -> Socket {
    figures.opened(Transport::WebSocket, PROTOCOL);
    let ended = tokio::select! {
        ended = serve(&mut wire, &limits) => Some(ended),
        () = leaving.cancelled() => None,
    };
    // What the end takes is not kept room for all the time before.
    let reason = Box::pin(end(&mut wire, &limits, ended)).await;
    figures.closed(Transport::WebSocket, PROTOCOL, reason, false);
    wire.into_socket()
}

/// Says goodbye; `None`: the node leaves. Returns the reason for the metrics.
async fn end(wire: &mut Framed, limits: &WebSocketLimits, ended: Option<Result<Option<u16>, Ending>>) -> &'static str {
    match ended {
        Some(Ok(code)) => {
            wire.close(code, "");
            let _ = timeout(limits.close, wire.linger()).await;
            code.and_then(CloseCode::of).map_or("none", CloseCode::reason)
        }
        Some(Err(Ending::Broken(violation))) => {
            wire.close(Some(violation.code.code()), violation.what);
            let _ = timeout(limits.close, wire.linger()).await;
            violation.code.reason()
        }
        Some(Err(Ending::Lost)) => "abnormal",
        None => {
            let code = CloseCode::ServiceRestart;
            let _ = timeout(limits.close, wire.farewell(code, code.reason())).await;
            code.reason()
        }
    }
}

/// Returns the code to close with: the client's own, or ours.
async fn serve(wire: &mut Framed, limits: &WebSocketLimits) -> Result<Option<u16>, Ending> {
    let mut pinged = false;
    let mut begun: Option<Instant> = None;
    loop {
        // Looked at often enough to see when a message began.
        let patience = if pinged { limits.pong } else { limits.ping_interval.min(limits.assembly) };
        let event = timeout(patience, wire.event()).await;
        let is_whole = matches!(event, Ok(Ok(Event::Text(_) | Event::Binary(_))));
        let now = Instant::now();
        begun = begun.filter(|_| !is_whole).or(Some(now)).filter(|_| wire.is_within_message());
        if begun.is_some_and(|begun| now >= begun + limits.assembly) {
            return Ok(Some(CloseCode::PolicyViolation.code()));
        }
        match event {
            Ok(event) => {
                pinged = false;
                match event? {
                    Event::Text(text) => wire.send_compressed(&Frame::text(text)),
                    Event::Binary(bytes) => wire.send_compressed(&Frame::binary(bytes)),
                    Event::Ping(payload) => wire.pong(payload),
                    Event::Pong(_) => {}
                    Event::Close(close) => return Ok(close.map(|(code, _)| code)),
                }
            }
            Err(_) if wire.take_heard() => {}
            Err(_) if pinged => return Ok(Some(CloseCode::PingTimeout.code())),
            Err(_) => {
                wire.ping(Bytes::new());
                pinged = true;
            }
        }
        flush(wire, limits).await?;
    }
}

/// Nothing is read before the client has taken what it sent: it cannot make us keep more than one message.
async fn flush(wire: &mut Framed, limits: &WebSocketLimits) -> Result<(), Ending> {
    match timeout(limits.ping_interval + limits.pong, wire.flush()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Ending::Lost),
    }
}
