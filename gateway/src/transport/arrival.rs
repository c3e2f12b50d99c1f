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

use super::{Load, Public, carrier::Carrier, http, proxy_protocol, socket::Socket};
use crate::{
    config::{Network, ProxyProtocol, PublicSettings},
    metrics,
    shard::ShardHandle,
    tls::Tls,
};

/// Sockets of a node that are between accept and their shard at the same time, because something has to be heard or done
/// first: a header of the PROXY protocol, a TLS handshake. While there are so many nothing is accepted, and the kernel holds
/// who comes: a storm is taken one piece after the other, and the node's own work (a handshake is 0.2 ms of CPU on the threads
/// that also speak to Redis) waits at most for these.
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
    /// Who says on whose behalf it connects, and has to.
    proxies: Option<Vec<Network>>,
    tls: Option<Arc<Tls>>,
    arriving: Arc<Semaphore>,
}

impl Entrance {
    pub(super) fn new(tls: Option<Arc<Tls>>, settings: &PublicSettings) -> Self {
        let proxies = (settings.proxy_protocol == ProxyProtocol::V2).then(|| settings.trusted_proxies.clone());
        Self { proxies, tls, arriving: Arc::new(Semaphore::new(ARRIVING)) }
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

/// Takes in an accepted socket. It is with its shard at once, or after what its proxy has to say and its TLS handshake. These
/// are done in a task of this runtime: a handshake costs more CPU than a shard should give to one connection.
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
    let Entrance { proxies, tls, .. } = &public.entrance;
    let arrival = Arrival::new(socket.local_addr()?, peer, tls.is_some());
    let accepted = Instant::now();
    if proxies.is_none() && tls.is_none() {
        hand_over(Stream::Plain(socket.into_std()?), arrival, accepted, public, shards);
        return Ok(());
    }
    let (public, shards) = (public.clone(), shards.clone());
    tokio::spawn(async move {
        match prepare(socket, arrival, accepted, &public).await {
            Ok((stream, arrival, since)) => hand_over(stream, arrival, since, &public, &shards),
            Err(Unprepared { stage, error }) => {
                metrics::refused(stage);
                tracing::debug!(address = %arrival.client, stage, %error, "a connection was refused before its request");
            }
        }
        drop(place);
    });
    Ok(())
}

/// Where a connection failed before HTTP began.
struct Unprepared {
    /// The word in the metric of refused handshakes.
    stage: &'static str,
    error: io::Error,
}

/// Hears the proxy, then does the TLS handshake that comes behind its header. Returns from when on the request is waited for.
async fn prepare(
    mut socket: TcpStream,
    mut arrival: Arrival,
    accepted: Instant,
    public: &Public,
) -> Result<(Stream, Arrival, Instant), Unprepared> {
    let (entrance, timeouts) = (&public.entrance, &public.ground.settings.timeouts);
    if let Some(proxies) = &entrance.proxies {
        let heard = hear_proxy(&mut socket, &arrival, proxies, accepted + timeouts.handshake).await;
        if let Some(client) = heard.map_err(|error| Unprepared { stage: "proxy_protocol", error })? {
            arrival.client = client.ip().to_canonical();
        }
    }
    match &entrance.tls {
        None => {
            let stream = socket.into_std().map_err(|error| Unprepared { stage: "proxy_protocol", error })?;
            Ok((Stream::Plain(stream), arrival, accepted))
        }
        Some(tls) => {
            let stream =
                encrypt(socket, tls, timeouts.tls).await.map_err(|error| Unprepared { stage: "tls", error })?;
            Ok((stream, arrival, Instant::now()))
        }
    }
}

async fn hear_proxy(
    socket: &mut TcpStream,
    arrival: &Arrival,
    proxies: &[Network],
    deadline: Instant,
) -> io::Result<Option<SocketAddr>> {
    if !proxies.iter().any(|network| network.contains(arrival.peer.ip())) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the other end is not in public.trusted_proxies"));
    }
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no header of the PROXY protocol within timeouts.handshake");
    timeout_at(deadline, proxy_protocol::read(socket)).await.map_err(late)?
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
