//! One session by hand: the tasks of its relay never turn, so each test plays the backplane.

use parking_lot::Mutex;
use skywave_backplane::{
    Any, BackplaneState, HistoryError, HistoryPage, Memory, NewPublication, PublishError, Redis, RedisOptions, Sink,
    SubscribeError,
};
use skywave_proto::Publication;

use super::*;
use crate::{
    config::Flags,
    protocol::Json,
    push::Prepared,
    relay::{Answers, Mailbox, Relay, Routes},
    shard::{Backlog, ShardHandle},
};

struct Bench {
    session: Session,
    shard: Rc<Shard>,
    link: Rc<Link>,
    answers: Arc<Kept>,
}

/// The answers that a shard would find in its mailbox.
#[derive(Default)]
struct Kept(Mutex<Vec<(u64, Answer)>>);

impl Mailbox for Kept {
    fn push(&self, _: &ChannelName, _: Arc<Prepared>) {}

    fn presence_gap(&self, _: &ChannelName) {}

    fn joined(&self, _: ChannelName, _: u64, _: Result<Option<StreamPosition>, SubscribeError>) {}

    fn answer(&self, receipt: Receipt, answer: Answer) {
        self.0.lock().push((receipt.ticket, answer));
    }

    fn backplane(&self, _: BackplaneState) {}
}

/// A Redis that is not there.
fn away(sink: Arc<dyn Sink>) -> Any {
    Any::Redis(Redis::new(RedisOptions::parse("redis://127.0.0.1:1", "skywave", None, None, "paris").unwrap(), sink))
}

impl Bench {
    /// A session of a client that is let in without a token, over the embedded backplane.
    fn new() -> Self {
        Self::over(|sink| Any::Memory(Memory::new(sink)))
    }

    fn over(backplane: impl FnOnce(Arc<dyn Sink>) -> Any) -> Self {
        let flags = Flags { dev: true, name: Some("paris".into()), ..Flags::default() };
        let settings = Arc::new(Settings::load(&flags, [("SKYWAVE__NODE__SHARDS", "1")]).unwrap());
        let (handle, _seat) = ShardHandle::new(0);
        let answers = Arc::new(Kept::default());
        let mailboxes: Arc<[Arc<dyn Mailbox>]> = Arc::new([answers.clone()]);
        let (routes, _signals) = Routes::new(mailboxes.clone());
        let routes = Arc::new(routes);
        let relay = Relay::start(backplane(routes.clone()), routes, Answers::new(mailboxes));
        let ground = Arc::new(Ground::new(settings, "paris".into(), vec![handle.clone()]));
        let shard = Shard::new(handle, relay, Backlog::new(1, None));
        let link = shard.link(&Json, 1 << 20);
        let session = Session::new(ground, shard.clone(), link.clone(), &Json);
        Self { session, shard, link, answers }
    }

    /// Publishes without a key.
    fn publish(&self, id: Option<u64>, name: &str) {
        let command = Command::Publish { channel: channel(name), payload: Payload::json("1".into()), key: None };
        self.session.handle(Envelope { id, command: Ok(command) });
    }

    /// Subscribes, and reads all that is said to it.
    fn settled(self, name: &str) -> Self {
        let start = StreamPosition::start(Epoch::random());
        self.subscribe(&channel(name), start, start);
        while self.link.pop().is_some() {}
        self
    }

    /// The next reply.
    fn reply(&self) -> Option<serde_json::Value> {
        self.link.pop().map(|frame| serde_json::from_slice(frame.payload()).unwrap())
    }

    /// Subscribes to a channel that stands at `live`, and has seen everything up to `since`.
    fn subscribe(&self, channel: &ChannelName, since: StreamPosition, live: StreamPosition) {
        let since = Some(Since::Position(since));
        let subscribe = Subscribe { channel: channel.clone(), since, presence: false, echo: true, token: None };
        self.session.handle(Envelope { id: Some(1), command: Ok(Command::Subscribe(subscribe)) });
        self.session.attached(channel, Ok(Some(live)));
    }

    /// Answers what was asked last.
    fn answer(&self, channel: &ChannelName, page: Result<HistoryPage, HistoryError>) {
        let ticket = self.session.state.borrow().tickets;
        self.session.answer(ticket, Answer::History(channel.clone(), page));
    }

    /// The subscription whose history is being read: the first that was made is 1.
    fn read(&self) -> Option<u64> {
        let state = self.session.state.borrow();
        state.asked.values().find_map(|asked| if let Asked::Missed(number) = asked { Some(*number) } else { None })
    }
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn publication(at: StreamPosition) -> Publication {
    Publication { position: Some(at), payload: Payload::json("1".into()), client: None, user: None, published_at_ms: 0 }
}

#[tokio::test]
async fn who_catches_up_asks_once_a_tick_while_the_backplane_is_away() {
    let bench = Bench::new();
    let epoch = Epoch::random();
    let at = |offset| StreamPosition { epoch, offset };
    let page = |offset, more| HistoryPage {
        top: Some(at(9)),
        publications: vec![publication(at(offset))],
        complete: true,
        more,
    };
    let names = [channel("a"), channel("b")];
    for name in &names {
        bench.subscribe(name, at(1), at(9));
        bench.answer(name, Ok(page(2, true)));
    }
    let read = || bench.read().and_then(|number| names.get(usize::try_from(number).unwrap() - 1));
    let mut failed = Vec::new();
    for _ in 0..2 {
        bench.session.drained();
        let name = read().expect("the socket has drained");
        bench.answer(name, Err(HistoryError::Unavailable(None)));
        failed.push(name.as_str());
    }
    failed.sort_unstable();
    assert_eq!(failed, ["a", "b"], "one that fails lets the other go first");
    for _ in 0..3 {
        bench.session.drained();
        assert_eq!(read(), None, "both have failed, and nothing has changed since");
    }

    bench.shard.tick();
    bench.session.drained();
    bench.answer(read().expect("the shard has come round"), Ok(page(3, true)));
    bench.session.drained();
    assert!(read().is_some(), "what goes on does not rest");
    assert!(!bench.link.is_closing());
}

#[tokio::test]
async fn a_publication_for_which_there_is_no_room_is_over_a_limit() {
    let bench = Bench::over(away).settled("a");
    let refusal = (1..100_000).find_map(|id| {
        bench.publish(Some(id), "a");
        bench.reply()
    });
    let refusal = refusal.expect("a queue has a bound");
    assert_eq!((&refusal["error"]["code"], &refusal["error"]["after_ms"]), (&"limit".into(), &1000.into()));
    assert_eq!(Refusal::from(PublishError::Overloaded).code.http_status(), 429);
}

#[tokio::test]
async fn the_embedded_backplane_answers_a_publication_at_once() {
    let bench = Bench::new().settled("a");
    for (id, offset) in [(7, 1), (8, 2)] {
        bench.publish(Some(id), "a");
        let reply = bench.reply().expect("nothing has to turn first");
        assert_eq!((&reply["id"], &reply["published"]["position"]["offset"]), (&id.into(), &offset.into()));
    }
    bench.publish(None, "a");
    assert!(bench.reply().is_none(), "without an id there is no reply");
    let Ok(outcome) = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        let publication = NewPublication {
            channel: channel("a"),
            payload: Payload::json("1".into()),
            client: None,
            user: None,
            published_at_ms: 0,
            key: None,
            history: bench.session.ground.settings().namespace("default").unwrap().history,
            durability: skywave_backplane::Durability::Accepted,
        };
        bench.shard.relay().publish_and_wait(publication).await
    })
    .await
    else {
        panic!("a back end waits for nothing either")
    };
    assert_eq!(outcome.unwrap().position.unwrap().offset, 4, "and comes behind all of them");
    assert!(bench.answers.0.lock().is_empty(), "nobody needed the mailbox");
}

#[tokio::test]
async fn who_publishes_is_not_read_from_until_the_shard_comes_round() {
    let bench = Bench::new().settled("a");
    let (mut published, before) = (0, bench.session.in_flight.get());
    while bench.session.takes_commands() {
        bench.publish(None, "a");
        published += 1;
    }
    assert_eq!(published, IN_FLIGHT, "as many as may be in flight to a backplane that is far away");
    let turns = std::mem::take(&mut *bench.answers.0.lock());
    assert_eq!(turns.len(), IN_FLIGHT / TURN);
    for (ticket, answer) in turns {
        bench.session.answer(ticket, answer);
        assert!(bench.session.takes_commands());
    }
    assert_eq!(bench.session.in_flight.get(), before);
    assert!(bench.reply().is_none(), "a turn of the shard is nothing to the client");
}

#[tokio::test]
async fn what_waits_for_a_subscription_goes_on_when_there_will_be_none() {
    struct Woken(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    for ends in [
        (|bench, name| bench.session.attached(name, Err(SubscribeError::Unavailable))) as fn(&Bench, &ChannelName),
        |bench, name| bench.session.end_subscription(name, "api"),
    ] {
        let bench = Bench::new();
        bench.session.welcome();
        let name = channel("a");
        let subscribe = Subscribe { channel: name.clone(), since: None, presence: false, echo: true, token: None };
        bench.session.handle(Envelope { id: Some(1), command: Ok(Command::Subscribe(subscribe)) });
        let publish = Command::Publish { channel: name.clone(), payload: Payload::json("1".into()), key: None };
        let publish = Envelope { id: Some(2), command: Ok(publish) };
        assert!(bench.session.must_wait(&publish));
        let woken = Arc::new(Woken(0.into()));
        bench.link.register(&std::task::Context::from_waker(&woken.clone().into()));
        bench.link.defer(); // the shard writes what it is told, without its task
        ends(&bench, &name);
        assert!(!bench.session.must_wait(&publish));
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed) > 0, "nobody else would");
    }
}
