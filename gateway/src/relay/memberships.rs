//! Which shards want which channel, on its way to the backplane.
//!
//! Many are under way at once, so that a channel whose master is away keeps nobody else's waiting. What concerns one
//! channel keeps its order: a join never overtakes the leave before it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use skywave_backplane::{Backplane, Interest, SubscribeError};
use skywave_proto::ChannelName;
use tokio::sync::mpsc;

use super::{Answers, BATCH, Routes};

/// Channels that are being joined, and orders that wait behind one of the same channel. Full: the rest waits in the queue.
const UNDER_WAY: usize = 8 * 1024;

pub(super) enum Order {
    Join { shard: usize, interest: Interest, join: u64 },
    Leave { shard: usize, channel: ChannelName },
}

impl Order {
    fn channel(&self) -> &ChannelName {
        match self {
            Self::Join { interest, .. } => &interest.channel,
            Self::Leave { channel, .. } => channel,
        }
    }

    fn shard(&self) -> usize {
        match self {
            Self::Join { shard, .. } | Self::Leave { shard, .. } => *shard,
        }
    }
}

/// Shards that want one channel, each with the number of its join.
struct Joins {
    interest: Interest,
    shards: Vec<(usize, u64)>,
}

/// Carries orders out until their senders are gone.
pub(super) async fn keep<B: Backplane>(
    backplane: Arc<B>,
    routes: Arc<Routes>,
    mut orders: mpsc::Receiver<Order>,
    answers: Answers,
) {
    let carry_out = |joins| carry_out(&*backplane, &routes, &answers, joins);
    let mut batch = Vec::with_capacity(BATCH);
    let mut joining = FuturesUnordered::new();
    // What waits behind each channel's join.
    let mut lanes = HashMap::<ChannelName, VecDeque<Order>, ahash::RandomState>::default();
    let mut waiting = 0;
    loop {
        tokio::select! {
            taken = orders.recv_many(&mut batch, BATCH), if joining.len() + waiting < UNDER_WAY => {
                if taken == 0 {
                    return;
                }
                for order in batch.drain(..) {
                    if let Some(lane) = lanes.get_mut(order.channel()) {
                        waiting -= lane.len();
                        wait_behind(lane, order);
                        waiting += lane.len();
                        continue;
                    }
                    let (channel, mut lane) = (order.channel().clone(), VecDeque::from([order]));
                    if let Some(joins) = advance(&mut lane, &*backplane, &routes) {
                        lanes.insert(channel, lane);
                        joining.push(carry_out(joins));
                    }
                }
            }
            Some(channel) = joining.next() => {
                let Some(lane) = lanes.get_mut(&channel) else { continue };
                let before = lane.len();
                let joins = advance(lane, &*backplane, &routes);
                waiting -= before - lane.len();
                match joins {
                    Some(joins) => joining.push(carry_out(joins)),
                    None => drop(lanes.remove(&channel)),
                }
            }
        }
    }
}

/// A join that nobody has begun is undone by the leave behind it: whoever comes and goes does not fill the lane. So there are at
/// most two orders of a shard in it.
fn wait_behind(lane: &mut VecDeque<Order>, order: Order) {
    if let Order::Leave { shard: leaving, .. } = order
        && let Some(last) = lane.iter().rposition(|known| known.shard() == leaving)
        && matches!(lane[last], Order::Join { .. })
    {
        lane.remove(last);
    } else {
        lane.push_back(order);
    }
}

/// Carries out the leaves at the front, and takes the joins behind them together.
fn advance(lane: &mut VecDeque<Order>, backplane: &impl Backplane, routes: &Routes) -> Option<Joins> {
    let mut joins = None::<Joins>;
    while let Some(order) = lane.pop_front() {
        match order {
            Order::Join { shard, interest, join } => {
                // First the route, then the subscription: nothing after the answered position can pass by.
                routes.add(&interest.channel, shard);
                joins.get_or_insert_with(|| Joins { interest, shards: Vec::new() }).shards.push((shard, join));
            }
            Order::Leave { .. } if joins.is_some() => {
                lane.push_front(order);
                break;
            }
            Order::Leave { shard, channel } => {
                routes.remove(&channel, shard);
                give_up(&channel, backplane, routes);
            }
        }
    }
    joins
}

async fn carry_out(backplane: &impl Backplane, routes: &Routes, answers: &Answers, joins: Joins) -> ChannelName {
    let Joins { interest, shards } = joins;
    let outcomes = backplane.subscribe(std::slice::from_ref(&interest)).await;
    let position = outcomes.into_iter().next().and_then(Result::ok);
    if position.is_none() {
        shards.iter().for_each(|(shard, _)| routes.remove(&interest.channel, *shard));
        give_up(&interest.channel, backplane, routes);
    }
    for (shard, join) in shards {
        answers.joined(shard, interest.channel.clone(), join, position.ok_or(SubscribeError::Unavailable));
    }
    interest.channel
}

fn give_up(channel: &ChannelName, backplane: &impl Backplane, routes: &Routes) {
    if !routes.is_wanted(channel) {
        backplane.unsubscribe(std::slice::from_ref(channel));
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use skywave_backplane::{
        BackplaneState, HistoryError, HistoryPage, HistoryQuery, NewPublication, PublishError, Published,
    };
    use skywave_proto::StreamPosition;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{
        push::Prepared,
        relay::{Answer, Mailbox, Receipt},
    };

    #[test]
    fn who_comes_and_goes_does_not_fill_a_lane() {
        let channel = ChannelName::parse("a").unwrap();
        let interest = Interest { channel: channel.clone(), history: None, presence: false };
        let mut lane = VecDeque::new();
        for join in 0..1000 {
            for shard in 0..2 {
                wait_behind(&mut lane, Order::Leave { shard, channel: channel.clone() });
                wait_behind(&mut lane, Order::Join { shard, interest: interest.clone(), join });
            }
        }
        assert_eq!(lane.len(), 4, "a leave and the last join of each shard");
        assert!(lane.iter().all(|order| matches!(order, Order::Leave { .. } | Order::Join { join: 999, .. })));
    }

    /// Never answers for channels that begin with `away` before it is let; writes down what it is asked.
    struct Partly {
        asked: Mutex<Vec<String>>,
        away: Semaphore,
    }

    impl Backplane for Partly {
        fn publish(
            &self,
            new: NewPublication,
        ) -> impl Future<Output = Result<Published, PublishError>> + Send + 'static {
            std::future::ready(Err(PublishError::UnknownOutcome { channel: new.channel }))
        }

        async fn subscribe(&self, channels: &[Interest]) -> Vec<Result<Option<StreamPosition>, SubscribeError>> {
            for interest in channels {
                self.asked.lock().push(format!("join {}", interest.channel));
                if interest.channel.as_str().starts_with("away") {
                    self.away.acquire().await.unwrap().forget();
                    return vec![Err(SubscribeError::Unavailable)];
                }
            }
            channels.iter().map(|_| Ok(None)).collect()
        }

        fn unsubscribe(&self, channels: &[ChannelName]) {
            self.asked.lock().extend(channels.iter().map(|channel| format!("leave {channel}")));
        }

        async fn history(&self, _: &ChannelName, _: HistoryQuery) -> Result<HistoryPage, HistoryError> {
            Err(HistoryError::Unavailable(None))
        }

        async fn positions(&self, _: &[ChannelName]) -> Result<Vec<Option<StreamPosition>>, HistoryError> {
            Err(HistoryError::Unavailable(None))
        }

        async fn forget(&self, _: &ChannelName) -> Result<(), HistoryError> {
            Err(HistoryError::Unavailable(None))
        }

        fn state(&self) -> BackplaneState {
            BackplaneState::Degraded
        }
    }

    /// Hands on what is answered to joins.
    struct Joined(mpsc::Sender<String>);

    impl Mailbox for Joined {
        fn push(&self, _: &ChannelName, _: Arc<Prepared>) {}

        fn presence_gap(&self, _: &ChannelName) {}

        fn joined(&self, channel: ChannelName, join: u64, outcome: Result<Option<StreamPosition>, SubscribeError>) {
            let word = if outcome.is_ok() { "is" } else { "is not" };
            self.0.try_send(format!("{channel} {word} joined by {join}")).unwrap();
        }

        fn answer(&self, _: Receipt, _: Answer) {}

        fn backplane(&self, _: BackplaneState) {}
    }

    #[tokio::test]
    async fn a_channel_without_an_answer_keeps_no_other_waiting_and_each_its_order() {
        let backplane = Arc::new(Partly { asked: Mutex::default(), away: Semaphore::new(0) });
        let (told, mut answers) = mpsc::channel(64);
        let mailboxes: Arc<[Arc<dyn Mailbox>]> = Arc::new([Arc::new(Joined(told.clone())), Arc::new(Joined(told))]);
        let (routes, _signals) = Routes::new(mailboxes.clone());
        let (orders, queue) = mpsc::channel(64);
        tokio::spawn(keep(backplane.clone(), Arc::new(routes), queue, Answers::new(mailboxes)));
        let channel = |name: &str| ChannelName::parse(name).unwrap();
        let join = |name: &str, shard, join| {
            let interest = Interest { channel: channel(name), history: None, presence: false };
            orders.try_send(Order::Join { shard, interest, join }).unwrap();
        };
        join("away", 0, 1);
        join("away", 1, 2);
        orders.try_send(Order::Leave { shard: 0, channel: channel("away") }).unwrap();
        join("away", 0, 3);
        join("here", 0, 4);
        let mut next =
            async || tokio::time::timeout(std::time::Duration::from_secs(10), answers.recv()).await.unwrap().unwrap();
        assert_eq!(next().await, "here is joined by 4");
        for expected in [1, 2, 3] {
            backplane.away.add_permits(1);
            assert_eq!(next().await, format!("away is not joined by {expected}"));
        }
        let asked = backplane.asked.lock().clone();
        let away: Vec<_> = asked.iter().filter(|line| line.ends_with("away")).map(|line| &line[..4]).collect();
        assert_eq!(away.join(" "), "join leav join leav leav join leav");
    }
}
