use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    ops::Bound,
    sync::Arc,
};

use skywave_proto::Member;

use crate::MemberPage;

/// Who is on one channel.
#[derive(Default)]
pub(super) struct Members {
    /// By client id.
    seats: BTreeMap<Arc<str>, Seat>,
    /// How many of them are whose. Who has no user counts for itself.
    users: HashMap<Arc<str>, u32, ahash::RandomState>,
}

struct Seat {
    member: Member,
    connection: u64,
    leaving: bool,
}

/// What a client's coming or going means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// It is its user's first, or was its last.
    pub(super) of_user: bool,
    /// It is the channel's first, or was its last.
    pub(super) of_channel: bool,
}

impl Members {
    /// What it means, if the client was not here. An older connection of the client does not take a newer one's seat.
    pub(super) fn add(&mut self, member: Member, connection: u64) -> Option<Change> {
        let (user, of_channel) = (member.user.clone(), self.seats.is_empty());
        let seat = Seat { member, connection, leaving: false };
        match self.seats.entry(seat.member.client.clone()) {
            Entry::Vacant(empty) => {
                empty.insert(seat);
                Some(Change { of_user: self.count_in(user.as_ref()), of_channel })
            }
            Entry::Occupied(taken) if taken.get().connection > seat.connection => None,
            Entry::Occupied(mut taken) => {
                let before = taken.insert(seat).member;
                if before.user != user {
                    self.count_out(before.user.as_ref());
                    self.count_in(user.as_ref());
                }
                None
            }
        }
    }

    /// True if this connection still is the client's.
    pub(super) fn mark_leaving(&mut self, client: &str, connection: u64) -> bool {
        let seat = self.seats.get_mut(client).filter(|seat| seat.connection == connection);
        seat.map(|seat| seat.leaving = true).is_some()
    }

    /// Takes the client away if this connection still is its own, and, with `marked`, has not come back meanwhile.
    pub(super) fn remove(&mut self, client: &str, connection: u64, marked: bool) -> Option<(Member, Change)> {
        let seat = self.seats.get(client)?;
        if seat.connection != connection || (marked && !seat.leaving) {
            return None;
        }
        let member = self.seats.remove(client)?.member;
        let of_user = self.count_out(member.user.as_ref());
        Some((member, Change { of_user, of_channel: self.seats.is_empty() }))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.seats.len() as u64
    }

    pub(super) fn page(&self, after: Option<&str>, limit: usize) -> MemberPage {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.seats.range::<str, _>((from, Bound::Unbounded));
        let members: Vec<_> = rest.by_ref().take(limit).map(|(_, seat)| seat.member.clone()).collect();
        let next = rest.next().and_then(|_| members.last().map(|member| member.client.clone()));
        MemberPage { members, total: self.count(), next }
    }

    /// True if it is the first.
    fn count_in(&mut self, user: Option<&Arc<str>>) -> bool {
        let Some(user) = user else { return true };
        let clients = self.users.entry(user.clone()).or_default();
        *clients += 1;
        *clients == 1
    }

    /// True if it was the last.
    fn count_out(&mut self, user: Option<&Arc<str>>) -> bool {
        let Some(user) = user else { return true };
        let Some(clients) = self.users.get_mut(user) else { return true };
        *clients -= 1;
        let is_last = *clients == 0;
        if is_last {
            self.users.remove(user);
        }
        is_last
    }
}
