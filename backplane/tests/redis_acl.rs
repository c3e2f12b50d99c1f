//! The user that docs/GUARANTEES.md recommends may do all that the backplane does, and no more than it needs; and what a node
//! says that is not let in.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod support;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use skywave_backplane::{
    Backplane as _, BackplaneState, Cluster as _, Durability, HistoryQuery, NewPublication, Presence as _,
    PublishError, Redis, RedisOptions, Sink,
    conformance::{KEPT, Recorder, World, channel, member, publication, subscribe},
};
use support::{
    cluster::Cluster,
    log::log,
    program::{Program, denied},
    until,
};

const GUARANTEES: &str = include_str!("../../docs/GUARANTEES.md");
const PASSWORD: &str = "hunter2hunter2";

/// The line of the page that begins so, with a password.
fn user(name: &str) -> String {
    let begins = format!("user {name} ");
    let line = GUARANTEES.lines().find(|line| line.starts_with(&begins)).expect("the page has it");
    line.replace("PASSWORD", PASSWORD)
}

fn options(port: u16) -> RedisOptions {
    let url = format!("redis://127.0.0.1:{port}");
    RedisOptions::parse(&url, "skywave", Some("skywave"), Some(PASSWORD), "test node").unwrap()
}

async fn live(options: RedisOptions, sink: Arc<dyn Sink>) -> Redis {
    let redis = Redis::new(options, sink);
    until("the node to be live", || async { redis.state() == BackplaneState::Live }).await;
    redis
}

/// A redis-server that knows the recommended user and no other.
struct Guarded(Program);

impl Guarded {
    async fn started() -> Self {
        Self(Program::with_users(&[&user("skywave")]).await)
    }
}

impl World for Guarded {
    type Node = Redis;
    const JOINS_NODES: bool = true;

    async fn node(&self, sink: Arc<dyn Sink>) -> Redis {
        live(options(self.0.port), sink).await
    }

    async fn pass(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let denied = self.0.denied();
            // The page says that the one is optional, and why it is not in the line; the other is a wrong password.
            let expected = ["config|get", "HELLO"].map(str::to_owned);
            assert!(denied.is_subset(&BTreeSet::from(expected)), "{denied:?}");
        }
    }
}

skywave_backplane::promises!(Guarded::started().await);

#[tokio::test]
async fn waiting_for_replicas_and_the_shared_secret_are_allowed() {
    let world = Guarded::started().await;
    let node = world.node(Recorder::new()).await;
    let durability = Durability::Replicated { replicas: 1, within: Duration::from_millis(20) };
    for history in [Some(KEPT), None] {
        let new = NewPublication { durability, ..publication(&channel("news"), "1", history) };
        let answer = node.publish(new).await;
        assert!(matches!(answer, Err(PublishError::NotReplicated { replicas: 0, .. })), "{answer:?}");
    }
    node.shared_secret().await.unwrap();
}

#[tokio::test]
async fn it_is_enough_in_a_cluster_too() {
    let cluster = Cluster::started().await;
    let line = user("skywave");
    let words: Vec<_> = ["ACL", "SETUSER"].into_iter().chain(line.split(' ').skip(1)).collect();
    cluster.each(&words).await;
    let heard = Recorder::new();
    let options = RedisOptions::parse(&cluster.url(), "skywave", Some("skywave"), Some(PASSWORD), "test node").unwrap();
    let node = live(options, heard.clone()).await;
    for name in ["a", "b", "c", "d", "e", "f"] {
        let channel = channel(name);
        subscribe(&node, &channel).await;
        node.publish(publication(&channel, "1", Some(KEPT))).await.unwrap();
        heard.until_text(&channel, "1").await;
        node.history(&channel, HistoryQuery { since: None, limit: 9, bytes: usize::MAX, followed: false })
            .await
            .unwrap();
        node.join(&channel, member("ada"), 1).await.unwrap();
        until("the member", || async { node.count(&channel).await.is_ok_and(|count| count == 1) }).await;
        node.unsubscribe(std::slice::from_ref(&channel));
    }
    until("the node to be among the living", || async { node.nodes().await.is_ok_and(|nodes| nodes.len() == 1) }).await;
    node.shared_secret().await.unwrap();
    node.close().await;
    for log in cluster.each(&["ACL", "LOG"]).await {
        let denied = denied(log);
        assert!(denied.is_subset(&BTreeSet::from(["config|get".to_owned()])), "{denied:?}");
    }
}

/// Each command that the line allows is there for something.
#[tokio::test]
async fn nothing_is_allowed_that_nobody_needs() {
    let line = user("skywave");
    let allowed: BTreeSet<_> = line.split(' ').filter_map(|word| word.strip_prefix('+')).collect();
    let source = source();
    for command in allowed {
        let needed = NEEDED.contains(&command) || {
            // As our code and our scripts write it.
            let words: Vec<_> = command.split('|').map(str::to_uppercase).collect();
            words.iter().all(|word| source.contains(&format!("\"{word}\"")) || source.contains(&format!("'{word}'")))
        };
        assert!(needed, "{command}");
    }
    assert!(!line.contains('@') && !line.contains("allcommands") && !line.contains("nopass"), "{line}");
}

/// And each that our code and our scripts write is allowed: whoever adds one adds it to the page.
#[tokio::test]
async fn everything_that_is_asked_is_allowed() {
    let (line, source) = (user("skywave"), source());
    let line = [line, user("watcher")].concat().replace('|', " ");
    for before in ["redis.call('", "redis.pcall('", "cmd(\""] {
        for rest in source.split(before).skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap();
            let command = rest[..end].to_lowercase();
            // Optional.
            let is_allowed =
                command == "config" || line.split(' ').any(|word| word.strip_prefix('+') == Some(&*command));
            assert!(is_allowed, "{command}");
        }
    }
}

/// What others write for us: the crates for pub/sub, for a pooled connection's health, and the one that a cluster's
/// scripts have in the place of PUBLISH.
const NEEDED: [&str; 5] = ["subscribe", "unsubscribe", "ping", "unwatch", "spublish"];

fn source() -> String {
    fn read(folder: &std::path::Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, text);
            } else {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    read(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/redis")), &mut text);
    text
}

#[tokio::test]
async fn who_is_not_let_in_says_which_setting_is_wrong() {
    let log = log();
    let world = Guarded::started().await;
    let port = world.0.port;
    let url = format!("redis://127.0.0.1:{port}");
    let parse = |username, password| RedisOptions::parse(&url, "skywave", username, password, "test node").unwrap();
    for (options, reason) in [
        (parse(Some("skywave"), Some("hunter3hunter3")), "WRONGPASS"),
        (parse(Some("nobody"), Some("hunter3hunter3")), "WRONGPASS"),
        (parse(None, None), "NOAUTH"),
    ] {
        let node = Redis::new(options, Recorder::new());
        let line = log.until(port, &["WARN", reason, "backplane.username and backplane.password"]).await;
        assert_eq!(node.state(), BackplaneState::Never, "{line}");
        node.close().await;
    }
    assert!(!log.text().contains("hunter"), "a secret is in the log");
}

#[tokio::test]
async fn a_user_that_may_too_little_says_what() {
    let log = log();
    let line = user("skywave").replace(" +evalsha", "");
    let program = Program::with_users(&[&line]).await;
    let node = Redis::new(options(program.port), Recorder::new());
    log.until(program.port, &["WARN", "no permissions", "evalsha"]).await;
    assert_eq!(node.state(), BackplaneState::Never);
}

#[tokio::test]
async fn the_users_of_a_sentinel_are_its_own() {
    let log = log();
    let world = Guarded::started().await;
    let master = format!("sentinel monitor main 127.0.0.1 {} 1", world.0.port);
    let watcher = user("watcher");
    let settings = [
        &*master,
        "sentinel auth-user main admin",
        "sentinel auth-pass main admin",
        "user default off",
        "user admin on >admin ~* &* +@all",
        &watcher,
    ];
    let sentinel = Program::sentinel(&settings).await;
    let url = format!("redis-sentinel://127.0.0.1:{}/main", sentinel.port);
    let options = || RedisOptions::parse(&url, "skywave", Some("skywave"), Some(PASSWORD), "test node").unwrap();

    let stranger = Redis::new(options(), Recorder::new());
    log.until(sentinel.port, &["WARN", "no sentinel names a master", "NOAUTH", "backplane.sentinel_password"]).await;
    let wrong = options().with_sentinel_credentials(Some("watcher"), Some("hunter3"));
    let mistaken = Redis::new(wrong, Recorder::new());
    log.until(sentinel.port, &["WARN", "WRONGPASS", "backplane.sentinel_username"]).await;
    assert_eq!((stranger.state(), mistaken.state()), (BackplaneState::Never, BackplaneState::Never));
    stranger.close().await;
    mistaken.close().await;

    let heard = Recorder::new();
    let node = live(options().with_sentinel_credentials(Some("watcher"), Some(PASSWORD)), heard.clone()).await;
    let news = channel("news");
    subscribe(&node, &news).await;
    node.publish(publication(&news, "1", Some(KEPT))).await.unwrap();
    heard.until_text(&news, "1").await;
    assert_eq!(sentinel.denied(), BTreeSet::from(["HELLO".to_owned()]), "only who did not know the password");
    assert!(!log.text().contains("hunter"), "a secret is in the log");
}
