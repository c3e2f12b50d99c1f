use std::sync::Arc;

use bytes::Bytes;
use skywave_proto::{ChannelName, Member};

use super::Redis;
use crate::{Cluster, ClusterError, MemberPage, NodeInfo, NodeRecord, Presence, PresenceError, Target};

/// Not built yet: every call fails.
impl Presence for Redis {
    async fn join(&self, _: &ChannelName, _: Member, _: u64) -> Result<(), PresenceError> {
        Err(PresenceError::Unavailable(None))
    }

    async fn leave(&self, _: &ChannelName, _: &Arc<str>, _: u64, _: std::time::Duration) -> Result<(), PresenceError> {
        Err(PresenceError::Unavailable(None))
    }

    async fn members(&self, _: &ChannelName, _: Option<&str>, _: usize) -> Result<MemberPage, PresenceError> {
        Err(PresenceError::Unavailable(None))
    }

    async fn count(&self, _: &ChannelName) -> Result<u64, PresenceError> {
        Err(PresenceError::Unavailable(None))
    }
}

/// Not built yet: every call fails.
impl Cluster for Redis {
    fn incarnation(&self) -> Arc<str> {
        "".into()
    }

    fn announce(&self, _: NodeInfo) {}

    async fn nodes(&self) -> Result<Vec<NodeRecord>, ClusterError> {
        Err(ClusterError::Unavailable(None))
    }

    async fn signal(&self, _: Target, _: Bytes) -> Result<(), ClusterError> {
        Err(ClusterError::Unavailable(None))
    }
}
