//! One node: builds the parts, owns their tasks, stops them in order.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use skywave_backplane::{
    Any, Durability, Generation, Memory, Needs, NodeInfo, Presence as _, Redis, RedisOptions, RedisOptionsError, Sink,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Internal},
    clock::now_ms,
    config::{Files, Loader, RedisUrl, Secret, Settings, TlsError, TlsSettings},
    control::{self, Control},
    leaving::Leaving,
    metrics,
    peers::{self, Peers},
    relay::{Answers, Mailbox, Relay, Routes},
    reload::{self, Exchange},
    session::{Ground, Seal},
    shard::{Backlog, ShardHandle, ShardSpawnError},
    tls::{self, Tls},
    transport::{self, ListenError, Public},
};

/// How long leaving the backplane may take at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a drain looks whether everybody has left.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often the log says how far a drain is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How often the cluster's secret is asked for while it cannot be read.
const SECRET_INTERVAL: Duration = Duration::from_secs(1);
/// How often histograms are emptied into their buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The backplane's URL is of no use.
    #[error("backplane.url")]
    Backplane(#[from] RedisOptionsError),
    /// The TLS files of a listener have become useless since the settings were read.
    #[error("{section}.tls.{}", source.setting)]
    Tls {
        /// `public` or `internal`.
        section: &'static str,
        /// What is wrong with them.
        source: TlsError,
    },
    /// No thread for a shard.
    #[error(transparent)]
    Shard(#[from] ShardSpawnError),
}

/// A running node.
pub struct Node {
    public: Arc<Public>,
    peers: Arc<Peers>,
    exchange: Arc<Exchange>,
    routes: Arc<Routes>,
    leaving: Arc<Leaving>,
    shards: Vec<ShardHandle>,
    threads: Vec<JoinHandle<()>>,
    public_addresses: Vec<SocketAddr>,
    internal_addresses: Vec<SocketAddr>,
    /// Closes the public listeners.
    closing: CancellationToken,
    /// Closes the internal ones, last of all.
    gone: CancellationToken,
    /// The backplane, where it has to be left in good order.
    redis: Option<Redis>,
    /// Cancelled once a back end has ordered the node to leave.
    leave: CancellationToken,
}

impl Node {
    /// Starts a node on the current runtime: binds its listeners, then joins the backplane, which may take its time.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(settings: Settings, metrics: Option<PrometheusHandle>) -> Result<Self, StartError> {
        let redis = redis_options(&settings)?;
        let (public_tls, public_watch) = open_tls("public", settings.public.tls.as_ref(), &transport::PROTOCOLS)?;
        let (internal_tls, internal_watch) = open_tls("internal", settings.internal.tls.as_ref(), &admin::PROTOCOLS)?;
        let public_listeners = bind_all(&settings.public.listen)?;
        let internal_listeners = bind_all(&settings.internal.listen)?;
        let settings = Arc::new(settings);
        settings.namespaces().for_each(|(namespace, _)| metrics::describe_namespace(namespace));

        let (shards, seats): (Vec<_>, Vec<_>) = (0..usize::from(settings.node.shards)).map(ShardHandle::new).unzip();
        let mailboxes: Arc<[Arc<dyn Mailbox>]> =
            shards.iter().map(|shard| Arc::new(shard.clone()) as Arc<dyn Mailbox>).collect();
        let (routes, signals) = Routes::new(mailboxes.clone());
        let routes = Arc::new(routes);
        let ground = Arc::new(Ground::new(settings.clone(), settings.node.name.as_str().into(), shards.clone()));
        let told = ground.clone();
        routes.hear_transitions(move |channel, transition| control::tell(&told, channel, transition));
        let (backplane, redis) = open_backplane(redis, routes.clone());
        // At once: as soon as it is reached, it may find a dead node, whose members leave.
        backplane.tell_transitions(ground.webhooks.wants_members());
        let relay = Relay::start(backplane, routes.clone(), Answers::new(mailboxes));
        let backlog = Backlog::new(seats.len(), settings.limits.node_outbox_bytes);
        let threads =
            seats.into_iter().map(|seat| seat.spawn(relay.clone(), backlog.clone())).collect::<Result<_, _>>()?;

        find_secret(ground.clone(), redis.clone());
        let (closing, gone) = (CancellationToken::new(), CancellationToken::new());
        let peers = Peers::new(ground.clone(), relay.clone());
        tokio::spawn(peers.clone().run(gone.clone()));
        let public = Arc::new(Public::new(ground.clone(), public_tls, peers.clone()));
        let exchange = Arc::new(Exchange::new(ground.clone(), relay.clone()));
        let leaving = Arc::new(Leaving::new(shards.clone()));
        let control = Control::new(ground.clone(), relay.clone(), leaving.clone());
        tokio::spawn(control.clone().run(signals, gone.clone()));
        tokio::spawn(control.clone().keep_revocations(gone.clone()));
        tokio::spawn(control.clone().enforce_revocations(gone.clone()));
        let advertise = Arc::<OnceLock<Arc<str>>>::default();
        if let Some((listener, _)) = internal_listeners.first() {
            tokio::spawn(peers::find_address(settings.clone(), *listener, advertise.clone(), gone.clone()));
        }
        let info = node_info(public.clone(), routes.clone(), advertise);
        tokio::spawn(control::announce(relay.clone(), info, gone.clone()));
        for watch in [public_watch, internal_watch].into_iter().flatten() {
            tokio::spawn(watch.run(gone.clone()));
        }
        tokio::spawn(transport::watch(public.clone(), gone.clone()));
        let leave = control.leave().clone();
        let internal = Arc::new(Internal::new(ground, relay, control, public.clone(), peers.clone(), metrics.clone()));

        let mut node = Self {
            public,
            peers,
            exchange,
            routes,
            leaving,
            shards,
            threads,
            public_addresses: Vec::new(),
            internal_addresses: Vec::new(),
            closing,
            gone,
            redis,
            leave,
        };
        let shards: Arc<[ShardHandle]> = node.shards.clone().into();
        for (address, listener) in public_listeners {
            node.public_addresses.push(address);
            let (public, shards) = (node.public.clone(), shards.clone());
            tokio::spawn(transport::listen(listener, public, shards, node.closing.clone()));
        }
        for (address, listener) in internal_listeners {
            node.internal_addresses.push(address);
            tokio::spawn(admin::serve(listener, internal.clone(), internal_tls.clone(), node.gone.clone()));
        }
        if let Some(metrics) = metrics {
            tokio::spawn(keep_metrics(metrics, node.gone.clone()));
        }
        Ok(node)
    }

    /// Where clients connect.
    pub fn public_addresses(&self) -> &[SocketAddr] {
        &self.public_addresses
    }

    /// Where back ends and operators connect.
    pub fn internal_addresses(&self) -> &[SocketAddr] {
        &self.internal_addresses
    }

    /// Keeps the settings as new as what they were loaded from, until the node has left: see [`reload`]. `loaded` is what the
    /// settings of [`Node::start`] were read from.
    pub fn follow(&self, loader: Loader, loaded: Files) {
        let watch = reload::Watch::new(loader, loaded, self.exchange.clone());
        tokio::spawn(watch.run(self.gone.clone()));
    }

    /// The way to put other settings in force.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// Returns once a back end has ordered the node to leave; [`Node::drain`] is what to do then.
    ///
    /// # Cancel safety
    /// Cancel-safe: only waits.
    pub async fn asked_to_leave(&self) {
        self.leave.cancelled().await;
    }

    /// The way to other nodes' sessions: with it a test can play a session.
    #[doc(hidden)]
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// What the backplane delivers to: with it a test can play a backplane that has bad days.
    #[doc(hidden)]
    pub fn sink(&self) -> Arc<dyn Sink> {
        self.routes.clone()
    }

    /// Leaves: refuses upgrades at once, closes the listeners after `drain.grace`, asks one connection after the other to go
    /// elsewhere, waits for them until `drain.deadline` and cuts the rest.
    ///
    /// # Cancel safety
    /// Dropping the future cuts everybody at once.
    pub async fn drain(mut self) {
        let settings = Arc::clone(&self.public.ground.settings());
        let (drain, connections) = (&settings.drain, self.public.websockets());
        tracing::info!(connections, "draining");
        metrics::draining();
        self.public.drain();
        let lead_out = async {
            tokio::time::sleep(drain.grace).await;
            self.closing.cancel();
            // The last has to be asked early enough to say goodbye before it is cut.
            let at_most = drain.deadline.saturating_sub(drain.grace + settings.timeouts.close);
            self.leaving.drain(drain, at_most).await;
            while self.public.websockets() > 0 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            () = lead_out => {}
            () = tokio::time::sleep(drain.deadline) => {}
            () = self.tell_progress(connections) => {}
        }
        let cut = self.public.websockets();
        metrics::drain_cut(cut);
        metrics::drain_remaining(0);
        tracing::info!(left = connections.saturating_sub(cut), cut, "stopped");
        // They end first, so that the back end is told of them, too.
        self.cut();
        // What was published still goes out, and whoever does not come back elsewhere leaves when the grace is over.
        if let Some(redis) = &self.redis {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, redis.close()).await;
        }
        self.public.ground.webhooks.close(CLOSE_TIMEOUT).await;
        self.gone.cancel();
    }

    /// Tells metrics and log who is still here, for as long as it is polled.
    async fn tell_progress(&self, connections: usize) {
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL / 10);
        for tick in 1_u32.. {
            ticks.tick().await;
            let remaining = self.public.websockets();
            metrics::drain_remaining(remaining);
            if tick % 10 == 0 {
                tracing::info!(left = connections.saturating_sub(remaining), remaining, "draining");
            }
        }
    }

    /// Ends every connection, and the shards with them.
    fn cut(&mut self) {
        self.closing.cancel();
        self.shards.iter().for_each(ShardHandle::stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a shard's thread has panicked");
            }
        }
    }
}

/// What other nodes are told about this one.
fn node_info(
    public: Arc<Public>,
    routes: Arc<Routes>,
    advertise: Arc<OnceLock<Arc<str>>>,
) -> impl Fn() -> NodeInfo + Send {
    let started_at_ms = now_ms();
    move || NodeInfo {
        name: public.ground.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at_ms,
        connections: public.websockets() as u64,
        channels: routes.channels() as u64,
        advertise: advertise.get().cloned().unwrap_or_default(),
        leaving: public.is_draining(),
    }
}

fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<(SocketAddr, tokio::net::TcpListener)>, ListenError> {
    let bind = |address: &SocketAddr| {
        let listener = transport::bind(*address)?;
        Ok((listener.local_addr().unwrap_or(*address), listener))
    };
    addresses.iter().map(bind).collect()
}

type WatchedTls = (Option<Arc<Tls>>, Option<tls::Watch>);

fn open_tls(
    section: &'static str,
    settings: Option<&TlsSettings>,
    protocols: &'static [&'static str],
) -> Result<WatchedTls, StartError> {
    let opened = settings.map(|settings| Tls::open(section, settings, protocols)).transpose();
    Ok(opened.map_err(|source| StartError::Tls { section, source })?.unzip())
}

/// Where Redis is, if the backplane is there.
fn redis_options(settings: &Settings) -> Result<Option<RedisOptions>, RedisOptionsError> {
    let backplane = &settings.backplane;
    let urls: Vec<_> = backplane.redis().iter().map(RedisUrl::reveal).collect();
    if urls.is_empty() {
        return Ok(None);
    }
    let password = backplane.password.as_ref().map(Secret::reveal);
    let (username, node) = (backplane.username.as_deref(), &settings.node.name);
    let sentinel_password = backplane.sentinel_password.as_ref().map(Secret::reveal);
    let mut options = RedisOptions::parse_all(&urls, &backplane.prefix, username, password, node)?
        .with_sentinel_credentials(backplane.sentinel_username.as_deref(), sentinel_password)
        .with_generation(backplane.generation)
        .with_ring_bytes(settings.limits.node_ring_bytes)
        .with_session_grace(settings.timeouts.session_grace)
        .with_needs(Needs {
            history: settings.namespaces().any(|(_, namespace)| namespace.history.is_some()),
            replicas: settings.namespaces().any(|(_, namespace)| namespace.durability != Durability::Accepted),
        });
    if let Some(authorities) = &backplane.ca {
        options = options.with_ca(authorities.pem())?;
    }
    if backplane.generation == Generation::Connection {
        tracing::warn!(
            "backplane.generation = \"connection\": every new connection to redis counts as another master, so each time \
             every channel begins a new epoch and costs a look into its history; use it only where redis hides its \
             replication id and its run id"
        );
    }
    Ok(Some(options))
}

fn open_backplane(redis: Option<RedisOptions>, sink: Arc<dyn Sink>) -> (Any, Option<Redis>) {
    let Some(options) = redis else {
        metrics::embedded_backplane();
        return (Any::Memory(Memory::new(sink)), None);
    };
    let redis = Redis::new(options, sink);
    (Any::Redis(redis.clone()), Some(redis))
}

/// Finds the secret that sessions are sealed with: the configured one, the one that the cluster shares through its
/// backplane, or, for a node alone, a fresh one. Clients are let in once it is known.
fn find_secret(ground: Arc<Ground>, redis: Option<Redis>) {
    let found = |secret: &[u8]| drop(ground.seal.set(Seal::new(secret)));
    match (&ground.settings().node.secret, redis) {
        (Some(secret), None) => found(secret.reveal().as_bytes()),
        (None, None) => found(&rand::random::<[u8; 32]>()),
        (_, Some(redis)) => {
            tokio::spawn(async move {
                // Asked for in any case: whoever has the answer has reached the backplane.
                let shared = loop {
                    match redis.shared_secret().await {
                        Ok(shared) => break shared,
                        Err(error) => tracing::error!(%error, "the cluster's secret cannot be read, trying again"),
                    }
                    tokio::time::sleep(SECRET_INTERVAL).await;
                };
                let settings = ground.settings();
                let secret = settings.node.secret.as_ref();
                let seal = secret.map_or_else(|| Seal::new(&shared), |secret| Seal::new(secret.reveal().as_bytes()));
                let _ = ground.seal.set(seal); // nobody else sets it
            });
        }
    }
}

async fn keep_metrics(metrics: PrometheusHandle, gone: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                metrics.run_upkeep();
                let _ = tokio::task::spawn_blocking(metrics::collect_process).await; // the next one will do
            }
            () = gone.cancelled() => return,
        }
    }
}
