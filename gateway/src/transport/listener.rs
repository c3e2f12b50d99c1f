//! The accept loop.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Public, arrival};
use crate::shard::ShardHandle;

/// Sockets that the kernel holds until they are accepted; it takes less if `net.core.somaxconn` is smaller.
const BACKLOG: i32 = 4096;
/// After an accept that failed for want of something (descriptors, memory): waiting is all that helps.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Unsent bytes that the kernel takes ahead of the wire: with its default a client that never reads would park
/// megabytes there, out of sight of the outbox.
const NOTSENT_LOWAT: u32 = 16 * 1024;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (choose another with --listen or --internal-listen)")]
pub struct ListenError {
    /// Which.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// Binds a listening socket.
///
/// # Errors
/// [`ListenError`] if the address is taken or is not this machine's.
pub fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bound = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bound().map_err(|source| ListenError { address, source })
}

/// Accepts until `closed`. The listener is closed when this returns.
///
/// # Cancel safety
/// Cancel-safe: an accepted socket is handed over at once.
pub async fn listen(listener: TcpListener, public: Arc<Public>, shards: Arc<[ShardHandle]>, closed: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return,
        };
        let handed_over = accepted.and_then(|(socket, peer)| {
            tune(&socket)?;
            arrival::take_in(socket, peer, &public, &shards)
        });
        if let Err(error) = handed_over
            && !is_of_one_connection(&error)
        {
            tracing::warn!(%error, "cannot accept connections, waiting");
            tokio::time::sleep(BACK_OFF).await;
        }
    }
}

fn tune(socket: &tokio::net::TcpStream) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(35)))
}

/// The other end gave up before it was accepted: nothing is wrong here.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected)
}
