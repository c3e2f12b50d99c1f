//! `[backplane]`: what carries publications between nodes.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, de};

use super::secret::Secret;

/// `[backplane]`: what carries publications between nodes.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackplaneSettings {
    /// Where it is. Default `memory`: inside this process, for one node, gone with it.
    pub url: BackplaneUrl,
    /// A file with `url`, read at start; a newline at its end does not count.
    pub url_file: Option<PathBuf>,
    /// What every Redis key and channel begins with, 1 to 64 letters, digits, `-`, `_`, `.` or `:`; two clusters on one
    /// Redis need two. Default `skywave`.
    pub prefix: String,
    /// The Redis user (ACL). Default: the one in `url`, else Redis's own default user.
    pub username: Option<String>,
    /// The password of that user. Default: the one in `url`, else none.
    pub password: Option<Secret>,
    /// A file with `password`, read at start; a newline at its end does not count.
    pub password_file: Option<PathBuf>,
}

impl Default for BackplaneSettings {
    fn default() -> Self {
        Self {
            url: BackplaneUrl::Memory,
            url_file: None,
            prefix: "skywave".to_owned(),
            username: None,
            password: None,
            password_file: None,
        }
    }
}

/// Where the backplane is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackplaneUrl {
    /// In this process.
    Memory,
    /// One Redis.
    Redis(RedisUrl),
}

/// `redis://[user[:password]@]host[:port][/0]`. `Display` and `Debug` hide user and password:
/// a password alone is easily written where the user belongs.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(Box<str>);

const LATER: [&str; 3] = ["rediss", "redis-sentinel", "redis-cluster"];

impl BackplaneUrl {
    /// Checks a URL; the only way in.
    ///
    /// # Errors
    /// In words for whoever wrote it; they never repeat a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        let known = r#"this version knows "memory" and "redis://host:6379""#;
        match text.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest)) {
            Some((scheme, rest)) if scheme == "redis" => RedisUrl::parse(rest).map(Self::Redis),
            Some((scheme, _)) if LATER.contains(&scheme.as_str()) => {
                Err(format!("`{scheme}://` is not supported by this version yet; {known}"))
            }
            Some((scheme, _)) => Err(format!("unknown scheme `{scheme}://`; {known}")),
            None => Err(format!("neither a URL nor `memory`; {known}")),
        }
    }

    /// The Redis, if it is one.
    pub fn redis(&self) -> Option<&RedisUrl> {
        match self {
            Self::Redis(url) => Some(url),
            Self::Memory => None,
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
    /// `rest` follows `redis://`.
    fn parse(rest: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("not a Redis URL ({why}): write redis://user:password@host:6379/0"));
        let url = format!("redis://{rest}");
        let Ok(uri) = url.parse::<http::Uri>() else {
            return wrong("special characters in user or password are written %40 and so on");
        };
        if uri.host().is_none_or(|host| host.is_empty() || host.contains(',')) {
            return wrong("it needs one host");
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        let port = address.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        if port.is_some_and(|port| port.parse::<std::num::NonZeroU16>().is_err()) {
            return wrong("the port is not one of 1 to 65535");
        }
        let database = uri.path().trim_start_matches('/');
        if !matches!(database, "" | "0") {
            return wrong("only database 0 is used: all databases share one pub/sub, so take another backplane.prefix");
        }
        Ok(Self(url.into()))
    }

    /// The whole URL with its password: for the connection, never for a message.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether the URL itself brings a password.
    pub(super) fn has_password(&self) -> bool {
        self.user_info().is_some_and(|user| user.contains(':'))
    }

    /// Whether the URL itself names a user.
    pub(super) fn has_username(&self) -> bool {
        self.user_info().is_some_and(|user| !user.is_empty() && !user.starts_with(':'))
    }

    fn user_info(&self) -> Option<&str> {
        self.split().0
    }

    /// User and password; the rest without its query, in which a client library may take secrets too.
    fn split(&self) -> (Option<&str>, &str) {
        let rest = self.0.trim_start_matches("redis://");
        let (rest, _) = rest.split_once('?').unwrap_or((rest, ""));
        rest.rsplit_once('@').map_or((None, rest), |(user, address)| (Some(user), address))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redis://")?;
        let (user, address) = self.split();
        if user.is_some() {
            f.write_str("***@")?;
        }
        f.write_str(address)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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
        ] {
            let url = BackplaneUrl::parse(url).unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("hunter2"));
        }
        let url = BackplaneUrl::parse("redis://:hunter2@redis").unwrap();
        assert_eq!(url.redis().unwrap().reveal(), "redis://:hunter2@redis");
    }

    #[test]
    fn a_refused_url_keeps_its_password_too() {
        for url in [
            "",
            "Memory",
            "hunter2",
            "rediss://:hunter2@redis",
            "redis-cluster://a,b",
            "nats://hunter2@x",
            "redis://",
            "redis://:hunter2@",
            "redis://:hunt er2@redis",
            "redis://:hunter2@redis:99999",
            "redis://:hunter2@redis:0",
            "redis://redis/zero",
            "redis://a,b",
        ] {
            assert!(!BackplaneUrl::parse(url).expect_err(url).contains("hunter2"), "{url}");
        }
    }
}
