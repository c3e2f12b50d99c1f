//! Who is on a channel, over Redis.
//!
//! - [`table`]: what this node wants to stand there, member by member
//! - [`writer`]: makes it so, in batches; what fails is tried again, for the scripts do nothing twice
//! - [`entry`]: what stands there, in bytes
//!
//! A member's entry names the incarnation of its node, and the lease is that node's ([`super::registry`]): an idle client
//! costs nothing. Joins and leaves are publications on a history stream of their own for each channel, so that what
//! holds for publications holds for them: exactly once, in order, also through a blip.

mod entry;
mod table;
pub(super) mod writer;

use std::{sync::Arc, time::Duration};

use skywave_proto::{ChannelName, Member};

pub(super) use self::{entry::read_event, table::Resync, writer::Writer};
use super::{Redis, history, keys};
use crate::{HistoryPolicy, MemberPage, Presence, PresenceError};

/// What is kept of a channel's joins and leaves: what fits into it is not missed by whoever is cut off for a while.
pub(super) const STREAM: HistoryPolicy =
    HistoryPolicy { size: 256, ttl: Duration::from_secs(60), meta_ttl: Duration::from_secs(24 * 3600) };

/// How long a caller waits for what it wants to stand there.
const PATIENCE: Duration = Duration::from_secs(2);

/// The stream of a channel's joins and leaves.
pub(super) fn stream(channel: &ChannelName) -> ChannelName {
    ChannelName::reserved(keys::PRESENCE, channel)
}

impl Presence for Redis {
    async fn join(&self, channel: &ChannelName, member: Member, connection: u64) -> Result<(), PresenceError> {
        wait(self.0.members.join(channel, member, connection)).await
    }

    async fn leave(
        &self,
        channel: &ChannelName,
        client: &Arc<str>,
        connection: u64,
        grace: Duration,
    ) -> Result<(), PresenceError> {
        match self.0.members.leave(channel, client, connection, grace) {
            Some(written) => wait(written).await,
            None => Ok(()),
        }
    }

    async fn members(
        &self,
        channel: &ChannelName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<MemberPage, PresenceError> {
        let link = self.link(channel).map_err(away)?;
        let mut pipeline = redis::pipe();
        let from = after.map_or_else(|| "-".to_owned(), |after| format!("({after}\u{1}"));
        let key = self.0.keys.members(channel);
        pipeline.cmd("ZRANGEBYLEX").arg(&key).arg(from).arg("+").arg("LIMIT").arg(0).arg(limit.saturating_add(1));
        pipeline.cmd("ZCARD").arg(&key);
        let answers = link.ask(&pipeline).await.map_err(|error| away(history::unavailable(error)))?;
        let (entries, total) = read_page(answers).map_err(|error| away(history::unavailable(error)))?;
        let mut members: Vec<_> = entries.iter().filter_map(|entry| entry::read(entry)).collect();
        let more = members.len() > limit;
        members.truncate(limit);
        let next = members.last().filter(|_| more).map(|member| member.client.clone());
        Ok(MemberPage { members, total, next })
    }

    async fn count(&self, channel: &ChannelName) -> Result<u64, PresenceError> {
        let link = self.link(channel).map_err(away)?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZCARD").arg(self.0.keys.members(channel));
        let answer = link.ask(&pipeline).await.map_err(|error| away(history::unavailable(error)))?.pop();
        let count = answer.unwrap_or_default().extract_error().and_then(|count| Ok(redis::from_redis_value(count)?));
        count.map_err(|error| away(history::unavailable(error)))
    }
}

fn read_page(answers: Vec<redis::Value>) -> redis::RedisResult<(Vec<Vec<u8>>, u64)> {
    let mut answers = answers.into_iter().map(redis::Value::extract_error);
    let entries = answers.next().transpose()?.unwrap_or_default();
    let total = answers.next().transpose()?.unwrap_or_default();
    Ok((redis::from_redis_value(entries)?, redis::from_redis_value(total)?))
}

fn away(crate::HistoryError::Unavailable(cause): crate::HistoryError) -> PresenceError {
    PresenceError::Unavailable(cause)
}

async fn wait(written: tokio::sync::oneshot::Receiver<()>) -> Result<(), PresenceError> {
    match tokio::time::timeout(PATIENCE, written).await {
        Ok(Ok(())) => Ok(()),
        // Superseded by a later wish of the same client, which is what counts now; or the node ends.
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(PresenceError::Unavailable(None)),
    }
}
