//! What back ends ask and tell of clients, channels and nodes, wherever they are.
#![allow(missing_docs)]

mod support;

use bytes::Bytes;
use serde_json::{Value, json};
use support::{Client, Running};

const KEYS: &str = r#"[
    { name = "publisher", key = "0123456789abcdef-p", scopes = ["publish"] },
    { name = "reader", key = "0123456789abcdef-r", scopes = ["read"] },
    { name = "operator", key = "0123456789abcdef-c", scopes = ["control"] },
]"#;

async fn connected(node: &Running, channels: &[&str]) -> (Client, String) {
    let mut client = node.socket("/ws").await;
    let subscribe: Vec<_> = channels.iter().map(|channel| json!({ "channel": channel })).collect();
    let connected = client.ask(json!({"connect": {"subscribe": subscribe}})).await["connected"].take();
    (client, connected["client"].as_str().expect("an id").to_owned())
}

/// Looks until the answer of a method is as expected.
async fn eventually(node: &Running, method: &str, body: &Value, expected: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    loop {
        let (status, answer) = node.call(method, body.clone()).await;
        if status == 200 && expected(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{method} still answers {answer}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // between two looks at the condition
    }
}

#[tokio::test]
async fn a_disconnected_client_is_told_not_to_come_back_and_others_stay() {
    let node = support::node(&[]).await;
    let (mut ada, id) = connected(&node, &["a"]).await;
    let (mut bob, _) = connected(&node, &["a"]).await;
    assert_eq!(node.call("disconnect", json!({"client": id})).await, (200, json!({"nodes": 1})));
    assert_eq!(ada.closed().await, (4503, "disconnected_by_api".into()));
    assert_eq!(ada.before_close().last().unwrap()["disconnect"]["reconnect"], false);
    node.publish("a", json!(1)).await;
    assert_eq!(bob.data(1).await, [1]);
    // Whoever is not there is no error: nobody knows who may be where.
    assert_eq!(node.call("disconnect", json!({"user": "nobody"})).await, (200, json!({"nodes": 1})));
}

#[tokio::test]
async fn an_unsubscribed_client_is_told_leaves_at_once_and_may_come_again() {
    let node = support::node(&[("SKYWAVE__TIMEOUTS__SESSION_GRACE", "1h")]).await;
    let mut watcher = node.client(&[]).await;
    watcher.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    let (mut ada, id) = connected(&node, &["a", "b"]).await;
    assert_eq!(watcher.push("join").await["member"]["client"], id);
    assert_eq!(node.call("unsubscribe", json!({"client": id, "channel": "a"})).await, (200, json!({"nodes": 1})));
    assert_eq!(ada.push("unsubscribed").await, json!({"channel": "a", "reason": "api"}));
    assert_eq!(watcher.push("leave").await["member"]["client"], id);
    node.publish("a", json!("not for ada")).await;
    node.publish("b", json!("for ada")).await;
    assert_eq!(ada.data(1).await, ["for ada"]);
    let again = ada.ask(json!({"subscribe": {"channel": "a"}})).await;
    assert!(again["subscribed"].is_object(), "{again}");
    // Not subscribed: nothing happens and nothing is said.
    node.call("unsubscribe", json!({"client": id, "channel": "c"})).await;
    node.publish("b", json!(2)).await;
    assert_eq!(ada.next().await["publication"]["data"], 2);
}

#[tokio::test]
async fn a_raw_connection_that_is_unsubscribed_ends() {
    let node = support::node(&[]).await;
    let mut raw = node.socket("/raw/a").await;
    let channel = json!({"prefix": "a"});
    eventually(&node, "channels", &channel, |answer| answer["channels"][0]["subscriptions"] == 1).await;
    // Its client has no name that it could tell; presence knows it.
    let members = node.call("presence", json!({"channel": "a"})).await.1;
    let client = &members["members"][0]["client"];
    node.call("unsubscribe", json!({"client": client, "channel": "a"})).await;
    assert_eq!(raw.closed().await.0, 4503);
}

#[tokio::test]
async fn a_refresh_leaves_what_is_still_allowed() {
    let node = support::node(&[]).await;
    let (mut ada, _) = connected(&node, &["a"]).await;
    assert_eq!(node.call("refresh", json!({"user": "ada"})).await, (200, json!({"nodes": 1})));
    node.publish("a", json!(1)).await;
    assert_eq!(ada.next().await["publication"]["data"], 1);
}

#[tokio::test]
async fn connections_say_who_is_where_and_on_what() {
    let node = support::node(&[("SKYWAVE__NODE__NAME", "paris")]).await;
    let before = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let (ada, id) = connected(&node, &["b", "a"]).await;
    let (status, answer) = node.call("connections", json!({"client": id})).await;
    assert_eq!((status, &answer["silent_nodes"]), (200, &json!([])));
    let [connection] = answer["connections"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    assert_eq!(connection["channels"], json!(["a", "b"]));
    assert_eq!((&connection["client"], &connection["node"]), (&json!(id), &json!("paris")));
    assert_eq!(connection["protocol"], "json");
    assert!(connection.get("user").is_none(), "anonymous");
    let since = connection["connected_at_ms"].as_u64().unwrap();
    assert!((before.saturating_sub(2)..before + 10_000).contains(&since), "{since} {before}");
    let nobody = node.call("connections", json!({"user": "ada", "within_ms": 5000})).await;
    assert_eq!(nobody, (200, json!({"connections": [], "silent_nodes": []})));
    drop(ada);
    eventually(&node, "connections", &json!({"client": id}), |answer| answer["connections"] == json!([])).await;
}

#[tokio::test]
async fn channels_are_counted_over_all_shards_and_come_in_pages() {
    let node = support::node(&[]).await;
    let mut clients = Vec::new();
    for channels in [&["room:1", "room:2", "other"][..], &["room:2"], &["room:3", "room:2"], &["room:10"]] {
        clients.push(node.client(channels).await);
    }
    let all = node.call("channels", json!({})).await.1;
    let count = |channel: &str, subscriptions: u64| json!({"channel": channel, "subscriptions": subscriptions});
    let expected = [count("other", 1), count("room:1", 1), count("room:10", 1), count("room:2", 3), count("room:3", 1)];
    assert_eq!(all, json!({"channels": expected, "silent_nodes": []}));
    let mut after = Value::Null;
    let mut paged = Vec::new();
    loop {
        let page = node.call("channels", json!({"prefix": "room:", "limit": 3, "after": after})).await.1;
        paged.extend(page["channels"].as_array().unwrap().clone());
        match page.get("next") {
            Some(next) => after = next.clone(),
            None => break,
        }
    }
    assert_eq!(paged, expected[1..]);
    clients.truncate(1);
    eventually(&node, "channels", &json!({"prefix": "room:2"}), |a| a["channels"] == json!([count("room:2", 1)])).await;
}

#[tokio::test]
async fn history_and_presence_are_as_for_clients() {
    let node = support::node(&[]).await;
    let (mut ada, id) = connected(&node, &["a"]).await;
    // A payload leaves as it came: a number this large would not survive a parser.
    let body = r#"{"channel":"a","data":{"n":123456789012345678901234567890}}"#;
    let json_type = [("content-type", "application/json")];
    assert_eq!(node.http("POST", "/api/v1/publish", &json_type, body).await.0, 200);
    for n in 2..=4 {
        node.publish("a", json!(n)).await;
    }
    let text = node.http("POST", "/api/v1/history", &json_type, r#"{"channel":"a"}"#).await.1;
    assert!(text.contains(r#""data":{"n":123456789012345678901234567890}"#), "{text}");
    let (status, all) = node.call("history", json!({"channel": "a"})).await;
    assert_eq!((status, all["publications"].as_array().unwrap().len(), &all["complete"]), (200, 4, &json!(true)));
    let theirs = ada.ask(json!({"history": {"channel": "a", "limit": 2}})).await["history"].take();
    assert_eq!(node.call("history", json!({"channel": "a", "limit": 2})).await.1, theirs);
    let since = json!({"epoch": all["position"]["epoch"], "offset": 2});
    let rest = node.call("history", json!({"channel": "a", "since": since, "limit": 1})).await.1;
    assert_eq!((&rest["publications"][0]["data"], &rest["more"]), (&json!(3), &json!(true)));
    let foreign = node.call("history", json!({"channel": "a", "since": {"epoch": "nowhere", "offset": 2}})).await;
    assert_eq!((foreign.0, &foreign.1["complete"]), (200, &json!(false)));

    let members = node.call("presence", json!({"channel": "a"})).await;
    assert_eq!(members, (200, json!({"members": [{"client": id}], "total": 1})));
    assert_eq!(node.call("presence_count", json!({"channel": "a"})).await, (200, json!({"total": 1})));
    assert_eq!(node.call("presence_count", json!({"channel": "empty"})).await.1["total"], 0);
}

#[tokio::test]
async fn a_forgotten_history_is_a_new_line_and_subscribers_are_told() {
    let node = support::node(&[]).await;
    let mut ada = node.client(&["a"]).await;
    let first = node.publish("a", json!(1)).await;
    assert_eq!(ada.data(1).await, [1]);
    assert_eq!(node.call("forget", json!({"channel": "a"})).await, (200, json!({})));
    let gap = ada.push("gap").await;
    assert_eq!(gap["reason"], "reset");
    let again = node.publish("a", json!(2)).await;
    assert_eq!(again["position"]["offset"], 1);
    assert_ne!(again["position"]["epoch"], first["position"]["epoch"]);
    assert_eq!(gap["position"]["epoch"], again["position"]["epoch"]);
    let history = node.call("history", json!({"channel": "a"})).await.1;
    assert_eq!(history["publications"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_publication_that_wants_replicas_says_where_it_stands_when_there_are_none() {
    let node = support::node(&[]).await;
    let mut ada = node.client(&["a", "b"]).await;
    let durability = json!({"replicated": 1, "within_ms": 500});
    let (status, problem) =
        node.call("publish", json!({"channel": "a", "data": 1, "durability": durability, "key": "k"})).await;
    assert_eq!((status, &problem["code"]), (504, &json!("not_replicated")));
    assert_eq!(problem["position"]["offset"], 1, "stored and delivered all the same");
    assert_eq!(ada.data(1).await, [1]);
    let body = json!({"channels": ["a", "b"], "data": 2, "durability": durability});
    let results = node.call("broadcast", body).await.1["results"].take();
    assert_eq!(results[0]["error"]["code"], "not_replicated");
    assert_eq!(results[1]["error"]["position"]["offset"], 1);
    assert_eq!(ada.data(2).await, [2, 2]);
}

#[tokio::test]
async fn nodes_are_those_that_are_alive() {
    let node = support::node(&[("SKYWAVE__NODE__NAME", "paris")]).await;
    let _clients = [node.client(&["a", "b"]).await, node.client(&["a"]).await];
    let answer = eventually(&node, "nodes", &json!({}), |answer| answer["nodes"][0]["connections"] == 2).await;
    let [only] = answer["nodes"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    assert_eq!((&only["name"], &only["channels"]), (&json!("paris"), &json!(2)));
    assert_eq!(only["version"], env!("CARGO_PKG_VERSION"));
    assert!(only["incarnation"].as_str().is_some_and(|incarnation| !incarnation.is_empty()));
    assert!(only["started_at_ms"].as_u64().unwrap() > 0 && only["beat_age_ms"].is_u64());
}

#[tokio::test]
async fn the_command_line_lists_nodes() {
    let node = support::node(&[("SKYWAVE__NODE__NAME", "paris")]).await;
    eventually(&node, "nodes", &json!({}), |answer| answer["nodes"][0]["name"] == "paris").await;
    let skywave = async |api: String| {
        let run = move || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_skywave"));
            command.args(["nodes", "--api", &api]).env_clear().output().unwrap()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, table, said) = skywave(format!("http://{}", node.internal())).await;
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((code, lines.len()), (Some(0), 2), "{table}{said}");
    assert_eq!(lines[0][..4], ["NAME", "VERSION", "CONNECTIONS", "CHANNELS"]);
    assert_eq!(lines[1][..4], ["paris", env!("CARGO_PKG_VERSION"), "0", "0"]);
    let (code, _, said) = skywave(format!("http://{}", node.public())).await;
    assert!(code == Some(1) && said.contains("no list of nodes"), "{said}");

    let closed = support::closed_node(&[("SKYWAVE__API__KEYS", KEYS)]).await;
    let (code, _, said) = skywave(format!("http://{}", closed.internal())).await;
    assert!(code == Some(1) && said.contains("401") && said.contains("api.keys"), "{said}");
}

#[tokio::test]
async fn a_batch_answers_for_each_command_in_order() {
    let node = support::node(&[]).await;
    let (mut ada, id) = connected(&node, &["a"]).await;
    let commands = json!([
        {"publish": {"channel": "a", "data": 1}},
        {"publish": {"channel": "a", "data": 2, "extra": true}},
        {"history": {"channel": "a"}},
        {"dance": {}},
        {"broadcast": {"channels": ["a", ""], "data": 3}},
        {"unsubscribe": {"client": id, "channel": "a"}},
    ]);
    let (status, answer) = node.call("batch", json!({"commands": commands})).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 6);
    assert_eq!(results[0]["position"]["offset"], 1);
    assert_eq!(results[1]["error"]["code"], "bad_request");
    assert_eq!(results[2]["publications"][0]["data"], 1, "one after the other");
    assert_eq!(results[3]["error"]["code"], "not_found");
    assert_eq!(results[4]["results"][1]["error"]["code"], "bad_request");
    assert_eq!(results[5], json!({"nodes": 1}));
    assert_eq!(ada.data(2).await, [1, 3]);
    ada.push("unsubscribed").await;

    let one = json!({"publish": {"channel": "a", "data": 4}});
    for (body, status, words) in [
        (json!({}), 400, "missing field `commands`"),
        (json!({"commands": [], "extra": 1}), 400, "unknown field `extra`"),
        (json!({"commands": [one, {}]}), 400, "one field, its method"),
        (json!({"commands": [one, {"nodes": {}, "channels": {}}]}), 400, "one field, its method"),
        (json!({"commands": [one, {"batch": {"commands": []}}]}), 400, "no batch in it"),
        (json!({"commands": [one, 7]}), 400, "invalid type"),
        (json!({"commands": vec![&one; 101]}), 413, "at most 100"),
    ] {
        let (found, problem) = node.call("batch", body.clone()).await;
        assert_eq!(found, status, "{body} {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{words:?} is not in {problem}");
    }
    assert_eq!(node.publish("a", json!(5)).await["position"]["offset"], 3, "of a bad batch nothing is carried out");
    assert_eq!(node.call("batch", json!({"commands": []})).await, (200, json!({"results": []})));

    let twice =
        "{\"commands\":[{\"publish\":{\"channel\":\"a\",\"data\":6},\"publish\":{\"channel\":\"a\",\"data\":7}}]}";
    let (status, problem) = node.http("POST", "/api/v1/batch", &[("content-type", "application/json")], twice).await;
    assert!(status == 400 && problem.contains("one field, its method"), "{problem}");

    let large = "x".repeat(60_000);
    node.publish("large", json!(large)).await;
    let mut commands = vec![json!({"history": {"channel": "large"}}); 99];
    commands.push(json!({"publish": {"channel": "large", "data": 2}}));
    let results = node.call("batch", json!({"commands": commands})).await.1["results"].take();
    assert_eq!(results[0]["publications"][0]["data"], large);
    assert_eq!(results[99]["error"]["code"], "too_large");
    assert_eq!(node.publish("large", json!(2)).await["position"]["offset"], 2, "nothing was done");

    let closed = support::closed_node(&[("SKYWAVE__API__KEYS", KEYS)]).await;
    let body = json!({"commands": [{"nodes": {}}, {"disconnect": {"user": "ada"}}]}).to_string();
    let json_type = ("content-type", "application/json");
    let reader = [json_type, ("authorization", "Bearer 0123456789abcdef-r")];
    let (status, answer) = closed.http("POST", "/api/v1/batch", &reader, &body).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, &answer["results"][1]["error"]["code"]), (200, &json!("permission_denied")), "{answer}");
    assert!(answer["results"][0]["nodes"].is_array());
    assert_eq!(closed.http("POST", "/api/v1/batch", &[json_type], &body).await.0, 401);
}

#[tokio::test]
async fn bad_input_is_refused_with_a_reason_and_changes_nothing() {
    let live = ("SKYWAVE__NAMESPACES__LIVE", "{ subscribe = \"anyone\" }");
    let node = support::node(&[live]).await;
    let (mut ada, id) = connected(&node, &["a"]).await;
    let long = "x".repeat(2000);
    for (method, body, status, code, words) in [
        ("disconnect", json!({}), 400, "bad_request", "user or client"),
        ("disconnect", json!({"user": "u", "client": id}), 400, "bad_request", "not both"),
        ("disconnect", json!({"client": id, "force": true}), 400, "bad_request", "unknown field `force`"),
        ("disconnect", json!({"client": ""}), 400, "bad_request", "client has 1 to"),
        ("disconnect", json!({"user": long}), 400, "bad_request", "user has 1 to"),
        ("disconnect", json!({"client": 7}), 400, "bad_request", "invalid type"),
        ("disconnect", json!([]), 400, "bad_request", "JSON object"),
        ("unsubscribe", json!({"client": id}), 400, "bad_request", "missing field `channel`"),
        ("unsubscribe", json!({"channel": "a"}), 400, "bad_request", "user or client"),
        ("unsubscribe", json!({"client": id, "user": "u", "channel": "a"}), 400, "bad_request", "not both"),
        ("unsubscribe", json!({"client": id, "channel": " a"}), 400, "bad_request", "spaces"),
        ("unsubscribe", json!({"client": id, "channel": "a", "x": 1}), 400, "bad_request", "unknown field `x`"),
        ("refresh", json!({}), 400, "bad_request", "missing field `user`"),
        ("refresh", json!({"client": id}), 400, "bad_request", "unknown field `client`"),
        ("refresh", json!({"user": ""}), 400, "bad_request", "user has 1 to"),
        ("connections", json!({}), 400, "bad_request", "user or client"),
        ("connections", json!({"user": "u", "client": id}), 400, "bad_request", "not both"),
        ("connections", json!({"client": id, "within_ms": 0}), 400, "bad_request", "within_ms is 1 to 5000"),
        ("connections", json!({"client": id, "within_ms": 5001}), 400, "bad_request", "within_ms is 1 to 5000"),
        ("connections", json!({"client": id, "limit": 1}), 400, "bad_request", "unknown field `limit`"),
        ("channels", json!({"limit": 0}), 400, "bad_request", "limit is 1 to 1000"),
        ("channels", json!({"limit": 1001}), 400, "bad_request", "limit is 1 to 1000"),
        ("channels", json!({"limit": -1}), 400, "bad_request", "invalid value"),
        ("channels", json!({"prefix": long}), 400, "bad_request", "prefix has at most 255"),
        ("channels", json!({"after": long}), 400, "bad_request", "after has at most 255"),
        ("channels", json!({"pattern": "*"}), 400, "bad_request", "unknown field `pattern`"),
        ("nodes", json!({"all": true}), 400, "bad_request", "unknown field `all`"),
        ("nodes", json!([]), 400, "bad_request", "JSON object"),
        ("history", json!({}), 400, "bad_request", "missing field `channel`"),
        ("history", json!({"channel": ""}), 400, "bad_request", "empty"),
        ("history", json!({"channel": "#other:1"}), 403, "permission_denied", "#"),
        ("history", json!({"channel": "live:a"}), 409, "no_history", "live only"),
        ("history", json!({"channel": "a", "since": {"epoch": "x"}}), 400, "bad_request", "missing field `offset`"),
        ("history", json!({"channel": "a", "limit": 1001}), 400, "bad_request", "limit is 0 to 1000"),
        ("subscribe", json!({"channel": "a"}), 400, "bad_request", "user or client"),
        ("subscribe", json!({"client": id, "channel": " "}), 400, "bad_request", "spaces"),
        ("revoke", json!({}), 400, "bad_request", "user or jti"),
        ("revoke", json!({"user": "u", "jti": "j"}), 400, "bad_request", "not both"),
        ("revoke", json!({"user": "u", "until": 1}), 400, "bad_request", "seconds since 1970"),
        ("revoke", json!({"user": "u", "until": u64::MAX}), 400, "bad_request", "400 days"),
        ("revoke", json!({"jti": ""}), 400, "bad_request", "1 to 255"),
        ("drain", json!({}), 400, "bad_request", "missing field `node`"),
        ("drain", json!({"node": "nobody"}), 404, "not_found", "nobody"),
        ("drain", json!({"node": "nobody", "down_to_mean": true}), 404, "not_found", "nobody"),
        ("history", json!({"channel": "a", "page": 1}), 400, "bad_request", "unknown field `page`"),
        ("presence", json!({"channel": "a\n"}), 400, "bad_request", "control characters"),
        ("presence", json!({"channel": "live:a"}), 400, "bad_request", "namespaces.live.presence"),
        ("presence", json!({"channel": "a", "limit": 1}), 400, "bad_request", "unknown field `limit`"),
        ("presence_count", json!({"channel": "live:a"}), 400, "bad_request", "namespaces.live.presence"),
        ("presence_count", json!({"channels": ["a"]}), 400, "bad_request", "unknown field `channels`"),
        ("forget", json!({"channel": "live:a"}), 409, "no_history", "live only"),
        ("forget", json!({"channel": "a", "since": 1}), 400, "bad_request", "unknown field `since`"),
        ("forget", json!({}), 400, "bad_request", "missing field `channel`"),
        ("dance", json!({}), 404, "not_found", "presence_count"),
    ] {
        let (found, problem) = node.call(method, body.clone()).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{method} {body} {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{method} {body}: {words:?} is not in {problem}");
    }
    for durability in [
        json!({"replicated": 0, "within_ms": 500}),
        json!({"replicated": 6, "within_ms": 500}),
        json!({"replicated": 1, "within_ms": 0}),
        json!({"replicated": 1, "within_ms": 10_001}),
        json!({"within_ms": 500}),
        json!({"replicated": 1, "within_ms": 500, "extra": 1}),
        json!("replicated"),
    ] {
        for (method, to) in [("publish", json!({"channel": "a"})), ("broadcast", json!({"channels": ["a"]}))] {
            let mut body = to;
            body["data"] = json!(1);
            body["durability"] = durability.clone();
            let (status, problem) = node.call(method, body).await;
            assert_eq!((status, problem["code"].as_str()), (400, Some("bad_request")), "{durability} {problem}");
        }
    }
    node.publish("a", json!("still here")).await;
    assert_eq!(ada.next().await["publication"]["data"], "still here", "nothing was published, nobody sent away");
}

#[tokio::test]
async fn each_method_wants_its_scope() {
    let node = support::closed_node(&[("SKYWAVE__API__KEYS", KEYS)]).await;
    let ask = async |method: &str, key: &str| {
        let authorization = format!("Bearer 0123456789abcdef-{key}");
        let headers = [("content-type", "application/json"), ("authorization", authorization.as_str())];
        let (status, body) = node.http("POST", &format!("/api/v1/{method}"), &headers, "{}").await;
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    for (methods, right, scope) in [
        (&["publish", "broadcast"][..], "p", "publish"),
        (&["history", "presence", "presence_count", "nodes", "connections", "channels", "tail"], "r", "read"),
        (&["forget", "disconnect", "subscribe", "unsubscribe", "refresh", "revoke", "drain"], "c", "control"),
    ] {
        for method in methods {
            for key in ["p", "r", "c"] {
                let (status, answer) = ask(method, key).await;
                if key == right {
                    assert!(matches!(status, 200 | 400), "{method} {key}: {answer}");
                } else {
                    assert_eq!((status, &answer["code"]), (403, &json!("permission_denied")), "{method} {key}");
                    assert!(answer["detail"].as_str().unwrap().contains(scope), "{answer}");
                }
            }
            let headers = [("content-type", "application/json")];
            let (status, _) = node.http("POST", &format!("/api/v1/{method}"), &headers, "{}").await;
            assert_eq!(status, 401, "{method} without a key");
        }
    }
    let (status, answer) = ask("history", "r").await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("bad_request")));
    let authorization = [("authorization", "Bearer 0123456789abcdef-r")];
    let unknown = node.http("POST", "/api/v1/history", &authorization, r#"{"channel":"nowhere:a"}"#).await;
    assert!(unknown.0 == 404 && unknown.1.contains("unknown_namespace"), "{unknown:?}");
}

#[tokio::test]
async fn what_other_versions_say_is_ignored() {
    let node = support::node(&[]).await;
    let (mut ada, id) = connected(&node, &["a"]).await;
    let sink = node.node.sink();
    // An op that is not known, an order without an end that is known, and no message at all.
    for message in [&[0xba, 0x3e, 0x01, b'x'][..], &[0x0a, 0x00], &[0x0a, 0x02, 0x0a, 0x00], &[0xff, 0xff], b""] {
        sink.signal("elsewhere".into(), Bytes::copy_from_slice(message));
    }
    let connections = node.call("connections", json!({"client": id})).await.1;
    assert_eq!(connections["connections"].as_array().unwrap().len(), 1, "the queue is emptied still");
    node.publish("a", json!(1)).await;
    assert_eq!(ada.next().await["publication"]["data"], 1);
}
