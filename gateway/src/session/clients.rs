//! Which connection of this node speaks for which client.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

/// Client id -> its newest connection on this node. Bound: the connections of the node. The lock is held for one
/// look-up.
#[derive(Debug, Default)]
pub struct Clients(Mutex<HashMap<Arc<str>, Seat, ahash::RandomState>>);

/// A connection: its shard and its key there.
pub type Seat = (usize, u64);

impl Clients {
    /// This connection speaks for the client now. Returns the one that did.
    pub fn claim(&self, client: &Arc<str>, seat: Seat) -> Option<Seat> {
        self.0.lock().insert(client.clone(), seat)
    }

    /// The connection has ended. Nothing happens if another one speaks for the client by now.
    pub fn release(&self, client: &str, seat: Seat) {
        let mut clients = self.0.lock();
        if clients.get(client) == Some(&seat) {
            clients.remove(client);
        }
    }
}
