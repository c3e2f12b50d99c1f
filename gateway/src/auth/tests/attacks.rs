//! Tokens that somebody made who may not.

use std::{
    io,
    sync::{Arc, Mutex},
};

use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::prelude::*;

use super::*;

struct House {
    authority: Authority,
    rsa: SigningKey,
    ec: SigningKey,
    ed: SigningKey,
    ec_pair: KeyPair,
}

/// One key of each family, those with a name and one without.
fn house() -> House {
    let (ec_pair, ed_pair) = (pair(TokenAlgorithm::Es256), pair(TokenAlgorithm::EdDsa));
    let authority = authority(json!({ "keys": [
        { "alg": "HS256", "secret": SECRET, "kid": "h" },
        { "alg": "RS256", "public_key": RSA_PUBLIC, "kid": "r" },
        { "alg": "ES256", "public_key": ec_pair.public_key_pem(), "kid": "e" },
        { "alg": "EdDSA", "public_key": ed_pair.public_key_pem() },
    ] }));
    House {
        authority,
        rsa: signer(TokenAlgorithm::Rs256, Some("r"), RSA),
        ec: signer(TokenAlgorithm::Es256, None, &ec_pair.serialize_pem()),
        ed: signer(TokenAlgorithm::EdDsa, Some("whatever"), &ed_pair.serialize_pem()),
        ec_pair,
    }
}

/// The bytes of a public key without their PEM.
fn der(pem: &str) -> Vec<u8> {
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(lines).unwrap()
}

#[tokio::test]
async fn what_a_right_key_signed_is_believed() {
    let house = house();
    for key in [&hs256(SECRET), &signer(TokenAlgorithm::Hs256, Some("h"), SECRET), &house.rsa, &house.ec, &house.ed] {
        let token = key.sign(&good()).unwrap();
        assert_eq!(reason(&house.authority, &token).await, "good", "{key:?}");
    }
    assert!(house.authority.accepts_tokens() && !authority(json!({})).accepts_tokens());
}

#[tokio::test]
async fn every_algorithm_of_the_list_works() {
    let (es256, es384, ed) = (pair(TokenAlgorithm::Es256), pair(TokenAlgorithm::Es384), pair(TokenAlgorithm::EdDsa));
    let secret = SECRET.repeat(2);
    for alg in TokenAlgorithm::ALL {
        let (private, public) = match alg {
            TokenAlgorithm::Es256 => (es256.serialize_pem(), es256.public_key_pem()),
            TokenAlgorithm::Es384 => (es384.serialize_pem(), es384.public_key_pem()),
            TokenAlgorithm::EdDsa => (ed.serialize_pem(), ed.public_key_pem()),
            _ if alg.is_symmetric() => (secret.clone(), secret.clone()),
            _ => (RSA.to_owned(), RSA_PUBLIC.to_owned()),
        };
        let name = if alg.is_symmetric() { "secret" } else { "public_key" };
        let authority = authority(json!({ "keys": [{ "alg": alg.as_str(), name: public }] }));
        let token = signer(alg, None, &private).sign(&good()).unwrap();
        assert_eq!(reason(&authority, &token).await, "good", "{alg}");
        assert_eq!(authority.verify_now(&token, NOW).is_some(), alg.is_symmetric(), "{alg}");
    }
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused_however_it_says_so() {
    let house = house();
    let payload = base64(good().to_string());
    let signature = hs256(SECRET).sign(&good()).unwrap().rsplit_once('.').unwrap().1.to_owned();
    for alg in
        ["none", "None", "NONE", "nOnE", "", " none", "none ", "hs256", "HS256 ", "HS257", "ES256K", "ES512", "dir"]
    {
        let header = base64(json!({ "alg": alg }).to_string());
        for token in [format!("{header}.{payload}."), format!("{header}.{payload}.{signature}")] {
            assert_eq!(reason(&house.authority, &token).await, "algorithm", "{alg:?}");
        }
        let no_dot = reason(&house.authority, &format!("{header}.{payload}")).await;
        assert_eq!(no_dot, "malformed");
    }
    for header in [
        "{}",
        r#"{"alg":null}"#,
        r#"{"alg":1}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
        "[]",
        r#"["HS256",null,null,null,null]"#,
        "null",
        "",
    ] {
        let token = forged(header, &good(), SECRET.as_bytes());
        assert_eq!(reason(&house.authority, &token).await, "malformed", "{header}");
    }
    let header = base64(r#"{"alg":"HS256"}"#);
    assert_eq!(reason(&house.authority, &format!("{header}.{payload}.")).await, "malformed");
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let house = house();
    let ec_public = house.ec_pair.public_key_pem();
    let secrets: [Vec<u8>; 8] = [
        RSA_PUBLIC.into(),
        RSA_PUBLIC.trim_end().into(),
        RSA_PUBLIC.replace('\n', "\r\n").into(),
        der(RSA_PUBLIC),
        ec_public.clone().into(),
        der(&ec_public),
        house.ec_pair.der_bytes().to_vec(),
        Vec::new(),
    ];
    for secret in &secrets {
        for (header, expected) in [
            (r#"{"alg":"HS256"}"#, "signature"),
            (r#"{"alg":"HS256","kid":"h"}"#, "signature"),
            (r#"{"alg":"HS256","kid":"r"}"#, "unknown_key"),
            (r#"{"alg":"HS256","kid":"e"}"#, "unknown_key"),
            (r#"{"alg":"HS384"}"#, "algorithm"),
            (r#"{"alg":"RS256","kid":"r"}"#, "signature"),
            (r#"{"alg":"ES256","kid":"e"}"#, "signature"),
            (r#"{"alg":"EdDSA"}"#, "signature"),
        ] {
            assert_eq!(reason(&house.authority, &forged(header, &good(), secret)).await, expected, "{header}");
        }
    }
    // Nor where there is no secret at all.
    let authority = authority(json!({ "keys": [{ "alg": "RS256", "public_key": RSA_PUBLIC }] }));
    let token = forged(r#"{"alg":"HS256"}"#, &good(), RSA_PUBLIC.as_bytes());
    assert_eq!(reason(&authority, &token).await, "algorithm");
}

#[tokio::test]
async fn a_wrong_key_or_a_wrong_algorithm_is_refused() {
    let house = house();
    let stranger = pair(TokenAlgorithm::Es256).serialize_pem();
    for (key, expected) in [
        (hs256(OTHER_SECRET), "signature"),
        (signer(TokenAlgorithm::Hs256, Some("h"), OTHER_SECRET), "signature"),
        (signer(TokenAlgorithm::Hs256, Some("x"), SECRET), "unknown_key"),
        (signer(TokenAlgorithm::Hs256, Some("r"), SECRET), "unknown_key"),
        (signer(TokenAlgorithm::Hs256, Some("H"), SECRET), "unknown_key"),
        (signer(TokenAlgorithm::Hs512, Some("h"), &SECRET.repeat(2)), "algorithm"),
        (signer(TokenAlgorithm::Rs256, Some("e"), RSA), "unknown_key"),
        (signer(TokenAlgorithm::Rs512, Some("r"), RSA), "algorithm"),
        (signer(TokenAlgorithm::Ps256, Some("r"), RSA), "algorithm"),
        (signer(TokenAlgorithm::Es256, Some("e"), &stranger), "signature"),
        (signer(TokenAlgorithm::Es256, None, &stranger), "signature"),
        (signer(TokenAlgorithm::Es384, Some("e"), &pair(TokenAlgorithm::Es384).serialize_pem()), "algorithm"),
        (signer(TokenAlgorithm::EdDsa, None, &pair(TokenAlgorithm::EdDsa).serialize_pem()), "signature"),
    ] {
        assert_eq!(reason(&house.authority, &key.sign(&good()).unwrap()).await, expected, "{key:?}");
    }
    let nobody = authority(json!({}));
    assert_eq!(reason(&nobody, &hs256(SECRET).sign(&good()).unwrap()).await, "algorithm");
}

#[tokio::test]
async fn a_token_that_was_changed_is_refused() {
    let house = house();
    for key in [&hs256(SECRET), &house.rsa, &house.ec, &house.ed] {
        let token = key.sign(&good()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else { panic!("three parts") };
        let root = base64(json!({ "sub": "root", "exp": NOW_S + 3600 }).to_string());
        let mut other_header: Json = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        other_header["x"] = "y".into();
        let other_header = base64(other_header.to_string());
        let mut bits = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bits[7] ^= 1;
        let flipped = base64(&bits);
        let half = base64(&bits[..bits.len() / 2]);
        let foreign = key.sign(&json!({ "sub": "bob", "exp": NOW_S + 3600 })).unwrap();
        let foreign = foreign.rsplit_once('.').unwrap().1;
        for (token, expected) in [
            (format!("{header}.{root}.{signature}"), "signature"),
            (format!("{other_header}.{payload}.{signature}"), "signature"),
            (format!("{header}.{payload}.{flipped}"), "signature"),
            (format!("{header}.{payload}.{half}"), "signature"),
            (format!("{header}.{payload}.{foreign}"), "signature"),
            (format!("{header}.{payload}.AA"), "signature"),
            (format!("{header}.{payload}.{signature}="), "signature"),
            (format!("{header}.{payload}. {signature}"), "signature"),
            (format!("{header}.{payload}.{signature}.{signature}"), "malformed"),
            (format!(".{payload}.{signature}"), "malformed"),
            (format!("{header}..{signature}"), "signature"),
            (format!(" {token}"), "malformed"),
            (format!("{token}\n"), "signature"),
            (String::new(), "malformed"),
            ("..".to_owned(), "malformed"),
            (format!("{header}.{payload}.{signature}{}", "A".repeat(MAX_TOKEN_BYTES)), "too_large"),
        ] {
            assert_eq!(reason(&house.authority, &token).await, expected, "{key:?} {token:?}");
        }
    }
}

#[tokio::test]
async fn what_a_header_asks_for_is_not_done() {
    let authority = with_secret(SECRET);
    let own = pair(TokenAlgorithm::Es256);
    let jwk = json!({ "kty": "oct", "k": base64(OTHER_SECRET), "alg": "HS256" });
    for (header, secret, expected) in [
        (json!({ "alg": "HS256", "crit": ["exp"] }), SECRET, "malformed"),
        (json!({ "alg": "HS256", "crit": [], "b64": false }), SECRET, "malformed"),
        (json!({ "alg": "HS256", "zip": "DEF" }), SECRET, "malformed"),
        (json!({ "alg": "HS256", "enc": "A128GCM" }), SECRET, "malformed"),
        (json!({ "alg": "HS256", "kid": 5 }), SECRET, "malformed"),
        (json!({ "alg": "HS256", "kid": "x".repeat(256) }), SECRET, "malformed"),
        (json!({ "alg": "HS256", "jwk": jwk }), OTHER_SECRET, "signature"),
        (
            json!({ "alg": "HS256", "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/" }),
            OTHER_SECRET,
            "signature",
        ),
        (json!({ "alg": "HS256", "kid": "../../../dev/null" }), "", "signature"),
        (json!({ "alg": "HS256", "typ": "at+jwt", "x": { "y": [1] } }), SECRET, "good"),
    ] {
        let token = forged(&header.to_string(), &good(), secret.as_bytes());
        assert_eq!(reason(&authority, &token).await, expected, "{header}");
    }
    // A key that came with the token is not looked at.
    let claims = json!({ "sub": "root", "exp": NOW_S + 60, "jwk": own.public_key_pem() });
    let token = signer(TokenAlgorithm::Es256, None, &own.serialize_pem()).sign(&claims).unwrap();
    assert_eq!(reason(&authority, &token).await, "algorithm");
}

#[tokio::test]
async fn keys_are_replaced_without_a_gap() {
    let key = |kid: Option<&str>, secret: &str| json!({ "alg": "HS256", "secret": secret, "kid": kid });
    for (named, withdrawn) in [(true, "unknown_key"), (false, "signature")] {
        let kid = |name| Some(name).filter(|_| named);
        let (old, new) = (key(kid("1"), SECRET), key(kid("2"), OTHER_SECRET));
        let [by_old, by_new] = [(kid("1"), SECRET), (kid("2"), OTHER_SECRET)]
            .map(|(kid, secret)| signer(TokenAlgorithm::Hs256, kid, secret).sign(&good()).unwrap());
        let authority = authority(json!({ "keys": [old] }));
        let shared = authority.clone();
        for (keys, expected) in [
            (json!([old]), ["good", withdrawn]),
            (json!([old, new]), ["good", "good"]),
            (json!([new]), [withdrawn, "good"]),
            (json!([]), ["algorithm", "algorithm"]),
        ] {
            authority.replace(&settings(json!({ "keys": keys })));
            let heard = [reason(&shared, &by_old).await, reason(&shared, &by_new).await];
            assert_eq!(heard, expected, "{keys}");
        }
    }
}

#[tokio::test]
async fn what_was_revoked_is_refused_and_the_rest_is_not() {
    let authority = with_secret(SECRET);
    let token = |sub: Option<&str>, iat: Option<u64>, jti: Option<&str>| {
        let mut claims = json!({ "exp": NOW_S + 3600 });
        for (name, value) in [("sub", sub.map(Json::from)), ("iat", iat.map(Json::from)), ("jti", jti.map(Json::from))]
        {
            if let Some(value) = value {
                claims[name] = value;
            }
        }
        hs256(SECRET).sign(&claims).unwrap()
    };
    let old = token(Some("ada"), Some(NOW_S - 10), Some("t1"));
    assert_eq!(reason(&authority, &old).await, "good");
    authority.revoked().token("t1", NOW + 1, NOW).unwrap();
    assert_eq!(reason(&authority, &old).await, "revoked");
    authority.revoked().user("ada", NOW - 5_000, NOW + 60_000, NOW).unwrap();
    for (token, expected) in [
        (token(Some("ada"), Some(NOW_S - 10), None), "revoked"),
        (token(Some("ada"), Some(NOW_S - 5), None), "revoked"),
        (token(Some("ada"), None, Some("t2")), "revoked"),
        (token(Some("ada"), Some(NOW_S - 4), None), "good"),
        (token(Some("bob"), Some(NOW_S - 10), Some("t2")), "good"),
        (token(None, None, None), "good"),
        (token(Some("bob"), Some(NOW_S), Some("t1")), "revoked"),
        (token(None, None, Some("t1")), "revoked"),
    ] {
        assert_eq!(reason(&authority, &token).await, expected);
    }
    let ticket = json!({ "sub": "ada", "channel": "a", "exp": NOW_S + 60, "iat": NOW_S - 10 });
    let heard = authority.verify_channel(&hs256(SECRET).sign(&ticket).unwrap(), NOW).await;
    assert_eq!(heard.unwrap_err(), TokenError::Revoked, "a channel token is one of the user's too");
    authority.replace(&settings(json!({ "keys": [{ "alg": "HS256", "secret": SECRET }] })));
    assert_eq!(reason(&authority, &old).await, "revoked", "a reload forgets nothing");
}

/// What a subscriber to all levels wrote.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_refusal_is_logged_and_counted_without_the_token() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    // Whether a line is wanted is asked when it is first met, which may be by another test, just now: that one hears no log.
    // With a second subscriber all are asked again and not only its own thread's.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while log.0.lock().unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "a line is heard");
        tracing::callsite::rebuild_interest_cache();
        let _ = with_secret(SECRET).verify_now("", NOW);
    }
    log.0.lock().unwrap().clear();
    let recorder = PrometheusBuilder::new().build_recorder();
    let figures = recorder.handle();
    let _counted = ::metrics::set_default_local_recorder(&recorder);

    let house = house();
    let late = json!({ "sub": "mallory", "exp": NOW_S - 3600, "skywave": { "info": { "word": "hunter2" } } });
    let wrong = json!({ "sub": "mallory", "exp": NOW_S + 60, "hunter2": 1, "skywave": { "subscribe": "hunter2" } });
    let tokens = [
        hs256(SECRET).sign(&late).unwrap(),
        hs256(SECRET).sign(&wrong).unwrap(),
        hs256(OTHER_SECRET).sign(&late).unwrap(),
        signer(TokenAlgorithm::Hs256, Some("x"), SECRET).sign(&late).unwrap(),
        house.ec.sign(&late).unwrap(),
        signer(TokenAlgorithm::Es256, Some("e"), &pair(TokenAlgorithm::Es256).serialize_pem()).sign(&late).unwrap(),
        format!("{}x.y.z", base64("{\"alg\":\"none\",\"hunter2\":1}")),
    ];
    let mut reasons = Vec::new();
    for token in &tokens {
        let error = house.authority.verify(token, NOW).await.unwrap_err();
        reasons.push(error.reason());
        let said = format!("{error} {error:?}");
        for part in token.split('.').chain(["hunter2", "mallory"]).filter(|part| part.len() > 3) {
            assert!(!said.contains(part), "{said}");
        }
    }
    assert_eq!(reasons, ["expired", "claims", "signature", "unknown_key", "expired", "signature", "malformed"]);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("token refused")).collect();
    assert_eq!(lines.len(), tokens.len(), "{log}");
    for (line, reason) in lines.iter().zip(&reasons) {
        assert!(line.contains(&format!("reason=\"{reason}\"")), "{line}");
    }
    for token in &tokens {
        for part in token.split('.').filter(|part| part.len() > 3) {
            assert!(!log.contains(part) && !log.contains(&part[..part.len().min(12)]), "{part} is in {log}");
        }
    }
    for secret in ["hunter2", "mallory", SECRET, OTHER_SECRET] {
        assert!(!log.contains(secret), "{log}");
    }
    let figures = figures.render();
    for (reason, count) in [("expired", 2), ("signature", 2), ("claims", 1), ("unknown_key", 1), ("malformed", 1)] {
        let line = format!("skywave_tokens_refused_total{{reason=\"{reason}\"}} {count}\n");
        assert!(figures.contains(&line), "{line} is not in {figures}");
    }
}

#[test]
fn every_reason_has_its_counter() {
    let all = [
        TokenError::Malformed,
        TokenError::Algorithm,
        TokenError::UnknownKey,
        TokenError::Signature,
        TokenError::Expired,
        TokenError::NotYetValid,
        TokenError::Issuer,
        TokenError::Audience,
        TokenError::claims("x"),
        TokenError::Revoked,
        TokenError::TooLarge,
        TokenError::KeysUnavailable,
    ];
    assert_eq!(all.map(|error| error.reason()), metrics::TOKEN_REASONS);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), dots in 0_usize..5) {
        let authority = with_secret(SECRET);
        let mut token = String::from_utf8_lossy(&bytes).into_owned();
        let _ = authority.verify_now(&token, NOW);
        for _ in 0..dots {
            token = format!("{}.{token}", base64(&bytes));
        }
        let _ = authority.verify_now(&token, NOW);
        let _ = authority.verify_channel_now(&token, NOW);
    }

    #[test]
    fn no_signed_payload_makes_it_panic(
        payload in r#"\{?("(sub|exp|nbf|iat|aud|iss|jti|channel|skywave)":("x"|-?[0-9]{1,20}|1e400|null|\[("a",?){0,3}\]|\{"(info|subscribe)":(\[\]|\{\}|"a")\}),?){0,4}\}?"#,
        now in any::<u64>(),
    ) {
        let message = format!("{}.{}", base64(r#"{"alg":"HS256"}"#), base64(&payload));
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
        let token = format!("{message}.{signature}");
        let authority = with_secret(SECRET);
        let _ = authority.verify_now(&token, now);
        let _ = authority.verify_channel_now(&token, now);
    }
}
