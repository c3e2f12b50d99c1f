//! The flags of `skywave serve` that are settings.

use std::{fmt, path::PathBuf};

use super::{backplane_url::BackplaneUrl, layer::Layer, problem::Place};

/// The flags of `skywave serve` that are settings: they win over the environment and the file.
// The comments of the fields are the text of `--help`.
#[derive(Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Flags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What this node is called [default: the host name and four random letters]
    #[arg(long, value_name = "NODE")]
    pub name: Option<String>,
    /// Address for clients, more than once or with commas [default: 0.0.0.0:8000, in development mode 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub listen: Vec<String>,
    /// Address for back ends and operators [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub internal_listen: Vec<String>,
    /// What carries publications between nodes: memory (one node), redis://host, redis-sentinel://host,…/name or
    /// redis-cluster://host,…, with rediss for TLS [default: memory]
    #[arg(long, value_name = "URL")]
    pub backplane: Option<String>,
    /// Development mode: anonymous clients, open namespaces and the demo, on loopback addresses
    #[arg(long)]
    pub dev: bool,
}

impl Flags {
    pub(super) fn layer(&self) -> Layer {
        let mut layer = Layer::default();
        let mut push = |flag: &str, section: &str, key: &str, value: ::config::Value| {
            layer.push(vec![section.to_owned(), key.to_owned()], Place::Flag(flag.to_owned()), value);
        };
        let text = |text: &String| ::config::Value::new(None, text.clone());
        if let Some(name) = &self.name {
            push("--name", "node", "name", text(name));
        }
        for (flag, section, addresses) in
            [("--listen", "public", &self.listen), ("--internal-listen", "internal", &self.internal_listen)]
        {
            if !addresses.is_empty() {
                push(flag, section, "listen", ::config::Value::new(None, addresses.clone()));
            }
        }
        if let Some(url) = &self.backplane {
            push("--backplane", "backplane", "url", text(url));
        }
        layer
    }

    /// Whether the backplane is the embedded one, as far as flags tell.
    pub(super) fn is_in_memory(&self) -> bool {
        self.backplane.as_ref().is_none_or(|url| url.trim() == "memory")
    }
}

/// Hides the password of the backplane.
impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backplane = self.backplane.as_ref().map(|url| BackplaneUrl::parse(url).map_err(|_| "***"));
        f.debug_struct("Flags")
            .field("config", &self.config)
            .field("name", &self.name)
            .field("listen", &self.listen)
            .field("internal_listen", &self.internal_listen)
            .field("backplane", &backplane)
            .field("dev", &self.dev)
            .finish()
    }
}
