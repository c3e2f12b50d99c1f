//! The client against real nodes, over connections that break.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use skywave_client::{Client, ClientError, Connection, Event, Payload, SubscribeOptions, Subscription};
use support::{DEADLINE, Proxy, node, token};
use tokio::time::timeout;

const DEEP: (&str, &str) = (
    "SKYWAVE__NAMESPACES__DEEP",
    "{ history = { size = 20000, ttl = \"10m\" }, publish = \"anyone\", subscribe = \"anyone\", presence = true }",
);

async fn next(subscription: &mut Subscription) -> Event {
    timeout(DEADLINE, subscription.next()).await.expect("something happens").expect("it has not ended")
}

async fn number(subscription: &mut Subscription) -> u64 {
    match next(subscription).await {
        Event::Publication(publication) => serde_json::from_slice(publication.payload.data()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_subscribes_publishes_and_asks() {
    let node = node(&[DEEP]).await;
    let client = Client::builder(node.url()).info(&json!({ "name": "Ada" })).connect().await.unwrap();
    let mut room = client.subscribe_with("deep:room", SubscribeOptions::default().with_presence()).await.unwrap();
    let Event::Members(page) = next(&mut room).await else { panic!("no members") };
    assert_eq!(page.total, 1);
    let info: Value = serde_json::from_slice(page.members[0].info.as_ref().unwrap()).unwrap();
    assert_eq!(info, json!({ "name": "Ada" }));

    let published = client.publish_json("deep:room", &json!({ "text": "é\u{2028}" })).await.unwrap();
    let Event::Publication(got) = next(&mut room).await else { panic!("no publication") };
    assert_eq!(got.position, published.position);
    assert_eq!(serde_json::from_slice::<Value>(got.payload.data()).unwrap(), json!({ "text": "é\u{2028}" }));
    let bytes = Payload::binary(vec![0, 255].into());
    client.publish("deep:room", bytes.clone()).await.unwrap();
    let Event::Publication(got) = next(&mut room).await else { panic!("no publication") };
    assert_eq!(got.payload, bytes);

    let page = client.history("deep:room", None, None).await.unwrap();
    assert_eq!((page.publications.len(), page.has_more), (2, false));
    let first = client.publish_once("deep:room", Payload::json("1".into()), "key").await.unwrap();
    let again = client.publish_once("deep:room", Payload::json("1".into()), "key").await.unwrap();
    assert_eq!((again.position, again.is_duplicate, first.is_duplicate), (first.position, true, false));
    assert_eq!(client.presence("deep:room", None).await.unwrap().total, 1);

    let other = Client::builder(node.url()).connect().await.unwrap();
    let guest = other.subscribe("deep:room").await.unwrap();
    number(&mut room).await;
    assert!(matches!(next(&mut room).await, Event::Join(_)));
    drop(guest);
    assert!(matches!(next(&mut room).await, Event::Leave(_)), "a dropped subscription is one that ended");
    client.close().await;
    assert_eq!(
        room.next().await,
        Some(Event::Ended(skywave_client::Refusal {
            code: "ended".into(),
            message: "the client has ended: it was closed".into(),
            retry: false,
            after: Duration::ZERO,
        }))
    );
    assert_eq!(room.next().await, None);
}

#[tokio::test]
async fn whatever_connections_do_each_publication_comes_once_and_in_order() {
    let node = node(&[DEEP]).await;
    let proxy = Proxy::to(&node.address()).await;
    let client = Client::builder(proxy.url()).connect().await.unwrap();
    let mut channel = client.subscribe("deep:a").await.unwrap();
    let publisher = Client::builder(proxy.url()).connect().await.unwrap();
    const COUNT: u64 = 400;
    let publishing = async {
        for number in 0..COUNT {
            publisher.publish_json("deep:a", &number).await.unwrap();
            if number % 50 == 25 {
                proxy.cut_all();
            }
            if number % 50 == 45 {
                client.reconnect().await;
            }
        }
    };
    let reading = async {
        for expected in 0..COUNT {
            assert_eq!(number(&mut channel).await, expected);
        }
    };
    tokio::join!(publishing, reading);
    assert!(proxy.connections() > 10, "they came back over new ones");
    let mut connection = client.connection();
    let id = |connection: &Connection| match connection {
        Connection::Up { client, .. } => Some(client.clone()),
        _ => None,
    };
    let before = id(&connection.wait_for(|now| id(now).is_some()).await.unwrap());
    proxy.cut_all();
    connection.wait_for(|now| id(now).is_none()).await.unwrap();
    assert_eq!(id(&connection.wait_for(|now| id(now).is_some()).await.unwrap()), before, "it is the same client");
}

#[tokio::test]
async fn what_a_slow_reader_had_no_room_for_comes_from_the_history() {
    let node = node(&[
        DEEP,
        ("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__COMMANDS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__BYTES_PER_SECOND", "0"),
    ])
    .await;
    let client = Client::builder(node.url()).connect().await.unwrap();
    let mut channel = client.subscribe("deep:a").await.unwrap();
    const COUNT: u64 = 3000;
    for number in 0..COUNT {
        client.publish_json("deep:a", &number).await.unwrap();
    }
    // Nothing was read yet, and no more than the queue holds has waited here.
    for expected in 0..COUNT {
        assert_eq!(number(&mut channel).await, expected);
        if expected == COUNT / 2 {
            client.reconnect().await;
        }
    }
    client.publish_json("deep:a", &COUNT).await.unwrap();
    assert_eq!(number(&mut channel).await, COUNT);
}

#[tokio::test]
async fn what_cannot_be_had_any_more_is_told() {
    let node = node(&[(
        "SKYWAVE__NAMESPACES__SHORT",
        "{ history = { size = 2, ttl = \"10m\" }, publish = \"anyone\", subscribe = \"anyone\" }",
    )])
    .await;
    let proxy = Proxy::to(&node.address()).await;
    let client = Client::builder(proxy.url()).connect().await.unwrap();
    let mut channel = client.subscribe("short:a").await.unwrap();
    let publisher = Client::builder(node.url()).connect().await.unwrap();
    publisher.publish_json("short:a", &0).await.unwrap();
    assert_eq!(number(&mut channel).await, 0);
    proxy.refuse(true);
    proxy.cut_all();
    for number in 1..=3 {
        publisher.publish_json("short:a", &number).await.unwrap();
    }
    proxy.refuse(false);
    let Event::Gap(gap) = next(&mut channel).await else { panic!("no gap") };
    assert_eq!((gap.reason.as_str(), gap.position.map(|position| position.offset)), ("reset", Some(4)));
    publisher.publish_json("short:a", &4).await.unwrap();
    assert_eq!(number(&mut channel).await, 4);
}

#[tokio::test]
async fn what_is_published_while_the_node_is_away_is_published_once_it_is_back() {
    let node = node(&[DEEP]).await;
    let proxy = Proxy::to(&node.address()).await;
    let client = Client::builder(proxy.url()).connect().await.unwrap();
    let mut watched = Client::builder(node.url()).connect().await.unwrap().subscribe("deep:a").await.unwrap();
    proxy.refuse(true);
    proxy.cut_all();
    let sending = client.publish_json("deep:a", &1);
    tokio::pin!(sending);
    assert!(timeout(Duration::from_millis(200), &mut sending).await.is_err(), "there is nobody to send it to");
    proxy.refuse(false);
    let published = timeout(DEADLINE, sending).await.unwrap().unwrap();
    assert!(!published.is_duplicate);
    assert_eq!(number(&mut watched).await, 1);
    assert_eq!(client.history("deep:a", None, None).await.unwrap().publications.len(), 1);
}

#[tokio::test]
async fn what_is_refused_is_told_to_who_asked() {
    let node = node(&[("SKYWAVE__NAMESPACES__CLOSED", "{ publish = \"nobody\", subscribe = \"token\" }"), DEEP]).await;
    let client = Client::builder(node.url()).connect().await.unwrap();
    let refused = |outcome: Result<(), ClientError>| match outcome {
        Err(ClientError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(client.subscribe("closed:a").await.map(drop)), "permission_denied");
    assert_eq!(refused(client.publish_json("closed:a", &1).await.map(drop)), "permission_denied");
    assert_eq!(refused(client.subscribe(" ").await.map(drop)), "bad_request");
    let kept = client.subscribe("deep:a").await.unwrap();
    assert_eq!(refused(client.subscribe("deep:a").await.map(drop)), "already_subscribed");
    drop(kept);
    client.subscribe("deep:a").await.unwrap();

    let address = |url: &str| Client::builder(url).connect();
    assert!(matches!(address("http://127.0.0.1/ws").await, Err(ClientError::Address { .. })));
    assert!(matches!(address("nonsense").await, Err(ClientError::Address { .. })));
    let other = format!("{}/nothing-here", node.url());
    assert!(matches!(address(&other).await, Err(ClientError::Unreachable(why)) if why.contains("404")));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let late = Client::builder(format!("ws://{nobody}/ws")).within(Duration::from_millis(100)).connect().await;
    assert!(matches!(late, Err(ClientError::Unreachable(_))), "{late:?}");
    // The first that answers is taken.
    Client::builder(format!("ws://{nobody}/ws")).or(node.url()).connect().await.unwrap();
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_a_bad_one_ends_the_client() {
    let keys = ("SKYWAVE__AUTH__TOKENS__KEYS", "[{ alg = \"HS256\", secret = \"0123456789abcdef0123456789abcdef\" }]");
    let node = node(&[DEEP, keys]).await;
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let client = Client::builder(node.url()).token_from(move || {
        count.fetch_add(1, Relaxed);
        async { Ok(token("ada", 2)) }
    });
    let client = client.connect().await.unwrap();
    let mut room = client.subscribe("deep:a").await.unwrap();
    let until = tokio::time::Instant::now() + DEADLINE;
    while asked.load(Relaxed) < 4 {
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.publish_json("deep:a", &1).await.unwrap();
    let Event::Publication(got) = next(&mut room).await else { panic!("no publication") };
    assert_eq!(got.user.as_deref(), Some("ada"));

    let bad = Client::builder(node.url()).token("not a token").connect().await;
    assert!(matches!(bad, Err(ClientError::Refused(refusal)) if refusal.code == "unauthenticated"));
}
