//! Who the client is: its token is checked, the back end is asked where that is wanted, and then it is let in or not.
//!
//! Either may take a while. Until it is known nothing else of the connection is carried out.

use std::{net::IpAddr, sync::Arc, time::Duration};

use skywave_proto::{CloseCode, ErrorCode};

use super::{
    Asked, Client, Connect, Credential, Refusal, Reply, Session,
    connecting::new_client_id,
    grant::{Grant, Standing},
};
use crate::{
    auth::{Claims, TokenError},
    clock::now_ms,
    push::Goodbye,
    relay::Verdict,
    webhooks::{ConnectAsk, Decision, Hook, HookRefusal, Welcome},
};

/// How long a client waits before it comes back with a token that could not be checked, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 2000;

/// A client that is not let in yet.
pub(super) struct Entering {
    /// The id of its `connect`; none if its credentials came with the handshake.
    pub(super) id: Option<u64>,
    pub(super) connect: Connect,
    /// What its token says, once that is known.
    claims: Option<Claims>,
    /// Whether the first command may still be a `connect`.
    introduced: bool,
    /// The id that it gets unless it brings a session of its own.
    client: Arc<str>,
    /// Whether it brought a token that only the back end can check.
    unchecked: bool,
}

impl Entering {
    fn new(id: Option<u64>, connect: Connect) -> Self {
        Self { id, connect, claims: None, introduced: false, client: new_client_id(), unchecked: false }
    }
}

/// What the back end is told of a connection when it is asked whether to let the client in.
pub struct Visitor {
    /// The client's address.
    pub address: IpAddr,
    /// Some headers of its handshake, names in lower case.
    pub headers: Vec<(&'static str, Box<str>)>,
}

impl Session {
    /// Lets a client in by what came with its handshake; `connected` then comes without being asked for.
    pub fn introduce(&self, token: Credential) {
        let connect = Connect { token: Some(token), ..Connect::default() };
        self.identify(Entering { introduced: true, ..Entering::new(None, connect) });
    }

    /// Lets a client in whose token has been checked before its handshake was answered.
    pub fn introduce_as(&self, claims: Claims) {
        let entering = Entering { claims: Some(claims), ..Entering::new(None, Connect::default()) };
        self.ask_back_end(entering, None);
    }

    /// Lets a client in that says who it is, or that it is nobody.
    pub(super) fn enter_by(&self, id: Option<u64>, connect: Connect) {
        self.identify(Entering::new(id, connect));
    }

    /// Keeps what the back end may ask about the connection.
    pub fn set_visitor(&self, visitor: Visitor) {
        self.state.borrow_mut().visitor = Some(Box::new(visitor));
    }

    fn identify(&self, mut entering: Entering) {
        let Some(token) = entering.connect.token.take() else {
            if !self.ground.settings().auth.anonymous && !self.ground.webhooks.wants(Hook::Connect, None) {
                return self.turn_away(entering.id, "anonymous clients are not allowed here: connect with a token");
            }
            return self.ask_back_end(entering, None);
        };
        let authority = &self.ground.authority;
        if !authority.accepts_tokens() {
            // The back end may know what to do with it.
            if self.ground.webhooks.wants(Hook::Connect, None) {
                return self.ask_back_end(entering, Some(token));
            }
            return self.turn_away(entering.id, "this node has no token keys, so it cannot accept a token");
        }
        if let Some(outcome) = authority.verify_now(token.reveal(), now_ms()) {
            return self.identified(entering, outcome);
        }
        let authority = authority.clone();
        self.state.borrow_mut().entering = Some(Box::new(entering));
        self.inquire(Asked::Identity, async move { Verdict::Token(authority.verify(token.reveal(), now_ms()).await) });
    }

    /// The token has been checked.
    pub(super) fn identified(&self, mut entering: Entering, outcome: Result<Claims, TokenError>) {
        match outcome {
            Ok(claims) => {
                entering.claims = Some(claims);
                self.ask_back_end(entering, None);
            }
            Err(error) => self.refuse_token(entering.id, &error),
        }
    }

    /// A token is no good, and so the connection is none.
    fn refuse_token(&self, id: Option<u64>, error: &TokenError) {
        let refusal = Refusal::from(error);
        let after_ms = refusal.after_ms;
        self.refuse(id, refusal);
        self.link.close(Goodbye { after_ms, ..error.close().into() });
    }

    /// Asks the back end whether the client may come in, where it wants to be asked.
    fn ask_back_end(&self, mut entering: Entering, token: Option<Credential>) {
        entering.unchecked = token.is_some();
        if !self.ground.webhooks.wants(Hook::Connect, None) {
            return self.let_in(entering, None);
        }
        let Some(visitor) = self.state.borrow_mut().visitor.take() else {
            // The hook was set after the handshake.
            let message = "the back end cannot be asked about this connection: connect again";
            self.refuse(entering.id, Refusal::new(ErrorCode::Unavailable, message));
            return self.link.close(CloseCode::TryAgainLater.into());
        };
        let claims = entering.claims.as_ref();
        let ask = ConnectAsk {
            client: entering.client.clone(),
            user: claims.and_then(|claims| claims.user.clone()),
            token: token.map(|token| token.reveal().into()),
            info: claims.and_then(|claims| claims.info.clone()),
            protocol: self.voice.name(),
            address: visitor.address,
            headers: visitor.headers,
        };
        self.state.borrow_mut().entering = Some(Box::new(entering));
        let decision = self.ground.webhooks.connect(ask);
        self.inquire(Asked::Welcome, async move { Verdict::Welcome(decision.await) });
    }

    /// The back end has answered.
    pub(super) fn welcomed(&self, entering: Entering, decision: Decision<Welcome>) {
        match decision {
            Decision::Allow(welcome) => self.let_in(entering, Some(welcome)),
            Decision::Refuse(refusal) => {
                let code = match refusal.code {
                    ErrorCode::Unavailable | ErrorCode::Limit | ErrorCode::Internal => CloseCode::TryAgainLater,
                    ErrorCode::Unauthenticated => CloseCode::BadToken,
                    _ => CloseCode::PermissionDenied,
                };
                let after_ms = refusal.after_ms;
                self.refuse(entering.id, refusal.into());
                self.link.close(Goodbye { after_ms, ..code.into() });
            }
        }
    }

    fn let_in(&self, entering: Entering, welcome: Option<Welcome>) {
        let Entering { id, connect, claims, introduced, client, unchecked } = entering;
        let now_ms = now_ms();
        if let Some(Err(error)) = claims.as_ref().map(|claims| self.ground.authority.recheck(claims, now_ms)) {
            return self.refuse_token(id, &error);
        }
        let settings = self.ground.settings();
        let (mut user, mut info) =
            claims.as_ref().map(|claims| (claims.user.clone(), claims.info.clone())).unwrap_or_default();
        // A back end that did not answer vouches for nobody.
        let has_asked = welcome.is_some();
        let is_known = claims.is_some() || welcome.as_ref().is_some_and(|welcome| welcome.answered);
        let mut grant = claims.map_or_else(Grant::default, Grant::of_token);
        if let Some(welcome) = welcome {
            if let Err(mistake) = grant.add(&welcome, now_ms) {
                tracing::error!(
                    mistake,
                    "the back end's answer to webhooks.connect is of no use: the client is turned away"
                );
                self.refuse(id, Refusal::new(ErrorCode::Internal, "the back end's answer was of no use"));
                return self.link.close(CloseCode::InternalError.into());
            }
            user = welcome.user.map(Arc::from).or(user);
            info = welcome.info.or(info);
        }
        let may_be_nobody = settings.auth.anonymous && !unchecked;
        if !is_known && !may_be_nobody && has_asked {
            let message = "the back end does not answer, so nobody can say who you are: come back later";
            let refusal = Refusal { after_ms: RETRY_AFTER_MS, ..Refusal::new(ErrorCode::Unavailable, message) };
            self.refuse(id, refusal);
            return self.link.close(Goodbye { after_ms: RETRY_AFTER_MS, ..CloseCode::TryAgainLater.into() });
        }
        if !is_known && !may_be_nobody {
            return self.turn_away(id, "anonymous clients are not allowed here: connect with a token");
        }
        let info = info.or_else(|| connect.info.clone().filter(|_| settings.development()));
        let earlier = connect.session.as_deref();
        let earlier = earlier.and_then(|session| self.ground.seal.get()?.open(session, user.as_deref(), now_ms));
        let earlier = earlier.ok_or(client);
        let speaks_for = earlier.as_ref().map_or_else(|client| client, |earlier| &earlier.client);
        if let Some(user) = &user
            && !self.is_within_user(id, speaks_for, user)
        {
            return;
        }
        self.become_client(earlier, now_ms, user, info, is_known.then(|| grant.into()));
        self.state.borrow_mut().introduced = introduced;
        self.begin(id, connect.subscribe);
    }

    /// A client that was let in by its handshake says `connect` all the same.
    pub(super) fn connect_again(&self, id: Option<u64>, connect: Connect) {
        self.state.borrow_mut().introduced = false;
        if connect.token.is_some() {
            let message = "a token came with the handshake already; refresh brings another one";
            return self.refuse(id, Refusal::new(ErrorCode::BadRequest, message));
        }
        let Client { user, mut info, grant, .. } = self.client();
        let now_ms = now_ms();
        let is_free = {
            let state = self.state.borrow();
            state.subscriptions.is_empty() && state.asked.is_empty()
        };
        if let Some(told) = connect.info.filter(|_| is_free && info.is_none() && self.ground.settings().development()) {
            info = Some(told);
            if let Some(client) = &mut self.state.borrow_mut().client {
                client.info.clone_from(&info);
            }
        }
        // What has been done under one id is not taken over by another.
        let earlier = connect.session.as_deref().filter(|_| is_free);
        if let Some(earlier) =
            earlier.and_then(|session| self.ground.seal.get()?.open(session, user.as_deref(), now_ms))
        {
            self.release();
            self.become_client(Ok(earlier), now_ms, user, info, grant);
        }
        self.begin(id, connect.subscribe);
    }

    /// Ends the connection of a client that may not be here.
    pub fn turn_away(&self, id: Option<u64>, why: &str) {
        self.refuse(id, Refusal::new(ErrorCode::Unauthenticated, why));
        self.link.close(CloseCode::BadToken.into());
    }

    /// Brings a new token, for the same user, without a reconnect.
    pub(super) fn renew(&self, id: Option<u64>, token: Credential) -> Result<(), Refusal> {
        let authority = &self.ground.authority;
        if !authority.accepts_tokens() {
            let message = "this node has no token keys, so there is no token to refresh";
            return Err(Refusal::new(ErrorCode::BadRequest, message));
        }
        if let Some(outcome) = authority.verify_now(token.reveal(), now_ms()) {
            self.renewed(id, outcome);
            return Ok(());
        }
        let authority = authority.clone();
        self.inquire(
            Asked::Renewal { id },
            async move { Verdict::Token(authority.verify(token.reveal(), now_ms()).await) },
        );
        Ok(())
    }

    /// A bad one changes nothing: the connection lasts as long as it would have.
    pub(super) fn renewed(&self, id: Option<u64>, outcome: Result<Claims, TokenError>) {
        let claims = match outcome {
            Ok(claims) => claims,
            Err(error) => return self.refuse(id, Refusal::from(&error)),
        };
        let Client { user, grant, .. } = self.client();
        // The back end may know a token's user by another name.
        let known = grant.as_ref().and_then(|grant| grant.token());
        if claims.user != known.map_or(user, |known| known.user.clone()) {
            let message = "the token is another user's: connect anew with it";
            return self.refuse(id, Refusal::new(ErrorCode::PermissionDenied, message));
        }
        if let Err(error) = self.ground.authority.recheck(&claims, now_ms()) {
            return self.refuse(id, Refusal::from(&error));
        }
        let grant = grant.map_or_else(|| Grant::of_token(claims.clone()), |grant| grant.renewed(claims.clone()));
        let expires_in_ms = grant.renew_by_ms().map(|at| at.saturating_sub(now_ms()));
        if let Some(client) = &mut self.state.borrow_mut().client {
            client.grant = Some(grant.into());
        }
        self.reply(id, &Reply::Refreshed(expires_in_ms));
        self.refresh();
        self.remind();
    }

    /// Looks at what has an end when the next one comes: the shard looks by itself only now and then.
    pub(super) fn remind(&self) {
        let now_ms = now_ms();
        let Some(lasts) = self.expire(now_ms) else { return };
        let (shard, key) = (self.shard.clone(), self.link.key());
        let reminder = tokio::task::spawn_local(async move {
            let mut next = Some(Duration::from_millis(lasts));
            while let Some(lasts) = next {
                tokio::time::sleep(lasts).await;
                next = shard.owner(key).and_then(|owner| owner.expire());
            }
        });
        if let Some(earlier) = self.state.borrow_mut().reminder.replace(reminder) {
            earlier.abort();
        }
    }

    /// Ends what a token no longer allows. Returns how long it allows the rest, in milliseconds; `None`: for ever.
    pub fn expire(&self, now_ms: u64) -> Option<u64> {
        let ends_at = {
            let state = self.state.borrow();
            state.client.as_ref()?.grant.as_ref().and_then(|grant| grant.ends_at_ms())
        };
        if ends_at.is_some_and(|at| at <= now_ms) {
            self.leave(CloseCode::TokenExpired.into());
            return None;
        }
        let leases = self.expire_leases(now_ms);
        ends_at.into_iter().chain(leases).min().map(|at| at - now_ms)
    }

    /// Ends the connection if its token has been revoked meanwhile, or all of its user's, and the subscriptions whose channel
    /// token has been.
    pub fn check_revoked(&self) {
        if self.is_client_revoked() {
            self.refuse(None, Refusal::from(&TokenError::Revoked));
            return self.leave(CloseCode::BadToken.into());
        }
        self.end_revoked_leases();
    }

    fn is_client_revoked(&self) -> bool {
        let state = self.state.borrow();
        let Some(Client { user, grant: Some(grant), .. }) = &state.client else { return false };
        let revoked = self.ground.authority.revoked();
        let (user, token) = (user.as_deref(), grant.token());
        let is_token = token.is_some_and(|claims| {
            revoked.has(claims.user.as_deref(), claims.issued_at_ms, claims.id.as_deref(), now_ms())
        });
        // Whom the back end has named has no token of that name: its word counts from when it gave it.
        let is_named = user.is_some() && token.is_none_or(|claims| claims.user.as_deref() != user);
        is_token || (is_named && revoked.has(user, grant.vouched_at_ms(), None, now_ms()))
    }

    /// What is known of the client, as far as rights go.
    pub(super) fn with_standing<T>(&self, look: impl FnOnce(Standing<'_>) -> T) -> T {
        let state = self.state.borrow();
        look(state.client.as_ref().map(Client::standing).unwrap_or_default())
    }
}

impl From<&TokenError> for Refusal {
    fn from(error: &TokenError) -> Self {
        let after_ms = if error.code() == ErrorCode::Unavailable { RETRY_AFTER_MS } else { 0 };
        Self { after_ms, ..Self::new(error.code(), error.to_string()) }
    }
}

impl From<HookRefusal> for Refusal {
    fn from(HookRefusal { code, message, after_ms }: HookRefusal) -> Self {
        Self { after_ms, ..Self::new(code, message) }
    }
}
