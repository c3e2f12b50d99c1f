//! Whether a subscription may be opened: by the namespace, by the client's token, by a token for the one channel, and then,
//! where it wants to be asked, by the back end. What takes a while is waited for beside the subscriptions that there are.

use std::{rc::Rc, sync::Arc};

use skywave_proto::{ChannelName, ErrorCode};

use super::{
    Asked, Credential, Refusal, Session, Subscribe,
    opening::Asker,
    rights::{may_subscribe, named_namespace},
    subscriptions::require_presence,
};
use crate::{
    auth::{ChannelClaims, TokenError},
    clock::now_ms,
    relay::Verdict,
    webhooks::{Decision, Hook, SubscribeAsk},
};

/// A subscription about which somebody is being asked. Bound: `limits.channels_per_connection`, with those that are open.
pub(super) struct Asking {
    number: u64,
    admission: Admission,
}

impl Asking {
    pub(super) fn is_for(&self, channel: &ChannelName) -> bool {
        self.admission.request.channel == *channel
    }

    pub(super) fn basis(&self) -> (ChannelName, Basis) {
        (self.admission.request.channel.clone(), self.admission.basis.clone())
    }
}

/// A subscription that somebody wants.
pub(super) struct Admission {
    pub(super) asker: Asker,
    pub(super) request: Subscribe,
    pub(super) basis: Basis,
}

/// Why a client has a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Basis {
    /// The namespace or the client's token says so; looked at again when either changes.
    Right,
    /// A token for the channel, which is still being looked at or says this.
    ChannelToken(Option<Rc<Lease>>),
    /// The server API ordered it.
    Api,
}

/// What has to be known of a channel token as long as a subscription lives by it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// Milliseconds since 1970; `None`: it has no end.
    pub(super) ends_at_ms: Option<u64>,
    issued_at_ms: Option<u64>,
    id: Option<Arc<str>>,
}

impl Session {
    /// Opens a subscription, or says why not. The answer may come later.
    pub(super) fn subscribe(&self, asker: Asker, mut request: Subscribe) -> Result<(), Refusal> {
        self.check_room(&request)?;
        self.admit_channel(asker, &request.channel, &self.ground.settings().limits)?;
        match request.token.take() {
            Some(token) => self.check_channel_token(asker, request, token),
            None => {
                let settings = self.ground.settings();
                let (_, namespace) = named_namespace(&settings, &request.channel)?;
                self.with_standing(|who| may_subscribe(namespace, &request.channel, who))?;
                self.ask_to_subscribe(Admission { asker, request, basis: Basis::Right })
            }
        }
    }

    /// Subscribes the client because a back end has ordered it, whatever its own rights. Nothing happens if it is subscribed
    /// already, or speaks a protocol that cannot say of which channel a publication is.
    pub fn subscribe_by_order(&self, channel: &ChannelName) {
        let request = Subscribe { channel: channel.clone(), since: None, presence: false, echo: true, token: None };
        let takes_more = self.voice.names_channels() && !self.is_passing.get();
        if takes_more && self.is_connected() && self.check_room(&request).is_ok() {
            let admission = Admission { asker: Asker::Api, request, basis: Basis::Api };
            if let Err(refusal) = self.attach(admission) {
                tracing::debug!(%channel, code = %refusal.code, "an ordered subscription was not opened");
            }
        }
    }

    /// What has to be so, whoever asks.
    fn check_room(&self, request: &Subscribe) -> Result<(), Refusal> {
        let settings = self.ground.settings();
        let channel = &request.channel;
        let (_, namespace) = named_namespace(&settings, channel)?;
        if request.presence {
            require_presence(namespace, channel)?;
        }
        let state = self.state.borrow();
        let is_asking = || state.asking.iter().any(|asking| asking.is_for(channel));
        if state.subscriptions.contains_key(channel) || is_asking() {
            return Err(Refusal::new(ErrorCode::AlreadySubscribed, format!("already subscribed to {channel}")));
        }
        if let Some(limit) = settings.limits.channels_per_connection
            && state.subscriptions.len() + state.asking.len() >= limit.get() as usize
        {
            let message = format!("limits.channels_per_connection is {limit}: unsubscribe from a channel first");
            return Err(Refusal::new(ErrorCode::Limit, message));
        }
        Ok(())
    }

    fn check_channel_token(&self, asker: Asker, request: Subscribe, token: Credential) -> Result<(), Refusal> {
        let authority = &self.ground.authority;
        if !authority.accepts_tokens() {
            let message = "this node has no token keys, so it cannot accept a channel token";
            return Err(Refusal::new(ErrorCode::Unauthenticated, message));
        }
        let admission = Admission { asker, request, basis: Basis::ChannelToken(None) };
        if let Some(outcome) = authority.verify_channel_now(token.reveal(), now_ms()) {
            return self.by_channel_token(admission, outcome);
        }
        let authority = authority.clone();
        let number = self.set_asking(admission);
        self.inquire(Asked::Admission(number), async move {
            Verdict::ChannelToken(authority.verify_channel(token.reveal(), now_ms()).await)
        });
        Ok(())
    }

    pub(super) fn channel_token_checked(&self, number: u64, outcome: Result<ChannelClaims, TokenError>) {
        let Some(admission) = self.take_asking(number) else { return };
        let (asker, channel) = (admission.asker, admission.request.channel.clone());
        if let Err(refusal) = self.by_channel_token(admission, outcome) {
            self.not_opened(asker, &channel, refusal);
        }
    }

    fn by_channel_token(
        &self,
        mut admission: Admission,
        outcome: Result<ChannelClaims, TokenError>,
    ) -> Result<(), Refusal> {
        let claims = outcome.map_err(|error| Refusal::from(&error))?;
        let denied = |message: &str| Err(Refusal::new(ErrorCode::PermissionDenied, message));
        if claims.channel != admission.request.channel {
            return denied("the channel token is for another channel");
        }
        let ChannelClaims { user, ends_at_ms, issued_at_ms, id, .. } = claims;
        if self.client().user != Some(user) {
            return denied("the channel token is for another user");
        }
        admission.basis = Basis::ChannelToken(Some(Rc::new(Lease { ends_at_ms, issued_at_ms, id })));
        self.ask_to_subscribe(admission)
    }

    /// Asks the back end, where it wants to be asked.
    fn ask_to_subscribe(&self, admission: Admission) -> Result<(), Refusal> {
        let channel = &admission.request.channel;
        let is_wanted = {
            let settings = self.ground.settings();
            let (name, _) = named_namespace(&settings, channel)?;
            self.ground.webhooks.wants(Hook::Subscribe, Some(name))
        };
        if !is_wanted {
            return self.attach(admission);
        }
        let client = self.client();
        let ask = SubscribeAsk { client: client.id, user: client.user, channel: channel.clone() };
        let decision = self.ground.webhooks.subscribe(ask);
        let number = self.set_asking(admission);
        self.inquire(Asked::Admission(number), async move { Verdict::Subscribe(decision.await) });
        Ok(())
    }

    /// The back end has decided.
    pub(super) fn admitted(&self, number: u64, decision: Decision<()>) {
        let Some(admission) = self.take_asking(number) else { return };
        let (asker, channel) = (admission.asker, admission.request.channel.clone());
        let outcome = match decision {
            Decision::Allow(()) if self.is_revoked(&admission.basis) => Err(Refusal::from(&TokenError::Revoked)),
            Decision::Allow(()) => self.attach(admission),
            Decision::Refuse(refusal) => Err(refusal.into()),
        };
        if let Err(refusal) = outcome {
            self.not_opened(asker, &channel, refusal);
        }
    }

    fn set_asking(&self, admission: Admission) -> u64 {
        let mut state = self.state.borrow_mut();
        state.subscribed += 1;
        let number = state.subscribed;
        state.asking.push(Asking { number, admission });
        number
    }

    fn take_asking(&self, number: u64) -> Option<Admission> {
        let mut state = self.state.borrow_mut();
        let place = state.asking.iter().position(|asking| asking.number == number)?;
        let asking = state.asking.swap_remove(place);
        if state.asking.is_empty() {
            state.asking = Vec::new(); // an idle connection keeps nothing
        }
        Some(asking.admission)
    }

    /// The client, or whoever may, has changed its mind while somebody was being asked about the channel.
    pub(super) fn withdraw(&self, channel: &ChannelName) -> Option<Asker> {
        let number = {
            let state = self.state.borrow();
            state.asking.iter().find(|asking| asking.is_for(channel))?.number
        };
        Some(self.take_asking(number)?.asker)
    }

    /// Ends the subscriptions whose channel token has ended. Returns when the next one does: milliseconds since 1970.
    pub(super) fn expire_leases(&self, now_ms: u64) -> Option<u64> {
        let mut next = None;
        let mut ended = Vec::new();
        for (channel, subscription) in &self.state.borrow().subscriptions {
            if let Basis::ChannelToken(Some(lease)) = &subscription.basis
                && let Some(until) = lease.ends_at_ms
            {
                if until <= now_ms {
                    ended.push(channel.clone());
                } else {
                    next = Some(next.unwrap_or(until).min(until));
                }
            }
        }
        for channel in ended {
            self.end_subscription(&channel, "expired");
        }
        next
    }

    /// Ends the subscriptions whose channel token has been revoked.
    pub(super) fn end_revoked_leases(&self) {
        let ended: Vec<_> = {
            let state = self.state.borrow();
            let revoked = state.subscriptions.iter().filter(|(_, known)| self.is_revoked(&known.basis));
            revoked.map(|(channel, _)| channel.clone()).collect()
        };
        for channel in ended {
            self.end_subscription(&channel, "permission");
        }
    }

    /// Whether it is a channel token that no longer counts.
    fn is_revoked(&self, basis: &Basis) -> bool {
        let Basis::ChannelToken(Some(lease)) = basis else { return false };
        let state = self.state.borrow();
        let user = state.client.as_ref().and_then(|client| client.user.as_deref());
        self.ground.authority.revoked().has(user, lease.issued_at_ms, lease.id.as_deref(), now_ms())
    }
}
