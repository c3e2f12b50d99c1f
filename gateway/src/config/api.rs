//! `[api]`: who may use the server API.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// `[api]`: who may use the server API.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// One for each back end, so that one can be withdrawn. Default: none, and then nobody may; in development mode
    /// programs on this machine may.
    pub keys: Vec<ApiKey>,
}

/// One entry of `api.keys`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Whose it is, for logs and for idempotency: 1 to 64 bytes without control characters, no two alike.
    pub name: String,
    /// What the back end sends as `Authorization: Bearer`: at least 16 visible ASCII characters.
    #[serde(default)]
    pub key: Secret,
    /// A file with `key`, read at start and when it changes; a newline at its end does not
    /// count.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// What it opens; at least one.
    pub scopes: Vec<Scope>,
}

impl ApiKey {
    /// Whether it opens this part of the API.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// A part of the server API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// `publish`, `broadcast`.
    Publish,
    /// `history`, `presence`, `channels`, `nodes`, `tail`: what changes nothing.
    Read,
    /// `disconnect`, `subscribe`, `drain`: what changes something for clients or nodes.
    Control,
}
