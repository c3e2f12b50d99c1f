//! A subscription's place on its channel's line of offsets. Pure.

use skywave_proto::StreamPosition;

/// What was handed over last, and whether anything newer has gone by.
#[derive(Debug, Default)]
pub(crate) struct Line {
    position: Option<StreamPosition>,
    /// The newest that went by while there was no room.
    missed: Option<StreamPosition>,
}

impl Line {
    pub(crate) fn position(&self) -> Option<StreamPosition> {
        self.position
    }

    /// Live, or what follows, begins behind this.
    pub(crate) fn begin(&mut self, position: Option<StreamPosition>) {
        *self = Self { position, missed: None };
    }

    /// Whether a publication at this place is new.
    pub(crate) fn is_new(&self, at: StreamPosition) -> bool {
        self.position.is_none_or(|last| last.epoch != at.epoch || last.offset < at.offset)
    }

    /// It was handed over.
    pub(crate) fn took(&mut self, at: StreamPosition) {
        self.position = Some(at);
    }

    /// It was not, for want of room.
    pub(crate) fn passed_by(&mut self, at: StreamPosition) {
        if self.missed.is_none_or(|missed| missed.epoch != at.epoch || missed.offset < at.offset) {
            self.missed = Some(at);
        }
    }

    /// The node's answer is that everything up to here is known.
    pub(crate) fn caught_up_to(&mut self, at: Option<StreamPosition>) {
        if let Some(at) = at.filter(|at| self.is_new(*at)) {
            self.position = Some(at);
        }
    }

    /// What passed by is given up: goes on behind it, and returns that place.
    pub(crate) fn skip(&mut self) -> Option<StreamPosition> {
        if let Some(missed) = self.missed.take().filter(|missed| self.is_new(*missed)) {
            self.position = Some(missed);
        }
        self.position
    }

    /// Whether something that passed by has still not been handed over.
    pub(crate) fn is_behind(&self) -> bool {
        self.missed.is_some_and(|missed| self.is_new(missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: &str, offset: u64) -> StreamPosition {
        StreamPosition { epoch: epoch.parse().unwrap(), offset }
    }

    #[test]
    fn what_was_handed_over_is_not_new_and_another_line_is() {
        let mut line = Line::default();
        assert!(line.is_new(at("aaaaaaaa", 1)));
        line.took(at("aaaaaaaa", 5));
        let new = [4, 5, 6].map(|offset| line.is_new(at("aaaaaaaa", offset)));
        assert_eq!(new, [false, false, true]);
        assert!(line.is_new(at("bbbbbbbb", 1)));
    }

    #[test]
    fn it_is_behind_until_the_newest_that_passed_by_is_known() {
        let mut line = Line::default();
        line.begin(Some(at("aaaaaaaa", 5)));
        line.passed_by(at("aaaaaaaa", 6));
        line.passed_by(at("aaaaaaaa", 7));
        line.passed_by(at("aaaaaaaa", 6));
        line.took(at("aaaaaaaa", 6));
        assert!(line.is_behind());
        line.caught_up_to(Some(at("aaaaaaaa", 7)));
        assert!(!line.is_behind());
        line.caught_up_to(Some(at("aaaaaaaa", 3)));
        assert_eq!(line.position(), Some(at("aaaaaaaa", 7)), "it does not go back");
    }
}
