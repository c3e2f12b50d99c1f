//! This node's connections to one other node: opened when they are needed, proven, and closed when they are not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture, stream};
use http::{Request, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use skywave_proto::v1::{ProveRequest, node_client::NodeClient, prove_request, prove_response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Mutex as AsyncMutex, mpsc},
    time::timeout,
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::Service,
    metadata::{Ascii, MetadataValue},
};

use super::{
    Known,
    admission::{TOKEN_HEADER, written},
    proof::{ID_BYTES, NONCE_BYTES, Prover, Side},
    service::MESSAGE_BYTES,
    trust::Trust,
};
use crate::session::Seal;

/// How long a connection may take to be there and proven.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the other node is asked whether it is there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PONG_TIMEOUT: Duration = Duration::from_secs(3);
/// What one connection carries at the same time. The other node allows 256.
const CALLS: usize = 240;
/// Connections to one node. Full: more is refused, and clients come back.
const CONNECTIONS: usize = 64;
/// A connection without calls is closed after this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// A proof that ends so soon is of no use for another call.
const SPARE: Duration = Duration::from_secs(30);
/// What may be on its way on one connection, in bytes, and of one call. No client that does not read holds it up: see the
/// credit of receivers.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const CALL_WINDOW: u32 = 1024 * 1024;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotThere {
    /// Its version has no such service.
    Older,
    /// As many calls are under way as there may be.
    Full,
    /// It cannot be reached, or is not who it should be.
    Away(String),
}

/// The way to one node.
pub(super) struct Link {
    known: Arc<Known>,
    /// Bound: [`CONNECTIONS`].
    open: Mutex<Vec<Arc<Connection>>>,
    /// One is opened at a time.
    opening: AsyncMutex<()>,
    is_older: AtomicBool,
}

/// Who this node is.
pub(super) struct Own<'a> {
    pub(super) name: &'a str,
    pub(super) incarnation: Arc<str>,
    pub(super) process: [u8; ID_BYTES],
    pub(super) seal: &'a Seal,
    pub(super) trust: &'a Trust,
}

struct Connection {
    client: NodeClient<Wire>,
    token: MetadataValue<Ascii>,
    until: Instant,
    calls: AtomicUsize,
    has_ended: Arc<AtomicBool>,
}

/// A place for one call on a connection.
pub(super) struct Lease(Arc<Connection>);

impl Link {
    pub(super) fn new(known: Arc<Known>) -> Arc<Self> {
        Arc::new(Self {
            known,
            open: Mutex::default(),
            opening: AsyncMutex::default(),
            is_older: AtomicBool::new(false),
        })
    }

    pub(super) fn is_to(&self, known: &Known) -> bool {
        *self.known == *known
    }

    /// A place for a call, on a connection that is opened if need be.
    pub(super) async fn call(self: &Arc<Self>, own: Own<'_>) -> Result<Lease, NotThere> {
        if let Some(lease) = self.lease() {
            return Ok(lease);
        }
        let _turn = self.opening.lock().await;
        if let Some(lease) = self.lease() {
            return Ok(lease);
        }
        if self.open.lock().len() >= CONNECTIONS {
            return Err(NotThere::Full);
        }
        let opened = timeout(CONNECT_TIMEOUT, self.open(own)).await;
        let connection = match opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("not there in time"))) {
            Ok(connection) => Arc::new(connection),
            Err(status) if status.code() == Code::Unimplemented => {
                if !self.is_older.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        node = %self.known.name,
                        "this node's version does not serve sessions of other nodes: to their clients they are unknown"
                    );
                }
                return Err(NotThere::Older);
            }
            Err(status) => return Err(NotThere::Away(format!("{:?}: {}", status.code(), status.message()))),
        };
        let lease = Lease::new(connection.clone());
        self.open.lock().push(connection.clone());
        tokio::spawn(retire(Arc::downgrade(self), connection));
        Ok(lease)
    }

    fn lease(&self) -> Option<Lease> {
        let mut open = self.open.lock();
        open.retain(|connection| !connection.has_ended.load(Ordering::Relaxed));
        let fresh = Instant::now() + SPARE;
        let free = open
            .iter()
            .find(|connection| connection.until > fresh && connection.calls.load(Ordering::Relaxed) < CALLS)?;
        Some(Lease::new(free.clone())) // under the lock, so that no two take the last place
    }

    async fn open(&self, own: Own<'_>) -> Result<Connection, Status> {
        let away = |error: &dyn std::fmt::Display| Status::unavailable(error.to_string());
        let socket = TcpStream::connect(&*self.known.address).await.map_err(|error| away(&error))?;
        socket.set_nodelay(true).map_err(|error| away(&error))?;
        let (sender, has_ended) = match own.trust.connector().map_err(|error| away(&error))? {
            None => handshake(socket).await?,
            Some(connector) => {
                let name = Trust::name_of(&self.known.address).map_err(|error| away(&error))?;
                handshake(connector.connect(name, socket).await.map_err(|error| away(&error))?).await?
            }
        };
        let scheme = if own.trust.is_encrypted() { "https" } else { "http" };
        let origin: Uri = format!("{scheme}://{}", self.known.address).parse().map_err(|error| away(&error))?;
        let client = NodeClient::with_origin(Wire(sender), origin)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let (token, lives) = self.prove(client.clone(), own).await?;
        let until = Instant::now() + lives;
        Ok(Connection { client, token, until, calls: AtomicUsize::new(0), has_ended })
    }

    /// Both sides prove that they know the secret. Gives what goes with every call, and for how long.
    async fn prove(
        &self,
        mut client: NodeClient<Wire>,
        own: Own<'_>,
    ) -> Result<(MetadataValue<Ascii>, Duration), Status> {
        let hello = prove_request::Hello {
            nonce: rand::random::<[u8; NONCE_BYTES]>().to_vec().into(),
            name: own.name.to_owned(),
            incarnation: own.incarnation.to_string(),
            process: own.process.to_vec().into(),
            to_name: self.known.name.to_string(),
            to_incarnation: self.known.incarnation.to_string(),
        };
        let (words, queue) = mpsc::channel(2);
        let said = |word| ProveRequest { word: Some(word) };
        let gone = |_| Status::unavailable("the connection has ended");
        words.send(said(prove_request::Word::Hello(hello.clone()))).await.map_err(gone)?;
        let queue = stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
        let mut answers = client.prove(queue).await?.into_inner();
        let challenge = match answers.message().await?.and_then(|answer| answer.word) {
            Some(prove_response::Word::Challenge(challenge)) if challenge.nonce.len() == NONCE_BYTES => challenge,
            _ => return Err(Status::unauthenticated("it made no challenge")),
        };
        let prover = Prover::new(own.seal);
        let mac = prover.sign(Side::Caller, &hello, &challenge.nonce).into();
        words.send(said(prove_request::Word::Proof(prove_request::Proof { mac }))).await.map_err(gone)?;
        let admitted = match answers.message().await?.and_then(|answer| answer.word) {
            Some(prove_response::Word::Admitted(admitted)) => admitted,
            _ => return Err(Status::unauthenticated("it did not admit this node")),
        };
        if !prover.is_proven(Side::Asked, &hello, &challenge.nonce, &admitted.mac) {
            return Err(Status::unauthenticated("it does not know the cluster's secret"));
        }
        let token = written(&admitted.token).parse().map_err(|_| Status::internal("no token"))?;
        Ok((token, Duration::from_millis(admitted.expires_in_ms)))
    }
}

impl Lease {
    fn new(connection: Arc<Connection>) -> Self {
        connection.calls.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }

    /// To call with.
    pub(super) fn client(&self) -> NodeClient<Wire> {
        self.0.client.clone()
    }

    /// A request that says whose it is.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert(TOKEN_HEADER, self.0.token.clone());
        request
    }

    /// The other node has forgotten us, or its time is over: nothing more goes over this connection.
    pub(super) fn give_up(&self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a connection away that is not used, or not used any more after its proof is over.
async fn retire(link: std::sync::Weak<Link>, connection: Arc<Connection>) {
    let mut quiet_since = Instant::now();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = Instant::now();
        if connection.calls.load(Ordering::Relaxed) > 0 {
            quiet_since = now;
        }
        let is_over = now.duration_since(quiet_since) >= IDLE_TIMEOUT || connection.has_ended.load(Ordering::Relaxed);
        let Some(link) = link.upgrade() else { return };
        if is_over {
            link.open.lock().retain(|open| !Arc::ptr_eq(open, &connection));
            return; // with the last clone of its client it closes
        }
    }
}

async fn handshake<S>(socket: S) -> Result<(http2::SendRequest<Body>, Arc<AtomicBool>), Status>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PONG_TIMEOUT)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(CALL_WINDOW)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let has_ended = Arc::new(AtomicBool::new(false));
    let ended = has_ended.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to another node has ended");
        }
        ended.store(true, Ordering::Relaxed);
    });
    Ok((sender, has_ended))
}

/// One connection of HTTP/2: unlike a channel of gRPC it never becomes another one, on which nothing would be proven.
#[derive(Clone)]
pub(super) struct Wire(http2::SendRequest<Body>);

impl Service<Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}
