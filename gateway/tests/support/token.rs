//! Tokens as a back end makes them.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The secret of the nodes under test.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// `auth.tokens` with that secret.
pub const TOKENS: (&str, &str) =
    ("SKYWAVE__AUTH__TOKENS__KEYS", r#"[{ alg = "HS256", secret = "0123456789abcdef0123456789abcdef" }]"#);

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token of these claims, signed with [`SECRET`]; it lasts an hour unless they say how long.
pub fn token(mut claims: Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = (now() + 3600).into();
    }
    signed(SECRET, &claims)
}

/// A token of exactly these claims, signed with HS256.
pub fn signed(secret: &str, claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// A user's token that names these channels.
pub fn user(name: &str, subscribe: &[&str], publish: &[&str]) -> String {
    token(json!({"sub": name, "skywave": {"subscribe": subscribe, "publish": publish}}))
}

/// A token for one channel.
pub fn channel(user: Option<&str>, channel: &str) -> String {
    let mut claims = json!({"channel": channel});
    if let Some(user) = user {
        claims["sub"] = user.into();
    }
    token(claims)
}
