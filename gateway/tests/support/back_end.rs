//! A back end that answers webhooks as a test wants it to, and remembers what it was asked.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

use super::DEADLINE;

/// What is answered to a body: a status and a body, or nothing for ever.
type Answers = Box<dyn Fn(&Value) -> Option<(u16, Value)> + Send + Sync>;

pub struct BackEnd {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    answers: Answers,
    asked: Mutex<VecDeque<Value>>,
    news: Notify,
}

impl BackEnd {
    pub async fn start(answers: impl Fn(&Value) -> Option<(u16, Value)> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), answers).await
    }

    /// At an address that another one has had.
    pub async fn start_at(
        address: SocketAddr,
        answers: impl Fn(&Value) -> Option<(u16, Value)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { answers: Box::new(answers), asked: Mutex::default(), news: Notify::new() });
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Self { address, shared, serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The next thing that it was asked, waited for.
    pub async fn asked(&self) -> Value {
        tokio::time::timeout(DEADLINE, async {
            loop {
                let news = self.shared.news.notified();
                if let Some(asked) = self.shared.asked.lock().unwrap().pop_front() {
                    return asked;
                }
                news.await;
            }
        })
        .await
        .expect("the back end is asked")
    }

    /// The next events, however they were put together, until there are so many.
    pub async fn events(&self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            let body = self.asked().await;
            events.extend(body["events"].as_array().expect("events").iter().cloned());
        }
        assert_eq!(events.len(), count, "{events:?}");
        events
    }

    /// What it was asked and nobody has looked at.
    pub fn rest(&self) -> Vec<Value> {
        self.shared.asked.lock().unwrap().drain(..).collect()
    }

    /// Closes its listener and every connection.
    pub async fn kill(self) -> SocketAddr {
        self.serving.abort();
        let _ = self.serving.await;
        self.address
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new(); // dropped with this task
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, shared.clone()));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let answer = (shared.answers)(&body);
    shared.asked.lock().unwrap().push_back(body);
    shared.news.notify_waiters();
    shared.news.notify_one();
    let Some((status, answer)) = answer else { return std::future::pending().await };
    Ok(Response::builder().status(status).body(Full::new(answer.to_string().into())).unwrap())
}
