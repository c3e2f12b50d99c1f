//! The masters that the channels are spread over, each with its connections and tasks.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::RwLock;
use redis::ConnectionInfo;
use skywave_proto::ChannelName;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::{
    catchup::CatchUp,
    format::Format,
    inbox::Inboxes,
    inspect::Inspector,
    keys::{self, Keys, SLOTS},
    link::{Link, Target},
    options::RedisOptions,
    publish::Publisher,
    pump::Pump,
    states::States,
    subscriber::Heard,
    supervisor::Supervisor,
};
use crate::{NewPublication, PublishError, Published};

/// One master, as the node sees it: its number stays while the address behind it changes by failovers.
pub(super) struct Master {
    target: watch::Sender<Target>,
    link: watch::Receiver<Option<Arc<Link>>>,
    publisher: Publisher,
}

/// All of them, and what they share.
pub(super) struct Masters {
    pub(super) options: RedisOptions,
    pub(super) keys: Keys,
    pub(super) pump: Arc<Pump>,
    pub(super) inboxes: Arc<Inboxes>,
    pub(super) format: Arc<Format>,
    pub(super) states: Arc<States>,
    /// Notified when the directory should look again.
    pub(super) stale: Arc<Notify>,
    /// Notified when a master may be another one than before.
    pub(super) relinked: Arc<Notify>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) all: RwLock<Vec<Arc<Master>>>,
}

/// A master that the directory has found.
pub(super) struct Found {
    pub(super) address: ConnectionInfo,
    pub(super) slots: BTreeSet<usize>,
}

impl Masters {
    /// The link to the master of a partition, while there is one.
    pub(super) fn link_of(&self, partition: usize) -> Option<Arc<Link>> {
        self.link(self.inboxes.owner_of(partition)?)
    }

    /// The link to the master of a key without a tag.
    pub(super) fn link_of_key(&self, key: &str) -> Option<Arc<Link>> {
        self.link(self.inboxes.owner(keys::slot_of(key))?)
    }

    fn link(&self, master: usize) -> Option<Arc<Link>> {
        let link = self.all.read()[master].link.borrow().clone();
        link.filter(|link| !link.is_broken())
    }

    /// See [`crate::Backplane::publish`]: everything that decides about order happens before this returns.
    pub(super) fn publish(
        &self,
        new: &NewPublication,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + 'static + use<> {
        let master = self.inboxes.owner_of(keys::partition(&new.channel));
        let answer = master
            .map(|master| self.all.read()[master].publisher.publish(new))
            .ok_or_else(|| PublishError::Unavailable { channel: new.channel.clone(), source: None });
        async move { answer?.await }
    }

    /// Channels by the master that has them; `None`: nobody has them now.
    pub(super) fn spread<'a>(
        &self,
        channels: impl Iterator<Item = &'a ChannelName>,
    ) -> Vec<(Option<Arc<Link>>, Vec<usize>)> {
        let mut groups = std::collections::BTreeMap::<Option<usize>, Vec<usize>>::new();
        for (place, channel) in channels.enumerate() {
            groups.entry(self.inboxes.owner_of(keys::partition(channel))).or_default().push(place);
        }
        groups.into_iter().map(|(master, places)| (master.and_then(|master| self.link(master)), places)).collect()
    }

    /// The directory has found these: each slot goes to its master. A master keeps its number where it has its address
    /// still, or where another address has taken its slots over.
    pub(super) fn retarget(self: &Arc<Self>, found: Vec<Found>, sharded: bool) {
        let before: Vec<Target> = self.all.read().iter().map(|master| master.target.borrow().clone()).collect();
        let numbers = assign(&before, &found);
        let mut now: Vec<Option<Found>> = before.iter().map(|_| None).collect();
        for (number, found) in numbers.into_iter().zip(found) {
            match number {
                Some(number) => now[number] = Some(found),
                None => {
                    let number = self.add();
                    now.resize_with(now.len().max(number + 1), || None);
                    now[number] = Some(found);
                }
            }
        }
        // First the slots, so that what is subscribed meanwhile goes to where they are now; then the masters, who look
        // after all that came before.
        let mut owners = vec![None; SLOTS];
        for (number, found) in now.iter().enumerate() {
            let slots = found.iter().flat_map(|found| &found.slots);
            slots.for_each(|slot| owners[*slot] = Some(number));
        }
        for (slot, owner) in owners.into_iter().enumerate() {
            self.inboxes.assign(slot, owner);
        }
        for (number, found) in now.into_iter().enumerate() {
            let target = match found {
                Some(found) => {
                    // One that has slots and none of ours has nothing to do, and must not count as away.
                    let partitions = partitions(&found.slots);
                    let address = (!partitions.is_empty()).then_some(found.address);
                    Target { partitions, address, sharded }
                }
                None => Target { sharded, ..Target::nowhere() },
            };
            let master = self.all.read()[number].clone();
            master.target.send_if_modified(|known| {
                let changed = known.at() != target.at() || known.partitions != target.partitions;
                if known.at() != target.at() {
                    match known.at() {
                        Some(from) => info!(shard = number, from, to = target.at(), "another redis is the master now"),
                        None => info!(shard = number, redis = target.at(), "a redis master was found"),
                    }
                }
                if changed {
                    *known = target;
                }
                changed
            });
        }
    }

    /// One more, with its tasks. Gives its number.
    fn add(self: &Arc<Self>) -> usize {
        let (number, inbox) = self.inboxes.add();
        let (target, target_now) = watch::channel(Target::nowhere());
        let (link, link_now) = watch::channel(None);
        let (publisher, writers) = Publisher::new(link_now.clone(), self.keys.clone(), &self.options.node, &self.stop);
        let writing = TaskTracker::new();
        for writer in writers {
            self.tasks.spawn(writing.track_future(writer.run()));
        }
        writing.close();
        let catch_up = CatchUp {
            master: number,
            inbox: inbox.clone(),
            pump: self.pump.clone(),
            keys: self.keys.clone(),
            link: link_now.clone(),
        };
        // Until the supervisor ends, and it ends last.
        let ended = CancellationToken::new();
        self.tasks.spawn(ended.clone().run_until_cancelled_owned(catch_up.clone().run()));
        let supervisor = Supervisor {
            number,
            options: self.options.clone(),
            target: target_now,
            keys: self.keys.clone(),
            pump: self.pump.clone(),
            inbox,
            publisher: publisher.clone(),
            catch_up,
            link,
            states: self.states.clone(),
            stale: self.stale.clone(),
            relinked: self.relinked.clone(),
            writers: writing,
            stop: self.stop.clone(),
            heard: Arc::new(Heard::new()),
            served: Arc::default(),
            inspector: Inspector::default(),
            format: self.format.clone(),
        };
        self.tasks.spawn(async move {
            let _ended = ended.drop_guard();
            supervisor.run().await;
        });
        self.all.write().push(Arc::new(Master { target, link: link_now, publisher }));
        number
    }
}

fn partitions(slots: &BTreeSet<usize>) -> Arc<BTreeSet<usize>> {
    Arc::new((0..keys::PARTITIONS).filter(|partition| slots.contains(&keys::slot(*partition))).collect())
}

/// Which number each of those that were found gets; `None`: a new one.
fn assign(before: &[Target], found: &[Found]) -> Vec<Option<usize>> {
    let mut free: BTreeSet<usize> = (0..before.len()).collect();
    let mut numbers: Vec<Option<usize>> = found
        .iter()
        .map(|found| {
            let at = found.address.addr().to_string();
            let number = (0..before.len()).find(|number| before[*number].at().as_ref() == Some(&at))?;
            free.remove(&number).then_some(number)
        })
        .collect();
    for (number, found) in numbers.iter_mut().zip(found).filter(|(number, _)| number.is_none()) {
        let partitions = partitions(&found.slots);
        let in_common = |candidate: &usize| before[*candidate].partitions.intersection(&partitions).count();
        let best = free.iter().copied().max_by_key(in_common);
        // A free one without anything in common was given up by its slots: it can be used again.
        let unused = |candidate: &usize| before[*candidate].address.is_none();
        if let Some(best) = best.filter(|best| in_common(best) > 0 || unused(best)) {
            free.remove(&best);
            *number = Some(best);
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo as _;

    use super::*;

    fn found(port: u16, slots: std::ops::Range<usize>) -> Found {
        Found { address: format!("redis://h:{port}").into_connection_info().unwrap(), slots: slots.collect() }
    }

    fn target(port: u16, slots: std::ops::Range<usize>) -> Target {
        let found = found(port, slots);
        Target { address: Some(found.address), partitions: partitions(&found.slots), sharded: true }
    }

    #[test]
    fn a_master_keeps_its_number_over_a_failover() {
        let before = [target(1, 0..8000), target(2, 8000..SLOTS)];
        assert_eq!(assign(&before, &[found(2, 8000..SLOTS), found(3, 0..8000)]), [Some(1), Some(0)]);
        assert_eq!(
            assign(&before, &[found(1, 0..8000), found(2, 9000..SLOTS), found(3, 8000..9000)]),
            [Some(0), Some(1), None]
        );
        assert_eq!(assign(&[], &[found(1, 0..SLOTS)]), [None]);
        let gone = Target { address: None, partitions: Arc::default(), sharded: true };
        assert_eq!(
            assign(&[target(1, 0..8000), gone], &[found(1, 0..8000), found(3, 8000..SLOTS)]),
            [Some(0), Some(1)]
        );
    }
}
