//! The floor of a silent connection: a task and a socket that wait, and no buffer. One thread.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, ErrorKind},
    net::SocketAddr,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime,
};

use super::{
    upgrade::reply,
    wire::{self, Kind},
};

/// Of one read; what all connections share.
const ROOM: usize = 64 << 10;
/// Of a request.
const REQUEST: usize = 4096;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
}

/// Serves until an error; `ready` is told the address first.
///
/// # Errors
/// The system's.
pub(super) fn serve(listen: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        ready(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(enter(stream));
        }
    })
}

/// The handshake. What follows is a task of its own: this one is as large as its largest state, and that for as long as
/// it lives.
async fn enter(mut stream: TcpStream) {
    let mut request = [0; REQUEST];
    let mut held = 0;
    let end = loop {
        match stream.read(&mut request[held..]).await {
            Ok(read @ 1..) => held += read,
            _ => return,
        }
        if let Some(end) = wire::request_end(&request[..held]) {
            break end;
        }
    };
    let Ok(answer) = wire::switching(&request[..end]) else { return };
    // A client says nothing before it has seen the answer.
    if end == held && stream.write_all(answer.as_bytes()).await.is_ok() {
        tokio::spawn(wait(stream));
    }
}

/// Waits, and answers what lets a generator in; until the other end leaves.
async fn wait(stream: TcpStream) {
    while poll_fn(|context| stream.poll_read_ready(context)).await.is_ok() {
        match hear(&stream) {
            Ok(true) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

/// False: it has left. A frame that is split ends the connection, since where would its beginning be kept?
fn hear(stream: &TcpStream) -> io::Result<bool> {
    BUFFER.with_borrow_mut(|buffer| {
        let read = stream.try_read(buffer)?;
        let (mut answers, mut stays) = (Vec::new(), read > 0);
        let used = wire::frames(&mut buffer[..read], |kind, payload| {
            stays &= kind != Kind::Close;
            reply(kind, payload, &mut answers);
            Ok(())
        })?;
        let written = if answers.is_empty() { 0 } else { stream.try_write(&answers)? };
        Ok(stays && used == read && written == answers.len())
    })
}
