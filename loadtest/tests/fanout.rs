//! The scenario against a node that does what it should, and against some that do not.

use std::{net::TcpListener, time::Duration};

use indicatif::ProgressBar;
use skywave_loadtest::{
    report::Report,
    scenario::{
        Access, Load, ScenarioError,
        fanout::{self, Settings},
    },
    standin::{Fault, StandIn},
    tally::Outcome,
};

fn settings(urls: Vec<String>) -> Settings {
    Settings {
        access: Access { threads: 2, ..Access::to(urls) },
        clients: 7,
        publishers: 2,
        load: Load::Rate(100.0),
        duration: Duration::from_millis(200),
        patience: Duration::from_millis(500),
        ..Settings::default()
    }
}

fn run(fault: Fault) -> Result<Report, ScenarioError> {
    let node = StandIn::start(fault).expect("a port and a thread");
    fanout::run(&settings(vec![node.url()]), &ProgressBar::hidden())
}

/// 20 publications to 7 clients and 2 publishers.
const ALL: u64 = 20 * 9;

#[test]
fn a_node_that_delivers_everything_passes() {
    let report = run(Fault::None).unwrap();
    assert!(report.verdict.passed, "{report}");
    assert_eq!(report.deliveries, Outcome { received: ALL, ..Outcome::default() });
    assert_eq!(report.latency.from_schedule.samples, ALL);
    assert_eq!(report.sightings.positioned, ALL);
    assert_eq!(report.publications.sent, 20);
}

#[test]
fn a_lost_delivery_fails() {
    let report = run(Fault::Lose).unwrap();
    assert!(!report.verdict.passed);
    assert_eq!(report.deliveries, Outcome { received: ALL - 1, lost: 1, offset_holes: 1, ..Outcome::default() });
}

#[test]
fn a_doubled_delivery_fails() {
    let report = run(Fault::Double).unwrap();
    assert!(!report.verdict.passed);
    assert_eq!(report.deliveries, Outcome { received: ALL, doubled: 1, offset_steps_back: 1, ..Outcome::default() });
}

#[test]
fn a_reordered_delivery_fails() {
    // One publisher, since the two publications that change places must be of the same one.
    let node = StandIn::start(Fault::Reorder).unwrap();
    let settings = Settings { publishers: 1, ..settings(vec![node.url()]) };
    let report = fanout::run(&settings, &ProgressBar::hidden()).unwrap();
    assert!(!report.verdict.passed);
    assert_eq!((report.deliveries.lost, report.deliveries.doubled, report.deliveries.reordered), (0, 0, 1));
}

#[test]
fn two_publishers_that_change_places_break_the_channels_order() {
    let report = run(Fault::Reorder).unwrap();
    assert!(!report.verdict.passed);
    assert_eq!((report.deliveries.reordered, report.deliveries.offset_holes), (0, 1));
}

#[test]
fn a_refused_publication_is_not_a_lost_one() {
    let report = run(Fault::RefusePublish).unwrap();
    assert!(!report.verdict.passed);
    assert_eq!((report.deliveries.lost, report.publications.refused), (0, 1));
    assert!(report.verdict.reasons[0].contains("limit: too often (spread the load"), "{report}");
}

#[test]
fn a_connection_that_ends_is_told_and_what_it_misses_is_lost() {
    // One publisher: whoever has not published by then only listens.
    let node = StandIn::start(Fault::Close).unwrap();
    let settings = Settings { publishers: 1, ..settings(vec![node.url()]) };
    let report = fanout::run(&settings, &ProgressBar::hidden()).unwrap();
    assert!(!report.verdict.passed);
    assert_eq!(report.sightings.endings.values().sum::<u64>(), 1, "{report}");
    assert_eq!(report.deliveries.lost, 18);
}

#[test]
fn a_node_that_refuses_clients_is_told_with_its_code_and_what_to_do() {
    let error = run(Fault::RefuseSubscribe).unwrap_err();
    let ScenarioError::Client { doing: "subscribe", source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.to_string(), "permission_denied: not for you");
    assert!(error.advice().unwrap().contains("--dev") && !error.is_usage());
}

#[test]
fn where_nobody_listens_the_error_says_so() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = fanout::run(&settings(vec![format!("ws://{free}/ws")]), &ProgressBar::hidden()).unwrap_err();
    assert!(error.to_string().contains(&free.to_string()), "{error}");
    assert!(error.advice().unwrap().contains("start a node"));
}

#[test]
fn a_closed_loop_loses_nothing() {
    let node = StandIn::start(Fault::None).unwrap();
    let settings = Settings { load: Load::Window(4), ..settings(vec![node.url()]) };
    let report = fanout::run(&settings, &ProgressBar::hidden()).unwrap();
    assert!(report.verdict.passed, "{report}");
    assert_eq!(report.deliveries.received, report.publications.sent * 9);
}

#[test]
fn a_latency_over_the_limit_fails() {
    let node = StandIn::start(Fault::None).unwrap();
    let settings = Settings { max_p99: Some(Duration::from_nanos(1)), ..settings(vec![node.url()]) };
    let report = fanout::run(&settings, &ProgressBar::hidden()).unwrap();
    assert!(report.verdict.reasons.iter().any(|reason| reason.contains("over the limit")), "{report}");
}
