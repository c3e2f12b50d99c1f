//! `tail`: what is published on a channel, as lines of JSON or as a stream of gRPC.
//!
//! A tail is a member of the channel on one of the shards, like a connection, but without a socket: what it gets goes from
//! its outbox into a short queue, which the answer's body empties. Presence does not see it.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::header;
use prost::Message as _;
use skywave_backplane::{HistoryPage, HistoryQuery, Interest, SubscribeError};
use skywave_proto::{
    ChannelName, CloseCode, Epoch, ErrorCode, StreamPosition,
    v1::{self, reply::Reply as Word, tail_event::Event},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tonic::Status;

use super::{Internal, Refusal, TAILS, channel};
use crate::{
    protocol::{Json, Protobuf, since_of},
    push::{Frame, GapDetail, GapReason, Goodbye, Push},
    relay::{self, Receipt},
    session::{self, PAGE_PUBLICATIONS, REPLY_BYTES, Reply, Since, Subscribed, Voice},
    shard::{Activation, Attach, Attached, Description, Link, Owner, Shard},
};

/// Frames between a tail's outbox and the body of its answer. Full: they wait in the outbox, which has its own bound.
const FRAMES: usize = 16;
/// How often a tail over HTTP on which nothing happens says so, with an empty line.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a tail looks after itself; it has no deadlines.
const BEAT: Duration = Duration::from_secs(60);
/// How long the subscription may take.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// How long a reader that takes nothing has for the last line.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The stream of a tail over gRPC.
pub(super) type Events = BoxStream<'static, Result<v1::TailEvent, Status>>;

/// A tail as lines of JSON.
pub(super) async fn lines(internal: &Internal, words: v1::TailRequest) -> Result<Response, Refusal> {
    let frames = open(internal, &Json, words).await?;
    let lines = stream::unfold(frames, |mut frames| async {
        let line = match tokio::time::timeout(KEEP_ALIVE, frames.recv()).await {
            Ok(frame) => {
                let frame = frame?;
                let mut line = BytesMut::with_capacity(frame.payload().len() + 1);
                line.put_slice(frame.payload());
                line.put_u8(b'\n');
                line.freeze()
            }
            Err(_) => Bytes::from_static(b"\n"),
        };
        Some((Ok::<_, std::convert::Infallible>(line), frames))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// A tail as a stream of gRPC.
pub(super) async fn events(internal: &Internal, words: v1::TailRequest) -> Result<Events, Refusal> {
    let frames = open(internal, &Protobuf, words).await?;
    let events = stream::unfold(frames, |mut frames| async { frames.recv().await.map(|frame| (frame, frames)) });
    Ok(events.filter_map(async |frame| event(&frame).map(Ok)).boxed())
}

/// A frame of the client protocol as an event; `None` for what a tail is not told.
fn event(frame: &Frame) -> Option<v1::TailEvent> {
    let reply = v1::Reply::decode_length_delimited(frame.payload().clone()).ok()?;
    let event = match reply.reply? {
        Word::Subscribed(subscribed) => Event::Subscribed(subscribed),
        Word::Publication(publication) => Event::Publication(publication),
        Word::Gap(gap) => Event::Gap(gap),
        Word::Disconnect(disconnect) => Event::Disconnect(disconnect),
        _ => return None,
    };
    Some(v1::TailEvent { event: Some(event) })
}

/// Opens a tail on some shard, and waits until it is subscribed.
async fn open(
    internal: &Internal,
    voice: &'static dyn Voice,
    words: v1::TailRequest,
) -> Result<mpsc::Receiver<Frame>, Refusal> {
    let channel = channel(&words.channel)?;
    let settings = internal.ground.settings();
    let (name, namespace) = session::named_namespace(&settings, &channel)?;
    let (name, namespace, outbox_bytes) = (name.to_owned(), namespace.clone(), settings.limits.outbox_bytes);
    drop(settings);
    let Ok(place) = internal.tails.clone().try_acquire_owned() else {
        let message = format!("{TAILS} tails are open on this node, which is the most");
        return Err(Refusal { after_ms: 1000, ..Refusal::new(ErrorCode::Limit, message) });
    };
    if internal.public.is_draining() {
        return Err(Refusal::new(ErrorCode::Unavailable, "the node is leaving, ask another one"));
    }
    let (frames, queue) = mpsc::channel(FRAMES);
    let (opened, outcome) = oneshot::channel();
    let since = words.since.as_ref().map(since_of);
    let shard = rand::random_range(0..internal.ground.shards.len());
    let draining = internal.public.draining();
    internal.ground.shards[shard].run(move |shard| {
        let link = shard.link(voice, outbox_bytes);
        let page_bytes = REPLY_BYTES.min(outbox_bytes / 2);
        let attach = Attach {
            interest: Interest { channel: channel.clone(), history: namespace.history, presence: namespace.presence },
            namespace: &name,
            slow_consumer: namespace.slow_consumer,
            flush_interval: namespace.flush_interval,
            echo: true,
            presence: false,
        };
        let attached = shard.hub().attach(&link, attach);
        let (hub_place, attached) = match attached {
            Ok(attached) => attached,
            Err(overloaded) => return drop(opened.send(Err(overloaded.into()))),
        };
        let tail = Rc::new(Tail {
            shard: shard.clone(),
            link,
            voice,
            channel,
            hub_place,
            since,
            page_bytes,
            stage: Cell::new(Stage::Joining),
            tickets: Cell::new(0),
            has_begun: Cell::new(false),
            opened: RefCell::new(Some(opened)),
            frames,
        });
        shard.adopt(tail.clone());
        if let Attached::At(position) = attached {
            tail.joined(position);
        }
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = tail.serve() => {}
                () = draining.cancelled() => tail.say_goodbye().await,
            }
            tail.end(place);
        });
    });
    match tokio::time::timeout(OPEN_WITHIN, outcome).await {
        Ok(Ok(outcome)) => outcome.map(|()| queue),
        Ok(Err(_)) => Err(Refusal::new(ErrorCode::Unavailable, "the node is leaving, ask another one")),
        Err(_) => {
            let message = format!("the channel was not joined within {OPEN_WITHIN:?}");
            Err(Refusal::new(ErrorCode::Unavailable, message))
        }
    }
}

/// How far a tail has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The channel is being joined.
    Joining,
    /// What lies after this position is read once everything before it has been taken …
    Ready(Option<StreamPosition>),
    /// … is being read …
    Reading,
    /// … or could not be had at this tick of the shard.
    Resting(Option<StreamPosition>, u64),
    /// It gets what is published.
    Live,
}

/// See the module.
struct Tail {
    shard: Rc<Shard>,
    link: Rc<Link>,
    voice: &'static dyn Voice,
    channel: ChannelName,
    /// Among the channel's members.
    hub_place: usize,
    since: Option<Since>,
    /// What is read of the history at once, in bytes of payload.
    page_bytes: usize,
    stage: Cell<Stage>,
    tickets: Cell<u64>,
    /// Whether the first line is out.
    has_begun: Cell<bool>,
    /// Hears once whether the channel was joined.
    opened: RefCell<Option<oneshot::Sender<Result<(), Refusal>>>>,
    frames: mpsc::Sender<Frame>,
}

impl Tail {
    /// The channel is live on this shard, from here on.
    fn joined(&self, live: Option<StreamPosition>) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Ok(())); // nobody: the task notices
        }
        match (self.since, live) {
            (Some(Since::Position(since)), Some(live)) if since != live => self.read_after(since),
            (Some(Since::Position(_)), Some(_)) => self.say_subscribed(live, Some(true)),
            (Some(_), _) => self.say_subscribed(live, Some(false)),
            (None, _) => self.say_subscribed(live, None),
        }
    }

    /// The first line: what follows comes after this position.
    fn say_subscribed(&self, position: Option<StreamPosition>, recovered: Option<bool>) {
        let channel = self.channel.clone();
        let subscribed = Subscribed { channel, position, recovered, publications: Vec::new(), members: None };
        self.link.set_position(position);
        self.link.send(self.voice.reply(None, &Reply::Subscribed(subscribed)));
        self.has_begun.set(true);
        self.stage.set(Stage::Ready(position));
        self.link.wake();
    }

    fn read_after(&self, after: StreamPosition) {
        let ticket = self.tickets.get() + 1;
        self.tickets.set(ticket);
        self.stage.set(Stage::Reading);
        let query =
            HistoryQuery { since: Some(after), limit: PAGE_PUBLICATIONS, bytes: self.page_bytes, followed: true };
        let receipt = Receipt { shard: self.shard.index(), connection: Some(self.link.key()), ticket };
        if self.shard.relay().history(self.channel.clone(), query, receipt).is_err() {
            self.rest(Some(after));
        }
    }

    /// A page of the history has come.
    fn read(&self, page: HistoryPage) {
        let (after, is_empty) = match page.publications.last() {
            Some(last) if page.complete => (last.position, false),
            _ => (page.top, true),
        };
        if !self.has_begun.get() {
            let stands = if let (true, Some(Since::Position(since))) = (page.complete, self.since) {
                Some(since)
            } else {
                page.top
            };
            self.say_subscribed(stands, Some(page.complete));
        } else if !page.complete {
            let detail = GapDetail { missed: None, position: page.top };
            self.link.tell(&Push::Gap(self.channel.clone(), GapReason::Reset, detail));
        }
        if !is_empty {
            for publication in page.publications {
                self.link.tell(&Push::Publication(self.channel.clone(), publication));
            }
        }
        match after {
            None => self.rest(None), // Redis has no line for it yet: the shard delivers from the first on
            Some(_) => self.stage.set(Stage::Ready(after)),
        }
        self.link.wake();
    }

    /// Everything that there was has been taken: joins it to what comes live, or reads what still lies between.
    fn go_on(&self) {
        let after = match self.stage.get() {
            Stage::Ready(after) => after,
            Stage::Resting(after, tick) if tick != self.shard.hub().ticks() => after,
            Stage::Joining | Stage::Reading | Stage::Resting(..) | Stage::Live => return,
        };
        if !self.has_begun.get()
            && let Some(after) = after
        {
            return self.read_after(after);
        }
        let activation = self.shard.hub().activate(&self.channel, self.hub_place, self.link.key(), after);
        match activation {
            Activation::Live => self.stage.set(Stage::Live),
            // Without a position it starts over; the answer to one that never was says so.
            Activation::Fetch => self.read_after(after.unwrap_or_else(|| StreamPosition::start(Epoch::random()))),
            Activation::Later => self.rest(after),
        }
    }

    /// What comes next cannot be had now; the shard wakes the tail at its next tick.
    fn rest(&self, after: Option<StreamPosition>) {
        let tick = self.shard.hub().retry(self.link.key());
        self.stage.set(Stage::Resting(after, tick));
    }

    /// Gives the reader what waits, as far as it takes it.
    fn pump(&self) {
        while !self.link.is_blocked() {
            match self.frames.try_reserve() {
                Ok(room) => match self.link.pop() {
                    Some(frame) => room.send(frame),
                    None => return,
                },
                Err(_) => self.link.set_blocked(true), // full, or the reader is gone, which the task notices
            }
        }
    }

    /// Runs the tail to its end: the reader leaves, or it is told that there is no more.
    async fn serve(&self) {
        loop {
            let mut gone = pin!(self.frames.closed());
            let is_over = std::future::poll_fn(|cx| {
                self.link.register(cx);
                if gone.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                self.pump();
                if self.link.goodbye().is_some() || self.link.is_blocked() {
                    return Poll::Ready(self.link.goodbye().is_some());
                }
                if self.link.is_drained() {
                    self.go_on();
                }
                Poll::Pending
            });
            if is_over.await {
                return;
            }
            match tokio::time::timeout(LAST_WORDS, self.frames.reserve()).await {
                Ok(Ok(room)) => {
                    drop(room);
                    self.link.set_blocked(false);
                }
                Ok(Err(_)) => return,
                Err(_) if self.link.is_closing() => return, // it does not take even its last words
                Err(_) => {}
            }
        }
    }

    /// The node leaves.
    async fn say_goodbye(&self) {
        self.leave(CloseCode::Draining.into());
        let _ = tokio::time::timeout(LAST_WORDS, self.serve()).await;
    }

    fn end(&self, place: OwnedSemaphorePermit) {
        self.shard.hub().detach(&self.channel, self.hub_place, self.link.key());
        self.shard.release(self.link.key());
        drop(place);
    }
}

impl Owner for Tail {
    fn link(&self) -> &Rc<Link> {
        &self.link
    }

    fn attached(&self, _: &ChannelName, outcome: Result<Option<StreamPosition>, SubscribeError>) {
        match outcome {
            Ok(position) => self.joined(position),
            Err(error) => {
                if let Some(opened) = self.opened.take() {
                    let _ = opened.send(Err(error.into())); // nobody: the task notices
                }
            }
        }
    }

    fn answer(&self, ticket: u64, answer: relay::Answer) {
        let relay::Answer::History(_, page) = answer else { return };
        if ticket != self.tickets.get() || self.stage.get() != Stage::Reading {
            return;
        }
        match (page, self.since) {
            (Ok(page), _) => self.read(page),
            (Err(_), Some(Since::Position(since))) if !self.has_begun.get() => self.rest(Some(since)),
            (Err(_), _) => self.rest(self.link.position()),
        }
    }

    fn beat(&self) -> Duration {
        BEAT
    }

    fn expire(&self) -> Option<Duration> {
        None
    }

    fn leave(&self, goodbye: Goodbye) {
        self.shard.hub().settle(&self.channel, self.hub_place, self.link.key());
        self.link.close(goodbye);
    }

    // It has no client: no order of a back end means it.
    fn subscribe(&self, _: &ChannelName) {}

    fn unsubscribe(&self, _: &ChannelName, _: &'static str) {}

    fn refresh(&self) {}

    fn check_revoked(&self) {}

    fn is_client(&self) -> bool {
        false
    }

    fn describe(&self) -> Option<Description> {
        None
    }

    fn flush(&self) {
        self.pump();
        self.link.wake();
    }

    fn drain(&self) {
        self.pump();
    }

    fn offer(&self, _: &[&Frame]) -> (usize, bool) {
        (0, true) // all goes through the outbox
    }

    fn fall_behind(&self, _: &ChannelName, after: StreamPosition) {
        if self.stage.get() == Stage::Live {
            self.stage.set(Stage::Ready(Some(after)));
        }
    }
}
