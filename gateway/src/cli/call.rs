//! Commands that talk to a node's internal listener.

use std::{process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;

use super::{failed, wrong};

/// A node that does not answer in this time does not answer.
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 1 << 20;

/// Which node, and how it knows us.
#[derive(Debug, Args)]
pub(super) struct Api {
    /// The node's internal listener.
    #[arg(long, env = "SKYWAVE_API", default_value = "http://127.0.0.1:8001")]
    api: Uri,
    /// A key of its `api.keys`; none is needed in development mode.
    #[arg(long, env = "SKYWAVE_API_KEY", hide_env_values = true)]
    key: Option<String>,
}

pub(super) fn publish(api: &Api, channel: &str, json: &str) -> ExitCode {
    let data = match serde_json::from_str::<&RawValue>(json) {
        Ok(data) => data,
        Err(error) => return wrong(&format!("{json:?} is not JSON ({error}); a string needs quotes: '\"hello\"'")),
    };
    let body = serde_json::json!({ "channel": channel, "data": data }).to_string();
    match call(api, Method::POST, "/api/v1/publish", body) {
        Ok((StatusCode::OK, answer)) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Ok((status, answer)) => failed(&format!("not published ({status}): {}", detail(&answer))),
        Err(error) => failed(&error),
    }
}

pub(super) fn nodes(api: &Api) -> ExitCode {
    match call(api, Method::POST, "/api/v1/nodes", "{}".into()) {
        Ok((StatusCode::OK, answer)) => match serde_json::from_str::<Nodes>(&answer) {
            Ok(Nodes { nodes }) => {
                print!("{}", table(&nodes));
                ExitCode::SUCCESS
            }
            Err(error) => failed(&format!("not the answer of a node: {error}")),
        },
        Ok((status, answer)) => failed(&format!("no list of nodes ({status}): {}", detail(&answer))),
        Err(error) => failed(&error),
    }
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<NodeLine>,
}

#[derive(Deserialize)]
struct NodeLine {
    name: String,
    version: String,
    connections: u64,
    channels: u64,
    beat_age_ms: u64,
}

/// One line for each node under a line of headings, in columns.
fn table(nodes: &[NodeLine]) -> String {
    let headings = ["NAME", "VERSION", "CONNECTIONS", "CHANNELS", "LAST BEAT"].map(str::to_owned);
    let lines = nodes.iter().map(|node| {
        let beat = format!("{}.{} s ago", node.beat_age_ms / 1000, node.beat_age_ms % 1000 / 100);
        [node.name.clone(), node.version.clone(), node.connections.to_string(), node.channels.to_string(), beat]
    });
    let rows: Vec<_> = std::iter::once(headings).chain(lines).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |row: &[String; 5]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

pub(super) fn healthcheck(api: &Api) -> ExitCode {
    match call(api, Method::GET, "/readyz", String::new()) {
        Ok((StatusCode::OK, _)) => ExitCode::SUCCESS,
        Ok((status, answer)) => failed(&format!("not ready ({status}): {}", answer.trim_end())),
        Err(error) => failed(&error),
    }
}

/// The sentence in an error answer.
fn detail(answer: &str) -> String {
    let detail = serde_json::from_str::<serde_json::Value>(answer);
    let detail = detail.ok().and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
    detail.unwrap_or_else(|| answer.to_owned())
}

fn call(api: &Api, method: Method, path: &str, body: String) -> Result<(StatusCode, String), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let unreachable = |why: String| format!("no answer from {}: {why}", api.api);
    runtime.block_on(async {
        match tokio::time::timeout(TIMEOUT, exchange(api, method, path, body)).await {
            Ok(answer) => answer.map_err(|error| unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("nothing within {TIMEOUT:?}"))),
        }
    })
}

async fn exchange(
    api: &Api,
    method: Method,
    path: &str,
    body: String,
) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
    let authority = match (api.api.scheme_str(), api.api.authority()) {
        (Some("http"), Some(authority)) => authority,
        _ => return Err("--api is written http://HOST:PORT".into()),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, authority.as_str());
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    if let Some(key) = &api.key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_its_columns_under_each_other() {
        let node = |name: &str, connections, beat_age_ms| NodeLine {
            name: name.into(),
            version: "0.1.0".into(),
            connections,
            channels: 3,
            beat_age_ms,
        };
        let table = table(&[node("gw-1", 12, 1_480), node("gateway-two", 100_000, 0)]);
        let expected = [
            "NAME         VERSION  CONNECTIONS  CHANNELS  LAST BEAT",
            "gw-1         0.1.0    12           3         1.4 s ago",
            "gateway-two  0.1.0    100000       3         0.0 s ago",
            "",
        ];
        assert_eq!(table, expected.join("\n"));
    }
}
