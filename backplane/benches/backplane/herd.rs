//! Nodes with many channels that lose their connection at once.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use skywave_backplane::{Backplane as _, Interest, Redis};
use skywave_proto::ChannelName;

use crate::{
    KEPT, ROUNDS,
    server::Server,
    sinks::Counting,
    table::{Table, median},
};

pub(crate) async fn run(table: &mut Table) {
    let blip = shape(1, 20).await;
    table.at_most("blip (CLIENT KILL TYPE pubsub) to live, 20 channels, in ms", blip.0 * 1e3, 50.0);
    let (back, _) = shape(1, 50_000).await;
    table.at_most("resubscribe and sweep of 50,000 channels with history, one node, in s", back, 0.5);
    let (back, ping) = shape(1, 100_000).await;
    table.at_most("the same with 100,000 channels, in s", back, 2.0);
    table.at_most("others' worst PING meanwhile, in ms", ping * 1e3, 150.0);
    let (back, ping) = shape(10, 50_000).await;
    table.at_most("10 nodes with 50,000 channels each at once (all in this process), in s", back, 4.0);
    table.at_most("others' worst PING meanwhile, in ms", ping * 1e3, 150.0);
}

/// Seconds until all nodes are live again, and the worst PING of somebody else meanwhile.
async fn shape(nodes: usize, channels: usize) -> (f64, f64) {
    let server = Server::started().await;
    let mut all = Vec::new();
    for _ in 0..nodes {
        let sink = Counting::new();
        let node = server.node(sink.clone()).await;
        subscribe(&node, channels).await;
        all.push((node, sink));
    }
    let (mut back, mut worst) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (took, ping) = kill(&server, &all).await;
        back.push(took);
        worst.push(ping);
    }
    (median(back), median(worst))
}

async fn subscribe(node: &Redis, channels: usize) {
    let interests: Vec<_> = (0..channels)
        .map(|number| Interest {
            channel: ChannelName::parse(&format!("herd:{number}")).unwrap(),
            history: Some(KEPT),
            presence: false,
        })
        .collect();
    for chunk in interests.chunks(2000) {
        for answer in node.subscribe(chunk).await {
            answer.unwrap();
        }
    }
}

async fn kill(server: &Server, nodes: &[(Redis, Arc<Counting>)]) -> (f64, f64) {
    let came_live = || nodes.iter().map(|(_, sink)| sink.came_live.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let before = came_live();
    let began = Instant::now();
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).exec_async(&mut server.connection().await).await.unwrap();
    // To end a connection with so many subscriptions takes Redis a while itself, in that command: not counted here.
    let enough = Arc::new(AtomicBool::new(false));
    // In a thread of its own, or it would wait for our own work and not for Redis.
    let pinging = std::thread::spawn({
        let (enough, port) = (enough.clone(), server.port);
        move || worst_ping(port, &enough)
    });
    while came_live().iter().zip(&before).any(|(now, before)| now == before) {
        assert!(began.elapsed() < Duration::from_secs(60), "a node did not come back");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let took = began.elapsed().as_secs_f64();
    enough.store(true, Ordering::Relaxed);
    (took, pinging.join().unwrap().as_secs_f64())
}

fn worst_ping(port: u16, enough: &AtomicBool) -> Duration {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_nodelay(true).unwrap();
    let (mut worst, mut answer) = (Duration::ZERO, [0; 7]);
    while !enough.load(Ordering::Relaxed) {
        let began = Instant::now();
        socket.write_all(b"PING\r\n").unwrap();
        socket.read_exact(&mut answer).unwrap();
        worst = worst.max(began.elapsed());
        std::thread::park_timeout(Duration::from_millis(1)); // nobody wakes it
    }
    worst
}
