//! What Redis says of a channel's line of offsets, and where a position stands in it.

use skywave_proto::{Epoch, StreamPosition};

use crate::{HistoryPage, HistoryQuery};

/// A channel's line of offsets as it was at one moment.
///
/// A line keeps its offsets but changes its epoch when the master is another one, or another run of it, than at the last
/// publication. Where that happened is a boundary, and up to it the older epoch still is this line: whoever stands
/// there has missed nothing that was lost. Whoever stands behind it has seen what this master never had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Its last position.
    pub(super) top: StreamPosition,
    /// The offset of the oldest publication that is kept; `top.offset + 1` if none is.
    pub(super) oldest: u64,
    /// Epochs that it had before, each with its last offset; newest first.
    pub(super) boundaries: Vec<StreamPosition>,
}

/// Where a position stands in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In it: go on behind it.
    Within,
    /// Behind what the line has kept of that epoch: what was seen after this position is lost.
    Beyond(StreamPosition),
    /// In another line.
    Elsewhere,
}

impl Line {
    pub(super) fn place(&self, position: StreamPosition) -> Place {
        let last = if position.epoch == self.top.epoch {
            self.top.offset
        } else {
            match self.boundaries.iter().find(|boundary| boundary.epoch == position.epoch) {
                Some(boundary) => boundary.offset,
                None => return Place::Elsewhere,
            }
        };
        if position.offset <= last {
            Place::Within
        } else {
            Place::Beyond(StreamPosition { epoch: self.top.epoch, offset: last })
        }
    }

    /// The position right before the oldest publication that is kept.
    pub(super) fn before_oldest(&self) -> StreamPosition {
        StreamPosition { epoch: self.top.epoch, offset: self.oldest - 1 }
    }

    /// From which offset a page is read, and whether it begins right after `since`.
    pub(super) fn page_start(&self, query: &HistoryQuery) -> (u64, bool) {
        match query.since {
            None => (self.oldest.max((self.top.offset + 1).saturating_sub(u64::from(query.limit))), true),
            Some(since) if self.place(since) == Place::Within => {
                (self.oldest.max(since.offset + 1), since.offset + 1 >= self.oldest)
            }
            Some(_) => (self.oldest, false),
        }
    }

    /// The page that starts at `start` and holds `publications`.
    pub(super) fn page(
        &self,
        start: u64,
        complete: bool,
        publications: Vec<skywave_proto::Publication>,
    ) -> HistoryPage {
        let more = start + publications.len() as u64 <= self.top.offset;
        HistoryPage { top: Some(self.top), publications, complete, more }
    }
}

/// Reads the `b` field: `epoch:offset`, separated by commas.
pub(super) fn read_boundaries(field: &str) -> Option<Vec<StreamPosition>> {
    field.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

/// Reads the `e` and `o` fields.
pub(super) fn read_position(epoch: &[u8], offset: &[u8]) -> Option<StreamPosition> {
    let epoch = Epoch::from_bytes(epoch).ok()?;
    Some(StreamPosition { epoch, offset: std::str::from_utf8(offset).ok()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: &str) -> StreamPosition {
        position.parse().unwrap()
    }

    fn line() -> Line {
        Line { top: at("cccccccc:30"), oldest: 11, boundaries: read_boundaries("bbbbbbbb:20,aaaaaaaa:10").unwrap() }
    }

    #[test]
    fn an_older_epoch_holds_up_to_its_boundary() {
        for (position, place) in [
            ("cccccccc:30", Place::Within),
            ("cccccccc:31", Place::Beyond(at("cccccccc:30"))),
            ("bbbbbbbb:20", Place::Within),
            ("bbbbbbbb:21", Place::Beyond(at("cccccccc:20"))),
            ("aaaaaaaa:0", Place::Within),
            ("aaaaaaaa:11", Place::Beyond(at("cccccccc:10"))),
            ("dddddddd:1", Place::Elsewhere),
        ] {
            assert_eq!(line().place(at(position)), place, "{position}");
        }
    }

    #[test]
    fn a_page_starts_after_the_position_or_at_the_oldest() {
        let start = |since: Option<&str>, limit| {
            line().page_start(&HistoryQuery { since: since.map(at), limit, bytes: usize::MAX, followed: false })
        };
        assert_eq!(start(Some("bbbbbbbb:15"), 5), (16, true));
        assert_eq!(start(Some("aaaaaaaa:10"), 5), (11, true));
        assert_eq!(start(Some("aaaaaaaa:9"), 5), (11, false));
        assert_eq!(start(Some("aaaaaaaa:11"), 5), (11, false), "beyond its boundary");
        assert_eq!(start(Some("cccccccc:30"), 5), (31, true));
        assert_eq!(start(None, 5), (26, true));
        assert_eq!(start(None, 500), (11, true));
        assert_eq!(start(None, 0), (31, true));
    }

    #[test]
    fn fields_read_back_or_are_refused() {
        assert_eq!(read_boundaries(""), Some(Vec::new()));
        assert_eq!(read_boundaries("aaaaaaaa:1,b"), None);
        assert_eq!(read_position(b"aaaaaaaa", b"7"), Some(at("aaaaaaaa:7")));
        assert_eq!(read_position(b"aaaaaaaa", b"-7"), None);
    }
}
