//! The back end decides and is told, through real sockets on both sides.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::{Client, Running, back_end::BackEnd, token};

const ANYONE: &str =
    "{ subscribe = \"anyone\", publish = \"subscribers\", presence = true, history = { size = 10, ttl = \"1m\" } }";

/// A node that asks this back end about `hooks`, and knows the namespace `chat`.
async fn node(back_end: &BackEnd, hooks: &[&str], settings: &str, more: &[(&str, &str)]) -> Running {
    let hook = format!("{{ url = \"{}\"{settings} }}", back_end.url());
    let names: Vec<_> = hooks.iter().map(|hook| format!("SKYWAVE__WEBHOOKS__{}", hook.to_uppercase())).collect();
    let mut variables = vec![("SKYWAVE__NAMESPACES__CHAT", ANYONE)];
    variables.extend(names.iter().map(|name| (name.as_str(), hook.as_str())));
    variables.extend(more);
    support::closed_node(&variables).await
}

const ANONYMOUS: (&str, &str) = ("SKYWAVE__AUTH__ANONYMOUS", "true");

fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or("ok")
}

async fn connect(node: &Running, connect: Value) -> (Client, Value) {
    let mut client = node.socket("/ws").await;
    let reply = client.ask(json!({"connect": connect})).await;
    (client, reply)
}

#[tokio::test]
async fn the_back_end_says_who_a_client_is_and_what_it_may() {
    let back_end = BackEnd::start(|asked| {
        Some(match asked["token"].as_str() {
            Some("ada's") => (
                200,
                json!({
                    "user": "ada", "info": {"name": "Ada"}, "channels": ["chat:hall"], "publish": ["news:*"],
                    "subscribe": ["news:*"], "expires_in_ms": 60_000,
                }),
            ),
            Some("nobody's") => (200, json!({"error": {"code": "permission_denied", "message": "not today"}})),
            _ => (200, json!({"error": {"code": "unauthenticated", "message": "who are you?"}})),
        })
    })
    .await;
    let news = ("SKYWAVE__NAMESPACES__NEWS", "{ subscribe = \"token\", publish = \"token\" }");
    let node = node(&back_end, &["connect"], "", &[news]).await;

    let (mut client, reply) = connect(&node, json!({"token": "ada's", "subscribe": [{"channel": "news:a"}]})).await;
    let connected = &reply["connected"];
    let channels: Vec<_> = connected["subscribed"].as_array().unwrap().iter().map(|one| &one["channel"]).collect();
    assert_eq!(channels, ["news:a", "chat:hall"]);
    let lasts = connected["expires_in_ms"].as_u64().unwrap();
    assert!((50_000..=60_000).contains(&lasts), "{lasts}");
    assert_eq!(code(&client.ask(json!({"publish": {"channel": "news:a", "data": 1}})).await), "ok");
    assert_eq!(client.push("publication").await["user"], "ada");
    let asked = back_end.asked().await;
    assert_eq!(
        (&asked["hook"], &asked["protocol"], &asked["address"]),
        (&json!("connect"), &json!("json"), &json!("127.0.0.1"))
    );
    assert!(asked["client"].is_string() && asked["user"].is_null(), "{asked}");

    let (mut client, reply) = connect(&node, json!({"token": "nobody's"})).await;
    assert_eq!((code(&reply), &reply["error"]["message"]), ("permission_denied", &json!("not today")));
    assert_eq!(client.closed().await.0, 4502);
    let (mut client, reply) = connect(&node, json!({})).await;
    assert_eq!(code(&reply), "unauthenticated");
    assert_eq!(client.closed().await.0, 4500);

    // The same for whoever has no words: by its address, with the token there.
    let mut raw = node.socket("/raw/news:a?token=ada's").await;
    raw.send("1").await;
    assert_eq!(raw.message().await.to_text().unwrap(), "1");
    assert_eq!(node.refused("/raw/news:a?token=nobody's", &[]).await.0, 403);
    assert_eq!(node.refused("/raw/news:a", &[]).await.0, 401);
}

#[tokio::test]
async fn a_command_before_anything_else_waits_until_the_client_is_let_in() {
    let back_end = BackEnd::start(|_| Some((200, json!({"user": "ada"})))).await;
    let node = node(&back_end, &["connect"], "", &[]).await;
    let mut client = node.socket("/ws").await;
    let reply = client.ask(json!({"subscribe": {"channel": "chat:a"}})).await;
    assert_eq!(code(&reply), "ok", "{reply}");
    assert!(client.push("connected").await["client"].is_string(), "and before it what it is connected as");
}

#[tokio::test]
async fn the_back_end_decides_about_each_subscription_within_the_rights() {
    let back_end = BackEnd::start(|asked| {
        Some(match asked["channel"].as_str() {
            Some("chat:closed") => (200, json!({"error": {"code": "permission_denied", "message": "a private party"}})),
            _ => (200, json!({})),
        })
    })
    .await;
    let closed = ("SKYWAVE__NAMESPACES__NEWS", "{ subscribe = \"token\" }");
    let node = node(&back_end, &["subscribe"], "", &[ANONYMOUS, closed]).await;
    let (mut client, _) = connect(&node, json!({})).await;
    assert_eq!(code(&client.ask(json!({"subscribe": {"channel": "chat:open"}})).await), "ok");
    assert_eq!(back_end.asked().await["channel"], "chat:open");
    let reply = client.ask(json!({"subscribe": {"channel": "chat:closed"}})).await;
    assert_eq!((code(&reply), &reply["error"]["message"]), ("permission_denied", &json!("a private party")));
    assert_eq!(back_end.asked().await["channel"], "chat:closed");
    assert_eq!(code(&client.ask(json!({"subscribe": {"channel": "news:a"}})).await), "permission_denied");
    assert!(back_end.rest().is_empty(), "nobody is asked about what there is no right to");
    let (_, reply) = connect(&node, json!({"subscribe": [{"channel": "chat:closed"}, {"channel": "chat:open"}]})).await;
    let subscribed = &reply["connected"]["subscribed"];
    assert_eq!((code(&subscribed[0]), code(&subscribed[1])), ("permission_denied", "ok"), "{reply}");
    assert_eq!(node.refused("/raw/chat:closed", &[]).await.0, 403);
}

#[tokio::test]
async fn who_changes_its_mind_while_the_back_end_is_asked_is_not_subscribed() {
    let back_end = BackEnd::start(|asked| (asked["channel"] != "chat:slow").then(|| (200, json!({})))).await;
    let node = node(&back_end, &["subscribe"], ", timeout = \"30s\"", &[ANONYMOUS]).await;
    let (mut client, _) = connect(&node, json!({})).await;
    let asked = client.tell(json!({"subscribe": {"channel": "chat:slow"}})).await;
    assert_eq!(back_end.asked().await["channel"], "chat:slow");
    assert_eq!(code(&client.ask(json!({"subscribe": {"channel": "chat:slow"}})).await), "already_subscribed");
    let withdrawn = client.tell(json!({"unsubscribe": {"channel": "chat:slow"}})).await;
    assert_eq!(code(&client.reply(asked).await), "not_subscribed");
    assert_eq!(code(&client.reply(withdrawn).await), "ok");
    assert_eq!(code(&client.ask(json!({"subscribe": {"channel": "chat:quick"}})).await), "ok", "nothing else waited");
}

#[tokio::test]
async fn the_back_end_decides_about_each_publication_and_their_order_stays() {
    let back_end = BackEnd::start(|asked| {
        let number = asked["data"].as_u64().unwrap();
        Some(match number % 3 {
            0 => (200, json!({})),
            1 => (200, json!({"data": {"was": number}})),
            _ => (200, json!({"error": {"code": "bad_request", "message": "no twos"}})),
        })
    })
    .await;
    let node = node(&back_end, &["publish"], "", &[ANONYMOUS]).await;
    let (mut client, _) = connect(&node, json!({"subscribe": [{"channel": "chat:a"}]})).await;
    for number in 0..30 {
        client.send(json!({"publish": {"channel": "chat:a", "data": number}}).to_string()).await;
    }
    let expected: Vec<_> = (0..30u64)
        .filter(|number| number % 3 != 2)
        .map(|number| if number % 3 == 1 { json!({"was": number}) } else { json!(number) })
        .collect();
    assert_eq!(client.data(20).await, expected);
    let reply = client.ask(json!({"publish": {"channel": "chat:a", "data": 2}})).await;
    assert_eq!((code(&reply), &reply["error"]["message"]), ("bad_request", &json!("no twos")));
    let reply = client.ask(json!({"publish": {"channel": "chat:a", "data": 3}})).await;
    assert_eq!(reply["published"]["position"]["offset"], 21);
}

#[tokio::test]
async fn the_back_end_answers_calls() {
    let back_end = BackEnd::start(|asked| {
        Some(match asked["method"].as_str() {
            Some("add") => {
                (200, json!({"data": asked["data"][0].as_i64().unwrap() + asked["data"][1].as_i64().unwrap()}))
            }
            Some("none") => (200, json!({})),
            _ => (200, json!({"error": {"code": "not_found", "message": "no such method"}})),
        })
    })
    .await;
    let node = node(&back_end, &["rpc"], "", &[token::TOKENS]).await;
    let (mut client, _) = connect(&node, json!({"token": token::user("ada", &[], &[])})).await;
    let reply = client.ask(json!({"rpc": {"method": "add", "data": [1, 2]}})).await;
    assert_eq!(reply["result"]["data"], 3);
    let asked = back_end.asked().await;
    assert_eq!((&asked["user"], &asked["data"]), (&json!("ada"), &json!([1, 2])));
    assert!(client.ask(json!({"rpc": {"method": "none"}})).await["result"]["data"].is_null());
    assert_eq!(code(&client.ask(json!({"rpc": {"method": "other"}})).await), "not_found");
    assert_eq!(code(&client.ask(json!({"rpc": {"method": ""}})).await), "bad_request");
}

#[tokio::test]
async fn without_the_back_end_each_hook_follows_its_policy_within_its_deadline() {
    let back_end = BackEnd::start(|_| Some((200, json!({})))).await;
    let deadline = ", timeout = \"500ms\"";
    for (on_failure, expected) in [("refuse", "unavailable"), ("allow", "ok")] {
        let settings = format!("{deadline}, on_failure = \"{on_failure}\"");
        let subscribe = node(&back_end, &["subscribe"], &settings, &[ANONYMOUS]).await;
        let publish = node(&back_end, &["publish"], &settings, &[ANONYMOUS]).await;
        let (mut asks_to_publish, _) = connect(&publish, json!({"subscribe": [{"channel": "chat:a"}]})).await;
        // One that takes the connection and never says a word.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let hook = format!("{{ url = \"{url}\"{settings} }}");
        let silent_node = support::closed_node(&[
            ANONYMOUS,
            ("SKYWAVE__NAMESPACES__CHAT", ANYONE),
            ("SKYWAVE__WEBHOOKS__SUBSCRIBE", &hook),
        ])
        .await;
        let (mut asks_the_silent, _) = connect(&silent_node, json!({})).await;
        let started = Instant::now();
        let reply = asks_the_silent.ask(json!({"subscribe": {"channel": "chat:a"}})).await;
        assert_eq!(code(&reply), expected, "{reply}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

        let (mut asks_to_subscribe, _) = connect(&subscribe, json!({})).await;
        assert_eq!(code(&asks_to_subscribe.ask(json!({"subscribe": {"channel": "chat:b"}})).await), "ok");
        assert_eq!(code(&asks_to_publish.ask(json!({"publish": {"channel": "chat:a", "data": 1}})).await), "ok");
    }
    let address = back_end.kill().await;
    for (on_failure, expected) in [("refuse", "unavailable"), ("allow", "ok")] {
        let hook = format!("{{ url = \"http://{address}/\"{deadline}, on_failure = \"{on_failure}\" }}");
        let variables = [
            ANONYMOUS,
            ("SKYWAVE__NAMESPACES__CHAT", ANYONE),
            ("SKYWAVE__WEBHOOKS__CONNECT", hook.as_str()),
            ("SKYWAVE__WEBHOOKS__SUBSCRIBE", hook.as_str()),
            ("SKYWAVE__WEBHOOKS__PUBLISH", hook.as_str()),
        ];
        let node = support::closed_node(&variables).await;
        let (mut client, reply) = connect(&node, json!({})).await;
        assert_eq!(code(&reply), expected, "connect: {reply}");
        if on_failure == "refuse" {
            assert_eq!(client.closed().await.0, 1013, "it may come back");
            continue;
        }
        assert_eq!(code(&client.ask(json!({"subscribe": {"channel": "chat:a"}})).await), "ok");
        assert_eq!(code(&client.ask(json!({"publish": {"channel": "chat:a", "data": 1}})).await), "ok");
    }
}

#[tokio::test]
async fn what_happens_is_told_in_order_also_after_the_back_end_was_away() {
    let back_end = BackEnd::start(|_| Some((200, json!({})))).await;
    let events = ", debounce = \"0s\", batch_wait = \"10ms\"";
    let node = node(&back_end, &["events"], events, &[token::TOKENS]).await;
    let types = |events: &[Value]| -> Vec<String> {
        events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    };
    let (mut client, reply) = connect(&node, json!({"token": token::user("ada", &["chat:*"], &[])})).await;
    client.ask(json!({"subscribe": {"channel": "chat:a"}})).await;
    let told = back_end.events(3).await;
    assert_eq!(types(&told), ["client_connected", "channel_occupied", "member_joined"]);
    assert_eq!((&told[0]["client"], &told[0]["user"]), (&reply["connected"]["client"], &json!("ada")));
    assert_eq!((&told[2]["channel"], &told[2]["user"]), (&json!("chat:a"), &json!("ada")));

    // A second page of the same user is no news for the channel.
    let (mut second, _) = connect(&node, json!({"token": token::user("ada", &["chat:*"], &[])})).await;
    second.ask(json!({"subscribe": {"channel": "chat:a"}})).await;
    assert_eq!(types(&back_end.events(1).await), ["client_connected"]);

    let address = back_end.kill().await;
    let code = tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode::Normal;
    let goodbye = tokio_tungstenite::tungstenite::protocol::CloseFrame { code, reason: "".into() };
    client.stream.close(Some(goodbye)).await.unwrap();
    second.ask(json!({"unsubscribe": {"channel": "chat:a"}})).await;
    let (third, _) = connect(&node, json!({"token": token::user("bob", &["chat:*"], &[])})).await;
    let back_end = BackEnd::start_at(address, |_| Some((200, json!({})))).await;
    let mut told = types(&back_end.events(4).await);
    let at = |wanted: &str| told.iter().position(|told| told == wanted);
    assert!(at("member_left") < at("channel_vacated"), "{told:?}");
    told.sort();
    assert_eq!(told, ["channel_vacated", "client_connected", "client_disconnected", "member_left"]);
    drop(third);
}

#[tokio::test]
async fn a_back_end_that_does_not_answer_vouches_for_nobody() {
    let gone = BackEnd::start(|_| None).await.kill().await;
    let hook = format!("{{ url = \"http://{gone}/\", timeout = \"500ms\", on_failure = \"allow\" }}");
    for (anonymous, token, expected) in [
        ("false", json!({}), "unavailable"),
        ("false", json!({"token": "ada's"}), "unavailable"),
        ("true", json!({"token": "ada's"}), "unavailable"),
        ("true", json!({}), "ok"),
    ] {
        let variables = [
            ("SKYWAVE__AUTH__ANONYMOUS", anonymous),
            ("SKYWAVE__NAMESPACES__CHAT", ANYONE),
            ("SKYWAVE__WEBHOOKS__CONNECT", hook.as_str()),
        ];
        let node = support::closed_node(&variables).await;
        let (mut client, reply) = connect(&node, token.clone()).await;
        assert_eq!(code(&reply), expected, "anonymous = {anonymous}, {token}: {reply}");
        if expected == "unavailable" {
            assert!(reply["error"]["after_ms"].as_u64().unwrap() > 0, "{reply}");
            assert_eq!(client.closed().await.0, 1013);
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_its_own_place_is_no_news_until_it_is_gone() {
    let back_end = BackEnd::start(|_| Some((200, json!({})))).await;
    let events = ", debounce = \"0s\", batch_wait = \"10ms\"";
    let node = node(&back_end, &["events"], events, &[ANONYMOUS]).await;
    let (mut first, reply) = connect(&node, json!({})).await;
    let (second, again) = connect(&node, json!({"session": reply["connected"]["session"]})).await;
    assert_eq!(again["connected"]["client"], reply["connected"]["client"]);
    assert_eq!(first.closed().await.0, 4506);
    drop(second);
    let told = back_end.events(2).await;
    let told: Vec<_> = told.iter().map(|event| (&event["type"], &event["client"])).collect();
    let client = &reply["connected"]["client"];
    assert_eq!(told, [(&json!("client_connected"), client), (&json!("client_disconnected"), client)]);
}

#[tokio::test]
async fn who_is_cut_when_the_node_ends_is_told_of() {
    let back_end = BackEnd::start(|_| Some((200, json!({})))).await;
    let at_once = [
        ANONYMOUS,
        ("SKYWAVE__DRAIN__GRACE", "0s"),
        ("SKYWAVE__DRAIN__WINDOW", "0s"),
        ("SKYWAVE__DRAIN__DEADLINE", "0s"),
    ];
    let node = node(&back_end, &["events"], ", debounce = \"0s\"", &at_once).await;
    let (_stays, reply) = connect(&node, json!({})).await;
    node.node.drain().await;
    let told = back_end.events(2).await;
    assert_eq!((&told[1]["type"], &told[1]["client"]), (&json!("client_disconnected"), &reply["connected"]["client"]));
}

const KEYS: (&str, &str) =
    ("SKYWAVE__API__KEYS", r#"[{ name = "backend", key = "0123456789abcdef", scopes = ["control"] }]"#);

async fn revoke(node: &Running, body: Value) {
    let headers = [("authorization", "Bearer 0123456789abcdef"), ("content-type", "application/json")];
    let (status, answer) = node.http("POST", "/api/v1/revoke", &headers, &body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
}

/// A token that was made a minute ago.
fn old(user: &str, id: &str) -> String {
    token::token(json!({"sub": user, "jti": id, "iat": token::now() - 60}))
}

#[tokio::test]
async fn a_token_that_is_revoked_while_the_back_end_is_asked_opens_nothing() {
    let back_end = BackEnd::start(|_| None).await;
    let late = ", timeout = \"4s\", on_failure = \"allow\"";
    let node = node(&back_end, &["connect"], late, &[token::TOKENS, KEYS]).await;
    let mut client = node.socket("/ws").await;
    let asked = client.tell(json!({"connect": {"token": old("ada", "a1")}})).await;
    assert_eq!(back_end.asked().await["user"], "ada");
    revoke(&node, json!({"jti": "a1"})).await;
    let reply = client.reply(asked).await;
    assert_eq!(code(&reply), "unauthenticated", "{reply}");
    assert_eq!(client.closed().await.0, 4500);
}

#[tokio::test]
async fn nothing_is_published_for_who_has_been_thrown_out_meanwhile() {
    let back_end = BackEnd::start(|_| None).await;
    let late = ", timeout = \"4s\", on_failure = \"allow\"";
    let node = node(&back_end, &["publish"], late, &[token::TOKENS, KEYS]).await;
    let (mut ada, _) = connect(&node, json!({"token": old("ada", "a1"), "subscribe": [{"channel": "chat:a"}]})).await;
    let (mut bob, _) = connect(&node, json!({"token": old("bob", "b1"), "subscribe": [{"channel": "chat:a"}]})).await;
    ada.tell(json!({"publish": {"channel": "chat:a", "data": "ada's"}})).await;
    assert_eq!(back_end.asked().await["user"], "ada");
    revoke(&node, json!({"user": "ada"})).await;
    ada.push("error").await; // and it does not answer the close
    bob.tell(json!({"publish": {"channel": "chat:a", "data": "bob's"}})).await;
    assert_eq!(bob.data(1).await, [json!("bob's")], "asked about later, and the only one");
}

#[tokio::test]
async fn whom_the_back_end_knows_by_another_name_keeps_both() {
    let back_end = BackEnd::start(|_| Some((200, json!({"user": "7"})))).await;
    let node = node(&back_end, &["connect"], "", &[token::TOKENS, KEYS]).await;
    let (mut by_token, reply) = connect(&node, json!({"token": old("ada", "a1")})).await;
    assert_eq!(code(&reply), "ok");
    let (by_word, reply) = connect(&node, json!({})).await;
    assert_eq!(code(&reply), "ok");
    assert_eq!(code(&by_token.ask(json!({"refresh": {"token": old("ada", "a2")}})).await), "ok");
    for other in ["7", "bob"] {
        let reply = by_token.ask(json!({"refresh": {"token": old(other, "x")}})).await;
        assert_eq!(code(&reply), "permission_denied", "{other}");
    }
    // What is revoked of a user counts for either name.
    revoke(&node, json!({"user": "7"})).await;
    for mut client in [by_token, by_word] {
        assert_eq!(client.closed().await.0, 4500);
    }
    let (_, reply) = connect(&node, json!({})).await;
    assert_eq!(code(&reply), "ok", "the back end has said so again, and knows better");
}

#[tokio::test]
async fn a_channel_by_its_address_is_not_opened_while_nobody_knows_for_whom() {
    let back_end = BackEnd::start(|_| None).await;
    let slow = ", timeout = \"5s\", on_failure = \"allow\"";
    let hurry = ("SKYWAVE__TIMEOUTS__HANDSHAKE", "300ms");
    let node = node(&back_end, &["connect"], slow, &[ANONYMOUS, hurry]).await;
    let (status, words) = node.refused("/raw/chat:a", &[]).await;
    assert_eq!(status, 503, "{words}");
    assert!(words.contains("timeouts.handshake"), "{words}");
}

#[tokio::test]
async fn clients_that_speak_http_are_asked_about_as_any_other() {
    let back_end = BackEnd::start(|asked| {
        let no = json!({"error": {"code": "permission_denied", "message": "not today"}});
        Some(match (asked["hook"].as_str(), asked["channel"].as_str(), asked["token"].as_str()) {
            (Some("connect"), _, Some("ada's")) => (200, json!({"user": "ada"})),
            (Some("connect"), _, Some(_)) | (Some("subscribe"), Some("chat:shut"), _) => (200, no),
            (Some("publish"), Some("chat:quiet"), _) => (200, no),
            _ => (200, json!({})),
        })
    })
    .await;
    let node = node(&back_end, &["connect", "subscribe", "publish"], "", &[ANONYMOUS]).await;
    let get = async |path: &str| node.stream(path).await.status;
    assert_eq!(get("/sse?channel=chat:open&token=ada%27s").await, 200);
    assert_eq!(get("/sse?channel=chat:open&token=bob%27s").await, 403);
    assert_eq!(get("/sse?channel=chat:open&channel=chat:shut").await, 403);
    assert_eq!(get("/poll?channel=chat:shut&timeout_ms=1").await, 403);
    assert_eq!(get("/poll?channel=chat:open&timeout_ms=1").await, 200);
    let post = async |channel: &str| {
        let body = json!({"channel": channel, "data": 1}).to_string();
        support::request(&node.public(), "POST", "/publish?token=ada%27s", &[], &body).await.0
    };
    assert_eq!(post("chat:open").await, 200);
    // Subscribers may publish, and the back end says that this one could not be one.
    assert_eq!(post("chat:shut").await, 403);
    assert_eq!(post("chat:quiet").await, 403);
    let publication = node.stream("/sse?channel=chat:open&since=zzzzzzzz:1").await.event().await;
    assert_eq!(publication.expect("a gap").name, "gap");
}
