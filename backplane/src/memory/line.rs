use std::collections::VecDeque;

use skywave_proto::{Epoch, Publication, StreamPosition};
use tokio::time::Instant;

use crate::{HistoryPage, HistoryPolicy, HistoryQuery};

/// One channel's line of offsets and its recent publications.
pub(super) struct Line {
    policy: HistoryPolicy,
    top: StreamPosition,
    recent: VecDeque<Publication>,
    recent_until: Instant,
    line_until: Instant,
}

impl Line {
    pub(super) fn begin(policy: HistoryPolicy, now: Instant) -> Self {
        Self {
            policy,
            top: StreamPosition::start(Epoch::random()),
            recent: VecDeque::new(),
            recent_until: now + policy.ttl,
            line_until: now + policy.ttl, // nothing stands on it yet, so it costs more than it is worth
        }
    }

    /// Begins again, under a new epoch.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Self::begin(self.policy, now);
    }

    /// Nobody is subscribed any more: from now on the line may grow old.
    pub(super) fn rest(&mut self, now: Instant) {
        let lifetime = if self.top.offset == 0 { self.policy.ttl } else { self.policy.meta_ttl };
        self.line_until = self.line_until.max(now + lifetime);
    }

    pub(super) fn top(&self) -> StreamPosition {
        self.top
    }

    /// Lets go of what is too old; true if the line itself is.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        if self.recent_until <= now {
            self.recent = VecDeque::new();
        }
        self.line_until <= now
    }

    /// Gives the publication its place, and keeps it.
    pub(super) fn append(&mut self, new: Publication, policy: HistoryPolicy, now: Instant) -> Publication {
        self.expire(now);
        self.policy = policy;
        self.top = self.top.next();
        let publication = Publication { position: Some(self.top), ..new };
        while self.recent.len() >= policy.size.max(1) as usize {
            self.recent.pop_front();
        }
        self.recent.push_back(publication.clone());
        self.recent_until = now + policy.ttl;
        self.line_until = now + policy.meta_ttl.max(policy.ttl);
        publication
    }

    /// See [`crate::Backplane::history`].
    pub(super) fn page(&self, query: HistoryQuery) -> HistoryPage {
        let oldest = self.recent.front().and_then(|p| p.position).map_or(self.top.offset + 1, |p| p.offset);
        let (skip, complete) = match query.since {
            Some(since) if since.epoch == self.top.epoch && since.offset <= self.top.offset => {
                ((since.offset + 1).saturating_sub(oldest), since.offset + 1 >= oldest)
            }
            Some(_) => (0, false),
            None => ((self.recent.len() as u64).saturating_sub(u64::from(query.limit)), true),
        };
        let mut publications = Vec::new();
        let mut bytes = 0;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        for publication in self.recent.iter().skip(skip).take(query.limit as usize) {
            bytes += publication.payload.data().len();
            if bytes > query.bytes && !publications.is_empty() {
                break;
            }
            publications.push(publication.clone());
        }
        let more = skip.saturating_add(publications.len()) < self.recent.len();
        HistoryPage { top: Some(self.top), publications, complete, more }
    }
}
