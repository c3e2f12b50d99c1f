//! What the types of `[webhooks]` cannot say: values out of range, and settings that do not go together.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    DecideHook, EventHook, OnFailure, Secret, WebhookSettings, contradictions::Report, hook_url::HookUrl,
    schema::Document,
};

/// The fewest bytes of a secret: 16 random letters cannot be guessed.
const SECRET_BYTES: usize = 16;
/// The shortest deadline: below it a network that is well is late.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest that a client waits.
const LONGEST_DECISION: Duration = Duration::from_secs(30);
/// The longest delivery: what is queued behind it waits.
const LONGEST_DELIVERY: Duration = Duration::from_secs(60);
/// Further tries of one decision.
const MOST_RETRIES: u8 = 5;
const MOST_CALLS: u32 = 10_000;
const LONGEST_DEBOUNCE: Duration = Duration::from_secs(60);
const MOST_IN_A_BATCH: u16 = 1000;
const LONGEST_BATCH_WAIT: Duration = Duration::from_secs(10);
const GIVE_UP: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
const MOST_WAITING: u32 = 1_000_000;
/// What one event may need, its channel and user included.
const LEAST_QUEUE_BYTES: usize = 4096;

/// Reports all of them.
pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let hooks = &document.webhooks;
    for (name, hook) in hooks.deciding() {
        if let Some(hook) = hook {
            decide(name, hook, report);
            namespaces(name, &hook.namespaces, document, report);
        }
    }
    if let Some(hook) = &hooks.events {
        events(hook, report);
        namespaces("events", &hook.namespaces, document, report);
    }
    let uses_tls = hooks.urls().any(|(_, url)| url.reveal().scheme() == "https");
    if hooks.ca.is_some() && !uses_tls {
        report.add("webhooks.ca", "only TLS needs it, and no webhook's url begins with https");
    }
}

fn decide(name: &str, hook: &DecideHook, report: &mut Report<'_>) {
    let key = |field: &str| format!("webhooks.{name}.{field}");
    duration(&key("timeout"), hook.timeout, SHORTEST..=LONGEST_DECISION, report);
    number(&key("retries"), hook.retries, 0..=MOST_RETRIES, report);
    number(&key("concurrency"), hook.concurrency, 1..=MOST_CALLS, report);
    secret(&key("secret"), hook.secret.as_ref(), report);
    if name == "rpc" && hook.on_failure == OnFailure::Allow {
        report.add(&key("on_failure"), "\"allow\" has nothing to answer with here: leave it out, or write \"refuse\"");
    }
    if matches!(name, "connect" | "rpc") && !hook.namespaces.is_empty() {
        report.add(&key("namespaces"), format!("a {name} belongs to no namespace: leave it out"));
    }
}

fn events(hook: &EventHook, report: &mut Report<'_>) {
    let key = |field: &str| format!("webhooks.events.{field}");
    duration(&key("timeout"), hook.timeout, SHORTEST..=LONGEST_DELIVERY, report);
    duration(&key("debounce"), hook.debounce, Duration::ZERO..=LONGEST_DEBOUNCE, report);
    duration(&key("batch_wait"), hook.batch_wait, Duration::ZERO..=LONGEST_BATCH_WAIT, report);
    duration(&key("give_up_after"), hook.give_up_after, GIVE_UP, report);
    number(&key("batch"), hook.batch, 1..=MOST_IN_A_BATCH, report);
    number(&key("queue"), hook.queue, 1..=MOST_WAITING, report);
    number(&key("queue_bytes"), hook.queue_bytes, LEAST_QUEUE_BYTES..=isize::MAX.unsigned_abs(), report);
    secret(&key("secret"), hook.secret.as_ref(), report);
    if hook.types.is_empty() {
        report.add(&key("types"), "an empty list tells nothing: leave it out for all, or leave out webhooks.events");
    }
}

/// A misspelt one would be a hook that nobody asks.
fn namespaces(name: &str, namespaces: &[String], document: &Document, report: &mut Report<'_>) {
    for (index, namespace) in namespaces.iter().enumerate() {
        if !document.namespaces.contains_key(namespace) {
            let message = format!("there is no [namespaces.{namespace}]");
            report.add(&format!("webhooks.{name}.namespaces.{index}"), message);
        }
    }
}

fn duration(key: &str, value: Duration, range: RangeInclusive<Duration>, report: &mut Report<'_>) {
    if !range.contains(&value) {
        let [shown, least, most] = [value, *range.start(), *range.end()].map(humantime::format_duration);
        report.add(key, format!("{shown} is not one of {least} to {most}"));
    }
}

fn number<T: PartialOrd + std::fmt::Display>(key: &str, value: T, range: RangeInclusive<T>, report: &mut Report<'_>) {
    if !range.contains(&value) {
        report.add(key, format!("{value} is not one of {} to {}", range.start(), range.end()));
    }
}

fn secret(key: &str, secret: Option<&Secret>, report: &mut Report<'_>) {
    if let Some(bytes) = secret.map(|secret| secret.reveal().len()).filter(|bytes| *bytes < SECRET_BYTES) {
        let message = format!("has {bytes} bytes and needs at least {SECRET_BYTES}; `openssl rand -hex 16` makes one");
        report.add(key, message);
    }
}

impl WebhookSettings {
    fn deciding(&self) -> [(&'static str, Option<&DecideHook>); 4] {
        [
            ("connect", self.connect.as_ref()),
            ("subscribe", self.subscribe.as_ref()),
            ("publish", self.publish.as_ref()),
            ("rpc", self.rpc.as_ref()),
        ]
    }

    fn urls(&self) -> impl Iterator<Item = (&'static str, &HookUrl)> {
        let events = self.events.as_ref().map(|hook| ("events", &hook.url));
        self.deciding().into_iter().filter_map(|(name, hook)| hook.map(|hook| (name, &hook.url))).chain(events)
    }

    /// What is allowed and yet worth a line in the log.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.urls().filter(|(_, url)| url.is_readable_on_the_way()).map(|(name, url)| {
            format!("webhooks.{name}.url is {url}: what is sent there can be read on the way; use https, or a network of your own")
        })
    }
}
