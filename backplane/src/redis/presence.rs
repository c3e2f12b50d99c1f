use std::{sync::Arc, time::Duration};

use skywave_proto::{ChannelName, Member};
use tracing::warn;

use super::Redis;
use crate::{MemberPage, Presence, PresenceError};

impl Redis {
    fn no_presence(&self) -> PresenceError {
        self.0
            .presence_warning
            .call_once(|| warn!("presence over redis is not built yet; who is on a channel is unknown"));
        PresenceError::Unavailable("presence over Redis is not built yet")
    }
}

/// Not built yet: every call fails.
impl Presence for Redis {
    async fn join(&self, _: &ChannelName, _: Member, _: u64) -> Result<(), PresenceError> {
        Err(self.no_presence())
    }

    async fn leave(&self, _: &ChannelName, _: &Arc<str>, _: u64, _: Duration) -> Result<(), PresenceError> {
        Err(self.no_presence())
    }

    async fn members(&self, _: &ChannelName, _: Option<&str>, _: usize) -> Result<MemberPage, PresenceError> {
        Err(self.no_presence())
    }
}
