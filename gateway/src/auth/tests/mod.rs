//! What a token has to survive before it is believed, and what it says then.

mod attacks;
mod claims;
mod jwks;
mod server;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _};
use serde_json::{Value as Json, json};

use super::*;

/// 2027, in milliseconds and seconds.
const NOW: u64 = 1_800_000_000_000;
const NOW_S: u64 = NOW / 1000;
const SECRET: &str = "a secret of thirty-two bytes or more";
const OTHER_SECRET: &str = "another secret of thirty-two bytes or so";
/// Made for these tests and used nowhere else.
const RSA: &str = include_str!("rsa.pem");
const RSA_PUBLIC: &str = include_str!("rsa.pub.pem");

fn settings(json: Json) -> TokenSettings {
    serde_json::from_value(json).unwrap()
}

fn authority(json: Json) -> Authority {
    Authority::new(&settings(json), Outbound::new(None).unwrap())
}

/// One that takes what `secret` signs.
fn with_secret(secret: &str) -> Authority {
    authority(json!({ "keys": [{ "alg": "HS256", "secret": secret }] }))
}

fn signer(alg: TokenAlgorithm, kid: Option<&str>, key: &str) -> SigningKey {
    SigningKey::read(alg, kid.map(Into::into), key).unwrap()
}

fn hs256(secret: &str) -> SigningKey {
    signer(TokenAlgorithm::Hs256, None, secret)
}

fn good() -> Json {
    json!({ "sub": "ada", "exp": NOW_S + 3600 })
}

fn pair(alg: TokenAlgorithm) -> KeyPair {
    KeyPair::generate_for(match alg {
        TokenAlgorithm::Es384 => &PKCS_ECDSA_P384_SHA384,
        TokenAlgorithm::EdDsa => &PKCS_ED25519,
        _ => &PKCS_ECDSA_P256_SHA256,
    })
    .unwrap()
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this header, signed as HS256 with whatever bytes.
fn forged(header: &str, claims: &Json, secret: &[u8]) -> String {
    let message = format!("{}.{}", base64(header), base64(claims.to_string()));
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

/// What both ways of asking say; they have to agree.
async fn reason(authority: &Authority, token: &str) -> &'static str {
    let outcome = authority.verify(token, NOW).await.map(drop);
    if let Some(now) = authority.verify_now(token, NOW) {
        assert_eq!(now.map(drop), outcome, "{token}");
    }
    outcome.map_or_else(|error| error.reason(), |()| "good")
}
