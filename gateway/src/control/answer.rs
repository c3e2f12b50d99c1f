//! Questions of other nodes: what this one gathers from its shards.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use skywave_backplane::Target;
use skywave_proto::v1::signal::{self, answer::Answer, question::Question};
use tokio::sync::oneshot;

use super::{Control, SURVEY_AT_MOST, meant};
use crate::{
    session::Who,
    shard::{Description, Shard, ShardHandle},
};

/// Questions that are being answered at once. Full: a question is not answered, told in the log, and this node is
/// silent.
pub(super) const ANSWERING: usize = 64;
/// The most that one answer carries of connections, in bytes of names, or channels, in their number.
const ANSWER_BYTES: usize = 256 * 1024;
const ANSWER_CHANNELS: usize = 1000;

impl Control {
    /// Answers a question, in a task of its own. `None` if it is not understood.
    pub(super) fn answer(self: &Arc<Self>, asker: Arc<str>, question: signal::Question) -> Option<()> {
        let signal::Question { id, within_ms, question } = question;
        let question = question?;
        let Ok(permit) = self.answering.clone().try_acquire_owned() else {
            tracing::warn!("too many questions of other nodes are being answered, one is not");
            return Some(());
        };
        let control = self.clone();
        let within = Duration::from_millis(within_ms).min(SURVEY_AT_MOST);
        tokio::spawn(async move {
            // Later nobody waits for it.
            if let Ok(Some(answer)) = tokio::time::timeout(within, control.gather(question)).await {
                let answer = signal::Answer { id, answer: Some(answer), node: control.ground.node.to_string() };
                control.relay.signal(Target::Node(asker), signal::Op::Answer(answer));
            }
            drop(permit);
        });
        Some(())
    }

    /// `None` if a shard does not answer, or the question is not understood.
    async fn gather(&self, question: Question) -> Option<Answer> {
        match question {
            Question::Connections(who) => {
                Some(Answer::Connections(fit(self.connections(&meant(Some(who))?).await?, ANSWER_BYTES)))
            }
            Question::Channels(question) => self.channels(question).await.map(Answer::Channels),
        }
    }

    async fn connections(&self, who: &Who) -> Option<Vec<Description>> {
        let described = self.by_shard(who).into_iter().map(|(shard, keys)| {
            ask(&self.ground.shards[shard], move |shard| {
                let owners = keys.into_iter().filter_map(|key| shard.owner(key));
                owners.filter_map(|owner| owner.describe()).collect::<Vec<_>>()
            })
        });
        let described: Option<Vec<_>> = join_all(described).await.into_iter().collect();
        Some(described?.into_iter().flatten().collect())
    }

    async fn channels(&self, question: signal::ChannelsQuestion) -> Option<signal::Channels> {
        // Each is some milliseconds without a turn for every connection of the node.
        let _walking = self.walking.acquire().await.ok()?;
        let limit = usize::try_from(question.limit).unwrap_or(usize::MAX).min(ANSWER_CHANNELS);
        let counted = self.ground.shards.iter().map(|shard| {
            let (prefix, after) = (question.prefix.clone(), question.after.clone());
            ask(shard, move |shard| shard.hub().channels(&prefix, &after, limit + 1))
        });
        let counted: Option<Vec<_>> = join_all(counted).await.into_iter().collect();
        let counts = counted?.into_iter().map(|counts| {
            let counts = counts.into_iter().map(|(channel, subscriptions)| signal::ChannelCount {
                channel: channel.as_str().to_owned(),
                subscriptions,
            });
            signal::Channels { channels: counts.collect(), more: false }
        });
        Some(sum(counts, limit))
    }
}

/// Asks a shard; `None` if it is gone.
async fn ask<T: Send + 'static>(shard: &ShardHandle, question: impl FnOnce(&Shard) -> T + Send + 'static) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    shard.run(move |shard| {
        // Whoever asked may have lost its patience.
        if !reply.is_closed() {
            drop(reply.send(question(shard)));
        }
    });
    answer.await.ok()
}

/// As many connections as fit into `room` bytes of names.
fn fit(described: Vec<Description>, mut room: usize) -> signal::Connections {
    let mut answer = signal::Connections::default();
    for connection in described {
        let own = connection.client.len() + connection.user.as_ref().map_or(0, |user| user.len()) + 32;
        if own > room {
            answer.more = true;
            break;
        }
        room -= own;
        let mut channels = Vec::new();
        for channel in connection.channels {
            if channel.as_str().len() > room {
                answer.more = true;
                break;
            }
            room -= channel.as_str().len();
            channels.push(channel.as_str().to_owned());
        }
        channels.sort();
        answer.connections.push(signal::Connection {
            client: connection.client.to_string(),
            user: connection.user.map(|user| user.to_string()),
            protocol: connection.protocol.to_owned(),
            connected_at_ms: connection.connected_at_ms,
            channels,
        });
    }
    answer
}

/// Adds up the counts of each channel and keeps the first `limit` by name. Right as long as each source gave its own
/// first ones, at least `limit` of them or all: then none that is kept lies behind the last of any source.
pub fn sum(sources: impl IntoIterator<Item = signal::Channels>, limit: usize) -> signal::Channels {
    let mut summed = BTreeMap::<String, u64>::new();
    let mut more = false;
    for source in sources {
        more |= source.more;
        for counted in source.channels {
            *summed.entry(counted.channel).or_default() += counted.subscriptions;
        }
    }
    more |= summed.len() > limit;
    let first = summed.into_iter().take(limit);
    let channels = first.map(|(channel, subscriptions)| signal::ChannelCount { channel, subscriptions }).collect();
    signal::Channels { channels, more }
}

#[cfg(test)]
mod tests {
    use skywave_proto::ChannelName;

    use super::*;

    #[test]
    fn an_answer_has_a_bound_and_says_when_it_is_not_all() {
        let connection = |client: &str| Description {
            client: client.into(),
            user: Some("ada".into()),
            protocol: "json",
            connected_at_ms: 1,
            channels: ["b", "a"].map(|name| ChannelName::parse(name).unwrap()).into(),
        };
        let all = fit(vec![connection("1"), connection("2")], 1000);
        assert_eq!((all.connections.len(), all.more), (2, false));
        assert_eq!(all.connections[0].channels, ["a", "b"]);
        let one = fit(vec![connection("1"), connection("2")], 40);
        assert_eq!((one.connections.len(), one.more), (1, true));
        let cut = fit(vec![connection("1")], 37);
        assert_eq!((cut.connections[0].channels.len(), cut.more), (1, true));
    }

    #[test]
    fn the_counts_of_a_channel_are_added_and_the_first_are_kept() {
        let source = |counts: &[(&str, u64)], more| {
            let count = |(name, count): &(&str, u64)| signal::ChannelCount {
                channel: (*name).to_owned(),
                subscriptions: *count,
            };
            signal::Channels { channels: counts.iter().map(count).collect(), more }
        };
        let summed = sum([source(&[("b", 1), ("c", 1)], false), source(&[("a", 2), ("b", 4)], false)], 2);
        let channels: Vec<_> = summed.channels.iter().map(|c| (c.channel.as_str(), c.subscriptions)).collect();
        assert_eq!((channels, summed.more), (vec![("a", 2), ("b", 5)], true));
        assert!(!sum([source(&[("a", 1)], false)], 1).more);
        assert!(sum([source(&[("a", 1)], true)], 1).more, "a source has more than it gave");
    }
}
