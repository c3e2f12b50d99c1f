use std::{fmt, time::Duration};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, TlsCertificates,
    io::tcp::TcpSettings,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Where Redis is, and under which names everything stands there.
#[derive(Clone)]
pub struct RedisOptions {
    pub(super) topology: Topology,
    pub(super) generation: Generation,
    pub(super) prefix: String,
    pub(super) node: String,
    pub(super) ring_bytes: usize,
    pub(super) session_grace: Duration,
    pub(super) needs: Needs,
    /// How long a node may be silent; by default as the session grace asks for.
    pub(super) lease: Option<Duration>,
}

/// How the masters are found.
#[derive(Debug, Clone)]
pub(super) enum Topology {
    /// They are these; several share the partitions among them.
    Fixed(Vec<ConnectionInfo>),
    /// The sentinels know the one.
    Sentinel { sentinels: Vec<ConnectionInfo>, name: String, access: Access },
    /// Any node of the cluster knows all.
    Cluster { seeds: Vec<ConnectionInfo>, access: Access },
}

/// How a Redis is reached whose address is learned later.
#[derive(Clone, Default)]
pub(super) struct Access {
    username: Option<String>,
    password: Option<String>,
    tls: bool,
    ca: Option<Vec<u8>>,
}

/// What the namespaces need of Redis: where its settings do not give it, there is a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Some keep a history, which should outlive a restart.
    pub history: bool,
    /// Some ask for replicas.
    pub replicas: bool,
}

/// By what a master is known to be the one that it was: whenever that changes, lines of offsets get a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Generation {
    /// Its replication id: changes with every restart and every promotion.
    #[default]
    Replid,
    /// Its run id, for services that hide the replication id: a promotion by which a replica becomes the master without
    /// a restart has another run id too, for it is another process.
    RunId,
    /// The connection, for services that hide both: every new connection counts as another master. Nothing is lost by
    /// that, but each one costs every channel a look into its history.
    Connection,
}

/// What is kept of recent publications on the node, unless said otherwise.
const RING_BYTES: usize = 256 << 20;

impl RedisOptions {
    /// Reads one URL:
    ///
    /// - `redis://[user:password@]host[:port]`, one Redis
    /// - `redis-sentinel://[user:password@]host[:port],…/name`, the master that the sentinels know under this name
    /// - `redis-cluster://[user:password@]host[:port],…`, a cluster, found through any of these
    ///
    /// `rediss…` is the same with TLS. `prefix` begins every key and pub/sub channel: clusters that share a Redis need
    /// different ones. `username` and `password` win over those in the URL. `node` names this node in Redis' client list
    /// and in what it publishes.
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
        Self::parse_all(&[url], prefix, username, password, node)
    }

    /// Reads several URLs of independent masters that share the channels among them; or one, as [`RedisOptions::parse`].
    /// Their order matters: another one moves channels.
    ///
    /// # Errors
    /// As [`RedisOptions::parse`].
    pub fn parse_all(
        urls: &[&str],
        prefix: &str,
        username: Option<&str>,
        password: Option<&str>,
        node: &str,
    ) -> Result<Self, RedisOptionsError> {
        let prefix_is_good = (1..=64).contains(&prefix.len())
            && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        if !prefix_is_good {
            return Err(RedisOptionsError::Prefix);
        }
        let topology = match urls {
            [] => return Err(RedisOptionsError::Url),
            [url] => topology(url, username, password)?,
            urls => {
                let one = |url: &&str| match topology(url, username, password)? {
                    Topology::Fixed(one) => Ok(one),
                    Topology::Sentinel { .. } | Topology::Cluster { .. } => Err(RedisOptionsError::Several),
                };
                let all: Vec<_> = urls.iter().map(one).collect::<Result<_, _>>()?;
                Topology::Fixed(all.into_iter().flatten().collect())
            }
        };
        Ok(Self {
            topology,
            generation: Generation::default(),
            prefix: prefix.to_owned(),
            node: node.to_owned(),
            ring_bytes: RING_BYTES,
            session_grace: Duration::from_secs(5),
            needs: Needs::default(),
            lease: None,
        })
    }

    /// The user and password of the sentinels, which have their own. Does nothing elsewhere.
    #[must_use]
    pub fn with_sentinel_credentials(mut self, username: Option<&str>, password: Option<&str>) -> Self {
        if let Topology::Sentinel { sentinels, .. } = &mut self.topology {
            for sentinel in sentinels {
                *sentinel = with_credentials(sentinel.clone(), username, password);
            }
        }
        self
    }

    /// Trusts these authorities, in PEM, and no others. Does nothing without TLS.
    ///
    /// # Errors
    /// [`RedisOptionsError::Ca`] if there is no certificate in it.
    pub fn with_ca(mut self, pem: &[u8]) -> Result<Self, RedisOptionsError> {
        let trust = |info: &mut ConnectionInfo| {
            *info = with_ca(info.clone(), pem)?;
            Ok(())
        };
        match &mut self.topology {
            Topology::Fixed(masters) => masters.iter_mut().try_for_each(trust)?,
            Topology::Sentinel { sentinels: known, access, .. } | Topology::Cluster { seeds: known, access } => {
                known.iter_mut().try_for_each(trust)?;
                access.ca = Some(pem.to_vec());
            }
        }
        Ok(self)
    }

    /// Whether [`RedisOptions::with_ca`] can take it, also where there is no TLS.
    ///
    /// # Errors
    /// [`RedisOptionsError::Ca`] if there is no certificate in it, or one that cannot be read.
    pub fn check_ca(pem: &[u8]) -> Result<(), RedisOptionsError> {
        let mut trusted = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            trusted.add(certificate.map_err(|_| RedisOptionsError::Ca)?).map_err(|_| RedisOptionsError::Ca)?;
        }
        if trusted.is_empty() { Err(RedisOptionsError::Ca) } else { Ok(()) }
    }

    /// By what a master is known to be the one that it was.
    #[must_use]
    pub fn with_generation(self, generation: Generation) -> Self {
        Self { generation, ..self }
    }

    /// How many bytes of recent publications the node keeps itself, so that who comes back soon does not ask Redis.
    #[must_use]
    pub fn with_ring_bytes(self, ring_bytes: usize) -> Self {
        Self { ring_bytes, ..self }
    }

    /// What Redis is looked at for.
    #[must_use]
    pub fn with_needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// How long a client may be away without leaving: a node's lease is longer than that.
    #[must_use]
    pub fn with_session_grace(self, session_grace: Duration) -> Self {
        Self { session_grace, ..self }
    }

    /// For tests: a shorter lease than a node may have.
    #[cfg(feature = "conformance")]
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// The node's name as `CLIENT SETNAME` takes it: printable and without spaces.
    pub(super) fn client_name(&self) -> String {
        let name = self.node.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' });
        "skywave-".chars().chain(name).collect()
    }
}

impl Access {
    /// The way to this address.
    pub(super) fn to(&self, host: &str, port: u16) -> Result<ConnectionInfo, RedisOptionsError> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let info = single(&format!("{scheme}://{host}:{port}"))?;
        let info = with_credentials(info, self.username.as_deref(), self.password.as_deref());
        match &self.ca {
            Some(ca) if self.tls => with_ca(info, ca),
            Some(_) | None => Ok(info),
        }
    }
}

impl fmt::Debug for Access {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("tls", &self.tls).finish_non_exhaustive()
    }
}

fn topology(url: &str, username: Option<&str>, password: Option<&str>) -> Result<Topology, RedisOptionsError> {
    let Some((scheme, rest)) = url.split_once("://") else { return Err(RedisOptionsError::Scheme) };
    let scheme = scheme.to_ascii_lowercase();
    let (kind, tls) = match scheme.strip_prefix("rediss") {
        Some(kind) => (kind, true),
        None => (scheme.strip_prefix("redis").ok_or(RedisOptionsError::Scheme)?, false),
    };
    if kind.is_empty() {
        let info = single(&format!("{scheme}://{rest}"))?;
        return Ok(Topology::Fixed(vec![with_credentials(info, username, password)]));
    }
    let (user_info, addresses) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let (addresses, path) = addresses.split_once('/').unwrap_or((addresses, ""));
    let path = path.split('?').next().unwrap_or_default();
    let single_scheme = if tls { "rediss" } else { "redis" };
    let all = addresses.split(',').map(|address| {
        let user_info = user_info.map_or(String::new(), |user| format!("{user}@"));
        single(&format!("{single_scheme}://{user_info}{}", address.trim()))
    });
    let known: Vec<_> = all.collect::<Result<_, _>>()?;
    let settings = known[0].redis_settings();
    let access = Access {
        username: username.or(settings.username()).map(str::to_owned),
        password: password.or(settings.password()).map(str::to_owned),
        tls,
        ca: None,
    };
    match kind {
        "-sentinel" => {
            let known = known.into_iter().map(|info| {
                // Sentinels have users of their own, listen elsewhere, and seldom know the master's.
                let port = default_port(&info, addresses, 26379);
                bare(&info, port)
            });
            let sentinels = known.collect::<Result<_, _>>()?;
            if path.is_empty() || path.contains('/') {
                return Err(RedisOptionsError::MasterName);
            }
            Ok(Topology::Sentinel { sentinels, name: path.to_owned(), access })
        }
        "-cluster" if matches!(path, "" | "0") => {
            let seeds = known
                .into_iter()
                .map(|info| with_credentials(info, access.username.as_deref(), access.password.as_deref()))
                .collect();
            Ok(Topology::Cluster { seeds, access })
        }
        "-cluster" => Err(RedisOptionsError::Database),
        _ => Err(RedisOptionsError::Scheme),
    }
}

/// The port that was written, or this one if none was.
fn default_port(info: &ConnectionInfo, written: &str, default: u16) -> u16 {
    let (ConnectionAddr::Tcp(_, port) | ConnectionAddr::TcpTls { port, .. }) = info.addr() else { return default };
    if written.contains(&format!(":{port}")) { *port } else { default }
}

/// The address alone.
fn bare(info: &ConnectionInfo, port: u16) -> Result<ConnectionInfo, RedisOptionsError> {
    let (tls, host) = match info.addr() {
        ConnectionAddr::Tcp(host, _) => (false, host),
        ConnectionAddr::TcpTls { host, .. } => (true, host),
        _ => return Err(RedisOptionsError::Url),
    };
    Access { tls, ..Access::default() }.to(host, port)
}

fn single(url: &str) -> Result<ConnectionInfo, RedisOptionsError> {
    // Its error repeats parts of the URL, so it is not kept.
    let parsed = url.into_connection_info().map_err(|_| RedisOptionsError::Url)?;
    let host = match parsed.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, insecure: false, .. } => host,
        _ => return Err(RedisOptionsError::Url),
    };
    if host.is_empty() || host.contains(',') {
        return Err(RedisOptionsError::Url);
    }
    // What it says of itself is its name; an ACL need not allow more.
    let settings = parsed.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    if settings.db() != 0 {
        return Err(RedisOptionsError::Database);
    }
    // Without it a lone request waits for the delayed acknowledgement of the one before: p99 2.2 ms, not 0.1 ms.
    // And what was sent and never acknowledged must not arrive after we have given the connection up: a closed one is
    // reset, and one that is dead is known to be before the kernel's quarter of an hour.
    let tcp = TcpSettings::default().set_nodelay(true).set_linger_time(Duration::ZERO);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(Duration::from_secs(10));
    Ok(parsed.set_redis_settings(settings).set_tcp_settings(tcp))
}

fn with_credentials(info: ConnectionInfo, username: Option<&str>, password: Option<&str>) -> ConnectionInfo {
    let mut settings = info.redis_settings().clone();
    if let Some(username) = username {
        settings = settings.set_username(username);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    info.set_redis_settings(settings)
}

fn with_ca(info: ConnectionInfo, pem: &[u8]) -> Result<ConnectionInfo, RedisOptionsError> {
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Ok(info);
    }
    RedisOptions::check_ca(pem)?;
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.to_vec()) };
    let client = Client::build_with_tls(info, certificates).map_err(|_| RedisOptionsError::Ca)?;
    Ok(client.get_connection_info().clone())
}

impl fmt::Debug for RedisOptions {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = |all: &[ConnectionInfo]| all.iter().map(|info| info.addr().to_string()).collect::<Vec<_>>();
        let mut out = f.debug_struct("RedisOptions");
        match &self.topology {
            Topology::Fixed(masters) => out.field("masters", &addresses(masters)),
            Topology::Sentinel { sentinels, name, .. } => {
                out.field("sentinels", &addresses(sentinels)).field("name", name)
            }
            Topology::Cluster { seeds, .. } => out.field("cluster", &addresses(seeds)),
        };
        out.field("prefix", &self.prefix).field("node", &self.node).finish_non_exhaustive()
    }
}

/// What is wrong with the settings of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedisOptionsError {
    /// Another scheme, or none.
    #[error("the address of Redis begins with redis://, redis-sentinel:// or redis-cluster://, or with rediss for TLS")]
    Scheme,
    /// It begins well and goes on badly.
    #[error("the address of Redis is written redis://[user:password@]host[:port]")]
    Url,
    /// Only masters of their own can be several.
    #[error("several addresses are those of independent masters: each redis:// or rediss://")]
    Several,
    /// Sentinels know masters by name.
    #[error("the address ends with the name that the sentinels know the master by: redis-sentinel://a,b,c/mymaster")]
    MasterName,
    /// Databases share pub/sub, so two clusters would hear each other.
    #[error("only database 0 can be used, since the databases of a Redis share pub/sub; choose another prefix instead")]
    Database,
    /// It would not stand in a key, or it holds a hash tag of its own.
    #[error("the prefix has 1 to 64 letters, digits, '-', '_', '.' or ':'")]
    Prefix,
    /// Nobody to trust in it.
    #[error("there is no certificate in PEM in it, or a broken one")]
    Ca,
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
        let Topology::Fixed(masters) = &options.topology else { panic!() };
        let settings = masters[0].redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("bob"), Some("secret2")));
        assert_eq!(masters[0].addr().to_string(), "db:7000");
        assert!(masters[0].tcp_settings().nodelay());
        assert_eq!(options.client_name(), "skywave-n-1");
        assert!(!format!("{options:?}").contains("secret"), "{options:?}");
    }

    #[test]
    fn reads_sentinels_and_clusters() {
        let options = parse("redis-sentinel://ada:secret1@a,b:7000,c/mymaster", "sky").unwrap();
        assert!(!format!("{options:?}").contains("secret"), "{options:?}");
        let Topology::Sentinel { sentinels, name, access } = &options.topology else { panic!() };
        let addresses: Vec<_> = sentinels.iter().map(|info| info.addr().to_string()).collect();
        assert_eq!((addresses.join(" "), name.as_str()), ("a:26379 b:7000 c:26379".to_owned(), "mymaster"));
        assert_eq!(sentinels[0].redis_settings().password(), None, "that of the master is not for the sentinels");
        let master = access.to("::1", 6380).unwrap();
        assert_eq!(master.redis_settings().password(), Some("secret1"));
        let options = options.with_sentinel_credentials(None, Some("secret2"));
        let Topology::Sentinel { sentinels, .. } = &options.topology else { panic!() };
        assert_eq!(sentinels[2].redis_settings().password(), Some("secret2"));

        let options = parse("rediss-cluster://a:7000,b:7001", "sky").unwrap();
        let Topology::Cluster { seeds, access } = &options.topology else { panic!() };
        assert!(seeds.len() == 2 && access.tls);
        let several = RedisOptions::parse_all(&["redis://a", "redis://b"], "sky", None, None, "n").unwrap();
        assert!(matches!(several.topology, Topology::Fixed(masters) if masters.len() == 2));
    }

    #[test]
    fn says_what_to_change() {
        for (url, error) in [
            ("http://h", RedisOptionsError::Scheme),
            ("redis-ring://h", RedisOptionsError::Scheme),
            ("h:6379", RedisOptionsError::Scheme),
            ("redis://h:port", RedisOptionsError::Url),
            ("redis://a,b", RedisOptionsError::Url),
            ("redis-cluster://a,,b", RedisOptionsError::Url),
            ("rediss://h/#insecure", RedisOptionsError::Url),
            ("redis://h/1", RedisOptionsError::Database),
            ("redis-cluster://h/1", RedisOptionsError::Database),
            ("redis-sentinel://a,b", RedisOptionsError::MasterName),
        ] {
            assert_eq!(parse(url, "sky").unwrap_err(), error, "{url}");
        }
        for prefix in ["", "a{b}", "a b", &"x".repeat(65)] {
            assert_eq!(parse("redis://h", prefix).unwrap_err(), RedisOptionsError::Prefix);
        }
        let several = RedisOptions::parse_all(&["redis://a", "redis-cluster://b"], "sky", None, None, "n");
        assert_eq!(several.unwrap_err(), RedisOptionsError::Several);
        assert_eq!(parse("rediss://h", "sky").unwrap().with_ca(b"x").unwrap_err(), RedisOptionsError::Ca);
    }
}
