//! `[auth.tokens]`: whose tokens are believed.

use std::{fmt, path::PathBuf, time::Duration};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{duration, jwks_url::JwksUrl, secret::Secret, written::written_as};

/// The most of `leeway`: more would make `exp` a suggestion.
const MAX_LEEWAY: Duration = Duration::from_secs(5 * 60);
/// The bounds of `jwks_refresh`.
const REFRESH: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(24 * 60 * 60)];
/// The most keys: a token that names none is held against each of its algorithm.
const MAX_KEYS: usize = 16;
/// The longest `kid`, `issuer`, name of an audience or of a cookie, in bytes.
const MAX_NAME: usize = 255;
/// The shortest modulus of an RSA key, in bits (RFC 7518 §3.3).
const RSA_BITS: usize = 2048;

/// `[auth.tokens]`: whose tokens (JWT, RFC 7519) are believed. Without `keys` and `jwks_url` nobody's.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// What tokens are signed with; several at once, so that one can be replaced. At most 16. Default: none.
    pub keys: Vec<TokenKey>,
    /// Where more public keys are (a JWK Set, RFC 7517), `https`, or `http` on this machine: who answers there decides who gets in.
    /// Keys with a secret in it are not taken. Default: none.
    pub jwks_url: Option<JwksUrl>,
    /// A file with `jwks_url`, read at start and when it changes; a newline at its end does not
    /// count.
    pub jwks_url_file: Option<PathBuf>,
    /// How long a set from `jwks_url` is used before it is fetched again; what the server says in `Cache-Control: max-age` may
    /// shorten it. A key that is withdrawn there opens nothing after this time, unless the server is away. 10 s to 24 h,
    /// default 5 min.
    #[serde(with = "duration::Field")]
    pub jwks_refresh: Duration,
    /// What `iss` has to be. Default: anything.
    pub issuer: Option<String>,
    /// Of what `aud` has to name at least one: a text or a list. Default: none, and then a token with an `aud` is meant for somebody else
    /// (RFC 7519 §4.1.3) and refused.
    #[serde(with = "OneOrMore")]
    pub audience: Vec<String>,
    /// How far the issuer's clock and ours may differ, for `exp`, `nbf` and `iat`. At most 5 min, default 30 s.
    #[serde(with = "duration::Field")]
    pub leeway: Duration,
    /// Whether a token needs an `exp`. Default `true`: one without is good until its key is withdrawn, whoever got hold of it.
    pub require_expiry: bool,
    /// The cookie that may carry the token at a handshake. Default: none. Only pages of `public.origins` or of the same host
    /// come with it.
    pub cookie: Option<String>,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            jwks_url: None,
            jwks_url_file: None,
            jwks_refresh: Duration::from_secs(5 * 60),
            issuer: None,
            audience: Vec::new(),
            leeway: Duration::from_secs(30),
            require_expiry: true,
            cookie: None,
        }
    }
}

/// One entry of `auth.tokens.keys`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenKey {
    /// The one algorithm that it is used with, whatever a token says.
    pub alg: TokenAlgorithm,
    /// For `HS…`: what the issuer and this node share, at least as many bytes as the hash has (32, 48, 64). It is taken as it stands
    /// here, not decoded.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// A file with `secret`, read at start and when it changes; a newline at its end does not
    /// count.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// For all others: the public key in PEM (`-----BEGIN PUBLIC KEY-----`).
    // Who puts the private one here by mistake must not find it in a log.
    #[serde(default)]
    pub public_key: Option<Secret>,
    /// A file with `public_key`, read at start and when it changes.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    /// What it is called in the header of tokens, 1 to 255 bytes, no two alike. Default: none, and then it is tried for all tokens
    /// of its algorithm.
    #[serde(default)]
    pub kid: Option<String>,
}

/// How a token may be signed (RFC 7518 §3.1, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "their names say it")]
pub enum TokenAlgorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl TokenAlgorithm {
    /// All of them; `none` is not among them.
    pub const ALL: [Self; 12] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    const fn row(self) -> (&'static str, Algorithm) {
        match self {
            Self::Hs256 => ("HS256", Algorithm::HS256),
            Self::Hs384 => ("HS384", Algorithm::HS384),
            Self::Hs512 => ("HS512", Algorithm::HS512),
            Self::Rs256 => ("RS256", Algorithm::RS256),
            Self::Rs384 => ("RS384", Algorithm::RS384),
            Self::Rs512 => ("RS512", Algorithm::RS512),
            Self::Ps256 => ("PS256", Algorithm::PS256),
            Self::Ps384 => ("PS384", Algorithm::PS384),
            Self::Ps512 => ("PS512", Algorithm::PS512),
            Self::Es256 => ("ES256", Algorithm::ES256),
            Self::Es384 => ("ES384", Algorithm::ES384),
            Self::EdDsa => ("EdDSA", Algorithm::EdDSA),
        }
    }

    /// Its name in a token's header.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The one of this name, to the letter.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|alg| alg.as_str() == name)
    }

    /// What the library calls it.
    pub(crate) const fn algorithm(self) -> Algorithm {
        self.row().1
    }

    /// Whether both sides know the same secret.
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }

    /// The fewest bytes of a secret: as many as the hash has (RFC 7518 §3.2).
    pub(crate) const fn secret_bytes(self) -> usize {
        match self {
            Self::Hs384 => 48,
            Self::Hs512 => 64,
            _ => 32,
        }
    }
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a key of the configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TokenKeyError {
    /// Which of its settings: `secret`, `public_key` or `alg`.
    pub setting: &'static str,
    /// For whoever wrote it; nothing of the key.
    pub message: String,
}

impl TokenKey {
    /// What signatures are checked with.
    ///
    /// # Errors
    /// [`TokenKeyError`] if it is missing, or not one for `alg`.
    pub(crate) fn decoding_key(&self) -> Result<DecodingKey, TokenKeyError> {
        let Self { alg, secret, public_key, .. } = self;
        let wrong = |setting, message| Err(TokenKeyError { setting, message });
        match (secret, public_key) {
            (Some(_), Some(_)) => wrong("public_key", "`secret` is set too; set one of them".to_owned()),
            (Some(secret), None) if alg.is_symmetric() => match check_secret(*alg, secret.reveal()) {
                Ok(()) => Ok(DecodingKey::from_secret(secret.reveal().as_bytes())),
                Err(message) => wrong("secret", message),
            },
            (None, Some(pem)) if !alg.is_symmetric() => {
                read_public_key(*alg, pem.reveal()).or_else(|message| wrong("public_key", message))
            }
            (Some(_), None) => wrong("secret", format!("{alg} has no secret: set `public_key` or `public_key_file`")),
            (None, Some(_)) => wrong("public_key", format!("{alg} needs a secret: set `secret` or `secret_file`")),
            (None, None) if alg.is_symmetric() => wrong("secret", "missing: set `secret` or `secret_file`".to_owned()),
            (None, None) => wrong("public_key", "missing: set `public_key` or `public_key_file`".to_owned()),
        }
    }
}

/// Whether a text can be the secret of `alg`.
///
/// # Errors
/// Why not, for whoever chose it; nothing of the secret.
pub(crate) fn check_secret(alg: TokenAlgorithm, secret: &str) -> Result<(), String> {
    let least = alg.secret_bytes();
    if secret.contains("-----BEGIN") {
        // Everybody knows a public key: as a secret it would let everybody make tokens.
        return Err(format!("is a key in PEM, and {alg} needs a secret; is `alg` right?"));
    }
    match secret.len() {
        0 => Err("missing or empty: set `secret` or `secret_file`".to_owned()),
        bytes if bytes < least => {
            Err(format!("has {bytes} bytes and {alg} needs at least {least}; `openssl rand -base64 {least}` makes one"))
        }
        _ => Ok(()),
    }
}

fn read_public_key(alg: TokenAlgorithm, pem: &str) -> Result<DecodingKey, String> {
    let pem = pem.trim();
    match pem.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----")).map(|(label, _)| label) {
        Some("PUBLIC KEY" | "RSA PUBLIC KEY") => {}
        Some(label) if label.ends_with("PRIVATE KEY") => {
            return Err(
                "is a private key, with which the node could make tokens; give it the public one: `openssl pkey \
                        -in key.pem -pubout`"
                    .to_owned(),
            );
        }
        Some("CERTIFICATE") => {
            return Err(
                "is a certificate; take the key out of it: `openssl x509 -in cert.pem -pubkey -noout`".to_owned()
            );
        }
        _ => return Err("is no public key in PEM (-----BEGIN PUBLIC KEY-----)".to_owned()),
    }
    let family = alg.algorithm().family();
    let (kind, key) = match family {
        AlgorithmFamily::Rsa => ("an RSA", DecodingKey::from_rsa_pem(pem.as_bytes())),
        AlgorithmFamily::Ec => ("an elliptic curve", DecodingKey::from_ec_pem(pem.as_bytes())),
        AlgorithmFamily::Ed => ("an Ed25519", DecodingKey::from_ed_pem(pem.as_bytes())),
        AlgorithmFamily::Hmac => return Err(format!("{alg} needs a secret")),
    };
    let key = key.map_err(|_| format!("is broken, or not {kind} key, which {alg} needs"))?;
    // What the library says is left out: it may repeat a piece of the key.
    let parts = Jwk::from_decoding_key(&key, None).map_err(|_| format!("is a broken key, or not one for {alg}"))?;
    fits(alg, &parts).map(|()| key)
}

/// Whether the key is one for `alg`: its kind, its curve, its size.
///
/// # Errors
/// Why not, in words.
pub(crate) fn fits(alg: TokenAlgorithm, key: &Jwk) -> Result<(), String> {
    let has = |wanted: &EllipticCurve, curve: &EllipticCurve| match wanted == curve {
        true => Ok(()),
        false => Err(format!("is on the curve {curve:?}, and {alg} needs {wanted:?}")),
    };
    match (&key.algorithm, alg) {
        (AlgorithmParameters::EllipticCurve(key), TokenAlgorithm::Es256) => has(&EllipticCurve::P256, &key.curve),
        (AlgorithmParameters::EllipticCurve(key), TokenAlgorithm::Es384) => has(&EllipticCurve::P384, &key.curve),
        (AlgorithmParameters::OctetKeyPair(key), TokenAlgorithm::EdDsa) => has(&EllipticCurve::Ed25519, &key.curve),
        (AlgorithmParameters::RSA(key), _) if alg.algorithm().family() == AlgorithmFamily::Rsa => {
            // Base64 has 6 bits a letter; a modulus begins with a 1.
            let bits = key.n.len() * 6 / 8 * 8;
            if bits >= RSA_BITS { Ok(()) } else { Err(format!("has {bits} bits and needs at least {RSA_BITS}")) }
        }
        _ => Err(format!("is not a key for {alg}")),
    }
}

impl TokenSettings {
    /// Whether there is any way to check a token.
    pub fn can_check(&self) -> bool {
        !self.keys.is_empty() || self.jwks_url.is_some()
    }

    /// What their types cannot say: each the setting below `auth.tokens`, and what is wrong with it.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut add = |key: &str, message: String| problems.push((key.to_owned(), message));
        if self.keys.len() > MAX_KEYS {
            add("keys", format!("{} are more than {MAX_KEYS}", self.keys.len()));
        }
        for (index, key) in self.keys.iter().enumerate() {
            if let Err(error) = key.decoding_key() {
                add(&format!("keys.{index}.{}", error.setting), error.message);
            }
            let Some(kid) = &key.kid else { continue };
            let at = format!("keys.{index}.kid");
            if !is_name(kid) {
                add(&at, format!("has 1 to {MAX_NAME} bytes, no control characters"));
            }
            if let Some(other) = self.keys[..index].iter().position(|other| other.kid.as_ref() == Some(kid)) {
                add(&at, format!("{kid:?} is the name of auth.tokens.keys.{other} too"));
            }
        }
        for (key, is_set) in [
            ("issuer", self.issuer.is_some()),
            ("audience", !self.audience.is_empty()),
            ("cookie", self.cookie.is_some()),
        ] {
            if is_set && !self.can_check() {
                add(key, "no token can be checked: set auth.tokens.keys or auth.tokens.jwks_url".to_owned());
            }
        }
        let named = |name: &String| format!("{name:?} has not 1 to {MAX_NAME} bytes without control characters");
        if let Some(issuer) = self.issuer.as_ref().filter(|name| !is_name(name)) {
            add("issuer", named(issuer));
        }
        if let Some(audience) = self.audience.iter().find(|name| !is_name(name)) {
            add("audience", named(audience));
        }
        // RFC 6265 §4.1.1: a token of RFC 9110.
        if let Some(cookie) = &self.cookie
            && (!is_name(cookie) || !cookie.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)))
        {
            add("cookie", "is the name of a cookie: letters (a to z), digits, `-`, `_` or `.`".to_owned());
        }
        if self.leeway > MAX_LEEWAY {
            let [shown, longest] = [self.leeway, MAX_LEEWAY].map(humantime::format_duration);
            add("leeway", format!("{shown} is more than {longest}: so much longer a token would be good"));
        }
        let [shortest, longest] = REFRESH;
        if !(shortest..=longest).contains(&self.jwks_refresh) {
            let [shown, from, to] = [self.jwks_refresh, shortest, longest].map(humantime::format_duration);
            add("jwks_refresh", format!("{shown} is not one of {from} to {to}"));
        }
        problems
    }

    /// What is allowed and yet worth a line in the log.
    pub(super) fn warnings(&self) -> Option<String> {
        (self.jwks_url.is_some() && self.audience.is_empty() && self.issuer.is_none()).then(|| {
            "auth.tokens.jwks_url without auth.tokens.audience or issuer: every token that is signed with a key from there \
             opens this node, also one made for something else"
                .to_owned()
        })
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// For `#[serde(with = …)]`: a text, or a list of them.
struct OneOrMore;

impl OneOrMore {
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
                Ok(vec![text.to_owned()])
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
                let mut all = Vec::new();
                while let Some(next) = list.next_element()? {
                    all.push(next);
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(Visitor)
    }

    fn serialize<S: Serializer>(texts: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        texts.serialize(serializer)
    }
}

written_as!(OneOrMore, "text, or a list of texts", { "type": ["string", "array"] });
