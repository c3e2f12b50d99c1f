//! Which messages of another node have been taken: each number once, however often it is asked.

use std::collections::BTreeMap;

/// Numbers that are remembered of one process: those that may be asked again. Full: nothing more is taken until the oldest
/// is settled, which an asker does within its time-out.
const REMEMBERED: usize = 16 * 1024;

/// The numbers of one process. `T` is what came of one, or comes of it.
pub(super) struct Window<T> {
    settled: u64,
    taken: BTreeMap<u64, T>,
}

/// What is done about a number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<T> {
    /// It was taken, now or before: this comes of it.
    Taken(T),
    /// It was given up before it came, and is not taken any more.
    Settled,
    /// Too many numbers may be asked again.
    Full,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { settled: 0, taken: BTreeMap::new() }
    }
}

impl<T: Clone> Window<T> {
    /// A number is asked; nothing below `settled` ever is again. `take` is called if it is the first time.
    pub(super) fn ask(&mut self, number: u64, settled: u64, take: impl FnOnce() -> T) -> Asked<T> {
        if settled > self.settled {
            self.settled = settled;
            self.taken = self.taken.split_off(&settled);
        }
        if number < self.settled {
            return Asked::Settled;
        }
        if let Some(taken) = self.taken.get(&number) {
            return Asked::Taken(taken.clone());
        }
        if self.taken.len() >= REMEMBERED {
            return Asked::Full;
        }
        let taken = take();
        self.taken.insert(number, taken.clone());
        Asked::Taken(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_taken_once() {
        let (mut window, mut calls) = (Window::default(), 0);
        let mut ask = |number, settled| {
            window.ask(number, settled, || {
                calls += 1;
                calls
            })
        };
        assert_eq!(ask(1, 1), Asked::Taken(1));
        assert_eq!(ask(3, 1), Asked::Taken(2));
        assert_eq!(ask(1, 1), Asked::Taken(1), "the answer was lost");
        assert_eq!(ask(2, 1), Asked::Taken(3), "it was overtaken");
        assert_eq!(ask(4, 3), Asked::Taken(4));
        assert_eq!(ask(2, 1), Asked::Settled, "late, and given up");
        assert_eq!(ask(3, 3), Asked::Taken(2));
    }

    #[test]
    fn it_is_bounded() {
        let mut window = Window::default();
        for number in 0..REMEMBERED as u64 {
            assert_eq!(window.ask(number, 0, || ()), Asked::Taken(()));
        }
        assert_eq!(window.ask(REMEMBERED as u64, 0, || ()), Asked::Full);
        assert_eq!(window.ask(7, 0, || ()), Asked::Taken(()), "known already");
        assert_eq!(window.ask(REMEMBERED as u64, 1, || ()), Asked::Taken(()));
    }
}
