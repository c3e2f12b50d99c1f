//! How often and how much those may publish who have no connection: each user, and each address of whoever is nobody.
//!
//! The limits are those of a connection (`limits.commands_per_second`, `publications_per_second`, `bytes_per_second`): who
//! posts instead gains nothing.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::addresses::Block;
use crate::{
    config::Limits,
    metrics,
    session::{Rates, Refusal},
};

/// Callers that are known apart. Those beyond share what one may.
const CALLERS: usize = 10_000;
/// The known ones are not looked through more often, in nanoseconds.
const SWEEP: u64 = 1_000_000_000;

/// Whose limits these are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// A user, wherever.
    User(Arc<str>),
    /// Whoever calls from there and is nobody.
    Address(Block),
    /// All that come through a proxy that does not say for whom.
    Unknown,
}

/// See the module. The lock is held for one look, and once in a second for one at all of them.
pub(super) struct Callers {
    opened: Instant,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Bound: [`CALLERS`]. One that has not called for as long as its limits take to refill is forgotten when there is no
    /// room.
    known: HashMap<Caller, Rates, ahash::RandomState>,
    /// Of all that are not known apart.
    others: Rates,
    swept: u64,
}

impl Callers {
    /// Nobody has called.
    pub(super) fn new() -> Self {
        Self { opened: Instant::now(), table: Mutex::default() }
    }

    /// A publication in a body of so many bytes.
    ///
    /// # Errors
    /// `limit`, with the setting, and how long to wait.
    pub(super) fn admit(&self, caller: Caller, bytes: usize, limits: &Limits) -> Result<(), Refusal> {
        let now = u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.table.lock().admit(caller, bytes, limits, now)
    }
}

impl Table {
    fn admit(&mut self, caller: Caller, bytes: usize, limits: &Limits, now: u64) -> Result<(), Refusal> {
        let is_full = self.known.len() >= CALLERS && !self.known.contains_key(&caller);
        if is_full && now >= self.swept + SWEEP {
            self.swept = now;
            self.known.retain(|_, rates| !rates.is_full_at(now));
        }
        let is_full = is_full && self.known.len() >= CALLERS;
        let rates = if is_full { &mut self.others } else { self.known.entry(caller).or_default() };
        let admitted = rates
            .hear(bytes, limits, now)
            .and_then(|()| rates.command(limits))
            .and_then(|()| rates.publication(limits));
        admitted.map_err(|over| {
            metrics::limited(over.setting());
            Refusal::from(over)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use skywave_proto::ErrorCode;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn user(name: impl ToString) -> Caller {
        Caller::User(name.to_string().into())
    }

    #[test]
    fn each_has_its_own_limits() {
        let limits = Limits { publications_per_second: NonZeroU32::new(2), ..Limits::default() };
        let mut table = Table::default();
        for caller in [user("ada"), user("bob"), Caller::Address(Block::of([192, 0, 2, 1].into()))] {
            assert!(table.admit(caller.clone(), 10, &limits, 0).is_ok());
            assert!(table.admit(caller.clone(), 10, &limits, 0).is_ok());
            let refusal = table.admit(caller.clone(), 10, &limits, 0).unwrap_err();
            assert_eq!((refusal.code, refusal.after_ms), (ErrorCode::Limit, 500));
            assert!(table.admit(caller, 10, &limits, SECOND / 2).is_ok());
        }
    }

    #[test]
    fn who_makes_up_callers_gets_no_more_than_one_and_nobody_else_is_shut_out_for_long() {
        let limits = Limits { publications_per_second: NonZeroU32::new(1), ..Limits::default() };
        let mut table = Table::default();
        let admitted = (0..3 * CALLERS).filter(|n| table.admit(user(n), 10, &limits, SECOND).is_ok()).count();
        assert_eq!((admitted, table.known.len()), (CALLERS + 1, CALLERS), "the others share one");
        assert!(table.admit(user("late"), 10, &limits, SECOND).is_err());
        assert!(table.admit(user("late"), 10, &limits, 3 * SECOND).is_ok());
        assert!(table.known.len() <= 2, "who has not called is forgotten: {}", table.known.len());
    }
}
