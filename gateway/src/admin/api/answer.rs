//! What a method answers, for either way to call it.

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use skywave_backplane::{HistoryPage, MemberPage};
use skywave_proto::{
    ChannelName,
    v1::{self, batch_result::Result as Wire, broadcast_result::Result as Single},
};

use crate::{
    protocol::{error_message, history_message, history_object, members_message, members_object},
    session::Refusal,
};

/// See the module.
#[derive(Debug)]
pub(super) enum Answer {
    Publish(v1::PublishResponse),
    Broadcast(v1::BroadcastResponse),
    History(ChannelName, HistoryPage),
    Presence(MemberPage),
    PresenceCount(v1::PresenceCountResponse),
    Forget(v1::ForgetResponse),
    Nodes(v1::NodesResponse),
    Connections(v1::ConnectionsResponse),
    Channels(v1::ChannelsResponse),
    Told(v1::ToldResponse),
}

impl Answer {
    /// As the body of an answer in JSON.
    ///
    /// # Errors
    /// None that a value of ours can cause.
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        match self {
            Self::Publish(answer) => serde_json::to_string(answer),
            Self::Broadcast(answer) => {
                let results: Vec<_> = answer.results.iter().map(|result| One(result.result.as_ref())).collect();
                serde_json::to_string(&Results { results: &results })
            }
            // Payloads leave as they were published.
            Self::History(channel, page) => Ok(history_object(channel, page)),
            Self::Presence(page) => Ok(members_object(page)),
            Self::PresenceCount(answer) => serde_json::to_string(answer),
            Self::Forget(answer) => serde_json::to_string(answer),
            Self::Nodes(answer) => serde_json::to_string(answer),
            Self::Connections(answer) => serde_json::to_string(answer),
            Self::Channels(answer) => serde_json::to_string(answer),
            Self::Told(answer) => serde_json::to_string(answer),
        }
    }

    /// As the message of the schema.
    pub(super) fn into_wire(self) -> Wire {
        match self {
            Self::Publish(answer) => Wire::Publish(answer),
            Self::Broadcast(answer) => Wire::Broadcast(answer),
            Self::History(channel, page) => Wire::History(history_message(&channel, &page)),
            Self::Presence(page) => Wire::Presence(members_message(&page)),
            Self::PresenceCount(answer) => Wire::PresenceCount(answer),
            Self::Forget(answer) => Wire::Forget(answer),
            Self::Nodes(answer) => Wire::Nodes(answer),
            Self::Connections(answer) => Wire::Connections(answer),
            Self::Channels(answer) => Wire::Channels(answer),
            Self::Told(answer) => Wire::Told(answer),
        }
    }
}

#[derive(Serialize)]
struct Results<'a> {
    results: &'a [One<'a>],
}

/// A result of a broadcast in JSON: a publish answer, or `{"error":{…}}`.
struct One<'a>(Option<&'a Single>);

impl Serialize for One<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(Single::Published(published)) => published.serialize(serializer),
            Some(Single::Error(error)) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("error", error)?;
                map.end()
            }
            None => serializer.serialize_map(Some(0))?.end(),
        }
    }
}

/// A refusal as a result among others in JSON.
pub(super) fn error_result(refusal: &Refusal) -> serde_json::Result<String> {
    serde_json::to_string(&One(Some(&Single::Error(error_message(refusal)))))
}
