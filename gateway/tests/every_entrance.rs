//! Outside development mode and with an empty configuration nothing can be subscribed, published or asked of the API. The
//! paths are those that the routers themselves are made of, and each has its arm here: a new one does not compile until
//! somebody has said what must keep it closed.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use prost_reflect::DescriptorPool;
use serde_json::json;
use skywave_gateway::{
    admin::{self, Served},
    transport::{self, Route},
};
use skywave_proto::v1;
use support::Running;

/// Tokens that nobody here made: none, nonsense, and one that says that it is good.
fn credentials() -> Vec<Option<String>> {
    let forged = support::token::user("ada", &["**"], &["**"]);
    vec![None, Some("x".into()), Some(forged)]
}

/// What a client says on a WebSocket that is open, and what it must hear: that nobody knows it.
async fn knows_nobody(node: &Running, path: &str, token: Option<&str>) {
    let commands = [
        json!({"subscribe": {"channel": "a"}}),
        json!({"publish": {"channel": "a", "data": 1}}),
        json!({"history": {"channel": "a"}}),
        json!({"presence": {"channel": "a"}}),
        json!({"rpc": {"method": "a"}}),
        json!({"refresh": {"token": "x"}}),
        json!({"ping": {}}),
        json!({"connect": {"subscribe": [{"channel": "a"}], "token": token}}),
        json!({"connect": {"session": "x", "info": {}}}),
    ];
    for command in commands {
        let mut client = node.socket(path).await;
        let id = client.tell(command.clone()).await;
        assert_eq!(client.closed().await.0, 4500, "{path} {command}");
        for said in client.before_close() {
            let is_told = said["error"]["code"] == "unauthenticated" || said["disconnect"].is_object();
            assert!(is_told, "{path} {command}: {said}");
            assert!(said["id"].is_null() || said["id"] == id);
        }
    }
}

#[tokio::test]
async fn the_public_listener_lets_nobody_in() {
    let node = support::closed_node(&[]).await;
    for (path, route) in transport::ROUTES {
        let path = path.replace('*', "default");
        for token in credentials() {
            let with_token = token.as_ref().map_or_else(|| path.clone(), |token| format!("{path}?token={token}"));
            let bearer = token.as_ref().map(|token| format!("Bearer {token}"));
            let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
            match route {
                Route::Native => {
                    knows_nobody(&node, &path, token.as_deref()).await;
                    if token.is_some() {
                        let mut client = node.socket(&with_token).await;
                        assert_eq!(client.closed().await.0, 4500, "{with_token}");
                        let mut client = node.try_socket(&path, &headers).await.unwrap();
                        assert_eq!(client.closed().await.0, 4500, "{headers:?}");
                    }
                }
                Route::Raw => {
                    for (path, headers) in [(&with_token, &[][..]), (&path, &headers[..])] {
                        let (status, why) = node.refused(path, headers).await;
                        assert!(matches!(status, 401 | 403), "{path}: {status} {why}");
                    }
                }
                Route::Sse | Route::Poll => {
                    let (bare, full) = (format!("{path}?channel=default"), format!("{path}?channel=default&"));
                    for (path, headers) in [(bare, &headers[..]), (with_token.replace(&format!("{path}?"), &full), &[])]
                    {
                        let (status, why) = support::request(&node.public(), "GET", &path, headers, "").await;
                        let is_closed = matches!(status, 401 | 404) || (status == 400 && !path.contains("channel"));
                        assert!(is_closed, "{path}: {status} {why}");
                    }
                }
                Route::Publish => {
                    let body = json!({"channel": "default", "data": 1}).to_string();
                    for (path, headers) in [(&with_token, &[][..]), (&path, &headers[..])] {
                        let (status, why) = support::request(&node.public(), "POST", path, headers, &body).await;
                        assert!(matches!(status, 401 | 404), "{path}: {status} {why}");
                    }
                }
                // A session of requests is one like any other: it opens, and may nothing.
                Route::SockJs => {
                    let name = format!("{}-{}", path.len(), token.as_ref().map_or(0, String::len));
                    let ask = async |way: &str, body: &str| {
                        let url = format!("/sockjs/0/{name}/{way}");
                        support::request(&node.public(), "POST", &url, &headers, body).await
                    };
                    assert_eq!(ask("xhr", "").await, (200, "o\n".to_owned()));
                    let subscribe = json!({"id": 1, "subscribe": {"channel": "default"}}).to_string();
                    let (status, _) = ask("xhr_send", &json!([subscribe]).to_string()).await;
                    assert!(matches!(status, 204 | 404), "{path}: {status}");
                    let (_, said) = ask("xhr", "").await;
                    assert!(said.contains("unauthenticated") && !said.contains("subscribed"), "{path}: {said}");
                }
                // Switched off unless they are asked for.
                Route::Echo => assert_eq!(node.refused(&path, &headers).await.0, 404),
                Route::Demo => assert_eq!(support::request(&node.public(), "GET", &path, &[], "").await.0, 404),
                // They show what this is and nothing else.
                Route::Index | Route::Style => {
                    let (status, page) = support::request(&node.public(), "GET", &path, &[], "").await;
                    assert_eq!(status, 200, "{path}");
                    assert!(!page.contains("development"), "{page}");
                }
            }
            for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
                let (status, answer) = support::request(&node.public(), method, &path, &[], "{}").await;
                // A page may ask what may be asked, and learns nothing else.
                let is_preflight = method == "OPTIONS" && matches!(route, Route::Sse | Route::Poll | Route::Publish);
                let is_empty = is_preflight && status == 204 && answer.is_empty();
                assert!((400..500).contains(&status) || is_empty, "{method} {path}: {status} {answer}");
            }
        }
    }
    assert_eq!(support::request(&node.public(), "GET", "/anything/else", &[], "").await.0, 404);
}

/// The methods of the API: as they stand in the schema, and in snake case.
fn methods() -> Vec<(String, String)> {
    let pool = DescriptorPool::decode(v1::DESCRIPTOR).unwrap();
    let service = pool.get_service_by_name("skywave.v1.Api").unwrap();
    let snake = |name: &str| {
        name.chars().enumerate().fold(String::new(), |mut word, (at, letter)| {
            if letter.is_ascii_uppercase() && at > 0 {
                word.push('_');
            }
            word.push(letter.to_ascii_lowercase());
            word
        })
    };
    let methods: Vec<_> = service.methods().map(|method| (method.name().to_owned(), snake(method.name()))).collect();
    assert!(methods.len() > 15, "the schema has them");
    methods
}

#[tokio::test]
async fn the_internal_listener_answers_no_question_of_the_api_without_a_key() {
    let node = support::closed_node(&[]).await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http2 = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    // An empty message of gRPC, behind its five bytes.
    let call = async |path: String, key: Option<String>| {
        let mut request = http2.post(format!("http://{}{path}", node.internal()));
        request = request.header("content-type", "application/grpc").header("te", "trailers").body(vec![0u8; 5]);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let answer = request.send().await.unwrap();
        answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
    };
    for (path, served) in admin::ROUTES {
        match served {
            Served::Json => {
                for (_, word) in methods() {
                    for token in credentials() {
                        let bearer = token.map(|token| format!("Bearer {token}"));
                        let mut headers = vec![("content-type", "application/json")];
                        headers.extend(bearer.iter().map(|bearer| ("authorization", bearer.as_str())));
                        let path = path.replace("{method}", &word);
                        let (status, answer) = node.http("POST", &path, &headers, "{}").await;
                        assert_eq!(status, 401, "{path}: {answer}");
                        let (status, answer) = node.http("GET", &path, &headers, "").await;
                        assert!(matches!(status, 401 | 405), "GET {path}: {status} {answer}");
                    }
                }
            }
            Served::Grpc => {
                for (rpc, _) in methods() {
                    for token in credentials() {
                        let status = call(path.replace("{rpc}", &rpc), token).await;
                        assert_eq!(status.as_deref(), Some("16"), "{rpc} is not UNAUTHENTICATED");
                    }
                }
            }
            // Neither a key nor a token makes anybody a node, not in development mode either: `peers` says more.
            Served::Peer => {
                for rpc in ["Receive", "Send", "Anything"] {
                    for token in credentials() {
                        let status = call(path.replace("{rpc}", rpc), token).await;
                        assert_eq!(status.as_deref(), Some("16"), "{rpc} is not UNAUTHENTICATED");
                    }
                }
            }
            // What needs no key, as the design says: it tells of the node and of the schema, of no channel, client or user.
            Served::Metrics | Served::Livez | Served::Readyz | Served::Description => {
                let (status, text) = node.http("GET", path, &[], "").await;
                assert_eq!(status, 200, "{path}: {text}");
                let (status, _) = node.http("POST", path, &[("content-type", "application/json")], "{}").await;
                assert!(matches!(status, 401 | 404 | 405), "POST {path}: {status}");
            }
            Served::Health | Served::Reflection | Served::OlderReflection => {}
        }
    }
    for path in ["/", "/api/v1/", "/api/v1/anything", "/skywave.v1.Node/Anything", "/console/"] {
        let (status, answer) = node.http("POST", path, &[("content-type", "application/json")], "{}").await;
        assert!(matches!(status, 401 | 404), "{path}: {status} {answer}");
    }
}
