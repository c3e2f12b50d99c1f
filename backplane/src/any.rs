use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::Either;
use skywave_proto::{ChannelName, Member, StreamPosition};

use crate::{
    Backplane, BackplaneState, Cluster, ClusterError, Delivery, HistoryError, HistoryPage, HistoryQuery, Interest,
    MemberPage, Memory, NewPublication, NodeInfo, NodeRecord, Ownership, Presence, PresenceError, PublishError,
    Published, Redis, Revocation, Revocations, RevokeError, SessionKey, SubscribeError, Target,
};

/// The backplane that the configuration chose.
pub enum Any {
    /// In this process, for one node.
    Memory(Memory),
    /// Through Redis, for many.
    Redis(Redis),
}

impl Any {
    /// The embedded backplane, if it is the one.
    pub fn embedded(&self) -> Option<&Memory> {
        match self {
            Self::Memory(memory) => Some(memory),
            Self::Redis(_) => None,
        }
    }
}

impl Backplane for Any {
    fn publish(
        &self,
        publication: NewPublication,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + 'static {
        match self {
            Self::Memory(memory) => Either::Left(memory.publish(publication)),
            Self::Redis(redis) => Either::Right(redis.publish(publication)),
        }
    }

    async fn subscribe(&self, channels: &[Interest]) -> Vec<Result<Option<StreamPosition>, SubscribeError>> {
        match self {
            Self::Memory(memory) => memory.subscribe(channels).await,
            Self::Redis(redis) => redis.subscribe(channels).await,
        }
    }

    fn unsubscribe(&self, channels: &[ChannelName]) {
        match self {
            Self::Memory(memory) => memory.unsubscribe(channels),
            Self::Redis(redis) => redis.unsubscribe(channels),
        }
    }

    async fn history(&self, channel: &ChannelName, query: HistoryQuery) -> Result<HistoryPage, HistoryError> {
        match self {
            Self::Memory(memory) => memory.history(channel, query).await,
            Self::Redis(redis) => redis.history(channel, query).await,
        }
    }

    async fn positions(&self, channels: &[ChannelName]) -> Result<Vec<Option<StreamPosition>>, HistoryError> {
        match self {
            Self::Memory(memory) => memory.positions(channels).await,
            Self::Redis(redis) => redis.positions(channels).await,
        }
    }

    async fn forget(&self, channel: &ChannelName) -> Result<(), HistoryError> {
        match self {
            Self::Memory(memory) => memory.forget(channel).await,
            Self::Redis(redis) => redis.forget(channel).await,
        }
    }

    fn state(&self) -> BackplaneState {
        match self {
            Self::Memory(memory) => memory.state(),
            Self::Redis(redis) => redis.state(),
        }
    }
}

impl Presence for Any {
    async fn join(&self, channel: &ChannelName, member: Member, connection: u64) -> Result<(), PresenceError> {
        match self {
            Self::Memory(memory) => memory.join(channel, member, connection).await,
            Self::Redis(redis) => redis.join(channel, member, connection).await,
        }
    }

    async fn leave(
        &self,
        channel: &ChannelName,
        client: &Arc<str>,
        connection: u64,
        grace: Duration,
    ) -> Result<(), PresenceError> {
        match self {
            Self::Memory(memory) => memory.leave(channel, client, connection, grace).await,
            Self::Redis(redis) => redis.leave(channel, client, connection, grace).await,
        }
    }

    async fn members(
        &self,
        channel: &ChannelName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<MemberPage, PresenceError> {
        match self {
            Self::Memory(memory) => memory.members(channel, after, limit).await,
            Self::Redis(redis) => redis.members(channel, after, limit).await,
        }
    }

    async fn count(&self, channel: &ChannelName) -> Result<u64, PresenceError> {
        match self {
            Self::Memory(memory) => memory.count(channel).await,
            Self::Redis(redis) => redis.count(channel).await,
        }
    }

    fn tell_transitions(&self, tell: bool) {
        match self {
            Self::Memory(memory) => memory.tell_transitions(tell),
            Self::Redis(redis) => redis.tell_transitions(tell),
        }
    }
}

impl Cluster for Any {
    fn incarnation(&self) -> Arc<str> {
        match self {
            Self::Memory(memory) => memory.incarnation(),
            Self::Redis(redis) => redis.incarnation(),
        }
    }

    fn announce(&self, info: NodeInfo) {
        match self {
            Self::Memory(memory) => memory.announce(info),
            Self::Redis(redis) => redis.announce(info),
        }
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, ClusterError> {
        match self {
            Self::Memory(memory) => memory.nodes().await,
            Self::Redis(redis) => redis.nodes().await,
        }
    }

    async fn signal(&self, to: Target, message: Bytes, delivery: Delivery) -> Result<(), ClusterError> {
        match self {
            Self::Memory(memory) => memory.signal(to, message, delivery).await,
            Self::Redis(redis) => redis.signal(to, message, delivery).await,
        }
    }
}

impl Revocations for Any {
    async fn revoke(&self, revocation: Revocation) -> Result<(), RevokeError> {
        match self {
            Self::Memory(memory) => memory.revoke(revocation).await,
            Self::Redis(redis) => redis.revoke(revocation).await,
        }
    }

    async fn revocations(&self) -> Result<Vec<Revocation>, ClusterError> {
        match self {
            Self::Memory(memory) => memory.revocations().await,
            Self::Redis(redis) => redis.revocations().await,
        }
    }
}

impl Ownership for Any {
    async fn claim(&self, sessions: &[SessionKey], former: Option<&str>) -> Result<Vec<Arc<str>>, ClusterError> {
        match self {
            Self::Memory(memory) => memory.claim(sessions, former).await,
            Self::Redis(redis) => redis.claim(sessions, former).await,
        }
    }

    async fn owner(&self, session: SessionKey) -> Result<Option<Arc<str>>, ClusterError> {
        match self {
            Self::Memory(memory) => memory.owner(session).await,
            Self::Redis(redis) => redis.owner(session).await,
        }
    }

    async fn release(&self, sessions: &[SessionKey]) -> Result<(), ClusterError> {
        match self {
            Self::Memory(memory) => memory.release(sessions).await,
            Self::Redis(redis) => redis.release(sessions).await,
        }
    }
}
