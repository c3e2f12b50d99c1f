//! What a node says about the settings of its Redis, and which Redis it does not use at all.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod support;

use skywave_backplane::{Backplane as _, BackplaneState, Needs, Redis, RedisOptions, conformance::Recorder};
use support::{log::log, program::Program, until};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

fn options(port: u16) -> RedisOptions {
    let url = format!("redis://127.0.0.1:{port}");
    RedisOptions::parse(&url, "skywave", None, None, "test node").unwrap()
}

async fn until_state(node: &Redis, state: BackplaneState) {
    until("the node's state", || async { node.state() == state }).await;
}

#[tokio::test]
async fn settings_that_will_hurt_are_told_once() {
    let log = log();
    let settings = ["save \"\"", "maxmemory-policy allkeys-lru", "client-output-buffer-limit pubsub 1mb 1mb 1"];
    let server = Program::redis(&settings).await;
    let needs = Needs { history: true, replicas: true };
    let node = Redis::new(options(server.port).with_needs(needs), Recorder::new());
    until_state(&node, BackplaneState::Live).await;
    // Reached again: by then everything has been said.
    let lives = || log.of(server.port).iter().filter(|line| line.contains("every channel is delivered")).count();
    for kind in ["normal", "pubsub"] {
        server.ask(&["CLIENT", "KILL", "TYPE", kind]);
    }
    until("the node to be live again", || async { lives() >= 2 }).await;
    let warnings: Vec<_> =
        log.of(server.port).into_iter().filter(|line| line.contains("WARN") && line.contains("setting=")).collect();
    for setting in ["maxmemory-policy", "appendonly", "min-replicas-to-write", "client-output-buffer-limit"] {
        let about = format!("setting=\"{setting}\"");
        assert_eq!(warnings.iter().filter(|line| line.contains(&about)).count(), 1, "{setting}: {warnings:#?}");
    }
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
}

#[tokio::test]
async fn good_settings_are_not_talked_about_and_neither_are_hidden_ones() {
    let log = log();
    let good = Program::redis(&["appendonly yes", "maxmemory-policy volatile-ttl"]).await;
    let hidden = Program::redis(&["save \"\"", "rename-command CONFIG \"\""]).await;
    for server in [&good, &hidden] {
        let needs = Needs { history: true, replicas: false };
        let node = Redis::new(options(server.port).with_needs(needs), Recorder::new());
        until_state(&node, BackplaneState::Live).await;
        assert!(!log.of(server.port).iter().any(|line| line.contains("WARN")), "{:?}", log.of(server.port));
    }
}

#[tokio::test]
async fn the_settings_that_we_recommend_are_not_talked_about() {
    let log = log();
    let page = include_str!("../../docs/GUARANTEES.md");
    let (_, section) = page.split_once("## The Redis to run").unwrap();
    let block = section.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let settings: Vec<_> = block.lines().collect();
    assert!(settings.contains(&"appendonly yes"), "{settings:?}");
    let server = Program::redis(&settings).await;
    let needs = Needs { history: true, replicas: false };
    let node = Redis::new(options(server.port).with_needs(needs), Recorder::new());
    until_state(&node, BackplaneState::Live).await;
    assert!(!log.of(server.port).iter().any(|line| line.contains("WARN")), "{:?}", log.of(server.port));
}

/// Answers as an old one does, as far as a node asks it.
async fn pretend(info: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                // Of each command only its first word is looked at: *N, $N, word, and the rest.
                while let Ok(Some(count)) = lines.next_line().await {
                    let Some(count) = count.strip_prefix('*').and_then(|count| count.parse::<usize>().ok()) else {
                        continue;
                    };
                    let mut words = Vec::new();
                    for _ in 0..count {
                        let _ = lines.next_line().await;
                        words.extend(lines.next_line().await.ok().flatten());
                    }
                    let answer = match words[0].as_str() {
                        "HELLO" => "%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".to_owned(),
                        "INFO" => format!("${}\r\n{info}\r\n", info.len()),
                        _ => "-ERR unknown command\r\n".to_owned(),
                    };
                    if write.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_redis_that_would_lose_publications_is_not_used() {
    let log = log();
    for (info, words) in [
        ("redis_version:6.2.14\r\nrole:master\r\n", ["6.2.14", "Redis 7.0 or Valkey 8", "Upgrade it"]),
        ("redis_version:6.3.4\r\nrole:active-replica\r\n", ["KeyDB", "active-replica no", "backplane.url"]),
    ] {
        let port = pretend(info).await;
        let node = Redis::new(options(port), Recorder::new());
        log.until(port, &["WARN", words[0], words[1], words[2]]).await;
        assert_eq!(node.state(), BackplaneState::Never);
        node.close().await;
    }
}
