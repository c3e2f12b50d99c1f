//! The sink's sink: takes out of what comes in what is the system's own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use skywave_proto::{ChannelName, Publication, v1};
use tracing::{error, warn};

use super::{
    keys::{CONTROL, CONTROL_LIVE, PRESENCE},
    presence,
};
use crate::{BackplaneState, Gap, PresenceEvent, Sink};

/// How long the nodes may take to write their members again after Redis has lost them: a list that is read before would
/// lack some, and nobody would be told of them.
const RESYNC_TIME: Duration = Duration::from_secs(6);

/// Joins and leaves, signals, and the rest.
pub(super) struct Demux(pub(super) Arc<dyn Sink>);

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

impl Sink for Demux {
    fn publication(&self, channel: &ChannelName, publication: Publication) {
        match purpose(channel) {
            Purpose::Clients => self.0.publication(channel, publication),
            Purpose::Presence(of) => match presence::read_event(publication.payload.data().clone()) {
                Some(event) => self.0.presence(&of, event),
                None => error!(%channel, "dropping what is neither a join nor a leave"),
            },
            Purpose::Control { .. } => match v1::Carried::decode(publication.payload.data().clone()) {
                Ok(signal) => self.0.signal(signal.from.into(), signal.message),
                Err(error) => error!(%channel, %error, "dropping what is not a signal"),
            },
        }
    }

    fn gap(&self, channel: &ChannelName, gap: Gap) {
        match purpose(channel) {
            Purpose::Clients => self.0.gap(channel, gap),
            Purpose::Control { kept: false } => {}
            Purpose::Control { kept: true } => {
                warn!(%channel, "orders of other nodes may have been missed: redis was away for too long")
            }
            Purpose::Presence(of) => {
                let sink = Arc::downgrade(&self.0);
                tokio::spawn(async move {
                    // Not all lists at once.
                    tokio::time::sleep(RESYNC_TIME.mul_f64(rand::random_range(1.0..1.5))).await;
                    if let Some(sink) = sink.upgrade() {
                        sink.presence_gap(&of);
                    }
                });
            }
        }
    }

    fn presence(&self, channel: &ChannelName, event: PresenceEvent) {
        self.0.presence(channel, event);
    }

    fn presence_gap(&self, channel: &ChannelName) {
        self.0.presence_gap(channel);
    }

    fn signal(&self, from: Arc<str>, message: Bytes) {
        self.0.signal(from, message);
    }

    fn state(&self, state: BackplaneState) {
        self.0.state(state);
    }
}
