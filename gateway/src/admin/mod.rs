//! The internal listener: the server API for back ends, metrics and probes for operators.

mod api;
mod connection;
mod guard;
mod health;
mod http;
mod openapi;
mod problem;

use std::sync::{Arc, atomic::Ordering};

use metrics_exporter_prometheus::PrometheusHandle;
use skywave_backplane::BackplaneState;
use tokio::sync::Semaphore;

pub use self::http::{PROTOCOLS, ROUTES, Served, serve};
use crate::{control::Control, peers::Peers, relay::Relay, session::Ground, transport::Public};

/// What the internal listener needs of the node.
pub struct Internal {
    /// What sessions share: settings and shards.
    pub ground: Arc<Ground>,
    /// The way to the backplane.
    pub relay: Relay,
    /// The way to other nodes' clients.
    pub control: Arc<Control>,
    /// Tells whether the node leaves.
    pub public: Arc<Public>,
    /// What other nodes ask of this one.
    pub peers: Arc<Peers>,
    /// The places of tails.
    tails: Arc<Semaphore>,
    /// Renders the metrics; `None` where another node of this process records them.
    pub metrics: Option<PrometheusHandle>,
}

impl Internal {
    /// Of a node's parts.
    pub fn new(
        ground: Arc<Ground>,
        relay: Relay,
        control: Arc<Control>,
        public: Arc<Public>,
        peers: Arc<Peers>,
        metrics: Option<PrometheusHandle>,
    ) -> Self {
        Self { ground, relay, control, public, peers, tails: api::tail_places(), metrics }
    }

    /// Why the node takes no clients, if it takes none: it starts or leaves, never that a backplane that was there is away.
    /// That must not empty the service.
    fn not_ready(&self) -> Option<&'static str> {
        if self.public.is_draining() {
            Some("draining")
        } else if self.relay.state() == BackplaneState::Never || !self.public.is_ready() {
            if self.ground.is_foreign.load(Ordering::Relaxed) {
                return Some(
                    "the backplane's keys are of a format that this version does not understand: its log says more",
                );
            }
            Some("the backplane has not been reached yet")
        } else {
            self.public.overload()
        }
    }
}
