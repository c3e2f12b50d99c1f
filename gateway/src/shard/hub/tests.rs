//! Passes: who gets what, in which order, and who waits for whom.

use std::ops::Range;

use skywave_backplane::{Any, Gap, Memory, PresenceEvent};
use skywave_proto::{Epoch, Payload};

use super::*;
use crate::{
    push::{Encoded, Format, Frame},
    relay::{Answers, Routes},
    shard::{Backlog, SLICE, backlog::Waiting},
};

/// The data of a publication, or the kind of a push, in a word.
struct Words;

impl Format for Words {
    fn slot(&self) -> usize {
        0
    }

    fn encode(&self, push: &Push) -> Encoded {
        let word = match push {
            Push::Publication(_, publication) => publication.payload.data().clone(),
            Push::Gap(_, reason, _) => reason.as_str().into(),
            other => format!("{other:?}").into(),
        };
        Encoded::Frame(Frame::text(word))
    }
}

/// Hears nothing.
pub(super) struct Nobody;

impl skywave_backplane::Sink for Nobody {
    fn publication(&self, _: &ChannelName, _: Publication) {}
    fn gap(&self, _: &ChannelName, _: Gap) {}
    fn presence(&self, _: &ChannelName, _: PresenceEvent) {}
    fn presence_gap(&self, _: &ChannelName) {}
    fn signal(&self, _: Arc<str>, _: bytes::Bytes) {}
    fn state(&self, _: skywave_backplane::BackplaneState) {}
}

/// A hub whose backplane never answers: the tests do.
struct Bench {
    hub: Hub,
    epoch: Epoch,
    keys: u64,
}

struct Seat {
    link: Rc<Link>,
    channel: ChannelName,
    place: usize,
}

impl Seat {
    /// What has come to it since it was last asked.
    fn words(&self) -> Vec<String> {
        let frames = std::iter::from_fn(|| self.link.pop());
        frames.map(|frame| String::from_utf8(frame.payload().to_vec()).unwrap()).collect()
    }
}

impl Bench {
    fn new() -> Self {
        let (routes, _signals) = Routes::new(Arc::new([]));
        let memory = Any::Memory(Memory::new(Arc::new(Nobody)));
        let relay = Relay::start(memory, Arc::new(routes), Answers::new(Arc::new([])));
        Self { hub: Hub::new(0, relay, Rc::new(Figures::new())), epoch: Epoch::random(), keys: 0 }
    }

    fn at(&self, offset: u64) -> StreamPosition {
        StreamPosition { epoch: self.epoch, offset }
    }

    /// Somebody who waits for what comes before.
    fn attach(&mut self, name: &str, flush_interval: Duration) -> Seat {
        let channel = ChannelName::parse(name).unwrap();
        self.keys += 1;
        let waiting = Waiting::new(0, Backlog::new(1, None));
        let link = Link::new(self.keys, &Words, 1 << 20, Rc::default(), waiting);
        let attach = Attach {
            interest: Interest { channel: channel.clone(), history: None, presence: false },
            namespace: "default",
            slow_consumer: SlowConsumer::Disconnect,
            flush_interval,
            echo: true,
            presence: false,
        };
        let (place, attached) = self.hub.attach(&link, attach).unwrap();
        if attached == Attached::Joining {
            let join = self.hub.joins;
            self.hub.joined(&channel, join, Ok(Some(self.at(0))));
        }
        Seat { link, channel, place }
    }

    fn activate(&mut self, seat: &Seat, offset: u64) -> Activation {
        self.hub.activate(&seat.channel, seat.place, seat.link.key(), Some(self.at(offset)))
    }

    /// Somebody who is live.
    fn member(&mut self, name: &str, offset: u64) -> Seat {
        let seat = self.attach(name, Duration::ZERO);
        assert_eq!(self.activate(&seat, offset), Activation::Live);
        seat
    }

    fn members(&mut self, name: &str, count: usize) -> Vec<Seat> {
        (0..count).map(|_| self.member(name, 0)).collect()
    }

    /// Publishes more than a channel takes in, as a shard does that looks at what it is told.
    fn publish_and_deliver(&mut self, name: &str, offsets: Range<u64>) {
        for offset in offsets {
            if self.publish(name, offset..offset + 1) {
                self.hub.advance(SLICE);
            }
        }
    }

    /// Publishes. Returns whether something is to be delivered before more is.
    fn publish(&mut self, name: &str, offsets: Range<u64>) -> bool {
        let mut is_full = false;
        for offset in offsets {
            let publication = Publication {
                position: Some(self.at(offset)),
                payload: Payload::json(offset.to_string().into()),
                client: None,
                user: None,
                published_at_ms: 0,
            };
            let push = Push::Publication(ChannelName::parse(name).unwrap(), publication);
            is_full |= self.hub.push(&Prepared::new(push));
        }
        is_full
    }

    fn leave(&mut self, seat: &Seat) {
        self.hub.detach(&seat.channel, seat.place, seat.link.key());
    }
}

#[tokio::test]
async fn a_crowd_holds_up_nobody_for_longer_than_one_slice() {
    let mut bench = Bench::new();
    let crowd = bench.members("crowd", 10_000);
    let quiet: Vec<_> = (0..50).map(|n| bench.member(&format!("quiet:{n}"), 0)).collect();
    bench.publish("crowd", 1..2);
    let (mut slices, mut next) = (0, 1);
    while bench.hub.has_work() {
        // Somebody publishes on every quiet channel at any time.
        for n in 0..quiet.len() {
            bench.publish(&format!("quiet:{n}"), next..next + 1);
        }
        // What is in hand when it comes is done first; then it is its turn, whatever the crowd still has to get.
        for _ in 0..2 {
            bench.hub.advance(SLICE);
            slices += 1;
        }
        assert!(quiet.iter().all(|seat| seat.words() == [next.to_string()]), "after {slices} slices");
        next += 1;
    }
    // Two slices in a row have room for 462 of the crowd beside the 50.
    assert_eq!(slices, 2 * 10_000usize.div_ceil(2 * SLICE - quiet.len()));
    assert!(crowd.iter().all(|seat| seat.words() == ["1"]));
}

#[tokio::test]
async fn what_comes_during_a_pass_goes_out_with_the_next_and_in_order() {
    let mut bench = Bench::new();
    let seats = bench.members("a", 10);
    bench.publish("a", 1..3);
    bench.hub.advance(4);
    bench.publish("a", 3..5);
    bench.hub.advance(6);
    assert!(seats.iter().all(|seat| seat.words() == ["1", "2"]));
    bench.hub.advance(10);
    assert!(seats.iter().all(|seat| seat.words() == ["3", "4"]));
    assert!(!bench.hub.has_work());
}

#[tokio::test]
async fn who_comes_and_goes_during_a_pass_gets_each_publication_once() {
    let mut bench = Bench::new();
    let mut seats = bench.members("a", 10);
    bench.publish("a", 1..3);
    bench.hub.advance(5);
    // Two go, one of whom the pass has reached; each has got what was published while it was there.
    for place in [7, 2] {
        let gone = seats.remove(place);
        bench.leave(&gone);
        assert_eq!(gone.words(), ["1", "2"]);
    }
    // Their places are taken again, before and behind the pass, by one that has read both and one that has read neither.
    let (early, late) = (bench.attach("a", Duration::ZERO), bench.attach("a", Duration::ZERO));
    assert_eq!((early.place, late.place), (2, 7));
    assert_eq!(bench.activate(&early, 2), Activation::Live);
    assert_eq!(bench.activate(&late, 0), Activation::Fetch, "what is pending is not held for it");
    bench.publish("a", 3..4);
    bench.hub.advance(100);
    assert_eq!((early.words(), late.words()), (vec!["3".to_owned()], vec![]));
    assert_eq!(bench.activate(&late, 2), Activation::Live);
    assert_eq!(late.words(), ["3"], "held for it meanwhile");
    bench.publish("a", 4..5);
    bench.hub.advance(100);
    assert_eq!((early.words(), late.words()), (vec!["4".to_owned()], vec!["4".to_owned()]));
    assert!(seats.iter().all(|seat| seat.words() == ["1", "2", "3", "4"]));
}

#[tokio::test]
async fn a_channel_that_is_behind_takes_in_no_more_and_reads_it_later() {
    let mut bench = Bench::new();
    let seat = bench.member("a", 0);
    bench.publish("a", 1..3000);
    bench.hub.advance(SLICE);
    let words = seat.words();
    assert!(words.len() < 2000, "{} are too many to be kept", words.len());
    assert!(words.iter().map(|word| word.parse::<u64>().unwrap()).eq(1..=words.len() as u64));
    // It waits for its history; what comes meanwhile is held.
    bench.publish("a", 3000..3001);
    bench.hub.advance(SLICE);
    assert_eq!(seat.words(), Vec::<String>::new());
    let topic = &bench.hub.topics[&seat.channel];
    assert_eq!((topic.last, topic.waiting.is_some()), (Some(bench.at(words.len() as u64)), true));
}

#[tokio::test]
async fn what_its_members_can_be_given_at_once_is_never_too_much() {
    for interval in [Duration::ZERO, Duration::from_secs(3600)] {
        let mut bench = Bench::new();
        let seat = bench.attach("a", interval);
        assert_eq!(bench.activate(&seat, 0), Activation::Live);
        let mut words = Vec::new();
        bench.publish("a", 1..2);
        bench.hub.advance(SLICE);
        for from in (2..5002).step_by(100) {
            bench.publish_and_deliver("a", from..from + 100);
            words.extend(seat.words());
        }
        // What is left waits for its time, if there is one.
        assert_eq!(bench.hub.has_work(), interval.is_zero());
        bench.hub.open(Instant::now() + 2 * interval);
        bench.hub.advance(SLICE);
        words.extend(seat.words());
        assert!(words.iter().map(|word| word.parse::<u64>().unwrap()).eq(1..5002), "{interval:?}");
        assert!(bench.hub.topics[&seat.channel].waiting.is_none());
    }
}

#[tokio::test]
async fn who_is_behind_goes_on_though_something_else_is_always_pending() {
    let mut bench = Bench::new();
    let crowd = bench.members("a", 2 * SLICE);
    bench.publish("a", 1..3000);
    assert!(bench.hub.topics[&crowd[0].channel].is_behind);
    for _ in 0..4 {
        bench.hub.advance(SLICE);
        let gap = Gap::Possible;
        bench.hub.push(&Prepared::new(Push::gap(crowd[0].channel.clone(), gap)));
    }
    let topic = &bench.hub.topics[&crowd[0].channel];
    assert!(!topic.is_behind && topic.waiting.is_some(), "it reads its history");
}

#[tokio::test]
async fn a_channel_with_an_interval_is_flushed_at_once_and_then_once_an_interval() {
    let mut bench = Bench::new();
    let seat = bench.attach("a", Duration::from_millis(20));
    assert_eq!(bench.activate(&seat, 0), Activation::Live);
    bench.publish("a", 1..2);
    bench.hub.advance(SLICE);
    assert_eq!(seat.words(), ["1"], "the first after a silence");
    bench.publish("a", 2..4);
    assert!(!bench.hub.has_work());
    let opening = bench.hub.next_opening().unwrap();
    bench.hub.open(opening - Duration::from_millis(1));
    assert!(!bench.hub.has_work(), "not before");
    bench.publish("a", 4..5);
    bench.hub.open(opening);
    bench.hub.advance(SLICE);
    assert_eq!(seat.words(), ["2", "3", "4"], "in one piece");
    tokio::time::sleep_until(Instant::now() + Duration::from_millis(20)).await; // the moment itself, not a guess
    bench.publish("a", 5..6);
    assert!(bench.hub.has_work() && bench.hub.next_opening().is_none(), "a silence is over");
}
