//! Who is on a channel while nodes die, stand still or go, and while Redis does: no ghosts, and nobody leaves who is there.

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skywave_backplane::{
    Backplane as _, BackplaneState, Cluster as _, Presence as _, PresenceEvent, Redis, RedisOptions, TransitionKind,
    conformance::{Recorder, channel, client_of, follow, member},
};
use skywave_proto::ChannelName;
use support::{Server, until};
use tokio::runtime::Runtime;

/// A shorter lease than a node may have, for tests that wait for its end.
const LEASE: Duration = Duration::from_millis(2400);
const GRACE: Duration = Duration::from_millis(600);

async fn node(server: &Server, heard: Arc<Recorder>) -> Redis {
    let redis = Redis::new(server.options().with_session_grace(GRACE).with_lease(LEASE), heard);
    until("the node to be live", || async { redis.state() == BackplaneState::Live }).await;
    redis
}

async fn join_all(node: &Redis, room: &ChannelName, clients: std::ops::Range<u32>, connection: u64) {
    let joins = clients.map(|client| node.join(room, member(&format!("c{client}")), connection));
    for joined in futures_util::future::join_all(joins).await {
        joined.expect("the backplane is there");
    }
}

/// How often each client joined and left, as it was told.
fn tally(heard: &Recorder, room: &ChannelName) -> BTreeMap<String, (u32, u32)> {
    let mut tally = BTreeMap::<String, (u32, u32)>::new();
    for event in heard.presence_told(room) {
        match event.expect("nothing is missing") {
            PresenceEvent::Join(member) => tally.entry(member.client.to_string()).or_default().0 += 1,
            PresenceEvent::Leave(member) => tally.entry(member.client.to_string()).or_default().1 += 1,
        }
    }
    tally
}

async fn until_count(node: &Redis, room: &ChannelName, count: u64) {
    until(&format!("{count} members"), || async { node.count(room).await.is_ok_and(|now| now == count) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_members_of_a_dead_node_leave_once_and_those_who_came_back_do_not() {
    let server = Server::started().await;
    let heard = Recorder::new();
    let living = node(&server, heard.clone()).await;
    let room = channel("room");
    follow(&living, &room).await;
    // A node of its own runtime can be ended without a word, as by kill -9.
    let elsewhere = Runtime::new().unwrap();
    let options = server.options().with_session_grace(GRACE).with_lease(LEASE);
    let dead = elsewhere
        .spawn(async move {
            let dead = Redis::new(options, Recorder::new());
            until("the node to be live", || async { dead.state() == BackplaneState::Live }).await;
            join_all(&dead, &channel("room"), 0..2000, 1).await;
            dead
        })
        .await
        .unwrap();
    assert_eq!(living.count(&room).await.unwrap(), 2000);
    assert_eq!(living.nodes().await.unwrap().len(), 2);
    std::mem::forget(dead); // its destructor would tell its tasks to end well
    elsewhere.shutdown_background();
    let died = tokio::time::Instant::now();
    join_all(&living, &room, 0..500, 2).await;
    until_count(&living, &room, 500).await;
    println!("2,000 members of a dead node were gone after {:?}", died.elapsed());
    let all_left =
        |heard: &Recorder| (tally(heard, &room).values().filter(|(_, left)| *left == 1).count() == 1500).then_some(());
    heard.until("1,500 leaves", all_left).await;
    for (client, (joined, left)) in tally(&heard, &room) {
        let came_back = client[1..].parse::<u32>().unwrap() < 500;
        assert_eq!((joined, left), (1, u32::from(!came_back)), "{client}");
    }
    assert_eq!(living.nodes().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_leaves_because_redis_was_away() {
    let mut server = Server::persistent(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let heards = [Recorder::new(), Recorder::new()];
    let nodes = [node(&server, heards[0].clone()).await, node(&server, heards[1].clone()).await];
    let room = channel("room");
    for node in &nodes {
        follow(node, &room).await;
    }
    for (number, node) in (0..).zip(&nodes) {
        join_all(node, &room, number * 500..(number + 1) * 500, 1).await;
    }
    for heard in &heards {
        heard.until("all joins", |heard| (tally(heard, &room).len() == 1000).then_some(())).await;
    }
    // Stalled for longer than a lease, then gone for longer than a lease.
    server.signal("STOP");
    tokio::time::sleep(2 * LEASE).await;
    server.signal("CONT");
    for node in &nodes {
        until("the node to be live", || async { node.state() == BackplaneState::Live }).await;
    }
    tokio::time::sleep(LEASE).await; // in which nobody may be judged
    server.kill();
    tokio::time::sleep(2 * LEASE).await;
    server.start().await;
    for node in &nodes {
        until("the node to be live", || async { node.state() == BackplaneState::Live }).await;
    }
    tokio::time::sleep(2 * LEASE).await;
    until_count(&nodes[0], &room, 1000).await;
    for heard in &heards {
        let tally = tally(heard, &room);
        assert!(tally.len() == 1000 && tally.values().all(|events| *events == (1, 0)), "{tally:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_redis_has_lost_are_written_again_without_a_word() {
    let server = Server::started().await;
    let heard = Recorder::new();
    let nodes = [node(&server, heard.clone()).await, node(&server, Recorder::new()).await];
    let room = channel("room");
    follow(&nodes[0], &room).await;
    join_all(&nodes[0], &room, 0..300, 1).await;
    join_all(&nodes[1], &room, 300..600, 1).await;
    heard.until("all joins", |heard| (tally(heard, &room).len() == 600).then_some(())).await;
    server.command(&["FLUSHALL"]).await;
    until_count(&nodes[0], &room, 600).await;
    until("the nodes to be known again", || async { nodes[0].nodes().await.is_ok_and(|nodes| nodes.len() == 2) }).await;
    // The stream of joins and leaves was lost too: a list of members has to be read again, once they are all back.
    let told = heard
        .until("that some may be missing", |heard| {
            let told = heard.presence_told(&room);
            told.contains(&None).then_some(told)
        })
        .await;
    assert_eq!(told.len(), 601, "600 joins and the gap");
    nodes[1].leave(&room, &"c300".into(), 1, Duration::ZERO).await.unwrap();
    heard.until("the leave", |heard| (heard.presence_told(&room).len() == 602).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_and_leaves_are_told_once_through_killed_connections() {
    let server = Server::started().await;
    let heard = Recorder::new();
    let (here, other) = (node(&server, heard.clone()).await, node(&server, Recorder::new()).await);
    let room = channel("room");
    follow(&here, &room).await;
    for round in 0..5 {
        join_all(&other, &room, round * 100..(round + 1) * 100, 1).await;
        for kind in ["pubsub", "normal"] {
            server.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
        }
        for client in (round * 100..(round + 1) * 100).step_by(2) {
            // While Redis is reached anew the answer may be late; the leave is not.
            let _ = other.leave(&room, &format!("c{client}").into(), 1, Duration::ZERO).await;
        }
    }
    until_count(&here, &room, 250).await;
    let all = |heard: &Recorder| {
        let tally = tally(heard, &room);
        (tally.len() == 500 && tally.values().filter(|(_, left)| *left > 0).count() == 250).then_some(tally)
    };
    for (client, events) in heard.until("all joins and leaves", all).await {
        let stays = client[1..].parse::<u32>().unwrap() % 2 == 1;
        assert_eq!(events, (1, u32::from(!stays)), "{client}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_too_long_is_repaired() {
    let server = Server::started().await;
    let heard = Recorder::new();
    let (living, still) = (node(&server, heard.clone()).await, node(&server, Recorder::new()).await);
    let room = channel("room");
    follow(&living, &room).await;
    join_all(&still, &room, 0..200, 1).await;
    let before = still.incarnation();
    still.stand_still(true);
    until_count(&living, &room, 0).await;
    still.stand_still(false);
    until_count(&living, &room, 200).await;
    assert_ne!(still.incarnation(), before, "it is another one now");
    let all_back = |heard: &Recorder| {
        let tally = tally(heard, &room);
        tally.values().all(|events| *events == (2, 1)).then_some(tally)
    };
    assert_eq!(heard.until("everybody to be back", all_back).await.len(), 200);
    join_all(&living, &room, 0..1, 2).await;
    still.leave(&room, &"c1".into(), 1, Duration::ZERO).await.unwrap();
    until_count(&living, &room, 199).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_members_of_a_node_that_went_leave_when_the_grace_is_over() {
    let server = Server::started().await;
    let heard = Recorder::new();
    let (living, going) = (node(&server, heard.clone()).await, node(&server, Recorder::new()).await);
    let room = channel("room");
    follow(&living, &room).await;
    join_all(&going, &room, 0..100, 1).await;
    for client in 0..100 {
        going.leave(&room, &format!("c{client}").into(), 1, GRACE).await.unwrap();
    }
    going.close().await;
    join_all(&living, &room, 0..50, 2).await;
    until_count(&living, &room, 50).await;
    let left = |heard: &Recorder| {
        let tally = tally(heard, &room);
        (tally.values().filter(|(_, left)| *left == 1).count() == 50).then_some(tally)
    };
    for (client, events) in heard.until("50 leaves", left).await {
        let came_back = client[1..].parse::<u32>().unwrap() < 50;
        assert_eq!(events, (1, u32::from(!came_back)), "{client}");
    }
    assert_eq!(living.nodes().await.unwrap().len(), 1, "who has resigned is not listed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_leaves_because_the_clock_of_redis_jumped() {
    let server = Server::started().await;
    let heard = Recorder::new();
    let (here, other) = (node(&server, heard.clone()).await, node(&server, Recorder::new()).await);
    let room = channel("room");
    follow(&here, &room).await;
    join_all(&other, &room, 0..100, 1).await;
    let keys: Vec<String> = redis::from_redis_value(server.command(&["KEYS", "skywave:*}:n"]).await).unwrap();
    // Every beat of the other looks an hour old, as when the clock goes ahead between a beat and the look at it.
    let script = "local beat = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1])) \
                  if beat and beat > redis.call('TIME')[1] * 1000 - 1800000 then \
                    redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', beat - 3600000), ARGV[1]) end";
    for _ in 0..150 {
        server.command(&["EVAL", script, "1", &keys[0], &other.incarnation()]).await;
        tokio::time::sleep(LEASE / 60).await;
    }
    assert_eq!(here.count(&room).await.unwrap(), 100);
    assert!(tally(&heard, &room).values().all(|events| *events == (1, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burial_that_fails_does_not_keep_the_next_one_waiting() {
    let mut servers = [Server::started().await, Server::started().await];
    let urls = servers.each_ref().map(Server::url);
    let node = async || {
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        let options = RedisOptions::parse_all(&urls, "skywave", None, None, "test node").unwrap();
        let node = Redis::new(options.with_session_grace(GRACE).with_lease(LEASE), Recorder::new());
        until("the node to be live", || async { node.state() == BackplaneState::Live }).await;
        node
    };
    let (_living, dead) = (node().await, node().await);
    let has = async |server: &Server, pattern: &str| !matches!(server.command(&["KEYS", pattern]).await, redis::Value::Array(keys) if keys.is_empty());
    let registry = usize::from(has(&servers[1], "*:n").await);
    servers[1 - registry].kill();
    dead.stand_still(true);
    let registry = &servers[registry];
    until("a burial to begin", || has(registry, "*:nt:*")).await;
    let began = tokio::time::Instant::now();
    until("the lock of the failed burial to be gone", || async { !has(registry, "*:nl:*").await }).await;
    assert!(began.elapsed() < Duration::from_secs(10), "long before it would have ended by itself, after 15 s");
}

/// Joins so many clients, four of each user.
async fn join_users(node: &Redis, room: &ChannelName, clients: std::ops::Range<u32>, connection: u64) {
    let joins = clients.map(|client| {
        let member = client_of(Some(&format!("u{}", client / 4)), &format!("c{client}"));
        node.join(room, member, connection)
    });
    for joined in futures_util::future::join_all(joins).await {
        joined.expect("the backplane is there");
    }
}

/// How often each user came and went, as several nodes were told.
fn users_told(heard: &[&Arc<Recorder>], room: &ChannelName) -> BTreeMap<String, (u32, u32)> {
    let mut tally = BTreeMap::<String, (u32, u32)>::new();
    for transition in heard.iter().flat_map(|heard| heard.transitions(room)) {
        let (came, went) = tally.entry(transition.member.user.expect("all have one").to_string()).or_default();
        match transition.kind {
            TransitionKind::Joined => *came += 1,
            TransitionKind::Left => *went += 1,
        }
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_of_a_dead_node_go_once_and_those_who_are_elsewhere_too_do_not() {
    let server = Server::started().await;
    let heard = [Recorder::new(), Recorder::new()];
    let living = [node(&server, heard[0].clone()).await, node(&server, heard[1].clone()).await];
    living.iter().for_each(|node| node.tell_transitions(true));
    let room = channel("room");
    let elsewhere = Runtime::new().unwrap();
    let options = server.options().with_session_grace(GRACE).with_lease(LEASE);
    let dying = Recorder::new();
    let its_sink = dying.clone();
    let dead = elsewhere
        .spawn(async move {
            let dead = Redis::new(options, its_sink);
            dead.tell_transitions(true);
            until("the node to be live", || async { dead.state() == BackplaneState::Live }).await;
            join_users(&dead, &channel("room"), 0..2000, 1).await;
            dead
        })
        .await
        .unwrap();
    assert_eq!(users_told(&[&dying], &room).len(), 500);
    // As if it had died before it heard of one more.
    let unheard = channel("unheard");
    let pattern = format!("skywave:*}}:pn:{}", dead.incarnation());
    let keys: Vec<String> = redis::from_redis_value(server.command(&["KEYS", &pattern]).await).unwrap();
    let untold = keys[0].replace(":pn:", ":pt:");
    server.command(&["SADD", &untold, "J1 1 abcdefgh:1 unheard\n\n\u{1}c"]).await;
    // Users 0 to 99 have a client that came back, users 100 to 149 one that was elsewhere all the time.
    let others =
        (100..150).map(|user| living[1].join(&room, client_of(Some(&format!("u{user}")), &format!("d{user}")), 1));
    for joined in futures_util::future::join_all(others).await {
        joined.unwrap();
    }
    std::mem::forget(dead); // its destructor would tell its tasks to end well
    elsewhere.shutdown_background();
    let back =
        (0..100).map(|user| living[0].join(&room, client_of(Some(&format!("u{user}")), &format!("c{}", user * 4)), 2));
    for joined in futures_util::future::join_all(back).await {
        joined.unwrap();
    }
    until_count(&living[0], &room, 150).await;
    let all = [&dying, &heard[0], &heard[1]];
    until("the last to be told of", || async {
        users_told(&all, &room).values().filter(|(_, went)| *went > 0).count() >= 350
    })
    .await;
    for (user, (came, went)) in users_told(&all, &room) {
        let stays = user[1..].parse::<u32>().unwrap() < 150;
        assert_eq!((came, went), (1, u32::from(!stays)), "{user}");
    }
    let inherited = heard.iter().map(|heard| heard.transitions(&unheard).len()).sum::<usize>();
    assert_eq!(inherited, 1, "whoever buries it tells what it has not told");
    assert!(dying.transitions(&unheard).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_told_of_once_through_killed_connections() {
    let server = Server::started().await;
    let heard = [Recorder::new(), Recorder::new()];
    let nodes = [node(&server, heard[0].clone()).await, node(&server, heard[1].clone()).await];
    nodes.iter().for_each(|node| node.tell_transitions(true));
    let room = channel("room");
    for round in 0..10 {
        let clients = round * 200..(round + 1) * 200;
        let killing = async {
            for _ in 0..4 {
                server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
            }
        };
        // Each user has clients on both nodes. While Redis is reached anew an answer may be late; what it stands for is not.
        let joins = clients.clone().map(|client| {
            let member = client_of(Some(&format!("u{}", client / 4)), &format!("c{client}"));
            nodes[client as usize % 2].join(&room, member, 1)
        });
        futures_util::future::join(futures_util::future::join_all(joins), killing).await;
        let leaves = clients.filter(|client| client % 8 < 4).map(async |client| {
            nodes[client as usize % 2].leave(&room, &format!("c{client}").into(), 1, Duration::ZERO).await
        });
        futures_util::future::join_all(leaves).await;
    }
    until_count(&nodes[0], &room, 1000).await;
    let all = [&heard[0], &heard[1]];
    let everything = || {
        let told = users_told(&all, &room);
        told.len() == 500 && told.values().filter(|(_, went)| *went > 0).count() == 250
    };
    until("everybody to be told of", || async { everything() }).await;
    for (user, told) in users_told(&all, &room) {
        let stays = user[1..].parse::<u32>().unwrap() % 2 == 1;
        assert_eq!(told, (1, u32::from(!stays)), "{user}");
    }
    let untold = server.command(&["KEYS", "skywave:*}:pt:*"]).await;
    assert_eq!(untold, redis::Value::Array(Vec::new()), "what was told is not kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_counted_again_when_redis_has_lost_them() {
    let server = Server::started().await;
    let heard = Recorder::new();
    let nodes = [node(&server, heard.clone()).await, node(&server, Recorder::new()).await];
    nodes.iter().for_each(|node| node.tell_transitions(true));
    let room = channel("room");
    join_users(&nodes[0], &room, 0..40, 1).await;
    join_users(&nodes[1], &room, 40..42, 1).await;
    join_users(&nodes[0], &room, 42..44, 1).await;
    let told = users_told(&[&heard], &room);
    // All of it; the members are written again, and nobody is told.
    server.command(&["FLUSHALL"]).await;
    until("the members to be written again", || async { nodes[0].count(&room).await.is_ok_and(|count| count == 44) })
        .await;
    assert_eq!(users_told(&[&heard], &room), told);
    // Only the counts, as when memory was short.
    let keys: Vec<String> = redis::from_redis_value(server.command(&["KEYS", "skywave:*}:pu:*"]).await).unwrap();
    assert_eq!(keys.len(), 1);
    server.command(&["DEL", &keys[0]]).await;
    for client in [0, 1, 2, 42] {
        nodes[0].leave(&room, &format!("c{client}").into(), 1, Duration::ZERO).await.unwrap();
    }
    assert_eq!(users_told(&[&heard], &room), told, "each has another client");
    nodes[0].leave(&room, &"c3".into(), 1, Duration::ZERO).await.unwrap();
    assert_eq!(users_told(&[&heard], &room)["u0"], (1, 1));
    let lives: i64 = redis::from_redis_value(server.command(&["PTTL", &keys[0]]).await).unwrap();
    assert!(lives > 3_000_000, "{lives}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_did_without_an_answer_is_told_all_the_same() {
    let server = Server::started().await;
    let heard = Recorder::new();
    let node = node(&server, heard.clone()).await;
    node.tell_transitions(true);
    let room = channel("room");
    join_users(&node, &room, 0..40, 1).await;
    // What is sent now is carried out when nobody waits for it any more, and then sent again.
    server.signal("STOP");
    let joins =
        (40..80).map(|client| node.join(&room, client_of(Some(&format!("u{client}")), &format!("c{client}")), 1));
    let leaves = (0..40).map(async |client| node.leave(&room, &format!("c{client}").into(), 1, Duration::ZERO).await);
    let answers = futures_util::future::join(
        futures_util::future::join_all(joins),
        futures_util::future::join_all(leaves.map(Box::pin)),
    );
    let (joins, leaves) = answers.await;
    assert!(joins.iter().chain(&leaves).all(Result::is_err), "redis stands still");
    server.signal("CONT");
    let told = |heard: &Recorder| (heard.transitions(&room).len() >= 60).then_some(());
    heard.until("10 that came before, 40 that came and 10 that went", told).await;
    until_count(&node, &room, 40).await;
    let told = users_told(&[&heard], &room);
    assert_eq!(told.len(), 50);
    for (user, times) in told {
        let went = user[1..].parse::<u32>().unwrap() < 10;
        assert_eq!(times, (1, u32::from(went)), "{user}");
    }
}
