//! Commands that talk to a node's internal listener.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use http::{Method, StatusCode, Uri, header};
use reqwest::Request;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{failed, wrong};
use crate::outbound::Outbound;

/// A node that does not answer in this time does not answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
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
    /// Certificates (PEM) that are trusted beside the system's, where the listener speaks TLS.
    #[arg(long, env = "SKYWAVE_API_CA")]
    ca: Option<PathBuf>,
}

/// The data as it was given: the order of its members, and numbers of any size.
#[derive(Serialize)]
struct Publish<'a> {
    channel: &'a str,
    data: &'a RawValue,
}

pub(super) fn publish(api: &Api, channel: &str, json: &str) -> ExitCode {
    let data = match serde_json::from_str::<&RawValue>(json) {
        Ok(data) => data,
        Err(error) => return wrong(&format!("{json:?} is not JSON ({error}); a string needs quotes: '\"hello\"'")),
    };
    let body = match serde_json::to_string(&Publish { channel, data }) {
        Ok(body) => body,
        Err(error) => return failed(&error.to_string()),
    };
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
                if let Some(warning) = mixed(&nodes) {
                    eprintln!("{warning}");
                }
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

/// What to know while nodes of several releases are there.
fn mixed(nodes: &[NodeLine]) -> Option<String> {
    let releases: BTreeSet<_> = nodes.iter().map(|node| node.version.as_str()).collect();
    (releases.len() > 1).then(|| {
        format!(
            "these nodes are of {} releases ({}): fine during an upgrade between neighbouring minor versions, and no state to \
             stay in; what only the newer one knows, the others ignore",
            releases.len(),
            Vec::from_iter(releases).join(", ")
        )
    })
}

pub(super) fn drain(api: &Api, node: &str, down_to_mean: bool) -> ExitCode {
    let mut order = serde_json::json!({ "node": node });
    if down_to_mean {
        order["down_to_mean"] = true.into();
    }
    match call(api, Method::POST, "/api/v1/drain", order.to_string()) {
        Ok((StatusCode::OK, _)) => {
            println!("{node} {}", if down_to_mean { "sends away what it has above the mean" } else { "leaves" });
            ExitCode::SUCCESS
        }
        Ok((status, answer)) => failed(&format!("not drained ({status}): {}", detail(&answer))),
        Err(error) => failed(&error),
    }
}

pub(super) fn healthcheck(api: &Api) -> ExitCode {
    match call(api, Method::GET, "/readyz", String::new()) {
        Ok((StatusCode::OK, _)) => ExitCode::SUCCESS,
        Ok((status, answer)) => failed(&format!("not ready ({status}): {}", answer.trim_end())),
        Err(error) => failed(&error),
    }
}

/// The sentence in an error answer.
pub(super) fn detail(answer: &str) -> String {
    let detail = serde_json::from_str::<serde_json::Value>(answer);
    let detail = detail.ok().and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
    detail.unwrap_or_else(|| answer.to_owned())
}

fn call(api: &Api, method: Method, path: &str, body: String) -> Result<(StatusCode, String), String> {
    runtime()?.block_on(async {
        let (outbound, request) = api.request(method, path, body)?;
        let answer = outbound.send(request, TIMEOUT, ANSWER_BYTES).await;
        let answer = answer.map_err(|error| api.unreachable(&error))?;
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    })
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

impl Api {
    /// A request, and what sends it.
    pub(super) fn request(&self, method: Method, path: &str, body: String) -> Result<(Outbound, Request), String> {
        let (scheme, authority) = match (self.api.scheme_str(), self.api.authority()) {
            (Some(scheme @ ("http" | "https")), Some(authority)) => (scheme, authority),
            _ => return Err("--api is written http://HOST:PORT or https://HOST:PORT".into()),
        };
        let ca = self.ca.as_ref().map(std::fs::read).transpose().map_err(|error| format!("--ca: {error}"))?;
        let outbound = if scheme == "http" { Outbound::plain() } else { Outbound::direct(ca.as_deref()) };
        let outbound = outbound.map_err(|error| error.to_string())?;
        let mut request = outbound.client().request(method, format!("{scheme}://{authority}{path}"));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let request = request.build().map_err(|error| error.to_string())?;
        Ok((outbound, request))
    }

    pub(super) fn unreachable(&self, why: &dyn std::fmt::Display) -> String {
        format!("{}: {why}", self.api)
    }
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
        let other = NodeLine { version: "0.2.0".into(), ..node("gw-3", 0, 0) };
        assert_eq!(mixed(&[node("gw-1", 0, 0), node("gw-2", 0, 0)]), None);
        assert!(mixed(&[node("gw-1", 0, 0), other]).unwrap().contains("2 releases (0.1.0, 0.2.0)"));
    }
}
