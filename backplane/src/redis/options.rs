use std::{fmt, time::Duration};

use deadpool_redis::{Manager, Pool, Runtime};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, io::tcp::TcpSettings};

/// Where Redis is, and under which names everything stands there.
#[derive(Clone)]
pub struct RedisOptions {
    pub(super) connection: ConnectionInfo,
    pub(super) prefix: String,
    pub(super) node: String,
}

/// Connections for what is asked now and then.
const OCCASIONAL: usize = 4;
/// How long a caller waits for one of them, it for Redis, and Redis for its turn.
const OCCASIONAL_WAIT: Duration = Duration::from_secs(2);

impl RedisOptions {
    /// Connections for what is asked now and then; made when they are needed.
    pub(super) fn pool(&self) -> Pool {
        let manager = Manager::new(self.connection.clone()).expect("parse has checked the address");
        Pool::builder(manager)
            .max_size(OCCASIONAL)
            .wait_timeout(Some(OCCASIONAL_WAIT))
            .create_timeout(Some(OCCASIONAL_WAIT))
            .recycle_timeout(Some(OCCASIONAL_WAIT))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a runtime is given, which is all that the timeouts ask for")
    }

    /// Reads `redis://[user:password@]host[:port]`.
    ///
    /// `prefix` begins every key and pub/sub channel: clusters that share a Redis need different ones. `username` and
    /// `password` win over those in the URL. `node` names this node in Redis' client list and in what it publishes.
    ///
    /// # Errors
    /// [`RedisOptionsError`] says what to change. It never holds the password.
    pub fn parse(
        url: &str,
        prefix: &str,
        username: Option<&str>,
        password: Option<&str>,
        node: &str,
    ) -> Result<Self, RedisOptionsError> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme {
            "redis" => {}
            "rediss" => return Err(RedisOptionsError::NotYet("rediss:// (TLS)")),
            "redis-sentinel" => return Err(RedisOptionsError::NotYet("redis-sentinel://")),
            "redis-cluster" => return Err(RedisOptionsError::NotYet("redis-cluster://")),
            _ => return Err(RedisOptionsError::Scheme),
        }
        let prefix_is_good = (1..=64).contains(&prefix.len())
            && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        if !prefix_is_good {
            return Err(RedisOptionsError::Prefix);
        }
        // Its error repeats parts of the URL, so it is not kept.
        let parsed = url.into_connection_info().map_err(|_| RedisOptionsError::Url)?;
        if !matches!(parsed.addr(), ConnectionAddr::Tcp(..)) {
            return Err(RedisOptionsError::Url);
        }
        let mut settings = parsed.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        if settings.db() != 0 {
            return Err(RedisOptionsError::Database);
        }
        if let Some(username) = username {
            settings = settings.set_username(username);
        }
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        // Without it a lone request waits for the delayed acknowledgement of the one before: p99 2.2 ms, not 0.1 ms.
        let tcp = TcpSettings::default().set_nodelay(true);
        let connection = parsed.set_redis_settings(settings).set_tcp_settings(tcp);
        Ok(Self { connection, prefix: prefix.to_owned(), node: node.to_owned() })
    }

    /// The node's name as `CLIENT SETNAME` takes it: printable and without spaces.
    pub(super) fn client_name(&self) -> String {
        let name = self.node.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' });
        "skywave-".chars().chain(name).collect()
    }
}

impl fmt::Debug for RedisOptions {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("address", &self.connection.addr().to_string())
            .field("prefix", &self.prefix)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// What is wrong with the settings of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedisOptionsError {
    /// Planned, not there.
    #[error("not supported yet: {0}; a single Redis is given as redis://host:port")]
    NotYet(&'static str),
    /// Another scheme, or none.
    #[error("the address of Redis begins with redis://")]
    Scheme,
    /// It begins well and goes on badly.
    #[error("the address of Redis is written redis://[user:password@]host[:port]")]
    Url,
    /// Databases share pub/sub, so two clusters would hear each other.
    #[error("only database 0 can be used, since the databases of a Redis share pub/sub; choose another prefix instead")]
    Database,
    /// It would not stand in a key, or it holds a hash tag of its own.
    #[error("the prefix has 1 to 64 letters, digits, '-', '_', '.' or ':'")]
    Prefix,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, prefix: &str) -> Result<RedisOptions, RedisOptionsError> {
        RedisOptions::parse(url, prefix, None, None, "n1")
    }

    #[test]
    fn reads_an_address_and_hides_the_password() {
        let options =
            RedisOptions::parse("redis://ada:secret1@db:7000", "sky", Some("bob"), Some("secret2"), "n 1").unwrap();
        let settings = options.connection.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("bob"), Some("secret2")));
        assert_eq!(options.connection.addr().to_string(), "db:7000");
        assert!(options.connection.tcp_settings().nodelay());
        assert_eq!(options.client_name(), "skywave-n-1");
        assert!(!format!("{options:?}").contains("secret"), "{options:?}");
    }

    #[test]
    fn says_what_to_change() {
        for url in ["rediss://h", "redis-sentinel://a,b/m", "redis-cluster://a,b"] {
            assert!(parse(url, "sky").unwrap_err().to_string().starts_with("not supported yet: redis"), "{url}");
        }
        assert_eq!(parse("http://h", "sky").unwrap_err(), RedisOptionsError::Scheme);
        assert_eq!(parse("h:6379", "sky").unwrap_err(), RedisOptionsError::Scheme);
        assert_eq!(parse("redis://h:port", "sky").unwrap_err(), RedisOptionsError::Url);
        assert_eq!(parse("redis://h/1", "sky").unwrap_err(), RedisOptionsError::Database);
        for prefix in ["", "a{b}", "a b", &"x".repeat(65)] {
            assert_eq!(parse("redis://h", prefix).unwrap_err(), RedisOptionsError::Prefix);
        }
    }
}
