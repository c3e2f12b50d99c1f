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

/// Connections of the node that is killed, and how many rooms each is in: 5,000 memberships.
const CONNECTIONS: usize = 1250;
const ROOMS_EACH: usize = 4;
const ROOMS: usize = 40;
/// So many of them come back to another node.
const COME_BACK: usize = 250;
/// Ghosts are gone by then.
const GONE: Duration = Duration::from_secs(10);

fn rooms_of(number: usize) -> Vec<String> {
    let small = (1..ROOMS_EACH).map(|nth| format!("room:small:{}", (number * ROOMS_EACH + nth * 11) % ROOMS));
    small.collect::<BTreeSet<_>>().into_iter().chain(["room:large".to_owned()]).collect()
}

#[tokio::test]
async fn five_thousand_members_of_a_killed_node_leave_once_within_ten_seconds() {
    let redis = Redis::start(EMPTY).await;
    let [mut paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let rooms: Vec<_> =
        (0..ROOMS).map(|number| format!("room:small:{number}")).chain(["room:large".to_owned()]).collect();
    let wants = |name: String, nodes: &[&Node], channels: Vec<String>, presence| Wants {
        name,
        nodes: nodes.iter().map(|node| node.public()).collect(),
        channels,
        since: BTreeMap::new(),
        presence,
        patience: Duration::from_secs(60),
    };
    let follower = Client::start(wants("follower".into(), &[&oslo], rooms.clone(), true));
    follower.subscribed().await;
    let own = id(&follower);
    let members: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let nodes: &[&Node] = if number < COME_BACK { &[&paris, &oslo] } else { &[&paris] };
            Client::start(wants(format!("member {number}"), nodes, rooms_of(number), false))
        })
        .collect();
    all_subscribed(&members).await;
    let ids: Vec<_> = members.iter().map(id).collect();
    let expected = |count: usize| {
        let mut there: BTreeMap<String, BTreeSet<String>> =
            rooms.iter().map(|room| (room.clone(), BTreeSet::from([own.clone()]))).collect();
        for (number, id) in ids.iter().enumerate().take(count) {
            for room in rooms_of(number) {
                there.get_mut(&room).expect("one of them").insert(id.clone());
            }
        }
        there
    };
    let memberships: usize = expected(CONNECTIONS).values().map(|there| there.len() - 1).sum();
    let sees = |there: &BTreeMap<String, BTreeSet<String>>, record: &Record| {
        there.iter().all(|(room, there)| record.members.get(room).is_some_and(|told| Roll::of(told).present == *there))
    };
    let all = expected(CONNECTIONS);
    follower.until("to see all of them", |record| sees(&all, record)).await;
    paris.kill();
    let killed = tokio::time::Instant::now();
    let rest = expected(COME_BACK);
    follower.until("to see those who came back, and no ghosts", |record| sees(&rest, record)).await;
    let took = killed.elapsed();
    println!("{memberships} memberships of a killed node: ghosts gone after {took:?}");
    assert!(took <= GONE, "ghosts were there for {took:?}");
    follower.look(|record| {
        for (room, told) in &record.members {
            let roll = Roll::of(told);
            let (joined, left) = (all[room].len(), all[room].len() - rest[room].len());
            // The follower's own join may be told, or be in its first list.
            assert!(roll.wrong.is_empty() && (joined + left).abs_diff(roll.changes) <= 1, "{room}: {roll:?}");
        }
    });
    let subscribed = |member: &Client| member.look(|record| record.connections.len());
    assert!(members[..COME_BACK].iter().all(|member| subscribed(member) == 2), "they came back once");
}

#[tokio::test]
#[ignore = "long"]
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
#[ignore = "long"]
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
#[ignore = "long"]
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

async fn away(redis: &mut Redis, outage: Duration, crowd: usize) {
    let [paris, oslo] = node::pair(&redis.url(), &redis.url()).await;
    let clients = members(&[&paris, &oslo], false).await;
    let crowd: Vec<_> = (0..crowd)
        .map(|number| {
            Client::start(Wants {
                name: format!("one of the crowd, {number}"),
                nodes: vec![[&paris, &oslo][number % 2].public()],
                channels: [vec![ROOM.to_owned()], rooms_of(number)].concat(),
                since: BTreeMap::new(),
                presence: false,
                patience: Duration::from_secs(60),
            })
        })
        .collect();
    all_subscribed(&crowd).await;
    let there: BTreeSet<_> = clients.iter().chain(&crowd).map(id).collect();
    for client in &clients {
        client.until("to see all", |record| Roll::of(&record.members[ROOM]).present == there).await;
    }
    let changes: Vec<_> = clients.iter().map(|client| roll(client).changes).collect();
    redis.kill();
    last(outage).await;
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
    let all: BTreeSet<_> = there.into_iter().chain(late.iter().map(id)).collect();
    for client in clients.iter().chain(&late) {
        client.until("to see all", |record| Roll::of(&record.members[ROOM]).present == all).await;
    }
    assert_each_once(&clients);
    assert_each_once(&late);
}

#[tokio::test]
#[ignore = "long"]
async fn nobody_leaves_because_redis_was_away() {
    away(&mut Redis::start(KEEPING).await, LEASE, 0).await;
}

#[tokio::test]
#[ignore = "long"]
async fn nobody_leaves_because_redis_was_emptied() {
    away(&mut Redis::start(EMPTY).await, LEASE, 0).await;
}

/// 800 in one room (a list of members holds 1,000), all in others too: about 4,000 memberships, and half a minute.
#[tokio::test]
#[ignore = "long"]
async fn nobody_of_a_crowd_leaves_because_redis_was_away_for_half_a_minute() {
    away(&mut Redis::start(KEEPING).await, Duration::from_secs(30), 800).await;
}
