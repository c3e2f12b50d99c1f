//! The way of a publication to Redis.
//!
//! A channel belongs to one of [`STRIPES`] writers. Each has one queue, in which a publication takes its place when it is
//! published, and one pipeline on its way at a time: that keeps the order of a channel, and makes large batches of their
//! own accord when there is much to do. Publications that wait for replicas have a writer of their own, with one `WAIT`
//! for each batch.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::Arc,
};

use redis::{Cmd, Value};
use skywave_proto::{ChannelName, Epoch, StreamPosition};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{frame, keys, keys::Keys, link::Link};
use crate::{Cause, Durability, HistoryPolicy, IDEMPOTENCY_WINDOW, NewPublication, PublishError, Published};

/// How many writers there are for publications that wait for nobody.
const STRIPES: usize = 4;
/// All writers: the last one is for those that wait for replicas.
pub(super) const WRITERS: usize = STRIPES + 1;
/// How many publications wait for one writer, and how many bytes; what comes then is [`PublishError::Overloaded`].
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 32 << 20;
/// What one pipeline carries at most; one publication always fits.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 << 10;
/// How often a batch is sent again because Redis had forgotten a script or a generation was stale.
const ATTEMPTS: usize = 3;

type Answer = Result<Published, PublishError>;

/// A publication on its way, and who waits for the answer.
struct Job {
    channel: ChannelName,
    partition: usize,
    history: Option<HistoryPolicy>,
    durability: Durability,
    idempotency: Option<String>,
    envelope: Vec<u8>,
    answer: oneshot::Sender<Answer>,
    _room: OwnedSemaphorePermit,
}

/// Where publications are handed in. Cloning shares it.
#[derive(Clone)]
pub(super) struct Publisher {
    stripes: Arc<[Stripe; WRITERS]>,
    link: watch::Receiver<Option<Arc<Link>>>,
    keys: Keys,
    node: Arc<str>,
}

struct Stripe {
    queue: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
}

impl Publisher {
    /// Also gives the writers, which run until `stop` and then until their queue is empty.
    pub(super) fn new(
        link: watch::Receiver<Option<Arc<Link>>>,
        keys: Keys,
        node: &str,
        stop: &CancellationToken,
    ) -> (Self, [Writer; WRITERS]) {
        let (queues, writers): (Vec<_>, Vec<_>) = (0..WRITERS)
            .map(|_| {
                let (queue, jobs) = mpsc::channel(QUEUE);
                let stripe = Stripe { queue, room: Arc::new(Semaphore::new(QUEUE_BYTES)) };
                let waiting = VecDeque::with_capacity(BATCH);
                (stripe, Writer { jobs, waiting, link: link.clone(), keys: keys.clone(), stop: stop.clone() })
            })
            .unzip();
        let stripes = Arc::new(queues.try_into().ok().expect("made from 0..WRITERS"));
        let writers = writers.try_into().ok().expect("made from 0..WRITERS");
        (Self { stripes, link, keys, node: node.into() }, writers)
    }

    /// See [`crate::Backplane::publish`]: everything that decides about order happens before this returns.
    pub(super) fn publish(&self, new: &NewPublication) -> impl Future<Output = Answer> + Send + 'static + use<> {
        let channel = new.channel.clone();
        let answer = self.enqueue(new);
        async move {
            match answer?.await {
                Ok(answer) => answer,
                // The writer is gone, and with it whatever it may have sent.
                Err(_) => Err(PublishError::UnknownOutcome { channel }),
            }
        }
    }

    fn enqueue(&self, new: &NewPublication) -> Result<oneshot::Receiver<Answer>, PublishError> {
        if self.link.borrow().as_ref().is_none_or(|link| link.is_broken()) {
            return Err(away(new.channel.clone()));
        }
        let envelope = frame::envelope(new, &self.node);
        let partition = keys::partition(&new.channel);
        let stripe = match new.durability {
            // The partition's hash has nothing to do with the writer: 1,024 of them over 4.
            Durability::Accepted => &self.stripes[partition % STRIPES],
            Durability::Replicated { .. } => &self.stripes[STRIPES],
        };
        let bytes = u32::try_from(envelope.len().clamp(1, QUEUE_BYTES)).expect("QUEUE_BYTES fits");
        let room = stripe.room.clone().try_acquire_many_owned(bytes).map_err(|_| PublishError::Overloaded)?;
        let (answer, receiver) = oneshot::channel();
        let job = Job {
            channel: new.channel.clone(),
            partition,
            history: new.history,
            durability: new.durability,
            idempotency: new.key.as_ref().map(|key| self.keys.idempotency(&new.channel, key)),
            envelope,
            answer,
            _room: room,
        };
        match stripe.queue.try_send(job) {
            Ok(()) => Ok(receiver),
            Err(mpsc::error::TrySendError::Full(_)) => Err(PublishError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(away(new.channel.clone())),
        }
    }
}

fn away(channel: ChannelName) -> PublishError {
    PublishError::Unavailable { channel, source: None }
}

/// Empties one queue into pipelines.
pub(super) struct Writer {
    jobs: mpsc::Receiver<Job>,
    waiting: VecDeque<Job>,
    link: watch::Receiver<Option<Arc<Link>>>,
    keys: Keys,
    stop: CancellationToken,
}

/// What Redis says to one publication.
enum Verdict {
    Done(Published),
    /// Certainly not done.
    Refused(redis::RedisError),
    /// Certainly not done, and may be as soon as the scripts are loaded or the generation is known.
    Repairable {
        least_generation: Option<u64>,
    },
    /// Something went wrong inside: perhaps done.
    Unknown(String),
}

impl Writer {
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        while self.fill(&stop).await {
            let batch = self.batch();
            let link = self.link.borrow().clone().filter(|link| !link.is_broken());
            match link {
                Some(link) => self.send(&link, batch).await,
                None => batch.into_iter().for_each(|job| job.refuse(None)),
            }
        }
    }

    /// Waits until there is something to write; false at the end.
    async fn fill(&mut self, stop: &CancellationToken) -> bool {
        while self.waiting.is_empty() {
            let mut jobs = Vec::with_capacity(BATCH);
            tokio::select! {
                count = self.jobs.recv_many(&mut jobs, BATCH) => {
                    if count == 0 {
                        return false;
                    }
                    self.waiting.extend(jobs);
                }
                () = stop.cancelled(), if !self.jobs.is_closed() => self.jobs.close(),
            }
        }
        while self.waiting.len() < BATCH
            && let Ok(job) = self.jobs.try_recv()
        {
            self.waiting.push_back(job);
        }
        true
    }

    fn batch(&mut self) -> Vec<Job> {
        let mut bytes = 0;
        let durability = self.waiting.front().map(|job| job.durability);
        let fits = self.waiting.iter().take(BATCH).take_while(|job| {
            bytes += job.envelope.len();
            bytes <= BATCH_BYTES && Some(job.durability) == durability
        });
        let count = fits.count().max(1);
        self.waiting.drain(..count).collect()
    }

    /// Sends a batch until each of its publications is answered.
    async fn send(&self, link: &Link, mut batch: Vec<Job>) {
        if let Err(error) = learn(link, &batch).await {
            debug!(%error, "redis does not say which generation it is of");
            return batch.into_iter().for_each(|job| job.refuse(None));
        }
        for _ in 0..ATTEMPTS {
            let mut pipeline = redis::pipe();
            for job in &batch {
                pipeline.add_command(self.command(link, job));
            }
            let (answers, replicas) = match batch[0].durability {
                Durability::Accepted => (link.publish(&pipeline).await, None),
                Durability::Replicated { replicas, within } => {
                    match link.publish_replicated(&pipeline, replicas, within).await {
                        Ok((answers, confirmed)) => (Ok(answers), (confirmed < replicas).then_some(confirmed)),
                        Err(error) => (Err(error), None),
                    }
                }
            };
            let Ok(answers) = answers else {
                batch.into_iter().for_each(Job::unknown);
                return;
            };
            let stale;
            (batch, stale) = settle(link, batch, answers, replicas);
            if batch.is_empty() {
                return;
            }
            if let Err(error) = link.repair(&stale).await {
                warn!(%error, "redis did not take its scripts again");
                break;
            }
        }
        batch.into_iter().for_each(|job| job.refuse(None));
    }

    fn command(&self, link: &Link, job: &Job) -> Cmd {
        let [meta, list, channel] = self.keys.all_of(job.partition, &job.channel);
        let idempotency = job.idempotency.as_deref();
        let window = millis(IDEMPOTENCY_WINDOW);
        // Something must be written for WAIT to wait for, also for a publication that is there already.
        let touch = u8::from(job.durability != Durability::Accepted);
        match job.history {
            Some(policy) => {
                let keys: Vec<_> =
                    [&meta, &list, &channel].map(String::as_str).into_iter().chain(idempotency).collect();
                let mut command = link.scripts().publish.call(&keys);
                command
                    .arg(link.generation(job.partition))
                    .arg(Epoch::random().as_bytes())
                    .arg(policy.size.max(1))
                    .arg(millis(policy.ttl))
                    .arg(millis(policy.meta_ttl.max(policy.ttl)))
                    .arg(window)
                    .arg(&job.envelope)
                    .arg(touch);
                command
            }
            None => {
                let keys: Vec<_> = std::iter::once(channel.as_str()).chain(idempotency).collect();
                let mut command = link.scripts().publish_live.call(&keys);
                command.arg(frame::live(&job.envelope)).arg(window).arg(touch);
                command
            }
        }
    }
}

/// The generations of partitions that this connection has not seen before: they have come from another master.
async fn learn(link: &Link, batch: &[Job]) -> redis::RedisResult<()> {
    let partitions: BTreeSet<_> = batch
        .iter()
        .filter(|job| job.history.is_some())
        .map(|job| job.partition)
        .filter(|partition| link.generation(*partition) == 0)
        .collect();
    link.learn(partitions.into_iter()).await
}

/// Milliseconds as Redis takes a time to live: at least one.
pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52)
}

/// Answers what is decided; gives back what may be sent again, with what has to be repaired before.
///
/// A publication is not sent again if a later one of its channel was accepted: it would take a place behind it. Then it
/// certainly has not happened, and its publisher decides.
///
/// `short`: only so many replicas have confirmed, and that is too few.
fn settle(link: &Link, batch: Vec<Job>, answers: Vec<Value>, short: Option<u32>) -> (Vec<Job>, Vec<(usize, u64)>) {
    let (mut again, mut stale) = (Vec::new(), Vec::new());
    let mut overtaken = HashSet::new();
    for (job, answer) in batch.into_iter().zip(answers).rev() {
        match verdict(answer) {
            Verdict::Done(published) => {
                overtaken.insert(job.channel.clone());
                job.done(published, short);
            }
            Verdict::Unknown(error) => {
                overtaken.insert(job.channel.clone());
                warn!(error, "redis failed in the middle of a publication");
                job.unknown();
            }
            Verdict::Refused(error) => {
                if error.code() == Some("READONLY") {
                    link.give_up("the master has become a replica");
                }
                job.refuse(Some(std::sync::Arc::new(error)));
            }
            Verdict::Repairable { .. } if overtaken.contains(&job.channel) => job.refuse(None),
            Verdict::Repairable { least_generation } => {
                stale.extend(least_generation.map(|least| (job.partition, least)));
                again.push(job);
            }
        }
    }
    again.reverse();
    (again, stale)
}

fn verdict(answer: Value) -> Verdict {
    match answer {
        Value::ServerError(error) => match error.code() {
            "NOSCRIPT" => Verdict::Repairable { least_generation: None },
            "STALE" => Verdict::Repairable { least_generation: error.details().and_then(|least| least.parse().ok()) },
            // Redis says these before a script without flags begins.
            "READONLY" | "LOADING" | "OOM" | "NOREPLICAS" | "MISCONF" | "MASTERDOWN" | "CLUSTERDOWN" | "MOVED"
            | "ASK" | "TRYAGAIN" | "CROSSSLOT" | "BUSY" | "NOAUTH" => Verdict::Refused(error.into()),
            _ => Verdict::Unknown(error.to_string()),
        },
        answer => match redis::from_redis_value::<(bool, String)>(answer) {
            Ok((duplicate, position)) if position.is_empty() => Verdict::Done(Published { position: None, duplicate }),
            Ok((duplicate, position)) => match position.parse::<StreamPosition>() {
                Ok(position) => Verdict::Done(Published { position: Some(position), duplicate }),
                Err(error) => Verdict::Unknown(error.to_string()),
            },
            Err(error) => Verdict::Unknown(error.to_string()),
        },
    }
}

impl Job {
    fn done(self, published: Published, short: Option<u32>) {
        let answer = match short {
            None => Ok(published),
            Some(replicas) => Err(PublishError::NotReplicated { channel: self.channel, published, replicas }),
        };
        let _ = self.answer.send(answer); // its publisher may have stopped waiting
    }

    fn refuse(self, source: Option<Cause>) {
        let _ = self.answer.send(Err(PublishError::Unavailable { channel: self.channel, source }));
    }

    fn unknown(self) {
        crate::metrics::outcome_unknown();
        let _ = self.answer.send(Err(PublishError::UnknownOutcome { channel: self.channel }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_where_it_stands() {
        let answer = |duplicate, position: &str| {
            Value::Array(vec![Value::Int(duplicate), Value::BulkString(position.as_bytes().to_vec())])
        };
        let Verdict::Done(published) = verdict(answer(0, "abcdefgh:7")) else { panic!() };
        assert_eq!(published, Published { position: Some("abcdefgh:7".parse().unwrap()), duplicate: false });
        let Verdict::Done(published) = verdict(answer(1, "")) else { panic!() };
        assert_eq!(published, Published { position: None, duplicate: true });
        assert!(matches!(verdict(answer(0, "rubbish")), Verdict::Unknown(_)));
        assert!(matches!(verdict(Value::Nil), Verdict::Unknown(_)));
    }
}
