//! What subscribers and publishers see while Redis fails: delay and honest errors, never silent loss.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use skywave_backplane::{
    Backplane as _, BackplaneState, Cluster as _, Delivery, Gap, HistoryPolicy, HistoryQuery, IdempotencyKey, Interest,
    NewPublication, PresenceEvent, PublishError, Redis, RedisOptions, Sink, SubscribeError, Target,
    conformance::{KEPT, Recorder, Told, assert_contiguous, channel, publication, subscribe},
};
use skywave_proto::{ChannelName, Publication};

use support::{
    Server,
    traffic::{Traffic, assert_counts, assert_nothing_lost, gaps},
    until,
};

/// A server and two nodes: one to publish, one that hears.
async fn pair(server: &Server) -> (Redis, Redis, Arc<Recorder>) {
    let heard = Recorder::new();
    (server.node(Recorder::new()).await, server.node(heard.clone()).await, heard)
}

async fn until_live(node: &Redis) {
    until("the node to be live", || async { node.state() == BackplaneState::Live }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_subscriber_misses_nothing() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let traffic = Traffic::begin(&writer, &reader, &heard, 8).await;
    for _ in 0..5 {
        traffic.flow(20).await;
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }
    traffic.flow(20).await;
    until_live(&reader).await;
    let (refused, unknown) = (traffic.refused.clone(), traffic.unknown.clone());
    assert_nothing_lost(&traffic.end().await);
    assert!(heard.states().contains(&BackplaneState::Degraded), "{:?}", heard.states());
    assert_eq!((refused.load(Ordering::Relaxed), unknown.load(Ordering::Relaxed)), (0, 0), "publishing went on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_command_connections_lose_nothing() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let traffic = Traffic::begin(&writer, &reader, &heard, 8).await;
    for _ in 0..3 {
        traffic.flow(20).await;
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    }
    traffic.flow(20).await;
    assert_nothing_lost(&traffic.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_told_on_every_channel() {
    let mut server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let traffic = Traffic::begin(&writer, &reader, &heard, 8).await;
    let quiet = channel("quiet");
    subscribe(&reader, &quiet).await;
    traffic.flow(30).await;
    server.kill();
    server.start().await;
    until_live(&reader).await;
    heard.until("the quiet channel to be told", |heard| (!heard.told(&quiet).is_empty()).then_some(())).await;
    assert!(matches!(&heard.told(&quiet)[..], [Told::Gap(Gap::Reset { now: Some(_) })]), "{:?}", heard.told(&quiet));
    traffic.flow(30).await;
    for (channel, told) in traffic.end().await {
        assert!(matches!(&gaps(&told)[..], [Gap::Reset { .. }]), "{channel}: {:?}", gaps(&told));
        let reset = told.iter().position(|told| matches!(told, Told::Gap(_))).unwrap();
        assert_counts(&channel, &told[..reset], 0);
        let first = told[reset + 1].text().parse().unwrap();
        assert_counts(&channel, &told[reset + 1..], first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_kept_everything_is_not_told() {
    let mut server = Server::persistent(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let (writer, reader, heard) = pair(&server).await;
    let traffic = Traffic::begin(&writer, &reader, &heard, 8).await;
    traffic.flow(30).await;
    let epoch = last_epoch(&heard, &traffic.channels[0]);
    for _ in 0..2 {
        server.kill();
        server.start().await;
        traffic.flow(30).await;
    }
    assert_ne!(last_epoch(&heard, &traffic.channels[0]), epoch, "another run of the master, another epoch");
    assert_nothing_lost(&traffic.end().await);
}

fn last_epoch(heard: &Recorder, channel: &ChannelName) -> String {
    let told = heard.told(channel);
    let Some(Told::Publication(Publication { position: Some(position), .. })) = told.last() else { panic!("{told:?}") };
    position.epoch.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restart_has_lost_is_told_as_rollback() {
    let mut server = Server::persistent(&["--save", "3600 1000000"]).await;
    let (writer, reader, heard) = pair(&server).await;
    let news = channel("news");
    let start = subscribe(&reader, &news).await;
    let publish = |text: String| writer.publish(publication(&news, &text, Some(KEPT)));
    for number in 1..=5 {
        publish(number.to_string()).await.unwrap();
    }
    server.command(&["SAVE"]).await;
    for number in 6..=9 {
        publish(format!("lost {number}")).await.unwrap();
    }
    let before = heard.until_text(&news, "lost 9").await;
    server.kill();
    server.start().await;
    until_live(&reader).await;
    until_live(&writer).await;
    // More than were lost: offsets that were there before must not be taken for the old ones.
    for number in 6..=12 {
        publish(number.to_string()).await.unwrap();
    }
    let told = heard.until_text(&news, "12").await;
    assert_contiguous(&told);
    let [Gap::Rollback { now }] = gaps(&told)[..] else { panic!("{:?}", gaps(&told)) };
    assert_eq!(now.offset, 5);
    assert_counts(&news, &told[before.len() + 1..], 6);

    let query = |since| HistoryQuery { since: Some(since), limit: 100, bytes: usize::MAX, followed: false };
    let seen_lost = skywave_proto::StreamPosition { offset: 9, ..start };
    assert!(!reader.history(&news, query(seen_lost)).await.unwrap().complete, "it saw what is lost");
    let seen_kept = skywave_proto::StreamPosition { offset: 5, ..start };
    let page = reader.history(&news, query(seen_kept)).await.unwrap();
    assert!(page.complete && page.publications.len() == 7, "it saw only what was kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_redis_is_noticed_and_loses_nothing() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let traffic = Traffic::begin(&writer, &reader, &heard, 8).await;
    traffic.flow(30).await;
    server.signal("STOP");
    let stalled = Instant::now();
    until("the node to notice", || async { reader.state() == BackplaneState::Degraded }).await;
    assert!(stalled.elapsed() < Duration::from_millis(3500), "noticed after {:?}", stalled.elapsed());
    tokio::time::sleep(Duration::from_secs(4).saturating_sub(stalled.elapsed())).await; // the length of the stall
    server.signal("CONT");
    until_live(&reader).await;
    traffic.flow(30).await;
    assert_nothing_lost(&traffic.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_scripts_are_loaded_again() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let traffic = Traffic::begin(&writer, &reader, &heard, 8).await;
    for round in 0..5 {
        traffic.flow(10).await;
        server.command(&["SCRIPT", "FLUSH"]).await;
        let late = channel(&format!("late:{round}"));
        subscribe(&reader, &late).await;
        server.command(&["SCRIPT", "FLUSH"]).await;
        let query = HistoryQuery { since: None, limit: 10, bytes: 100, followed: false };
        assert!(reader.history(&late, query).await.unwrap().top.is_some());
    }
    traffic.flow(10).await;
    let (refused, unknown) = (traffic.refused.clone(), traffic.unknown.clone());
    assert_nothing_lost(&traffic.end().await);
    assert_eq!(unknown.load(Ordering::Relaxed), 0);
    // Only what was in one batch with a later publication of its channel; here each channel has one on its way.
    assert_eq!(refused.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_changes_its_replication_id_is_noticed_by_nobody() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let traffic = Traffic::begin(&writer, &reader, &heard, 8).await;
    traffic.flow(20).await;
    let epoch = last_epoch(&heard, &traffic.channels[0]);
    // A master does so by itself an hour after its last replica has left. Nodes that come now see a new generation, and
    // those from before get to know of it when they publish.
    let forget = "for _, key in ipairs(redis.call('KEYS', 'skywave:*:gen')) do redis.call('HSET', key, 'r', 'x') end";
    server.command(&["EVAL", forget, "0"]).await;
    let newcomer = server.node(Recorder::new()).await;
    traffic.flow(20).await;
    for channel in &traffic.channels {
        let new = publication(channel, "0", Some(KEPT));
        let key = Some(skywave_backplane::IdempotencyKey { publisher: "test".into(), key: "0".into() });
        assert!(newcomer.publish(NewPublication { key, ..new }).await.unwrap().duplicate);
        newcomer.publish(publication(channel, "newcomer", Some(KEPT))).await.unwrap();
        heard.until_text(channel, "newcomer").await;
    }
    traffic.flow(20).await;
    let (refused, unknown) = (traffic.refused.clone(), traffic.unknown.clone());
    assert_ne!(last_epoch(&heard, &traffic.channels[0]), epoch);
    for (channel, told) in traffic.end().await {
        assert!(gaps(&told).is_empty(), "{channel}: {:?}", gaps(&told));
        let told: Vec<_> = told.into_iter().filter(|told| told.text() != "newcomer").collect();
        assert_counts(&channel, &told, 0);
    }
    assert_eq!((refused.load(Ordering::Relaxed), unknown.load(Ordering::Relaxed)), (0, 0), "nor by publishers");
}

#[tokio::test]
async fn a_deleted_meta_key_is_a_new_line() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let news = channel("news");
    subscribe(&reader, &news).await;
    let mut old = None;
    for number in 1..=5 {
        old = writer.publish(publication(&news, &number.to_string(), Some(KEPT))).await.unwrap().position;
    }
    heard.until_text(&news, "5").await;
    let keys: Vec<String> = redis::from_redis_value(server.command(&["KEYS", "skywave:*:m:news"]).await).unwrap();
    assert_eq!(keys.len(), 1, "{keys:?}");
    server.command(&["DEL", &keys[0]]).await;
    for number in 101..=106 {
        writer.publish(publication(&news, &number.to_string(), Some(KEPT))).await.unwrap();
    }
    let told = heard.until_text(&news, "106").await;
    assert_contiguous(&told);
    assert!(matches!(&told[5], Told::Gap(Gap::Reset { now: Some(now) }) if now.offset == 0), "{told:?}");
    assert_counts(&news, &told[6..], 101);
    let page = reader
        .history(&news, HistoryQuery { since: old, limit: 100, bytes: usize::MAX, followed: false })
        .await
        .unwrap();
    assert!(!page.complete && page.publications.len() == 6);
}

#[tokio::test]
async fn a_deleted_list_is_told_when_it_is_needed() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let news = channel("news");
    let start = subscribe(&reader, &news).await;
    writer.publish(publication(&news, "1", Some(KEPT))).await.unwrap();
    let keys: Vec<String> = redis::from_redis_value(server.command(&["KEYS", "skywave:*:l:news"]).await).unwrap();
    server.command(&["DEL", &keys[0]]).await;
    let query = HistoryQuery { since: Some(start), limit: 9, bytes: 9, followed: false };
    let page = writer.history(&news, query).await.unwrap();
    assert!(!page.complete && page.publications.is_empty() && page.top == Some(start.next()));
    heard.until_text(&news, "1").await;
    let page = reader.history(&news, HistoryQuery { followed: true, ..query }).await.unwrap();
    assert!(page.complete && page.publications.len() == 1, "who follows the channel has a copy");
    writer.publish(publication(&news, "2", Some(KEPT))).await.unwrap();
    let told = heard.until_text(&news, "2").await;
    assert!(gaps(&told).is_empty(), "whoever is connected has missed nothing");
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_joined_when_it_comes() {
    let mut server = Server::not_started();
    let heard = Recorder::new();
    let node = Redis::new(server.options(), heard.clone());
    let news = channel("news");
    assert_eq!(node.state(), BackplaneState::Never);
    let refused = node.publish(publication(&news, "1", Some(KEPT))).await;
    assert!(matches!(refused, Err(PublishError::Unavailable { .. })), "{refused:?}");
    assert!(node.positions(std::slice::from_ref(&news)).await.is_err());
    let asked = Instant::now();
    let interest = Interest { channel: news.clone(), history: Some(KEPT), presence: false };
    let answers = node.subscribe(std::slice::from_ref(&interest)).await;
    assert!(matches!(answers[..], [Err(SubscribeError::Unavailable)]), "{answers:?}");
    assert!((1900..3000).contains(&asked.elapsed().as_millis()), "{:?}", asked.elapsed());
    assert_eq!((node.state(), heard.states()), (BackplaneState::Never, vec![]));

    let (interests, start) = ([interest], async { server.start().await });
    let (answers, ()) = tokio::join!(node.subscribe(&interests), start);
    assert!(matches!(answers[..], [Ok(Some(_))]), "it came while somebody waited: {answers:?}");
    until_live(&node).await;
    node.publish(publication(&news, "2", Some(KEPT))).await.unwrap();
    heard.until_text(&news, "2").await;
    assert_eq!(heard.states(), [BackplaneState::Live]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_survives_a_reconnect() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    for round in 0..5 {
        let channels: Vec<_> = (0..300).map(|number| channel(&format!("r{round}:{number}"))).collect();
        let interests: Vec<_> = channels
            .iter()
            .map(|channel| Interest { channel: channel.clone(), history: Some(KEPT), presence: false })
            .collect();
        let kill = async { server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await };
        let (answers, _) = tokio::join!(reader.subscribe(&interests), kill);
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Some(_)))));
        for channel in &channels {
            writer.publish(publication(channel, "1", Some(KEPT))).await.unwrap();
        }
        for channel in &channels {
            let told = heard.until_text(channel, "1").await;
            assert_eq!(told.len(), 1, "{told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_without_history_hears_that_something_may_be_missing() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let cursors = channel("cursors");
    reader.subscribe(&[Interest { channel: cursors.clone(), history: None, presence: false }]).await;
    for round in 0..3 {
        let text = round.to_string();
        writer.publish(publication(&cursors, &text, None)).await.unwrap();
        heard.until_text(&cursors, &text).await;
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        heard.until("a possible gap", |heard| (gaps(&heard.told(&cursors)).len() == round + 1).then_some(())).await;
        until_live(&reader).await;
    }
    let told = heard.told(&cursors);
    assert!(told.iter().skip(1).step_by(2).all(|told| *told == Told::Gap(Gap::Possible)), "{told:?}");
}

/// Takes its time.
struct Slow {
    is_slow: AtomicBool,
    inner: Arc<Recorder>,
}

impl Sink for Slow {
    #[allow(clippy::disallowed_methods)] // to be too slow is what it is for
    fn publication(&self, channel: &ChannelName, publication: Publication) {
        if channel.as_str() == "news" && self.is_slow.load(Ordering::Relaxed) {
            // So long that the queue overflows even if publishing takes a minute, on a machine that is busy.
            std::thread::sleep(Duration::from_millis(20));
        }
        self.inner.publication(channel, publication);
    }

    fn gap(&self, channel: &ChannelName, gap: Gap) {
        self.inner.gap(channel, gap);
    }

    fn presence(&self, _: &ChannelName, _: PresenceEvent) {}

    fn presence_gap(&self, _: &ChannelName) {}

    fn signal(&self, _: Arc<str>, _: bytes::Bytes) {}

    fn state(&self, state: BackplaneState) {
        self.inner.state(state);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sink_that_was_too_slow_catches_up() {
    const COUNT: u32 = 12_000; // more than a lane's queue, by more than the sink takes meanwhile
    let server = Server::started().await;
    let writer = server.node(Recorder::new()).await;
    let slow = Arc::new(Slow { is_slow: AtomicBool::new(true), inner: Recorder::new() });
    let reader = server.node(slow.clone()).await;
    let news = channel("news");
    // One for each lane, or nearly.
    let live: Vec<_> = (0..32).map(|number| channel(&format!("cursors:{number}"))).collect();
    let policy = HistoryPolicy { size: COUNT, ..KEPT };
    let mut interests: Vec<_> =
        live.iter().map(|channel| Interest { channel: channel.clone(), history: None, presence: false }).collect();
    interests.push(Interest { channel: news.clone(), history: Some(policy), presence: false });
    reader.subscribe(&interests).await;
    // Comes alone, so that the connection itself delivers it: that must not make it wait for the sink ever after.
    writer.publish(publication(&news, "0", Some(policy))).await.unwrap();
    slow.inner.until_text(&news, "0").await;
    // A sink that sleeps holds up whoever shares its threads: an answer may come too late, and then is asked for again.
    let publish = async |number: u32| {
        let text = number.to_string();
        let key = Some(IdempotencyKey { publisher: "test".into(), key: text.as_str().into() });
        let new = NewPublication { key, ..publication(&news, &text, Some(policy)) };
        loop {
            match writer.publish(new.clone()).await {
                Ok(published) => return (published.position.unwrap().offset, number),
                Err(PublishError::UnknownOutcome { .. } | PublishError::Unavailable { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await; // until the writer is there again
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let mut placed = Vec::new();
    for first in (1..COUNT).step_by(250) {
        placed.extend(futures_util::future::join_all((first..COUNT.min(first + 250)).map(publish)).await);
    }
    placed.sort_unstable();
    // Another lane hears of this: then the connection has read all that came before.
    for channel in &live {
        writer.publish(publication(channel, "end", None)).await.unwrap();
    }
    let heard = |heard: &Recorder| live.iter().any(|channel| !heard.told(channel).is_empty()).then_some(());
    slow.inner.until("the end of it", heard).await;
    slow.is_slow.store(false, Ordering::Relaxed);
    let last = placed.last().unwrap().1;
    let told = slow.inner.until_text(&news, &last.to_string()).await;
    assert!(gaps(&told).is_empty());
    let numbers: Vec<u32> = told.iter().map(|told| told.text().parse().unwrap()).collect();
    let expected: Vec<u32> = std::iter::once(0).chain(placed.iter().map(|(_, number)| *number)).collect();
    assert!(numbers == expected, "once each, in the order of the line");
    let overflow = |heard: &Recorder| live.iter().any(|channel| !gaps(&heard.told(channel)).is_empty()).then_some(());
    slow.inner.until("the channels without history to be told", overflow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_refuses_is_not_given_up() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let news = channel("news");
    subscribe(&reader, &news).await;
    writer.publish(publication(&news, "1", Some(KEPT))).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for history in [Some(KEPT), None] {
        let refused = writer.publish(publication(&news, "refused", history)).await;
        assert!(matches!(refused, Err(PublishError::Unavailable { source: Some(_), .. })), "{refused:?}");
    }
    subscribe(&reader, &channel("another")).await;
    // Longer than silence and patience together: probes are refused as well, and that must not look like deafness.
    tokio::time::sleep(Duration::from_millis(3000)).await;
    assert_eq!(heard.states(), [BackplaneState::Live]);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    writer.publish(publication(&news, "2", Some(KEPT))).await.unwrap();
    let told = heard.until_text(&news, "2").await;
    assert_counts(&news, &told, 1);
}

#[tokio::test]
async fn all_nodes_share_a_secret() {
    let mut server = Server::not_started();
    let (paris, oslo) = (Redis::new(server.options(), Recorder::new()), Redis::new(server.options(), Recorder::new()));
    let (here, there, ()) = tokio::join!(paris.shared_secret(), oslo.shared_secret(), server.start());
    let secret = here.unwrap();
    assert!(secret == there.unwrap() && secret != [0; 32]);
    server.command(&["SET", "skywave:secret", "rubbish"]).await;
    assert!(paris.shared_secret().await.unwrap_err().to_string().contains("skywave:secret"));
}

#[tokio::test]
async fn closing_sends_what_was_published_before() {
    let server = Server::started().await;
    let (writer, reader, heard) = pair(&server).await;
    let news = channel("news");
    subscribe(&reader, &news).await;
    let pending: Vec<_> =
        (0..500).map(|number: u32| writer.publish(publication(&news, &number.to_string(), Some(KEPT)))).collect();
    writer.close().await;
    for published in pending {
        published.await.unwrap();
    }
    let told = heard.until_text(&news, "499").await;
    assert_counts(&news, &told, 0);
    let new = NewPublication { key: None, ..publication(&news, "late", Some(KEPT)) };
    assert!(matches!(writer.publish(new).await, Err(PublishError::Unavailable { .. })));
    assert!(matches!(
        writer.subscribe(&[Interest { channel: channel("late"), history: None, presence: false }]).await[..],
        [Err(SubscribeError::Unavailable)]
    ));

    drop(reader);
    let connections = || async {
        let list: String = redis::from_redis_value(server.command(&["CLIENT", "LIST"]).await).unwrap();
        list.lines().filter(|line| line.contains("name=skywave-")).count() == 0
    };
    until("the connections of both to be gone", connections).await;
}

#[tokio::test]
async fn a_master_without_its_replicas_can_be_read() {
    let server = Server::started().await;
    let writer = server.node(Recorder::new()).await;
    let news = channel("news");
    writer.publish(publication(&news, "1", Some(KEPT))).await.unwrap();
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let heard = Recorder::new();
    let late = server.node(heard.clone()).await;
    let start = subscribe(&late, &news).await;
    assert_eq!(start.offset, 1);
    let query = HistoryQuery { since: None, limit: 9, bytes: usize::MAX, followed: false };
    assert_eq!(late.history(&news, query).await.unwrap().publications.len(), 1);
    let refused = late.publish(publication(&news, "2", Some(KEPT))).await;
    assert!(matches!(refused, Err(PublishError::Unavailable { .. })), "{refused:?}");
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    late.publish(publication(&news, "2", Some(KEPT))).await.unwrap();
    writer.publish(publication(&news, "3", Some(KEPT))).await.unwrap();
    let told = heard.until_text(&news, "3").await;
    assert!(gaps(&told).is_empty() && told.len() == 2, "{told:?}");
}

#[tokio::test]
async fn who_was_refused_once_is_served_as_soon_as_it_can_be() {
    let server = Server::started().await;
    let node = server.node(Recorder::new()).await;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let news = channel("news");
    let interest = [Interest { channel: news.clone(), history: Some(KEPT), presence: false }];
    let begun = Instant::now();
    for _ in 0..3 {
        assert!(matches!(node.subscribe(&interest).await[..], [Err(SubscribeError::Unavailable)]));
        node.unsubscribe(std::slice::from_ref(&news)); // it lingers, and is asked for again meanwhile
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "each is answered at once: {:?}", begun.elapsed());
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    assert!(matches!(node.subscribe(&interest).await[..], [Ok(Some(_))]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_outage_only_the_first_subscription_waits_and_none_at_another_master() {
    let (mut lost, well) = (Server::started().await, Server::started().await);
    let urls = [lost.url(), well.url()];
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let options = RedisOptions::parse_all(&urls, "skywave", None, None, "test node").unwrap();
    let node = Redis::new(options, Recorder::new());
    until_live(&node).await;
    lost.kill();
    until("the outage to be seen", || async { node.state() == BackplaneState::Degraded }).await;
    let subscribe = async |word: &str| {
        let interest = |n| Interest { channel: channel(&format!("{word}{n}")), history: Some(KEPT), presence: false };
        let interests: Vec<_> = (0..16).map(interest).collect();
        let (at, answers) = (Instant::now(), node.subscribe(&interests).await);
        let subscribed = answers.iter().filter(|answer| answer.is_ok()).count();
        assert!((1..16).contains(&subscribed), "those of the other master, and only they: {answers:?}");
        at.elapsed()
    };
    subscribe("patient").await;
    let waited = subscribe("not any more").await;
    assert!(waited < Duration::from_millis(1900), "{waited:?}: the patience of 2 s is over");
}

#[tokio::test]
async fn a_signal_that_is_of_no_use_late_leaves_nothing_in_redis() {
    let server = Server::started().await;
    let heard = Recorder::new();
    let node = server.node(heard.clone()).await;
    let keys = async || format!("{:?}", server.command(&["KEYS", "*"]).await).matches("#").count();
    let before = keys().await;
    let (live, kept) = ("live".repeat(1000), "kept");
    // Whether it is heard the first time is not the question: the node may be subscribing still.
    until("a live signal", || async {
        for to in [Target::All, Target::Node(node.incarnation())] {
            node.signal(to, live.clone().into(), Delivery::Live).await.unwrap();
        }
        heard.signals().iter().any(|(_, message)| *message == live)
    })
    .await;
    assert_eq!(keys().await, before);
    node.signal(Target::All, kept.into(), Delivery::Kept).await.unwrap();
    assert!(keys().await > before);
}
