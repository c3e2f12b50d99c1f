//! A node, and a proxy in front of it that cuts connections.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use skywave_gateway::{
    config::{Flags, Settings},
    node::Node,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// Whatever is waited for has come by then, or never does.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct Running(Node);

impl Running {
    pub fn address(&self) -> String {
        self.0.public_addresses()[0].to_string()
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address())
    }
}

/// A node in development mode with these variables on top.
pub async fn node(variables: &[(&str, &str)]) -> Running {
    let flags = Flags {
        listen: vec!["127.0.0.1:0".into()],
        internal_listen: vec!["127.0.0.1:0".into()],
        dev: true,
        ..Flags::default()
    };
    let mut variables = variables.to_vec();
    // What else the machine does is no concern of a test.
    let usual = [("NODE__SHARDS", "2"), ("LIMITS__OVERLOAD_MEMORY", "0"), ("LIMITS__OVERLOAD_LAG", "0s")];
    let usual: Vec<_> = usual.iter().map(|(name, value)| (format!("SKYWAVE__{name}"), *value)).collect();
    variables.extend(usual.iter().map(|(name, value)| (name.as_str(), *value)));
    Running(Node::start(Settings::load(&flags, variables).unwrap(), None).await.unwrap())
}

/// A token of this user that ends after so many seconds.
pub fn token(user: &str, seconds: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let encode = |text: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let claims = serde_json::json!({ "sub": user, "exp": now + seconds, "jti": format!("{}", rand::random::<u64>()) });
    let signed = format!("{}.{}", encode(br#"{"alg":"HS256","typ":"JWT"}"#), encode(claims.to_string().as_bytes()));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"0123456789abcdef0123456789abcdef").unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", encode(&mac.finalize().into_bytes()))
}

/// In front of a node: cuts what goes over it, and lets nobody through if it is told so.
pub struct Proxy {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: Notify,
    refuses: AtomicBool,
    connections: AtomicUsize,
}

impl Proxy {
    pub async fn to(node: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<State>::default();
        let (node, shared) = (node.to_owned(), state.clone());
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (node, state) = (node.clone(), shared.clone());
                tokio::spawn(async move {
                    if state.refuses.load(Relaxed) {
                        return;
                    }
                    state.connections.fetch_add(1, Relaxed);
                    let mut server = TcpStream::connect(node).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        () = state.cut.notified() => {}
                    }
                });
            }
        });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// Cuts all connections that are there.
    pub fn cut_all(&self) {
        self.state.cut.notify_waiters();
    }

    /// Whether whoever comes now is sent away without a word.
    pub fn refuse(&self, refuses: bool) {
        self.state.refuses.store(refuses, Relaxed);
    }

    /// How many were let through.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Relaxed)
    }
}
