//! What nodes ask and tell each other: orders of back ends for clients on whatever node, and surveys.
//!
//! An order is a signal to every node; each carries it out for the connections that it has. A survey is a question to
//! every node, and whoever asks waits for the answers, for a while. One task empties the queue of signals and never
//! waits: shards are told through their mailboxes, answers are gathered in tasks of their own.

mod announce;
mod answer;
mod comings;
mod revoke;
mod strangers;
mod survey;

use std::{rc::Rc, sync::Arc, time::Duration};

use prost::Message as _;
use skywave_backplane::{Cluster as _, NodeRecord, Target};
use skywave_proto::{
    ChannelName, CloseCode, ErrorCode,
    v1::{self, signal},
};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub use self::{announce::announce, answer::sum, comings::tell, survey::Surveyed};
use self::{
    answer::ANSWERING,
    strangers::Strangers,
    survey::{Surveys, Tally},
};
use crate::{
    clock::now_ms,
    leaving::Leaving,
    relay::{Relay, Signal},
    session::{Ground, Refusal, Who},
    shard::{Description, Owner},
};

/// How long nodes may take to answer a survey, if whoever asks does not say.
pub const SURVEY_WITHIN: Duration = Duration::from_secs(1);
/// The longest that whoever asks may say.
pub const SURVEY_AT_MOST: Duration = Duration::from_secs(5);

/// A connection that was opened so much later than an order, by the clocks of two nodes, is not meant by it: an order may
/// come up to a minute late. Clocks may differ by as much.
const LATER_MS: u64 = 2000;

/// Nodes that are named to whoever looks for another one.
const NAMED_NODES: usize = 20;

/// See the module.
pub struct Control {
    ground: Arc<Ground>,
    relay: Relay,
    leaving: Arc<Leaving>,
    surveys: Surveys,
    strangers: Strangers,
    answering: Arc<Semaphore>,
    /// One permit: who answers a question for channels looks at all of them, on every shard's thread.
    walking: Semaphore,
    /// Tokens were revoked since all connections were last looked at.
    fresh_revocations: Notify,
    /// Asked to leave.
    leave: CancellationToken,
}

impl Control {
    /// Orders and asks through this relay, and carries out what comes for this ground.
    pub fn new(ground: Arc<Ground>, relay: Relay, leaving: Arc<Leaving>) -> Arc<Self> {
        let (surveys, strangers) = (Surveys::default(), Strangers::default());
        let answering = Arc::new(Semaphore::new(ANSWERING));
        let leave = CancellationToken::new();
        let (walking, fresh_revocations) = (Semaphore::new(1), Notify::new());
        Arc::new(Self { ground, relay, leaving, surveys, strangers, answering, walking, fresh_revocations, leave })
    }

    /// Cancelled once a back end has ordered this node to leave.
    pub fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// Empties the queue of signals until the node is gone.
    pub async fn run(self: Arc<Self>, mut queue: mpsc::Receiver<Signal>, gone: CancellationToken) {
        loop {
            tokio::select! {
                signal = queue.recv() => match signal {
                    Some((from, message)) => self.receive(from, &message),
                    None => return,
                },
                () = gone.cancelled() => return,
            }
        }
    }

    /// The nodes that are alive, by name.
    ///
    /// # Errors
    /// `unavailable` while the backplane is away.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, Refusal> {
        Ok(self.relay.backplane().nodes().await?)
    }

    /// Closes connections on all nodes with 4503. Returns how many nodes were told.
    ///
    /// # Errors
    /// `unavailable` while the backplane is away: perhaps nobody was told.
    pub async fn disconnect(&self, who: &Who) -> Result<usize, Refusal> {
        self.tell_all(signal::Op::Disconnect(signal::Disconnect { who: Some(who.into()), issued_at_ms: now_ms() }))
            .await
    }

    /// Subscribes connections on all nodes to a channel, whatever their own rights. Returns how many nodes were told.
    ///
    /// # Errors
    /// As [`Control::disconnect`].
    pub async fn subscribe(&self, who: &Who, channel: &ChannelName) -> Result<usize, Refusal> {
        let channel = channel.as_str().to_owned();
        self.tell_all(signal::Op::Subscribe(signal::Subscribe {
            who: Some(who.into()),
            channel,
            issued_at_ms: now_ms(),
        }))
        .await
    }

    /// Orders a node to leave.
    ///
    /// # Errors
    /// `not_found` if no node of this name is alive, `unavailable` while the backplane is away.
    pub async fn drain(&self, name: &str) -> Result<(), Refusal> {
        let nodes = self.nodes().await?;
        self.tell_node(&nodes, name, &signal::Op::Drain(signal::Drain {})).await
    }

    /// Orders a node to send connections to the others, as many as it has more than the mean of all, and to stay.
    ///
    /// # Errors
    /// As [`Control::drain`].
    pub async fn shed(&self, name: &str) -> Result<(), Refusal> {
        let nodes = self.nodes().await?;
        let keep = mean(nodes.iter().map(|node| node.info.connections));
        // Not a kind of Drain: a node of an earlier version would overlook what it says, and leave.
        self.tell_node(&nodes, name, &signal::Op::Shed(signal::Shed { keep })).await
    }

    async fn tell_node(&self, nodes: &[NodeRecord], name: &str, order: &signal::Op) -> Result<(), Refusal> {
        let named: Vec<_> = nodes.iter().filter(|node| &*node.info.name == name).collect();
        if named.is_empty() {
            let known: Vec<_> = nodes.iter().take(NAMED_NODES).map(|node| &*node.info.name).collect();
            let message = format!("no node {name:?} is alive; there are {}", known.join(", "));
            return Err(Refusal::new(ErrorCode::NotFound, message));
        }
        // After a crash two runs of one name may be listed for a while: the order is for both.
        for node in named {
            self.relay.signal_and_wait(Target::Node(node.incarnation.clone()), order.clone()).await?;
        }
        Ok(())
    }

    /// Ends subscriptions to a channel on all nodes. Returns how many nodes were told.
    ///
    /// # Errors
    /// As [`Control::disconnect`].
    pub async fn unsubscribe(&self, who: &Who, channel: &ChannelName) -> Result<usize, Refusal> {
        let channel = channel.as_str().to_owned();
        self.tell_all(signal::Op::Unsubscribe(signal::Unsubscribe {
            who: Some(who.into()),
            channel,
            issued_at_ms: now_ms(),
        }))
        .await
    }

    /// Makes all nodes look at a user's rights again. Returns how many nodes were told.
    ///
    /// # Errors
    /// As [`Control::disconnect`].
    pub async fn refresh(&self, user: &str) -> Result<usize, Refusal> {
        self.tell_all(signal::Op::Refresh(signal::Refresh { user: user.to_owned() })).await
    }

    async fn tell_all(&self, op: signal::Op) -> Result<usize, Refusal> {
        let nodes = self.nodes().await?.len();
        self.relay.signal_and_wait(Target::All, op).await?;
        Ok(nodes)
    }

    /// Asks every node, and waits until all have answered, or `within` is over.
    ///
    /// # Errors
    /// `unavailable` while the backplane is away, `limit` while too many surveys are open.
    pub async fn survey(
        &self,
        question: signal::question::Question,
        within: Duration,
    ) -> Result<Surveyed<signal::answer::Answer>, Refusal> {
        let mut tally = Tally::of(&self.nodes().await?);
        let mut survey = self.surveys.open(tally.awaited()).ok_or_else(|| {
            let message = "this node has too many surveys open, try again";
            Refusal { after_ms: 1000, ..Refusal::new(ErrorCode::Limit, message) }
        })?;
        let deadline = tokio::time::Instant::now() + within;
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let question = signal::Question { id: survey.id, within_ms, question: Some(question) };
        self.relay.signal_and_wait(Target::All, signal::Op::Question(question)).await?;
        let mut answers = Vec::new();
        while !tally.is_complete() {
            let Ok(Some((from, node, answer))) = tokio::time::timeout_at(deadline, survey.answers.recv()).await else {
                break;
            };
            if let Some(node) = tally.count(&from, &node) {
                answers.push((node, answer));
            }
        }
        Ok(Surveyed { answers, silent: tally.silent() })
    }

    fn receive(self: &Arc<Self>, from: Arc<str>, message: &[u8]) {
        let op = match v1::Signal::decode(message) {
            Ok(signal) => signal.op,
            Err(error) => {
                tracing::debug!(from = &*from, %error, "a signal cannot be read");
                return self.not_understood(from);
            }
        };
        let understood = match op {
            Some(signal::Op::Disconnect(order)) => self.for_each(order.who, order.issued_at_ms, |owner| {
                owner.leave(CloseCode::DisconnectedByApi.into());
            }),
            Some(signal::Op::Subscribe(order)) => ChannelName::parse(&order.channel).ok().and_then(|channel| {
                self.for_each(order.who, order.issued_at_ms, move |owner| owner.subscribe(&channel))
            }),
            Some(signal::Op::Drain(signal::Drain {})) => {
                tracing::info!(from = &*from, "a back end has ordered this node to leave");
                self.leave.cancel();
                Some(())
            }
            Some(signal::Op::Shed(order)) => {
                tracing::info!(
                    from = &*from,
                    keep = order.keep,
                    "a back end has ordered this node to send connections away"
                );
                let keep = usize::try_from(order.keep).unwrap_or(usize::MAX);
                self.leaving.shed(self.ground.settings().drain.clone(), keep);
                Some(())
            }
            Some(signal::Op::Unsubscribe(order)) => ChannelName::parse(&order.channel).ok().and_then(|channel| {
                self.for_each(order.who, order.issued_at_ms, move |owner| owner.unsubscribe(&channel, "api"))
            }),
            Some(signal::Op::Refresh(order)) => {
                self.for_each(Some((&Who::User(order.user.into())).into()), 0, |owner| owner.refresh())
            }
            Some(signal::Op::Replaced(newer)) => {
                if let Some(older) = self.ground.clients.older_than(&newer.client, newer.serial) {
                    self.ground.replace(older);
                }
                Some(())
            }
            Some(signal::Op::Revoked(said)) => self.revoked(said),
            Some(signal::Op::Question(question)) => self.answer(from.clone(), question),
            Some(signal::Op::Answer(answer)) => {
                answer.answer.map(|said| self.surveys.answered(answer.id, (from.clone(), answer.node.into(), said)))
            }
            None => None,
        };
        if understood.is_none() {
            self.not_understood(from);
        }
    }

    /// Does something to each connection that is meant, on its shard: one that was there when the order was issued; 0:
    /// whenever. `None` if it is not understood which are.
    fn for_each(
        &self,
        who: Option<signal::Who>,
        issued_at_ms: u64,
        act: impl Fn(&dyn Owner) + Clone + Send + 'static,
    ) -> Option<()> {
        let is_meant = move |owner: &Rc<dyn Owner>| {
            let came_later =
                |connection: Description| connection.connected_at_ms > issued_at_ms.saturating_add(LATER_MS);
            issued_at_ms == 0 || !owner.describe().is_some_and(came_later)
        };
        for (shard, keys) in self.by_shard(&meant(who)?) {
            let act = act.clone();
            self.ground.shards[shard].run(move |shard| {
                let owners: Vec<_> = keys.into_iter().filter_map(|key| shard.owner(key)).collect();
                let (meant, younger): (Vec<_>, Vec<_>) = owners.into_iter().partition(is_meant);
                if !younger.is_empty() {
                    let count = younger.len();
                    tracing::info!(
                        count,
                        "connections that were opened after an order are left alone; do the clocks agree?"
                    );
                }
                meant.iter().for_each(|owner| act(&**owner));
            });
        }
        Some(())
    }

    /// The connections that are meant, by their shard.
    fn by_shard(&self, who: &Who) -> Vec<(usize, Vec<u64>)> {
        let mut by_shard: Vec<_> = (0..self.ground.shards.len()).map(|shard| (shard, Vec::new())).collect();
        for (shard, key) in self.ground.clients.seats(who) {
            by_shard[shard].1.push(key);
        }
        by_shard.retain(|(_, keys)| !keys.is_empty());
        by_shard
    }
}

impl From<&Who> for signal::Who {
    fn from(who: &Who) -> Self {
        let who = match who {
            Who::User(user) => signal::who::Who::User(user.to_string()),
            Who::Client(client) => signal::who::Who::Client(client.to_string()),
        };
        Self { who: Some(who) }
    }
}

fn meant(who: Option<signal::Who>) -> Option<Who> {
    Some(match who?.who? {
        signal::who::Who::User(user) => Who::User(user.into()),
        signal::who::Who::Client(client) => Who::Client(client.into()),
    })
}

/// Rounded up: what is left over has to be somewhere.
fn mean(counts: impl ExactSizeIterator<Item = u64>) -> u64 {
    let nodes = counts.len().max(1) as u64;
    counts.sum::<u64>().div_ceil(nodes)
}

#[cfg(test)]
mod tests {
    use skywave_backplane::{Any, Memory, SubscribeError};
    use skywave_proto::StreamPosition;
    use tokio::sync::mpsc::{Receiver, Sender};

    use super::*;
    use crate::{
        config::{Flags, Settings},
        push::{Encoded, Format, Goodbye, Push},
        relay::{Answer, Answers, Mailbox, Routes},
        shard::{Backlog, Link, ShardHandle},
    };

    /// A connection that only tells what is asked of it.
    struct Told {
        link: Rc<Link>,
        user: Arc<str>,
        what: Sender<String>,
    }

    impl Told {
        fn tell(&self, what: &str) {
            self.what.try_send(format!("{} {what}", self.user)).unwrap();
        }
    }

    impl Owner for Told {
        fn link(&self) -> &Rc<Link> {
            &self.link
        }

        fn attached(&self, _: &ChannelName, _: Result<Option<StreamPosition>, SubscribeError>) {}

        fn answer(&self, _: u64, _: Answer) {}

        fn beat(&self) -> Duration {
            Duration::MAX
        }

        fn expire(&self) -> Option<Duration> {
            None
        }

        fn leave(&self, goodbye: Goodbye) {
            self.tell(&format!("leaves with {}", goodbye.code.code()));
        }

        fn subscribe(&self, channel: &ChannelName) {
            self.tell(&format!("gets {channel}"));
        }

        fn unsubscribe(&self, channel: &ChannelName, reason: &'static str) {
            self.tell(&format!("loses {channel} ({reason})"));
        }

        fn refresh(&self) {
            self.tell("is looked at");
        }

        fn check_revoked(&self) {
            self.tell("is checked");
        }

        fn flush(&self) {}

        fn drain(&self) {}

        fn offer(&self, _: &[&crate::push::Frame]) -> (usize, bool) {
            (0, true)
        }

        fn fall_behind(&self, _: &ChannelName, _: StreamPosition) {}

        fn describe(&self) -> Option<Description> {
            let (client, channels) = (self.link.key().to_string().into(), Vec::new());
            Some(Description {
                client,
                user: Some(self.user.clone()),
                protocol: "none",
                connected_at_ms: OPENED_AT_MS,
                channels,
            })
        }
    }

    /// When all of them were opened.
    const OPENED_AT_MS: u64 = 1_000_000;

    struct Mute;

    impl Format for Mute {
        fn slot(&self) -> usize {
            0
        }

        fn encode(&self, _: &Push) -> Encoded {
            Encoded::Nothing
        }
    }

    /// A node without sockets: two shards, and on each of them a connection of ada and one of bob.
    async fn node() -> (Arc<Control>, Receiver<String>, CancellationToken) {
        let flags = Flags { dev: true, name: Some("paris".into()), ..Flags::default() };
        let settings = Arc::new(Settings::load(&flags, [("SKYWAVE__NODE__SHARDS", "2")]).unwrap());
        let (shards, seats): (Vec<_>, Vec<_>) = (0..2).map(ShardHandle::new).unzip();
        let mailboxes: Arc<[Arc<dyn Mailbox>]> =
            shards.iter().map(|shard| Arc::new(shard.clone()) as Arc<dyn Mailbox>).collect();
        let (routes, signals) = Routes::new(mailboxes.clone());
        let routes = Arc::new(routes);
        let memory = Any::Memory(Memory::new(routes.clone()));
        let relay = Relay::start(memory, routes, Answers::new(mailboxes));
        seats.into_iter().for_each(|seat| drop(seat.spawn(relay.clone(), Backlog::new(2, None)).unwrap()));
        let ground = Arc::new(Ground::new(settings, "paris".into(), shards.clone()));
        let gone = CancellationToken::new();
        let (what, told) = mpsc::channel(64);
        for shard in &shards {
            let (ready, adopted) = tokio::sync::oneshot::channel();
            let (ground, what) = (ground.clone(), what.clone());
            shard.run(move |shard| {
                for user in ["ada", "bob"] {
                    let (link, user) = (shard.link(&Mute, 1000), Arc::from(user));
                    let seat = (shard.index(), link.key());
                    ground.clients.claim(&link.key().to_string().into(), Some(&user), seat, 1);
                    shard.adopt(Rc::new(Told { link, user, what: what.clone() }));
                }
                ready.send(()).unwrap();
            });
            adopted.await.unwrap();
        }
        let control = Control::new(ground, relay.clone(), Arc::new(Leaving::new(shards)));
        relay.backplane().announce(skywave_backplane::NodeInfo { name: "paris".into(), ..Default::default() });
        tokio::spawn(control.clone().run(signals, gone.clone()));
        tokio::spawn(control.clone().enforce_revocations(gone.clone()));
        (control, told, gone)
    }

    #[tokio::test]
    async fn an_order_reaches_every_connection_of_its_user_and_nobody_else() {
        let (control, mut told, _gone) = node().await;
        let ada = Who::User("ada".into());
        let channel = ChannelName::parse("a").unwrap();
        assert_eq!(control.subscribe(&ada, &channel).await, Ok(1));
        assert_eq!(control.unsubscribe(&ada, &channel).await, Ok(1));
        assert_eq!(control.refresh("bob").await, Ok(1));
        assert_eq!(control.refresh("nobody").await, Ok(1));
        assert_eq!(control.disconnect(&ada).await, Ok(1));
        let mut heard = Vec::new();
        for _ in 0..8 {
            heard.push(tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap());
        }
        heard.sort();
        let each = ["ada gets a", "ada leaves with 4503", "ada loses a (api)", "bob is looked at"];
        assert_eq!(heard, each.iter().flat_map(|line| [*line; 2]).collect::<Vec<_>>());
        assert!(told.try_recv().is_err(), "nobody else is told anything");
    }

    #[tokio::test]
    async fn a_node_is_ordered_to_leave_by_its_name() {
        let (control, _told, _gone) = node().await;
        let refused = control.drain("oslo").await.unwrap_err();
        assert_eq!((refused.code, refused.message.contains("paris")), (ErrorCode::NotFound, true));
        assert!(!control.leave().is_cancelled());
        assert_eq!(control.drain("paris").await, Ok(()));
        tokio::time::timeout(Duration::from_secs(10), control.leave().cancelled()).await.unwrap();
    }

    #[tokio::test]
    async fn an_order_that_comes_late_leaves_alone_who_came_after_it() {
        let (control, mut told, _gone) = node().await;
        let order = |user: &str, issued_at_ms| {
            let who = Some((&Who::User(user.into())).into());
            let op = signal::Op::Disconnect(signal::Disconnect { who, issued_at_ms });
            control.receive("elsewhere".into(), &v1::Signal { op: Some(op) }.encode_to_vec());
        };
        order("ada", OPENED_AT_MS - LATER_MS - 1); // they came later
        order("bob", OPENED_AT_MS - LATER_MS); // or perhaps not: clocks differ
        let mut both_leave = async |user: &str| {
            for _ in 0..2 {
                let line = tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap();
                assert_eq!(line, format!("{user} leaves with 4503"));
            }
        };
        both_leave("bob").await;
        order("ada", 0); // a node that does not say when
        both_leave("ada").await;
    }

    #[tokio::test]
    async fn however_many_tokens_are_revoked_connections_are_looked_at_one_round_at_a_time() {
        let (control, mut told, _gone) = node().await;
        let revoke = |id: String| {
            let subject = Some(signal::revoked::Subject::Jti(id));
            let op = signal::Op::Revoked(signal::Revoked { subject, issued_before_ms: 0, until_ms: u64::MAX >> 12 });
            control.receive("elsewhere".into(), &v1::Signal { op: Some(op) }.encode_to_vec());
        };
        // The shards are busy, so that no round ends.
        let keep_busy = |shard: &ShardHandle| {
            let (free, until) = std::sync::mpsc::channel::<()>();
            shard.run(move |_| assert!(until.recv().is_err(), "nobody sends"));
            free
        };
        let busy: Vec<_> = control.ground.shards.iter().map(keep_busy).collect();
        for number in 0..1000 {
            revoke(number.to_string());
            tokio::task::yield_now().await;
        }
        drop(busy);
        let mut round = async || {
            let mut heard = Vec::new();
            for _ in 0..4 {
                heard.push(tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap());
            }
            heard.sort();
            assert_eq!(heard, ["ada is checked", "ada is checked", "bob is checked", "bob is checked"]);
        };
        round().await;
        round().await; // those that were revoked after the first had begun
        revoke("one more".into());
        round().await;
        assert!(told.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_survey_finds_a_users_connections_on_all_shards_and_names_the_silent() {
        let (control, _told, _gone) = node().await;
        let question = signal::question::Question::Connections((&Who::User("ada".into())).into());
        let surveyed = control.survey(question.clone(), Duration::from_secs(10)).await.unwrap();
        let [(node, signal::answer::Answer::Connections(answer))] = &surveyed.answers[..] else {
            panic!("{surveyed:?}")
        };
        assert_eq!((&**node, answer.connections.len(), answer.more), ("paris", 2, false));
        assert!(answer.connections.iter().all(|connection| connection.user.as_deref() == Some("ada")));
        assert_eq!(surveyed.silent, [""; 0]);

        // Channels are counted for one question at a time.
        let channels = signal::ChannelsQuestion { limit: 10, ..signal::ChannelsQuestion::default() };
        let channels = signal::question::Question::Channels(channels);
        let walking = control.walking.acquire().await.unwrap();
        let surveyed = control.survey(channels.clone(), Duration::from_millis(50)).await.unwrap();
        assert_eq!(surveyed.silent, ["paris"], "it waits, and its asker does not");
        drop(walking);
        assert_eq!(control.survey(channels, Duration::from_secs(10)).await.unwrap().silent, [""; 0]);

        // A node that has lost a shard cannot answer for all of it, so it does not answer.
        control.ground.shards[0].stop();
        let surveyed = control.survey(question, Duration::from_millis(50)).await.unwrap();
        assert!(surveyed.answers.is_empty(), "{surveyed:?}");
        assert_eq!(surveyed.silent, ["paris"]);
    }
}
