//! What a small publication from a client costs, from its bytes to the backplane, beside a bare loop that reads and
//! parses frames and does nothing with them. All figures are CPU of threads, as ratios in one run.
//!
//! `cargo bench -p skywave-gateway --bench inbound` (two minutes). `ROUNDS=n` measures each n times, 7 unless told.
#![allow(clippy::cast_precision_loss, clippy::unwrap_used)]

mod bare;
mod client;
mod cpu;
mod parse;

use std::net::SocketAddr;

use skywave_gateway::{
    config::{Flags, Settings},
    node::Node,
};

use self::client::{Clients, Load};

/// One connection's publications come one at a time, or this many in one piece.
const BATCH: usize = 64;

fn main() {
    let rounds =
        std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).filter(|rounds| *rounds > 0).unwrap_or(7);
    parse::measure(rounds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bare = bare::start();
    let node = runtime.block_on(start());
    let served = node.public_addresses()[0];
    for (name, connections, batch) in [("one at a time", 200, 1), ("64 in one piece", 20, BATCH)] {
        for bytes in [24, 128] {
            let load = Load { connections, batch, bytes };
            println!("{name}, {bytes} B of data: {}", compare(bare, served, load, rounds));
        }
    }
    drop(node);
}

/// A node as it is by default, that lets everybody in; one shard, since there is one bare loop. Its limits are out of reach, and
/// yet counted.
async fn start() -> Node {
    let flags =
        Flags { listen: vec!["127.0.0.1:0".into()], internal_listen: vec!["127.0.0.1:0".into()], ..Flags::default() };
    let namespace = "{ publish = \"anyone\", subscribe = \"anyone\" }";
    let settings = Settings::load(
        &flags,
        [
            ("SKYWAVE__NODE__SHARDS", "1"),
            ("SKYWAVE__AUTH__ANONYMOUS", "true"),
            ("SKYWAVE__NAMESPACES__DEFAULT", namespace),
            ("SKYWAVE__LIMITS__COMMANDS_PER_SECOND", "1000000000"),
            ("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "1000000000"),
            ("SKYWAVE__LIMITS__BYTES_PER_SECOND", "100GiB"),
        ],
    );
    let metrics = skywave_gateway::metrics::install("bench").unwrap();
    Node::start(settings.unwrap(), Some(metrics)).await.unwrap()
}

/// Both in turn, the medians of what each publication cost.
fn compare(bare: SocketAddr, node: SocketAddr, load: Load, rounds: usize) -> String {
    let (mut bare, mut node) = (Clients::connect(bare, load), Clients::connect(node, load));
    let (mut floors, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (floor, our) = (bare.publish(), node.publish());
        if round > 0 {
            floors.push(floor);
            ours.push(our);
            ratios.push(our / floor);
        }
    }
    let [floor, our, ratio] = [floors, ours, ratios].map(cpu::median);
    format!("{our:.0} ns a publication, {floor:.0} ns in the bare loop, ratio {ratio:.2}")
}
