//! `POST /publish`: publications of clients that have no connection.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{Running, token};

const OPEN: &str =
    "{ history = { size = 100, ttl = \"10m\" }, presence = true, subscribe = \"anyone\", publish = \"anyone\" }";
const ROOM: &str = "{ history = { size = 100, ttl = \"10m\" }, subscribe = \"token\", publish = \"subscribers\" }";
const MINE: &str = "{ subscribe = \"token\", publish = \"token\" }";
const SHUT: &str = "{ subscribe = \"anyone\", publish = \"nobody\" }";

async fn open_node(variables: &[(&str, &str)]) -> Running {
    let open = [
        ("SKYWAVE__AUTH__ANONYMOUS", "true"),
        ("SKYWAVE__NAMESPACES__DEFAULT", OPEN),
        ("SKYWAVE__NAMESPACES__ROOM", ROOM),
        ("SKYWAVE__NAMESPACES__MINE", MINE),
        ("SKYWAVE__NAMESPACES__SHUT", SHUT),
        token::TOKENS,
    ];
    support::closed_node(&[&open, variables].concat()).await
}

async fn post(node: &Running, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let (status, body) = support::request(&node.public(), "POST", "/publish", headers, body).await;
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

async fn as_user(node: &Running, token: &str, body: Value) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    post(node, &[("authorization", &bearer), ("content-type", "application/json")], &body.to_string()).await
}

fn code((status, answer): (u16, Value)) -> (u16, String) {
    (status, answer["code"].as_str().unwrap_or_default().to_owned())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn a_publication_reaches_who_listens_and_is_answered_with_its_place() {
    let node = open_node(&[]).await;
    let mut ws = node.client(&["a"]).await;
    let (status, answer) = post(&node, &[], r#"{"channel":"a","data":{"x": 1.0}}"#).await;
    assert_eq!(
        (status, &answer["position"]["offset"], &answer["duplicate"]),
        (200, &json!(1), &json!(false)),
        "{answer}"
    );
    let publication = ws.push("publication").await;
    assert_eq!((&publication["data"], publication["user"].is_null()), (&json!({"x": 1.0}), true));
    let ada = token::user("ada", &[], &[]);
    let keyed = json!({"channel": "a", "data": 2, "key": "once"});
    let (_, first) = as_user(&node, &ada, keyed.clone()).await;
    let (_, again) = as_user(&node, &ada, keyed).await;
    assert_eq!((&first["position"], &again["duplicate"]), (&again["position"], &json!(true)));
    assert_eq!(ws.push("publication").await["user"], "ada");
    assert_eq!(post(&node, &[], r#"{"channel":"a","data_base64":"AP8="}"#).await.0, 200);
    assert_eq!(ws.push("publication").await["data_base64"], "AP8=");
}

#[tokio::test]
async fn the_rights_are_the_clients_own() {
    let node = open_node(&[]).await;
    let ada = token::user("ada", &["room:*"], &["mine:*"]);
    let bob = token::user("bob", &[], &[]);
    let publish = |channel: &str| json!({"channel": channel, "data": 1});
    assert_eq!(as_user(&node, &ada, publish("mine:a")).await.0, 200);
    assert_eq!(code(as_user(&node, &bob, publish("mine:a")).await), is(403, "permission_denied"));
    // Who may subscribe counts as a subscriber.
    assert_eq!(as_user(&node, &ada, publish("room:a")).await.0, 200);
    assert_eq!(code(as_user(&node, &bob, publish("room:a")).await), is(403, "permission_denied"));
    assert_eq!(code(as_user(&node, &ada, publish("shut:a")).await), is(403, "permission_denied"));
    assert_eq!(code(as_user(&node, "nonsense", publish("a")).await), is(401, "unauthenticated"));
    assert_eq!(code(post(&node, &[], &publish("mine:a").to_string()).await), is(403, "permission_denied"));
    assert_eq!(code(post(&node, &[], &publish("nowhere:a").to_string()).await), is(404, "unknown_namespace"));
}

#[tokio::test]
async fn what_is_no_publication_is_refused_and_bodies_have_a_bound() {
    let node =
        open_node(&[("SKYWAVE__LIMITS__PUBLICATION_BYTES", "1000"), ("SKYWAVE__LIMITS__MESSAGE_BYTES", "4096")]).await;
    for body in
        ["", "[]", "{", "{}", r#"{"channel":"a"}"#, r#"{"data":1}"#, r#"{"channel":" ","data":1}"#, r#"["a",1]"#]
    {
        assert_eq!(code(post(&node, &[], body).await), is(400, "bad_request"), "{body}");
    }
    let long = |bytes: usize| json!({"channel": "a", "data": "x".repeat(bytes)}).to_string();
    assert_eq!(code(post(&node, &[], &long(2000)).await), is(413, "too_large"));
    assert_eq!(code(post(&node, &[], &long(10_000)).await), is(413, "too_large"));
    assert_eq!(post(&node, &[], &long(900)).await.0, 200);
    assert_eq!(support::request(&node.public(), "GET", "/publish", &[], "").await.0, 405);
}

#[tokio::test]
async fn who_posts_has_the_limits_of_a_connection() {
    let node = open_node(&[("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "3")]).await;
    let (ada, bob) = (token::user("ada", &[], &[]), token::user("bob", &[], &[]));
    let publish = json!({"channel": "a", "data": 1});
    let mut refused = None;
    for _ in 0..20 {
        let (status, answer) = as_user(&node, &ada, publish.clone()).await;
        if status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(status, 200);
    }
    let refused = refused.expect("twenty at once are too many");
    assert!(refused["detail"].as_str().unwrap().contains("limits.publications_per_second"), "{refused}");
    assert!(refused["after_ms"].as_u64().unwrap() > 0);
    assert_eq!(as_user(&node, &bob, publish.clone()).await.0, 200, "another user has his own");
    assert_eq!(post(&node, &[], &publish.to_string()).await.0, 200, "and so has whoever is nobody");
}

#[tokio::test]
async fn nobody_hears_that_such_a_client_comes_and_goes() {
    let node = open_node(&[]).await;
    let mut ws = node.socket("/ws").await;
    let subscribed = ws.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    assert_eq!(subscribed["subscribed"]["total"], 1);
    assert!(ws.next().await["connected"].is_object());
    for n in 0..3 {
        assert_eq!(as_user(&node, &token::user("ada", &[], &[]), json!({"channel": "a", "data": n})).await.0, 200);
        assert_eq!(ws.next().await["publication"]["data"], n, "no join and no leave between");
    }
}

#[tokio::test]
async fn pages_of_named_origins_may_and_others_may_not() {
    let node = open_node(&[("SKYWAVE__PUBLIC__ORIGINS", "[\"https://app.example.com\"]")]).await;
    let body = json!({"channel": "a", "data": 1}).to_string();
    assert_eq!(post(&node, &[("origin", "https://app.example.com")], &body).await.0, 200);
    assert_eq!(post(&node, &[("origin", "https://evil.example")], &body).await.0, 403);
    let preflight = [("origin", "https://app.example.com"), ("access-control-request-method", "POST")];
    assert_eq!(support::request(&node.public(), "OPTIONS", "/publish", &preflight, "").await.0, 204);
}
