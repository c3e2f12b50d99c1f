//! Several calls in one.

use std::time::Duration;

use skywave_proto::ErrorCode;
use tokio::time::Instant;

use super::{Answer, Call, Internal, Refusal, run};
use crate::admin::guard::Caller;

/// Calls in one batch.
pub(in crate::admin) const COMMANDS: usize = 100;
/// Once the answers have so many bytes, what is left of a batch is refused.
const ANSWER_BYTES: usize = 4 << 20;
/// After so long no further call of a batch is begun. One that has begun goes on: what becomes of it is known.
const BATCH_WITHIN: Duration = Duration::from_secs(10);

/// What is left for the calls of a batch.
struct Room {
    bytes: usize,
    until: Instant,
}

impl Room {
    fn is_left(&self, now: Instant) -> Result<(), Refusal> {
        if self.bytes > ANSWER_BYTES {
            let message = "the answers before this one fill the batch: nothing was done, ask in another one";
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        if now >= self.until {
            let message =
                format!("the calls before this one took {BATCH_WITHIN:?}: nothing was done, ask in another batch");
            return Err(Refusal::new(ErrorCode::Unavailable, message));
        }
        Ok(())
    }
}

/// Whether a batch may have so many calls.
pub(super) fn check_count(count: usize) -> Result<(), Refusal> {
    if count <= COMMANDS {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::TooLarge, format!("a batch has at most {COMMANDS} commands")))
}

/// One call after the other, whatever becomes of the ones before. One result for each, in their order. A call that is an
/// error already, because it cannot be read or the caller may not, stands in its place as one. `encode` makes a result of
/// what came of a call, and says how many bytes it has.
pub(super) async fn batch<T>(
    internal: &Internal,
    caller: &Caller,
    calls: Vec<Result<Call, Refusal>>,
    encode: impl Fn(Result<Answer, Refusal>) -> (T, usize),
) -> Vec<T> {
    let mut results = Vec::with_capacity(calls.len());
    let mut room = Room { bytes: 0, until: Instant::now() + BATCH_WITHIN };
    for call in calls {
        let outcome = match call.and_then(|call| room.is_left(Instant::now()).map(|()| call)) {
            Ok(call) => run(internal, caller, call).await,
            Err(refusal) => Err(refusal),
        };
        let (result, bytes) = encode(outcome);
        room.bytes += bytes;
        results.push(result);
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_a_bound_in_bytes_and_in_time() {
        let until = Instant::now();
        let before = until.checked_sub(Duration::from_millis(1)).unwrap();
        let code = |bytes, now| Room { bytes, until }.is_left(now).map_err(|refusal| refusal.code);
        assert_eq!(code(ANSWER_BYTES, before), Ok(()));
        assert_eq!(code(0, until), Err(ErrorCode::Unavailable));
        assert_eq!(code(ANSWER_BYTES + 1, before), Err(ErrorCode::TooLarge));
    }
}
