//! The response of a receiver that takes one frame after the other.
//!
//! A client that does not read holds up its response, and nobody sees that but us: it is let go of after a while, and its
//! session with it.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Instant, sleep};

use super::{interrupted, receiver::Shape};
use crate::{
    peers::Frames,
    transport::{http::Door, requests::Request},
};

/// See the module.
pub(super) struct Stream {
    shape: Shape,
    head: Option<Bytes>,
    source: Rc<Source>,
}

struct Source {
    frames: RefCell<Option<Frames>>,
    /// Since when what was given has not been taken.
    given: Cell<Option<Instant>>,
    /// The connection of HTTP is in use.
    request: RefCell<Option<Request>>,
}

impl Stream {
    /// What `frames` gives, in this shape. A client that takes nothing for `patience` is let go.
    pub(super) fn new(shape: Shape, frames: Frames, door: &Rc<Door>, is_http1: bool, patience: Duration) -> Self {
        let source = Rc::new(Source {
            frames: RefCell::new(Some(frames)),
            given: Cell::new(Some(Instant::now())),
            request: RefCell::new(Some(door.requests.begin())),
        });
        tokio::task::spawn_local(watch(Rc::downgrade(&source), door.clone(), is_http1, patience));
        Self { head: Some(shape.prelude()), shape, source }
    }
}

/// Lets go of a client that does not read.
async fn watch(source: Weak<Source>, door: Rc<Door>, is_http1: bool, patience: Duration) {
    loop {
        sleep(patience / 2).await;
        let Some(source) = source.upgrade() else { return };
        if source.given.get().is_some_and(|given| given.elapsed() >= patience) {
            source.frames.take();
            source.request.take();
            if is_http1 {
                door.cut.notify_one();
            }
            return;
        }
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let piece = match this.head.take() {
            Some(head) => head,
            None => {
                this.source.given.set(None);
                let mut source = this.source.frames.borrow_mut();
                let Some(frames) = &mut *source else { return Poll::Ready(None) };
                match ready!(frames.poll_next(cx)) {
                    Some(Ok(frame)) => this.shape.piece(&frame),
                    Some(Err(_)) => {
                        *source = None;
                        this.shape.piece(&interrupted())
                    }
                    None => return Poll::Ready(None),
                }
            }
        };
        this.source.given.set(Some(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}
