//! `redis-benchmark`, which is what Redis ships for comparison.

use std::process::Stdio;

use skywave_proto::ChannelName;
use tokio::task::spawn_blocking;

use crate::{BYTES, server::Server};

/// `PUBLISH`es a second.
pub(crate) async fn publish(server: &Server, clients: u32, depth: u32) -> f64 {
    let payload = "x".repeat(BYTES);
    let count = if depth == 1 { 200_000 } else { 1_000_000 };
    run(server, clients, depth, count, &["PUBLISH", "bench:__rand_int__", &payload]).await
}

/// Our script for publications with history, a second.
pub(crate) async fn history(server: &Server, clients: u32, depth: u32) -> f64 {
    call_history(server, clients, depth, 200_000).await
}

async fn call_history(server: &Server, clients: u32, depth: u32, count: u32) -> f64 {
    let digest = load(server).await;
    let payload = "x".repeat(BYTES + 20);
    let keys = ["m", "l", "c"].map(|kind| format!("peer:{kind}:__rand_int__"));
    let arguments = ["1", "abcdefgh", "100", "600000", "3600000", "300000"];
    let mut command = vec!["EVALSHA", &digest, "3"];
    command.extend(keys.iter().map(String::as_str));
    command.extend(arguments);
    command.push(&payload);
    command.push("0");
    run(server, clients, depth, count, &command).await
}

/// Redis' CPU for a `PUBLISH`, in seconds.
pub(crate) async fn publish_cpu(server: &Server) -> f64 {
    let before = server.cpu();
    let payload = "x".repeat(BYTES);
    run(server, 1, 64, 500_000, &["PUBLISH", "bench:__rand_int__", &payload]).await;
    (server.cpu() - before).as_secs_f64() / 500_000.0
}

/// Redis' CPU for our script, in seconds.
pub(crate) async fn history_cpu(server: &Server) -> f64 {
    let before = server.cpu();
    call_history(server, 1, 64, 200_000).await;
    (server.cpu() - before).as_secs_f64() / 200_000.0
}

/// Publishes frames of a live-only channel: its real name comes from a node's subscription.
pub(crate) async fn frames(server: &Server, channel: &ChannelName, count: u32) {
    let mut connection = server.connection().await;
    let pattern = format!("*:c:{channel}");
    let names: Vec<String> =
        redis::cmd("PUBSUB").arg("CHANNELS").arg(pattern).query_async(&mut connection).await.unwrap();
    // Version 1, no position, an envelope with a binary payload: see redis/frame.rs. Without zero bytes, for it is an
    // argument on a command line: flags 0 cannot be given there, so a script puts the frame together.
    let script = "redis.call('SET', 'frame', string.char(1, 0, 10, 2 + #ARGV[1], 26, #ARGV[1]) .. ARGV[1]) return 1";
    let payload = "x".repeat(100);
    redis::cmd("EVAL").arg(script).arg(0).arg(payload).exec_async(&mut connection).await.unwrap();
    let batch = "local f = redis.call('GET', 'frame') for i = 1, 50 do redis.call('PUBLISH', KEYS[1], f) end";
    let digest: String = redis::cmd("SCRIPT").arg("LOAD").arg(batch).query_async(&mut connection).await.unwrap();
    run(server, 1, 2, count / 50, &["EVALSHA", &digest, "1", &names[0]]).await;
}

/// Our script for publications without history, a second: the most that publishing through a script can reach.
pub(crate) async fn fenced(server: &Server, clients: u32, depth: u32) -> f64 {
    let mut connection = server.connection().await;
    let code = include_str!("../../src/redis/scripts/publish_live.lua");
    let digest: String = redis::cmd("SCRIPT").arg("LOAD").arg(code).query_async(&mut connection).await.unwrap();
    let payload = "x".repeat(BYTES + 20);
    let command = ["EVALSHA", &digest, "1", "bench:__rand_int__", &payload, "300000", "0"];
    run(server, clients, depth, 500_000, &command).await
}

async fn load(server: &Server) -> String {
    let mut connection = server.connection().await;
    let code = concat!(
        "#!lua\n",
        include_str!("../../src/redis/scripts/append.lua"),
        include_str!("../../src/redis/scripts/publish.lua")
    );
    redis::cmd("SCRIPT").arg("LOAD").arg(code).query_async(&mut connection).await.unwrap()
}

async fn run(server: &Server, clients: u32, depth: u32, count: u32, command: &[&str]) -> f64 {
    let mut benchmark = std::process::Command::new("redis-benchmark");
    benchmark
        .args(["-p", &server.port.to_string(), "-c", &clients.to_string(), "-P", &depth.to_string()])
        .args(["-n", &count.to_string(), "-r", "1000", "--csv"])
        .args(command)
        .stderr(Stdio::null());
    let output = spawn_blocking(move || benchmark.output().expect("redis-benchmark is installed: make setup"));
    let text = String::from_utf8(output.await.unwrap().stdout).unwrap();
    // "test","rps",…  then a line with figures; the name of the test may hold commas and quotes.
    let figures = text.lines().last().unwrap();
    let fields: Vec<_> = figures.rsplit("\",\"").collect();
    fields[fields.len() - 2].trim_matches('"').parse().unwrap_or_else(|_| panic!("redis-benchmark said {text}"))
}
