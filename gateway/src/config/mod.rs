//! Every setting: type, unit, default, reason; and where each one was written, so that a mistake can be shown.
//!
//! Layers, the higher one winning: defaults, the TOML file, `SKYWAVE__SECTION__KEY` variables, flags. Nothing unknown is
//! passed over and nothing is converted: whoever wrote a setting either gets it or learns why not, before a port is
//! bound. This room never looks at the real environment and binds nothing; of the machine it asks the name, the cores and
//! the memory.
//!
//! In a variable a list is TOML (`["a", "b"]`), and listeners, origins and proxies may be given with commas between them; a table
//! is TOML too (`SKYWAVE__NAMESPACES__CHAT={ presence = true }`). Names of variables are read in lower case, so a
//! namespace with a capital letter in its name can only be configured in the file.

mod address;
mod api;
mod backplane;
mod backplane_url;
mod contradictions;
mod count;
mod development;
mod duration;
mod files;
mod flags;
mod hook_url;
mod jwks_url;
mod layer;
mod loader;
mod locate;
mod memory;
mod namespaces;
mod network;
mod origin;
mod problem;
mod reference;
mod running;
mod schema;
mod secret;
mod sections;
mod share;
mod show;
mod size;
mod sockjs;
mod source;
mod tls;
mod tokens;
mod toml_text;
mod twins;
mod version;
mod webhook_problems;
mod webhooks;
mod written;

use std::{collections::BTreeMap, ffi::OsString};

use rand::Rng as _;
use serde::Serialize;

use self::schema::Document;
pub(crate) use self::tokens::{check_secret, fits};
pub use self::{
    api::{ApiKey, ApiSettings, Scope},
    backplane::{Authorities, BackplaneSettings},
    backplane_url::{BackplaneUrl, RedisUrl},
    files::Files,
    flags::Flags,
    hook_url::HookUrl,
    jwks_url::JwksUrl,
    loader::Loader,
    memory::used as memory_used,
    namespaces::{DEFAULT_NAMESPACE, Namespace, PERSONAL_NAMESPACE, PublishRight, SlowConsumer, SubscribeRight},
    network::Network,
    origin::Origin,
    problem::{ConfigError, Place, Problem},
    reference::{commented, page},
    secret::Secret,
    sections::{
        AuthSettings, DebugSettings, DemoSettings, DrainSettings, InternalSettings, Limits, LogFormat, MAX_SHARDS,
        NodeSettings, ProxyProtocol, PublicSettings, Timeouts,
    },
    show::{show, show_json},
    sockjs::{SockJsMode, SockJsService},
    tls::{TlsError, TlsFiles, TlsSettings},
    tokens::{TokenAlgorithm, TokenKey, TokenKeyError, TokenSettings},
    webhooks::{DecideHook, EventHook, EventType, OnFailure, WebhookSettings},
};

/// All settings of a node, checked: a [`Loader`] is the only way in. Serialized they have the shape of the file, without its
/// secrets.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// This process.
    pub node: NodeSettings,
    /// The listener for clients.
    pub public: PublicSettings,
    /// The listener for back ends and operators.
    pub internal: InternalSettings,
    /// What carries publications between nodes.
    pub backplane: BackplaneSettings,
    /// Who may connect.
    pub auth: AuthSettings,
    /// Who may use the server API.
    pub api: ApiSettings,
    /// The bound of everything that a stranger can grow.
    pub limits: Limits,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// How the node leaves.
    pub drain: DrainSettings,
    /// The pages at `/demo/`.
    pub demo: DemoSettings,
    /// For those who test a node.
    pub debug: DebugSettings,
    /// Where SockJS is served; never empty.
    pub sockjs: Vec<SockJsService>,
    /// What the user's back end decides, and what it is told.
    pub webhooks: WebhookSettings,
    namespaces: BTreeMap<String, Namespace>,
    #[serde(skip)]
    development: bool,
}

impl Settings {
    /// Loads settings once: see [`Loader::new`] and [`Loader::load`].
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn load<K, V>(flags: &Flags, env: impl IntoIterator<Item = (K, V)>) -> Result<Self, ConfigError>
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        Loader::new(flags, env).load()
    }

    fn new(document: Document, development: bool, made_name: &str) -> Self {
        let mut node = document.node;
        if node.name.is_empty() {
            made_name.clone_into(&mut node.name);
        }
        if node.shards == 0 {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            node.shards = u16::try_from(cores).unwrap_or(MAX_SHARDS).min(MAX_SHARDS);
        }
        Self {
            node,
            public: document.public,
            internal: document.internal,
            backplane: document.backplane,
            auth: document.auth,
            api: document.api,
            limits: document.limits,
            timeouts: document.timeouts,
            drain: document.drain,
            demo: document.demo,
            debug: document.debug,
            sockjs: if document.sockjs.is_empty() { vec![SockJsService::default()] } else { document.sockjs },
            webhooks: document.webhooks,
            namespaces: document.namespaces,
            development,
        }
    }

    /// Whether the node is in development mode: asked for with `--dev`, or nothing at all was configured.
    pub fn development(&self) -> bool {
        self.development
    }

    /// How the channels of a namespace behave; `None`: there is no such namespace, refuse them.
    ///
    /// In development mode one that nobody configured behaves as `default`, also that of personal channels.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.named_namespace(name).map(|(_, namespace)| namespace)
    }

    /// The same with the name under which it is configured: of these there are few, whatever channels are called.
    pub fn named_namespace(&self, name: &str) -> Option<(&str, &Namespace)> {
        let falls_back = self.development && (!name.starts_with('#') || name == PERSONAL_NAMESPACE);
        let fallback = || self.namespaces.get_key_value(DEFAULT_NAMESPACE).filter(|_| falls_back);
        let found = self.namespaces.get_key_value(name).or_else(fallback);
        found.map(|(name, namespace)| (name.as_str(), namespace))
    }

    /// The namespaces by name: the configured ones, and in development mode `default`.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        self.namespaces.iter().map(|(name, namespace)| (name.as_str(), namespace))
    }

    /// What is allowed and yet worth a line in the log.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.development {
            warnings.extend(development::warnings(&self.public.listen, &self.internal.listen));
        }
        if let Some(everybody) = self.public.trusted_proxies.iter().find(|network| network.is_everybody()) {
            warnings.push(format!(
                "public.trusted_proxies has {everybody}: every client says itself which address it has; name the proxies"
            ));
        }
        warnings.extend(self.webhooks.warnings());
        warnings.extend(self.auth.tokens.warnings());
        warnings
    }
}

/// For `skywave config check`: loads the settings and says in a line or more that they are good.
///
/// # Errors
/// As [`Settings::load`].
pub fn check<K, V>(flags: &Flags, env: impl IntoIterator<Item = (K, V)>) -> Result<String, ConfigError>
where
    K: Into<OsString>,
    V: Into<OsString>,
{
    let settings = Settings::load(flags, env)?;
    let name = flags.config.as_ref().map_or("no configuration file".to_owned(), |file| file.display().to_string());
    let warnings = settings.warnings().into_iter().map(|warning| format!("\nwarning: {warning}"));
    Ok(format!("{name}: ok{}", warnings.collect::<String>()))
}

/// The host name, as far as it can be part of a node's, and four random letters.
fn new_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().split('.').next().unwrap_or_default();
    let host: String =
        host.chars().take(56).map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' }).collect();
    let mut random = rand::rng();
    let letters: String = (0..4).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
    if host.is_empty() { format!("node-{letters}") } else { format!("{host}-{letters}") }
}
