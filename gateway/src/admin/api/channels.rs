//! What there is on channels: history, members, subscriptions.

use skywave_backplane::{Backplane as _, MemberPage, Presence as _};
use skywave_proto::{
    ChannelName,
    v1::{
        self,
        signal::{self, answer::Answer as NodeAnswer, question::Question},
    },
};

use super::{Answer, Internal, Refusal, bad_request, channel_and_namespace, within};
use crate::{control, protocol::since_of, relay::MEMBERS_PAGE, session};

/// Channels in one answer, if the caller does not say; and the most that it may say.
const CHANNELS_DEFAULT: u32 = 100;
pub(in crate::admin) const CHANNELS_AT_MOST: u32 = 1000;
/// The longest `after` of a list of members, in bytes.
pub(in crate::admin) const AFTER_BYTES: usize = 1024;

/// `history`: as for clients.
pub(super) async fn history(internal: &Internal, words: v1::HistoryRequest) -> Result<Answer, Refusal> {
    let (channel, namespace) = channel_and_namespace(internal, &words.channel)?;
    session::require_history(&namespace, &channel)?;
    if words.limit.is_some_and(|limit| limit > session::PAGE_PUBLICATIONS) {
        return Err(bad_request(format!("limit is 0 to {}", session::PAGE_PUBLICATIONS)));
    }
    let query = session::history_query(words.since.as_ref().map(since_of), words.limit);
    let page = internal.relay.backplane().history(&channel, query).await?;
    Ok(Answer::History(channel, page))
}

/// `presence`: as for clients.
pub(super) async fn presence(internal: &Internal, words: v1::PresenceRequest) -> Result<MemberPage, Refusal> {
    let (channel, namespace) = channel_and_namespace(internal, &words.channel)?;
    session::require_presence(&namespace, &channel)?;
    if words.after.as_ref().is_some_and(|after| after.len() > AFTER_BYTES) {
        return Err(bad_request(format!("after has at most {AFTER_BYTES} bytes")));
    }
    Ok(internal.relay.backplane().members(&channel, words.after.as_deref(), MEMBERS_PAGE).await?)
}

/// `presence_count`.
pub(super) async fn presence_count(
    internal: &Internal,
    words: v1::PresenceCountRequest,
) -> Result<v1::PresenceCountResponse, Refusal> {
    let (channel, namespace) = channel_and_namespace(internal, &words.channel)?;
    session::require_presence(&namespace, &channel)?;
    Ok(v1::PresenceCountResponse { total: internal.relay.backplane().count(&channel).await? })
}

/// `forget`: the history, and with it everybody's positions.
pub(super) async fn forget(internal: &Internal, words: v1::ForgetRequest) -> Result<v1::ForgetResponse, Refusal> {
    let (channel, namespace) = channel_and_namespace(internal, &words.channel)?;
    session::require_history(&namespace, &channel)?;
    internal.relay.backplane().forget(&channel).await?;
    Ok(v1::ForgetResponse {})
}

/// `channels`: which have subscribers, counted over all nodes that answer.
pub(super) async fn channels(internal: &Internal, words: v1::ChannelsRequest) -> Result<v1::ChannelsResponse, Refusal> {
    let limit = words.limit.unwrap_or(CHANNELS_DEFAULT);
    if !(1..=CHANNELS_AT_MOST).contains(&limit) {
        return Err(bad_request(format!("limit is 1 to {CHANNELS_AT_MOST}")));
    }
    let (prefix, after) = (words.prefix.unwrap_or_default(), words.after.unwrap_or_default());
    for (word, name) in [("prefix", &prefix), ("after", &after)] {
        if name.len() > ChannelName::MAX_BYTES {
            return Err(bad_request(format!("{word} has at most {} bytes", ChannelName::MAX_BYTES)));
        }
    }
    let question = Question::Channels(signal::ChannelsQuestion { prefix, after, limit });
    let surveyed = internal.control.survey(question, within(words.within_ms)?).await?;
    let counts = surveyed.answers.into_iter().filter_map(|(_, answer)| match answer {
        NodeAnswer::Channels(channels) => Some(channels),
        NodeAnswer::Connections(_) => None,
    });
    let summed = control::sum(counts, limit as usize);
    let next = summed.channels.last().filter(|_| summed.more).map(|last| last.channel.clone());
    let status =
        |count: signal::ChannelCount| v1::ChannelStatus { channel: count.channel, subscriptions: count.subscriptions };
    let channels = summed.channels.into_iter().map(status).collect();
    Ok(v1::ChannelsResponse { channels, next, silent_nodes: surveyed.silent })
}
