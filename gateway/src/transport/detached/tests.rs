//! Detached connections on a real shard over the embedded backplane.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use skywave_backplane::{Any, Memory};
use skywave_proto::CloseCode;
use tokio::{sync::oneshot, time::timeout};

use super::*;
use crate::{
    config::{Flags, Settings},
    protocol::Json,
    relay::{Answers, Mailbox, Relay, Routes},
    session::Ground,
    shard::{Backlog, ShardHandle},
};

const SECOND: Duration = Duration::from_secs(1);
const OUTBOX: usize = 64 * 1024;

/// Runs `test` on a shard's thread, with what makes connections of it.
async fn on_a_shard<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Bench>) -> F + Send + 'static) {
    let flags = Flags { dev: true, name: Some("paris".into()), ..Flags::default() };
    let open = r#"{ publish = "anyone", subscribe = "anyone", history = { size = 10, ttl = "10m" } }"#;
    let variables = [
        ("SKYWAVE__NODE__SHARDS", "1"),
        ("SKYWAVE__TIMEOUTS__CONNECT", "1s"),
        ("SKYWAVE__LIMITS__PUBLICATIONS_PER_SECOND", "0"),
        ("SKYWAVE__LIMITS__COMMANDS_PER_SECOND", "0"),
        ("SKYWAVE__NAMESPACES__OPEN", open),
        ("SKYWAVE__NAMESPACES__LOSSY", &open.replace("{ publish", r#"{ slow_consumer = "drop_oldest", publish"#)),
    ];
    let settings = Arc::new(Settings::load(&flags, variables).unwrap());
    let (handle, seat) = ShardHandle::new(0);
    let mailboxes: Arc<[Arc<dyn Mailbox>]> = Arc::new([Arc::new(handle.clone())]);
    let (routes, _signals) = Routes::new(mailboxes.clone());
    let routes = Arc::new(routes);
    let relay = Relay::start(Any::Memory(Memory::new(routes.clone())), routes, Answers::new(mailboxes));
    let ground = Arc::new(Ground::new(settings, "paris".into(), vec![handle.clone()]));
    let thread = seat.spawn(relay, Backlog::new(1, None)).unwrap();
    let (done, over) = oneshot::channel();
    handle.run(move |shard| {
        let bench = Rc::new(Bench { shard: shard.clone(), ground });
        tokio::task::spawn_local(async move {
            test(bench).await;
            let _ = done.send(());
        });
    });
    timeout(30 * SECOND, over).await.expect("in time").expect("the test has not panicked");
    handle.stop();
    thread.join().unwrap();
}

struct Bench {
    shard: Rc<Shard>,
    ground: Arc<Ground>,
}

impl Bench {
    fn opened(&self, terms: Terms) -> Detached {
        let link = self.shard.link(&Json, OUTBOX);
        let session = Session::new(self.ground.clone(), self.shard.clone(), link.clone(), &Json);
        let detached = Detached::adopted(&self.shard, session, link, &Json, None, Transport::SockJs, terms);
        detached.begin();
        detached
    }

    /// One that is subscribed to this channel.
    async fn subscribed(&self, terms: Terms, channel: &str) -> Detached {
        let detached = self.opened(terms);
        say(&detached, &json!({"id": 1, "connect": {"subscribe": [{"channel": channel}]}}));
        assert!(text(next(&detached).await)["connected"]["subscribed"][0]["channel"] == channel);
        detached
    }
}

fn terms() -> Terms {
    Terms { beat_interval: None, patience: 2 * SECOND, close: SECOND, age: None }
}

fn say(detached: &Detached, words: &Value) {
    detached.hear(Body::Text(&Bytes::from(words.to_string())));
}

fn publish(detached: &Detached, channel: &str, data: &Value) {
    say(detached, &json!({"publish": {"channel": channel, "data": data}}));
}

async fn next(detached: &Detached) -> Next {
    timeout(10 * SECOND, detached.next()).await.expect("something to take")
}

fn text(next: Next) -> Value {
    let Next::Frame(frame) = next else { panic!("{next:?}") };
    serde_json::from_slice(frame.payload()).unwrap()
}

#[tokio::test]
async fn what_is_heard_is_done_and_what_comes_is_taken_one_by_one() {
    on_a_shard(|bench| async move {
        let detached = bench.subscribed(terms(), "open:a").await;
        publish(&detached, "open:a", &json!(1));
        publish(&detached, "open:a", &json!(2));
        assert_eq!(text(next(&detached).await)["publication"]["data"], 1);
        detached.let_go(); // as between two polls
        assert_eq!(text(next(&detached).await)["publication"]["data"], 2);
        assert!(timeout(Duration::from_millis(1), detached.next()).await.is_err(), "nothing more");
        detached.leave(CloseCode::Draining.into());
        assert_eq!(text(next(&detached).await)["disconnect"]["code"], 4001);
        assert!(matches!(next(&detached).await, Next::End(goodbye) if goodbye.code == CloseCode::Draining));
    })
    .await;
}

#[tokio::test]
async fn messages_that_wait_are_done_in_their_order_and_the_next_waits_for_them() {
    on_a_shard(|bench| async move {
        let detached = bench.opened(terms());
        // Who publishes right behind a subscribe hears it: the publish waits for the subscription.
        let subscribe = json!({"id": 1, "subscribe": {"channel": "open:a"}});
        let publish = json!({"id": 2, "publish": {"channel": "open:a", "data": "x"}});
        detached.hear(Body::Text(&Bytes::from(format!("{subscribe}\n{publish}"))));
        timeout(10 * SECOND, detached.ready()).await.expect("all is done");
        let mut heard = Vec::new();
        for _ in 0..4 {
            heard.push(text(next(&detached).await));
        }
        assert!(heard[0]["connected"].is_object() && heard[1]["subscribed"].is_object(), "{heard:?}");
        assert!(heard[2..].iter().any(|said| said["publication"]["data"] == "x"), "{heard:?}");
        assert!(heard[2..].iter().any(|said| said["published"].is_object()), "{heard:?}");
    })
    .await;
}

#[tokio::test]
async fn whoever_does_not_take_is_judged_as_one_whose_socket_is_full() {
    on_a_shard(|bench| async move {
        let patient = Terms { patience: 60 * SECOND, ..terms() };
        let (strict, lossy) = (bench.subscribed(patient, "open:a").await, bench.subscribed(patient, "lossy:a").await);
        let (publisher, long) = (bench.opened(terms()), "x".repeat(16 * 1024));
        for _ in 0..10 {
            publish(&publisher, "open:a", &json!(long));
            publish(&publisher, "lossy:a", &json!(long));
            timeout(10 * SECOND, publisher.ready()).await.unwrap();
        }
        let ended = async {
            while strict.ending().is_none() {
                tokio::task::yield_now().await;
            }
        };
        timeout(10 * SECOND, ended).await.expect("it cannot keep all of it");
        assert_eq!(text(next(&strict).await)["disconnect"]["code"], 4002);
        assert!(matches!(next(&strict).await, Next::End(goodbye) if goodbye.code == CloseCode::SlowConsumer));
        let mut offsets = Vec::new();
        let mut missed = 0;
        while offsets.last() != Some(&10) {
            let said = text(next(&lossy).await);
            missed += said["gap"]["missed"].as_u64().unwrap_or_default();
            offsets.extend(said["publication"]["offset"].as_u64());
        }
        assert!(missed >= 6 && offsets.len() as u64 + missed == 10, "{offsets:?} {missed}");
    })
    .await;
}

#[tokio::test]
async fn a_burst_is_no_fault_of_a_taker_that_waits() {
    on_a_shard(|bench| async move {
        let detached = Rc::new(bench.subscribed(terms(), "open:a").await);
        let publisher = bench.opened(terms());
        let taken = tokio::task::spawn_local(async move {
            let mut taken = 0;
            while taken < 200 {
                taken += u32::from(text(next(&detached).await)["publication"].is_object());
            }
            taken
        });
        // In one turn of the shard: three times its outbox, and it cannot have its turn between.
        let message: Vec<_> = (0..100)
            .map(|n| json!({"publish": {"channel": "open:a", "data": "x".repeat(400 + n)}}).to_string())
            .collect();
        for _ in 0..2 {
            publisher.hear(Body::Text(&Bytes::from(message.join("\n"))));
            timeout(10 * SECOND, publisher.ready()).await.unwrap();
        }
        assert_eq!(timeout(10 * SECOND, taken).await.unwrap().unwrap(), 200);
    })
    .await;
}

#[tokio::test]
async fn silence_towards_one_who_waits_and_a_taker_that_does_not_come_back_have_an_end() {
    on_a_shard(|bench| async move {
        let detached = bench.subscribed(Terms { beat_interval: Some(SECOND), ..terms() }, "open:a").await;
        assert!(matches!(next(&detached).await, Next::Beat));
        // It does not come back: it is slow, and does not take its goodbye either.
        let cut = Rc::new(Cell::new(false));
        let seen = cut.clone();
        detached.on_cut(move || seen.set(true));
        let over = async {
            while !cut.get() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(15 * SECOND, over).await.expect("it is cut");
        assert_eq!(detached.ending().unwrap().code, CloseCode::SlowConsumer);
        assert!(detached.session().describe().is_none(), "nothing is left of its session");
    })
    .await;
}

#[tokio::test]
async fn whoever_says_nothing_is_sent_away_and_a_dropped_handle_leaves_nothing() {
    on_a_shard(|bench| async move {
        let silent = bench.opened(terms());
        assert!(matches!(text(next(&silent).await), said if said["disconnect"]["code"] == 4504));
        assert!(matches!(next(&silent).await, Next::End(goodbye) if goodbye.code == CloseCode::ClientProtocolError));
        let before = bench.shard.keys().len();
        let known = bench.subscribed(terms(), "open:a").await;
        assert_eq!(bench.shard.keys().len(), before + 1);
        drop(known);
        assert_eq!(bench.shard.keys().len(), before);
    })
    .await;
}
