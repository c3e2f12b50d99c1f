//! The numbers under which this process hands messages to other nodes: no two are the same, whatever the way, so that each
//! owner can tell a second try from another message.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// Gives them out.
#[derive(Default)]
pub(super) struct Numbers(Mutex<Given>);

#[derive(Default)]
struct Given {
    last: u64,
    /// Those that may be asked again. Bound: what is under way.
    open: BTreeSet<u64>,
}

/// A number that is open until this is dropped.
pub(super) struct Number<'a> {
    numbers: &'a Numbers,
    pub(super) number: u64,
    /// Nothing below is asked again.
    pub(super) settled: u64,
}

impl Numbers {
    pub(super) fn next(&self) -> Number<'_> {
        let mut given = self.0.lock();
        given.last += 1;
        let number = given.last;
        given.open.insert(number);
        let settled = given.open.first().copied().unwrap_or(number);
        Number { numbers: self, number, settled }
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        self.numbers.0.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_settled_when_nobody_asks_it_again() {
        let numbers = Numbers::default();
        let (one, two) = (numbers.next(), numbers.next());
        assert_eq!((one.number, one.settled, two.number, two.settled), (1, 1, 2, 1));
        drop(two);
        assert_eq!(numbers.next().settled, 1, "the first may still be asked");
        drop(one);
        let next = numbers.next();
        assert_eq!((next.number, next.settled), (4, 4));
    }
}
