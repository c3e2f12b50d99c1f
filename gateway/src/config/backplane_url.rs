//! Where the backplane is.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use skywave_backplane::RedisOptions;

use super::{secret::fingerprint, written::written_as};

/// Where the backplane is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackplaneUrl {
    /// In this process.
    Memory,
    /// One Redis, or the way to one, or a cluster of them.
    Redis(RedisUrl),
}

/// `redis://[user[:password]@]host[:port][/0]`, `redis-sentinel://…host,…/name` or `redis-cluster://…host,…`, each also with
/// `rediss` for TLS. `Display` and `Debug` hide user and password: a password alone is easily written where the user
/// belongs.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    scheme: Scheme,
    text: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scheme {
    name: &'static str,
    kind: Kind,
    tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Sentinel,
    Cluster,
}

const SCHEMES: [Scheme; 6] = [
    Scheme { name: "redis", kind: Kind::Single, tls: false },
    Scheme { name: "rediss", kind: Kind::Single, tls: true },
    Scheme { name: "redis-sentinel", kind: Kind::Sentinel, tls: false },
    Scheme { name: "rediss-sentinel", kind: Kind::Sentinel, tls: true },
    Scheme { name: "redis-cluster", kind: Kind::Cluster, tls: false },
    Scheme { name: "rediss-cluster", kind: Kind::Cluster, tls: true },
];

const KNOWN: &str =
    "redis://host:6379, redis-sentinel://host:26379,…/name or redis-cluster://host:6379,…, with rediss for TLS";

impl BackplaneUrl {
    /// Checks a URL; the only way in.
    ///
    /// # Errors
    /// In words for whoever wrote it; they never repeat a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        match RedisUrl::scheme(text) {
            Ok((scheme, rest)) => RedisUrl::parse(scheme, rest).map(Self::Redis),
            Err(why) => Err(format!("{why}: write memory (one node), {KNOWN}")),
        }
    }
}

written_as!(BackplaneUrl, "`\"memory\"` or a URL of Redis", { "type": "string" });
written_as!(RedisUrl, "URL of one Redis", { "type": "string" });

impl Serialize for BackplaneUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Memory => serializer.serialize_str("memory"),
            Self::Redis(url) => url.serialize(serializer),
        }
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.split().0 {
            None => serializer.collect_str(self),
            Some(_) => serializer.collect_str(&fingerprint(self, &self.text)),
        }
    }
}

impl<'de> Deserialize<'de> for BackplaneUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(String::deserialize(deserializer)?.trim()).map_err(de::Error::custom)
    }
}

impl fmt::Display for BackplaneUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Redis(url) => url.fmt(f),
        }
    }
}

impl RedisUrl {
    /// The scheme, and what follows it.
    fn scheme(text: &str) -> Result<(Scheme, &str), String> {
        let Some((name, rest)) = text.split_once("://") else { return Err("not a URL".to_owned()) };
        match SCHEMES.into_iter().find(|scheme| scheme.name.eq_ignore_ascii_case(name)) {
            Some(scheme) => Ok((scheme, rest)),
            // Somebody may have written a password there.
            None if name.contains(['@', ':']) => Err("unknown scheme".to_owned()),
            None => Err(format!("unknown scheme `{name}://`")),
        }
    }

    /// `rest` follows `://`.
    fn parse(scheme: Scheme, rest: &str) -> Result<Self, String> {
        let name = scheme.name;
        let form = match scheme.kind {
            Kind::Single => format!("{name}://user:password@host:6379"),
            Kind::Sentinel => format!("{name}://user:password@host:26379,host:26379,host:26379/name-of-the-master"),
            Kind::Cluster => format!("{name}://user:password@host:6379,host:6379,host:6379"),
        };
        let wrong = |why: &str| format!("not a Redis URL ({why}): write {form}");
        let escape = "special characters in user or password are written %40 and so on";
        if rest.contains('#') {
            let why =
                "there is no `#` in it: in a password it is written %23, and whom to trust is said by backplane.ca";
            return Err(wrong(why));
        }
        let (authority, path) = split_path(rest);
        let (user, addresses) = split_user(authority);
        if path.contains('@') {
            return Err(wrong(escape));
        }
        for address in addresses.split(',') {
            let user = user.map_or(String::new(), |user| format!("{user}@"));
            let uri: http::Uri = format!("redis://{user}{address}").parse().map_err(|_| wrong(escape))?;
            check_address(&uri).map_err(wrong)?;
        }
        match scheme.kind {
            Kind::Single if addresses.contains(',') => {
                return Err(wrong("it needs one host; for several set backplane.urls"));
            }
            Kind::Single | Kind::Cluster if !matches!(path, "" | "0") => {
                let why = "only database 0 is used: all databases share one pub/sub, so take another backplane.prefix";
                return Err(wrong(why));
            }
            Kind::Sentinel if path.is_empty() => {
                return Err(wrong("it ends with the name that the sentinels know the master by"));
            }
            Kind::Sentinel if !path.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) => {
                return Err(wrong("the name of a master has letters (a to z), digits, `.`, `_` and `-`"));
            }
            _ => {}
        }
        let url = Self { scheme, text: format!("{name}://{rest}").into() };
        // Who connects has the last word.
        RedisOptions::parse(&url.text, "skywave", None, None, "").map_err(|error| wrong(&error.to_string()))?;
        Ok(url)
    }

    /// The whole URL with its password: for the connection, never for a message.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Whether it is spoken to in TLS.
    pub fn is_tls(&self) -> bool {
        self.scheme.tls
    }

    /// Whether it names one master by its address.
    pub(super) fn is_single(&self) -> bool {
        self.scheme.kind == Kind::Single
    }

    /// Whether it names sentinels.
    pub(super) fn is_sentinel(&self) -> bool {
        self.scheme.kind == Kind::Sentinel
    }

    /// Whether the URL itself brings a password.
    pub(super) fn has_password(&self) -> bool {
        self.split().0.is_some_and(|user| user.contains(':'))
    }

    /// Whether the URL itself names a user.
    pub(super) fn has_username(&self) -> bool {
        self.split().0.is_some_and(|user| !user.is_empty() && !user.starts_with(':'))
    }

    /// Where it is, without user and scheme: two alike are the same Redis.
    pub(super) fn address(&self) -> String {
        let address = self.split().1.split('/').next().unwrap_or_default().to_ascii_lowercase();
        let (host, port) =
            address.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((&address, "6379"));
        format!("{host}:{port}")
    }

    /// User and password; the rest without its query, in which a client library may take secrets too.
    fn split(&self) -> (Option<&str>, &str) {
        let rest = &self.text[self.scheme.name.len() + "://".len()..];
        split_user(rest.split('?').next().unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (scheme, rest) = Self::scheme(text.trim())
            .map_err(|why| de::Error::custom(format!("{why}: write redis://host:6379, or rediss:// for TLS")))?;
        Self::parse(scheme, rest).map_err(de::Error::custom)
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, address) = self.split();
        write!(f, "{}://{}{address}", self.scheme.name, if user.is_some() { "***@" } else { "" })
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn check_address(uri: &http::Uri) -> Result<(), &'static str> {
    if uri.host().is_none_or(str::is_empty) {
        return Err("it needs a host");
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let (_, address) = split_user(authority);
    let port = address.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    if port.is_some_and(|port| port.parse::<std::num::NonZeroU16>().is_err()) {
        return Err("the port is not one of 1 to 65535");
    }
    Ok(())
}

/// What stands before the first `/`, and what after it; both without the query.
fn split_path(rest: &str) -> (&str, &str) {
    let rest = rest.split('?').next().unwrap_or_default();
    rest.split_once('/').unwrap_or((rest, ""))
}

fn split_user(authority: &str) -> (Option<&str>, &str) {
    authority.rsplit_once('@').map_or((None, authority), |(user, address)| (Some(user), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_url_keeps_its_password() {
        for (url, shown) in [
            ("memory", "memory"),
            ("redis://redis", "redis://redis"),
            ("REDIS://redis_1:6379/0?protocol=resp3", "redis://redis_1:6379/0"),
            ("redis://:hunter2@redis", "redis://***@redis"),
            ("redis://ada:hunter2@redis:6379/0", "redis://***@redis:6379/0"),
            ("redis://hunter2@redis", "redis://***@redis"),
            ("redis://[::1]:6379", "redis://[::1]:6379"),
            ("rediss://ada:hunter2@redis", "rediss://***@redis"),
            ("redis-sentinel://ada:hunter2@a,b:7000,[::1]/main", "redis-sentinel://***@a,b:7000,[::1]/main"),
            ("rediss-sentinel://hunter2@a/main?x=hunter2", "rediss-sentinel://***@a/main"),
            ("Redis-Cluster://:hunter2@a,b", "redis-cluster://***@a,b"),
            ("rediss-cluster://a:1,b:2/0", "rediss-cluster://a:1,b:2/0"),
        ] {
            let url = BackplaneUrl::parse(url).unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("hunter2"));
        }
        let BackplaneUrl::Redis(url) = BackplaneUrl::parse("redis://:hunter2@redis").unwrap() else { panic!() };
        assert_eq!(url.reveal(), "redis://:hunter2@redis");
    }

    #[test]
    fn a_refused_url_keeps_its_password_too() {
        for url in [
            "",
            "Memory",
            "hunter2",
            "ada:hunter2@redis://x",
            "nats://hunter2@x",
            "redis://",
            "redis://:hunter2@",
            "redis://:hunt er2@redis",
            "redis://:hunter2/@redis",
            "redis://:hunter2#@redis",
            "redis://:hunter2?@redis",
            "redis://:hunter2@redis:99999",
            "redis://:hunter2@redis:0",
            "redis://redis/zero",
            "redis://a,b",
            "rediss://:hunter2@redis/#insecure",
            "redis-ring://hunter2@a",
            "redis-sentinel://:hunter2@a,b",
            "redis-sentinel://:hunter2@a,b/",
            "redis-sentinel://:hunter2@a,,b/main",
            "redis-sentinel://:hunter2@a,b:x/main",
            "redis-sentinel://:hunter2@a/main/hunter2",
            "redis-sentinel://a/ma:hunter2@in",
            "redis-cluster://:hunter2@a,b/1",
            "redis-cluster://:hunt,er2@a,b:0",
        ] {
            assert!(!BackplaneUrl::parse(url).expect_err(url).contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn two_that_are_the_same_redis_are_known() {
        let address = |text: &str| {
            let BackplaneUrl::Redis(url) = BackplaneUrl::parse(text).unwrap() else { panic!() };
            url.address()
        };
        assert_eq!(address("redis://ada:x@H/0"), address("rediss://h:6379"));
        assert_ne!(address("redis://h:1"), address("redis://h:2"));
        assert_eq!(address("redis://[::1]"), "[::1]:6379");
    }
}
