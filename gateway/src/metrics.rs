//! Every metric: name, unit, help. Labels come from small closed sets, never a channel or a client.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    num::NonZeroU32,
    time::Duration,
};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use skywave_backplane::{PublishError, Published};
use skywave_proto::{CloseCode, Publication};

use crate::config::SlowConsumer;

const CONNECTIONS: &str = "skywave_connections";
const OPENED: &str = "skywave_connections_opened_total";
const CLOSED: &str = "skywave_connections_closed_total";
const SUBSCRIPTIONS: &str = "skywave_subscriptions";
const CHANNELS: &str = "skywave_channels";
const PUBLICATIONS: &str = "skywave_publications_total";
const DELIVERIES: &str = "skywave_deliveries_total";
const PUBLISH_DURATION: &str = "skywave_publish_duration_seconds";
const PING_ROUND_TRIP: &str = "skywave_ping_round_trip_seconds";
const DELIVERY_LAG: &str = "skywave_delivery_lag_seconds";
const OUTBOX_BYTES: &str = "skywave_outbox_bytes";
const SLOW_CONSUMERS: &str = "skywave_slow_consumers_total";
const RECOVERIES: &str = "skywave_recoveries_total";
const BACKPLANE_STATE: &str = "skywave_backplane_state";
const REFUSED: &str = "skywave_handshakes_refused_total";
const LIMITED: &str = "skywave_limited_total";
const MEMORY_USED: &str = "skywave_memory_used_ratio";
const SHARD_LAG: &str = "skywave_shard_lag_seconds";
const DRAINING: &str = "skywave_draining";
const DRAIN_REMAINING: &str = "skywave_drain_remaining";
const DRAIN_CUT: &str = "skywave_drain_cut_total";
const NODES: &str = "skywave_nodes";
const SIGNALS_DROPPED: &str = "skywave_signals_dropped_total";
const WEBHOOKS: &str = "skywave_webhooks_total";
const WEBHOOK_DURATION: &str = "skywave_webhook_duration_seconds";
const WEBHOOK_EVENTS: &str = "skywave_webhook_events_waiting";
const TOKENS_REFUSED: &str = "skywave_tokens_refused_total";
const PEER_REQUESTS: &str = "skywave_peer_requests_total";
const PEER_RECEIVERS: &str = "skywave_peer_receivers";
const BUILD_INFO: &str = "skywave_build_info";
const CONFIG_INFO: &str = "skywave_config_info";
const CONFIG_RELOADS: &str = "skywave_config_reloads_total";
const CONNECTIONS_LIMIT: &str = "skywave_connections_limit";
const CERTIFICATE_EXPIRY: &str = "skywave_certificate_expiry_timestamp_seconds";

/// From 100 us (a publication within one node) to 10 s (a backplane that was away).
const SECONDS: [f64; 13] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 2.5, 10.0];

/// Where a publication came from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A client's connection.
    Client,
    /// The server API.
    Api,
}

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Api => "api",
        }
    }
}

/// Makes the process record metrics and says how to read them. Once for a process.
///
/// # Errors
/// If another recorder has been installed.
pub fn install(node: &str) -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .add_global_label("node", node)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .install_recorder()?;
    describe();
    skywave_backplane::describe_metrics();
    metrics_process::Collector::default().describe();
    Ok(handle)
}

/// The figures of the process itself, `process_…`, as they are now. Blocks: it reads files of the kernel.
pub(crate) fn collect_process() {
    metrics_process::Collector::default().collect();
}

fn describe() {
    describe_gauge!(CONNECTIONS, Unit::Count, "Connections that are open now, polls that wait among them");
    describe_counter!(OPENED, Unit::Count, "Connections that have been opened");
    describe_counter!(CLOSED, Unit::Count, "Connections that have ended, by the close code's word");
    describe_gauge!(SUBSCRIPTIONS, Unit::Count, "Subscriptions of the clients of this node");
    describe_gauge!(CHANNELS, Unit::Count, "Channels with a subscriber, counted once on each shard");
    describe_counter!(PUBLICATIONS, Unit::Count, "Publications that the backplane accepted from this node");
    describe_counter!(DELIVERIES, Unit::Count, "Publications handed to connections of this node");
    describe_histogram!(PUBLISH_DURATION, Unit::Seconds, "From taking a publication in to the backplane's answer");
    describe_histogram!(
        DELIVERY_LAG,
        Unit::Seconds,
        "From taking a publication in, on whatever node, to handing it to the connections of a shard of this one"
    );
    describe_histogram!(PING_ROUND_TRIP, Unit::Seconds, "From a ping to the client's pong");
    describe_gauge!(OUTBOX_BYTES, Unit::Bytes, "What waits for clients whose sockets take nothing now");
    describe_counter!(SLOW_CONSUMERS, Unit::Count, "Clients that did not read fast enough, by what was done");
    describe_counter!(RECOVERIES, Unit::Count, "Subscriptions that came back with a position, by outcome");
    describe_counter!(REFUSED, Unit::Count, "Handshakes that were refused, by reason");
    describe_counter!(LIMITED, Unit::Count, "What connections asked beyond a limit and were refused, by limit");
    describe_gauge!(MEMORY_USED, "What the node uses of the memory that it may use: 1 is all");
    describe_gauge!(SHARD_LAG, Unit::Seconds, "How late the latest shard is with what it is asked to do");
    describe_gauge!(DRAINING, Unit::Count, "1 while the node leaves, else 0");
    describe_gauge!(
        DRAIN_REMAINING,
        Unit::Count,
        "Connections that still have to go: all in a drain, the chosen in a shedding"
    );
    describe_counter!(DRAIN_CUT, Unit::Count, "Connections that were still there at drain.deadline and were cut");
    describe_gauge!(NODES, Unit::Count, "Nodes that are alive, as this one sees them");
    describe_counter!(SIGNALS_DROPPED, Unit::Count, "What nodes said to each other and found no room, by direction");
    describe_gauge!(CONFIG_INFO, Unit::Count, "1 for the version of the settings in force, 0 for those before");
    describe_counter!(CONFIG_RELOADS, Unit::Count, "Settings that were loaded again, by outcome");
    describe_gauge!(CONNECTIONS_LIMIT, Unit::Count, "limits.connections, 0 for none");
    describe_gauge!(
        CERTIFICATE_EXPIRY,
        Unit::Seconds,
        "When the certificate in use ends, in seconds since 1970; nothing without TLS"
    );
    describe_counter!(
        WEBHOOKS,
        Unit::Count,
        "Calls of webhooks by outcome; of the hook events: events, but for retried, which is calls everywhere"
    );
    describe_histogram!(WEBHOOK_DURATION, Unit::Seconds, "Calls of webhooks, with all their tries; of events each try");
    describe_gauge!(WEBHOOK_EVENTS, Unit::Count, "Events that wait for their receiver");
    describe_counter!(TOKENS_REFUSED, Unit::Count, "Tokens that were not believed, by reason");
    describe_counter!(
        PEER_REQUESTS,
        Unit::Count,
        "Requests of sessions that another node has, by outcome; refused: others that asked this one and are no nodes"
    );
    describe_gauge!(PEER_RECEIVERS, Unit::Count, "Receivers of this node's sessions that are attached on other nodes");
    describe_gauge!(BUILD_INFO, Unit::Count, "Always 1; the version is its label");

    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    counter!(OPENED).absolute(0);
    gauge!(PEER_RECEIVERS).set(0.0);
    for outcome in PeerOutcome::ALL {
        counter!(PEER_REQUESTS, "outcome" => outcome.as_str()).absolute(0);
    }
    gauge!(DRAINING).set(0.0);
    gauge!(DRAIN_REMAINING).set(0.0);
    counter!(DRAIN_CUT).absolute(0);
    for code in CloseCode::ALL {
        counter!(CLOSED, "reason" => code.reason()).absolute(0);
    }
    for reason in ["abnormal", "none"] {
        counter!(CLOSED, "reason" => reason).absolute(0);
    }
    for outcome in ["recovered", "not_recovered"] {
        counter!(RECOVERIES, "outcome" => outcome).absolute(0);
    }
    for policy in SlowConsumer::ALL {
        counter!(SLOW_CONSUMERS, "policy" => policy.as_str()).absolute(0);
    }
    for outcome in ["applied", "unchanged", "refused"] {
        counter!(CONFIG_RELOADS, "outcome" => outcome).absolute(0);
    }
    for reason in TOKEN_REASONS {
        counter!(TOKENS_REFUSED, "reason" => reason).absolute(0);
    }
    for reason in REFUSAL_REASONS {
        counter!(REFUSED, "reason" => reason).absolute(0);
    }
    for limit in LIMITS {
        counter!(LIMITED, "limit" => limit).absolute(0);
    }
    for direction in ["in", "out"] {
        counter!(SIGNALS_DROPPED, "direction" => direction).absolute(0);
    }
}

/// What came of a request between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerOutcome {
    /// It was carried out.
    Done,
    /// The owner does not know the session.
    Unknown,
    /// Too much is under way.
    Full,
    /// The owner, or the backplane, is away.
    Unavailable,
    /// The owner did not answer.
    UnknownOutcome,
    /// Whoever asked is no node.
    Refused,
}

impl PeerOutcome {
    const ALL: [Self; 6] =
        [Self::Done, Self::Unknown, Self::Full, Self::Unavailable, Self::UnknownOutcome, Self::Refused];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unknown => "unknown",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Refused => "refused",
        }
    }
}

/// A request between nodes has ended so.
pub(crate) fn peer_request(outcome: PeerOutcome) {
    counter!(PEER_REQUESTS, "outcome" => outcome.as_str()).increment(1);
}

/// So many receivers of this node's sessions are attached on other nodes.
#[allow(clippy::cast_precision_loss, reason = "fewer receivers than a double has whole numbers")]
pub(crate) fn peer_receivers(receivers: usize) {
    gauge!(PEER_RECEIVERS).set(receivers as f64);
}

/// How a call of a webhook, or an event, has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// The back end said yes.
    Allowed,
    /// The back end said no.
    Refused,
    /// It said nothing of use, and that is a yes.
    FailedAllowed,
    /// It said nothing of use, and that is a no.
    FailedRefused,
    /// The event has reached it.
    Delivered,
    /// A try failed and is made again.
    Retried,
    /// The event and its opposite took each other away, or it was there already.
    Debounced,
    /// The event is lost.
    Dead,
}

impl WebhookOutcome {
    const OF_DECISIONS: [Self; 5] =
        [Self::Allowed, Self::Refused, Self::FailedAllowed, Self::FailedRefused, Self::Retried];
    const OF_EVENTS: [Self; 4] = [Self::Delivered, Self::Retried, Self::Debounced, Self::Dead];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::FailedAllowed => "failed_allowed",
            Self::FailedRefused => "failed_refused",
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::Debounced => "debounced",
            Self::Dead => "dead",
        }
    }
}

/// Opens the counters of webhooks at 0: those of hooks that decide, and of the one that is told.
pub(crate) fn describe_webhooks(deciding: &[&'static str], told: &'static str) {
    let decisions = deciding.iter().flat_map(|hook| WebhookOutcome::OF_DECISIONS.map(|outcome| (*hook, outcome)));
    for (hook, outcome) in decisions.chain(WebhookOutcome::OF_EVENTS.map(|outcome| (told, outcome))) {
        webhook(hook, outcome, 0);
    }
    webhook_events_waiting().set(0.0);
}

/// So many calls, or events, of a webhook have ended so.
pub(crate) fn webhook(hook: &'static str, outcome: WebhookOutcome, count: usize) {
    counter!(WEBHOOKS, "hook" => hook, "outcome" => outcome.as_str()).increment(count as u64);
}

/// A call of a webhook has ended.
pub(crate) fn webhook_took(hook: &'static str, took: Duration) {
    histogram!(WEBHOOK_DURATION, "hook" => hook).record(took);
}

/// How many events wait for their receiver.
pub(crate) fn webhook_events_waiting() -> Gauge {
    gauge!(WEBHOOK_EVENTS)
}

/// Opens the namespace's counters at 0, so that the first event is not missed.
pub fn describe_namespace(namespace: &str) {
    counter!(DELIVERIES, "namespace" => namespace.to_owned()).absolute(0);
    for source in [Source::Client, Source::Api] {
        counter!(PUBLICATIONS, "namespace" => namespace.to_owned(), "source" => source.as_str()).absolute(0);
    }
}

/// These settings are in force from now on, and those from `before` no longer.
pub fn settings_version(before: Option<&str>, now: &str) {
    if let Some(before) = before {
        gauge!(CONFIG_INFO, "version" => before.to_owned()).set(0.0);
    }
    gauge!(CONFIG_INFO, "version" => now.to_owned()).set(1.0);
}

/// So many connections are allowed on the node from now on.
pub(crate) fn connections_limit(limit: Option<NonZeroU32>) {
    gauge!(CONNECTIONS_LIMIT).set(limit.map_or(0.0, |limit| f64::from(limit.get())));
}

/// The certificate of a listener, `public` or `internal`, ends then, in seconds since 1970.
#[allow(clippy::cast_precision_loss, reason = "a year has fewer seconds than a double has whole numbers")]
pub(crate) fn certificate_expiry(listener: &'static str, at: i64) {
    gauge!(CERTIFICATE_EXPIRY, "listener" => listener).set(at as f64);
}

/// Settings were loaded again.
pub fn reloaded(outcome: &'static str) {
    counter!(CONFIG_RELOADS, "outcome" => outcome).increment(1);
}

/// A handshake was refused.
pub fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// The values of the label `reason` of refused handshakes.
const REFUSAL_REASONS: [&str; 9] = [
    "channel",
    "connections",
    "connections_per_ip",
    "draining",
    "handshakes",
    "not_ready",
    "origin",
    "overloaded",
    "rights",
];

/// The values of the label `reason` of refused tokens.
pub const TOKEN_REASONS: [&str; 12] = [
    "malformed",
    "algorithm",
    "unknown_key",
    "signature",
    "expired",
    "not_yet_valid",
    "issuer",
    "audience",
    "claims",
    "revoked",
    "too_large",
    "keys_unavailable",
];

/// A token was not believed; `reason` is one of [`TOKEN_REASONS`].
pub fn token_refused(reason: &'static str) {
    counter!(TOKENS_REFUSED, "reason" => reason).increment(1);
}

/// Values of the label `limit`: settings in `limits`.
const LIMITS: [&str; 5] = [
    "commands_per_second",
    "publications_per_second",
    "bytes_per_second",
    "new_channels_per_minute",
    "connections_per_user",
];

/// A connection asked for more than this setting of `limits` allows.
pub(crate) fn limited(limit: &'static str) {
    counter!(LIMITED, "limit" => limit).increment(1);
}

/// The part of its memory that the node uses, and how late its shards are.
pub(crate) fn load(memory: f64, lag: Duration) {
    gauge!(MEMORY_USED).set(memory);
    gauge!(SHARD_LAG).set(lag.as_secs_f64());
}

/// The node leaves from now on.
pub(crate) fn draining() {
    gauge!(DRAINING).set(1.0);
}

/// So many connections still have to go.
#[allow(clippy::cast_precision_loss, reason = "fewer connections than a double has whole numbers")]
pub(crate) fn drain_remaining(connections: usize) {
    gauge!(DRAIN_REMAINING).set(connections as f64);
}

/// So many were cut at the deadline.
pub(crate) fn drain_cut(connections: usize) {
    counter!(DRAIN_CUT).increment(connections as u64);
}

/// The embedded backplane is there as long as the node is. Through Redis the backplane says it itself, for each master.
pub fn embedded_backplane() {
    gauge!(BACKPLANE_STATE, "shard" => "0").set(2.0);
}

/// So many nodes are alive.
pub fn nodes(count: usize) {
    gauge!(NODES).set(count as f64);
}

/// A signal found no room: `in` from another node, `out` to one.
pub fn signal_dropped(direction: &'static str) {
    counter!(SIGNALS_DROPPED, "direction" => direction).increment(1);
}

/// A back end's publication was answered.
pub fn published(namespace: &str, took: Duration, outcome: &Result<Published, PublishError>) {
    record_published(&publications(namespace, Source::Api), &histogram!(PUBLISH_DURATION), took, outcome);
}

fn publications(namespace: &str, source: Source) -> Counter {
    counter!(PUBLICATIONS, "namespace" => namespace.to_owned(), "source" => source.as_str())
}

/// It counts if it was stored and delivered, on however many replicas.
fn record_published(
    accepted: &Counter,
    duration: &Histogram,
    took: Duration,
    outcome: &Result<Published, PublishError>,
) {
    if matches!(outcome, Ok(_) | Err(PublishError::NotReplicated { .. })) {
        accepted.increment(1);
        duration.record(took);
    }
}

/// How a connection reaches its client: the label `transport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `/ws`, `/raw`, `/echo`, and the WebSockets of `/sockjs`.
    WebSocket,
    /// `/sse`, as events or as lines.
    Sse,
    /// `/poll`: one request, one answer.
    Poll,
    /// `/sockjs` over HTTP.
    SockJs,
}

impl Transport {
    const ALL: [Self; 4] = [Self::WebSocket, Self::Sse, Self::Poll, Self::SockJs];

    const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::Poll => "poll",
            Self::SockJs => "sockjs",
        }
    }
}

/// The values of the label `protocol`, each the name of a client protocol.
pub(crate) const PROTOCOLS: [&str; 9] =
    ["json", "protobuf", "raw", "echo", "events", "events_many", "lines", "sockjs_json", "sockjs_raw"];

/// One shard's handles: looked up once, used often.
pub struct Figures {
    pub(crate) subscriptions: Gauge,
    pub(crate) channels: Gauge,
    /// Of clients, by namespace. Bound: the configured ones.
    publications: RefCell<HashMap<Box<str>, Counter, ahash::RandomState>>,
    publish_duration: Histogram,
    /// By protocol, and by transport.
    connections: [(&'static str, [OnceCell<Gauge>; Transport::ALL.len()]); PROTOCOLS.len()],
    opened: Counter,
    lag: Histogram,
    round_trip: Histogram,
    outbox: Gauge,
    recovered: Counter,
    not_recovered: Counter,
    slow: [Counter; SlowConsumer::ALL.len()],
}

impl Figures {
    pub(crate) fn new() -> Self {
        let figures = Self {
            subscriptions: gauge!(SUBSCRIPTIONS),
            channels: gauge!(CHANNELS),
            publications: RefCell::default(),
            publish_duration: histogram!(PUBLISH_DURATION),
            connections: PROTOCOLS.map(|protocol| (protocol, Default::default())),
            opened: counter!(OPENED),
            lag: histogram!(DELIVERY_LAG),
            round_trip: histogram!(PING_ROUND_TRIP),
            outbox: gauge!(OUTBOX_BYTES),
            recovered: counter!(RECOVERIES, "outcome" => "recovered"),
            not_recovered: counter!(RECOVERIES, "outcome" => "not_recovered"),
            slow: SlowConsumer::ALL.map(|policy| counter!(SLOW_CONSUMERS, "policy" => policy.as_str())),
        };
        for protocol in ["json", "protobuf", "raw", "echo"] {
            figures.connections(Transport::WebSocket, protocol);
        }
        figures
    }

    /// The counter of a channel's deliveries.
    pub(crate) fn deliveries(&self, namespace: &str) -> Counter {
        counter!(DELIVERIES, "namespace" => namespace.to_owned())
    }

    /// The counter of what clients publish in a namespace, as it is configured.
    pub(crate) fn publications(&self, namespace: &str) -> Counter {
        let mut known = self.publications.borrow_mut();
        if let Some(counter) = known.get(namespace) {
            return counter.clone();
        }
        let counter = publications(namespace, Source::Client);
        known.insert(namespace.into(), counter.clone());
        counter
    }

    /// A client's publication was answered; `accepted` is its namespace's counter.
    pub(crate) fn published(&self, accepted: &Counter, took: Duration, outcome: &Result<Published, PublishError>) {
        record_published(accepted, &self.publish_duration, took, outcome);
    }

    /// A publication has reached a shard's connections.
    pub(crate) fn delivered(&self, publication: &Publication) {
        let lag_ms = crate::clock::now_ms().saturating_sub(publication.published_at_ms);
        self.lag.record(Duration::from_millis(lag_ms));
    }

    /// So much waits on the node for clients that do not read, in bytes.
    pub(crate) fn outbox(&self, bytes: usize) {
        self.outbox.set(bytes as f64);
    }

    /// A client has answered a ping.
    pub(crate) fn round_trip(&self, took: Duration) {
        self.round_trip.record(took);
    }

    /// The gauge of connections; made when it is first used, for not every transport carries every protocol.
    fn connections(&self, transport: Transport, protocol: &str) -> Option<&Gauge> {
        let (protocol, gauges) = self.connections.iter().find(|(name, _)| *name == protocol)?;
        let make = || gauge!(CONNECTIONS, "transport" => transport.as_str(), "protocol" => *protocol);
        Some(gauges[transport as usize].get_or_init(make))
    }

    /// A connection was opened.
    pub(crate) fn opened(&self, transport: Transport, protocol: &str) {
        // A poll that waits is there, and comes again all the time: nobody has come or gone.
        if transport != Transport::Poll {
            self.opened.increment(1);
        }
        if let Some(connections) = self.connections(transport, protocol) {
            connections.increment(1.0);
        }
    }

    /// A connection has ended; `reason` is the close code's word, or `abnormal` or `none`.
    pub(crate) fn closed(&self, transport: Transport, protocol: &str, reason: &'static str, slow: bool) {
        if transport != Transport::Poll {
            counter!(CLOSED, "reason" => reason).increment(1);
        }
        if let Some(connections) = self.connections(transport, protocol) {
            connections.decrement(1.0);
        }
        if slow {
            self.slow(SlowConsumer::Disconnect);
        }
    }

    /// A client did not read fast enough, and this was done.
    pub(crate) fn slow(&self, policy: SlowConsumer) {
        self.slow[policy as usize].increment(1);
    }

    /// A client came back with a position.
    pub(crate) fn recovery(&self, recovered: bool) {
        if recovered { self.recovered.increment(1) } else { self.not_recovered.increment(1) }
    }
}
