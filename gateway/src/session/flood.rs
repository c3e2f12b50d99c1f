//! What becomes of a client that asks more than it may: it is told so, and at last sent away.

use std::sync::Arc;

use skywave_proto::{ChannelName, CloseCode, ErrorCode};

use super::{Command, Refusal, Session, limits::Over, opening::Asker};
use crate::{config::Limits, metrics, push::Goodbye};

impl Session {
    /// A message of so many bytes has come; to be said before it is decoded. If it is more than `limits.bytes_per_second` the
    /// commands in it are refused.
    pub fn hear(&self, bytes: usize) {
        let heard = self.rates.borrow_mut().hear(bytes, &self.ground.settings().limits, self.age());
        if let Err(over) = heard {
            self.count_refusal(&over);
        }
    }

    /// Something has come that asks nothing and costs a look all the same, such as a ping: it counts as a command.
    pub fn hear_nothing(&self) {
        let heard = self.rates.borrow_mut().hear_nothing(&self.ground.settings().limits, self.age());
        if let Err(over) = heard {
            self.count_refusal(&over);
        }
    }

    /// Commands that had to wait go on.
    pub fn pass(&self) {
        self.rates.borrow_mut().pass(self.age());
    }

    /// Whether a command, or what is none, is within the limits. Otherwise the client has been told.
    pub(super) fn admits(&self, id: Option<u64>, command: &Result<Command, Refusal>) -> bool {
        let Err(over) = self.admit(command) else { return true };
        self.refuse(id, over.into());
        self.count_refusal(&over);
        false
    }

    fn admit(&self, command: &Result<Command, Refusal>) -> Result<(), Over> {
        let settings = self.ground.settings();
        let limits = &settings.limits;
        let mut rates = self.rates.borrow_mut();
        rates.command(limits)?;
        let channel = match command {
            Ok(Command::Publish { channel, .. }) => {
                rates.publication(limits)?;
                channel
            }
            Ok(Command::History { channel, .. } | Command::Presence { channel, .. }) => channel,
            _ => return Ok(()),
        };
        if limits.new_channels_per_minute.is_none() {
            return Ok(());
        }
        let subscriptions = &self.state.borrow().subscriptions;
        #[allow(clippy::cast_possible_truncation, reason = "half of a hash is one")]
        let hash = std::hash::BuildHasher::hash_one(subscriptions.hasher(), channel) as u32;
        rates.name(hash, || subscriptions.contains_key(channel), limits)
    }

    /// Whether one more channel may be subscribed to. One that is already is refused for that.
    ///
    /// # Errors
    /// `limit`, with `limits.new_channels_per_minute`.
    pub(super) fn admit_channel(&self, asker: Asker, channel: &ChannelName, limits: &Limits) -> Result<(), Refusal> {
        if self.state.borrow().subscriptions.contains_key(channel) {
            return Ok(());
        }
        let admitted = self.rates.borrow_mut().channel(limits);
        admitted.map_err(|over| {
            match asker {
                // One list, asked for once: whoever has a long one would be sent away with it each time.
                Asker::Connect(_) => metrics::limited(over.setting),
                Asker::Command(_) | Asker::Api => self.count_refusal(&over),
            }
            over.into()
        })
    }

    /// Whether one more connection of this user fits on the node, and then it is counted: to be asked right before it
    /// speaks for `client`. Otherwise the client has been told, and the connection ends.
    pub fn is_within_user(&self, id: Option<u64>, client: &str, user: &Arc<str>) -> bool {
        let Some(limit) = self.ground.settings().limits.connections_per_user else { return true };
        if self.is_passing.get() || self.ground.clients.reserve(user, client, self.seat(), limit) {
            return true;
        }
        metrics::limited("connections_per_user");
        let message = format!("limits.connections_per_user is {limit}: close another connection of this user first");
        self.refuse(id, Refusal::new(ErrorCode::Limit, message));
        self.link.close(CloseCode::LimitExceeded.into());
        false
    }

    /// Counts that something was refused, and ends the connection if that has been said often enough.
    fn count_refusal(&self, over: &Over) {
        metrics::limited(over.setting);
        let Some(after_ms) = self.rates.borrow_mut().refused(over) else { return };
        let reason = format!("limits.{} is exceeded again and again: wait {after_ms} ms", over.setting);
        tracing::debug!(client = self.client_id().as_deref(), limit = over.setting, "a client goes on over a limit");
        self.link.close(Goodbye { code: CloseCode::RateLimit, reason: reason.into(), after_ms });
    }

    fn age(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
