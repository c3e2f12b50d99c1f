//! The other loads, each against a node that does what it should and against one that does not.

use std::{collections::BTreeMap, time::Duration};

use indicatif::ProgressBar;
use skywave_loadtest::{
    scenario::{
        Access, Load, channels, churn, echo, fanout,
        idle::{self, Depth},
        stalled,
    },
    standin::{Fault, StandIn},
    tally::Outcome,
};

fn node(fault: Fault) -> (StandIn, Access) {
    let node = StandIn::start(fault).expect("a port and a thread");
    let access = Access { threads: 2, ..Access::to(vec![node.url()]) };
    (node, access)
}

fn bar() -> ProgressBar {
    ProgressBar::hidden()
}

fn small_channels(access: Access) -> channels::Settings {
    channels::Settings {
        access,
        channels: 3,
        members: 4,
        load: Load::Rate(10.0),
        duration: Duration::from_millis(500),
        patience: Duration::from_millis(500),
        ..channels::Settings::default()
    }
}

#[test]
fn in_small_channels_everybody_hears_the_members_of_their_own() {
    let (_node, access) = node(Fault::None);
    let report = channels::run(&small_channels(access), &bar()).unwrap();
    assert!(report.verdict.passed, "{report}");
    // 12 members publish 5 times each, and 4 hear each publication.
    assert_eq!(report.publications.sent, 60);
    assert_eq!(report.deliveries, Outcome { received: 240, ..Outcome::default() });
    assert_eq!(report.latency.last_of_all.samples, 60);
}

#[test]
fn a_delivery_that_is_lost_in_a_small_channel_fails() {
    let (_node, access) = node(Fault::Lose);
    let report = channels::run(&small_channels(access), &bar()).unwrap();
    assert!(!report.verdict.passed);
    assert_eq!((report.deliveries.lost, report.deliveries.received), (1, 239));
}

#[test]
fn a_window_of_small_channels_loses_nothing() {
    let (_node, access) = node(Fault::None);
    let report =
        channels::run(&channels::Settings { load: Load::Window(6), ..small_channels(access) }, &bar()).unwrap();
    assert!(report.verdict.passed, "{report}");
    assert_eq!(report.deliveries.received, report.publications.sent * 4);
}

#[test]
fn bursts_arrive_whole() {
    let (_node, access) = node(Fault::None);
    let settings = fanout::Settings {
        access,
        clients: 7,
        load: Load::Window(16),
        burst: true,
        duration: Duration::from_millis(300),
        ..fanout::Settings::default()
    };
    let report = fanout::run(&settings, &bar()).unwrap();
    assert!(report.verdict.passed, "{report}");
    assert!(report.publications.sent >= 16 && report.publications.sent.is_multiple_of(16));
    assert_eq!(report.deliveries.received, report.publications.sent * 8);
}

#[test]
fn those_who_stall_do_not_count_and_tell_how_they_ended() {
    let (_node, access) = node(Fault::None);
    let fanout = fanout::Settings {
        access,
        clients: 20,
        load: Load::Rate(100.0),
        duration: Duration::from_millis(300),
        size: 4096,
        patience: Duration::from_secs(2),
        ..fanout::Settings::default()
    };
    let settings = stalled::Settings { fanout, share: 0.1, expect: Some("open, continuous".to_owned()) };
    let report = stalled::run(&settings, &bar()).unwrap();
    assert!(report.verdict.passed, "{report}");
    assert_eq!(report.deliveries, Outcome { received: 30 * 19, ..Outcome::default() });
    let stalled = report.stalled.unwrap();
    // The stand-in keeps everything for them.
    assert_eq!((stalled.clients, stalled.outcomes), (2, BTreeMap::from([("open, continuous".to_owned(), 2)])));
    let report = stalled::run(&stalled::Settings { expect: Some("ended".to_owned()), ..settings }, &bar()).unwrap();
    assert_eq!(report.verdict.reasons, ["2 × stalled: open, continuous"]);
}

#[test]
fn a_share_that_is_none_is_wrong_usage() {
    let (_node, access) = node(Fault::None);
    let fanout = fanout::Settings { access, clients: 1, ..fanout::Settings::default() };
    for share in [-0.1, 1.1, f64::NAN] {
        let settings = stalled::Settings { fanout: fanout.clone(), share, expect: None };
        assert!(stalled::run(&settings, &bar()).unwrap_err().is_usage());
    }
}

#[test]
fn everything_sent_to_an_echo_comes_back() {
    let (_node, access) = node(Fault::None);
    let settings = echo::Settings {
        access,
        clients: 10,
        path: Some("/echo".to_owned()),
        in_flight: 8,
        duration: Duration::from_millis(200),
        ..echo::Settings::default()
    };
    let report = echo::run(&settings, &bar()).unwrap();
    assert!(report.verdict.passed, "{report}");
    assert!(report.frames >= 80 && report.frames.is_multiple_of(80));
    assert_eq!(report.echoed, report.frames);
}

#[test]
fn an_echo_that_says_nothing_fails() {
    let (_node, access) = node(Fault::None);
    let settings = echo::Settings {
        access,
        clients: 2,
        path: Some("/ws".to_owned()),
        duration: Duration::from_millis(200),
        patience: Duration::from_millis(300),
        ..echo::Settings::default()
    };
    let report = echo::run(&settings, &bar()).unwrap();
    assert!(!report.verdict.passed && report.timed_out, "{report}");
}

#[test]
fn publications_without_an_id_are_sent_at_their_rate() {
    let (_node, access) = node(Fault::None);
    let settings = echo::Settings {
        access,
        clients: 10,
        rate: 20.0,
        duration: Duration::from_millis(500),
        ..echo::Settings::default()
    };
    let report = echo::run(&settings, &bar()).unwrap();
    assert!(report.verdict.passed, "{report}");
    assert_eq!((report.frames, report.echoed), (100, 0));
}

#[test]
fn only_a_process_that_can_be_seen_is_stopped() {
    // The stand-in lives in this process, which is never stopped.
    let (_node, access) = node(Fault::None);
    let settings = echo::Settings { access, clients: 1, stopped: true, ..echo::Settings::default() };
    assert!(echo::run(&settings, &bar()).unwrap_err().is_usage());
}

#[test]
fn a_process_that_was_named_and_cannot_be_read_is_wrong_usage() {
    let (_node, access) = node(Fault::None);
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let access = Access { server_pids: vec![gone.id()], ..access };
    let fanout = fanout::Settings { access: access.clone(), clients: 1, ..fanout::Settings::default() };
    let idle = idle::Settings { access: access.clone(), clients: 1, ..idle::Settings::default() };
    let echo = echo::Settings { access: access.clone(), clients: 1, ..echo::Settings::default() };
    let churn = churn::Settings { access, clients: 1, ..churn::Settings::default() };
    for error in [
        fanout::run(&fanout, &bar()).unwrap_err(),
        idle::run(&idle, &bar()).unwrap_err(),
        echo::run(&echo, &bar()).unwrap_err(),
        churn::run(&churn, &bar()).unwrap_err(),
    ] {
        assert!(error.is_usage() && error.to_string().contains("--server-pid"), "{error}");
    }
}

#[test]
fn connections_come_and_go() {
    let (_node, access) = node(Fault::None);
    for bare in [false, true] {
        let access = Access { connecting: 8, ..access.clone() };
        // Bare, to a path that answers whatever it is told.
        let path = bare.then(|| "/echo".to_owned());
        let settings = churn::Settings { access, clients: 50, bare, path, ..churn::Settings::default() };
        let report = churn::run(&settings, &bar()).unwrap();
        assert!(report.verdict.passed, "{report}");
        assert_eq!((report.connections, report.handshake.samples, report.connect.samples), (50, 50, 50));
        assert_eq!(report.subscribe.samples, if bare { 0 } else { 50 });
    }
}

#[test]
fn connections_come_at_their_rate() {
    let (_node, access) = node(Fault::None);
    let settings = churn::Settings { access, clients: 20, rate: Some(50.0), ..churn::Settings::default() };
    let report = churn::run(&settings, &bar()).unwrap();
    assert!(report.verdict.passed && report.wall_seconds >= 0.38, "{report}");
}

#[test]
fn a_node_that_nobody_gets_into_is_told() {
    let (_node, access) = node(Fault::RefuseSubscribe);
    let settings = churn::Settings { access, clients: 3, ..churn::Settings::default() };
    let error = churn::run(&settings, &bar()).unwrap_err();
    assert!(!error.is_usage() && error.to_string().contains("subscribe"), "{error}");
}

#[test]
fn a_burst_reaches_all_who_rest() {
    let (_node, access) = node(Fault::None);
    let settings = idle::Settings {
        access,
        clients: 20,
        duration: Duration::from_millis(100),
        burst: Some((32, 1024)),
        ..idle::Settings::default()
    };
    let report = idle::run(&settings, &bar()).unwrap();
    assert!(report.verdict.passed, "{report}");
    assert_eq!(report.burst.unwrap().deliveries, Outcome { received: 32 * 21, ..Outcome::default() });
}

#[test]
fn a_burst_of_which_something_is_lost_fails() {
    let (_node, access) = node(Fault::Lose);
    let settings = idle::Settings {
        access,
        clients: 5,
        duration: Duration::from_millis(100),
        burst: Some((8, 128)),
        patience: Duration::from_millis(300),
        ..idle::Settings::default()
    };
    let report = idle::run(&settings, &bar()).unwrap();
    assert!(!report.verdict.passed);
    assert_eq!(report.burst.unwrap().deliveries.lost, 1);
}

#[test]
fn those_who_rest_go_in_as_far_as_they_are_told() {
    for (depth, fault) in [(Depth::Bare, Fault::RefuseSubscribe), (Depth::Connected, Fault::RefuseSubscribe)] {
        let (_node, access) = node(fault);
        let settings = idle::Settings {
            access,
            clients: 4,
            depth,
            duration: Duration::from_millis(50),
            ..idle::Settings::default()
        };
        let report = idle::run(&settings, &bar()).unwrap();
        assert!(report.verdict.passed, "{report}");
        assert_eq!((report.connecting.connect.samples, report.connecting.subscribe.samples), (4, 0));
        let burst = idle::Settings { burst: Some((1, 128)), ..settings };
        assert!(idle::run(&burst, &bar()).unwrap_err().is_usage());
    }
}
