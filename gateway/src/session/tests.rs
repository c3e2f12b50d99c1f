//! One session by hand: the tasks of its relay never turn, so each test plays the backplane.

use skywave_backplane::{Any, HistoryError, HistoryPage, Memory};
use skywave_proto::Publication;

use super::*;
use crate::{
    config::Flags,
    protocol::Json,
    relay::{Answers, Relay, Routes},
    shard::{Backlog, ShardHandle},
};

struct Bench {
    session: Session,
    shard: Rc<Shard>,
    link: Rc<Link>,
}

impl Bench {
    /// A session of a client that is let in without a token.
    fn new() -> Self {
        let flags = Flags { dev: true, name: Some("paris".into()), ..Flags::default() };
        let settings = Arc::new(Settings::load(&flags, [("SKYWAVE__NODE__SHARDS", "1")]).unwrap());
        let (handle, _seat) = ShardHandle::new(0);
        let (routes, _signals) = Routes::new(Arc::new([]));
        let routes = Arc::new(routes);
        let memory = Any::Memory(Memory::new(routes.clone()));
        let relay = Relay::start(memory, routes, Answers::new(Arc::new([])));
        let (seal, clients) = (OnceLock::new(), Clients::default());
        let ground = Arc::new(Ground { settings, node: "paris".into(), seal, clients, shards: vec![handle.clone()] });
        let shard = Shard::new(handle, relay, Backlog::new(1, None));
        let link = shard.link(&Json, 1 << 20);
        let session = Session::new(ground, shard.clone(), link.clone(), &Json);
        Self { session, shard, link }
    }

    /// Subscribes to a channel that stands at `live`, and has seen everything up to `since`.
    fn subscribe(&self, channel: &ChannelName, since: StreamPosition, live: StreamPosition) {
        let since = Some(Since::Position(since));
        let subscribe = Subscribe { channel: channel.clone(), since, presence: false, echo: true };
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
    let bench = Bench::new();
    let publish = || Command::Publish { channel: channel("a"), payload: Payload::json("1".into()), key: None };
    let start = StreamPosition::start(Epoch::random());
    bench.subscribe(&channel("a"), start, start);
    while bench.link.pop().is_some() {}
    let refusal = (1..100_000).find_map(|id| {
        bench.session.handle(Envelope { id: Some(id), command: Ok(publish()) });
        bench.link.pop()
    });
    let refusal: serde_json::Value = serde_json::from_slice(refusal.expect("a queue has a bound").payload()).unwrap();
    assert_eq!((&refusal["error"]["code"], &refusal["error"]["after_ms"]), (&"limit".into(), &1000.into()));
    assert_eq!(Refusal::from(PublishError::Overloaded).code.http_status(), 429);
}
