//! Sessions whose requests reach another node than their own: real nodes, real sockets, and a host that plays sessions.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    collections::HashMap,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use sha2::Sha256;
use skywave_backplane::{BackplaneState, Cluster as _, Gap, Ownership as _, PresenceEvent, Redis, RedisOptions, Sink};
use skywave_gateway::peers::{Broken, Host, Owner, Peer, PeerError, SendRefused, SessionId, Unknown, Want};
use skywave_proto::{
    ChannelName, Publication,
    v1::{
        ProveRequest, SendRequest as SendMessages,
        node_client::NodeClient,
        prove_request::{Hello, Proof, Word as Asks},
        prove_response::{Admitted, Word as Answers},
    },
};
use support::{DEADLINE, Running, ready, redis::RedisServer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, body::Body, codegen::Service};

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

/// One connection of HTTP/2, for the generated client.
#[derive(Clone)]
struct Knock(SendRequest<Body>);

impl Service<http::Request<Body>> for Knock {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn knock(node: &Running) -> NodeClient<Knock> {
    let socket = TcpStream::connect(node.internal()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    NodeClient::with_origin(Knock(sender), format!("http://{}", node.internal()).parse().unwrap())
}

/// As `peers/proof.rs` says it, written a second time.
fn sign(secret: &str, side: &str, hello: &Hello, nonce: &[u8]) -> Vec<u8> {
    let hmac = |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).unwrap();
    let key = hmac(secret.as_bytes()).chain_update(b"skywave.v1.Node proof").finalize().into_bytes();
    let mut mac = hmac(&key);
    let parts = [
        side.as_bytes(),
        &hello.nonce,
        nonce,
        &hello.process,
        hello.name.as_bytes(),
        hello.incarnation.as_bytes(),
        hello.to_name.as_bytes(),
        hello.to_incarnation.as_bytes(),
    ];
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// Says hello and then what `proof` makes of the challenge.
async fn prove(
    client: &mut NodeClient<Knock>,
    hello: &Hello,
    proof: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Result<Admitted, Code> {
    let (words, queue) = mpsc::channel(2);
    let queue = futures_util::stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
    let say = |word| ProveRequest { word: Some(word) };
    words.send(say(Asks::Hello(hello.clone()))).await.unwrap();
    let mut answers = client.prove(queue).await.map_err(|status| status.code())?.into_inner();
    let challenge = match answers.message().await.map_err(|status| status.code())?.unwrap().word {
        Some(Answers::Challenge(challenge)) => challenge,
        other => panic!("{other:?}"),
    };
    let mac = proof(&challenge.nonce).into();
    words.send(say(Asks::Proof(Proof { mac }))).await.unwrap();
    match answers.message().await.map_err(|status| status.code())?.unwrap().word {
        Some(Answers::Admitted(admitted)) => {
            assert_eq!(admitted.mac, sign(SECRET, "asked", hello, &challenge.nonce), "it proves itself too");
            Ok(admitted)
        }
        other => panic!("{other:?}"),
    }
}

async fn ask(client: &mut NodeClient<Knock>, session: SessionId, headers: &[(&'static str, &str)]) -> Code {
    let message =
        SendMessages { session: session.key().0.to_vec().into(), number: 1, settled: 1, ..Default::default() };
    let mut request = tonic::Request::new(message);
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    client.send(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn whoever_is_not_a_node_is_refused() {
    const KEY: &str = "0123456789abcdef-all";
    const KEYS: &str =
        "[{ name = \"all\", key = \"0123456789abcdef-all\", scopes = [\"publish\", \"read\", \"control\"] }]";
    let redis = RedisServer::start().await;
    let url = redis.url();
    let variables =
        [("SKYWAVE__BACKPLANE__URL", url.as_str()), ("SKYWAVE__NODE__SECRET", SECRET), ("SKYWAVE__API__KEYS", KEYS)];
    let oslo = support::closed_node(&variables).await;
    ready(&oslo).await;
    let played = Arc::new(Played::default());
    oslo.node.peers().serve(Arc::new(PlayedBy(played.clone())));
    let chat = SessionId::of("/played", "chat");
    played.ends.lock().insert(chat, 1);
    oslo.node.peers().claim(chat).await.unwrap();
    let probe = Redis::new(RedisOptions::parse(&url, "skywave", None, None, "probe").unwrap(), Arc::new(Deaf));
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let record = loop {
        let nodes = probe.nodes().await.unwrap_or_default();
        if let Some(record) = nodes.into_iter().find(|node| *node.info.advertise == *oslo.internal()) {
            break record;
        }
        assert!(tokio::time::Instant::now() < deadline, "the node says where it is");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
    };
    let hello = Hello {
        nonce: vec![1; 32].into(),
        name: "paris".into(),
        incarnation: "b".into(),
        process: vec![2; 16].into(),
        to_name: record.info.name.to_string(),
        to_incarnation: record.incarnation.to_string(),
    };

    // Nobody, and whoever has a key of the API.
    let mut client = knock(&oslo).await;
    let bearer = format!("Bearer {KEY}");
    for headers in [&[][..], &[("authorization", bearer.as_str())], &[("skywave-peer", "")], &[("skywave-peer", KEY)]] {
        assert_eq!(ask(&mut client, chat, headers).await, Code::Unauthenticated, "{headers:?}");
        let mut request = tonic::Request::new(futures_util::stream::empty());
        for (name, value) in headers {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        assert_eq!(client.receive(request).await.err().map(|status| status.code()), Some(Code::Unauthenticated));
    }
    // Whoever does not know the secret, or says the words of another conversation.
    let wrong = "another secret, which is long enough too";
    let refused = prove(&mut client, &hello, |nonce| sign(wrong, "caller", &hello, nonce)).await;
    assert_eq!(refused.err(), Some(Code::Unauthenticated), "the wrong secret");
    let mut recorded = Vec::new();
    let admitted = prove(&mut client, &hello, |nonce| {
        recorded = sign(SECRET, "caller", &hello, nonce);
        recorded.clone()
    });
    let token: String = admitted.await.unwrap().token.iter().map(|byte| format!("{byte:02x}")).collect();
    let refused = prove(&mut client, &hello, |_| recorded.clone()).await;
    assert_eq!(refused.err(), Some(Code::Unauthenticated), "recorded");
    let refused = prove(&mut client, &hello, |nonce| sign(SECRET, "asked", &hello, nonce)).await;
    assert_eq!(refused.err(), Some(Code::Unauthenticated), "as the other side");
    for other in [
        Hello { name: "rome".into(), ..hello.clone() },
        Hello { incarnation: "c".into(), ..hello.clone() },
        Hello { process: vec![3; 16].into(), ..hello.clone() },
    ] {
        let refused = prove(&mut client, &other, |nonce| sign(SECRET, "caller", &hello, nonce)).await;
        assert_eq!(refused.err(), Some(Code::Unauthenticated), "in the name of another: {other:?}");
    }
    for other in
        [Hello { to_name: "rome".into(), ..hello.clone() }, Hello { to_incarnation: "c".into(), ..hello.clone() }]
    {
        let refused = prove(&mut client, &other, |nonce| sign(SECRET, "caller", &other, nonce)).await;
        assert_eq!(refused.err(), Some(Code::FailedPrecondition), "meant for another: {other:?}");
    }
    // What was proven holds on this connection, and for nothing else.
    let peer = [("skywave-peer", token.as_str())];
    assert_eq!(ask(&mut client, chat, &peer).await, Code::Ok);
    assert_eq!(ask(&mut client, chat, &[]).await, Code::Unauthenticated);
    let mut other = knock(&oslo).await;
    assert_eq!(ask(&mut other, chat, &peer).await, Code::Unauthenticated, "overheard");
    let call = async |bearer: &str| {
        let headers =
            [("authorization", bearer), ("skywave-peer", token.as_str()), ("content-type", "application/json")];
        oslo.http("POST", "/api/v1/nodes", &headers, "{}").await.0
    };
    assert_eq!((call(&bearer).await, call(&format!("Bearer {token}")).await), (200, 401));
    let headers = [("skywave-peer", token.as_str()), ("content-type", "application/json")];
    assert_eq!(oslo.http("POST", "/api/v1/nodes", &headers, "{}").await.0, 401);
}

#[tokio::test]
async fn nodes_of_two_secrets_have_nothing_to_say_to_each_other() {
    let redis = RedisServer::start().await;
    let oslo = node(&redis, &[]).await;
    let paris = node(&redis, &[("SKYWAVE__NODE__SECRET", "another secret, which is long enough too")]).await;
    let (chat, owner) = session("chat", &oslo, &paris.0, 5).await;
    let peers = paris.0.node.peers();
    assert_eq!(peers.send(&owner, chat, vec!["x".into()]).await, Err(PeerError::Unavailable));
    assert_eq!(peers.receive(&owner, chat, ALL).await.err(), Some(PeerError::Unavailable));
    assert_eq!((oslo.1.sent.lock().len(), oslo.1.taken.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test]
async fn nodes_speak_within_tls_and_only_to_whom_it_says() {
    let redis = RedisServer::start().await;
    let files = support::tls::Files::new();
    for client_ca in [true, false] {
        // Without client_ca the authority stands behind the certificate.
        let chain = std::fs::read_to_string(files.path("tls.crt")).unwrap();
        let authority = std::fs::read_to_string(files.path("ca.crt")).unwrap();
        if !client_ca {
            std::fs::write(files.path("tls.crt"), chain + &authority).unwrap();
        }
        let tls = files.setting(client_ca);
        let node = async || {
            let url = redis.url();
            let settings = [
                ("SKYWAVE__BACKPLANE__URL", url.as_str()),
                ("SKYWAVE__NODE__SECRET", SECRET),
                ("SKYWAVE__INTERNAL__TLS", tls.as_str()),
            ];
            let node = support::node(&settings).await;
            let played = Arc::new(Played::default());
            node.node.peers().serve(Arc::new(PlayedBy(played.clone())));
            (node, played)
        };
        let (oslo, paris) = (node().await, node().await);
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while oslo.0.node.peers().claim(SessionId::of("/played", "chat")).await.is_err()
            || paris.0.try_socket("/ws", &[]).await.is_err()
            || oslo.0.try_socket("/ws", &[]).await.is_err()
        {
            assert!(tokio::time::Instant::now() < deadline, "the nodes are ready");
            tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
        }
        let (chat, owner) = session("chat", &oslo, &paris.0, 5).await;
        let port = oslo.0.internal().rsplit_once(':').unwrap().1.to_owned();
        let named = owner.through(&format!("localhost:{port}"));
        let peers = paris.0.node.peers();
        peers.send(&named, chat, vec!["x".into()]).await.unwrap();
        assert_eq!(*oslo.1.sent.lock(), ["x"]);
        // The certificate is not for this name.
        assert_eq!(peers.send(&owner, chat, vec!["y".into()]).await, Err(PeerError::Unavailable));
        assert_eq!(*oslo.1.sent.lock(), ["x"]);
        oslo.0.node.peers().release(chat);
    }
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
