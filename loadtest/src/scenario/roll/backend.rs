//! The back end: publishes through the server API, to whichever node answers, so that what replaces nodes cannot stop it.
//!
//! Each channel is one line: the next publication goes out when the one before was acknowledged. What had no answer is sent
//! again under its key, to another node, so that an acknowledged publication is there once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{json, value::RawValue};
use tokio::{
    net::TcpStream,
    select,
    sync::watch,
    time::{sleep, timeout},
};

use super::Task;
use crate::{pace::Pace, report::rolling::add, scenario::ScenarioError, spread::Spread, stamp::Stamp, tally::Sent};

/// How long a node may take for an answer.
const REPLY: Duration = Duration::from_secs(5);
/// How long one publication is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause before it is sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// Where a back end publishes, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Api {
    /// Host and port of each node's internal listener. Names are looked up for each connection: nodes come and go.
    nodes: Vec<String>,
    key: Option<String>,
}

/// What became of all publications.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// By channel.
    pub(super) sent: Vec<Sent>,
    pub(super) acknowledged: u64,
    /// Sent again, for there was no answer, or none that is final.
    pub(super) repeated: u64,
    /// Of those, the ones that the cluster knew already.
    pub(super) duplicates: u64,
    /// Why a publication was not, in words.
    pub(super) failures: BTreeMap<String, u64>,
    /// From the first attempt to the acknowledgement.
    pub(super) answer: Spread,
    /// How late the first attempt was.
    pub(super) lateness: Spread,
}

impl Api {
    /// # Errors
    /// An URL that is none.
    pub(super) fn parse(urls: &[String], key: Option<String>) -> Result<Self, ScenarioError> {
        let node = |url: &String| {
            let wrong =
                || ScenarioError::Usage(format!("{url} is not the URL of a server API: write http://host:8001"));
            let uri: Uri = url.parse().map_err(|_| wrong())?;
            let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
            Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80)))
        };
        let nodes: Vec<String> = urls.iter().map(node).collect::<Result<_, ScenarioError>>()?;
        if nodes.is_empty() {
            let what = "say where to publish: --api http://host:8001, once for each node";
            return Err(ScenarioError::Usage(what.to_owned()));
        }
        Ok(Self { nodes, key })
    }
}

/// Publishes on all channels until the schedule ends, or it is stopped.
pub(super) async fn publish(
    task: Arc<Task>,
    api: Api,
    pace: Pace,
    size: usize,
    is_stopped: watch::Receiver<bool>,
) -> Published {
    let began = task.clock.now();
    let line =
        |channel| Line { task: &task, api: &api, pace, began, size, channel, is_stopped: is_stopped.clone() }.run();
    let mut published = Published::default();
    join_all((0..task.channels.len()).map(line)).await.into_iter().for_each(|line| published.merge(line));
    published
}

impl Published {
    fn merge(&mut self, line: Self) {
        self.sent.extend(line.sent);
        self.acknowledged += line.acknowledged;
        self.repeated += line.repeated;
        self.duplicates += line.duplicates;
        add(&mut self.failures, line.failures);
        self.answer.merge(&line.answer);
        self.lateness.merge(&line.lateness);
    }
}

/// One channel's.
struct Line<'a> {
    task: &'a Task,
    api: &'a Api,
    pace: Pace,
    began: u64,
    size: usize,
    channel: usize,
    is_stopped: watch::Receiver<bool>,
}

impl Line<'_> {
    async fn run(mut self) -> Published {
        let (mut published, mut desks) = (Published::default(), Desks::new(self.api));
        let mut sent = Sent::default();
        // The channels take turns on one schedule.
        while let Some(due) = self.pace.due(sent.count * self.task.channels.len() as u64 + self.channel as u64) {
            let due = self.began + due;
            let wait = Duration::from_nanos(due.saturating_sub(self.task.clock.now()));
            select! {
                () = sleep(wait) => {}
                _ = self.is_stopped.wait_for(|stopped| *stopped) => {}
            }
            if *self.is_stopped.borrow() {
                break;
            }
            let now = self.task.clock.now();
            published.lateness.record(now.saturating_sub(due));
            let body = self.body(sent.count, due, now);
            if !self.deliver(body, &mut desks, sent.count, &mut published).await {
                sent.refused.push(sent.count);
            }
            sent.count += 1;
        }
        published.sent.push(sent);
        published
    }

    fn body(&self, seq: u64, due: u64, sent: u64) -> Bytes {
        let Task { run, channels, .. } = self.task;
        let from = u32::try_from(self.channel).unwrap_or(u32::MAX);
        let mut data = String::new();
        Stamp { run, from, seq, due, sent }.write(self.size, &mut data);
        let data = RawValue::from_string(data).unwrap_or_default();
        json!({ "channel": channels[self.channel], "data": data, "key": format!("{run} {seq}") }).to_string().into()
    }

    /// Until it is acknowledged; false: it never was.
    async fn deliver(&self, body: Bytes, desks: &mut Desks<'_>, seq: u64, published: &mut Published) -> bool {
        let began = Instant::now();
        for attempt in 0.. {
            let answer = timeout(REPLY, desks.ask(self.channel as u64 + seq + attempt, body.clone())).await;
            let (words, is_final) = match answer {
                Ok(Ok((StatusCode::OK, answer))) => {
                    published.acknowledged += 1;
                    published.duplicates += u64::from(answer.contains(r#""duplicate":true"#));
                    published.answer.record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
                    return true;
                }
                Ok(Ok((status, answer))) => {
                    let is_final = status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS;
                    (format!("HTTP {status} {answer}"), is_final)
                }
                Ok(Err(error)) => (error, false),
                Err(_) => (format!("no answer within {} s", REPLY.as_secs()), false),
            };
            if is_final || began.elapsed() > PATIENCE {
                *published.failures.entry(words).or_default() += 1;
                return false;
            }
            published.repeated += 1;
            sleep(AGAIN).await;
        }
        false
    }
}

/// A connection to each node, kept while it lasts.
struct Desks<'a> {
    api: &'a Api,
    open: Vec<Option<http1::SendRequest<Full<Bytes>>>>,
}

impl<'a> Desks<'a> {
    fn new(api: &'a Api) -> Self {
        Self { api, open: api.nodes.iter().map(|_| None).collect() }
    }

    /// One call, to the node whose turn it is. A connection that failed, or was given up halfway, is not used again.
    async fn ask(&mut self, turn: u64, body: Bytes) -> Result<(StatusCode, String), String> {
        let count = self.api.nodes.len();
        let place = usize::try_from(turn % count as u64).unwrap_or_default();
        let node = &self.api.nodes[place];
        let words = |error: &dyn std::error::Error| format!("{node}: {error}");
        let mut sender = match self.open[place].take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => connect(node).await.map_err(|error| words(&*error))?,
        };
        let mut request = Request::post("/api/v1/publish")
            .header(header::HOST, node)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.api.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::new(body)).map_err(|error| words(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| words(&error))?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.map_err(|error| words(&error))?.to_bytes();
        self.open[place] = Some(sender);
        Ok((status, String::from_utf8_lossy(&bytes).chars().take(200).collect()))
    }
}

async fn connect(node: &str) -> Result<http1::SendRequest<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(node).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
