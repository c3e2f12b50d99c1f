//! Everybody cut at once, against a real node.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use indicatif::ProgressBar;
use skywave_gateway::{
    config::{Flags, Settings as NodeSettings},
    node::Node,
};
use skywave_loadtest::{
    report::rolling::{Rolling, Thresholds},
    scenario::{
        Access, ScenarioError,
        roll::{self, Cut, Settings},
    },
};

const CLIENTS: usize = 60;

/// Against a node that keeps so many publications of a channel.
async fn run(kept: u32, cut: Cut) -> Result<Rolling, ScenarioError> {
    let flags = Flags {
        listen: vec!["127.0.0.1:0".into()],
        internal_listen: vec!["127.0.0.1:0".into()],
        dev: true,
        ..Flags::default()
    };
    let room =
        format!("{{ history = {{ size = {kept}, ttl = \"10m\" }}, publish = \"anyone\", subscribe = \"anyone\" }}");
    let variables = [
        ("SKYWAVE__NAMESPACES__ROOM", room.as_str()),
        ("SKYWAVE__LIMITS__OVERLOAD_MEMORY", "0"),
        ("SKYWAVE__LIMITS__OVERLOAD_LAG", "0s"),
    ];
    let node = Node::start(NodeSettings::load(&flags, variables).unwrap(), None).await.unwrap();
    let settings = Settings {
        access: Access { threads: 1, ..Access::to(vec![format!("ws://{}/ws", node.public_addresses()[0])]) },
        clients: CLIENTS,
        mix: "json=2,protobuf".parse().unwrap(),
        channels: 2,
        channel: "room:".to_owned(),
        rate: 50.0,
        duration: Duration::from_secs(2),
        api: vec![format!("http://{}", node.internal_addresses()[0])],
        patience: Duration::from_secs(5),
        thresholds: Thresholds { closes: Vec::new(), ..Thresholds::default() },
        cut: Some(cut),
        ..Settings::default()
    };
    tokio::task::spawn_blocking(move || roll::run(&settings, &ProgressBar::hidden())).await.unwrap()
}

fn cut(back_within: Duration) -> Cut {
    Cut { after: Duration::from_millis(500), rest: Duration::ZERO, back_within: Some(back_within) }
}

#[tokio::test]
async fn everybody_is_cut_once_and_misses_nothing() {
    let report = run(1000, cut(Duration::from_secs(30))).await.unwrap();
    assert!(report.verdict.passed, "{report}");
    let storm = report.storm.as_ref().unwrap();
    assert_eq!((storm.cut, storm.back.samples), (CLIENTS as u64, CLIENTS as u64));
    assert_eq!(report.reconnects, CLIENTS as u64 + storm.refused);
    let returned: u64 = report.parties.values().map(|party| party.returns["recovered"]).sum();
    assert_eq!(returned, CLIENTS as u64);
    let received: u64 = report.parties.values().map(|party| party.deliveries.received).sum();
    assert_eq!(received, report.publications.acknowledged * CLIENTS as u64 / 2, "each is on one of two channels");
    assert!(report.to_string().contains("cut at once"), "{report}");
}

#[tokio::test]
async fn who_is_late_fails_the_run() {
    let report = run(1000, cut(Duration::from_nanos(1))).await.unwrap();
    assert_eq!(report.verdict.reasons.len(), 1, "{report}");
    assert!(report.verdict.reasons[0].starts_with("99 % were back after"), "{report}");
}

#[tokio::test]
async fn where_nothing_is_kept_a_storm_fails_the_run() {
    let report = run(0, cut(Duration::from_secs(30))).await.unwrap();
    assert!(!report.verdict.passed, "{report}");
}

#[tokio::test]
async fn a_storm_after_the_end_is_wrong_usage() {
    let late = Cut { after: Duration::from_secs(2), ..cut(Duration::from_secs(1)) };
    let error = run(1000, late).await.unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("--cut-after"), "{error}");
}
