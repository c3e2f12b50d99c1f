//! The public listeners: sockets in, WebSockets on a shard out.

mod addresses;
mod admission;
mod arrival;
mod callers;
mod carrier;
mod connection;
mod content;
mod cors;
mod credentials;
mod detached;
mod echo;
mod encrypt;
mod forwarded;
mod framed;
mod goodbye;
pub mod handshake;
mod http;
mod listener;
pub mod origin;
mod output;
mod overload;
mod page;
mod parked;
mod passing;
mod poll;
mod prepare;
mod problem;
mod proxy_protocol;
mod publish;
mod requests;
mod route;
mod socket;
pub mod sockjs;
mod sse;
mod turnstile;
mod upgrade;
pub mod websocket;
mod wire;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio_util::sync::CancellationToken;

pub(crate) use self::encrypt::encrypt;
use self::{
    addresses::{Addresses, Block},
    arrival::Entrance,
    callers::Callers,
    overload::Overload,
    turnstile::Turnstile,
};
pub use self::{
    arrival::Arrival,
    connection::WebSocketLimits,
    listener::{ListenError, bind, listen},
    overload::watch,
    route::{ROUTES, Route},
};
use crate::{peers::Peers, session::Ground, shard::ShardHandle, tls::Tls};

/// What is spoken on a public listener with TLS, the preferred first (ALPN).
pub const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// What all public connections of a node share.
pub struct Public {
    /// What their sessions share.
    pub ground: Arc<Ground>,
    entrance: Entrance,
    /// Set when the node leaves: upgrades are refused from then on.
    draining: CancellationToken,
    websockets: AtomicUsize,
    addresses: Addresses,
    /// The sessions of SockJS that live here.
    sockjs: Arc<sockjs::Sessions>,
    /// Where the others live.
    peers: Arc<Peers>,
    turnstile: Turnstile,
    overload: Overload,
    callers: Callers,
}

impl Public {
    /// Open for everyone whom the settings let in; `tls` is what the listeners speak. Sessions of requests are served through
    /// `peers`.
    pub fn new(ground: Arc<Ground>, tls: Option<Arc<Tls>>, peers: Arc<Peers>) -> Self {
        let entrance = Entrance::new(tls, &ground.settings().public);
        let sockjs = Arc::new(sockjs::Sessions::default());
        peers.serve(sockjs.clone());
        Self {
            ground,
            entrance,
            draining: CancellationToken::new(),
            websockets: AtomicUsize::new(0),
            addresses: Addresses::default(),
            sockjs,
            peers,
            turnstile: Turnstile::new(),
            overload: Overload::default(),
            callers: Callers::new(),
        }
    }

    /// Refuses upgrades from now on, so that a balancer takes them elsewhere.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Whether the node leaves.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Cancelled once the node leaves.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Whether the node has what it needs to let clients in: a backplane that it has reached, and the secret that is
    /// kept there.
    pub fn is_ready(&self) -> bool {
        self.ground.seal.get().is_some()
    }

    /// WebSockets that are open now.
    pub fn websockets(&self) -> usize {
        self.websockets.load(Ordering::Relaxed)
    }

    /// What the node has too much of, in words: until that is over it lets nobody in.
    pub fn overload(&self) -> Option<&'static str> {
        self.overload.what(self.websockets())
    }
}

/// One of `limits.connections`, and of the `limits.connections_per_ip` of an address.
struct WebSocketSeat {
    public: Arc<Public>,
    block: Option<Block>,
}

impl Drop for WebSocketSeat {
    fn drop(&mut self) {
        self.public.websockets.fetch_sub(1, Ordering::Relaxed);
        if let Some(block) = self.block {
            self.public.addresses.leave(block);
        }
    }
}

/// One connection's weight on its shard, until it is dropped.
pub(super) struct Load(ShardHandle);

impl Load {
    fn on(shard: ShardHandle) -> Self {
        shard.connections().fetch_add(1, Ordering::Relaxed);
        Self(shard)
    }

    /// Another connection on the same shard.
    fn another(&self) -> Self {
        Self::on(self.0.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.connections().fetch_sub(1, Ordering::Relaxed);
    }
}
