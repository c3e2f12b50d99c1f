//! The promises of [`Ownership`].

use super::{Recorder, World};
use crate::{Cluster, Ownership, SessionKey};

const A: SessionKey = SessionKey([1; 32]);
const B: SessionKey = SessionKey([2; 32]);
const C: SessionKey = SessionKey([3; 32]);

async fn owner(node: &impl Ownership, session: SessionKey) -> Option<String> {
    node.owner(session).await.expect("the backplane is there").map(|owner| owner.to_string())
}

async fn claim(node: &impl Ownership, sessions: &[SessionKey], former: Option<&str>) -> Vec<String> {
    let owners = node.claim(sessions, former).await.expect("the backplane is there");
    owners.iter().map(ToString::to_string).collect()
}

async fn claim_one(node: &impl Ownership, session: SessionKey, former: Option<&str>) -> String {
    claim(node, &[session], former).await.remove(0)
}

/// Until it gives it up; nobody else takes it meanwhile, however often it asks.
pub async fn a_session_has_one_owner<W: World>(world: &W) {
    let node = world.node(Recorder::new()).await;
    let own = node.incarnation().to_string();
    assert_eq!(owner(&node, A).await, None);
    assert_eq!(claim_one(&node, A, None).await, own);
    assert_eq!(claim(&node, &[A, A, B], None).await, [own.clone(), own.clone(), own.clone()]);
    assert_eq!(owner(&node, A).await, Some(own.clone()));
    if W::JOINS_NODES {
        let other = world.node(Recorder::new()).await;
        let theirs = other.incarnation().to_string();
        assert_eq!(claim(&other, &[A, C, B], None).await, [own.clone(), theirs.clone(), own.clone()]);
        other.release(&[A]).await.expect("the backplane is there");
        assert_eq!(owner(&node, A).await, Some(own.clone()), "it was not the other's to give up");
        assert_eq!(claim_one(&node, C, None).await, theirs);
        // As a node does that was taken for dead and has another name now.
        assert_eq!(claim_one(&node, C, Some(&theirs)).await, own);
    }
    node.release(&[A, B]).await.expect("the backplane is there");
    assert_eq!((owner(&node, A).await, owner(&node, B).await), (None, None));
}

/// As many as a node may have, in one call.
pub async fn many_sessions_are_claimed_at_once<W: World>(world: &W) {
    let node = world.node(Recorder::new()).await;
    let key = |number: u16| {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        SessionKey(key)
    };
    let keys: Vec<_> = (0..1500).map(key).collect();
    let own = node.incarnation();
    let owners = node.claim(&keys, None).await.expect("the backplane is there");
    assert!(owners.len() == 1500 && owners.iter().all(|owner| *owner == own));
    node.release(&keys).await.expect("the backplane is there");
    assert_eq!(owner(&node, keys[1499]).await, None);
}
