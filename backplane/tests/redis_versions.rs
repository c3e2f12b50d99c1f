//! What a node does with what another version has written into its Redis. Each test has a server of its own.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use skywave_backplane::{
    Backplane as _, BackplaneState, Cluster as _, Gap, HistoryQuery, Interest, Presence as _, Redis, Revocation,
    Revocations as _, Subject,
    conformance::{KEPT, Recorder, Told, channel, publication},
};
use skywave_proto::{ChannelName, Member, Payload, Publication, StreamPosition};
use support::{Server, cluster, until};

const FORMAT: &str = "skywave:format";
/// What this version writes there.
const OURS: &str = concat!("1 ", env!("CARGO_PKG_VERSION"));

fn text(answer: redis::Value) -> String {
    redis::from_redis_value(answer).unwrap()
}

/// How often a command was called since the server's start.
async fn calls(server: &Server, command: &str) -> u64 {
    let stats = text(server.command(&["INFO", "commandstats"]).await);
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls="))).unwrap_or("0");
    line.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_node_touches_nothing_of_a_format_that_it_does_not_understand() {
    let server = Server::started().await;
    server.command(&["SET", FORMAT, "2 0.9.0"]).await;
    let recorder = Recorder::new();
    let node = Redis::new(server.options(), recorder.clone());
    until("the node to say so", || async { node.refusal().is_some() }).await;
    let refusal = node.refusal().unwrap();
    for words in ["format 2", "release 0.9.0", env!("CARGO_PKG_VERSION"), "only 1", "run 0.9.0 or a later one"] {
        assert!(refusal.contains(words), "{words:?} in {refusal}");
    }
    assert!(node.publish(publication(&channel("news"), "lost", Some(KEPT))).await.is_err());
    assert!(node.nodes().await.is_err());
    let looked = calls(&server, "get").await;
    until("the node to look again, twice", || async { calls(&server, "get").await >= looked + 2 }).await;
    assert_eq!(server.command(&["DBSIZE"]).await, redis::Value::Int(1), "it has not written anything");
    assert_eq!([calls(&server, "publish").await, calls(&server, "subscribe").await], [0, 0]);
    assert_eq!((node.state(), recorder.states()), (BackplaneState::Never, vec![]));

    server.command(&["SET", FORMAT, OURS]).await;
    until("the node to be live", || async { node.state() == BackplaneState::Live }).await;
    assert_eq!(node.refusal(), None);
    node.publish(publication(&channel("news"), "there", Some(KEPT))).await.unwrap();
}

#[tokio::test]
async fn the_first_node_says_of_which_format_it_is_and_what_nobody_said_it_of_is_the_first() {
    let server = Server::started().await;
    let node = server.node(Recorder::new()).await;
    assert_eq!(text(server.command(&["GET", FORMAT]).await), OURS);
    node.publish(publication(&channel("news"), "kept", Some(KEPT))).await.unwrap();
    // As a release left it that did not write the key.
    server.command(&["DEL", FORMAT]).await;
    let newer = server.node(Recorder::new()).await;
    assert_eq!(text(server.command(&["GET", FORMAT]).await), OURS);
    assert_eq!(page(&newer, None).await.0, ["kept"]);
}

#[tokio::test]
async fn a_node_that_works_does_not_come_back_to_another_format() {
    let server = Server::started().await;
    let node = server.node(Recorder::new()).await;
    server.command(&["SET", FORMAT, "7"]).await;
    for kind in ["normal", "pubsub"] {
        server.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
    }
    until("the node to say so", || async { node.refusal().is_some() }).await;
    assert!(node.refusal().unwrap().contains("an unknown release"));
    assert_eq!(node.state(), BackplaneState::Degraded);
    server.command(&["SET", FORMAT, OURS]).await;
    until("the node to be live", || async { node.state() == BackplaneState::Live && node.refusal().is_none() }).await;
}

#[tokio::test]
async fn no_master_of_a_cluster_is_touched() {
    let cluster = cluster::Cluster::started().await;
    let with_key = cluster.each(&["CLUSTER", "KEYSLOT", FORMAT]).await.pop().unwrap();
    let slot: usize = redis::from_redis_value(with_key).unwrap();
    let master = slot / (16384 / 3 + 1);
    cluster.of(master, &["SET", FORMAT, "2 0.9.0"]).await;
    let node = Redis::new(cluster.options("skywave"), Recorder::new());
    until("the node to say so", || async { node.refusal().is_some() }).await;
    // By then the others have been reached too, and were left alone.
    let reached = || async {
        let each = cluster.each(&["INFO", "commandstats"]).await;
        each.into_iter().all(|stats| text(stats).contains("cmdstat_config|get:calls"))
    };
    until("every master to be looked at", reached).await;
    let mut sizes = [redis::Value::Int(0), redis::Value::Int(0), redis::Value::Int(0)];
    sizes[master] = redis::Value::Int(1);
    assert_eq!(cluster.each(&["DBSIZE"]).await, sizes);
    cluster.of(master, &["SET", FORMAT, OURS]).await;
    until("the node to be live", || async { node.state() == BackplaneState::Live }).await;
}

/// Texts and whether nothing is missing before them.
async fn page(node: &Redis, since: Option<StreamPosition>) -> (Vec<String>, bool) {
    let query = HistoryQuery { since, limit: 100, bytes: usize::MAX, followed: false };
    let page = node.history(&channel("news"), query).await.unwrap();
    (page.publications.iter().map(words).collect(), page.complete)
}

fn words(publication: &Publication) -> String {
    String::from_utf8_lossy(publication.payload.data()).into_owned()
}

/// A node that follows a channel.
async fn follower(server: &Server, interest: Interest) -> (Redis, Arc<Recorder>) {
    let recorder = Recorder::new();
    let node = server.node(recorder.clone()).await;
    node.subscribe(&[interest]).await.pop().unwrap().unwrap();
    (node, recorder)
}

fn news(history: bool) -> Interest {
    Interest { channel: channel("news"), history: history.then_some(KEPT), presence: false }
}

/// What was told of a channel, in words.
fn told(recorder: &Recorder) -> Vec<String> {
    let word = |told: Told| match told {
        Told::Publication(publication) => words(&publication),
        Told::Gap(Gap::Reset { now }) => format!("reset at {}", now.unwrap().offset),
        Told::Gap(gap) => format!("{gap:?}"),
    };
    recorder.told(&channel("news")).into_iter().map(word).collect()
}

/// Publishes what no node here can read, as a newer version would: it has its place, is kept, and is sent.
async fn publish_unreadable(server: &Server, version: u8) {
    let script = "local function key(kind) return redis.call('KEYS', '*:' .. kind .. ':news')[1] end
        local meta, list = key('m'), key('l')
        redis.call('HINCRBY', meta, 'o', 1)
        local frame = string.char(tonumber(ARGV[1])) .. 'what will be'
        redis.call('RPUSH', list, frame)
        redis.call('PUBLISH', (string.gsub(meta, ':m:', ':c:')), frame)";
    server.command(&["EVAL", script, "0", &version.to_string()]).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_a_gap_for_who_follows_and_a_hole_for_who_comes_back() {
    let server = Server::started().await;
    let (node, recorder) = follower(&server, news(true)).await;
    let first = node.publish(publication(&channel("news"), "one", Some(KEPT))).await.unwrap().position.unwrap();
    recorder.until("the first", |recorder| (told(recorder) == ["one"]).then_some(())).await;
    publish_unreadable(&server, 2).await;
    // At once, not when something else comes.
    recorder.until("the gap", |recorder| (told(recorder) == ["one", "reset at 2"]).then_some(())).await;
    node.publish(publication(&channel("news"), "three", Some(KEPT))).await.unwrap();
    recorder.until("the third", |recorder| told(recorder).contains(&"three".to_owned()).then_some(())).await;
    assert_eq!(told(&recorder), ["one", "reset at 2", "three"]);

    // It is asked no more than for that gap, and not for ever.
    let asked = calls(&server, "lrange").await;
    node.publish(publication(&channel("news"), "four", Some(KEPT))).await.unwrap();
    recorder.until("the fourth", |recorder| told(recorder).contains(&"four".to_owned()).then_some(())).await;
    assert_eq!(calls(&server, "lrange").await, asked);

    // Another node, which has nothing of it in its own memory.
    let other = server.node(Recorder::new()).await;
    let second = StreamPosition { offset: 2, ..first };
    assert_eq!(page(&other, Some(first)).await, (vec!["three".to_owned(), "four".to_owned()], false));
    assert_eq!(page(&other, Some(second)).await, (vec!["three".to_owned(), "four".to_owned()], true));
    publish_unreadable(&server, 255).await;
    let fourth = StreamPosition { offset: 4, ..first };
    assert_eq!(page(&other, Some(fourth)).await, (vec![], false), "nothing stands behind it, and it is missing all the same");
}

#[tokio::test]
async fn on_a_live_channel_it_is_something_that_may_have_passed() {
    let server = Server::started().await;
    let (node, recorder) = follower(&server, news(false)).await;
    node.publish(publication(&channel("news"), "one", None)).await.unwrap();
    recorder.until("the first", |recorder| (told(recorder) == ["one"]).then_some(())).await;
    let script = "redis.call('PUBLISH', redis.call('PUBSUB', 'CHANNELS', '*:c:news')[1], '\\2\\0what will be')";
    server.command(&["EVAL", script, "0"]).await;
    recorder.until("the gap", |recorder| (told(recorder) == ["one", "Possible"]).then_some(())).await;
    node.publish(publication(&channel("news"), "two", None)).await.unwrap();
    recorder.until("the second", |recorder| (told(recorder) == ["one", "Possible", "two"]).then_some(())).await;
}

#[tokio::test]
async fn a_list_of_members_is_read_again_after_a_join_that_cannot_be_read() {
    let server = Server::started().await;
    let (node, recorder) = follower(&server, Interest { presence: true, ..news(true) }).await;
    let member = |client: &str| Member { client: client.into(), user: Some("ada".into()), info: None };
    for client in ["c1", "c3"] {
        node.join(&channel("news"), member(client), 1).await.unwrap();
    }
    let mut unknown = publication(&ChannelName::reserved("presence", &channel("news")), "", Some(KEPT));
    // A third kind of event, with nothing in it.
    unknown.payload = Payload::binary(Bytes::from_static(&[26, 0]));
    node.publish(unknown).await.unwrap();
    let is_read = |recorder: &Recorder| recorder.presence_told(&channel("news")).contains(&None).then_some(());
    recorder.until("the list to be read again", is_read).await;

    // A member that cannot be read takes no other one's place in a page.
    let script = "local list = redis.call('KEYS', '*:p:news')[1]
        redis.call('ZADD', list, 0, 'c0\\0' .. '1 what will be') redis.call('ZADD', list, 0, 'c2\\0' .. '1 what will be')";
    server.command(&["EVAL", script, "0"]).await;
    let (mut members, mut after) = (Vec::new(), None::<Arc<str>>);
    loop {
        let page = node.members(&channel("news"), after.as_deref(), 2).await.unwrap();
        members.extend(page.members);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(members, [member("c1"), member("c3")]);
}

#[tokio::test]
async fn a_revocation_of_another_kind_hides_no_other_one() {
    let server = Server::started().await;
    let node = server.node(Recorder::new()).await;
    let revocation = Revocation { subject: Subject::User("ada".into()), issued_before_ms: 1, until_ms: 1 << 52 };
    node.revoke(revocation.clone()).await.unwrap();
    let script = "redis.call('ZADD', redis.call('KEYS', '*:r')[1], 0, 'x3:all 1 4503599627370496')";
    server.command(&["EVAL", script, "0"]).await;
    assert_eq!(node.revocations().await.unwrap(), [revocation]);
}
