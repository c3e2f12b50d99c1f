//! What the settings accept, which layer wins, and what somebody who made a mistake is told.
#![allow(clippy::unwrap_used, reason = "the helpers of a test are a test")]

use std::{
    ffi::OsString,
    fs,
    num::{NonZeroU32, NonZeroUsize},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    time::Duration,
};

use proptest::prelude::*;
use skywave_backplane::{Durability, Generation, HistoryPolicy};
use skywave_gateway::config::{
    self, BackplaneUrl, ConfigError, EventType, Flags, LogFormat, Namespace, OnFailure, Place, ProxyProtocol,
    PublishRight, Scope, Settings, SlowConsumer, SubscribeRight, TokenAlgorithm, WebhookSettings,
};
use tempfile::TempDir;

/// One start: a directory of its own, a file, variables and flags, none of them from the real environment.
struct Start {
    dir: TempDir,
    flags: Flags,
    env: Vec<(String, String)>,
}

fn start() -> Start {
    Start { dir: TempDir::new().unwrap(), flags: Flags::default(), env: Vec::new() }
}

fn file(text: &str) -> Start {
    start().file(text)
}

/// `DIR` in a file or a variable stands for the directory.
impl Start {
    fn file(mut self, text: &str) -> Self {
        let path = self.path("skywave.toml");
        fs::write(&path, self.in_dir(text)).unwrap();
        self.flags.config = Some(path);
        self
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), self.in_dir(value)));
        self
    }

    fn flags(mut self, change: impl FnOnce(&mut Flags)) -> Self {
        change(&mut self.flags);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn in_dir(&self, text: &str) -> String {
        text.replace("DIR", &self.dir.path().display().to_string())
    }

    fn load(&self) -> Result<Settings, ConfigError> {
        Settings::load(&self.flags, self.env.clone())
    }

    fn good(self) -> Settings {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The messages, without the directory.
    fn bad(self) -> String {
        self.load().expect_err("it was accepted").to_string().replace(&self.in_dir("DIR/"), "")
    }
}

fn none() -> [(String, String); 0] {
    []
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let settings = file("").good();
    assert!(!settings.development());
    assert_eq!(settings.public.listen, ["0.0.0.0:8000".parse().unwrap()]);
    assert!(settings.public.origins.is_empty() && settings.public.trusted_proxies.is_empty());
    assert!(settings.public.tls.is_none() && settings.internal.tls.is_none());
    assert_eq!(settings.public.proxy_protocol, ProxyProtocol::Off);
    assert_eq!(settings.internal.listen, ["127.0.0.1:8001".parse().unwrap()]);
    assert_eq!(settings.backplane.url, BackplaneUrl::Memory);
    assert_eq!(settings.backplane.prefix, "skywave");
    assert!(!settings.auth.anonymous && !settings.demo.enabled && settings.api.keys.is_empty());
    assert!(settings.node.secret.is_none() && settings.node.shards > 0);
    assert_eq!(settings.node.log, LogFormat::Text);
    assert_eq!(settings.limits.connections, None);
    assert_eq!(settings.limits.channels_per_connection, NonZeroU32::new(128));
    assert_eq!(settings.limits.message_bytes, 1 << 20);
    assert_eq!(settings.limits.frame_bytes, 1 << 20);
    assert_eq!(settings.limits.publication_bytes, 64 << 10);
    assert_eq!(settings.limits.outbox_bytes, 1 << 20);
    assert!(settings.limits.node_outbox_bytes.is_some(), "a quarter of whatever memory there is");
    assert_eq!(settings.limits.node_ring_bytes, 256 << 20);
    assert_eq!((settings.limits.connections_per_ip, settings.limits.connections_per_user), (None, None));
    assert_eq!(settings.limits.handshakes_per_second, NonZeroU32::new(500));
    assert_eq!(settings.limits.new_channels_per_minute, NonZeroU32::new(600));
    assert_eq!(settings.limits.commands_per_second, NonZeroU32::new(200));
    assert_eq!(settings.limits.publications_per_second, NonZeroU32::new(100));
    assert_eq!(settings.limits.bytes_per_second, NonZeroUsize::new(1 << 20));
    assert_eq!((settings.limits.overload_memory, settings.limits.overload_lag), (0.9, seconds(1)));
    assert_eq!(settings.backplane.generation, Generation::Replid);
    assert!(settings.backplane.ca.is_none() && settings.backplane.redis().is_empty());
    assert_eq!(settings.timeouts.tls, seconds(5));
    assert_eq!(settings.timeouts.handshake, seconds(5));
    assert_eq!(settings.timeouts.connect, seconds(10));
    assert_eq!(settings.timeouts.ping_interval, seconds(25));
    assert_eq!(settings.timeouts.pong, seconds(10));
    assert_eq!(settings.timeouts.close, seconds(3));
    assert_eq!(settings.timeouts.session_grace, seconds(5));
    assert_eq!(settings.drain.grace, seconds(5));
    assert_eq!(settings.drain.deadline, seconds(90));
    assert_eq!(settings.namespace("default"), None);
    assert_eq!(settings.namespace("chat"), None);
}

#[test]
fn a_full_file_is_read() {
    let settings = file(
        r##"
        [node]
        name = "gw-1"
        shards = 3
        secret = "0123456789abcdef0123456789abcdef"
        log = "json"
        [public]
        listen = ["0.0.0.0:80", "[::]:80"]
        origins = ["https://app.example.com", "https://*.example.com", "*"]
        [internal]
        listen = ["127.0.0.1:0"]
        [backplane]
        url = "redis://redis:6379/0"
        prefix = "sky:eu"
        username = "ada"
        password = "[not, a list]"
        [auth]
        anonymous = true
        [[api.keys]]
        name = "backend"
        key = "0123456789abcdef"
        scopes = ["publish", "read"]
        [limits]
        connections = 5
        connections_per_ip = 6
        connections_per_user = 7
        handshakes_per_second = 8
        channels_per_connection = 0
        new_channels_per_minute = 9
        commands_per_second = 0
        publications_per_second = 0
        bytes_per_second = "64KiB"
        overload_memory = 0
        overload_lag = "500ms"
        message_bytes = "2MiB"
        frame_bytes = "4 MiB"
        publication_bytes = 100
        outbox_bytes = "10kB"
        node_outbox_bytes = "1GiB"
        [timeouts]
        pong = "500ms"
        session_grace = "0s"
        [drain]
        grace = "0s"
        deadline = "1m 30s"
        [demo]
        enabled = true
        [namespaces.Chat_Room]
        history = { size = 200, ttl = "10m" }
        presence = true
        publish = "nobody"
        subscribe = "users"
        slow_consumer = "resync"
        flush_interval = "20ms"
        [namespaces.live]
        history = { size = 0 }
        [namespaces."a.b".history]
        size = 1
        ttl = "1h"
        meta_ttl = "1h"
        "##,
    )
    .good();
    assert_eq!((settings.node.name.as_str(), settings.node.shards), ("gw-1", 3));
    assert_eq!(settings.node.secret.as_ref().unwrap().reveal(), SECRET);
    assert_eq!(settings.node.log, LogFormat::Json);
    assert_eq!(settings.public.listen.len(), 2);
    assert_eq!(settings.public.origins.len(), 3);
    assert_eq!(settings.backplane.redis()[0].reveal(), "redis://redis:6379/0");
    assert_eq!(settings.backplane.password.as_ref().unwrap().reveal(), "[not, a list]");
    let key = &settings.api.keys[0];
    assert!(key.allows(Scope::Read) && key.allows(Scope::Publish) && !key.allows(Scope::Control));
    assert_eq!(settings.limits.connections, NonZeroU32::new(5));
    let of = |limit: Option<NonZeroU32>| limit.map_or(0, NonZeroU32::get);
    assert_eq!((of(settings.limits.connections_per_ip), of(settings.limits.connections_per_user)), (6, 7));
    assert_eq!((of(settings.limits.handshakes_per_second), of(settings.limits.new_channels_per_minute)), (8, 9));
    assert_eq!((settings.limits.commands_per_second, settings.limits.publications_per_second), (None, None));
    assert_eq!(settings.limits.bytes_per_second, NonZeroUsize::new(64 << 10));
    assert_eq!((settings.limits.overload_memory, settings.limits.overload_lag), (0.0, Duration::from_millis(500)));
    assert_eq!(settings.limits.channels_per_connection, None);
    assert_eq!((settings.limits.message_bytes, settings.limits.frame_bytes), (2 << 20, 4 << 20));
    assert_eq!((settings.limits.publication_bytes, settings.limits.outbox_bytes), (100, 10_000));
    assert_eq!(settings.limits.node_outbox_bytes, NonZeroUsize::new(1 << 30));
    assert_eq!((settings.timeouts.pong, settings.timeouts.session_grace), (Duration::from_millis(500), seconds(0)));
    assert_eq!((settings.drain.grace, settings.drain.deadline), (seconds(0), seconds(90)));
    let history = HistoryPolicy { size: 200, ttl: seconds(600), meta_ttl: seconds(86_400) };
    assert_eq!(
        settings.namespace("Chat_Room"),
        Some(&Namespace {
            history: Some(history),
            presence: true,
            durability: Durability::Accepted,
            publish: PublishRight::Nobody,
            subscribe: SubscribeRight::Users,
            slow_consumer: SlowConsumer::Resync,
            flush_interval: Duration::from_millis(20),
        })
    );
    assert_eq!(settings.namespace("live"), Some(&Namespace::default()));
    assert_eq!(settings.namespace("a.b").unwrap().history.unwrap().size, 1);
    assert_eq!(settings.namespaces().map(|(name, _)| name).collect::<Vec<_>>(), ["Chat_Room", "a.b", "live"]);
}

#[test]
fn every_policy_for_slow_consumers_has_a_word() {
    for (word, policy) in [
        ("disconnect", SlowConsumer::Disconnect),
        ("drop_oldest", SlowConsumer::DropOldest),
        ("latest", SlowConsumer::Latest),
        ("resync", SlowConsumer::Resync),
    ] {
        let text = format!("[namespaces.a]\nhistory = {{ size = 1, ttl = \"1m\" }}\nslow_consumer = \"{word}\"");
        assert_eq!(file(&text).good().namespace("a").unwrap().slow_consumer, policy, "{word}");
    }
}

#[test]
fn the_edges_of_what_waits_for_connections() {
    let bytes = |text: &str| file(&format!("[limits]\nnode_outbox_bytes = {text}")).good().limits.node_outbox_bytes;
    assert_eq!((bytes("0"), bytes("\"0MiB\""), bytes("1")), (None, None, NonZeroUsize::new(1)));
    let interval = |text: &str| {
        let file = file(&format!("[namespaces.a]\nflush_interval = \"{text}\""));
        file.load().map(|settings| settings.namespace("a").unwrap().flush_interval).ok()
    };
    assert_eq!((interval("0ms"), interval("1s"), interval("1001ms")), (Some(seconds(0)), Some(seconds(1)), None));
    // A node in development mode keeps a history, so there is one to hand over from.
    let development =
        start().flags(|flags| flags.dev = true).var("SKYWAVE__NAMESPACES__DEFAULT__SLOW_CONSUMER", "resync");
    assert_eq!(development.good().namespace("any").unwrap().slow_consumer, SlowConsumer::Resync);
}

/// Each file has one mistake; the answer begins so.
#[track_caller]
fn answers(cases: &[(&str, &str)]) {
    for (text, message) in cases {
        let bad = file(text).bad();
        assert!(bad.starts_with(&format!("skywave.toml:{message}")), "\n{text}\n  is: {bad}\n not: {message}");
        assert_eq!(bad.lines().count(), 1, "{bad}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_refused_where_it_stops_being_it() {
    answers(&[
        ("[limits]\nconnections = \n", "2:15: "),
        ("[limits]\nconnections = 1\nconnections = 2\n", "3:1: duplicate key"),
        ("[limits\n", "1:8: "),
    ]);
}

#[test]
fn an_unknown_setting_is_refused() {
    answers(&[
        (
            "[timeouts]\npong = \"1s\"\npingg = \"1s\"",
            "3:1: timeouts.pingg: unknown field `pingg`, expected one of `tls`, `handshake`, `connect`, `ping_interval`, \
             `pong`, `close`, `message`, `connection_age`, `session_grace`",
        ),
        (
            "[limit]\nx = 1",
            "1:2: limit: unknown field `limit`, expected one of `node`, `public`, `internal`, `backplane`, `auth`, \
             `api`, `limits`, `timeouts`, `drain`, `demo`, `debug`, `sockjs`, `webhooks`, `namespaces`",
        ),
        ("\"a.b\" = 1", " a: unknown field `a`, expected"),
        (
            "[namespaces.chat]\nhistory = { size = 5, tll = \"1m\" }",
            "2:23: namespaces.chat.history.tll: unknown field `tll`, expected one of `size`, `ttl`, `meta_ttl`",
        ),
        (
            "[api]\nkeys = [{ name = \"a\", kee = \"x\" }]",
            "2:23: api.keys.0.kee: unknown field `kee`, expected one of `name`, `key`, `key_file`, `scopes`",
        ),
    ]);
}

#[test]
fn the_address_that_other_nodes_are_told_is_one() {
    answers(&[(
        "[node]\nadvertise = \"x\"",
        "2:1: node.advertise: is a host and a port, as 10.0.0.7:8001 or gw-1.example:8001",
    )]);
}

#[test]
fn services_of_sockjs_have_places_of_their_own() {
    answers(&[
        ("[[sockjs]]\nprefix = \"x\"", "2:1: sockjs.0.prefix: is a path, like /sockjs"),
        ("[[sockjs]]\nprefix = \"/raw\"", "2:1: sockjs.0.prefix: /raw is served already"),
        (
            "[debug]\necho = true\n[[sockjs]]\nprefix = \"/echo\"",
            "4:1: sockjs.0.prefix: /echo is served already (debug.echo)",
        ),
        (
            "[[sockjs]]\nprefix = \"/a\"\n[[sockjs]]\nprefix = \"/a/b\"",
            "4:1: sockjs.1.prefix: /a/b and /a are one inside the other",
        ),
        (
            "[[sockjs]]\nprefix = \"/a\"\nmode = \"raw\"",
            "1:1: sockjs.0.channel: mode = \"raw\" carries the payloads of one channel",
        ),
        ("[[sockjs]]\nprefix = \"/a\"\nchannel = \"b\"", "3:1: sockjs.0.channel: only mode = \"raw\" has a channel"),
        ("[[sockjs]]\nprefix = \"/a\"\nresponse_limit = 0", "3:1: sockjs.0.response_limit: has at least 1 byte"),
        (
            "[[sockjs]]\nprefix = \"/a\"\nclient_url = \"x.js\"",
            "3:1: sockjs.0.client_url: begins with /, http:// or https://",
        ),
    ]);
}

#[test]
fn nothing_is_converted() {
    answers(&[
        (
            "[limits]\nconnections = 1.5",
            "2:1: limits.connections: invalid type: floating point `1.5`, expected a whole number from 0 to 4294967295",
        ),
        ("[limits]\nconnections = true", "2:1: limits.connections: invalid type: boolean `true`, expected a whole"),
        ("[limits]\nconnections = \"5\"", "2:1: limits.connections: invalid type: string \"5\", expected a whole"),
        ("[limits]\nconnections = -1", "2:1: limits.connections: invalid value: integer `-1`, expected a whole"),
        ("[limits]\nconnections = nan", "2:1: limits.connections: invalid type: "),
        (
            "[limits]\noverload_memory = 90",
            "2:1: limits.overload_memory: invalid value: integer `90`, expected a number from 0 to 1, like 0.9",
        ),
        (
            "[limits]\noverload_memory = 1.1",
            "2:1: limits.overload_memory: invalid value: floating point `1.1`, expected",
        ),
        (
            "[limits]\noverload_memory = -0.1",
            "2:1: limits.overload_memory: invalid value: floating point `-0.1`, expec",
        ),
        ("[limits]\noverload_memory = nan", "2:1: limits.overload_memory: invalid type: "),
        (
            "[limits]\noverload_memory = \"90%\"",
            "2:1: limits.overload_memory: invalid type: string \"90%\", expected a",
        ),
        ("[node]\nname = 5", "2:1: node.name: invalid type: integer `5`, expected a string"),
        (
            "[node]\nshards = 70000",
            "2:1: node.shards: invalid value: integer `70000`, expected a whole number from 0 to 65535",
        ),
        ("[auth]\nanonymous = 1", "2:1: auth.anonymous: invalid type: integer `1`, expected true or false"),
        ("[auth]\nanonymous = \"yes\"", "2:1: auth.anonymous: invalid type: string \"yes\", expected true or false"),
        ("limits = 5", "1:1: limits: invalid type: integer `5`, expected a table"),
        ("namespaces = 5", "1:1: namespaces: invalid type: integer `5`, expected a table"),
        (
            "[public]\nlisten = \"0.0.0.0:80\"",
            "2:1: public.listen: invalid type: string \"0.0.0.0:80\", expected a list",
        ),
    ]);
}

#[test]
fn durations_and_sizes_carry_their_unit() {
    answers(&[
        ("[timeouts]\nping_interval = 25", "2:1: timeouts.ping_interval: 25 has no unit: write \"25s\" or \"25ms\""),
        ("[timeouts]\npong = \"25\"", "2:1: timeouts.pong: 25 has no unit: write \"25s\" or \"25ms\""),
        ("[timeouts]\npong = 2.5", "2:1: timeouts.pong: 2.5 has no unit: write \"2.5s\" or \"2.5ms\""),
        (
            "[timeouts]\npong = true",
            "2:1: timeouts.pong: invalid type: boolean `true`, expected a duration with its unit, like \"500ms\", \
             \"10s\", \"10m\" or \"24h\"",
        ),
        ("[timeouts]\npong = \"soon\"", "2:1: timeouts.pong: \"soon\" is not a duration ("),
        ("[timeouts]\npong = -5", "2:1: timeouts.pong: invalid value: integer `-5`, expected a duration"),
        (
            "[limits]\noutbox_bytes = \"64K\"",
            "2:1: limits.outbox_bytes: \"64K\" is not a size: write bytes, or a whole number with kB, KiB, MB, MiB, GB \
             or GiB",
        ),
        (
            "[limits]\noutbox_bytes = 1.5",
            "2:1: limits.outbox_bytes: invalid type: floating point `1.5`, expected a size in bytes, like 65536 or \
             \"64KiB\"",
        ),
        (
            "[limits]\noutbox_bytes = -5",
            "2:1: limits.outbox_bytes: invalid type: integer `-5`, expected a size in bytes",
        ),
    ]);
}

#[test]
fn a_closed_set_lists_what_is_in_it() {
    answers(&[
        ("[node]\nlog = \"xml\"", "2:1: node.log: unknown variant `xml`, expected `text` or `json`"),
        (
            "[namespaces.chat]\nsubscribe = \"nobody\"",
            "2:1: namespaces.chat.subscribe: unknown variant `nobody`, expected one of `anyone`, `users`, `token`",
        ),
        (
            "[namespaces.chat]\npublish = \"users\"",
            "2:1: namespaces.chat.publish: unknown variant `users`, expected one of `nobody`, `subscribers`, \
             `anyone`, `token`",
        ),
        (
            "[namespaces.chat]\nslow_consumer = \"drop\"",
            "2:1: namespaces.chat.slow_consumer: unknown variant `drop`, expected one of `disconnect`, `drop_oldest`, \
             `latest`, `resync`",
        ),
        (
            "[namespaces.chat]\npublish = true",
            "2:1: namespaces.chat.publish: invalid type: boolean `true`, expected a string",
        ),
        (
            "[[api.keys]]\nname = \"a\"\nkey = \"0123456789abcdef\"\nscopes = [\"read\", \"write\"]",
            "4:19: api.keys.0.scopes.1: unknown variant `write`, expected one of `publish`, `read`, `control`",
        ),
    ]);
}

#[test]
fn addresses_urls_and_origins_are_checked() {
    answers(&[
        (
            "[public]\nlisten = [\"0.0.0.0:80\", \"localhost:81\"]",
            "2:25: public.listen.1: \"localhost:81\" is not an IP address with a port: write \"127.0.0.1:8000\", \
             \"0.0.0.0:8000\" or \"[::]:8000\"",
        ),
        ("[internal]\nlisten = []", "2:1: internal.listen: needs at least one address, like [\"127.0.0.1:8000\"]"),
        (
            "[public]\norigins = [\"app.example.com\"]",
            "2:12: public.origins.0: \"app.example.com\" is not an origin (no scheme): write \
             \"https://app.example.com\", \"https://*.example.com\" or \"*\"",
        ),
        (
            "[public]\norigins = [\"*\", \"https://a.com/\"]",
            "2:17: public.origins.1: \"https://a.com/\" is not an origin (it has no path, not even a slash at the end)",
        ),
        (
            "[backplane]\nurl = \"nats://a\"",
            "2:1: backplane.url: unknown scheme `nats://`: write memory (one node), redis://host:6379, \
             redis-sentinel://host:26379,…/name or redis-cluster://host:6379,…, with rediss for TLS",
        ),
        ("[backplane]\nurl = \"redis\"", "2:1: backplane.url: not a URL: write memory (one node), redis://host:6379, "),
        (
            "[backplane]\nurl = \"redis://a,b\"",
            "2:1: backplane.url: not a Redis URL (it needs one host; for several set backplane.urls): write \
             redis://user:password@host:6379",
        ),
        (
            "[backplane]\nurl = \"redis-sentinel://ada:hunter2@a,b\"",
            "2:1: backplane.url: not a Redis URL (it ends with the name that the sentinels know the master by): write \
             redis-sentinel://user:password@host:26379,host:26379,host:26379/name-of-the-master",
        ),
        (
            "[backplane]\nurl = \"rediss-cluster://a,b/3\"",
            "2:1: backplane.url: not a Redis URL (only database 0 is used: all databases share one pub/sub, so take \
             another backplane.prefix): write rediss-cluster://user:password@host:6379,host:6379,host:6379",
        ),
        (
            "[backplane]\nurl = \"rediss://a/#insecure\"",
            "2:1: backplane.url: not a Redis URL (there is no `#` in it: in a password it is written %23, and whom to \
             trust is said by backplane.ca): write rediss://user:password@host:6379",
        ),
        (
            "[backplane]\nurls = [\"redis://a\", \"nats://:hunter2@b\"]",
            "2:22: backplane.urls.1: unknown scheme `nats://`: write redis://host:6379, or rediss:// for TLS",
        ),
        (
            "[backplane]\ngeneration = \"epoch\"",
            "2:1: backplane.generation: unknown variant `epoch`, expected one of `replid`, `run_id`, `connection`",
        ),
    ]);
}

#[test]
fn values_out_of_range_are_refused() {
    answers(&[
        (
            "[limits]\nframe_bytes = 0",
            "2:1: limits.frame_bytes: must be more than 0: without a bound one client could take all memory",
        ),
        ("[limits]\nnode_ring_bytes = 0", "2:1: limits.node_ring_bytes: must be more than 0: without a bound"),
        ("[timeouts]\nhandshake = \"0s\"", "2:1: timeouts.handshake: must be more than 0s"),
        ("[timeouts]\nconnect = \"0s\"", "2:1: timeouts.connect: must be more than 0s"),
        ("[timeouts]\nping_interval = \"0s\"", "2:1: timeouts.ping_interval: must be more than 0s"),
        ("[timeouts]\npong = \"0s\"", "2:1: timeouts.pong: must be more than 0s"),
        ("[timeouts]\nclose = \"0ms\"", "2:1: timeouts.close: must be more than 0s"),
        (
            "[node]\nsecret = \"short\"",
            "2:1: node.secret: has 5 bytes and needs at least 32; `openssl rand -base64 32` makes one",
        ),
        ("[node]\nname = \"a b\"", "2:1: node.name: has 1 to 64 letters (a to z), digits, `-`, `_` or `.`"),
        ("[node]\nname = \"\"", "2:1: node.name: has 1 to 64 letters"),
        ("[node]\nshards = 1025", "2:1: node.shards: 1025 is more than 128; 0 is one for each core"),
        ("[backplane]\nprefix = \"{x}\"", "2:1: backplane.prefix: has 1 to 64 letters (a to z), digits"),
        ("[namespaces.\"a:b\"]", "1:13: namespaces.a:b: the name of a namespace has no `:`, it ends there"),
        ("[namespaces.\"#users\"]", "1:13: namespaces.#users: the name of a namespace has no `#`, that is for"),
        ("[namespaces.\"#user\"]\nsubscribe = \"anyone\"", "2:1: namespaces.#user.subscribe: is not asked there"),
        ("[[api.keys]]\nname = \"a\"\nkey = \"0123456789abcdef\"", "1:1: api.keys.0: missing field `scopes`"),
        (
            "[[api.keys]]\nname = \"a\"\nscopes = [\"read\"]",
            "1:1: api.keys.0.key: missing or empty: set `key` or `key_file`",
        ),
    ]);
}

#[test]
fn contradictions_are_refused_with_advice() {
    answers(&[
        (
            "[namespaces.chat]\nhistory = { size = 5 }",
            "2:1: namespaces.chat.history: `size` needs a `ttl`: how long publications are kept, like ttl = \"10m\"",
        ),
        (
            "[namespaces.chat]\nhistory = { size = 5, ttl = \"48h\" }",
            "2:1: namespaces.chat.history: `ttl` (2days) is longer than `meta_ttl` (1day): positions must outlive \
             publications, so lower `ttl` or raise `meta_ttl`",
        ),
        (
            "[namespaces.chat.history]\nsize = 5\nttl = \"0s\"",
            "1:18: namespaces.chat.history: `ttl` must be more than 0s; for live only write size = 0",
        ),
        (
            "[namespaces.chat]\nhistory = 100",
            "2:1: namespaces.chat.history: invalid type: integer `100`, expected a table, like { size = 200, ttl = \
             \"10m\" }",
        ),
        (
            "[namespaces.chat]\nslow_consumer = \"resync\"",
            "2:1: namespaces.chat.slow_consumer: \"resync\" hands over from history what was not read in time, and there \
             is none: set history = { size = 200, ttl = \"10m\" }, or write",
        ),
        (
            "[namespaces.chat]\nhistory = { size = 0 }\nslow_consumer = \"resync\"",
            "3:1: namespaces.chat.slow_consumer: \"resync\" hands over from history",
        ),
        (
            "[namespaces.chat]\nflush_interval = \"2s\"",
            "2:1: namespaces.chat.flush_interval: 2s is more than 1s: everybody on a channel hears it so late",
        ),
        (
            "[limits]\nmessage_bytes = \"32KiB\"",
            "2:1: limits.message_bytes: publication_bytes (65536) is more than message_bytes (32768), in which a \
             publication travels; lower the one or raise the other",
        ),
        (
            "[limits]\nmessage_bytes = 5\npublication_bytes = 6",
            "3:1: limits.publication_bytes: publication_bytes (6) is more than message_bytes (5), in which",
        ),
        (
            "[drain]\ngrace = \"2m\"",
            "2:1: drain.grace: deadline (1m 30s) is before the end of grace (2m); both count from the signal",
        ),
        (
            "[public]\nlisten = [\"127.0.0.1:8001\"]",
            "2:1: public.listen: 127.0.0.1:8001 collides with 127.0.0.1:8001 of internal.listen; use another port",
        ),
        (
            "[public]\nlisten = [\"0.0.0.0:9\"]\n[internal]\nlisten = [\"127.0.0.1:8\", \"127.0.0.1:9\"]",
            "4:1: internal.listen: 127.0.0.1:9 collides with 0.0.0.0:9 of public.listen; use another port",
        ),
        (
            "[backplane]\nurl = \"redis://:pw@h\"\npassword = \"pw\"",
            "3:1: backplane.password: the URL has a password too; set one of them",
        ),
        (
            "[backplane]\nurl = \"redis://ada@h\"\nusername = \"ada\"",
            "3:1: backplane.username: the URL has a user too; set one of them",
        ),
        (
            "[backplane]\nurls = [\"redis://a\", \"redis://:pw@b\"]\npassword = \"pw\"",
            "3:1: backplane.password: the URL has a password too; set one of them",
        ),
        (
            "[backplane]\nurl = \"redis://a\"\nurls = [\"redis://a\", \"redis://b\"]",
            "3:1: backplane.urls: `url` is set too; set one of them",
        ),
        (
            "[backplane]\nurls = [\"redis://a\", \"redis://b\"]\nurl = \"memory\"",
            "2:1: backplane.urls: `url` is set too; set one of them",
        ),
        (
            "[backplane]\nurls = [\"redis://a\"]",
            "2:1: backplane.urls: needs at least two independent masters; for one set backplane.url",
        ),
        ("[backplane]\nurls = []", "2:1: backplane.urls: needs at least two independent masters"),
        (
            "[backplane]\nurls = [\"redis://ada:hunter2@a\", \"rediss://b\", \"redis://A:6379/0\"]",
            "2:48: backplane.urls.2: redis://A:6379/0 is the same Redis as backplane.urls.0; each stands there once",
        ),
        (
            "[backplane]\nurls = [\"redis://a\", \"redis-cluster://:hunter2@b\"]",
            "2:22: backplane.urls.1: redis-cluster://***@b is not one master: write redis://host:6379 or",
        ),
        (
            "[backplane]\nurl = \"redis://a\"\nsentinel_username = \"ada\"",
            "3:1: backplane.sentinel_username: only sentinels need it, and backplane.url does not name any: \
             redis-sentinel://host,…/name",
        ),
        ("[backplane]\nsentinel_password = \"pw\"", "2:1: backplane.sentinel_password: only sentinels need it"),
        (
            "[backplane]\npassword = \"pw\"",
            "2:1: backplane.password: only Redis needs it, and this node would run alone",
        ),
        ("[backplane]\nusername = \"ada\"", "2:1: backplane.username: only Redis needs it"),
        ("[backplane]\ngeneration = \"run_id\"", "2:1: backplane.generation: only Redis needs it"),
    ]);
}

/// What `openssl req -x509` makes, with its key thrown away.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBhDCCASugAwIBAgIUKN5D66Kg3uMJAzMQfLR1PVFvzmQwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMc2t5d2F2ZS10ZXN0MCAXDTI2MTEyNTE3NDAxOVoYDzIxMjYx
MTAxMTc0MDE5WjAXMRUwEwYDVQQDDAxza3l3YXZlLXRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAS31UaT3Rz+ykLBlNnRpwHPGWjMEkCEkgsUNNPLC78hxWn4
MVNaTMMvXupDo9ffGL7uEcTizqFUbEpLy33LDCyvo1MwUTAdBgNVHQ4EFgQUmtse
bPgAiQF84b8ROVsvEr9BGngwHwYDVR0jBBgwFoAUmtsebPgAiQF84b8ROVsvEr9B
GngwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAGg9FOFYnHoMZE
xkq9dNUD8FRCZQLnwvFeu8KEO2m/SAIgLI59/+Knf0Tk0uavcbviCay3D/IGQfuX
CwgnxV0GK1M=
-----END CERTIFICATE-----
";

#[test]
fn every_way_to_redis_is_read() {
    for (text, shown) in [
        ("url = \"rediss://ada:hunter2@h\"", "rediss://***@h"),
        ("url = \"redis-sentinel://:hunter2@a,b:1,c/main\"", "redis-sentinel://***@a,b:1,c/main"),
        ("url = \"rediss-sentinel://a/main\"", "rediss-sentinel://a/main"),
        ("url = \"redis-cluster://a,b\"", "redis-cluster://a,b"),
        ("url = \"rediss-cluster://:hunter2@a:1\"", "rediss-cluster://***@a:1"),
        ("urls = [\"redis://a\", \"rediss://:hunter2@b\"]", "redis://a rediss://***@b"),
        ("url = \"memory\"", ""),
    ] {
        let settings = file(&format!("[backplane]\n{text}")).good();
        let urls: Vec<_> = settings.backplane.redis().iter().map(ToString::to_string).collect();
        assert_eq!(urls.join(" "), shown);
        assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
    }
}

#[test]
fn everything_about_redis_is_read() {
    let start = file(
        "[backplane]\nurl = \"rediss-sentinel://a/main\"\nusername = \"skywave\"\nsentinel_username = \"watcher\"\n\
         sentinel_password_file = \"DIR/password\"\nca = \"DIR/ca.pem\"\ngeneration = \"run_id\"\n\
         [limits]\nnode_ring_bytes = \"64MiB\"",
    );
    fs::write(start.path("password"), "hunter2\n").unwrap();
    fs::write(start.path("ca.pem"), CERTIFICATE).unwrap();
    let settings = start.good();
    assert_eq!(settings.backplane.sentinel_username.as_deref(), Some("watcher"));
    assert_eq!(settings.backplane.sentinel_password.as_ref().unwrap().reveal(), "hunter2");
    assert_eq!(settings.backplane.ca.as_ref().unwrap().pem(), CERTIFICATE.as_bytes());
    assert_eq!(settings.backplane.generation, Generation::RunId);
    assert_eq!(settings.limits.node_ring_bytes, 64 << 20);
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn who_is_trusted_is_known_at_start() {
    let with = |content: Option<&str>, url: &str| {
        let start = file(&format!("[backplane]\nurl = \"{url}\"\nca = \"DIR/ca.pem\""));
        if let Some(content) = content {
            fs::write(start.path("ca.pem"), content).unwrap();
        }
        start.bad()
    };
    let key = "-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n";
    for content in ["", "hunter2", key, broken] {
        let bad = with(Some(content), "rediss://h");
        let place =
            "skywave.toml:3:1: backplane.ca: ca.pem holds no certificate, or a broken one: write the path of a PEM";
        assert!(bad.starts_with(place) && !bad.contains("hunter2"), "{bad}");
    }
    let bad = with(None, "rediss://h");
    assert_eq!(bad, "skywave.toml:3:1: backplane.ca: cannot read ca.pem: No such file or directory (os error 2)");
    for url in ["redis://h", "redis-cluster://h", "memory"] {
        let bad = with(Some(CERTIFICATE), url);
        let advice = "only TLS needs it, and no address of Redis begins with rediss; write rediss://…";
        assert_eq!(bad, format!("skywave.toml:3:1: backplane.ca: {advice}"));
    }
}

#[test]
fn a_higher_layer_says_anew_where_the_backplane_is() {
    let several = "[backplane]\nurls = [\"redis://a\", \"redis://b\"]";
    let settings = file(several).flags(|flags| flags.backplane = Some("memory".into())).good();
    assert!(settings.backplane.redis().is_empty());
    let settings = file(several).var("SKYWAVE__BACKPLANE__URL", "redis://c").good();
    assert_eq!(format!("{:?}", settings.backplane.redis()), "[redis://c]");
    let settings = file("[backplane]\nurl_file = \"DIR/none\"").var("SKYWAVE__BACKPLANE__URLS", "redis://a,redis://b");
    assert_eq!(format!("{:?}", settings.good().backplane.redis()), "[redis://a, redis://b]");
    let bad = start().var("SKYWAVE__BACKPLANE__URLS", "redis://a,hunter2@b").bad();
    assert!(
        bad.starts_with("environment variable SKYWAVE__BACKPLANE__URLS: backplane.urls.1: not a URL: write"),
        "{bad}"
    );
    assert!(!bad.contains("hunter2"), "{bad}");
    let both =
        start().var("SKYWAVE__BACKPLANE__URLS", "redis://a,redis://b").var("SKYWAVE__BACKPLANE__URL", "redis://c");
    let bad = both.bad();
    assert!(bad.ends_with("SKYWAVE__BACKPLANE__URLS: backplane.urls: `url` is set too; set one of them"), "{bad}");
}

#[test]
fn a_namespace_says_when_a_publication_counts_as_accepted() {
    let durability = |text: &str| {
        let file = file(&format!("[backplane]\nurl = \"redis://h\"\n[namespaces.chat]\ndurability = {text}"));
        file.load().map(|settings| settings.namespace("chat").unwrap().durability).map_err(|error| error.to_string())
    };
    assert_eq!(durability("\"accepted\""), Ok(Durability::Accepted));
    for (replicas, text, within_ms) in [(1, "1ms", 1), (2, "500ms", 500), (5, "10s", 10_000)] {
        let within = Duration::from_millis(within_ms);
        let written = format!("{{ replicated = {replicas}, within = \"{text}\" }}");
        assert_eq!(durability(&written), Ok(Durability::Replicated { replicas, within }));
    }
    let form = r#"write "accepted" or { replicated = 1, within = "500ms" }"#;
    for (text, message) in [
        (r#""replicated""#, format!("4:1: namespaces.chat.durability: \"replicated\" is not a durability: {form}")),
        ("1", "4:1: namespaces.chat.durability: invalid type: integer `1`, expected \"accepted\" or {".to_owned()),
        ("{ replicated = 1 }", "4:1: namespaces.chat.durability: missing field `within`".to_owned()),
        (r#"{ within = "1s" }"#, "4:1: namespaces.chat.durability: missing field `replicated`".to_owned()),
        (
            r#"{ replicated = 1, within = "1s", x = 1 }"#,
            "4:47: namespaces.chat.durability.x: unknown field `x`, expected `replicated` or `within`".to_owned(),
        ),
        (
            r#"{ replicated = 0, within = "1s" }"#,
            "4:16: namespaces.chat.durability.replicated: 0 is not one of 1 to 5 replicas".to_owned(),
        ),
        (
            r#"{ replicated = 6, within = "1s" }"#,
            "4:16: namespaces.chat.durability.replicated: 6 is not one of 1 to 5 replicas".to_owned(),
        ),
        (
            r#"{ replicated = 1, within = "0s" }"#,
            "4:32: namespaces.chat.durability.within: 0s is not one of 1ms to 10s".to_owned(),
        ),
        (
            r#"{ replicated = 1, within = "11s" }"#,
            "4:32: namespaces.chat.durability.within: 11s is not one of 1ms to 10s".to_owned(),
        ),
        (
            r#"{ replicated = 1, within = 500 }"#,
            "4:32: namespaces.chat.durability.within: 500 has no unit: write \"500s\" or \"500ms\"".to_owned(),
        ),
    ] {
        let bad = durability(text).unwrap_err();
        let told = bad.rsplit_once("skywave.toml:").unwrap().1;
        assert!(told.starts_with(&message), "{text}\n  is: {told}\n not: {message}");
    }
    let replicated = "{ replicated = 1, within = \"500ms\" }";
    let bad = file(&format!("[namespaces.chat]\ndurability = {replicated}")).bad();
    assert_eq!(
        bad,
        "skywave.toml:2:1: namespaces.chat.durability: the memory backplane has no replicas: write \"accepted\", or set \
         backplane.url to a Redis that has some"
    );
    let settings =
        start().var("SKYWAVE__BACKPLANE__URL", "redis://h").var("SKYWAVE__NAMESPACES__A__DURABILITY", replicated);
    assert_ne!(settings.good().namespace("a").unwrap().durability, Durability::Accepted);
}

#[test]
fn api_keys_are_told_apart() {
    let bad = file(
        r#"
[api]
keys = [
  { name = "a", key = "0123456789abcdef", scopes = ["read"] },
  { name = "a", key = "0123456789abcdef", scopes = [] },
  { name = "",  key = "hunter2", scopes = ["read"] },
  { name = "d", key = "hunter2 hunter2 hunter2", scopes = ["read"] },
]"#,
    )
    .bad();
    assert_eq!(
        bad,
        "skywave.toml:5:5: api.keys.1.name: \"a\" is the name of api.keys.0 too\n\
         skywave.toml:5:17: api.keys.1.key: is the key of api.keys.0 too: who of them called?\n\
         skywave.toml:5:43: api.keys.1.scopes: needs at least one of `publish`, `read`, `control`\n\
         skywave.toml:6:5: api.keys.2.name: has 1 to 64 bytes, no control characters\n\
         skywave.toml:6:17: api.keys.2.key: has 7 bytes and needs at least 16; `openssl rand -hex 16` makes one\n\
         skywave.toml:7:17: api.keys.3.key: has only visible ASCII characters and no spaces: it travels in a header"
    );
}

#[test]
fn webhooks_are_read_with_their_defaults() {
    assert_eq!(file("").good().webhooks, WebhookSettings::default());
    let start = file(
        "[webhooks.connect]\nurl_file = \"DIR/url\"\nsecret_file = \"DIR/secret\"\non_failure = \"allow\"\n\
         [webhooks.publish]\nurl = \"http://127.0.0.1:3000/hooks?key=hunter2\"\ntimeout = \"250ms\"\nretries = 2\n\
         namespaces = [\"chat\"]\nconcurrency = 8\n[webhooks.events]\nurl = \"http://localhost/\"\n[namespaces.chat]",
    );
    fs::write(start.path("url"), "https://hooks.example.com/T0/hunter2\n").unwrap();
    fs::write(start.path("secret"), "hunter2 hunter2 hunter2\n").unwrap();
    let settings = start.good();
    assert!(settings.warnings().is_empty());
    let hooks = &settings.webhooks;
    assert!(!format!("{hooks:?}").contains("hunter2"), "{hooks:?}");
    let connect = hooks.connect.as_ref().unwrap();
    assert_eq!(connect.url.reveal().as_str(), "https://hooks.example.com/T0/hunter2");
    assert_eq!(connect.secret.as_ref().unwrap().reveal(), "hunter2 hunter2 hunter2");
    assert_eq!((connect.timeout, connect.retries, connect.concurrency), (seconds(1), 0, 256));
    assert_eq!(connect.on_failure, OnFailure::Allow);
    let publish = hooks.publish.as_ref().unwrap();
    assert_eq!((publish.timeout, publish.retries, publish.concurrency), (Duration::from_millis(250), 2, 8));
    assert_eq!((publish.on_failure, &publish.secret), (OnFailure::Refuse, &None));
    assert_eq!(publish.namespaces, ["chat"]);
    let events = hooks.events.as_ref().unwrap();
    assert_eq!((events.timeout, events.debounce, events.give_up_after), (seconds(5), seconds(1), seconds(3600)));
    assert_eq!((events.batch, events.batch_wait), (100, Duration::from_millis(100)));
    assert_eq!((events.queue, events.queue_bytes), (10_000, 16 << 20));
    assert_eq!(events.types, EventType::ALL);
    assert!(hooks.subscribe.is_none() && hooks.rpc.is_none() && hooks.ca.is_none());
}

#[test]
fn webhooks_may_stand_in_the_environment() {
    let settings = file("[webhooks.events]\nurl_file = \"DIR/none\"\n[namespaces.a]\n[namespaces.b]")
        .var("SKYWAVE__WEBHOOKS__EVENTS__URL", "http://app:3000/")
        .var("SKYWAVE__WEBHOOKS__EVENTS__SECRET", "[0123456789abcdef]")
        .var("SKYWAVE__WEBHOOKS__EVENTS__TYPES", "member_joined, member_left")
        .var("SKYWAVE__WEBHOOKS__EVENTS__NAMESPACES", "a,b")
        .var("SKYWAVE__WEBHOOKS__EVENTS__QUEUE", "5")
        .good();
    let events = settings.webhooks.events.as_ref().unwrap();
    assert_eq!(events.secret.as_ref().unwrap().reveal(), "[0123456789abcdef]");
    assert_eq!(events.types, [EventType::MemberJoined, EventType::MemberLeft]);
    assert_eq!((&*events.namespaces, events.queue), (&["a".to_owned(), "b".to_owned()][..], 5));
    let warnings = settings.warnings();
    assert!(warnings.len() == 1 && warnings[0].starts_with("webhooks.events.url is http://app:3000: "), "{warnings:?}");
}

#[test]
fn a_mistake_in_a_webhook_is_named_without_its_secrets() {
    let hook = |name: &str, rest: &str| {
        let bad = file(&format!("[webhooks.{name}]\nurl = \"https://h/\"\n{rest}")).bad();
        assert!(!bad.contains("hunter2"), "{bad}");
        bad.strip_prefix("skywave.toml:").unwrap().to_owned()
    };
    for (name, rest, message) in [
        ("connect", "timeout = \"9ms\"", "3:1: webhooks.connect.timeout: 9ms is not one of 10ms to 30s"),
        ("connect", "timeout = \"31s\"", "3:1: webhooks.connect.timeout: 31s is not one of 10ms to 30s"),
        ("connect", "retries = 6", "3:1: webhooks.connect.retries: 6 is not one of 0 to 5"),
        ("connect", "concurrency = 0", "3:1: webhooks.connect.concurrency: 0 is not one of 1 to 10000"),
        ("connect", "secret = \"hunter2\"", "3:1: webhooks.connect.secret: has 7 bytes and needs at least 16; "),
        ("connect", "namespaces = [\"a\"]", "3:1: webhooks.connect.namespaces: a connect belongs to no namespace: "),
        ("connect", "on_failure = \"open\"", "3:1: webhooks.connect.on_failure: unknown variant `open`, expected "),
        (
            "connect",
            "secret = [\"hunter2\"]",
            "3:1: webhooks.connect.secret: invalid type: sequence, expected a string",
        ),
        ("rpc", "on_failure = \"allow\"", "3:1: webhooks.rpc.on_failure: \"allow\" has nothing to answer with here"),
        ("publish", "namespaces = [\"chat\"]", "3:15: webhooks.publish.namespaces.0: there is no [namespaces.chat]"),
        ("events", "debounce = \"2m\"", "3:1: webhooks.events.debounce: 2m is not one of 0s to 1m"),
        ("events", "batch = 0", "3:1: webhooks.events.batch: 0 is not one of 1 to 1000"),
        ("events", "batch_wait = \"11s\"", "3:1: webhooks.events.batch_wait: 11s is not one of 0s to 10s"),
        ("events", "give_up_after = \"0s\"", "3:1: webhooks.events.give_up_after: 0s is not one of 1s to 1day"),
        ("events", "queue = 0", "3:1: webhooks.events.queue: 0 is not one of 1 to 1000000"),
        ("events", "queue_bytes = 1", "3:1: webhooks.events.queue_bytes: 1 is not one of 4096 to "),
        ("events", "types = []", "3:1: webhooks.events.types: an empty list tells nothing"),
        ("events", "types = [\"member\"]", "3:10: webhooks.events.types.0: unknown variant `member`, expected one of "),
        ("events", "retries = 5", "3:1: webhooks.events.retries: unknown field `retries`, expected one of `url`"),
        ("event", "", "1:11: webhooks.event: unknown field `event`, expected one of `ca`, `connect`"),
    ] {
        let told = hook(name, rest);
        assert!(told.starts_with(message), "{name} {rest}\n  is: {told}\n not: {message}");
    }
    for url in ["https://u:hunter2@h/", "ftp://h/hunter2", "h/hunter2", "https://h/#hunter2"] {
        let bad = file(&format!("[webhooks.connect]\nurl = \"{url}\"")).bad();
        assert!(bad.starts_with("skywave.toml:2:1: webhooks.connect.url: not the address of a webhook ("), "{bad}");
        assert!(!bad.contains("hunter2"), "{bad}");
    }
    assert_eq!(
        file("[webhooks.connect]\nretries = 1").bad(),
        "skywave.toml:1:11: webhooks.connect: missing field `url`"
    );
    let ca = file("[webhooks]\nca = \"DIR/none\"").bad();
    assert!(ca.starts_with("skywave.toml:2:1: webhooks.ca: cannot read none: "), "{ca}");
}

#[test]
fn all_mistakes_are_shown_at_once_in_their_order() {
    let bad = file(
        "[timeouts]\npong = 5\nclose = \"3s\"\n[limits]\nfoo = 1\nconnections = 1.5\n\
         [[api.keys]]\nname = 5\n[node]\nlog = \"xml\"\n",
    )
    .var("SKYWAVE__DRAIN__GRACE", "5")
    .flags(|flags| flags.listen = vec!["x".into()])
    .bad();
    let places: Vec<_> = bad.lines().map(|line| line.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        places,
        [
            "skywave.toml:2:1: timeouts.pong",
            "skywave.toml:5:1: limits.foo",
            "skywave.toml:6:1: limits.connections",
            "skywave.toml:8:1: api.keys.0.name",
            "skywave.toml:10:1: node.log",
            "environment variable SKYWAVE__DRAIN__GRACE: drain.grace",
            "--listen: public.listen.0",
        ]
    );
}

#[test]
fn what_a_mistake_in_the_environment_is_answered() {
    let cases: &[(&str, &str, &str)] = &[
        ("LIMITS__CONNECTIONS", "many", "limits.connections: invalid type: string \"many\", expected a whole number"),
        ("LIMITS__CONNECTIONS", "1.5", "limits.connections: invalid type: floating point `1.5`, expected a whole"),
        ("LIMITS__CONNECTIONS", "true", "limits.connections: invalid type: boolean `true`, expected a whole number"),
        ("LIMITS__CONNECTIONS", "", "limits.connections: invalid type: string \"\", expected a whole number"),
        ("LIMITS__CONNECTIONS", "5\nx = 6", "limits.connections: invalid type: string \"5\\nx = 6\", expected"),
        ("LIMITS__OUTBOX_BYTES", "64K", "limits.outbox_bytes: \"64K\" is not a size"),
        ("TIMEOUTS__PINGG", "5s", "timeouts.pingg: unknown field `pingg`, expected one of `tls`, `handshake`, "),
        ("TIMEOUTS__PONG", "5", "timeouts.pong: 5 has no unit: write \"5s\" or \"5ms\""),
        ("AUTH__ANONYMOUS", "yes", "auth.anonymous: invalid type: string \"yes\", expected true or false"),
        ("AUTH__ANONYMOUS", "1", "auth.anonymous: invalid type: integer `1`, expected true or false"),
        ("NODE__LOG", "xml", "node.log: unknown variant `xml`, expected `text` or `json`"),
        ("PUBLIC__LISTEN", "127.0.0.1:1,x", "public.listen.1: \"x\" is not an IP address with a port"),
        ("PUBLIC__LISTEN", "", "public.listen: needs at least one address"),
        ("PUBLIC__TLS__KEY", "x", "public.tls: missing field `certificate`"),
        ("PUBLIC__TLS__PASSWORD", "x", "public.tls.password: unknown field `password`, expected one of `certificate`"),
        ("LIMITS", "5", "limits: invalid type: integer `5`, expected a table"),
        ("LIMITS_CONNECTIONS", "5", "limits_connections: unknown field `limits_connections`, expected one of `node`"),
        ("NAMESPACES__CHAT", "{ presense = true }", "namespaces.chat.presense: unknown field `presense`, expected"),
        ("NAMESPACES__CHAT__HISTORY__SIZE", "5", "namespaces.chat.history: `size` needs a `ttl`"),
        ("API__KEYS", "hunter2", "api.keys: invalid type: string, expected a list"),
        ("API__KEYS", "[hunter2", "api.keys: invalid type: string, expected a list"),
        ("API__KEYS__0__KEY", "hunter2", "api.keys: invalid type: map, expected a list"),
        ("AUTH__TOKENS__KEYS", "hunter2", "auth.tokens.keys: invalid type: string, expected a list"),
        (
            "AUTH__TOKENS__KEYS",
            "[{ alg = \"HS256\", secret = \"hunter2\" }]",
            "auth.tokens.keys.0.secret: has 7 bytes and",
        ),
        ("AUTH__TOKENS__JWKS_URL", "http://ada:hunter2@example.com", "auth.tokens.jwks_url: http only goes to this"),
        ("AUTH__TOKENS__LEEWAY", "30", "auth.tokens.leeway: 30 has no unit: write \"30s\" or \"30ms\""),
        ("BACKPLANE", "redis://:hunter2@h", "backplane: invalid type: string, expected a table"),
        ("BACKPLANE__URL", "redis://:hunter2@h/x", "backplane.url: not a Redis URL (only database 0 is used"),
        (
            "BACKPLANE__URLS",
            "redis://:hunter2@h,redis://:hunter2@h/x",
            "backplane.urls.1: not a Redis URL (only database",
        ),
        ("BACKPLANE__SENTINEL_PASSWORD", "hunter2", "backplane.sentinel_password: only sentinels need it"),
        ("", "x", "not the name of a setting: the shape is SKYWAVE__SECTION__KEY, with two underscores between"),
        ("LIMITS__", "x", "not the name of a setting: the shape is"),
        ("LIMITS____CONNECTIONS", "5", "not the name of a setting: the shape is"),
    ];
    for (name, value, message) in cases {
        let name = format!("SKYWAVE__{name}");
        let bad = start().var(&name, value).bad();
        assert!(bad.starts_with(&format!("environment variable {name}: {message}")), "{name}={value}\n  is: {bad}");
        assert_eq!(bad.lines().count(), 1, "{bad}");
        assert!(!bad.contains("hunter2"), "{bad}");
    }
}

#[test]
fn a_variable_that_is_not_text_is_refused() {
    let load = |name: &[u8], value: &[u8]| {
        let env = [(OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec()))];
        Settings::load(&Flags::default(), env).map_err(|error| error.to_string())
    };
    let bad = load(b"SKYWAVE__NODE__NAME", b"\xff").unwrap_err();
    assert_eq!(bad, "environment variable SKYWAVE__NODE__NAME: its value is not UTF-8");
    let bad = load(b"SKYWAVE__NODE__\xff", b"x").unwrap_err();
    assert_eq!(bad, "environment variable SKYWAVE__NODE__\u{fffd}: its name is not UTF-8");
    assert!(load(b"OTHER", b"\xff").unwrap().development());
}

#[test]
fn two_variables_for_one_setting_are_refused() {
    let bad = start().var("SKYWAVE__NODE__NAME", "a").var("SKYWAVE__node__NAME", "b").bad();
    assert_eq!(
        bad,
        "environment variable SKYWAVE__node__NAME: node.name: also set by environment variable SKYWAVE__NODE__NAME; \
         set one of them"
    );
    let bad = start().var("SKYWAVE__LIMITS", "5").var("SKYWAVE__LIMITS__CONNECTIONS", "5").bad();
    assert!(bad.contains("SKYWAVE__LIMITS__CONNECTIONS: limits.connections: also set by"), "{bad}");
}

#[test]
fn what_a_mistake_in_a_flag_is_answered() {
    let bad = start().flags(|flags| flags.listen = vec!["127.0.0.1:1".into(), "here".into()]).bad();
    assert!(bad.starts_with("--listen: public.listen.1: \"here\" is not an IP address with a port: "), "{bad}");
    let bad = start().flags(|flags| flags.internal_listen = vec!["8001".into()]).bad();
    assert!(bad.starts_with("--internal-listen: internal.listen.0: \"8001\" is not an IP address"), "{bad}");
    let bad = start().flags(|flags| flags.name = Some("a/b".into())).bad();
    assert!(bad.starts_with("--name: node.name: has 1 to 64 letters"), "{bad}");
    let bad = start().flags(|flags| flags.backplane = Some("kafka://x".into())).bad();
    assert!(bad.starts_with("--backplane: backplane.url: unknown scheme `kafka://`: write memory"), "{bad}");
    let bad = start().flags(|flags| flags.listen = vec!["127.0.0.1:8001".into()]).bad();
    assert!(bad.starts_with("--listen: public.listen: 127.0.0.1:8001 collides with"), "{bad}");

    let start = start();
    let flags = Flags { config: Some(start.path("none.toml")), ..Flags::default() };
    let error = Settings::load(&flags, none()).unwrap_err();
    assert_eq!(error.problems()[0].place, Place::Flag("--config".into()));
    assert!(error.to_string().ends_with("none.toml: No such file or directory (os error 2)"), "{error}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let settings = file(
        "[node]\nname = \"file\"\n[public]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n\
         [limits]\nconnections = 1\nchannels_per_connection = 1\n\
         [namespaces.chat]\npresence = true\nhistory = { size = 5, ttl = \"1m\" }",
    )
    .var("SKYWAVE__NODE__NAME", "environment")
    .var("SKYWAVE__LIMITS__CONNECTIONS", "2")
    .var("SKYWAVE__PUBLIC__LISTEN", "127.0.0.1:3")
    .var("SKYWAVE__NAMESPACES__CHAT__HISTORY", "{ size = 6 }")
    .flags(|flags| flags.name = Some("flag".into()))
    .good();
    assert_eq!(settings.node.name, "flag");
    assert_eq!(settings.limits.connections, NonZeroU32::new(2));
    assert_eq!(settings.limits.channels_per_connection, NonZeroU32::new(1));
    assert_eq!(settings.public.listen, ["127.0.0.1:3".parse().unwrap()]);
    let chat = settings.namespace("chat").unwrap();
    assert!(chat.presence);
    assert_eq!(chat.history.map(|history| (history.size, history.ttl)), Some((6, seconds(60))));
}

#[test]
fn a_variable_means_what_the_schema_says() {
    let settings = start()
        .var("SKYWAVE__NODE__NAME", "007")
        .var("SKYWAVE__NODE__SHARDS", "2")
        .var("SKYWAVE__AUTH__ANONYMOUS", "true")
        .var("SKYWAVE__BACKPLANE__URL", "redis://a")
        .var("SKYWAVE__BACKPLANE__PASSWORD", "[\"a\"]")
        .var("SKYWAVE__BACKPLANE__USERNAME", "true")
        .var("SKYWAVE__LIMITS__OUTBOX_BYTES", "4096")
        .var("SKYWAVE__LIMITS__MESSAGE_BYTES", "2MiB")
        .var("SKYWAVE__TIMEOUTS__PONG", "7s")
        .var("SKYWAVE__PUBLIC__LISTEN", "127.0.0.1:1, 127.0.0.1:2")
        .var("SKYWAVE__PUBLIC__ORIGINS", "https://a.com")
        .var("SKYWAVE__INTERNAL__LISTEN", r#"["127.0.0.1:3", "127.0.0.1:4"]"#)
        .var("SKYWAVE__API__KEYS", r#"[{ name = "a", key = "0123456789abcdef", scopes = ["read"] }]"#)
        .var("SKYWAVE__NAMESPACES__GAME_ROOM__PRESENCE", "true")
        .var("SKYWAVE__NAMESPACES__CHAT", r#"{ subscribe = "anyone", history = { size = 1, ttl = "1m" } }"#)
        .var("SKYWAVE__NAMESPACES__CHAT__PUBLISH", "anyone")
        .var("SKYWAVE__NAMESPACES__EMPTY", "{}")
        .var("SKYWAVE_KEY", "not ours")
        .good();
    assert_eq!((settings.node.name.as_str(), settings.node.shards), ("007", 2));
    assert!(settings.auth.anonymous);
    assert_eq!(settings.backplane.password.as_ref().unwrap().reveal(), "[\"a\"]");
    assert_eq!(settings.backplane.username.as_deref(), Some("true"));
    assert_eq!((settings.limits.outbox_bytes, settings.limits.message_bytes), (4096, 2 << 20));
    assert_eq!(settings.timeouts.pong, seconds(7));
    assert_eq!(settings.public.listen.len(), 2);
    assert!(settings.public.origins[0].matches("https://a.com"));
    assert_eq!(settings.internal.listen.len(), 2);
    assert_eq!(settings.api.keys[0].name, "a");
    assert!(settings.namespace("game_room").unwrap().presence);
    let chat = settings.namespace("chat").unwrap();
    assert_eq!((chat.subscribe, chat.publish), (SubscribeRight::Anyone, PublishRight::Anyone));
    assert_eq!(chat.history.unwrap().size, 1);
    assert_eq!(settings.namespace("empty"), Some(&Namespace::default()));
}

#[test]
fn nothing_configured_is_development_mode_and_anything_ends_it() {
    assert!(start().good().development());
    assert!(start().var("SKYWAVE_KEY", "x").good().development());
    assert!(start().flags(|flags| flags.backplane = Some("memory".into())).good().development());
    assert!(start().flags(|flags| flags.name = Some("a".into())).good().development());
    assert!(start().flags(|flags| flags.listen = vec!["0.0.0.0:1".into()]).good().development());

    assert!(!file("").good().development());
    assert!(!start().var("SKYWAVE__NODE__NAME", "a").good().development());
    assert!(!start().flags(|flags| flags.backplane = Some("redis://h".into())).good().development());

    let dev = |flags: &mut Flags| flags.dev = true;
    assert!(file("").flags(dev).good().development());
    assert!(start().var("SKYWAVE__BACKPLANE__URL", "redis://h").flags(dev).good().development());
}

#[test]
fn development_mode_is_open_on_loopback() {
    let settings = start().good();
    assert_eq!(settings.public.listen, ["127.0.0.1:8000".parse().unwrap()]);
    assert_eq!(settings.internal.listen, ["127.0.0.1:8001".parse().unwrap()]);
    assert!(settings.auth.anonymous && settings.demo.enabled);
    let expected = Namespace {
        history: Some(HistoryPolicy { size: 100, ttl: seconds(600), meta_ttl: seconds(86_400) }),
        presence: true,
        durability: Durability::Accepted,
        publish: PublishRight::Subscribers,
        subscribe: SubscribeRight::Anyone,
        slow_consumer: SlowConsumer::Disconnect,
        flush_interval: Duration::ZERO,
    };
    for name in ["default", "chat", "whatever"] {
        assert_eq!(settings.namespace(name), Some(&expected), "{name}");
    }
    assert!(settings.namespace("#user").is_some(), "personal channels are open to their users");
    assert_eq!(settings.namespace("#users"), None);
    assert!(settings.warnings().is_empty());
}

#[test]
fn development_mode_limits_no_rate_that_nobody_limited() {
    let limits = start().good().limits;
    let rates = [limits.handshakes_per_second, limits.new_channels_per_minute, limits.commands_per_second];
    assert_eq!((rates, limits.publications_per_second, limits.bytes_per_second), ([None; 3], None, None));
    assert_eq!((limits.overload_memory, limits.overload_lag), (0.0, seconds(0)));
    let limits =
        file("[limits]\ncommands_per_second = 5\noverload_memory = 0.5").flags(|flags| flags.dev = true).good().limits;
    assert_eq!((limits.commands_per_second, limits.overload_memory), (NonZeroU32::new(5), 0.5));
}

#[test]
fn what_is_configured_wins_over_development_mode() {
    let settings = file(
        "[auth]\nanonymous = false\n[demo]\nenabled = false\n[public]\nlisten = [\"127.0.0.1:9\"]\n\
         [namespaces.default]\npresence = false\n[namespaces.chat]\npublish = \"nobody\"",
    )
    .flags(|flags| flags.dev = true)
    .good();
    assert!(!settings.auth.anonymous && !settings.demo.enabled);
    assert_eq!(settings.public.listen, ["127.0.0.1:9".parse().unwrap()]);
    let fallback = settings.namespace("other").unwrap();
    assert!(!fallback.presence);
    assert_eq!(fallback.history.unwrap().size, 100);
    assert_eq!(
        settings.namespace("chat"),
        Some(&Namespace { publish: PublishRight::Nobody, ..Namespace::default() }),
        "a configured namespace takes nothing from development mode"
    );
}

#[test]
fn development_mode_on_an_open_address_is_allowed_with_a_warning() {
    let settings = start().flags(|flags| flags.listen = vec!["0.0.0.0:8000".into(), "[::1]:8000".into()]).good();
    let warnings = settings.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("development mode on public.listen 0.0.0.0:8000: "), "{warnings:?}");
    let settings = start().flags(|flags| flags.internal_listen = vec!["0.0.0.0:8001".into()]).good();
    assert_eq!(settings.warnings().len(), 1);
    assert!(file("").good().warnings().is_empty());
}

#[test]
fn secrets_and_urls_may_stand_in_files() {
    let start = file(
        "[node]\nsecret_file = \"DIR/secret\"\n[backplane]\nurl_file = \"DIR/url\"\npassword_file = \"DIR/password\"\n\
         [[api.keys]]\nname = \"a\"\nkey_file = \"DIR/key\"\nscopes = [\"read\"]",
    );
    fs::write(start.path("secret"), format!("{SECRET}\n")).unwrap();
    fs::write(start.path("url"), "redis://h:1\r\n").unwrap();
    fs::write(start.path("password"), "two words \n\n").unwrap();
    fs::write(start.path("key"), "0123456789abcdef").unwrap();
    let settings = start.good();
    assert_eq!(settings.node.secret.as_ref().unwrap().reveal(), SECRET);
    assert_eq!(settings.backplane.redis()[0].reveal(), "redis://h:1");
    assert_eq!(settings.backplane.password.as_ref().unwrap().reveal(), "two words \n");
    assert_eq!(settings.api.keys[0].key.reveal(), "0123456789abcdef");
}

#[test]
fn a_file_that_is_missing_or_wrong_is_named() {
    let bad = file("[node]\nsecret_file = \"DIR/none\"").bad();
    assert_eq!(
        bad,
        "skywave.toml:2:1: node.secret_file: is the path of a file, and that cannot be read: No such file or directory (os error 2)"
    );
    let bad = file("[[api.keys]]\nname = \"a\"\nkey_file = \"DIR/none\"\nscopes = [\"read\"]").bad();
    assert!(
        bad.starts_with("skywave.toml:3:1: api.keys.0.key_file: is the path of a file, and that cannot be read: "),
        "{bad}"
    );
    let bad = file("[node]\nsecret_file = 5").bad();
    assert_eq!(bad, "skywave.toml:2:1: node.secret_file: invalid type: integer `5`, expected a string");
    let bad = start().var("SKYWAVE__BACKPLANE__URL_FILE", "DIR/none").bad();
    assert!(
        bad.starts_with("environment variable SKYWAVE__BACKPLANE__URL_FILE: backplane.url_file: is the path"),
        "{bad}"
    );

    let start = file("[node]\nsecret_file = \"DIR/secret\"");
    fs::write(start.path("secret"), "short\n").unwrap();
    let bad = start.bad();
    assert!(bad.starts_with("skywave.toml:2:1: node.secret: has 5 bytes and needs at least 32"), "{bad}");
}

#[test]
fn a_secret_stands_in_one_place_of_a_layer() {
    let bad = file(&format!("[node]\nsecret = \"{SECRET}\"\nsecret_file = \"DIR/secret\"")).bad();
    assert_eq!(bad, "skywave.toml:3:1: node.secret_file: `secret` is set too; set one of them");
    let bad = file("[api]\nkeys = [{ name = \"a\", key = \"hunter2\", key_file = \"x\", scopes = [\"read\"] }]").bad();
    assert_eq!(bad, "skywave.toml:2:40: api.keys.0.key_file: `key` is set too; set one of them");
}

#[test]
fn a_higher_layer_replaces_the_twin_of_a_lower_one() {
    let settings = file("[node]\nsecret_file = \"DIR/none\"\n[backplane]\nurl_file = \"DIR/none\"")
        .var("SKYWAVE__NODE__SECRET", SECRET)
        .flags(|flags| flags.backplane = Some("memory".into()))
        .good();
    assert_eq!(settings.node.secret.as_ref().unwrap().reveal(), SECRET);
    assert_eq!(settings.backplane.url, BackplaneUrl::Memory);

    let start = file(&format!("[node]\nsecret = \"{SECRET}\"")).var("SKYWAVE__NODE__SECRET_FILE", "DIR/secret");
    fs::write(start.path("secret"), "short").unwrap();
    let bad = start.bad();
    assert!(bad.starts_with("environment variable SKYWAVE__NODE__SECRET_FILE: node.secret: has 5 bytes"), "{bad}");
}

#[test]
fn printed_settings_hide_what_nobody_may_read() {
    let settings = file(&format!(
        "[node]\nsecret = \"{SECRET}\"\n[backplane]\nurl = \"redis://ada:hunter2@h\"\n\
         [[api.keys]]\nname = \"a\"\nkey = \"hunter2-hunter2-hunter2\"\nscopes = [\"read\"]"
    ))
    .good();
    let shown = format!("{settings:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(SECRET), "{shown}");
    assert!(shown.contains("redis://***@h"), "{shown}");
    let flags = Flags { backplane: Some("redis://:hunter2@h".into()), ..Flags::default() };
    assert!(!format!("{flags:?}").contains("hunter2"));
}

#[test]
fn a_mistyped_secret_is_not_repeated() {
    for text in [
        "[node]\nsecret = 123456789",
        "[backplane]\npassword = 123456789",
        "[backplane]\nsentinel_password = 123456789",
        "[backplane]\nurls = [123456789]",
        "[api]\nkeys = [123456789]",
        "[api]\nkeys = [{ name = \"a\", key = 123456789, scopes = [] }]",
        "[[api.keys]]\nname = \"a\"\nkey = \"123456789\"\nscopes = [\"read\"]",
        "[auth]\ntokens = 123456789",
        "[auth.tokens]\nkeys = [123456789]",
        "[auth.tokens]\nkeys = [{ alg = \"HS256\", secret = 123456789 }]",
        "[auth.tokens]\nkeys = [{ alg = \"HS256\", secret = \"123456789\" }]",
        "[auth.tokens]\nkeys = [{ alg = \"ES256\", public_key = \"123456789\" }]",
        "[auth.tokens]\nkeys = [{ alg = \"ES256\", public_key = 123456789 }]",
        "[auth.tokens]\njwks_url = 123456789",
        "[auth.tokens]\njwks_url = \"http://123456789\"",
    ] {
        let bad = file(text).bad();
        assert!(!bad.contains("123456789"), "{bad}");
    }
}

#[test]
fn a_node_without_a_name_gets_a_new_one_each_time() {
    let (a, b) = (start().good().node.name, start().good().node.name);
    assert_ne!(a, b);
    for name in [a, b] {
        let (host, letters) = name.rsplit_once('-').unwrap();
        assert!(!host.is_empty() && letters.len() == 4, "{name}");
        assert!(start().flags(|flags| flags.name = Some(name)).load().is_ok());
    }
}

#[test]
fn check_says_what_it_read() {
    let start = file("[node]\nname = \"a\"");
    let path = start.path("skywave.toml").display().to_string();
    assert_eq!(config::check(&start.flags, none()).unwrap(), format!("{path}: ok"));
    let flags = Flags { listen: vec!["0.0.0.0:1".into()], ..Flags::default() };
    let said = config::check(&flags, none()).unwrap();
    assert!(
        said.starts_with("no configuration file: ok\nwarning: development mode on public.listen 0.0.0.0:1"),
        "{said}"
    );
    let flags = Flags { name: Some(String::new()), ..Flags::default() };
    assert!(config::check(&flags, none()).is_err());
}

#[test]
fn flags_are_read_from_the_command_line() {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }
    let line =
        ["skywave", "--config", "f", "--name", "n", "--listen", "a,b", "--listen", "c", "--internal-listen", "d"];
    let line = line.into_iter().chain(["--backplane", "memory", "--dev"]);
    let Line { flags } = <Line as clap::Parser>::parse_from(line);
    let expected = Flags {
        config: Some("f".into()),
        name: Some("n".into()),
        listen: vec!["a".into(), "b".into(), "c".into()],
        internal_listen: vec!["d".into()],
        backplane: Some("memory".into()),
        dev: true,
    };
    assert_eq!(flags, expected);
}

proptest! {
    #[test]
    fn no_variable_makes_it_panic_or_turn_for_ever(
        variables in prop::collection::vec(
            ("(NODE|PUBLIC|LIMITS|API|BACKPLANE|NAMESPACES|[A-Z.]{0,3})(__(NAME|LISTEN|KEYS|URL|X|0|[a-z_.]{0,3})){0,3}",
             r#"[\[{"]?([a-z0-9=" ,.\]}:/@-]|PC){0,12}"#),
            0..4,
        ),
    ) {
        let env = variables.into_iter().map(|(name, value)| (format!("SKYWAVE__{name}"), value));
        if let Err(error) = Settings::load(&Flags::default(), env) {
            prop_assert!(!error.problems().is_empty());
        }
    }

    #[test]
    fn no_file_makes_it_panic_or_turn_for_ever(
        lines in prop::collection::vec(
            ("(\\[(node|api|limits|namespaces\\.x)\\]|\\[\\[api.keys\\]\\]|name|keys|shards|history|size|public.listen)",
             r#"(| = (5|"5"|true|1.5|\[\]|\[5, "x"\]|\{\}|\{ size = 5, ttl = "1m" \}|nan|2020-01-01|\[\[\{ a = \[1\] \}\]\]))"#),
            0..6,
        ),
    ) {
        let text: String = lines.into_iter().map(|(key, value)| format!("{key}{value}\n")).collect();
        if let Err(error) = file(&text).load() {
            prop_assert!(!error.problems().is_empty());
        }
    }
}

#[test]
fn tls_and_proxies_are_read_and_checked() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let with = |text: &str| {
        let file = file(text);
        for (name, content) in [
            ("tls.crt", made.cert.pem()),
            ("tls.key", made.signing_key.serialize_pem()),
            ("other.key", other.signing_key.serialize_pem()),
        ] {
            fs::write(file.path(name), content).unwrap();
        }
        file
    };
    let tls = r#"tls = { certificate = "DIR/tls.crt", key = "DIR/tls.key", client_ca = "DIR/tls.crt" }"#;
    let proxies = r#"trusted_proxies = ["10.0.0.0/8", "::1"]"#;
    let settings = with(&format!(
        "[public]\n{tls}\n{proxies}\nproxy_protocol = \"v2\"\n[internal]\n{tls}\n[timeouts]\ntls = \"1s\""
    ))
    .good();
    assert!(settings.public.tls.unwrap().client_ca.is_some() && settings.internal.tls.is_some());
    assert_eq!(
        settings.public.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "::1/128"]
    );
    assert_eq!((settings.public.proxy_protocol, settings.timeouts.tls), (ProxyProtocol::V2, seconds(1)));

    let pair =
        |certificate: &str, key: &str| format!("[public]\ntls = {{ certificate = {certificate:?}, key = {key:?} }}");
    for (text, message) in [
        (
            pair("DIR/tls.crt", "DIR/other.key"),
            "public.tls.key: other.key is not the key of the first certificate in tls.crt",
        ),
        (pair("DIR/tls.key", "DIR/tls.key"), "public.tls.certificate: tls.key holds no certificate"),
        (pair("DIR/none", "DIR/tls.key"), "public.tls.certificate: cannot read none: "),
        (
            pair("DIR/tls.crt", "-----BEGIN PRIVATE KEY-----hunter2"),
            "public.tls.key: is the path of a PEM file, not what",
        ),
        ("[internal]\ntls = { key = \"x\" }".to_owned(), "internal.tls: missing field `certificate`"),
        ("[public]\nproxy_protocol = \"v2\"".to_owned(), "public.proxy_protocol: \"v2\" lets in only the proxies of"),
        (
            "[public]\nproxy_protocol = \"v1\"".to_owned(),
            "public.proxy_protocol: unknown variant `v1`, expected `off` or `v2`",
        ),
        (
            "[public]\ntrusted_proxies = [\"10.0.0.1/8\"]".to_owned(),
            "public.trusted_proxies.0: \"10.0.0.1/8\" is no network",
        ),
        ("[timeouts]\ntls = \"0s\"".to_owned(), "timeouts.tls: must be more than 0s"),
    ] {
        let bad = with(&text).bad();
        assert!(bad.contains(message) && !bad.contains("hunter2"), "{text}\n  is: {bad}");
    }
    let everybody = with("[public]\ntrusted_proxies = [\"0.0.0.0/0\"]").good().warnings();
    assert!(everybody.len() == 1 && everybody[0].contains("0.0.0.0/0"), "{everybody:?}");
    let bad = start().var("SKYWAVE__PUBLIC__TRUSTED_PROXIES", "10.0.0.0/8,proxy").bad();
    assert!(bad.contains("public.trusted_proxies.1: \"proxy\" is no network"), "{bad}");
}

#[test]
fn token_keys_are_read_from_texts_and_files() {
    let (ec, ed) = (key_pair(&rcgen::PKCS_ECDSA_P256_SHA256), key_pair(&rcgen::PKCS_ED25519));
    let site = file(&format!(
        r#"
[auth.tokens]
keys = [
  {{ alg = "HS256", secret = "{SECRET}", kid = "old" }},
  {{ alg = "HS256", secret_file = "DIR/secret", kid = "new" }},
  {{ alg = "ES256", public_key_file = "DIR/ec.pem" }},
  {{ alg = "EdDSA", public_key = """
{}""" }},
]
jwks_url_file = "DIR/url"
jwks_refresh = "1m"
issuer = "https://id.example.com"
audience = ["a", "b"]
leeway = "5s"
require_expiry = false
cookie = "session"
"#,
        ed.public_key_pem()
    ));
    fs::write(site.path("secret"), format!("{SECRET}2\n")).unwrap();
    fs::write(site.path("ec.pem"), ec.public_key_pem()).unwrap();
    fs::write(site.path("url"), "https://id.example.com/jwks.json\n").unwrap();
    let settings = site.good();
    assert!(settings.warnings().is_empty());
    let tokens = settings.auth.tokens;
    let algorithms: Vec<_> = tokens.keys.iter().map(|key| key.alg).collect();
    use TokenAlgorithm::{EdDsa, Es256, Hs256};
    assert_eq!(algorithms, [Hs256, Hs256, Es256, EdDsa]);
    assert_eq!(tokens.keys[1].secret.as_ref().unwrap().reveal(), format!("{SECRET}2"));
    assert_eq!(tokens.jwks_url.as_ref().unwrap().reveal(), "https://id.example.com/jwks.json");
    assert_eq!((tokens.jwks_refresh, tokens.leeway), (seconds(60), seconds(5)));
    assert_eq!((tokens.issuer.as_deref(), tokens.cookie.as_deref()), (Some("https://id.example.com"), Some("session")));
    assert_eq!(tokens.audience, ["a", "b"]);
    assert!(!tokens.require_expiry && tokens.can_check());
    assert!(!format!("{tokens:?}").contains(SECRET));

    let default = start().good().auth.tokens;
    assert!(default.require_expiry && !default.can_check());
    assert_eq!((default.leeway, default.jwks_refresh), (seconds(30), seconds(300)));

    let settings = start().var("SKYWAVE__AUTH__TOKENS__JWKS_URL", "https://id.example.com/").good();
    let warnings = settings.warnings();
    assert!(warnings.iter().any(|line| line.contains("audience")), "{warnings:?}");
    let settings = start()
        .var("SKYWAVE__AUTH__TOKENS__KEYS", &format!("[{{ alg = \"HS256\", secret = \"{SECRET}\" }}]"))
        .var("SKYWAVE__AUTH__TOKENS__AUDIENCE", "a")
        .good();
    assert_eq!(settings.auth.tokens.audience, ["a"]);
}

fn key_pair(alg: &'static rcgen::SignatureAlgorithm) -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(alg).unwrap()
}

#[test]
fn a_token_key_that_is_none_is_refused_where_it_stands() {
    let pairs = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519].map(key_pair);
    let [ec, ec384, ed] = &pairs;
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let key = |alg: &str, name: &str, value: &str| {
        format!("[[auth.tokens.keys]]\nalg = \"{alg}\"\n{name} = \"\"\"{value}\"\"\"")
    };
    let half = ec
        .public_key_pem()
        .lines()
        .enumerate()
        .filter(|(n, _)| *n != 1)
        .map(|(_, l)| format!("{l}\n"))
        .collect::<String>();
    for (text, message) in [
        (key("HS256", "secret", "short"), "3:1: auth.tokens.keys.0.secret: has 5 bytes and HS256 needs at least 32"),
        (key("HS512", "secret", SECRET), "3:1: auth.tokens.keys.0.secret: has "),
        (key("HS256", "secret", ""), "3:1: auth.tokens.keys.0.secret: missing or empty"),
        (
            key("HS256", "secret", &ec.public_key_pem()),
            "3:1: auth.tokens.keys.0.secret: is a key in PEM, and HS256 needs a secret",
        ),
        (key("HS256", "secret", &certificate), "3:1: auth.tokens.keys.0.secret: is a key in PEM"),
        (key("HS256", "public_key", &ec.public_key_pem()), "3:1: auth.tokens.keys.0.public_key: HS256 needs a secret"),
        (key("ES256", "secret", SECRET), "3:1: auth.tokens.keys.0.secret: ES256 has no secret"),
        (key("ES256", "public_key", "x"), "3:1: auth.tokens.keys.0.public_key: is no public key in PEM"),
        (
            key("ES256", "public_key", &half),
            "3:1: auth.tokens.keys.0.public_key: is broken, or not an elliptic curve key",
        ),
        (key("ES256", "public_key", &ec.serialize_pem()), "3:1: auth.tokens.keys.0.public_key: is a private key"),
        (key("ES256", "public_key", &certificate), "3:1: auth.tokens.keys.0.public_key: is a certificate"),
        (
            key("ES256", "public_key", &ec384.public_key_pem()),
            "3:1: auth.tokens.keys.0.public_key: is on the curve P384",
        ),
        (key("ES384", "public_key", &ec.public_key_pem()), "3:1: auth.tokens.keys.0.public_key: is on the curve P256"),
        (
            key("ES256", "public_key", &ed.public_key_pem()),
            "3:1: auth.tokens.keys.0.public_key: is broken, or not an ell",
        ),
        (
            key("EdDSA", "public_key", &ec.public_key_pem()),
            "3:1: auth.tokens.keys.0.public_key: is broken, or not an Ed25519",
        ),
        (
            key("RS256", "public_key", &ec.public_key_pem()),
            "3:1: auth.tokens.keys.0.public_key: is broken, or not an RSA",
        ),
        (
            key("none", "secret", SECRET),
            "2:1: auth.tokens.keys.0.alg: unknown variant `none`, expected one of `HS256`, ",
        ),
        (key("hs256", "secret", SECRET), "2:1: auth.tokens.keys.0.alg: unknown variant `hs256`"),
        ("[[auth.tokens.keys]]\nalg = \"HS256\"".to_owned(), "1:1: auth.tokens.keys.0.secret: missing: set `secret`"),
        (
            "[[auth.tokens.keys]]\nalg = \"RS256\"".to_owned(),
            "1:1: auth.tokens.keys.0.public_key: missing: set `public_key`",
        ),
        (
            format!("{}\npublic_key = \"x\"", key("HS256", "secret", SECRET)),
            "4:1: auth.tokens.keys.0.public_key: `secret` is set too; set one of them",
        ),
        (
            format!("{}\nsecret_file = \"x\"", key("HS256", "secret", SECRET)),
            "4:1: auth.tokens.keys.0.secret_file: `secret` is set too; set one of them",
        ),
        (
            "[[auth.tokens.keys]]\nalg = \"ES256\"\npublic_key_file = \"DIR/none\"".to_owned(),
            "3:1: auth.tokens.keys.0.public_key_file: is the path of a file, and that cannot be read: ",
        ),
        (
            [key("HS256", "secret", SECRET), key("HS384", "secret", &SECRET.repeat(2))]
                .map(|key| key + "\nkid = \"a\"")
                .join("\n"),
            "8:1: auth.tokens.keys.1.kid: \"a\" is the name of auth.tokens.keys.0 too",
        ),
        (format!("{}\nkid = \"\"", key("HS256", "secret", SECRET)), "4:1: auth.tokens.keys.0.kid: has 1 to 255 bytes"),
        ((0..17).map(|_| key("HS256", "secret", SECRET) + "\n").collect(), " auth.tokens.keys: 17 are more than 16"),
        ("[auth.tokens]\nissuer = \"x\"".to_owned(), "2:1: auth.tokens.issuer: no token can be checked"),
        ("[auth.tokens]\naudience = \"x\"".to_owned(), "2:1: auth.tokens.audience: no token can be checked"),
        (
            "[auth.tokens]\naudience = [5]".to_owned(),
            "2:13: auth.tokens.audience.0: invalid type: integer, expected a string",
        ),
        (
            "[auth.tokens]\naudience = 5".to_owned(),
            "2:1: auth.tokens.audience: invalid type: integer, expected a string or a",
        ),
        ("[auth.tokens]\nleeway = \"6m\"".to_owned(), "2:1: auth.tokens.leeway: 6m is more than 5m"),
        (
            "[auth.tokens]\njwks_refresh = \"1s\"".to_owned(),
            "2:1: auth.tokens.jwks_refresh: 1s is not one of 10s to 1day",
        ),
        (
            "[auth.tokens]\njwks_url = \"http://id.example.com\"".to_owned(),
            "2:1: auth.tokens.jwks_url: http only goes to this",
        ),
        ("[auth.tokens]\ncookie = \"a b\"".to_owned(), "2:1: auth.tokens.cookie: "),
        (
            "[auth.tokens]\nkey = []".to_owned(),
            "2:1: auth.tokens.key: unknown field `key`, expected one of `keys`, `jwks_url`",
        ),
    ] {
        let bad = file(&text).bad();
        assert!(bad.contains(message), "{text}\n  is: {bad}");
        for part in [SECRET, "PRIVATE", "MII"] {
            assert!(!bad.contains(part), "{bad}");
        }
    }
}

/// Who writes the secret itself where its file belongs does not find it in a log.
#[test]
fn what_stands_in_the_place_of_a_path_is_not_repeated() {
    let pem = "\"\"\"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\"\"\"";
    for (section, key) in [
        ("[node]", "secret_file"),
        ("[backplane]", "password_file"),
        ("[webhooks.rpc]", "url_file"),
        ("[webhooks.events]\nurl = \"https://h/\"", "secret_file"),
        ("[webhooks]", "ca"),
        ("[auth.tokens]", "jwks_url_file"),
        ("[[auth.tokens.keys]]\nalg = \"ES256\"", "public_key_file"),
        ("[[api.keys]]\nname = \"a\"\nscopes = [\"read\"]", "key_file"),
    ] {
        for value in [pem, "\"0123456789-hunter2\""] {
            // The path of certificates is no secret.
            if key == "ca" && value != pem {
                continue;
            }
            let error = file(&format!("{section}\n{key} = {value}")).bad();
            assert!(error.contains("path of a") && !error.contains("hunter2"), "{section} {key}: {error}");
        }
    }
}
