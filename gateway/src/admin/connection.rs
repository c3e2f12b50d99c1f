//! One connection of the internal listener: HTTP/1.1, or HTTP/2 with or without TLS around it, whichever the client begins.

use std::{convert::Infallible, pin::pin, time::Duration};

use axum::{Router, body::Body, response::Response};
use http::Request;
use http_body_util::BodyExt as _;
use hyper::{
    body::{Body as _, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};
use tonic::codegen::Service as _;

use crate::{peers::Proven, transport::Arrival};

/// How long a request head may take, the first of all, and over HTTP/1.1 each.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection over HTTP/2 without a request for so long is asked to end. Clients of gRPC keep theirs for the next call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// What was asked before the client saw that is still answered for so long.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// How often the other end of HTTP/2 is asked whether it is there, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that an HTTP/2 connection has open at the same time.
const STREAMS: u32 = 256;
/// The largest head, in bytes; in HTTP/2 counted as RFC 9113 §6.5.2 does.
const HEAD_BYTES: u16 = 16 * 1024;

/// Serves a socket until it ends, or nothing has been asked on it for too long.
pub(super) async fn serve<S>(socket: S, app: Router, arrival: Arrival)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let requests = Requests::default();
    let counted = requests.clone();
    let proven = Proven::default();
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut app, open) = (app.clone(), counted.begin());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(arrival);
        request.extensions_mut().insert(proven.clone());
        async move {
            let Ok(response) = app.call(request).await;
            Ok::<_, Infallible>(until_read(response, open))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES.into());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES.into())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PONG_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = requests.quiet() => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_REQUESTS, connection).await.unwrap_or(Ok(()))
        }
    };
    drop(served); // an error here is the other end's
}

/// A stream counts as an open request until its last byte is out.
fn until_read(response: Response, open: Open) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response; // it is all there, and how long it is must be said
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &open;
            frame
        }))
    })
}

/// How many requests of a connection are open.
#[derive(Clone)]
struct Requests(watch::Sender<usize>);

impl Default for Requests {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

/// A request, open until this is dropped.
struct Open(watch::Sender<usize>);

impl Requests {
    fn begin(&self) -> Open {
        self.0.send_modify(|open| *open += 1);
        Open(self.0.clone())
    }

    /// Returns when no request came in time, or none is open and none has come since the last for long enough.
    async fn quiet(&self) {
        let mut changes = self.0.subscribe();
        let mut patience = HEAD_TIMEOUT;
        loop {
            let open = *changes.borrow_and_update();
            if open > 0 {
                patience = IDLE_TIMEOUT;
                let _ = changes.changed().await; // we hold a sender, so there is always a next one
            } else {
                match timeout(patience, changes.changed()).await {
                    Ok(_) => patience = IDLE_TIMEOUT,
                    Err(_) => return,
                }
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_quiet_when_nothing_is_asked_and_not_while_something_is_answered() {
        let begun = tokio::time::Instant::now();
        let requests = Requests::default();
        requests.quiet().await;
        assert_eq!(begun.elapsed(), HEAD_TIMEOUT, "the first request did not come");

        let open = requests.begin();
        assert!(timeout(10 * IDLE_TIMEOUT, requests.quiet()).await.is_err(), "an answer goes on");
        drop(open);
        let quiet = requests.quiet();
        let begun = tokio::time::Instant::now();
        let mut quiet = pin!(quiet);
        assert!(timeout(Duration::from_secs(1), quiet.as_mut()).await.is_err());
        drop(requests.begin()); // over before anybody looked
        quiet.await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1) + IDLE_TIMEOUT);
    }
}
