//! Publishers that do not give up, and what a subscriber must have heard of them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use skywave_backplane::{
    Backplane as _, Gap, IdempotencyKey, NewPublication, Redis,
    conformance::{KEPT, Recorder, Told, assert_contiguous, channel, publication, subscribe},
};
use skywave_proto::ChannelName;
use tokio::task::JoinSet;

/// One publisher for each of several channels: 0, 1, 2 and so on, each with a key and until it is acknowledged.
pub(crate) struct Traffic {
    pub(crate) channels: Vec<ChannelName>,
    pub(crate) refused: Arc<AtomicU32>,
    pub(crate) unknown: Arc<AtomicU32>,
    heard: Arc<Recorder>,
    stop: Arc<AtomicBool>,
    publishers: JoinSet<(ChannelName, u32)>,
}

impl Traffic {
    /// `reader` delivers to `heard`; `writer` may be the same node.
    pub(crate) async fn begin(writer: &Redis, reader: &Redis, heard: &Arc<Recorder>, channels: usize) -> Self {
        let channels: Vec<_> = (0..channels).map(|number| channel(&format!("news:{number}"))).collect();
        for channel in &channels {
            subscribe(reader, channel).await;
        }
        let mut traffic = Self {
            channels,
            refused: Arc::default(),
            unknown: Arc::default(),
            heard: heard.clone(),
            stop: Arc::default(),
            publishers: JoinSet::new(),
        };
        for channel in traffic.channels.clone() {
            let (writer, stop) = (writer.clone(), traffic.stop.clone());
            let (refused, unknown) = (traffic.refused.clone(), traffic.unknown.clone());
            traffic.publishers.spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let text = number.to_string();
                    let key = Some(IdempotencyKey { publisher: "test".into(), key: text.as_str().into() });
                    let new = NewPublication { key, ..publication(&channel, &text, Some(KEPT)) };
                    match writer.publish(new).await {
                        Ok(_) => number += 1,
                        Err(skywave_backplane::PublishError::UnknownOutcome { .. }) => {
                            unknown.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                (channel, number)
            });
        }
        traffic
    }

    /// Until every channel has been told this much more.
    pub(crate) async fn flow(&self, more: usize) {
        let before: Vec<_> = self.channels.iter().map(|channel| self.heard.told(channel).len()).collect();
        let flows = |heard: &Recorder| {
            let mut all = self.channels.iter().zip(&before);
            all.all(|(channel, before)| heard.told(channel).len() >= before + more).then_some(())
        };
        self.heard.until(format_args!("{more} more on each channel"), flows).await;
    }

    /// Ends it, and waits for what was acknowledged last. Gives what was told of each channel.
    pub(crate) async fn end(mut self) -> HashMap<ChannelName, Vec<Told>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut told = HashMap::new();
        while let Some(ended) = self.publishers.join_next().await {
            let (channel, count) = ended.unwrap();
            let last = (count - 1).to_string();
            let heard = self.heard.until_text(&channel, &last).await;
            assert_contiguous(&heard);
            told.insert(channel, heard);
        }
        told
    }
}

/// Every publication once, in order, and no gap.
pub(crate) fn assert_nothing_lost(told: &HashMap<ChannelName, Vec<Told>>) {
    for (channel, told) in told {
        assert!(!told.iter().any(|told| matches!(told, Told::Gap(_))), "{channel}: {:?}", gaps(told));
        assert_counts(channel, told, 0);
    }
}

/// Every publication once and in order from the number `first` on.
pub(crate) fn assert_counts(channel: &ChannelName, told: &[Told], first: u32) {
    let numbers: Vec<u32> = told.iter().map(|told| told.text().parse().unwrap()).collect();
    let expected: Vec<_> = (first..).take(numbers.len()).collect();
    assert!(numbers == expected, "{channel}: {numbers:?}");
}

pub(crate) fn gaps(told: &[Told]) -> Vec<Gap> {
    told.iter().filter_map(|told| if let Told::Gap(gap) = told { Some(*gap) } else { None }).collect()
}
