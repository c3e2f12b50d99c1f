//! A back end that does not give up: 0, 1, 2 and so on, each with a key and until it is acknowledged.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use skywave_proto::StreamPosition;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{client::position, http::Http, ledger::Number, node::API_KEY, wait::DEADLINE};

/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_millis(25);

/// Publishes on one channel through the server API.
pub struct Publisher {
    pub publisher: u8,
    pub channel: String,
    pub counts: Arc<Counts>,
    enough: CancellationToken,
    task: JoinHandle<Vec<Option<StreamPosition>>>,
}

/// What publishers were answered.
#[derive(Debug, Default)]
pub struct Counts {
    pub acknowledged: AtomicU64,
    /// Certainly not done.
    pub refused: AtomicU64,
    /// Perhaps done, or no answer at all.
    pub unknown: AtomicU64,
    /// Acknowledged as there already.
    pub duplicates: AtomicU64,
    /// The last of each channel that was not acknowledged, for a failure.
    pub last: Mutex<BTreeMap<String, String>>,
}

impl Publisher {
    /// Begins. Goes from one address to the next when one does not answer.
    pub fn start(
        publisher: u8,
        channel: &str,
        addresses: Vec<SocketAddr>,
        pace: Duration,
        counts: Arc<Counts>,
    ) -> Self {
        let enough = CancellationToken::new();
        let work = Work { publisher, channel: channel.to_owned(), counts: counts.clone(), enough: enough.clone() };
        let task = tokio::spawn(work.run(addresses, pace));
        Self { publisher, channel: channel.to_owned(), counts, enough, task }
    }

    /// Has it finish: what it is at is acknowledged, and one more.
    pub fn finish(&self) {
        self.enough.cancel();
    }

    /// Where everything stands that it has published.
    pub async fn end(self) -> Vec<Option<StreamPosition>> {
        self.finish();
        let ended = tokio::time::timeout(DEADLINE, self.task).await;
        let what = format!("publisher {} of {} comes to its end within {DEADLINE:?}", self.publisher, self.channel);
        ended.expect(&what).expect("it does not panic")
    }
}

struct Work {
    publisher: u8,
    channel: String,
    counts: Arc<Counts>,
    enough: CancellationToken,
}

impl Work {
    async fn run(self, addresses: Vec<SocketAddr>, pace: Duration) -> Vec<Option<StreamPosition>> {
        let mut api: Vec<_> = addresses.into_iter().map(Http::new).collect();
        let mut positions = Vec::new();
        let mut is_last = false;
        while !is_last {
            is_last = self.enough.is_cancelled();
            let number = Number { publisher: self.publisher, number: positions.len() as u64 };
            positions.push(self.publish(number, &mut api).await);
            self.counts.acknowledged.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = tokio::time::sleep(pace) => {}
                () = self.enough.cancelled() => {}
            }
        }
        positions
    }

    /// Until it is acknowledged.
    async fn publish(&self, number: Number, api: &mut [Http]) -> Option<StreamPosition> {
        let body = json!({
            "channel": self.channel,
            "data": {"publisher": number.publisher, "number": number.number},
            "key": number.to_string(),
        });
        let authorization = format!("Bearer {API_KEY}");
        let headers = [("content-type", "application/json"), ("authorization", authorization.as_str())];
        loop {
            let answer = api[0].request("POST", "/api/v1/publish", &headers, body.to_string()).await;
            let (refused, why) = match answer {
                Ok((200, answer)) => {
                    let answer: Value = serde_json::from_str(&answer).expect("the API speaks JSON");
                    if answer["duplicate"] == true {
                        self.counts.duplicates.fetch_add(1, Ordering::Relaxed);
                    }
                    return position(&answer["position"]);
                }
                Ok((503, why)) => (true, why),
                Ok((504, why)) => (false, why),
                Ok((status, answer)) => panic!("{status}: {answer}"),
                Err(why) => {
                    api.rotate_left(1);
                    (false, why)
                }
            };
            let last = format!("{} on {}: {}", number, self.channel, why);
            self.counts.last.lock().insert(self.channel.clone(), last);
            let count = if refused { &self.counts.refused } else { &self.counts.unknown };
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
