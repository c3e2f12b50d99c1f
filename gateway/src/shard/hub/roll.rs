//! Lists of members, and who follows their changes.
//!
//! A list and the changes after it come on different ways: what changes while a list is being read is collected, and
//! joined to it. Where a change was lost, or the first list could not be had, the list is read again, once for all the
//! channel's followers on the shard, and pushed to them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use skywave_backplane::{BackplaneState, MemberPage, PresenceError, PresenceEvent};
use skywave_proto::ChannelName;

use super::{Hub, topic::Topic};
use crate::{
    push::{Prepared, Push},
    relay::Receipt,
};

/// Joins and leaves that are known while lists of members are on their way; with more, a list is read again.
const CHANGES: usize = 4096;
/// A list that is read in vain is asked for again after 2, 4 and at last each time this many ticks, as a power of two:
/// there is churn that nothing but waiting helps against, and clients that are sent away would only add to it.
const LONGEST_WAIT: u32 = 3;

/// How a member follows joins and leaves.
pub(super) enum Roll {
    /// It did not ask.
    Off,
    /// Its list is on its way, and was asked for before the change with this number.
    Collecting(u64),
    /// It has the list, up to the push with this number.
    Following(u64),
    /// It had the list until a change was lost; the channel reads it again.
    Stale,
    /// Its subscription was answered without a list, for there was none to be had; the channel goes on asking for it.
    Owed,
}

/// What changed on a channel while lists of its members are on their way: one log for all who wait for one, and each knows
/// from where on it matters to it. Changes are counted from 0 on.
///
/// Bound: [`CHANGES`]. Full: the oldest goes, and a list that would have needed it is read again.
#[derive(Debug, Default)]
pub(super) struct Changes {
    last: VecDeque<PresenceEvent>,
    /// The number of the first that is here; earlier ones are not known.
    first: u64,
}

impl Changes {
    /// The number of the next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.last.len() as u64
    }

    pub(super) fn note(&mut self, event: &PresenceEvent) {
        if self.last.len() == CHANGES {
            self.last.pop_front();
            self.first += 1;
        }
        self.last.push_back(event.clone());
    }

    /// A change was lost.
    fn lose(&mut self) {
        self.first = self.next() + 1;
        self.last = VecDeque::new();
    }

    /// Nobody needs those before the next.
    fn clear(&mut self) {
        self.first = self.next();
        self.last = VecDeque::new();
    }

    /// A list that was asked for when `from` was the next change, brought up to date; `None` if not all that changed since
    /// is known. `total` follows only the clients that this page would show: whether it counts a change beyond cannot be
    /// known.
    fn join_to(&self, from: u64, mut page: MemberPage) -> Option<MemberPage> {
        let skipped = usize::try_from(from.checked_sub(self.first)?).ok()?;
        // The last change of each client.
        let mut last = HashMap::<&Arc<str>, &PresenceEvent>::new();
        for event in self.last.iter().skip(skipped) {
            let (PresenceEvent::Join(member) | PresenceEvent::Leave(member)) = event;
            last.insert(&member.client, event);
        }
        // What is listed stays unless it left last; what is left then is of clients that are not listed.
        let before = page.members.len();
        page.members.retain(|known| !matches!(last.remove(&known.client), Some(PresenceEvent::Leave(_))));
        page.total = page.total.saturating_sub((before - page.members.len()) as u64);
        for change in last.into_values() {
            let PresenceEvent::Join(member) = change else { continue };
            let is_beyond = page.next.as_ref().is_some_and(|next| *member.client > **next);
            if !is_beyond {
                page.total += 1;
                page.members.push(member.clone());
            }
        }
        // A backplane need not count and list in one step: who left between the two is not in its count any more.
        page.total = page.total.max(page.members.len() as u64);
        Some(page)
    }
}

/// A list that a channel reads again; pure.
#[derive(Debug, Default)]
pub(super) struct Reread {
    /// The number of the next change when it was asked for last.
    from: u64,
    failures: u32,
    /// Ticks until it is asked for; `None`: it is on its way.
    wait: Option<u32>,
}

impl Reread {
    /// It is asked for now: only changes from this one on matter.
    fn begin(&mut self, from: u64) {
        self.from = from;
        self.wait = None;
    }

    /// In vain. It does not count while the backplane is away.
    fn failed(&mut self, backplane: BackplaneState) {
        self.wait = Some(1);
        if backplane == BackplaneState::Live {
            self.failures = LONGEST_WAIT.min(self.failures + 1);
            self.wait = Some(1 << self.failures);
        }
    }

    /// Time has passed. True when it is to be asked for.
    fn tick(&mut self, backplane: BackplaneState) -> bool {
        let Some(wait) = &mut self.wait else { return false };
        *wait = wait.saturating_sub(1);
        *wait == 0 && backplane == BackplaneState::Live
    }
}

impl Hub {
    /// A member has its list of members: from now on it hears of changes. Returns the list, brought up to date; `None`
    /// if too much changed while it was on its way: then it is owed, see [`Hub::owe_roll`].
    pub fn follow_roll(
        &mut self,
        channel: &ChannelName,
        place: usize,
        key: u64,
        page: MemberPage,
    ) -> Option<MemberPage> {
        let Some(topic) = self.topics.get_mut(channel) else { return Some(page) };
        let (next_push, next_change) = (topic.next(), topic.changes.next());
        let Some(&mut Roll::Collecting(from)) = topic.member(place, key).map(|member| &mut member.roll) else {
            return Some(page);
        };
        let page = topic.changes.join_to(from, page);
        if let Some(member) = topic.member(place, key) {
            member.roll = if page.is_some() { Roll::Following(next_push) } else { Roll::Collecting(next_change) };
        }
        topic.forget_changes();
        page
    }

    /// A member's first list cannot be had now. It comes as soon as it can, and until then the member hears of no changes.
    pub fn owe_roll(&mut self, channel: &ChannelName, place: usize, key: u64) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        let Some(member) = topic.member(place, key) else { return };
        if matches!(member.roll, Roll::Collecting(_)) {
            member.roll = Roll::Owed;
            if topic.reread.is_none() {
                topic.reread = Some(Reread { wait: Some(1), ..Reread::default() });
                self.rereads.push(channel.clone());
            }
        }
    }

    /// A change of who is on a channel was lost: its list is read again.
    pub(super) fn lose_roll(&mut self, channel: &ChannelName) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        let mut stale = false;
        topic.changes.lose();
        for member in topic.members.iter_mut() {
            match &mut member.roll {
                Roll::Off | Roll::Collecting(_) => {}
                Roll::Owed => stale = true,
                Roll::Following(_) | Roll::Stale => {
                    member.roll = Roll::Stale;
                    stale = true;
                }
            }
        }
        if stale && topic.reread.is_none() {
            topic.reread = Some(Reread::default());
            self.read_roll(channel);
        }
    }

    fn read_roll(&mut self, channel: &ChannelName) {
        let Some(topic) = self.topics.get_mut(channel) else { return };
        let Some(reread) = &mut topic.reread else { return };
        reread.begin(topic.changes.next());
        let receipt = Receipt { shard: self.shard, connection: None, ticket: topic.join };
        if self.relay.members(channel.clone(), None, None, receipt).is_err() {
            self.roll_failed(channel);
        }
    }

    /// The list of [`Hub::read_roll`] is here, or cannot be had.
    pub(in crate::shard) fn roll_read(
        &mut self,
        channel: &ChannelName,
        join: u64,
        page: Result<MemberPage, PresenceError>,
    ) {
        let Some(topic) = self.topics.get_mut(channel).filter(|topic| topic.join == join) else { return };
        let Some(reread) = &topic.reread else { return };
        let page = page.ok().and_then(|page| topic.changes.join_to(reread.from, page));
        match page {
            Some(page) => {
                topic.reread = None;
                topic.forget_changes();
                topic.tell_roll(channel, page);
            }
            None => self.roll_failed(channel),
        }
    }

    fn roll_failed(&mut self, channel: &ChannelName) {
        let backplane = self.relay.state();
        let Some(topic) = self.topics.get_mut(channel) else { return };
        let Some(reread) = &mut topic.reread else { return };
        reread.failed(backplane);
        self.rereads.push(channel.clone());
    }

    /// Asks again for the lists whose time has come.
    pub(super) fn tick_rolls(&mut self) {
        let backplane = self.relay.state();
        for channel in std::mem::take(&mut self.rereads) {
            let reread = self.topics.get_mut(&channel).and_then(|topic| topic.reread.as_mut());
            match reread.map(|reread| reread.tick(backplane)) {
                Some(true) => self.read_roll(&channel),
                Some(false) => self.rereads.push(channel),
                None => {} // nobody is there any more
            }
        }
    }
}

impl Topic {
    /// A client joined or left. Returns whether a member is to be told.
    pub(super) fn change_roll(&mut self, push: &Arc<Prepared>, event: &PresenceEvent) -> bool {
        let (mut is_wanted, mut is_heard) = (self.reread.is_some(), false);
        for member in self.members.iter() {
            match member.roll {
                Roll::Off | Roll::Stale | Roll::Owed => {}
                Roll::Collecting(_) => is_wanted = true,
                Roll::Following(_) => is_heard = true,
            }
        }
        if is_wanted {
            self.changes.note(event);
        }
        if is_heard {
            self.deliver(push);
        }
        is_heard
    }

    /// Lets the changes go when no list is on its way any more.
    pub(super) fn forget_changes(&mut self) {
        if !self.changes.last.is_empty()
            && self.reread.is_none()
            && !self.members.iter().any(|member| matches!(member.roll, Roll::Collecting(_)))
        {
            self.changes.clear();
        }
    }

    /// Gives those who have none any more a list that is up to date. With it goes the position, for those whom every
    /// publication up to it has reached.
    fn tell_roll(&mut self, channel: &ChannelName, page: MemberPage) {
        let elsewhere = Prepared::new(Push::Roll(channel.clone(), None, page.clone()));
        let here = Prepared::new(Push::Roll(channel.clone(), self.last, page));
        let last = self.last.map_or(0, |last| last.offset);
        let (is_quiet, next) = (self.is_quiet(), self.next());
        for member in self.members.iter_mut().filter(|member| matches!(member.roll, Roll::Stale | Roll::Owed)) {
            member.roll = Roll::Following(next);
            let is_here = is_quiet && member.held.is_none() && member.skip <= last;
            member.link.deliver_surely(if is_here { &here } else { &elsewhere });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, time::Duration};

    use skywave_backplane::{Any, Interest, Memory};
    use skywave_proto::Member;

    use super::{super::tests::Nobody, *};
    use crate::{
        config::SlowConsumer,
        metrics::Figures,
        push::{Encoded, Format, Frame},
        relay::{Answers, Relay, Routes},
        shard::{Attach, Backlog, Link, backlog::Waiting},
    };

    fn member(client: &str) -> Member {
        Member { client: client.into(), user: None, info: None }
    }

    fn page(clients: &[&str]) -> MemberPage {
        MemberPage { members: clients.iter().copied().map(member).collect(), total: clients.len() as u64, next: None }
    }

    #[test]
    fn a_list_takes_in_what_changed_on_its_way() {
        let mut changes = Changes::default();
        changes.note(&PresenceEvent::Leave(member("a"))); // before it was asked for
        for change in [
            PresenceEvent::Join(member("c")),
            PresenceEvent::Join(member("a")),
            PresenceEvent::Leave(member("b")),
            PresenceEvent::Leave(member("z")),
        ] {
            changes.note(&change);
        }
        assert_eq!(changes.join_to(1, page(&["a", "b"])), Some(page(&["a", "c"])));
    }

    #[test]
    fn a_total_that_was_counted_after_the_list_is_made_to_fit_it() {
        let mut changes = Changes::default();
        for client in ["a", "b"] {
            changes.note(&PresenceEvent::Leave(member(client)));
        }
        let counted_later = MemberPage { total: 1, ..page(&["a", "b", "c"]) };
        assert_eq!(changes.join_to(0, counted_later), Some(page(&["c"])));
    }

    #[test]
    fn a_list_of_which_a_change_is_not_known_is_none() {
        let mut lost = Changes::default();
        lost.lose();
        assert_eq!(lost.join_to(0, page(&["a"])), None);
        assert_eq!(lost.join_to(lost.next(), page(&["a"])), Some(page(&["a"])), "it was asked for afterwards");
        let mut many = Changes::default();
        (0..CHANGES).for_each(|n| many.note(&PresenceEvent::Join(member(&n.to_string()))));
        assert!(many.join_to(0, page(&[])).is_some());
        many.note(&PresenceEvent::Join(member("one more")));
        assert_eq!((many.join_to(0, page(&[])), many.last.len()), (None, CHANGES), "one too many");
        assert_eq!(many.join_to(1, page(&[])).unwrap().total, CHANGES as u64);
    }

    #[test]
    fn a_list_that_cannot_be_had_is_asked_for_less_and_less_and_waits_for_the_backplane() {
        use BackplaneState::{Degraded, Live};
        let mut reread = Reread::default();
        for _ in 0..10 {
            reread.failed(Degraded);
            assert!(!reread.tick(Degraded) && !reread.tick(Degraded));
            assert!(reread.tick(Live), "back");
            reread.begin(0);
        }
        assert!(!reread.tick(Live), "on its way");
        let ticks = |reread: &mut Reread| (1..).find(|_| reread.tick(Live)).unwrap_or(0);
        for expected in [2, 4, 8, 8] {
            reread.failed(Live);
            assert_eq!(ticks(&mut reread), expected);
        }
    }

    /// Says in a word what it was given.
    struct Words;

    impl Format for Words {
        fn slot(&self) -> usize {
            0
        }

        fn encode(&self, push: &Push) -> Encoded {
            let word = match push {
                Push::Roll(_, _, page) => format!("roll {}", page.total),
                Push::Presence(_, PresenceEvent::Join(member)) => format!("join {}", member.client),
                other => format!("{other:?}"),
            };
            Encoded::Frame(Frame::text(word))
        }
    }

    #[tokio::test]
    async fn those_who_wait_in_vain_go_on_waiting() {
        let channel = ChannelName::parse("a").unwrap();
        let (routes, _signals) = Routes::new(Arc::new([]));
        // Its tasks never turn: this test plays the backplane.
        let relay =
            Relay::start(Any::Memory(Memory::new(Arc::new(Nobody))), Arc::new(routes), Answers::new(Arc::new([])));
        let mut hub = Hub::new(0, relay, Rc::new(Figures::new()));
        let links: [_; 4] = std::array::from_fn(|key| {
            Link::new(key as u64, &Words, 1 << 20, Rc::default(), Waiting::new(0, Backlog::new(1, None)))
        });
        for (link, presence) in links.iter().zip([true, true, false, true]) {
            let interest = Interest { channel: channel.clone(), history: None, presence: true };
            let attach = Attach {
                interest,
                namespace: "default",
                slow_consumer: SlowConsumer::Disconnect,
                flush_interval: Duration::ZERO,
                echo: true,
                presence,
            };
            assert_eq!(hub.attach(link, attach).unwrap().0 as u64, link.key());
        }
        hub.joined(&channel, 1, Ok(None));
        hub.follow_roll(&channel, 0, 0, page(&[])).unwrap();
        let words = |link: &Link| -> Vec<_> {
            let frames = std::iter::from_fn(|| link.pop());
            frames.map(|frame| String::from_utf8(frame.payload().to_vec()).unwrap()).collect()
        };
        let join = |hub: &mut Hub, client: &str| {
            hub.push(&Prepared::new(Push::Presence(channel.clone(), PresenceEvent::Join(member(client)))));
            hub.advance(usize::MAX);
        };

        // Lost once: the list comes, with what changed meanwhile, and then changes again.
        hub.lose_roll(&channel);
        join(&mut hub, "c1");
        hub.roll_read(&channel, 1, Ok(page(&["c0"])));
        join(&mut hub, "c2");
        assert_eq!(words(&links[0]), ["roll 2", "join c2"]);
        assert_eq!(
            hub.follow_roll(&channel, 1, 1, page(&[])),
            None,
            "whose first list is on its way reads another one"
        );
        assert_eq!(hub.follow_roll(&channel, 1, 1, page(&["c0"])).unwrap().total, 1);

        // A first list that cannot be had is owed.
        hub.owe_roll(&channel, 3, 3);
        join(&mut hub, "c2");

        // Lost, and lost again while the list is read: that is a try.
        hub.tick_rolls();
        hub.lose_roll(&channel);
        hub.roll_read(&channel, 1, Ok(page(&["c0"])));
        for _ in 0..5 {
            (0..8).for_each(|_| hub.tick_rolls());
            assert!(links.iter().all(|link| !link.is_closing()));
            hub.roll_read(&channel, 1, Err(PresenceError::Unavailable(None)));
        }
        // Who has none, or a wrong one, gets it when it can be had.
        (0..8).for_each(|_| hub.tick_rolls());
        hub.roll_read(&channel, 1, Ok(page(&["c0", "c1"])));
        join(&mut hub, "c3");
        for link in [&links[0], &links[1], &links[3]] {
            assert!(words(link).ends_with(&["roll 2".to_owned(), "join c3".to_owned()]));
        }
        assert!(words(&links[2]).is_empty(), "who did not ask");
    }
}
