//! Faults 16 and 20, and a node that is killed: nobody leaves who is there, and nobody stays who is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    client::{Client, Record, Wants, all_subscribed},
    node::{self, Node},
    redis::{EMPTY, KEEPING, Redis},
    roll::Roll,
    wait::last,
};

const ROOM: &str = "room:1";
/// Longer than a node's lease, and than what others need to see that it has run out.
const LEASE: Duration = Duration::from_secs(11);

/// Three members at each of these nodes, who also go to the other ones if they may.
async fn members(nodes: &[&Node], roam: bool) -> Vec<Client> {
    let mut clients = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        for number in 0..3 {
            let mut addresses: Vec<_> = nodes.iter().map(|node| node.public()).collect();
            addresses.rotate_left(place);
            addresses.truncate(if roam { nodes.len() } else { 1 });
            clients.push(Client::start(Wants {
                name: format!("member {number} of {}", node.name()),
                nodes: addresses,
                channels: vec![ROOM.to_owned()],
                since: BTreeMap::new(),
                presence: true,
                patience: Duration::from_secs(60),
            }));
        }
    }
    all_subscribed(&clients).await;
    clients
}

fn id(client: &Client) -> String {
    client.look(|record| record.connections.last().expect("it is connected").0.clone())
}

fn roll(client: &Client) -> Roll {
    client.look(|record| record.members.get(ROOM).map(|told| Roll::of(told)).unwrap_or_default())
}

/// Waits until all of `clients` see exactly `there`.
async fn until_agreed(clients: &[Client], there: &[Client]) {
    let there: BTreeSet<_> = there.iter().map(id).collect();
    for client in clients {
        let agrees = |record: &Record| record.members.get(ROOM).is_some_and(|told| Roll::of(told).present == there);
        client.until(&format!("to see {there:?}"), agrees).await;
    }
}

fn assert_each_once(clients: &[Client]) {
    for client in clients {
        assert_eq!(roll(client).wrong, [], "{}", client.name);
    }
}

#[tokio::test]
#[ignore = "needs presence"]
async fn members_of_a_killed_node_leave_once_and_come_back_once() {
    let redis = Redis::start(EMPTY).await;
    let [mut paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let mut gone = members(&[&paris, &oslo], false).await;
    let there = gone.split_off(3);
    let all = || gone.iter().chain(&there);
    let ids: BTreeSet<_> = all().map(id).collect();
    for client in all() {
        client.until("to see all", |record| Roll::of(&record.members[ROOM]).present == ids).await;
    }
    let changes: Vec<_> = there.iter().map(|client| roll(client).changes).collect();
    paris.kill();
    until_agreed(&there, &there).await;
    paris.spawn();
    paris.ready().await;
    all_subscribed(&gone).await;
    for client in all() {
        client.until("to see all again", |record| Roll::of(&record.members[ROOM]).present == ids).await;
    }
    assert_each_once(&there);
    assert_each_once(&gone);
    for (client, changes) in there.iter().zip(changes) {
        assert_eq!(roll(client).changes, changes + 2 * 3, "{}: three leaves and three joins", client.name);
    }
}

#[tokio::test]
#[ignore = "needs presence"]
async fn members_who_come_back_elsewhere_in_time_have_never_left() {
    let redis = Redis::start(EMPTY).await;
    let [mut paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let clients = members(&[&paris, &oslo], true).await;
    until_agreed(&clients, &clients).await;
    let changes: Vec<_> = clients.iter().map(|client| roll(client).changes).collect();
    paris.kill();
    last(LEASE).await;
    all_subscribed(&clients).await;
    until_agreed(&clients, &clients).await;
    assert_each_once(&clients);
    for (client, changes) in clients.iter().zip(changes).skip(3) {
        assert_eq!(roll(client).changes, changes, "{} was told of joins or leaves", client.name);
    }
}

#[tokio::test]
#[ignore = "needs presence"]
async fn a_node_that_stood_still_past_its_lease_has_no_ghosts() {
    let redis = Redis::start(EMPTY).await;
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let mut clients = members(&[&paris, &oslo], false).await;
    until_agreed(&clients, &clients).await;
    let there = clients.split_off(3);
    paris.stall();
    until_agreed(&there, &there).await;
    // One of those who are not heard goes for good.
    clients.pop().expect("three of them").end().await;
    paris.resume();
    let all: Vec<_> = clients.into_iter().chain(there).collect();
    until_agreed(&all, &all).await;
    assert_each_once(&all);
}

async fn away(redis: &mut Redis) {
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let clients = members(&[&paris, &oslo], false).await;
    until_agreed(&clients, &clients).await;
    let changes: Vec<_> = clients.iter().map(|client| roll(client).changes).collect();
    redis.kill();
    last(LEASE).await;
    redis.launch().await;
    for client in &clients {
        client.until("the backplane to be there", |record| record.backplane.last() == Some(&true)).await;
    }
    last(LEASE).await;
    for (client, changes) in clients.iter().zip(changes) {
        assert_eq!(roll(client).changes, changes, "{} was told of joins or leaves", client.name);
    }
    // Who comes now sees all.
    let late = members(&[&oslo], false).await;
    let all: Vec<_> = clients.into_iter().chain(late).collect();
    until_agreed(&all, &all).await;
    assert_each_once(&all);
}

#[tokio::test]
#[ignore = "needs presence"]
async fn nobody_leaves_because_redis_was_away() {
    away(&mut Redis::start(KEEPING).await).await;
}

#[tokio::test]
#[ignore = "needs presence"]
async fn nobody_leaves_because_redis_was_emptied() {
    away(&mut Redis::start(EMPTY).await).await;
}
