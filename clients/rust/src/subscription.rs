//! What whoever subscribed reads from.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use skywave_proto::StreamPosition;
use tokio::sync::mpsc;

use crate::{error::Refusal, event::Event, order::Order};

/// Events that wait for whoever reads a subscription. Over that publications are left to the channel's history.
pub const WAITING: usize = 1024;

/// How a channel is subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Begins behind this position, from the channel's history. Default: with what comes now.
    pub since: Option<StreamPosition>,
    /// Whether members, joins and leaves are told. Default `false`.
    pub presence: bool,
    /// Whether one's own publications come back. Default `true`.
    pub echo: bool,
    /// A token for this one channel.
    pub token: Option<String>,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self { since: None, presence: false, echo: true, token: None }
    }
}

impl SubscribeOptions {
    /// See [`SubscribeOptions::since`].
    #[must_use]
    pub fn since(self, since: StreamPosition) -> Self {
        Self { since: Some(since), ..self }
    }

    /// See [`SubscribeOptions::presence`].
    #[must_use]
    pub fn with_presence(self) -> Self {
        Self { presence: true, ..self }
    }

    /// See [`SubscribeOptions::echo`].
    #[must_use]
    pub fn without_echo(self) -> Self {
        Self { echo: false, ..self }
    }

    /// See [`SubscribeOptions::token`].
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self }
    }
}

/// A place on a channel, over all connections of its client. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) channel: String,
    pub(crate) number: u64,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) state: Arc<State>,
    pub(crate) orders: mpsc::Sender<Order>,
}

/// What the driver says about a subscription beside its queue.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Something was left out for want of room: ask for it once the queue is empty.
    pub(crate) is_behind: AtomicBool,
    /// Why it is over. Set before the queue is closed, which it is told behind.
    pub(crate) ended: std::sync::Mutex<Option<Refusal>>,
}

impl State {
    pub(crate) fn end(&self, refusal: Refusal) {
        *self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(refusal);
    }
}

impl Subscription {
    /// The channel.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// What happens next; `None` once the subscription or its client has ended.
    ///
    /// # Cancel safety
    /// Cancel-safe: an event is taken only if it is returned.
    pub async fn next(&mut self) -> Option<Event> {
        if let Ok(event) = self.events.try_recv() {
            return Some(event);
        }
        if self.state.is_behind.load(Relaxed) {
            let order = Order::CatchUp { channel: self.channel.clone(), number: self.number };
            let _ = self.orders.send(order).await; // if the client has ended, the queue says so
        }
        if let Some(event) = self.events.recv().await {
            return Some(event);
        }
        let ended = self.state.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        ended.map(Event::Ended)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // If there is no room, the driver finds the queue closed with the next event.
        let _ = self
            .orders
            .try_send(Order::Unsubscribe { channel: std::mem::take(&mut self.channel), number: self.number });
    }
}
