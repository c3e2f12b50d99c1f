//! The promises of [`Revocations`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{DEADLINE, Recorder, World};
use crate::{Cluster, MAX_SUBJECT_BYTES, Revocation, Revocations, RevokeError, Subject};

const MINUTE_MS: u64 = 60_000;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("not in our time")
}

fn user(id: &str, issued_before_ms: u64, until_ms: u64) -> Revocation {
    Revocation { subject: Subject::User(id.into()), issued_before_ms, until_ms }
}

async fn revoke(node: &impl Revocations, revocation: &Revocation) {
    node.revoke(revocation.clone()).await.expect("the backplane is there");
}

async fn known(node: &impl Revocations) -> Vec<Revocation> {
    let mut known = node.revocations().await.expect("the backplane is there");
    known.sort_by_key(|revocation| format!("{:?}", revocation.subject));
    known
}

/// All nodes do, those that come later too; a user is not a token of the same name.
pub async fn every_node_knows_what_is_revoked<W: World>(world: &W) {
    let node = world.node(Recorder::new()).await;
    assert_eq!(known(&node).await, []);
    let until = now_ms() + MINUTE_MS;
    let token = Revocation { subject: Subject::Token("ada".into()), issued_before_ms: 0, until_ms: until + 1 };
    let odd = "u3:ada 1 2\n\0ü";
    let revoked = [token, user("ad", 1, until), user("ada", 2, until), user(odd, 3, until)];
    for revocation in &revoked {
        revoke(&node, revocation).await;
    }
    let mut expected = revoked.to_vec();
    expected.sort_by_key(|revocation| format!("{:?}", revocation.subject));
    assert_eq!(known(&node).await, expected);
    if W::JOINS_NODES {
        let later = world.node(Recorder::new()).await;
        assert_ne!(later.incarnation(), node.incarnation());
        assert_eq!(known(&later).await, expected);
        revoke(&later, &user("bob", 4, until)).await;
        assert!(known(&node).await.contains(&user("bob", 4, until)));
    }
}

/// An earlier or shorter one takes nothing back.
pub async fn revoking_again_only_widens(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let until = now_ms() + MINUTE_MS;
    for (issued, until) in [(20, until), (10, until + 5), (30, until - 5), (1, 1)] {
        revoke(&node, &user("ada", issued, until)).await;
    }
    assert_eq!(known(&node).await, [user("ada", 30, until + 5)]);
}

/// Nothing is left of it; what is over from the beginning is not kept either.
pub async fn a_revocation_ends_by_itself(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let stays = user("bob", u64::MAX >> 12, u64::MAX >> 12);
    revoke(&node, &user("ada", 1, now_ms() - 1)).await;
    revoke(&node, &user("ada", 1, now_ms() + 400)).await;
    revoke(&node, &stays).await;
    assert_eq!(known(&node).await, [user("ada", 1, known(&node).await[0].until_ms), stays.clone()]);
    let deadline = Instant::now() + DEADLINE;
    while known(&node).await.len() > 1 {
        assert!(Instant::now() < deadline, "it still holds");
        world.pass(Duration::from_millis(20)).await;
    }
    assert_eq!(known(&node).await, [stays]);
}

/// Neither an empty one nor one that is too long.
pub async fn only_a_good_id_can_be_revoked(world: &impl World) {
    let node = world.node(Recorder::new()).await;
    let until = now_ms() + MINUTE_MS;
    for length in [0, MAX_SUBJECT_BYTES + 1] {
        let refused = node.revoke(user(&"a".repeat(length), 1, until)).await;
        assert!(matches!(refused, Err(RevokeError::BadSubject(its)) if its == length), "{refused:?}");
    }
    revoke(&node, &user(&"a".repeat(MAX_SUBJECT_BYTES), 1, until)).await;
    assert_eq!(known(&node).await.len(), 1);
}
