//! From accept to the shard: what has to be known of a socket before HTTP begins on it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
};

use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{Load, Public, carrier::Stream, encrypt::encrypt, http, proxy_protocol};
use crate::{
    config::{Network, ProxyProtocol, PublicSettings},
    metrics,
    shard::ShardHandle,
    tls::Tls,
};

/// TLS handshakes of a node that are under way at the same time, their hello read and not done yet. More wait their turn within
/// `timeouts.tls`, so in a storm the node's own work (a handshake is 0.2 ms of CPU on the threads that also speak to Redis)
/// waits at most for these. Who says nothing takes no place, and has until the deadline, as on a listener without TLS.
const HANDSHAKES: usize = 1024;

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
    handshakes: Semaphore,
}

impl Entrance {
    pub(super) fn new(tls: Option<Arc<Tls>>, settings: &PublicSettings) -> Self {
        let proxies = (settings.proxy_protocol == ProxyProtocol::V2).then(|| settings.trusted_proxies.clone());
        Self { proxies, tls, handshakes: Semaphore::new(HANDSHAKES) }
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
    public: &Arc<Public>,
    shards: &Arc<[ShardHandle]>,
) -> io::Result<()> {
    let Entrance { proxies, tls, .. } = &public.entrance;
    let arrival = Arrival::new(socket.local_addr()?, peer, tls.is_some());
    let accepted = Instant::now();
    if proxies.is_none() && tls.is_none() {
        hand_over(Stream::plain(socket)?, arrival, accepted, public, shards);
        return Ok(());
    }
    let (public, shards) = (public.clone(), shards.clone());
    tokio::spawn(async move {
        match prepare(socket, arrival, accepted, &public).await {
            Ok((stream, arrival, since)) => hand_over(stream, arrival, since, &public, &shards),
            Err(Unprepared { stage, error }) => {
                if !is_of_the_other_end(&error) {
                    metrics::refused(stage);
                }
                tracing::debug!(address = %arrival.client, stage, %error, "a connection was refused before its request");
            }
        }
    });
    Ok(())
}

/// Whoever went away by itself, as a balancer that looks whether the port is open, was not refused.
fn is_of_the_other_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
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
    let (entrance, timeouts) = (&public.entrance, public.ground.settings().timeouts.clone());
    if let Some(proxies) = &entrance.proxies {
        let heard = hear_proxy(&mut socket, &arrival, proxies, accepted + timeouts.handshake).await;
        if let Some(client) = heard.map_err(|error| Unprepared { stage: "proxy_protocol", error })? {
            arrival.client = client.ip().to_canonical();
        }
    }
    match &entrance.tls {
        None => {
            let stream = Stream::plain(socket).map_err(|error| Unprepared { stage: "proxy_protocol", error })?;
            Ok((stream, arrival, accepted))
        }
        Some(tls) => {
            // Before what costs the most. There are no words for a refusal yet: to have some would cost just that.
            let turn = async {
                let queued = public.queue(arrival.client).await;
                queued.map_err(|refused| io::Error::new(io::ErrorKind::QuotaExceeded, refused.words))?;
                Ok(entrance.handshakes.acquire().await.ok()) // never closed
            };
            let encrypted = encrypt(socket, tls, timeouts.tls, turn).await.and_then(Stream::tls);
            let stream = encrypted.map_err(|error| match error.kind() {
                io::ErrorKind::QuotaExceeded => Unprepared { stage: "handshakes", error },
                _ => Unprepared { stage: "tls", error },
            })?;
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
