//! What an answer of HTTP consists of: all of it at once, or what comes as it comes.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

/// A body that nobody knows the end of. It lives on the connection's shard and need not leave it.
pub(super) type Stream = Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>;

/// See the module.
pub(super) enum Content {
    /// All of it.
    Whole(Full<Bytes>),
    /// A piece whenever there is one: each is written as a chunk of its own, and the next is only asked for when the
    /// connection has room.
    Stream(Stream),
}

impl Content {
    /// What `body` gives, piece by piece.
    pub(super) fn stream(body: impl Body<Data = Bytes, Error = Infallible> + 'static) -> Self {
        Self::Stream(Box::pin(body))
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl From<Full<Bytes>> for Content {
    fn from(whole: Full<Bytes>) -> Self {
        Self::Whole(whole)
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}
