//! What the type of a setting cannot say: values out of range, and settings that do not go together.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use skywave_backplane::{Durability, Generation, MAX_WITHIN};

use super::{
    MAX_SHARDS, Namespace, PERSONAL_NAMESPACE, ProxyProtocol, RedisUrl, SlowConsumer, address, api::ApiKey,
    layer::Path, namespaces, problem::Problem, schema::Document, sockjs, source::Sources, webhook_problems,
};

/// The fewest bytes of `node.secret`: as many as the hash that it keys.
const SECRET_BYTES: usize = 32;
/// The fewest bytes of an API key: 16 random letters cannot be guessed over a network.
const KEY_BYTES: usize = 16;

/// The most replicas that a publication may wait for.
const MAX_REPLICAS: u32 = 5;

/// Reports all of them.
pub(super) fn check(document: &Document, sources: &Sources, problems: &mut Vec<Problem>) {
    let mut report = Report { sources, problems };
    node(document, &mut report);
    listeners(document, &mut report);
    proxies(document, &mut report);
    tls(document, &mut report);
    backplane(document, &mut report);
    for (key, message) in document.auth.tokens.problems() {
        report.add(&format!("auth.tokens.{key}"), message);
    }
    api_keys(&document.api.keys, &mut report);
    sizes(document, &mut report);
    times(document, &mut report);
    durability(document, &mut report);
    webhook_problems::check(document, &mut report);
    for (key, message) in sockjs::problems(&document.sockjs, document.debug.echo) {
        report.add(&format!("sockjs.{key}"), message);
    }
    for (name, namespace) in &document.namespaces {
        if let Err(message) = namespaces::check_name(name) {
            report.at(vec!["namespaces".to_owned(), name.clone()], message);
        }
        delivery(name, namespace, &mut report);
        if name == PERSONAL_NAMESPACE && report.is_set("namespaces.#user.subscribe") {
            let message = "is not asked there: a personal channel is for its user alone";
            report.add("namespaces.#user.subscribe", message);
        }
    }
}

pub(super) struct Report<'a> {
    sources: &'a Sources,
    problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    pub(super) fn add(&mut self, dotted: &str, message: impl Into<String>) {
        self.at(dotted.split('.').map(str::to_owned).collect(), message);
    }

    fn at(&mut self, path: Path, message: impl Into<String>) {
        self.problems.push(Problem { place: self.sources.place(&path), key: path.join("."), message: message.into() });
    }

    fn is_set(&self, dotted: &str) -> bool {
        self.sources.is_set(&dotted.split('.').map(str::to_owned).collect::<Path>())
    }

    /// At whichever of the two somebody wrote; at the first if both.
    fn add_either(&mut self, dotted: [&str; 2], message: impl Into<String>) {
        self.add(dotted.into_iter().find(|dotted| self.is_set(dotted)).unwrap_or(dotted[0]), message);
    }
}

fn node(document: &Document, report: &mut Report<'_>) {
    let node = &document.node;
    // Empty and not written is the default: `load` makes a name.
    if !is_name(&node.name, "-_.") && (!node.name.is_empty() || report.is_set("node.name")) {
        report.add("node.name", "has 1 to 64 letters (a to z), digits, `-`, `_` or `.`");
    }
    if node.advertise.as_ref().is_some_and(|address| !is_address(address)) {
        report.add("node.advertise", "is a host and a port, as 10.0.0.7:8001 or gw-1.example:8001");
    }
    if node.shards > MAX_SHARDS {
        report.add("node.shards", format!("{} is more than {MAX_SHARDS}; 0 is one for each core", node.shards));
    }
    if let Some(bytes) = node.secret.as_ref().map(|secret| secret.reveal().len()).filter(|bytes| *bytes < SECRET_BYTES)
    {
        report.add(
            "node.secret",
            format!("has {bytes} bytes and needs at least {SECRET_BYTES}; `openssl rand -base64 32` makes one"),
        );
    }
}

fn listeners(document: &Document, report: &mut Report<'_>) {
    let public = document.public.listen.iter().map(|address| ("public.listen", *address));
    let internal = document.internal.listen.iter().map(|address| ("internal.listen", *address));
    let all: Vec<(&str, SocketAddr)> = public.chain(internal).collect();
    for (index, later) in all.iter().enumerate() {
        for earlier in all[..index].iter().filter(|earlier| address::collide(earlier.1, later.1)) {
            // A default is not where somebody must look.
            let (here, there) = if report.is_set(later.0) { (later, earlier) } else { (earlier, later) };
            report.add(here.0, format!("{} collides with {} of {}; use another port", here.1, there.1, there.0));
        }
    }
}

fn proxies(document: &Document, report: &mut Report<'_>) {
    let public = &document.public;
    if public.proxy_protocol == ProxyProtocol::V2 && public.trusted_proxies.is_empty() {
        report.add(
            "public.proxy_protocol",
            "\"v2\" lets in only the proxies of public.trusted_proxies, and there are none: name their addresses there, \
             like trusted_proxies = [\"10.0.0.0/8\"]",
        );
    }
}

/// Reads the files, so that what is wrong with them is known before a port is bound.
fn tls(document: &Document, report: &mut Report<'_>) {
    for (section, settings) in [("public", &document.public.tls), ("internal", &document.internal.tls)] {
        let Some(settings) = settings else { continue };
        if let Err(error) = settings.read().and_then(|files| files.server_config(&[])) {
            report.add(&format!("{section}.tls.{}", error.setting), error.message);
        }
    }
}

fn backplane(document: &Document, report: &mut Report<'_>) {
    let backplane = &document.backplane;
    if !is_name(&backplane.prefix, "-_.:") {
        report.add("backplane.prefix", "has 1 to 64 letters (a to z), digits, `-`, `_`, `.` or `:`");
    }
    let urls = backplane.redis();
    if backplane.ca.is_some() && !urls.iter().any(RedisUrl::is_tls) {
        report.add("backplane.ca", "only TLS needs it, and no address of Redis begins with rediss; write rediss://…");
    }
    for (key, is_set) in [
        ("backplane.sentinel_username", backplane.sentinel_username.is_some()),
        ("backplane.sentinel_password", backplane.sentinel_password.is_some()),
    ] {
        if is_set && !urls.iter().any(RedisUrl::is_sentinel) {
            report
                .add(key, "only sentinels need it, and backplane.url does not name any: redis-sentinel://host,…/name");
        }
    }
    for (key, is_set) in [
        ("backplane.username", backplane.username.is_some()),
        ("backplane.password", backplane.password.is_some()),
        ("backplane.generation", backplane.generation != Generation::default()),
    ] {
        if is_set && urls.is_empty() {
            report.add(key, "only Redis needs it, and this node would run alone in memory: set backplane.url");
        }
    }
    for (key, other, in_url, is_set) in [
        ("backplane.password", "password", RedisUrl::has_password as fn(&_) -> _, backplane.password.is_some()),
        ("backplane.username", "user", RedisUrl::has_username, backplane.username.is_some()),
    ] {
        if is_set && urls.iter().any(in_url) {
            report.add(key, format!("the URL has a {other} too; set one of them"));
        }
    }
    masters(&backplane.urls, report);
}

/// What is true of `backplane.urls` only.
fn masters(urls: &[RedisUrl], report: &mut Report<'_>) {
    for (index, url) in urls.iter().enumerate() {
        let key = format!("backplane.urls.{index}");
        if !url.is_single() {
            report.add(&key, format!("{url} is not one master: write redis://host:6379 or rediss://host:6379"));
        }
        if let Some(earlier) = urls[..index].iter().position(|earlier| earlier.address() == url.address()) {
            report.add(&key, format!("{url} is the same Redis as backplane.urls.{earlier}; each stands there once"));
        }
    }
}

fn durability(document: &Document, report: &mut Report<'_>) {
    let is_in_memory = document.backplane.redis().is_empty();
    for (name, namespace) in &document.namespaces {
        let Durability::Replicated { replicas, within } = namespace.durability else { continue };
        let key = |last: &[&str]| {
            let steps = ["namespaces", name, "durability"].into_iter().chain(last.iter().copied());
            steps.map(str::to_owned).collect::<Path>()
        };
        if is_in_memory {
            report.at(
                key(&[]),
                "the memory backplane has no replicas: write \"accepted\", or set backplane.url to a Redis that has some",
            );
        }
        if !(1..=MAX_REPLICAS).contains(&replicas) {
            report.at(key(&["replicated"]), format!("{replicas} is not one of 1 to {MAX_REPLICAS} replicas"));
        }
        if !(Duration::from_millis(1)..=MAX_WITHIN).contains(&within) {
            let shown = humantime::format_duration(within);
            let longest = humantime::format_duration(MAX_WITHIN);
            report.at(key(&["within"]), format!("{shown} is not one of 1ms to {longest}"));
        }
    }
}

fn delivery(name: &str, namespace: &Namespace, report: &mut Report<'_>) {
    let key = |last: &str| ["namespaces", name, last].map(str::to_owned).to_vec();
    if namespace.slow_consumer == SlowConsumer::Resync && namespace.history.is_none() {
        report.at(
            key("slow_consumer"),
            "\"resync\" hands over from history what was not read in time, and there is none: set history = { size = \
             200, ttl = \"10m\" }, or write \"disconnect\", \"drop_oldest\" or \"latest\"",
        );
    }
    if namespace.flush_interval > namespaces::MAX_FLUSH_INTERVAL {
        let [shown, longest] =
            [namespace.flush_interval, namespaces::MAX_FLUSH_INTERVAL].map(humantime::format_duration);
        report.at(
            key("flush_interval"),
            format!("{shown} is more than {longest}: everybody on a channel hears it so late"),
        );
    }
}

fn api_keys(keys: &[ApiKey], report: &mut Report<'_>) {
    for (index, key) in keys.iter().enumerate() {
        let mut add = |field: &str, message: String| report.add(&format!("api.keys.{index}.{field}"), message);
        if !(1..=64).contains(&key.name.len()) || key.name.chars().any(char::is_control) {
            add("name", "has 1 to 64 bytes, no control characters".to_owned());
        }
        match key.key.reveal() {
            "" => add("key", "missing or empty: set `key` or `key_file`".to_owned()),
            text if text.len() < KEY_BYTES => add(
                "key",
                format!("has {} bytes and needs at least {KEY_BYTES}; `openssl rand -hex 16` makes one", text.len()),
            ),
            text if !text.bytes().all(|b| b.is_ascii_graphic()) => {
                add("key", "has only visible ASCII characters and no spaces: it travels in a header".to_owned());
            }
            _ => {}
        }
        if key.scopes.is_empty() {
            add("scopes", "needs at least one of `publish`, `read`, `control`".to_owned());
        }
        if let Some(other) = keys[..index].iter().position(|other| other.name == key.name) {
            add("name", format!("\"{}\" is the name of api.keys.{other} too", key.name));
        }
        if let Some(other) = keys[..index].iter().position(|other| other.key == key.key && !key.key.reveal().is_empty())
        {
            add("key", format!("is the key of api.keys.{other} too: who of them called?"));
        }
    }
}

fn sizes(document: &Document, report: &mut Report<'_>) {
    let limits = &document.limits;
    for (key, bytes) in [
        ("limits.message_bytes", limits.message_bytes),
        ("limits.frame_bytes", limits.frame_bytes),
        ("limits.publication_bytes", limits.publication_bytes),
        ("limits.outbox_bytes", limits.outbox_bytes),
        ("limits.node_ring_bytes", limits.node_ring_bytes),
    ] {
        if bytes == 0 {
            report.add(key, "must be more than 0: without a bound one client could take all memory");
        }
    }
    if limits.publication_bytes > limits.message_bytes && limits.message_bytes > 0 {
        report.add_either(
            ["limits.publication_bytes", "limits.message_bytes"],
            format!(
                "publication_bytes ({}) is more than message_bytes ({}), in which a publication travels; lower the one \
                 or raise the other",
                limits.publication_bytes, limits.message_bytes
            ),
        );
    }
}

fn times(document: &Document, report: &mut Report<'_>) {
    let (timeouts, drain) = (&document.timeouts, &document.drain);
    for (key, duration) in [
        ("timeouts.tls", timeouts.tls),
        ("timeouts.handshake", timeouts.handshake),
        ("timeouts.connect", timeouts.connect),
        ("timeouts.ping_interval", timeouts.ping_interval),
        ("timeouts.pong", timeouts.pong),
        ("timeouts.close", timeouts.close),
        ("timeouts.message", timeouts.message),
    ] {
        if duration.is_zero() {
            report.add(key, "must be more than 0s");
        }
    }
    let shown = |duration: Duration| humantime::format_duration(duration).to_string();
    if drain.deadline < drain.grace {
        report.add_either(
            ["drain.deadline", "drain.grace"],
            format!(
                "deadline ({}) is before the end of grace ({}); both count from the signal",
                shown(drain.deadline),
                shown(drain.grace)
            ),
        );
    } else if report.is_set("drain.window") && drain.deadline < drain.grace.saturating_add(drain.window) {
        report.add_either(
            ["drain.window", "drain.deadline"],
            format!(
                "deadline ({}) is before the end of window ({}), which begins after grace ({}): raise deadline or lower window",
                shown(drain.deadline),
                shown(drain.window),
                shown(drain.grace)
            ),
        );
    }
    if drain.rate.is_some() && report.is_set("drain.window") {
        report.add(
            "drain.rate",
            "stands beside drain.window, and one of them says how fast connections leave: leave one out",
        );
    }
}

/// Whether it is `host:port`, as other machines can use it.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => {
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (1..=253).contains(&host.len()) && host.bytes().all(is_good)
        }
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_name(name: &str, punctuation: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || punctuation.contains(c))
}
