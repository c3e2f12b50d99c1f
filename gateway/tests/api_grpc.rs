//! The server API over gRPC: what JSON does it does too, on the same port and behind the same door.
#![allow(missing_docs, clippy::unwrap_used)] // helpers stand beside the tests

mod support;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use skywave_proto::v1::{
    self, api_client::ApiClient, batch_command::Command, batch_result::Result as BatchAnswer,
    broadcast_result::Result as Single, payload::Kind, tail_event::Event,
};
use support::Running;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Request, Status, body::Body, metadata::MetadataValue};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const KEYS: &str = r#"[
    { name = "publisher", key = "0123456789abcdef-p", scopes = ["publish"] },
    { name = "reader", key = "0123456789abcdef-r", scopes = ["read"] },
]"#;
const OPEN: &str = "{ subscribe = \"anyone\", history = { size = 10, ttl = \"1m\" } }";

/// One connection of HTTP/2, as a channel for the generated clients.
#[derive(Clone)]
struct Channel {
    sender: SendRequest<Body>,
    authority: String,
    scheme: &'static str,
}

impl Channel {
    async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        socket: S,
        scheme: &'static str,
        authority: &str,
    ) -> hyper::Result<Self> {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, authority: authority.to_owned(), scheme })
    }

    async fn to(node: &Running) -> Self {
        let socket = TcpStream::connect(node.internal()).await.unwrap();
        Self::over(socket, "http", &node.internal()).await.unwrap()
    }
}

impl tonic::codegen::Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path_and_query().unwrap().as_str();
        *request.uri_mut() = format!("{}://{}{path}", self.scheme, self.authority).parse().unwrap();
        Box::pin(self.sender.send_request(request))
    }
}

async fn client(node: &Running) -> ApiClient<Channel> {
    ApiClient::new(Channel::to(node).await)
}

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = MetadataValue::try_from(format!("Bearer {key}")).unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

fn payload(kind: Kind) -> Option<v1::Payload> {
    Some(v1::Payload { kind: Some(kind) })
}

fn publish(channel: &str, json: &'static str) -> v1::PublishRequest {
    v1::PublishRequest { channel: channel.into(), data: payload(Kind::Json(json.into())), ..Default::default() }
}

fn word(status: &Status) -> &str {
    status.metadata().get("skywave-code").expect("a code of the table").to_str().unwrap()
}

#[tokio::test]
async fn a_publication_reaches_subscribers_and_history() {
    let node = support::node(&[]).await;
    let mut subscriber = node.client(&["a"]).await;
    let mut api = client(&node).await;
    let published = api.publish(publish("a", "{\"x\":1}")).await.unwrap().into_inner();
    assert_eq!((published.position.unwrap().offset, published.duplicate), (1, false));
    assert_eq!(subscriber.data(1).await, [json!({"x": 1})]);
    let binary = v1::PublishRequest { data: payload(Kind::Binary(vec![0, 255].into())), ..publish("a", "") };
    api.publish(binary).await.unwrap();
    assert_eq!(subscriber.push("publication").await["data_base64"], "AP8=");
    let page =
        api.history(v1::HistoryRequest { channel: "a".into(), ..Default::default() }).await.unwrap().into_inner();
    let kinds: Vec<_> = page.publications.into_iter().map(|one| one.data.unwrap().kind.unwrap()).collect();
    assert_eq!(kinds, [Kind::Json("{\"x\":1}".into()), Kind::Binary(vec![0, 255].into())]);
}

#[tokio::test]
async fn every_method_answers_as_in_json() {
    let node = support::node(&[("SKYWAVE__NODE__NAME", "paris")]).await;
    let mut subscriber = node.client(&["a"]).await;
    let mut api = client(&node).await;
    let channel = || "a".to_owned();
    let broadcast = v1::BroadcastRequest {
        channels: vec![channel(), " bad ".into()],
        data: payload(Kind::Json("1".into())),
        ..Default::default()
    };
    let results = api.broadcast(broadcast).await.unwrap().into_inner().results;
    assert!(matches!(&results[0].result, Some(Single::Published(published)) if published.position.is_some()));
    assert!(matches!(&results[1].result, Some(Single::Error(error)) if error.code == "bad_request"));

    let members = api.presence(v1::PresenceRequest { channel: channel(), after: None }).await.unwrap().into_inner();
    let id = members.members[0].client.clone();
    let count = api.presence_count(v1::PresenceCountRequest { channel: channel() }).await.unwrap().into_inner();
    assert_eq!((members.total, count.total), (1, 1));
    let nodes = api.nodes(v1::NodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["paris"]);
    let of_client = v1::ConnectionsRequest { client: Some(id.clone()), ..Default::default() };
    let connections = api.connections(of_client).await.unwrap().into_inner().connections;
    assert_eq!((connections.len(), &connections[0].channels), (1, &vec![channel()]));
    let channels = api.channels(v1::ChannelsRequest::default()).await.unwrap().into_inner().channels;
    assert_eq!((channels.len(), channels[0].subscriptions), (1, 1));

    let who = Some(id.clone());
    let subscribe = v1::SubscribeRequest { client: who.clone(), channel: "b".into(), ..Default::default() };
    assert_eq!(api.subscribe(subscribe).await.unwrap().into_inner().nodes, 1);
    assert_eq!(subscriber.push("subscribed").await["channel"], "b");
    let unsubscribe = v1::UnsubscribeRequest { client: who.clone(), channel: "b".into(), ..Default::default() };
    assert_eq!(api.unsubscribe(unsubscribe).await.unwrap().into_inner().nodes, 1);
    assert_eq!(subscriber.push("unsubscribed").await["channel"], "b");
    assert_eq!(api.refresh(v1::RefreshRequest { user: "ada".into() }).await.unwrap().into_inner().nodes, 1);
    api.forget(v1::ForgetRequest { channel: channel() }).await.unwrap();
    let refused = api.drain(v1::DrainRequest { node: "oslo".into(), down_to_mean: None }).await.unwrap_err();
    assert_eq!((refused.code(), word(&refused)), (Code::NotFound, "not_found"));
    let refused = api.revoke(v1::RevokeRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), word(&refused)), (Code::InvalidArgument, "bad_request"));
    let disconnect = v1::DisconnectRequest { client: who, ..Default::default() };
    assert_eq!(api.disconnect(disconnect).await.unwrap().into_inner().nodes, 1);
    assert_eq!(subscriber.closed().await.0, 4503);
}

#[tokio::test]
async fn a_batch_answers_for_each_command_and_each_needs_its_scope() {
    let node = support::closed_node(&[("SKYWAVE__API__KEYS", KEYS), ("SKYWAVE__NAMESPACES__CHAT", OPEN)]).await;
    let mut api = client(&node).await;
    let command = |command| v1::BatchCommand { command };
    let batch = v1::BatchRequest {
        commands: vec![
            command(Some(Command::Publish(publish("chat:a", "1")))),
            command(Some(Command::Nodes(v1::NodesRequest {}))),
            command(None),
        ],
    };
    let results = api.batch(with_key(batch, "0123456789abcdef-p")).await.unwrap().into_inner().results;
    let results: Vec<_> = results.into_iter().map(|result| result.result.unwrap()).collect();
    assert!(matches!(&results[0], BatchAnswer::Publish(published) if published.position.is_some()), "{results:?}");
    assert!(matches!(&results[1], BatchAnswer::Error(error) if error.code == "permission_denied"), "{results:?}");
    assert!(matches!(&results[2], BatchAnswer::Error(error) if error.code == "bad_request"), "{results:?}");
    let many = v1::BatchRequest { commands: vec![command(None); 101] };
    let refused = api.batch(with_key(many, "0123456789abcdef-p")).await.unwrap_err();
    assert_eq!((refused.code(), word(&refused)), (Code::OutOfRange, "too_large"));
}

#[tokio::test]
async fn errors_have_a_status_and_the_code_of_the_table() {
    let node = support::closed_node(&[("SKYWAVE__API__KEYS", KEYS), ("SKYWAVE__NAMESPACES__CHAT", OPEN)]).await;
    let mut api = client(&node).await;
    for (request, code, named) in [
        (Request::new(publish("chat:a", "1")), Code::Unauthenticated, "unauthenticated"),
        (with_key(publish("chat:a", "1"), "0123456789abcdef-x"), Code::Unauthenticated, "unauthenticated"),
        (with_key(publish("chat:a", "1"), "0123456789abcdef-r"), Code::PermissionDenied, "permission_denied"),
        (with_key(publish("news:a", "1"), "0123456789abcdef-p"), Code::NotFound, "unknown_namespace"),
        (with_key(publish("", "1"), "0123456789abcdef-p"), Code::InvalidArgument, "bad_request"),
        (with_key(publish("chat:a", "{"), "0123456789abcdef-p"), Code::InvalidArgument, "bad_request"),
    ] {
        let refused = api.publish(request).await.unwrap_err();
        assert_eq!((refused.code(), word(&refused)), (code, named), "{refused:?}");
        assert!(!refused.message().is_empty());
    }
    let large = Kind::Binary(vec![0; 65 * 1024].into());
    let large = v1::PublishRequest { data: payload(large), ..publish("chat:a", "1") };
    let refused = api.publish(with_key(large, "0123456789abcdef-p")).await.unwrap_err();
    assert_eq!((refused.code(), word(&refused)), (Code::OutOfRange, "too_large"));
    let huge = Kind::Binary(vec![0; 4 << 20].into());
    let huge = v1::PublishRequest { data: payload(huge), ..publish("chat:a", "1") };
    let refused = api.publish(with_key(huge, "0123456789abcdef-p")).await.unwrap_err();
    assert_eq!((refused.code(), word(&refused)), (Code::OutOfRange, "too_large"), "the body is not read");
    api.publish(with_key(publish("chat:a", "1"), "0123456789abcdef-p")).await.unwrap();
}

/// Status of HTTP and of gRPC.
async fn post(node: &Running, path: &str, headers: &[(&str, &str)]) -> (u16, Option<String>) {
    let mut channel = Channel::to(node).await;
    let mut request = http::Request::builder().method("POST").uri(format!("http://{}{path}", node.internal()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = channel.sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    let http = answer.status().as_u16();
    let trailers = timeout(support::DEADLINE, answer.into_body().collect()).await.unwrap().unwrap();
    let in_trailers =
        trailers.trailers().and_then(|lines| Some(lines.get("grpc-status")?.to_str().unwrap().to_owned()));
    (http, status.or(in_trailers))
}

#[tokio::test]
async fn what_is_not_there_is_unimplemented_and_a_page_cannot_call() {
    let node = support::node(&[]).await;
    let grpc = ("content-type", "application/grpc");
    let unimplemented = (200, Some("12".to_owned()));
    assert_eq!(post(&node, "/skywave.v1.Api/Dance", &[grpc]).await, unimplemented);
    assert_eq!(post(&node, "/skywave.v1.Other/Publish", &[grpc]).await, unimplemented);
    assert_eq!(post(&node, "/grpc.health.v1.Health/Dance", &[grpc]).await, unimplemented);
    assert_eq!(post(&node, "/nothing", &[]).await, (404, None));
    let denied = (200, Some("7".to_owned()));
    let nodes = "/skywave.v1.Api/Nodes";
    assert_eq!(post(&node, nodes, &[grpc, ("origin", "http://evil.example")]).await, denied);
    assert_eq!(post(&node, nodes, &[grpc, ("sec-fetch-site", "cross-site")]).await, denied);
    assert_eq!(post(&node, nodes, &[grpc, ("x-forwarded-for", "10.0.0.1")]).await, denied);
    assert_eq!(post(&node, nodes, &[("content-type", "text/plain")]).await.0, 415);
    assert_eq!(node.http("GET", nodes, &[], "").await.0, 405);
    assert_eq!(node.call("nodes", json!({})).await.0, 200, "HTTP/1.1 is still there");
}

#[tokio::test]
async fn health_says_what_readyz_says_and_reflection_what_there_is() {
    let node =
        support::closed_node(&[("SKYWAVE__DRAIN__GRACE", "2s"), ("SKYWAVE__NODE__SECRET", &"s".repeat(32))]).await;
    let mut health = HealthClient::new(Channel::to(&node).await);
    let of = |service: &str| HealthCheckRequest { service: service.into() };
    for service in ["", "skywave.v1.Api"] {
        let answer = health.check(of(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    assert_eq!(health.check(of("other")).await.unwrap_err().code(), Code::NotFound);
    let mut unknown = health.watch(of("other")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let mut watched = health.watch(of("skywave.v1.Api")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(Channel::to(&node).await);
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let ask = |request| {
        futures_util::stream::iter([ServerReflectionRequest { host: String::new(), message_request: Some(request) }])
    };
    let listed = reflection.server_reflection_info(ask(MessageRequest::ListServices(String::new()))).await.unwrap();
    let listed = listed.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = listed else { panic!("{listed:?}") };
    assert!(services.service.iter().any(|service| service.name == "skywave.v1.Api"), "{services:?}");
    let symbol = MessageRequest::FileContainingSymbol("skywave.v1.Api.PresenceCount".into());
    let file = reflection.server_reflection_info(ask(symbol)).await.unwrap();
    let file = file.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(&file, MessageResponse::FileDescriptorResponse(files) if !files.file_descriptor_proto.is_empty()));

    let drained = tokio::spawn(node.node.drain());
    let next = timeout(support::DEADLINE, watched.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
    assert_eq!(health.check(of("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    drained.await.unwrap();
}

async fn event(events: &mut tonic::Streaming<v1::TailEvent>) -> Event {
    timeout(support::DEADLINE, events.next()).await.unwrap().unwrap().unwrap().event.unwrap()
}

#[tokio::test]
async fn a_tail_is_a_stream_of_events_from_its_position_on() {
    let node = support::node(&[]).await;
    let mut api = client(&node).await;
    let first = api.publish(publish("a", "1")).await.unwrap().into_inner().position.unwrap();
    api.publish(publish("a", "2")).await.unwrap();
    let request = v1::TailRequest { channel: "a".into(), since: Some(first.clone()) };
    let mut events = api.tail(request).await.unwrap().into_inner();
    match event(&mut events).await {
        Event::Subscribed(said) => assert_eq!((said.position, said.recovered), (Some(first), Some(true))),
        other => panic!("{other:?}"),
    }
    api.publish(publish("a", "3")).await.unwrap();
    for expected in ["2", "3"] {
        match event(&mut events).await {
            Event::Publication(said) => {
                assert_eq!(said.data.unwrap().kind, Some(Kind::Json(expected.into())));
            }
            other => panic!("{other:?}"),
        }
    }
    let refused = api.tail(v1::TailRequest { channel: " ".into(), since: None }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn with_a_client_authority_only_clients_with_a_certificate_come_in() {
    let files = support::tls::Files::new();
    let node =
        support::closed_node(&[("SKYWAVE__API__KEYS", KEYS), ("SKYWAVE__INTERNAL__TLS", &files.setting(true))]).await;
    let request = || with_key(v1::NodesRequest {}, "0123456789abcdef-r");
    let known = files.client(&["h2"], Some(files.pair()));
    let socket = support::tls::connect(&known, &node.internal()).await.unwrap();
    let channel = Channel::over(socket, "https", "localhost").await.unwrap();
    assert_eq!(ApiClient::new(channel).nodes(request()).await.unwrap().into_inner().nodes.len(), 1);

    // In TLS 1.3 the client learns that it is refused with the first that it reads.
    let unknown = files.client(&["h2"], None);
    if let Ok(socket) = support::tls::connect(&unknown, &node.internal()).await
        && let Ok(channel) = Channel::over(socket, "https", "localhost").await
    {
        let refused = timeout(support::DEADLINE, ApiClient::new(channel).nodes(request())).await.unwrap();
        assert!(refused.is_err());
    }
}
