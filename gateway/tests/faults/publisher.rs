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

/// What it publishes, and how.
#[derive(Clone)]
pub struct Task {
    pub publisher: u8,
    /// One: `publish`. More: `broadcast`, the same number on all of them in one call.
    pub channels: Vec<String>,
    /// Server APIs: the first, and when that does not answer the next.
    pub addresses: Vec<SocketAddr>,
    /// From an acknowledgement to the next publication.
    pub pace: Duration,
    /// Beside the number, in every publication.
    pub padding: usize,
    /// Only what a replica has too is acknowledged.
    pub replicated: bool,
}

/// A back end at work.
pub struct Publisher {
    task: Task,
    enough: CancellationToken,
    working: JoinHandle<Positions>,
}

/// For every channel the positions of 0, 1, 2 and so on.
pub type Positions = BTreeMap<String, Vec<Option<StreamPosition>>>;

/// What publishers were answered.
#[derive(Debug, Default)]
pub struct Counts {
    pub acknowledged: AtomicU64,
    /// Certainly not done.
    pub refused: AtomicU64,
    /// Perhaps done, or no answer at all.
    pub unknown: AtomicU64,
    /// Done, but no replica has it.
    pub not_replicated: AtomicU64,
    /// Acknowledged as there already.
    pub duplicates: AtomicU64,
    /// The last of each channel that was not acknowledged, for a failure.
    pub last: Mutex<BTreeMap<String, String>>,
}

impl Publisher {
    pub fn start(task: Task, counts: Arc<Counts>) -> Self {
        let enough = CancellationToken::new();
        let work = Work { task: task.clone(), counts, enough: enough.clone() };
        Self { task, enough, working: tokio::spawn(work.run()) }
    }

    pub fn number(&self) -> u8 {
        self.task.publisher
    }

    /// Has it finish: what it is at is acknowledged, and one more.
    pub fn finish(&self) {
        self.enough.cancel();
    }

    /// Where everything stands that it has published.
    pub async fn end(self) -> Positions {
        self.finish();
        let ended = tokio::time::timeout(DEADLINE, self.working).await;
        let what = format!(
            "publisher {} of {:?} comes to its end within {DEADLINE:?}",
            self.task.publisher, self.task.channels
        );
        ended.expect(&what).expect("it does not panic")
    }
}

struct Work {
    task: Task,
    counts: Arc<Counts>,
    enough: CancellationToken,
}

/// Why something was not acknowledged.
enum Not {
    Replicated(String),
    Done(String),
    Known(String),
}

impl Work {
    async fn run(self) -> Positions {
        let mut api: Vec<_> = self.task.addresses.iter().copied().map(Http::new).collect();
        let mut positions: Positions = self.task.channels.iter().map(|channel| (channel.clone(), Vec::new())).collect();
        for number in 0.. {
            let is_last = self.enough.is_cancelled();
            let number = Number { publisher: self.task.publisher, number };
            for (channel, position) in self.task.channels.iter().zip(self.publish(number, &mut api).await) {
                positions.get_mut(channel).expect("its own").push(position);
            }
            self.counts.acknowledged.fetch_add(self.task.channels.len() as u64, Ordering::Relaxed);
            if is_last {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(self.task.pace) => {}
                () = self.enough.cancelled() => {}
            }
        }
        positions
    }

    /// Until it is acknowledged on every channel.
    async fn publish(&self, number: Number, api: &mut [Http]) -> Vec<Option<StreamPosition>> {
        let data = json!({
            "publisher": number.publisher,
            "number": number.number,
            "padding": "x".repeat(self.task.padding),
        });
        let (path, body) = match &self.task.channels[..] {
            [channel] => ("/api/v1/publish", json!({"channel": channel, "data": data, "key": number.to_string()})),
            channels => ("/api/v1/broadcast", json!({"channels": channels, "data": data, "key": number.to_string()})),
        };
        let mut body = body;
        if self.task.replicated {
            body["durability"] = json!({"replicated": 1, "within_ms": 200});
        }
        let (authorization, body) = (format!("Bearer {API_KEY}"), body.to_string());
        let headers = [("content-type", "application/json"), ("authorization", authorization.as_str())];
        loop {
            let answer = api[0].request("POST", path, &headers, body.clone()).await;
            if answer.is_err() {
                api.rotate_left(1);
            }
            let not = match self.read(answer) {
                Ok(positions) => return positions,
                Err(not) => not,
            };
            let (count, why) = match not {
                Not::Replicated(why) => (&self.counts.not_replicated, why),
                Not::Done(why) => (&self.counts.refused, why),
                Not::Known(why) => (&self.counts.unknown, why),
            };
            count.fetch_add(1, Ordering::Relaxed);
            self.counts.last.lock().insert(self.task.channels[0].clone(), format!("{number}: {why}"));
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn read(&self, answer: Result<(u16, String), String>) -> Result<Vec<Option<StreamPosition>>, Not> {
        let (status, text) = answer.map_err(Not::Known)?;
        let body: Value = serde_json::from_str(&text).expect("the API speaks JSON");
        match status {
            200 if self.task.channels.len() == 1 => Ok(vec![self.accepted(&body)]),
            200 => {
                let results = body["results"].as_array().expect("one for each channel");
                if let Some(error) = results.iter().map(|result| &result["error"]).find(|error| !error.is_null()) {
                    return Err(not(error["code"].as_str(), &text));
                }
                Ok(results.iter().map(|result| self.accepted(result)).collect())
            }
            _ => Err(not(body["code"].as_str(), &text)),
        }
    }

    fn accepted(&self, answer: &Value) -> Option<StreamPosition> {
        if answer["duplicate"] == true {
            self.counts.duplicates.fetch_add(1, Ordering::Relaxed);
        }
        position(&answer["position"])
    }
}

fn not(code: Option<&str>, text: &str) -> Not {
    match code {
        Some("unavailable") => Not::Done(text.to_owned()),
        Some("unknown_outcome") => Not::Known(text.to_owned()),
        Some("not_replicated") => {
            let body: Value = serde_json::from_str(text).expect("the API speaks JSON");
            assert!(position(&body["position"]).is_some(), "it says where it stands: {text}");
            Not::Replicated(text.to_owned())
        }
        _ => panic!("an error that a back end does not expect: {text}"),
    }
}
