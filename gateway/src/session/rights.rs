//! What a namespace lets a client do; pure.

use skywave_proto::{ChannelName, ErrorCode};

use super::Refusal;
use crate::config::{Namespace, PublishRight, Settings, SubscribeRight};

/// The namespace of a channel.
///
/// # Errors
/// `permission_denied` for reserved names, `unknown_namespace` for one that the configuration does not name.
pub fn namespace<'a>(settings: &'a Settings, channel: &ChannelName) -> Result<&'a Namespace, Refusal> {
    named_namespace(settings, channel).map(|(_, namespace)| namespace)
}

/// The same with the name under which it is configured.
///
/// # Errors
/// As [`namespace`].
pub fn named_namespace<'a>(settings: &'a Settings, channel: &ChannelName) -> Result<(&'a str, &'a Namespace), Refusal> {
    if channel.is_reserved() {
        let message = "channel names that begin with # are the system's own";
        return Err(Refusal::new(ErrorCode::PermissionDenied, message));
    }
    let name = channel.namespace();
    settings.named_namespace(name).ok_or_else(|| {
        let message = format!("namespace {name:?} is not configured on this node: add [namespaces.{name}]");
        Refusal::new(ErrorCode::UnknownNamespace, message)
    })
}

/// Whether a client may subscribe, and so also read history and presence.
///
/// # Errors
/// `permission_denied`, with the setting that says so.
pub fn may_subscribe(namespace: &Namespace, channel: &ChannelName, user: Option<&str>) -> Result<(), Refusal> {
    match namespace.subscribe {
        SubscribeRight::Anyone => Ok(()),
        SubscribeRight::Users if user.is_some() => Ok(()),
        SubscribeRight::Users => Err(denied(channel, "subscribe", "users: anonymous clients may not")),
        SubscribeRight::Token => Err(denied(channel, "subscribe", "token: only a token that names the channel may")),
    }
}

/// Whether a client may publish.
///
/// # Errors
/// `permission_denied`, with the setting that says so.
pub fn may_publish(namespace: &Namespace, channel: &ChannelName, subscribed: bool) -> Result<(), Refusal> {
    match namespace.publish {
        PublishRight::Anyone => Ok(()),
        PublishRight::Subscribers if subscribed => Ok(()),
        PublishRight::Subscribers => Err(denied(channel, "publish", "subscribers: subscribe to the channel first")),
        PublishRight::Token => Err(denied(channel, "publish", "token: only a token that names the channel may")),
        PublishRight::Nobody => Err(denied(channel, "publish", "nobody: back ends publish through the server API")),
    }
}

fn denied(channel: &ChannelName, what: &str, why: &str) -> Refusal {
    let name = channel.namespace();
    Refusal::new(ErrorCode::PermissionDenied, format!("namespaces.{name}.{what} is {why}"))
}
