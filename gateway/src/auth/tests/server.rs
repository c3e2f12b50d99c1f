//! A key server that does what a test wants of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use jsonwebtoken::{DecodingKey, jwk::Jwk};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::*;

pub(super) struct KeyServer {
    address: SocketAddr,
    shared: Arc<Answering>,
}

struct Answering {
    asked: AtomicUsize,
    /// Status line, further headers, body; none: the connection breaks.
    answer: Mutex<Option<(&'static str, String, Vec<u8>)>>,
    /// Each answer takes a permit.
    gate: Semaphore,
}

impl KeyServer {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Semaphore::new(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Answering { asked: AtomicUsize::new(0), answer: Mutex::default(), gate });
        let answering = shared.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, answering.clone()));
            }
        });
        Self { address, shared }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/keys?word=hunter2", self.address)
    }

    pub(super) fn publishes(&self, keys: &[Json]) {
        self.says("200 OK", "", json!({ "keys": keys }).to_string());
    }

    pub(super) fn says(&self, status: &'static str, headers: &str, body: impl Into<Vec<u8>>) {
        *self.shared.answer.lock() = Some((status, headers.to_owned(), body.into()));
    }

    pub(super) fn breaks(&self) {
        *self.shared.answer.lock() = None;
    }

    /// From now on nobody is answered until [`KeyServer::opens`].
    pub(super) fn holds(&self) {
        self.shared.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(super) fn opens(&self) {
        self.shared.gate.add_permits(1_000);
    }

    pub(super) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

async fn answer(mut socket: TcpStream, shared: Arc<Answering>) {
    let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match socket.read(&mut buffer).await {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let Ok(_permit) = shared.gate.acquire().await else { return };
    let Some((status, headers, body)) = shared.answer.lock().clone() else { return };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    let _ = socket.write_all(head.as_bytes()).await;
    let _ = socket.write_all(&body).await;
}

/// A key pair's public half as a key server publishes it.
pub(super) fn published(pair: &KeyPair, alg: TokenAlgorithm, kid: Option<&str>) -> Json {
    let key = match alg {
        TokenAlgorithm::EdDsa => DecodingKey::from_ed_pem(pair.public_key_pem().as_bytes()),
        _ => DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()),
    };
    jwk(&key.unwrap(), alg, kid)
}

pub(super) fn jwk(key: &DecodingKey, alg: TokenAlgorithm, kid: Option<&str>) -> Json {
    let mut jwk = serde_json::to_value(Jwk::from_decoding_key(key, Some(alg.algorithm())).unwrap()).unwrap();
    if let Some(kid) = kid {
        jwk["kid"] = kid.into();
    }
    jwk
}
