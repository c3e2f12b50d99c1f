//! Nodes, and the connections that clients have to them.

use skywave_backplane::{Revocation, Subject};
use skywave_proto::v1::{
    self,
    signal::{self, answer::Answer as NodeAnswer, question::Question},
};

use super::{Internal, Refusal, bad_request, channel, check_who, who, within};
use crate::clock::now_ms;

/// How long a revocation is remembered, if the caller does not say; and the most that it may say. In seconds.
const REVOKED_FOR: u64 = 30 * 86_400;
pub(in crate::admin) const REVOKED_AT_MOST: u64 = 400 * 86_400;
/// The longest name of a node that can be asked for, in bytes.
pub(in crate::admin) const NODE_BYTES: usize = 255;

/// `nodes`: those that are alive.
pub(super) async fn nodes(
    internal: &Internal,
    v1::NodesRequest {}: v1::NodesRequest,
) -> Result<v1::NodesResponse, Refusal> {
    let nodes = internal.control.nodes().await?;
    let nodes = nodes.iter().map(|node| v1::NodeStatus {
        name: node.info.name.to_string(),
        incarnation: node.incarnation.to_string(),
        version: node.info.version.to_string(),
        started_at_ms: node.info.started_at_ms,
        connections: node.info.connections,
        channels: node.info.channels,
        beat_age_ms: u64::try_from(node.beat_age.as_millis()).unwrap_or(u64::MAX),
        leaving: node.info.leaving,
    });
    Ok(v1::NodesResponse { nodes: nodes.collect() })
}

/// `connections`: those of a user or a client, on all nodes that answer.
pub(super) async fn connections(
    internal: &Internal,
    words: v1::ConnectionsRequest,
) -> Result<v1::ConnectionsResponse, Refusal> {
    let question = Question::Connections((&who(words.user, words.client)?).into());
    let surveyed = internal.control.survey(question, within(words.within_ms)?).await?;
    let (mut connections, mut more) = (Vec::new(), false);
    for (node, answer) in surveyed.answers {
        if let NodeAnswer::Connections(answer) = answer {
            more |= answer.more;
            connections.extend(answer.connections.into_iter().map(|connection| status(&node, connection)));
        }
    }
    connections.sort_by(|one, other| (&one.node, &one.client).cmp(&(&other.node, &other.client)));
    Ok(v1::ConnectionsResponse { connections, silent_nodes: surveyed.silent, more })
}

fn status(node: &str, connection: signal::Connection) -> v1::ConnectionStatus {
    v1::ConnectionStatus {
        client: connection.client,
        user: connection.user,
        node: node.to_owned(),
        protocol: connection.protocol,
        connected_at_ms: connection.connected_at_ms,
        channels: connection.channels,
    }
}

/// `disconnect`: closes with 4503.
pub(super) async fn disconnect(internal: &Internal, words: v1::DisconnectRequest) -> Result<v1::ToldResponse, Refusal> {
    internal.control.disconnect(&who(words.user, words.client)?).await.map(told)
}

/// `subscribe`: whatever the rights of the client, and it is told.
pub(super) async fn subscribe(internal: &Internal, words: v1::SubscribeRequest) -> Result<v1::ToldResponse, Refusal> {
    let (channel, _) = super::channel_and_namespace(internal, &words.channel)?;
    internal.control.subscribe(&who(words.user, words.client)?, &channel).await.map(told)
}

/// `unsubscribe`: as if the client had asked for it, and it is told.
pub(super) async fn unsubscribe(
    internal: &Internal,
    words: v1::UnsubscribeRequest,
) -> Result<v1::ToldResponse, Refusal> {
    let channel = channel(&words.channel)?;
    internal.control.unsubscribe(&who(words.user, words.client)?, &channel).await.map(told)
}

/// `refresh`: looks at a user's rights again.
pub(super) async fn refresh(internal: &Internal, words: v1::RefreshRequest) -> Result<v1::ToldResponse, Refusal> {
    check_who("user", &words.user)?;
    internal.control.refresh(&words.user).await.map(told)
}

/// `revoke`: of a user every token that was issued up to now, or the one with this id.
pub(super) async fn revoke(internal: &Internal, words: v1::RevokeRequest) -> Result<v1::ToldResponse, Refusal> {
    let now = now_ms();
    let until = words.until.unwrap_or(now / 1000 + REVOKED_FOR);
    if until <= now / 1000 || until > now / 1000 + REVOKED_AT_MOST {
        let days = REVOKED_AT_MOST / 86_400;
        let message = format!("until is in seconds since 1970, later than now and at most {days} days ahead");
        return Err(bad_request(message));
    }
    let subject = match (words.user, words.jti) {
        (Some(user), None) => Subject::User(user.into()),
        (None, Some(jti)) => Subject::Token(jti.into()),
        (Some(_), Some(_)) => return Err(bad_request("give user or jti, not both")),
        (None, None) => return Err(bad_request("say which tokens: give user or jti")),
    };
    // Bounds of the names are the backplane's, which keeps them.
    let revocation = Revocation { subject, issued_before_ms: now, until_ms: until * 1000 };
    internal.control.revoke(revocation).await.map(told)
}

/// `drain`: as for SIGTERM; down to the mean, the node stays.
pub(super) async fn drain(internal: &Internal, words: v1::DrainRequest) -> Result<v1::ToldResponse, Refusal> {
    if !(1..=NODE_BYTES).contains(&words.node.len()) {
        return Err(bad_request(format!("node has 1 to {NODE_BYTES} bytes")));
    }
    let told_it = match words.down_to_mean {
        Some(true) => internal.control.shed(&words.node).await,
        Some(false) | None => internal.control.drain(&words.node).await,
    };
    told_it.map(|()| told(1))
}

fn told(nodes: usize) -> v1::ToldResponse {
    v1::ToldResponse { nodes: u32::try_from(nodes).unwrap_or(u32::MAX) }
}
