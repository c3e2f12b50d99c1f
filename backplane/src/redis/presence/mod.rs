//! Who is on a channel, over Redis.
//!
//! - [`table`]: what this node wants to stand there, member by member
//! - [`writer`]: makes it so, in batches; what fails is tried again, for the scripts do nothing twice
//! - [`entry`]: what stands there, in bytes
//! - [`transitions`]: which user's first or last client that was
//!
//! A member's entry names the incarnation of its node, and the lease is that node's ([`super::registry`]): an idle client
//! costs nothing. Joins and leaves are publications on a history stream of their own for each channel, so that what
//! holds for publications holds for them: exactly once, in order, also through a blip.

mod entry;
mod table;
mod transitions;
pub(super) mod writer;

use std::{sync::Arc, time::Duration};

use skywave_proto::{ChannelName, Member, StreamPosition};

pub(super) use self::{entry::read_event, table::Resync, transitions::Transitions, writer::Writer};
use super::{Redis, history, keys};
use crate::{HistoryPolicy, MemberPage, Presence, PresenceError, Unreadable};

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
        let stream = stream(channel);
        // Behind the list, so that everything that is in it has been told by then.
        pipeline.cmd("HMGET").arg(self.0.keys.meta(&stream)).arg("e").arg("o");
        let answers = link.ask(&pipeline).await.map_err(|error| away(history::unavailable(error)))?;
        let (mut entries, total, told) = read_page(answers).map_err(|error| away(history::unavailable(error)))?;
        if let Some(told) = told {
            self.until_told(&stream, told).await;
        }
        let read = |entry: &Vec<u8>| {
            let member = entry::read(entry);
            if member.is_none() {
                Unreadable::Presence.tell(channel, &"not a member");
            }
            member
        };
        // The next page begins behind the last entry, also where that cannot be read.
        let more = entries.len() > limit;
        entries.truncate(limit);
        let last = entries.last().filter(|_| more).and_then(|entry| entry::client(entry)).map(Arc::from);
        let members: Vec<_> = entries.iter().filter_map(read).collect();
        let next = last.or_else(|| members.last().filter(|_| more).map(|member| member.client.clone()));
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

    fn tell_transitions(&self, tell: bool) {
        self.0.members.tell_transitions(tell);
    }
}

impl Redis {
    /// Until this node has heard the joins and leaves up to there, if it follows them: whoever gets a list hears behind it
    /// what changed after it and nothing that is in it.
    async fn until_told(&self, stream: &ChannelName, told: StreamPosition) {
        let heard = async {
            let mut pause = FIRST_LOOK;
            while let Some(last) = self.0.pump.last(stream)
                && (last.epoch != told.epoch || last.offset < told.offset)
            {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LAST_LOOK);
            }
        };
        // Longer than a blip: then the list is given all the same.
        let _ = tokio::time::timeout(PATIENCE, heard).await;
    }
}

/// How often it is looked whether what is on its way has come in, at first and in the end. Mostly it has.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);

type Page = (Vec<Vec<u8>>, u64, Option<StreamPosition>);

fn read_page(answers: Vec<redis::Value>) -> redis::RedisResult<Page> {
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or_default().extract_error();
    let (entries, total) = (redis::from_redis_value(next()?)?, redis::from_redis_value(next()?)?);
    Ok((entries, total, history::read_standing(next()?)?))
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
