//! Joins, leaves and lists of members on their way to the backplane.
//!
//! Many are under way at once, for the backplane takes what is asked at the same time in one round trip. What one client
//! orders on one channel keeps its order: a join never overtakes the leave before it, nor a list the join.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use skywave_backplane::Presence;
use skywave_proto::{ChannelName, Member};
use tokio::sync::{Notify, mpsc};

use super::{Answer, Answers, MEMBERS_PAGE, MembersAnswer, Overloaded, Receipt};

/// Orders that are under way, or wait behind one of the same client and channel. Full: the rest waits in the queue.
const UNDER_WAY: usize = 8 * 1024;
/// How many orders are taken at once.
const BATCH: usize = 512;

pub(super) enum Order {
    Enter { channel: ChannelName, member: Member, connection: u64, receipt: Receipt, list: bool },
    Exit { channel: ChannelName, client: Arc<str>, connection: u64, grace: Duration },
    List { channel: ChannelName, client: Option<Arc<str>>, after: Option<String>, receipt: Receipt },
}

/// The way in. Bound: the queue's; leaves that do not fit wait behind it, and as long as there are any nothing else is taken.
/// Each of them is of a client that had been ordered to be a member, so there are never more than subscriptions.
#[derive(Clone)]
pub(super) struct Orders {
    queue: mpsc::Sender<Order>,
    late: Arc<Late>,
}

/// The other end of [`Orders`].
pub(super) struct Queue {
    orders: mpsc::Receiver<Order>,
    late: Arc<Late>,
}

/// What did not fit.
#[derive(Default)]
struct Late {
    orders: Mutex<VecDeque<Order>>,
    any: AtomicBool,
    more: Notify,
}

/// An empty queue with room for so many orders.
pub(super) fn queue(orders: usize) -> (Orders, Queue) {
    let (queue, orders) = mpsc::channel(orders);
    let late = Arc::new(Late::default());
    (Orders { queue, late: late.clone() }, Queue { orders, late })
}

impl Orders {
    /// Takes the order if there is room.
    pub(super) fn give(&self, order: Order) -> Result<(), Overloaded> {
        // Not ahead of a leave that this very thread may have ordered before.
        if self.late.any.load(Ordering::Acquire) {
            return Err(Overloaded);
        }
        self.queue.try_send(order).map_err(|_| Overloaded)
    }

    /// Takes an order that must not be lost.
    pub(super) fn give_surely(&self, order: Order) {
        let order = if self.late.any.load(Ordering::Acquire) {
            order
        } else {
            match self.queue.try_send(order) {
                Ok(()) => return,
                Err(full) => full.into_inner(),
            }
        };
        let mut late = self.late.orders.lock();
        late.push_back(order);
        self.late.any.store(true, Ordering::Release);
        drop(late);
        self.late.more.notify_one();
    }
}

impl Queue {
    /// Takes some of the oldest; none when there never will be any more.
    ///
    /// # Cancel safety
    /// Cancel-safe: what is taken is in `batch`, or still here.
    async fn take(&mut self, batch: &mut Vec<Order>) -> usize {
        loop {
            // What is late is younger than all that its thread had put into the queue.
            let taken = self.late.take(batch, || self.orders.is_empty());
            if taken > 0 {
                return taken;
            }
            tokio::select! {
                taken = self.orders.recv_many(batch, BATCH) => {
                    return if taken > 0 { taken } else { self.late.take(batch, || true) };
                }
                () = self.late.more.notified() => {}
            }
        }
    }
}

impl Late {
    /// Asked under the lock, for until it is free nothing more gets into the queue that something late must precede.
    fn take(&self, batch: &mut Vec<Order>, is_their_turn: impl FnOnce() -> bool) -> usize {
        if !self.any.load(Ordering::Acquire) {
            return 0;
        }
        let mut late = self.orders.lock();
        if !is_their_turn() {
            return 0;
        }
        let taken = late.len().min(BATCH);
        batch.extend(late.drain(..taken));
        self.any.store(!late.is_empty(), Ordering::Release);
        taken
    }
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
pub(super) async fn keep<P: Presence>(backplane: Arc<P>, mut orders: Queue, answers: Answers) {
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
            taken = orders.take(&mut batch), if open && running.len() + waiting < UNDER_WAY => {
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
    use skywave_backplane::{BackplaneState, MemberPage, PresenceError, SubscribeError};
    use skywave_proto::StreamPosition;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{push::Prepared, relay::Mailbox};

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

        fn tell_transitions(&self, _: bool) {}
    }

    struct Nobody;

    impl Mailbox for Nobody {
        fn push(&self, _: &ChannelName, _: Arc<Prepared>) {}

        fn presence_gap(&self, _: &ChannelName) {}

        fn joined(&self, _: ChannelName, _: u64, _: Result<Option<StreamPosition>, SubscribeError>) {}

        fn answer(&self, _: Receipt, _: Answer) {}

        fn backplane(&self, _: BackplaneState) {}
    }

    fn exit(channel: &str, client: &str) -> Order {
        let channel = ChannelName::parse(channel).unwrap();
        Order::Exit { channel, client: client.into(), connection: 1, grace: Duration::ZERO }
    }

    #[tokio::test]
    async fn many_go_at_once_and_one_client_on_one_channel_in_order() {
        let backplane = Arc::new(Slow { asked: Mutex::default(), answers: Semaphore::new(0) });
        let (orders, queue) = queue(64);
        let keeping = tokio::spawn(keep(backplane.clone(), queue, Answers::new(Arc::new([]))));
        for (channel, client) in [("a", "c1"), ("a", "c2"), ("b", "c1"), ("a", "c1"), ("a", "c1")] {
            orders.give(exit(channel, client)).unwrap();
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

    #[tokio::test]
    async fn a_leave_that_does_not_fit_keeps_its_place_before_what_comes_later() {
        let backplane = Arc::new(Slow { asked: Mutex::default(), answers: Semaphore::new(64) });
        let (orders, queue) = queue(1);
        let receipt = Receipt { shard: 0, connection: None, ticket: 1 };
        let list = |channel: &str| {
            let channel = ChannelName::parse(channel).unwrap();
            Order::List { channel, client: Some("c1".into()), after: None, receipt }
        };
        for channel in ["a", "b", "c"] {
            orders.give_surely(exit(channel, "c1"));
        }
        assert_eq!(orders.give(list("c")), Err(Overloaded), "not ahead of the leave");
        let keeping = tokio::spawn(keep(backplane.clone(), queue, Answers::new(Arc::new([Arc::new(Nobody)]))));
        tokio::time::timeout(Duration::from_secs(10), async {
            while orders.give(list("c")).is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("there is room again");
        drop(orders);
        keeping.await.unwrap();
        assert_eq!(*backplane.asked.lock(), ["leave a c1", "leave b c1", "leave c c1", "list c"]);
    }
}
