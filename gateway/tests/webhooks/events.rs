//! What the back end is told.

use std::time::Duration;

use serde_json::json;
use skywave_gateway::webhooks::{Event, Webhooks};
use skywave_proto::ChannelName;
use tokio::time::Instant;

use crate::{
    Figures,
    receiver::{Answer, DEADLINE, Receiver},
    settings, start, text,
};

fn hooks(rest: &str, receiver: &Receiver) -> Webhooks {
    start(&settings(&format!("[webhooks.events]\nurl = \"URL\"\n{rest}"), &format!("http://{}", receiver.address)))
}

/// Everything is told, and soon.
const PLAIN: &str = "debounce = \"0s\"\nbatch_wait = \"10ms\"\n";

fn connected(number: usize) -> Event {
    Event::connected(text(&number.to_string()), None)
}

fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("client_connected {number}")).collect()
}

/// The events of so many deliveries' calls, until there are as many events.
async fn events(receiver: &mut Receiver, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(receiver.call().await.events());
    }
    events
}

#[tokio::test]
async fn events_arrive_together_in_order_and_signed() {
    let mut receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let figures = Figures::record();
    let hooks = hooks(&format!("{PLAIN}batch = 4\nsecret = \"0123456789abcdef\""), &receiver);
    let channel = ChannelName::parse("chat:1").unwrap();
    hooks.event(Event::occupied(channel.clone()).at(1_700_000_000_001, "abcdefgh:7".parse().ok()), Some("chat"));
    hooks.event(Event::joined(channel, Some(text("u")), text("a")), Some("chat"));
    hooks.event(Event::disconnected(text("a"), Some(text("u")), "draining"), None);
    let call = receiver.call().await;
    assert_eq!(call.header("skywave-webhook"), "events");
    assert!(call.header("skywave-signature").starts_with("t="));
    let mut body = call.body();
    assert_eq!((&body["hook"], &body["node"]), (&json!("events"), &json!("node-1")));
    assert_eq!(body["id"], call.header("skywave-webhook-id"));
    let mut ids = Vec::new();
    for event in body["events"].as_array_mut().unwrap() {
        let event = event.as_object_mut().unwrap();
        ids.push(event.remove("id").unwrap());
        assert!(event.remove("at_ms").unwrap().as_u64().unwrap() > 1_700_000_000_000);
    }
    assert_eq!(
        body["events"],
        json!([
            {"type": "channel_occupied", "channel": "chat:1", "position": "abcdefgh:7"},
            {"type": "member_joined", "channel": "chat:1", "user": "u", "client": "a"},
            {"type": "client_disconnected", "user": "u", "client": "a", "reason": "draining"},
        ])
    );
    ids.dedup();
    assert_eq!(ids.len(), 3);

    (0..10).for_each(|number| hooks.event(connected(number), None));
    let sizes = [receiver.call().await, receiver.call().await, receiver.call().await].map(|call| call.events());
    assert_eq!(sizes.each_ref().map(Vec::len), [4, 4, 2]);
    assert_eq!(sizes.concat(), names(0..10));
    figures.until("events", "delivered", 13).await;
    assert_eq!(figures.count("events", "dead"), Some(0));
}

#[tokio::test]
async fn a_receiver_that_comes_back_hears_everything_as_it_was_queued() {
    let mut receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let figures = Figures::record();
    let hooks = hooks(&format!("{PLAIN}batch = 7"), &receiver);
    (0..5).for_each(|number| hooks.event(connected(number), None));
    assert_eq!(events(&mut receiver, 5).await, names(0..5));
    figures.until("events", "delivered", 5).await;
    receiver.kill().await;
    (5..60).for_each(|number| hooks.event(connected(number), None));
    let deadline = Instant::now() + DEADLINE;
    while figures.count("events", "retried") < Some(2) {
        assert!(Instant::now() < deadline, "it is not tried again");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks at the condition
    }
    (60..100).for_each(|number| hooks.event(connected(number), None));
    receiver.come_back().await;
    assert_eq!(events(&mut receiver, 95).await, names(5..100), "each once, in order");
    figures.until("events", "delivered", 100).await;
    assert_eq!(figures.count("events", "dead"), Some(0));
}

#[tokio::test]
async fn a_delivery_without_an_answer_is_repeated_with_its_ids() {
    let mut receiver =
        Receiver::start(|number, _| if number == 0 { Answer::Silence } else { Answer::Status(200) }).await;
    let hooks = hooks(&format!("{PLAIN}timeout = \"200ms\""), &receiver);
    (0..3).for_each(|number| hooks.event(connected(number), None));
    let (first, second) = (receiver.call().await, receiver.call().await);
    assert_eq!(first.bytes, second.bytes);
    assert_eq!(first.events(), names(0..3));
}

#[tokio::test]
async fn the_receiver_says_when_to_come_back() {
    let mut receiver =
        Receiver::start(|number, _| if number == 0 { Answer::RetryAfter(503, 2) } else { Answer::Status(200) }).await;
    let hooks = hooks(PLAIN, &receiver);
    hooks.event(connected(0), None);
    let first = receiver.call().await;
    hooks.event(connected(1), None);
    let second = receiver.call().await;
    assert_eq!(second.events(), names(0..1));
    assert!(second.at - first.at >= Duration::from_secs(2), "{:?}", second.at - first.at);
    assert_eq!(receiver.call().await.events(), names(1..2));
}

#[tokio::test]
async fn opposites_within_the_debounce_are_no_news() {
    let mut receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let figures = Figures::record();
    let hooks = hooks("debounce = \"500ms\"\nbatch_wait = \"0s\"", &receiver);
    let start = Instant::now();
    let channel = |name: &str| ChannelName::parse(name).unwrap();
    hooks.event(Event::occupied(channel("a")), None);
    hooks.event(connected(1), None);
    hooks.event(Event::vacated(channel("a")), None);
    hooks.event(Event::joined(channel("b"), Some(text("u")), text("1")), None);
    hooks.event(Event::left(channel("b"), Some(text("u")), text("2")), None);
    hooks.event(Event::joined(channel("b"), Some(text("u")), text("3")), None);
    hooks.event(Event::disconnected(text("2"), None, "none"), None);
    assert_eq!(events(&mut receiver, 3).await, ["client_connected 1", "member_joined 3", "client_disconnected 2"]);
    assert!(start.elapsed() >= Duration::from_millis(500));
    figures.until("events", "delivered", 3).await;
    assert_eq!(figures.count("events", "debounced"), Some(4));
}

#[tokio::test]
async fn only_what_is_wanted_is_told() {
    let mut receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let text =
        format!("{PLAIN}types = [\"channel_occupied\"]\nnamespaces = [\"chat\"]\n[namespaces.chat]\n[namespaces.news]");
    let hooks = hooks(&text, &receiver);
    let occupied = |name: &str| Event::occupied(ChannelName::parse(name).unwrap());
    hooks.event(connected(0), None);
    hooks.event(occupied("news:1"), Some("news"));
    hooks.event(occupied("chat:1"), Some("chat"));
    let body = receiver.call().await.body();
    assert_eq!(body["events"].as_array().unwrap().len(), 1);
    assert_eq!(body["events"][0]["channel"], "chat:1");
    assert!(hooks.wants_events() && hooks.wants_members());
    hooks
        .replace(&settings("[webhooks.events]\nurl = \"http://localhost\"\ntypes = [\"client_connected\"]", ""))
        .unwrap();
    assert!(hooks.wants_events() && !hooks.wants_members(), "of clients the node knows itself");
}

#[tokio::test]
async fn what_finds_no_room_is_dead_and_the_rest_arrives() {
    let mut receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    receiver.kill().await;
    let figures = Figures::record();
    let hooks = hooks(&format!("{PLAIN}queue = 20\nbatch = 6"), &receiver);
    (0..50).for_each(|number| hooks.event(connected(number), None));
    assert_eq!(figures.count("events", "dead"), Some(30));
    receiver.come_back().await;
    assert_eq!(events(&mut receiver, 20).await, names(0..20), "the oldest, without a hole");
    figures.until("events", "delivered", 20).await;
    assert_eq!(figures.count("events", "dead"), Some(30));
}

#[tokio::test]
async fn what_is_given_up_is_dead_and_counted() {
    let mut receiver = Receiver::start(|_, _| Answer::Status(500)).await;
    let figures = Figures::record();
    let hooks = hooks(&format!("{PLAIN}give_up_after = \"1s\"\nbatch = 2"), &receiver);
    let start = Instant::now();
    (0..3).for_each(|number| hooks.event(connected(number), None));
    figures.until("events", "dead", 3).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(receiver.call().await.events(), names(0..2));
    assert_eq!(figures.count("events", "delivered"), Some(0));
}

#[tokio::test]
async fn a_body_that_is_refused_holds_up_nothing() {
    let mut receiver =
        Receiver::start(|number, _| if number == 0 { Answer::Status(422) } else { Answer::Status(200) }).await;
    let figures = Figures::record();
    let hooks = hooks(&format!("{PLAIN}batch = 1"), &receiver);
    (0..3).for_each(|number| hooks.event(connected(number), None));
    assert_eq!(events(&mut receiver, 3).await, names(0..3));
    figures.until("events", "delivered", 2).await;
    assert_eq!(figures.count("events", "dead"), Some(1));
}

#[tokio::test]
async fn what_is_queued_goes_to_the_new_address_at_once() {
    let mut old = Receiver::start(|_, _| Answer::RetryAfter(503, 3600)).await;
    let mut new = Receiver::start(|_, _| Answer::Status(200)).await;
    let figures = Figures::record();
    let hooks = hooks(PLAIN, &old);
    hooks.event(connected(0), None);
    old.call().await;
    figures.until("events", "retried", 1).await;
    hooks.event(connected(1), None);
    let text = format!("[webhooks.events]\nurl = \"URL\"\n{PLAIN}");
    hooks.replace(&settings(&text, &format!("http://{}", new.address))).unwrap();
    assert_eq!(events(&mut new, 2).await, names(0..2));
    figures.until("events", "delivered", 2).await;

    hooks.replace(&settings(&text, &format!("http://{}", old.address))).unwrap();
    hooks.event(connected(2), None);
    old.call().await;
    figures.until("events", "retried", 2).await;
    hooks.event(connected(3), None);
    hooks.replace(&settings("", "")).unwrap();
    assert!(!hooks.wants_events());
    hooks.event(connected(4), None);
    figures.until("events", "dead", 2).await;
}

#[tokio::test]
async fn at_the_nodes_end_the_queue_is_delivered_as_far_as_time_allows() {
    let mut receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let figures = Figures::record();
    let hooks = hooks("debounce = \"1m\"\nbatch = 4", &receiver);
    (0..10).for_each(|number| hooks.event(connected(number), None));
    hooks.close(DEADLINE).await;
    assert_eq!(events(&mut receiver, 10).await, names(0..10), "without the debounce");
    hooks.event(connected(11), None);
    hooks.close(DEADLINE).await;
    assert_eq!(figures.count("events", "delivered"), Some(10));
    assert_eq!(figures.count("events", "dead"), Some(1), "too late");
    assert!(receiver.heard().is_none());
}

#[tokio::test]
async fn a_receiver_that_is_away_does_not_hold_up_the_nodes_end() {
    let mut receiver = Receiver::start(|_, _| Answer::Silence).await;
    let figures = Figures::record();
    let hooks = hooks(&format!("{PLAIN}batch = 4"), &receiver);
    (0..10).for_each(|number| hooks.event(connected(number), None));
    receiver.call().await;
    let start = Instant::now();
    hooks.close(Duration::from_millis(300)).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(figures.count("events", "dead"), Some(10), "the four under way, too");
}
