//! What all sessions of a node share, and what may be exchanged under them while it runs.

use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};
use skywave_proto::CloseCode;
use tokio::runtime::Handle;

use super::{
    clients::{Clients, Seat},
    seal::Seal,
};
use crate::{auth::Authority, config::Settings, outbound::Outbound, shard::ShardHandle, webhooks::Webhooks};

/// What all sessions of a node share.
pub struct Ground {
    settings: ArcSwap<Settings>,
    /// The node's name.
    pub node: Arc<str>,
    /// Signs sessions; set before the first of them, once the cluster's secret is known.
    pub seal: OnceLock<Seal>,
    /// Who is connected here.
    pub clients: Clients,
    /// The node's shards, to reach a connection of another one.
    pub shards: Vec<ShardHandle>,
    /// Knows good tokens.
    pub authority: Authority,
    /// The user's back end.
    pub webhooks: Webhooks,
    /// Where what takes long is done: not on a shard's thread.
    pub(super) runtime: Handle,
}

impl Ground {
    /// For a node of this name; nobody is connected yet. The current runtime does what takes long.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(settings: Arc<Settings>, node: Arc<str>, shards: Vec<ShardHandle>) -> Self {
        let outbound = Outbound::of_system();
        let authority = Authority::new(&settings.auth.tokens, outbound.clone());
        let webhooks = Webhooks::start(&settings.webhooks, outbound, node.clone());
        let (settings, seal, clients) = (ArcSwap::new(settings), OnceLock::new(), Clients::default());
        Self { settings, node, seal, clients, shards, authority, webhooks, runtime: Handle::current() }
    }

    /// The settings in force: a look that costs nothing. Not to be held while something is awaited: clone it for that.
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// From now on these are in force.
    pub fn replace_settings(&self, settings: Arc<Settings>) {
        self.settings.store(settings);
    }

    /// A newer connection speaks for the client of this one.
    pub fn replace(&self, (shard, key): Seat) {
        self.shards[shard].run(move |shard| {
            if let Some(owner) = shard.owner(key) {
                owner.leave(CloseCode::Replaced.into());
            }
        });
    }
}
