//! What one client has asked for and may do.
//!
//! A session never waits: what it wants of the backplane it orders, and goes on when the answer comes back through the
//! shard's mailbox. It knows no wire format; a [`Voice`] encodes what it says.

mod admission;
mod clients;
mod command;
mod connecting;
mod flood;
mod grant;
mod ground;
mod identity;
mod limits;
mod opening;
mod outcome;
mod publishing;
mod recovery;
mod rights;
mod seal;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use metrics::Counter;
use skywave_backplane::HistoryQuery;
use skywave_proto::{ChannelName, CloseCode, Epoch, ErrorCode, Member, Payload, StreamPosition};
use tokio::time::Instant as TokioInstant;

use self::{
    admission::Asking,
    connecting::{Connecting, Opened},
    identity::Entering,
    opening::Asker,
    publishing::Undecided,
    subscriptions::Subscription,
};
pub use self::{
    clients::{Clients, Seat, Who},
    command::{Command, Connect, Connected, Credential, Envelope, Refusal, Reply, Since, Subscribe, Subscribed},
    grant::{Grant, Standing},
    ground::Ground,
    identity::{RETRY_AFTER_MS, Visitor},
    limits::{Over, Rates},
    rights::{may_publish, may_subscribe, named_namespace, namespace},
    seal::Seal,
    subscriptions::require_presence,
};
use crate::{
    clock::now_ms,
    config::{Namespace, Settings},
    push::{Encoded, Format, Goodbye},
    relay::{Answer, MembersAnswer, Receipt, Verdict},
    shard::{Description, Link, Shard},
    webhooks::{Decision, Event, HookRefusal},
};

/// Publications in one reply, over all its channels, and in one page of history: at most this many bytes of payload.
pub const REPLY_BYTES: usize = 64 * 1024;
/// The same in publications.
pub const PAGE_PUBLICATIONS: u32 = 1000;
/// Commands of one connection that may wait for the backplane; then it is not read from until one is answered.
const IN_FLIGHT: usize = 256;
/// Publications that are done at once, before the session waits for its shard to come to what they put into its mailbox.
/// [`IN_FLIGHT`] holds for them too, so that no client fills the mailbox in one turn.
const TURN: usize = 64;
/// What `history` returns when the client does not say.
const DEFAULT_HISTORY: u32 = 100;

/// A wire format that has words for replies too.
pub trait Voice: Format {
    /// The name in logs and in the label `protocol` of metrics.
    fn name(&self) -> &'static str;

    /// Encodes the answer to a command. `id` is the command's; a reply to a command without one is only ever an error
    /// or an unasked `connected`.
    fn reply(&self, id: Option<u64>, reply: &Reply) -> Encoded;

    /// Whether a reply can carry publications. Otherwise they follow as pushes.
    fn carries_publications(&self) -> bool {
        true
    }

    /// Whether it can say on which channel something is. Otherwise a client has the one that it came for.
    fn names_channels(&self) -> bool {
        true
    }
}

/// See the module.
pub struct Session {
    ground: Arc<Ground>,
    shard: Rc<Shard>,
    link: Rc<Link>,
    voice: &'static dyn Voice,
    opened: TokioInstant,
    state: RefCell<State>,
    rates: RefCell<Rates>,
    in_flight: Cell<usize>,
    /// Publications that were done since a turn of the shard was last waited for: less than [`TURN`].
    done: Cell<usize>,
    /// Subscriptions whose missed publications go out as the socket drains.
    replaying: Cell<usize>,
    /// See [`Session::take_published`].
    has_published: Cell<bool>,
    /// See [`Session::set_passing`].
    is_passing: Cell<bool>,
}

#[derive(Default)]
struct State {
    client: Option<Client>,
    /// Who the client is is being found out.
    entering: Option<Box<Entering>>,
    /// The client was let in by its handshake, and its first command has not come.
    introduced: bool,
    /// What the back end may ask about the connection, until it has.
    visitor: Option<Box<Visitor>>,
    /// Wakes the session when the next thing that has an end ends; see [`Session::remind`].
    reminder: Option<tokio::task::JoinHandle<()>>,
    /// Subscriptions about which somebody is being asked.
    asking: Vec<Asking>,
    /// Publications about which the back end is being asked, in their order.
    undecided: VecDeque<Undecided>,
    connecting: Option<Connecting>,
    subscriptions: HashMap<ChannelName, Box<Subscription>, ahash::RandomState>,
    asked: HashMap<u64, Asked, ahash::RandomState>,
    tickets: u64,
    /// Subscriptions made so far. A client may end one and make another of the same channel while answers to the first
    /// are still on their way.
    subscribed: u64,
}

#[derive(Clone)]
struct Client {
    id: Arc<str>,
    user: Option<Arc<str>>,
    info: Option<Bytes>,
    /// The connection's place among those of its client, on whatever nodes: the newer has the larger.
    serial: u64,
    /// What its token says; none for an anonymous client.
    grant: Option<Rc<Grant>>,
}

/// A command that waits for the backplane, or for somebody who decides about it.
enum Asked {
    /// Whether a token is good, and whose.
    Identity,
    /// Whether the client may come in.
    Welcome,
    /// Whether a newer token is good.
    Renewal {
        id: Option<u64>,
    },
    /// Whether the subscription with this number may be opened.
    Admission(u64),
    /// Whether this may be published; it waits among the undecided.
    Permission,
    /// What the back end answers to a call.
    Call {
        id: Option<u64>,
    },
    Publish {
        id: Option<u64>,
        accepted: Counter,
        at: Instant,
    },
    History {
        id: Option<u64>,
    },
    Presence {
        id: Option<u64>,
    },
    /// The history of the subscription with this number.
    Missed(u64),
    /// The members of the subscription with this number.
    Roll(u64),
    /// That the shard comes round: it stands for [`TURN`] publications.
    Turn,
}

impl Asked {
    /// How many commands it stands for.
    fn weight(&self) -> usize {
        match self {
            Self::Turn => TURN,
            _ => 1,
        }
    }
}

impl Session {
    /// A session of a connection that has just been opened.
    pub fn new(ground: Arc<Ground>, shard: Rc<Shard>, link: Rc<Link>, voice: &'static dyn Voice) -> Self {
        Self {
            ground,
            shard,
            link,
            voice,
            opened: TokioInstant::now(),
            state: RefCell::default(),
            rates: RefCell::default(),
            in_flight: Cell::new(0),
            done: Cell::new(0),
            replaying: Cell::new(0),
            has_published: Cell::new(false),
            is_passing: Cell::new(false),
        }
    }

    /// The client asks for one thing and is gone: nobody is told that it came or left, presence does not see it, it is no newer
    /// connection of its client, and who publishes to `subscribers` has only to be one who may subscribe. To be said first.
    pub fn set_passing(&self) {
        self.is_passing.set(true);
    }

    /// Whether more commands may be handed over now.
    pub fn takes_commands(&self) -> bool {
        let state = self.state.borrow();
        self.in_flight.get() < IN_FLIGHT
            && state.undecided.len() < IN_FLIGHT
            && state.connecting.is_none()
            && state.entering.is_none()
    }

    /// Whether the client has not said who it is in time.
    pub fn is_overdue(&self) -> bool {
        let state = self.state.borrow();
        state.client.is_none()
            && state.entering.is_none()
            && self.opened.elapsed() > self.ground.settings().timeouts.connect
    }

    /// Whether this command waits for an earlier one: who publishes right behind a subscribe wants to hear it, and who
    /// asks for members wants to be among them.
    pub fn must_wait(&self, envelope: &Envelope) -> bool {
        match &envelope.command {
            Ok(Command::Connect(_)) | Err(_) => false,
            // Whether the client is let in without saying who it is may have to be found out first.
            Ok(_) if !self.is_connected() => self.welcome() && !self.is_connected() && !self.link.is_closing(),
            Ok(Command::Publish { channel, .. } | Command::Presence { channel, .. }) => self.is_opening(channel),
            _ => false,
        }
    }

    /// Whether the client has said who it is, or was let in without.
    pub fn is_connected(&self) -> bool {
        self.state.borrow().client.is_some()
    }

    /// The client's id, once there is one.
    pub fn client_id(&self) -> Option<Arc<str>> {
        self.state.borrow().client.as_ref().map(|client| client.id.clone())
    }

    /// Whether it has just published, and the publication is on its way back to the shard; asked once.
    pub fn take_published(&self) -> bool {
        self.has_published.take()
    }

    /// Whether the socket's draining is waited for.
    pub fn wants_drained(&self) -> bool {
        self.replaying.get() > 0
    }

    /// Carries out one command.
    pub fn handle(&self, Envelope { id, command }: Envelope) {
        if self.link.is_closing() || !self.admits(id, &command) {
            return;
        }
        let command = match command {
            Ok(command) => command,
            Err(refusal) => return self.refuse(id, refusal),
        };
        if let Command::Connect(connect) = command {
            return self.connect(id, connect);
        }
        let is_in = self.is_connected() || (self.welcome() && self.is_connected());
        if !is_in {
            return self.turn_away(id, "say who you are first: connect with a token");
        }
        self.state.borrow_mut().introduced = false;
        let outcome = match command {
            Command::Connect(_) => Ok(()), // handled above
            Command::Subscribe(request) => self.subscribe(Asker::Command(id), request),
            Command::Unsubscribe(channel) => self.unsubscribe(id, &channel),
            Command::Publish { channel, payload, key } => self.publish(id, channel, payload, key),
            Command::Presence { channel, after } => self.presence(id, channel, after),
            Command::History { channel, since, limit } => self.history(id, channel, since, limit),
            Command::Refresh(token) => self.renew(id, token),
            Command::Rpc { method, data } => self.call(id, method, data),
            Command::Ping => {
                self.reply(id, &Reply::Pong);
                Ok(())
            }
        };
        if let Err(refusal) = outcome {
            self.refuse(id, refusal);
        }
    }

    fn history(
        &self,
        id: Option<u64>,
        channel: ChannelName,
        since: Option<Since>,
        limit: Option<u32>,
    ) -> Result<(), Refusal> {
        let settings = self.ground.settings();
        let namespace = namespace(&settings, &channel)?;
        self.may_read(namespace, &channel)?;
        require_history(namespace, &channel)?;
        let query = history_query(since, limit);
        let receipt = self.ask(Asked::History { id });
        let ordered = self.shard.relay().history(channel, query, receipt);
        ordered.inspect_err(|_| self.forget(receipt)).map_err(Refusal::from)
    }

    fn presence(&self, id: Option<u64>, channel: ChannelName, after: Option<String>) -> Result<(), Refusal> {
        let settings = self.ground.settings();
        let namespace = namespace(&settings, &channel)?;
        self.may_read(namespace, &channel)?;
        subscriptions::require_presence(namespace, &channel)?;
        let receipt = self.ask(Asked::Presence { id });
        let ordered = self.shard.relay().members(channel, Some(self.client().id), after, receipt);
        ordered.inspect_err(|_| self.forget(receipt)).map_err(Refusal::from)
    }

    /// The backplane has answered to something that this session ordered.
    pub fn answer(&self, ticket: u64, answer: Answer) {
        let Some(asked) = self.state.borrow_mut().asked.remove(&ticket) else { return };
        self.in_flight.set(self.in_flight.get() - asked.weight());
        let answer = match answer {
            Answer::Verdict(verdict) => {
                self.decided(ticket, asked, verdict);
                return self.link.wake();
            }
            answer => answer,
        };
        match (asked, answer) {
            (Asked::Publish { id, accepted, at }, Answer::Published(outcome)) => {
                self.published(id, &accepted, at, outcome);
            }
            (Asked::History { id }, Answer::History(channel, page)) => match page {
                Ok(page) => self.reply(id, &Reply::History(channel, page)),
                Err(error) => self.refuse(id, error.into()),
            },
            (Asked::Presence { id }, Answer::Members(_, MembersAnswer::Listed(page))) => match page {
                Ok(page) => self.reply(id, &Reply::Presence(page)),
                Err(error) => self.refuse(id, error.into()),
            },
            (Asked::Missed(number), Answer::History(channel, page)) if self.is_subscription(&channel, number) => {
                self.missed(&channel, page);
            }
            (Asked::Roll(number), Answer::Members(channel, MembersAnswer::Entered(outcome)))
                if self.is_subscription(&channel, number) =>
            {
                self.entered(&channel, outcome);
            }
            // Somebody else's, of a subscription that the client has ended meanwhile, or known already.
            (_, Answer::Published(_) | Answer::History(..) | Answer::Members(..) | Answer::Verdict(_)) => {}
        }
        // The connection may have stopped reading until there is room.
        self.link.wake();
    }

    /// Somebody beside the backplane has answered.
    fn decided(&self, ticket: u64, asked: Asked, verdict: Verdict) {
        let entering = |session: &Self| session.state.borrow_mut().entering.take().map(|entering| *entering);
        match (asked, verdict) {
            (Asked::Identity, Verdict::Token(outcome)) => {
                if let Some(entering) = entering(self) {
                    self.identified(entering, outcome);
                }
            }
            (Asked::Welcome, Verdict::Welcome(decision)) => {
                if let Some(entering) = entering(self) {
                    self.welcomed(entering, decision);
                }
            }
            (Asked::Renewal { id }, Verdict::Token(outcome)) => self.renewed(id, outcome),
            (Asked::Admission(number), Verdict::ChannelToken(outcome)) => self.channel_token_checked(number, outcome),
            (Asked::Admission(number), Verdict::Subscribe(decision)) => self.admitted(number, decision),
            (Asked::Permission, Verdict::Publish(decision)) => self.permitted(ticket, decision),
            (Asked::Call { id }, Verdict::Call(outcome)) => match outcome {
                Ok(data) => self.reply(id, &Reply::Result(data)),
                Err(refusal) => self.refuse(id, refusal.into()),
            },
            // Each is asked one kind of thing, so this is none.
            (asked, _) => self.undecided(ticket, asked),
        }
    }

    /// Whoever was asked has failed without a word: our mistake, and nobody is to wait for it.
    fn undecided(&self, ticket: u64, asked: Asked) {
        let refusal = || Refusal::from(failed());
        match asked {
            Asked::Identity | Asked::Welcome => {
                let id = self.state.borrow_mut().entering.take().and_then(|entering| entering.id);
                self.refuse(id, refusal());
                self.link.close(CloseCode::InternalError.into());
            }
            Asked::Renewal { id } | Asked::Call { id } => self.refuse(id, refusal()),
            Asked::Admission(number) => self.admitted(number, Decision::Refuse(failed())),
            Asked::Permission => self.permitted(ticket, Decision::Refuse(failed())),
            // The backplane's.
            _ => {}
        }
    }

    /// Asks somebody who may take a while, away from the shard.
    fn inquire(&self, asked: Asked, question: impl Future<Output = Verdict> + Send + 'static) -> u64 {
        let receipt = self.ask(asked);
        let answers = self.shard.relay().answers().clone();
        self.ground.runtime.spawn(async move {
            let verdict = AssertUnwindSafe(question).catch_unwind().await;
            answers.send(receipt, Answer::Verdict(verdict.unwrap_or(Verdict::Lost)));
        });
        receipt.ticket
    }

    fn ask(&self, asked: Asked) -> Receipt {
        let mut state = self.state.borrow_mut();
        state.tickets += 1;
        let ticket = state.tickets;
        self.in_flight.set(self.in_flight.get() + asked.weight());
        state.asked.insert(ticket, asked);
        Receipt { shard: self.shard.index(), connection: Some(self.link.key()), ticket }
    }

    /// The order was not taken.
    fn forget(&self, receipt: Receipt) {
        if let Some(asked) = self.state.borrow_mut().asked.remove(&receipt.ticket) {
            self.in_flight.set(self.in_flight.get() - asked.weight());
        }
    }

    /// Whether the client may read what there is on a channel: who is subscribed may, by whatever right.
    fn may_read(&self, namespace: &Namespace, channel: &ChannelName) -> Result<(), Refusal> {
        if self.is_subscribed(channel) {
            return Ok(());
        }
        self.with_standing(|who| may_subscribe(namespace, channel, who))
    }

    fn is_subscribed(&self, channel: &ChannelName) -> bool {
        self.state.borrow().subscriptions.contains_key(channel)
    }

    fn client(&self) -> Client {
        self.state.borrow().client.clone().expect("handle lets only connect through before there is a client")
    }

    fn reply(&self, id: Option<u64>, reply: &Reply) {
        if id.is_some() {
            self.link.send(self.voice.reply(id, reply));
        }
    }

    fn refuse(&self, id: Option<u64>, refusal: Refusal) {
        self.link.send(self.voice.reply(id, &Reply::Error(refusal)));
    }

    /// The connection has ended; `reason` is the word for it. `at_once` says that the client meant to leave: nobody waits for
    /// it to come back.
    pub fn ended(&self, reason: &'static str, at_once: bool) {
        let state = std::mem::take(&mut *self.state.borrow_mut());
        if let Some(reminder) = state.reminder {
            reminder.abort();
        }
        let Some(client) = state.client else { return };
        let grace = if at_once { std::time::Duration::ZERO } else { self.ground.settings().timeouts.session_grace };
        for (channel, subscription) in state.subscriptions {
            self.shard.hub().detach(&channel, subscription.place, self.link.key());
            if subscription.is_member {
                self.shard.relay().exit(channel, client.id.clone(), client.serial, grace);
            }
        }
        if self.is_passing.get() {
            return;
        }
        let has_spoken = self.ground.clients.release(&client.id, client.user.as_ref(), self.seat());
        // One that was replaced, here or on another node, has not gone: a newer connection speaks for its client.
        if has_spoken && reason != CloseCode::Replaced.reason() {
            self.ground.webhooks.event(Event::disconnected(client.id, client.user, reason), None);
        }
    }

    /// What back ends are told of it; nothing until the client is known.
    pub fn describe(&self) -> Option<Description> {
        let state = self.state.borrow();
        let client = state.client.as_ref()?;
        let age_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(Description {
            client: client.id.clone(),
            user: client.user.clone(),
            protocol: self.voice.name(),
            connected_at_ms: now_ms().saturating_sub(age_ms),
            channels: state.subscriptions.keys().cloned().collect(),
        })
    }

    /// Ends the connection with this goodbye, after what is queued.
    pub fn leave(&self, goodbye: Goodbye) {
        for (channel, subscription) in &self.state.borrow().subscriptions {
            self.shard.hub().settle(channel, subscription.place, self.link.key());
        }
        self.link.close(goodbye);
    }
}

impl Client {
    fn standing(&self) -> Standing<'_> {
        Standing { user: self.user.as_deref(), grant: self.grant.as_deref() }
    }

    fn member(&self) -> Member {
        Member { client: self.id.clone(), user: self.user.clone(), info: self.info.clone() }
    }

    /// Whose idempotency keys these are.
    fn publisher(&self) -> Arc<str> {
        match &self.user {
            Some(user) => format!("user:{user}").into(),
            None => format!("client:{}", self.id).into(),
        }
    }
}

fn failed() -> HookRefusal {
    let message = "the node made a mistake; try again, and tell its operator".to_owned();
    HookRefusal { code: ErrorCode::Internal, message, after_ms: 0 }
}

/// Whether a namespace keeps a history.
///
/// # Errors
/// `no_history`, with the namespace.
pub fn require_history(namespace: &Namespace, channel: &ChannelName) -> Result<(), Refusal> {
    if namespace.history.is_some() {
        return Ok(());
    }
    let message = format!("namespace {} keeps no history: its channels are live only", channel.namespace());
    Err(Refusal::new(ErrorCode::NoHistory, message))
}

/// What a page of history after `since` is: of clients and back ends alike.
pub fn history_query(since: Option<Since>, limit: Option<u32>) -> HistoryQuery {
    HistoryQuery {
        since: match since {
            Some(Since::Position(position)) => Some(position),
            // No channel has stood there: the answer is what a position of another epoch gets.
            Some(Since::Foreign) => Some(StreamPosition::start(Epoch::random())),
            None => None,
        },
        limit: limit.unwrap_or(DEFAULT_HISTORY).min(PAGE_PUBLICATIONS),
        bytes: REPLY_BYTES,
        followed: false,
    }
}

/// Whether a payload is within `limits.publication_bytes`.
///
/// # Errors
/// `too_large`, with both figures.
pub fn check_size(settings: &Settings, payload: &Payload) -> Result<(), Refusal> {
    let (size, limit) = (payload.data().len(), settings.limits.publication_bytes);
    if size > limit {
        let message = format!("publication of {size} bytes is over limits.publication_bytes, {limit}");
        return Err(Refusal::new(ErrorCode::TooLarge, message));
    }
    Ok(())
}

/// The longest idempotency key, in bytes: it is kept for minutes.
pub const KEY_BYTES: usize = 128;

/// Whether an idempotency key is one.
///
/// # Errors
/// `bad_request`, with the bounds.
pub fn check_key(key: &str) -> Result<(), Refusal> {
    if (1..=KEY_BYTES).contains(&key.len()) {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::BadRequest, format!("a key has 1 to {KEY_BYTES} bytes")))
}
