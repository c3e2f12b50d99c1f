//! A back end that answers as it is told, and can be killed and come back at its address.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

/// For everything that has to happen.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What the receiver has heard.
#[derive(Debug, Clone)]
pub struct Call {
    pub headers: HeaderMap,
    pub bytes: Bytes,
    pub at: Instant,
}

impl Call {
    pub fn body(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// `type client` of each event.
    pub fn events(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let body = self.body();
        let events = body["events"].as_array().unwrap().iter();
        events.map(|event| format!("{} {}", text(&event["type"]), text(&event["client"]))).collect()
    }
}

/// What it answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Json(Value),
    Status(u16),
    RetryAfter(u16, u64),
    /// 200, after so long.
    Late(Duration),
    /// Takes the call and says nothing.
    Silence,
}

type Answers = dyn Fn(usize, &Call) -> Answer + Send + Sync;

pub struct Receiver {
    pub address: SocketAddr,
    answers: Arc<Answers>,
    calls: mpsc::Receiver<Call>,
    heard: mpsc::Sender<Call>,
    count: Arc<Mutex<usize>>,
    tls: Option<TlsAcceptor>,
    running: Option<JoinHandle<()>>,
}

impl Receiver {
    /// `answers` is asked with the number of the call, from 0.
    pub async fn start(answers: impl Fn(usize, &Call) -> Answer + Send + Sync + 'static) -> Self {
        // A host of its own, so that its port is still free when it comes back.
        let host = Ipv4Addr::from([127, rand::random_range(1..=250), rand::random(), rand::random_range(1..=250)]);
        Self::with(SocketAddr::from((host, 0)), None, answers).await
    }

    pub async fn with(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        answers: impl Fn(usize, &Call) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (heard, calls) = mpsc::channel(10_000);
        let (count, answers) = (Arc::default(), Arc::new(answers));
        let mut receiver = Self { address, answers, calls, heard, count, tls, running: None };
        receiver.come_back().await;
        receiver
    }

    /// Closes the listener and every connection.
    pub async fn kill(&mut self) {
        let running = self.running.take().unwrap();
        running.abort();
        let _ = running.await;
    }

    pub async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (answers, heard, count, tls) =
            (self.answers.clone(), self.heard.clone(), self.count.clone(), self.tls.clone());
        self.running = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (answers, heard, count, tls) = (answers.clone(), heard.clone(), count.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(socket, answers, heard, count).await,
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                serve(socket, answers, heard, count).await;
                            }
                        }
                    }
                });
            }
        }));
    }

    /// The next call.
    pub async fn call(&mut self) -> Call {
        timeout(DEADLINE, self.calls.recv()).await.expect("no call").unwrap()
    }

    /// The call that it has heard and nobody has looked at, if any.
    pub fn heard(&mut self) -> Option<Call> {
        self.calls.try_recv().ok()
    }

    /// The calls since the start.
    pub fn count(&self) -> usize {
        *self.count.lock()
    }
}

async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    answers: Arc<Answers>,
    heard: mpsc::Sender<Call>,
    count: Arc<Mutex<usize>>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (answers, heard, count) = (answers.clone(), heard.clone(), count.clone());
        async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await else { std::future::pending().await };
            let call = Call { headers: head.headers, bytes: body.to_bytes(), at: Instant::now() };
            let number = {
                let mut count = count.lock();
                *count += 1;
                *count - 1
            };
            let answer = answers(number, &call);
            heard.try_send(call).unwrap();
            let response = match answer {
                Answer::Json(value) => Response::new(Full::new(Bytes::from(value.to_string()))),
                Answer::Status(status) => Response::builder().status(status).body(Full::default()).unwrap(),
                Answer::RetryAfter(status, seconds) => {
                    Response::builder().status(status).header("retry-after", seconds).body(Full::default()).unwrap()
                }
                Answer::Late(late) => {
                    tokio::time::sleep(late).await; // what is tested
                    Response::new(Full::default())
                }
                Answer::Silence => std::future::pending().await,
            };
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
}
