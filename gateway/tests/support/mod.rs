//! Nodes on port 0, a client that speaks the protocol, and HTTP.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)] // each test file uses its part

pub mod back_end;
pub mod http2;
pub mod raw;
pub mod redis;
pub mod stream;
pub mod tls;
pub mod token;

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use skywave_gateway::{
    config::{Flags, Settings},
    node::Node,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async, connect_async,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::CloseFrame},
};

/// Whatever is waited for has come by then, or never does.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A node in development mode with these variables on top, two shards, free ports.
pub async fn node(variables: &[(&str, &str)]) -> Running {
    start(true, variables, None).await
}

/// The same with metrics: once for a test file, for they are the process's.
pub async fn measured_node(variables: &[(&str, &str)]) -> Running {
    start(true, variables, Some(skywave_gateway::metrics::install("measured").unwrap())).await
}

/// A node that lets in only what these variables say.
pub async fn closed_node(variables: &[(&str, &str)]) -> Running {
    start(false, variables, None).await
}

async fn start(dev: bool, variables: &[(&str, &str)], metrics: Option<PrometheusHandle>) -> Running {
    let flags = Flags {
        listen: vec!["127.0.0.1:0".into()],
        internal_listen: vec!["127.0.0.1:0".into()],
        dev,
        ..Flags::default()
    };
    let mut variables = variables.to_vec();
    variables.push(("SKYWAVE__NODE__SHARDS", "2"));
    // What else the machine does is no concern of a test.
    for (name, never) in [("SKYWAVE__LIMITS__OVERLOAD_MEMORY", "0"), ("SKYWAVE__LIMITS__OVERLOAD_LAG", "0s")] {
        if !variables.iter().any(|(known, _)| *known == name) {
            variables.push((name, never));
        }
    }
    let settings = Settings::load(&flags, variables).unwrap();
    Running { node: Node::start(settings, metrics).await.unwrap() }
}

pub struct Running {
    pub node: Node,
}

impl Running {
    pub fn public(&self) -> String {
        self.node.public_addresses()[0].to_string()
    }

    pub fn internal(&self) -> String {
        self.node.internal_addresses()[0].to_string()
    }

    /// A connection that has not said anything.
    pub async fn socket(&self, path: &str) -> Client {
        self.try_socket(path, &[]).await.expect("the handshake is good")
    }

    /// The status of a handshake that is refused, and its body.
    pub async fn refused(&self, path: &str, headers: &[(&'static str, &str)]) -> (u16, String) {
        self.try_socket(path, headers).await.err().expect("the handshake is refused")
    }

    pub async fn try_socket(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, (u16, String)> {
        let mut request = format!("ws://{}{path}", self.public()).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((stream, _)) => Ok(Client::over(stream)),
            Err(error) => Err(refusal(error)),
        }
    }

    /// A client that is connected and has these subscriptions.
    pub async fn client(&self, channels: &[&str]) -> Client {
        self.socket("/ws").await.subscribed(channels).await
    }

    /// `POST /api/v1/{method}`.
    pub async fn call(&self, method: &str, body: Value) -> (u16, Value) {
        let (status, body) = self
            .http("POST", &format!("/api/v1/{method}"), &[("content-type", "application/json")], &body.to_string())
            .await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// Publishes through the server API.
    pub async fn publish(&self, channel: &str, data: Value) -> Value {
        let (status, answer) = self.call("publish", json!({"channel": channel, "data": data})).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Any request to the internal listener.
    pub async fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        request(&self.internal(), method, path, headers, body).await
    }
}

/// Waits until the node has reached its backplane and lets clients in.
pub async fn ready(node: &Running) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while node.http("GET", "/readyz", &[], "").await.0 != 200 || node.try_socket("/ws", &[]).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the node becomes ready");
        tokio::time::sleep(Duration::from_millis(10)).await; // between two looks at the condition
    }
}

pub async fn request(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", address);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(bytes::Bytes::from(body.to_owned()))).unwrap();
    let answer = timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// A handshake over HTTP/1.1 on any socket; an error is the status of the refusal and its body.
pub async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Client<S>, (u16, String)> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let answer = timeout(DEADLINE, client_async(request, socket)).await.expect("an answer in time");
    answer.map(|(stream, _)| Client::over(stream)).map_err(refusal)
}

fn refusal(error: tokio_tungstenite::tungstenite::Error) -> (u16, String) {
    match error {
        tokio_tungstenite::tungstenite::Error::Http(response) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8(body).unwrap())
        }
        error => panic!("{error}"),
    }
}

pub struct Client<S = MaybeTlsStream<TcpStream>> {
    pub stream: WebSocketStream<S>,
    waiting: VecDeque<Value>,
    ids: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A client that has not said anything.
    pub fn over(stream: WebSocketStream<S>) -> Self {
        Self { stream, waiting: VecDeque::new(), ids: 0 }
    }

    /// Connects and subscribes.
    pub async fn subscribed(mut self, channels: &[&str]) -> Self {
        self.ask(json!({"connect": {}})).await;
        for channel in channels {
            let reply = self.ask(json!({"subscribe": {"channel": channel}})).await;
            assert!(reply["subscribed"].is_object(), "{reply}");
        }
        self
    }

    pub async fn send(&mut self, message: impl Into<Message>) {
        self.stream.send(message.into()).await.unwrap();
    }

    /// The next message, whatever it is.
    pub async fn message(&mut self) -> Message {
        loop {
            match timeout(DEADLINE, self.stream.next()).await.expect("a message comes in time") {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return message,
                other => panic!("the connection ended with {other:?}"),
            }
        }
    }

    /// The next object that the node sent, in the order in which it came.
    pub async fn next(&mut self) -> Value {
        if let Some(value) = self.waiting.pop_front() {
            return value;
        }
        self.receive().await
    }

    async fn receive(&mut self) -> Value {
        match self.message().await {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("not an object: {other:?}"),
        }
    }

    /// Sends a command under a fresh id and returns its reply; what comes before stays for [`Client::next`].
    pub async fn ask(&mut self, command: Value) -> Value {
        let id = self.tell(command).await;
        self.reply(id).await
    }

    /// Sends a command under a fresh id.
    pub async fn tell(&mut self, mut command: Value) -> u64 {
        self.ids += 1;
        command["id"] = self.ids.into();
        self.send(command.to_string()).await;
        self.ids
    }

    /// The reply to the command with this id.
    pub async fn reply(&mut self, id: u64) -> Value {
        loop {
            let value = self.receive().await;
            if value["id"] == id {
                return value;
            }
            self.waiting.push_back(value);
        }
    }

    /// The next push of this kind; others are passed over.
    pub async fn push(&mut self, kind: &str) -> Value {
        loop {
            let mut value = self.next().await;
            if value.get("id").is_none() && value.get(kind).is_some() {
                return value[kind].take();
            }
        }
    }

    /// The data of the next publications; panics at a gap before or between them.
    pub async fn data(&mut self, count: usize) -> Vec<Value> {
        let mut data = Vec::new();
        while data.len() < count {
            let mut value = self.next().await;
            assert!(value.get("gap").is_none(), "after {} of {count} publications: {value}", data.len());
            if value.get("id").is_none() && value.get("publication").is_some() {
                data.push(value["publication"]["data"].take());
            }
        }
        data
    }

    /// Reads to the close frame.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match timeout(DEADLINE, self.stream.next()).await.expect("the close comes in time") {
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return (code.into(), reason.to_string());
                }
                Some(Ok(Message::Text(text))) => {
                    self.waiting.extend(serde_json::from_str::<Value>(&text).ok());
                }
                Some(Ok(_)) => {}
                other => panic!("the connection ended without a close frame: {other:?}"),
            }
        }
    }

    /// What came before the close frame that [`Client::closed`] has read.
    pub fn before_close(&mut self) -> Vec<Value> {
        self.waiting.drain(..).collect()
    }
}
