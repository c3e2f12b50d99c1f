//! What every thread of a run has to know: fixed before the first connection is made.

use serde::{Deserialize, Serialize};

use super::{Access, ScenarioError};
use crate::{
    client::Manner,
    scan::Scanner,
    stamp::{Clock, run_id},
    target::Target,
};

/// How far a client goes in before it counts as connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    /// The WebSocket handshake.
    Bare,
    /// It has introduced itself.
    Connected,
    /// It has subscribed to its channel.
    Subscribed,
}

/// What a plan is made of, here and in another process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) run: String,
    pub(super) clock: Clock,
    pub(super) access: Access,
    /// Another path than that of the URLs.
    pub(super) path: Option<String>,
    /// What the channels' names begin with; one of the run's own if there is none.
    pub(super) channel: Option<String>,
    pub(super) seats: Seats,
    pub(super) size: usize,
    pub(super) entry: Entry,
}

impl Orders {
    /// Of a new run, that has nobody in it yet.
    pub(super) fn new(entry: Entry) -> Self {
        Self {
            run: run_id(),
            clock: Clock::start(),
            access: Access::default(),
            path: None,
            channel: None,
            seats: Seats { channels: 1, listeners: 0, publishers: 0, stalled: 0.0 },
            size: 0,
            entry,
        }
    }

    /// # Errors
    /// An URL is none, or the certificates are none.
    pub(super) fn plan(&self) -> Result<Plan, ScenarioError> {
        let mut targets = self.access.targets()?;
        if let Some(path) = &self.path {
            targets.iter_mut().for_each(|target| *target = target.at(path));
        }
        Ok(Plan {
            run: self.run.clone(),
            channels: channels(self.channel.as_deref(), self.seats.channels, &self.run, self.size),
            seats: self.seats,
            targets,
            token: self.access.token.clone(),
            size: self.size,
            clock: self.clock,
            connecting: self.access.connecting_per_thread(),
            manner: self.access.manner(),
            entry: self.entry,
        })
    }
}

/// A run's plan.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) run: String,
    pub(super) channels: Vec<Channel>,
    pub(super) seats: Seats,
    pub(super) targets: Vec<Target>,
    pub(super) token: Option<String>,
    pub(super) size: usize,
    pub(super) clock: Clock,
    /// Connections that one thread opens at the same time.
    pub(super) connecting: usize,
    pub(super) manner: Manner,
    pub(super) entry: Entry,
}

/// A channel of the run.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: String,
    pub(super) scanner: Scanner,
}

/// The channels of a run: of one its name, of several its name and a number.
fn channels(name: Option<&str>, count: usize, run: &str, size: usize) -> Vec<Channel> {
    let name = name.map_or_else(|| format!("load-{run}"), str::to_owned);
    let numbered = |n| if count == 1 { name.clone() } else { format!("{name}-{n}") };
    let channel = |name: String| Channel { scanner: Scanner::new(&name, run, size), name };
    (0..count).map(numbered).map(channel).collect()
}

/// How many clients sit where. Client `n` is on channel `n % channels`, in turn, so that what is published one after the
/// other goes to one channel after the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Seats {
    pub(super) channels: usize,
    /// On each channel: those who only listen.
    pub(super) listeners: usize,
    /// On each channel: those who publish, too.
    pub(super) publishers: usize,
    /// The share of the listeners, 0 to 1, who stop reading once they have subscribed.
    pub(super) stalled: f64,
}

/// A client's seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) channel: usize,
    /// Its number among the channel's publishers, if it is one.
    pub(super) publisher: Option<u32>,
    pub(super) is_stalled: bool,
}

impl Seats {
    pub(super) fn clients(&self) -> usize {
        self.channels * self.per_channel()
    }

    fn per_channel(&self) -> usize {
        self.listeners + self.publishers
    }

    pub(super) fn all_publishers(&self) -> usize {
        self.channels * self.publishers
    }

    pub(super) fn seat(&self, n: usize) -> Seat {
        let (channel, place) = (n % self.channels, n / self.channels);
        let publisher = place.checked_sub(self.listeners).map(|publisher| u32::try_from(publisher).unwrap_or(u32::MAX));
        Seat { channel, publisher, is_stalled: publisher.is_none() && self.stalls(place) }
    }

    /// Spread evenly: the count of the stalled grows by one just here.
    fn stalls(&self, place: usize) -> bool {
        self.stalled_below(place + 1) > self.stalled_below(place)
    }

    fn stalled_below(&self, place: usize) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "never more than places")]
        let count = (place as f64 * self.stalled + 1e-9) as u64;
        count
    }

    /// Who stalls, of all.
    pub(super) fn stalled(&self) -> u64 {
        self.channels as u64 * self.stalled_below(self.listeners)
    }

    /// Who is expected to receive a publication.
    pub(super) fn receivers_of_each(&self) -> u64 {
        self.per_channel() as u64 - self.stalled_below(self.listeners)
    }

    /// Who is expected to receive anything.
    pub(super) fn receivers(&self) -> u64 {
        self.channels as u64 * self.receivers_of_each()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_publisher_of_every_channel_has_one_seat() {
        let seats = Seats { channels: 3, listeners: 2, publishers: 4, stalled: 0.0 };
        let all: Vec<Seat> = (0..seats.clients()).map(|n| seats.seat(n)).collect();
        for channel in 0..3 {
            let there: Vec<_> = all.iter().filter(|seat| seat.channel == channel).map(|seat| seat.publisher).collect();
            assert_eq!(there, [None, None, Some(0), Some(1), Some(2), Some(3)]);
        }
        assert_eq!((seats.clients(), seats.all_publishers(), seats.receivers_of_each()), (18, 12, 6));
    }

    #[test]
    fn a_tenth_of_the_listeners_stalls_and_no_publisher() {
        let seats = Seats { channels: 1, listeners: 1000, publishers: 1, stalled: 0.1 };
        let stalled = (0..1001).filter(|n| seats.seat(*n).is_stalled).count();
        assert_eq!((stalled, seats.stalled(), seats.receivers()), (100, 100, 901));
        assert!(!seats.seat(1000).is_stalled);
    }

    #[test]
    fn one_channel_keeps_its_name_and_several_are_numbered() {
        let names = |count| channels(Some("live:a"), count, "r", 128).into_iter().map(|channel| channel.name);
        assert_eq!(names(1).collect::<Vec<_>>(), ["live:a"]);
        assert_eq!(names(2).collect::<Vec<_>>(), ["live:a-0", "live:a-1"]);
    }
}
