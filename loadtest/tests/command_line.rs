//! The program as scripts use it: exit codes, and the JSON file.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::TcpStream,
    process::{Command, Stdio},
};

use serde_json::Value;
use skywave_loadtest::standin::{Fault, Misstep, StandIn};

fn loadtest(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest")).args(arguments).output().expect("the program runs");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The loads, short.
const LOADS: [&[&str]; 6] = [
    &["fanout", "--clients", "3", "--duration", "100ms", "--rate", "50"],
    &["channels", "--channels", "2", "--members", "2", "--duration", "100ms", "--rate", "50"],
    &["stalled", "--clients", "4", "--stalled", "50%", "--duration", "100ms", "--rate", "50"],
    &["idle", "--clients", "3", "--duration", "100ms", "--burst", "4x128"],
    &["echo", "--clients", "3", "--duration", "100ms", "--path", "/echo"],
    &["churn", "--clients", "3"],
];

#[test]
fn every_load_passes_with_code_0_and_writes_its_figures() {
    let node = StandIn::start(Fault::None).unwrap();
    for load in LOADS {
        let file = env::temp_dir().join(format!("loadtest-{}-{}.json", load[0], std::process::id()));
        let url = node.url();
        let arguments = [load, &["--url", &url, "--json", file.to_str().unwrap()]].concat();
        let (code, said) = loadtest(&arguments);
        assert_eq!(code, Some(0), "{load:?}: {said}");
        assert!(said.contains("\nPASSED\n"), "{said}");
        // For whoever waits for that moment; nobody stays in where connections come and go.
        assert_eq!(said.contains(" are in\n"), load[0] != "churn", "{said}");
        let figures: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        fs::remove_file(file).unwrap();
        assert_eq!(figures["verdict"]["passed"], Value::Bool(true), "{figures}");
        // The node is a process of its own: what it costs is read.
        assert!(figures.to_string().contains("cpu"), "{figures}");
    }
}

#[test]
fn clients_are_spread_over_processes_and_nothing_is_lost() {
    let node = StandIn::start(Fault::None).unwrap();
    let (url, file) = (node.url(), env::temp_dir().join(format!("loadtest-spread-{}.json", std::process::id())));
    let (clients, json) = (["--clients", "50", "--processes", "3", "--url", &url], ["--json", file.to_str().unwrap()]);
    for load in [
        &["fanout", "--duration", "300ms", "--rate", "50"][..],
        &["fanout", "--duration", "300ms", "--window", "4", "--burst"],
        &["stalled", "--duration", "200ms", "--rate", "50"],
        &["idle", "--duration", "100ms", "--burst", "8x128"],
    ] {
        let (code, said) = loadtest(&[load, &clients, &json].concat());
        assert_eq!(code, Some(0), "{load:?}: {said}");
        let figures: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let deliveries = figures.get("deliveries").unwrap_or(&figures["burst"]["deliveries"]);
        let each = if load[0] == "stalled" { 46 } else { 51 };
        let received = deliveries["received"].as_u64().unwrap();
        assert!(received > 0 && received.is_multiple_of(each), "{figures}");
        if load[0] == "fanout" {
            assert_eq!(figures["latency"]["from_send"]["samples"].as_u64(), Some(received), "{figures}");
            assert_eq!(figures["latency"]["last_of_all"]["samples"], figures["publications"]["sent"], "{figures}");
        }
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn who_cannot_get_in_elsewhere_is_told_here() {
    let node = StandIn::start(Fault::RefuseSubscribe).unwrap();
    let (code, said) = loadtest(&["fanout", "--clients", "4", "--processes", "2", "--url", &node.url()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("permission_denied"), "{said}");
}

#[test]
fn what_goes_wrong_is_code_1() {
    let node = StandIn::start(Fault::Lose).unwrap();
    let url = node.url();
    let (code, said) = loadtest(&[LOADS[0], &["--url", &url, "--patience", "300ms"]].concat());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("1 deliveries lost"), "{said}");
    let (code, said) = loadtest(&["churn", "--clients", "2", "--url", "ws://127.0.0.1:1/ws"]);
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn a_roll_is_judged_by_its_exit_code_and_writes_its_figures() {
    for (misstep, wanted) in [(Misstep::None, 0), (Misstep::LeaveOut, 1)] {
        let cluster = StandIn::start_rolled(misstep).unwrap();
        let file = env::temp_dir().join(format!("loadtest-roll-{wanted}-{}.json", std::process::id()));
        let (url, api) = (cluster.url(), cluster.api());
        let arguments =
            ["roll", "--clients", "6", "--rate", "100", "--duration", "2s", "--patience", "1s", "--url", &url];
        let more = ["--api", &api, "--min-returns", "6", "--json", file.to_str().unwrap()];
        let (code, said) = loadtest(&[&arguments[..], &more].concat());
        assert_eq!(code, Some(wanted), "{said}");
        assert!(said.contains(if wanted == 0 { "\nPASSED\n" } else { "\nFAILED: json: 1 deliveries lost" }), "{said}");
        let figures: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        fs::remove_file(file).unwrap();
        assert_eq!(figures["parties"]["raw"]["closes"]["1012"].as_u64(), Some(2), "{figures}");
    }
}

#[test]
fn a_roll_that_is_told_to_end_closes_its_books() {
    let cluster = StandIn::start_rolled(Misstep::None).unwrap();
    let mut roll = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["roll", "--clients", "6", "--duration", "1h", "--rate", "100"])
        .args(["--url", &cluster.url(), "--api", &cluster.api()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(roll.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "all 6 are in\n");
    Command::new("kill").arg(roll.id().to_string()).status().unwrap();
    let output = roll.wait_with_output().unwrap();
    // It may have been told before the first publication, and then there is nothing to judge.
    assert!(output.status.code().is_some(), "it ended by itself: {output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("acknowledged"), "{output:?}");
}

#[test]
fn a_floor_that_has_no_file_left_says_how_to_get_more() {
    let floor = |work: &str| {
        let script = "ulimit -n 16; exec \"$0\" floor \"$1\"";
        Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_loadtest"), work])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for work in ["fanout", "upgrade", "idle"] {
        let mut floor = floor(work);
        let mut line = String::new();
        BufReader::new(floor.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        let clients: Vec<_> = (0..20).map_while(|_| TcpStream::connect(&address).ok()).collect();
        let output = floor.wait_with_output().unwrap();
        drop(clients);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("ulimit -n 16"), "{work}: {said}");
    }
}

#[test]
fn process_0_is_wrong_usage() {
    // To `kill` it is the whole group of whoever asks.
    for load in ["echo", "fanout"] {
        let (code, said) = loadtest(&[load, "--server-pid", "0"]);
        assert!(code == Some(64) && said.contains("--server-pid"), "{said}");
    }
}

#[test]
fn wrong_usage_is_code_64() {
    for wrong in [
        &["fanout", "--clients", "0"][..],
        &["fanout", "--burst"],
        &["fanout", "--window", "1", "--rate", "5"],
        &["stalled", "--stalled", "200%"],
        &["idle", "--burst", "9"],
        &["idle", "--bare", "--burst", "9x999"],
        &["idle", "--clients", "1", "--burst", "9x9"],
        &["echo", "--path", "/echo", "--publish-to", "a"],
        &["echo", "--clients", "4", "--processes", "2"],
        &["churn", "--rate", "0"],
        &["fanout", "--url", "wss://localhost/ws"],
        &["fanout", "--tls"],
        &["roll", "--mix", "json=0"],
        &["roll", "--api", "https://localhost:8001"],
        &["roll", "--channels", "2", "--subscriptions", "3"],
        &["roll", "--deflate"],
        &["roll", "--size", "9"],
        &["dance"],
    ] {
        let (code, said) = loadtest(wrong);
        assert_eq!(code, Some(64), "{wrong:?}: {said}");
    }
}
