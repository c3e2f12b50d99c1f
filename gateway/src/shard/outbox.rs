//! One connection's queue of frames that its socket has not taken yet.

use std::{collections::VecDeque, rc::Rc};

use skywave_proto::{ChannelName, StreamPosition};

use super::delivery::{Label, Parcel};
use crate::{
    config::SlowConsumer,
    push::{Encoded, Format, Frame, GapDetail, GapReason, Goodbye, Push},
};

/// A bounded queue of shared frames, ended by at most one goodbye.
///
/// Bound: `limits.outbox_bytes`, payloads and what each entry costs, emptied as the socket drains. Full: the policy of the
/// channel whose publication does not fit decides ([`Pushed`]); one slow reader never holds up a channel. A single frame
/// always fits into an empty queue. What is not a publication is never left out: it makes room, or the client is slow.
#[derive(Debug)]
#[repr(C)] // what is looked at for a client that reads comes first
pub struct Outbox {
    /// The first entry has its place here: who reads as fast as is written never needs more.
    first: Option<Entry>,
    goodbye: Option<Box<Goodbye>>,
    position: Option<StreamPosition>,
    rest: VecDeque<Entry>,
    bytes: usize,
    bound: usize,
}

#[derive(Debug)]
enum Entry {
    Parcel(Rc<Parcel>),
    /// Here publications of a channel have been dropped.
    Gap(Box<Missing>),
}

#[derive(Debug)]
struct Missing {
    label: Rc<Label>,
    count: u64,
    /// The last of them.
    position: Option<StreamPosition>,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// It took the place of an older one of its channel.
    Conflated,
    /// It waits, and for it older ones were dropped, for the first time since their client was told.
    Dropped,
    /// It does not wait, and nothing else of its channel does any more: the client goes on from history after this
    /// position.
    Behind(StreamPosition),
    /// It does not fit: the client is too slow.
    Full,
}

impl Outbox {
    /// An empty queue of at most `bound` bytes.
    pub fn new(bound: usize) -> Self {
        Self { first: None, rest: VecDeque::new(), bytes: 0, bound, goodbye: None, position: None }
    }

    /// Whether a frame can be appended without leaving out anything.
    pub fn fits(&self, parcel: &Parcel) -> bool {
        self.has_room(parcel.cost()) || self.goodbye.is_some()
    }

    /// Appends a frame, whatever the bound: it is written in a moment, and then it is seen what the socket takes.
    pub fn push_unjudged(&mut self, parcel: Rc<Parcel>) {
        if self.goodbye.is_none() {
            self.append(Entry::Parcel(parcel));
        }
    }

    /// Appends a frame. Never waits. After a goodbye it is dropped. `is_blocked`: the socket takes nothing now.
    pub fn push(&mut self, parcel: Rc<Parcel>, is_blocked: bool) -> Pushed {
        if self.goodbye.is_some() {
            return Pushed::Queued;
        }
        let cost = parcel.cost();
        if is_blocked && parcel.label().is_some_and(|label| label.policy == SlowConsumer::Latest) {
            // A queue of other things that is so long is not walked over for each publication.
            if self.rest.len() > WALK {
                return Pushed::Full;
            }
            if self.conflate(&parcel) {
                let is_over = self.bytes > self.bound && !self.rest.is_empty();
                return if is_over { Pushed::Full } else { Pushed::Conflated };
            }
        }
        if self.has_room(cost) {
            self.append(Entry::Parcel(parcel));
            return Pushed::Queued;
        }
        if let Some(label) = parcel.label()
            && label.policy == SlowConsumer::Resync
            && let Some(position) = parcel.frame().position()
        {
            let first = self.withdraw(label).unwrap_or(position);
            return Pushed::Behind(StreamPosition { offset: first.offset.saturating_sub(1), ..first });
        }
        // A publication of a channel that loses none does not push out those of others: its own policy is to end here.
        if parcel.label().is_some_and(|label| label.policy == SlowConsumer::Disconnect) {
            return Pushed::Full;
        }
        let mut pushed = Pushed::Queued;
        while !self.has_room(cost) {
            match self.drop_oldest() {
                Some(true) => pushed = Pushed::Dropped,
                Some(false) => {}
                // A single frame always fits, also behind what says that others were dropped.
                None if self.entries().all(|entry| matches!(entry, Entry::Gap(_))) => break,
                None => return Pushed::Full,
            }
        }
        self.append(Entry::Parcel(parcel));
        pushed
    }

    fn has_room(&self, cost: usize) -> bool {
        self.bytes + cost <= self.bound || self.first.is_none()
    }

    fn append(&mut self, entry: Entry) {
        self.bytes += entry.cost();
        if self.first.is_none() {
            self.first = Some(entry);
        } else {
            self.rest.push_back(entry);
        }
    }

    /// Puts a publication in the place of those of its channel that wait, where only the latest counts.
    fn conflate(&mut self, parcel: &Rc<Parcel>) -> bool {
        let Some(label) = parcel.label().filter(|label| label.policy == SlowConsumer::Latest) else { return false };
        let mut is_placed = false;
        let mut keep = |entry: &mut Entry| {
            let is_older = entry.is_of(label);
            if is_older && !is_placed {
                *entry = Entry::Parcel(parcel.clone());
                is_placed = true;
                return true;
            }
            !is_older
        };
        if let Some(first) = &mut self.first {
            keep(first);
        }
        self.rest.retain_mut(keep);
        if is_placed {
            self.bytes = self.entries().map(Entry::cost).sum();
        }
        is_placed
    }

    /// Takes out what waits of a channel. Returns the position of the first of it.
    fn withdraw(&mut self, label: &Rc<Label>) -> Option<StreamPosition> {
        let position = self.entries().find(|entry| entry.is_of(label)).and_then(Entry::position);
        self.rest.retain(|entry| !entry.is_of(label));
        if self.first.as_ref().is_some_and(|entry| entry.is_of(label)) {
            self.first = self.rest.pop_front();
        }
        self.bytes = self.entries().map(Entry::cost).sum();
        position
    }

    /// Drops the oldest publication that may be dropped, and remembers to say so. Returns whether nothing had been dropped
    /// at that place before; `None` if there is none to drop, or none near the front.
    fn drop_oldest(&mut self) -> Option<bool> {
        let at = self
            .entries()
            .take(WALK)
            .position(|entry| matches!(entry, Entry::Parcel(parcel) if is_droppable(parcel)))?;
        let Entry::Parcel(oldest) = self.get_mut(at)? else { return None };
        let oldest = oldest.clone();
        let (label, position) = (oldest.label()?.clone(), oldest.frame().position());
        let told = self.entries_mut().take(at).find_map(|entry| match entry {
            Entry::Gap(missing) if Rc::ptr_eq(&missing.label, &label) => Some(missing),
            _ => None,
        });
        let Some(missing) = told else {
            *self.get_mut(at)? = Entry::Gap(Box::new(Missing { label, count: 1, position }));
            self.bytes = self.bytes - oldest.cost() + GAP_BYTES;
            return Some(true);
        };
        missing.count += 1;
        missing.position = position.or(missing.position);
        self.remove(at);
        self.bytes -= oldest.cost();
        Some(false)
    }

    fn remove(&mut self, at: usize) {
        match at.checked_sub(1) {
            Some(at) => drop(self.rest.remove(at)),
            None => self.first = self.rest.pop_front(),
        }
    }

    fn get_mut(&mut self, at: usize) -> Option<&mut Entry> {
        match at.checked_sub(1) {
            Some(at) => self.rest.get_mut(at),
            None => self.first.as_mut(),
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> + Clone {
        self.first.iter().chain(&self.rest)
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.first.iter_mut().chain(&mut self.rest)
    }

    /// Ends the queue: what is in it goes out, then `last` if the client's protocol has one, then the close frame. The
    /// first goodbye wins.
    pub fn finish(&mut self, goodbye: Goodbye, last: Option<Frame>) {
        if self.goodbye.is_none() {
            if let Some(last) = last {
                self.append(Entry::Parcel(Parcel::of(last)));
            }
            self.goodbye = Some(Box::new(goodbye));
        }
    }

    /// Drops publications that may be dropped, the oldest first, until no more than `bytes` wait. Returns whether that was
    /// enough.
    pub fn shed(&mut self, bytes: usize) -> bool {
        while self.bytes > bytes {
            if self.drop_oldest().is_none() {
                return false;
            }
        }
        true
    }

    /// Drops what is queued, for a client that does not read.
    pub fn clear(&mut self) {
        self.first = None;
        self.rest = VecDeque::new();
        self.bytes = 0;
    }

    /// The frames that come next, as they are: up to the first that has to be made yet.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> + Clone {
        self.entries().map_while(|entry| match entry {
            Entry::Parcel(parcel) => Some(parcel.frame()),
            Entry::Gap(_) => None,
        })
    }

    /// The first of [`Outbox::frames`].
    pub fn next_frame(&self) -> Option<&Frame> {
        match &self.first {
            Some(Entry::Parcel(parcel)) => Some(parcel.frame()),
            Some(Entry::Gap(_)) | None => None,
        }
    }

    /// The next frame. What has to be made is made in this format.
    pub fn pop(&mut self, format: &dyn Format) -> Option<Frame> {
        let entry = self.first.take()?;
        self.took(&entry);
        match entry {
            Entry::Parcel(parcel) => Some(parcel.frame().clone()),
            Entry::Gap(missing) => missing.encode(format).or_else(|| self.pop(format)),
        }
    }

    /// Takes the next frame away: the socket has been given it.
    pub fn advance(&mut self) {
        if let Some(entry) = self.first.take() {
            self.took(&entry);
        }
    }

    fn took(&mut self, first: &Entry) {
        self.bytes -= first.cost();
        self.position = first.position().or(self.position);
        self.first = self.rest.pop_front();
        if self.first.is_none() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new(); // a queue that was long keeps nothing
        }
    }

    /// The position of the last publication that the socket has been given.
    pub fn position(&self) -> Option<StreamPosition> {
        self.position
    }

    /// Says where the client stands before its first publication.
    pub fn set_position(&mut self, position: Option<StreamPosition>) {
        self.position = position;
    }

    /// The goodbye, once all before it has been taken.
    pub fn goodbye(&self) -> Option<&Goodbye> {
        self.ending().filter(|_| self.first.is_none())
    }

    /// The goodbye, whatever is to be taken before it.
    pub fn ending(&self) -> Option<&Goodbye> {
        self.goodbye.as_deref()
    }

    /// Whether the connection is to end, now or after what is queued.
    pub fn is_finished(&self) -> bool {
        self.goodbye.is_some()
    }

    /// Nothing waits, and nothing need wait for anything.
    pub fn is_idle(&self) -> bool {
        self.first.is_none() && self.goodbye.is_none()
    }

    /// Nothing is waiting for the socket.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// What waits, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most that may wait, in bytes.
    pub fn bound(&self) -> usize {
        self.bound
    }
}

fn is_droppable(parcel: &Parcel) -> bool {
    parcel.label().is_some_and(|label| label.policy == SlowConsumer::DropOldest)
}

/// How far a queue is looked through for something to leave out: whoever lets more pile up in front of that is too slow.
const WALK: usize = 512;
/// What it costs to remember that something was dropped, in bytes.
const GAP_BYTES: usize = size_of::<Missing>() + size_of::<Entry>();

impl Entry {
    fn cost(&self) -> usize {
        match self {
            Self::Parcel(parcel) => parcel.cost(),
            Self::Gap(_) => GAP_BYTES,
        }
    }

    /// Whether it is a publication of this channel.
    fn is_of(&self, label: &Rc<Label>) -> bool {
        matches!(self, Self::Parcel(parcel) if parcel.label().is_some_and(|own| Rc::ptr_eq(own, label)))
    }

    fn position(&self) -> Option<StreamPosition> {
        match self {
            Self::Parcel(parcel) => parcel.frame().position(),
            Self::Gap(missing) => missing.position,
        }
    }
}

impl Missing {
    fn encode(&self, format: &dyn Format) -> Option<Frame> {
        let detail = GapDetail { missed: Some(self.count), position: self.position };
        match format.encode(&Push::Gap(self.label.channel.clone(), GapReason::SlowConsumer, detail)) {
            Encoded::Frame(frame) => Some(frame),
            // The link ends the connection of a client that cannot be told, see `Link::deliver`.
            Encoded::Nothing | Encoded::Close(_) => None,
        }
    }
}

/// A gap of some channel, to see what a format makes of one.
pub(super) fn any_gap() -> Push {
    let channel = ChannelName::parse("any").expect("is short and has nothing that is forbidden");
    Push::Gap(channel, GapReason::SlowConsumer, GapDetail::default())
}

#[cfg(test)]
mod tests {
    use skywave_proto::{CloseCode, Epoch};

    use super::{super::delivery::OVERHEAD, *};

    /// What a gap is, in a word.
    struct Words;

    impl Format for Words {
        fn slot(&self) -> usize {
            0
        }

        fn encode(&self, push: &Push) -> Encoded {
            let Push::Gap(channel, GapReason::SlowConsumer, detail) = push else { return Encoded::Nothing };
            let at = detail.position.map_or(0, |position| position.offset);
            Encoded::Frame(Frame::text(format!("{channel}: {} to {at}", detail.missed.unwrap())))
        }
    }

    struct Bench {
        outbox: Outbox,
        epoch: Epoch,
    }

    const SIZE: usize = 1000;

    impl Bench {
        /// Room for so many frames of the tests.
        fn new(frames: usize) -> Self {
            Self { outbox: Outbox::new(frames * (SIZE + OVERHEAD)), epoch: Epoch::random() }
        }

        fn at(&self, offset: u64) -> StreamPosition {
            StreamPosition { epoch: self.epoch, offset }
        }

        fn publish(&mut self, label: &Rc<Label>, offset: u64) -> Pushed {
            let text = format!("{}{offset:<999}", label.channel).into();
            let frame = Frame::new(true, text, Some(self.at(offset)));
            self.outbox.push(Parcel::new(frame, Some(label.clone())), true)
        }

        fn reply(&mut self) -> Pushed {
            self.outbox.push(Parcel::of(frame(SIZE)), true)
        }

        /// What is in it, in words.
        fn drain(&mut self) -> Vec<String> {
            let frames: Vec<_> = std::iter::from_fn(|| self.outbox.pop(&Words)).collect();
            assert_eq!((self.outbox.bytes, self.outbox.rest.capacity()), (0, 0));
            let text = |frame: &Frame| String::from_utf8(frame.payload().to_vec()).unwrap();
            frames.iter().map(text).map(|text| text.trim_end().to_owned()).collect()
        }
    }

    fn label(channel: &str, policy: SlowConsumer) -> Rc<Label> {
        Rc::new(Label { channel: ChannelName::parse(channel).unwrap(), policy })
    }

    fn frame(size: usize) -> Frame {
        Frame::text("x".repeat(size))
    }

    #[test]
    fn refuses_what_is_over_the_bound_and_takes_it_after_a_pop() {
        let (mut bench, a) = (Bench::new(2), label("a", SlowConsumer::Disconnect));
        assert_eq!((bench.publish(&a, 1), bench.publish(&a, 2)), (Pushed::Queued, Pushed::Queued));
        assert_eq!((bench.publish(&a, 3), bench.reply()), (Pushed::Full, Pushed::Full));
        assert!(bench.outbox.pop(&Words).is_some());
        assert_eq!(bench.outbox.position(), Some(bench.at(1)));
        assert_eq!(bench.publish(&a, 3), Pushed::Queued);
    }

    #[test]
    fn one_frame_fits_however_large() {
        assert_eq!(Outbox::new(10).push(Parcel::of(frame(1000)), true), Pushed::Queued);
    }

    #[test]
    fn the_goodbye_comes_last_and_once() {
        let mut outbox = Outbox::new(1000);
        outbox.push(Parcel::of(frame(1)), false);
        outbox.finish(CloseCode::Draining.into(), None);
        outbox.finish(CloseCode::Normal.into(), None);
        assert_eq!(outbox.goodbye(), None);
        assert_eq!(outbox.push(Parcel::of(frame(2)), false), Pushed::Queued);
        assert_eq!((outbox.pop(&Words), outbox.pop(&Words)), (Some(frame(1)), None));
        assert_eq!(outbox.goodbye().map(|g| g.code), Some(CloseCode::Draining));
    }

    #[test]
    fn a_long_queue_gives_its_memory_back() {
        let mut bench = Bench::new(10_000);
        (0..10_000).for_each(|_| assert_eq!(bench.reply(), Pushed::Queued));
        assert_eq!(bench.drain().len(), 10_000);
    }

    #[test]
    fn the_oldest_go_and_the_client_is_told_where() {
        let (a, b) = (label("a", SlowConsumer::DropOldest), label("b", SlowConsumer::DropOldest));
        let mut bench = Bench::new(4);
        bench.reply();
        assert_eq!(
            (bench.publish(&a, 1), bench.publish(&b, 1), bench.publish(&a, 2)),
            (Pushed::Queued, Pushed::Queued, Pushed::Queued)
        );
        // What says so has to fit, too: it takes more than one to make room for the first.
        assert_eq!(bench.publish(&a, 3), Pushed::Dropped);
        assert_eq!(bench.publish(&a, 4), Pushed::Queued, "it will be told already");
        let words = bench.drain();
        assert_eq!(words[1..], ["a: 2 to 2", "b: 1 to 1", "a3", "a4"]);
        assert_eq!(bench.outbox.position(), Some(bench.at(4)));
        assert_eq!(bench.publish(&a, 5), Pushed::Queued);
        assert_eq!(bench.drain(), ["a5"], "what went out is not told again");
    }

    #[test]
    fn what_must_not_be_left_out_makes_room_or_does_not_fit() {
        let (a, b) = (label("a", SlowConsumer::DropOldest), label("b", SlowConsumer::Disconnect));
        let mut bench = Bench::new(3);
        assert_eq!(
            (bench.publish(&a, 1), bench.publish(&a, 2), bench.publish(&b, 1)),
            (Pushed::Queued, Pushed::Queued, Pushed::Queued)
        );
        assert_eq!(bench.publish(&b, 2), Pushed::Full, "its own policy");
        assert_eq!(bench.reply(), Pushed::Dropped);
        assert_eq!(bench.reply(), Pushed::Full);
        let words = bench.drain();
        assert_eq!(words[..2], ["a: 2 to 2", "b1"]);
    }

    #[test]
    fn only_the_latest_of_a_channel_waits() {
        let (a, b) = (label("a", SlowConsumer::Latest), label("b", SlowConsumer::Latest));
        let mut bench = Bench::new(3);
        assert_eq!((bench.publish(&a, 1), bench.publish(&b, 1)), (Pushed::Queued, Pushed::Queued));
        for offset in 2..1000 {
            assert_eq!((bench.publish(&a, offset), bench.publish(&b, offset)), (Pushed::Conflated, Pushed::Conflated));
        }
        assert_eq!(bench.drain(), ["a999", "b999"]);
        let frame = |offset| Frame::new(true, format!("a{offset}").into(), Some(bench.at(offset)));
        let parcels = [1, 2].map(|offset| Parcel::new(frame(offset), Some(a.clone())));
        for parcel in &parcels {
            assert_eq!(bench.outbox.push(parcel.clone(), false), Pushed::Queued, "whoever reads gets all");
        }
        assert_eq!(bench.drain(), ["a1", "a2"]);
        for parcel in parcels {
            bench.outbox.push(parcel, false);
        }
        assert_eq!(bench.publish(&a, 3), Pushed::Conflated, "what was queued before it was known");
        assert_eq!(bench.drain(), ["a3"]);
    }

    #[test]
    fn who_falls_behind_goes_on_from_the_first_that_was_not_taken() {
        let (a, b) = (label("a", SlowConsumer::Resync), label("b", SlowConsumer::Resync));
        let mut bench = Bench::new(3);
        for (label, offset) in [(&a, 5), (&b, 9), (&a, 6)] {
            assert_eq!(bench.publish(label, offset), Pushed::Queued);
        }
        assert_eq!(bench.publish(&a, 7), Pushed::Behind(bench.at(4)));
        assert_eq!(bench.drain(), ["b9"]);
        (0..3).for_each(|_| assert_eq!(bench.reply(), Pushed::Queued));
        assert_eq!(bench.publish(&b, 10), Pushed::Behind(bench.at(9)), "none of it waited");
    }

    #[test]
    fn shedding_drops_what_may_be_dropped() {
        let (a, b) = (label("a", SlowConsumer::DropOldest), label("b", SlowConsumer::Disconnect));
        let mut bench = Bench::new(10);
        (1..=5).for_each(|offset| assert_eq!(bench.publish(&a, offset), Pushed::Queued));
        assert!(bench.outbox.shed(3 * (SIZE + OVERHEAD)));
        bench.publish(&b, 1);
        assert!(!bench.outbox.shed(0));
        assert_eq!(bench.drain(), ["a: 5 to 5", "b1"]);
    }
}
