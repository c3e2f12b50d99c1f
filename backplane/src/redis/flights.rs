//! Many who ask the same at the same time are one who asks: a room that comes back at once reads its history once.

use std::{collections::HashMap, sync::Arc};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use skywave_proto::ChannelName;

use crate::{HistoryError, HistoryPage, HistoryQuery};

type Answer = Result<HistoryPage, HistoryError>;
type Key = (ChannelName, HistoryQuery);
type Flight = Shared<BoxFuture<'static, Answer>>;

/// The histories that are being read. Bound: as many as are asked for at the same time.
#[derive(Clone, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Key, Flight, ahash::RandomState>>>);

impl Flights {
    /// Reads with `read`, or waits for who does already.
    ///
    /// # Cancel safety
    /// Cancel-safe: the reading goes on to its end.
    pub(super) async fn ask<F>(&self, channel: &ChannelName, query: HistoryQuery, read: impl FnOnce() -> F) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let key = (channel.clone(), query);
        let flight = {
            let mut flights = self.0.lock();
            match flights.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (all, reading, its_key) = (self.clone(), read(), key.clone());
                    // By a task: whoever gives up does not leave an answer behind that is old one day.
                    let task = tokio::spawn(async move {
                        let answer = reading.await;
                        all.0.lock().remove(&its_key);
                        answer
                    });
                    let flight = task.map(|answer| answer.unwrap_or(Err(HistoryError::Unavailable(None))));
                    let flight = flight.boxed().shared();
                    flights.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn those_who_ask_together_are_answered_by_one() {
        let (flights, reads) = (Flights::default(), Arc::new(AtomicU32::new(0)));
        let channel = ChannelName::parse("a").unwrap();
        let ask = |limit| {
            let reads = reads.clone();
            flights.ask(&channel, HistoryQuery { since: None, limit, bytes: 1, followed: true }, move || async move {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Err(HistoryError::Unavailable(None))
            })
        };
        let answers = tokio::join!(ask(1), ask(1), ask(2));
        assert!(answers.0.is_err() && answers.1.is_err() && answers.2.is_err());
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        // Whoever gave up before the end leaves nothing behind.
        assert!(ask(1).now_or_never().is_none());
        while !flights.0.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(ask(1).await.is_err());
        assert_eq!(reads.load(Ordering::Relaxed), 4);
    }
}
