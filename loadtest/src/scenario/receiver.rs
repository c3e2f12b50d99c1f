//! The receiving side: one connection that checks what it gets, and the thread that owns many of them.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    pin, select,
    sync::watch,
    task::{JoinSet, LocalSet},
};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Plan, Progress, Samples, ScenarioError, Sightings};
use crate::{
    client::{Client, Incoming, Publication, leave, lines, next_text},
    stamp::Stamp,
    tally::{Arrival, Tally},
};

/// What one receiver brings home.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) tally: Tally,
    pub(super) sightings: Sightings,
}

/// What a connection needs of its thread.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) plan: Arc<Plan>,
    pub(super) progress: Arc<Progress>,
    /// Turns true when the run is over.
    pub(super) over: watch::Receiver<bool>,
    /// Shared by the connections of one thread; borrowed for the length of one frame.
    pub(super) samples: Rc<RefCell<Samples>>,
}

impl Desk {
    pub(super) fn new(plan: Arc<Plan>, progress: Arc<Progress>, over: watch::Receiver<bool>) -> Self {
        Self { plan, progress, over, samples: Rc::default() }
    }

    /// Connects and subscribes client number `n`, and opens its books.
    pub(super) async fn enter(&self, n: usize) -> Result<(Client, Books), ScenarioError> {
        let Plan { targets, channel, token, publishers, clock, .. } = &*self.plan;
        let target = &targets[n % targets.len()];
        let failed = |doing| move |source| ScenarioError::Client { url: target.url().to_owned(), doing, source };

        let began = clock.now();
        let mut client = Client::connect(target, token.as_deref()).await.map_err(failed("connect"))?;
        let connected = clock.now();
        let position = client.subscribe(channel).await.map_err(failed("subscribe"))?;
        let subscribed = clock.now();

        let mut samples = self.samples.borrow_mut();
        samples.connect.record(connected - began);
        samples.subscribe.record(subscribed - connected);
        samples.retries += client.retries();
        self.progress.connected.fetch_add(1, Relaxed);

        let mut books = Books { tally: Tally::new(*publishers), ..Books::default() };
        if let Some((epoch, offset)) = position {
            books.tally.start(&epoch, offset);
        }
        Ok((client, books))
    }

    /// Receives until the run is over or the connection ends. `reply` gets what answers a command, and when it came.
    pub(super) async fn listen<S>(
        &self,
        socket: &mut S,
        early: &[String],
        books: &mut Books,
        mut reply: impl FnMut(&Incoming<'_>, u64, &mut Samples),
    ) where
        S: futures_util::Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    {
        for line in early {
            self.take(line, books, &mut reply);
        }
        let mut over = self.over.clone();
        let over = over.wait_for(|over| *over);
        pin!(over);
        loop {
            select! {
                biased;
                frame = next_text(socket) => match frame {
                    Ok(frame) => self.take(&frame, books, &mut reply),
                    Err(how) => {
                        self.progress.ended.fetch_add(1, Relaxed);
                        *books.sightings.endings.entry(format!("connection ended: {how}")).or_default() += 1;
                        return;
                    }
                },
                _ = &mut over => return,
            }
        }
    }

    fn take(&self, frame: &str, books: &mut Books, reply: &mut impl FnMut(&Incoming<'_>, u64, &mut Samples)) {
        let now = self.plan.clock.now();
        let mut samples = self.samples.borrow_mut();
        let mut fresh = 0;
        for line in lines(frame) {
            match serde_json::from_str::<Incoming<'_>>(line) {
                Ok(Incoming { publication: Some(publication), .. }) => {
                    fresh += u64::from(books.publication(&publication, &self.plan, now, &mut samples));
                }
                Ok(Incoming { gap: Some(gap), .. }) => *books.sightings.gaps.entry(gap.reason).or_default() += 1,
                Ok(Incoming { unsubscribed: Some(why), .. }) => books.ended("unsubscribed", &why.reason),
                Ok(Incoming { disconnect: Some(told), .. }) => books.ended("disconnect", &told.to_string()),
                Ok(incoming) => reply(&incoming, now, &mut samples),
                Err(_) => books.sightings.unreadable += 1,
            }
        }
        self.progress.delivered.fetch_add(fresh, Relaxed);
        self.progress.frames.fetch_add(1, Relaxed);
    }
}

impl Books {
    /// Enters a publication; says whether it is one of ours and here for the first time.
    fn publication(&mut self, publication: &Publication<'_>, plan: &Plan, now: u64, samples: &mut Samples) -> bool {
        if publication.channel != plan.channel {
            self.sightings.strays += 1;
            return false;
        }
        if let Some(offset) = publication.offset {
            self.sightings.positioned += 1;
            self.tally.stood_at(publication.epoch.map(|epoch| epoch.get()), offset);
        }
        let stamp = publication.data.and_then(|data| serde_json::from_str::<Stamp<'_>>(data.get()).ok());
        let ours = stamp.filter(|stamp| stamp.run == plan.run);
        match ours.and_then(|stamp| Some((stamp, self.tally.arrived(stamp.from, stamp.seq)?))) {
            Some((stamp, Arrival::New | Arrival::Late)) => {
                samples.from_due.record(now.saturating_sub(stamp.due));
                samples.from_sent.record(now.saturating_sub(stamp.sent));
                true
            }
            Some((_, Arrival::Doubled)) => false,
            None => {
                self.sightings.foreign += 1;
                false
            }
        }
    }

    fn ended(&mut self, what: &str, why: &str) {
        *self.sightings.endings.entry(format!("{what}: {why}")).or_default() += 1;
    }
}

/// What a receiving thread brings home.
pub(super) struct Received {
    pub(super) books: Vec<Books>,
    pub(super) samples: Samples,
}

/// Connects these clients, at most `plan.connecting` at a time, and receives until the run is over.
///
/// # Errors
/// The first client that cannot connect or subscribe ends the thread.
pub(super) async fn receive(members: Vec<usize>, desk: Desk) -> Result<Received, ScenarioError> {
    let local = LocalSet::new();
    let books = local.run_until(async {
        let mut listening = JoinSet::new();
        let mut over = desk.over.clone();
        let mut entering = stream::iter(members).map(|n| desk.enter(n)).buffer_unordered(desk.plan.connecting);
        loop {
            let entered = select! {
                entered = entering.next() => entered,
                _ = over.wait_for(|over| *over) => break,
            };
            let Some(entered) = entered else { break };
            let (client, mut books) = entered?;
            let desk = desk.clone();
            listening.spawn_local(async move {
                let (mut socket, _, early) = client.into_parts();
                desk.listen(&mut socket, &early, &mut books, |_, _, _| {}).await;
                leave(socket).await;
                books
            });
        }
        drop(entering);
        let books = listening.join_all().await;
        // A thread that ended takes its CPU time along, and that is read when the run is over.
        let _ = over.wait_for(|over| *over).await;
        Ok::<_, ScenarioError>(books)
    });
    let books = books.await?;
    let samples = desk.samples.take();
    Ok(Received { books, samples })
}
