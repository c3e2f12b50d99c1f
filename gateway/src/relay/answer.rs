//! What comes back from the backplane to a shard that had ordered it.

use std::sync::Arc;

use skywave_backplane::{
    HistoryError, HistoryPage, MemberPage, PresenceError, PublishError, Published, SubscribeError,
};
use skywave_proto::{ChannelName, Payload, StreamPosition};
use tokio::sync::oneshot;

use super::routes::Mailbox;
use crate::{
    auth::{ChannelClaims, Claims, TokenError},
    webhooks::{Decision, HookRefusal, Welcome},
};

/// Who waits for an answer: a connection of a shard, or the shard itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Which shard.
    pub shard: usize,
    /// Which of its connections; `None`: the shard's own hub.
    pub connection: Option<u64>,
    /// Which of that connection's commands.
    pub ticket: u64,
}

/// Who hears what became of a publication.
#[derive(Debug)]
pub enum ReplyTo {
    /// A connection.
    Connection(Receipt),
    /// A task.
    Waiter(oneshot::Sender<Result<Published, PublishError>>),
}

/// What the backplane said.
#[derive(Debug)]
pub enum Answer {
    /// To a publication.
    Published(Result<Published, PublishError>),
    /// To a question for history.
    History(ChannelName, Result<HistoryPage, HistoryError>),
    /// To something about presence.
    Members(ChannelName, MembersAnswer),
    /// What somebody beside the backplane has decided.
    Verdict(Verdict),
}

/// What was asked of somebody who may take a while: about a token, or of the back end.
#[derive(Debug)]
pub enum Verdict {
    /// About a connection's token.
    Token(Result<Claims, TokenError>),
    /// About a token for one channel.
    ChannelToken(Result<ChannelClaims, TokenError>),
    /// About a client that wants to come in.
    Welcome(Decision<Welcome>),
    /// About a subscription.
    Subscribe(Decision<()>),
    /// About a publication; it may be another one then.
    Publish(Decision<Option<Payload>>),
    /// To a call.
    Call(Result<Payload, HookRefusal>),
    /// Whoever was asked has failed without a word.
    Lost,
}

/// What presence said.
#[derive(Debug)]
pub enum MembersAnswer {
    /// The client is a member now, and these are there, if it asked.
    Entered(Result<Option<MemberPage>, PresenceError>),
    /// These are there.
    Listed(Result<MemberPage, PresenceError>),
}

/// The way back to the shards' mailboxes.
#[derive(Clone)]
pub struct Answers(Arc<[Arc<dyn Mailbox>]>);

impl Answers {
    /// To these shards, by their index.
    pub fn new(mailboxes: Arc<[Arc<dyn Mailbox>]>) -> Self {
        Self(mailboxes)
    }

    pub(super) fn published(&self, reply_to: ReplyTo, outcome: Result<Published, PublishError>) {
        match reply_to {
            ReplyTo::Connection(receipt) => self.send(receipt, Answer::Published(outcome)),
            // Whoever waited may have gone away; the publication stands all the same.
            ReplyTo::Waiter(waiter) => drop(waiter.send(outcome)),
        }
    }

    pub(super) fn joined(
        &self,
        shard: usize,
        channel: ChannelName,
        join: u64,
        outcome: Result<Option<StreamPosition>, SubscribeError>,
    ) {
        self.0[shard].joined(channel, join, outcome);
    }

    /// Puts the answer into the mailbox of whoever waits for it.
    pub fn send(&self, receipt: Receipt, answer: Answer) {
        self.0[receipt.shard].answer(receipt, answer);
    }
}
