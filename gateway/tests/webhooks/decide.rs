//! Hooks that somebody waits for.

use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;
use skywave_gateway::webhooks::{
    ConnectAsk, Decision, Hook, HookRefusal, PublishAsk, RpcAsk, SubscribeAsk, Webhooks, Welcome,
};
use skywave_proto::{ChannelName, ErrorCode, Payload};
use tokio::time::Instant;

use crate::{
    Figures,
    receiver::{Answer, Receiver},
    settings, start, text,
    tls::Files,
};

/// What the machine may be late.
const LATE: Duration = Duration::from_secs(3);

async fn hooks(text: &str, receiver: &Receiver) -> Webhooks {
    start(&settings(text, &format!("http://{}/hooks?key=1", receiver.address)))
}

fn connect_ask() -> ConnectAsk {
    ConnectAsk {
        client: text("c1"),
        user: None,
        token: Some("a.b.c".into()),
        info: Some(Bytes::from_static(b"{\"a\":1}")),
        address: [192, 0, 2, 1].into(),
        protocol: "json",
        headers: vec![("origin", "https://app.example.com".into())],
    }
}

fn subscribe_ask() -> SubscribeAsk {
    SubscribeAsk { client: text("c1"), user: Some(text("u1")), channel: ChannelName::parse("chat:1").unwrap() }
}

fn refusal<T: std::fmt::Debug>(decision: Decision<T>) -> HookRefusal {
    match decision {
        Decision::Refuse(refusal) => refusal,
        Decision::Allow(allowed) => panic!("allowed: {allowed:?}"),
    }
}

#[tokio::test]
async fn the_back_end_says_who_may_connect_and_knows_that_we_asked() {
    let secret = "a secret of sixteen bytes or more";
    let welcome = json!({"user": "u1", "info": {"name": "U"}, "subscribe": ["chat:*"], "channels": ["#user:u1"]});
    let mut receiver = Receiver::start(move |_, _| Answer::Json(welcome.clone())).await;
    let hooks = hooks(&format!("[webhooks.connect]\nurl = \"URL\"\nsecret = \"{secret}\""), &receiver).await;
    assert!(hooks.wants(Hook::Connect, None) && !hooks.wants(Hook::Rpc, None) && !hooks.wants_events());

    let decision = hooks.connect(connect_ask()).await;
    let expected = Welcome {
        answered: true,
        user: Some("u1".to_owned()),
        info: Some(Bytes::from_static(b"{\"name\":\"U\"}")),
        subscribe: vec!["chat:*".to_owned()],
        channels: vec![ChannelName::parse("#user:u1").unwrap()],
        ..Welcome::default()
    };
    assert_eq!(decision, Decision::Allow(expected));

    let call = receiver.call().await;
    let mut body = call.body();
    let id = body.as_object_mut().unwrap().remove("id").unwrap();
    assert_eq!(
        body,
        json!({"hook": "connect", "node": "node-1", "client": "c1", "token": "a.b.c", "info": {"a": 1},
            "address": "192.0.2.1", "protocol": "json", "headers": {"origin": "https://app.example.com"}})
    );
    assert_eq!(call.header("skywave-webhook-id"), id);
    assert_eq!(call.header("skywave-webhook"), "connect");
    assert_eq!(call.header("content-type"), "application/json");

    // As a back end checks it.
    let (time, signature) = call.header("skywave-signature").strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let now = skywave_gateway::clock::now_ms() / 1000;
    assert!(now.abs_diff(time.parse().unwrap()) < 60, "{time} is not about {now}");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{time}.").as_bytes());
    mac.update(&call.bytes);
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(signature, expected);
}

#[tokio::test]
async fn each_hook_has_its_question_and_its_answer() {
    let mut receiver = Receiver::start(|_, call| match call.header("skywave-webhook") {
        "subscribe" => Answer::Status(204),
        "publish" => Answer::Json(json!({"data": {"text": "***"}})),
        _ => Answer::Json(json!({"data": [3]})),
    })
    .await;
    let figures = Figures::record();
    let hook = |name: &str| format!("[webhooks.{name}]\nurl = \"URL\"\n");
    let namespaces = "[namespaces.chat]\n[namespaces.news]\n";
    let only = format!("{namespaces}{}namespaces = [\"chat\"]\n", hook("subscribe"));
    let hooks = hooks(&[only, hook("publish"), hook("rpc")].concat(), &receiver).await;
    assert!(hooks.wants(Hook::Subscribe, Some("chat")) && !hooks.wants(Hook::Subscribe, Some("news")));
    assert!(hooks.wants(Hook::Publish, Some("news")));

    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()));
    let mut body = receiver.call().await.body();
    body.as_object_mut().unwrap().remove("id");
    assert_eq!(body, json!({"hook": "subscribe", "node": "node-1", "client": "c1", "user": "u1", "channel": "chat:1"}));

    let payload = Payload::text(Bytes::from_static(b"rude"));
    let channel = ChannelName::parse("chat:1").unwrap();
    let decision = hooks.publish(PublishAsk { client: text("c1"), user: None, channel, payload }).await;
    assert_eq!(decision, Decision::Allow(Some(Payload::json(Bytes::from_static(b"{\"text\":\"***\"}")))));
    assert_eq!(receiver.call().await.body()["data"], "rude");

    let payload = Some(Payload::json(Bytes::from_static(b"[1,2]")));
    let ask = RpcAsk { client: text("c1"), user: None, method: "add".into(), payload };
    assert_eq!(hooks.rpc(ask).await, Ok(Payload::json(Bytes::from_static(b"[3]"))));
    let body = receiver.call().await.body();
    assert_eq!((&body["method"], &body["data"]), (&json!("add"), &json!([1, 2])));

    // Not configured: nothing is asked.
    assert_eq!(hooks.connect(connect_ask()).await, Decision::Allow(Welcome::default()));
    assert_eq!(receiver.count(), 3);
    for (hook, allowed) in [("subscribe", 1), ("publish", 1), ("rpc", 1), ("connect", 0)] {
        assert_eq!(figures.count(hook, "allowed"), Some(allowed), "{hook}");
        assert_eq!(figures.count(hook, "failed_refused"), Some(0), "{hook}");
    }
}

#[tokio::test]
async fn without_a_back_end_nobody_answers_calls() {
    let hooks = start(&settings("", ""));
    let ask = RpcAsk { client: text("c1"), user: None, method: "add".into(), payload: None };
    assert_eq!(hooks.rpc(ask).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()));
}

#[tokio::test]
async fn a_refusal_is_told_as_the_back_end_said_it() {
    let figures = Figures::record();
    let refused = json!({"error": {"code": "limit", "message": "one chat at a time", "after_ms": 5000}});
    let receiver = Receiver::start(move |_, _| Answer::Json(refused.clone())).await;
    // Not even a hook that is open when it fails lets somebody through whom the back end refused.
    let hooks = hooks("[webhooks.subscribe]\nurl = \"URL\"\non_failure = \"allow\"", &receiver).await;
    let expected = HookRefusal { code: ErrorCode::Limit, message: "one chat at a time".to_owned(), after_ms: 5000 };
    assert_eq!(refusal(hooks.subscribe(subscribe_ask()).await), expected);
    assert_eq!(figures.count("subscribe", "refused"), Some(1));
}

#[tokio::test]
async fn what_is_no_decision_is_a_failure_and_no_reason_to_leave_the_receiver_alone() {
    let figures = Figures::record();
    let receiver = Receiver::start(|number, _| match number {
        0..6 => Answer::Status(404),
        6..12 => Answer::Json(json!({"error": {"code": "teapot"}})),
        12 => Answer::Json(json!(["x".repeat(2 << 20)])),
        13 => Answer::Status(302),
        _ => Answer::Status(200),
    })
    .await;
    let hooks = hooks("[webhooks.subscribe]\nurl = \"URL\"\ntimeout = \"10s\"\nretries = 5", &receiver).await;
    for number in 0..14 {
        assert_eq!(refusal(hooks.subscribe(subscribe_ask()).await).code, ErrorCode::Unavailable, "{number}");
    }
    assert_eq!(receiver.count(), 14, "none of them is tried again");
    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()));
    assert_eq!(figures.count("subscribe", "failed_refused"), Some(14));
}

#[tokio::test]
async fn a_call_is_tried_again_with_its_id_within_its_deadline() {
    let figures = Figures::record();
    let mut receiver = Receiver::start(|number, _| match number {
        0 => Answer::Status(500),
        1 => Answer::RetryAfter(429, 1),
        2 => Answer::Status(200),
        _ => Answer::RetryAfter(503, 60),
    })
    .await;
    let hooks = hooks("[webhooks.subscribe]\nurl = \"URL\"\ntimeout = \"20s\"\nretries = 2", &receiver).await;
    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()));
    let calls = [receiver.call().await, receiver.call().await, receiver.call().await];
    assert!(calls.iter().all(|call| call.bytes == calls[0].bytes), "the same id, the same body");
    assert!(calls[2].at - calls[1].at >= Duration::from_secs(1), "as the receiver asked");
    assert_eq!(figures.count("subscribe", "retried"), Some(2));

    // What cannot be in time is not waited for.
    let start = Instant::now();
    let refusal = refusal(hooks.subscribe(subscribe_ask()).await);
    assert!(start.elapsed() < LATE, "{:?}", start.elapsed());
    assert!((60_000..=61_000).contains(&refusal.after_ms), "{}", refusal.after_ms);
}

#[tokio::test]
async fn a_receiver_that_is_dead_or_silent_costs_no_more_than_the_timeout() {
    let figures = Figures::record();
    let mut receiver = Receiver::start(|_, _| Answer::Silence).await;
    let hook = |name: &str, rest: &str| {
        format!("[webhooks.{name}]\nurl = \"URL\"\ntimeout = \"300ms\"\nretries = 5\n{rest}\n")
    };
    let text = [hook("subscribe", ""), hook("connect", "on_failure = \"allow\"")].concat();
    let hooks = hooks(&text, &receiver).await;
    for is_dead in [false, true] {
        if is_dead {
            receiver.kill().await;
        }
        let start = Instant::now();
        let refusal = refusal(hooks.subscribe(subscribe_ask()).await);
        assert_eq!(refusal.code, ErrorCode::Unavailable);
        assert!(refusal.after_ms >= 1000);
        assert_eq!(
            hooks.connect(connect_ask()).await,
            Decision::Allow(Welcome::default()),
            "nothing beyond the node's own"
        );
        assert!(start.elapsed() < Duration::from_millis(600) + LATE, "{:?}", start.elapsed());
    }
    assert_eq!(figures.count("subscribe", "failed_refused"), Some(2));
    assert_eq!(figures.count("connect", "failed_allowed"), Some(2));
}

#[tokio::test]
async fn a_receiver_that_had_no_time_left_is_not_left_alone() {
    let receiver = Receiver::start(|_, _| Answer::Late(Duration::from_millis(1300))).await;
    let text = "[webhooks.subscribe]\nurl = \"URL\"\ntimeout = \"2s\"\nconcurrency = 6";
    let hooks = hooks(text, &receiver).await;
    // Six are under way, and six wait until these are answered: then there is too little time for them.
    let calls: Vec<_> = (0..12).map(|_| hooks.subscribe(subscribe_ask())).collect();
    let mut refused = 0;
    for call in calls {
        refused += usize::from(call.await != Decision::Allow(()));
    }
    assert_eq!((refused, receiver.count()), (6, 12));
    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()), "it answers, so it is asked");
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_left_alone_until_it_does() {
    let mut receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let hooks = hooks("[webhooks.subscribe]\nurl = \"URL\"\ntimeout = \"5s\"", &receiver).await;
    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()));
    receiver.kill().await;
    for _ in 0..5 {
        refusal(hooks.subscribe(subscribe_ask()).await);
    }
    receiver.come_back().await;
    let opened = Instant::now();
    refusal(hooks.subscribe(subscribe_ask()).await);
    if opened.elapsed() < Duration::from_millis(500) {
        assert_eq!(receiver.count(), 1, "it was not asked");
    }
    let deadline = Instant::now() + crate::receiver::DEADLINE;
    while hooks.subscribe(subscribe_ask()).await != Decision::Allow(()) {
        assert!(Instant::now() < deadline, "nobody has seen that it is back");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the condition
    }
    assert_eq!(receiver.count(), 2, "the first that was asked got through");
    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()));
}

#[tokio::test]
async fn calls_beyond_the_bound_wait_and_beyond_that_fail_at_once() {
    let mut receiver = Receiver::start(|_, _| Answer::Silence).await;
    let text = "[webhooks.subscribe]\nurl = \"URL\"\ntimeout = \"2s\"\nconcurrency = 2";
    let hooks = hooks(text, &receiver).await;
    let start = Instant::now();
    let waiting: Vec<_> = (0..4).map(|_| tokio::spawn(hooks.subscribe(subscribe_ask()))).collect();
    receiver.call().await;
    receiver.call().await;
    refusal(hooks.subscribe(subscribe_ask()).await);
    if start.elapsed() < Duration::from_secs(1) {
        assert_eq!(receiver.count(), 2, "two wait, and one more finds no room");
    }
    for waiting in waiting {
        refusal(waiting.await.unwrap());
    }
    assert!(start.elapsed() >= Duration::from_secs(2));
    assert!(start.elapsed() < Duration::from_secs(2) + LATE, "the wait counts: {:?}", start.elapsed());
    let decision = tokio::spawn(hooks.subscribe(subscribe_ask()));
    receiver.call().await;
    decision.abort(); // there is room again
}

#[tokio::test]
async fn other_settings_hold_from_the_next_call() {
    let old = Receiver::start(|_, _| Answer::Status(200)).await;
    let new = Receiver::start(|_, _| Answer::Json(json!({"error": {"code": "permission_denied"}}))).await;
    let text = "[webhooks.subscribe]\nurl = \"URL\"";
    let hooks = hooks(text, &old).await;
    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()));
    hooks.replace(&settings(text, &format!("http://{}", new.address))).unwrap();
    assert_eq!(refusal(hooks.subscribe(subscribe_ask()).await).code, ErrorCode::PermissionDenied);
    hooks.replace(&settings("", "")).unwrap();
    assert!(!hooks.wants(Hook::Subscribe, None));
    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()));
    assert_eq!((old.count(), new.count()), (1, 1));
}

#[tokio::test]
async fn a_private_authority_is_trusted_if_it_is_named() {
    let files = Files::new();
    let pem = files.pair();
    let config = server_config(&pem);
    let receiver = Receiver::with(([127, 0, 0, 1], 0).into(), Some(config), |_, _| Answer::Status(200)).await;
    let url = format!("https://localhost:{}/", receiver.address.port());
    let text = "[webhooks.subscribe]\nurl = \"URL\"\ntimeout = \"10s\"";
    let hooks = start(&settings(text, &url));
    assert_eq!(refusal(hooks.subscribe(subscribe_ask()).await).code, ErrorCode::Unavailable, "signed by nobody known");
    assert_eq!(receiver.count(), 0);
    let ca = format!("[webhooks]\nca = {:?}\n{text}", files.path("ca.crt"));
    hooks.replace(&settings(&ca, &url)).unwrap();
    assert_eq!(hooks.subscribe(subscribe_ask()).await, Decision::Allow(()));
    hooks.replace(&settings(text, &url)).unwrap();
    assert_eq!(refusal(hooks.subscribe(subscribe_ask()).await).code, ErrorCode::Unavailable, "trusted no longer");
}

fn server_config((certificate, key): &(String, String)) -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    std::sync::Arc::new(config).into()
}
