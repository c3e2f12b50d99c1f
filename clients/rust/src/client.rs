//! The handle.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::Serialize;
use skywave_proto::{Payload, StreamPosition};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    builder::Builder,
    error::{ClientError, Refusal},
    event::{Connection, HistoryPage, MemberPage, Published},
    order::{Ask, Done, Opening, Order},
    subscription::{State, SubscribeOptions, Subscription, WAITING},
};

/// A client, over all its connections. Cloning gives another handle; it ends when the last handle and the last subscription
/// are dropped, or by [`Client::close`].
#[derive(Debug, Clone)]
pub struct Client {
    orders: mpsc::Sender<Order>,
    connection: watch::Receiver<Connection>,
    numbers: Arc<AtomicU64>,
}

impl Client {
    /// A client of the cluster at this address, which is like `ws://host:8000/ws`.
    pub fn builder(address: impl Into<String>) -> Builder {
        Builder::new(address)
    }

    pub(crate) fn new(orders: mpsc::Sender<Order>, connection: watch::Receiver<Connection>) -> Self {
        Self { orders, connection, numbers: Arc::default() }
    }

    /// Whether it is connected, and to which node. To be watched: it says when that changes.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Subscribes to what is published from now on.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if this client may not, or is subscribed already; [`ClientError::Ended`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the subscription.
    pub async fn subscribe(&self, channel: &str) -> Result<Subscription, ClientError> {
        self.subscribe_with(channel, SubscribeOptions::default()).await
    }

    /// Subscribes.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the subscription.
    pub async fn subscribe_with(&self, channel: &str, options: SubscribeOptions) -> Result<Subscription, ClientError> {
        let (sender, events) = mpsc::channel(WAITING);
        let (done, outcome) = oneshot::channel();
        let state = Arc::<State>::default();
        let number = self.numbers.fetch_add(1, Relaxed);
        let channel = channel.to_owned();
        let subscription = Subscription { channel, number, events, state, orders: self.orders.clone() };
        let opening = Opening {
            channel: subscription.channel.clone(),
            number,
            options,
            events: sender,
            state: subscription.state.clone(),
            done,
        };
        self.order(Order::Subscribe(Box::new(opening))).await?;
        answered(outcome).await.map(|()| subscription)
    }

    /// Publishes JSON.
    ///
    /// # Errors
    /// As [`Client::publish`]; what cannot be written as JSON is refused here.
    ///
    /// # Cancel safety
    /// As [`Client::publish`].
    pub async fn publish_json(
        &self,
        channel: &str,
        data: &(impl Serialize + ?Sized),
    ) -> Result<Published, ClientError> {
        let data = serde_json::to_vec(data).map_err(|error| Refusal {
            code: "bad_request".to_owned(),
            message: format!("it cannot be written as JSON: {error}"),
            retry: false,
            after: std::time::Duration::ZERO,
        })?;
        self.publish(channel, Payload::json(data.into())).await
    }

    /// Publishes, and waits for the node's word; while there is no connection, for the next one. Whatever happens to
    /// connections meanwhile, it is published once.
    ///
    /// # Errors
    /// [`ClientError::Refused`] as the node says; [`ClientError::Ended`], and then it may have been published.
    ///
    /// # Cancel safety
    /// Dropping the future gives the answer up, not the publication.
    pub async fn publish(&self, channel: &str, payload: Payload) -> Result<Published, ClientError> {
        let key = format!("{:032x}", rand::random::<u128>());
        self.publish_once(channel, payload, key).await
    }

    /// Publishes under an idempotency key of your own: the same again within five minutes gets the first answer.
    ///
    /// # Errors
    /// As [`Client::publish`].
    ///
    /// # Cancel safety
    /// As [`Client::publish`].
    pub async fn publish_once(
        &self,
        channel: &str,
        payload: Payload,
        key: impl Into<String>,
    ) -> Result<Published, ClientError> {
        let (channel, key) = (channel.to_owned(), key.into());
        self.ask(|done| Ask::Publish { channel, payload, key, done }).await
    }

    /// A piece of a channel's history: behind `since`, or the newest; at most `limit` publications (100 if none is said, at most
    /// 1,000) and 64 KiB.
    ///
    /// # Errors
    /// As [`Client::publish`].
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn history(
        &self,
        channel: &str,
        since: Option<StreamPosition>,
        limit: Option<u32>,
    ) -> Result<HistoryPage, ClientError> {
        let channel = channel.to_owned();
        self.ask(|done| Ask::History { channel, since, limit, done }).await
    }

    /// Who is there: at most 1,000 members, by client id, behind `after` (the page before has it as `next`).
    ///
    /// # Errors
    /// As [`Client::publish`].
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn presence(&self, channel: &str, after: Option<Arc<str>>) -> Result<MemberPage, ClientError> {
        let channel = channel.to_owned();
        self.ask(|done| Ask::Presence { channel, after, done }).await
    }

    /// Calls the back end (`webhooks.rpc`).
    ///
    /// # Errors
    /// [`ClientError::UnknownOutcome`] if the connection breaks meanwhile: a call is not made twice. Else as [`Client::publish`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the answer up, not the call.
    pub async fn rpc(&self, method: &str, data: Payload) -> Result<Payload, ClientError> {
        let method = method.to_owned();
        self.ask(|done| Ask::Rpc { method, data, done }).await
    }

    /// Gives the connection up and makes another at once: for a device whose network has changed, and for tests.
    pub async fn reconnect(&self) {
        let _ = self.order(Order::Reconnect).await; // who has ended does not come back
    }

    /// Leaves: the node tells others at once that this client has gone. All handles and subscriptions end with it.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.order(Order::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    async fn ask<T>(&self, ask: impl FnOnce(Done<T>) -> Ask) -> Result<T, ClientError> {
        let (done, outcome) = oneshot::channel();
        self.order(Order::Ask(ask(done))).await?;
        answered(outcome).await
    }

    async fn order(&self, order: Order) -> Result<(), ClientError> {
        self.orders.send(order).await.map_err(|_| ended())
    }
}

async fn answered<T>(outcome: oneshot::Receiver<Result<T, ClientError>>) -> Result<T, ClientError> {
    outcome.await.unwrap_or_else(|_| Err(ended()))
}

fn ended() -> ClientError {
    ClientError::Ended("it was closed".into())
}
