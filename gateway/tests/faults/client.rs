//! A client as a good library would be: it keeps its place on every channel, comes back by itself, and never gives up.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skywave_proto::StreamPosition;
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::{Account, Fault, Heard, Number, Word},
    wait::{DEADLINE, until},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_millis(50);
/// Silence after which it asks whether the node is there.
const SILENCE: Duration = Duration::from_millis(500);

/// Who it is and what it wants.
#[derive(Clone)]
pub struct Wants {
    pub name: String,
    /// Where it connects: the first, and when that fails the next.
    pub nodes: Vec<SocketAddr>,
    pub channels: Vec<String>,
    /// Where it was before, if it was.
    pub since: BTreeMap<String, StreamPosition>,
    /// Asks for members, joins and leaves too.
    pub presence: bool,
    /// How long a node may say nothing to a ping; then the next one is tried.
    pub patience: Duration,
}

/// A client at work.
pub struct Client {
    pub name: String,
    record: Arc<Mutex<Record>>,
    enough: CancellationToken,
    task: JoinHandle<()>,
}

/// Everything that a client was told.
#[derive(Default)]
pub struct Record {
    pub channels: BTreeMap<String, Account>,
    /// `true`: ok.
    pub backplane: Vec<bool>,
    /// Joins and leaves, and the lists that were given with subscriptions.
    pub members: BTreeMap<String, Vec<Presence>>,
    /// For every connection the client's id, and the node's name.
    pub connections: Vec<(String, String)>,
    /// Answers to subscriptions with `since`.
    pub recovered: usize,
    /// Why connections ended, and what was refused.
    pub notes: Vec<String>,
    /// The longest time between two publications, whatever their channels.
    pub silence: Duration,
    subscribed: usize,
    heard_at: Option<Instant>,
}

/// What a client is told of who else is there, by client ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    List(Vec<String>),
    Join(String),
    Leave(String),
}

impl Client {
    pub fn start(wants: Wants) -> Self {
        let mut record = Record {
            channels: wants.channels.iter().map(|channel| (channel.clone(), Account::default())).collect(),
            ..Record::default()
        };
        for (channel, place) in &wants.since {
            if let Some(account) = record.channels.get_mut(channel) {
                account.hear(Heard::Told(Word::Began, Some(*place)));
            }
        }
        let (record, enough) = (Arc::new(Mutex::new(record)), CancellationToken::new());
        let name = wants.name.clone();
        let place = |channel: &String| (channel.clone(), wants.since.get(channel).copied());
        let places = wants.channels.iter().map(place).collect();
        let work = Work {
            wants,
            record: record.clone(),
            enough: enough.clone(),
            places,
            session: None,
            asked: HashMap::new(),
            ids: 0,
            retry: Vec::new(),
        };
        Self { name, record, enough, task: tokio::spawn(work.run()) }
    }

    /// Returns when it is subscribed to all its channels.
    pub async fn subscribed(&self) {
        self.until("to be subscribed", |record| record.subscribed == record.channels.len()).await;
    }

    /// Waits until its record is so.
    pub async fn until(&self, what: &str, holds: impl Fn(&Record) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !self.look(&holds) {
            if Instant::now() >= deadline {
                panic!("{}: not within {DEADLINE:?}: {what}\n{}", self.name, self.look(Record::summary));
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // between two looks at the condition
        }
    }

    pub fn look<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.record.lock())
    }

    /// Leaves, and gives what it was told.
    pub async fn end(self) -> Record {
        self.enough.cancel();
        timeout(DEADLINE, self.task).await.expect("it leaves in time").expect("it does not panic");
        std::mem::take(&mut *self.record.lock())
    }
}

/// Its place on a channel: `None` before it was there.
type Place = Option<StreamPosition>;
type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Work {
    wants: Wants,
    record: Arc<Mutex<Record>>,
    enough: CancellationToken,
    places: BTreeMap<String, Place>,
    session: Option<Value>,
    /// Subscriptions that are not answered.
    asked: HashMap<u64, String>,
    ids: u64,
    /// Subscriptions that were refused for now.
    retry: Vec<String>,
}

impl Record {
    /// Where it stands on each channel.
    pub fn places(&self) -> BTreeMap<String, StreamPosition> {
        let place = |(channel, account): (&String, &Account)| Some((channel.clone(), account.at()?));
        self.channels.iter().filter_map(place).collect()
    }

    /// What must not be, as far as one can tell without knowing what was acknowledged.
    pub fn faults(&self) -> Vec<Fault> {
        self.channels.values().flat_map(Account::faults).collect()
    }

    /// Where it stands, for a failure.
    fn summary(&self) -> String {
        let stands = |(channel, account): (&String, &Account)| {
            let last = account.heard().last().map_or("nothing".into(), ToString::to_string);
            format!("{channel}: {} publications, last {last}", account.publications())
        };
        let channels: Vec<_> = self.channels.iter().map(stands).collect();
        format!("{}\nbackplane {:?}\n{}", channels.join("\n"), self.backplane, self.notes.join("\n"))
    }
}

impl Work {
    async fn run(mut self) {
        let mut node = 0;
        while !self.enough.is_cancelled() {
            let address = self.wants.nodes[node % self.wants.nodes.len()];
            if let Err(why) = self.visit(address).await {
                let mut record = self.record.lock();
                record.subscribed = 0;
                record.notes.push(format!("{address}: {why}"));
                node += 1;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.enough.cancelled() => {}
            }
        }
    }

    /// One connection, to its end.
    async fn visit(&mut self, address: SocketAddr) -> Result<(), String> {
        let connecting = timeout(CONNECT, connect_async(format!("ws://{address}/ws"))).await;
        let (mut socket, _) = connecting.map_err(|_| "no handshake in time")?.map_err(|error| error.to_string())?;
        (self.asked, self.retry) = (HashMap::new(), Vec::new());
        let subscribe: Vec<_> = self.places.iter().map(|(channel, place)| self.request(channel, *place)).collect();
        let mut connect = json!({"subscribe": subscribe});
        if let Some(session) = &self.session {
            connect["session"] = session.clone();
        }
        self.ids += 1;
        say(&mut socket, json!({"id": self.ids, "connect": connect})).await?;
        let enough = self.enough.clone();
        let (mut heard, mut pinged) = (Instant::now(), false);
        loop {
            let silent_until = heard + if pinged { self.wants.patience } else { SILENCE };
            tokio::select! {
                message = socket.next() => {
                    (heard, pinged) = (Instant::now(), false);
                    match message {
                        Some(Ok(Message::Text(text))) => self.take(&text)?,
                        Some(Ok(Message::Close(frame))) => return Err(format!("closed with {frame:?}")),
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(error.to_string()),
                        None => return Err("ended without a close".into()),
                    }
                }
                () = tokio::time::sleep(PAUSE), if !self.retry.is_empty() => {
                    for channel in std::mem::take(&mut self.retry) {
                        let request = self.request(&channel, self.places[&channel]);
                        self.ids += 1;
                        self.asked.insert(self.ids, channel);
                        say(&mut socket, json!({"id": self.ids, "subscribe": request})).await?;
                    }
                }
                () = tokio::time::sleep_until(silent_until) => {
                    if pinged {
                        return Err(format!("silent for {:?}", heard.elapsed()));
                    }
                    (heard, pinged) = (Instant::now(), true);
                    say(&mut socket, json!({"ping": {}})).await?;
                }
                () = enough.cancelled() => {
                    let _ = timeout(CONNECT, socket.close(None)).await; // it may be gone
                    return Ok(());
                }
            }
        }
    }

    fn request(&self, channel: &str, place: Place) -> Value {
        let mut request = json!({"channel": channel});
        if let Some(place) = place {
            request["since"] = json!({"epoch": place.epoch.as_str(), "offset": place.offset});
        }
        if self.wants.presence {
            request["presence"] = true.into();
        }
        request
    }

    /// Takes one message: one object a line.
    fn take(&mut self, text: &str) -> Result<(), String> {
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).expect("the node speaks JSON");
            let record = self.record.clone();
            let mut record = record.lock();
            let Some((kind, body)) = value.as_object().and_then(|object| object.iter().find(|(key, _)| *key != "id"))
            else {
                continue;
            };
            match kind.as_str() {
                "connected" => {
                    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
                    record.connections.push((text("client"), text("node")));
                    self.session = Some(body["session"].clone());
                    for answer in body["subscribed"].as_array().into_iter().flatten() {
                        self.subscribed(answer, &mut record);
                    }
                }
                "subscribed" => self.subscribed(body, &mut record),
                "error" => {
                    let channel = value["id"].as_u64().and_then(|id| self.asked.remove(&id));
                    record.notes.push(body.to_string());
                    match channel {
                        Some(channel) if body["retry"] == true => self.retry.push(channel),
                        _ => return Err(format!("an error: {body}")),
                    }
                }
                "publication" => self.publication(channel(body), body, &mut record),
                "gap" => {
                    let word = match body["reason"].as_str() {
                        Some("reset") => Word::Reset,
                        Some("rollback") => Word::Rollback,
                        Some("slow_consumer") => Word::SlowConsumer,
                        Some("possible") => Word::Possible,
                        other => panic!("an unknown reason: {other:?}"),
                    };
                    self.hear(channel(body), Heard::Told(word, position(&body["position"])), &mut record);
                }
                "join" | "leave" => {
                    let client = client_of(&body["member"]);
                    let event = if kind == "join" { Presence::Join(client) } else { Presence::Leave(client) };
                    record.members.entry(channel(body).to_owned()).or_default().push(event);
                }
                "backplane" => record.backplane.push(body["state"] == "ok"),
                "disconnect" => record.notes.push(format!("told to go: {body}")),
                "unsubscribed" => return Err(format!("unsubscribed unasked: {body}")),
                "pong" => {}
                other => panic!("an unknown word: {other}"),
            }
        }
        Ok(())
    }

    /// An answer to a subscription.
    fn subscribed(&mut self, body: &Value, record: &mut Record) {
        let name = channel(body);
        if !body["error"].is_null() {
            record.notes.push(body.to_string());
            assert_eq!(body["error"]["retry"], true, "{body}");
            self.retry.push(name.to_owned());
            return;
        }
        record.subscribed += 1;
        let now = position(&body["position"]);
        match body["recovered"].as_bool() {
            Some(true) => record.recovered += 1,
            Some(false) => self.hear(name, Heard::Told(Word::NotRecovered, now), record),
            // Without a `since`. On a channel without history nobody can say what was missed in between.
            None => self.hear(name, Heard::Told(Word::Began, now), record),
        }
        for publication in body["publications"].as_array().into_iter().flatten() {
            self.publication(name, publication, record);
        }
        if let Some(members) = body["members"].as_array() {
            let list = Presence::List(members.iter().map(client_of).collect());
            record.members.entry(name.to_owned()).or_default().push(list);
        }
    }

    fn publication(&mut self, channel: &str, body: &Value, record: &mut Record) {
        let number = |key: &str| body["data"][key].as_u64().expect("published by this suite");
        let publisher = u8::try_from(number("publisher")).expect("published by this suite");
        let number = Number { publisher, number: number("number") };
        let now = Instant::now();
        if let Some(before) = record.heard_at.replace(now) {
            record.silence = record.silence.max(now - before);
        }
        self.hear(channel, Heard::Publication(number, position(body)), record);
    }

    fn hear(&mut self, channel: &str, heard: Heard, record: &mut Record) {
        let (Heard::Publication(_, position) | Heard::Told(_, position)) = heard;
        *self.places.get_mut(channel).expect("of a channel that it asked for") = position;
        record.channels.get_mut(channel).expect("of a channel that it asked for").hear(heard);
    }
}

async fn say(socket: &mut Socket, value: Value) -> Result<(), String> {
    let sent = timeout(CONNECT, socket.send(Message::text(value.to_string()))).await;
    sent.map_err(|_| "cannot send")?.map_err(|error| error.to_string())
}

fn channel(body: &Value) -> &str {
    body["channel"].as_str().expect("it names its channel")
}

fn client_of(member: &Value) -> String {
    member["client"].as_str().expect("a member is a client").to_owned()
}

/// A position, or what stands like one in a publication.
pub fn position(value: &Value) -> Option<StreamPosition> {
    Some(StreamPosition { epoch: value["epoch"].as_str()?.parse().ok()?, offset: value["offset"].as_u64()? })
}

/// Waits until all are subscribed.
pub async fn all_subscribed(clients: &[Client]) {
    until("all clients to be subscribed", async || {
        clients.iter().all(|client| client.look(|record| record.subscribed == record.channels.len()))
    })
    .await;
}
