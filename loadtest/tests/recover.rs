//! The client library's own load, against a node that keeps what clients miss and against channels that do not.
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
        recover::{self, Settings},
    },
};

/// A node whose namespace `room` keeps so many publications.
async fn run(kept: u32) -> Result<Rolling, ScenarioError> {
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
        clients: 20,
        channels: 4,
        channel: "room:".to_owned(),
        rate: 100.0,
        duration: Duration::from_secs(2),
        every: Duration::from_millis(200),
        patience: Duration::from_secs(5),
        thresholds: Thresholds { returns: 20, ..Thresholds::default() },
        ..Settings::default()
    };
    tokio::task::spawn_blocking(move || recover::run(&settings, &ProgressBar::hidden())).await.unwrap()
}

#[tokio::test]
async fn over_connections_that_are_given_up_everything_comes_once() {
    let report = run(1000).await.unwrap();
    assert!(report.verdict.passed, "{report}");
    assert_eq!(report.publications.acknowledged, 200);
    assert_eq!(report.parties["library"].deliveries.received, 20 * 2 * 50);
}

#[tokio::test]
async fn where_nothing_is_kept_what_is_missed_is_told_and_fails_the_run() {
    let report = run(0).await.unwrap();
    assert!(report.wrong.contains_key("gap possible"), "{report}");
    assert!(!report.verdict.passed);
}
