//! How a client that is let in becomes known, and what it subscribes to at once.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use skywave_backplane::Target;
use skywave_proto::{ChannelName, ErrorCode, StreamPosition, v1::signal};

use super::{
    Client, Connect, Connected, REPLY_BYTES, Refusal, Reply, Seat, Session, Subscribe, Subscribed,
    grant::Grant,
    opening::Asker,
    seal::{self, Sealed},
};
use crate::{
    clock::now_ms,
    webhooks::{Event, Hook},
};

/// Subscriptions in one `connect` where `limits.channels_per_connection` sets no limit.
const MAX_LIST: usize = 10_000;

/// A `connect` whose subscriptions are not all answered yet.
pub(super) struct Connecting {
    pub(super) id: Option<u64>,
    pub(super) outcomes: Vec<Option<Result<Subscribed, (String, Refusal)>>>,
    /// Subscriptions to make live once the reply is out.
    pub(super) opened: Vec<Opened>,
}

/// A subscription that `connect` has opened.
pub(super) struct Opened {
    pub(super) place: usize,
    pub(super) channel: ChannelName,
    /// Where the client stands without the publications in the reply.
    pub(super) stood: Option<StreamPosition>,
    /// Whether more follows behind them before live.
    pub(super) more: bool,
}

impl Session {
    pub(super) fn connect(&self, id: Option<u64>, connect: Connect) {
        let (is_known, is_entering, introduced) = {
            let state = self.state.borrow();
            (state.client.is_some(), state.entering.is_some(), state.introduced)
        };
        if (is_known && !introduced) || is_entering {
            let message = "already connected: connect is the first command of a connection, and the only one";
            return self.refuse(id, Refusal::new(ErrorCode::BadRequest, message));
        }
        let limit =
            self.ground.settings().limits.channels_per_connection.map_or(MAX_LIST, |limit| limit.get() as usize);
        if connect.subscribe.len() > limit {
            let message = format!("connect subscribes to at most {limit} channels (limits.channels_per_connection)");
            return self.refuse(id, Refusal::new(ErrorCode::Limit, message));
        }
        if introduced { self.connect_again(id, connect) } else { self.enter_by(id, connect) }
    }

    /// Subscribes to what a client that has just been let in asks for, and behind it to what its token does.
    pub(super) fn begin(&self, id: Option<u64>, asked_for: Vec<Result<Subscribe, (String, Refusal)>>) {
        let mut all = asked_for;
        let granted: Vec<_> = self.with_standing(|who| {
            who.grant.map(|grant| grant.channels().into_iter().cloned().collect()).unwrap_or_default()
        });
        let takes_more = self.voice.names_channels() && !self.is_passing.get();
        for channel in granted.into_iter().filter(|_| takes_more) {
            let is_there = self.is_subscribed(&channel)
                || all.iter().any(|request| matches!(request, Ok(request) if request.channel == channel));
            if !is_there {
                all.push(Ok(Subscribe { channel, since: None, presence: false, echo: true, token: None }));
            }
        }
        let outcomes = all.iter().map(|_| None).collect();
        self.state.borrow_mut().connecting = Some(Connecting { id, outcomes, opened: Vec::new() });
        for (place, request) in all.into_iter().enumerate() {
            let outcome = match request {
                Ok(request) => {
                    let channel = request.channel.as_str().to_owned();
                    self.subscribe(Asker::Connect(place), request).map_err(|refusal| (channel, refusal))
                }
                Err(refused) => Err(refused),
            };
            if let Err((channel, refusal)) = outcome {
                self.settle_connect(place, Err((channel, refusal)));
            }
        }
        self.finish_connect();
    }

    /// Lets a client in that did not say `connect`; the answer to it comes without an id. False if it must say who it
    /// is.
    pub fn welcome(&self) -> bool {
        let is_open = self.ground.settings().auth.anonymous || self.ground.webhooks.wants(Hook::Connect, None);
        if is_open {
            self.enter_by(None, Connect::default());
        }
        is_open
    }

    /// `earlier` is the session that the client brings back, or the id that it gets without one.
    pub(super) fn become_client(
        &self,
        earlier: Result<Sealed, Arc<str>>,
        now_ms: u64,
        user: Option<Arc<str>>,
        info: Option<Bytes>,
        grant: Option<Rc<Grant>>,
    ) {
        let id = earlier.as_ref().map_or_else(Arc::clone, |earlier| earlier.client.clone());
        let earlier = earlier.ok();
        self.link.set_client(id.clone());
        let serial = seal::serial(earlier.as_ref(), now_ms);
        if self.is_passing.get() {
            self.state.borrow_mut().client = Some(Client { id, user, info, serial, grant });
            return;
        }
        let (serial, older) = self.ground.clients.claim(&id, user.as_ref(), self.seat(), serial);
        // One that comes back before its older connection has ended was never gone.
        if older.is_none() {
            self.ground.webhooks.event(Event::connected(id.clone(), user.clone()), None);
        }
        self.state.borrow_mut().client = Some(Client { id: id.clone(), user, info, serial, grant });
        if let Some(older) = older {
            self.ground.replace(older);
        }
        // On this node the client is found by its id; another one has to be told. One that is gone hears nothing.
        let relay = self.shard.relay();
        if let Some(earlier) = earlier.filter(|earlier| earlier.incarnation != relay.incarnation()) {
            let newer = signal::Replaced { client: id.to_string(), serial };
            relay.signal(Target::Node(earlier.incarnation), signal::Op::Replaced(newer));
        }
    }

    /// The connection no longer speaks for its client.
    pub(super) fn release(&self) {
        if let Some(client) = self.state.borrow_mut().client.take() {
            self.ground.webhooks.event(Event::disconnected(client.id.clone(), client.user.clone(), "replaced"), None);
            self.ground.clients.release(&client.id, client.user.as_ref(), self.seat());
        }
    }

    pub(super) fn seat(&self) -> Seat {
        (self.shard.index(), self.link.key())
    }

    pub(super) fn settle_connect(&self, place: usize, outcome: Result<Subscribed, (String, Refusal)>) {
        if let Some(connecting) = &mut self.state.borrow_mut().connecting {
            connecting.outcomes[place] = Some(outcome);
        }
    }

    /// Answers `connect` once all of its subscriptions are settled.
    pub(super) fn finish_connect(&self) {
        let mut state = self.state.borrow_mut();
        let settled = |connecting: &mut Connecting| connecting.outcomes.iter().all(Option::is_some);
        let Some(mut connecting) = state.connecting.take_if(settled) else { return };
        drop(state);
        self.fit_into_one_reply(&mut connecting);
        self.say_connected(connecting.id, connecting.outcomes.into_iter().flatten().collect());
        for Opened { channel, more, .. } in connecting.opened {
            self.go_live(&channel, more);
        }
    }

    /// One reply carries so many bytes of publications over all its channels; the others follow as pushes.
    fn fit_into_one_reply(&self, connecting: &mut Connecting) {
        let mut room = REPLY_BYTES;
        for Opened { place, channel, stood, more } in &mut connecting.opened {
            let Some(Some(Ok(answer))) = connecting.outcomes.get_mut(*place) else { continue };
            let bytes: usize = answer.publications.iter().map(|publication| publication.payload.data().len()).sum();
            if bytes <= room {
                room -= bytes;
                continue;
            }
            room = 0;
            answer.publications = Vec::new();
            answer.position = *stood;
            *more = true;
            self.resume_from(channel, *stood);
        }
    }

    fn say_connected(&self, id: Option<u64>, subscribed: Vec<Result<Subscribed, (String, Refusal)>>) {
        let Some(client) = self.state.borrow().client.clone() else { return };
        let settings = self.ground.settings();
        let incarnation = self.shard.relay().incarnation();
        let reply = Reply::Connected(Connected {
            session: self.ground.seal.get().map_or_else(String::new, |seal| {
                seal.seal(&client.id, client.user.as_deref(), client.serial, &incarnation)
            }),
            client: client.id,
            node: self.ground.node.clone(),
            expires_in_ms: client
                .grant
                .as_ref()
                .and_then(|grant| grant.renew_by_ms())
                .map(|at| at.saturating_sub(now_ms())),
            ping_interval_ms: u64::try_from(settings.timeouts.ping_interval.as_millis()).unwrap_or(u64::MAX),
            subscribed,
        });
        self.link.send(self.voice.reply(id, &reply));
    }
}

pub(super) fn new_client_id() -> Arc<str> {
    ulid::Ulid::generate().to_string().into()
}
