use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    sync::Arc,
};

use skywave_proto::Member;

use crate::MemberPage;

/// Who is on one channel, by client id.
#[derive(Default)]
pub(super) struct Members(BTreeMap<Arc<str>, Seat>);

struct Seat {
    member: Member,
    connection: u64,
    leaving: bool,
}

impl Members {
    /// True if the client was not here. An older connection of the client does not take a newer one's seat.
    pub(super) fn add(&mut self, member: Member, connection: u64) -> bool {
        let seat = Seat { member, connection, leaving: false };
        match self.0.entry(seat.member.client.clone()) {
            Entry::Vacant(empty) => {
                empty.insert(seat);
                true
            }
            Entry::Occupied(mut taken) => {
                if taken.get().connection <= seat.connection {
                    taken.insert(seat);
                }
                false
            }
        }
    }

    /// True if this connection still is the client's.
    pub(super) fn mark_leaving(&mut self, client: &str, connection: u64) -> bool {
        let seat = self.0.get_mut(client).filter(|seat| seat.connection == connection);
        seat.map(|seat| seat.leaving = true).is_some()
    }

    /// Takes the client away if this connection still is its own, and, with `marked`, has not come back meanwhile.
    pub(super) fn remove(&mut self, client: &str, connection: u64, marked: bool) -> Option<Member> {
        let seat = self.0.get(client)?;
        if seat.connection != connection || (marked && !seat.leaving) {
            return None;
        }
        self.0.remove(client).map(|seat| seat.member)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn page(&self, after: Option<&str>, limit: usize) -> MemberPage {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.0.range::<str, _>((from, Bound::Unbounded));
        let members: Vec<_> = rest.by_ref().take(limit).map(|(_, seat)| seat.member.clone()).collect();
        let next = rest.next().and_then(|_| members.last().map(|member| member.client.clone()));
        MemberPage { members, total: self.count(), next }
    }
}
