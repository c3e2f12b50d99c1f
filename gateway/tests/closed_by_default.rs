//! Outside development mode nothing is open that the configuration does not name; in it, a web page of somebody else's
//! cannot drive the node.
#![allow(missing_docs)]

mod support;

use serde_json::json;

const KEYS: &str = "[{ name = \"backend\", key = \"0123456789abcdef\", scopes = [\"publish\"] }, \
                     { name = \"reader\", key = \"fedcba9876543210\", scopes = [\"read\"] }]";
const OPEN: &str = "{ subscribe = \"anyone\", publish = \"anyone\" }";

#[tokio::test]
async fn nothing_is_open_that_is_not_named() {
    let node = support::closed_node(&[]).await;
    let mut client = node.socket("/ws").await;
    let reply = client.ask(json!({"connect": {}})).await;
    assert_eq!(reply["error"]["code"], "unauthenticated");
    assert_eq!(client.closed().await.0, 4500);
    let mut client = node.socket("/ws").await;
    assert_eq!(client.ask(json!({"ping": {}})).await["error"]["code"], "unauthenticated");
    assert_eq!(node.refused("/raw/a", &[]).await.0, 403);
    let (status, problem) = node.call("publish", json!({"channel": "a", "data": 1})).await;
    assert_eq!((status, &problem["code"]), (401, &json!("unauthenticated")));
    assert_eq!(support::request(&node.public(), "GET", "/demo/", &[], "").await.0, 404);
    let (status, page) = support::request(&node.public(), "GET", "/", &[], "").await;
    assert!(status == 200 && !page.contains("development"), "{page}");
}

#[tokio::test]
async fn what_is_named_is_open() {
    let variables =
        [("SKYWAVE__AUTH__ANONYMOUS", "true"), ("SKYWAVE__API__KEYS", KEYS), ("SKYWAVE__NAMESPACES__CHAT", OPEN)];
    let node = support::closed_node(&variables).await;
    let mut client = node.client(&["chat:a"]).await;
    let unknown = client.ask(json!({"subscribe": {"channel": "news:a"}})).await["error"].clone();
    assert_eq!(unknown["code"], "unknown_namespace");
    assert!(unknown["message"].as_str().unwrap().contains("[namespaces.news]"));

    let body = json!({"channel": "chat:a", "data": 1}).to_string();
    let call = async |key: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        node.http("POST", "/api/v1/publish", &headers, &body).await.0
    };
    assert_eq!(call("0123456789abcdef").await, 200);
    assert_eq!(call("0123456789abcdeg").await, 401);
    assert_eq!(call("fedcba9876543210").await, 403);
    assert_eq!(client.data(1).await, [1]);
}

#[tokio::test]
async fn a_token_that_cannot_be_checked_is_refused() {
    let node = support::node(&[]).await;
    let mut client = node.socket("/ws").await;
    assert_eq!(client.ask(json!({"connect": {"token": "x"}})).await["error"]["code"], "unauthenticated");
    assert_eq!(client.closed().await.0, 4500);
    let mut client = node.socket("/ws?token=x").await;
    assert_eq!(client.push("error").await["code"], "unauthenticated");
    assert_eq!(client.closed().await.0, 4500);
    assert_eq!(node.refused("/raw/a?token=x", &[]).await.0, 401);
}

#[tokio::test]
async fn in_development_foreign_pages_and_foreign_hosts_are_kept_out() {
    let node = support::node(&[]).await;
    let local = format!("http://{}", node.public());
    for (headers, admitted) in [
        (vec![("origin", local.as_str())], true),
        (vec![("origin", "http://localhost:5173")], true),
        (vec![("origin", "http://evil.example")], false),
        (vec![("origin", "null")], false),
        (vec![("sec-fetch-site", "cross-site")], false),
        (vec![("host", "evil.example:8000"), ("origin", "http://evil.example:8000")], false),
        (vec![("host", "evil.example:8000")], false),
    ] {
        for path in ["/ws", "/raw/a"] {
            let outcome = node.try_socket(path, &headers).await;
            assert_eq!(outcome.is_ok(), admitted, "{path} {headers:?}");
            assert!(outcome.err().is_none_or(|(status, why)| status == 403 && !why.is_empty()));
        }
    }
    let mut witness = node.client(&["a"]).await;
    let json_type = ("content-type", "application/json");
    for headers in [
        vec![json_type, ("origin", "http://evil.example")],
        vec![json_type, ("origin", local.as_str())],
        vec![("content-type", "text/plain")],
        vec![json_type, ("sec-fetch-site", "cross-site")],
        vec![json_type, ("host", "evil.example:8001")],
        vec![json_type, ("x-forwarded-for", "10.0.0.1")],
    ] {
        for method in ["publish", "broadcast", "disconnect", "drain"] {
            let body = json!({"channel": "a", "data": "foreign"}).to_string();
            let (status, _) = node.http("POST", &format!("/api/v1/{method}"), &headers, &body).await;
            assert_eq!(status, 403, "{method} {headers:?}");
        }
    }
    node.publish("a", json!("ours")).await;
    assert_eq!(witness.data(1).await, ["ours"], "and nothing before it");
}
