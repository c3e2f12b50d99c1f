//! A sink that counts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use skywave_backplane::{BackplaneState, Gap, PresenceEvent, Sink};
use skywave_proto::{ChannelName, Publication};
use tokio::sync::{Notify, futures::Notified};

pub(crate) struct Counting {
    pub(crate) count: AtomicU64,
    /// How often the backplane came.
    pub(crate) came_live: AtomicU64,
    heard: Notify,
}

impl Counting {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { count: AtomicU64::new(0), came_live: AtomicU64::new(0), heard: Notify::new() })
    }

    /// The next publication.
    pub(crate) fn notified(&self) -> Notified<'_> {
        self.heard.notified()
    }

    /// Until nothing has come in for a while.
    pub(crate) async fn until_quiet(&self, never: &Notify) {
        loop {
            let before = self.count.load(Ordering::Relaxed);
            let _ = tokio::time::timeout(std::time::Duration::from_millis(200), never.notified()).await;
            if self.count.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

impl Sink for Counting {
    fn publication(&self, _: &ChannelName, _: Publication) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.heard.notify_one();
    }

    fn gap(&self, _: &ChannelName, _: Gap) {}

    fn presence(&self, _: &ChannelName, _: PresenceEvent) {}

    fn presence_gap(&self, _: &ChannelName) {}

    fn signal(&self, _: Arc<str>, _: bytes::Bytes) {}

    fn state(&self, state: BackplaneState) {
        if state == BackplaneState::Live {
            self.came_live.fetch_add(1, Ordering::Relaxed);
        }
    }
}
