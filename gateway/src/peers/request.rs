//! What a node asks of the others.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use skywave_backplane::Ownership as _;
use skywave_proto::v1::{SendRequest, send_response};
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Frames, Host, Known, Owner, Peer, PeerError, SessionId, Want,
    claims::Claims,
    inlet,
    link::{Lease, Link, NotThere, Own},
    numbers::Numbers,
    proof::ID_BYTES,
    service::{PROOFS, Remembered},
    trust::Trust,
    whereabouts::Whereabouts,
};
use crate::{
    metrics::{self, PeerOutcome},
    relay::Relay,
    session::Ground,
};

/// How long the owner may take to answer to one try.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often messages are handed over, at most.
const TRIES: usize = 2;
/// Messages of clients that are on their way to other nodes at the same time, in requests. Full: refused.
const SENDS: usize = 4096;

/// The other nodes, for whoever got a request of a session, and what they may ask of this one.
pub struct Peers {
    pub(super) ground: Arc<Ground>,
    pub(super) relay: Relay,
    host: RwLock<Option<Arc<dyn Host>>>,
    pub(super) claims: Claims,
    pub(super) remembered: Remembered,
    /// The places of proofs that are under way.
    pub(super) proofs: Arc<Semaphore>,
    pub(super) whereabouts: Whereabouts,
    /// By incarnation. Bound: the nodes that are alive.
    links: Mutex<HashMap<Arc<str>, Arc<Link>>>,
    sends: Semaphore,
    numbers: Numbers,
    process: [u8; ID_BYTES],
    trust: Trust,
    pub(super) runtime: Handle,
}

impl Peers {
    /// For a node.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(ground: Arc<Ground>, relay: Relay) -> Arc<Self> {
        let trust = Trust::new(ground.settings().internal.tls.clone());
        Arc::new(Self {
            ground,
            relay,
            host: RwLock::default(),
            claims: Claims::default(),
            remembered: Remembered::default(),
            proofs: Arc::new(Semaphore::new(PROOFS)),
            whereabouts: Whereabouts::default(),
            links: Mutex::default(),
            sends: Semaphore::new(SENDS),
            numbers: Numbers::default(),
            process: rand::random(),
            trust,
            runtime: Handle::current(),
        })
    }

    /// Who serves the sessions of this node from now on: the transports, or whoever stands in for them.
    pub fn serve(&self, host: Arc<dyn Host>) {
        *self.host.write() = Some(host);
    }

    pub(super) fn host(&self) -> Option<Arc<dyn Host>> {
        self.host.read().clone()
    }

    /// Keeps this node's claims until it is gone.
    pub async fn run(self: Arc<Self>, gone: CancellationToken) {
        tokio::select! {
            () = self.keep_claims() => {}
            () = gone.cancelled() => {}
        }
    }

    /// Who has a session. Never "nobody" for one that [`Peers::claim`] has given and [`Peers::release`] not taken.
    ///
    /// # Errors
    /// [`PeerError::Unavailable`] when the backplane is away.
    /// # Cancel safety
    /// Cancel-safe: only reads.
    pub async fn owner(&self, session: SessionId) -> Result<Owner, PeerError> {
        if self.claims.has(session) {
            return Ok(Owner::Here);
        }
        let owner = self.relay.backplane().owner(session.key()).await.map_err(|_| PeerError::Unavailable)?;
        match owner {
            None => Ok(Owner::Nobody),
            Some(incarnation) => self.find(&incarnation).await,
        }
    }

    /// Makes a session this node's, unless another has it: gives [`Owner::Here`], [`Owner::There`] or [`Owner::Gone`]. What
    /// is here stays here until [`Peers::release`].
    ///
    /// # Errors
    /// [`PeerError::Unavailable`] when the backplane is away: not claimed, unless it was here before.
    /// # Cancel safety
    /// If dropped, the claim may stand until its lease ends, a minute later.
    pub async fn claim(&self, session: SessionId) -> Result<Owner, PeerError> {
        if self.claims.has(session) {
            return Ok(Owner::Here);
        }
        let owners = self.relay.backplane().claim(&[session.key()], None).await;
        let owner = owners.ok().and_then(|mut owners| owners.pop()).ok_or(PeerError::Unavailable)?;
        if owner == self.relay.incarnation() {
            self.claims.add(session);
            return Ok(Owner::Here);
        }
        self.find(&owner).await
    }

    /// A session of this node has ended, and nobody asks for it any more. Does not wait, on whatever thread.
    pub fn release(self: &Arc<Self>, session: SessionId) {
        if !self.claims.remove(session) {
            return;
        }
        let peers = self.clone();
        self.runtime.spawn(async move {
            // If it fails, the claim ends with its lease.
            let _ = peers.relay.backplane().release(&[session.key()]).await;
        });
    }

    /// Attaches a receiver to a session of another node.
    ///
    /// # Errors
    /// [`PeerError`], never `UnknownOutcome`.
    /// # Cancel safety
    /// Dropping it detaches the receiver.
    pub async fn receive(self: &Arc<Self>, peer: &Peer, session: SessionId, want: Want) -> Result<Frames, PeerError> {
        let outcome = inlet::open(self.clone(), self.link(peer), session, want).await;
        metrics::peer_request(outcome.as_ref().map_or_else(|error| (*error).into(), |_| PeerOutcome::Done));
        outcome
    }

    /// Hands messages to a session of another node: all or none, and once.
    ///
    /// # Errors
    /// [`PeerError`].
    /// # Cancel safety
    /// Dropping it gives the answer up, not the messages.
    pub async fn send(
        self: &Arc<Self>,
        peer: &Peer,
        session: SessionId,
        messages: Vec<Bytes>,
    ) -> Result<(), PeerError> {
        let outcome = match self.sends.try_acquire() {
            Ok(_place) => self.hand_over(&self.link(peer), session, messages).await,
            Err(_) => Err(PeerError::Full),
        };
        metrics::peer_request(outcome.map_or_else(Into::into, |()| PeerOutcome::Done));
        outcome
    }

    async fn hand_over(&self, link: &Arc<Link>, session: SessionId, messages: Vec<Bytes>) -> Result<(), PeerError> {
        let number = self.numbers.next();
        let request = SendRequest {
            session: session.0.to_vec().into(),
            messages,
            number: number.number,
            settled: number.settled,
        };
        // Once one try may have reached the owner, only its answer says what came of it.
        let mut refused = PeerError::Unavailable;
        for _ in 0..TRIES {
            let lease = match self.call(link).await {
                Ok(lease) => lease,
                Err(_) if refused == PeerError::UnknownOutcome => continue,
                Err(error) => {
                    refused = error.into();
                    continue;
                }
            };
            let mut client = lease.client();
            match timeout(ANSWER_WITHIN, client.send(lease.request(request.clone()))).await {
                Ok(Ok(answer)) => {
                    return match answer.into_inner().outcome {
                        Some(send_response::Outcome::Done(_)) => Ok(()),
                        Some(send_response::Outcome::Unknown(_)) => Err(PeerError::Unknown),
                        Some(send_response::Outcome::Full(_)) => Err(PeerError::Full),
                        None => Err(PeerError::UnknownOutcome),
                    };
                }
                // It was at the door: not taken, and the next connection is proven anew.
                Ok(Err(status)) if status.code() == tonic::Code::Unauthenticated => lease.give_up(),
                Ok(Err(status)) if inlet::is_passing(&status) => refused = PeerError::UnknownOutcome,
                Ok(Err(status)) if refused == PeerError::Unavailable => return Err(inlet::refusal(&status)),
                Ok(Err(_)) => return Err(PeerError::UnknownOutcome),
                Err(_) => refused = PeerError::UnknownOutcome,
            }
        }
        Err(refused)
    }

    /// A place for a call to another node.
    pub(super) async fn call(&self, link: &Arc<Link>) -> Result<Lease, NotThere> {
        let Some(seal) = self.ground.seal.get() else { return Err(NotThere::Away("the node starts".into())) };
        let own = Own {
            name: &self.ground.node,
            incarnation: self.relay.incarnation(),
            process: self.process,
            seal,
            trust: &self.trust,
        };
        link.call(own).await.inspect_err(|error| {
            if let NotThere::Away(why) = error {
                tracing::debug!(why, "another node is not reached");
            }
        })
    }

    fn link(&self, peer: &Peer) -> Arc<Link> {
        let make = || Link::new(peer.0.clone());
        let mut links = self.links.lock();
        let link = links.entry(peer.0.incarnation.clone()).or_insert_with(make);
        if !link.is_to(&peer.0) {
            *link = make(); // it is reached elsewhere now
        }
        link.clone()
    }

    /// Forgets the ways to nodes that are not any more.
    pub(super) fn forget_links(&self, is_alive: impl Fn(&str) -> bool) {
        self.links.lock().retain(|incarnation, _| is_alive(incarnation));
    }

    async fn find(&self, incarnation: &Arc<str>) -> Result<Owner, PeerError> {
        if *incarnation == self.relay.incarnation() {
            // Another request has claimed it and is about to say so.
            return Ok(Owner::Here);
        }
        match self.whereabouts_of(incarnation).await? {
            None => Ok(Owner::Gone),
            Some(known) if known.address.is_empty() => Err(PeerError::Unavailable),
            Some(known) => Ok(Owner::There(Peer(known))),
        }
    }
}

impl From<PeerError> for PeerOutcome {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Unknown => Self::Unknown,
            PeerError::Full => Self::Full,
            PeerError::Unavailable => Self::Unavailable,
            PeerError::UnknownOutcome => Self::UnknownOutcome,
        }
    }
}

impl Peer {
    /// For tests: the same node, by a way on which they can do harm.
    #[doc(hidden)]
    pub fn through(&self, address: &str) -> Self {
        let Known { name, incarnation, .. } = &*self.0;
        Self(Arc::new(Known { name: name.clone(), incarnation: incarnation.clone(), address: address.into() }))
    }
}
