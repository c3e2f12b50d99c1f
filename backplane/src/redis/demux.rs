//! The sink's sink: takes out of what comes in what is the system's own.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use skywave_proto::{ChannelName, Publication, v1};
use tracing::warn;

use super::{
    keys::{CONTROL, CONTROL_LIVE, PRESENCE},
    presence,
};
use crate::{BackplaneState, Gap, PresenceEvent, Sink, Unreadable};

/// How long the nodes may take to write their members again after Redis has lost them: a list that is read before would
/// lack some, and nobody would be told of them.
const RESYNC_TIME: Duration = Duration::from_secs(6);

/// Joins and leaves, signals, and the rest.
pub(super) struct Demux {
    sink: Arc<dyn Sink>,
    /// Channels whose list of members will be read again because a join or leave could not be. Bound: those that the node
    /// follows.
    waiting: Arc<Mutex<BTreeSet<ChannelName>>>,
}

/// What a channel is for.
enum Purpose {
    /// The joins and leaves of this channel.
    Presence(ChannelName),
    /// Signals; those that are not `kept` are of no use late, and nobody misses them.
    Control {
        kept: bool,
    },
    Clients,
}

fn purpose(channel: &ChannelName) -> Purpose {
    let Some(name) = channel.as_str().strip_prefix('#') else { return Purpose::Clients };
    let presence_of = name.strip_prefix(PRESENCE).and_then(|rest| rest.strip_prefix(':'));
    // Longer ones than a client's channel may be are not there.
    if let Some(of) = presence_of.and_then(|of| ChannelName::parse(of).ok()) {
        return Purpose::Presence(of);
    }
    let is = |base| channel.as_str().strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    match () {
        () if is(CONTROL) => Purpose::Control { kept: true },
        () if is(CONTROL_LIVE) => Purpose::Control { kept: false },
        () => Purpose::Clients,
    }
}

impl Demux {
    pub(super) fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink, waiting: Arc::default() }
    }

    /// A join or leave of this channel cannot be read: its list is, a little later, however many more there are until then.
    fn presence_unreadable(&self, of: ChannelName) {
        if self.waiting.lock().insert(of.clone()) {
            self.presence_missed(of);
        }
    }

    /// Joins or leaves of this channel may be missing: its list is read again a little later.
    fn presence_missed(&self, of: ChannelName) {
        let (sink, waiting) = (Arc::downgrade(&self.sink), self.waiting.clone());
        tokio::spawn(async move {
            // Not all lists at once.
            tokio::time::sleep(RESYNC_TIME.mul_f64(rand::random_range(1.0..1.5))).await;
            // What is missed from now on is not in it.
            waiting.lock().remove(&of);
            if let Some(sink) = sink.upgrade() {
                sink.presence_gap(&of);
            }
        });
    }
}

impl Sink for Demux {
    fn publication(&self, channel: &ChannelName, publication: Publication) {
        match purpose(channel) {
            Purpose::Clients => self.sink.publication(channel, publication),
            Purpose::Presence(of) => match presence::read_event(publication.payload.data().clone()) {
                Some(event) => self.sink.presence(&of, event),
                None => {
                    Unreadable::Presence.tell(channel, &"neither a join nor a leave");
                    self.presence_unreadable(of);
                }
            },
            Purpose::Control { .. } => match v1::Carried::decode(publication.payload.data().clone()) {
                Ok(signal) => self.sink.signal(signal.from.into(), signal.message),
                Err(error) => Unreadable::Signal.tell(channel, &error),
            },
        }
    }

    fn gap(&self, channel: &ChannelName, gap: Gap) {
        match purpose(channel) {
            Purpose::Clients => self.sink.gap(channel, gap),
            Purpose::Control { kept: false } => {}
            Purpose::Control { kept: true } => {
                warn!(
                    %channel,
                    "orders of other nodes may have been missed: redis was away for too long, or this release cannot read them"
                );
            }
            Purpose::Presence(of) => self.presence_missed(of),
        }
    }

    fn presence(&self, channel: &ChannelName, event: PresenceEvent) {
        self.sink.presence(channel, event);
    }

    fn presence_gap(&self, channel: &ChannelName) {
        self.sink.presence_gap(channel);
    }

    fn signal(&self, from: Arc<str>, message: Bytes) {
        self.sink.signal(from, message);
    }

    fn state(&self, state: BackplaneState) {
        self.sink.state(state);
    }
}

#[cfg(test)]
mod tests {
    use skywave_proto::Payload;

    use super::*;
    use crate::conformance::Recorder;

    #[tokio::test(start_paused = true)]
    async fn however_many_joins_cannot_be_read_one_list_is() {
        let (recorder, news) = (Recorder::new(), ChannelName::parse("news").unwrap());
        let demux = Demux::new(recorder.clone());
        let stream = ChannelName::reserved(PRESENCE, &news);
        let lists = || recorder.presence_told(&news).len();
        for expected in 1..=2 {
            for _ in 0..1000 {
                let payload = Payload::binary(Bytes::from_static(&[26, 0])); // a third kind of event
                let (client, user) = (None, None);
                demux.publication(&stream, Publication { position: None, payload, client, user, published_at_ms: 0 });
            }
            tokio::time::sleep(2 * RESYNC_TIME).await;
            assert_eq!(lists(), expected);
        }
    }
}
