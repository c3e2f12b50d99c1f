//! Sessions whose requests reach another node than their own: real nodes, real sockets, and a host that plays sessions.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use skywave_backplane::{BackplaneState, Cluster as _, Gap, Ownership as _, PresenceEvent, Redis, RedisOptions, Sink};
use skywave_gateway::peers::{Broken, Host, Owner, Peer, PeerError, SendRefused, SessionId, Unknown, Want};
use skywave_proto::{ChannelName, Publication};
use support::{DEADLINE, Running, ready, redis::RedisServer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const ALL: Want = Want { frames: None, bytes: u32::MAX };
const SECRET: &str = "an ordinary secret of 32 bytes or more";

/// Plays sessions: whoever receives gets numbers, 1 KiB each, up to an end; what is sent is remembered.
#[derive(Default)]
struct Played {
    ends: Mutex<HashMap<SessionId, u32>>,
    sent: Mutex<Vec<String>>,
    lost: Mutex<Vec<SessionId>>,
    /// Frames that somebody has taken.
    taken: AtomicUsize,
    detached: AtomicUsize,
}

fn number(frame: &Bytes) -> u32 {
    assert_eq!(frame.len(), 1024);
    std::str::from_utf8(frame).unwrap().trim().parse().unwrap()
}

struct PlayedBy(Arc<Played>);

#[tonic::async_trait]
impl Host for PlayedBy {
    async fn receive(&self, session: SessionId, want: Want) -> Result<mpsc::Receiver<Bytes>, Unknown> {
        let end = *self.0.ends.lock().get(&session).ok_or(Unknown)?;
        let end = end.min(want.frames.map_or(u32::MAX, NonZeroU32::get));
        let (sender, frames) = mpsc::channel(1);
        let played = self.0.clone();
        tokio::spawn(async move {
            for number in 1..=end {
                if sender.send(Bytes::from(format!("{number:1024}"))).await.is_err() {
                    played.detached.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                played.taken.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(frames)
    }

    async fn send(&self, session: SessionId, messages: Vec<Bytes>) -> Result<(), SendRefused> {
        if !self.0.ends.lock().contains_key(&session) {
            return Err(SendRefused::Unknown);
        }
        if messages.len() > 100 {
            return Err(SendRefused::Full);
        }
        self.0.sent.lock().extend(messages.iter().map(|message| String::from_utf8(message.to_vec()).unwrap()));
        Ok(())
    }

    fn lost(&self, session: SessionId) {
        self.0.lost.lock().push(session);
    }
}

/// A node that plays sessions.
async fn node(redis: &RedisServer, more: &[(&str, &str)]) -> (Running, Arc<Played>) {
    let url = redis.url();
    let mut settings = vec![("SKYWAVE__BACKPLANE__URL", url.as_str())];
    settings.extend_from_slice(more);
    if !more.iter().any(|(name, _)| *name == "SKYWAVE__NODE__SECRET") {
        settings.push(("SKYWAVE__NODE__SECRET", SECRET));
    }
    let node = support::node(&settings).await;
    ready(&node).await;
    let played = Arc::new(Played::default());
    node.node.peers().serve(Arc::new(PlayedBy(played.clone())));
    (node, played)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks at the condition
    }
}

/// The owner of a session, as a node sees it, once its address is known.
async fn found(node: &Running, session: SessionId) -> Peer {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match node.node.peers().owner(session).await {
            Ok(Owner::There(peer)) => return peer,
            other => assert!(tokio::time::Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
    }
}

/// A session of `owner`, and the owner as `other` sees it.
async fn session(name: &str, owner: &(Running, Arc<Played>), other: &Running, frames: u32) -> (SessionId, Peer) {
    let session = SessionId::of("/played", name);
    owner.1.ends.lock().insert(session, frames);
    assert!(matches!(owner.0.node.peers().claim(session).await, Ok(Owner::Here)));
    (session, found(other, session).await)
}

/// Stands between two nodes and can cut their connections.
struct Wire {
    address: String,
    cut: Arc<Mutex<CancellationToken>>,
    accepts: CancellationToken,
}

impl Wire {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (cut, accepts) = (Arc::new(Mutex::new(CancellationToken::new())), CancellationToken::new());
        let (current, closed) = (cut.clone(), accepts.clone());
        tokio::spawn(closed.run_until_cancelled_owned(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (cut, target) = (current.lock().clone(), target.clone());
                tokio::spawn(cut.run_until_cancelled_owned(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }));
            }
        }));
        Self { address, cut, accepts }
    }

    /// Ends all connections; new ones come through.
    fn cut(&self) {
        std::mem::take(&mut *self.cut.lock()).cancel();
    }

    /// Nothing comes through any more.
    fn end(&self) {
        self.accepts.cancel();
        self.cut();
    }
}

/// Hears nothing.
struct Deaf;

impl Sink for Deaf {
    fn publication(&self, _: &ChannelName, _: Publication) {}
    fn gap(&self, _: &ChannelName, _: Gap) {}
    fn presence(&self, _: &ChannelName, _: PresenceEvent) {}
    fn presence_gap(&self, _: &ChannelName) {}
    fn signal(&self, _: Arc<str>, _: Bytes) {}
    fn state(&self, _: BackplaneState) {}
}

#[tokio::test]
async fn any_node_serves_a_session_of_another() {
    let redis = RedisServer::start().await;
    let (oslo, paris) = (node(&redis, &[]).await, node(&redis, &[]).await);
    let (chat, owner) = session("chat", &oslo, &paris.0, 50).await;
    let peers = paris.0.node.peers();
    assert!(matches!(peers.claim(chat).await, Ok(Owner::There(_))), "it has an owner");

    let mut frames = peers.receive(&owner, chat, ALL).await.unwrap();
    for expected in 1..=50 {
        assert_eq!(number(&timeout(DEADLINE, frames.next()).await.unwrap().unwrap().unwrap()), expected);
    }
    assert!(timeout(DEADLINE, frames.next()).await.unwrap().is_none(), "it has what it wants");
    let one = Want { frames: NonZeroU32::new(1), bytes: u32::MAX };
    let mut frames = peers.receive(&owner, chat, one).await.unwrap();
    assert_eq!(number(&frames.next().await.unwrap().unwrap()), 1);
    assert!(frames.next().await.is_none(), "a poll has one");

    for round in 0..20 {
        peers.send(&owner, chat, vec![format!("{round} a").into(), format!("{round} b").into()]).await.unwrap();
    }
    let expected: Vec<_> = (0..20).flat_map(|round| [format!("{round} a"), format!("{round} b")]).collect();
    assert_eq!(*oslo.1.sent.lock(), expected);
    assert_eq!(peers.send(&owner, chat, vec![Bytes::new(); 101]).await, Err(PeerError::Full));

    let nobody = SessionId::of("/played", "nobody");
    assert_eq!(peers.send(&owner, nobody, vec![Bytes::new()]).await, Err(PeerError::Unknown));
    assert!(matches!(peers.receive(&owner, nobody, ALL).await.err(), Some(PeerError::Unknown)));
    assert!(matches!(peers.owner(nobody).await, Ok(Owner::Nobody)));

    oslo.0.node.peers().release(chat);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !matches!(peers.owner(chat).await, Ok(Owner::Nobody)) {
        assert!(tokio::time::Instant::now() < deadline, "it was released");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks at the condition
    }
    assert!(matches!(peers.claim(chat).await, Ok(Owner::Here)));
    assert_eq!((oslo.1.lost.lock().len(), oslo.1.detached.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test]
async fn a_node_alone_has_all_its_sessions() {
    let node = support::node(&[]).await;
    let chat = SessionId::of("/played", "chat");
    let peers = node.node.peers();
    assert!(matches!(peers.owner(chat).await, Ok(Owner::Nobody)));
    assert!(matches!(peers.claim(chat).await, Ok(Owner::Here)));
    assert!(matches!(peers.owner(chat).await, Ok(Owner::Here)));
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_owner_at_the_bound() {
    let redis = RedisServer::start().await;
    let (oslo, paris) = (node(&redis, &[]).await, node(&redis, &[]).await);
    let (chat, owner) = session("chat", &oslo, &paris.0, 5000).await;
    let peers = paris.0.node.peers();
    let mut frames = peers.receive(&owner, chat, ALL).await.unwrap();
    // 64 KiB of credit are 60 frames of 1,024 and 64 bytes and the one that passes it; the channels hold one each.
    const AT_MOST: usize = 61 + 3;
    until("the credit to be used", || oslo.1.taken.load(Ordering::Relaxed) >= 60).await;
    // Others go on meanwhile, and while they do the first takes no more.
    let (other, _) = session("other", &oslo, &paris.0, 300).await;
    let before = oslo.1.taken.load(Ordering::Relaxed);
    assert!(before <= AT_MOST, "{before}");
    let mut others = peers.receive(&owner, other, ALL).await.unwrap();
    for expected in 1..=300 {
        assert_eq!(number(&timeout(DEADLINE, others.next()).await.unwrap().unwrap().unwrap()), expected);
    }
    let taken = oslo.1.taken.load(Ordering::Relaxed) - 300;
    assert!(taken <= AT_MOST, "{taken}");
    for expected in 1..=5000 {
        assert_eq!(number(&timeout(DEADLINE, frames.next()).await.unwrap().unwrap().unwrap()), expected);
    }
    assert!(frames.next().await.is_none());

    let (cut, _) = session("cut", &oslo, &paris.0, 5000).await;
    let mut frames = peers.receive(&owner, cut, ALL).await.unwrap();
    frames.next().await.unwrap().unwrap();
    drop(frames);
    until("the owner to see that the client was cut off", || oslo.1.detached.load(Ordering::Relaxed) == 1).await;
    until("what was under way to be lost", || *oslo.1.lost.lock() == [cut]).await;
}

#[tokio::test]
async fn a_broken_connection_neither_skips_nor_doubles() {
    let redis = RedisServer::start().await;
    let (oslo, paris) = (node(&redis, &[]).await, node(&redis, &[]).await);
    let (chat, owner) = session("chat", &oslo, &paris.0, 2000).await;
    let wire = Wire::to(oslo.0.internal()).await;
    let owner = owner.through(&wire.address);
    let peers = paris.0.node.peers().clone();
    let mut frames = peers.receive(&owner, chat, ALL).await.unwrap();
    let sending = tokio::spawn({
        let owner = owner.clone();
        async move {
            let mut outcomes = Vec::new();
            for round in 0..200 {
                outcomes.push(peers.send(&owner, chat, vec![round.to_string().into()]).await);
            }
            outcomes
        }
    });
    for expected in 1..=2000 {
        if expected % 250 == 100 {
            wire.cut();
        }
        assert_eq!(number(&timeout(DEADLINE, frames.next()).await.unwrap().unwrap().unwrap()), expected);
    }
    assert!(timeout(DEADLINE, frames.next()).await.unwrap().is_none());
    let outcomes = timeout(2 * DEADLINE, sending).await.unwrap().unwrap();
    let sent: Vec<u32> = oslo.1.sent.lock().iter().map(|text| text.parse().unwrap()).collect();
    assert!(sent.is_sorted_by(|a, b| a < b), "none twice, and in order: {sent:?}");
    for (round, outcome) in outcomes.iter().enumerate() {
        let was_taken = sent.contains(&u32::try_from(round).unwrap());
        match outcome {
            Ok(()) => assert!(was_taken, "{round} is lost"),
            Err(PeerError::Unavailable) => assert!(!was_taken, "{round} was taken"),
            Err(error) => assert_eq!(*error, PeerError::UnknownOutcome),
        }
    }
    assert!(outcomes.iter().filter(|outcome| outcome.is_ok()).count() >= 150, "most come through: {outcomes:?}");
    assert_eq!(oslo.1.lost.lock().len(), 0);
}

#[tokio::test]
async fn a_session_ends_with_the_way_to_it_or_with_its_node() {
    let redis = RedisServer::start().await;
    let (oslo, paris) = (node(&redis, &[]).await, node(&redis, &[]).await);
    let (chat, owner) = session("chat", &oslo, &paris.0, 2000).await;
    let wire = Wire::to(oslo.0.internal()).await;
    let owner = owner.through(&wire.address);
    let peers = paris.0.node.peers();
    let mut frames = peers.receive(&owner, chat, ALL).await.unwrap();
    assert_eq!(number(&frames.next().await.unwrap().unwrap()), 1);
    until("frames to be under way", || oslo.1.taken.load(Ordering::Relaxed) > 10).await;
    wire.end();
    let broken = async {
        let mut expected = 2;
        loop {
            match frames.next().await.unwrap() {
                Ok(frame) => assert_eq!(number(&frame), expected),
                Err(Broken) => return,
            }
            expected += 1;
        }
    };
    timeout(DEADLINE, broken).await.unwrap();
    assert!(frames.next().await.is_none(), "nothing behind it");
    until("the session to be lost", || *oslo.1.lost.lock() == [chat]).await;
    assert_eq!(peers.send(&owner, chat, vec!["x".into()]).await, Err(PeerError::Unavailable));

    // A node that is not any more.
    let options = RedisOptions::parse(&redis.url(), "skywave", None, None, "rome").unwrap();
    let rome = Redis::new(options, Arc::new(Deaf));
    let orphan = SessionId::of("/played", "orphan");
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while rome.claim(&[orphan.key()], None).await.is_err()
        || !matches!(rome.nodes().await, Ok(nodes) if nodes.len() == 3)
    {
        assert!(tokio::time::Instant::now() < deadline, "the node is there");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
    }
    assert!(!matches!(peers.owner(orphan).await, Ok(Owner::Gone | Owner::Nobody)), "it lives");
    rome.close().await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !matches!(peers.owner(orphan).await, Ok(Owner::Gone)) {
        assert!(tokio::time::Instant::now() < deadline, "its node is dead");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
    }
    assert!(matches!(peers.claim(orphan).await, Ok(Owner::Gone)), "nobody takes it over");
}
