//! Users' comings and goings, told by exactly one node.
//!
//! The script that makes a transition puts it into a set of the incarnation that it acts for. Whoever called it reads the
//! set in the same pipeline, tells the sink, and takes out of the set what was told. So an answer that was lost is read
//! with the next one, and what a dead node has not told is found by whoever buries it. Only a node that dies between the
//! sink and the set lets another tell the same transition again, with the same position.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use redis::{Pipeline, RedisResult, Value};
use skywave_proto::ChannelName;

use super::entry;
use crate::{
    Sink, Transition, TransitionKind, Unreadable,
    redis::{
        keys::Keys,
        link::{Link, PIPELINE},
        masters::Masters,
    },
};

/// Which set: a partition's, of an incarnation.
type Of = (usize, Arc<str>);
/// Told, and not yet known to be out of its set. Bound: what the last read of each brought.
type Unconfirmed = BTreeMap<Of, HashSet<Vec<u8>>>;

/// Reads the sets of the incarnations that one task acts for; no other task reads them meanwhile.
pub(in crate::redis) struct Transitions {
    sink: Arc<dyn Sink>,
    unconfirmed: Mutex<Unconfirmed>,
}

impl Transitions {
    pub(in crate::redis) fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink, unconfirmed: Mutex::default() }
    }

    /// Asks for those of an incarnation in a partition, behind whatever makes some. The answer is for [`Self::take_in`].
    pub(in crate::redis) fn ask(pipeline: &mut Pipeline, keys: &Keys, partition: usize, incarnation: &str) {
        pipeline.cmd("SMEMBERS").arg(keys.transitions(partition, incarnation));
    }

    /// Tells those that were not told yet, a channel's in their order.
    pub(in crate::redis) fn take_in(&self, partition: usize, incarnation: &Arc<str>, answer: Value) -> RedisResult<()> {
        let records: Vec<Vec<u8>> = redis::from_redis_value(answer.extract_error()?)?;
        if records.is_empty() {
            return Ok(());
        }
        let mut unconfirmed = self.unconfirmed.lock();
        // What is not in the set any more does not come again.
        let told = unconfirmed.entry((partition, incarnation.clone())).or_default();
        let (known, new) = records.into_iter().partition(|record| told.contains(record));
        *told = known;
        told.extend(new.iter().cloned());
        drop(unconfirmed);
        let mut transitions: Vec<_> = new.iter().filter_map(|record| read(record)).collect();
        transitions
            .sort_by_key(|(_, transition)| (transition.at_ms, transition.position.map(|position| position.offset)));
        for (channel, transition) in transitions {
            self.sink.transition(&channel, transition);
        }
        Ok(())
    }

    /// Nothing that was told still stands in a set.
    pub(in crate::redis) fn is_clean(&self) -> bool {
        self.unconfirmed.lock().is_empty()
    }

    /// Takes what was told out of the sets. Taking it out twice is no harm.
    pub(in crate::redis) async fn confirm(&self, masters: &Masters) -> RedisResult<()> {
        let unconfirmed: Vec<_> = self.unconfirmed.lock().iter().map(|(of, told)| (of.clone(), told.clone())).collect();
        for some in unconfirmed.chunks(PIPELINE) {
            let mut by_master: Vec<(Arc<Link>, Pipeline, Vec<Of>)> = Vec::new();
            for (of, told) in some {
                let link = masters.link_of(of.0).ok_or((redis::ErrorKind::Io, "a master is away"))?;
                let known = by_master.iter().position(|(known, ..)| Arc::ptr_eq(known, &link));
                let place = known.unwrap_or_else(|| {
                    by_master.push((link, redis::pipe(), Vec::new()));
                    by_master.len() - 1
                });
                let (_, pipeline, confirmed) = &mut by_master[place];
                pipeline.cmd("SREM").arg(masters.keys.transitions(of.0, &of.1)).arg(told);
                confirmed.push(of.clone());
            }
            for (link, pipeline, confirmed) in by_master {
                for (of, answer) in confirmed.into_iter().zip(link.ask(&pipeline).await?) {
                    answer.extract_error()?;
                    self.unconfirmed.lock().remove(&of);
                }
            }
        }
        Ok(())
    }
}

/// As `transition` of `scripts/members.lua` writes it.
fn read(record: &[u8]) -> Option<(ChannelName, Transition)> {
    let read = || {
        let line = record.iter().position(|byte| *byte == b'\n')?;
        let mut words = std::str::from_utf8(&record[..line]).ok()?.splitn(4, ' ');
        let (kind, of_channel) = match words.next()? {
            "J0" => (TransitionKind::Joined, false),
            "J1" => (TransitionKind::Joined, true),
            "L0" => (TransitionKind::Left, false),
            "L1" => (TransitionKind::Left, true),
            _ => return None,
        };
        let (at_ms, position) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let channel = ChannelName::parse(words.next()?).ok()?;
        let member = entry::read_member(&record[line + 1..])?;
        Some((channel, Transition { member, kind, of_channel, position: Some(position), at_ms }))
    };
    let transition = read();
    if transition.is_none() {
        Unreadable::Presence.tell(&"a set of transitions", &"not a transition");
    }
    transition
}

#[cfg(test)]
mod tests {
    use skywave_proto::Member;

    use super::*;

    #[test]
    fn reads_what_the_scripts_put_together() {
        let ada = Member { client: "c\n1".into(), user: Some("ada".into()), info: None };
        let record = [&b"L1 1700000000000 abcdefgh:7 chat: a room\n"[..], &entry::member(&ada)].concat();
        let position = Some("abcdefgh:7".parse().unwrap());
        let expected = Transition {
            member: ada,
            kind: TransitionKind::Left,
            of_channel: true,
            position,
            at_ms: 1_700_000_000_000,
        };
        assert_eq!(read(&record), Some((ChannelName::parse("chat: a room").unwrap(), expected)));
        for bad in
            ["", "L1", "L1 1 abcdefgh:7 chat", "L2 1 abcdefgh:7 chat\n", "J0 x abcdefgh:7 chat\n", "J0 1 a:7 chat\n"]
        {
            assert_eq!(read(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
