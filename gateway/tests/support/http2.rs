//! A client of HTTP/2 that opens WebSockets (RFC 8441).

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn, ext::Protocol, upgrade::Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use super::{Client, DEADLINE};

pub type Stream = TokioIo<Upgraded>;

/// The bytes of one stream that its reader has not taken.
pub const STREAM_WINDOW: u32 = 64 * 1024 - 1;

#[derive(Clone)]
pub struct Http2 {
    sender: conn::http2::SendRequest<Empty<Bytes>>,
    scheme: &'static str,
    authority: String,
}

impl Http2 {
    /// Begins on a socket; what is returned with it ends with the connection.
    pub async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        socket: S,
        scheme: &'static str,
        authority: &str,
    ) -> (Self, JoinHandle<hyper::Result<()>>) {
        let (sender, connection) = conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 256)
            .handshake(TokioIo::new(socket))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let client = Self { sender, scheme, authority: authority.to_owned() };
        // An extended CONNECT needs the node's settings first, and they come before any answer.
        let (status, _) = client.get("/", &[]).await;
        assert_eq!(status, 200);
        (client, connection)
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        read(self.send(Method::GET, path, None, headers).await).await
    }

    pub async fn connect(
        &self,
        path: &str,
        protocol: &'static str,
        headers: &[(&str, &str)],
    ) -> Result<Client<Stream>, (u16, String)> {
        let answer = self.send(Method::CONNECT, path, Some(Protocol::from_static(protocol)), headers).await;
        if answer.status() != 200 {
            return Err(read(answer).await);
        }
        assert!(!answer.headers().contains_key("sec-websocket-accept"));
        Ok(Client::over(WebSocketStream::from_raw_socket(upgraded(answer).await, Role::Client, None).await))
    }

    /// Whether another stream can be begun: not after GOAWAY.
    pub async fn is_open(&self) -> bool {
        let request = Request::get(format!("{}://{}/", self.scheme, self.authority)).body(Empty::new()).unwrap();
        timeout(DEADLINE, self.sender.clone().send_request(request)).await.expect("an answer in time").is_ok()
    }

    /// The bytes of a WebSocket.
    pub async fn stream(&self, path: &str) -> Stream {
        let headers = [("sec-websocket-version", "13")];
        let answer = self.send(Method::CONNECT, path, Some(Protocol::from_static("websocket")), &headers).await;
        assert_eq!(answer.status(), 200);
        upgraded(answer).await
    }

    /// A WebSocket that has not said anything.
    pub async fn socket(&self, path: &str) -> Client<Stream> {
        self.connect(path, "websocket", &[("sec-websocket-version", "13")]).await.expect("the handshake is good")
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        protocol: Option<Protocol>,
        headers: &[(&str, &str)],
    ) -> Response<Incoming> {
        let uri = format!("{}://{}{path}", self.scheme, self.authority);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(protocol) = protocol {
            request = request.extension(protocol);
        }
        let answer = self.sender.clone().send_request(request.body(Empty::new()).unwrap());
        timeout(DEADLINE, answer).await.expect("an answer in time").unwrap()
    }
}

async fn upgraded(answer: Response<Incoming>) -> Stream {
    TokioIo::new(hyper::upgrade::on(answer).await.unwrap())
}

async fn read(answer: Response<Incoming>) -> (u16, String) {
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
