//! `skywave tail`: what is published on a channel, line by line, until the node or whoever watches has enough.

use std::{io::Write as _, process::ExitCode};

use http::{Method, StatusCode};
use serde_json::json;

use super::{
    call::{Api, TIMEOUT, detail, runtime},
    failed, wrong,
};
use crate::outbound::describe;

/// The longest answer that says no, in bytes.
const PROBLEM_BYTES: usize = 64 * 1024;
/// A tail on which nothing happens says so every 15 seconds: this much longer silence is a node that is gone.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(45);

pub(super) fn tail(api: &Api, channel: &str, since: Option<&str>) -> ExitCode {
    let mut body = json!({ "channel": channel });
    if let Some(since) = since {
        match since.rsplit_once(':').map(|(epoch, offset)| (epoch, offset.parse::<u64>())) {
            Some((epoch, Ok(offset))) => body["since"] = json!({ "epoch": epoch, "offset": offset }),
            _ => return wrong(&format!("--since is EPOCH:OFFSET, not {since:?}")),
        }
    }
    match runtime().and_then(|runtime| runtime.block_on(follow(api, body.to_string()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn follow(api: &Api, body: String) -> Result<(), String> {
    let (outbound, request) = api.request(Method::POST, "/api/v1/tail", body)?;
    let broken = |error: reqwest::Error| api.unreachable(&describe(&error.without_url()));
    let silent = |_| api.unreachable(&"nothing comes any more");
    let answer = tokio::time::timeout(TIMEOUT, outbound.client().execute(request)).await.map_err(silent)?;
    let mut answer = answer.map_err(broken)?;
    if answer.status() != StatusCode::OK {
        let status = answer.status();
        let mut problem = Vec::new();
        while let Some(chunk) = tokio::time::timeout(TIMEOUT, answer.chunk()).await.map_err(silent)?.map_err(broken)? {
            problem.extend_from_slice(&chunk);
            if problem.len() > PROBLEM_BYTES {
                break;
            }
        }
        return Err(format!("no tail ({status}): {}", detail(&String::from_utf8_lossy(&problem))));
    }
    let mut out = std::io::stdout().lock();
    let mut at_line_start = true;
    while let Some(chunk) = tokio::time::timeout(SILENCE, answer.chunk()).await.map_err(silent)?.map_err(broken)? {
        // Empty lines only say that the node is there.
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            if at_line_start && piece == b"\n" {
                continue;
            }
            at_line_start = piece.ends_with(b"\n");
            if out.write_all(piece).is_err() {
                return Ok(()); // whoever read it has enough
            }
        }
        if out.flush().is_err() {
            return Ok(());
        }
    }
    Ok(())
}
