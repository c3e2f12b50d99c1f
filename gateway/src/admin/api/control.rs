//! Nodes, and the connections that clients have to them.

use serde::Deserialize;
use serde_json::{Value, json};
use skywave_proto::v1::signal::{self, answer::Answer as NodeAnswer, question::Question};

use super::{Answer, Internal, answer, channel, check_who, who, within};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nodes {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Connections {
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    within_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disconnect {
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    client: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unsubscribe {
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    client: Option<String>,
    channel: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    user: String,
}

/// `nodes`: those that are alive.
pub(super) async fn nodes(internal: &Internal, Nodes {}: Nodes) -> Answer {
    let nodes = internal.control.nodes().await?;
    let nodes = nodes.iter().map(|node| {
        json!({
            "name": &*node.info.name,
            "incarnation": &*node.incarnation,
            "version": &*node.info.version,
            "started_at_ms": node.info.started_at_ms,
            "connections": node.info.connections,
            "channels": node.info.channels,
            "beat_age_ms": u64::try_from(node.beat_age.as_millis()).unwrap_or(u64::MAX),
        })
    });
    answer(&json!({ "nodes": nodes.collect::<Vec<_>>() }))
}

/// `connections`: those of a user or a client, on all nodes that answer.
pub(super) async fn connections(internal: &Internal, words: Connections) -> Answer {
    let question = Question::Connections((&who(words.user, words.client)?).into());
    let surveyed = internal.control.survey(question, within(words.within_ms)?).await?;
    let (mut connections, mut more) = (Vec::new(), false);
    for (node, answer) in surveyed.answers {
        if let NodeAnswer::Connections(answer) = answer {
            more |= answer.more;
            connections.extend(answer.connections.into_iter().map(|connection| (node.clone(), connection)));
        }
    }
    connections.sort_by(|(one, a), (other, b)| (one, &a.client).cmp(&(other, &b.client)));
    let connections: Vec<_> = connections.into_iter().map(|(node, connection)| object(&node, connection)).collect();
    let mut object = json!({ "connections": connections, "silent_nodes": surveyed.silent });
    if more {
        object["more"] = true.into();
    }
    answer(&object)
}

fn object(node: &str, connection: signal::Connection) -> Value {
    let mut object = json!({
        "client": connection.client,
        "node": node,
        "protocol": connection.protocol,
        "connected_at_ms": connection.connected_at_ms,
        "channels": connection.channels,
    });
    if let Some(user) = connection.user {
        object["user"] = user.into();
    }
    object
}

/// `disconnect`: closes with 4503.
pub(super) async fn disconnect(internal: &Internal, Disconnect { user, client }: Disconnect) -> Answer {
    told(internal.control.disconnect(&who(user, client)?).await?)
}

/// `unsubscribe`: as if the client had asked for it, and it is told.
pub(super) async fn unsubscribe(
    internal: &Internal,
    Unsubscribe { user, client, channel: name }: Unsubscribe,
) -> Answer {
    told(internal.control.unsubscribe(&who(user, client)?, &channel(&name)?).await?)
}

/// `refresh`: looks at a user's rights again.
pub(super) async fn refresh(internal: &Internal, Refresh { user }: Refresh) -> Answer {
    check_who("user", &user)?;
    told(internal.control.refresh(&user).await?)
}

fn told(nodes: usize) -> Answer {
    answer(&json!({ "nodes": nodes }))
}
