//! TLS on the listeners: certificates that change, clients that must show one, clients that take too long.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{io, time::Duration};

use serde_json::json;
use support::{
    DEADLINE, Running,
    tls::{Files, certificate, connect},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

const TLS: &str = "SKYWAVE__PUBLIC__TLS";

async fn node(files: &Files, client_ca: bool) -> Running {
    support::node(&[(TLS, &files.setting(client_ca)), ("SKYWAVE__TIMEOUTS__TLS", "500ms")]).await
}

async fn hears_itself<S: AsyncRead + AsyncWrite + Unpin>(client: &mut support::Client<S>) {
    client.ask(json!({"publish": {"channel": "a", "data": "heard"}})).await;
    assert_eq!(client.data(1).await, ["heard"]);
}

/// Reads to the end; what was sent, and whether it ended with an error.
async fn to_the_end(socket: &mut (impl AsyncRead + Unpin)) -> (String, io::Result<()>) {
    let mut all = Vec::new();
    let end = timeout(DEADLINE, socket.read_to_end(&mut all)).await.expect("the connection ends");
    (String::from_utf8_lossy(&all).into_owned(), end.map(drop))
}

#[tokio::test]
async fn websockets_and_pages_come_through_tls() {
    let files = Files::new();
    let node = node(&files, false).await;
    for protocols in [&["http/1.1"][..], &[]] {
        let stream = files.connect(&node.public(), protocols).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), protocols.first().map(|name| name.as_bytes()));
        let client = support::upgrade(stream, "/ws", &[("origin", "https://localhost")]).await.unwrap();
        hears_itself(&mut client.subscribed(&["a"]).await).await;
    }
    let stream = files.connect(&node.public(), &["http/1.1", "h2"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "what the node likes best");
    let (client, _) = support::http2::Http2::over(stream, "https", "localhost").await;
    hears_itself(&mut client.socket("/ws").await.subscribed(&["a"]).await).await;

    // Whoever offers nothing that is spoken here is told so by TLS itself (RFC 7301 §3.2).
    assert!(connect(&files.client(&["spdy/3"], None), &node.public()).await.is_err());
}

#[tokio::test]
async fn frames_sent_behind_the_handshake_are_not_lost() {
    let files = Files::new();
    let node = node(&files, false).await;
    let mut stream = files.connect(&node.public(), &["http/1.1"]).await;
    let request = "GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let command = br#"{"id":7,"ping":{}}"#;
    let frame = [&[0x81, 0x80 | u8::try_from(command.len()).unwrap(), 0, 0, 0, 0], &command[..]].concat();
    stream.write_all(&[request.as_bytes(), &frame].concat()).await.unwrap();
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(r#""pong""#) {
        let read = timeout(DEADLINE, stream.read_buf(&mut heard)).await.expect("the answer comes");
        assert!(read.unwrap() > 0, "{}", String::from_utf8_lossy(&heard));
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_cuts_no_old_one() {
    let files = Files::new();
    let node = node(&files, false).await;
    let stream = files.connect(&node.public(), &["http/1.1"]).await;
    let first = certificate(&stream);
    let mut client = support::upgrade(stream, "/ws", &[]).await.unwrap().subscribed(&["a"]).await;
    files.renew();
    let shown = async || certificate(&files.connect(&node.public(), &[]).await);
    let second = until(async || Some(shown().await).filter(|shown| *shown != first)).await;
    hears_itself(&mut client).await;

    // A key without its certificate: what was shown stays, and a pair that belongs together is taken again.
    let (certificate, key) = files.pair();
    std::fs::write(files.path("tls.key"), key).unwrap();
    std::fs::remove_file(files.path("tls.crt")).unwrap();
    let seen = Instant::now();
    while seen.elapsed() < Duration::from_secs(3) {
        assert_eq!(shown().await, second); // longer than between two looks at the files
    }
    std::fs::write(files.path("tls.crt"), certificate).unwrap();
    until(async || Some(shown().await).filter(|shown| *shown != second)).await;
    hears_itself(&mut client).await;
}

async fn until<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it comes in time");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
    }
}

#[tokio::test]
async fn with_client_ca_only_clients_with_a_certificate_come_in() {
    let files = Files::new();
    let node = node(&files, true).await;
    let known = connect(&files.client(&["http/1.1"], Some(files.pair())), &node.public()).await.unwrap();
    let client = support::upgrade(known, "/ws", &[]).await.unwrap();
    hears_itself(&mut client.subscribed(&["a"]).await).await;
    for pair in [None, Some(Files::new().pair())] {
        // In TLS 1.3 the client is done before it is refused.
        let outcome = match connect(&files.client(&["http/1.1"], pair), &node.public()).await {
            Ok(mut stream) => match stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await {
                Ok(()) => to_the_end(&mut stream).await.1,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        assert!(outcome.is_err(), "a stranger is refused");
    }
}

#[tokio::test]
async fn who_takes_too_long_for_the_handshake_is_cut() {
    let files = Files::new();
    let node = node(&files, false).await;
    let begun = Instant::now();
    let mut silent = TcpStream::connect(node.public()).await.unwrap();
    drop(to_the_end(&mut silent).await);
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());

    // A hello of 512 bytes, one after the other: it never ends, for as long as somebody listens.
    let begun = Instant::now();
    let (mut read, mut write) = TcpStream::connect(node.public()).await.unwrap().into_split();
    let trickle = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        for byte in [22, 3, 1, 2, 0].into_iter().chain(std::iter::repeat(1)) {
            tick.tick().await;
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        ended = to_the_end(&mut read) => drop(ended),
        () = trickle => {}
    }
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    assert_eq!(files.connect(&node.public(), &[]).await.get_ref().1.alpn_protocol(), None, "others are served");
}

#[tokio::test]
async fn plain_http_where_tls_is_spoken_is_told_so() {
    let files = Files::new();
    let node = node(&files, false).await;
    let mut socket = TcpStream::connect(node.public()).await.unwrap();
    socket.write_all(b"GET /ws HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"wss://\n") {
        assert!(timeout(DEADLINE, socket.read_buf(&mut answer)).await.expect("an answer").unwrap() > 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    let mut garbage = TcpStream::connect(node.public()).await.unwrap();
    garbage.write_all(&[0; 64]).await.unwrap();
    drop(to_the_end(&mut garbage).await);
}

#[tokio::test]
async fn in_front_of_tls_a_page_without_it_is_foreign() {
    let files = Files::new();
    let node = support::closed_node(&[(TLS, &files.setting(false)), ("SKYWAVE__AUTH__ANONYMOUS", "true")]).await;
    let open = async |origin| {
        let stream = files.connect(&node.public(), &[]).await;
        support::upgrade(stream, "/ws", &[("origin", origin)]).await
    };
    assert!(open("https://localhost").await.is_ok());
    for foreign in ["http://localhost", "https://localhost:8443", "https://example.com"] {
        assert_eq!(open(foreign).await.err().expect("it is foreign").0, 403, "{foreign}");
    }
}

#[tokio::test]
async fn the_internal_listener_has_tls_of_its_own() {
    let files = Files::new();
    let node = support::node(&[("SKYWAVE__INTERNAL__TLS", &files.setting(false))]).await;
    let mut stream = files.connect(&node.internal(), &["http/1.1"]).await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let (answer, _) = to_the_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    assert!(node.try_socket("/ws", &[]).await.is_ok(), "the public one has none");
}

/// A place among the handshakes under way is for those who said something.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let files = Files::new();
    let node = support::node(&[(TLS, &files.setting(false)), ("SKYWAVE__TIMEOUTS__TLS", "20s")]).await;
    let mut silent = Vec::new();
    for number in 0..1200 {
        let mut socket = TcpStream::connect(node.public()).await.unwrap();
        if number % 2 == 0 {
            socket.write_all(b"\x16\x03\x01").await.unwrap(); // the beginning of a hello
        }
        silent.push(socket);
    }
    timeout(DEADLINE, files.connect(&node.public(), &["h2"])).await.expect("there is a place");
}
