//! The floors: the generator gets in, and gets everything once and in order.

use std::{
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use indicatif::ProgressBar;
use skywave_loadtest::{
    client::{Client, Manner},
    floor::{self, Work},
    scenario::{
        Access, Load,
        fanout::{self, Settings},
    },
    target::Target,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// On a thread that ends with the test's process, as a floor ends with its own.
fn start(work: Work) -> SocketAddr {
    let (ready, address) = mpsc::channel();
    thread::spawn(move || {
        let ended = floor::run(work, SocketAddr::from(([127, 0, 0, 1], 0)), |address| {
            let _ = ready.send(address);
        });
        eprintln!("the floor ended: {ended:?}");
    });
    address.recv_timeout(Duration::from_secs(10)).expect("it listens")
}

fn all_arrives(work: Work, channel: Option<&str>, load: Load) {
    let settings = Settings {
        access: Access { threads: 1, ..Access::to(vec![format!("ws://{}/ws", start(work))]) },
        clients: 20,
        publishers: 2,
        load,
        // All that is on its way fits into a socket: a floor queues nothing, and ends who is late because the machine is.
        size: 256,
        channel: channel.map(str::to_owned),
        duration: Duration::from_millis(300),
        ..Settings::default()
    };
    let report = fanout::run(&settings, &ProgressBar::hidden()).expect("it runs");
    assert!(report.verdict.passed, "{report}");
    assert!(report.publications.sent > 10, "{report}");
    assert_eq!(report.deliveries.received, report.publications.sent * 22, "{report}");
    let positioned = if channel.is_some() { 0 } else { report.deliveries.received };
    assert_eq!(report.sightings.positioned, positioned);
}

#[test]
fn one_send_a_socket_delivers_everything() {
    all_arrives(Work::Fanout { batched: false }, None, Load::Window(1));
}

#[test]
fn one_call_a_socket_delivers_everything() {
    all_arrives(Work::Fanout { batched: true }, None, Load::Window(32));
}

#[test]
fn a_live_channel_has_no_positions() {
    all_arrives(Work::Fanout { batched: true }, Some("live:a"), Load::Window(4));
}

#[tokio::test]
async fn every_floor_lets_a_client_in() {
    for work in [Work::Read, Work::Upgrade, Work::Idle, Work::Fanout { batched: false }] {
        let target = Target::parse(&format!("ws://{}/ws", start(work)), None).unwrap();
        let mut client = Client::open(&target, Manner::default()).await.unwrap();
        client.connect(None).await.unwrap();
        client.subscribe("a").await.unwrap();
    }
}

#[tokio::test]
async fn the_floor_of_handshakes_answers_each_message_with_itself() {
    let (mut socket, _) = connect_async(format!("ws://{}/echo", start(Work::Upgrade))).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
}

/// A command in two halves, and behind it what asks for nothing.
#[tokio::test]
async fn the_reading_floor_puts_split_frames_together() {
    const SUBSCRIBE: &[u8] = br#"{"id":1,"subscribe":{"channel":"a"}}"#;
    let mut stream = TcpStream::connect(start(Work::Read)).await.unwrap();
    stream.write_all(b"GET /ws HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await.unwrap();
    let mut answer = [0; 1024];
    assert!(stream.read(&mut answer).await.unwrap() > 0);

    let masked = |payload: &[u8]| [&[0x81, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat();
    let bytes = [masked(br#"{"publish":{}}"#), masked(SUBSCRIBE), masked(br#"{"publish":{}}"#)].concat();
    for half in bytes.chunks(bytes.len() / 2) {
        stream.write_all(half).await.unwrap();
        // So that they are most likely read apart: the answer is the same if they are not.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let read = timeout(Duration::from_secs(5), stream.read(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer[2..read]).starts_with(r#"{"id":1,"subscribed""#));
}

/// How the program ends, and what it says.
fn ends(flags: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest")).arg("floor").args(flags).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_a_floor_cannot_do_is_wrong_usage() {
    assert_eq!(ends(&["sing"]).0, Some(64));
    let (code, words) = ends(&["read", "--batched"]);
    assert!(code == Some(64) && words.contains("--batched is for fanout"), "{words}");
    let (code, words) = ends(&["read", "--listen", "0.0.0.0:0"]);
    assert!(code == Some(64) && words.contains("loopback"), "{words}");
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    for work in ["fanout", "read", "upgrade", "idle"] {
        let (code, words) = ends(&[work, "--listen", &taken.local_addr().unwrap().to_string()]);
        assert!(code == Some(1) && words.contains("in use"), "{words}");
    }
}
