//! Everything at once, at random: what no single test thinks of. `FAULT_SEED` repeats a run, as far as the machine does.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    node::{self, Node},
    proxy::Proxy,
    redis::{KEEPING, Redis},
    traffic::{PLAN, Plan, Traffic},
    wait::last,
};

const LASTS: Duration = Duration::from_secs(40);

fn some_ms(rng: &mut StdRng, most: u64) -> Duration {
    Duration::from_millis(rng.random_range(20..most))
}

/// What happens to Redis itself.
async fn trouble_redis(redis: &mut Redis, mut rng: StdRng, until: Instant) {
    while Instant::now() < until {
        last(some_ms(&mut rng, 1500)).await;
        match rng.random_range(0..7) {
            0 => {
                redis.kill();
                last(some_ms(&mut rng, 2000)).await;
                redis.launch().await;
            }
            1 => {
                redis.stall();
                last(some_ms(&mut rng, 4000)).await;
                redis.resume();
            }
            2 => drop(redis.try_command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await),
            3 => drop(redis.try_command(&["CLIENT", "KILL", "TYPE", "normal"]).await),
            4 => drop(redis.try_command(&["SCRIPT", "FLUSH"]).await),
            5 => {
                // As a master that has changed its replication id.
                let forget = "for _, key in ipairs(redis.call('KEYS', 'skywave:*:gen')) do \
                              redis.call('HSET', key, 'r', 'x') end";
                drop(redis.try_command(&["EVAL", forget, "0"]).await);
            }
            _ => {
                redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
                last(some_ms(&mut rng, 1000)).await;
                redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
        }
    }
}

/// What happens to the way there.
async fn trouble_network(proxy: &Proxy, mut rng: StdRng, until: Instant) {
    while Instant::now() < until {
        last(some_ms(&mut rng, 2000)).await;
        match rng.random_range(0..4) {
            0 => proxy.black_hole_old(),
            1 => proxy.black_hole(),
            2 => proxy.cut(),
            _ => proxy.delay(some_ms(&mut rng, 60)),
        }
        last(some_ms(&mut rng, 4000)).await;
        proxy.delay(Duration::ZERO);
        proxy.heal();
    }
}

/// What happens to a node.
async fn trouble_node(node: &mut Node, mut rng: StdRng, until: Instant) {
    while Instant::now() < until {
        last(some_ms(&mut rng, 4000)).await;
        if rng.random() {
            node.kill();
            last(some_ms(&mut rng, 2000)).await;
            node.spawn();
        } else {
            node.stall();
            last(some_ms(&mut rng, 4000)).await;
            node.resume();
        }
    }
}

#[tokio::test]
#[ignore = "long"]
async fn whatever_happens_is_a_delay() {
    let seed = std::env::var("FAULT_SEED").ok().map_or_else(rand::random, |seed| seed.parse::<u64>().unwrap());
    println!("FAULT_SEED={seed}");
    let mut redis = Redis::start(KEEPING).await;
    let proxy = Proxy::start(redis.address()).await;
    let [paris, mut oslo] = node::pair(&proxy.url(), &redis.url()).await;
    let plan = Plan { roams: true, patience: Duration::from_secs(1), publishers: 2, channels: 10, ..PLAN };
    let traffic = Traffic::begin(plan, &[&paris, &oslo]).await;
    let until = Instant::now() + LASTS;
    let rng = |actor| StdRng::seed_from_u64(seed.wrapping_add(actor));
    tokio::join!(
        trouble_redis(&mut redis, rng(1), until),
        trouble_network(&proxy, rng(2), until),
        trouble_node(&mut oslo, rng(3), until),
    );
    traffic.flow(10).await;
    traffic.end().await.assert_unnoticed();
}
