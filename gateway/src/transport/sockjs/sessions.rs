//! The sessions of this node, for requests of any shard and of other nodes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::session::{Attach, Delivery, Inbox};
use crate::peers::{Host, Peers, SendRefused, SessionId, Unknown, Want};

/// Receivers that have come and were not answered yet, of one session.
const ORDERS: usize = 8;
/// Requests with messages that wait for one before them, of one session. A browser has one under way.
const DELIVERIES: usize = 4;

/// See the module. Bound: each holds one of the node's seats (`limits.connections`).
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<SessionId, Handle>>);

#[derive(Clone)]
struct Handle {
    orders: mpsc::Sender<Attach>,
    deliveries: mpsc::Sender<Delivery>,
    lost: Arc<Notify>,
}

/// A place among the sessions, until it is dropped.
pub(super) struct Place {
    id: SessionId,
    sessions: Arc<Sessions>,
    peers: Arc<Peers>,
}

impl Sessions {
    /// Makes a place for a session that the directory has given to this node; `None` if it has one.
    pub(super) fn enter(self: &Arc<Self>, id: SessionId, peers: &Arc<Peers>) -> Option<(Place, Inbox)> {
        let (orders, ordered) = mpsc::channel(ORDERS);
        let (deliveries, delivered) = mpsc::channel(DELIVERIES);
        let lost = Arc::new(Notify::new());
        match self.0.lock().entry(id) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => vacant.insert(Handle { orders, deliveries, lost: lost.clone() }),
        };
        let place = Place { id, sessions: self.clone(), peers: peers.clone() };
        Some((place, Inbox { orders: ordered, deliveries: delivered, lost }))
    }

    fn handle(&self, id: SessionId) -> Option<Handle> {
        self.0.lock().get(&id).cloned()
    }

    /// Whether a session is here.
    pub(super) fn has(&self, id: SessionId) -> bool {
        self.0.lock().contains_key(&id)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.0.lock().remove(&self.id);
        self.peers.release(self.id);
    }
}

#[tonic::async_trait]
impl Host for Sessions {
    async fn receive(&self, session: SessionId, want: Want) -> Result<mpsc::Receiver<Bytes>, Unknown> {
        let handle = self.handle(session).ok_or(Unknown)?;
        let (frames, receiver) = mpsc::channel(1);
        handle.orders.send(Attach { want, frames }).await.map_err(|_| Unknown)?;
        Ok(receiver)
    }

    async fn send(&self, session: SessionId, messages: Vec<Bytes>) -> Result<(), SendRefused> {
        let handle = self.handle(session).ok_or(SendRefused::Unknown)?;
        let (done, is_done) = oneshot::channel();
        handle.deliveries.try_send(Delivery { messages, done }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendRefused::Full,
            mpsc::error::TrySendError::Closed(_) => SendRefused::Unknown,
        })?;
        is_done.await.map_err(|_| SendRefused::Unknown)
    }

    fn lost(&self, session: SessionId) {
        if let Some(handle) = self.handle(session) {
            handle.lost.notify_one();
        }
    }
}
