//! `skywave.v1.Node`: what other nodes ask of this one, on the internal listener.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse as _, Response},
};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared},
    stream::{self, BoxStream},
};
use http::{StatusCode, header};
use parking_lot::Mutex;
use skywave_proto::v1::{
    ProveRequest, ProveResponse, ReceiveRequest, ReceiveResponse, SendRequest, SendResponse,
    node_server::{Node, NodeServer},
    prove_request, prove_response, send_response,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming, codegen::Service as _};

use super::{
    Peers, SendRefused, SessionId,
    admission::{self, PROOF_HOLDS, Proven},
    outlet::Outlets,
    proof::{self, ID_BYTES, NONCE_BYTES, Prover, Side},
    window::{Asked, Window},
};
use crate::metrics::{self, PeerOutcome};

/// The largest message between nodes that know each other, in bytes: any number of messages of a client, or one frame.
pub(super) const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// The largest message of whoever has proven nothing, in bytes.
const PROOF_BYTES: usize = 4 * 1024;
/// How long a proof may take.
const PROVE_WITHIN: Duration = Duration::from_secs(5);
/// The first word of a receiver comes with its request.
const ATTACH_WITHIN: Duration = Duration::from_secs(5);
/// Proofs that are under way at the same time: whoever knocks without end takes no more than these. Full: come again.
pub(super) const PROOFS: usize = 64;
/// Processes whose numbers are remembered; they know the secret. Full: the one that has been silent for the longest goes, if
/// that is long enough for all it asked to be settled.
const PROCESSES: usize = 1024;
const SILENT_FOR: Duration = Duration::from_secs(60);

/// What came of messages, for whoever asks again.
type Outcome = Shared<BoxFuture<'static, Result<(), SendRefused>>>;

/// When a process was heard last, and what it asked.
type Heard = (Instant, Window<Outcome>);

/// What is remembered of other nodes.
#[derive(Default)]
pub(super) struct Remembered {
    pub(super) outlets: Arc<Outlets>,
    sent: Mutex<HashMap<[u8; ID_BYTES], Heard>>,
}

/// Answers one call of another node, or refuses it.
pub(crate) async fn call(
    State(peers): State<Arc<Peers>>,
    Extension(proven): Extension<Proven>,
    Path(rpc): Path<String>,
    mut request: Request,
) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return (StatusCode::UNAUTHORIZED, "only nodes of the cluster may ask this, over gRPC\n").into_response();
    }
    let is_proof = rpc == "Prove";
    let limit = if is_proof { PROOF_BYTES } else { MESSAGE_BYTES };
    let mut place = None;
    if is_proof {
        let Ok(taken) = peers.proofs.clone().try_acquire_owned() else {
            return Status::resource_exhausted("too many proofs are under way").into_http();
        };
        place = Some(Arc::new(taken));
        request.extensions_mut().insert(proven);
    } else {
        let headers = tonic::metadata::MetadataMap::from_headers(request.headers().clone());
        match proven.caller(&headers, Instant::now()) {
            Some(node) => drop(request.extensions_mut().insert(node)),
            None => {
                metrics::peer_request(PeerOutcome::Refused);
                return Status::unauthenticated("only nodes of the cluster may ask this").into_http();
            }
        }
    }
    let service = NodeServer::new(Ear { peers, place });
    let Ok(answer) =
        service.max_decoding_message_size(limit).max_encoding_message_size(MESSAGE_BYTES).call(request).await;
    answer.map(Body::new)
}

struct Ear {
    peers: Arc<Peers>,
    /// Of a proof, until it is over.
    place: Option<Arc<tokio::sync::OwnedSemaphorePermit>>,
}

#[tonic::async_trait]
impl Node for Ear {
    type ProveStream = BoxStream<'static, Result<ProveResponse, Status>>;

    async fn prove(
        &self,
        request: tonic::Request<Streaming<ProveRequest>>,
    ) -> Result<tonic::Response<Self::ProveStream>, Status> {
        let proven = extension::<Proven>(&request)?;
        let (answers, queue) = mpsc::channel(2);
        let (peers, place, words) = (self.peers.clone(), self.place.clone(), request.into_inner());
        tokio::spawn(async move {
            let proof = tokio::time::timeout(PROVE_WITHIN, peers.hear_proof(words, &proven, &answers)).await;
            let outcome = proof.unwrap_or_else(|_| Err(Status::deadline_exceeded("the proof took too long")));
            if let Err(status) = outcome {
                metrics::peer_request(PeerOutcome::Refused);
                let _ = answers.try_send(Err(status)); // it is gone
            }
            drop(place);
        });
        Ok(tonic::Response::new(of_queue(queue)))
    }

    type ReceiveStream = BoxStream<'static, Result<ReceiveResponse, Status>>;

    async fn receive(
        &self,
        request: tonic::Request<Streaming<ReceiveRequest>>,
    ) -> Result<tonic::Response<Self::ReceiveStream>, Status> {
        let node = extension::<admission::Node>(&request)?;
        let host = self.peers.host().ok_or_else(|| Status::not_found("no sessions are served here"))?;
        let opening = self.peers.remembered.outlets.open(&host, node.process, request.into_inner());
        let answers = tokio::time::timeout(ATTACH_WITHIN, opening).await;
        let answers = answers.unwrap_or_else(|_| Err(Status::deadline_exceeded("no receiver in time")))?;
        let answers = stream::unfold(answers, |mut answers| async { Some((answers.recv().await?, answers)) });
        Ok(tonic::Response::new(answers.boxed()))
    }

    async fn send(&self, request: tonic::Request<SendRequest>) -> Result<tonic::Response<SendResponse>, Status> {
        use send_response::{Done, Full, Outcome as Word, Unknown};
        let node = extension::<admission::Node>(&request)?;
        let outcome = match self.peers.take(&node, request.into_inner())?.await {
            Ok(()) => Word::Done(Done {}),
            Err(SendRefused::Unknown) => Word::Unknown(Unknown {}),
            Err(SendRefused::Full) => Word::Full(Full {}),
        };
        Ok(tonic::Response::new(SendResponse { outcome: Some(outcome) }))
    }
}

impl Peers {
    /// Hears out whoever says that it is a node.
    async fn hear_proof(
        &self,
        mut words: Streaming<ProveRequest>,
        proven: &Proven,
        answers: &mpsc::Sender<Result<ProveResponse, Status>>,
    ) -> Result<(), Status> {
        let gone = |_| Status::cancelled("the caller is gone");
        let answer = |word| Ok(ProveResponse { word: Some(word) });
        let Some(prove_request::Word::Hello(hello)) = words.message().await?.and_then(|request| request.word) else {
            return Err(Status::invalid_argument("the first word is hello"));
        };
        if !proof::is_well_formed(&hello) {
            return Err(Status::invalid_argument("this is no hello"));
        }
        let seal = self.ground.seal.get().ok_or_else(|| Status::unavailable("the node starts"))?;
        if *hello.to_name != *self.ground.node || *hello.to_incarnation != *self.relay.incarnation() {
            return Err(Status::failed_precondition("this is another node"));
        }
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let challenge = prove_response::Challenge { nonce: nonce.to_vec().into() };
        answers.send(answer(prove_response::Word::Challenge(challenge))).await.map_err(gone)?;
        let Some(prove_request::Word::Proof(said)) = words.message().await?.and_then(|request| request.word) else {
            return Err(Status::invalid_argument("the second word is proof"));
        };
        let prover = Prover::new(seal);
        if !prover.is_proven(Side::Caller, &hello, &nonce, &said.mac) {
            tracing::warn!(name = ?hello.name, "somebody says that it is a node and does not know the cluster's secret");
            return Err(Status::unauthenticated("this is no node of the cluster"));
        }
        let mac = prover.sign(Side::Asked, &hello, &nonce);
        let process = hello.process.as_ref().try_into().map_err(|_| Status::invalid_argument("this is no hello"))?;
        let token = proven.admit(admission::Node { name: hello.name.into(), process }, Instant::now());
        let expires_in_ms = u64::try_from(PROOF_HOLDS.as_millis()).unwrap_or(u64::MAX);
        let admitted = prove_response::Admitted { mac: mac.into(), token: token.into(), expires_in_ms };
        answers.send(answer(prove_response::Word::Admitted(admitted))).await.map_err(gone)
    }

    /// Takes messages once, and goes on with it if the caller is cut off: it may ask again what came of it.
    fn take(&self, node: &admission::Node, request: SendRequest) -> Result<Outcome, Status> {
        let host = self.host().ok_or_else(|| Status::not_found("no sessions are served here"))?;
        let session = <[u8; 32]>::try_from(request.session.as_ref()).map(SessionId);
        let session = session.map_err(|_| Status::invalid_argument("a session has 32 bytes"))?;
        let mut sent = self.remembered.sent.lock();
        let now = Instant::now();
        if !sent.contains_key(&node.process) && sent.len() >= PROCESSES {
            sent.retain(|_, (heard, _)| now.duration_since(*heard) < SILENT_FOR);
            if sent.len() >= PROCESSES {
                return Err(Status::resource_exhausted("too many nodes ask"));
            }
        }
        let (heard, window) = sent.entry(node.process).or_insert_with(|| (now, Window::default()));
        *heard = now;
        let taken = window.ask(request.number, request.settled, || {
            let taking = tokio::spawn(async move { host.send(session, request.messages).await });
            // Our mistake: nobody knows how much of it was taken, and the session says so to none.
            taking.map(|taken| taken.unwrap_or(Err(SendRefused::Unknown))).boxed().shared()
        });
        match taken {
            Asked::Taken(outcome) => Ok(outcome),
            Asked::Settled => Err(Status::aborted("this was given up")),
            Asked::Full => {
                tracing::warn!(node = %node.name, "another node asks more than it may have under way");
                Err(Status::resource_exhausted("too much is under way"))
            }
        }
    }
}

fn of_queue<T: Send + 'static>(queue: mpsc::Receiver<T>) -> BoxStream<'static, T> {
    stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) }).boxed()
}

/// What [`call`] has put there.
fn extension<E: Clone + Send + Sync + 'static>(request: &tonic::Request<impl Sized>) -> Result<E, Status> {
    request.extensions().get::<E>().cloned().ok_or_else(|| Status::unauthenticated("nobody has proven anything"))
}
