//! Clients that stay, against a cluster that sends them away and takes them back, and against some that do it wrong.

use std::{thread, time::Duration};

use indicatif::ProgressBar;
use skywave_loadtest::{
    report::rolling::{Rolling, Thresholds},
    scenario::{
        Access,
        roll::{self, Settings},
    },
    standin::{Misstep, StandIn},
};

const KINDS: [&str; 3] = ["json", "protobuf", "raw"];

fn run(misstep: Misstep, mix: &str, reconnects: Option<u64>) -> Rolling {
    let cluster = StandIn::start_rolled(misstep).expect("a port and a thread");
    let settings = Settings {
        access: Access { threads: 1, ..Access::to(vec![cluster.url()]) },
        clients: 12,
        mix: mix.parse().expect("a mix"),
        channels: 2,
        subscriptions: 2,
        rate: 100.0,
        duration: Duration::from_secs(1),
        api: vec![cluster.api(), cluster.api()],
        patience: Duration::from_secs(2),
        thresholds: Thresholds { reconnects, returns: 12, ..Thresholds::default() },
        ..Settings::default()
    };
    roll::run(&settings, &ProgressBar::hidden()).expect("it can be run")
}

/// The same for each kind, at the same time.
fn each(misstep: Misstep, check: impl Fn(&str, Rolling) + Sync) {
    thread::scope(|scope| {
        for kind in KINDS {
            scope.spawn(|| check(kind, run(misstep, kind, None)));
        }
    });
}

#[test]
fn who_is_sent_away_and_taken_back_gets_everything_once() {
    let report = run(Misstep::None, "json,protobuf,raw", Some(8));
    assert!(report.verdict.passed, "{report}");
    assert_eq!((report.publications.acknowledged, report.publications.duplicates), (100, 1), "one was asked for twice");
    for kind in KINDS {
        let party = &report.parties[kind];
        // Half of the publications on each channel; bare clients have one.
        let expected = if kind == "raw" { 4 * 50 } else { 4 * 100 };
        assert_eq!((party.clients, party.deliveries.received), (4, expected), "{kind}");
        assert_eq!(party.returns["recovered"], if kind == "raw" { 4 } else { 8 }, "{kind}");
        let code = if kind == "raw" { "1012" } else { "4001" };
        assert_eq!(party.closes, [(code.to_owned(), 4)].into(), "{kind}");
    }
    assert_eq!((report.reconnects, report.away.samples), (12, 12));
}

#[test]
fn what_a_client_does_not_get_is_lost() {
    for misstep in [Misstep::Lose, Misstep::LeaveOut] {
        each(misstep, |kind, report| {
            let mut reasons = vec![format!("{kind}: 1 deliveries lost")];
            if kind != "raw" {
                reasons.push(format!("{kind}: 1 offsets skipped on the channel"));
            }
            assert_eq!(report.verdict.reasons, reasons, "{misstep:?}");
        });
    }
}

#[test]
fn what_a_client_gets_twice_is_doubled() {
    each(Misstep::Double, |kind, report| {
        assert_eq!(report.parties[kind].deliveries.doubled, 1);
        assert_eq!(report.verdict.reasons[0], format!("{kind}: 1 deliveries doubled"));
    });
    // All six who are on the channel, or twelve where everybody is on both.
    each(Misstep::ForgetKey, |kind, report| {
        assert_eq!(report.parties[kind].deliveries.doubled, if kind == "raw" { 6 } else { 12 }, "{report}");
        assert!(!report.verdict.passed);
    });
}

#[test]
fn who_has_to_start_over_has_lost_something() {
    for kind in ["json", "protobuf"] {
        let report = run(Misstep::StartOver, kind, None);
        let party = &report.parties[kind];
        assert_eq!(party.returns["not recovered"], 1);
        assert!(party.deliveries.lost > 0, "{report}");
        assert!(report.verdict.reasons.contains(&format!("{kind}: 1 returns that were not recovered")), "{report}");
    }
}

#[test]
fn who_comes_back_as_somebody_else_is_noticed() {
    for kind in ["json", "protobuf"] {
        let report = run(Misstep::Rename, kind, None);
        assert_eq!(report.verdict.reasons, ["1 × came back as another client, in spite of its session"]);
    }
}

#[test]
fn an_end_that_is_no_drain_is_noticed() {
    each(Misstep::WrongCode, |kind, report| {
        assert_eq!(report.verdict.reasons, ["1 connections ended with 1011"], "{kind}");
    });
    each(Misstep::Cut, |kind, report| {
        assert_eq!(report.verdict.reasons, ["1 connections ended with none"], "{kind}: {report}");
        let party = &report.parties[kind];
        let blind = party.returns.get("no position").copied().unwrap_or_default();
        assert_eq!(blind, u64::from(kind == "raw"), "only a bare client holds nothing");
        assert!(kind == "raw" || party.uncovered == 0);
    });
}

#[test]
fn who_comes_in_heaps_is_noticed() {
    let report = run(Misstep::Crowd, "json,protobuf", Some(8));
    assert_eq!(report.verdict.reasons, ["12 came back within 100 ms, the limit is 8"]);
}
