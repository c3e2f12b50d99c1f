//! The loop itself: one thread, epoll, one buffer for all. What is done with a frame is the [`Work`]'s.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use socket2::{SockRef, TcpKeepalive};

use super::{
    crowd::{Crowd, Read},
    wire::{self, Kind},
};

/// Of one read; what all connections share.
const ROOM: usize = 64 << 10;
/// Of one look at what is ready.
const EVENTS: usize = 1024;
const LISTENER: Token = Token(usize::MAX);

/// What a floor does with what it hears.
pub(super) trait Work {
    /// A whole message from `from`.
    ///
    /// # Errors
    /// End the process.
    fn hear(&mut self, from: usize, message: &[u8], crowd: &mut Crowd) -> io::Result<()>;

    /// All that was ready has been heard.
    ///
    /// # Errors
    /// End the process.
    fn flush(&mut self, _: &mut Crowd) -> io::Result<()> {
        Ok(())
    }

    /// A connection is gone.
    fn forget(&mut self, _: usize) {}
}

/// Serves until an error; `ready` is told the address first.
///
/// # Errors
/// The system's, and whatever the generator does that a floor does not stand for.
pub(super) fn serve(listen: SocketAddr, work: impl Work, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let (poll, mut listener) = (Poll::new()?, TcpListener::bind(listen)?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    ready(listener.local_addr()?);
    Turn { poll, listener, crowd: Crowd::default(), buffer: Vec::new(), work }.run()
}

struct Turn<W> {
    poll: Poll,
    listener: TcpListener,
    crowd: Crowd,
    buffer: Vec<u8>,
    work: W,
}

impl<W: Work> Turn<W> {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                done => done?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(who) => self.drain(who)?,
                }
            }
            self.work.flush(&mut self.crowd)?;
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.enter(stream)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn enter(&mut self, mut stream: TcpStream) -> io::Result<()> {
        tune(&stream)?;
        self.poll.registry().register(&mut stream, Token(self.crowd.next()), Interest::READABLE)?;
        self.crowd.enter(stream);
        Ok(())
    }

    /// Hears all that a connection has to say, and lets go of it when that was a goodbye.
    fn drain(&mut self, who: usize) -> io::Result<()> {
        while let Some(connection) = self.crowd.get_mut(who) {
            match connection.read(&mut self.buffer, ROOM)? {
                Read::Bytes(end, more) => match self.hear(who, end)? {
                    true if more => {}
                    true => return Ok(()),
                    false => return self.forget(who),
                },
                Read::Nothing => return Ok(()),
                Read::End => return self.forget(who),
            }
        }
        Ok(())
    }

    /// Takes the buffer's first bytes apart. False: it has said goodbye.
    fn hear(&mut self, who: usize, end: usize) -> io::Result<bool> {
        let Self { crowd, work, buffer, .. } = self;
        let Some(connection) = crowd.get_mut(who) else { return Ok(false) };
        let mut used = 0;
        if !connection.is_open {
            used = connection.shake_hands(&buffer[..end])?;
        }
        let mut stays = true;
        if connection.is_open {
            used += wire::frames(&mut buffer[used..end], |kind, payload| match kind {
                Kind::Data => work.hear(who, payload, crowd),
                Kind::Ping => crowd.send(who, &wire::frame(0x8A, payload)),
                Kind::Pong => Ok(()),
                Kind::Close => {
                    stays = false;
                    crowd.send(who, &wire::frame(0x88, payload))
                }
            })?;
        }
        if let Some(connection) = crowd.get_mut(who).filter(|_| used < end) {
            connection.rest = buffer[used..end].to_vec();
        }
        Ok(stays)
    }

    fn forget(&mut self, who: usize) -> io::Result<()> {
        if let Some(connection) = self.crowd.get_mut(who) {
            self.poll.registry().deregister(&mut connection.stream)?;
        }
        self.crowd.leave(who);
        self.work.forget(who);
        Ok(())
    }
}

/// As a node does, so that the kernel has the same to do for both.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(16 * 1024)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(35)))
}
