//! SockJS, line by line as its protocol has it: statuses, headers, frames.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use support::{DEADLINE, Running};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

const SERVICES: &str = r#"[
    { prefix = "/echo", mode = "echo", response_limit = 4096 },
    { prefix = "/close", mode = "close" },
    { prefix = "/disabled", mode = "echo", websocket = false },
    { prefix = "/cookie", mode = "echo", cookie = true },
    { prefix = "/cursors", mode = "raw", channel = "cursors" },
    { prefix = "/api", mode = "protocol" },
]"#;
const NOT_KEPT: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";
const SCRIPT: &str = "application/javascript; charset=UTF-8";
const TEXT: &str = "text/plain; charset=UTF-8";

async fn node() -> Running {
    support::node(&[("SKYWAVE__SOCKJS", SERVICES), ("SKYWAVE__PUBLIC__ORIGINS", "http://app.example")]).await
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Incoming,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    async fn text(self) -> String {
        let body = timeout(DEADLINE, self.body.collect()).await.expect("the body ends in time").unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }

    /// The next chunk; `None` at the end.
    async fn chunk(&mut self) -> Option<String> {
        let frame = timeout(DEADLINE, self.body.frame()).await.expect("a chunk in time")?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }
}

async fn ask(node: &Running, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let address = node.public();
    let socket = TcpStream::connect(&address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path).header("host", &address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let (parts, body) = timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap().into_parts();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

async fn get(node: &Running, path: &str) -> Answer {
    ask(node, "GET", path, &[], "").await
}

async fn post(node: &Running, path: &str, body: &str) -> Answer {
    ask(node, "POST", path, &[], body).await
}

/// The status and the body of a POST.
async fn said(node: &Running, path: &str, body: &str) -> (u16, String) {
    let answer = post(node, path, body).await;
    (answer.status, answer.text().await)
}

/// A session that is open, at this service.
async fn opened(node: &Running, service: &str, name: &str) -> String {
    let url = format!("{service}/000/{name}");
    assert_eq!(said(node, &format!("{url}/xhr"), "").await, (200, "o\n".to_owned()));
    url
}

fn assert_not_kept(answer: &Answer) {
    assert_eq!(answer.header("cache-control"), NOT_KEPT);
    assert!(!answer.headers.contains_key("expires") && !answer.headers.contains_key("last-modified"));
}

#[tokio::test]
async fn the_greeting_and_what_is_nowhere() {
    let node = node().await;
    for path in ["/echo", "/echo/"] {
        let answer = get(&node, path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, TEXT));
        assert!(!answer.headers.contains_key("set-cookie"));
        assert_eq!(answer.text().await, "Welcome to SockJS!\n");
    }
    for path in [
        "/echo/a",
        "/echo/a.html",
        "/echo//",
        "/echo///",
        "/echo/a/a",
        "/echo/a/a/",
        "/echo//a/xhr",
        "/echo/a./b/xhr",
        "/echo/iframe.htm",
        "/echo/IFRAME.html",
        "/echo/iframe",
        "/echo/iframe-/.html",
        "/echo/a/b/xhr/x",
    ] {
        assert_eq!(get(&node, path).await.status, 404, "{path}");
    }
    for (path, method, allowed) in [
        ("/echo", "POST", "GET"),
        ("/echo/0/a/websocket", "POST", "GET"),
        ("/echo/0/a/xhr", "GET", "OPTIONS, POST"),
        ("/echo/0/a/eventsource", "POST", "GET"),
        ("/echo/info", "POST", "OPTIONS, GET"),
    ] {
        let answer = ask(&node, method, path, &[], "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{path}");
        assert!(!answer.headers.contains_key("content-type"));
        assert_eq!(answer.text().await, "");
    }
    node.node.drain().await;
}

#[tokio::test]
async fn info_is_fresh_each_time() {
    let node = node().await;
    let mut entropies = Vec::new();
    for path in ["/echo/info", "/echo/info/"] {
        let answer = get(&node, path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json; charset=UTF-8"));
        assert_not_kept(&answer);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(!answer.headers.contains_key("access-control-allow-credentials"));
        let mut info: Value = serde_json::from_str(&answer.text().await).unwrap();
        entropies.push(info["entropy"].take().as_u64().unwrap());
        assert_eq!(info, json!({"websocket": true, "origins": ["*:*"], "cookie_needed": false, "entropy": null}));
    }
    assert_ne!(entropies[0], entropies[1]);
    let info: Value = serde_json::from_str(&get(&node, "/disabled/info").await.text().await).unwrap();
    assert_eq!(info["websocket"], false);
    let info: Value = serde_json::from_str(&get(&node, "/cookie/info").await.text().await).unwrap();
    assert_eq!(info["cookie_needed"], true);
}

#[tokio::test]
async fn pages_of_named_origins_may_and_no_others() {
    let node = node().await;
    let own = [("origin", "http://app.example"), ("access-control-request-headers", "a, b")];
    let url = opened(&node, "/echo", "cors").await;
    for (path, methods) in [
        ("/echo/info".to_owned(), "OPTIONS, GET"),
        (format!("{url}/xhr"), "OPTIONS, POST"),
        (format!("{url}/xhr_send"), "OPTIONS, POST"),
        (format!("{url}/xhr_streaming"), "OPTIONS, POST"),
    ] {
        let answer = ask(&node, "OPTIONS", &path, &own, "").await;
        assert_eq!(answer.status, 204, "{path}");
        assert_eq!(answer.header("cache-control"), "public, max-age=31536000");
        assert!(answer.headers.contains_key("expires"));
        assert_eq!(answer.header("access-control-max-age"), "31536000");
        assert_eq!(answer.header("access-control-allow-methods"), methods);
        assert_eq!(answer.header("access-control-allow-origin"), "http://app.example");
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        assert_eq!(answer.header("access-control-allow-headers"), "a, b");
        assert_eq!(answer.text().await, "");
        for origin in ["http://evil.example", "null"] {
            assert_eq!(ask(&node, "OPTIONS", &path, &[("origin", origin)], "").await.status, 403, "{path}");
            let method = methods.rsplit(' ').next().unwrap();
            assert_eq!(ask(&node, method, &path, &[("origin", origin)], "[]").await.status, 403, "{path}");
        }
    }
    for path in [format!("{url}/eventsource"), "/echo/0/a/websocket".to_owned(), "/echo/websocket".to_owned()] {
        let upgrade = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("origin", "http://evil.example"),
        ];
        assert_eq!(ask(&node, "GET", &path, &upgrade, "").await.status, 403, "{path}");
    }
    for (index, path) in [format!("{url}/jsonp?c=a"), format!("{url}/htmlfile?c=a")].into_iter().enumerate() {
        let cross = ("sec-fetch-site", "cross-site");
        assert_eq!(ask(&node, "GET", &path, &[cross], "").await.status, 403);
        assert_eq!(ask(&node, "GET", &path, &[cross, ("referer", "http://evil.example/")], "").await.status, 403);
        let answer = ask(
            &node,
            "GET",
            &format!("/echo/0/named{index}/jsonp?c=a"),
            &[cross, ("referer", "http://app.example/x")],
            "",
        )
        .await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(
        ask(&node, "POST", &format!("{url}/jsonp_send"), &[("origin", "http://evil.example")], "[]").await.status,
        403
    );
}

#[tokio::test]
async fn the_iframe_page() {
    let node = node().await;
    let mut pages = Vec::new();
    for path in
        ["/echo/iframe.html", "/echo/iframe-a.html", "/echo/iframe-0.1.2.html", "/echo/iframe-0.1.2-dev_.html?t=1"]
    {
        let answer = get(&node, path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/html; charset=UTF-8"), "{path}");
        assert_eq!(answer.header("cache-control"), "public, max-age=31536000");
        assert!(answer.headers.contains_key("expires") && !answer.headers.contains_key("last-modified"));
        assert!(!answer.headers.contains_key("set-cookie"));
        assert!(answer.header("content-security-policy").starts_with("frame-ancestors "));
        assert!(answer.header("content-security-policy").contains(" http://app.example"));
        let tag = answer.header("etag").to_owned();
        assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'));
        let again = ask(&node, "GET", path, &[("if-none-match", &tag)], "").await;
        assert_eq!(again.status, 304);
        assert!(!again.headers.contains_key("content-type"));
        assert_eq!(again.text().await, "");
        pages.push(answer.text().await);
    }
    assert!(pages.iter().all(|page| *page == pages[0]));
    let script = pages[0].split("<script src=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(script, "/echo/sockjs-1.6.1.min.js");
    let script = get(&node, script).await;
    assert_eq!((script.status, script.header("content-type")), (200, "text/javascript; charset=utf-8"));
    assert!(script.text().await.contains("bootstrap_iframe"));
}

#[tokio::test]
async fn polling_takes_one_frame_at_a_time() {
    let node = node().await;
    let answer = post(&node, "/echo/000/poll/xhr", "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, SCRIPT));
    assert_not_kept(&answer);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("content-length"), "2");
    assert_eq!(answer.text().await, "o\n");
    let answer = post(&node, "/echo/999/poll/xhr_send", r#"["a"]"#).await;
    assert_eq!((answer.status, answer.header("content-type")), (204, TEXT), "the server in the path says nothing");
    assert_not_kept(&answer);
    assert_eq!(answer.text().await, "");
    assert_eq!(said(&node, "/echo/001/poll/xhr/", "").await, (200, "a[\"a\"]\n".to_owned()));
    assert_eq!(said(&node, "/echo/0/poll/xhr_send", r#"["b","c"]"#).await.0, 204);
    assert_eq!(said(&node, "/echo/0/poll/xhr_send", "[]").await.0, 204);
    assert_eq!(said(&node, "/echo/0/poll/xhr_send", r#"["d"]"#).await.0, 204);
    assert_eq!(said(&node, "/echo/0/poll/xhr", "").await.1, "a[\"b\",\"c\",\"d\"]\n", "what waits shares a frame");
    for kind in ["text/plain", "T", "application/json", "application/xml", "text/xml", "", "text/plain; charset=utf-8"]
    {
        let answer = ask(&node, "POST", "/echo/0/poll/xhr_send", &[("content-type", kind)], "[\"é\"]").await;
        assert_eq!(answer.status, 204, "{kind}");
    }
    assert_eq!(said(&node, "/echo/0/poll/xhr", "").await.1, format!("a[{}]\n", ["\"é\""; 7].join(",")));
    assert_eq!(said(&node, "/echo/0/poll/xhr_send", "").await, (500, "Payload expected.".to_owned()));
    assert_eq!(said(&node, "/echo/0/poll/xhr_send", "[\"x").await, (500, "Broken JSON encoding.".to_owned()));
    assert_eq!(said(&node, "/echo/0/nobody/xhr_send", "[\"x\"]").await.0, 404);
    assert_eq!(said(&node, "/cookie/0/poll/xhr_send", "[\"x\"]").await.0, 404, "another service has other sessions");
}

#[tokio::test]
async fn everything_that_browsers_eat_is_escaped() {
    let node = node().await;
    let url = opened(&node, "/echo", "escape").await;
    let is_escaped =
        |code: &u32| matches!(code, 0..=0x1f | 0x200c..=0x200f | 0x2028..=0x202f | 0x2060..=0x206f | 0xfff0..=0xffff);
    let escaped: String = (0..=0xffff_u32).filter(is_escaped).map(|code| format!("\\u{code:04x}")).collect();
    assert_eq!(said(&node, &format!("{url}/xhr_send"), &format!("[\"{escaped}\"]")).await.0, 204);
    assert_eq!(said(&node, &format!("{url}/xhr"), "").await.1, format!("a[\"{escaped}\"]\n"));
    // Whatever a client escapes comes back as what it is.
    let client: String = (0..=0xffff_u32)
        .filter_map(char::from_u32)
        .filter(|c| !matches!(c, '\u{10000}'..))
        .map(|c| format!("\\u{:04x}", u32::from(c)))
        .collect();
    let sent: String = serde_json::from_str(&format!("\"{client}\"")).unwrap();
    assert_eq!(said(&node, &format!("{url}/xhr_send"), &format!("[\"{client}\"]")).await.0, 204);
    let body = said(&node, &format!("{url}/xhr"), "").await.1;
    assert_eq!(serde_json::from_str::<[String; 1]>(&body.trim_end()[1..]).unwrap(), [sent]);
}

#[tokio::test]
async fn streams_end_at_their_limit() {
    let node = node().await;
    let prelude = format!("{}\n", "h".repeat(2048));
    for (way, method, kind, prelude, open) in [
        ("xhr_streaming", "POST", SCRIPT, prelude.as_str(), "o\n"),
        ("eventsource", "GET", "text/event-stream", "\r\n", "data: o\r\n\r\n"),
        ("htmlfile?c=cb", "GET", "text/html; charset=UTF-8", "", "<script>\np(\"o\");\n</script>\r\n"),
    ] {
        let name = way.split('?').next().unwrap();
        let url = format!("/echo/000/{name}");
        let mut answer = ask(&node, method, &format!("{url}/{way}"), &[], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{way}");
        assert_not_kept(&answer);
        assert_eq!(answer.header("transfer-encoding"), "chunked");
        let has_cors = answer.headers.contains_key("access-control-allow-origin");
        assert_eq!(has_cors, name != "htmlfile");
        let first = answer.chunk().await.unwrap();
        if name == "htmlfile" {
            assert!(first.contains("parent.cb") && first.len() > 1024, "{first}");
        } else {
            assert_eq!(first, prelude);
        }
        assert_eq!(answer.chunk().await.unwrap(), open, "each frame in a chunk of its own");
        let message = "x".repeat(128);
        for _ in 0..31 {
            assert_eq!(said(&node, &format!("{url}/xhr_send"), &format!("[\"{message}\"]")).await.0, 204);
            let chunk = answer.chunk().await.unwrap();
            assert!(chunk.contains(&message), "{chunk}");
        }
        assert_eq!(answer.chunk().await, None, "31 frames of 133 bytes are 4096 and more");
        // The session goes on.
        assert_eq!(said(&node, &format!("{url}/xhr_send"), "[\"y\"]").await.0, 204);
        assert_eq!(said(&node, &format!("{url}/xhr"), "").await.1, "a[\"y\"]\n");
    }
}

#[tokio::test]
async fn jsonp_calls_back_and_sends_forms() {
    let node = node().await;
    let answer = get(&node, "/echo/0/jsonp/jsonp?c=%63allback").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, SCRIPT));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_not_kept(&answer);
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    assert_eq!(answer.text().await, "/**/callback(\"o\");\r\n");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = ask(&node, "POST", "/echo/0/jsonp/jsonp_send", &form, "d=%5B%22x%22%5D").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, TEXT));
    assert_not_kept(&answer);
    assert_eq!(answer.text().await, "ok");
    assert_eq!(said(&node, "/echo/0/jsonp/jsonp_send", "[\"%61\"]").await, (200, "ok".to_owned()));
    assert_eq!(get(&node, "/echo/0/jsonp/jsonp?c=x").await.text().await, "/**/x(\"a[\\\"x\\\",\\\"%61\\\"]\");\r\n");
    for (body, why) in [
        ("", "Payload expected."),
        ("d=", "Payload expected."),
        ("p=p", "Payload expected."),
        ("d=%5B%22x", "Broken JSON encoding."),
    ] {
        let answer = ask(&node, "POST", "/echo/0/jsonp/jsonp_send", &form, body).await;
        assert_eq!(answer.status, 500);
        assert_eq!(answer.text().await, why, "{body}");
    }
    for way in ["jsonp", "htmlfile"] {
        let answer = get(&node, &format!("/echo/0/b/{way}")).await;
        assert_eq!((answer.status, answer.text().await), (500, "\"callback\" parameter required".to_owned()));
        for bad in ["%20", "%2a", "a(", "%3Cscript%3E"] {
            let answer = get(&node, &format!("/echo/0/b/{way}?c={bad}")).await;
            assert_eq!(
                (answer.status, answer.text().await),
                (500, "invalid \"callback\" parameter".to_owned()),
                "{bad}"
            );
        }
    }
    assert_eq!(ask(&node, "POST", "/echo/0/nobody/jsonp_send", &form, "d=%5B%22x%22%5D").await.status, 404);
}

#[tokio::test]
async fn a_second_receiver_is_sent_away_and_a_closed_session_stays_closed() {
    let node = node().await;
    let mut first = post(&node, "/echo/0/two/xhr_streaming", "").await;
    first.chunk().await.unwrap();
    assert_eq!(first.chunk().await.unwrap(), "o\n");
    let mut second = post(&node, "/echo/1/two/xhr_streaming", "").await;
    second.chunk().await.unwrap();
    assert_eq!(second.chunk().await.unwrap(), "c[2010,\"Another connection still open\"]\n");
    assert_eq!(second.chunk().await, None);
    assert_eq!(said(&node, "/echo/0/two/xhr_send", "[\"x\"]").await.0, 204);
    assert_eq!(first.chunk().await.unwrap(), "a[\"x\"]\n", "the first is not disturbed");

    assert_eq!(said(&node, "/close/0/gone/xhr", "").await.1, "o\n");
    for _ in 0..2 {
        assert_eq!(said(&node, "/close/0/gone/xhr", "").await.1, "c[3000,\"Go away!\"]\n");
    }
    let mut stream = post(&node, "/close/0/stream/xhr_streaming", "").await;
    stream.chunk().await.unwrap();
    assert_eq!(stream.chunk().await.unwrap(), "o\n");
    assert_eq!(stream.chunk().await.unwrap(), "c[3000,\"Go away!\"]\n");
    assert_eq!(stream.chunk().await, None);
}

#[tokio::test]
async fn a_client_that_is_cut_off_loses_its_session_at_once() {
    let node = node().await;
    for way in ["xhr_streaming", "xhr"] {
        let url = opened(&node, "/echo", way).await;
        let address = node.public();
        let mut socket = TcpStream::connect(&address).await.unwrap();
        let request = format!("POST {url}/{way} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        // It is the receiver once another one is sent away.
        let until = Instant::now() + DEADLINE;
        let second = loop {
            let second = post(&node, &format!("{url}/xhr_send"), "[]").await.status;
            let mut buffer = [0; 1];
            if way == "xhr" || timeout(Duration::from_millis(50), socket.read(&mut buffer)).await.is_ok() {
                break second;
            }
            assert!(Instant::now() < until);
        };
        assert_eq!(second, 204);
        drop(socket);
        while said(&node, &format!("{url}/xhr_send"), "[]").await.0 != 404 {
            assert!(Instant::now() < until, "the session ends with its receiver: {way}");
            tokio::task::yield_now().await;
        }
        assert_eq!(said(&node, &format!("{url}/xhr"), "").await.1, "o\n", "and a new one begins");
    }
}

#[tokio::test]
async fn a_session_outlives_its_last_poll_by_five_seconds() {
    let node = node().await;
    let url = opened(&node, "/echo", "delay").await;
    let begun = Instant::now();
    sleep_until(begun + Duration::from_secs(4)).await; // the time is what is tested
    assert_eq!(said(&node, &format!("{url}/xhr_send"), "[\"x\"]").await.0, 204);
    sleep_until(begun + Duration::from_millis(5500)).await;
    assert_eq!(said(&node, &format!("{url}/xhr_send"), "[\"x\"]").await.0, 404);
    assert_eq!(said(&node, &format!("{url}/xhr"), "").await.1, "o\n");
}

#[tokio::test]
async fn a_receiver_that_waits_hears_a_heartbeat() {
    let node = support::node(&[("SKYWAVE__SOCKJS", SERVICES), ("SKYWAVE__TIMEOUTS__PING_INTERVAL", "1s")]).await;
    let url = opened(&node, "/echo", "beat").await;
    assert_eq!(said(&node, &format!("{url}/xhr"), "").await.1, "h\n");
}

#[tokio::test]
async fn cookies_only_where_they_are_asked_for() {
    let node = node().await;
    for path in ["/cookie", "/cookie/info", "/cookie/iframe.html"] {
        assert!(!get(&node, path).await.headers.contains_key("set-cookie"), "{path}");
    }
    let answer = post(&node, "/cookie/0/a/xhr", "").await;
    assert_eq!(answer.header("set-cookie"), "JSESSIONID=dummy; path=/");
    let sent = [("cookie", "a=b; JSESSIONID=abc")];
    let answer = ask(&node, "POST", "/cookie/0/a/xhr_send", &sent, "[]").await;
    assert_eq!(answer.header("set-cookie"), "JSESSIONID=abc; path=/");
    assert!(!post(&node, "/echo/0/a/xhr", "").await.headers.contains_key("set-cookie"));
}

/// The answer to a request of HTTP/1.0, head and body.
async fn old(node: &Running, request: &str) -> String {
    let mut socket = TcpStream::connect(node.public()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, socket.read_to_string(&mut answer)).await.expect("it ends by closing").unwrap();
    answer
}

#[tokio::test]
async fn old_http_gets_no_chunks() {
    let node = node().await;
    let greeting = old(&node, "GET /echo HTTP/1.0\r\nhost: localhost\r\n\r\n").await.to_ascii_lowercase();
    assert!(greeting.contains("content-length: 19") && !greeting.contains("transfer-encoding"), "{greeting}");
    let stream = old(&node, "POST /close/0/old/xhr_streaming HTTP/1.0\r\nhost: localhost\r\n\r\n").await;
    let (head, body) = stream.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(body, format!("{}\no\nc[3000,\"Go away!\"]\n", "h".repeat(2048)));
    let bare = "POST /echo/0/bare/xhr HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert!(old(&node, bare).await.ends_with("\r\n\r\no\n"), "no length is no body");
}

#[tokio::test]
async fn websockets_in_frames() {
    let node = node().await;
    let mut sockets = [node.socket("/echo/000/same/websocket").await, node.socket("/echo/000/same/websocket/").await];
    for (index, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(socket.message().await.into_text().unwrap(), "o");
        socket.send(format!("[\"{index}\"]")).await;
        assert_eq!(socket.message().await.into_text().unwrap(), format!("a[\"{index}\"]"), "each its own");
    }
    let [socket, broken] = &mut sockets;
    for nothing in ["", "[]"] {
        socket.send(nothing).await;
    }
    socket.send("\"a\\u2028\"").await;
    assert_eq!(socket.message().await.into_text().unwrap(), "a[\"a\\u2028\"]");
    broken.send("[\"a").await;
    assert_eq!(broken.message().await.into_text().unwrap(), "c[1007,\"Broken framing.\"]");
    assert_eq!(broken.closed().await.0, 1007);

    let mut closed = node.socket("/close/0/a/websocket").await;
    assert_eq!(closed.message().await.into_text().unwrap(), "o");
    assert_eq!(closed.message().await.into_text().unwrap(), "c[3000,\"Go away!\"]");
    assert_eq!(closed.closed().await, (3000, "Go away!".to_owned()));
    assert_eq!(node.socket("/close/websocket").await.closed().await, (3000, "Go away!".to_owned()));
    let mut raw = node.socket("/echo/websocket").await;
    raw.send("as it is").await;
    assert_eq!(raw.message().await.into_text().unwrap(), "as it is");

    assert_eq!(node.refused("/disabled/0/a/websocket", &[]).await.0, 404);
    assert_eq!(node.refused("/disabled/websocket", &[]).await.0, 404);
    for path in ["/echo/0/a/websocket", "/echo/websocket"] {
        assert_eq!(get(&node, path).await.status, 400);
        assert_eq!(ask(&node, "GET", path, &[("upgrade", "websocket"), ("connection", "close")], "").await.status, 400);
    }
}

#[tokio::test]
async fn our_protocol_is_inside() {
    let node = node().await;
    // Over HTTP and over a WebSocket, to each other.
    let url = opened(&node, "/api", "ours").await;
    let command = |value: Value| json!([value.to_string()]).to_string();
    let connect = command(json!({"id": 1, "connect": {"subscribe": [{"channel": "chat:a"}]}}));
    assert_eq!(said(&node, &format!("{url}/xhr_send"), &connect).await.0, 204);
    let messages = |body: &str| -> Vec<Value> {
        let all: Vec<String> = serde_json::from_str(body.trim_end().strip_prefix('a').expect(body)).unwrap();
        all.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    };
    let said_first = messages(&said(&node, &format!("{url}/xhr"), "").await.1);
    assert_eq!(said_first[0]["connected"]["subscribed"][0]["channel"], "chat:a");

    let mut socket = node.socket("/api/0/ours/websocket").await;
    assert_eq!(socket.message().await.into_text().unwrap(), "o");
    socket.send(command(json!({"id": 2, "subscribe": {"channel": "chat:a"}}))).await;
    loop {
        let frame = socket.message().await.into_text().unwrap();
        if messages(&frame).iter().any(|message| message["subscribed"].is_object()) {
            break;
        }
    }
    socket.send(command(json!({"publish": {"channel": "chat:a", "data": "é\"\u{2028}"}}))).await;
    let heard = messages(&said(&node, &format!("{url}/xhr"), "").await.1);
    assert_eq!(heard[0]["publication"]["data"], "é\"\u{2028}");
    assert_eq!(messages(&socket.message().await.into_text().unwrap())[0]["publication"]["data"], "é\"\u{2028}");
    let publish = command(json!({"publish": {"channel": "chat:a", "data": 7}}));
    assert_eq!(said(&node, &format!("{url}/xhr_send"), &publish).await.0, 204);
    assert_eq!(messages(&socket.message().await.into_text().unwrap())[0]["publication"]["data"], 7);
}

#[tokio::test]
async fn one_channels_payloads_are_inside() {
    let node = node().await;
    let url = opened(&node, "/cursors", "poll").await;
    let mut socket = node.socket("/cursors/0/x/websocket").await;
    assert_eq!(socket.message().await.into_text().unwrap(), "o");
    socket.send(json!([json!({"x": 1}).to_string()]).to_string()).await;
    assert_eq!(said(&node, &format!("{url}/xhr"), "").await.1, "a[\"{\\\"x\\\":1}\"]\n");
    assert_eq!(socket.message().await.into_text().unwrap(), "a[\"{\\\"x\\\":1}\"]", "its own comes back");
    node.publish("cursors", json!({"y": 2})).await;
    assert_eq!(said(&node, &format!("{url}/xhr"), "").await.1, "a[\"{\\\"y\\\":2}\"]\n");
    assert_eq!(socket.message().await.into_text().unwrap(), "a[\"{\\\"y\\\":2}\"]");
}

#[tokio::test]
async fn sessions_count_as_connections_and_die_without_a_receiver() {
    let node = support::node(&[("SKYWAVE__SOCKJS", SERVICES), ("SKYWAVE__LIMITS__CONNECTIONS_PER_IP", "3")]).await;
    let begun = Instant::now();
    for name in ["a", "b", "c"] {
        opened(&node, "/echo", name).await;
    }
    let (status, full) = said(&node, "/echo/0/d/xhr", "").await;
    assert!(status == 200 && full.starts_with("c[4006,\"limits.connections_per_ip is 3"), "{full}");
    assert!(node.try_socket("/ws", &[]).await.is_err(), "they hold the places of WebSockets");
    while said(&node, "/echo/0/d/xhr", "").await.1 != "o\n" {
        assert!(begun.elapsed() < DEADLINE, "who never polls loses the place");
        tokio::time::sleep(Duration::from_millis(100)).await; // between two looks at the condition
    }
    assert!(begun.elapsed() > Duration::from_secs(4));
}

#[tokio::test]
async fn a_client_that_does_not_read_its_stream_is_let_go() {
    let node = support::node(&[
        ("SKYWAVE__SOCKJS", SERVICES),
        ("SKYWAVE__LIMITS__CONNECTIONS_PER_IP", "1"),
        ("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__OUTBOX_BYTES", "256KiB"),
        ("SKYWAVE__TIMEOUTS__PONG", "1s"),
        ("SKYWAVE__TIMEOUTS__CLOSE", "1s"),
    ])
    .await;
    let address = node.public();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let request = format!("POST /cursors/0/a/xhr_streaming HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 2300];
    timeout(DEADLINE, socket.read_exact(&mut head)).await.unwrap().unwrap(); // it is open, and reads no more
    assert!(node.try_socket("/ws", &[]).await.is_err());
    let until = Instant::now() + DEADLINE * 2;
    let long = "x".repeat(60_000);
    while node.try_socket("/ws", &[]).await.is_err() {
        assert!(Instant::now() < until, "it loses the place");
        node.publish("cursors", json!(long)).await;
    }
}

#[tokio::test]
async fn a_node_that_leaves_says_so_in_the_words_of_the_protocol() {
    let node = support::node(&[
        ("SKYWAVE__SOCKJS", SERVICES),
        ("SKYWAVE__DRAIN__GRACE", "200ms"),
        ("SKYWAVE__DRAIN__WINDOW", "200ms"),
    ])
    .await;
    let mut streams = Vec::new();
    for service in ["/echo", "/api", "/cursors"] {
        let mut stream = post(&node, &format!("{service}/0/a/xhr_streaming"), "").await;
        stream.chunk().await.unwrap();
        assert_eq!(stream.chunk().await.unwrap(), "o\n");
        streams.push((service, stream));
    }
    tokio::spawn(node.node.drain());
    for (service, mut stream) in streams {
        let mut last = String::new();
        while let Some(chunk) = stream.chunk().await {
            last = chunk;
        }
        let expected = if service == "/api" { "c[4001,\"draining\"]\n" } else { "c[1012," };
        assert!(last.starts_with(expected), "{service}: {last}");
    }
}
