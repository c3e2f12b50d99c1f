//! A stand-in for a node, in this process: connect, subscribe, publish, /echo, and one fault on request.
//!
//! The generator is held against it: to see how much it can take, and that it notices what goes wrong. It has
//! no rights, no limits, and trusts its clients: never more than a measuring tool.

mod rolled;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::pending,
    io,
    net::SocketAddr,
    rc::Rc,
    thread,
};

use futures_util::StreamExt as _;
use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    io::{Empty, Join, empty, join},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime, select,
    sync::oneshot,
    task::{LocalSet, spawn_local},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::{Role, WebSocketConfig},
    },
};

pub use rolled::Misstep;

use crate::{client::SUBPROTOCOL, incoming::lines};

/// The publication, counted from 0, that a [`Fault`] strikes; the others arrive as they should.
const STRUCK: u64 = 2;
/// Bound on the bytes that wait for one client, emptied by its own task. Full: it gets no more.
const BACKLOG: usize = 16 << 20;

/// What goes wrong, once, for the client that subscribed first to its channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// A publication does not arrive.
    Lose,
    /// A publication arrives twice.
    Double,
    /// A publication arrives after the next one.
    Reorder,
    /// The connection is closed instead of a publication being delivered.
    Close,
    /// A publication is refused with `limit`.
    RefusePublish,
    /// All subscriptions are refused with `permission_denied`.
    RefuseSubscribe,
}

/// A running stand-in; ends when dropped.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl StandIn {
    /// Starts it on a free port of 127.0.0.1, on a thread of its own.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn start(fault: Fault) -> io::Result<Self> {
        Self::serve(move |listener| accept(listener, Rc::new(Room::new(fault))))
    }

    /// On a free port of 127.0.0.1, on a thread of its own.
    fn serve<F: Future<Output = ()>>(
        accept: impl FnOnce(std::net::TcpListener) -> F + Send + 'static,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(LocalSet::new().run_until(async {
                select! {
                    () = accept(listener) => {}
                    _ = stopped => {}
                }
            }));
        };
        let thread = thread::Builder::new().name("standin".to_owned()).spawn(serve)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, room: Rc<Room>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(spawn_local(serve(stream, room.clone()))),
            // Out of files: nothing that a stand-in could do about it.
            Err(_) => pending().await,
        }
    }
}

/// Commands, as far as a stand-in understands them.
#[derive(Deserialize)]
struct Command<'a> {
    /// 0: no answer is wanted.
    #[serde(default)]
    id: u64,
    connect: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    publish: Option<Publish<'a>>,
}

#[derive(Deserialize)]
struct Subscribe<'a> {
    #[serde(borrow)]
    channel: &'a RawValue,
}

#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(borrow)]
    channel: &'a RawValue,
    #[serde(borrow)]
    data: &'a RawValue,
}

async fn serve(stream: TcpStream, room: Rc<Room>) {
    let _ = stream.set_nodelay(true);
    let settings = WebSocketConfig::default().read_buffer_size(4096);
    let mut comes_back = false;
    #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
    let choose = |request: &Request, mut response: Response| {
        comes_back = request.uri().path() == "/echo";
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        Ok(response)
    };
    let Ok(socket) = accept_hdr_async_with_config(stream, choose, Some(settings)).await else { return };
    // A client says nothing before it sees the upgrade, so nothing is lost with the socket's buffer. Writing goes past
    // tungstenite: one frame is encoded once and its bytes are written to everybody.
    let (reader, writer) = socket.into_inner().into_split();
    let mut commands: WebSocketStream<Join<OwnedReadHalf, Empty>> =
        WebSocketStream::from_raw_socket(join(reader, empty()), Role::Server, Some(settings)).await;
    let member =
        Rc::new(Member { writer, backlog: RefCell::default(), held: RefCell::default(), published: Cell::new(false) });
    while let Some(Ok(message)) = commands.next().await {
        let Message::Text(text) = message else { continue };
        if comes_back {
            member.write(&frame(&text));
            continue;
        }
        for command in lines(&text).filter_map(|line| serde_json::from_str::<Command<'_>>(line).ok()) {
            room.obey(&command, &member);
        }
    }
    for channel in room.channels.borrow_mut().values_mut() {
        channel.members.retain(|other| !Rc::ptr_eq(other, &member));
    }
}

/// All channels, by their names as JSON text. Bound: the channels of one run.
struct Room {
    fault: Fault,
    /// Publications asked for.
    asked: Cell<u64>,
    channels: RefCell<HashMap<String, Channel>>,
}

#[derive(Default)]
struct Channel {
    /// The last one given.
    offset: u64,
    members: Vec<Rc<Member>>,
}

impl Room {
    fn new(fault: Fault) -> Self {
        Self { fault, asked: Cell::new(0), channels: RefCell::default() }
    }

    fn obey(&self, command: &Command<'_>, member: &Rc<Member>) {
        let id = command.id;
        if command.connect.is_some() {
            member.write(&frame(&format!(r#"{{"id":{id},"connected":{{"client":"{id}"}}}}"#)));
        } else if command.subscribe.is_some() && self.fault == Fault::RefuseSubscribe {
            member.write(&frame(&refusal(id, "permission_denied", "not for you")));
        } else if let Some(Subscribe { channel }) = &command.subscribe {
            let mut channels = self.channels.borrow_mut();
            let channel = channels.entry(channel.get().to_owned()).or_default();
            channel.members.push(member.clone());
            let offset = channel.offset;
            let position = format!(r#"{{"epoch":"stand-in","offset":{offset}}}"#);
            member.write(&frame(&format!(r#"{{"id":{id},"subscribed":{{"position":{position}}}}}"#)));
        } else if let Some(publish) = &command.publish {
            self.publish(id, publish, member);
        }
    }

    fn publish(&self, id: u64, publish: &Publish<'_>, publisher: &Rc<Member>) {
        let strikes = self.asked.replace(self.asked.get() + 1) == STRUCK;
        if strikes && self.fault == Fault::RefusePublish {
            return publisher.write(&frame(&refusal(id, "limit", "too often")));
        }
        let Publish { channel, data } = publish;
        let mut channels = self.channels.borrow_mut();
        let Channel { offset, members } = channels.entry(channel.get().to_owned()).or_default();
        *offset += 1;
        let push = frame(&format!(
            r#"{{"publication":{{"channel":{channel},"offset":{offset},"epoch":"stand-in","data":{data}}}}}"#
        ));
        publisher.published.set(true);
        // Which member subscribed first is chance; a publisher that is cut would leave the rest of its own unsent.
        let listener = members.iter().position(|member| !member.published.get());
        for (place, member) in members.iter().enumerate() {
            match self.fault {
                Fault::Lose if strikes && place == 0 => {}
                Fault::Close if strikes && Some(place) == listener => member.write(&[0x88, 2, 0x03, 0xE9]),
                Fault::Reorder if strikes && place == 0 => drop(member.held.replace(Some(push.clone()))),
                Fault::Double if strikes && place == 0 => {
                    member.write(&push);
                    member.write(&push);
                }
                _ => member.write(&push),
            }
            if let Some(held) = (!strikes).then(|| member.held.take()).flatten() {
                member.write(&held);
            }
        }
        if id > 0 {
            publisher.write(&frame(&format!(r#"{{"id":{id},"published":{{}}}}"#)));
        }
    }
}

fn refusal(id: u64, code: &str, message: &str) -> String {
    format!(r#"{{"id":{id},"error":{{"code":"{code}","message":"{message}","retry":false,"after_ms":0}}}}"#)
}

/// A text as one unmasked WebSocket frame.
fn frame(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 10);
    bytes.push(0x81);
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(length @ ..126), _) => bytes.push(length),
        (_, Ok(length)) => {
            bytes.push(126);
            bytes.extend(length.to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend((text.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(text.as_bytes());
    bytes
}

struct Member {
    writer: OwnedWriteHalf,
    backlog: RefCell<Vec<u8>>,
    held: RefCell<Option<Vec<u8>>>,
    published: Cell<bool>,
}

impl Member {
    /// Writes to the socket at once, and what it does not take as soon as it does.
    fn write(self: &Rc<Self>, bytes: &[u8]) {
        let waiting = self.backlog.borrow().len();
        if waiting == 0 {
            let written = self.writer.try_write(bytes).unwrap_or(0);
            if written < bytes.len() {
                self.backlog.borrow_mut().extend(&bytes[written..]);
                spawn_local(self.clone().drain());
            }
        } else if waiting + bytes.len() <= BACKLOG {
            self.backlog.borrow_mut().extend(bytes);
        }
    }

    async fn drain(self: Rc<Self>) {
        while !self.backlog.borrow().is_empty() && self.writer.writable().await.is_ok() {
            let written = self.writer.try_write(&self.backlog.borrow());
            match written {
                Ok(written) => drop(self.backlog.borrow_mut().drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
