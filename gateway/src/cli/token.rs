//! `skywave token`: a token for one client, for trying things out and for scripts.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Map, Value as Json, json};

use super::wrong;
use crate::{
    auth::SigningKey,
    clock::now_ms,
    config::{Flags, Settings, TokenAlgorithm, TokenSettings},
};

const NO_KEY: &str = "there is no key to sign with: the configuration has none with a secret (auth.tokens.keys). Make one with \
`openssl rand -base64 32` and write\n\n  [auth.tokens]\n  keys = [{ alg = \"HS256\", secret = \"…\" }]\n\ninto the file that --config names, \
or give a key with --alg and --key-file";

// The comments of the fields are the text of `--help`.
/// Whose token, and what it allows.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Who the client is (claim sub)
    #[arg(long, value_name = "ID")]
    client: String,
    /// Channels that it may subscribe to: `*` is one segment, `**` any rest; more than once
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<String>,
    /// Channels that it may publish to; more than once
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// A channel that it is subscribed to when it connects; more than once
    #[arg(long, value_name = "CHANNEL")]
    channel: Vec<String>,
    /// A JSON object that others see in presence
    #[arg(long, value_name = "JSON")]
    info: Option<String>,
    /// Makes a token for one subscription to this channel instead of one for a connection
    #[arg(long, value_name = "CHANNEL", conflicts_with_all = ["subscribe", "publish", "channel", "info"])]
    only: Option<String>,
    /// How long it is good
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// What it can be revoked by (claim jti)
    #[arg(long, value_name = "JTI")]
    id: Option<String>,
    /// Configuration file (TOML): its first key with a secret signs, unless --key-file is given; issuer and audience are
    /// taken from it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A secret, or a private key in PEM, to sign with
    #[arg(long, value_name = "FILE", requires = "alg")]
    key_file: Option<PathBuf>,
    /// The algorithm of --key-file: HS256, RS256, PS256, ES256 (or 384, 512), EdDSA
    #[arg(long, requires = "key_file", value_parser = algorithm)]
    alg: Option<TokenAlgorithm>,
    /// What --key-file is called in the header
    #[arg(long, requires = "key_file")]
    kid: Option<String>,
}

fn algorithm(name: &str) -> Result<TokenAlgorithm, String> {
    let known = || TokenAlgorithm::ALL.map(TokenAlgorithm::as_str).join(", ");
    TokenAlgorithm::from_name(name).ok_or_else(|| format!("not one of {}", known()))
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let flags = Flags { config: arguments.config.clone(), ..Flags::default() };
    let settings = match Settings::load(&flags, std::env::vars_os()) {
        Ok(settings) => settings.auth.tokens,
        Err(error) => return wrong(&error),
    };
    match make(arguments, &settings, now_ms()) {
        Ok(token) => {
            println!("{token}");
            ExitCode::SUCCESS
        }
        Err(message) => wrong(&message),
    }
}

fn make(arguments: &Arguments, settings: &TokenSettings, now_ms: u64) -> Result<String, String> {
    let key = match (&arguments.key_file, arguments.alg) {
        (Some(file), Some(alg)) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("--key-file: cannot read {}: {error}", file.display()))?;
            let text = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
            SigningKey::read(alg, arguments.kid.clone(), text).map_err(|error| format!("--key-file: {error}"))?
        }
        _ => SigningKey::configured(settings).ok_or(NO_KEY)?,
    };
    let claims = claims(arguments, settings, now_ms / 1000)?;
    key.sign_for(&claims, settings, now_ms).map_err(|error| error.to_string())
}

fn claims(arguments: &Arguments, settings: &TokenSettings, now: u64) -> Result<Json, String> {
    if arguments.expires.as_secs() == 0 {
        return Err("--expires is at least 1s".to_owned());
    }
    let expires = now.saturating_add(arguments.expires.as_secs());
    let mut claims = json!({ "sub": arguments.client, "iat": now, "exp": expires });
    let mut add = |claim: &str, value: Json| claims[claim] = value;
    if let Some(issuer) = &settings.issuer {
        add("iss", issuer.as_str().into());
    }
    if let Some(audience) = settings.audience.first() {
        add("aud", audience.as_str().into());
    }
    if let Some(id) = &arguments.id {
        add("jti", id.as_str().into());
    }
    if let Some(channel) = &arguments.only {
        add("channel", channel.as_str().into());
        return Ok(claims);
    }
    let mut ours = Map::new();
    for (claim, list) in
        [("subscribe", &arguments.subscribe), ("publish", &arguments.publish), ("channels", &arguments.channel)]
    {
        if !list.is_empty() {
            ours.insert(claim.to_owned(), list.as_slice().into());
        }
    }
    if let Some(info) = &arguments.info {
        let info = serde_json::from_str(info).map_err(|error| format!("--info is not JSON: {error}"))?;
        ours.insert("info".to_owned(), info);
    }
    if !ours.is_empty() {
        add("skywave", ours.into());
    }
    Ok(claims)
}
