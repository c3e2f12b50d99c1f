//! The embedded backplane keeps its promises.

use std::{sync::Arc, time::Duration};

use skywave_backplane::{Memory, Sink, conformance::World};

struct Alone;

impl World for Alone {
    type Node = Memory;
    const JOINS_NODES: bool = false;

    async fn node(&self, sink: Arc<dyn Sink>) -> Memory {
        Memory::new(sink)
    }

    async fn pass(&self, duration: Duration) {
        tokio::time::pause();
        tokio::time::advance(duration).await;
        tokio::time::resume();
    }
}

skywave_backplane::promises!(Alone);
