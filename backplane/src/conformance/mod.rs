//! The promises of [`Backplane`] as tests, which every implementation runs: see [`promises!`](crate::promises).
//!
//! Behind the feature `conformance`, which only dev-dependencies ask for: it panics where a promise is broken, so it has
//! no place in a release, and as part of the crate (not of its `tests/`) it can be run for doubles elsewhere.

mod members;
mod nodes;
mod revoked;
mod sessions;
mod transitions;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::Future,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use skywave_proto::{ChannelName, Payload, Publication, StreamPosition};
use tokio::sync::watch;

use crate::{
    Backplane, BackplaneState, Cluster, Durability, Gap, HistoryPage, HistoryPolicy, HistoryQuery, IdempotencyKey,
    Interest, NewPublication, Ownership, Presence, PresenceEvent, PublishError, Published, Revocations, Sink,
    Transition,
};

pub use self::{members::*, nodes::*, revoked::*, sessions::*, transitions::*};

/// How long anything may take before its test has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Where the nodes of one test live.
pub trait World {
    /// What is tested.
    type Node: Backplane + Presence + Cluster + Revocations + Ownership;
    /// Whether [`World::node`] gives nodes of one cluster, or each time another world.
    const JOINS_NODES: bool;

    /// A node that is live.
    fn node(&self, sink: Arc<dyn Sink>) -> impl Future<Output = Self::Node>;

    /// Lets time go by.
    fn pass(&self, duration: Duration) -> impl Future<Output = ()>;
}

/// What a sink was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// [`Sink::publication`]
    Publication(Publication),
    /// [`Sink::gap`]
    Gap(Gap),
}

impl Told {
    /// The payload as text; empty for a gap.
    pub fn text(&self) -> &str {
        match self {
            Self::Publication(publication) => text(publication),
            Self::Gap(_) => "",
        }
    }
}

/// A sink that remembers.
pub struct Recorder {
    told: Mutex<HashMap<ChannelName, Vec<Told>>>,
    states: Mutex<Vec<BackplaneState>>,
    presence: Mutex<HashMap<ChannelName, Vec<Option<PresenceEvent>>>>,
    signals: Mutex<Vec<(Arc<str>, Bytes)>>,
    transitions: Mutex<Vec<(ChannelName, Transition)>>,
    changed: watch::Sender<()>,
}

impl Recorder {
    /// Knows nothing yet.
    #[allow(clippy::new_without_default)] // only ever used behind an Arc
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            told: Mutex::default(),
            states: Mutex::default(),
            presence: Mutex::default(),
            signals: Mutex::default(),
            transitions: Mutex::default(),
            changed: watch::channel(()).0,
        })
    }

    /// What it was told of a channel.
    pub fn told(&self, channel: &ChannelName) -> Vec<Told> {
        self.told.lock().get(channel).cloned().unwrap_or_default()
    }

    /// The states it was told.
    pub fn states(&self) -> Vec<BackplaneState> {
        self.states.lock().clone()
    }

    /// The joins and leaves that it was told of a channel; `None` where some may be missing.
    pub fn presence_told(&self, channel: &ChannelName) -> Vec<Option<PresenceEvent>> {
        self.presence.lock().get(channel).cloned().unwrap_or_default()
    }

    /// The signals that it was told, with their senders.
    pub fn signals(&self) -> Vec<(Arc<str>, Bytes)> {
        self.signals.lock().clone()
    }

    /// The transitions that it was told of a channel.
    pub fn transitions(&self, channel: &ChannelName) -> Vec<Transition> {
        let transitions = self.transitions.lock();
        transitions.iter().filter(|(of, _)| of == channel).map(|(_, transition)| transition.clone()).collect()
    }

    /// Waits until `found` finds something; it is asked whenever something was told.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub async fn until<T>(&self, what: impl fmt::Display, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let search = async {
            loop {
                if let Some(found) = found(self) {
                    return found;
                }
                let _ = changed.changed().await; // the sender is in self
            }
        };
        match tokio::time::timeout(DEADLINE, search).await {
            Ok(found) => found,
            Err(_) => panic!("not within {DEADLINE:?}: {what}"),
        }
    }

    /// Waits for a publication with this text.
    pub async fn until_text(&self, channel: &ChannelName, text: &str) -> Vec<Told> {
        self.until(format_args!("{text} on {channel}"), |recorder| {
            let told = recorder.told(channel);
            told.iter().any(|told| told.text() == text).then_some(told)
        })
        .await
    }

    fn tell(&self, channel: &ChannelName, told: Told) {
        self.told.lock().entry(channel.clone()).or_default().push(told);
        self.changed.send_replace(());
    }
}

impl Sink for Recorder {
    fn publication(&self, channel: &ChannelName, publication: Publication) {
        self.tell(channel, Told::Publication(publication));
    }

    fn gap(&self, channel: &ChannelName, gap: Gap) {
        self.tell(channel, Told::Gap(gap));
    }

    fn presence(&self, channel: &ChannelName, event: PresenceEvent) {
        self.presence.lock().entry(channel.clone()).or_default().push(Some(event));
        self.changed.send_replace(());
    }

    fn presence_gap(&self, channel: &ChannelName) {
        self.presence.lock().entry(channel.clone()).or_default().push(None);
        self.changed.send_replace(());
    }

    fn transition(&self, channel: &ChannelName, transition: Transition) {
        self.transitions.lock().push((channel.clone(), transition));
        self.changed.send_replace(());
    }

    fn signal(&self, from: Arc<str>, message: Bytes) {
        self.signals.lock().push((from, message));
        self.changed.send_replace(());
    }

    fn state(&self, state: BackplaneState) {
        self.states.lock().push(state);
        self.changed.send_replace(());
    }
}

/// A history that outlives a test.
pub const KEPT: HistoryPolicy =
    HistoryPolicy { size: 1000, ttl: Duration::from_secs(600), meta_ttl: Duration::from_secs(3600) };

/// A channel with that name.
pub fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).expect("a test names its channels well")
}

/// A publication of a text.
pub fn publication(channel: &ChannelName, text: &str, history: Option<HistoryPolicy>) -> NewPublication {
    NewPublication {
        channel: channel.clone(),
        payload: Payload::text(Bytes::copy_from_slice(text.as_bytes())),
        client: Some("client".into()),
        user: None,
        published_at_ms: 1_700_000_000_000,
        key: None,
        history,
        durability: Durability::Accepted,
    }
}

fn text(publication: &Publication) -> &str {
    std::str::from_utf8(publication.payload.data()).expect("tests publish text")
}

fn texts(page: &HistoryPage) -> Vec<&str> {
    page.publications.iter().map(text).collect()
}

async fn publish(node: &impl Backplane, channel: &ChannelName, text: &str) -> StreamPosition {
    let published = node.publish(publication(channel, text, Some(KEPT))).await.expect("the backplane is there");
    published.position.expect("it keeps history")
}

async fn publish_many(node: &impl Backplane, channel: &ChannelName, texts: std::ops::RangeInclusive<u32>) {
    for number in texts {
        publish(node, channel, &number.to_string()).await;
    }
}

/// Subscribes to one channel with [`KEPT`] history.
///
/// # Panics
/// If it cannot.
pub async fn subscribe(node: &impl Backplane, channel: &ChannelName) -> StreamPosition {
    let interest = Interest { channel: channel.clone(), history: Some(KEPT), presence: false };
    one(node.subscribe(&[interest]).await).expect("the backplane is there").expect("it keeps history")
}

fn one<T>(answers: Vec<T>) -> T {
    let [answer] = <[T; 1]>::try_from(answers).unwrap_or_else(|_| panic!("one question, one answer"));
    answer
}

fn query(since: Option<StreamPosition>, limit: u32) -> HistoryQuery {
    HistoryQuery { since, limit, bytes: usize::MAX, followed: false }
}

async fn page(node: &impl Backplane, channel: &ChannelName, query: HistoryQuery) -> HistoryPage {
    node.history(channel, query).await.expect("the backplane is there")
}

/// Checks that each publication comes right after the one before, or after a gap.
///
/// # Panics
/// If one is missing, twice there, or out of order.
pub fn assert_contiguous(told: &[Told]) {
    let mut last: Option<StreamPosition> = None;
    for told in told {
        match told {
            Told::Gap(Gap::Reset { now }) => last = *now,
            Told::Gap(Gap::Rollback { now }) => last = Some(*now),
            Told::Gap(Gap::Possible) => last = None,
            Told::Publication(publication) => {
                let position = publication.position.expect("it keeps history");
                assert!(last.is_none_or(|last| last.offset + 1 == position.offset), "{position} came after {last:?}");
                last = Some(position);
            }
        }
    }
}

/// Makes a `#[tokio::test]` of each promise. `$world` makes a new [`World`](crate::conformance::World) for each; `await`
/// works in it.
#[macro_export]
macro_rules! promises {
    ($world:expr) => {
        $crate::promises! { @each $world;
            a_publication_takes_its_place_when_it_is_published
            many_publishers_make_one_order
            every_node_sees_the_same_order
            a_publication_arrives_as_it_was_sent
            without_history_there_is_no_position
            an_empty_channel_has_a_position_to_come_back_with
            subscribing_again_says_where_the_channel_stands
            everything_after_the_position_is_delivered
            an_unsubscribed_channel_falls_silent
            an_interest_taken_back_in_time_loses_nothing
            history_is_read_in_pages
            what_was_acknowledged_is_in_the_history
            history_says_what_it_no_longer_reaches
            history_keeps_about_as_many_as_it_should
            a_position_of_another_line_is_not_continued
            what_is_forgotten_begins_a_new_line
            history_lives_as_long_as_its_last_publication
            a_key_publishes_once
            a_key_publishes_once_without_history
            a_member_joins_once_and_leaves_once
            an_older_connection_does_not_take_its_client_away
            who_comes_back_within_the_grace_has_not_left
            members_come_in_pages_by_client
            members_are_counted
            a_user_comes_with_its_first_client_and_goes_with_its_last
            who_has_no_user_counts_for_itself
            who_moves_within_the_grace_makes_no_transition
            who_does_not_ask_is_told_of_no_transition
            nodes_know_each_other
            a_signal_reaches_those_it_is_for
            positions_are_those_of_the_channels
            every_node_knows_what_is_revoked
            revoking_again_only_widens
            a_revocation_ends_by_itself
            only_a_good_id_can_be_revoked
            a_session_has_one_owner
            many_sessions_are_claimed_at_once
        }
    };
    (@each $world:expr; $($promise:ident)*) => {
        $(
            #[tokio::test]
            async fn $promise() {
                $crate::conformance::$promise(&$world).await;
            }
        )*
    };
}

/// Order is decided by the call, whatever happens to the futures.
pub async fn a_publication_takes_its_place_when_it_is_published(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let news = channel("news");
    let pending: Vec<_> =
        (1..=50).map(|number: u32| node.publish(publication(&news, &number.to_string(), Some(KEPT)))).collect();
    for (future, offset) in pending.into_iter().zip(1..=50u16).rev() {
        let published = future.await.expect("the backplane is there");
        assert_eq!(published.position.map(|position| position.offset), Some(offset.into()));
    }
    drop(node.publish(publication(&news, "nobody waits for me", Some(KEPT))));
    assert_eq!(publish(&node, &news, "last").await.offset, 52);
}

/// No hole, nothing twice, and what one publisher says keeps its order.
pub async fn many_publishers_make_one_order(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    let news = channel("news");
    subscribe(&node, &news).await;
    let talk = |publisher: u32| {
        let (node, news) = (&node, &news);
        async move {
            for number in 0..50u32 {
                publish(node, news, &format!("{publisher}.{number:02}")).await;
            }
        }
    };
    futures_util::future::join_all((0..8).map(talk)).await;
    let told = recorder
        .until("400 publications", |recorder| Some(recorder.told(&news)).filter(|told| told.len() == 400))
        .await;
    assert_contiguous(&told);
    for publisher in 0..8 {
        let own: Vec<_> =
            told.iter().map(Told::text).filter(|text| text.starts_with(&format!("{publisher}."))).collect();
        assert!(own.is_sorted() && own.len() == 50, "{own:?}");
    }
}

/// Also the node that publishes.
pub async fn every_node_sees_the_same_order<W: World>(world: &W) {
    let (ours, theirs) = (Recorder::new(), Recorder::new());
    let paris = world.node(ours.clone()).await;
    let other = world.node(theirs.clone()).await;
    let news = channel("news");
    subscribe(&paris, &news).await;
    subscribe(&other, &news).await;
    // Where a node is a world of its own, it is the same node twice.
    let publish_all = |city: &'static str, node| {
        let news = &news;
        async move {
            for number in 0..100 {
                publish(node, news, &format!("{city} {number}")).await;
            }
        }
    };
    let all = |recorder: &Recorder| Some(recorder.told(&news)).filter(|told| told.len() == 200);
    if W::JOINS_NODES {
        tokio::join!(publish_all("paris", &paris), publish_all("oslo", &other));
        let (here, there) = (ours.until("200 here", all).await, theirs.until("200 there", all).await);
        assert_contiguous(&here);
        assert!(here == there, "two nodes saw two orders");
    } else {
        tokio::join!(publish_all("paris", &paris), publish_all("oslo", &paris));
        assert_contiguous(&ours.until("200 here", all).await);
    }
}

/// Kind, bytes, client, user and time.
pub async fn a_publication_arrives_as_it_was_sent(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    let payloads = [
        Payload::json(Bytes::from_static(br#"{"a":[1,null]}"#)),
        Payload::text(Bytes::from_static("ünïcode\r\n".as_bytes())),
        Payload::binary(Bytes::from_static(b"\x00\xff\r\n$-1")),
        Payload::binary(Bytes::new()),
        Payload::binary(vec![7; 200_000].into()),
    ];
    for (number, history) in [None, Some(KEPT)].into_iter().enumerate() {
        let name = channel(&format!("chat:a b}}:{{ü{number}"));
        let interest = Interest { channel: name.clone(), history, presence: false };
        one(node.subscribe(&[interest]).await).expect("the backplane is there");
        for payload in &payloads {
            let new = NewPublication {
                payload: payload.clone(),
                user: Some("ada".into()),
                ..publication(&name, "", history)
            };
            node.publish(new).await.expect("the backplane is there");
        }
        let told = recorder
            .until("all payloads", |recorder| Some(recorder.told(&name)).filter(|told| told.len() == payloads.len()))
            .await;
        for (told, payload) in told.iter().zip(&payloads) {
            let Told::Publication(publication) = told else { panic!("{told:?}") };
            assert!(publication.payload == *payload, "{:?} instead of {payload:?}", publication.payload);
            assert_eq!((publication.client.as_deref(), publication.user.as_deref()), (Some("client"), Some("ada")));
            assert_eq!(publication.published_at_ms, 1_700_000_000_000);
            assert_eq!(publication.position.is_some(), history.is_some());
        }
        if history.is_some() {
            let kept = page(&node, &name, query(None, 100)).await.publications;
            assert!(kept.into_iter().map(Told::Publication).eq(told), "the history has the same");
        }
    }
}

/// Delivered all the same.
pub async fn without_history_there_is_no_position(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    let cursors = channel("cursors");
    let interest = Interest { channel: cursors.clone(), history: None, presence: false };
    assert_eq!(one(node.subscribe(&[interest]).await).expect("the backplane is there"), None);
    let published = node.publish(publication(&cursors, "x", None)).await.expect("the backplane is there");
    assert_eq!(published, Published { position: None, duplicate: false });
    let told = recorder.until_text(&cursors, "x").await;
    assert!(matches!(&told[..], [Told::Publication(Publication { position: None, .. })]), "{told:?}");
    assert_eq!(node.positions(&[cursors]).await.expect("the backplane is there"), [None]);
}

/// The line begins with its first subscriber, so that nobody has to guess.
pub async fn an_empty_channel_has_a_position_to_come_back_with(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let news = channel("news");
    let before = subscribe(&node, &news).await;
    assert_eq!(before.offset, 0);
    let first = publish(&node, &news, "1").await;
    assert_eq!(first, before.next());
    let page = page(&node, &news, query(Some(before), 10)).await;
    assert_eq!((texts(&page), page.complete, page.more), (vec!["1"], true, false));
}

/// Idempotent: nothing is delivered twice.
pub async fn subscribing_again_says_where_the_channel_stands(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    let (news, sport) = (channel("news"), channel("sport"));
    let interests = [&news, &sport, &news].map(|channel| Interest {
        channel: channel.clone(),
        history: Some(KEPT),
        presence: false,
    });
    let positions: Vec<_> =
        node.subscribe(&interests).await.into_iter().map(|answer| answer.expect("the backplane is there")).collect();
    assert!(positions[0] == positions[2] && positions[0] != positions[1], "each in its order: {positions:?}");
    publish(&node, &news, "1").await;
    let told = recorder.until_text(&news, "1").await;
    let again = subscribe(&node, &news).await;
    let Told::Publication(first) = &told[0] else { panic!("{told:?}") };
    assert_eq!(Some(again), first.position);
    publish(&node, &news, "2").await;
    let told = recorder.until_text(&news, "2").await;
    assert_eq!(told.iter().map(Told::text).collect::<Vec<_>>(), ["1", "2"]);
}

/// Whatever is published while subscribing.
pub async fn everything_after_the_position_is_delivered(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    for round in 0..10 {
        let news = channel(&format!("news:{round}"));
        let publish_all = publish_many(&node, &news, 1..=60);
        let subscribe_late = async {
            for _ in 0..round * 2 {
                tokio::task::yield_now().await;
            }
            subscribe(&node, &news).await
        };
        let ((), position) = tokio::join!(publish_all, subscribe_late);
        publish(&node, &news, "end").await;
        let told = recorder.until_text(&news, "end").await;
        assert_contiguous(&told);
        let Told::Publication(first) = &told[0] else { panic!("{told:?}") };
        assert_eq!(first.position, Some(position.next()), "round {round}: nothing before, everything after");
    }
}

/// Perhaps after a while, and then for good.
pub async fn an_unsubscribed_channel_falls_silent(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    let (news, sport) = (channel("news"), channel("sport"));
    subscribe(&node, &news).await;
    subscribe(&node, &sport).await;
    node.unsubscribe(&[news.clone(), channel("never subscribed")]);
    world.pass(Duration::from_secs(2)).await;
    publish(&node, &news, "nobody hears").await;
    publish(&node, &sport, "x").await;
    recorder.until_text(&sport, "x").await;
    let position = subscribe(&node, &news).await;
    assert_eq!(position.offset, 1, "it stands behind what was published meanwhile");
    publish(&node, &news, "back").await;
    let told = recorder.until_text(&news, "back").await;
    assert_eq!(told.iter().map(Told::text).collect::<Vec<_>>(), ["back"]);
}

/// The last one leaves and the next one comes: no hole between.
pub async fn an_interest_taken_back_in_time_loses_nothing(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    let news = channel("news");
    subscribe(&node, &news).await;
    for number in 0..20u32 {
        node.unsubscribe(std::slice::from_ref(&news));
        subscribe(&node, &news).await;
        publish(&node, &news, &number.to_string()).await;
    }
    let told = recorder.until_text(&news, "19").await;
    assert_contiguous(&told);
    assert_eq!(told.len(), 20);
    world.pass(Duration::from_secs(2)).await;
    publish(&node, &news, "still there").await;
    recorder.until_text(&news, "still there").await;
}

/// Ascending, none missing, and where to go on.
pub async fn history_is_read_in_pages(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let news = channel("news");
    let nothing = page(&node, &news, query(None, 10)).await;
    assert_eq!(nothing, HistoryPage { top: None, publications: Vec::new(), complete: true, more: false });

    let start = subscribe(&node, &news).await;
    publish_many(&node, &news, 1..=45).await;
    let newest = page(&node, &news, query(None, 3)).await;
    assert_eq!((texts(&newest), newest.complete, newest.more), (vec!["43", "44", "45"], true, false));
    let top = newest.top.expect("it has a line");
    assert_eq!(top.offset, 45);

    let (mut since, mut read) = (start, Vec::new());
    loop {
        let page = page(&node, &news, query(Some(since), 10)).await;
        assert!(page.complete && page.top == Some(top));
        read.extend(texts(&page).into_iter().map(str::to_owned));
        since = page.publications.last().and_then(|last| last.position).expect("not empty");
        if !page.more {
            break;
        }
    }
    assert_eq!(read, (1..=45).map(|number| number.to_string()).collect::<Vec<_>>());

    let end = page(&node, &news, query(Some(top), 10)).await;
    assert_eq!((texts(&end).len(), end.complete, end.more), (0, true, false));
    let only_position = page(&node, &news, query(Some(start), 0)).await;
    assert_eq!((only_position.top, texts(&only_position).len()), (Some(top), 0));
    assert!(only_position.complete && only_position.more);
    let only_top = page(&node, &news, query(None, 0)).await;
    assert_eq!((only_top.top, texts(&only_top).len(), only_top.complete, only_top.more), (Some(top), 0, true, false));

    // "1" to "9" are one byte each, the others two.
    let bytes = |since, bytes| HistoryQuery { since, limit: 100, bytes, followed: false };
    let few = page(&node, &news, bytes(Some(start), 12)).await;
    assert_eq!((texts(&few).len(), few.complete, few.more), (10, true, true), "nine of one byte, one of two");
    let at_least_one = page(&node, &news, bytes(Some(top_minus(top, 2)), 0)).await;
    assert_eq!((texts(&at_least_one), at_least_one.more), (vec!["44"], true));
}

/// Also on a node that follows the channel and may not have heard it yet.
pub async fn what_was_acknowledged_is_in_the_history(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let news = channel("news");
    let mut last = subscribe(&node, &news).await;
    for number in 1..=200 {
        let at = publish(&node, &news, &number.to_string()).await;
        let page = page(&node, &news, query(Some(last), 10)).await;
        assert_eq!((texts(&page), page.top), (vec![number.to_string().as_str()], Some(at)));
        last = at;
    }
}

fn top_minus(top: StreamPosition, count: u64) -> StreamPosition {
    StreamPosition { offset: top.offset - count, ..top }
}

/// `complete` never lies.
pub async fn history_says_what_it_no_longer_reaches(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let news = channel("news");
    let small = HistoryPolicy { size: 4, ..KEPT };
    let mut top = None;
    for number in 1..=12u32 {
        let published = node.publish(publication(&news, &number.to_string(), Some(small))).await;
        top = published.expect("the backplane is there").position;
    }
    let top = top.expect("it keeps history");
    let reached = page(&node, &news, query(Some(top_minus(top, 4)), 100)).await;
    assert_eq!((texts(&reached), reached.complete), (vec!["9", "10", "11", "12"], true));
    let lost = page(&node, &news, query(Some(top_minus(top, 10)), 100)).await;
    assert!(!lost.complete && !lost.more);
    assert!(texts(&lost).ends_with(&["9", "10", "11", "12"]), "{:?}", texts(&lost));
    let unseen = page(&node, &news, query(Some(top.next()), 100)).await;
    assert!(!unseen.complete, "a position that was never given out");
}

/// At least as many as the namespace says, at most a quarter more.
pub async fn history_keeps_about_as_many_as_it_should(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    for size in [1, 2, 10, 40] {
        let news = channel(&format!("news:{size}"));
        let policy = HistoryPolicy { size, ..KEPT };
        for number in 0..2 * size + 3 {
            node.publish(publication(&news, &number.to_string(), Some(policy))).await.expect("the backplane is there");
            let kept = u32::try_from(page(&node, &news, query(None, 1000)).await.publications.len()).expect("few");
            assert!(kept >= size.min(number + 1) && kept <= size + size / 4, "{kept} of {size} after {}", number + 1);
        }
    }
}

/// Two lines may have the same offsets.
pub async fn a_position_of_another_line_is_not_continued(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let (news, sport) = (channel("news"), channel("sport"));
    publish_many(&node, &news, 1..=5).await;
    publish_many(&node, &sport, 1..=5).await;
    let foreign = publish(&node, &sport, "6").await;
    let foreign = top_minus(foreign, 4);
    let page = page(&node, &news, query(Some(foreign), 100)).await;
    assert_eq!((texts(&page), page.complete), (vec!["1", "2", "3", "4", "5"], false));
}

/// Also for who is subscribed.
pub async fn what_is_forgotten_begins_a_new_line(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    let news = channel("news");
    subscribe(&node, &news).await;
    publish_many(&node, &news, 1..=3).await;
    let told = recorder.until_text(&news, "3").await;
    let Some(Told::Publication(Publication { position: Some(old), .. })) = told.last() else { panic!("{told:?}") };
    node.forget(&news).await.expect("the backplane is there");
    let now = node.positions(std::slice::from_ref(&news)).await.expect("the backplane is there")[0];
    assert!(now.is_none_or(|now| now.epoch != old.epoch && now.offset == 0), "no line, or a new one: {now:?}");
    // As many as before, and one more: an old position must not look like a new one.
    publish_many(&node, &news, 101..=104).await;
    let told = recorder.until_text(&news, "104").await;
    let told: Vec<_> = told.iter().skip(3).filter(|told| matches!(told, Told::Publication(_))).collect();
    assert_eq!(told.iter().map(|told| told.text()).collect::<Vec<_>>(), ["101", "102", "103", "104"]);
    let page = page(&node, &news, query(Some(*old), 100)).await;
    let top = page.top.expect("it has a line");
    assert!(top.epoch != old.epoch && top.offset == 4 && !page.complete);
}

/// Within a quarter of its `ttl`; the position longer.
pub async fn history_lives_as_long_as_its_last_publication(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let news = channel("news");
    let brief = HistoryPolicy { size: 100, ttl: Duration::from_secs(4), meta_ttl: Duration::from_secs(8) };
    let publish = |text: &'static str| {
        let published = node.publish(publication(&news, text, Some(brief)));
        async { published.await.expect("the backplane is there").position.expect("it keeps history") }
    };
    publish("1").await;
    world.pass(Duration::from_millis(2000)).await;
    let second = publish("2").await;
    world.pass(Duration::from_millis(2000)).await;
    let alive = page(&node, &news, query(None, 10)).await;
    assert_eq!(texts(&alive), ["1", "2"], "the second publication has made it live longer");
    world.pass(Duration::from_millis(3000)).await;
    let gone = page(&node, &news, query(Some(top_minus(second, 1)), 10)).await;
    assert_eq!((texts(&gone).len(), gone.complete, gone.top), (0, false, Some(second)), "the position lives longer");
    let third = publish("3").await;
    assert_eq!(third, second.next());
    let fresh = page(&node, &news, query(Some(second), 10)).await;
    assert_eq!((texts(&fresh), fresh.complete), (vec!["3"], true));
    world.pass(Duration::from_millis(8500)).await;
    assert_eq!(node.positions(std::slice::from_ref(&news)).await.expect("the backplane is there"), [None]);
    let new_line = publish("4").await;
    assert!(new_line.epoch != third.epoch && new_line.offset == 1);
}

/// And belongs to a channel and a publisher.
pub async fn a_key_publishes_once(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    let news = channel("news");
    subscribe(&node, &news).await;
    let keyed = |channel: &ChannelName, publisher: &str, key: &str, text: &str| {
        let key = Some(IdempotencyKey { publisher: publisher.into(), key: key.into() });
        node.publish(NewPublication { key, ..publication(channel, text, Some(KEPT)) })
    };
    let first = keyed(&news, "ada", "k", "1").await.expect("the backplane is there");
    let again = keyed(&news, "ada", "k", "1 again").await.expect("the backplane is there");
    assert!(!first.duplicate && again == Published { duplicate: true, ..first });
    for (channel, publisher, key) in [
        (news.clone(), "bob", "k"),
        (news.clone(), "ada", "l"),
        (channel("sport"), "ada", "k"),
        (channel("news:a"), "da", "k"),
    ] {
        let other = keyed(&channel, publisher, key, "another").await.expect("the backplane is there");
        assert!(!other.duplicate, "{channel} {publisher} {key}");
    }
    let twice = [keyed(&news, "ada", "m", "2"), keyed(&news, "ada", "m", "2")];
    let twice = futures_util::future::join_all(twice).await;
    let duplicates: Vec<_> =
        twice.into_iter().map(|published: Result<_, PublishError>| published.expect("there").duplicate).collect();
    assert_eq!(duplicates, [false, true]);
    publish(&node, &news, "end").await;
    let told = recorder.until_text(&news, "end").await;
    assert_eq!(told.iter().map(Told::text).collect::<Vec<_>>(), ["1", "another", "another", "2", "end"]);
}

/// There it has no position to give.
pub async fn a_key_publishes_once_without_history(world: &impl World) {
    let recorder = Recorder::new();
    let node = world.node(recorder.clone()).await;
    let cursors = channel("cursors");
    one(node.subscribe(&[Interest { channel: cursors.clone(), history: None, presence: false }]).await)
        .expect("the backplane is there");
    for duplicate in [false, true, true] {
        let key = Some(IdempotencyKey { publisher: "ada".into(), key: "k".into() });
        let new = NewPublication { key, ..publication(&cursors, "once", None) };
        assert_eq!(node.publish(new).await.expect("the backplane is there"), Published { position: None, duplicate });
    }
    node.publish(publication(&cursors, "end", None)).await.expect("the backplane is there");
    let told = recorder.until_text(&cursors, "end").await;
    assert_eq!(told.iter().map(Told::text).collect::<Vec<_>>(), ["once", "end"]);
}

/// One for each, in their order.
pub async fn positions_are_those_of_the_channels(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let channels: Vec<_> = (0..300).map(|number| channel(&format!("news:{number}"))).collect();
    let mut expected = vec![None; channels.len()];
    for number in (0..300).step_by(7) {
        expected[number] = Some(publish(&node, &channels[number], "x").await);
    }
    let positions = node.positions(&channels).await.expect("the backplane is there");
    assert_eq!(positions, expected);
    let epochs: HashSet<_> = positions.iter().flatten().map(|position| position.epoch).collect();
    assert_eq!(epochs.len(), expected.iter().flatten().count(), "every line has an epoch of its own");
}
