//! The server API and the probes.
#![allow(missing_docs)]

mod support;

use serde_json::json;

#[tokio::test]
async fn publish_answers_with_the_position() {
    let node = support::node(&[]).await;
    let mut client = node.client(&["a"]).await;
    let first = node.publish("a", json!({"hello": null})).await;
    assert_eq!((&first["position"]["offset"], &first["duplicate"]), (&json!(1), &json!(false)));
    let binary = node.call("publish", json!({"channel": "a", "data_base64": "AP8="})).await.1;
    assert_eq!(binary["position"]["offset"], 2);
    assert_eq!(client.push("publication").await["data"], json!({"hello": null}));
    assert_eq!(client.push("publication").await["data_base64"], "AP8=");
    let again = json!({"channel": "a", "data": 3, "key": "k"});
    let (one, two) = (node.call("publish", again.clone()).await.1, node.call("publish", again).await.1);
    assert_eq!((&two["position"], &two["duplicate"]), (&one["position"], &json!(true)));
}

#[tokio::test]
async fn broadcast_answers_for_each_channel_in_order() {
    let node = support::node(&[("SKYWAVE__NAMESPACES__LIVE", "{ subscribe = \"anyone\" }")]).await;
    let mut client = node.client(&["a", "live:b"]).await;
    let body = json!({"channels": ["a", " bad ", "live:b"], "data": 1});
    let (status, answer) = node.call("broadcast", body).await;
    let results = answer["results"].as_array().unwrap();
    assert_eq!((status, results.len()), (200, 3));
    assert_eq!(results[0]["position"]["offset"], 1);
    assert_eq!(results[1]["error"]["code"], "bad_request");
    assert_eq!(results[2], json!({"duplicate": false}), "live only: no position");
    assert_eq!(client.data(2).await, [1, 1]);
}

#[tokio::test]
async fn bad_calls_are_problems_with_a_code_of_the_table() {
    let node = support::node(&[]).await;
    let large = "x".repeat(65 * 1024);
    for (method, body, status, code) in [
        ("publish", json!({"channel": "a", "data": 1, "extra": 1}), 400, "bad_request"),
        ("publish", json!({"channel": "a"}), 400, "bad_request"),
        ("publish", json!({"channel": "", "data": 1}), 400, "bad_request"),
        ("publish", json!({"channel": "a", "data": 1, "data_base64": "AA=="}), 400, "bad_request"),
        ("publish", json!({"channel": "a", "data": 1, "durability": {"replicated": 1}}), 400, "bad_request"),
        ("publish", json!({"channel": "a", "data": large}), 413, "too_large"),
        ("publish", json!([]), 400, "bad_request"),
        ("dance", json!({}), 404, "not_found"),
    ] {
        let (found, problem) = node.call(method, body.clone()).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{method} {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        assert_eq!(problem["status"], status);
    }
    assert_eq!(node.http("GET", "/api/v1/publish", &[], "").await.0, 405);
    assert_eq!(node.http("GET", "/nothing", &[], "").await.0, 404);
    let json_type = [("content-type", "application/json")];
    let (status, problem) = node.http("POST", "/api/v1/publish", &json_type, &"x".repeat(4 << 20)).await;
    assert_eq!(status, 413, "{problem}");
    assert!(problem.contains("too_large"), "{problem}");
    assert_eq!(node.http("POST", "/api/v1/publish", &json_type, "{").await.0, 400);
}

#[tokio::test]
async fn probes_answer() {
    let node = support::node(&[]).await;
    assert_eq!(node.http("GET", "/livez", &[], "").await, (200, "ok\n".into()));
    assert_eq!(node.http("GET", "/readyz", &[], "").await, (200, "ok\n".into()));
    assert_eq!(node.http("GET", "/metrics", &[], "").await.0, 200);
}
