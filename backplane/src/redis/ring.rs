//! What a node keeps itself of the channels that it follows, so that a client which comes back soon does not ask Redis.
//!
//! A copy of what was delivered last, never more than that: it is let go as soon as something was missing.

use std::{collections::VecDeque, time::Duration};

use lru::LruCache;
use skywave_proto::{ChannelName, Publication, StreamPosition};
use tokio::time::Instant;

use crate::{HistoryPage, HistoryPolicy, HistoryQuery};

/// What is kept of one channel.
const PUBLICATIONS: usize = 64;
const BYTES: usize = 64 << 10;
/// What a publication costs besides its payload.
const OVERHEAD: usize = 160;

/// The rings of many channels. Bound: so many bytes; the one that was used least recently is let go first.
pub(super) struct Rings {
    rings: LruCache<ChannelName, Ring, ahash::RandomState>,
    bytes: usize,
    bound: usize,
}

/// The last publications of one channel: of one epoch, none missing between.
struct Ring {
    recent: VecDeque<Publication>,
    bytes: usize,
    filled_at: Instant,
}

impl Rings {
    pub(super) fn new(bound: usize) -> Self {
        Self { rings: LruCache::unbounded_with_hasher(ahash::RandomState::new()), bytes: 0, bound }
    }

    /// How many bytes are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The publication has been delivered.
    pub(super) fn push(&mut self, channel: &ChannelName, publication: &Publication) {
        let (Some(position), size) = (publication.position, size(publication)) else { return };
        if size > BYTES.min(self.bound) {
            return self.forget(channel); // what comes after it would not join what was before
        }
        let empty = || Ring { recent: VecDeque::new(), bytes: 0, filled_at: Instant::now() };
        let ring = self.rings.get_or_insert_mut_ref(channel, empty);
        let before = ring.bytes;
        let last = ring.recent.back().and_then(|last| last.position);
        if last.is_some_and(|last| last.next() != position) {
            (ring.recent, ring.bytes) = (VecDeque::new(), 0);
        }
        ring.recent.push_back(publication.clone());
        ring.bytes += size;
        ring.filled_at = Instant::now();
        while ring.recent.len() > PUBLICATIONS || ring.bytes > BYTES {
            ring.bytes -= ring.recent.pop_front().as_ref().map_or(0, self::size);
        }
        self.bytes = self.bytes + ring.bytes - before;
        while self.bytes > self.bound
            && let Some((_, oldest)) = self.rings.pop_lru()
        {
            self.bytes -= oldest.bytes;
        }
    }

    /// Something was missing on the channel, or nobody is subscribed to it any more.
    pub(super) fn forget(&mut self, channel: &ChannelName) {
        if let Some(ring) = self.rings.pop(channel) {
            self.bytes -= ring.bytes;
        }
    }

    /// What comes after `query.since`, if all of it up to `last`, where the channel has been delivered up to, is here.
    pub(super) fn page(
        &mut self,
        channel: &ChannelName,
        query: &HistoryQuery,
        last: StreamPosition,
        policy: HistoryPolicy,
    ) -> Option<HistoryPage> {
        let since = query.since.filter(|since| since.epoch == last.epoch && since.offset <= last.offset)?;
        let page =
            |publications: Vec<_>, more| Some(HistoryPage { top: Some(last), publications, complete: true, more });
        let missed = last.offset - since.offset;
        if missed == 0 {
            return page(Vec::new(), false);
        }
        let ring = self.rings.get(channel).filter(|ring| ring.reaches(last, policy.ttl))?;
        let missed = usize::try_from(missed).ok().filter(|missed| *missed <= ring.recent.len())?;
        if missed > policy.size as usize || query.limit == 0 {
            return None;
        }
        let mut bytes = 0;
        let fits = |publication: &&Publication| {
            let is_first = bytes == 0;
            bytes += publication.payload.data().len().max(1);
            is_first || bytes <= query.bytes
        };
        let rest = ring.recent.range(ring.recent.len() - missed..).take(query.limit as usize);
        let publications: Vec<_> = rest.take_while(fits).cloned().collect();
        let more = publications.len() < missed;
        page(publications, more)
    }
}

impl Ring {
    /// As long as the history in Redis would live.
    fn reaches(&self, last: StreamPosition, ttl: Duration) -> bool {
        let is_last = self.recent.back().is_some_and(|publication| publication.position == Some(last));
        is_last && self.filled_at.elapsed() < ttl
    }
}

fn size(publication: &Publication) -> usize {
    let name = |name: &Option<std::sync::Arc<str>>| name.as_ref().map_or(0, |name| name.len());
    OVERHEAD + publication.payload.data().len() + name(&publication.client) + name(&publication.user)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use skywave_proto::Payload;

    use super::*;

    const POLICY: HistoryPolicy =
        HistoryPolicy { size: 100, ttl: Duration::from_secs(10), meta_ttl: Duration::from_secs(100) };

    fn at(offset: u64) -> StreamPosition {
        StreamPosition { epoch: "abcdefgh".parse().unwrap(), offset }
    }

    fn publication(position: StreamPosition, bytes: usize) -> Publication {
        let payload = Payload::text(Bytes::from(vec![b'x'; bytes]));
        Publication { position: Some(position), payload, client: None, user: None, published_at_ms: 0 }
    }

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn filled(offsets: std::ops::RangeInclusive<u64>) -> Rings {
        let mut rings = Rings::new(1 << 20);
        offsets.for_each(|offset| rings.push(&channel("a"), &publication(at(offset), 10)));
        rings
    }

    fn offsets(rings: &mut Rings, since: u64, last: u64, limit: u32, bytes: usize) -> Option<(Vec<u64>, bool)> {
        let query = HistoryQuery { since: Some(at(since)), limit, bytes, followed: true };
        let page = rings.page(&channel("a"), &query, at(last), POLICY)?;
        assert!(page.complete && page.top == Some(at(last)));
        Some((page.publications.iter().map(|publication| publication.position.unwrap().offset).collect(), page.more))
    }

    #[tokio::test(start_paused = true)]
    async fn gives_all_that_was_missed_or_nothing() {
        let mut rings = filled(5..=9);
        assert_eq!(offsets(&mut rings, 6, 9, 100, 1000), Some((vec![7, 8, 9], false)));
        assert_eq!(offsets(&mut rings, 4, 9, 100, 1000), Some((vec![5, 6, 7, 8, 9], false)));
        assert_eq!(offsets(&mut rings, 3, 9, 100, 1000), None, "4 is not here");
        assert_eq!(offsets(&mut rings, 9, 9, 100, 1000), Some((vec![], false)));
        assert_eq!(offsets(&mut rings, 10, 9, 100, 1000), None, "the client knows more than the node");
        assert_eq!(offsets(&mut rings, 6, 10, 100, 1000), None, "10 was delivered and is not here");
        assert_eq!(offsets(&mut rings, 4, 9, 2, 1000), Some((vec![5, 6], true)));
        assert_eq!(offsets(&mut rings, 4, 9, 100, 25), Some((vec![5, 6], true)));
        assert_eq!(offsets(&mut rings, 4, 9, 100, 1), Some((vec![5], true)), "one always fits");
        let other = StreamPosition { epoch: "zzzzzzzz".parse().unwrap(), offset: 6 };
        let query = HistoryQuery { since: Some(other), limit: 100, bytes: 1000, followed: true };
        assert_eq!(rings.page(&channel("a"), &query, at(9), POLICY), None, "another line");
        tokio::time::advance(POLICY.ttl).await;
        assert_eq!(offsets(&mut rings, 6, 9, 100, 1000), None, "too old");
    }

    #[test]
    fn a_hole_lets_go_of_what_was_before() {
        let mut rings = filled(5..=9);
        rings.push(&channel("a"), &publication(at(11), 10));
        assert_eq!(offsets(&mut rings, 10, 11, 100, 1000), Some((vec![11], false)));
        assert_eq!(offsets(&mut rings, 9, 11, 100, 1000), None);
        rings.push(&channel("a"), &publication(at(12), BYTES));
        assert_eq!(rings.bytes(), 0, "one that is too large is a hole too");
    }

    #[test]
    fn the_bytes_are_bounded_and_the_unused_go_first() {
        let mut rings = Rings::new(3 * (1000 + OVERHEAD));
        for name in ["a", "b", "c"] {
            rings.push(&channel(name), &publication(at(1), 1000));
        }
        let read = |rings: &mut Rings, name| {
            let query = HistoryQuery { since: Some(at(0)), limit: 10, bytes: 10_000, followed: true };
            rings.page(&channel(name), &query, at(1), POLICY).is_some()
        };
        assert!(read(&mut rings, "a"));
        rings.push(&channel("d"), &publication(at(1), 1000));
        assert_eq!(["a", "b", "c", "d"].map(|name| read(&mut rings, name)), [true, false, true, true]);
        assert_eq!(rings.bytes(), 3 * (1000 + OVERHEAD));
        rings.forget(&channel("a"));
        assert_eq!(rings.bytes(), 2 * (1000 + OVERHEAD));
        let mut one = filled(1..=1000);
        assert!(one.bytes() <= PUBLICATIONS * (10 + OVERHEAD) && offsets(&mut one, 936, 1000, 100, 9999).is_some());
    }
}
