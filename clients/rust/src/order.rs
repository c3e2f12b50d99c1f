//! What the handles ask of the task that drives the connection.

use std::sync::Arc;

use skywave_proto::{Payload, StreamPosition, v1, v1::command::Command};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::ClientError,
    event::{Event, HistoryPage, MemberPage, Published},
    speech::{wire_payload, wire_position},
    subscription::{State, SubscribeOptions},
};

/// Orders that wait for the driver. Full: whoever gives one waits.
pub(crate) const ORDERS: usize = 256;

pub(crate) type Done<T> = oneshot::Sender<Result<T, ClientError>>;

#[derive(Debug)]
pub(crate) enum Order {
    Subscribe(Box<Opening>),
    /// The subscription of this number, if it is still the channel's.
    Unsubscribe {
        channel: String,
        number: u64,
    },
    /// All that waited was read: what was left out can come.
    CatchUp {
        channel: String,
        number: u64,
    },
    Ask(Ask),
    /// Give the connection up and make another.
    Reconnect,
    Close(oneshot::Sender<()>),
}

#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) channel: String,
    pub(crate) number: u64,
    pub(crate) options: SubscribeOptions,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) state: Arc<State>,
    pub(crate) done: Done<()>,
}

/// A command of the caller's, kept until it is answered: it goes out again over the next connection.
#[derive(Debug)]
pub(crate) enum Ask {
    Publish { channel: String, payload: Payload, key: String, done: Done<Published> },
    History { channel: String, since: Option<StreamPosition>, limit: Option<u32>, done: Done<HistoryPage> },
    Presence { channel: String, after: Option<Arc<str>>, done: Done<MemberPage> },
    Rpc { method: String, data: Payload, done: Done<Payload> },
}

impl Ask {
    /// Whether it may be said twice: a call may not, for only the back end knows what it does.
    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Rpc { .. })
    }

    pub(crate) fn command(&self) -> Command {
        match self {
            Self::Publish { channel, payload, key, .. } => Command::Publish(v1::Publish {
                channel: channel.clone(),
                data: Some(wire_payload(payload)),
                key: Some(key.clone()),
            }),
            Self::History { channel, since, limit, .. } => Command::History(v1::History {
                channel: channel.clone(),
                since: since.map(wire_position),
                limit: *limit,
            }),
            Self::Presence { channel, after, .. } => {
                Command::Presence(v1::Presence { channel: channel.clone(), after: after.as_deref().map(str::to_owned) })
            }
            Self::Rpc { method, data, .. } => {
                Command::Rpc(v1::Rpc { method: method.clone(), data: Some(wire_payload(data)) })
            }
        }
    }

    /// Nobody may be waiting any more: then it is dropped.
    pub(crate) fn fail(self, error: ClientError) {
        match self {
            Self::Publish { done, .. } => drop(done.send(Err(error))),
            Self::History { done, .. } => drop(done.send(Err(error))),
            Self::Presence { done, .. } => drop(done.send(Err(error))),
            Self::Rpc { done, .. } => drop(done.send(Err(error))),
        }
    }
}
