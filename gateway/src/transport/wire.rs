//! What hyper reads and writes: the socket, with what was read ahead of it and with words for its own refusals.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::socket::Socket;

/// What a client of HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After a refusal the client may still send; so much is read, so that the answer is not lost with the connection.
const STRAY_BYTES: usize = 64 * 1024;

/// A socket for hyper.
///
/// hyper answers a head that it cannot read by itself, with a status and without a word. Here it gets one.
pub(super) struct Wire {
    socket: Socket,
    /// Read ahead of hyper. Bound: the preface.
    early: Bytes,
    /// What is written instead of an answer without words.
    refusal: Option<Bytes>,
    /// What may still be read after it.
    stray: usize,
}

impl Wire {
    /// Reads as much as tells whether the client speaks HTTP/2, with or without TLS around it: what ALPN agreed on is only
    /// what it said that it would.
    ///
    /// # Errors
    /// Of the socket.
    pub(super) async fn open(mut socket: Socket) -> io::Result<(Self, bool)> {
        let mut preface = [0; PREFACE.len()];
        let mut read = 0;
        while read < PREFACE.len() && PREFACE.starts_with(&preface[..read]) {
            match socket.read(&mut preface[read..]).await? {
                0 => break,
                more => read += more,
            }
        }
        let early = Bytes::copy_from_slice(&preface[..read]);
        let is_http2 = *early == *PREFACE;
        Ok((Self { socket, early, refusal: None, stray: STRAY_BYTES }, is_http2))
    }

    /// The socket, and what hyper has not read.
    pub(super) fn into_parts(self) -> (Socket, Bytes) {
        (self.socket, self.early)
    }

    /// Writes what stands for hyper's own answer.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(refusal) = self.refusal.as_mut().filter(|refusal| refusal.has_remaining()) {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, refusal))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            refusal.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

/// The answer with words to what hyper could not read; `None` for what it did not make by itself.
fn with_words(answer: &[u8]) -> Option<Bytes> {
    // Ours all say what their content is.
    if !answer.starts_with(b"HTTP/1.1 4") || !answer.ends_with(b"\r\n\r\n") {
        return None;
    }
    let head = str::from_utf8(answer).ok()?;
    let (status, lines) = head.split_once("\r\n")?;
    if !lines.contains("content-length: 0\r\n") || lines.contains("content-type:") {
        return None;
    }
    let words = match status.as_bytes().get(9..12)? {
        b"400" => "this is not a request of HTTP/1.1\n",
        b"414" => "the address of this request is too long\n",
        b"431" => "the head of this request is too large: at most 64 lines and 16 KiB are read\n",
        _ => return None,
    };
    let lines = lines.replace("content-length: 0\r\n", &format!("content-length: {}\r\n", words.len()));
    let kind = "content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n";
    Some(format!("{status}\r\n{kind}{lines}{words}").into())
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buffer);
        }
        let early = this.early.split_to(this.early.len().min(buffer.remaining()));
        buffer.put_slice(&early);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        if let [answer] = slices
            && let Some(refusal) = with_words(answer)
        {
            this.refusal = Some(refusal);
            return Poll::Ready(Ok(answer.len()));
        }
        Pin::new(&mut this.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
        // A socket that is dropped with unread input is reset, and the reset may overtake the answer.
        while this.refusal.is_some() && this.stray > 0 {
            let mut scratch = [0; 1024];
            let mut scratch = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut scratch))?;
            match scratch.filled().len() {
                0 => break,
                more => this.stray = this.stray.saturating_sub(more),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_without_words_gets_some() {
        let head = |status: &str, lines: &str| format!("HTTP/1.1 {status}\r\n{lines}date: now\r\n\r\n");
        let bare = head("431 Request Header Fields Too Large", "connection: close\r\ncontent-length: 0\r\n");
        let with = with_words(bare.as_bytes()).unwrap();
        let (head_with, body) = str::from_utf8(&with).unwrap().split_once("\r\n\r\n").unwrap();
        assert!(head_with.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head_with}");
        assert!(head_with.contains("connection: close") && head_with.contains("date: now"), "{head_with}");
        assert!(head_with.contains(&format!("content-length: {}\r\n", body.len())) && body.contains("64 lines"));
        for other in [
            head("200 OK", "content-length: 0\r\n"),
            head("404 Not Found", "content-length: 0\r\n"),
            head("400 Bad Request", "content-type: text/plain\r\ncontent-length: 0\r\n"),
            head("400 Bad Request", "content-length: 5\r\n") + "hello",
            head("400 Bad Request", "content-length: 50\r\n"),
        ] {
            assert!(with_words(other.as_bytes()).is_none(), "{other}");
        }
    }
}
