//! What a token says once its signature is right.

use skywave_proto::ChannelName;

use super::*;

/// What is said of a token with these claims, by an authority with these settings beside its key.
fn outcome(settings: &Json, claims: &Json) -> Result<Claims, TokenError> {
    let mut settings = settings.clone();
    settings["keys"] = json!([{ "alg": "HS256", "secret": SECRET }]);
    let token = hs256(SECRET).sign(claims).unwrap();
    authority(settings).verify_now(&token, NOW).unwrap()
}

fn reason(settings: &Json, claims: &Json) -> &'static str {
    outcome(settings, claims).map_or_else(|error| error.reason(), |_| "good")
}

/// Good claims, and these.
fn with(claims: Json) -> Json {
    let mut all = good();
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

#[test]
fn a_token_is_good_for_its_time() {
    let default = json!({});
    for (claims, expected) in [
        (json!({ "exp": NOW_S + 1 }), "good"),
        (json!({ "exp": NOW_S - 29 }), "good"),
        (json!({ "exp": NOW_S - 30 }), "expired"),
        (json!({ "exp": 0 }), "expired"),
        (json!({ "exp": NOW_S as f64 - 29.5 }), "good"),
        (json!({ "exp": NOW_S as f64 - 30.5 }), "expired"),
        (json!({ "exp": -1 }), "claims"),
        (json!({ "exp": NOW }), "claims"),
        (json!({ "exp": u64::MAX }), "claims"),
        (json!({ "exp": 1e300 }), "claims"),
        (json!({ "exp": "soon" }), "claims"),
        (json!({ "exp": NOW_S.to_string() }), "claims"),
        (json!({ "exp": null }), "claims"),
        (json!({ "exp": [NOW_S] }), "claims"),
        (json!({ "nbf": NOW_S + 30 }), "good"),
        (json!({ "nbf": NOW_S + 31 }), "not_yet_valid"),
        (json!({ "iat": NOW_S + 30 }), "good"),
        (json!({ "iat": NOW_S + 31 }), "not_yet_valid"),
        (json!({ "nbf": "now" }), "claims"),
        (json!({ "exp": NOW_S - 60, "nbf": NOW_S + 60 }), "expired"),
    ] {
        assert_eq!(reason(&default, &with(claims.clone())), expected, "{claims}");
    }
    let strict = json!({ "leeway": "0s" });
    assert_eq!(reason(&strict, &with(json!({ "exp": NOW_S }))), "expired");
    assert_eq!(reason(&strict, &with(json!({ "exp": NOW_S + 1 }))), "good");
    assert_eq!(reason(&strict, &with(json!({ "nbf": NOW_S + 1 }))), "not_yet_valid");
    assert_eq!(reason(&default, &json!({ "sub": "ada" })), "claims");
    let lax = outcome(&json!({ "require_expiry": false }), &json!({ "sub": "ada" })).unwrap();
    assert_eq!((lax.expires_at_ms, lax.ends_at_ms), (None, None));
    let timed = outcome(&default, &with(json!({ "iat": NOW_S - 5 }))).unwrap();
    assert_eq!(timed.expires_at_ms, Some(NOW + 3_600_000));
    assert_eq!(timed.ends_at_ms, Some(NOW + 3_630_000));
    assert_eq!(timed.issued_at_ms, Some(NOW - 5_000));
}

#[test]
fn a_token_is_for_whom_it_names() {
    for (settings, claims, expected) in [
        (json!({}), json!({ "iss": "anybody" }), "good"),
        (json!({ "issuer": "us" }), json!({ "iss": "us" }), "good"),
        (json!({ "issuer": "us" }), json!({ "iss": "US" }), "issuer"),
        (json!({ "issuer": "us" }), json!({}), "issuer"),
        (json!({ "issuer": "us" }), json!({ "iss": ["us"] }), "claims"),
        (json!({}), json!({ "aud": "them" }), "audience"),
        (json!({ "audience": "us" }), json!({}), "audience"),
        (json!({ "audience": "us" }), json!({ "aud": "us" }), "good"),
        (json!({ "audience": "us" }), json!({ "aud": "them" }), "audience"),
        (json!({ "audience": "us" }), json!({ "aud": ["them", "us"] }), "good"),
        (json!({ "audience": ["a", "b"] }), json!({ "aud": ["c", "b"] }), "good"),
        (json!({ "audience": ["a", "b"] }), json!({ "aud": ["c", "d"] }), "audience"),
        (json!({ "audience": "us" }), json!({ "aud": [] }), "audience"),
        (json!({ "audience": "us" }), json!({ "aud": 5 }), "claims"),
        (json!({ "audience": "us" }), json!({ "aud": ["us", 5] }), "claims"),
        (json!({ "audience": "us" }), json!({ "aud": "usa" }), "audience"),
    ] {
        assert_eq!(reason(&settings, &with(claims.clone())), expected, "{settings} {claims}");
    }
}

#[test]
fn what_is_written_wrong_is_refused_and_what_is_unknown_is_passed_over() {
    let many = |count: usize| (0..count).map(|number| format!("a:{number}")).collect::<Vec<_>>();
    for (claims, expected) in [
        (json!({ "role": "admin", "skywave": { "later": [1] } }), "good"),
        (json!({ "sub": "x".repeat(255) }), "good"),
        (json!({ "sub": "x".repeat(256) }), "claims"),
        (json!({ "sub": "" }), "claims"),
        (json!({ "sub": "a\nb" }), "claims"),
        (json!({ "sub": " a" }), "claims"),
        (json!({ "sub": 7 }), "claims"),
        (json!({ "jti": "x".repeat(256) }), "claims"),
        (json!({ "jti": "" }), "claims"),
        (json!({ "skywave": [] }), "claims"),
        (json!({ "skywave": "x" }), "claims"),
        (json!({ "skywave": { "subscribe": "a" } }), "claims"),
        (json!({ "skywave": { "subscribe": [5] } }), "claims"),
        (json!({ "skywave": { "subscribe": null } }), "claims"),
        (json!({ "skywave": { "subscribe": ["a*"] } }), "claims"),
        (json!({ "skywave": { "publish": ["#user:7"] } }), "claims"),
        (json!({ "skywave": { "publish": ["x".repeat(256)] } }), "claims"),
        (json!({ "skywave": { "subscribe": many(60), "publish": many(40) } }), "good"),
        (json!({ "skywave": { "subscribe": many(60), "publish": many(41) } }), "claims"),
        (json!({ "skywave": { "channels": many(128) } }), "good"),
        (json!({ "skywave": { "channels": many(129) } }), "claims"),
        (json!({ "skywave": { "channels": ["#user:7"] } }), "claims"),
        (json!({ "skywave": { "channels": ["a\u{1}"] } }), "claims"),
        (json!({ "skywave": { "info": { "a": "x".repeat(4088) } } }), "good"),
        (json!({ "skywave": { "info": { "a": "x".repeat(4089) } } }), "claims"),
        (json!({ "skywave": { "info": [1] } }), "claims"),
        (json!({ "skywave": { "info": "x" } }), "claims"),
        (json!({ "channel": "a" }), "claims"),
    ] {
        assert_eq!(reason(&json!({}), &with(claims.clone())), expected, "{claims}");
    }
    for payload in [
        "",
        "5",
        "[]",
        r#"["ada",9e9,null,null,null,null,null,null,null]"#,
        "null",
        "{",
        r#"{"exp":9e9}{}"#,
        r#"{"sub":"a","sub":"b","exp":9e9}"#,
        "\u{feff}{}",
    ] {
        let message = format!("{}.{}", base64(r#"{"alg":"HS256"}"#), base64(payload));
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
        let heard = with_secret(SECRET).verify_now(&format!("{message}.{signature}"), NOW).unwrap();
        assert_eq!(heard.map(drop).unwrap_err().reason(), "claims", "{payload}");
    }
}

#[test]
fn what_is_said_is_what_was_written() {
    let claims = outcome(
        &json!({}),
        &with(json!({ "jti": "t1", "skywave": {
            "subscribe": ["chat:*", "news"], "publish": ["chat:lobby"], "channels": ["news", "chat:a"],
            "info": { "name": "Ada\nL.", "n": [1, 2] },
        } })),
    )
    .unwrap();
    assert_eq!(claims.user.as_deref(), Some("ada"));
    assert_eq!(claims.id.as_deref(), Some("t1"));
    let has = |patterns: &Patterns, name: &str| patterns.matches(&ChannelName::parse(name).unwrap());
    assert!(has(&claims.subscribe, "chat:x") && has(&claims.subscribe, "news") && !has(&claims.subscribe, "chat"));
    assert!(has(&claims.publish, "chat:lobby") && !has(&claims.publish, "news"));
    assert_eq!(claims.channels.iter().map(ChannelName::as_str).collect::<Vec<_>>(), ["news", "chat:a"]);
    let info = claims.info.unwrap();
    assert_eq!(serde_json::from_slice::<Json>(&info).unwrap(), json!({ "name": "Ada\nL.", "n": [1, 2] }));
    assert!(!info.contains(&b'\n'));
    let nobody = outcome(&json!({}), &json!({ "exp": NOW_S + 1 })).unwrap();
    assert!(
        nobody.user.is_none() && nobody.subscribe.is_empty() && nobody.channels.is_empty() && nobody.info.is_none()
    );
}

#[test]
fn a_channel_token_is_no_connection_token_and_the_other_way_round() {
    let authority = with_secret(SECRET);
    let ticket = |claims: Json| authority.verify_channel_now(&hs256(SECRET).sign(&claims).unwrap(), NOW).unwrap();
    let good_one = ticket(with(json!({ "channel": "chat:a", "jti": "t1" }))).unwrap();
    assert_eq!((&*good_one.user, good_one.channel.as_str(), good_one.id.as_deref()), ("ada", "chat:a", Some("t1")));
    assert_eq!((good_one.expires_at_ms, good_one.ends_at_ms), (Some(NOW + 3_600_000), Some(NOW + 3_630_000)));
    for (claims, expected) in [
        (good(), "claims"),
        (with(json!({ "channel": "" })), "claims"),
        (with(json!({ "channel": "#user:7" })), "claims"),
        (with(json!({ "channel": ["a"] })), "claims"),
        (with(json!({ "channel": "a", "skywave": {} })), "claims"),
        (json!({ "channel": "a", "exp": NOW_S + 60 }), "claims"),
        (with(json!({ "channel": "a", "exp": NOW_S - 60 })), "expired"),
        (with(json!({ "channel": "a", "aud": "them" })), "audience"),
    ] {
        assert_eq!(ticket(claims.clone()).unwrap_err().reason(), expected, "{claims}");
    }
    // A pattern is a channel of that name.
    let star = ticket(with(json!({ "channel": "chat:*" }))).unwrap();
    assert_eq!(star.channel.as_str(), "chat:*");
}
