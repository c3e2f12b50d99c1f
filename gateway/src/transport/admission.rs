//! Who is let in: as many as the node, and one address, may have, as fast as the node can take them, and nobody while it has
//! too much to do.

use std::{borrow::Cow, net::IpAddr, sync::Arc, sync::atomic::Ordering, time::Duration};

use http::{HeaderValue, StatusCode, header};
use rand::Rng as _;
use skywave_proto::ErrorCode;

use super::{
    Public, WebSocketSeat,
    addresses::Block,
    http::{Answer, text},
};
use crate::{metrics, session::Refusal};

/// Whoever is refused comes back after so many seconds, each after another number of them: else all would come together.
const COME_BACK: std::ops::RangeInclusive<u64> = 1..=5;

/// A client that is not let in now, and may be soon. Each transport says so in its own way: to a WebSocket's handshake this is
/// an [answer](Self::answer); an `EventSource` takes any status but 200 for a reason never to come back, so it must be told
/// to wait in the stream itself (`retry:` with `after`).
#[derive(Debug)]
pub(super) struct Refused {
    /// The word in the metric of refused handshakes.
    pub(super) reason: &'static str,
    status: StatusCode,
    /// Why, for people; a line.
    pub(super) words: Cow<'static, str>,
    /// When it should come back.
    pub(super) after: Duration,
}

impl Refused {
    fn new(reason: &'static str, status: StatusCode, words: impl Into<Cow<'static, str>>) -> Self {
        let after = Duration::from_secs(rand::rng().random_range(COME_BACK));
        Self { reason, status, words: words.into(), after }
    }

    /// The same as a refusal in words of the one table, which is counted.
    pub(super) fn refusal(self) -> Refusal {
        metrics::refused(self.reason);
        let code = if self.status == StatusCode::TOO_MANY_REQUESTS { ErrorCode::Limit } else { ErrorCode::Unavailable };
        let after_ms = u64::try_from(self.after.as_millis()).unwrap_or(u64::MAX);
        Refusal { after_ms, ..Refusal::new(code, self.words.trim_end()) }
    }

    /// The answer to a request, which is counted as refused.
    pub(super) fn answer(self) -> Answer {
        metrics::refused(self.reason);
        let mut answer = text(self.status, self.words.into_owned());
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(self.after.as_secs()));
        answer
    }
}

impl Public {
    /// Lets a handshake of this client go on: at once, or when its turn has come, a second later at most. One that has been
    /// [queued](Self::queue) for already goes on unless the node has too much to do.
    ///
    /// # Errors
    /// [`Refused`], with 503.
    ///
    /// # Cancel safety
    /// As [`Public::queue`].
    pub(super) async fn admit(&self, client: IpAddr, has_queued: bool) -> Result<(), Refused> {
        if let Some(what) = self.overload() {
            return Err(Refused::new("overloaded", StatusCode::SERVICE_UNAVAILABLE, what));
        }
        if has_queued { Ok(()) } else { self.queue(client).await }
    }

    /// Waits until it is this client's turn to do a handshake.
    ///
    /// # Errors
    /// [`Refused`], with 503, if that would be too long.
    ///
    /// # Cancel safety
    /// The turn is lost, and nothing else.
    pub(super) async fn queue(&self, client: IpAddr) -> Result<(), Refused> {
        let Some(rate) = self.ground.settings().limits.handshakes_per_second else { return Ok(()) };
        if self.turnstile.pass(rate, self.block(client)).await {
            return Ok(());
        }
        let words = format!("limits.handshakes_per_second is {rate}, and too many wait already: try again\n");
        Err(Refused::new("handshakes", StatusCode::SERVICE_UNAVAILABLE, words))
    }

    /// Counts a WebSocket of this client until the seat is dropped.
    ///
    /// # Errors
    /// [`Refused`] if `limits.connections` are taken, with 503, or its `limits.connections_per_ip`, with 429.
    pub(super) fn seat(self: &Arc<Self>, client: IpAddr) -> Result<WebSocketSeat, Refused> {
        let (connections, per_ip) = {
            let limits = &self.ground.settings().limits;
            (limits.connections, limits.connections_per_ip)
        };
        let taken = self.websockets.fetch_add(1, Ordering::Relaxed);
        let mut seat = WebSocketSeat { public: self.clone(), block: None };
        if connections.is_some_and(|limit| taken >= limit.get() as usize) {
            let words = "limits.connections is reached: connect to another node\n";
            return Err(Refused::new("connections", StatusCode::SERVICE_UNAVAILABLE, words));
        }
        if let (Some(limit), Some(block)) = (per_ip, self.block(client)) {
            if !self.addresses.enter(block, limit) {
                let words = format!("limits.connections_per_ip is {limit}, and this address has as many: close one\n");
                return Err(Refused::new("connections_per_ip", StatusCode::TOO_MANY_REQUESTS, words));
            }
            seat.block = Some(block);
        }
        Ok(seat)
    }

    /// What of the node's is this client's share. A proxy that we trust speaks for many, and where it does not say for whom
    /// they have no share.
    pub(super) fn block(&self, client: IpAddr) -> Option<Block> {
        let is_trusted = self.ground.settings().public.trusted_proxies.iter().any(|proxies| proxies.contains(client));
        (!is_trusted).then(|| Block::of(client))
    }
}
