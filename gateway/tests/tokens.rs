//! Tokens through real sockets: where they come from, when they end, and what becomes of whoever is here by one.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};

use support::{Client, Running, token};

const NO_LEEWAY: (&str, &str) = ("SKYWAVE__AUTH__TOKENS__LEEWAY", "0s");
const CHAT: (&str, &str) = ("SKYWAVE__NAMESPACES__CHAT", "{ subscribe = \"token\", publish = \"token\" }");
const NEWS: (&str, &str) = ("SKYWAVE__NAMESPACES__NEWS", "{ subscribe = \"users\", publish = \"nobody\" }");

async fn node(more: &[(&str, &str)]) -> Running {
    let mut variables = vec![token::TOKENS, CHAT, NEWS];
    variables.extend(more);
    support::closed_node(&variables).await
}

fn ada() -> String {
    token::user("ada", &["chat:*"], &["chat:*"])
}

async fn connected(node: &Running, token: &str) -> Client {
    let mut client = node.socket("/ws").await;
    let reply = client.ask(json!({"connect": {"token": token}})).await;
    assert!(reply["connected"].is_object(), "{reply}");
    client
}

fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or("ok")
}

#[tokio::test]
async fn a_token_comes_with_connect_or_with_the_handshake() {
    let node = node(&[("SKYWAVE__AUTH__TOKENS__COOKIE", "sid")]).await;
    let mut client = node.socket("/ws").await;
    let reply = client.ask(json!({"connect": {"token": ada()}})).await;
    let lasts = reply["connected"]["expires_in_ms"].as_u64().unwrap();
    assert!((3_590_000..=3_600_000).contains(&lasts), "an hour, and nothing of the leeway: {lasts}");

    let (bearer, cookie) = (format!("Bearer {}", ada()), format!("a=b; sid={}", ada()));
    let path = format!("/ws?token={}", ada());
    for (path, headers) in [
        ("/ws", vec![("authorization", bearer.as_str())]),
        ("/ws", vec![("cookie", cookie.as_str())]),
        (path.as_str(), vec![]),
    ] {
        // What came with the handshake is answered unasked.
        let mut client = node.try_socket(path, &headers).await.unwrap();
        let pushed = client.push("connected").await;
        assert!(pushed["client"].is_string() && pushed["expires_in_ms"].is_number(), "{pushed}");
        assert_eq!(code(&client.ask(json!({"subscribe": {"channel": "chat:a"}})).await), "ok");
        assert_eq!(code(&client.ask(json!({"connect": {}})).await), "bad_request", "not the first command");

        // A connect as its first command is answered all the same, once.
        let mut client = node.try_socket(path, &headers).await.unwrap();
        let client_id = client.push("connected").await["client"].clone();
        let reply = client.ask(json!({"connect": {"subscribe": [{"channel": "chat:b"}]}})).await;
        assert_eq!(reply["connected"]["client"], client_id);
        assert_eq!(reply["connected"]["subscribed"][0]["channel"], "chat:b");
        assert_eq!(code(&client.ask(json!({"connect": {}})).await), "bad_request");
    }
    // The cookie of a page's visitor counts for the pages of this host only.
    let (own, evil) = (format!("http://{}", node.public()), "http://evil.example");
    assert!(node.try_socket("/ws", &[("cookie", &cookie), ("origin", &own)]).await.is_ok());
    assert_eq!(node.refused("/ws", &[("cookie", &cookie), ("origin", evil)]).await.0, 403);
    assert_eq!(node.refused("/raw/chat:a", &[("cookie", &cookie), ("origin", evil)]).await.0, 403);
    assert!(node.try_socket("/raw/chat:a", &[("cookie", &cookie), ("origin", &own)]).await.is_ok());
}

#[tokio::test]
async fn a_session_is_taken_up_by_its_user_also_when_the_token_comes_with_the_handshake() {
    let node = node(&[]).await;
    let open = async |token: &str| {
        let mut client = node.socket(&format!("/ws?token={token}")).await;
        let pushed = client.push("connected").await;
        (client, pushed)
    };
    let (client, first) = open(&ada()).await;
    drop(client);
    let session = first["session"].clone();
    let (mut client, second) = open(&ada()).await;
    assert_ne!(first["client"], second["client"]);
    let reply = client.ask(json!({"connect": {"session": session}})).await;
    assert_eq!(reply["connected"]["client"], first["client"], "the client that it was");
    let (mut bob, own) = open(&token::user("bob", &[], &[])).await;
    let reply = bob.ask(json!({"connect": {"session": session}})).await;
    assert_eq!(reply["connected"]["client"], own["client"], "not another user's");
}

#[tokio::test]
async fn a_bad_token_is_told_over_the_open_connection_and_closes_it() {
    let node = node(&[NO_LEEWAY]).await;
    let claims = json!({"sub": "ada", "exp": token::now() + 60});
    let parts: Vec<String> = ada().split('.').map(str::to_owned).collect();
    let none = "eyJhbGciOiJub25lIn0"; // {"alg":"none"}
    let table = [
        ("expired", token::signed(token::SECRET, &json!({"sub": "ada", "exp": token::now() - 1})), 4008),
        ("not yet valid", token::token(json!({"sub": "ada", "nbf": token::now() + 3600})), 4500),
        ("another secret", token::signed("another secret of thirty-two bytes", &claims), 4500),
        ("no algorithm", format!("{none}.{}.", parts[1]), 4500),
        ("no algorithm, with a signature", format!("{none}.{}.{}", parts[1], parts[2]), 4500),
        ("changed", format!("{}.{}.{}", parts[0], parts[1].to_lowercase(), parts[2]), 4500),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), 4500),
        ("no end", token::signed(token::SECRET, &json!({"sub": "ada"})), 4500),
        ("one for a channel", token::channel(Some("ada"), "chat:a"), 4500),
        ("nothing", String::new(), 4500),
        ("nonsense", "x".repeat(100), 4500),
        ("far too long", "x".repeat(9000), 4500),
    ];
    for (what, token, close) in table {
        let mut client = node.socket("/ws").await;
        let reply = client.ask(json!({"connect": {"token": token}})).await;
        assert_eq!(code(&reply), "unauthenticated", "{what}: {reply}");
        assert!(token.len() < 50 || !reply.to_string().contains(&token[..50]), "{what}: it is not repeated");
        assert_eq!(client.closed().await.0, close, "{what}");
        if !token.is_empty() && token.len() < 8000 {
            let mut client = node.socket(&format!("/ws?token={token}")).await;
            assert_eq!(client.push("error").await["code"], "unauthenticated", "{what}");
            assert_eq!(client.closed().await.0, close, "{what}");
            assert_eq!(node.refused(&format!("/raw/chat:a?token={token}"), &[]).await.0, 401, "{what}");
        }
    }
    let mut client = node.socket("/ws").await;
    assert_eq!(code(&client.ask(json!({"connect": {}})).await), "unauthenticated", "nobody is let in without");
}

#[tokio::test]
async fn a_connection_ends_with_its_token_unless_a_newer_one_comes() {
    let node = node(&[NO_LEEWAY]).await;
    let short = |seconds: u64, subscribe: &[&str]| {
        token::token(json!({"sub": "ada", "exp": token::now() + seconds, "skywave": {"subscribe": subscribe}}))
    };
    // Long enough for all that has to be done before, on a machine that has much to do.
    let mut ends = connected(&node, &short(6, &[])).await;
    let mut goes_on = connected(&node, &short(6, &["chat:*"])).await;
    assert_eq!(code(&goes_on.ask(json!({"subscribe": {"channel": "chat:a"}})).await), "ok");
    assert_eq!(code(&goes_on.ask(json!({"subscribe": {"channel": "news:a"}})).await), "ok");

    // A bad one changes nothing, another user's neither.
    for (token, expected) in [("x".to_owned(), "unauthenticated"), (token::user("bob", &[], &[]), "permission_denied")]
    {
        assert_eq!(code(&goes_on.ask(json!({"refresh": {"token": token}})).await), expected);
    }
    let reply = goes_on.ask(json!({"refresh": {"token": short(60, &[])}})).await;
    let lasts = reply["refreshed"]["expires_in_ms"].as_u64().unwrap();
    assert!((50_000..=60_000).contains(&lasts), "{reply}");
    let lost = goes_on.push("unsubscribed").await;
    assert_eq!(lost, json!({"channel": "chat:a", "reason": "permission"}), "the new one does not name it");

    assert_eq!(ends.closed().await, (4008, "token_expired".into()));
    let last = ends.before_close().pop().unwrap();
    assert_eq!(last["disconnect"]["reconnect"], true, "{last}");
    assert_eq!(code(&goes_on.ask(json!({"ping": {}})).await), "ok", "the other one is still here");

    // One that ends sooner counts too.
    assert_eq!(code(&goes_on.ask(json!({"refresh": {"token": short(2, &[])}})).await), "ok");
    assert_eq!(goes_on.closed().await.0, 4008);
}

#[tokio::test]
async fn a_subscription_ends_with_its_channel_token() {
    let node = node(&[NO_LEEWAY]).await;
    let mut client = connected(&node, &token::user("ada", &[], &[])).await;
    let claims = json!({"sub": "ada", "channel": "chat:a", "exp": token::now() + 5});
    let channel = json!({"channel": "chat:a", "token": token::signed(token::SECRET, &claims)});
    assert_eq!(code(&client.ask(json!({"subscribe": channel})).await), "ok");
    assert_eq!(code(&client.ask(json!({"subscribe": {"channel": "news:a"}})).await), "ok");
    assert_eq!(client.push("unsubscribed").await, json!({"channel": "chat:a", "reason": "expired"}));
    assert_eq!(code(&client.ask(json!({"history": {"channel": "chat:a"}})).await), "permission_denied");
    assert_eq!(code(&client.ask(json!({"unsubscribe": {"channel": "news:a"}})).await), "ok", "the other one stays");
}

#[tokio::test]
async fn what_a_token_says_of_its_user_is_told_to_others_and_what_the_client_says_is_not() {
    let room = ("SKYWAVE__NAMESPACES__ROOM", "{ subscribe = \"anyone\", publish = \"subscribers\", presence = true }");
    let node = node(&[room]).await;
    let token = token::token(json!({"sub": "ada", "skywave": {"info": {"name": "Ada"}}}));
    let mut client = node.socket("/ws").await;
    client.ask(json!({"connect": {"token": token, "info": {"name": "Somebody else"}}})).await;
    let reply = client.ask(json!({"subscribe": {"channel": "room:1", "presence": true}})).await;
    let member = &reply["subscribed"]["members"][0];
    assert_eq!((&member["user"], &member["info"]), (&json!("ada"), &json!({"name": "Ada"})));
    client.ask(json!({"publish": {"channel": "room:1", "data": 1}})).await;
    assert_eq!(client.push("publication").await["user"], "ada");
}

#[tokio::test]
async fn keys_are_fetched_and_who_cannot_be_checked_now_may_come_back() {
    // Nobody answers at this address.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    drop(listener);
    let node = support::closed_node(&[("SKYWAVE__AUTH__TOKENS__JWKS_URL", &url), CHAT]).await;
    // An algorithm of public keys, so that the key server has to be asked.
    let header = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ"; // {"alg":"ES256","kid":"a"}
    let parts: Vec<String> = ada().split('.').map(str::to_owned).collect();
    let token = format!("{header}.{}.{}{}", parts[1], parts[2], parts[2]);
    let mut client = node.socket("/ws").await;
    let reply = client.ask(json!({"connect": {"token": token}})).await;
    assert_eq!(code(&reply), "unavailable", "{reply}");
    assert!(reply["error"]["retry"] == true && reply["error"]["after_ms"].as_u64().unwrap() > 0, "{reply}");
    assert_eq!(client.closed().await.0, 1013);
    let (status, why) = node.refused(&format!("/raw/chat:a?token={token}"), &[]).await;
    assert_eq!(status, 503, "{why}");
    assert!(tokio::time::timeout(Duration::from_secs(10), connected_without_key_server(&node)).await.is_ok());
}

/// A token that needs no key server is judged without it.
async fn connected_without_key_server(node: &Running) {
    let mut client = node.socket("/ws").await;
    assert_eq!(code(&client.ask(json!({"connect": {"token": ada()}})).await), "unauthenticated");
}

const KEYS: (&str, &str) =
    ("SKYWAVE__API__KEYS", r#"[{ name = "backend", key = "0123456789abcdef", scopes = ["control", "publish"] }]"#);

async fn revoke(node: &Running, body: Value) {
    let headers = [("authorization", "Bearer 0123456789abcdef"), ("content-type", "application/json")];
    let (status, answer) = node.http("POST", "/api/v1/revoke", &headers, &body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
}

/// Reads to the close of a connection whose token was revoked.
async fn thrown_out(client: &mut Client) {
    assert_eq!(client.closed().await.0, 4500);
    let said = client.before_close();
    assert!(said.iter().any(|said| code(said) == "unauthenticated"), "{said:?}");
}

#[tokio::test]
async fn who_is_here_by_a_revoked_token_leaves_and_does_not_come_back_with_it() {
    let node = node(&[KEYS]).await;
    let of = |user: &str, id: &str, ago: u64| {
        let now = token::now();
        token::token(json!({"sub": user, "jti": id, "iat": now - ago, "exp": now + 600}))
    };
    let mut one = connected(&node, &of("ada", "a1", 60)).await;
    let mut other = connected(&node, &of("ada", "a2", 60)).await;
    let mut bob = connected(&node, &of("bob", "b1", 60)).await;

    revoke(&node, json!({"jti": "a1"})).await;
    thrown_out(&mut one).await;
    assert_eq!(code(&other.ask(json!({"ping": {}})).await), "ok", "another token of the same user");
    revoke(&node, json!({"user": "ada"})).await;
    thrown_out(&mut other).await;
    assert_eq!(code(&bob.ask(json!({"ping": {}})).await), "ok", "another user");

    for (what, token) in [("by its id", of("ada", "a1", 60)), ("by its user", of("ada", "a3", 60))] {
        let mut client = node.socket("/ws").await;
        let reply = client.ask(json!({"connect": {"token": token}})).await;
        assert_eq!(code(&reply), "unauthenticated", "{what}: {reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains("revoked"), "{what}: {reply}");
        assert_eq!(client.closed().await.0, 4500);
        assert_eq!(node.refused(&format!("/raw/chat:a?token={token}"), &[]).await.0, 401, "{what}");
    }
    assert_eq!(code(&bob.ask(json!({"refresh": {"token": of("bob", "b2", 0)}})).await), "ok");
    revoke(&node, json!({"jti": "b1"})).await;
    assert_eq!(code(&bob.ask(json!({"ping": {}})).await), "ok", "it is here by a newer one by now");
    // One that is made afterwards counts; clocks in tokens are whole seconds.
    connected(&node, &token::token(json!({"sub": "ada", "iat": token::now() + 2}))).await;
}

#[tokio::test]
async fn each_of_several_channel_tokens_ends_in_its_time() {
    let node = node(&[NO_LEEWAY]).await;
    let mut client = connected(&node, &token::user("ada", &[], &[])).await;
    let subscribe = async |client: &mut Client, channel: &str, seconds: u64| {
        let claims = json!({"sub": "ada", "channel": channel, "exp": token::now() + seconds});
        let request = json!({"channel": channel, "token": token::signed(token::SECRET, &claims)});
        assert_eq!(code(&client.ask(json!({"subscribe": request})).await), "ok");
    };
    // When this one is gone the shard has looked at the first, and has no reason to do so again for many seconds.
    let mut other = connected(&node, &token::token(json!({"sub": "ada", "exp": token::now() + 4}))).await;
    assert_eq!(other.closed().await.0, 4008);
    for (channel, seconds) in [("chat:b", 2), ("chat:c", 3), ("chat:d", 4)] {
        subscribe(&mut client, channel, seconds).await;
    }
    for channel in ["chat:b", "chat:c", "chat:d"] {
        assert_eq!(client.push("unsubscribed").await, json!({"channel": channel, "reason": "expired"}));
    }
}

#[tokio::test]
async fn a_subscription_ends_when_its_channel_token_is_revoked() {
    let node = node(&[KEYS]).await;
    let mut client = connected(&node, &token::user("ada", &[], &[])).await;
    for (channel, id) in [("chat:a", "c1"), ("chat:b", "c2")] {
        let token = token::token(json!({"sub": "ada", "channel": channel, "jti": id}));
        assert_eq!(code(&client.ask(json!({"subscribe": {"channel": channel, "token": token}})).await), "ok");
    }
    revoke(&node, json!({"jti": "c1"})).await;
    assert_eq!(client.push("unsubscribed").await, json!({"channel": "chat:a", "reason": "permission"}));
    assert_eq!(code(&client.ask(json!({"unsubscribe": {"channel": "chat:b"}})).await), "ok", "the other one stays");
}

#[tokio::test]
async fn in_development_a_client_says_something_of_itself_also_when_its_token_came_with_the_handshake() {
    let node = support::node(&[token::TOKENS]).await;
    let mut client = node.socket(&format!("/ws?token={}", ada())).await;
    client.push("connected").await;
    let subscribe = [json!({"channel": "a", "presence": true})];
    let reply = client.ask(json!({"connect": {"info": {"name": "Ada"}, "subscribe": subscribe}})).await;
    assert_eq!(reply["connected"]["subscribed"][0]["members"][0]["info"], json!({"name": "Ada"}), "{reply}");
}
