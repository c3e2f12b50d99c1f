//! The door of `skywave.v1.Node`: a connection on which the other side has proven that it is a node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;
use tonic::metadata::MetadataMap;

/// Goes with every call.
pub(super) const TOKEN_HEADER: &str = "skywave-peer";
/// How long a proof holds.
pub(super) const PROOF_HOLDS: Duration = Duration::from_secs(600);
const TOKEN_BYTES: usize = 32;

/// What has been proven on one connection. Cloning shares it; each connection has its own, so a token that was overheard is
/// of no use on another, and a proxy that puts several callers on one connection does not lend it to all.
#[derive(Clone, Default)]
pub struct Proven(Arc<Mutex<Option<Admitted>>>);

struct Admitted {
    token: [u8; TOKEN_BYTES],
    until: Instant,
    node: Node,
}

/// A node that has proven that it is one.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) name: Arc<str>,
    /// Stands for its process.
    pub(super) process: [u8; super::proof::ID_BYTES],
}

impl Proven {
    /// From now on calls with the returned token are this node's.
    pub(super) fn admit(&self, node: Node, now: Instant) -> Vec<u8> {
        let token: [u8; TOKEN_BYTES] = rand::random();
        *self.0.lock() = Some(Admitted { token, until: now + PROOF_HOLDS, node });
        token.to_vec()
    }

    /// Whose call this is; `None`: nobody has proven it here, or too long ago.
    pub(super) fn caller(&self, headers: &MetadataMap, now: Instant) -> Option<Node> {
        let given = headers.get(TOKEN_HEADER)?;
        let admitted = self.0.lock();
        let admitted = admitted.as_ref().filter(|admitted| now < admitted.until)?;
        let is_right = bool::from(written(&admitted.token).as_bytes().ct_eq(given.as_bytes()));
        is_right.then(|| admitted.node.clone())
    }
}

/// A token as it goes in a header.
pub(super) fn written(token: &[u8]) -> String {
    token.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(token: &str) -> MetadataMap {
        let mut headers = MetadataMap::new();
        headers.insert(TOKEN_HEADER, token.parse().unwrap());
        headers
    }

    #[test]
    fn a_token_opens_its_connection_until_it_expires() {
        let (one, other, now) = (Proven::default(), Proven::default(), Instant::now());
        assert!(one.caller(&headers(""), now).is_none());
        let node = Node { name: "paris".into(), process: [1; 16] };
        let token = written(&one.admit(node.clone(), now));
        let theirs = written(&other.admit(node, now));
        assert_eq!(&*one.caller(&headers(&token), now).unwrap().name, "paris");
        assert!(one.caller(&headers(&theirs), now).is_none(), "overheard on another connection");
        assert!(one.caller(&MetadataMap::new(), now).is_none());
        assert!(one.caller(&headers(&token[1..]), now).is_none());
        assert!(one.caller(&headers(&token), now + PROOF_HOLDS).is_none());
    }
}
