//! A Redis that is spoken to in TLS.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod support;

use std::process::Command;

use skywave_backplane::{
    Backplane as _, BackplaneState, HistoryQuery, Redis, RedisOptions,
    conformance::{KEPT, Recorder, channel, publication, subscribe},
};
use support::{log::log, program::Program, until};
use tempfile::TempDir;

/// A directory with an authority, `ca.pem`, and what it has signed for 127.0.0.1.
fn authority() -> TempDir {
    let directory = TempDir::new().unwrap();
    let make = |name: &str, more: &[&str]| {
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let output = Command::new("openssl")
            .args(["req", "-x509", "-subj", &format!("/CN=skywave test {name}")])
            .args(key)
            .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
            .args(more)
            .current_dir(directory.path())
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    make("ca", &[]);
    let server = "subjectAltName=IP:127.0.0.1,DNS:localhost";
    make(
        "server",
        &["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", server, "-addext", "basicConstraints=critical,CA:FALSE"],
    );
    directory
}

fn options(scheme: &str, server: &Program) -> RedisOptions {
    let url = format!("{scheme}://:hunter2@127.0.0.1:{}", server.port);
    RedisOptions::parse(&url, "skywave", None, None, "test node").unwrap()
}

async fn secured() -> (Program, Vec<u8>) {
    let directory = authority();
    let ca = std::fs::read(directory.path().join("ca.pem")).unwrap();
    (Program::with_tls(directory).await, ca)
}

#[tokio::test]
async fn everything_works_through_tls() {
    let (server, ca) = secured().await;
    let heard = Recorder::new();
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let options = RedisOptions::parse(&url, "skywave", None, None, "test node").unwrap();
    let node = Redis::new(options.with_ca(&ca).unwrap(), heard.clone());
    until("the node to be live", || async { node.state() == BackplaneState::Live }).await;
    let news = channel("news");
    subscribe(&node, &news).await;
    node.publish(publication(&news, "1", Some(KEPT))).await.unwrap();
    heard.until_text(&news, "1").await;
    let page =
        node.history(&news, HistoryQuery { since: None, limit: 9, bytes: usize::MAX, followed: false }).await.unwrap();
    assert_eq!(page.publications.len(), 1);
    node.shared_secret().await.unwrap(); // through the pool
}

#[tokio::test]
async fn a_stranger_is_not_trusted_and_the_log_says_so() {
    let log = log();
    let (server, _) = secured().await;
    let other = std::fs::read(authority().path().join("ca.pem")).unwrap();
    let secure = || options("rediss", &server);
    for options in [secure().with_ca(&other).unwrap(), secure()] {
        let node = Redis::new(options, Recorder::new());
        let line = log.until(server.port, &["WARN", "invalid peer certificate", "backplane.ca"]).await;
        assert_eq!(node.state(), BackplaneState::Never, "{line}");
        node.close().await;
    }
    assert!(!log.text().contains("hunter2"), "a secret is in the log");
}

#[tokio::test]
async fn tls_and_no_tls_do_not_understand_each_other() {
    let log = log();
    let (secured, ca) = secured().await;
    let plain = Program::redis(&["save \"\""]).await;
    let to_plain = Redis::new(options("rediss", &plain).with_ca(&ca).unwrap(), Recorder::new());
    let to_secured = Redis::new(options("redis", &secured), Recorder::new());
    log.until(plain.port, &["WARN", "write redis://"]).await;
    log.until(secured.port, &["WARN", "redis is away"]).await;
    assert_eq!((to_plain.state(), to_secured.state()), (BackplaneState::Never, BackplaneState::Never));
    assert!(!log.text().contains("hunter2"), "a secret is in the log");
}
