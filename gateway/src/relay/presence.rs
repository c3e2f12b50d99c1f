//! Joins, leaves and lists of members on their way to the backplane.
//!
//! Many are under way at once, for the backplane takes what is asked at the same time in one round trip. What one client
//! orders on one channel keeps its order: a join never overtakes the leave before it, nor a list the join.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use skywave_backplane::Presence;
use skywave_proto::{ChannelName, Member};
use tokio::sync::mpsc;

use super::{Answer, Answers, MEMBERS_PAGE, MembersAnswer, Receipt};

/// Orders that are under way, or wait behind one of the same client and channel. Full: the rest waits in the queue.
const UNDER_WAY: usize = 8 * 1024;
/// How many orders are taken at once.
const BATCH: usize = 512;

pub(super) enum Order {
    Enter { channel: ChannelName, member: Member, connection: u64, receipt: Receipt, list: bool },
    Exit { channel: ChannelName, client: Arc<str>, connection: u64, grace: Duration },
    List { channel: ChannelName, client: Option<Arc<str>>, after: Option<String>, receipt: Receipt },
}

/// What keeps an order: a client on a channel.
type Lane = (ChannelName, Arc<str>);

impl Order {
    fn lane(&self) -> Option<Lane> {
        match self {
            Self::Enter { channel, member, .. } => Some((channel.clone(), member.client.clone())),
            Self::Exit { channel, client, .. } => Some((channel.clone(), client.clone())),
            Self::List { channel, client, .. } => client.as_ref().map(|client| (channel.clone(), client.clone())),
        }
    }

    async fn carry_out(self, backplane: &impl Presence, answers: &Answers) {
        match self {
            Self::Enter { channel, member, connection, receipt, list } => {
                // Away: it is recorded as soon as the backplane is back, without us.
                let mut outcome = backplane.join(&channel, member, connection).await.map(|()| None);
                if list && outcome.is_ok() {
                    outcome = backplane.members(&channel, None, MEMBERS_PAGE).await.map(Some);
                }
                answers.send(receipt, Answer::Members(channel, MembersAnswer::Entered(outcome)));
            }
            Self::Exit { channel, client, connection, grace } => {
                // Away: the same as for a join.
                let _ = backplane.leave(&channel, &client, connection, grace).await;
            }
            Self::List { channel, after, receipt, .. } => {
                let page = backplane.members(&channel, after.as_deref(), MEMBERS_PAGE).await;
                answers.send(receipt, Answer::Members(channel, MembersAnswer::Listed(page)));
            }
        }
    }
}

/// Carries orders out until their senders are gone and all of them are done: a leave must not be lost.
pub(super) async fn keep<P: Presence>(backplane: Arc<P>, mut orders: mpsc::Receiver<Order>, answers: Answers) {
    let carry_out = |lane: Option<Lane>, order: Order| {
        let (backplane, answers) = (&backplane, &answers);
        async move {
            order.carry_out(&**backplane, answers).await;
            lane
        }
    };
    let mut batch = Vec::with_capacity(BATCH);
    let mut running = FuturesUnordered::new();
    // What waits behind each lane's running order.
    let mut lanes = HashMap::<Lane, VecDeque<Order>, ahash::RandomState>::default();
    let mut waiting = 0;
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            taken = orders.recv_many(&mut batch, BATCH), if open && running.len() + waiting < UNDER_WAY => {
                open = taken > 0;
                for order in batch.drain(..) {
                    let lane = order.lane();
                    match lane.clone().map(|lane| lanes.entry(lane)) {
                        Some(Entry::Occupied(mut behind)) => {
                            behind.get_mut().push_back(order);
                            waiting += 1;
                            continue;
                        }
                        Some(Entry::Vacant(lane)) => drop(lane.insert(VecDeque::new())),
                        None => {}
                    }
                    running.push(carry_out(lane, order));
                }
            }
            Some(lane) = running.next() => {
                let Some(lane) = lane else { continue };
                match lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
                    Some(next) => {
                        waiting -= 1;
                        running.push(carry_out(Some(lane), next));
                    }
                    None => drop(lanes.remove(&lane)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use skywave_backplane::{MemberPage, PresenceError};
    use tokio::sync::Semaphore;

    use super::*;

    /// Writes down what it is asked, and answers when it is let.
    struct Slow {
        asked: Mutex<Vec<String>>,
        answers: Semaphore,
    }

    impl Slow {
        async fn note(&self, what: String) -> Result<(), PresenceError> {
            self.asked.lock().push(what);
            self.answers.acquire().await.unwrap().forget();
            Ok(())
        }
    }

    impl Presence for Slow {
        async fn join(&self, channel: &ChannelName, member: Member, _: u64) -> Result<(), PresenceError> {
            self.note(format!("join {channel} {}", member.client)).await
        }

        async fn leave(
            &self,
            channel: &ChannelName,
            client: &Arc<str>,
            _: u64,
            _: Duration,
        ) -> Result<(), PresenceError> {
            self.note(format!("leave {channel} {client}")).await
        }

        async fn members(&self, channel: &ChannelName, _: Option<&str>, _: usize) -> Result<MemberPage, PresenceError> {
            self.note(format!("list {channel}")).await?;
            Ok(MemberPage::default())
        }

        async fn count(&self, _: &ChannelName) -> Result<u64, PresenceError> {
            Ok(0)
        }
    }

    fn exit(channel: &str, client: &str) -> Order {
        let channel = ChannelName::parse(channel).unwrap();
        Order::Exit { channel, client: client.into(), connection: 1, grace: Duration::ZERO }
    }

    #[tokio::test]
    async fn many_go_at_once_and_one_client_on_one_channel_in_order() {
        let backplane = Arc::new(Slow { asked: Mutex::default(), answers: Semaphore::new(0) });
        let (orders, queue) = mpsc::channel(64);
        let keeping = tokio::spawn(keep(backplane.clone(), queue, Answers::new(Arc::new([]))));
        for (channel, client) in [("a", "c1"), ("a", "c2"), ("b", "c1"), ("a", "c1"), ("a", "c1")] {
            orders.send(exit(channel, client)).await.unwrap();
        }
        let asked = async |count: usize| {
            tokio::time::timeout(Duration::from_secs(10), async {
                while backplane.asked.lock().len() < count {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("it is asked");
            backplane.asked.lock().clone()
        };
        let mut first = asked(3).await;
        first.sort();
        assert_eq!(first, ["leave a c1", "leave a c2", "leave b c1"], "side by side, none twice");
        backplane.answers.add_permits(3);
        assert_eq!(asked(4).await[3], "leave a c1");
        assert_eq!(backplane.asked.lock().len(), 4, "the last waits for the one before");
        drop(orders);
        backplane.answers.add_permits(2);
        keeping.await.unwrap();
        assert_eq!(backplane.asked.lock().len(), 5, "nothing is lost at the end");
    }
}
