//! A client that sends whatever bytes it likes.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::DEADLINE;

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// What carries it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub struct RawClient {
    socket: Box<dyn Stream>,
    unread: Vec<u8>,
}

impl RawClient {
    /// A WebSocket at this path; `headers` are lines that the request has besides.
    pub async fn open(address: &str, path: &str, headers: &str) -> Self {
        Self::answered(address, path, headers).await.0
    }

    /// The same, and the head of the answer.
    pub async fn answered(address: &str, path: &str, headers: &str) -> (Self, String) {
        Self::over(TcpStream::connect(address).await.unwrap(), address, path, headers).await
    }

    /// The same over a stream that is connected.
    pub async fn over(stream: impl Stream + 'static, address: &str, path: &str, headers: &str) -> (Self, String) {
        let mut client = Self::opened(stream);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        client.write(request.as_bytes()).await;
        let end = loop {
            if let Some(at) = client.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(client.read().await.unwrap() > 0, "the handshake is answered");
        };
        let head = String::from_utf8(client.unread.drain(..end).collect()).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        (client, head)
    }

    /// Over a stream that is a WebSocket already.
    pub fn opened(stream: impl Stream + 'static) -> Self {
        Self { socket: Box::new(stream), unread: Vec::new() }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
        self.socket.flush().await.unwrap();
    }

    async fn read(&mut self) -> io::Result<usize> {
        timeout(DEADLINE, self.socket.read_buf(&mut self.unread)).await.expect("the node says something in time")
    }

    /// The next frame: its first byte and its payload. `None` once the connection has ended in good order.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, second, rest @ ..] = &self.unread[..] {
                assert!(second & 0x80 == 0, "a server does not mask");
                let (head, length) = match (second, rest) {
                    (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
                    (127, [length @ .., _]) if length.len() >= 8 => {
                        let length = u64::from_be_bytes(length[..8].try_into().unwrap());
                        (10, usize::try_from(length).unwrap())
                    }
                    (126 | 127, _) => (usize::MAX / 2, 0), // more of it is to come
                    (short, _) => (2, usize::from(*short)),
                };
                if self.unread.len() >= head + length {
                    let first = *first;
                    let payload = self.unread.drain(..head + length).skip(head).collect();
                    return Some((first, payload));
                }
            }
            match self.read().await {
                Ok(0) => {
                    assert!(self.unread.is_empty(), "the connection ended in the middle of a frame");
                    return None;
                }
                Ok(_) => {}
                Err(error) => panic!("the connection was reset, which may eat what stood before it: {error}"),
            }
        }
    }

    /// Reads to the close frame and to the end of the connection behind it.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            let (first, payload) = self.frame().await.expect("a close frame, not a bare end");
            if first == CLOSE {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                return (code, String::from_utf8(payload[2..].to_vec()).unwrap());
            }
        }
    }
}

/// A client's frame: masked, its length written as short as can be.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ ..=125 => bytes.push(0x80 | short as u8),
        long @ ..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((long as u16).to_be_bytes());
        }
        longer => {
            bytes.push(0x80 | 127);
            bytes.extend((longer as u64).to_be_bytes());
        }
    }
    let key = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// The beginning of a client's frame that says it has this many bytes.
pub fn declared(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | 127];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}
