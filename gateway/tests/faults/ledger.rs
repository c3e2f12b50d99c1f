//! The verdict on one client and one channel: every acknowledged publication once and in order, or told that it cannot be
//! so, at the very place. Pure.
//!
//! A publisher numbers what it publishes 0, 1, 2 and so on, and goes on to the next number once the last one is
//! acknowledged. So whoever hears a number has heard all before it, unless it was told *between the two* that something is
//! missing there. The time from one such word to the next is a *stretch*.
//!
//! One exception, and only tests that cut a network in two allow it: a master that is cut off acknowledges what the
//! others never get. Who heard something else at the offset that was acknowledged has lost nothing of its own line; such
//! a number is *overwritten*, and counted apart.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use skywave_proto::StreamPosition;

/// Who publishes, and its how many-eth publication on the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number {
    pub publisher: u8,
    pub number: u64,
}

/// What tells a client that something may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It subscribes without having been here: the first of all.
    Began,
    /// It came back, and got `recovered: false`.
    NotRecovered,
    /// Gap pushes.
    Reset,
    Rollback,
    SlowConsumer,
    Possible,
}

/// What a client hears of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Publication(Number, Option<StreamPosition>),
    /// With the position from which on nothing is missing, if there is one.
    Told(Word, Option<StreamPosition>),
}

/// What must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Acknowledged, not heard, and nobody said so.
    Lost(Number),
    /// Heard twice.
    Doubled(Number),
    /// Heard behind a later one.
    Reordered(Number),
    /// Offsets that do not follow each other: whatever was there is missing.
    Hole(Option<StreamPosition>, StreamPosition),
    /// Heard at another position than the one that was acknowledged.
    Moved(Number),
}

/// What the publishers know: for every publisher the positions of 0, 1, 2 and so on.
pub type Acknowledged = BTreeMap<u8, Vec<Option<StreamPosition>>>;

/// What one client heard of one channel, looked at as it comes.
#[derive(Debug, Default)]
pub struct Account {
    heard: Vec<Heard>,
    faults: Vec<(usize, Fault)>,
    stretch: usize,
    /// The last publication; behind a word, the position that it gave.
    at: Option<StreamPosition>,
    /// Where each number was heard last, and in which stretch.
    places: HashMap<Number, (usize, Option<StreamPosition>)>,
    /// The highest number of each publisher, and in which stretch it was heard.
    highest: BTreeMap<u8, (u64, usize)>,
    /// Heard again after a word: right if the first one was lost before it was acknowledged.
    again: Vec<(usize, Number, Option<StreamPosition>)>,
    /// Passed over without a word: right if it was overwritten.
    skipped: Vec<(usize, Number, usize)>,
}

impl Account {
    /// Takes what comes next.
    pub fn hear(&mut self, heard: Heard) {
        let index = self.heard.len();
        self.heard.push(heard);
        match heard {
            Heard::Told(_, position) => (self.stretch, self.at) = (self.stretch + 1, position),
            Heard::Publication(number, position) => {
                if let Some(position) = position {
                    self.follow(index, position);
                }
                self.count(index, number, position);
            }
        }
    }

    fn follow(&mut self, index: usize, position: StreamPosition) {
        if self.at.is_some_and(|at| position.offset != at.offset + 1) {
            self.faults.push((index, Fault::Hole(self.at, position)));
        }
        self.at = Some(position);
    }

    fn count(&mut self, index: usize, number: Number, position: Option<StreamPosition>) {
        let highest = self.highest.get(&number.publisher).copied();
        match (self.places.insert(number, (self.stretch, position)), highest) {
            (Some((stretch, _)), _) if stretch == self.stretch => self.faults.push((index, Fault::Doubled(number))),
            (Some((_, before)), _) => self.again.push((index, number, before)),
            (None, Some((highest, _))) if number.number < highest => {
                self.faults.push((index, Fault::Reordered(number)));
            }
            (None, Some((highest, stretch))) if stretch == self.stretch => {
                let skipped = (highest + 1)..number.number;
                let skipped = skipped.map(|missing| (index, Number { number: missing, ..number }, self.stretch));
                self.skipped.extend(skipped);
            }
            (None, _) => {}
        }
        if highest.is_none_or(|(highest, _)| number.number >= highest) {
            self.highest.insert(number.publisher, (number.number, self.stretch));
        } else if let Some(highest) = self.highest.get_mut(&number.publisher) {
            highest.1 = self.stretch;
        }
    }

    /// How many publications were heard.
    pub fn publications(&self) -> usize {
        self.heard.iter().filter(|heard| matches!(heard, Heard::Publication(..))).count()
    }

    /// The words that were told, without that it began.
    pub fn told(&self) -> Vec<Word> {
        let told = self.heard.iter().filter_map(|heard| match heard {
            Heard::Told(Word::Began, _) | Heard::Publication(..) => None,
            Heard::Told(word, _) => Some(*word),
        });
        told.collect()
    }

    pub fn heard(&self) -> &[Heard] {
        &self.heard
    }

    /// Whether a number has been heard.
    pub fn has(&self, number: Number) -> bool {
        self.places.contains_key(&number)
    }

    /// The position of the last publication, or of the last word.
    pub fn at(&self) -> Option<StreamPosition> {
        self.at
    }

    /// What was wrong as it came, whatever has been acknowledged.
    pub fn faults(&self) -> impl Iterator<Item = Fault> {
        self.faults.iter().map(|(_, fault)| *fault)
    }

    /// The verdict. Everything that was acknowledged last must have been heard by now.
    pub fn judge(&self, acknowledged: &Acknowledged) -> Verdict {
        let mut faults = self.faults.clone();
        let mut overwritten = 0;
        let position = |number: Number| {
            let positions = acknowledged.get(&number.publisher);
            positions.and_then(|positions| positions.get(usize::try_from(number.number).ok()?)).copied()
        };
        for &(index, number, before) in &self.again {
            if before.is_some() && position(number) == Some(before) {
                faults.push((index, Fault::Doubled(number)));
            }
        }
        for &(index, number, stretch) in &self.skipped {
            match position(number) {
                Some(Some(position)) if self.is_overwritten(position, stretch) => overwritten += 1,
                // Not acknowledged, and yet its publisher went on: that cannot be, so it counts.
                _ => faults.push((index, Fault::Lost(number))),
            }
        }
        for (&publisher, positions) in acknowledged {
            let count = positions.len() as u64;
            let from = self.highest.get(&publisher).map_or(0, |(highest, _)| highest + 1);
            let tail = (from..count).map(|number| Number { publisher, number });
            faults.extend(tail.map(|number| (self.heard.len(), Fault::Lost(number))));
        }
        for (number, &(stretch, heard_at)) in &self.places {
            let is_current = stretch == self.stretch;
            if let (true, Some(Some(position)), Some(heard_at)) = (is_current, position(*number), heard_at)
                && position != heard_at
            {
                faults.push((self.heard.len(), Fault::Moved(*number)));
            }
        }
        faults.sort_by_key(|(index, _)| *index);
        Verdict { heard: self.publications(), told: self.told().len(), overwritten, faults }
    }

    /// Whether this line has something else at a position, in this stretch.
    fn is_overwritten(&self, position: StreamPosition, stretch: usize) -> bool {
        let (mut now, mut nearest) = (0, None::<StreamPosition>);
        for heard in &self.heard {
            match *heard {
                Heard::Told(..) => now += 1,
                Heard::Publication(_, Some(at)) if now == stretch && at.offset <= position.offset => nearest = Some(at),
                Heard::Publication(..) => {}
            }
        }
        nearest.is_some_and(|nearest| nearest.epoch != position.epoch)
    }
}

/// What is to be said of one client and one channel.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Publications that were heard.
    pub heard: usize,
    /// Words that something is missing.
    pub told: usize,
    /// Acknowledged by a master that was cut off, and something else stands there now.
    pub overwritten: usize,
    /// Each with its place among what was heard.
    pub faults: Vec<(usize, Fault)>,
}

impl Verdict {
    fn count(&self, is_it: impl Fn(&Fault) -> bool) -> usize {
        self.faults.iter().filter(|(_, fault)| is_it(fault)).count()
    }

    pub fn lost(&self) -> usize {
        self.count(|fault| matches!(fault, Fault::Lost(_) | Fault::Hole(..) | Fault::Moved(_)))
    }

    pub fn doubled(&self) -> usize {
        self.count(|fault| matches!(fault, Fault::Doubled(_)))
    }

    pub fn reordered(&self) -> usize {
        self.count(|fault| matches!(fault, Fault::Reordered(_)))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.publisher, self.number)
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |position: &Option<StreamPosition>| position.map_or("nowhere".into(), |position| position.to_string());
        match self {
            Self::Publication(number, position) => write!(f, "{number} at {}", at(position)),
            Self::Told(word, position) => write!(f, "{word:?} at {}", at(position)),
        }
    }
}

mod tests {
    use super::*;

    /// `3@a:5` is publication 3 of publisher 0, `1/3@a:5` of publisher 1; `!a:5` is a reset that goes on behind `a:5`,
    /// `?a:5` a beginning, `!` a word without a position.
    fn account(script: &str) -> Account {
        let mut account = Account::default();
        let position = |text: &str| {
            let (epoch, offset) = text.split_once(':')?;
            Some(StreamPosition { epoch: epoch.repeat(8).parse().unwrap(), offset: offset.parse().unwrap() })
        };
        for word in script.split_whitespace() {
            account.hear(if let Some(at) = word.strip_prefix('!') {
                Heard::Told(Word::Reset, position(at))
            } else if let Some(at) = word.strip_prefix('?') {
                Heard::Told(Word::Began, position(at))
            } else {
                let (number, at) = word.split_once('@').unwrap_or((word, ""));
                let (publisher, number) = number.split_once('/').unwrap_or(("0", number));
                let number = Number { publisher: publisher.parse().unwrap(), number: number.parse().unwrap() };
                Heard::Publication(number, position(at))
            });
        }
        account
    }

    /// Publisher 0 was told that its publications stand here.
    fn acknowledged(positions: &str) -> Acknowledged {
        let positions = account(&positions.split_whitespace().map(|at| format!("?{at} ")).collect::<String>());
        let positions = positions.heard.iter().map(|heard| match heard {
            Heard::Told(_, position) | Heard::Publication(_, position) => *position,
        });
        BTreeMap::from([(0, positions.collect())])
    }

    /// Lost, doubled, reordered.
    fn counts(script: &str, positions: &str) -> [usize; 3] {
        let verdict = account(script).judge(&acknowledged(positions));
        [verdict.lost(), verdict.doubled(), verdict.reordered()]
    }

    const ALL: &str = "a:1 a:2 a:3 a:4";

    #[test]
    fn everything_once_and_in_order_is_good() {
        assert_eq!(counts("?a:0 0@a:1 1@a:2 2@a:3 3@a:4", ALL), [0, 0, 0]);
        assert_eq!(counts("?a:0 0@a:1 1@a:2 2@b:3 3@b:4", "a:1 a:2 b:3 b:4"), [0, 0, 0], "an epoch may change");
        assert_eq!(counts("?a:2 2@a:3 3@a:4", ALL), [0, 0, 0], "who comes late hears the rest");
        assert_eq!(counts("? 0 1 2 3", "x x x x"), [0, 0, 0], "without positions");
    }

    #[test]
    fn a_silent_hole_is_lost() {
        assert_eq!(counts("?a:0 0@a:1 1@a:2 3@a:4", ALL), [2, 0, 0], "the number and the offset");
        assert_eq!(counts("?a:0 0@a:1 1@a:2 3@a:3", "a:1 a:2 a:9 a:3"), [1, 0, 0], "offsets that hide it");
        assert_eq!(counts("? 0 1 3", "x x x x"), [1, 0, 0]);
        assert_eq!(counts("?a:0 1@a:2 2@a:3 3@a:4", ALL), [1, 0, 0], "the first of all");
    }

    #[test]
    fn a_tail_that_never_came_is_lost() {
        assert_eq!(counts("?a:0 0@a:1 1@a:2", ALL), [2, 0, 0]);
        assert_eq!(counts("?a:0", ALL), [4, 0, 0]);
        assert_eq!(
            counts("?a:0 0@a:1 1@a:2 !b:0", "a:1 a:2 b:1"),
            [1, 0, 0],
            "a word is no excuse for what comes later"
        );
    }

    #[test]
    fn a_double_is_doubled() {
        assert_eq!(counts("?a:0 0@a:1 1@a:2 1@a:3 2@a:4", "a:1 a:2 a:4"), [1, 1, 0], "and one of the two was not told");
        assert_eq!(counts("? 0 1 1 2", "x x x"), [0, 1, 0]);
        assert_eq!(counts("?a:0 0@a:1 1@a:2 !a:1 1@a:2 2@a:3", "a:1 a:2 a:3"), [0, 1, 0], "after a word too");
        assert_eq!(
            counts("?a:0 0@a:1 1@a:2 !b:0 1@b:1 2@b:2", "a:1 b:1 b:2"),
            [0, 0, 0],
            "unless the first one is gone"
        );
    }

    #[test]
    fn a_swap_is_reordered() {
        assert_eq!(counts("? 0 2 1 3", "x x x x"), [1, 0, 1]);
        assert_eq!(counts("?a:0 0@a:1 2@a:2 1@a:3 3@a:4", "a:1 a:3 a:2 a:4"), [1, 0, 1]);
        assert_eq!(counts("? 0 2 ! 1 3", "x x x x")[2], 1, "a word does not turn the order round");
    }

    #[test]
    fn a_hole_that_is_told_in_its_place_is_allowed_and_nowhere_else() {
        assert_eq!(counts("?a:0 0@a:1 !a:3 3@a:4", ALL), [0, 0, 0]);
        assert_eq!(counts("?a:0 0@a:1 1@a:2 !b:0 3@b:1", "a:1 a:2 a:3 b:1"), [0, 0, 0]);
        assert_eq!(counts("?a:0 !a:0 0@a:1 2@a:3 3@a:4", ALL)[0], 2, "told before");
        assert_eq!(counts("?a:0 0@a:1 2@a:3 !a:3 3@a:4", ALL)[0], 2, "told after");
        assert_eq!(counts("?a:0 0@a:1 !a:2 3@a:4", ALL)[0], 1, "told up to an offset, and more was missing");
    }

    #[test]
    fn what_is_heard_elsewhere_than_acknowledged_counts() {
        assert_eq!(counts("?a:0 0@a:1 1@a:2", "a:1 a:3"), [1, 0, 0]);
    }

    #[test]
    fn what_a_cut_off_master_acknowledged_is_counted_apart() {
        let heard = account("?a:0 0@a:1 1/0@b:2 1/1@b:3 3@b:4");
        let verdict = heard.judge(&acknowledged("a:1 a:2 a:3 b:4"));
        assert_eq!((verdict.overwritten, verdict.faults), (2, vec![]));
        let verdict = heard.judge(&acknowledged("a:1 a:2 b:3 b:4"));
        assert_eq!((verdict.overwritten, verdict.lost()), (1, 1), "no epoch but its own excuses it");
    }
}
