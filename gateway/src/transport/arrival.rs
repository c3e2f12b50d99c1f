//! From accept to the shard: what has to be known of a socket before HTTP begins on it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::server::TlsStream;

use super::{Load, Public, carrier::Carrier, http, socket::Socket};
use crate::{metrics, shard::ShardHandle, tls::Tls};

/// Sockets of a node that are between accept and their shard at the same time, for which a TLS handshake has to be done.
/// While there are so many nothing is accepted, and the kernel holds who comes: a storm is taken one piece after the other
/// and the node's own work (a handshake is 0.2 ms of CPU on the threads that also speak to Redis) waits at most for these.
const ARRIVING: usize = 1024;
/// What a client that speaks HTTP where TLS is spoken may have sent and is read, so that it hears the answer.
const STRAY_BYTES: usize = 64 * 1024;

/// How a socket came in.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The listener's own address.
    pub local: SocketAddr,
    /// The other end's.
    pub peer: SocketAddr,
    /// The client's: the other end's, or what a trusted proxy says for it.
    pub client: IpAddr,
    /// Whether the listener speaks TLS.
    pub encrypted: bool,
}

impl Arrival {
    /// A socket on which nothing has been said yet.
    pub fn new(local: SocketAddr, peer: SocketAddr, encrypted: bool) -> Self {
        Self { local, peer, client: peer.ip().to_canonical(), encrypted }
    }
}

/// What sockets go through before they are handed to a shard.
pub(super) struct Entrance {
    tls: Option<Arc<Tls>>,
    arriving: Arc<Semaphore>,
}

impl Entrance {
    pub(super) fn new(tls: Option<Arc<Tls>>) -> Self {
        Self { tls, arriving: Arc::new(Semaphore::new(ARRIVING)) }
    }

    /// One of the places between accept and shard; waits while all are taken.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.arriving.clone().acquire_owned().await.ok() // never closed
    }
}

/// A socket on its way to its shard. A tokio socket belongs to the reactor that made it: it changes hands as a plain one.
pub(super) enum Stream {
    Plain(std::net::TcpStream),
    Tls(Box<TlsStream<Carrier>>),
}

impl Stream {
    /// Registers it with the runtime of the caller.
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

/// Takes in an accepted socket. It is with its shard at once, or after its TLS handshake, which is done in a task of this
/// runtime: it costs more CPU than a shard should give to one connection.
///
/// # Errors
/// If the socket cannot be asked, or moved.
pub(super) fn take_in(
    socket: TcpStream,
    peer: SocketAddr,
    place: Option<OwnedSemaphorePermit>,
    public: &Arc<Public>,
    shards: &Arc<[ShardHandle]>,
) -> io::Result<()> {
    let arrival = Arrival::new(socket.local_addr()?, peer, public.entrance.tls.is_some());
    let accepted = Instant::now();
    let Some(tls) = public.entrance.tls.clone() else {
        hand_over(Stream::Plain(socket.into_std()?), arrival, accepted, public, shards);
        return Ok(());
    };
    let (public, shards) = (public.clone(), shards.clone());
    tokio::spawn(async move {
        match encrypt(socket, &tls, public.ground.settings.timeouts.tls).await {
            Ok(stream) => hand_over(stream, arrival, Instant::now(), &public, &shards),
            Err(error) => {
                metrics::refused("tls");
                tracing::debug!(address = %arrival.client, %error, "no TLS handshake");
            }
        }
        drop(place);
    });
    Ok(())
}

/// Chooses the shard that has the least to do.
fn hand_over(stream: Stream, arrival: Arrival, since: Instant, public: &Arc<Public>, shards: &[ShardHandle]) {
    let Some(shard) = shards.iter().min_by_key(|shard| shard.connections().load(Ordering::Relaxed)) else { return };
    let load = Load::on(shard.clone());
    let public = public.clone();
    shard.run(move |shard| http::serve(shard, stream, arrival, since, public, load));
}

async fn encrypt(socket: TcpStream, tls: &Tls, patience: Duration) -> io::Result<Stream> {
    let deadline = Instant::now() + patience;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it took longer than timeouts.tls");
    // The first byte of TLS is 22 (RFC 8446 §5.1); a letter is the beginning of a request.
    let mut first = [0];
    timeout_at(deadline, socket.peek(&mut first)).await.map_err(late)??;
    if first[0].is_ascii_uppercase() {
        let _ = timeout_at(deadline, answer_plain_http(socket)).await;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "plain HTTP where TLS is spoken"));
    }
    let handshake = tls.acceptor().accept(Carrier::Here(socket));
    let mut stream = timeout_at(deadline, handshake).await.map_err(late)??;
    stream.get_mut().0.depart()?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Somebody wrote `http` for `https`.
async fn answer_plain_http(mut socket: TcpStream) -> io::Result<()> {
    let body = "this listener speaks TLS: use https:// or wss://\n";
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n";
    socket.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    socket.shutdown().await?;
    drain(&mut socket, STRAY_BYTES).await
}

/// Reads what is left, at most so many bytes: a socket that is dropped with unread input is reset, and the reset may
/// overtake the answer.
async fn drain(socket: &mut TcpStream, most: usize) -> io::Result<()> {
    let mut scratch = [0; 1024];
    let mut read = 0;
    while read < most {
        match socket.read(&mut scratch).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}

/// Lets a handshake of another listener take at most so long.
///
/// # Errors
/// As the handshake, and if it takes longer.
pub(crate) async fn accept_tls(socket: TcpStream, tls: &Tls, patience: Duration) -> io::Result<TlsStream<TcpStream>> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it took longer than timeouts.tls");
    timeout(patience, tls.acceptor().accept(socket)).await.map_err(late)?
}
