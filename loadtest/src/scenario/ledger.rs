//! Closing the books: what every receiver got, held against what was sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Samples,
    books::{Books, ENDED, LastSeen},
    publisher::Published,
};
use crate::{
    report::{LEFT_OUT, NOT_IN_ORDER, Sightings},
    tally::{Outcome, Sent},
};

/// What was sent, by channel and publisher.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Ledger(Vec<Vec<Sent>>);

/// What all receivers brought home, closed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Gathered {
    /// Of those who read.
    pub(super) outcome: Outcome,
    /// Of those who read; of those who stalled, what nobody may meet however it ended.
    pub(super) sightings: Sightings,
    /// How each of those who stalled ended.
    pub(super) fates: BTreeMap<String, u64>,
    pub(super) samples: Samples,
    pub(super) last: LastSeen,
}

impl Ledger {
    pub(super) fn new(published: &[Published]) -> Self {
        let mut ledger = Self::default();
        for publisher in published {
            let (channel, from) = (publisher.channel, publisher.from as usize);
            ledger.0.resize(ledger.0.len().max(channel + 1), Vec::new());
            let line = &mut ledger.0[channel];
            line.resize(line.len().max(from + 1), Sent::default());
            line[from] = publisher.sent();
        }
        ledger
    }

    fn of(&self, channel: usize) -> &[Sent] {
        self.0.get(channel).map_or(&[], Vec::as_slice)
    }
}

impl Gathered {
    /// Closes the books of one thread and adds what is in them.
    pub(super) fn close(&mut self, books: &[(usize, Books)], samples: &Samples, last: &LastSeen, ledger: &Ledger) {
        for (channel, books) in books {
            let sent = ledger.of(*channel);
            if books.is_stalled {
                *self.fates.entry(fate(books, sent)).or_default() += 1;
                self.sightings.merge(&never_right(&books.sightings));
            } else {
                self.outcome += settled(books, sent);
                self.sightings.merge(&books.sightings);
            }
        }
        self.samples.merge(samples);
        self.last.merge(last);
    }

    /// Adds what another process gathered.
    pub(super) fn merge(&mut self, other: &Self) {
        self.outcome += other.outcome;
        self.sightings.merge(&other.sightings);
        for (fate, times) in &other.fates {
            *self.fates.entry(fate.clone()).or_default() += times;
        }
        self.samples.merge(&other.samples);
        self.last.merge(&other.last);
    }
}

/// Closes a reader's books. What came compressed is taken for what is missing, and what is beyond that for doubled.
fn settled(books: &Books, sent: &[Sent]) -> Outcome {
    let mut outcome = books.tally.close(sent);
    let unread = outcome.lost.min(books.sightings.compressed);
    outcome.lost -= unread;
    outcome.received += unread;
    outcome.doubled += books.sightings.compressed - unread;
    outcome
}

/// What a client may not meet, whether it reads or not.
fn never_right(met: &Sightings) -> Sightings {
    let Sightings { strays, unreadable, errors, .. } = met;
    Sightings { strays: *strays, unreadable: *unreadable, errors: errors.clone(), ..Sightings::default() }
}

/// How a client that stopped reading ended, and what it got when it read again.
fn fate(books: &Books, sent: &[Sent]) -> String {
    let Books { sightings, last, .. } = books;
    let outcome = settled(books, sent);
    let order = if outcome.doubled + outcome.reordered > 0 { NOT_IN_ORDER } else { "" };
    let told = |what: &str, reasons: &BTreeMap<String, u64>| {
        let reasons: Vec<&str> = reasons.keys().map(String::as_str).collect();
        format!("{what}: {}{order}", reasons.join(", "))
    };
    let closed = |ending: &String| ending.strip_prefix(ENDED).map(|how| format!("ended: {how}{order}"));
    if let Some(fate) = sightings.endings.keys().find_map(closed) {
        return fate;
    }
    if !sightings.endings.is_empty() {
        return told("open", &sightings.endings);
    }
    if !sightings.gaps.is_empty() {
        return told("open, gap told", &sightings.gaps);
    }
    let is_last = last.is_some_and(|(from, seq)| sent.get(from as usize).is_some_and(|sent| sent.count == seq + 1));
    let last = if is_last { ", ends with the last" } else { "" };
    match (outcome.lost, sightings.recovered) {
        (0, 0) => format!("open, continuous{order}"),
        (0, _) => format!("open, recovered{order}"),
        _ => format!("open{LEFT_OUT}{last}{order}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(arrived: &[u64], change: impl FnOnce(&mut Books)) -> String {
        let mut books = Books { tally: crate::tally::Tally::new(1), is_stalled: true, ..Books::default() };
        for seq in arrived {
            books.tally.arrived(0, *seq);
            books.last = Some((0, *seq));
        }
        change(&mut books);
        fate(&books, &[Sent { count: 3, refused: Vec::new() }])
    }

    #[test]
    fn what_came_compressed_is_counted_against_what_was_sent() {
        let outcome = |read: &[u64], compressed| {
            let mut books = Books { tally: crate::tally::Tally::new(1), ..Books::default() };
            for seq in read {
                books.tally.arrived(0, *seq);
            }
            books.sightings.compressed = compressed;
            settled(&books, &[Sent { count: 3, refused: Vec::new() }])
        };
        assert_eq!(outcome(&[], 3), Outcome { received: 3, ..Outcome::default() });
        assert_eq!(outcome(&[], 2), Outcome { received: 2, lost: 1, ..Outcome::default() });
        assert_eq!(outcome(&[], 4), Outcome { received: 3, doubled: 1, ..Outcome::default() });
        assert_eq!(outcome(&[0], 3), Outcome { received: 3, doubled: 1, ..Outcome::default() });
    }

    #[test]
    fn every_fate_has_its_words() {
        assert_eq!(books(&[0, 1, 2], |_| {}), "open, continuous");
        assert_eq!(books(&[0, 1, 2], |books| books.sightings.recovered = 1), "open, recovered");
        assert_eq!(books(&[0, 2], |_| {}), "open, some left out without a word, ends with the last");
        assert_eq!(books(&[0, 1], |_| {}), "open, some left out without a word");
        assert_eq!(books(&[1, 0, 2], |_| {}), "open, continuous, not in order");
        let gap = books(&[0, 2], |books| books.sightings.gaps = [("slow_consumer".to_owned(), 1)].into());
        assert_eq!(gap, "open, gap told: slow_consumer");
        let ended = books(&[0], |books| books.closed("4002 slow_consumer"));
        assert_eq!(ended, "ended: 4002 slow_consumer");
    }

    #[test]
    fn what_nobody_may_meet_is_kept_of_those_who_stall() {
        let mut books = Books { is_stalled: true, ..Books::default() };
        books.sightings.strays = 1;
        books.sightings.unreadable = 2;
        books.sightings.errors = [("internal".to_owned(), 3)].into();
        books.closed("4002 slow_consumer");
        let mut gathered = Gathered::default();
        gathered.close(&[(0, books)], &Samples::default(), &LastSeen::default(), &Ledger::default());
        assert_eq!((gathered.sightings.strays, gathered.sightings.unreadable), (1, 2));
        assert_eq!(gathered.sightings.errors, [("internal".to_owned(), 3)].into());
        assert!(gathered.sightings.endings.is_empty() && gathered.fates.len() == 1);
    }
}
