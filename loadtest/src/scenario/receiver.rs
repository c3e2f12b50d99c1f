//! The receiving side: a thread that owns many connections, and reads each as soon as something is there.
//!
//! All of them read into one buffer, and nothing is parsed that need not be: what a generator spends on a delivery on one
//! core, it takes from the node on the other.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    select,
    sync::watch,
    task::{JoinSet, LocalSet},
    time::timeout,
};

use super::{
    Entry, Plan, Progress, Samples, ScenarioError,
    books::{Books, Entering, LastSeen},
    plan::Seat,
    publisher::{Answers, Mouth},
};
use crate::{
    client::{Client, Manner, ending, poll_events},
    stream::{Outlet, Reader},
    tally::Tally,
    wire::{Event, Inbox, Masks},
};

/// How long the node has to close its end when everybody leaves.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the receivers are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Read, but for those who stall.
    Running,
    /// Read, all of them.
    Resumed,
    /// Leave.
    Over,
}

/// What the connections of a thread share.
pub(super) struct Desk {
    plan: Arc<Plan>,
    progress: Arc<Progress>,
    phase: watch::Receiver<Phase>,
    /// Borrowed for the length of one read.
    samples: RefCell<Samples>,
    last: RefCell<LastSeen>,
    masks: RefCell<Masks>,
    /// Everybody is leaving: an end is no finding any more.
    leaving: Cell<bool>,
}

/// What a receiving thread brings home.
pub(super) struct Received {
    /// With the channel of each.
    pub(super) books: Vec<(usize, Books)>,
    pub(super) samples: Samples,
    pub(super) last: LastSeen,
}

/// One connection.
struct Line {
    reader: Reader,
    inbox: Inbox,
    outlet: Arc<Outlet>,
    books: Rc<RefCell<Books>>,
    seat: Seat,
    answers: Option<Arc<Answers>>,
}

/// Connects these clients, at most `plan.connecting` at a time, and receives until the run is over.
///
/// # Errors
/// The first client that cannot connect or subscribe ends the thread.
pub(super) async fn receive(
    members: Vec<usize>,
    plan: Arc<Plan>,
    progress: Arc<Progress>,
    phase: watch::Receiver<Phase>,
) -> Result<Received, ScenarioError> {
    let desk = Rc::new(Desk {
        plan,
        progress,
        phase,
        samples: RefCell::default(),
        last: RefCell::default(),
        masks: RefCell::default(),
        leaving: Cell::new(false),
    });
    let books = LocalSet::new().run_until(desk.clone().seat_all(members)).await?;
    let (samples, last) = (desk.samples.take(), desk.last.take());
    Ok(Received { books, samples, last })
}

impl Desk {
    async fn seat_all(self: Rc<Self>, members: Vec<usize>) -> Result<Vec<(usize, Books)>, ScenarioError> {
        let (mut seated, mut listening) = (Vec::with_capacity(members.len()), JoinSet::new());
        let mut phase = self.phase.clone();
        let mut entering = stream::iter(members).map(|n| self.enter(n)).buffer_unordered(self.plan.connecting);
        loop {
            let entered = select! {
                entered = entering.next() => entered,
                _ = phase.wait_for(|phase| *phase == Phase::Over) => break,
            };
            let Some(entered) = entered else { break };
            let line = entered?;
            seated.push((line.seat.channel, line.outlet.clone(), line.books.clone()));
            listening.spawn_local(line.listen(self.clone()));
        }
        drop(entering);
        // A thread that ended takes its CPU time along, and that is read when the run is over.
        let _ = phase.wait_for(|phase| *phase == Phase::Over).await;

        self.leaving.set(true);
        for (_, outlet, _) in &seated {
            let mut goodbye = Vec::new();
            self.masks.borrow_mut().close(&mut goodbye);
            let _ = outlet.send(&goodbye);
        }
        let _ = timeout(GOODBYE, async { while listening.join_next().await.is_some() {} }).await;
        listening.shutdown().await;
        Ok(seated.into_iter().map(|(channel, _, books)| (channel, books.take())).collect())
    }

    /// Brings client number `n` in, and opens its books.
    async fn enter(&self, n: usize) -> Result<Line, ScenarioError> {
        let Plan { channels, targets, token, seats, clock, entry, .. } = &*self.plan;
        let (seat, target) = (seats.seat(n), &targets[n % targets.len()]);
        let manner = Manner { small: seat.is_stalled, ..self.plan.manner };
        let failed = |doing| move |source| ScenarioError::Client { url: target.url().to_owned(), doing, source };

        let began = clock.now();
        let mut client = Client::open(target, manner).await.map_err(failed("connect"))?;
        if *entry != Entry::Bare {
            client.connect(token.as_deref()).await.map_err(failed("connect"))?;
        }
        let connected = clock.now();
        let mut books = Books { tally: Tally::new(seats.publishers), is_stalled: seat.is_stalled, ..Books::default() };
        let mut subscribed = None;
        if *entry == Entry::Subscribed {
            let position = client.subscribe(&channels[seat.channel].name).await.map_err(failed("subscribe"))?;
            subscribed = Some(clock.now());
            if let Some((epoch, offset)) = position {
                books.tally.start(&epoch, offset);
            }
        }
        {
            let mut samples = self.samples.borrow_mut();
            samples.connect.record(connected - began);
            samples.retries += client.retries();
            subscribed.into_iter().for_each(|subscribed| samples.subscribe.record(subscribed - connected));
        }
        Ok(self.take_in(client, books, seat))
    }

    /// The client is in: it counts as connected, and may publish if it is to.
    fn take_in(&self, client: Client, mut books: Books, seat: Seat) -> Line {
        let parts = client.into_parts();
        let outlet = Arc::new(parts.outlet);
        let answers = seat.publisher.map(|from| {
            let answers = Arc::<Answers>::default();
            let (outlet, channel, next_id) = (outlet.clone(), seat.channel, parts.next_id);
            self.progress.add_mouth(Mouth { channel, from, outlet, next_id, answers: answers.clone() });
            answers
        });
        let early = |entering: &mut Entering<'_>| parts.early.iter().for_each(|line| books.line(line, entering));
        self.enter_read(seat.channel, answers.as_deref(), early);
        self.progress.connected.fetch_add(1, Relaxed);
        let books = Rc::new(RefCell::new(books));
        Line { reader: parts.reader, inbox: parts.inbox, outlet, books, seat, answers }
    }

    /// Enters what one read brought, and counts it.
    fn enter_read<T>(
        &self,
        channel: usize,
        answers: Option<&Answers>,
        enter: impl FnOnce(&mut Entering<'_>) -> T,
    ) -> T {
        let (mut samples, mut last) = (self.samples.borrow_mut(), self.last.borrow_mut());
        let (plan, progress, now) = (&*self.plan, &*self.progress, self.plan.clock.now());
        let (samples, last) = (&mut *samples, &mut *last);
        let mut entering = Entering { plan, progress, samples, last, channel, answers, now, fresh: 0 };
        let entered = enter(&mut entering);
        if entering.fresh > 0 {
            progress.add_delivered(entering.fresh);
        }
        entered
    }
}

impl Line {
    async fn listen(mut self, desk: Rc<Desk>) {
        if self.seat.is_stalled {
            let _ = desk.phase.clone().wait_for(|phase| *phase >= Phase::Resumed).await;
        }
        poll_fn(|cx| self.poll(cx, &desk)).await;
    }

    /// Reads until nothing is there; ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>, desk: &Desk) -> Poll<()> {
        let Self { reader, inbox, outlet, books, seat, answers } = self;
        let books = &mut *books.borrow_mut();
        loop {
            let (mut answers_due, mut closed) = (Vec::new(), None);
            let read = desk.enter_read(seat.channel, answers.as_deref(), |entering| {
                let read = poll_events(cx, reader, inbox, |event| match event {
                    Event::Message(text) => books.message(text, entering),
                    Event::Compressed(bytes) => books.compressed(bytes, entering),
                    Event::Ping(payload) => desk.masks.borrow_mut().pong(payload, &mut answers_due),
                    Event::Close(code, reason) => {
                        closed = Some(ending(code, reason));
                        // Answered, unless it is the answer to ours: a node waits for it.
                        if !desk.leaving.get() {
                            desk.masks.borrow_mut().close(&mut answers_due);
                        }
                    }
                });
                if let Poll::Ready(Ok(read)) = read {
                    entering.samples.bytes += read as u64;
                }
                read
            });
            let read = ready!(read);
            desk.progress.frames.fetch_add(1, Relaxed);
            if !answers_due.is_empty() {
                let _ = outlet.send(&answers_due);
            }
            let Some(ended) = closed.or(read.err()) else { continue };
            if !desk.leaving.get() {
                desk.progress.ended.fetch_add(u64::from(!seat.is_stalled), Relaxed);
                books.closed(&ended);
            }
            return Poll::Ready(());
        }
    }
}
