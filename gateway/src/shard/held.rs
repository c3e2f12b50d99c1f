//! Pushes of a channel that must wait for what comes before them.

use std::sync::Arc;

use skywave_proto::StreamPosition;

use crate::push::Prepared;

/// Bound of one [`Held`], in pushes.
const PUSHES: usize = 512;

/// Live pushes set aside while a gap before them is being filled. They are shared with everyone else on the node, so an
/// entry costs a pointer.
///
/// Bound: [`PUSHES`], and a number of bytes of payload. Full: the rest is forgotten and fetched again, for it is in the
/// history.
#[derive(Debug)]
pub(super) struct Held {
    pushes: Vec<Arc<Prepared>>,
    bytes: usize,
    bound: usize,
    overflowed: bool,
}

/// What to do once everything up to a position has been delivered.
#[derive(Debug)]
pub(super) enum Resume {
    /// Deliver these; live goes on behind them.
    With(Vec<Arc<Prepared>>),
    /// There still is something between: fetch again.
    Fetch,
}

impl Held {
    /// Holds at most `bound` bytes of payload.
    pub(super) fn new(bound: usize) -> Self {
        Self { pushes: Vec::new(), bytes: 0, bound, overflowed: false }
    }

    /// Sets a push aside.
    pub(super) fn hold(&mut self, push: &Arc<Prepared>) {
        let bytes = push.payload_bytes();
        if self.overflowed || self.pushes.len() >= PUSHES || self.bytes + bytes > self.bound {
            self.overflowed = true;
        } else {
            self.bytes += bytes;
            self.pushes.push(push.clone());
        }
    }

    /// Something was lost before it could be set aside.
    pub(super) fn lose(&mut self) {
        self.overflowed = true;
    }

    /// Whether some were forgotten.
    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// The first position that is held.
    pub(super) fn first(&self) -> Option<StreamPosition> {
        self.pushes.iter().find_map(|push| push.position())
    }

    /// Joins what was held to what has been delivered up to and including `position`.
    ///
    /// `position` is `None` on a live-only channel: there everything held follows.
    pub(super) fn resume(self, position: Option<StreamPosition>) -> Resume {
        let Some(mut at) = position else { return Resume::With(self.pushes) };
        let mut rest = Vec::new();
        for push in self.pushes {
            let Some(next) = push.position() else {
                rest.push(push);
                continue;
            };
            if next.epoch != at.epoch {
                return Resume::Fetch;
            }
            if next.offset <= at.offset {
                continue;
            }
            if next.offset != at.offset + 1 {
                return Resume::Fetch;
            }
            at = next;
            rest.push(push);
        }
        if self.overflowed { Resume::Fetch } else { Resume::With(rest) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use skywave_proto::{ChannelName, Epoch, Payload, Publication};

    use super::*;
    use crate::push::Push;

    fn held(epoch: Epoch, offsets: impl IntoIterator<Item = u64>) -> Held {
        let mut held = Held::new(1000);
        for offset in offsets {
            let publication = Publication {
                position: Some(StreamPosition { epoch, offset }),
                payload: Payload::json(Bytes::from_static(b"1")),
                client: None,
                user: None,
                published_at_ms: 0,
            };
            held.hold(&Prepared::new(Push::Publication(ChannelName::parse("a").unwrap(), publication)));
        }
        held
    }

    fn offsets(resume: Resume) -> Option<Vec<u64>> {
        match resume {
            Resume::With(pushes) => Some(pushes.iter().map(|p| p.position().unwrap().offset).collect()),
            Resume::Fetch => None,
        }
    }

    #[test]
    fn what_was_delivered_is_dropped_and_the_rest_follows() {
        let epoch = Epoch::random();
        let at = |offset| Some(StreamPosition { epoch, offset });
        assert_eq!(offsets(held(epoch, 3..=6).resume(at(4))), Some(vec![5, 6]));
        assert_eq!(offsets(held(epoch, 3..=6).resume(at(9))), Some(vec![]));
        assert_eq!(offsets(held(epoch, 3..=6).resume(at(1))), None, "2 is missing");
        assert_eq!(offsets(held(Epoch::random(), 3..=6).resume(at(2))), None, "another line of offsets");
    }

    #[test]
    fn what_did_not_fit_is_fetched_again() {
        let epoch = Epoch::random();
        let held = held(epoch, 1..=PUSHES as u64 + 1);
        assert!(held.overflowed());
        assert_eq!(offsets(held.resume(Some(StreamPosition::start(epoch)))), None);
        let mut lost = self::held(epoch, [1]);
        lost.lose();
        assert_eq!(offsets(lost.resume(Some(StreamPosition::start(epoch)))), None);
        let mut large = self::held(epoch, []);
        large.bound = 0;
        large.hold(&self::held(epoch, [1]).pushes[0]);
        assert!(large.overflowed());
    }
}
