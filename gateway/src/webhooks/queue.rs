//! Events that wait: first for their opposite, then for company, then for the receiver. Pure; time is passed in.

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

use super::event::{Event, Subject};
use crate::config::{EventHook, EventType};

/// Bound: `webhooks.events.queue` events and `queue_bytes` bytes, those of a delivery under way included. Full: the next one
/// is lost, so that what waits already arrives as it was queued. Emptied by the deliveries, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By the order in which they happened.
    waiting: BTreeMap<u64, Waiting>,
    /// What may still be taken away by its opposite.
    young: HashMap<Subject, u64, ahash::RandomState>,
    next: u64,
    /// Of `waiting` and `taken`.
    bytes: usize,
    /// Of the delivery under way: events and bytes.
    taken: (usize, usize),
    closed: bool,
}

/// An event in the queue.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) event: Event,
    /// Names it for the receiver.
    pub(super) id: String,
    pub(super) at_ms: u64,
    pub(super) since: Instant,
    due: Instant,
}

/// What has become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It waits.
    Queued,
    /// Its opposite waited: both are gone.
    Cancelled,
    /// The same waits already, and says now when that was the last time.
    Repeated,
    /// No room, or the node is at its end.
    Lost,
}

/// Whether there is something to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    Now,
    /// Look again then, or when something is put in.
    At(Instant),
    Empty,
}

impl Queue {
    /// Puts an event in. `id` is asked for if it stays.
    pub(super) fn put(
        &mut self,
        event: Event,
        now: Instant,
        at_ms: u64,
        settings: &EventHook,
        id: impl FnOnce() -> String,
    ) -> Put {
        let subject = event.subject();
        let at_ms = event.at_ms().unwrap_or(at_ms);
        if let Some((place, earlier)) = self.young(&subject, now) {
            if earlier == event.kind() {
                self.renew(place, event, at_ms);
                return Put::Repeated;
            }
            self.young.remove(&subject);
            self.remove(place);
            return Put::Cancelled;
        }
        let bytes = event.bytes();
        let is_full = self.len() >= settings.queue as usize || self.bytes + bytes > settings.queue_bytes;
        if self.closed || is_full {
            return Put::Lost;
        }
        let place = self.next;
        self.next += 1;
        self.bytes += bytes;
        if !settings.debounce.is_zero() {
            self.young.insert(subject, place);
        }
        let due = now + settings.debounce;
        self.waiting.insert(place, Waiting { event, id: id(), at_ms, since: now, due });
        Put::Queued
    }

    /// The event of this subject that its opposite can still take away.
    fn young(&self, subject: &Subject, now: Instant) -> Option<(u64, EventType)> {
        let place = *self.young.get(subject)?;
        let waiting = self.waiting.get(&place).filter(|waiting| now < waiting.due)?;
        Some((place, waiting.event.kind()))
    }

    /// It has happened again: between the two another node was told of the opposite, and by the later position the receiver
    /// knows which was last.
    fn renew(&mut self, place: u64, event: Event, at_ms: u64) {
        if let Some(waiting) = self.waiting.get_mut(&place) {
            self.bytes = self.bytes + event.bytes() - waiting.event.bytes();
            (waiting.event, waiting.at_ms) = (event, at_ms);
        }
    }

    fn remove(&mut self, place: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&place)?;
        self.bytes -= waiting.event.bytes();
        Some(waiting)
    }

    /// Whether a delivery is due: full, or its first event has waited for company long enough, or there will be none.
    pub(super) fn ready(&self, now: Instant, settings: &EventHook) -> Ready {
        let Some((_, first)) = self.waiting.first_key_value() else { return Ready::Empty };
        let last_of_full = self.waiting.values().nth(usize::from(settings.batch).saturating_sub(1));
        let alone = first.due + settings.batch_wait;
        let at = last_of_full.map_or(alone, |last| last.due.max(first.due).min(alone));
        if self.closed || at <= now { Ready::Now } else { Ready::At(at) }
    }

    /// The events of the next delivery. They count until [`Queue::settle`].
    pub(super) fn take(&mut self, now: Instant, settings: &EventHook) -> Vec<Waiting> {
        let mut taken = Vec::new();
        while taken.len() < usize::from(settings.batch) {
            let Some((_, first)) = self.waiting.first_key_value() else { break };
            if first.due > now && !self.closed {
                break;
            }
            let Some((place, waiting)) = self.waiting.pop_first() else { break };
            let subject = waiting.event.subject();
            // A later event of this subject may stand there already.
            if self.young.get(&subject) == Some(&place) {
                self.young.remove(&subject);
            }
            self.taken = (self.taken.0 + 1, self.taken.1 + waiting.event.bytes());
            taken.push(waiting);
        }
        taken
    }

    /// The delivery under way has ended, one way or the other.
    pub(super) fn settle(&mut self) {
        self.bytes -= self.taken.1;
        self.taken = (0, 0);
    }

    /// Events that wait, those of the delivery under way included.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.taken.0
    }

    /// Takes no more in; what waits is due.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.young.clear();
    }

    /// Empties it, but for the delivery under way.
    pub(super) fn drain(&mut self) -> Vec<Event> {
        self.young.clear();
        self.bytes = self.taken.1;
        std::mem::take(&mut self.waiting).into_values().map(|waiting| waiting.event).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skywave_proto::ChannelName;

    use super::*;

    struct Desk {
        queue: Queue,
        start: Instant,
        settings: EventHook,
    }

    fn desk(toml: &str) -> Desk {
        let settings = toml::from_str(&format!("url = \"http://localhost\"\n{toml}")).unwrap();
        Desk { queue: Queue::default(), start: Instant::now(), settings }
    }

    impl Desk {
        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn put(&mut self, ms: u64, event: Event) -> Put {
            let now = self.at(ms);
            self.queue.put(event, now, ms, &self.settings, || format!("at {ms}"))
        }

        fn ready(&self, ms: u64) -> Ready {
            self.queue.ready(self.at(ms), &self.settings)
        }

        fn take(&mut self, ms: u64) -> Vec<String> {
            let now = self.at(ms);
            let taken = self.queue.take(now, &self.settings);
            taken.iter().map(|waiting| format!("{} {}", waiting.event.kind().as_str(), waiting.id)).collect()
        }
    }

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn occupied() -> Event {
        Event::occupied(channel("a"))
    }

    fn vacated() -> Event {
        Event::vacated(channel("a"))
    }

    fn connected(client: &str) -> Event {
        Event::connected(client.into(), None)
    }

    #[test]
    fn opposites_within_the_debounce_take_each_other_away() {
        let mut desk = desk("debounce = \"1s\"\nbatch_wait = \"0s\"");
        assert_eq!(desk.put(0, occupied()), Put::Queued);
        assert_eq!(desk.put(500, Event::vacated(channel("b"))), Put::Queued, "another channel");
        assert_eq!(desk.put(999, vacated()), Put::Cancelled);
        assert_eq!(desk.queue.len(), 1);
        assert_eq!(desk.ready(999), Ready::At(desk.at(1500)));
        assert_eq!(desk.take(2000), ["channel_vacated at 500"]);
        assert_eq!(desk.ready(2000), Ready::Empty);
    }

    #[test]
    fn otherwise_the_last_state_goes_out() {
        let mut desk = desk("debounce = \"1s\"");
        assert_eq!(desk.put(0, vacated()), Put::Queued);
        assert_eq!(desk.put(300, occupied()), Put::Cancelled);
        assert_eq!(desk.put(600, vacated()), Put::Queued);
        assert_eq!(desk.put(700, vacated()), Put::Repeated);
        assert_eq!(desk.take(1599), [""; 0], "its second begins with it");
        assert_eq!(desk.take(1600), ["channel_vacated at 600"]);
    }

    #[test]
    fn what_has_happened_again_says_so() {
        let mut desk = desk("debounce = \"1s\"");
        let joined = |client: &str, offset: u64| {
            let position = format!("abcdefgh:{offset}").parse().ok();
            Event::joined(channel("a"), Some("ada".into()), client.into()).at(10 * offset, position)
        };
        assert_eq!(desk.put(0, joined("first", 1)), Put::Queued);
        // Another node is told that she left, at 2.
        assert_eq!(desk.put(500, joined("another", 3)), Put::Repeated);
        assert_eq!(desk.queue.bytes, joined("another", 3).bytes());
        let taken = desk.queue.take(desk.at(1000), &desk.settings);
        assert_eq!((&taken[0].event, taken[0].at_ms, taken.len()), (&joined("another", 3), 30, 1), "not later for it");
        desk.queue.settle();
        assert_eq!((desk.queue.len(), desk.queue.bytes), (0, 0));
    }

    #[test]
    fn what_has_waited_its_time_stays_as_it_is() {
        let mut desk = desk("debounce = \"1s\"");
        assert_eq!(desk.put(0, occupied()), Put::Queued);
        assert_eq!(desk.put(1000, vacated()), Put::Queued, "the receiver was away meanwhile");
        assert_eq!(desk.put(1500, occupied()), Put::Cancelled);
        assert_eq!(desk.put(1600, vacated()), Put::Queued);
        assert_eq!(desk.take(9000), ["channel_occupied at 0", "channel_vacated at 1600"]);
        assert_eq!(desk.put(9001, occupied()), Put::Queued);
    }

    #[test]
    fn without_a_debounce_everything_is_told() {
        let mut desk = desk("debounce = \"0s\"\nbatch_wait = \"0s\"");
        assert_eq!(desk.put(0, occupied()), Put::Queued);
        assert_eq!(desk.put(0, vacated()), Put::Queued);
        assert_eq!(desk.ready(0), Ready::Now);
        assert_eq!(desk.take(0).len(), 2);
    }

    #[test]
    fn a_delivery_is_due_when_it_is_full_or_has_waited() {
        let mut desk = desk("debounce = \"0s\"\nbatch = 3\nbatch_wait = \"100ms\"");
        desk.put(0, connected("a"));
        desk.put(10, connected("b"));
        assert_eq!(desk.ready(10), Ready::At(desk.at(100)));
        desk.put(20, connected("c"));
        desk.put(20, connected("d"));
        assert_eq!(desk.ready(20), Ready::Now, "full");
        assert_eq!(desk.take(20).len(), 3);
        desk.queue.settle();
        assert_eq!(desk.ready(20), Ready::At(desk.at(120)));
        assert_eq!(desk.ready(120), Ready::Now);
    }

    #[test]
    fn the_bound_holds_in_events_and_bytes_and_counts_what_is_under_way() {
        let mut desk = desk("debounce = \"1s\"\nqueue = 3\nbatch = 2");
        for name in ["a", "b", "c"] {
            assert_eq!(desk.put(0, connected(name)), Put::Queued);
        }
        assert_eq!(desk.put(0, connected("d")), Put::Lost);
        let gone = Event::disconnected("c".into(), None, "none");
        assert_eq!(desk.put(0, gone), Put::Cancelled, "what makes room is let in");
        assert_eq!(desk.put(0, connected("e")), Put::Queued);
        assert_eq!(desk.take(1000).len(), 2);
        assert_eq!(desk.put(1000, connected("f")), Put::Lost, "under way");
        desk.queue.settle();
        assert_eq!(desk.put(1000, connected("f")), Put::Queued);
        assert_eq!(desk.queue.drain().len(), 2);
        assert_eq!((desk.queue.len(), desk.queue.bytes), (0, 0));

        desk.settings.queue_bytes = 2 * connected("a").bytes();
        assert_eq!(desk.put(0, connected("a")), Put::Queued);
        assert_eq!(desk.put(0, connected("b")), Put::Queued);
        assert_eq!(desk.put(0, connected("c")), Put::Lost);
    }

    #[test]
    fn at_the_end_nothing_comes_in_and_everything_is_due() {
        let mut desk = desk("debounce = \"1m\"");
        desk.put(0, occupied());
        desk.queue.close();
        assert_eq!(desk.put(0, vacated()), Put::Lost);
        assert_eq!(desk.ready(0), Ready::Now);
        assert_eq!(desk.take(0), ["channel_occupied at 0"]);
    }
}
