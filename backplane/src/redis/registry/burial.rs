//! Taking away what a dead node has.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use redis::{RedisResult, Value};
use skywave_proto::ChannelName;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{BOOKS_LIVE, Registry};
use crate::redis::{
    keys::{self, PARTITIONS},
    link::{Link, PIPELINE},
    presence::{Transitions, writer},
    publish::millis,
};

/// How long a node that was taken for dead can find that out.
const TOMBSTONE_LIVES: Duration = BOOKS_LIVE;
/// How long others leave it to the one that has begun to carry out that a node is dead.
const LOCK_LIVES: Duration = Duration::from_secs(15);
/// Entries of one channel that are looked at in one step.
const REAP: usize = 512;

impl Registry {
    /// Takes away what a dead incarnation has, in a task of its own: whoever buries must go on beating, or is buried
    /// itself.
    pub(super) fn begin_burial(&self, link: &Arc<Link>, incarnation: &str, has_resigned: bool) {
        if !self.0.burying.lock().insert(incarnation.to_owned()) {
            return;
        }
        let (registry, link, incarnation) = (self.clone(), link.clone(), Arc::<str>::from(incarnation));
        let stop = self.0.masters.stop.clone();
        self.0.masters.tasks.spawn(async move {
            let burial = stop.run_until_cancelled(registry.bury(&link, &incarnation, has_resigned)).await;
            if let Some(Err(error)) = burial {
                debug!(%incarnation, %error, "a dead node's members could not be taken away; trying again");
            }
            registry.0.burying.lock().remove(&*incarnation);
        });
    }

    /// Takes away what a dead incarnation has.
    async fn bury(&self, link: &Link, incarnation: &Arc<str>, has_resigned: bool) -> RedisResult<()> {
        let (keys, began) = (self.keys(), Instant::now());
        let mut pipeline = redis::pipe();
        let lock = keys.registry(&format!("nl:{incarnation}"));
        pipeline
            .cmd("SET")
            .arg(&lock)
            .arg(self.0.masters.options.node.as_str())
            .arg("NX")
            .arg("PX")
            .arg(millis(LOCK_LIVES));
        let answer = link.ask(&pipeline).await?.pop().unwrap_or_default().extract_error()?;
        if answer == Value::Nil {
            return Ok(()); // somebody else is at it
        }
        let buried = self.bury_alone(link, incarnation, &lock).await;
        match &buried {
            Ok(left) => {
                let took = began.elapsed();
                info!(%incarnation, has_resigned, members = left, ?took, "a node is gone; its members have left");
            }
            // Whoever tries next need not wait for its end. After so long it may be another one's.
            Err(_) if began.elapsed() < LOCK_LIVES / 2 => {
                let mut pipeline = redis::pipe();
                pipeline.cmd("DEL").arg(&lock);
                let _ = link.ask(&pipeline).await; // it ends by itself
            }
            Err(_) => {}
        }
        buried.map(drop)
    }

    /// The same, by whoever has the lock. Gives how many members left.
    async fn bury_alone(&self, link: &Link, incarnation: &Arc<str>, lock: &str) -> RedisResult<u64> {
        let keys = self.keys();
        // First the tombstone: a node that wakes up now knows that its members are being taken away.
        let mut pipeline = redis::pipe();
        let tombstone = keys.registry(&format!("nt:{incarnation}"));
        pipeline.cmd("SET").arg(tombstone).arg(1).arg("PX").arg(millis(TOMBSTONE_LIVES));
        check(link.ask(&pipeline).await?)?;
        let transitions = self.0.members.tells_transitions().then(|| self.0.members.new_transitions());
        let mut left = 0;
        for first in (0..PARTITIONS).step_by(PIPELINE) {
            left += self.bury_partitions(incarnation, transitions.as_ref(), first..first + PIPELINE).await?;
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZREM").arg(keys.registry("n")).arg(&**incarnation);
        pipeline.cmd("SREM").arg(keys.registry("nr")).arg(&**incarnation);
        pipeline.cmd("DEL").arg(keys.registry(&format!("n:{incarnation}"))).arg(lock);
        check(link.ask(&pipeline).await?)?;
        Ok(left)
    }

    async fn bury_partitions(
        &self,
        incarnation: &Arc<str>,
        transitions: Option<&Transitions>,
        partitions: std::ops::Range<usize>,
    ) -> RedisResult<u64> {
        let mut by_master: Vec<(Arc<Link>, Vec<usize>)> = Vec::new();
        for partition in partitions {
            let Some(link) = self.0.masters.link_of(partition) else {
                return Err((redis::ErrorKind::Io, "a master is away").into());
            };
            match by_master.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &link)) {
                Some((_, partitions)) => partitions.push(partition),
                None => by_master.push((link, vec![partition])),
            }
        }
        let mut left = 0;
        for (link, partitions) in by_master {
            let mut pipeline = redis::pipe();
            for partition in &partitions {
                pipeline.cmd("SMEMBERS").arg(self.keys().membered(*partition, incarnation));
            }
            // What it has not told itself.
            let asked: Vec<_> = transitions.iter().flat_map(|_| partitions.iter().copied()).collect();
            asked.iter().for_each(|asked| Transitions::ask(&mut pipeline, self.keys(), *asked, incarnation));
            let mut answers = link.ask(&pipeline).await?;
            let untold = answers.split_off(partitions.len().min(answers.len()));
            self.tell(transitions, incarnation, asked.into_iter().zip(untold)).await?;
            let mut work = Vec::new();
            for answer in answers {
                let channels: Vec<String> = redis::from_redis_value(answer.extract_error()?)?;
                let channels = channels.iter().filter_map(|channel| ChannelName::parse(channel).ok());
                work.extend(channels.map(|channel| (channel, Vec::new())));
            }
            while !work.is_empty() {
                let rest = work.split_off(work.len().min(PIPELINE / 4));
                let (count, again) = self.bury_channels(&link, incarnation, transitions, work).await?;
                left += count;
                work = again.into_iter().chain(rest).collect();
            }
        }
        Ok(left)
    }

    /// One step for each channel: from which entry on. Gives those that need another.
    async fn bury_channels(
        &self,
        link: &Link,
        incarnation: &Arc<str>,
        transitions: Option<&Transitions>,
        channels: Vec<(ChannelName, Vec<u8>)>,
    ) -> RedisResult<(u64, Vec<(ChannelName, Vec<u8>)>)> {
        let mut pipeline = redis::pipe();
        for (channel, after) in &channels {
            let mut call =
                writer::call(link, &link.scripts().reap, self.keys(), incarnation, channel, transitions.is_some());
            call.arg(after).arg(REAP);
            pipeline.add_command(call);
        }
        let mut asked = BTreeSet::new();
        if transitions.is_some() {
            asked.extend(channels.iter().map(|(channel, _)| keys::partition(channel)));
        }
        asked.iter().for_each(|asked| Transitions::ask(&mut pipeline, self.keys(), *asked, incarnation));
        let mut answers = link.ask(&pipeline).await?;
        let told = answers.split_off(channels.len().min(answers.len()));
        self.tell(transitions, incarnation, asked.into_iter().zip(told)).await?;
        let (mut left, mut again, mut stale) = (0, Vec::new(), Vec::new());
        for ((channel, after), answer) in channels.into_iter().zip(answers) {
            match answer {
                Value::ServerError(error) if error.code() == "STALE" => {
                    let least = error.details().and_then(|least| least.parse().ok()).unwrap_or(0);
                    stale.push((keys::partition(&channel), least));
                    again.push((channel, after));
                }
                answer => {
                    let (count, after): (u64, Vec<u8>) = redis::from_redis_value(answer.extract_error()?)?;
                    left += count;
                    if !after.is_empty() {
                        again.push((channel, after));
                    }
                }
            }
        }
        if !stale.is_empty() {
            link.relearn(&stale).await?;
        }
        Ok((left, again))
    }

    async fn tell(
        &self,
        transitions: Option<&Transitions>,
        incarnation: &Arc<str>,
        answers: impl Iterator<Item = (usize, Value)>,
    ) -> RedisResult<()> {
        let Some(transitions) = transitions else { return Ok(()) };
        for (partition, answer) in answers {
            transitions.take_in(partition, incarnation, answer)?;
        }
        transitions.confirm(&self.0.masters).await
    }
}

fn check(answers: Vec<Value>) -> RedisResult<()> {
    answers.into_iter().try_for_each(|answer| answer.extract_error().map(drop))
}
