//! What outlives a connection: who the client is, its subscriptions, and what was asked and not answered.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use skywave_proto::v1::{self, command::Command, reply::Reply as Word, subscribe_outcome::Outcome};
use tokio::time::Instant;

use super::place::{Owed, Place};
use crate::{
    builder::Builder,
    error::{ClientError, Refusal},
    event::Event,
    order::{Ask, Opening},
    speech,
};

/// Commands that may wait for an answer. At so many no more orders are taken.
const ASKED: usize = 256;
/// How long to wait before the node is asked again for what it could not do, if it does not say.
const AGAIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Default)]
pub(super) struct Desk {
    is_in: bool,
    was_in: bool,
    client: Option<Arc<str>>,
    session: Option<String>,
    places: HashMap<String, Place>,
    asked: BTreeMap<u64, Asked>,
    last_id: u64,
    /// Commands to be sent. What is asked before the client is in is sent then.
    pub(super) out: Vec<v1::Command>,
}

/// A command that was not answered yet.
enum Asked {
    Connect,
    Ping,
    Refresh,
    Subscribe {
        channel: String,
        number: u64,
    },
    Unsubscribe,
    /// History for a subscription that is behind.
    Missed {
        channel: String,
        number: u64,
    },
    /// Members for a subscription that has lost joins or leaves.
    Members {
        channel: String,
        number: u64,
    },
    Caller {
        ask: Ask,
        is_sent: bool,
    },
}

/// What a reply means for the connection.
pub(super) enum Heard {
    Nothing,
    /// The client is in. `ends`: when its token does.
    In {
        client: Arc<str>,
        node: Arc<str>,
        ping: Duration,
        ends: Option<Duration>,
    },
    Renewed {
        ends: Option<Duration>,
    },
    /// It is not let in; the close follows.
    Refused(Refusal),
    Disconnect(v1::Disconnect),
}

impl Desk {
    pub(super) fn has_room(&self) -> bool {
        self.asked.len() < ASKED
    }

    pub(super) fn is_in(&self) -> bool {
        self.is_in
    }

    /// The connection is gone. True if the client was in.
    pub(super) fn leave(&mut self) -> bool {
        self.is_in = false;
        self.out.clear();
        self.places.values_mut().for_each(Place::interrupt);
        let asked = std::mem::take(&mut self.asked);
        for (id, asked) in asked {
            match asked {
                Asked::Caller { ask, is_sent: true } if !ask.is_repeatable() => ask.fail(ClientError::UnknownOutcome),
                Asked::Caller { ask, .. } => drop(self.asked.insert(id, Asked::Caller { ask, is_sent: false })),
                _ => {}
            }
        }
        std::mem::take(&mut self.was_in)
    }

    /// The first command of a connection: it brings back all subscriptions.
    pub(super) fn connect(&mut self, builder: &Builder, token: Option<String>) -> v1::Command {
        self.places.retain(|_, place| place.is_read());
        let subscribe = self.places.iter_mut().map(|(channel, place)| {
            place.is_asked = true;
            place.command(channel)
        });
        let hello = builder.hello(token, self.session.clone(), subscribe.collect());
        let id = self.number(Asked::Connect);
        v1::Command { id: Some(id), command: Some(Command::Connect(hello)) }
    }

    pub(super) fn subscribe(&mut self, opening: Opening) {
        let (channel, number) = (opening.channel.clone(), opening.number);
        if self.places.get(&channel).is_some_and(Place::is_read) {
            let message = format!("this client is subscribed to {channel:?} already");
            let refusal = Refusal { code: "already_subscribed".into(), message, retry: false, after: Duration::ZERO };
            return Place::new(opening).end(refusal);
        }
        // Whoever dropped the one before, and found no room to say so, has unsubscribed.
        if self.places.contains_key(&channel) {
            self.say(Asked::Unsubscribe, Command::Unsubscribe(v1::Unsubscribe { channel: channel.clone() }));
        }
        self.places.insert(channel.clone(), Place::new(opening));
        self.ask_for(&channel, number);
    }

    pub(super) fn unsubscribe(&mut self, channel: &str, number: u64) {
        if self.places.get(channel).is_some_and(|place| place.number == number) {
            let place = self.places.remove(channel);
            if place.is_some_and(|place| place.is_asked) {
                self.say(Asked::Unsubscribe, Command::Unsubscribe(v1::Unsubscribe { channel: channel.to_owned() }));
            }
        }
    }

    pub(super) fn catch_up(&mut self, channel: &str, number: u64) {
        if !self.is_in {
            return; // all that it is owed comes with the next connection
        }
        let place = self.places.get_mut(channel).filter(|place| place.number == number);
        for owed in place.map(Place::owed).unwrap_or_default() {
            let (channel, name) = (channel.to_owned(), channel.to_owned());
            match owed {
                Owed::History(since) => {
                    let since = Some(speech::wire_position(since));
                    let command = Command::History(v1::History { channel, since, limit: None });
                    self.say(Asked::Missed { channel: name, number }, command);
                }
                Owed::Members => {
                    let command = Command::Presence(v1::Presence { channel, after: None });
                    self.say(Asked::Members { channel: name, number }, command);
                }
            }
        }
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        let (is_sent, command) = (self.is_in, ask.command());
        let id = self.number(Asked::Caller { ask, is_sent });
        if is_sent {
            self.out.push(v1::Command { id: Some(id), command: Some(command) });
        }
    }

    pub(super) fn refresh(&mut self, token: String) {
        self.say(Asked::Refresh, Command::Refresh(v1::Refresh { token }));
    }

    pub(super) fn ping(&mut self) {
        self.say(Asked::Ping, Command::Ping(v1::Ping {}));
    }

    /// When something is to be asked again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.places.values().filter_map(|place| place.again_at).min()
    }

    /// Asks again for what is due.
    pub(super) fn retry(&mut self, now: Instant) {
        let due = |place: &Place| place.again_at.is_some_and(|at| at <= now);
        let due: Vec<_> =
            self.places.iter().filter(|(_, place)| due(place)).map(|(name, at)| (name.clone(), at.number)).collect();
        for (channel, number) in due {
            let Some(place) = self.places.get_mut(&channel) else { continue };
            place.again_at = None;
            if place.is_asked { self.catch_up(&channel, number) } else { self.ask_for(&channel, number) }
        }
    }

    /// The client has ended: whoever waits is told why.
    pub(super) fn fail_all(&mut self, error: &ClientError) {
        for (_, asked) in std::mem::take(&mut self.asked) {
            if let Asked::Caller { ask, .. } = asked {
                ask.fail(error.clone());
            }
        }
        let refusal = match error {
            ClientError::Refused(refusal) => refusal.clone(),
            error => Refusal { code: "ended".into(), message: error.to_string(), retry: false, after: Duration::ZERO },
        };
        self.places.drain().for_each(|(_, place)| place.end(refusal.clone()));
    }

    /// What the node has said.
    pub(super) fn hear(&mut self, reply: v1::Reply) -> Heard {
        let asked = reply.id.and_then(|id| self.asked.remove(&id));
        match (reply.reply, asked) {
            (Some(Word::Connected(connected)), Some(Asked::Connect)) => return self.connected(connected),
            (Some(Word::Error(error)), Some(asked)) => return self.refused(error.into(), asked),
            (Some(Word::Disconnect(told)), _) => return Heard::Disconnect(told),
            (Some(Word::Refreshed(told)), _) => {
                return Heard::Renewed { ends: told.expires_in_ms.map(Duration::from_millis) };
            }
            (Some(Word::Subscribed(told)), Some(Asked::Subscribe { channel, number })) => {
                self.with(&channel, Some(number), |place| place.subscribed(told));
            }
            // Unasked: the list of members, read again. Or a subscription by the back end's order, which nobody here reads.
            (Some(Word::Subscribed(told)), None) => {
                let channel = told.channel;
                let page = speech::members(told.members, told.total, told.next);
                self.with(&channel, None, |place| place.members(page));
            }
            (Some(Word::Unsubscribed(told)), None) => {
                let message = told.reason.unwrap_or_default();
                let refusal = Refusal { code: "unsubscribed".into(), message, retry: false, after: Duration::ZERO };
                if let Some(place) = self.places.remove(&told.channel) {
                    place.end(refusal);
                }
            }
            (Some(Word::Publication(told)), _) => {
                let channel = told.channel.clone();
                self.with(&channel, None, |place| place.live(speech::publication(told)));
            }
            (Some(Word::Join(told)), _) => {
                let join = Event::Join(speech::member(told.member));
                self.with(&told.channel, None, |place| place.member(join));
            }
            (Some(Word::Leave(told)), _) => {
                let leave = Event::Leave(speech::member(told.member));
                self.with(&told.channel, None, |place| place.member(leave));
            }
            (Some(Word::Gap(told)), _) => {
                let channel = told.channel.clone();
                self.with(&channel, None, |place| place.gap(speech::gap(told)));
            }
            (Some(Word::History(page)), Some(Asked::Missed { channel, number })) => {
                let (mut goes_on, own) = (false, self.client.clone());
                self.with(&channel, Some(number), |place| goes_on = place.page(speech::history(page), own.as_ref()));
                if goes_on {
                    self.read_on(&channel, number);
                }
            }
            (Some(Word::Presence(list)), Some(Asked::Members { channel, number })) => {
                let page = speech::members(list.members, Some(list.total), list.next);
                self.with(&channel, Some(number), |place| place.members(page));
            }
            (Some(word), Some(Asked::Caller { ask, .. })) => answer(ask, word),
            _ => {} // a pong, an unsubscribed, a word of a newer version
        }
        Heard::Nothing
    }

    fn connected(&mut self, connected: v1::Connected) -> Heard {
        let v1::Connected { client, session, node, ping_interval_ms, subscribed, expires_in_ms } = connected;
        let client = Arc::<str>::from(client);
        (self.is_in, self.was_in) = (true, true);
        (self.client, self.session) = (Some(client.clone()), Some(session));
        for told in subscribed {
            match told.outcome {
                Some(Outcome::Subscribed(outcome)) => self.with(&told.channel, None, |place| place.subscribed(outcome)),
                Some(Outcome::Error(error)) => self.not_subscribed(&told.channel, None, error.into()),
                None => {}
            }
        }
        // What was asked for meanwhile, or over the connection before.
        let new = self.places.iter().filter(|(_, place)| !place.is_asked && place.again_at.is_none());
        for (channel, number) in new.map(|(name, place)| (name.clone(), place.number)).collect::<Vec<_>>() {
            self.ask_for(&channel, number);
        }
        for (id, asked) in &mut self.asked {
            if let Asked::Caller { ask, is_sent: is_sent @ false } = asked {
                *is_sent = true;
                self.out.push(v1::Command { id: Some(*id), command: Some(ask.command()) });
            }
        }
        let ping = Duration::from_millis(ping_interval_ms.max(1000));
        Heard::In { client, node: node.into(), ping, ends: expires_in_ms.map(Duration::from_millis) }
    }

    fn refused(&mut self, refusal: Refusal, asked: Asked) -> Heard {
        match asked {
            Asked::Connect => return Heard::Refused(refusal),
            Asked::Subscribe { channel, number } => self.not_subscribed(&channel, Some(number), refusal),
            Asked::Missed { channel, number } => self.with(&channel, Some(number), |place| {
                if refusal.retry {
                    place.is_reading = false;
                    place.again_at = Some(Instant::now() + refusal.after.max(AGAIN));
                } else {
                    place.give_up("slow_consumer");
                }
            }),
            // The next join or leave tells nothing of those before it: it stays owed until somebody asks again.
            Asked::Members { channel, number } => self.with(&channel, Some(number), |place| {
                place.lose_members();
                place.again_at = refusal.retry.then(|| Instant::now() + refusal.after.max(AGAIN));
            }),
            Asked::Caller { ask, .. } => ask.fail(refusal.into()),
            Asked::Refresh | Asked::Ping | Asked::Unsubscribe => tracing::debug!(%refusal, "the node refuses"),
        }
        Heard::Nothing
    }

    /// A subscription is refused: for now, or for good.
    fn not_subscribed(&mut self, channel: &str, number: Option<u64>, refusal: Refusal) {
        let Some(place) = self.places.get_mut(channel) else { return };
        if number.is_some_and(|number| number != place.number) {
            return;
        }
        // Whoever asks for the first time hears it. Who was there comes back as soon as it can be had.
        if refusal.retry && place.opening.is_none() {
            place.is_asked = false;
            place.again_at = Some(Instant::now() + refusal.after.max(AGAIN));
            return;
        }
        if let Some(place) = self.places.remove(channel) {
            place.end(refusal);
        }
    }

    /// Asks the node for a subscription, if the client is in; else `connect` does.
    fn ask_for(&mut self, channel: &str, number: u64) {
        if !self.is_in {
            return;
        }
        let Some(place) = self.places.get_mut(channel) else { return };
        place.is_asked = true;
        let command = Command::Subscribe(place.command(channel));
        self.say(Asked::Subscribe { channel: channel.to_owned(), number }, command);
    }

    fn read_on(&mut self, channel: &str, number: u64) {
        let since = self.places.get(channel).and_then(Place::position).map(speech::wire_position);
        let command = Command::History(v1::History { channel: channel.to_owned(), since, limit: None });
        self.say(Asked::Missed { channel: channel.to_owned(), number }, command);
    }

    fn with(&mut self, channel: &str, number: Option<u64>, does: impl FnOnce(&mut Place)) {
        let Some(place) = self.places.get_mut(channel) else { return };
        if number.is_none_or(|number| number == place.number) {
            does(place);
        }
        // Whoever dropped it found no room to say so.
        let (is_read, number) = (place.is_read(), place.number);
        if !is_read {
            self.unsubscribe(channel, number);
        }
    }

    /// Sends a command of our own, if the client is in: after a reconnect it means nothing.
    fn say(&mut self, asked: Asked, command: Command) {
        if self.is_in {
            let id = self.number(asked);
            self.out.push(v1::Command { id: Some(id), command: Some(command) });
        }
    }

    fn number(&mut self, asked: Asked) -> u64 {
        self.last_id += 1;
        self.asked.insert(self.last_id, asked);
        self.last_id
    }
}

fn answer(ask: Ask, word: Word) {
    match (ask, word) {
        (Ask::Publish { done, .. }, Word::Published(told)) => drop(done.send(Ok(speech::published(told)))),
        (Ask::History { done, .. }, Word::History(page)) => drop(done.send(Ok(speech::history(page)))),
        (Ask::Presence { done, .. }, Word::Presence(list)) => {
            let _ = done.send(Ok(speech::members(list.members, Some(list.total), list.next)));
        }
        (Ask::Rpc { done, .. }, Word::Result(told)) => drop(done.send(Ok(speech::payload(told.data)))),
        (ask, word) => {
            let message = format!("an answer that does not fit: {}", name(&word));
            ask.fail(Refusal { code: "internal".into(), message, retry: false, after: Duration::ZERO }.into());
        }
    }
}

fn name(word: &Word) -> String {
    let words = format!("{word:?}");
    words.split('(').next().unwrap_or_default().to_owned()
}
