//! What is kept of a channel, as a back end reads it.

use serde_json::{Value, json};
use skywave_proto::StreamPosition;

use crate::{
    client::position,
    http::Http,
    ledger::Number,
    node::{API_KEY, Node},
};

/// Every publication with its position, ascending.
pub type Line = Vec<(StreamPosition, Number)>;

impl Node {
    /// All that is kept of a channel.
    pub async fn line(&self, channel: &str) -> Line {
        let mut api = Http::new(self.internal());
        let authorization = format!("Bearer {API_KEY}");
        let headers = [("content-type", "application/json"), ("authorization", authorization.as_str())];
        let mut line = Line::new();
        loop {
            let since = line.last().map(|(at, _)| json!({"epoch": at.epoch.as_str(), "offset": at.offset}));
            let mut body = json!({"channel": channel, "limit": 1000});
            match since {
                Some(since) => body["since"] = since,
                // Of no line: then it is read from its beginning.
                None => body["since"] = json!({"epoch": "nobodys-", "offset": 0}),
            }
            let (status, text) = api.request("POST", "/api/v1/history", &headers, body.to_string()).await.unwrap();
            assert_eq!(status, 200, "{text}");
            let page: Value = serde_json::from_str(&text).unwrap();
            for publication in page["publications"].as_array().unwrap() {
                let number = |key: &str| publication["data"][key].as_u64().unwrap();
                let publisher = u8::try_from(number("publisher")).unwrap();
                let at = position(publication).expect("it has its place");
                line.push((at, Number { publisher, number: number("number") }));
            }
            if page["more"] != true {
                return line;
            }
        }
    }
}
