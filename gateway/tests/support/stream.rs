//! A stream of HTTP, read as an `EventSource` reads it, or line by line.

use std::time::Duration;

use reqwest::{Client, Response, header::HeaderMap};
use serde_json::Value;
use tokio::time::timeout;

use super::{DEADLINE, Running};

/// An event; a browser dispatches those that have data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: Option<String>,
    pub retry: Option<u64>,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(self.data.as_deref().expect("data")).expect("JSON")
    }
}

pub struct Stream {
    pub status: u16,
    pub headers: HeaderMap,
    response: Response,
    buffer: String,
    /// The last `id` there was.
    pub id: String,
    pub retry: Option<u64>,
}

/// A client without TLS, of either version.
pub fn client(http2: bool) -> Client {
    let builder = Client::builder().no_proxy().pool_max_idle_per_host(0);
    if http2 { builder.http2_prior_knowledge().build() } else { builder.build() }.expect("a client")
}

impl Running {
    /// A stream that is open.
    pub async fn stream(&self, path: &str) -> Stream {
        self.stream_with(path, &[]).await
    }

    /// The same with these headers, whatever the status.
    pub async fn stream_with(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        Stream::of(&client(false), &self.public(), path, headers).await
    }
}

impl Stream {
    pub async fn of(client: &Client, address: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = client.get(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = timeout(DEADLINE, request.send()).await.expect("an answer in time").expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, response, buffer: String::new(), id: String::new(), retry: None }
    }

    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.find(end) {
                let rest = self.buffer.split_off(at + end.len());
                let mut piece = std::mem::replace(&mut self.buffer, rest);
                piece.truncate(at);
                return Some(piece);
            }
            let chunk = timeout(DEADLINE, self.response.chunk()).await.expect("more, or the end, in time");
            let chunk = chunk.ok()??;
            self.buffer.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// The next block, comments among them: what stands between empty lines. `None`: the stream has ended.
    pub async fn block(&mut self) -> Option<String> {
        self.until("\n\n").await
    }

    /// The next event that has data.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            let mut event = Event::default();
            for line in block.lines() {
                let (field, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match field {
                    "id" => event.id = Some(value.into()),
                    "event" => event.name = value.into(),
                    "retry" => event.retry = value.parse().ok(),
                    "data" => {
                        let data = event.data.get_or_insert_default();
                        if !data.is_empty() {
                            data.push('\n');
                        }
                        data.push_str(value);
                    }
                    _ => {}
                }
            }
            self.id = event.id.clone().unwrap_or_else(|| self.id.clone());
            self.retry = event.retry.or(self.retry);
            if event.data.is_some() {
                return Some(event);
            }
        }
    }

    /// The data of the next event, which has no name.
    pub async fn data(&mut self) -> String {
        let event = self.event().await.expect("an event");
        assert_eq!(event.name, "", "{event:?}");
        event.data.unwrap_or_default()
    }

    /// Reads until the stream says where the client stands.
    pub async fn position(&mut self) -> String {
        while self.id.is_empty() {
            let block = self.block().await.expect("a position");
            for line in block.lines() {
                match line.split_once(": ") {
                    Some(("id", id)) => self.id = id.into(),
                    Some(("retry", retry)) => self.retry = retry.parse().ok(),
                    _ => {}
                }
            }
        }
        self.id.clone()
    }

    /// The next line that is not empty, as JSON.
    pub async fn line(&mut self) -> Option<Value> {
        loop {
            let line = self.until("\n").await?;
            if !line.is_empty() {
                return Some(serde_json::from_str(&line).expect("JSON"));
            }
        }
    }

    /// What is left, to its end.
    pub async fn rest(mut self) -> String {
        while self.until("\u{0}").await.is_some() {}
        self.buffer
    }

    /// Whether nothing comes for so long.
    pub async fn is_silent(&mut self, span: Duration) -> bool {
        timeout(span, self.response.chunk()).await.is_err()
    }
}
