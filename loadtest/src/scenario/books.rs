//! What one receiver got, and what the receivers of a thread share: the one place where an arrival is entered.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use super::{Entry, Plan, Progress, Samples, plan::Channel, publisher::Answers};
use crate::{
    incoming::{Incoming, Publication, lines},
    report::Sightings,
    scan::Found,
    stamp::Stamp,
    tally::{Arrival, Tally},
};

/// How the ending of a connection is entered; what else ends is a subscription, or was only announced.
pub(super) const ENDED: &str = "connection ended: ";

/// What one receiver brings home.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) tally: Tally,
    pub(super) sightings: Sightings,
    /// It does not read until it is told to: what it gets late is no delivery of the run.
    pub(super) is_stalled: bool,
    /// The last thing heard of each publisher, for those that read late.
    pub(super) last: Option<(u32, u64)>,
}

/// When each publication arrived at the last receiver of a thread: by channel, publisher and sequence. Bound: the
/// publications of the run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct LastSeen(Vec<Vec<Vec<u64>>>);

impl LastSeen {
    fn record(&mut self, channel: usize, from: u32, seq: u64, now: u64) {
        let cell = |vec: &mut Vec<Vec<u64>>| -> Option<()> {
            let (from, seq) = (from as usize, usize::try_from(seq).ok()?);
            if vec.len() <= from {
                vec.resize_with(from + 1, Vec::new);
            }
            let line = vec.get_mut(from)?;
            if line.len() <= seq {
                line.resize(seq + 1, 0);
            }
            // A thread's clock only goes on: the last arrival is the latest.
            line[seq] = now;
            Some(())
        };
        if self.0.len() <= channel {
            self.0.resize_with(channel + 1, Vec::new);
        }
        let _ = cell(&mut self.0[channel]);
    }

    /// Takes over another thread's.
    pub(super) fn merge(&mut self, other: &Self) {
        for (channel, publishers) in other.0.iter().enumerate() {
            for (from, line) in publishers.iter().enumerate() {
                for (seq, at) in line.iter().enumerate() {
                    let now = self.at(channel, from, seq).unwrap_or_default().max(*at);
                    self.record(channel, u32::try_from(from).unwrap_or(u32::MAX), seq as u64, now);
                }
            }
        }
    }

    /// When that publication arrived last; `None`: nowhere.
    pub(super) fn at(&self, channel: usize, from: usize, seq: usize) -> Option<u64> {
        self.0.get(channel)?.get(from)?.get(seq).copied().filter(|at| *at > 0)
    }
}

/// What it takes to enter what one read brought.
pub(super) struct Entering<'a> {
    pub(super) plan: &'a Plan,
    pub(super) progress: &'a Progress,
    pub(super) samples: &'a mut Samples,
    pub(super) last: &'a mut LastSeen,
    pub(super) channel: usize,
    pub(super) answers: Option<&'a Answers>,
    /// When it was read.
    pub(super) now: u64,
    /// Deliveries of the run among it.
    pub(super) fresh: u64,
}

impl Books {
    /// Enters a message: objects, one a line.
    pub(super) fn message(&mut self, text: &[u8], entering: &mut Entering<'_>) {
        if entering.plan.entry == Entry::Bare {
            // What comes back is ours: nothing else is said before somebody has introduced himself.
            entering.fresh += 1;
            return;
        }
        let Channel { scanner, .. } = &entering.plan.channels[entering.channel];
        let mut rest = text;
        while !rest.is_empty() {
            if let Some((found, next)) = scanner.scan(rest) {
                self.found(&found, entering);
                rest = &rest[next..];
            } else {
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                let (line, after) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
                match str::from_utf8(line) {
                    Ok(line) => lines(line).for_each(|line| self.line(line, entering)),
                    Err(_) => self.sightings.unreadable += 1,
                }
                rest = after;
            }
        }
    }

    /// A message that came compressed. One publication, as far as anybody can tell who does not look into it.
    pub(super) fn compressed(&mut self, bytes: usize, entering: &mut Entering<'_>) {
        self.sightings.compressed += 1;
        self.sightings.compressed_bytes += bytes as u64;
        entering.fresh += u64::from(!self.is_stalled);
    }

    /// The connection ended.
    pub(super) fn closed(&mut self, how: &str) {
        *self.sightings.endings.entry(format!("{ENDED}{how}")).or_default() += 1;
    }

    fn ended(&mut self, what: &str, why: &str) {
        *self.sightings.endings.entry(format!("{what}: {why}")).or_default() += 1;
    }

    fn found(&mut self, found: &Found<'_>, entering: &mut Entering<'_>) {
        if let Some((offset, epoch)) = found.position {
            self.sightings.positioned += 1;
            self.tally.stood_at(Some(epoch), offset);
        }
        self.ours(&found.stamp, entering);
    }

    fn ours(&mut self, stamp: &Stamp<'_>, entering: &mut Entering<'_>) {
        // Nobody has published it yet, and room is kept for every number below: one off the wire is not believed.
        if stamp.seq >= entering.progress.queued.load(Relaxed) {
            self.sightings.unreadable += 1;
            return;
        }
        match self.tally.arrived(stamp.from, stamp.seq) {
            Some(_) if self.is_stalled => self.last = Some((stamp.from, stamp.seq)),
            Some(Arrival::New | Arrival::Late) => {
                entering.samples.from_due.record(entering.now.saturating_sub(stamp.due));
                entering.samples.from_sent.record(entering.now.saturating_sub(stamp.sent));
                entering.last.record(entering.channel, stamp.from, stamp.seq, entering.now);
                entering.fresh += 1;
            }
            Some(Arrival::Doubled) => {}
            None => self.sightings.foreign += 1,
        }
    }

    /// Anything that the scanner does not know.
    pub(super) fn line(&mut self, line: &str, entering: &mut Entering<'_>) {
        match serde_json::from_str::<Incoming<'_>>(line) {
            Ok(Incoming { publication: Some(publication), .. }) => self.publication(&publication, entering),
            Ok(Incoming { gap: Some(gap), .. }) => *self.sightings.gaps.entry(gap.reason).or_default() += 1,
            Ok(Incoming { unsubscribed: Some(why), id: None, .. }) => self.ended("unsubscribed", &why.reason),
            Ok(Incoming { disconnect: Some(told), .. }) => self.ended("disconnect", &told.to_string()),
            Ok(Incoming { subscribed: Some(subscribed), id: None, .. }) if subscribed.recovered.is_some() => {
                self.sightings.recovered += u64::from(subscribed.recovered == Some(true));
                subscribed.publications.iter().for_each(|publication| self.publication(publication, entering));
            }
            Ok(incoming) => {
                if let Incoming { error: Some(error), id: None, .. } = &incoming {
                    *self.sightings.errors.entry(format!("{error} ({})", error.advice())).or_default() += 1;
                } else if let Some(answers) = entering.answers {
                    answers.hear(&incoming, entering.now, entering.progress, entering.samples);
                }
            }
            Err(_) => self.sightings.unreadable += 1,
        }
    }

    fn publication(&mut self, publication: &Publication<'_>, entering: &mut Entering<'_>) {
        if publication.channel != entering.plan.channels[entering.channel].name {
            self.sightings.strays += 1;
            return;
        }
        if let Some(offset) = publication.offset {
            self.sightings.positioned += 1;
            self.tally.stood_at(publication.epoch.map(|epoch| epoch.get()), offset);
        }
        let stamp = publication.data.and_then(|data| serde_json::from_str::<Stamp<'_>>(data.get()).ok());
        match stamp.filter(|stamp| stamp.run == entering.plan.run) {
            Some(stamp) => self.ours(&stamp, entering),
            None => self.sightings.foreign += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Orders;

    #[test]
    fn a_publication_that_nobody_has_published_is_not_believed() {
        let orders = Orders::new(Entry::Subscribed);
        let (plan, progress) = (orders.plan().unwrap(), Progress::default());
        let (mut samples, mut last) = (Samples::default(), LastSeen::default());
        let mut books = Books { tally: Tally::new(1), ..Books::default() };
        progress.queued.store(2, Relaxed);
        let mut hear = |seq: u64, last: &mut LastSeen| {
            let mut data = String::new();
            Stamp { run: &plan.run, from: 0, seq, due: 0, sent: 0 }.write(Stamp::MIN_SIZE, &mut data);
            let channel = &plan.channels[0].name;
            let line = format!(r#"{{"publication":{{"channel":"{channel}","data":{data}}}}}"#);
            let (plan, progress, samples) = (&plan, &progress, &mut samples);
            let mut entering = Entering { plan, progress, samples, last, channel: 0, answers: None, now: 1, fresh: 0 };
            books.message(line.as_bytes(), &mut entering);
            (entering.fresh, books.sightings.unreadable)
        };
        assert_eq!(hear(1, &mut last), (1, 0));
        assert_eq!((hear(2, &mut last), hear(u64::MAX, &mut last)), ((0, 1), (0, 2)));
        assert_eq!(last.0[0][0].len(), 2);
    }
}
