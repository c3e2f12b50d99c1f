//! The promises of [`Presence`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use skywave_proto::{ChannelName, Member};

use super::{KEPT, Recorder, World, channel, one};
use crate::{Backplane, Interest, Presence, PresenceEvent};

/// A member of that name.
pub fn member(client: &str) -> Member {
    Member { client: client.into(), user: Some("ada".into()), info: Some(bytes::Bytes::from_static(b"{\"a\":1}")) }
}

/// Subscribes to one channel with its joins and leaves.
///
/// # Panics
/// If it cannot.
pub async fn follow(node: &impl Backplane, channel: &ChannelName) {
    let interest = Interest { channel: channel.clone(), history: Some(KEPT), presence: true };
    one(node.subscribe(&[interest]).await).expect("the backplane is there");
}

async fn join(node: &impl Presence, channel: &ChannelName, client: &str, connection: u64) {
    node.join(channel, member(client), connection).await.expect("the backplane is there");
}

async fn leave(node: &impl Presence, channel: &ChannelName, client: &str, connection: u64, grace: Duration) {
    node.leave(channel, &client.into(), connection, grace).await.expect("the backplane is there");
}

/// The joins (true) and leaves that were told, up to the leave of `last`.
async fn told_until(heard: &Arc<Recorder>, channel: &ChannelName, last: &str) -> Vec<(bool, String)> {
    let find = |heard: &Recorder| {
        let told: Vec<_> = heard
            .presence_told(channel)
            .into_iter()
            .map(|event| match event.expect("nothing is missing") {
                PresenceEvent::Join(member) => (true, member.client.to_string()),
                PresenceEvent::Leave(member) => (false, member.client.to_string()),
            })
            .collect();
        told.contains(&(false, last.to_owned())).then_some(told)
    };
    heard.until(format_args!("the leave of {last}"), find).await
}

fn told(events: &[(bool, &str)]) -> Vec<(bool, String)> {
    events.iter().map(|(joins, client)| (*joins, (*client).to_owned())).collect()
}

/// The first join and the last leave of a client are told, once, with all that is known of it; here and elsewhere.
pub async fn a_member_joins_once_and_leaves_once<W: World>(world: &W) {
    let (here, elsewhere) = (Recorder::new(), Recorder::new());
    let node = world.node(here.clone()).await;
    let room = channel("room:1");
    follow(&node, &room).await;
    let other = if W::JOINS_NODES { Some(world.node(elsewhere.clone()).await) } else { None };
    if let Some(other) = &other {
        follow(other, &room).await;
    }
    join(&node, &room, "a", 1).await;
    join(&node, &room, "a", 1).await;
    join(&node, &room, "b", 1).await;
    leave(&node, &room, "a", 1, Duration::ZERO).await;
    leave(&node, &room, "a", 1, Duration::ZERO).await;
    leave(&node, &room, "nobody", 1, Duration::ZERO).await;
    leave(&node, &room, "b", 1, Duration::ZERO).await;
    let expected = told(&[(true, "a"), (true, "b"), (false, "a"), (false, "b")]);
    assert_eq!(told_until(&here, &room, "b").await, expected);
    assert_eq!(here.presence_told(&room)[0], Some(PresenceEvent::Join(member("a"))));
    if other.is_some() {
        assert_eq!(told_until(&elsewhere, &room, "b").await, expected);
    }
}

/// A client whose newer connection has joined stays when the older one ends.
pub async fn an_older_connection_does_not_take_its_client_away<W: World>(world: &W) {
    let heard = Recorder::new();
    let node = world.node(heard.clone()).await;
    let room = channel("room:2");
    follow(&node, &room).await;
    join(&node, &room, "a", 1).await;
    if W::JOINS_NODES {
        let other = world.node(Recorder::new()).await;
        join(&other, &room, "a", 2).await;
        leave(&node, &room, "a", 1, Duration::ZERO).await;
        assert_eq!(node.count(&room).await.expect("the backplane is there"), 1);
        leave(&other, &room, "a", 2, Duration::ZERO).await;
    } else {
        join(&node, &room, "a", 2).await;
        leave(&node, &room, "a", 1, Duration::ZERO).await;
        assert_eq!(node.count(&room).await.expect("the backplane is there"), 1);
        leave(&node, &room, "a", 2, Duration::ZERO).await;
    }
    assert_eq!(told_until(&heard, &room, "a").await, told(&[(true, "a"), (false, "a")]));
}

/// A client that is back in time never left, wherever it comes back; one that is not leaves when its time is over.
pub async fn who_comes_back_within_the_grace_has_not_left<W: World>(world: &W) {
    const GRACE: Duration = Duration::from_millis(600);
    let heard = Recorder::new();
    let node = world.node(heard.clone()).await;
    let room = channel("room:3");
    follow(&node, &room).await;
    for client in ["a", "b", "c"] {
        join(&node, &room, client, 1).await;
        leave(&node, &room, client, 1, GRACE).await;
    }
    join(&node, &room, "a", 2).await;
    let other = if W::JOINS_NODES { Some(world.node(Recorder::new()).await) } else { None };
    match &other {
        Some(other) => join(other, &room, "b", 2).await,
        None => join(&node, &room, "b", 2).await,
    }
    assert_eq!(node.count(&room).await.expect("the backplane is there"), 3, "nobody has left yet");
    world.pass(GRACE).await;
    let joins = [(true, "a"), (true, "b"), (true, "c"), (false, "c")];
    assert_eq!(told_until(&heard, &room, "c").await, told(&joins));
    let page = node.members(&room, None, 10).await.expect("the backplane is there");
    assert_eq!(page.members, [member("a"), member("b")]);
}

/// Pages hold every member once, in the order of their ids.
pub async fn members_come_in_pages_by_client(world: &impl World) {
    const MEMBERS: usize = 2500;
    let node = world.node(Recorder::new()).await;
    let room = channel("room:4");
    let clients: BTreeSet<String> = (0..MEMBERS).map(|number| format!("client {number}")).collect();
    let joins = clients.iter().map(|client| node.join(&room, member(client), 1));
    for joined in futures_util::future::join_all(joins).await {
        joined.expect("the backplane is there");
    }
    let (mut seen, mut after) = (Vec::new(), None::<Arc<str>>);
    loop {
        let page = node.members(&room, after.as_deref(), 1000).await.expect("the backplane is there");
        assert_eq!(page.total, MEMBERS as u64);
        assert!(page.members.len() <= 1000);
        seen.extend(page.members.iter().map(|member| member.client.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, clients.into_iter().collect::<Vec<_>>());
}

/// Counting needs no members.
pub async fn members_are_counted(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let (room, empty) = (channel("room:5"), channel("room:6"));
    join(&node, &room, "a", 1).await;
    join(&node, &room, "b", 1).await;
    let count = async |room| node.count(room).await.expect("the backplane is there");
    assert_eq!((count(&room).await, count(&empty).await), (2, 0));
    leave(&node, &room, "a", 1, Duration::ZERO).await;
    assert_eq!(count(&room).await, 1);
}
