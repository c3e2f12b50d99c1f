//! `[backplane]`: what carries publications between nodes.

use std::{fmt, path::PathBuf, slice};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use skywave_backplane::{Generation, RedisOptions};

use super::{
    backplane_url::{BackplaneUrl, RedisUrl},
    secret::Secret,
    written::written_as,
};

/// `[backplane]`: what carries publications between nodes.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BackplaneSettings {
    /// Where it is. Default `memory`: inside this process, for one node, gone with it.
    pub url: BackplaneUrl,
    /// A file with `url`, read at start; a newline at its end does not count.
    pub url_file: Option<PathBuf>,
    /// Instead of `url`: at least two independent masters, `redis://` or `rediss://`, that share the channels among them.
    /// All nodes need the same ones in the same order; another one moves channels, which then start over. Default: none.
    #[serde(with = "Several")]
    pub urls: Vec<RedisUrl>,
    /// What every Redis key and channel begins with, 1 to 64 letters, digits, `-`, `_`, `.` or `:`; two clusters on one
    /// Redis need two. Default `skywave`.
    pub prefix: String,
    /// The Redis user (ACL). Default: the one in `url`, else Redis's own default user.
    pub username: Option<String>,
    /// The password of that user. Default: the one in `url`, else none.
    pub password: Option<Secret>,
    /// A file with `password`, read at start; a newline at its end does not count.
    pub password_file: Option<PathBuf>,
    /// The user of the sentinels, which have users of their own. Default: none. Only with `redis-sentinel://`.
    pub sentinel_username: Option<String>,
    /// The password of the sentinels. Default: none. Only with `redis-sentinel://`.
    pub sentinel_password: Option<Secret>,
    /// A file with `sentinel_password`, read at start; a newline at its end does not count.
    pub sentinel_password_file: Option<PathBuf>,
    /// A PEM file with the authorities whose certificates Redis may show: these and no others. Read at start. Default:
    /// those that the machine trusts. Only with TLS.
    pub ca: Option<Authorities>,
    /// By what a master is known to be the one that it was, so that a failover that lost publications is seen: `replid`
    /// (its replication id), `run_id`, or `connection` for services that hide both, where every new connection costs each
    /// channel a look into its history. Default `replid`.
    #[serde(with = "GenerationName")]
    pub generation: Generation,
}

impl Default for BackplaneSettings {
    fn default() -> Self {
        Self {
            url: BackplaneUrl::Memory,
            url_file: None,
            urls: Vec::new(),
            prefix: "skywave".to_owned(),
            username: None,
            password: None,
            password_file: None,
            sentinel_username: None,
            sentinel_password: None,
            sentinel_password_file: None,
            ca: None,
            generation: Generation::default(),
        }
    }
}

impl BackplaneSettings {
    /// `urls`, else the one in `url`; none: the backplane is the embedded one.
    pub fn redis(&self) -> &[RedisUrl] {
        match &self.url {
            BackplaneUrl::Redis(url) if self.urls.is_empty() => slice::from_ref(url),
            BackplaneUrl::Redis(_) | BackplaneUrl::Memory => &self.urls,
        }
    }
}

/// For `#[serde(with = …)]`: none, or at least two.
struct Several;

impl Several {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RedisUrl>, D::Error> {
        let urls: Vec<RedisUrl> = Vec::deserialize(deserializer)?;
        if urls.len() < 2 {
            return Err(de::Error::custom("needs at least two independent masters; for one set backplane.url"));
        }
        Ok(urls)
    }

    fn serialize<S: Serializer>(urls: &[RedisUrl], serializer: S) -> Result<S::Ok, S::Error> {
        (!urls.is_empty()).then_some(urls).serialize(serializer)
    }
}

written_as!(Several, "list of URLs", { "type": "array" });

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Generation", rename_all = "snake_case")]
enum GenerationName {
    /// Its replication id.
    Replid,
    /// The id of its process.
    RunId,
    /// The connection to it.
    Connection,
}

/// The content of `backplane.ca` or `webhooks.ca`: certificates in PEM, at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorities {
    path: PathBuf,
    pem: Box<[u8]>,
}

written_as!(Authorities, "path of a file", { "type": "string" });

impl Authorities {
    /// The file's bytes.
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }
}

impl<'de> Deserialize<'de> for Authorities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        let shown = path.display();
        // It would be repeated in the message, and it may be a key.
        if path.as_os_str().as_encoded_bytes().trim_ascii_start().starts_with(b"-----") {
            return Err(de::Error::custom("is the path of a PEM file, not what stands in it"));
        }
        let pem = std::fs::read(&path).map_err(|error| de::Error::custom(format!("cannot read {shown}: {error}")))?;
        RedisOptions::check_ca(&pem).map_err(|_| {
            de::Error::custom(format!(
                "{shown} holds no certificate, or a broken one: write the path of a PEM file with the certificate of the \
                 authority that signed that of the other end (-----BEGIN CERTIFICATE-----)"
            ))
        })?;
        Ok(Self { pem: pem.into(), path })
    }
}

impl Serialize for Authorities {
    /// Where it is.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.path.serialize(serializer)
    }
}

impl fmt::Debug for Authorities {
    /// How long it is: somebody may have put a key beside the certificate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of PEM", self.pem.len())
    }
}
