//! What there is on channels: history, members, subscriptions.

use serde::Deserialize;
use serde_json::json;
use skywave_backplane::{Backplane as _, Presence as _};
use skywave_proto::{
    ChannelName, StreamPosition,
    v1::signal::{self, answer::Answer as NodeAnswer, question::Question},
};

use super::{Answer, Internal, answer, bad_request, channel_and_namespace, raw, within};
use crate::{
    control,
    protocol::{history_object, members_object},
    relay::MEMBERS_PAGE,
    session::{self, Refusal, Since},
};

/// Channels in one answer, if the caller does not say; and the most that it may say.
const CHANNELS_DEFAULT: u32 = 100;
const CHANNELS_AT_MOST: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    channel: String,
    #[serde(default)]
    since: Option<SinceWords>,
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SinceWords {
    epoch: String,
    offset: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Presence {
    channel: String,
    #[serde(default)]
    after: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OneChannel {
    channel: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Channels {
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    within_ms: Option<u64>,
}

/// `history`: as for clients.
pub(super) async fn history(internal: &Internal, History { channel, since, limit }: History) -> Answer {
    let (channel, namespace) = channel_and_namespace(internal, &channel)?;
    session::require_history(&namespace, &channel)?;
    let since = since.map(|since| match since.epoch.parse() {
        Ok(epoch) => Since::Position(StreamPosition { epoch, offset: since.offset }),
        Err(_) => Since::Foreign,
    });
    let page = internal.relay.backplane().history(&channel, session::history_query(since, limit)).await;
    raw(history_object(&channel, &page.map_err(Refusal::from)?))
}

/// `presence`: as for clients.
pub(super) async fn presence(internal: &Internal, Presence { channel, after }: Presence) -> Answer {
    let (channel, namespace) = channel_and_namespace(internal, &channel)?;
    session::require_presence(&namespace, &channel)?;
    let page = internal.relay.backplane().members(&channel, after.as_deref(), MEMBERS_PAGE).await;
    raw(members_object(&page.map_err(Refusal::from)?))
}

/// `presence_count`.
pub(super) async fn presence_count(internal: &Internal, OneChannel { channel }: OneChannel) -> Answer {
    let (channel, namespace) = channel_and_namespace(internal, &channel)?;
    session::require_presence(&namespace, &channel)?;
    let total = internal.relay.backplane().count(&channel).await.map_err(Refusal::from)?;
    answer(&json!({ "total": total }))
}

/// `forget`: the history, and with it everybody's positions.
pub(super) async fn forget(internal: &Internal, OneChannel { channel }: OneChannel) -> Answer {
    let (channel, namespace) = channel_and_namespace(internal, &channel)?;
    session::require_history(&namespace, &channel)?;
    internal.relay.backplane().forget(&channel).await.map_err(Refusal::from)?;
    answer(&json!({}))
}

/// `channels`: which have subscribers, counted over all nodes that answer.
pub(super) async fn channels(internal: &Internal, words: Channels) -> Answer {
    let limit = words.limit.unwrap_or(CHANNELS_DEFAULT);
    if !(1..=CHANNELS_AT_MOST).contains(&limit) {
        return Err(bad_request(&format!("limit is 1 to {CHANNELS_AT_MOST}")));
    }
    let (prefix, after) = (words.prefix.unwrap_or_default(), words.after.unwrap_or_default());
    for (word, name) in [("prefix", &prefix), ("after", &after)] {
        if name.len() > ChannelName::MAX_BYTES {
            return Err(bad_request(&format!("{word} has at most {} bytes", ChannelName::MAX_BYTES)));
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
    let channels: Vec<_> = summed
        .channels
        .into_iter()
        .map(|counted| json!({ "channel": counted.channel, "subscriptions": counted.subscriptions }))
        .collect();
    let mut object = json!({ "channels": channels, "silent_nodes": surveyed.silent });
    if let Some(next) = next {
        object["next"] = next.into();
    }
    answer(&object)
}
