//! The floor of a handshake: hyper upgrades, one message is heard, one is said. One thread.

use std::{convert::Infallible, io, net::SocketAddr};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    speech,
    wire::{self, Kind},
};
use crate::client::SUBPROTOCOL;

/// Of one message: what a client says to be let in, or to be echoed.
const ROOM: usize = 2048;

/// Serves until an error; `ready` is told the address first.
///
/// # Errors
/// The system's.
pub(super) fn serve(listen: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        ready(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(stream));
        }
    })
}

async fn connection(stream: TcpStream) {
    // An end before the upgrade is the client's business, and it counts its connections itself.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(upgrade)).with_upgrades().await;
}

async fn upgrade(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    let accept = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let Some(accept) = accept.and_then(|accept| HeaderValue::try_from(accept).ok()) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let offers = request.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let _ = converse(TokioIo::new(upgraded)).await;
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if offers {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(response)
}

/// Answers each message until the client leaves. One message, one answer, one write.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = [0; ROOM];
    let mut held = 0;
    loop {
        let read = stream.read(&mut buffer[held..]).await?;
        if read == 0 {
            return Ok(());
        }
        held += read;
        let (mut answers, mut stays) = (Vec::new(), true);
        let used = wire::frames(&mut buffer[..held], |kind, payload| {
            stays &= kind != Kind::Close;
            reply(kind, payload, &mut answers);
            Ok(())
        })?;
        buffer.copy_within(used..held, 0);
        held -= used;
        stream.write_all(&answers).await?;
        if !stays {
            return Ok(());
        }
    }
}

/// What a frame is answered with: a command as a node would, anything else with itself.
pub(super) fn reply(kind: Kind, payload: &[u8], answers: &mut Vec<u8>) {
    match kind {
        Kind::Data => {
            let said = answers.len();
            let replies = speech::commands(payload).filter_map(|command| speech::answer(&command, 0));
            replies.for_each(|reply| answers.extend(wire::text(&reply)));
            if answers.len() == said {
                answers.extend(wire::frame(0x81, payload));
            }
        }
        Kind::Ping => answers.extend(wire::frame(0x8A, payload)),
        Kind::Close => answers.extend(wire::frame(0x88, payload)),
        Kind::Pong => {}
    }
}
