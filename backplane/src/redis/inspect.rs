//! What a master is and how it is set, looked at whenever it is reached: what cannot be used is refused, what will hurt
//! one day is warned about once.

use std::{collections::BTreeMap, fmt, io, sync::Arc};

use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, Value};
use tracing::{debug, warn};

use super::{
    link::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT, Target},
    options::{Needs, RedisOptions},
};

/// The first version whose scripts a replica refuses before they begin, and that has pub/sub by slots.
const LEAST_VERSION: (u32, u32) = (7, 0);
/// What a subscriber of Redis may be behind by before it is cut off: less costs reconnects on a busy channel.
const PUBSUB_BUFFER: u64 = 32 << 20;
/// What is looked at.
const SETTINGS: [&str; 6] = [
    "active-replica",
    "maxmemory-policy",
    "appendonly",
    "min-replicas-to-write",
    "client-output-buffer-limit",
    "cluster-allow-pubsubshard-when-down",
];

/// Looks at one master after the other: each that a supervisor reaches.
#[derive(Default)]
pub(super) struct Inspector {
    /// What was said last, and of whom.
    told: Mutex<(Option<String>, Vec<Finding>)>,
}

/// Why a master cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "it is of version {0}, and Skywave needs Redis 7.0 or Valkey 8 at least: an older one accepts publications that it \
         then loses. Upgrade it, or set backplane.url to another"
    )]
    TooOld(String),
    #[error(
        "it is KeyDB with active-replica: several masters would give the same place to different publications. Set \
         active-replica no in KeyDB, or backplane.url to a Redis 7.0 or Valkey 8 at least"
    )]
    ManyMasters,
    /// It cannot be asked.
    #[error("{0}")]
    Away(String),
}

/// A setting that will hurt one day.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    setting: &'static str,
    found: String,
    /// What to set it to.
    better: &'static str,
    why: &'static str,
}

/// In whose name somebody asks: the settings that say it.
#[derive(Clone, Copy)]
pub(super) enum Credentials {
    Redis,
    Sentinel,
}

impl Inspector {
    /// Refuses a master that would lose publications without a word, and warns once of each setting that may.
    pub(super) async fn look(&self, options: &RedisOptions, target: &Target) -> Result<(), Refusal> {
        let answers = ask(target).await.map_err(|error| {
            let is_tls =
                matches!(target.address.as_ref().map(ConnectionInfo::addr), Some(ConnectionAddr::TcpTls { .. }));
            let why = explain(&error, Credentials::Redis);
            // Each waits for the other to begin.
            let hint = "; if it does not speak TLS on this port (tls-port), write redis:// for rediss://";
            Refusal::Away(if is_tls && error.is_timeout() { why + hint } else { why })
        })?;
        let findings = judge(&read(answers)?, options.needs, target.sharded)?;
        self.tell(target.at(), findings);
        Ok(())
    }

    fn tell(&self, at: Option<String>, findings: Vec<Finding>) {
        let mut told = self.told.lock();
        for finding in &findings {
            if told.0 != at || !told.1.contains(finding) {
                let Finding { setting, found, better, why } = finding;
                warn!(redis = at, setting, found, better, "{why}");
            }
        }
        *told = (at, findings);
    }
}

async fn ask(target: &Target) -> RedisResult<Vec<Value>> {
    let address = target.address.clone().ok_or((ErrorKind::InvalidClientConfig, "no master is known"))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    let mut connection = Client::open(address)?.get_multiplexed_async_connection_with_config(&config).await?;
    let mut questions = redis::pipe();
    questions.cmd("INFO").arg("server").cmd("INFO").arg("replication");
    // One at a time: an old one takes no more, and one that a service has taken away is no reason not to say the others.
    for setting in SETTINGS {
        questions.cmd("CONFIG").arg("GET").arg(setting);
    }
    connection.send_packed_commands(&questions, 0, questions.len()).await
}

/// What `INFO` says, line by line, and below it what `CONFIG GET` does, as far as it may be asked.
fn read(answers: Vec<Value>) -> Result<BTreeMap<String, String>, Refusal> {
    let mut facts = BTreeMap::new();
    for (place, answer) in answers.into_iter().enumerate() {
        let answer = answer.extract_error();
        if place < 2 {
            let info: String = answer
                .and_then(|answer| Ok(redis::from_redis_value(answer)?))
                .map_err(|error| Refusal::Away(explain(&error, Credentials::Redis)))?;
            let lines = info.lines().filter_map(|line| line.split_once(':'));
            facts.extend(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
            continue;
        }
        match answer.and_then(|answer| Ok(redis::from_redis_value::<BTreeMap<String, String>>(answer)?)) {
            Ok(settings) => facts.extend(settings),
            Err(error) => debug!(%error, "redis does not say how it is set, so nobody checks it"),
        }
    }
    Ok(facts)
}

/// `facts`: the lines of `INFO` and the settings, by name. What is not there is nobody's business.
fn judge(facts: &BTreeMap<String, String>, needs: Needs, sharded: bool) -> Result<Vec<Finding>, Refusal> {
    let fact = |name: &str| facts.get(name).map(String::as_str);
    if fact("role") == Some("active-replica") || fact("active-replica") == Some("yes") {
        return Err(Refusal::ManyMasters);
    }
    if let Some(version) = fact("redis_version")
        && is_too_old(version)
    {
        return Err(Refusal::TooOld(version.to_owned()));
    }
    let mut findings = Vec::new();
    let mut find = |setting, is_bad: &dyn Fn(&str) -> bool, better, why| {
        if let Some(found) = fact(setting).filter(|found| is_bad(found)) {
            findings.push(Finding { setting, found: found.to_owned(), better, why });
        }
    };
    find(
        "maxmemory-policy",
        &|policy| !matches!(policy, "noeviction" | "volatile-ttl"),
        "noeviction",
        "when redis is full it deletes what it likes: channels lose their history and clients start over, although \
         publishing seems to work. volatile-ttl is fine too",
    );
    find(
        "appendonly",
        &|appendonly| needs.history && appendonly == "no",
        "yes",
        "redis forgets the histories of channels when it restarts: clients then start over (recovered: false)",
    );
    find(
        "min-replicas-to-write",
        &|count| needs.replicas && count == "0",
        "1",
        "a master that has lost its replicas goes on accepting publications without durability, and loses them when a \
         replica takes over. Set min-replicas-max-lag 2 to 10 beside it",
    );
    find(
        "client-output-buffer-limit",
        &|limits| pubsub_limit(limits).is_some_and(|bytes| (1..PUBSUB_BUFFER).contains(&bytes)),
        "pubsub 64mb 16mb 60",
        "redis cuts off a node that is behind by less than 32 MB: on a busy channel it then reconnects again and again",
    );
    find(
        "cluster-allow-pubsubshard-when-down",
        &|allow| sharded && allow == "yes",
        "no",
        "a part of the cluster that is cut off goes on taking subscriptions that hear nothing, and nobody is told",
    );
    Ok(findings)
}

fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), minor) => (major, minor.unwrap_or(0)) < LEAST_VERSION,
        // Whoever hides it is found out by what it answers to the scripts.
        (None, _) => false,
    }
}

/// The hard limit: `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`.
fn pubsub_limit(limits: &str) -> Option<u64> {
    limits.split_whitespace().skip_while(|word| *word != "pubsub").nth(1)?.parse().ok()
}

/// An error of a connection in words, with the setting to look at. Never a password: Redis does not repeat it.
pub(super) fn explain(error: &RedisError, credentials: Credentials) -> String {
    let code = error.code();
    if matches!(code, Some("WRONGPASS" | "NOAUTH" | "NOPERM")) || error.kind() == ErrorKind::AuthenticationFailed {
        return format!("{error}: see {credentials}");
    }
    if error.kind() == ErrorKind::RESP3NotSupported {
        return Refusal::TooOld("5 or older".to_owned()).to_string();
    }
    match tls(error) {
        Some(rustls::Error::InvalidCertificate(_)) => format!(
            "{error}: the certificate of Redis is not signed by an authority in backplane.ca (without it: that this \
             machine trusts), or is not for this address"
        ),
        Some(_) | None => error.to_string(),
    }
}

/// The error of TLS in it. The crate hides it in an `Arc`, whose own source is already the one behind.
fn tls(error: &RedisError) -> Option<&rustls::Error> {
    let cause = std::error::Error::source(error)?.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?;
    cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => {
                "backplane.username and backplane.password, or those in backplane.url, and `ACL LIST` in Redis"
            }
            Self::Sentinel => {
                "backplane.sentinel_username and backplane.sentinel_password, and `ACL LIST` in the sentinels"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Needs = Needs { history: true, replicas: true };

    fn judge(facts: &[(&str, &str)], needs: Needs, sharded: bool) -> Result<Vec<&'static str>, Refusal> {
        let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let findings = super::judge(&facts, needs, sharded)?;
        Ok(findings.iter().map(|finding| finding.setting).collect())
    }

    #[test]
    fn only_what_fences_its_replicas_is_used() {
        for version in ["7.0.0", "7.0.15", "7.2.4", "8", "10.1", "255.255.255", "unstable"] {
            assert_eq!(judge(&[("redis_version", version)], ALL, true), Ok(vec![]), "{version}");
        }
        for version in ["6.2.14", "6", "5.0.7", "2.8"] {
            assert_eq!(judge(&[("redis_version", version)], ALL, true), Err(Refusal::TooOld(version.to_owned())));
        }
        assert_eq!(judge(&[], ALL, true), Ok(vec![]), "a service that hides everything");
        for fact in [("role", "active-replica"), ("active-replica", "yes")] {
            assert_eq!(judge(&[("redis_version", "6.3.4"), fact], ALL, false), Err(Refusal::ManyMasters));
        }
    }

    #[test]
    fn what_will_hurt_is_found() {
        let few = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554431 8388608 60";
        let enough = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        let without_end = "normal 0 0 0 slave 0 0 0 pubsub 0 0 0";
        for (setting, bad, good) in [
            ("maxmemory-policy", "allkeys-lru", &["noeviction", "volatile-ttl"][..]),
            ("appendonly", "no", &["yes"]),
            ("min-replicas-to-write", "0", &["1", "2"]),
            ("client-output-buffer-limit", few, &[enough, without_end]),
            ("cluster-allow-pubsubshard-when-down", "yes", &["no"]),
        ] {
            assert_eq!(judge(&[(setting, bad)], ALL, true), Ok(vec![setting]));
            for good in good {
                assert_eq!(judge(&[(setting, good)], ALL, true), Ok(vec![]), "{good}");
            }
        }
        let defaults =
            [("appendonly", "no"), ("min-replicas-to-write", "0"), ("cluster-allow-pubsubshard-when-down", "yes")];
        assert_eq!(judge(&defaults, Needs::default(), false), Ok(vec![]), "nobody needs it");
    }
}
