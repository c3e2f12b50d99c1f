//! What is inside a session: a client of ours, or what tests want.

use std::{
    cell::RefCell,
    future::{pending, poll_fn},
    task::Poll,
};

use bytes::Bytes;
use skywave_proto::CloseCode;

use crate::{
    protocol::{
        Body,
        sockjs::{joined, message},
    },
    push::Goodbye,
    transport::detached::{Detached, Next},
};

/// Messages that are there at the same time go out in one frame, until it has so many bytes.
const FRAME_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) enum Inside {
    /// A client, as of any transport.
    Client(Box<Detached>),
    /// Every message comes back.
    Echo(Echo),
    /// Nothing: it ends at once.
    Nobody,
}

/// What waits to go back. Bound: `room` bytes and one message; while it is full no message is taken.
pub(super) struct Echo {
    waiting: RefCell<Gathered>,
    room: usize,
}

impl Echo {
    pub(super) fn new(room: usize) -> Self {
        Self { waiting: RefCell::default(), room }
    }

    fn is_empty(&self) -> bool {
        self.waiting.borrow().frames.is_empty()
    }

    fn is_full(&self) -> bool {
        self.waiting.borrow().bytes > self.room
    }
}

/// What is to go out.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    frames: Vec<Bytes>,
    bytes: usize,
    /// How it ends behind that, if it does.
    pub(super) end: Option<(u16, String)>,
}

impl Gathered {
    fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push(frame);
    }

    fn is_full(&self) -> bool {
        self.bytes >= FRAME_BYTES
    }

    /// All messages in one frame, if there are any.
    pub(super) fn frame(&self) -> Option<Bytes> {
        (!self.frames.is_empty()).then(|| joined(&self.frames))
    }
}

impl Inside {
    /// What goes out next; at least one message, or the end.
    ///
    /// # Cancel safety
    /// Cancel-safe: what is not returned comes next time.
    pub(super) async fn gather(&self) -> Gathered {
        let mut all = Gathered::default();
        match self {
            Self::Client(client) => {
                let next = poll_fn(|cx| match client.poll_next(cx) {
                    Poll::Ready(Next::Beat) => {
                        cx.waker().wake_by_ref(); // asked for by nobody
                        Poll::Pending
                    }
                    next => next,
                });
                match next.await {
                    Next::Frame(frame) => {
                        all.push(frame.payload().clone());
                        while !all.is_full()
                            && let Some(frame) = client.more()
                        {
                            all.push(frame.payload().clone());
                        }
                    }
                    Next::Beat => {}
                    Next::End(goodbye) => all.end = Some(last_words(client, &goodbye)),
                }
            }
            Self::Echo(echo) => {
                if echo.is_empty() {
                    pending::<()>().await; // looked at again when something came in
                }
                all = echo.waiting.take();
            }
            Self::Nobody => pending().await,
        }
        all
    }

    /// Returns once another message may be heard.
    ///
    /// # Cancel safety
    /// Cancel-safe: only waits.
    pub(super) async fn ready(&self) {
        match self {
            Self::Client(client) => client.ready().await,
            Self::Echo(echo) if echo.is_full() => pending().await, // looked at again when something went out
            Self::Echo(_) | Self::Nobody => {}
        }
    }

    /// Takes a message in.
    pub(super) fn hear(&self, text: &Bytes) {
        match self {
            Self::Client(client) => client.hear(Body::Text(text)),
            Self::Echo(echo) => {
                if let Ok(text) = std::str::from_utf8(text) {
                    echo.waiting.borrow_mut().push(message(text));
                }
            }
            Self::Nobody => {}
        }
    }

    /// Nobody receives for now.
    pub(super) fn let_go(&self) {
        if let Self::Client(client) = self {
            client.let_go();
        }
    }

    /// How it ends when the node leaves; `None`: its shard says so when its moment has come.
    pub(super) fn leaves_with(&self) -> Option<(u16, String)> {
        let code = CloseCode::ServiceRestart;
        (!matches!(self, Self::Client(_))).then(|| (code.code(), code.reason().to_owned()))
    }
}

fn last_words(client: &Detached, goodbye: &Goodbye) -> (u16, String) {
    let (code, reason) = client.farewell(goodbye);
    (code.code(), reason.into_owned())
}
