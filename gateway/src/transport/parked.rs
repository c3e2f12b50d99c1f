//! What a client has said and the session does not take yet: commands wait for earlier ones, in their order.

use std::{cell::RefCell, collections::VecDeque};

use crate::{
    protocol::{Codec, Incoming},
    session::{Envelope, Session},
    shard::Link,
};

/// See the module. Bound: the commands of one message, `COMMANDS_PER_MESSAGE` and a refusal; while there are any, nothing
/// more is taken in.
#[derive(Default)]
pub(super) struct Parked(RefCell<VecDeque<Envelope>>);

impl Parked {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Takes a message in: its commands are handed over, or wait behind those that do.
    pub(super) fn take_in(&self, codec: &dyn Codec, incoming: Incoming<'_>, session: &Session, link: &Link) {
        session.hear(incoming.len());
        let mut is_empty = true;
        codec.decode(incoming, &mut |envelope| {
            is_empty = false;
            self.hear(envelope, session, link);
        });
        if is_empty {
            session.hear_nothing();
        }
    }

    fn hear(&self, envelope: Envelope, session: &Session, link: &Link) {
        let is_next = self.is_empty() && session.takes_commands() && !link.is_closing();
        if is_next && !session.must_wait(&envelope) {
            session.handle(envelope);
        } else {
            self.0.borrow_mut().push_back(envelope);
        }
    }

    /// Hands over what waits, as far as the session takes it. True if all of it is done and more may be taken in.
    pub(super) fn carry_out(&self, session: &Session, link: &Link) -> bool {
        while session.takes_commands() && !link.is_closing() {
            let mut parked = self.0.borrow_mut();
            let Some(next) = parked.front() else {
                if parked.capacity() > 0 {
                    *parked = VecDeque::new(); // an idle connection keeps nothing
                }
                return true;
            };
            if session.must_wait(next) {
                return false;
            }
            let next = parked.pop_front();
            drop(parked);
            session.pass();
            next.into_iter().for_each(|envelope| session.handle(envelope));
        }
        false
    }
}
