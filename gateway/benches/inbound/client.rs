//! Clients that publish and hear nothing; no more than a socket each, for they share the machine with what is measured.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use skywave_gateway::transport::websocket::masked;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::cpu;

/// Publications of one measurement.
const PUBLICATIONS: usize = 200_000;
/// Publications between two waits for the other end, so that nothing piles up.
const BURST: usize = 1600;

#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// Publications of one connection that go out in one piece.
    pub(crate) batch: usize,
    pub(crate) bytes: usize,
}

pub(crate) struct Clients {
    sockets: Vec<TcpStream>,
    load: Load,
    piece: Vec<u8>,
}

impl Clients {
    pub(crate) fn connect(to: SocketAddr, load: Load) -> Self {
        let sockets = (0..load.connections).map(|_| open(to)).collect();
        Self { sockets, load, piece: frame(OpCode::Data(Data::Text), &publication(load.bytes)).repeat(load.batch) }
    }

    /// Publishes from each in turn; what each publication cost the others' threads, in nanoseconds.
    pub(crate) fn publish(&mut self) -> f64 {
        let before = cpu::of_others();
        let (mut sent, mut burst) = (0, 0);
        for client in (0..self.sockets.len()).cycle() {
            self.sockets[client].write_all(&self.piece).unwrap();
            sent += self.load.batch;
            burst += self.load.batch;
            // Once round at least: what is asked of the last one comes after what all of them have sent.
            if burst >= BURST && client == self.sockets.len() - 1 {
                burst = 0;
                self.sockets.iter_mut().for_each(settle);
                if sent >= PUBLICATIONS {
                    break;
                }
            }
        }
        (cpu::of_others() - before).as_nanos() as f64 / sent as f64
    }
}

/// Waits until the other end has read all that was sent: a ping is answered behind it.
fn settle(socket: &mut TcpStream) {
    socket.write_all(&frame(OpCode::Control(Control::Ping), b"")).unwrap();
    let mut answer = [0; 1024];
    loop {
        let read = socket.read(&mut answer).unwrap();
        assert!(read > 0, "the other end has hung up");
        // A pong overtakes what is said to the client, such as that it is connected; that is text, and has no such bytes.
        if answer[..read].windows(2).any(|bytes| bytes == [0x8a, 0]) {
            return;
        }
    }
}

/// Whoever answers the handshake speaks WebSocket: the bare loop takes it for granted, and so answers it alike.
fn open(to: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(to).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let key = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let request = format!("GET /ws HTTP/1.1\r\nHost: bench\r\n{key}\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap(); // in one piece: the bare loop looks no closer
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        answer.extend_from_slice(&byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    socket
}

/// `{"publish":…}` with so many bytes of data, as a browser writes it.
pub(crate) fn publication(bytes: usize) -> Vec<u8> {
    let data = format!("{{\"text\":\"{}\"}}", "x".repeat(bytes.saturating_sub(11)));
    format!("{{\"publish\":{{\"channel\":\"lobby\",\"data\":{data}}}}}").into_bytes()
}

/// As clients send it.
pub(crate) fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    masked(&mut frame, opcode, false, payload, [0x37, 0xfa, 0x21, 0x3d]);
    frame
}
