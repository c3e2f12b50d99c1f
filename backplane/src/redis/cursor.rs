//! The live rule: what becomes of a publication that comes in on one subscribed channel. Pure.
//!
//! A channel with history is followed by its offsets. The next one is delivered and an old one dropped; anything else,
//! another epoch above all, means that something passed by unheard, and then the history is asked (*catching*). While
//! it is, what comes in is held; what came in before is in the answer.

use skywave_proto::{Epoch, Publication, StreamPosition};

use super::line::{Line, Place};
use crate::Gap;

/// How much is held for one channel while its history is asked; what does not fit is fetched again.
const HELD_PUBLICATIONS: usize = 256;
const HELD_BYTES: usize = 1 << 20;

/// What the sink is told, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Publication(Publication),
    Gap(Gap),
}

/// What has to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// Ask the history, and [`Cursor::absorb`] the answer.
    Fetch,
}

/// How far one channel has been delivered.
#[derive(Debug)]
pub(super) enum Cursor {
    /// Asked for, not yet confirmed: nothing is delivered.
    Joining(Held),
    /// Without history. `missed`: the subscription was broken, publications may have passed by unheard.
    Live { missed: bool },
    /// With history: `last` has been delivered, and nothing after it.
    Following { last: StreamPosition },
    /// The same, while the history is asked. `ticket` is the request whose answer counts.
    Catching { last: StreamPosition, ticket: u64, held: Held },
}

/// What came in while nothing can be delivered.
#[derive(Debug, Default)]
pub(super) struct Held {
    publications: Vec<Publication>,
    bytes: usize,
    /// More came than fits: all of it was let go.
    spilled: bool,
}

impl Held {
    fn push(&mut self, publication: Publication) {
        self.bytes += publication.payload.data().len();
        self.publications.push(publication);
        if self.publications.len() > HELD_PUBLICATIONS || self.bytes > HELD_BYTES {
            *self = Self { spilled: true, ..Self::default() };
        }
    }
}

impl Cursor {
    pub(super) fn joining() -> Self {
        Self::Joining(Held::default())
    }

    /// Where the channel stands for whoever asks now; `None` while that is not known.
    pub(super) fn standing(&self) -> Option<Option<StreamPosition>> {
        match self {
            Self::Joining(_) => None,
            Self::Live { .. } => Some(None),
            Self::Following { last } | Self::Catching { last, .. } => Some(Some(*last)),
        }
    }

    /// Takes a publication that has just come in.
    pub(super) fn offer(&mut self, publication: Publication, out: &mut Vec<Event>) -> Next {
        match (&mut *self, publication.position) {
            (Self::Joining(held), _) | (Self::Catching { held, .. }, Some(_)) => held.push(publication),
            (Self::Live { missed }, _) => {
                if std::mem::take(missed) {
                    out.push(Event::Gap(Gap::Possible));
                }
                out.push(Event::Publication(publication));
            }
            // A node whose configuration says that this channel keeps nothing: it has no place, so it cannot be missed.
            (_, None) => out.push(Event::Publication(publication)),
            (Self::Following { last }, Some(position)) => {
                if position.epoch != last.epoch || position.offset > last.offset + 1 {
                    return self.start_catching();
                }
                if position.offset == last.offset + 1 {
                    *last = position;
                    out.push(Event::Publication(publication));
                }
            }
        }
        Next::Nothing
    }

    /// A new line has begun: whoever follows another one looks.
    pub(super) fn begun(&mut self, epoch: Epoch) -> Next {
        match self {
            Self::Following { last } if last.epoch != epoch => self.start_catching(),
            _ => Next::Nothing,
        }
    }

    /// Something came in that cannot be read: it may have been the next one. Whoever follows asks the history where the
    /// channel stands, and makes a gap of what cannot be read there either.
    pub(super) fn unreadable(&mut self, out: &mut Vec<Event>) -> Next {
        match self {
            Self::Joining(held) | Self::Catching { held, .. } => *held = Held { spilled: true, ..Held::default() },
            Self::Live { missed } => {
                *missed = false;
                out.push(Event::Gap(Gap::Possible));
            }
            Self::Following { .. } => return self.start_catching(),
        }
        Next::Nothing
    }

    /// The subscription is confirmed and the channel stood at `position` after that.
    pub(super) fn settle(&mut self, position: Option<StreamPosition>, out: &mut Vec<Event>) -> Next {
        let Self::Joining(held) = self else { return Next::Nothing };
        let held = std::mem::take(held);
        *self = match position {
            Some(last) => Self::Following { last },
            None => Self::Live { missed: false },
        };
        self.replay(held, out)
    }

    /// From now on the history is asked, whatever comes in.
    pub(super) fn start_catching(&mut self) -> Next {
        if let Self::Following { last } = *self {
            // No request is on its way yet, so no answer counts.
            *self = Self::Catching { last, ticket: 0, held: Held::default() };
            return Next::Fetch;
        }
        Next::Nothing
    }

    /// The history is about to be asked under this ticket: for what comes after the returned position. What is held has
    /// come in before, so the answer has it.
    pub(super) fn ask(&mut self, new_ticket: u64) -> Option<StreamPosition> {
        let Self::Catching { last, ticket, held } = self else { return None };
        (*ticket, *held) = (new_ticket, Held::default());
        Some(*last)
    }

    /// The history of this channel cannot be read. The next publication or the next sweep tries again.
    pub(super) fn give_up(&mut self, its_ticket: u64) {
        if let Self::Catching { last, ticket, .. } = *self
            && ticket == its_ticket
        {
            *self = Self::Following { last };
        }
    }

    /// Takes what the history answered: the line as it was then, and publications after the position that was asked for.
    pub(super) fn absorb(
        &mut self,
        its_ticket: u64,
        line: &Line,
        publications: Vec<Publication>,
        out: &mut Vec<Event>,
    ) -> Next {
        let Self::Catching { last, ticket, held } = self else { return Next::Nothing };
        if *ticket != its_ticket {
            return Next::Nothing;
        }
        let before = *last;
        match line.place(*last) {
            Place::Within if last.offset + 1 >= line.oldest => {}
            Place::Beyond(now) => {
                *last = now;
                out.push(Event::Gap(Gap::Rollback { now }));
            }
            Place::Within | Place::Elsewhere => {
                *last = line.before_oldest();
                out.push(Event::Gap(Gap::Reset { now: Some(*last) }));
            }
        }
        for publication in publications {
            if let Some(position) = publication.position
                && position.offset == last.offset + 1
            {
                *last = position;
                out.push(Event::Publication(publication));
            }
        }
        if last.offset < line.top.offset {
            if *last == before {
                // The history has something else there than what it says it has: never ask for it for ever.
                *last = line.top;
                out.push(Event::Gap(Gap::Reset { now: Some(line.top) }));
            } else {
                return Next::Fetch;
            }
        }
        let (last, held) = (*last, std::mem::take(held));
        *self = Self::Following { last };
        self.replay(held, out)
    }

    fn replay(&mut self, held: Held, out: &mut Vec<Event>) -> Next {
        let mut next = if held.spilled { self.start_catching() } else { Next::Nothing };
        for publication in held.publications {
            // Once one of them makes it catch up, the others are held again, and are in the answer.
            if self.offer(publication, out) == Next::Fetch {
                next = Next::Fetch;
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use skywave_proto::Payload;

    fn at(position: &str) -> StreamPosition {
        position.parse().unwrap()
    }

    fn publication(position: Option<StreamPosition>) -> Publication {
        let payload = Payload::text(Bytes::from_static(b"x"));
        Publication { position, payload, client: None, user: None, published_at_ms: 0 }
    }

    fn numbered(epoch: &str, offsets: std::ops::RangeInclusive<u64>) -> Vec<Publication> {
        let epoch = epoch.parse().unwrap();
        offsets.map(|offset| publication(Some(StreamPosition { epoch, offset }))).collect()
    }

    fn line(top: &str, oldest: u64, boundaries: &str) -> Line {
        Line { top: at(top), oldest, boundaries: super::super::line::read_boundaries(boundaries).unwrap() }
    }

    fn words(events: Vec<Event>) -> String {
        let word = |event| match event {
            Event::Publication(publication) => {
                publication.position.map_or("live".into(), |position| position.to_string()[7..].to_owned())
            }
            Event::Gap(Gap::Reset { now }) => format!("reset({})", &now.unwrap().to_string()[7..]),
            Event::Gap(Gap::Rollback { now }) => format!("rollback({})", &now.to_string()[7..]),
            Event::Gap(Gap::Possible) => "possible".into(),
        };
        events.into_iter().map(word).collect::<Vec<_>>().join(" ")
    }

    /// A cursor at `a:5` that has seen `a:8` and asked under ticket 1.
    fn catching() -> Cursor {
        let mut cursor = Cursor::Following { last: at("aaaaaaaa:5") };
        let mut out = Vec::new();
        assert_eq!(cursor.offer(publication(Some(at("aaaaaaaa:8"))), &mut out), Next::Fetch);
        assert_eq!((cursor.ask(1), out.len()), (Some(at("aaaaaaaa:5")), 0));
        cursor
    }

    #[test]
    fn delivers_the_next_and_drops_the_old() {
        let (mut cursor, mut out) = (Cursor::Following { last: at("aaaaaaaa:5") }, Vec::new());
        for publication in numbered("aaaaaaaa", 4..=7) {
            assert_eq!(cursor.offer(publication, &mut out), Next::Nothing);
        }
        cursor.offer(publication(None), &mut out);
        assert_eq!(words(out), "a:6 a:7 live");
    }

    #[test]
    fn a_hole_is_filled_from_history_before_what_came_meanwhile() {
        let (mut cursor, mut out) = (catching(), Vec::new());
        for publication in numbered("aaaaaaaa", 8..=10) {
            assert_eq!(cursor.offer(publication, &mut out), Next::Nothing);
        }
        let next = cursor.absorb(1, &line("aaaaaaaa:9", 1, ""), numbered("aaaaaaaa", 6..=9), &mut out);
        assert_eq!((next, words(out).as_str()), (Next::Nothing, "a:6 a:7 a:8 a:9 a:10"));
        assert_eq!(cursor.standing(), Some(Some(at("aaaaaaaa:10"))));
    }

    #[test]
    fn a_long_hole_takes_several_pages() {
        let (mut cursor, mut out) = (catching(), Vec::new());
        let line = line("aaaaaaaa:9", 1, "");
        assert_eq!(cursor.absorb(1, &line, numbered("aaaaaaaa", 6..=7), &mut out), Next::Fetch);
        assert_eq!(cursor.ask(2), Some(at("aaaaaaaa:7")));
        assert_eq!(cursor.absorb(1, &line, numbered("aaaaaaaa", 8..=9), &mut out), Next::Nothing, "an old ticket");
        assert_eq!(cursor.absorb(2, &line, numbered("aaaaaaaa", 8..=9), &mut out), Next::Nothing);
        assert_eq!(words(out), "a:6 a:7 a:8 a:9");
    }

    #[test]
    fn what_history_has_lost_is_told() {
        let (mut cursor, mut out) = (catching(), Vec::new());
        cursor.absorb(1, &line("aaaaaaaa:9", 8, ""), numbered("aaaaaaaa", 8..=9), &mut out);
        assert_eq!(words(out), "reset(a:7) a:8 a:9");
    }

    #[test]
    fn another_line_is_a_reset_and_then_all_that_it_has() {
        let (mut cursor, mut out) = (catching(), Vec::new());
        assert_eq!(cursor.absorb(1, &line("bbbbbbbb:9", 1, ""), numbered("bbbbbbbb", 6..=9), &mut out), Next::Fetch);
        assert_eq!(cursor.ask(2), Some(at("bbbbbbbb:0")));
        cursor.absorb(2, &line("bbbbbbbb:9", 1, ""), numbered("bbbbbbbb", 1..=9), &mut out);
        assert_eq!(words(out), "reset(b:0) b:1 b:2 b:3 b:4 b:5 b:6 b:7 b:8 b:9");
    }

    #[test]
    fn a_boundary_is_crossed_in_silence_unless_something_was_lost() {
        let (mut cursor, mut out) = (catching(), Vec::new());
        let page = [numbered("aaaaaaaa", 6..=6), numbered("bbbbbbbb", 7..=8)].concat();
        assert_eq!(cursor.absorb(1, &line("bbbbbbbb:8", 1, "aaaaaaaa:6"), page, &mut out), Next::Nothing);
        assert_eq!(words(out), "a:6 b:7 b:8");

        let (mut cursor, mut out) = (catching(), Vec::new());
        let line = line("bbbbbbbb:6", 1, "aaaaaaaa:3");
        assert_eq!(cursor.absorb(1, &line, numbered("bbbbbbbb", 6..=6), &mut out), Next::Fetch);
        assert_eq!(cursor.ask(2), Some(at("bbbbbbbb:3")));
        assert_eq!(cursor.absorb(2, &line, numbered("bbbbbbbb", 4..=6), &mut out), Next::Nothing);
        assert_eq!(words(out), "rollback(b:3) b:4 b:5 b:6");
    }

    #[test]
    fn a_join_delivers_what_comes_after_its_position_and_nothing_else() {
        let (mut cursor, mut out) = (Cursor::joining(), Vec::new());
        for publication in numbered("aaaaaaaa", 3..=6) {
            cursor.offer(publication, &mut out);
        }
        assert_eq!((cursor.standing(), out.len()), (None, 0));
        assert_eq!(cursor.settle(Some(at("aaaaaaaa:4")), &mut out), Next::Nothing);
        assert_eq!(words(out), "a:5 a:6");
    }

    #[test]
    fn what_did_not_fit_is_fetched() {
        let (mut cursor, mut out) = (Cursor::joining(), Vec::new());
        for publication in numbered("aaaaaaaa", 1..=HELD_PUBLICATIONS as u64 + 5) {
            cursor.offer(publication, &mut out);
        }
        assert_eq!(cursor.settle(Some(at("aaaaaaaa:0")), &mut out), Next::Fetch);
        assert_eq!((cursor.ask(1), out.len()), (Some(at("aaaaaaaa:0")), 0));
    }

    #[test]
    fn a_history_that_contradicts_itself_does_not_hang_the_channel() {
        let (mut cursor, mut out) = (catching(), Vec::new());
        assert_eq!(cursor.absorb(1, &line("aaaaaaaa:9", 1, ""), Vec::new(), &mut out), Next::Nothing);
        assert_eq!(words(out), "reset(a:9)");
    }

    #[test]
    fn what_cannot_be_read_is_looked_for_in_the_history() {
        let (mut cursor, mut out) = (Cursor::Following { last: at("aaaaaaaa:4") }, Vec::new());
        assert_eq!(cursor.unreadable(&mut out), Next::Fetch);
        assert_eq!(cursor.ask(1), Some(at("aaaaaaaa:4")));
        cursor.unreadable(&mut out);
        assert_eq!(cursor.absorb(1, &line("aaaaaaaa:4", 1, ""), Vec::new(), &mut out), Next::Fetch, "one more came");
        cursor.ask(2);
        assert_eq!(cursor.absorb(2, &line("aaaaaaaa:6", 1, ""), Vec::new(), &mut out), Next::Nothing);
        assert_eq!(cursor.standing(), Some(Some(at("aaaaaaaa:6"))));
        let mut live = Cursor::Live { missed: true };
        live.unreadable(&mut out);
        live.offer(publication(None), &mut out);
        assert_eq!(words(out), "reset(a:6) possible live");
    }

    #[test]
    fn a_live_channel_says_once_that_it_was_away() {
        let (mut cursor, mut out) = (Cursor::Live { missed: true }, Vec::new());
        cursor.offer(publication(None), &mut out);
        cursor.offer(publication(None), &mut out);
        assert_eq!(words(out), "possible live live");
    }
}
