//! Brings queued events to the receiver: one delivery at a time, in order, each until it is there or given up. At least
//! once: a delivery whose answer was lost is made again, with the same ids.

use std::{sync::Arc, time::Duration};

use ::metrics::Gauge;
use arc_swap::ArcSwapOption;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use ulid::Ulid;

use super::{
    Hook,
    ask::Object,
    complaints::Complaints,
    event::{Event, Sent},
    queue::{Put, Queue, Ready, Waiting},
    retry::{Backoff, Verdict, verdict},
    sign::Letter,
};
use crate::{
    clock::now_ms,
    config::EventHook,
    metrics::{self, WebhookOutcome},
    outbound::{Outbound, Received},
};

/// Bytes of an answer, of which only the status counts.
const ANSWER_BYTES: usize = 1 << 20;
/// Dead events that have a line of their own in the log when many die together; a whole delivery always has.
const NAMED_DEAD: usize = 1000;
/// At the node's end there is no time for long pauses.
const LONGEST_LAST_PAUSE: Duration = Duration::from_millis(500);

/// Takes events in without waiting, and has one task that delivers them.
pub(super) struct Post {
    node: Arc<str>,
    /// None: nobody wants events.
    route: ArcSwapOption<Route>,
    /// Locked for one look; nothing under it but the figure.
    queue: Mutex<Queue>,
    /// Something was put in.
    news: Notify,
    /// Another receiver is configured.
    rerouted: Notify,
    /// The node is at its end.
    leaving: CancellationToken,
    overflow: Complaints,
    /// Events in the queue; set while it is locked, so that the last one says how it is.
    waiting: Gauge,
}

/// Where events go.
pub(super) struct Route {
    pub(super) settings: EventHook,
    pub(super) outbound: Outbound,
}

/// How fast a receiver is tried that does not take deliveries; kept from one to the next.
#[derive(Default)]
struct Pace {
    failed: u32,
    /// What failed last, and when it may be tried again.
    rest: Option<(Arc<Route>, Instant)>,
}

impl Post {
    pub(super) fn new(node: Arc<str>, route: Option<Route>) -> Self {
        Self {
            node,
            route: ArcSwapOption::from_pointee(route),
            queue: Mutex::default(),
            news: Notify::new(),
            rerouted: Notify::new(),
            leaving: CancellationToken::new(),
            overflow: Complaints::default(),
            waiting: metrics::webhook_events_waiting(),
        }
    }

    /// What is queued goes there from now on; without a route it is dead.
    pub(super) fn replace(&self, route: Option<Route>) {
        let is_gone = route.is_none();
        self.route.store(route.map(Arc::new));
        if is_gone {
            let mut queue = self.queue.lock();
            let dead = queue.drain();
            self.waiting.set(queue.len() as f64);
            drop(queue);
            bury("webhooks.events is no longer configured", &dead);
        }
        self.news.notify_one();
        self.rerouted.notify_one();
    }

    /// Puts an event in, if it is wanted. Never waits.
    pub(super) fn put(&self, event: Event, namespace: Option<&str>) {
        let route = self.route.load();
        let Some(Route { settings, .. }) = route.as_deref() else { return };
        if !settings.types.contains(&event.kind()) || !super::covers(&settings.namespaces, namespace) {
            return;
        }
        let (kind, channel) = (event.kind(), event.channel().cloned());
        let mut queue = self.queue.lock();
        let put = queue.put(event, Instant::now(), now_ms(), settings, || Ulid::generate().to_string());
        let len = queue.len();
        self.waiting.set(len as f64);
        drop(queue);
        match put {
            // The first starts the clock, a full delivery stops it.
            Put::Queued if len == 1 || len >= usize::from(settings.batch) => self.news.notify_one(),
            Put::Queued => {}
            Put::Cancelled => metrics::webhook(Hook::EVENTS, WebhookOutcome::Debounced, 2),
            Put::Repeated => metrics::webhook(Hook::EVENTS, WebhookOutcome::Debounced, 1),
            Put::Lost => {
                metrics::webhook(Hook::EVENTS, WebhookOutcome::Dead, 1);
                let (kind, why) = (kind.as_str(), "the queue is full, or the node is at its end");
                debug!(kind, ?channel, why, "an event is dead");
                if let Some(events) = self.overflow.count(now_ms()) {
                    warn!(kind, ?channel, events, why, "events are dead; this is the last of them");
                }
            }
        }
    }

    /// Delivers until the node is at its end and the queue is empty.
    pub(super) async fn deliver(self: Arc<Self>) {
        let mut pace = Pace::default();
        while let Some(batch) = self.next().await {
            let end = self.bring(&batch, &mut pace).await;
            let mut queue = self.queue.lock();
            queue.settle();
            self.waiting.set(queue.len() as f64);
            drop(queue);
            match end {
                Ok(()) => metrics::webhook(Hook::EVENTS, WebhookOutcome::Delivered, batch.len()),
                Err(why) => bury(why, batch.iter().map(|waiting| &waiting.event)),
            }
        }
    }

    /// Waits for the next delivery; none: there will be none.
    async fn next(&self) -> Option<Vec<Waiting>> {
        loop {
            let ready = match self.route.load_full() {
                Some(route) => {
                    let (mut queue, now) = (self.queue.lock(), Instant::now());
                    match queue.ready(now, &route.settings) {
                        Ready::Now => return Some(queue.take(now, &route.settings)),
                        later => later,
                    }
                }
                None => Ready::Empty,
            };
            let is_leaving = self.leaving.is_cancelled();
            let at = match ready {
                Ready::At(at) => Some(at),
                Ready::Now | Ready::Empty if is_leaving => return None,
                Ready::Now | Ready::Empty => None,
            };
            tokio::select! {
                () = self.news.notified() => {}
                () = until(at) => {}
                () = self.leaving.cancelled(), if !is_leaving => {}
            }
        }
    }

    /// Tries until it is there.
    ///
    /// # Errors
    /// Why it was given up.
    async fn bring(&self, batch: &[Waiting], pace: &mut Pace) -> Result<(), &'static str> {
        let Some(oldest) = batch.first().map(|waiting| waiting.since) else { return Ok(()) };
        let letter = self.letter(batch);
        loop {
            let route = self.route.load_full().ok_or("webhooks.events is no longer configured")?;
            let settings = &route.settings;
            if let Some((tried, not_before)) = &pace.rest {
                let give_up = oldest + settings.give_up_after;
                if self.has_reason_before(*not_before.min(&give_up), tried).await {
                    pace.rest = None;
                    continue;
                }
                if Instant::now() >= give_up {
                    return Err("give_up_after has passed");
                }
            }
            let (start, now) = (Instant::now(), now_ms() / 1000);
            let request = letter.request(&settings.url, settings.secret.as_ref(), now);
            let sent = route.outbound.send(request, settings.timeout, ANSWER_BYTES).await;
            metrics::webhook_took(Hook::EVENTS, start.elapsed());
            let (why, asked) = match sent {
                Ok(Received { status, .. }) if status.is_success() => {
                    if std::mem::take(pace).failed > 0 {
                        info!(receiver = %settings.url, "the receiver of events takes them again");
                    }
                    return Ok(());
                }
                Ok(Received { status, .. }) if is_about_the_body(status) => {
                    *pace = Pace::default();
                    return Err("the receiver refused it for what it says");
                }
                Ok(Received { status, headers, .. }) => match verdict(status, &headers) {
                    Verdict::Later(asked) => (format!("it answered {}", status.as_u16()), asked),
                    // Somebody will put that right, and nothing shall be lost until then.
                    Verdict::Unwanted => (format!("it answered {}", status.as_u16()), None),
                },
                Err(error) => (error.to_string(), None),
            };
            pace.failed += 1;
            let mut pause = Backoff::EVENTS.pause(pace.failed, asked, rand::random());
            if self.leaving.is_cancelled() {
                pause = pause.min(LONGEST_LAST_PAUSE);
            }
            pace.rest = Some((route.clone(), Instant::now() + pause));
            metrics::webhook(Hook::EVENTS, WebhookOutcome::Retried, 1);
            if pace.failed == 1 {
                warn!(receiver = %settings.url, why, "the receiver of events does not take them; they wait");
            } else {
                debug!(receiver = %settings.url, why, failed = pace.failed, "the receiver of events does not take them");
            }
        }
    }

    /// Waits until then, or for a reason to try at once: another receiver than the one that was tried, or the node's end.
    async fn has_reason_before(&self, at: Instant, tried: &Arc<Route>) -> bool {
        let is_leaving = self.leaving.is_cancelled();
        loop {
            if self.route.load().as_ref().is_none_or(|route| !Arc::ptr_eq(route, tried)) {
                return true;
            }
            tokio::select! {
                () = sleep_until(at) => return false,
                () = self.rerouted.notified() => {} // perhaps long ago
                () = self.leaving.cancelled(), if !is_leaving => return true,
            }
        }
    }

    fn letter(&self, batch: &[Waiting]) -> Letter {
        let id = Ulid::generate().to_string();
        let events: Vec<_> = batch.iter().map(|event| Sent::new(&event.id, event.at_ms, &event.event)).collect();
        let mut body = Object::body(Hook::EVENTS, &id, &self.node);
        body.raw("events", &serde_json::to_vec(&events).unwrap_or_default()); // texts and numbers always can
        Letter { hook: Hook::EVENTS, id, body: body.end() }
    }

    /// Takes no more in and delivers what waits, without pauses for company.
    pub(super) fn leave(&self) {
        self.queue.lock().close();
        self.leaving.cancel();
    }

    /// Counts what is left as dead, the delivery under way included: nobody will hear how it ended.
    pub(super) fn bury_rest(&self) {
        let mut queue = self.queue.lock();
        let (rest, under_way) = (queue.drain(), queue.len());
        queue.settle();
        self.waiting.set(0.0);
        drop(queue);
        bury("the node has ended", &rest);
        metrics::webhook(Hook::EVENTS, WebhookOutcome::Dead, under_way);
        if under_way > 0 {
            warn!(events = under_way, "events were under way when the node ended: delivered or not");
        }
    }
}

/// At that time, or never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The same body will be refused for ever, and would hold up all others.
fn is_about_the_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY)
}

/// The dead letters: what was lost, without what was in it. A queue may hold a million.
fn bury<'a>(why: &str, events: impl IntoIterator<Item = &'a Event>) {
    let mut count = 0;
    for event in events {
        count += 1;
        if count <= NAMED_DEAD {
            warn!(kind = event.kind().as_str(), channel = ?event.channel(), why, "an event is dead");
        }
    }
    if count > NAMED_DEAD {
        warn!(events = count - NAMED_DEAD, why, "as many more events are dead");
    }
    metrics::webhook(Hook::EVENTS, WebhookOutcome::Dead, count);
}
