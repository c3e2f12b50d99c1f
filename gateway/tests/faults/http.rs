//! Requests over one connection that is made again when it breaks.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use tokio::{net::TcpStream, time::timeout};

/// How long an answer may take. What was asked may still happen.
const PATIENCE: Duration = Duration::from_secs(4);

/// One connection at a time to one address.
pub struct Http {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Status and body; an error in words: nothing is known of what became of the request.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<(u16, String), String> {
        let answer = timeout(PATIENCE, self.send(method, path, headers, body)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<(u16, String), String> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => {
                let socket = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
                let io = hyper_util::rt::TokioIo::new(socket);
                let (connection, driver) = handshake(io).await.map_err(|error| error.to_string())?;
                tokio::spawn(driver);
                connection
            }
        };
        let mut request = http::Request::builder().method(method).uri(path).header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a good request");
        connection.ready().await.map_err(|error| error.to_string())?;
        let answer = connection.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        self.connection = Some(connection);
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
