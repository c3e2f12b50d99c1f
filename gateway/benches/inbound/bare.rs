//! The bare loop: reads, parses frames, drops them. One thread and one task a connection, as a shard has; nothing is
//! allocated, and nothing is checked but that text is UTF-8.

use std::{
    cell::RefCell,
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    thread,
};

use tokio::net::{TcpListener, TcpStream};

/// What is read at once, in bytes.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Runs until the process ends.
pub(crate) fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::task::spawn_local(serve(socket));
            }
        });
    });
    address
}

async fn serve(socket: TcpStream) {
    let mut socket = socket.into_std().unwrap();
    socket.set_nonblocking(false).unwrap();
    let _request = socket.read(&mut [0; 1024]).unwrap();
    socket.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = TcpStream::from_std(socket).unwrap();
    let mut rest = Vec::new();
    loop {
        socket.readable().await.unwrap();
        let open = BUFFER.with_borrow_mut(|buffer| {
            let kept = rest.len();
            buffer[..kept].copy_from_slice(&rest);
            let read = match socket.try_read(&mut buffer[kept..]) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            };
            rest.clear();
            rest.extend_from_slice(parse(&mut buffer[..kept + read], &socket));
            true
        });
        if !open {
            return;
        }
    }
}

/// Takes whole frames; returns what is left.
fn parse<'a>(mut bytes: &'a mut [u8], socket: &TcpStream) -> &'a [u8] {
    loop {
        let (start, length) = match *bytes {
            [_, second, ..] if second & 0x7f < 126 => (2, usize::from(second & 0x7f)),
            [_, _, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            _ => return bytes,
        };
        if bytes.len() < start + 4 + length {
            return bytes;
        }
        let (frame, rest) = bytes.split_at_mut(start + 4 + length);
        let (head, payload) = frame.split_at_mut(start + 4);
        let key: [u8; 4] = head[start..].try_into().unwrap();
        let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
        let (words, tail) = payload.as_chunks_mut::<8>();
        words.iter_mut().for_each(|word| *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes());
        tail.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        match head[0] & 0x0f {
            0x1 => drop(std::hint::black_box(std::str::from_utf8(payload).unwrap())),
            // The client waits for a sign that all has been read.
            0x9 => drop(socket.try_write(&[0x8a, 0]).unwrap()),
            _ => {}
        }
        bytes = rest;
    }
}
