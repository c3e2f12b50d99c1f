//! How often and how much: what one connection may ask in a time, and when it has been told often enough; pure.
//!
//! Each limit is a `Bucket` of eight bytes. Nothing is read here but the settings: `now` is passed in, in nanoseconds since
//! the connection was opened.

use std::num::{NonZeroU32, NonZeroUsize};

use skywave_proto::ErrorCode;

use super::Refusal;
use crate::config::Limits;

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
/// Who was refused what would have filled so much of a limit's time does not listen.
const PATIENCE: u64 = 5 * SECOND;
/// … unless that is less often than this: of a limit that refills slowly one refusal is much.
const REFUSALS: u64 = 10;
/// What a message costs beside its bytes: the least header that a client's frame has (RFC 6455 §5.2). Empty ones are not free.
const HEADER: usize = 6;
/// Channels that a connection is not subscribed to and may come back to without naming a new one.
const NAMED: usize = 32;

/// A limit that refills evenly, and holds at most `burst`: the time at which all that was taken would have been had, had it come as
/// evenly. (GCRA, the "virtual scheduling algorithm" of ITU-T I.371, Annex A.)
#[derive(Debug, Clone, Copy, Default)]
struct Bucket(u64);

impl Bucket {
    /// Takes what lasts for so long. What is more than `burst` is taken from a full bucket, and then owed.
    ///
    /// # Errors
    /// How long until it can be had; nothing is taken.
    fn take(&mut self, cost: u64, burst: u64, now: u64) -> Result<(), u64> {
        let ahead = self.0.saturating_sub(now);
        let over = ahead.saturating_add(cost.min(burst)).saturating_sub(burst);
        if over > 0 {
            return Err(over);
        }
        self.0 = now.saturating_add(ahead).saturating_add(cost);
        Ok(())
    }
}

/// A limit as it is set: one costs this much of its time, and the bucket holds that much.
#[derive(Debug, Clone, Copy)]
struct Rate {
    cost: u64,
    burst: u64,
}

impl Rate {
    /// So many in a time; as many may come at once. Rounded so that it is never more than that.
    fn of(count: NonZeroU32, time: u64) -> Self {
        let count = u64::from(count.get());
        let cost = time.div_ceil(count);
        Self { cost, burst: cost.saturating_mul(count) }
    }

    /// So many bytes, of as many in a second.
    fn bytes(bytes: usize, limit: NonZeroUsize) -> Self {
        let cost = (bytes as u64).saturating_mul(SECOND).div_ceil(limit.get() as u64);
        Self { cost, burst: SECOND }
    }
}

/// A limit that one more would be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Its name within `limits`.
    pub(super) setting: &'static str,
    /// What it is set to.
    limit: u64,
    /// How long until one more fits, in nanoseconds.
    wait: u64,
    /// How much of the limit's time one more would have filled.
    cost: u64,
}

impl Over {
    /// Its name within `limits`.
    pub fn setting(&self) -> &'static str {
        self.setting
    }

    /// In whole milliseconds, at least one.
    fn after_ms(&self) -> u64 {
        self.wait.div_ceil(1_000_000).max(1)
    }
}

impl From<Over> for Refusal {
    fn from(over: Over) -> Self {
        let Over { setting, limit, .. } = over;
        let after_ms = over.after_ms();
        let message = format!("limits.{setting} is {limit}: wait {after_ms} ms");
        Self { after_ms, ..Self::new(ErrorCode::Limit, message) }
    }
}

/// How far one connection is ahead of what it may.
#[derive(Debug, Default)]
pub struct Rates {
    commands: Bucket,
    publications: Bucket,
    bytes: Bucket,
    channels: Bucket,
    /// What was refused, in time of the limit that it was over: it empties as fast as limits refill.
    refusals: Bucket,
    now: u64,
    /// Why all that is in the message that was heard last is refused.
    drowned: Option<Box<Over>>,
    /// The last channels that it named without being subscribed to them, as hashes. One that has the hash of another costs
    /// nothing, and nobody can look for it: the hash has a random key.
    named: Option<Box<Named>>,
}

#[derive(Debug)]
struct Named {
    hashes: [u32; NAMED],
    next: usize,
}

impl Rates {
    /// A message of so many bytes has come.
    ///
    /// # Errors
    /// [`Over`] `bytes_per_second`, and so are all commands in it.
    pub fn hear(&mut self, bytes: usize, limits: &Limits, now: u64) -> Result<(), Over> {
        self.now = now;
        self.drowned = None;
        let Some(limit) = limits.bytes_per_second else { return Ok(()) };
        let Rate { cost, burst } = Rate::bytes(bytes.saturating_add(HEADER), limit);
        let taken = self.bytes.take(cost, burst, now);
        taken.map_err(|wait| {
            let over = Over { setting: "bytes_per_second", limit: limit.get() as u64, wait, cost };
            self.drowned = Some(Box::new(over));
            over
        })
    }

    /// Something has come that is no message and costs a look all the same.
    ///
    /// # Errors
    /// [`Over`] `commands_per_second`. What the message before it was over is over.
    pub(super) fn hear_nothing(&mut self, limits: &Limits, now: u64) -> Result<(), Over> {
        self.now = now;
        self.drowned = None;
        self.command(limits)
    }

    /// It is later, and no message has come.
    pub(super) fn pass(&mut self, now: u64) {
        self.now = now;
    }

    /// A command is to be carried out.
    ///
    /// # Errors
    /// [`Over`] `commands_per_second`, or what the whole message was over. That was counted with the message, so here it costs
    /// nothing more.
    pub fn command(&mut self, limits: &Limits) -> Result<(), Over> {
        if let Some(over) = &self.drowned {
            return Err(Over { cost: 0, ..**over });
        }
        let now = self.now;
        count(&mut self.commands, "commands_per_second", limits.commands_per_second, SECOND, now)
    }

    /// The command publishes.
    ///
    /// # Errors
    /// [`Over`] `publications_per_second`.
    pub fn publication(&mut self, limits: &Limits) -> Result<(), Over> {
        let now = self.now;
        count(&mut self.publications, "publications_per_second", limits.publications_per_second, SECOND, now)
    }

    /// A channel is named that was not before.
    ///
    /// # Errors
    /// [`Over`] `new_channels_per_minute`.
    pub(super) fn channel(&mut self, limits: &Limits) -> Result<(), Over> {
        let now = self.now;
        count(&mut self.channels, "new_channels_per_minute", limits.new_channels_per_minute, MINUTE, now)
    }

    /// Whether nothing is owed any more at this moment: as if nothing had ever been asked.
    pub fn is_full_at(&self, now: u64) -> bool {
        let buckets = [self.commands, self.publications, self.bytes, self.channels, self.refusals];
        buckets.iter().all(|bucket| bucket.0 <= now)
    }

    /// A command names a channel with this hash. It is a new one unless it is one of the last [`NAMED`], or the client is
    /// subscribed to it.
    ///
    /// # Errors
    /// As [`Rates::channel`].
    pub(super) fn name(
        &mut self,
        hash: u32,
        is_subscribed: impl FnOnce() -> bool,
        limits: &Limits,
    ) -> Result<(), Over> {
        if self.named.as_ref().is_some_and(|named| named.hashes.contains(&hash)) {
            return Ok(());
        }
        if !is_subscribed() {
            self.channel(limits)?;
        }
        // Empty places are filled with this one: it is known already.
        let named = self.named.get_or_insert_with(|| Box::new(Named { hashes: [hash; NAMED], next: 0 }));
        named.hashes[named.next] = hash;
        named.next = (named.next + 1) % NAMED;
        Ok(())
    }

    /// Counts a refusal. How long to stay away if it was one too many, in milliseconds: until all of them are forgotten.
    #[must_use]
    pub(super) fn refused(&mut self, over: &Over) -> Option<u64> {
        let cost = over.cost.min(PATIENCE / REFUSALS);
        let full = self.refusals.take(cost, PATIENCE, self.now).is_err();
        full.then_some(PATIENCE / 1_000_000)
    }
}

fn count(
    bucket: &mut Bucket,
    setting: &'static str,
    limit: Option<NonZeroU32>,
    time: u64,
    now: u64,
) -> Result<(), Over> {
    let Some(limit) = limit else { return Ok(()) };
    let Rate { cost, burst } = Rate::of(limit, time);
    bucket.take(cost, burst, now).map_err(|wait| Over { setting, limit: limit.get().into(), wait, cost })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn limits(commands: u32, publications: u32, bytes: usize, channels: u32) -> Limits {
        Limits {
            commands_per_second: NonZeroU32::new(commands),
            publications_per_second: NonZeroU32::new(publications),
            bytes_per_second: NonZeroUsize::new(bytes),
            new_channels_per_minute: NonZeroU32::new(channels),
            ..Limits::default()
        }
    }

    /// How many commands are accepted of so many that come at this moment.
    fn at(rates: &mut Rates, limits: &Limits, now: u64, commands: usize) -> usize {
        rates.pass(now);
        (0..commands).filter(|_| rates.command(limits).is_ok()).count()
    }

    #[test]
    fn a_seconds_worth_at_once_and_then_as_time_passes() {
        let (mut rates, limits) = (Rates::default(), limits(200, 0, 0, 0));
        assert_eq!(at(&mut rates, &limits, 0, 1000), 200);
        assert_eq!(at(&mut rates, &limits, 4 * MS, 10), 0);
        assert_eq!(at(&mut rates, &limits, 5 * MS, 10), 1);
        assert_eq!(at(&mut rates, &limits, 1005 * MS, 1000), 200, "full again");
        assert_eq!(at(&mut rates, &limits, 90_000 * MS, 1000), 200, "and no fuller");
    }

    #[test]
    fn a_refusal_names_the_setting_and_when_one_more_fits() {
        let (mut rates, limits) = (Rates::default(), limits(200, 3, 0, 0));
        rates.pass(0);
        for _ in 0..3 {
            assert_eq!(rates.publication(&limits), Ok(()));
        }
        let over = rates.publication(&limits).unwrap_err();
        let refusal = Refusal::from(over);
        assert_eq!((refusal.code, refusal.after_ms), (ErrorCode::Limit, 334));
        assert_eq!(refusal.message, "limits.publications_per_second is 3: wait 334 ms");
        rates.pass(refusal.after_ms * MS);
        assert_eq!(rates.publication(&limits), Ok(()), "whoever waits so long is let through");
    }

    #[test]
    fn all_commands_of_a_message_that_is_too_much_are_refused_and_count_once() {
        let (mut rates, limits) = (Rates::default(), limits(0, 0, 1000, 0));
        assert_eq!(rates.hear(994, &limits, 0), Ok(()));
        assert_eq!(rates.command(&limits), Ok(()));
        let over = rates.hear(494, &limits, 100 * MS).unwrap_err();
        assert_eq!((over.setting, over.after_ms(), over.cost), ("bytes_per_second", 400, SECOND / 2));
        assert_eq!(rates.command(&limits).map_err(|over| over.cost), Err(0));
        assert_eq!(rates.hear(494, &limits, 500 * MS), Ok(()));
        assert_eq!(rates.command(&limits), Ok(()), "the next message");
    }

    #[test]
    fn what_is_no_message_counts_also_behind_one_that_was_too_much() {
        let (mut rates, limits) = (Rates::default(), limits(200, 0, 1000, 0));
        assert_eq!(rates.hear(994, &limits, 0), Ok(()));
        assert!(rates.hear(994, &limits, 0).is_err());
        let accepted = (0..1000).take_while(|_| rates.hear_nothing(&limits, 0).is_ok()).count();
        assert_eq!(accepted, 200);
        assert!(rates.hear_nothing(&limits, 0).is_err_and(|over| over.cost > 0), "and is waited for");
    }

    #[test]
    fn a_message_larger_than_a_second_is_taken_and_paid_for_afterwards() {
        let (mut rates, limits) = (Rates::default(), limits(0, 0, 1000, 0));
        assert_eq!(rates.hear(2994, &limits, 0), Ok(()));
        assert_eq!(rates.hear(0, &limits, 1999 * MS).map_err(|over| over.after_ms()), Err(7));
        assert_eq!(rates.hear(0, &limits, 2006 * MS), Ok(()));
    }

    #[test]
    fn a_channel_that_was_named_is_not_new() {
        let (mut rates, limits) = (Rates::default(), limits(0, 0, 0, 40));
        rates.pass(0);
        for hash in 0..32 {
            assert_eq!(rates.name(hash, || false, &limits), Ok(()));
        }
        assert!((0..32).all(|hash| rates.name(hash, || unreachable!("known"), &limits).is_ok()));
        assert_eq!(rates.name(99, || true, &limits), Ok(()), "subscribed to");
        assert!((0..8).all(|more| rates.name(100 + more, || false, &limits).is_ok()));
        let over = rates.name(200, || false, &limits).unwrap_err();
        assert_eq!((over.setting, over.after_ms()), ("new_channels_per_minute", 1500));
        assert!(rates.name(0, || false, &limits).is_err(), "too long ago");
        assert_eq!(rates.channel(&limits), Err(over), "subscriptions are new channels too");
    }

    #[test]
    fn who_goes_on_ten_times_too_fast_is_sent_away_and_who_waits_is_not() {
        let limits = limits(200, 0, 0, 0);
        // Returns after how many milliseconds it is sent away.
        let go_on = |every: u64| {
            let mut rates = Rates::default();
            (0..60_000 * MS).step_by(usize::try_from(every).unwrap()).find_map(|now| {
                rates.pass(now);
                let over = rates.command(&limits).err()?;
                rates.refused(&over).map(|after_ms| (now / MS, after_ms))
            })
        };
        let (when, after_ms) = go_on(SECOND / 2000).unwrap();
        assert!((600..1000).contains(&when), "{when}");
        assert_eq!(after_ms, 5000);
        assert_eq!(go_on(SECOND / 190), None, "below the limit");
        assert_eq!(go_on(SECOND / 390), None, "as often refused as not: each refusal has been waited for");
    }

    #[test]
    fn of_a_slow_limit_ten_refusals_are_heard() {
        let (mut rates, limits) = (Rates::default(), limits(1, 0, 0, 0));
        assert_eq!(at(&mut rates, &limits, 0, 1), 1);
        let over = rates.command(&limits).unwrap_err();
        assert_eq!((0..20).take_while(|_| rates.refused(&over).is_none()).count(), 10);
    }

    #[test]
    fn no_limit_is_none() {
        let (mut rates, limits) = (Rates::default(), limits(0, 0, 0, 0));
        assert_eq!(at(&mut rates, &limits, 0, 100_000), 100_000);
        assert_eq!(rates.hear(usize::MAX, &limits, 0), Ok(()));
        assert!((0..100_000).all(|_| rates.publication(&limits).is_ok() && rates.channel(&limits).is_ok()));
    }

    proptest! {
        /// Whatever comes when: between any two moments no more than the rate gives in that time, and a burst.
        #[test]
        fn never_more_than_the_rate_and_a_burst(
            rate in prop_oneof![1..50u32, Just(200), Just(299), Just(1_000_000_007), Just(u32::MAX)],
            steps in prop::collection::vec((0..2 * SECOND, 1..300usize), 1..40),
        ) {
            let (mut rates, limits) = (Rates::default(), limits(rate, 0, 0, 0));
            let (mut now, mut accepted) = (0, Vec::new());
            for (step, commands) in steps {
                now += step;
                accepted.push((now, at(&mut rates, &limits, now, commands)));
            }
            for first in 0..accepted.len() {
                let mut sum = 0u128;
                for (when, count) in &accepted[first..] {
                    sum += *count as u128;
                    let time = u128::from(when - accepted[first].0);
                    prop_assert!(sum * u128::from(SECOND) <= u128::from(rate) * (time + u128::from(SECOND)));
                }
            }
        }
    }
}
