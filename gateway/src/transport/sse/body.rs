//! The body of `/sse`: what a connection has to say, piece by piece, as fast as its client reads.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};

use crate::{
    protocol::Positions,
    transport::{
        detached::{Detached, Next},
        upgrade::Held,
    },
};

/// How what is taken becomes bytes.
pub(super) enum Shape {
    /// Whole events.
    Events,
    /// Events that want an id which says where the client stands on all its channels.
    ManyChannels(Box<Positions>),
    /// Lines.
    Lines,
}

/// See the module. While it lives it is one of the node's connections.
pub(super) struct EventStream {
    detached: Detached,
    shape: Shape,
    /// What stands in front of everything.
    head: Option<Bytes>,
    is_over: bool,
    /// Dropped last: it counts until there is nothing left of it.
    _held: Held,
}

impl EventStream {
    /// What `detached` says from now on, behind `first`, which has been taken from it already, and `head`.
    pub(super) fn new(detached: Detached, mut shape: Shape, head: &str, first: &Bytes, held: Held) -> Self {
        let mut begin = BytesMut::from(head);
        begin.extend_from_slice(&shape.bytes(first));
        Self { detached, shape, head: Some(begin.freeze()), is_over: false, _held: held }
    }
}

impl Shape {
    fn bytes(&mut self, payload: &Bytes) -> Bytes {
        match self {
            Self::Events => payload.clone(),
            Self::ManyChannels(positions) => positions.complete(payload),
            Self::Lines => {
                let mut line = BytesMut::with_capacity(payload.len() + 1);
                line.extend_from_slice(payload);
                line.extend_from_slice(b"\n");
                line.freeze()
            }
        }
    }

    /// What nobody sees, and shows that somebody is there.
    fn beat(&self) -> Bytes {
        Bytes::from_static(match self {
            Self::Events | Self::ManyChannels(_) => b":\n\n",
            Self::Lines => b"\n",
        })
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(head) = this.head.take() {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        if this.is_over {
            return Poll::Ready(None);
        }
        let piece = match ready!(this.detached.poll_next(cx)) {
            Next::Frame(frame) => this.shape.bytes(frame.payload()),
            Next::Beat => this.shape.beat(),
            Next::End(_) => {
                this.is_over = true;
                return Poll::Ready(None);
            }
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}
