//! One session that is received from by one request after the other: a task of the shard that it began on.
//!
//! It speaks with requests over queues, so these may be of any shard, or of another node. A receiver takes one frame after the
//! other and is dropped when it has what it wants; one that goes before that has been cut off, and with it the session ends: what
//! it was given may be lost, and nothing may be skipped.

use std::{collections::VecDeque, future::pending, rc::Rc, sync::Arc};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    inside::{Gathered, Inside},
    life::{Attached, Life, Step},
};
use crate::{
    peers::Want,
    protocol::sockjs::{HEARTBEAT, OPEN, close},
    transport::detached::Detached,
};

/// What a second receiver hears while there is one.
pub(super) const ANOTHER: (u16, &str) = (2010, "Another connection still open");
/// What a session says that has been closed by its service.
pub(super) const GO_AWAY: (u16, &str) = (3000, "Go away!");

/// A receiver.
pub(super) struct Attach {
    pub(super) want: Want,
    /// Bound: 1. What is in it the receiver has not taken.
    pub(super) frames: mpsc::Sender<Bytes>,
}

/// Messages of the client.
pub(super) struct Delivery {
    pub(super) messages: Vec<Bytes>,
    /// Told when all of them have been taken in.
    pub(super) done: oneshot::Sender<()>,
}

/// Where a session gets what it is asked.
pub(super) struct Inbox {
    pub(super) orders: mpsc::Receiver<Attach>,
    pub(super) deliveries: mpsc::Receiver<Delivery>,
    /// A frame may have been lost on the way.
    pub(super) lost: Arc<Notify>,
}

/// See the module.
pub(super) struct Session {
    life: Life,
    inside: Inside,
    inbox: Inbox,
    receiver: Option<Receiver>,
    is_open: bool,
    /// The next frame for the receiver.
    outgoing: Option<Bytes>,
    /// How it has ended: what every receiver hears from now on.
    closed: Option<Bytes>,
    delivering: Option<(VecDeque<Bytes>, oneshot::Sender<()>)>,
}

struct Receiver {
    frames: mpsc::Sender<Bytes>,
    frames_left: Option<u32>,
    bytes_left: u32,
}

impl Receiver {
    fn is_full(&self) -> bool {
        self.frames_left == Some(0) || self.bytes_left == 0
    }

    fn count(&mut self, frame: &Bytes) {
        self.frames_left = self.frames_left.map(|left| left.saturating_sub(1));
        self.bytes_left = self.bytes_left.saturating_sub(u32::try_from(frame.len()).unwrap_or(u32::MAX));
    }
}

impl Session {
    pub(super) fn new(life: Life, inside: Inside, inbox: Inbox) -> Self {
        let closed = matches!(inside, Inside::Nobody).then(|| close(GO_AWAY.0, GO_AWAY.1));
        Self { life, inside, inbox, receiver: None, is_open: false, outgoing: None, closed, delivering: None }
    }

    /// The client inside, if there is one.
    pub(super) fn client(&self) -> Option<&Detached> {
        match &self.inside {
            Inside::Client(client) => Some(client),
            Inside::Echo(_) | Inside::Nobody => None,
        }
    }

    /// Serves it to its end. `cut` is told when the client does not take its goodbye, `leaving` when the node leaves.
    pub(super) async fn run(mut self, cut: Rc<Notify>, leaving: CancellationToken) {
        while let Some(until) = self.prepare(Instant::now()) {
            let Self { inside, inbox, receiver, outgoing, closed, delivering, .. } = &mut self;
            let is_waiting = receiver.as_ref().is_some_and(|receiver| outgoing.is_none() && !receiver.is_full());
            let leaves_with = inside.leaves_with().filter(|_| closed.is_none());
            let turn = tokio::select! {
                Some(attach) = inbox.orders.recv() => Turn::Attach(attach),
                Some(delivery) = inbox.deliveries.recv(), if delivering.is_none() => Turn::Delivery(delivery),
                permit = room(receiver.as_ref()), if !is_waiting => match permit {
                    Ok(permit) => Turn::Given(outgoing.take().inspect(|frame| permit.send(frame.clone()))),
                    Err(_) => Turn::Over,
                },
                gathered = inside.gather(), if is_waiting && closed.is_none() => Turn::Gathered(gathered),
                () = inside.ready(), if delivering.is_some() => Turn::Hear,
                () = sleep(until) => Turn::Look,
                () = leaving.cancelled(), if leaves_with.is_some() => Turn::Leave,
                () = gone(receiver.as_ref()) => Turn::Over,
                () = inbox.lost.notified() => Turn::Over,
                () = cut.notified() => Turn::Over,
            };
            match turn {
                Turn::Attach(attach) => self.attach(attach),
                // Who sends to a closed session hears that there is none.
                Turn::Delivery(_) if self.closed.is_some() => {}
                Turn::Delivery(Delivery { messages, done }) => self.delivering = Some((messages.into(), done)),
                Turn::Given(frame) => self.given(frame.as_ref()),
                Turn::Gathered(gathered) => {
                    self.outgoing = gathered.frame();
                    self.close(gathered.end);
                }
                Turn::Hear => self.deliver(),
                Turn::Leave => self.close(leaves_with),
                Turn::Look => {}
                Turn::Over => return,
            }
        }
    }

    fn close(&mut self, end: Option<(u16, String)>) {
        if let Some((code, reason)) = end {
            self.closed = Some(close(code, &reason));
        }
    }

    /// Sees what is to go out, and until when nothing else is to be done. `None`: it is over.
    #[allow(
        clippy::option_option,
        reason = "two questions: whether it is over, and whether there is a time to wait for"
    )]
    fn prepare(&mut self, now: Instant) -> Option<Option<Instant>> {
        let step = self.life.poll(now);
        if step == Step::Over {
            return None;
        }
        if let Some(receiver) = &self.receiver
            && self.outgoing.is_none()
            && !receiver.is_full()
        {
            if !self.is_open {
                self.is_open = true;
                self.outgoing = Some(Bytes::from_static(OPEN.as_bytes()));
            } else if let Some(end) = &self.closed {
                self.outgoing = Some(end.clone());
                self.life.close(now);
            } else if step == Step::Heartbeat {
                self.outgoing = Some(Bytes::from_static(HEARTBEAT.as_bytes()));
            }
        }
        Some(match step {
            Step::Wait(until) => Some(until),
            Step::Heartbeat | Step::Over => None, // it goes out as soon as there is room
        })
    }

    fn attach(&mut self, Attach { want, frames }: Attach) {
        match self.life.attach(Instant::now()) {
            Attached::Second => drop(frames.try_send(close(ANOTHER.0, ANOTHER.1))), // it is new, and has room
            Attached::Receives => {
                let frames_left = want.frames.map(std::num::NonZero::get);
                self.receiver = Some(Receiver { frames, frames_left, bytes_left: want.bytes });
            }
        }
    }

    /// The receiver has taken all that it was given before, and was given this, or has all it wants.
    fn given(&mut self, frame: Option<&Bytes>) {
        let now = Instant::now();
        match (frame, &mut self.receiver) {
            (Some(frame), Some(receiver)) => {
                self.life.gave(now);
                receiver.count(frame);
                if self.closed.as_ref() == Some(frame) {
                    receiver.bytes_left = 0; // nothing comes behind it
                }
            }
            _ => {
                self.receiver = None;
                self.inside.let_go();
                self.life.detached(now);
            }
        }
    }

    fn deliver(&mut self) {
        let Some((messages, _)) = &mut self.delivering else { return };
        if let Some(text) = messages.pop_front() {
            self.inside.hear(&text);
        }
        if messages.is_empty()
            && let Some((_, done)) = self.delivering.take()
        {
            let _ = done.send(()); // nobody may wait any more
        }
    }
}

/// What happens next.
enum Turn {
    Attach(Attach),
    Delivery(Delivery),
    /// The receiver has taken what it had, and was given this; nothing more if it is full.
    Given(Option<Bytes>),
    Gathered(Gathered),
    Hear,
    Look,
    Leave,
    Over,
}

/// Ready when the receiver has room, that is, has taken what it was given.
async fn room(receiver: Option<&Receiver>) -> Result<mpsc::Permit<'_, Bytes>, mpsc::error::SendError<()>> {
    match receiver {
        Some(receiver) => receiver.frames.reserve().await,
        None => pending().await,
    }
}

/// Ready when the receiver is gone.
async fn gone(receiver: Option<&Receiver>) {
    match receiver {
        Some(receiver) => receiver.frames.closed().await,
        None => pending().await,
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}
