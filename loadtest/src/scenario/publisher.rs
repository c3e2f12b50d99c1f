//! The publishing side: the thread that keeps the schedule, and the one that owns the publishers' connections.

use std::{cell::RefCell, collections::HashMap, sync::atomic::Ordering::Relaxed, thread, time::Duration};

use futures_util::{Sink, SinkExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    join, pin, select,
    sync::mpsc,
    task::{JoinSet, LocalSet},
};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{
    Load, Plan, Progress, Published, Samples, ScenarioError,
    receiver::{Books, Desk, Received},
};
use crate::{
    client::{Client, Incoming, leave},
    pace::Pace,
    stamp::Stamp,
};

/// Bound on the publications that are due but not written, per publisher. Emptied by its writer. Full: the node has not
/// taken a byte for so long that the publication counts as unsent.
const BACKLOG: usize = 1024;
/// How often a closed loop looks whether the last publication has arrived everywhere.
const LOOK: Duration = Duration::from_micros(50);

/// A publication is due.
pub(super) struct Due(u64);

pub(super) type Schedule = mpsc::Receiver<Due>;

/// One queue for each publisher, from the thread that keeps the schedule to the one that publishes.
pub(super) fn schedules(publishers: usize) -> (Vec<mpsc::Sender<Due>>, Vec<Schedule>) {
    (0..publishers).map(|_| mpsc::channel(BACKLOG)).unzip()
}

/// Keeps the schedule: hands each publication to its publisher when it is due. Returns when the last one was.
///
/// A thread of its own, since a tokio timer rounds up to the next millisecond and waits behind whatever is received.
pub(super) fn keep(
    load: Load,
    duration: Duration,
    receivers: u64,
    plan: &Plan,
    progress: &Progress,
    to: &[mpsc::Sender<Due>],
) {
    let start = plan.clock.now();
    let hand_over = |n: u64, due: u64| {
        progress.queued.fetch_add(1, Relaxed);
        let publisher = usize::try_from(n % to.len() as u64).unwrap_or_default();
        if to[publisher].try_send(Due(due)).is_err() {
            progress.unsent.fetch_add(1, Relaxed);
        }
    };
    match load {
        Load::Rate(rate) => {
            let Some(pace) = Pace::new(rate, duration) else { return };
            for (n, due) in (0..).map_while(|n| Some((n, start + pace.due(n)?))) {
                while let Some(early) = due.checked_sub(plan.clock.now()).filter(|early| *early > 0) {
                    thread::park_timeout(Duration::from_nanos(early));
                }
                hand_over(n, due);
            }
        }
        Load::Window(window) => {
            let end = start + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            for n in 0.. {
                let arrived = || progress.delivered.load(Relaxed) / receivers.max(1) + progress.refused.load(Relaxed);
                while arrived() + u64::from(window) <= n && plan.clock.now() < end {
                    thread::park_timeout(LOOK);
                }
                let now = plan.clock.now();
                if now >= end {
                    return;
                }
                hand_over(n, now);
            }
        }
    }
}

/// Connects the publishers, publishes what the schedules say, and receives like everybody else until the run is over.
///
/// # Errors
/// A publisher that cannot connect or subscribe.
pub(super) async fn publish(
    first: usize,
    schedules: Vec<Schedule>,
    desk: Desk,
) -> Result<(Received, Vec<Published>), ScenarioError> {
    let local = LocalSet::new();
    let done = local.run_until(async {
        let mut over = desk.over.clone();
        let entering = stream::iter(0..schedules.len()).map(|n| desk.enter(first + n)).buffered(desk.plan.connecting);
        let entered: Vec<_> = select! {
            entered = entering.try_collect() => entered?,
            _ = over.wait_for(|over| *over) => Vec::new(),
        };
        let mut publishing = JoinSet::new();
        for (n, ((client, books), schedule)) in entered.into_iter().zip(schedules).enumerate() {
            let from = u32::try_from(n).unwrap_or(u32::MAX);
            publishing.spawn_local(Publisher { from, desk: desk.clone() }.run(client, books, schedule));
        }
        let mut all = publishing.join_all().await;
        // Stays until then, so that its CPU time can be read.
        let _ = over.wait_for(|over| *over).await;
        all.sort_by_key(|(from, ..)| *from);
        Ok::<_, ScenarioError>(all.into_iter().map(|(_, books, published)| (books, published)).unzip())
    });
    let (books, published): (Vec<_>, Vec<_>) = done.await?;
    let samples = desk.samples.take();
    Ok((Received { books, samples }, published))
}

struct Publisher {
    from: u32,
    desk: Desk,
}

/// What a publisher is waiting for, and what it was told. Bound of `open`: the publications of the run.
#[derive(Default)]
struct Answers {
    /// Command id to sequence and time of sending.
    open: HashMap<u64, (u64, u64)>,
    published: Published,
}

impl Publisher {
    async fn run(self, client: Client, mut books: Books, schedule: Schedule) -> (u32, Books, Published) {
        let (socket, next_id, early) = client.into_parts();
        // Two halves, since a publisher that waits until it can write must go on reading: the node may wait for that.
        let (mut sink, mut stream) = socket.split();
        let answers = RefCell::new(Answers::default());
        let reply = |incoming: &Incoming<'_>, now: u64, samples: &mut Samples| {
            self.answered(incoming, now, samples, &mut answers.borrow_mut());
        };
        join!(
            self.write_until_over(&mut sink, next_id, schedule, &answers),
            self.desk.listen(&mut stream, &early, &mut books, reply)
        );
        if let Ok(socket) = stream.reunite(sink) {
            leave(socket).await;
        }
        let mut published = answers.into_inner().published;
        published.sent.refused.sort_unstable();
        (self.from, books, published)
    }

    /// A node that reads no more must not keep us: at the end of the run a write that still waits is given up.
    async fn write_until_over<S>(&self, sink: &mut S, id: u64, schedule: Schedule, answers: &RefCell<Answers>)
    where
        S: Sink<Message, Error = tungstenite::Error> + Unpin,
    {
        let mut over = self.desk.over.clone();
        let writing = self.write(sink, id, schedule, answers);
        pin!(writing);
        select! {
            () = writing => {}
            _ = over.wait_for(|over| *over) => {}
        }
    }

    async fn write<S>(&self, sink: &mut S, mut id: u64, mut schedule: Schedule, answers: &RefCell<Answers>)
    where
        S: Sink<Message, Error = tungstenite::Error> + Unpin,
    {
        let Plan { run, channel, size, clock, .. } = &*self.desk.plan;
        let progress = &self.desk.progress;
        let channel = serde_json::Value::from(channel.as_str()).to_string();
        while let Some(Due(due)) = schedule.recv().await {
            let sent = clock.now();
            let seq = answers.borrow().published.sent.count;
            let mut command = format!(r#"{{"id":{id},"publish":{{"channel":{channel},"data":"#);
            Stamp { run, from: self.from, seq, due, sent }.write(*size, &mut command);
            command.push_str("}}");
            answers.borrow_mut().open.insert(id, (seq, sent));
            if sink.send(Message::text(command)).await.is_err() {
                answers.borrow_mut().open.remove(&id);
                progress.unsent.fetch_add(1, Relaxed);
                continue;
            }
            answers.borrow_mut().published.sent.count += 1;
            progress.sent.fetch_add(1, Relaxed);
            self.desk.samples.borrow_mut().late.record(sent.saturating_sub(due));
            id += 1;
        }
    }

    fn answered(&self, incoming: &Incoming<'_>, now: u64, samples: &mut Samples, answers: &mut Answers) {
        let progress = &self.desk.progress;
        let Some((seq, sent)) = incoming.id.and_then(|id| answers.open.remove(&id)) else { return };
        if let Some(error) = &incoming.error {
            answers.published.sent.refused.push(seq);
            *answers.published.refusals.entry(format!("{error} ({})", error.advice())).or_default() += 1;
            progress.refused.fetch_add(1, Relaxed);
        } else {
            samples.answer.record(now.saturating_sub(sent));
        }
        progress.answered.fetch_add(1, Relaxed);
    }
}

/// Starts a thread of the generator; its name tells the figures of its CPU time from those of others.
pub(super) fn spawn<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, ScenarioError> {
    thread::Builder::new().name(name).spawn(work).map_err(ScenarioError::Start)
}
