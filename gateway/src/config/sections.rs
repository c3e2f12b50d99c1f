//! The sections of the file that belong to the node as a whole.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    address, count, duration, memory, network::Network, origin::Origin, secret::Secret, share, size, tls::TlsSettings,
    tokens::TokenSettings,
};

/// `[node]`: this process.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// What other nodes, metrics and clients call it: 1 to 64 letters, digits, `-`, `_` or `.`; no two nodes of a cluster
    /// alike. Default: the host name and four random letters, so that a restarted node is a new one.
    #[schemars(extend("x-default" = "the host name and four random letters"))]
    pub name: String,
    /// How many threads own connections; each has its own runtime. 0, the default: one for each core that this process
    /// may use.
    // After loading it is the number itself.
    #[schemars(extend("x-default" = "one for each core"))]
    pub shards: u16,
    /// Seals sessions, so that a client keeps its id on whichever node it comes back to: at least 32 bytes, the same on
    /// all nodes. Default: none, the node makes one.
    pub secret: Option<Secret>,
    /// A file with `secret`, read at start; a newline at its end does not count.
    pub secret_file: Option<PathBuf>,
    /// Where other nodes reach this one's internal listener, as `"10.0.0.7:8001"` or `"gw-1.example:8001"`: requests of a
    /// SockJS session go to the node that has it. With `internal.tls` its certificate has to be for that host. Default: the
    /// first of `internal.listen`; where that is all addresses, the one that the machine has towards Redis.
    #[schemars(extend("x-default" = "from `internal.listen`"))]
    pub advertise: Option<String>,
    /// How log lines are written. Default `text`: for people; `json` is for collectors.
    pub log: LogFormat,
}

/// The most shards that a node can have.
pub const MAX_SHARDS: u16 = 128;

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line, for collectors.
    Json,
}

/// `[public]`: the listener for clients.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PublicSettings {
    /// Addresses with ports; port 0 is a free one. Default `["0.0.0.0:8000"]`, in development mode
    /// `["127.0.0.1:8000"]`: what lets everybody in must not be seen from outside by accident.
    #[serde(with = "address::List")]
    pub listen: Vec<SocketAddr>,
    /// Web pages that may connect. Default: none listed, that is, only those without an `Origin` header (no browser) or
    /// from the host that they connect to; a page of somebody else's could otherwise use its visitors' cookies.
    pub origins: Vec<Origin>,
    /// Whether messages are compressed for clients that can inflate them (permessage-deflate). A publication is
    /// compressed once, whatever the number of its receivers, and no connection keeps a context. Default `true`.
    pub deflate: bool,
    /// Bytes from which a message is compressed. Default 512: shorter ones hardly shrink.
    #[serde(with = "size::Field")]
    pub deflate_threshold: usize,
    /// Addresses and networks of the proxies in front of the node, as `["10.0.0.0/8"]`. Only they are believed when they say
    /// whom they speak for: in the PROXY protocol, or in `X-Forwarded-For` or `Forwarded`, of which they must write one and
    /// let no other through. Default: none, the other end is the client.
    pub trusted_proxies: Vec<Network>,
    /// Whether a connection begins with a header of the PROXY protocol, before TLS. Default `off`; with `v2` every
    /// connection has to, and all that do not come from `trusted_proxies` are closed.
    pub proxy_protocol: ProxyProtocol,
    /// TLS on all of `listen`, with HTTP/2 and HTTP/1.1 inside. Default: none, something in front of the node ends it.
    pub tls: Option<TlsSettings>,
}

impl Default for PublicSettings {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 8000))],
            origins: Vec::new(),
            deflate: true,
            deflate_threshold: 512,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
            tls: None,
        }
    }
}

/// How a proxy says whom it speaks for, before anything else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// It does not.
    #[default]
    Off,
    /// In the binary form of the PROXY protocol.
    V2,
}

/// `[internal]`: the listener for back ends and operators.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InternalSettings {
    /// Addresses with ports; port 0 is a free one. Default `["127.0.0.1:8001"]`: metrics need no key, so who may reach
    /// them is for the operator to say.
    #[serde(with = "address::List")]
    pub listen: Vec<SocketAddr>,
    /// TLS on all of `listen`; with `client_ca` also metrics and probes need a certificate. Default: none.
    pub tls: Option<TlsSettings>,
}

impl Default for InternalSettings {
    fn default() -> Self {
        Self { listen: vec![SocketAddr::from(([127, 0, 0, 1], 8001))], tls: None }
    }
}

/// `[auth]`: who may connect.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// Whether clients without credentials may connect. They get what their namespaces give to `anyone`. Default `false`,
    /// in development mode `true`.
    pub anonymous: bool,
    /// Whose tokens are believed.
    pub tokens: TokenSettings,
}

/// `[demo]`: the pages at `/demo/`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DemoSettings {
    /// Whether they are served on the public listener. Default `false`, in development mode `true`.
    pub enabled: bool,
}

/// `[limits]`: the bound of everything that a stranger can grow.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of the whole node; the next is refused with 503. 0, the default, is none (`None`): the machine decides.
    #[serde(with = "count::OrNone")]
    pub connections: Option<NonZeroU32>,
    /// Connections of one address, on this node; the next is refused with 429. An IPv6 address stands for its /64, which one
    /// subscriber has to himself. Only those are counted that are opened while there is a limit. 0, the default, is none
    /// (`None`): a whole company may have one address.
    #[serde(with = "count::OrNone")]
    pub connections_per_ip: Option<NonZeroU32>,
    /// Connections of one user, on this node; the next is closed with 4505. One that the same client has left behind does not
    /// count. 0, the default, is none (`None`): people have many pages open.
    #[serde(with = "count::OrNone")]
    pub connections_per_user: Option<NonZeroU32>,
    /// Handshakes of the whole node in a second; over TLS each TLS handshake is one, and each further WebSocket in it. What comes
    /// faster waits its turn for up to a second, one address with at most a quarter of the places; what would wait longer is
    /// refused with 503. A tenth of a second's worth may come at once. 0 is none (`None`). Default 500, in development mode
    /// none: a handshake costs as much CPU as a hundred deliveries.
    #[serde(with = "count::OrNone")]
    pub handshakes_per_second: Option<NonZeroU32>,
    /// Subscriptions of one connection; 0 is none (`None`). Each costs some hundred bytes on its shard. Default 128.
    #[serde(with = "count::OrNone")]
    pub channels_per_connection: Option<NonZeroU32>,
    /// Channels that one connection names in a minute and did not name before: subscriptions that it opens, and what it does on
    /// channels that it is not subscribed to, beyond the last 32 of these. A minute's worth may come at once. More is refused
    /// with `limit`. 0 is none (`None`). Default 600, in development mode none: each new channel with a history is a line
    /// in it.
    #[serde(with = "count::OrNone")]
    pub new_channels_per_minute: Option<NonZeroU32>,
    /// Commands of one connection in a second, pings among them; a second's worth may come at once. More is refused with
    /// `limit`, which says when the next one fits; whoever is refused what would have filled five seconds is closed with 4007.
    /// 0 is none (`None`). Default 200, in development mode none.
    #[serde(with = "count::OrNone")]
    pub commands_per_second: Option<NonZeroU32>,
    /// The same of publications, which are commands too. On `/raw`, which has no words to refuse with, one too many closes. 0 is
    /// none (`None`). Default 100, in development mode none: more than a hand that moves.
    #[serde(with = "count::OrNone")]
    pub publications_per_second: Option<NonZeroU32>,
    /// The same of bytes in messages from one connection, after decompression. A message that is larger than this is taken when
    /// nothing came for a second, and paid for afterwards. 0 is none (`None`). Default 1 MiB, in development mode none.
    #[serde(with = "size::OrNone")]
    pub bytes_per_second: Option<NonZeroUsize>,
    /// Bytes of one message from a client, all its frames together, after decompression. A connection holds at most this
    /// much of an unfinished one. Default 1 MiB.
    #[serde(with = "size::Field")]
    pub message_bytes: usize,
    /// Bytes of one frame from a client. Default 1 MiB: as `message_bytes`, so that a message may come in one frame.
    #[serde(with = "size::Field")]
    pub frame_bytes: usize,
    /// Frames that one message may come in, the empty ones too; 0 is any number (`None`). Default 1024: a client that
    /// sends a byte at a time costs more than it says.
    #[serde(with = "count::OrNone")]
    pub fragments: Option<NonZeroU32>,
    /// Bytes of one publication's payload; at most `message_bytes`, in which it travels. Every node and the history hold
    /// it. Default 64 KiB.
    #[serde(with = "size::Field")]
    pub publication_bytes: usize,
    /// Bytes that wait for one connection beyond what its socket took; then it is a slow consumer. Times the connections
    /// this is what the node may need. Default 1 MiB: some seconds of a busy channel.
    #[serde(with = "size::Field")]
    pub outbox_bytes: usize,
    /// Bytes that wait for all connections of the node together; beyond that the longest queues are slow consumers. 0 is
    /// none (`None`). Default a quarter of the memory that the process may use, that is of its control group's limit or
    /// of the machine's: a quarter is left to connections, one to history, one to all else.
    #[serde(with = "size::OrNone")]
    #[schemars(extend("x-default" = "a quarter of the memory"))]
    pub node_outbox_bytes: Option<NonZeroUsize>,
    /// Bytes of recent publications that the node keeps itself, of all channels with history together, the longest unused
    /// ones going first: what a client that comes back after a moment missed then costs Redis nothing. Only over Redis.
    /// Default 256 MiB.
    #[serde(with = "size::Field")]
    pub node_ring_bytes: usize,
    /// The part of its memory, from 0 to 1, beyond which the node refuses handshakes with 503 and says so at `/readyz`, until it is
    /// 0.05 below: of its control group's limit, where that can be reclaimed does not count, or of the machine's. 0 is
    /// never. Default 0.9, in development mode never: those who are connected need the rest.
    #[serde(with = "share::Field")]
    pub overload_memory: f64,
    /// The same of how late a shard is with what it is asked to do, until it is half of this. `"0s"` is never. Default 1 s, in
    /// development mode never: no client waits that long gladly, and one more makes it longer for all.
    #[serde(with = "duration::Field")]
    pub overload_lag: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_ip: None,
            connections_per_user: None,
            handshakes_per_second: NonZeroU32::new(500),
            channels_per_connection: NonZeroU32::new(128),
            new_channels_per_minute: NonZeroU32::new(600),
            commands_per_second: NonZeroU32::new(200),
            publications_per_second: NonZeroU32::new(100),
            bytes_per_second: NonZeroUsize::new(1 << 20),
            message_bytes: 1 << 20,
            frame_bytes: 1 << 20,
            fragments: NonZeroU32::new(1024),
            publication_bytes: 64 << 10,
            outbox_bytes: 1 << 20,
            node_outbox_bytes: NonZeroUsize::new(usize::try_from(memory::available() / 4).unwrap_or(usize::MAX)),
            node_ring_bytes: 256 << 20,
            overload_memory: 0.9,
            overload_lag: Duration::from_secs(1),
        }
    }
}

/// `[timeouts]`: how long a client may take. All but `session_grace` are more than 0.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From accept to the end of the TLS handshake, where the listener speaks TLS. Default 5 s, as `handshake`.
    #[serde(with = "duration::Field")]
    pub tls: Duration,
    /// From accept, or from the end of the TLS handshake, to the end of the request's head; and how long a connection may
    /// stay without a request after that. Default 5 s: slow networks need less, and who sends byte by byte holds a
    /// connection this long.
    #[serde(with = "duration::Field")]
    pub handshake: Duration,
    /// From the upgrade to `connect`, where anonymous clients may not stay. Default 10 s: the client may first have to
    /// fetch a token.
    #[serde(with = "duration::Field")]
    pub connect: Duration,
    /// Silence from the client before it is pinged. Default 25 s: under the 60 s idle timeout common among proxies, and
    /// under 30 s for the stricter.
    #[serde(with = "duration::Field")]
    pub ping_interval: Duration,
    /// From a ping to any sign of life; then the connection is given up. Default 10 s: a mobile network may be away for
    /// some seconds.
    #[serde(with = "duration::Field")]
    pub pong: Duration,
    /// From our close frame to the client's; then the connection is cut. Default 3 s.
    #[serde(with = "duration::Field")]
    pub close: Duration,
    /// From the first byte of a message to its last; then the connection is closed. Default 30 s: 1 MiB over 280 kbit/s.
    #[serde(with = "duration::Field")]
    pub message: Duration,
    /// How old a connection may become. Default: as old as it likes.
    pub connection_age: ConnectionAge,
    /// How long a client that vanished counts as present, so that a network that was away for a moment is no leave and join. A leave after
    /// a crash is seen this much later. Default 5 s; `"0s"`: at once.
    #[serde(with = "duration::Field")]
    pub session_grace: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tls: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            connect: Duration::from_secs(10),
            ping_interval: Duration::from_secs(25),
            pong: Duration::from_secs(10),
            close: Duration::from_secs(3),
            message: Duration::from_secs(30),
            connection_age: ConnectionAge::default(),
            session_grace: Duration::from_secs(5),
        }
    }
}

/// `timeouts.connection_age`: when a connection has to come back, to this node or another.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionAge {
    /// From the upgrade until the client is asked to connect again (4005; on `/raw` 1012). Default `"0s"`: never. With it nodes that
    /// were added get their share in time, and a balancer that reloads finds no tunnel older than this and its jitter.
    #[serde(with = "duration::Field")]
    pub max: Duration,
    /// Each connection gets an age of its own within this part of `max`, above or below: those that came together do not all come
    /// back together. From 0 to 1; default `0.2`.
    #[serde(with = "share::Field")]
    pub jitter: f64,
}

impl Default for ConnectionAge {
    fn default() -> Self {
        Self { max: Duration::ZERO, jitter: 0.2 }
    }
}

impl ConnectionAge {
    /// The age that one connection may reach; `None`: any. `random` is from 0 to 1.
    pub fn choose(&self, random: f64) -> Option<Duration> {
        (!self.max.is_zero()).then(|| self.max.mul_f64(1.0 + self.jitter * (2.0 * random - 1.0)))
    }
}

/// `[debug]`: for those who test a node.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DebugSettings {
    /// Whether `/echo` sends every message back, to whoever connects, without a session. Default `false`.
    pub echo: bool,
}

/// `[drain]`: how the node leaves.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSettings {
    /// From the signal until the listeners close. Default 5 s: a balancer must first see that `/readyz` is red.
    #[serde(with = "duration::Field")]
    pub grace: Duration,
    /// Within it, counted from the end of `grace`, the connections leave one after the other, evenly. Default 60 s, or as much of it
    /// as `deadline` leaves: 10,000 connections are 167 handshakes a second for the other nodes. Also for those that `drain --down-to-mean` sends away.
    #[serde(with = "duration::Field")]
    pub window: Duration,
    /// Instead of `window`: how many connections leave in a second, however long that takes, up to `deadline`. Default `0`: as
    /// `window` says.
    #[serde(with = "count::OrNone")]
    pub rate: Option<NonZeroU32>,
    /// From the signal until who is still here is cut; at least `grace`, and `window` where that is set, together. Default 90 s: an orchestrator must
    /// wait longer before it kills.
    #[serde(with = "duration::Field")]
    pub deadline: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        let [grace, window, deadline] = [5, 60, 90].map(Duration::from_secs);
        Self { grace, window, rate: None, deadline }
    }
}
