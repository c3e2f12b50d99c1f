//! How a client is made.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use skywave_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_tungstenite::{Connector, tungstenite::client::IntoClientRequest as _};

use crate::{client::Client, driver::Driver, error::ClientError, event::Connection, order::ORDERS};

/// How long the first connection may take, unless somebody says otherwise.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// Why a token could not be had.
pub(crate) type TokenError = Box<dyn std::error::Error + Send + Sync>;
type Fetching = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

/// Where tokens come from.
#[derive(Clone)]
pub(crate) enum Tokens {
    None,
    Fixed(String),
    From(Arc<dyn Fn() -> Fetching + Send + Sync>),
}

/// What a client is to be. Made by [`Client::builder`].
#[derive(Clone)]
#[must_use]
pub struct Builder {
    pub(crate) addresses: Vec<String>,
    pub(crate) tokens: Tokens,
    pub(crate) info: Option<String>,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) within: Duration,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the tokens.
        f.debug_struct("Builder").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(address: impl Into<String>) -> Self {
        Self { addresses: vec![address.into()], tokens: Tokens::None, info: None, tls: None, within: FIRST_WITHIN }
    }

    /// Another address of the cluster, tried when the one before it cannot be reached. A balancer makes that unnecessary.
    pub fn or(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Who the client is. When the token ends, so does the connection: see [`Builder::token_from`].
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.tokens = Tokens::Fixed(token.into());
        self
    }

    /// Who the client is, asked anew for each connection and before a token ends. A failure is like a node that cannot be
    /// reached: it is tried again.
    pub fn token_from<F, Fut>(mut self, fetch: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, TokenError>> + Send + 'static,
    {
        self.tokens = Tokens::From(Arc::new(move || Box::pin(fetch())));
        self
    }

    /// What others see of the client: a JSON object. Used in development mode only; elsewhere it comes from the token.
    pub fn info(mut self, info: &serde_json::Value) -> Self {
        self.info = Some(info.to_string());
        self
    }

    /// Whom to trust, for `wss://`. Default: the machine's authorities.
    pub fn tls(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// How long the first connection may take. Default: 10 s.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Connects, and stays connected until the client is closed or dropped. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Address`]; [`ClientError::Unreachable`] if there is no connection in time; [`ClientError::Refused`] if the node does
    /// not want this client.
    ///
    /// # Cancel safety
    /// Dropping the future ends the client.
    pub async fn connect(self) -> Result<Client, ClientError> {
        for address in &self.addresses {
            let bad = |why: String| ClientError::Address { address: address.clone(), why };
            let request = address.as_str().into_client_request().map_err(|error| bad(error.to_string()))?;
            if !matches!(request.uri().scheme_str(), Some("ws" | "wss")) {
                return Err(bad("it does not begin with ws:// or wss://".to_owned()));
            }
        }
        let (orders, queue) = mpsc::channel(ORDERS);
        let (ready, begun) = oneshot::channel();
        let (connection, watched) = watch::channel(Connection::Down { why: "".into() });
        tokio::spawn(Driver::new(self, queue, ready, connection).run());
        match begun.await {
            Ok(Ok(())) => Ok(Client::new(orders, watched)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ClientError::Ended("its task is gone".into())),
        }
    }

    /// The token of the next connection.
    pub(crate) async fn next_token(&self) -> Result<Option<String>, TokenError> {
        match &self.tokens {
            Tokens::None => Ok(None),
            Tokens::Fixed(token) => Ok(Some(token.clone())),
            Tokens::From(fetch) => fetch().await.map(Some),
        }
    }

    /// Whether a token that ends can be followed by another.
    pub(crate) fn renews(&self) -> bool {
        matches!(self.tokens, Tokens::From(_))
    }

    pub(crate) fn connector(&self) -> Option<Connector> {
        self.tls.clone().map(Connector::Rustls)
    }

    pub(crate) fn hello(
        &self,
        token: Option<String>,
        session: Option<String>,
        subscribe: Vec<v1::Subscribe>,
    ) -> v1::Connect {
        v1::Connect { token, session, info: self.info.clone().map(|info| info.into_bytes().into()), subscribe }
    }
}
