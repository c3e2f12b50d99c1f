//! One hook that somebody waits for: deadline, tries, breaker, and what holds when there is no answer.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use skywave_proto::ErrorCode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    Hook,
    answer::{self, Answer, Decision, HookRefusal},
    breaker::{Admission, Breaker, Change},
    complaints::Complaints,
    retry::{Backoff, Verdict, verdict},
    sign::Letter,
};
use crate::{
    clock::now_ms,
    config::{DecideHook, OnFailure},
    metrics::{self, WebhookOutcome},
    outbound::{Outbound, OutboundError, Received},
};

/// Bytes of an answer; a longer one is a failure.
const ANSWER_BYTES: usize = 1 << 20;
/// What a client is told to wait at least when a hook has failed, and as much again at random.
const COME_BACK_AFTER: Duration = Duration::from_secs(1);

/// One hook and its way to the back end.
pub(super) struct Desk {
    hook: Hook,
    settings: DecideHook,
    outbound: Outbound,
    /// Locked for a look, nothing else under it.
    breaker: Mutex<Breaker>,
    /// Calls under way or waiting. Bound: twice `concurrency`, full: the call has failed.
    room: Arc<Semaphore>,
    /// Calls under way. Bound: `concurrency`, full: it waits, at most until its deadline.
    under_way: Semaphore,
    complained: Complaints,
}

/// A place in a desk's room; the call that holds it may go on.
pub(super) struct Place(#[allow(dead_code, reason = "given back when it goes")] OwnedSemaphorePermit);

/// There was no answer that can be used.
#[derive(Debug)]
pub(super) struct Failure {
    /// Without anything that came from a client or the back end.
    why: String,
    /// The receiver is not asked again before.
    after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), after: None }
    }
}

impl Desk {
    pub(super) fn new(hook: Hook, settings: &DecideHook, outbound: Outbound) -> Self {
        let concurrency = settings.concurrency as usize;
        Self {
            hook,
            settings: settings.clone(),
            outbound,
            breaker: Mutex::default(),
            room: Arc::new(Semaphore::new(2 * concurrency)),
            under_way: Semaphore::new(concurrency),
            complained: Complaints::default(),
        }
    }

    pub(super) fn settings(&self) -> &DecideHook {
        &self.settings
    }

    /// A place for one call, if there is any. Never waits.
    pub(super) fn enter(&self) -> Option<Place> {
        self.room.clone().try_acquire_owned().ok().map(Place)
    }

    /// One call, all its tries. Ends within the hook's timeout from `start`.
    ///
    /// # Errors
    /// [`Failure`]: no answer, or none that can be used.
    /// # Cancel safety
    /// Dropping the future gives the answer up, not the call; and a probe of the breaker is then missing until its deadline.
    pub(super) async fn ask<A: Answer>(&self, letter: &Letter, start: Instant) -> Result<Decision<A>, Failure> {
        let deadline = start + self.settings.timeout;
        let waited = timeout_at(deadline, self.under_way.acquire()).await;
        let _under_way = waited.map_err(|_| Failure::new("too many calls are under way"))?;
        let mut failed = 0;
        loop {
            let (failure, asked) = match self.attempt(letter, deadline).await? {
                Ok(received) => {
                    return answer::read(&received.body).map_err(|why| Failure::new(format!("its answer: {why}")));
                }
                Err(failure) => failure,
            };
            failed += 1;
            let again = Instant::now() + Backoff::DECIDE.pause(failed, asked, rand::random());
            if failed > u32::from(self.settings.retries) || again >= deadline {
                return Err(Failure { why: failure, after: asked });
            }
            metrics::webhook(self.hook.as_str(), WebhookOutcome::Retried, 1);
            sleep_until(again).await;
        }
    }

    /// One try. The outer failure is the last word; the inner one may be tried again, at the earliest as late as the receiver
    /// asked for.
    async fn attempt(
        &self,
        letter: &Letter,
        deadline: Instant,
    ) -> Result<Result<Received, (String, Option<Duration>)>, Failure> {
        let now = Instant::now();
        if now >= deadline {
            return Err(Failure::new("too many calls are under way")); // and nothing is known of the receiver
        }
        if let Admission::Refused(after) = self.breaker.lock().admit(now, deadline) {
            return Err(Failure { why: "it did not answer before".to_owned(), after: Some(after) });
        }
        let request = letter.request(&self.settings.url, self.settings.secret.as_ref(), now_ms() / 1000);
        let sent = self.outbound.send(request, deadline.saturating_duration_since(now), ANSWER_BYTES).await;
        match sent {
            Ok(received) if received.status.is_success() => {
                self.answered();
                Ok(Ok(received))
            }
            Ok(received) => match verdict(received.status, &received.headers) {
                Verdict::Unwanted => {
                    self.answered();
                    Err(Failure::new(format!("it answered {}", received.status.as_u16())))
                }
                Verdict::Later(asked) => {
                    self.failed();
                    Ok(Err((format!("it answered {}", received.status.as_u16()), asked)))
                }
            },
            Err(error @ OutboundError::TooLarge(_)) => {
                self.answered();
                Err(Failure::new(error.to_string()))
            }
            Err(error @ OutboundError::NoAnswer(_)) => {
                // One that had waited for its turn first gave the receiver little time, which says nothing about it.
                let was_short = (deadline - now) * 2 < self.settings.timeout;
                if !(was_short && Instant::now() >= deadline) {
                    self.failed();
                }
                Ok(Err((error.to_string(), None)))
            }
        }
    }

    fn answered(&self) {
        if self.breaker.lock().answered() == Change::Closed {
            info!(hook = self.hook.as_str(), receiver = %self.settings.url, "a webhook's receiver answers again");
        }
    }

    fn failed(&self) {
        let change = self.breaker.lock().failed(Instant::now());
        if change == Change::Opened {
            warn!(
                hook = self.hook.as_str(),
                receiver = %self.settings.url,
                "a webhook's receiver does not answer; its calls fail at once, and it is tried again from time to time"
            );
        }
    }

    /// What holds for a call, counted.
    pub(super) fn conclude<A>(
        &self,
        start: Instant,
        decided: Result<Decision<A>, Failure>,
        otherwise: fn() -> A,
    ) -> Decision<A> {
        let (decision, outcome) = match decided {
            Ok(decision @ Decision::Allow(_)) => (decision, WebhookOutcome::Allowed),
            Ok(decision @ Decision::Refuse(_)) => (decision, WebhookOutcome::Refused),
            Err(failure) => {
                self.complain(&failure);
                match self.settings.on_failure {
                    OnFailure::Allow => (Decision::Allow(otherwise()), WebhookOutcome::FailedAllowed),
                    OnFailure::Refuse => (Decision::Refuse(unavailable(failure.after)), WebhookOutcome::FailedRefused),
                }
            }
        };
        metrics::webhook_took(self.hook.as_str(), start.elapsed());
        metrics::webhook(self.hook.as_str(), outcome, 1);
        decision
    }

    fn complain(&self, failure: &Failure) {
        let (hook, receiver, why) = (self.hook.as_str(), &self.settings.url, &failure.why);
        debug!(hook, %receiver, why, "a webhook has failed");
        if let Some(failures) = self.complained.count(now_ms()) {
            warn!(hook, %receiver, why, failures, "webhooks have failed; this is the last of them");
        }
    }
}

/// Clients that were refused together do not come back together.
fn unavailable(after: Option<Duration>) -> HookRefusal {
    let after = after.unwrap_or_default().max(COME_BACK_AFTER) + COME_BACK_AFTER.mul_f64(rand::random());
    HookRefusal {
        code: ErrorCode::Unavailable,
        message: "the back end that decides this gave no answer: nothing was done, try again".to_owned(),
        after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_by_a_failure_comes_back_at_a_random_moment() {
        let waits: Vec<_> = (0..20).map(|_| unavailable(None).after_ms).collect();
        assert!(waits.iter().all(|wait| (1000..=2000).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
        let after = unavailable(Some(Duration::from_secs(7))).after_ms;
        assert!((7000..=8000).contains(&after), "{after}");
    }
}
