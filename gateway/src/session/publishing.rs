//! What a client publishes, and what it asks of the back end.

use std::{sync::Arc, time::Instant};

use metrics::Counter;
use skywave_backplane::{IdempotencyKey, NewPublication, PublishError, Published};
use skywave_proto::{ChannelName, ErrorCode, Payload};

use super::{
    Asked, Refusal, Reply, Session, TURN, check_size,
    rights::{may_publish, may_subscribe, named_namespace},
};
use crate::{
    clock::now_ms,
    config::PublishRight,
    relay::{Overloaded, ReplyTo, Verdict},
    webhooks::{Decision, Hook, PublishAsk, RpcAsk},
};

/// A publication about which the back end is being asked. Bound: [`super::IN_FLIGHT`].
pub(super) struct Undecided {
    /// The question; none if there was none.
    ticket: Option<u64>,
    publishing: Publishing,
    /// What the back end has said. It is done once all before it is: what a client publishes keeps its order.
    decision: Option<Decision<Option<Payload>>>,
}

/// A publication on its way to the backplane.
struct Publishing {
    id: Option<u64>,
    publication: NewPublication,
    accepted: Counter,
    at: Instant,
}

impl Session {
    pub(super) fn publish(
        &self,
        id: Option<u64>,
        channel: ChannelName,
        payload: Payload,
        key: Option<Arc<str>>,
    ) -> Result<(), Refusal> {
        let settings = self.ground.settings();
        let (name, namespace) = named_namespace(&settings, &channel)?;
        let (publication, is_behind) = {
            let state = self.state.borrow();
            let client = state.client.as_ref().expect("handle lets only connect through before there is a client");
            let is_subscriber = || {
                // Where the back end has a say in it, only who is subscribed has its word.
                let could_be = || {
                    !self.ground.webhooks.wants(Hook::Subscribe, Some(name))
                        && may_subscribe(namespace, &channel, client.standing()).is_ok()
                };
                state.subscriptions.contains_key(&channel) || (self.is_passing.get() && could_be())
            };
            // Only this right makes it worth a look.
            let subscribed = namespace.publish == PublishRight::Subscribers && is_subscriber();
            may_publish(namespace, &channel, client.standing(), subscribed)?;
            check_size(&settings, &payload)?;
            // What the back end was asked about before its hook was taken away goes first.
            let is_behind = state.undecided.iter().any(|before| before.publishing.publication.channel == channel);
            let publication = NewPublication {
                payload,
                published_at_ms: now_ms(),
                key: key.map(|key| IdempotencyKey { publisher: client.publisher(), key }),
                history: namespace.history,
                durability: namespace.durability,
                client: Some(client.id.clone()),
                user: client.user.clone(),
                channel,
            };
            (publication, is_behind)
        };
        let (accepted, at) = (self.shard.figures().publications(name), Instant::now());
        let publishing = Publishing { id, publication, accepted, at };
        if self.ground.webhooks.wants(Hook::Publish, Some(name)) {
            self.ask_to_publish(publishing);
            return Ok(());
        }
        if is_behind {
            let decision = Some(Decision::Allow(None));
            self.state.borrow_mut().undecided.push_back(Undecided { ticket: None, publishing, decision });
            return Ok(());
        }
        self.hand_over(publishing)
    }

    fn hand_over(&self, Publishing { id, publication, accepted, at }: Publishing) -> Result<(), Refusal> {
        let relay = self.shard.relay();
        if let Some(memory) = relay.embedded() {
            let outcome = memory.publish_now(publication);
            if let Ok(published) | Err(PublishError::NotReplicated { published, .. }) = outcome {
                self.done(published);
                self.has_published.set(true);
            }
            self.published(id, &accepted, at, outcome);
            return Ok(());
        }
        let receipt = self.ask(Asked::Publish { id, accepted, at });
        let ordered = relay.publish(publication, ReplyTo::Connection(receipt));
        ordered.inspect_err(|_| self.forget(receipt)).map_err(|Overloaded| PublishError::Overloaded.into())
    }

    /// A publication was done at once. What it put into the shard's own mailbox counts as in flight, [`TURN`] at a time.
    fn done(&self, published: Published) {
        self.done.set(self.done.get() + 1);
        if self.done.get() == TURN {
            self.done.set(0);
            let receipt = self.ask(Asked::Turn);
            self.shard.relay().say_again(published, receipt);
        }
    }

    pub(super) fn published(
        &self,
        id: Option<u64>,
        accepted: &Counter,
        at: Instant,
        outcome: Result<Published, PublishError>,
    ) {
        self.shard.figures().published(accepted, at.elapsed(), &outcome);
        match outcome {
            Ok(published) => self.reply(id, &Reply::Published(published)),
            Err(error) => self.refuse(id, error.into()),
        }
    }

    fn ask_to_publish(&self, publishing: Publishing) {
        let client = self.client();
        let ask = PublishAsk {
            client: client.id,
            user: client.user,
            channel: publishing.publication.channel.clone(),
            payload: publishing.publication.payload.clone(),
        };
        let decision = self.ground.webhooks.publish(ask);
        let ticket = self.inquire(Asked::Permission, async move { Verdict::Publish(decision.await) });
        self.state.borrow_mut().undecided.push_back(Undecided { ticket: Some(ticket), publishing, decision: None });
    }

    /// The back end has decided about a publication.
    pub(super) fn permitted(&self, ticket: u64, decision: Decision<Option<Payload>>) {
        let mut state = self.state.borrow_mut();
        if let Some(undecided) = state.undecided.iter_mut().find(|undecided| undecided.ticket == Some(ticket)) {
            undecided.decision = Some(decision);
        }
        drop(state);
        if self.link.is_closing() {
            return; // as every other command: its client cannot hear what becomes of it
        }
        while let Some((publishing, decision)) = self.next_decided() {
            let id = publishing.id;
            if let Err(refusal) = self.as_decided(publishing, decision) {
                self.refuse(id, refusal);
            }
        }
    }

    fn next_decided(&self) -> Option<(Publishing, Decision<Option<Payload>>)> {
        let mut state = self.state.borrow_mut();
        state.undecided.front()?.decision.as_ref()?;
        let Undecided { publishing, decision, .. } = state.undecided.pop_front()?;
        if state.undecided.is_empty() {
            state.undecided = std::collections::VecDeque::new(); // an idle connection keeps nothing
        }
        Some((publishing, decision?))
    }

    fn as_decided(&self, mut publishing: Publishing, decision: Decision<Option<Payload>>) -> Result<(), Refusal> {
        match decision {
            Decision::Allow(None) => {}
            Decision::Allow(Some(payload)) => {
                check_size(&self.ground.settings(), &payload)?;
                publishing.publication.payload = payload;
            }
            Decision::Refuse(refusal) => return Err(refusal.into()),
        }
        self.hand_over(publishing)
    }

    /// `rpc`: the back end answers.
    pub(super) fn call(&self, id: Option<u64>, method: String, data: Payload) -> Result<(), Refusal> {
        if !self.ground.webhooks.wants(Hook::Rpc, None) {
            let message = format!("no back end answers {method:?} here: set webhooks.rpc");
            return Err(Refusal::new(ErrorCode::NotFound, message));
        }
        check_size(&self.ground.settings(), &data)?;
        let client = self.client();
        let ask = RpcAsk { client: client.id, user: client.user, method: method.into(), payload: Some(data) };
        let answer = self.ground.webhooks.rpc(ask);
        self.inquire(Asked::Call { id }, async move { Verdict::Call(answer.await) });
        Ok(())
    }
}
