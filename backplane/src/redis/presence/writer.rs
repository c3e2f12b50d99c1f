//! Makes Redis look as the table wants it, in batches.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use parking_lot::{Mutex, RwLock};
use redis::{Cmd, Value};
use skywave_proto::{ChannelName, Epoch, Member};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    STREAM, Transitions, entry, stream,
    table::{Resync, Table, Writes},
};
use crate::{
    Sink,
    redis::{
        keys::{self, Keys, PARTITIONS},
        link::{Link, PIPELINE},
        masters::Masters,
        publish::millis,
        scripts::Step,
    },
};

/// How many memberships are written together.
const BATCH: usize = 1024;
/// How long to wait when Redis is away.
const RETRY: Duration = Duration::from_millis(250);
/// How often what stands in Redis is made to live on; it lives for an hour.
const REFRESH: Duration = Duration::from_secs(20 * 60);

/// What this node wants to stand in Redis. Cloning shares it.
#[derive(Clone)]
pub(in crate::redis) struct Writer(Arc<Inner>);

struct Inner {
    table: Mutex<Table>,
    changed: Notify,
    masters: Arc<Masters>,
    incarnation: Arc<RwLock<Arc<str>>>,
    /// By partition: the generation in which everything was written.
    generations: Mutex<Vec<u64>>,
    sink: Arc<dyn Sink>,
    /// Those of this node.
    transitions: Transitions,
    tells_transitions: AtomicBool,
}

impl Writer {
    pub(in crate::redis) fn new(
        masters: Arc<Masters>,
        incarnation: Arc<RwLock<Arc<str>>>,
        sink: Arc<dyn Sink>,
    ) -> Self {
        Self(Arc::new(Inner {
            table: Mutex::default(),
            changed: Notify::new(),
            masters,
            incarnation,
            generations: Mutex::new(vec![0; PARTITIONS]),
            transitions: Transitions::new(sink.clone()),
            sink,
            tells_transitions: AtomicBool::new(false),
        }))
    }

    pub(super) fn tell_transitions(&self, tell: bool) {
        self.0.tells_transitions.store(tell, Relaxed);
    }

    pub(in crate::redis) fn tells_transitions(&self) -> bool {
        self.0.tells_transitions.load(Relaxed)
    }

    /// For those of another node, by whoever buries it.
    pub(in crate::redis) fn new_transitions(&self) -> Transitions {
        Transitions::new(self.0.sink.clone())
    }

    pub(super) fn join(&self, channel: &ChannelName, member: Member, serial: u64) -> oneshot::Receiver<()> {
        let written = self.0.table.lock().join(channel, member, serial);
        self.0.changed.notify_one();
        written
    }

    pub(super) fn leave(
        &self,
        channel: &ChannelName,
        client: &Arc<str>,
        serial: u64,
        grace: Duration,
    ) -> Option<oneshot::Receiver<()>> {
        let at = (!grace.is_zero()).then(|| Instant::now() + grace);
        let written = self.0.table.lock().leave(channel, client, serial, at);
        self.0.changed.notify_one();
        written
    }

    /// Everything is written again.
    pub(in crate::redis) fn resync(&self, resync: Resync) {
        self.0.table.lock().resync(resync, |_| true);
        self.0.changed.notify_one();
    }

    /// Writes until `stop`, and then what is still to be written.
    pub(in crate::redis) async fn run(self, stop: CancellationToken) {
        let mut refresh = tokio::time::interval_at(Instant::now() + REFRESH, REFRESH);
        let relinked = self.0.masters.relinked.clone();
        while !stop.is_cancelled() {
            let next = self.0.table.lock().pass(Instant::now());
            let next = next.unwrap_or_else(|| Instant::now() + REFRESH);
            // Also while one master is away and there always is something to be written for it.
            if relinked.notified().now_or_never().is_some() {
                self.look_at_generations();
            }
            if refresh.tick().now_or_never().is_some() {
                self.refresh().await;
            }
            let is_clean = self.0.table.lock().is_clean() && self.0.transitions.is_clean();
            if !is_clean {
                if self.write().await.is_err() {
                    let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                }
                continue;
            }
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = relinked.notified() => self.look_at_generations(),
                _ = refresh.tick() => self.refresh().await,
                () = tokio::time::sleep_until(next) => {}
                () = stop.cancelled() => {}
            }
        }
        // What does not get there now is carried out by others: this incarnation has resigned, or will be taken for dead.
        let _ = self.write().await;
    }

    /// A master that may be another one than before may have lost members.
    fn look_at_generations(&self) {
        let mut generations = self.0.generations.lock();
        let mut lost = vec![false; PARTITIONS];
        for (partition, known) in generations.iter_mut().enumerate() {
            let Some(link) = self.0.masters.link_of(partition) else { continue };
            let now = link.generation(partition);
            if now == 0 || *known == now {
                continue;
            }
            // What is written from now on stands in this generation; all before is written again.
            lost[partition] = true;
            *known = now;
        }
        drop(generations);
        if lost.contains(&true) {
            info!(
                partitions = lost.iter().filter(|lost| **lost).count(),
                "writing members again: redis may have lost some"
            );
            self.0.table.lock().resync(Resync::Quiet, |partition| lost[partition]);
        }
    }

    async fn write(&self) -> Result<(), ()> {
        let writes = self.0.table.lock().take(BATCH);
        let writes: Vec<_> = writes.into_iter().collect();
        let incarnation = self.0.incarnation.read().clone();
        let groups = self.0.masters.spread(writes.iter().map(|(channel, _)| channel));
        let written = groups.into_iter().map(|(link, places)| {
            let (writes, incarnation) = (&writes, &incarnation);
            async move {
                let mut all_well = true;
                for chunk in places.chunks(PIPELINE / 2) {
                    let chunk: Vec<_> = chunk.iter().map(|place| &writes[*place]).collect();
                    all_well &= match &link {
                        Some(link) => self.send(link, incarnation, &chunk).await,
                        None => {
                            self.fail(&chunk);
                            false
                        }
                    };
                }
                all_well
            }
        });
        let mut all_well = join_all(written).await.into_iter().all(|well| well);
        if let Err(error) = self.0.transitions.confirm(&self.0.masters).await {
            debug!(%error, "that transitions were told could not be noted; trying again");
            all_well = false;
        }
        if all_well { Ok(()) } else { Err(()) }
    }

    async fn send(&self, link: &Link, incarnation: &Arc<str>, chunk: &[&(ChannelName, Writes)]) -> bool {
        let (keys, tells) = (&self.0.masters.keys, self.tells_transitions());
        let mut pipeline = redis::pipe();
        for (channel, writes) in chunk {
            for command in commands(link, keys, incarnation, channel, tells, writes) {
                pipeline.add_command(command);
            }
        }
        let mut partitions = BTreeSet::new();
        if tells {
            partitions.extend(chunk.iter().map(|(channel, _)| keys::partition(channel)));
        }
        partitions.iter().for_each(|partition| Transitions::ask(&mut pipeline, keys, *partition, incarnation));
        let mut answers = match link.ask(&pipeline).await {
            Ok(answers) => answers,
            Err(error) => {
                debug!(%error, "members could not be written; trying again");
                self.fail(chunk);
                return false;
            }
        };
        let (mut stale, mut all_well) = (Vec::new(), true);
        // Before anybody hears that it is written.
        let transitions = answers.split_off(answers.len().saturating_sub(partitions.len()));
        for (partition, answer) in partitions.into_iter().zip(transitions) {
            if let Err(error) = self.0.transitions.take_in(partition, incarnation, answer) {
                debug!(%error, "transitions could not be read; they are with the next ones");
            }
        }
        let mut answers = answers.into_iter();
        for (channel, writes) in chunk {
            let count = usize::from(!writes.joins.is_empty()) + usize::from(!writes.leaves.is_empty());
            let mut well = true;
            for answer in answers.by_ref().take(count) {
                if let Value::ServerError(error) = answer {
                    well = false;
                    debug!(%channel, %error, "members could not be written; trying again");
                    if error.code() == "STALE" {
                        let least = error.details().and_then(|least| least.parse().ok()).unwrap_or(0);
                        stale.push((keys::partition(channel), least));
                    }
                }
            }
            let mut table = self.0.table.lock();
            if well {
                table.written(channel, writes)
            } else {
                table.failed(channel, writes)
            }
            all_well &= well;
        }
        if !stale.is_empty()
            && let Err(error) = link.relearn(&stale).await
        {
            debug!(%error, "redis does not say which generation it is of");
        }
        all_well
    }

    fn fail(&self, chunk: &[&(ChannelName, Writes)]) {
        let mut table = self.0.table.lock();
        chunk.iter().for_each(|(channel, writes)| table.failed(channel, writes));
    }

    /// The keys live for an hour: so that nothing stays for ever of a cluster that never comes back.
    async fn refresh(&self) {
        let channels = self.0.table.lock().channels();
        let incarnation = self.0.incarnation.read().clone();
        let keys = &self.0.masters.keys;
        for (link, places) in self.0.masters.spread(channels.iter()) {
            let Some(link) = link else { continue };
            for chunk in places.chunks(PIPELINE) {
                let mut pipeline = redis::pipe();
                for place in chunk {
                    let channel = &channels[*place];
                    let membered = keys.membered(keys::partition(channel), &incarnation);
                    for key in [keys.members(channel), keys.users(channel), membered] {
                        pipeline.cmd("PEXPIRE").arg(key).arg(LIVES_MS).ignore();
                    }
                }
                if let Err(error) = link.ask(&pipeline).await {
                    debug!(%error, "members could not be made to live on; the next time is soon enough");
                }
            }
        }
    }
}

/// As in `scripts/members.lua`.
const LIVES_MS: u64 = 3_600_000;

fn commands(
    link: &Link,
    keys: &Keys,
    incarnation: &str,
    channel: &ChannelName,
    tells: bool,
    writes: &Writes,
) -> Vec<Cmd> {
    let mut commands = Vec::with_capacity(2);
    if !writes.joins.is_empty() {
        let mut command = call(link, &link.scripts().join, keys, incarnation, channel, tells);
        for write in &writes.joins {
            let is_told = u8::from(write.is_told);
            command.arg(&*write.member.client).arg(write.serial).arg(entry::member(&write.member)).arg(is_told);
        }
        commands.push(command);
    }
    if !writes.leaves.is_empty() {
        let mut command = call(link, &link.scripts().leave, keys, incarnation, channel, tells);
        command.arg(u8::from(writes.is_last));
        for write in &writes.leaves {
            command.arg(&*write.member.client).arg(write.serial);
        }
        commands.push(command);
    }
    commands
}

/// What all scripts of presence begin with; whether they note transitions.
pub(in crate::redis) fn call(
    link: &Link,
    step: &Step,
    keys: &Keys,
    incarnation: &str,
    channel: &ChannelName,
    tells: bool,
) -> Cmd {
    let (stream, partition) = (stream(channel), keys::partition(channel));
    let mut command = step.call(&[
        &keys.members(channel),
        &keys.membered(partition, incarnation),
        &keys.meta(&stream),
        &keys.list(&stream),
        &keys.channel(&stream),
        &keys.users(channel),
        &keys.transitions(partition, incarnation),
    ]);
    command
        .arg(incarnation)
        .arg(channel.as_str())
        .arg(link.generation(partition))
        .arg(Epoch::random().as_bytes())
        .arg(STREAM.size)
        .arg(millis(STREAM.ttl))
        .arg(millis(STREAM.meta_ttl))
        .arg(u8::from(tells));
    command
}
