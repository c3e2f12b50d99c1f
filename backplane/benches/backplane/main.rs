//! What the backplane through Redis costs, as ratios to `redis-benchmark` and to plain requests in the same run.
//!
//! `make bench-backplane` (or `cargo bench -p skywave-backplane`) prints a table in Markdown. The machine is shared and
//! small: rates swing, ratios within one run much less. Each figure is the median of interleaved rounds.
// Figures, not counters.
#![allow(clippy::cast_precision_loss, clippy::unwrap_used)]

mod cpu;
mod herd;
mod peer;
mod server;
mod sinks;
mod table;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use skywave_backplane::{Backplane as _, Durability, HistoryPolicy, Interest, NewPublication, Redis, Sink};
use skywave_proto::{ChannelName, Payload};
use tokio::sync::Notify;

use self::{
    server::Server,
    sinks::Counting,
    table::{Table, median},
};

const ROUNDS: usize = 3;
const CHANNELS: usize = 1000;
const BYTES: usize = 128;
const KEPT: HistoryPolicy =
    HistoryPolicy { size: 100, ttl: Duration::from_secs(600), meta_ttl: Duration::from_secs(3600) };

fn main() {
    // `cargo test --benches` only wants to know whether it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut table = Table::new();
        let wants = |name: &str| only.is_empty() || only.iter().any(|only| name.contains(only.as_str()));
        if wants("publish") {
            publishing(&mut table).await;
        }
        if wants("latency") {
            latency(&mut table).await;
        }
        if wants("receive") {
            receiving(&mut table).await;
        }
        if wants("herd") {
            herd::run(&mut table).await;
        }
        table.print();
    });
}

fn channel(number: usize) -> ChannelName {
    ChannelName::parse(&format!("bench:{number}")).unwrap()
}

fn publication(channel: &ChannelName, history: Option<HistoryPolicy>) -> NewPublication {
    NewPublication {
        channel: channel.clone(),
        payload: Payload::binary(Bytes::from(vec![b'x'; BYTES])),
        client: None,
        user: None,
        published_at_ms: 1_700_000_000_000,
        key: None,
        history,
        durability: Durability::Accepted,
    }
}

/// What many callers reach together.
struct Published {
    per_second: f64,
    p99: Duration,
    our_cpu: Duration,
    redis_cpu: Duration,
}

/// `callers` tasks publish one after the other for `time`.
async fn publish(
    node: &Redis,
    server: &Server,
    callers: usize,
    history: Option<HistoryPolicy>,
    time: Duration,
) -> Published {
    let channels: Arc<Vec<_>> = Arc::new((0..CHANNELS).map(channel).collect());
    let (until, ours, theirs) = (Instant::now() + time, cpu::own(), server.cpu());
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let (node, channels) = (node.clone(), channels.clone());
        tasks.spawn(async move {
            let (mut number, mut took) = (caller, Vec::new());
            while Instant::now() < until {
                let began = Instant::now();
                node.publish(publication(&channels[number % CHANNELS], history)).await.unwrap();
                took.push(began.elapsed());
                number += callers;
            }
            took
        });
    }
    let mut took: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let elapsed = begun.elapsed();
    took.sort_unstable();
    let count = took.len() as f64;
    Published {
        per_second: count / elapsed.as_secs_f64(),
        p99: took[took.len() * 99 / 100],
        our_cpu: (cpu::own() - ours).div_f64(count),
        redis_cpu: (server.cpu() - theirs).div_f64(count),
    }
}

async fn publishing(table: &mut Table) {
    const TIME: Duration = Duration::from_secs(2);
    let server = Server::started().await;
    let node = server.node(Counting::new()).await;
    let (mut piped, mut plain, mut script, mut fenced) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut live, mut few, mut history) = (Vec::new(), Vec::new(), Vec::new());
    let (mut costs_live, mut costs_history) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        piped.push(peer::publish(&server, 1, 64).await);
        live.push(publish(&node, &server, 2048, None, TIME).await);
        fenced.push(peer::fenced(&server, 4, 64).await);
        plain.push(peer::publish(&server, 50, 1).await);
        few.push(publish(&node, &server, 64, None, TIME).await);
        script.push(peer::history(&server, 4, 64).await);
        history.push(publish(&node, &server, 2048, Some(KEPT), TIME).await);
        costs_live.push(peer::publish_cpu(&server).await);
        costs_history.push(peer::history_cpu(&server).await);
    }
    let rate = |all: &[Published]| median(all.iter().map(|published| published.per_second));
    let (piped, plain, script) = (median(piped), median(plain), median(script));
    let fenced = median(fenced);
    table.at_least(
        "live publish, 2,048 callers, x redis-benchmark EVALSHA of the same script -c 4 -P 64",
        rate(&live) / fenced,
        0.95,
    );
    table.at_least("live publish, 2,048 callers, x redis-benchmark PUBLISH -c 1 -P 64", rate(&live) / piped, 1.0);
    table.at_least("the same, x redis-benchmark PUBLISH -c 50 -P 1", rate(&live) / plain, 4.0);
    table.at_least("live publish, 64 callers, x redis-benchmark PUBLISH -c 50 -P 1", rate(&few) / plain, 2.0);
    let p99 = median(few.iter().map(|published| published.p99.as_secs_f64() * 1e3));
    table.at_most("the same, p99 in ms", p99, 0.5);
    table.at_least(
        "history publish, 2,048 callers, x redis-benchmark EVALSHA -c 4 -P 64",
        rate(&history) / script,
        0.95,
    );
    let ours = median(live.iter().map(|published| published.our_cpu.as_secs_f64() * 1e6));
    table.at_most("our CPU for each live publish in us, its caller included", ours, 1.5);
    table.at_most("history script, x PUBLISH in Redis' CPU, 64 deep", median(costs_history) / median(costs_live), 13.0);
    let redis = |all: &[Published]| median(all.iter().map(|published| published.redis_cpu.as_secs_f64() * 1e6));
    table.note(&format!(
        "rates: PUBLISH -c 1 -P 64 {piped:.0}/s, fenced {fenced:.0}/s, -c 50 -P 1 {plain:.0}/s, EVALSHA {script:.0}/s; ours live {:.0}/s, 64 \
         callers {:.0}/s, history {:.0}/s; Redis' CPU {:.2} us live, {:.2} us history",
        rate(&live),
        rate(&few),
        rate(&history),
        redis(&live),
        redis(&history)
    ));
}

/// From publish to the sink, one at a time, against a bare request.
async fn latency(table: &mut Table) {
    const COUNT: usize = 2000;
    let server = Server::started().await;
    let sink = Counting::new();
    let node = server.node(sink.clone()).await;
    let channels = [(channel(0), None), (channel(1), Some(KEPT))];
    for (channel, history) in &channels {
        let interest = Interest { channel: channel.clone(), history: *history, presence: false };
        node.subscribe(&[interest]).await.pop().unwrap().unwrap();
    }
    let (mut pings, mut handled) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        let mut connection = server.connection().await;
        let mut took = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            let began = Instant::now();
            redis::cmd("PING").exec_async(&mut connection).await.unwrap();
            took.push(began.elapsed());
        }
        pings.push(middle(&mut took));
        for ((channel, history), handled) in channels.iter().zip(&mut handled) {
            took.clear();
            for _ in 0..COUNT {
                let heard = sink.notified();
                let began = Instant::now();
                drop(node.publish(publication(channel, *history))); // its place is taken at the call
                heard.await;
                took.push(began.elapsed());
            }
            handled.push(middle(&mut took));
        }
    }
    let [live, history] = handled.map(median);
    let ping = median(pings);
    table.at_most("publish to sink on an idle machine, live, p50, x the crate's PING", live / ping, 1.1);
    table.at_most("the same with history", history / ping, 1.3);
    table.note(&format!("p50: PING {ping:.0} us, live {live:.0} us, history {history:.0} us"));
}

fn middle(took: &mut [Duration]) -> f64 {
    took.sort_unstable();
    took[took.len() / 2].as_secs_f64() * 1e6
}

/// Somebody else publishes as fast as it can; what does hearing it cost?
async fn receiving(table: &mut Table) {
    let server = Server::started().await;
    let sink = Counting::new();
    let node = server.node(sink.clone()).await;
    let heard = channel(0);
    let interest = Interest { channel: heard.clone(), history: None, presence: false };
    node.subscribe(&[interest]).await.pop().unwrap().unwrap();
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let (before, ours) = (sink.count.load(Ordering::Relaxed), cpu::own());
        peer::frames(&server, &heard, 500_000).await;
        let quiet = Arc::new(Notify::new());
        sink.until_quiet(&quiet).await;
        let count = sink.count.load(Ordering::Relaxed) - before;
        costs.push((cpu::own() - ours).as_secs_f64() * 1e6 / count as f64);
    }
    table.at_most("our CPU for each publication heard in us, up to the sink", median(costs), 1.0);
}

/// A node's sink as the backplane takes it.
fn as_sink(sink: Arc<Counting>) -> Arc<dyn Sink> {
    sink
}
