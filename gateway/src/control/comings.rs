//! Users that come to channels and go: the back end is told, if it wants to know.

use skywave_backplane::{Transition, TransitionKind};
use skywave_proto::ChannelName;

use crate::{session::Ground, webhooks::Event};

/// Tells of one. Never waits. That each is told once in the cluster is the backplane's business.
pub fn tell(ground: &Ground, channel: &ChannelName, transition: Transition) {
    let settings = ground.settings();
    let namespace = settings.named_namespace(channel.namespace()).map(|(name, _)| name);
    let Transition { member, kind, of_channel, position, at_ms } = transition;
    let (user, client) = (member.user, member.client);
    let (of_member, of_all) = match kind {
        TransitionKind::Joined => (Event::joined(channel.clone(), user, client), Event::occupied(channel.clone())),
        TransitionKind::Left => (Event::left(channel.clone(), user, client), Event::vacated(channel.clone())),
    };
    let mut events = vec![of_member.at(at_ms, position)];
    if of_channel {
        events.push(of_all.at(at_ms, position));
    }
    if kind == TransitionKind::Joined {
        events.reverse(); // a channel is occupied, and then somebody is there
    }
    events.into_iter().for_each(|event| ground.webhooks.event(event, namespace));
}
