//! `skywave.v1.Api`: the server API over gRPC.
//!
//! [`call`] admits and reads, so that the bounds are those of JSON; the generated service behind it decodes.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use prost::Message as _;
use skywave_proto::{
    ErrorCode,
    v1::{
        self,
        api_server::{Api, ApiServer},
        batch_result::Result as Wire,
    },
};
use tonic::{Status, codegen::Service as _};

use super::{Answer, Call, Internal, METHODS, Problem, Refusal, batch, open, run, tail};
use crate::{
    admin::{
        guard::{self, Caller},
        problem::status,
    },
    protocol::error_message,
    transport::Arrival,
};

/// The service, for [`call`]. Cloning shares it.
#[derive(Clone)]
pub(in crate::admin) struct Grpc(Arc<Internal>);

impl Grpc {
    pub(in crate::admin) fn new(internal: Arc<Internal>) -> Self {
        Self(internal)
    }
}

/// Answers one call. The body is read once it is clear that the caller may ask.
pub(in crate::admin) async fn call(
    State(Grpc(internal)): State<Grpc>,
    Extension(arrival): Extension<Arrival>,
    Path(rpc): Path<String>,
    request: Request,
) -> Response {
    if !is_grpc(&request) {
        let problem = Problem::new(ErrorCode::BadRequest, "this is the gRPC service; JSON goes to /api/v1/{method}");
        return problem.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE).into_response();
    }
    match admitted(&internal, arrival, &rpc, request).await {
        Ok(request) => {
            let limit = super::body_limit(&internal.ground.settings());
            let mut service = ApiServer::new(Mouth(internal)).max_decoding_message_size(limit);
            let Ok(answer) = service.call(request).await;
            answer.map(Body::new)
        }
        Err(status) => status.into_http(),
    }
}

/// Whether the client believes that it speaks gRPC.
pub(in crate::admin) fn is_grpc<B>(request: &http::Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn admitted(internal: &Internal, arrival: Arrival, rpc: &str, request: Request) -> Result<Request, Status> {
    let settings = Arc::clone(&internal.ground.settings());
    let caller = guard::admit(&settings, &request, arrival).map_err(status)?;
    let Some(method) = METHODS.iter().find(|method| is_word_of(method.word, rpc)) else {
        return Err(Status::unimplemented(format!("skywave.v1.Api has no method {rpc:?}")));
    };
    open(&caller, method.word).map_err(status)?;
    let (mut head, body) = request.into_parts();
    // Every method takes one message: it is read as a body of JSON is, in as much time and within the same bound.
    let body = super::read(body, super::body_limit(&settings)).await.map_err(|Problem(refusal, _)| status(refusal))?;
    head.extensions.insert(caller);
    Ok(Request::from_parts(head, Body::from(body)))
}

/// Whether a method's word is this name in the schema: `presence_count` is `PresenceCount`.
pub(in crate::admin) fn is_word_of(word: &str, rpc: &str) -> bool {
    let camel = word.split('_').flat_map(|part| {
        let (first, rest) = part.split_at(1);
        [first.to_ascii_uppercase(), rest.to_owned()]
    });
    camel.collect::<String>() == rpc
}

struct Mouth(Arc<Internal>);

impl Mouth {
    async fn answer<T>(&self, request: tonic::Request<T>, call: impl FnOnce(T) -> Call) -> Result<Wire, Status> {
        let caller = caller(&request)?;
        let answer = run(&self.0, &caller, call(request.into_inner())).await;
        answer.map(Answer::into_wire).map_err(status)
    }

    async fn batch(&self, request: tonic::Request<v1::BatchRequest>) -> Result<v1::BatchResponse, Refusal> {
        let caller = caller(&request).map_err(|status| Refusal::new(ErrorCode::Internal, status.message()))?;
        let commands = request.into_inner().commands;
        batch::check_count(commands.len())?;
        let calls = commands.into_iter().map(|command| {
            let call = command.command.ok_or_else(|| super::bad_request("a command of a batch has its method"))?;
            open(&caller, super::word_of(&call)).map(|_| call)
        });
        let results = batch::batch(&self.0, &caller, calls.collect(), |outcome| {
            let result = match outcome {
                Ok(answer) => answer.into_wire(),
                Err(refusal) => Wire::Error(error_message(&refusal)),
            };
            let result = v1::BatchResult { result: Some(result) };
            let bytes = result.encoded_len();
            (result, bytes)
        });
        Ok(v1::BatchResponse { results: results.await })
    }
}

/// Who was admitted.
fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    // Nothing comes to the service but by way of `call`.
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::unauthenticated("nobody was admitted"))
}

macro_rules! service {
    ($($rpc:ident $call:ident $request:ident -> $wire:ident $response:ident;)+) => {
        #[tonic::async_trait]
        impl Api for Mouth {
            $(async fn $rpc(
                &self,
                request: tonic::Request<v1::$request>,
            ) -> Result<tonic::Response<v1::$response>, Status> {
                match self.answer(request, Call::$call).await? {
                    Wire::$wire(answer) => Ok(tonic::Response::new(answer)),
                    _ => Err(Status::internal("the answer is another method's")),
                }
            })+

            async fn batch(
                &self,
                request: tonic::Request<v1::BatchRequest>,
            ) -> Result<tonic::Response<v1::BatchResponse>, Status> {
                Mouth::batch(self, request).await.map(tonic::Response::new).map_err(status)
            }

            type TailStream = tail::Events;

            async fn tail(
                &self,
                request: tonic::Request<v1::TailRequest>,
            ) -> Result<tonic::Response<Self::TailStream>, Status> {
                tail::events(&self.0, request.into_inner()).await.map(tonic::Response::new).map_err(status)
            }
        }
    };
}

service! {
    publish Publish PublishRequest -> Publish PublishResponse;
    broadcast Broadcast BroadcastRequest -> Broadcast BroadcastResponse;
    history History HistoryRequest -> History HistoryPage;
    presence Presence PresenceRequest -> Presence Members;
    presence_count PresenceCount PresenceCountRequest -> PresenceCount PresenceCountResponse;
    forget Forget ForgetRequest -> Forget ForgetResponse;
    nodes Nodes NodesRequest -> Nodes NodesResponse;
    connections Connections ConnectionsRequest -> Connections ConnectionsResponse;
    channels Channels ChannelsRequest -> Channels ChannelsResponse;
    disconnect Disconnect DisconnectRequest -> Told ToldResponse;
    subscribe Subscribe SubscribeRequest -> Told ToldResponse;
    unsubscribe Unsubscribe UnsubscribeRequest -> Told ToldResponse;
    refresh Refresh RefreshRequest -> Told ToldResponse;
    revoke Revoke RevokeRequest -> Told ToldResponse;
    drain Drain DrainRequest -> Told ToldResponse;
}
