//! What a namespace, and its token, let a client do; pure.

use skywave_proto::{ChannelName, ErrorCode};

use super::{Refusal, grant::Standing};
use crate::config::{Namespace, PERSONAL_NAMESPACE, PublishRight, Settings, SubscribeRight};

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
    let name = channel.namespace();
    if channel.is_reserved() && name != PERSONAL_NAMESPACE {
        let message = "channel names that begin with # are the system's own; #user:ID is a user's";
        return Err(Refusal::new(ErrorCode::PermissionDenied, message));
    }
    settings.named_namespace(name).ok_or_else(|| {
        let is_bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let key = if is_bare { name.to_owned() } else { format!("{name:?}") };
        let message = format!("namespace {name:?} is not configured on this node: add [namespaces.{key}]");
        Refusal::new(ErrorCode::UnknownNamespace, message)
    })
}

/// Whether a client may subscribe, and so also read history and presence. A user's personal channel is its own, whatever
/// anybody's token says.
///
/// # Errors
/// `permission_denied`, with the setting that says so.
pub fn may_subscribe(namespace: &Namespace, channel: &ChannelName, who: Standing<'_>) -> Result<(), Refusal> {
    if channel.namespace() == PERSONAL_NAMESPACE {
        if who.user.is_some_and(|user| is_personal(channel, user)) {
            return Ok(());
        }
        return Err(Refusal::new(ErrorCode::PermissionDenied, "a personal channel is for its user alone"));
    }
    match namespace.subscribe {
        SubscribeRight::Anyone => Ok(()),
        SubscribeRight::Users if who.user.is_some() => Ok(()),
        SubscribeRight::Users | SubscribeRight::Token if who.subscribes(channel) => Ok(()),
        SubscribeRight::Users => Err(denied(channel, "subscribe", "users: anonymous clients may not")),
        SubscribeRight::Token => Err(denied(channel, "subscribe", "token: only a token that names the channel may")),
    }
}

/// Whether a client may publish.
///
/// # Errors
/// `permission_denied`, with the setting that says so.
pub fn may_publish(
    namespace: &Namespace,
    channel: &ChannelName,
    who: Standing<'_>,
    subscribed: bool,
) -> Result<(), Refusal> {
    match namespace.publish {
        PublishRight::Nobody => Err(denied(channel, "publish", "nobody: back ends publish through the server API")),
        PublishRight::Anyone => Ok(()),
        PublishRight::Subscribers if subscribed => Ok(()),
        PublishRight::Subscribers | PublishRight::Token if who.publishes(channel) => Ok(()),
        PublishRight::Subscribers => Err(denied(channel, "publish", "subscribers: subscribe to the channel first")),
        PublishRight::Token => Err(denied(channel, "publish", "token: only a token that names the channel may")),
    }
}

fn is_personal(channel: &ChannelName, user: &str) -> bool {
    channel.as_str().strip_prefix(PERSONAL_NAMESPACE).and_then(|rest| rest.strip_prefix(':')) == Some(user)
}

fn denied(channel: &ChannelName, what: &str, why: &str) -> Refusal {
    let name = channel.namespace();
    Refusal::new(ErrorCode::PermissionDenied, format!("namespaces.{name}.{what} is {why}"))
}
