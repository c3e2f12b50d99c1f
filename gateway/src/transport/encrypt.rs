//! The TLS handshake of an accepted socket, and what is told to whom speaks no TLS.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor, server::TlsStream};

use super::carrier::Carrier;
use crate::tls::Tls;

/// What a client that speaks HTTP where TLS is spoken may have sent and is read, so that it hears the answer.
const STRAY_BYTES: usize = 64 * 1024;

/// What is encrypted and not taken by the socket yet, at most, in bytes: out of sight of the outbox, so little. One record;
/// rustls would keep four.
const BUFFER_BYTES: usize = 16 * 1024;

/// Does the handshake, within `patience`, once `turn` has come; what that gives is kept as long as it takes. A turn is only
/// waited for once the client's hello is there: whoever connects and says nothing, or little, takes none from those who do.
///
/// # Errors
/// As rustls or `turn` say, [`io::ErrorKind::TimedOut`], and [`io::ErrorKind::UnexpectedEof`] if the client says nothing and leaves.
pub(crate) async fn encrypt<P>(
    socket: TcpStream,
    tls: &Tls,
    patience: Duration,
    turn: impl Future<Output = io::Result<P>>,
) -> io::Result<TlsStream<Carrier>> {
    let deadline = Instant::now() + patience;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it took longer than timeouts.tls");
    // The first byte of TLS is 22 (RFC 8446 §5.1); a letter is the beginning of a request.
    let mut first = [0];
    if timeout_at(deadline, socket.peek(&mut first)).await.map_err(late)?? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0].is_ascii_uppercase() {
        let _ = timeout_at(deadline, answer_plain_http(socket)).await;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "plain HTTP where TLS is spoken"));
    }
    let handshake = async {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), Carrier::Here(socket)).await?;
        let _place = turn.await?;
        let config = tls.acceptor().config().clone();
        hello.into_stream_with(config, |tls| tls.set_buffer_limit(Some(BUFFER_BYTES))).await
    };
    timeout_at(deadline, handshake).await.map_err(late)?
}

/// Somebody wrote `http` for `https`.
async fn answer_plain_http(mut socket: TcpStream) -> io::Result<()> {
    let body = "this listener speaks TLS: use https:// or wss://\n";
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n";
    socket.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    socket.shutdown().await?;
    // A socket that is dropped with unread input is reset, and the reset may overtake the answer.
    let mut scratch = [0; 1024];
    let mut read = 0;
    while read < STRAY_BYTES {
        match socket.read(&mut scratch).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}
