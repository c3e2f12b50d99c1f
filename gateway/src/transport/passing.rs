//! A client that asks one thing by a request of HTTP and is gone: what `/poll` and `/publish` have in common.
//!
//! Whoever asks is a session for that long, with a client's own rights, hooks and bounds, and no more than that: presence does
//! not see it, and no back end hears that it came or left.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, Request, StatusCode};
use skywave_proto::ErrorCode;

use super::{
    Arrival, WebSocketSeat,
    cors::{self, Cors},
    credentials,
    detached::{Detached, Terms},
    forwarded,
    http::{Answer, Door},
    origin::OriginRules,
    page,
    upgrade::visitor,
};
use crate::{
    config::Settings,
    metrics::{self, Transport},
    protocol::Codec,
    session::{Command, Connect, Credential, Envelope, RETRY_AFTER_MS, Refusal, Session, Subscribe},
    webhooks::Hook,
};

/// Who asks, as far as the head of the request says.
pub(super) struct Passer {
    pub(super) arrival: Arrival,
    pub(super) cors: Cors,
    pub(super) settings: Arc<Settings>,
    token: Option<Credential>,
    headers: HeaderMap,
}

impl Passer {
    /// Looks at who asks.
    ///
    /// # Errors
    /// The answer to a page that may not.
    pub(super) fn of<B>(request: &Request<B>, door: &Door) -> Result<Self, Box<Answer>> {
        let settings = Arc::clone(&door.public.ground.settings());
        let client = forwarded::client(request.headers(), door.arrival.client, &settings.public.trusted_proxies);
        let arrival = Arrival { client, ..door.arrival };
        let cors =
            Cors::check(OriginRules::of(&settings), request, &arrival).map_err(|page| Box::new(cors::foreign(page)))?;
        let token = credentials::token(request, &settings, cors.may_use_cookies());
        Ok(Self { arrival, cors, settings, token, headers: request.headers().clone() })
    }

    /// Takes one of the places of a connection, until it is dropped.
    ///
    /// # Errors
    /// `unavailable` or `limit`: none is to be had now.
    pub(super) async fn seat(&self, door: &Door, queues: bool) -> Result<WebSocketSeat, Refusal> {
        let public = &door.public;
        let later = |message| Refusal { after_ms: 1000, ..Refusal::new(ErrorCode::Unavailable, message) };
        if public.is_draining() {
            metrics::refused("draining");
            return Err(later("this node is leaving: nothing was done, ask another one"));
        }
        if !public.is_ready() {
            metrics::refused("not_ready");
            return Err(later("this node has not reached its backplane yet: nothing was done, try again"));
        }
        let has_queued = !queues || door.has_queued.take();
        public.admit(self.arrival.client, has_queued).await.map_err(super::admission::Refused::refusal)?;
        public.seat(self.arrival.client).map_err(super::admission::Refused::refusal)
    }

    /// Makes a session of it, which is asked to let the client in and to subscribe it. The answer is the first thing to take.
    pub(super) fn enter(self, door: &Rc<Door>, codec: &'static dyn Codec, subscribe: Vec<Subscribe>) -> Detached {
        let (shard, public, settings) = (&door.shard, &door.public, &self.settings);
        let link = shard.link(codec, settings.limits.outbox_bytes);
        let passing = Session::new(public.ground.clone(), shard.clone(), link.clone(), codec);
        passing.set_passing();
        if public.ground.webhooks.wants(Hook::Connect, None) {
            passing.set_visitor(visitor(&self.headers, &self.arrival, self.cors.may_use_cookies()));
        }
        let timeouts = &settings.timeouts;
        let terms = Terms { beat_interval: None, patience: timeouts.pong, close: timeouts.close, age: None };
        let detached = Detached::adopted(shard, passing, link, codec, None, Transport::Poll, terms);
        let subscribe = subscribe.into_iter().map(Ok).collect();
        let connect = Connect { token: self.token, subscribe, ..Connect::default() };
        detached.session().handle(Envelope { id: Some(0), command: Ok(Command::Connect(connect)) });
        detached
    }
}

/// Nobody has said in time who the client is, or that it is subscribed.
pub(super) fn too_late(within: Duration) -> Refusal {
    let message = format!("not let in, or not subscribed, within {within:?} (timeouts.handshake): come back later");
    Refusal { after_ms: RETRY_AFTER_MS, ..Refusal::new(ErrorCode::Unavailable, message) }
}

/// The session has ended before it was done.
pub(super) fn gone() -> Refusal {
    let message = "the node is leaving: ask another one";
    Refusal { after_ms: 1000, ..Refusal::new(ErrorCode::Unavailable, message) }
}

/// An answer of JSON that nobody keeps.
pub(super) fn json(body: impl Into<bytes::Bytes>) -> Answer {
    let mut answer: Answer = page::with_type(StatusCode::OK, "application/json", body.into()).map(Into::into);
    answer.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    answer
}
