//! Who may do what: every kind of client, every right that a namespace can give, everything that can be asked.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};

use support::{Client, Running, token};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Without a token.
    Anonymous,
    /// With a token that says only who it is.
    User,
    /// Whose token names the channel for subscribing.
    Reader,
    /// Whose token names the channel for publishing.
    Writer,
    /// Whose token names both, by patterns.
    Both,
    /// Whose token subscribes it to the channel at connect.
    Joined,
    /// Who brings a token for the channel with its subscribe.
    Invited,
    /// Whose patterns name other channels.
    Elsewhere,
}

const EVERYBODY: [Who; 8] =
    [Who::Anonymous, Who::User, Who::Reader, Who::Writer, Who::Both, Who::Joined, Who::Invited, Who::Elsewhere];

impl Who {
    fn token(self, channel: &str) -> Option<String> {
        let (namespace, rest) = channel.split_once(':').unwrap();
        let any = format!("{namespace}:**");
        match self {
            Self::Anonymous => None,
            Self::User | Self::Invited => Some(token::user("ada", &[], &[])),
            Self::Reader => Some(token::user("ada", &[channel], &[])),
            Self::Writer => Some(token::user("ada", &[], &[channel])),
            Self::Both => Some(token::user("ada", &[&any], &["*:room:*"])),
            Self::Joined => Some(token::token(json!({"sub": "ada", "skywave": {"channels": [channel]}}))),
            Self::Elsewhere => Some(token::user("ada", &[&format!("{namespace}:*"), rest], &["*", "*:x"])),
        }
    }

    /// Whether a subscription is opened, by the word in `subscribe`.
    fn subscribes(self, right: &str) -> bool {
        match right {
            "anyone" => true,
            "users" => self != Self::Anonymous,
            "token" => matches!(self, Self::Reader | Self::Both | Self::Joined | Self::Invited),
            _ => unreachable!(),
        }
    }

    /// Whether a publication is taken, by the word in `publish`.
    fn publishes(self, right: &str, subscribed: bool) -> bool {
        match right {
            "nobody" => false,
            "anyone" => true,
            "subscribers" => subscribed || matches!(self, Self::Writer | Self::Both),
            "token" => matches!(self, Self::Writer | Self::Both),
            _ => unreachable!(),
        }
    }
}

const SUBSCRIBE: [&str; 3] = ["anyone", "users", "token"];
const PUBLISH: [&str; 4] = ["nobody", "subscribers", "anyone", "token"];

/// A node with a namespace for every pair of rights.
async fn node() -> Running {
    let names: Vec<_> = SUBSCRIBE
        .iter()
        .flat_map(|subscribe| PUBLISH.iter().map(move |publish| (*subscribe, *publish)))
        .map(|(subscribe, publish)| {
            let rights = format!(
                "{{ subscribe = \"{subscribe}\", publish = \"{publish}\", presence = true, history = {{ size = 10, ttl = \
                 \"1m\" }} }}"
            );
            (format!("SKYWAVE__NAMESPACES__{}-{}", subscribe.to_uppercase(), publish.to_uppercase()), rights)
        })
        .collect();
    let mut variables = vec![("SKYWAVE__AUTH__ANONYMOUS", "true"), token::TOKENS];
    variables.extend(names.iter().map(|(name, rights)| (name.as_str(), rights.as_str())));
    support::closed_node(&variables).await
}

async fn connect(node: &Running, who: Who, channel: &str) -> (Client, Value) {
    let mut client = node.socket("/ws").await;
    let connect = who.token(channel).map_or(json!({}), |token| json!({"token": token}));
    let reply = client.ask(json!({"connect": connect})).await;
    assert!(reply["connected"].is_object(), "{who:?}: {reply}");
    (client, reply)
}

/// The code of an error, `ok` for anything else.
fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or("ok")
}

fn expected(may: bool) -> &'static str {
    if may { "ok" } else { "permission_denied" }
}

#[tokio::test]
async fn everybody_may_what_namespace_and_token_say_and_nothing_else() {
    let node = node().await;
    for subscribe in SUBSCRIBE {
        for publish in PUBLISH {
            for who in EVERYBODY {
                let channel = format!("{subscribe}-{publish}:room:1");
                let context = format!("{who:?} on subscribe = {subscribe}, publish = {publish}");
                let (mut client, connected) = connect(&node, who, &channel).await;
                let joined = &connected["connected"]["subscribed"];
                assert_eq!(joined.as_array().unwrap().len(), usize::from(who == Who::Joined), "{context}");
                let is_in = who == Who::Joined;

                // Before there is a subscription only rights count. A token for the channel comes with its subscribe.
                let may_read = who.subscribes(subscribe) && (who != Who::Invited || subscribe != "token");
                let publication = json!({"publish": {"channel": channel, "data": 1}});
                let reply = client.ask(publication.clone()).await;
                assert_eq!(code(&reply), expected(who.publishes(publish, is_in)), "{context}: publish before: {reply}");
                for asked in ["history", "presence"] {
                    let reply = client.ask(json!({asked: {"channel": channel}})).await;
                    assert_eq!(code(&reply), expected(may_read), "{context}: {asked}: {reply}");
                }

                let mut request = json!({"channel": channel, "presence": true});
                if who == Who::Invited {
                    request["token"] = token::channel(Some("ada"), &channel).into();
                }
                if !is_in {
                    let reply = client.ask(json!({"subscribe": request})).await;
                    assert_eq!(code(&reply), expected(who.subscribes(subscribe)), "{context}: subscribe: {reply}");
                }
                let subscribed = is_in || who.subscribes(subscribe);
                let reply = client.ask(publication).await;
                let may = who.publishes(publish, subscribed);
                assert_eq!(code(&reply), expected(may), "{context}: publish after: {reply}");
                let reply = client.ask(json!({"history": {"channel": channel}})).await;
                assert_eq!(code(&reply), expected(subscribed), "{context}: history after: {reply}");
            }
        }
    }
}

#[tokio::test]
async fn raw_has_the_same_rights() {
    let node = node().await;
    for subscribe in SUBSCRIBE {
        for who in EVERYBODY.into_iter().filter(|who| *who != Who::Invited) {
            let channel = format!("{subscribe}-nobody:room:1");
            let context = format!("{who:?} on subscribe = {subscribe}");
            let path = match who.token(&channel) {
                Some(token) => format!("/raw/{channel}?token={token}"),
                None => format!("/raw/{channel}"),
            };
            match node.try_socket(&path, &[]).await {
                Ok(mut client) => {
                    assert!(who.subscribes(subscribe), "{context}");
                    client.send("1").await;
                    assert_eq!(client.closed().await.0, 4502, "{context}: nobody publishes");
                }
                Err((status, why)) => {
                    assert!(!who.subscribes(subscribe), "{context}: {why}");
                    assert_eq!(status, 403, "{context}: {why}");
                    assert!(why.contains(&format!("namespaces.{subscribe}-nobody.subscribe")), "{why}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_channel_token_opens_one_channel_for_one_user() {
    let node = node().await;
    let ours = "token-token:room:1";
    let subscribe = async |who: Option<&str>, token: String| {
        let mut client = node.socket("/ws").await;
        let connect = who.map_or(json!({}), |who| json!({"token": token::user(who, &[], &[])}));
        client.ask(json!({"connect": connect})).await;
        client.ask(json!({"subscribe": {"channel": ours, "token": token}})).await
    };
    let now = token::now();
    for (who, claims, code) in [
        (Some("ada"), json!({"sub": "ada", "channel": ours, "exp": now + 60}), "ok"),
        (None, json!({"channel": ours, "exp": now + 60}), "unauthenticated"),
        (Some("bob"), json!({"sub": "ada", "channel": ours, "exp": now + 60}), "permission_denied"),
        (None, json!({"sub": "ada", "channel": ours, "exp": now + 60}), "permission_denied"),
        (Some("ada"), json!({"channel": ours, "exp": now + 60}), "unauthenticated"),
        (Some("ada"), json!({"sub": "ada", "channel": "token-token:room:2", "exp": now + 60}), "permission_denied"),
        (Some("ada"), json!({"sub": "ada", "channel": "token-token:**", "exp": now + 60}), "permission_denied"),
        (Some("ada"), json!({"sub": "ada", "channel": ours, "exp": now - 3600}), "unauthenticated"),
        (Some("ada"), json!({"sub": "ada", "exp": now + 60}), "unauthenticated"),
    ] {
        let reply = subscribe(who, token::signed(token::SECRET, &claims)).await;
        assert_eq!(self::code(&reply), code, "{who:?} with {claims}: {reply}");
    }
    let forged =
        token::signed("another secret of thirty-two bytes", &json!({"sub": "ada", "channel": ours, "exp": now + 60}));
    assert_eq!(code(&subscribe(Some("ada"), forged).await), "unauthenticated");
}

#[tokio::test]
async fn a_personal_channel_is_for_its_user_alone() {
    let personal = ("SKYWAVE__NAMESPACES__#USER", "{ publish = \"token\", history = { size = 10, ttl = \"1m\" } }");
    let keys = r#"[{ name = "backend", key = "0123456789abcdef", scopes = ["publish"] }]"#;
    let variables = [("SKYWAVE__AUTH__ANONYMOUS", "true"), token::TOKENS, personal, ("SKYWAVE__API__KEYS", keys)];
    let node = support::closed_node(&variables).await;
    let mut ada = node.socket("/ws").await;
    ada.ask(json!({"connect": {"token": token::user("ada", &["**"], &[])}})).await;
    assert_eq!(code(&ada.ask(json!({"subscribe": {"channel": "#user:ada"}})).await), "ok");
    assert_eq!(code(&ada.ask(json!({"subscribe": {"channel": "#user:bob"}})).await), "permission_denied");
    assert_eq!(code(&ada.ask(json!({"history": {"channel": "#user:bob"}})).await), "permission_denied");
    assert_eq!(code(&ada.ask(json!({"publish": {"channel": "#user:ada", "data": 1}})).await), "permission_denied");
    for reserved in ["#presence:a", "#other:ada", "#"] {
        let reply = ada.ask(json!({"subscribe": {"channel": reserved}})).await;
        assert_eq!(code(&reply), "permission_denied", "{reserved}: {reply}");
    }
    let mut nobody = node.client(&[]).await;
    assert_eq!(code(&nobody.ask(json!({"subscribe": {"channel": "#user:ada"}})).await), "permission_denied");
    // No token says anything about personal channels: with `publish = "token"` only back ends write there.
    let mut writer = node.socket("/ws").await;
    let reply = writer.ask(json!({"connect": {"token": token::user("bob", &[], &["#user:*"])}})).await;
    assert_eq!(code(&reply), "unauthenticated", "{reply}");
    let mut writer = node.socket("/ws").await;
    writer.ask(json!({"connect": {"token": token::user("bob", &[], &["**"])}})).await;
    assert_eq!(code(&writer.ask(json!({"publish": {"channel": "#user:ada", "data": 1}})).await), "permission_denied");
    let body = json!({"channel": "#user:ada", "data": "hi"}).to_string();
    let headers = [("authorization", "Bearer 0123456789abcdef"), ("content-type", "application/json")];
    assert_eq!(node.http("POST", "/api/v1/publish", &headers, &body).await.0, 200);
    assert_eq!(ada.data(1).await, ["hi"]);

    let without = support::closed_node(&[token::TOKENS]).await;
    let mut ada = without.socket("/ws").await;
    ada.ask(json!({"connect": {"token": token::user("ada", &[], &[])}})).await;
    assert_eq!(code(&ada.ask(json!({"subscribe": {"channel": "#user:ada"}})).await), "unknown_namespace");
}
