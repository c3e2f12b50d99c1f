//! Revoked tokens when there are very many, and while Redis is away.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are a test")]

mod support;

use std::{
    collections::HashSet,
    time::{SystemTime, UNIX_EPOCH},
};

use skywave_backplane::{
    Backplane as _, BackplaneState, ClusterError, MAX_REVOCATIONS, Revocation, Revocations as _, RevokeError, Subject,
    conformance::Recorder,
};
use support::{Server, until};

fn user(id: &str, ends_in_ms: u64) -> Revocation {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let until_ms = u64::try_from(now).unwrap() + ends_in_ms;
    Revocation { subject: Subject::User(id.into()), issued_before_ms: 7, until_ms }
}

/// Revokes the users from one number up to another: what the script writes, but for the ends.
const FILL: &str = "local now = redis.call('TIME')[1] * 1000 \
    for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do \
      local name = 'x' .. i \
      local subject = 'u' .. #name .. ':' .. name \
      local ends = string.format('%.0f', now + 3600000) \
      redis.call('ZADD', KEYS[1], 0, subject .. ' 7 ' .. ends) \
      redis.call('ZADD', KEYS[2], ends, subject) \
    end";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_revocation_is_dropped_for_another() {
    let server = Server::started().await;
    let node = server.node(Recorder::new()).await;
    let first = user("first", 60_000);
    node.revoke(first.clone()).await.unwrap();
    let keys: Vec<String> = redis::from_redis_value(server.command(&["KEYS", "skywave:*}:r*"]).await).unwrap();
    let [one, other] = <[String; 2]>::try_from(keys).unwrap();
    let (revoked, ends) = if one.ends_with(":r") { (one, other) } else { (other, one) };
    let lives = |key: String| {
        let server = &server;
        async move { redis::from_redis_value::<i64>(server.command(&["PTTL", &key]).await).unwrap() }
    };
    for key in [&revoked, &ends] {
        assert!((50_000..=60_001).contains(&lives(key.clone()).await), "it goes with the last of them");
    }
    for from in (1..MAX_REVOCATIONS).step_by(1000) {
        let to = (from + 1000).min(MAX_REVOCATIONS) - 1;
        server.command(&["EVAL", FILL, "2", &revoked, &ends, &from.to_string(), &to.to_string()]).await;
    }
    let refused = node.revoke(user("one more", 60_000)).await;
    assert!(matches!(refused, Err(RevokeError::Full)), "{refused:?}");
    node.revoke(first.clone()).await.unwrap(); // of whom it is known already

    let later = server.node(Recorder::new()).await;
    let known = later.revocations().await.unwrap();
    assert!(known.contains(&first));
    let subjects: HashSet<_> = known.iter().map(|revocation| &revocation.subject).collect();
    assert_eq!((known.len(), subjects.len()), (MAX_REVOCATIONS, MAX_REVOCATIONS), "all pages, each once");

    // Those that are over make room, a few at a time.
    server.command(&["ZADD", &ends, "XX", "1", "u2:x1", "1", "u2:x2"]).await;
    node.revoke(user("one more", 60_000)).await.unwrap();
    node.revoke(user("and one", 60_000)).await.unwrap();
    assert!(matches!(node.revoke(user("too many", 60_000)).await, Err(RevokeError::Full)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_revoked_and_nothing_known_while_redis_is_away() {
    let mut server = Server::persistent(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let node = server.node(Recorder::new()).await;
    let (before, after) = (user("before", 600_000), user("after", 600_000));
    node.revoke(before.clone()).await.unwrap();
    server.kill();
    until("the outage to be seen", || async { node.state() == BackplaneState::Degraded }).await;
    assert!(matches!(node.revoke(after.clone()).await, Err(RevokeError::Unavailable(_))));
    assert!(matches!(node.revocations().await, Err(ClusterError::Unavailable(_))));
    server.start().await;
    until("the node to be live", || async { node.state() == BackplaneState::Live }).await;
    node.revoke(after.clone()).await.unwrap();
    let known = node.revocations().await.unwrap();
    assert!(known.len() == 2 && known.contains(&before) && known.contains(&after), "{known:?}");
}
