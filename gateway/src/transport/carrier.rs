//! How a socket gets from one runtime to another, also while TLS is wrapped around it.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::socket::Socket;

/// A socket on its way to its shard, with or without TLS.
pub(super) enum Stream {
    /// The bare socket.
    Plain(std::net::TcpStream),
    /// The same with TLS around it.
    Tls(Box<TlsStream<Carrier>>),
}

impl Stream {
    /// Takes a socket out of its runtime.
    ///
    /// # Errors
    /// If the runtime does not let it go.
    pub(super) fn plain(socket: TcpStream) -> io::Result<Self> {
        socket.into_std().map(Self::Plain)
    }

    /// The same of one with TLS around it.
    ///
    /// # Errors
    /// As [`Stream::plain`].
    pub(super) fn tls(mut stream: TlsStream<Carrier>) -> io::Result<Self> {
        stream.get_mut().0.depart()?;
        Ok(Self::Tls(Box::new(stream)))
    }

    /// Puts it into the runtime of the caller.
    ///
    /// # Errors
    /// If the runtime has no room for it.
    pub(super) fn settle(self) -> io::Result<Socket> {
        match self {
            Self::Plain(socket) => TcpStream::from_std(socket).map(Socket::Tcp),
            Self::Tls(mut stream) => {
                stream.get_mut().0.arrive()?;
                Ok(Socket::Tls(stream))
            }
        }
    }
}

/// A tokio socket belongs to the reactor that made it, so it changes hands as a plain one; meanwhile it can be neither read
/// nor written.
pub(crate) enum Carrier {
    /// Registered with a runtime.
    Here(TcpStream),
    /// Between two runtimes.
    Underway(std::net::TcpStream),
    /// A runtime would not take it.
    Lost,
}

impl Carrier {
    /// Takes the socket out of the runtime that it is in.
    ///
    /// # Errors
    /// If the runtime does not let it go; the socket is closed then.
    fn depart(&mut self) -> io::Result<()> {
        if let Self::Here(socket) = mem::replace(self, Self::Lost) {
            *self = Self::Underway(socket.into_std()?);
        }
        Ok(())
    }

    /// Puts the socket into the runtime of the caller.
    ///
    /// # Errors
    /// If the runtime has no room for it; the socket is closed then.
    fn arrive(&mut self) -> io::Result<()> {
        if let Self::Underway(socket) = mem::replace(self, Self::Lost) {
            *self = Self::Here(TcpStream::from_std(socket)?);
        }
        Ok(())
    }

    fn here(self: Pin<&mut Self>) -> io::Result<Pin<&mut TcpStream>> {
        match self.get_mut() {
            Self::Here(socket) => Ok(Pin::new(socket)),
            Self::Underway(_) | Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.here()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.here()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn works_on_each_of_its_runtimes_and_nowhere_between() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut carrier = Carrier::Here(listener.accept().await.unwrap().0);
        carrier.write_all(b"a").await.unwrap();
        carrier.depart().unwrap();
        assert_eq!(carrier.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::NotConnected);
        let elsewhere = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                carrier.arrive().unwrap();
                carrier.write_all(b"b").await.unwrap();
                let mut heard = [0; 1];
                carrier.read_exact(&mut heard).await.unwrap();
                heard
            })
        };
        let moved = tokio::task::spawn_blocking(elsewhere);
        let mut heard = [0; 2];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, *b"ab");
        far.write_all(b"c").await.unwrap();
        assert_eq!(moved.await.unwrap(), *b"c");
    }
}
