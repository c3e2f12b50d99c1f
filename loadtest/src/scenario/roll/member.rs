//! One client over all its connections: it comes, listens, is sent away, rests, and comes back with what it holds.

use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use skywave_proto::StreamPosition;
use tokio::{
    select,
    sync::{Semaphore, SemaphorePermit, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Task,
    kind::Kind,
    notes::{Notes, Standing},
    rest::{Ending, rest},
    seat::Seat,
    speech::{Heard, Hello, Subscribed, greet, hear},
    storm::{Weather, breaks, passed},
};
use crate::{
    client::{ClientError, poll_events},
    incoming::ErrorReply,
    scenario::ScenarioError,
    stamp::Stamp,
    stream::Outlet,
    target::Target,
    upgrade::{Upgraded, upgrade},
    wire::{Event, Inbox, Masks},
};

/// How long a client may try until it is in for the first time.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a handshake, or the answer to the first frame, may take.
const REPLY: Duration = Duration::from_secs(10);

/// What the clients of a thread share. Borrowed for one look.
pub(super) struct Desk {
    pub(super) task: Arc<Task>,
    pub(super) standing: Arc<Standing>,
    pub(super) over: watch::Receiver<bool>,
    pub(super) storm: watch::Receiver<Weather>,
    pub(super) notes: RefCell<Notes>,
    pub(super) masks: RefCell<Masks>,
    /// Who comes for the first time waits until there is room.
    pub(super) entering: Semaphore,
}

/// One client.
pub(super) struct Member {
    kind: Kind,
    target: Target,
    seats: Vec<Seat>,
    /// Who it is, as it was told first.
    client: Option<String>,
    session: Option<String>,
    /// A bare client's position: from a close frame, gone as soon as it was used.
    since: Option<String>,
    /// Attempts to come back, since it was in.
    attempts: u32,
    /// When its last connection ended.
    left: Option<u64>,
    storm: Storm,
    connection: Connection,
}

/// What a storm has to do with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storm {
    /// It may come.
    Ahead,
    /// It cut this client, which is not back yet.
    Hit,
    /// It is over.
    Over,
}

/// What is known of the present connection.
#[derive(Default)]
struct Connection {
    outlet: Option<Outlet>,
    is_in: bool,
    after: Option<Duration>,
    closed: Option<u16>,
    refused: Option<ErrorReply>,
}

impl Member {
    pub(super) fn new(kind: Kind, target: Target, channels: impl Iterator<Item = usize>) -> Self {
        let seats = channels.map(Seat::new).collect();
        let (client, session, since, left) = (None, None, None, None);
        let (storm, connection) = (Storm::Ahead, Connection::default());
        Self { kind, target, seats, client, session, since, attempts: 0, left, storm, connection }
    }

    /// Stays until the run is over, and brings its seats home.
    ///
    /// # Errors
    /// It never got in.
    pub(super) async fn stay(mut self, desk: Rc<Desk>) -> Result<(Kind, Vec<Seat>), ScenarioError> {
        let mut over = desk.over.clone();
        select! {
            stayed = self.come_and_go(&desk) => stayed?,
            _ = over.wait_for(|over| *over) => {}
        }
        if let Some(outlet) = &self.connection.outlet {
            let mut goodbye = Vec::new();
            desk.masks.borrow_mut().close(&mut goodbye);
            let _ = outlet.send(&goodbye);
        }
        let _ = over.wait_for(|over| *over).await;
        Ok((self.kind, self.seats))
    }

    /// Ends only when it is not to come back.
    async fn come_and_go(&mut self, desk: &Desk) -> Result<(), ScenarioError> {
        let began = desk.task.clock.now();
        let mut entering = desk.entering.acquire().await.ok();
        let until = Instant::now() + PATIENCE;
        loop {
            let ending = self.visit(desk, began, &mut entering).await;
            let now = desk.task.clock.now();
            let wait = rest(&ending, self.attempts, self.kind == Kind::Raw, rand::random());
            self.note_ending(&ending, desk, now);
            if self.left.is_none() && (wait.is_none() || Instant::now() > until || is_final(&ending)) {
                return Err(self.failed(ending));
            }
            let Some(wait) = wait else { return Ok(()) };
            if matches!(ending, Ending::Storm) {
                let (since, rest) = passed(&mut desk.storm.clone()).await;
                self.left = Some(since);
                sleep(rest.mul_f64(rand::random())).await;
            }
            sleep(wait).await;
            if self.left.is_some() {
                desk.notes.borrow_mut().dials.push(desk.task.clock.now());
            }
        }
    }

    fn note_ending(&mut self, ending: &Ending, desk: &Desk, now: u64) {
        let mut notes = desk.notes.borrow_mut();
        let was_in = self.connection.is_in;
        self.connection = Connection::default();
        if was_in {
            desk.standing.present.fetch_sub(1, Relaxed);
            (self.left, self.attempts) = (Some(now), 0);
        } else {
            self.attempts = self.attempts.saturating_add(1);
        }
        match ending {
            Ending::Refused(error) => *notes.refused.entry(in_full(error)).or_default() += 1,
            Ending::Storm => notes.cut += 1,
            Ending::Closed { .. } | Ending::Cut => {
                *notes.party(self.kind).closes.entry(ending.code()).or_default() += 1;
            }
        }
    }

    fn failed(&self, ending: Ending) -> ScenarioError {
        let source = match ending {
            Ending::Refused(error) => error,
            ended @ (Ending::Closed { .. } | Ending::Cut | Ending::Storm) => ClientError::Ended(ended.code()),
        };
        ScenarioError::Client { url: self.target.url().to_owned(), doing: "connect", source }
    }

    /// One connection, from its opening to its end.
    async fn visit(&mut self, desk: &Desk, began: u64, entering: &mut Option<SemaphorePermit<'_>>) -> Ending {
        let silent = |what| ClientError::Silent { what, within: REPLY };
        let opened = timeout(REPLY, upgrade(&self.address(desk), self.kind.manner(desk.task.manner))).await;
        let Upgraded { mut reader, outlet, rest } = match opened {
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(error)) => return Ending::Refused(error),
            Err(_) => return Ending::Refused(silent("the handshake")),
        };
        let mut greeting = Vec::new();
        greet(self.kind, &self.hello(desk), &mut desk.masks.borrow_mut(), &mut greeting);
        if outlet.send(&greeting).is_err() {
            return Ending::Cut;
        }
        self.connection.outlet = Some(outlet);
        if self.kind == Kind::Raw {
            self.enter_bare(desk, began);
        }
        let mut inbox = Inbox::default();
        let mut read = inbox.take(&rest, |event| self.meet(event, desk, began)).map_err(|error| error.to_string());
        let deadline = Instant::now() + REPLY;
        let mut storm = desk.storm.clone();
        loop {
            if self.connection.is_in {
                entering.take();
            }
            if let Some(error) = self.connection.refused.take() {
                return Ending::Refused(ClientError::Refused(error));
            }
            if let Some(code) = self.connection.closed {
                return Ending::Closed { code, after: self.connection.after };
            }
            match read {
                Ok(()) => {}
                Err(_) if self.connection.is_in => return Ending::Cut,
                Err(words) => return Ending::Refused(ClientError::Ended(words)),
            }
            let (is_in, may_be_cut) = (self.connection.is_in, self.storm == Storm::Ahead);
            let more = poll_fn(|cx| poll_events(cx, &mut reader, &mut inbox, |event| self.meet(event, desk, began)));
            let more = async { if is_in { Ok(more.await) } else { timeout_at(deadline, more).await } };
            let more = select! {
                more = more => more,
                () = breaks(&mut storm), if may_be_cut && is_in => {
                    self.storm = Storm::Hit;
                    return Ending::Storm;
                }
            };
            read = more.unwrap_or_else(|_| Err("no answer to connect".to_owned())).map(|_| ());
        }
    }

    /// A bare client has its channel and its position in the address.
    fn address(&self, desk: &Desk) -> Target {
        if self.kind != Kind::Raw {
            return self.target.clone();
        }
        let path = self.target.path().split('?').next().unwrap_or_default();
        let base = path.strip_suffix("/ws").unwrap_or(path.trim_end_matches('/'));
        let channel = encoded(&desk.task.channels[self.seats[0].channel]);
        let token = desk.task.token.as_ref().map(|token| format!("token={}", encoded(token)));
        let since = self.since.as_ref().map(|since| format!("since={}", encoded(since)));
        let query: Vec<String> = token.into_iter().chain(since).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        self.target.at(&format!("{base}/raw/{channel}{mark}{}", query.join("&")))
    }

    fn hello<'a>(&'a self, desk: &'a Desk) -> Hello<'a> {
        let channels = self.seats.iter().map(|seat| (desk.task.channels[seat.channel].as_str(), seat.position()));
        Hello { token: desk.task.token.as_deref(), session: self.session.as_deref(), channels: channels.collect() }
    }

    /// One thing that came over the connection.
    fn meet(&mut self, event: Event<'_>, desk: &Desk, began: u64) {
        let mut answer = Vec::new();
        match event {
            Event::Message(message) => hear(self.kind, message, &mut |heard| self.hear(heard, desk, began)),
            Event::Compressed(_) => desk.notes.borrow_mut().wrong("a message that nobody asked to be compressed"),
            Event::Ping(payload) => desk.masks.borrow_mut().pong(payload, &mut answer),
            Event::Close(code, reason) => {
                self.connection.closed = Some(code);
                if self.kind == Kind::Raw && code != 1000 {
                    self.since = position_in(reason);
                }
                desk.masks.borrow_mut().close(&mut answer);
            }
        }
        if let Some(outlet) = self.connection.outlet.as_ref().filter(|_| !answer.is_empty()) {
            let _ = outlet.send(&answer);
        }
    }

    fn hear(&mut self, heard: Heard<'_>, desk: &Desk, began: u64) {
        match heard {
            Heard::Publication { channel, place, data } => self.take(channel, place, data, desk),
            Heard::Connected { client, session, subscribed } => {
                if self.client.as_ref().is_some_and(|known| *known != client) {
                    desk.notes.borrow_mut().wrong("came back as another client, in spite of its session");
                }
                self.client.get_or_insert(client);
                self.session = session;
                if subscribed.into_iter().all(|outcome| self.subscribed(outcome, desk)) {
                    self.enter(desk, began);
                }
            }
            Heard::Disconnect { after_ms } => self.connection.after = Some(Duration::from_millis(after_ms)),
            Heard::Error(error) if !self.connection.is_in => self.connection.refused = Some(error),
            Heard::Error(error) => desk.notes.borrow_mut().wrong(format!("error {error}")),
            Heard::Wrong(what) => desk.notes.borrow_mut().wrong(what),
        }
    }

    /// False: the subscription is refused.
    fn subscribed(&mut self, outcome: Subscribed, desk: &Desk) -> bool {
        let Subscribed { channel, position, recovered, error } = outcome;
        let channels = &desk.task.channels;
        let Some(seat) = self.seats.iter_mut().find(|seat| channels[seat.channel] == channel) else {
            desk.notes.borrow_mut().wrong("a subscription that nobody asked for");
            return true;
        };
        if let Some(error) = error {
            self.connection.refused = Some(error);
            return false;
        }
        if seat.position().is_some() {
            let mut notes = desk.notes.borrow_mut();
            notes.party(self.kind).come_back(if recovered == Some(true) { "recovered" } else { "not recovered" });
            if recovered == Some(true) {
                // Where it was: what it missed follows, and moves it on.
                return true;
            }
        }
        match position {
            Some(position) => seat.begin(position),
            None => desk.notes.borrow_mut().wrong("a channel without positions: it has no history"),
        }
        true
    }

    fn enter_bare(&mut self, desk: &Desk, began: u64) {
        if self.left.is_some() {
            let is_blind = self.since.take().is_none();
            desk.notes.borrow_mut().party(self.kind).come_back(if is_blind { "no position" } else { "recovered" });
            if is_blind {
                self.seats.iter_mut().for_each(Seat::come_back_blind);
            }
        }
        self.enter(desk, began);
    }

    /// It is in, with all its subscriptions.
    fn enter(&mut self, desk: &Desk, began: u64) {
        let (mut notes, now) = (desk.notes.borrow_mut(), desk.task.clock.now());
        match self.left {
            Some(left) => {
                notes.away.record(now - left);
                if self.storm == Storm::Hit {
                    self.storm = Storm::Over;
                    notes.storm.record(now - left);
                    desk.standing.back.fetch_add(1, Relaxed);
                }
            }
            None => {
                notes.connect.record(now - began);
                desk.standing.came.fetch_add(1, Relaxed);
            }
        }
        self.connection.is_in = true;
        desk.standing.present.fetch_add(1, Relaxed);
    }

    fn take(&mut self, channel: Option<&str>, place: Option<(&str, u64)>, data: &[u8], desk: &Desk) {
        let mut notes = desk.notes.borrow_mut();
        let (channels, run) = (&desk.task.channels, &desk.task.run);
        let is_meant = |seat: &&mut Seat| channel.is_none_or(|channel| channels[seat.channel] == channel);
        let Some(seat) = self.seats.iter_mut().find(is_meant) else {
            return notes.wrong("a publication of a channel that was not subscribed to");
        };
        match serde_json::from_slice::<Stamp<'_>>(data) {
            Ok(stamp) if stamp.run == run && stamp.from as usize == seat.channel => {
                desk.standing.delivered.fetch_add(seat.take(place, stamp.seq), Relaxed);
                notes.delivery.record(desk.task.clock.now().saturating_sub(stamp.due));
            }
            _ => notes.foreign += 1,
        }
    }
}

/// Trying again would not help who never was in.
fn is_final(ending: &Ending) -> bool {
    matches!(ending, Ending::Refused(ClientError::Refused(_) | ClientError::Tls(_)))
}

/// The position in the reason of a bare client's close frame: what stands before a space.
fn position_in(reason: &[u8]) -> Option<String> {
    let words = str::from_utf8(reason).ok()?.split(' ').next()?;
    words.parse::<StreamPosition>().ok().map(|position| position.to_string())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn in_full(error: &ClientError) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
