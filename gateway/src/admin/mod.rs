//! The internal listener: the server API for back ends, metrics and probes for operators.

mod api;
mod guard;
mod http;
mod problem;

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;

pub use self::http::{PROTOCOLS, serve};
use crate::{control::Control, relay::Relay, session::Ground, transport::Public};

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
    /// Renders the metrics; `None` where another node of this process records them.
    pub metrics: Option<PrometheusHandle>,
}
