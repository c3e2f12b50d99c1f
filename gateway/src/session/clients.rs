//! Which connection of this node speaks for which client, and which ones are a user's.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::Arc,
};

use parking_lot::Mutex;

/// Who is connected to this node. Bound: its connections. The lock is held for one look-up.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    /// The newest connection of each client.
    clients: HashMap<Arc<str>, Place, ahash::RandomState>,
    /// All connections of each user: one that was replaced is among them until it has ended.
    users: HashMap<Arc<str>, HashSet<Seat, ahash::RandomState>, ahash::RandomState>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    seat: Seat,
    serial: u64,
}

/// A connection: its shard and its key there.
pub type Seat = (usize, u64);

/// Whose connections are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// All of this user.
    User(Arc<str>),
    /// The one of this client.
    Client(Arc<str>),
}

impl Clients {
    /// This connection speaks for the client now. Its serial is `serial`, or larger if the connection that did so far
    /// has a serial as large; that connection's seat comes back too.
    pub fn claim(&self, client: &Arc<str>, user: Option<&Arc<str>>, seat: Seat, serial: u64) -> (u64, Option<Seat>) {
        let mut index = self.0.lock();
        if let Some(user) = user {
            index.users.entry(user.clone()).or_default().insert(seat);
        }
        let older = index.clients.get(client).copied();
        let serial = older.map_or(serial, |older| serial.max(older.serial.saturating_add(1)));
        index.clients.insert(client.clone(), Place { seat, serial });
        (serial, older.map(|older| older.seat))
    }

    /// Takes one of the places that a user's connections have on this node, for one that speaks for `client` from now on: right
    /// before it [claims](Self::claim) that, for what is reserved is given back by [`Clients::release`] only. The connection that
    /// spoke for this client so far takes none. False, and nothing is taken, if there are `limit` others.
    pub fn reserve(&self, user: &Arc<str>, client: &str, seat: Seat, limit: NonZeroU32) -> bool {
        let mut index = self.0.lock();
        let older = index.clients.get(client).map(|place| place.seat);
        let others = index.users.get(user).into_iter().flatten().filter(|taken| Some(**taken) != older);
        if others.count() >= limit.get() as usize {
            return false;
        }
        index.users.entry(user.clone()).or_default().insert(seat);
        true
    }

    /// The connection has ended. If another one speaks for the client by now, it goes on doing so: then this is false.
    pub fn release(&self, client: &str, user: Option<&Arc<str>>, seat: Seat) -> bool {
        let mut index = self.0.lock();
        let has_spoken = index.clients.get(client).is_some_and(|place| place.seat == seat);
        if has_spoken {
            index.clients.remove(client);
        }
        if let Some(user) = user
            && let Some(seats) = index.users.get_mut(user)
        {
            seats.remove(&seat);
            if seats.is_empty() {
                index.users.remove(user);
            }
        }
        has_spoken
    }

    /// The connection that speaks for a client, if its serial is smaller than this.
    pub fn older_than(&self, client: &str, serial: u64) -> Option<Seat> {
        self.0.lock().clients.get(client).filter(|place| place.serial < serial).map(|place| place.seat)
    }

    /// The connections of a user or a client.
    pub fn seats(&self, who: &Who) -> Vec<Seat> {
        let index = self.0.lock();
        match who {
            Who::User(user) => index.users.get(user).into_iter().flatten().copied().collect(),
            Who::Client(client) => index.clients.get(client).map(|place| place.seat).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(word: &str) -> Arc<str> {
        word.into()
    }

    #[test]
    fn the_newer_connection_of_a_client_has_the_larger_serial_and_its_place() {
        let (clients, c, user) = (Clients::default(), word("c"), word("ada"));
        assert_eq!(clients.claim(&c, Some(&user), (0, 1), 100), (100, None));
        assert_eq!(clients.claim(&c, Some(&user), (1, 2), 100), (101, Some((0, 1))), "within one millisecond");
        assert_eq!(clients.claim(&c, Some(&user), (0, 3), 50), (102, Some((1, 2))), "the clock went back");
        assert!(!clients.release("c", Some(&user), (0, 1)));
        assert_eq!(clients.seats(&Who::Client(c.clone())), [(0, 3)], "an older one's end changes nothing");
        let mut seats = clients.seats(&Who::User(user.clone()));
        seats.sort_unstable();
        assert_eq!(seats, [(0, 3), (1, 2)]);
        clients.release("c", Some(&user), (1, 2));
        assert!(clients.release("c", Some(&user), (0, 3)), "the one that spoke for it");
        let index = clients.0.lock();
        assert!(index.clients.is_empty() && index.users.is_empty(), "nothing is left of who is gone");
    }

    #[test]
    fn a_user_has_so_many_connections_and_the_one_that_is_replaced_is_none() {
        let (clients, ada, two) = (Clients::default(), word("ada"), NonZeroU32::new(2).unwrap());
        for (client, seat) in [("a", (0, 1)), ("b", (1, 2))] {
            assert!(clients.reserve(&ada, client, seat, two));
            clients.claim(&word(client), Some(&ada), seat, 1);
        }
        assert!(!clients.reserve(&ada, "c", (0, 3), two));
        assert!(clients.reserve(&word("bob"), "c", (0, 3), two), "another user's");
        assert!(clients.reserve(&ada, "a", (0, 4), two), "a comes back before its old connection has ended");
        clients.claim(&word("a"), Some(&ada), (0, 4), 1);
        clients.release("a", Some(&ada), (0, 1));
        assert!(!clients.reserve(&ada, "c", (0, 5), two));
        clients.release("b", Some(&ada), (1, 2));
        assert!(clients.reserve(&ada, "c", (0, 5), two));
    }

    #[test]
    fn only_a_smaller_serial_is_older() {
        let (clients, c) = (Clients::default(), word("c"));
        clients.claim(&c, None, (0, 1), 100);
        assert_eq!(clients.older_than("c", 101), Some((0, 1)));
        assert_eq!((clients.older_than("c", 100), clients.older_than("d", 101)), (None, None));
        assert_eq!(clients.seats(&Who::User(word("c"))), []);
    }
}
