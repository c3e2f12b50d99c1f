//! The promises of [`Presence`] about users.

use std::{sync::Arc, time::Duration};

use skywave_proto::{ChannelName, Member};

use super::{Recorder, World, channel};
use crate::{Presence, Transition, TransitionKind};

/// A client of a user, or of nobody.
pub fn client_of(user: Option<&str>, client: &str) -> Member {
    Member { client: client.into(), user: user.map(Arc::from), info: Some(bytes::Bytes::from_static(b"{\"a\":1}")) }
}

async fn join(node: &impl Presence, room: &ChannelName, user: Option<&str>, client: &str, connection: u64) {
    node.join(room, client_of(user, client), connection).await.expect("the backplane is there");
}

async fn leave(node: &impl Presence, room: &ChannelName, client: &str, connection: u64, grace: Duration) {
    node.leave(room, &client.into(), connection, grace).await.expect("the backplane is there");
}

/// What was told of users: who came (`+`) or went (`-`) with which client; `!` if the channel was or is empty.
pub fn comings_and_goings(heard: &Recorder, room: &ChannelName) -> Vec<String> {
    let write = |transition: Transition| {
        let sign = match transition.kind {
            TransitionKind::Joined => '+',
            TransitionKind::Left => '-',
        };
        let user = transition.member.user.as_deref().unwrap_or("nobody");
        format!("{sign}{user} {}{}", transition.member.client, if transition.of_channel { "!" } else { "" })
    };
    heard.transitions(room).into_iter().map(write).collect()
}

/// Two nodes that ask, or one.
async fn nodes<W: World>(world: &W) -> Vec<(W::Node, Arc<Recorder>)> {
    let mut nodes = Vec::new();
    for _ in 0..if W::JOINS_NODES { 2 } else { 1 } {
        let heard = Recorder::new();
        let node = world.node(heard.clone()).await;
        node.tell_transitions(true);
        nodes.push((node, heard));
    }
    nodes
}

/// By the node whose client it was, and by no other; and it says when a channel is occupied and vacated.
pub async fn a_user_comes_with_its_first_client_and_goes_with_its_last<W: World>(world: &W) {
    let nodes = nodes(world).await;
    let ((node, here), (other, elsewhere)) = (&nodes[0], &nodes[nodes.len() - 1]);
    let (room, quiet) = (channel("room: 1"), channel("room: 2"));
    join(node, &room, Some("ada"), "a1", 1).await;
    join(other, &room, Some("ada"), "a2", 1).await;
    join(other, &room, Some("bob"), "b1", 1).await;
    join(node, &quiet, Some("ada"), "a1", 1).await;
    join(node, &room, Some("ada"), "a1", 1).await; // once more
    leave(node, &room, "a1", 1, Duration::ZERO).await;
    leave(other, &room, "b1", 1, Duration::ZERO).await;
    leave(other, &room, "a2", 1, Duration::ZERO).await;
    leave(other, &room, "a2", 1, Duration::ZERO).await;
    join(node, &room, Some("bob"), "b1", 2).await;
    let ours = ["+ada a1!", "+bob b1!"];
    let theirs = ["+bob b1", "-bob b1", "-ada a2!"];
    if W::JOINS_NODES {
        assert_eq!(
            (comings_and_goings(here, &room), comings_and_goings(elsewhere, &room)),
            (strings(&ours), strings(&theirs))
        );
    } else {
        let all = [&ours[..1], &theirs, &ours[1..]].concat();
        assert_eq!(comings_and_goings(here, &room), strings(&all));
    }
    assert_eq!(comings_and_goings(here, &quiet), ["+ada a1!"]);
    let told = here.transitions(&room);
    assert_eq!(told[0].member, client_of(Some("ada"), "a1"));
    if let (Some(first), Some(last)) = (told[0].position, told[1].position) {
        // Each client's join and leave has a place: 1 is a1's, 2 to 6 are what came between.
        assert_eq!((first.epoch, first.offset, last.offset), (last.epoch, 1, 7));
    }
    assert!(told[0].at_ms > 1_700_000_000_000 && told[0].at_ms <= told[1].at_ms);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Also beside a user whose name is its client's id, or empty.
pub async fn who_has_no_user_counts_for_itself<W: World>(world: &W) {
    let heard = Recorder::new();
    let node = world.node(heard.clone()).await;
    node.tell_transitions(true);
    let room = channel("room:3");
    for (user, client) in [(None, "x"), (None, "y"), (Some("x"), "z"), (Some(""), "e1"), (Some(""), "e2")] {
        join(&node, &room, user, client, 1).await;
    }
    for client in ["x", "y", "z", "e1", "e2"] {
        leave(&node, &room, client, 1, Duration::ZERO).await;
    }
    let expected = ["+nobody x!", "+nobody y", "+x z", "+ e1", "-nobody x", "-nobody y", "-x z", "- e2!"];
    assert_eq!(comings_and_goings(&heard, &room), expected);
}

/// Wherever it comes back. Who does not come back goes when its time is over.
pub async fn who_moves_within_the_grace_makes_no_transition<W: World>(world: &W) {
    const GRACE: Duration = Duration::from_millis(600);
    let nodes = nodes(world).await;
    let ((node, here), (other, elsewhere)) = (&nodes[0], &nodes[nodes.len() - 1]);
    let room = channel("room:4");
    for client in ["a", "b"] {
        join(node, &room, Some(client), client, 1).await;
        leave(node, &room, client, 1, GRACE).await;
    }
    join(other, &room, Some("a"), "a", 2).await;
    world.pass(GRACE).await;
    let gone = |heard: &Recorder| comings_and_goings(heard, &room).contains(&"-b b".to_owned()).then_some(());
    here.until("b to go", gone).await;
    // It is another node's now, whose doing this is.
    leave(other, &room, "a", 2, Duration::ZERO).await;
    let mut all = comings_and_goings(here, &room);
    if W::JOINS_NODES {
        all.extend(comings_and_goings(elsewhere, &room));
    }
    assert_eq!(all, ["+a a!", "+b b", "-b b", "-a a!"]);
}

/// Its clients count all the same, for when it does.
pub async fn who_does_not_ask_is_told_of_no_transition<W: World>(world: &W) {
    let heard = Recorder::new();
    let node = world.node(heard.clone()).await;
    let room = channel("room:5");
    join(&node, &room, Some("ada"), "a1", 1).await;
    join(&node, &room, Some("ada"), "a2", 1).await;
    assert_eq!(heard.transitions(&room), []);
    node.tell_transitions(true);
    join(&node, &room, Some("ada"), "a3", 1).await;
    for client in ["a1", "a2", "a3"] {
        leave(&node, &room, client, 1, Duration::ZERO).await;
    }
    assert_eq!(comings_and_goings(&heard, &room), ["-ada a3!"]);
}
