//! Who is on a channel: places that stay what they are while their owners come and go.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Members by place. To add, to find and to take one away costs the same whatever their number.
///
/// Bound: the places up to the last that is taken. The first free ones are taken first, so that those who stay do not keep the
/// places of a crowd that went; what is free at the end is given back.
#[derive(Debug)]
pub(super) struct Members<T> {
    places: Vec<Option<T>>,
    free: BinaryHeap<Reverse<usize>>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: BinaryHeap::new() }
    }
}

impl<T> Members<T> {
    /// Adds one. Returns its place, which is its own until it is taken away.
    pub(super) fn insert(&mut self, member: T) -> usize {
        match self.free.pop() {
            Some(Reverse(place)) => {
                self.places[place] = Some(member);
                place
            }
            None => {
                self.places.push(Some(member));
                self.places.len() - 1
            }
        }
    }

    /// Takes one away.
    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        let removed = self.places.get_mut(place)?.take()?;
        if place + 1 < self.places.len() {
            self.free.push(Reverse(place));
        } else {
            while matches!(self.places.last(), Some(None)) {
                self.places.pop();
            }
            let end = self.places.len();
            self.free.retain(|Reverse(place)| *place < end);
            if self.places.capacity() > 4 * end.max(4) {
                self.places.shrink_to(2 * end);
                self.free.shrink_to(end);
            }
        }
        Some(removed)
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.places.get_mut(place)?.as_mut()
    }

    /// The places that a walk over all has to look at, the empty ones too.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// How many are there.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_what_they_are_and_are_used_again() {
        let mut members = Members::default();
        let places: Vec<_> = "abcd".chars().map(|name| members.insert(name)).collect();
        assert_eq!(members.remove(places[1]), Some('b'));
        assert_eq!(members.remove(places[1]), None);
        assert_eq!(
            (members.len(), members.get_mut(places[2]).copied(), members.get_mut(places[1]).copied()),
            (3, Some('c'), None)
        );
        assert_eq!(members.insert('e'), places[1]);
        assert_eq!(members.iter().collect::<String>(), "aecd");
        members.remove(places[2]);
        members.remove(places[3]);
        assert_eq!((members.places(), members.len(), members.insert('f')), (2, 2, 2));
    }

    #[test]
    fn many_that_were_there_leave_no_memory_behind() {
        let mut members = Members::default();
        for n in 0..10_000 {
            members.insert(n);
        }
        for place in 0..9_999 {
            members.remove(place);
        }
        assert_eq!(members.len(), 1);
        members.remove(9_999);
        assert!(members.is_empty() && members.places.capacity() <= 16 && members.free.capacity() <= 16);
    }
}
