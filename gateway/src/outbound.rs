//! HTTP from this node to what its operator names: the back end's webhooks, the key server of tokens.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Certificate, Client, ClientBuilder, Request, redirect};

/// How long a connection may take to be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next request: less than the 60 s after which most servers close theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Connections to one host that are kept.
const IDLE_CONNECTIONS: usize = 64;

/// Sends requests and reads answers of bounded size. Cloning shares its connections.
///
/// Redirects are not followed: whoever answers for an address must not send the node, and what it knows, elsewhere.
#[derive(Debug, Clone)]
pub struct Outbound(Client);

/// What came back.
#[derive(Debug)]
pub struct Received {
    /// The status.
    pub status: http::StatusCode,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why nothing of use came back.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboundError {
    /// No answer: no connection, a broken one, or not in time. Never with the address's query or user, which may be secret.
    #[error("no answer: {0}")]
    NoAnswer(Arc<str>),
    /// The body is larger than whoever asked wants to hold.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// The certificates of `ca` are of no use, or TLS cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client: {0}")]
pub struct OutboundUnavailable(String);

impl Outbound {
    /// Trusts the system's authorities. On a machine that has none it trusts nobody, and says so in the log: what goes over
    /// plain HTTP works there all the same.
    ///
    /// # Panics
    /// If there is no TLS at all, which would be our mistake.
    pub fn of_system() -> Self {
        Self::new(None).unwrap_or_else(|error| {
            tracing::warn!(%error, "this machine has no authorities, so nobody can be trusted over https");
            Self(builder().tls_certs_only([]).build().expect("the provider of TLS is installed"))
        })
    }

    /// Trusts the system's authorities, and those of `ca` (PEM) beside them.
    ///
    /// # Errors
    /// If `ca` cannot be read.
    pub fn new(ca: Option<&[u8]>) -> Result<Self, OutboundUnavailable> {
        Self::build(builder(), ca)
    }

    /// The same, but never through a proxy that the environment names: for what is on this machine, or beside it.
    ///
    /// # Errors
    /// As [`Outbound::new`].
    pub fn direct(ca: Option<&[u8]>) -> Result<Self, OutboundUnavailable> {
        Self::build(builder().no_proxy(), ca)
    }

    /// As [`Outbound::direct`], for plain HTTP alone: nobody is trusted over https, and no authorities are looked for, of which a
    /// small image has none.
    ///
    /// # Errors
    /// If there is no TLS at all.
    pub fn plain() -> Result<Self, OutboundUnavailable> {
        Self::build(builder().no_proxy().tls_certs_only([]), None)
    }

    fn build(mut client: ClientBuilder, ca: Option<&[u8]>) -> Result<Self, OutboundUnavailable> {
        if let Some(pem) = ca {
            let authorities =
                Certificate::from_pem_bundle(pem).map_err(|error| OutboundUnavailable(error.to_string()))?;
            client = client.tls_certs_merge(authorities);
        }
        client.build().map(Self).map_err(|error| OutboundUnavailable(error.to_string()))
    }

    /// To build a request with.
    pub fn client(&self) -> &Client {
        &self.0
    }

    /// Sends a request and reads the whole answer, both within `timeout`.
    ///
    /// # Errors
    /// [`OutboundError`]; the request may have been carried out.
    /// # Cancel safety
    /// Dropping the future gives the answer up, not the request.
    pub async fn send(&self, request: Request, timeout: Duration, at_most: usize) -> Result<Received, OutboundError> {
        let exchange = async {
            let no_answer = |error: reqwest::Error| OutboundError::NoAnswer(describe(&error.without_url()).into());
            let mut response = self.0.execute(request).await.map_err(no_answer)?;
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
                if body.len() + chunk.len() > at_most {
                    return Err(OutboundError::TooLarge(at_most));
                }
                body.extend_from_slice(&chunk);
            }
            let headers = std::mem::take(response.headers_mut());
            Ok(Received { status: response.status(), headers, body: body.freeze() })
        };
        let late = |_| OutboundError::NoAnswer(format!("nothing within {timeout:?}").into());
        tokio::time::timeout(timeout, exchange).await.map_err(late)?
    }
}

fn builder() -> ClientBuilder {
    // The one that everything else here uses. Whoever was first has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("skywave/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
}

/// An error and what caused it, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
