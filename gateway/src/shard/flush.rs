//! The connections that have been given something in this turn of the shard: each is written to once.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::sync::Notify;

use super::link::Link;

/// See the module. Shared by a shard and its links.
///
/// Bound: connections that one turn gives something to; emptied at its end.
#[derive(Default)]
pub(super) struct Dirty {
    links: RefCell<Vec<Rc<Link>>>,
    in_turn: Cell<bool>,
    /// Told when the next turn must not wait for anything else.
    wanted: Notify,
}

impl Dirty {
    /// From now on whoever is given something is written to at the end of the turn.
    pub(super) fn begin(&self) {
        self.in_turn.set(true);
    }

    /// Notes a connection. False outside a turn: somebody else has to see to it that it is written to.
    pub(super) fn note(&self, link: &Rc<Link>) -> bool {
        let in_turn = self.in_turn.get();
        if in_turn {
            self.links.borrow_mut().push(link.clone());
        }
        in_turn
    }

    /// Notes a connection outside a turn: it is written to at the end of the next, which comes soon.
    pub(super) fn note_for_next(&self, link: &Rc<Link>) {
        self.links.borrow_mut().push(link.clone());
        self.wanted.notify_one();
    }

    /// Returns when there is a connection that waits for the next turn.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Ends the turn, behind its last [`Dirty::flush`].
    pub(super) fn end(&self) {
        self.in_turn.set(false);
    }

    /// Writes to each connection what waits for it, as far as its socket takes it.
    pub(super) fn flush(&self) {
        let mut links = self.links.take();
        for link in links.drain(..) {
            link.flush();
        }
        // The room is kept for the next time.
        let noted_meanwhile = self.links.replace(links);
        self.links.borrow_mut().extend(noted_meanwhile);
    }
}
