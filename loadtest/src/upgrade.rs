//! From an address to a WebSocket: TCP, TLS where the target wants it, and the upgrade (RFC 6455 §4.1).

use std::{future::poll_fn, io, time::Duration};

use http::StatusCode;
use tokio::{net::TcpSocket, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use crate::{
    client::{ClientError, SUBPROTOCOL},
    stream::{Outlet, Reader, Stream},
    target::Target,
};

/// How long the words of a refusal may take after its status.
const WORDS: Duration = Duration::from_millis(200);
/// Bound on the answer to a handshake, in bytes.
const ANSWER: usize = 16 * 1024;
/// What a client that is to be slow asks the kernel to hold for it, in bytes; the kernel doubles it.
const SMALL: u32 = 4096;

/// How a connection is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// What is offered to be spoken; `None`: nothing, as a bare WebSocket does.
    pub subprotocol: Option<&'static str>,
    /// Offers permessage-deflate. What comes compressed is counted and not read.
    pub deflate: bool,
    /// Asks for a small receive buffer, so that a client that does not read is noticed soon.
    pub small: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self { subprotocol: Some(SUBPROTOCOL), deflate: false, small: false }
    }
}

/// A connection that speaks WebSocket from now on.
#[derive(Debug)]
pub(crate) struct Upgraded {
    pub(crate) reader: Reader,
    pub(crate) outlet: Outlet,
    /// Frames that came with the answer.
    pub(crate) rest: Vec<u8>,
}

/// Connects, and asks for a WebSocket.
///
/// # Errors
/// [`ClientError`], as far as a handshake goes.
pub(crate) async fn upgrade(target: &Target, manner: Manner) -> Result<Upgraded, ClientError> {
    let stream = reach(target, manner).await?;
    let key = generate_key();
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n",
        target.path(),
        target.authority()
    );
    if let Some(subprotocol) = manner.subprotocol {
        request += &format!("Sec-WebSocket-Protocol: {subprotocol}\r\n");
    }
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
    Ok(Upgraded { reader, outlet, rest })
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
}
