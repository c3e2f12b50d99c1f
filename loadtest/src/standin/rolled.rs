//! A stand-in for a cluster whose nodes are replaced: it sends every client away once, takes it back, and makes one mistake on
//! request. JSON, protobuf and bare clients, and `publish` of the server API, all on one port.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    future::pending,
    io,
    rc::Rc,
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, header};
use prost::Message as _;
use serde_json::{Value, json};
use skywave_proto::v1::{self, command::Command, payload, reply::Reply, subscribe_outcome::Outcome};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    select,
    sync::mpsc,
    task::spawn_local,
    time::sleep,
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::CloseFrame,
    },
};

use super::StandIn;
use crate::scenario::roll::kind::Kind;

/// What waits for one member.
const SAYS: usize = 65_536;
/// Eight characters, as a node's.
const EPOCH: &str = "stand-in";
/// The publication, counted from 0, that a [`Misstep`] strikes, and that has no answer at first though it is there.
const STRUCK: usize = 3;
/// After so many publications all clients are sent away.
const AWAY: usize = 10;
/// Between one client that leaves and the next.
const APART: Duration = Duration::from_millis(40);
/// How long clients are to stay away: long enough to miss something.
const AFTER_MS: u64 = 50;

/// What goes wrong, for one client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Misstep {
    /// Nothing.
    #[default]
    None,
    /// A live publication does not arrive.
    Lose,
    /// A live publication arrives twice.
    Double,
    /// Who comes back is told that nothing is missing, and one is.
    LeaveOut,
    /// Who comes back is told to start over.
    StartOver,
    /// Who comes back is taken for somebody else.
    Rename,
    /// A close with a code that says nothing of a restart.
    WrongCode,
    /// An end without a word, as of a node that dies.
    Cut,
    /// All leave at the same moment. Of this all clients are struck.
    Crowd,
    /// A publication that is sent again under its key is there twice.
    ForgetKey,
}

impl StandIn {
    /// Starts a stand-in that sends everybody away once.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn start_rolled(misstep: Misstep) -> io::Result<Self> {
        Self::serve(move |listener| accept(listener, Rc::new(Cluster { misstep, ..Cluster::default() })))
    }

    /// Where back ends publish.
    pub fn api(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A whole cluster. Bound: the clients and publications of one run.
#[derive(Default)]
struct Cluster {
    misstep: Misstep,
    has_struck: Cell<bool>,
    /// By name: the payloads, as JSON text; the first has offset 1.
    channels: RefCell<HashMap<String, Vec<String>>>,
    keys: RefCell<HashSet<String>>,
    published: Cell<usize>,
    members: RefCell<Vec<Rc<Member>>>,
    clients: Cell<u64>,
}

/// One connection.
struct Member {
    kind: Kind,
    channels: Vec<String>,
    says: mpsc::Sender<Says>,
}

enum Says {
    Message(Message),
    Leave,
}

/// What a client comes with.
struct Arrival {
    session: Option<String>,
    channels: Vec<(String, Option<u64>)>,
}

async fn accept(listener: std::net::TcpListener, cluster: Rc<Cluster>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else { return pending().await };
        let cluster = cluster.clone();
        spawn_local(async move {
            let mut first = [0; 4];
            match stream.peek(&mut first).await {
                Ok(4) if &first == b"POST" => cluster.answer(stream).await.unwrap_or_default(),
                _ => cluster.host(stream).await.unwrap_or_default(),
            }
        });
    }
}

impl Cluster {
    /// True once, if this is what goes wrong.
    fn strikes(&self, misstep: Misstep) -> bool {
        self.misstep == misstep && !self.has_struck.replace(true)
    }

    /// A back end's connection: one publication after the other.
    async fn answer(self: Rc<Self>, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.ok()? == 0 {
                    return None;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().ok()?;
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            let command: Value = serde_json::from_slice(&body).ok()?;
            let (status, answer) = self.clone().publish(&command)?;
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            stream.write_all(head.as_bytes()).await.ok()?;
        }
    }

    fn publish(self: Rc<Self>, command: &Value) -> Option<(u16, String)> {
        let (channel, key) = (command["channel"].as_str()?, command["key"].as_str()?);
        let is_known = !self.keys.borrow_mut().insert(format!("{channel} {key}"));
        if is_known && !self.strikes(Misstep::ForgetKey) {
            return Some((200, json!({ "duplicate": true }).to_string()));
        }
        let data = command["data"].to_string();
        let offset = {
            let mut channels = self.channels.borrow_mut();
            let history = channels.entry(channel.to_owned()).or_default();
            history.push(data.clone());
            history.len()
        };
        let number = self.published.replace(self.published.get() + 1);
        let members: Vec<_> = self.members.borrow().iter().filter(|member| member.is_on(channel)).cloned().collect();
        for (place, member) in members.iter().enumerate() {
            let strikes = |misstep| number == STRUCK && place == 0 && self.strikes(misstep);
            if strikes(Misstep::Lose) {
                continue;
            }
            let message = member.publication(channel, offset, &data);
            if strikes(Misstep::Double) {
                let _ = member.says.try_send(Says::Message(message.clone()));
            }
            let _ = member.says.try_send(Says::Message(message));
        }
        if number == AWAY {
            spawn_local(self.clone().send_away());
        }
        // It is there, and who asked for it is not told so: the next time its key is known.
        let is_unheard = number == STRUCK;
        Some(if is_unheard { (503, String::new()) } else { (200, json!({ "duplicate": false }).to_string()) })
    }

    async fn send_away(self: Rc<Self>) {
        let members = self.members.borrow().clone();
        for member in members {
            let _ = member.says.try_send(Says::Leave);
            if self.misstep != Misstep::Crowd {
                sleep(APART).await;
            }
        }
    }

    /// A client's connection, from its handshake to its end.
    async fn host(self: Rc<Self>, stream: TcpStream) -> Option<()> {
        let (mut kind, mut address) = (Kind::Json, String::new());
        #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
        let choose = |request: &Request, mut response: Response| {
            address = request.uri().to_string();
            kind = match request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()) {
                Some("skywave.v1.protobuf") => Kind::Protobuf,
                Some(_) => Kind::Json,
                None => Kind::Raw,
            };
            if let Some(subprotocol) = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL) {
                let subprotocol: HeaderValue = subprotocol.clone();
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
            }
            Ok(response)
        };
        let mut socket = accept_hdr_async(stream, choose).await.ok()?;
        let arrival = match kind {
            Kind::Raw => raw_arrival(&address)?,
            kind => arrival(kind, &socket.next().await?.ok()?)?,
        };
        // A member that does not read for so long is no client of the tool's: what comes then is dropped, and noticed as lost.
        let (says, mut said) = mpsc::channel(SAYS);
        let channels = arrival.channels.iter().map(|(channel, _)| channel.clone()).collect();
        let member = Rc::new(Member { kind, channels, says });
        for message in self.welcome(&member, &arrival) {
            socket.send(message).await.ok()?;
        }
        self.members.borrow_mut().push(member.clone());
        loop {
            let says = select! {
                says = said.recv() => says?,
                heard = socket.next() => match heard {
                    Some(Ok(_)) => continue,
                    _ => break,
                },
            };
            match says {
                Says::Message(message) => socket.send(message).await.ok()?,
                Says::Leave => {
                    self.members.borrow_mut().retain(|other| !Rc::ptr_eq(other, &member));
                    if self.strikes(Misstep::Cut) {
                        return None;
                    }
                    for message in self.farewell(&member) {
                        socket.send(message).await.ok()?;
                    }
                }
            }
        }
        self.members.borrow_mut().retain(|other| !Rc::ptr_eq(other, &member));
        Some(())
    }

    /// The answer to a client that comes, with what it missed.
    fn welcome(&self, member: &Member, arrival: &Arrival) -> Vec<Message> {
        let channels = self.channels.borrow();
        let mut missed = Vec::new();
        let mut subscribed = Vec::new();
        for (channel, since) in &arrival.channels {
            let history = channels.get(channel).map_or(&[][..], Vec::as_slice);
            let is_told = since.is_some() && member.kind != Kind::Raw;
            let starts_over = is_told && self.strikes(Misstep::StartOver);
            let from = since.filter(|_| !starts_over).and_then(|since| usize::try_from(since).ok());
            let mut these: Vec<usize> = (from.unwrap_or(history.len())..history.len()).collect();
            if since.is_some() && !these.is_empty() && self.strikes(Misstep::LeaveOut) {
                these.remove(0);
            }
            missed.extend(these.iter().map(|at| (channel, at + 1, &history[*at])));
            let said = v1::Subscribed {
                position: Some(position(history.len())),
                recovered: since.map(|_| !starts_over),
                publications: these.iter().map(|at| publication(channel, at + 1, &history[*at])).collect(),
                ..v1::Subscribed::default()
            };
            subscribed
                .push(v1::SubscribeOutcome { channel: channel.clone(), outcome: Some(Outcome::Subscribed(said)) });
        }
        if member.kind == Kind::Raw {
            return missed
                .into_iter()
                .map(|(channel, offset, data)| member.publication(channel, offset, data))
                .collect();
        }
        self.clients.set(self.clients.get() + 1);
        let is_known = arrival.session.is_some() && !self.strikes(Misstep::Rename);
        let client = arrival.session.clone().filter(|_| is_known).unwrap_or_else(|| self.clients.get().to_string());
        let session = client.clone();
        vec![member.message(&Reply::Connected(v1::Connected {
            client,
            session,
            subscribed,
            ..v1::Connected::default()
        }))]
    }

    /// What is said to who is to come back.
    fn farewell(&self, member: &Member) -> Vec<Message> {
        let wrong = self.strikes(Misstep::WrongCode).then_some(1011);
        if member.kind == Kind::Raw {
            let offset = self.channels.borrow().get(&member.channels[0]).map_or(0, Vec::len);
            return vec![close(wrong.unwrap_or(1012), format!("{EPOCH}:{offset}"))];
        }
        let told = v1::Disconnect { code: 4001, after_ms: AFTER_MS, ..v1::Disconnect::default() };
        vec![member.message(&Reply::Disconnect(told)), close(wrong.unwrap_or(4001), "draining".to_owned())]
    }
}

impl Member {
    fn is_on(&self, channel: &str) -> bool {
        self.channels.iter().any(|own| own == channel)
    }

    fn publication(&self, channel: &str, offset: usize, data: &str) -> Message {
        match self.kind {
            Kind::Raw => Message::text(data),
            _ => self.message(&Reply::Publication(publication(channel, offset, data))),
        }
    }

    fn message(&self, reply: &Reply) -> Message {
        if self.kind == Kind::Protobuf {
            let reply = v1::Reply { id: None, reply: Some(reply.clone()) };
            return Message::binary(reply.encode_length_delimited_to_vec());
        }
        Message::text(match reply {
            Reply::Connected(v1::Connected { client, session, subscribed, .. }) => {
                let subscribed: Vec<Value> = subscribed.iter().map(outcome_in_json).collect();
                json!({ "connected": { "client": client, "session": session, "subscribed": subscribed } }).to_string()
            }
            Reply::Publication(publication) => {
                let mut said = publication_in_json(publication);
                said["channel"] = publication.channel.clone().into();
                json!({ "publication": said }).to_string()
            }
            Reply::Disconnect(told) => {
                json!({ "disconnect": { "code": told.code, "after_ms": told.after_ms } }).to_string()
            }
            _ => String::new(),
        })
    }
}

fn position(offset: usize) -> v1::Position {
    v1::Position { epoch: EPOCH.to_owned(), offset: offset as u64 }
}

fn publication(channel: &str, offset: usize, data: &str) -> v1::Publication {
    let data = v1::Payload { kind: Some(payload::Kind::Json(data.to_owned().into())) };
    let (channel, position) = (channel.to_owned(), Some(position(offset)));
    v1::Publication { channel, position, data: Some(data), ..v1::Publication::default() }
}

fn publication_in_json(publication: &v1::Publication) -> Value {
    let Some(payload::Kind::Json(data)) = publication.data.as_ref().and_then(|data| data.kind.as_ref()) else {
        return Value::Null;
    };
    let data: Value = serde_json::from_slice(data).unwrap_or_default();
    let offset = publication.position.as_ref().map(|position| position.offset);
    json!({ "offset": offset, "epoch": EPOCH, "data": data })
}

fn outcome_in_json(outcome: &v1::SubscribeOutcome) -> Value {
    let Some(Outcome::Subscribed(said)) = &outcome.outcome else { return Value::Null };
    json!({
        "channel": outcome.channel,
        "position": { "epoch": EPOCH, "offset": said.position.as_ref().map(|position| position.offset) },
        "recovered": said.recovered,
        "publications": said.publications.iter().map(publication_in_json).collect::<Vec<_>>(),
    })
}

fn close(code: u16, reason: String) -> Message {
    Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
}

/// The first frame of a client.
fn arrival(kind: Kind, message: &Message) -> Option<Arrival> {
    if kind == Kind::Protobuf {
        let command = v1::Command::decode_length_delimited(message.clone().into_data()).ok()?.command?;
        let Command::Connect(connect) = command else { return None };
        let each = |subscribe: v1::Subscribe| (subscribe.channel, subscribe.since.map(|since| since.offset));
        return Some(Arrival { session: connect.session, channels: connect.subscribe.into_iter().map(each).collect() });
    }
    let command: Value = serde_json::from_str(message.to_text().ok()?).ok()?;
    let connect = &command["connect"];
    let each =
        |subscribe: &Value| Some((subscribe["channel"].as_str()?.to_owned(), subscribe["since"]["offset"].as_u64()));
    Some(Arrival {
        session: connect["session"].as_str().map(str::to_owned),
        channels: connect["subscribe"].as_array()?.iter().filter_map(each).collect(),
    })
}

/// `/raw/CHANNEL?since=EPOCH:OFFSET`, encoded.
fn raw_arrival(address: &str) -> Option<Arrival> {
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let channel = decoded(path.rsplit('/').next()?);
    let since = query.strip_prefix("since=").map(decoded);
    let since = since.and_then(|since| since.split_once(':').and_then(|(_, offset)| offset.parse().ok()));
    Some(Arrival { session: None, channels: vec![(channel, since)] })
}
