//! Where a session is, for a request that wants to receive from it or send to it: here, on another node, or nowhere, and then
//! who receives begins it here.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use skywave_proto::CloseCode;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    headers::Visitor,
    inside::{Echo, Inside},
    interrupted,
    life::Life,
    session::Session,
    sessions::Place,
};
use crate::{
    config::{Settings, SockJsMode, SockJsService},
    metrics::{self, Transport},
    peers::{Frames, Host as _, Owner, Peer, PeerError, SendRefused, SessionId, Want},
    protocol::{
        Codec,
        sockjs::{JSON_REQUESTS, RAW_REQUESTS, close},
    },
    session::{self, Command, Envelope, Refusal, Subscribe},
    transport::{
        Arrival,
        admission::Refused,
        credentials,
        detached::{Detached, Terms},
        http::Door,
        upgrade::{self, Held, Introduction},
    },
    webhooks::Hook,
};

/// How often a session may end between the look at it and the request.
const TRIES: u32 = 3;

/// What a request of a session is about.
pub(super) struct Asked<'a, B> {
    pub(super) request: &'a Request<B>,
    pub(super) door: &'a Rc<Door>,
    pub(super) arrival: Arrival,
    pub(super) visitor: &'a Visitor,
    pub(super) settings: &'a Arc<Settings>,
    pub(super) service: &'a SockJsService,
    pub(super) id: SessionId,
}

impl<B> Asked<'_, B> {
    /// Frames of the session. An error is the last frame, and the only one: the client hears in the words of the protocol why it
    /// gets none. A status would only make it try its other ways.
    pub(super) async fn frames(&self, want: Want) -> Result<Frames, Bytes> {
        let public = &self.door.public;
        for _ in 0..TRIES {
            if let Ok(frames) = public.sockjs.receive(self.id, want).await {
                return Ok(Frames::here(frames));
            }
            let owner = match public.peers.owner(self.id).await {
                Ok(Owner::Nobody | Owner::Here) => self.begin().await?,
                Ok(owner) => owner,
                Err(error) => return Err(peer_failed(error)),
            };
            match owner {
                Owner::Here | Owner::Nobody => {}
                Owner::There(peer) => return self.frames_of(&peer, want).await,
                Owner::Gone => return Err(interrupted()),
            }
        }
        Err(interrupted())
    }

    async fn frames_of(&self, peer: &Peer, want: Want) -> Result<Frames, Bytes> {
        self.door.public.peers.receive(peer, self.id, want).await.map_err(peer_failed)
    }

    /// Hands over messages of the client.
    pub(super) async fn send(&self, messages: Vec<Bytes>) -> Result<(), PeerError> {
        let public = &self.door.public;
        if public.sockjs.has(self.id) {
            return public.sockjs.send(self.id, messages).await.map_err(|refused| match refused {
                SendRefused::Unknown => PeerError::Unknown,
                SendRefused::Full => PeerError::Full,
            });
        }
        match public.peers.owner(self.id).await? {
            Owner::There(peer) => public.peers.send(&peer, self.id, messages).await,
            Owner::Here | Owner::Gone | Owner::Nobody => Err(PeerError::Unknown),
        }
    }

    /// Makes the session, here, unless it has been made somewhere since.
    async fn begin(&self) -> Result<Owner, Bytes> {
        let (public, settings) = (&self.door.public, self.settings);
        if public.is_draining() {
            metrics::refused("draining");
            return Err(refused_with(CloseCode::ServiceRestart, CloseCode::ServiceRestart.reason()));
        }
        if !public.is_ready() {
            metrics::refused("not_ready");
            return Err(refused_with(CloseCode::TryAgainLater, CloseCode::TryAgainLater.reason()));
        }
        // Before anything that costs more, such as a place in the directory.
        let not_let_in = |refused: Refused| {
            metrics::refused(refused.reason);
            refused_with(CloseCode::Overloaded, refused.words.trim_end())
        };
        public.admit(self.arrival.client, self.door.has_queued.take()).await.map_err(not_let_in)?;
        let seat = public.seat(self.arrival.client).map_err(not_let_in)?;
        let held = Held::of_session(seat, self.door);
        let guest = match (self.service.mode, self.service.channel()) {
            (SockJsMode::Protocol, _) => Guest::Protocol(self.token()),
            (SockJsMode::Raw, Some(channel)) => {
                let known = upgrade::may_open_raw(public, &channel, self.token()).await.map_err(|refusal| {
                    metrics::refused("rights");
                    without_rights(&refusal)
                })?;
                Guest::Raw(channel, known)
            }
            (SockJsMode::Echo, _) => Guest::Echo,
            (SockJsMode::Close | SockJsMode::Raw, _) => Guest::Nobody,
        };
        match public.peers.claim(self.id).await {
            Ok(Owner::Here) => {}
            Ok(owner) => return Ok(owner),
            Err(error) => return Err(peer_failed(error)),
        }
        let Some((place, inbox)) = public.sockjs.enter(self.id, &public.peers) else { return Ok(Owner::Here) };
        let cut = Rc::new(Notify::new());
        let (inside, introduction) = self.inside(guest, &cut);
        tracing::debug!(address = %self.arrival.client, session = ?self.id, "a session of sockjs is opened");
        let session = Session::new(Life::new(settings.timeouts.ping_interval, Instant::now()), inside, inbox);
        let (leaving, patience) = (public.draining(), settings.timeouts.handshake);
        tokio::task::spawn_local(run(session, introduction, patience, cut, leaving, (place, held)));
        Ok(Owner::Here)
    }

    fn token(&self) -> Option<session::Credential> {
        credentials::token(self.request, self.settings, self.visitor.may_use_cookies())
    }

    /// What the session carries, and what is to be done before it takes messages.
    fn inside(&self, guest: Guest, cut: &Rc<Notify>) -> (Inside, Option<Subscribe>) {
        let (codec, channel): (&'static dyn Codec, _) = match &guest {
            Guest::Protocol(_) => (&JSON_REQUESTS, None),
            Guest::Raw(channel, _) => (&RAW_REQUESTS, Some(channel.clone())),
            Guest::Echo => return (Inside::Echo(Echo::new(self.settings.limits.outbox_bytes)), None),
            Guest::Nobody => return (Inside::Nobody, None),
        };
        let (shard, public) = (&self.door.shard, &self.door.public);
        let timeouts = &self.settings.timeouts;
        let terms = Terms {
            beat_interval: None, // the session's own frame says that
            patience: timeouts.pong,
            close: timeouts.close,
            age: timeouts.connection_age.choose(rand::random()),
        };
        let link = shard.link(codec, self.settings.limits.outbox_bytes);
        let session = session::Session::new(public.ground.clone(), shard.clone(), link.clone(), codec);
        if public.ground.webhooks.wants(Hook::Connect, None) {
            let may_ride = self.visitor.may_use_cookies();
            session.set_visitor(upgrade::visitor(self.request.headers(), &self.arrival, may_ride));
        }
        let client = Detached::adopted(shard, session, link, codec, channel, Transport::SockJs, terms);
        client.begin();
        let told = cut.clone();
        client.on_cut(move || told.notify_one());
        let subscribe = match guest {
            Guest::Raw(channel, known) => {
                match known {
                    Introduction::Nobody => drop(client.session().welcome()),
                    Introduction::Token(token) => client.session().introduce(token),
                    Introduction::Checked(claims) => client.session().introduce_as(*claims),
                }
                Some(Subscribe { channel, since: None, presence: false, echo: true, token: None })
            }
            Guest::Protocol(Some(token)) => {
                client.session().introduce(token);
                None
            }
            Guest::Protocol(None) | Guest::Echo | Guest::Nobody => None,
        };
        (Inside::Client(Box::new(client)), subscribe)
    }
}

/// Who the session is for.
enum Guest {
    Protocol(Option<session::Credential>),
    Raw(skywave_proto::ChannelName, Introduction),
    Echo,
    Nobody,
}

async fn run(
    session: Session,
    subscribe: Option<Subscribe>,
    patience: Duration,
    cut: Rc<Notify>,
    leaving: tokio_util::sync::CancellationToken,
    held: (Place, Held),
) {
    if let (Some(client), Some(subscribe)) = (session.client(), subscribe) {
        // Whoever is not known by then is not, and hears so by the end of the session.
        let _ = timeout(patience, client.session().known()).await;
        let channel = subscribe.channel.clone();
        client.session().handle(Envelope { id: Some(0), command: Ok(Command::Subscribe(subscribe)) });
        // As on `/raw`: a session that is open hears everything. Should it take too long, it goes on waiting.
        let _ = timeout(patience, client.session().subscribed(&channel)).await;
    }
    session.run(cut, leaving).await;
    drop(held);
}

fn refused_with(code: CloseCode, reason: &str) -> Bytes {
    close(code.code(), reason)
}

fn without_rights(refusal: &Refusal) -> Bytes {
    let code = match refusal.code {
        skywave_proto::ErrorCode::Unauthenticated => CloseCode::BadToken,
        code if code.retry() => CloseCode::TryAgainLater,
        _ => CloseCode::PermissionDenied,
    };
    refused_with(code, &refusal.message)
}

fn peer_failed(error: PeerError) -> Bytes {
    match error {
        PeerError::Unknown | PeerError::UnknownOutcome => interrupted(),
        PeerError::Full | PeerError::Unavailable => {
            refused_with(CloseCode::TryAgainLater, CloseCode::TryAgainLater.reason())
        }
    }
}
