//! The connections that have been given something in this turn of the shard: each is written to once.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::link::Link;

/// See the module. Shared by a shard and its links.
///
/// Bound: connections that one turn gives something to; emptied at its end.
#[derive(Default)]
pub(super) struct Dirty {
    links: RefCell<Vec<Rc<Link>>>,
    in_turn: Cell<bool>,
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

    /// Ends the turn: writes to each connection what waits for it, as far as its socket takes it.
    pub(super) fn flush(&self) {
        self.in_turn.set(false);
        let mut links = self.links.take();
        for link in links.drain(..) {
            link.flush();
        }
        // The room is kept for the next turn; nothing is noted while nobody is in one.
        self.links.replace(links);
    }
}
