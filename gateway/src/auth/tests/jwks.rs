//! Keys from a key server: there, away, replaced, slow, wrong.

use futures_util::future::join_all;
use jsonwebtoken::DecodingKey;

use super::{
    super::jwks::PAUSE_MS,
    server::{KeyServer, jwk, published},
    *,
};

struct Issuer {
    pair: KeyPair,
    kid: Option<&'static str>,
}

impl Issuer {
    fn new(kid: Option<&'static str>) -> Self {
        Self { pair: pair(TokenAlgorithm::Es256), kid }
    }

    fn jwk(&self) -> Json {
        published(&self.pair, TokenAlgorithm::Es256, self.kid)
    }

    fn token(&self) -> String {
        let claims = json!({ "sub": "ada", "exp": NOW_S + 36_000 });
        signer(TokenAlgorithm::Es256, self.kid, &self.pair.serialize_pem()).sign(&claims).unwrap()
    }
}

fn asking(server: &KeyServer) -> Authority {
    authority(json!({ "jwks_url": server.url(), "jwks_refresh": "5m" }))
}

async fn at(authority: &Authority, token: &str, now_ms: u64) -> &'static str {
    authority.verify(token, now_ms).await.map_or_else(|error| error.reason(), |_| "good")
}

#[tokio::test]
async fn keys_are_fetched_when_they_are_needed_and_kept() {
    let (server, issuer) = (KeyServer::new().await, Issuer::new(Some("a")));
    server.publishes(&[issuer.jwk()]);
    let authority = asking(&server);
    assert!(authority.accepts_tokens());
    assert!(authority.verify_now(&issuer.token(), NOW).is_none(), "this takes a request");
    assert_eq!(server.asked(), 0);
    for _ in 0..3 {
        assert_eq!(at(&authority, &issuer.token(), NOW).await, "good");
    }
    assert_eq!(at(&authority, &issuer.token(), NOW + 299_999).await, "good");
    assert_eq!(server.asked(), 1);
    assert_eq!(at(&authority, &issuer.token(), NOW + 300_000).await, "good");
    assert_eq!(server.asked(), 2);
    // What the server wants counts if it is less.
    server.says("200 OK", "Cache-Control: max-age=20\r\n", json!({ "keys": [issuer.jwk()] }).to_string());
    assert_eq!(at(&authority, &issuer.token(), NOW + 600_000).await, "good");
    assert_eq!(at(&authority, &issuer.token(), NOW + 619_999).await, "good");
    assert_eq!(server.asked(), 3);
    assert_eq!(at(&authority, &issuer.token(), NOW + 620_000).await, "good");
    assert_eq!(server.asked(), 4);
}

#[tokio::test]
async fn all_kinds_of_keys_are_taken_from_a_server_but_secrets() {
    let (server, ed) = (KeyServer::new().await, pair(TokenAlgorithm::EdDsa));
    let es384 = pair(TokenAlgorithm::Es384);
    let rsa = DecodingKey::from_rsa_pem(RSA_PUBLIC.as_bytes()).unwrap();
    let mut no_alg = jwk(&rsa, TokenAlgorithm::Rs256, Some("no alg"));
    no_alg.as_object_mut().unwrap().remove("alg");
    let mut no_alg_ec = published(&es384, TokenAlgorithm::Es384, Some("no alg ec"));
    no_alg_ec.as_object_mut().unwrap().remove("alg");
    let mut for_encryption = jwk(&rsa, TokenAlgorithm::Rs256, Some("enc"));
    for_encryption["use"] = "enc".into();
    let mut for_signing_only = jwk(&rsa, TokenAlgorithm::Rs256, Some("ops"));
    for_signing_only["key_ops"] = json!(["sign"]);
    let mut lies = published(&ed, TokenAlgorithm::EdDsa, Some("lies"));
    lies["alg"] = "RS256".into();
    let mut secret_in_disguise = jwk(&rsa, TokenAlgorithm::Rs256, Some("disguise"));
    secret_in_disguise["alg"] = "HS256".into();
    server.publishes(&[
        json!({ "kty": "oct", "k": base64(SECRET), "alg": "HS256", "kid": "oct" }),
        json!({ "kty": "quantum", "kid": "new", "x": [1] }),
        json!({ "kty": "RSA", "kid": "broken", "n": "***", "e": "AQAB", "alg": "RS256" }),
        json!({ "kty": "RSA", "kid": "short", "n": base64([0xff; 128]), "e": "AQAB", "alg": "RS256" }),
        json!(5),
        for_encryption,
        for_signing_only,
        lies,
        secret_in_disguise,
        no_alg,
        no_alg_ec,
        jwk(&rsa, TokenAlgorithm::Ps256, Some("ps")),
        published(&ed, TokenAlgorithm::EdDsa, Some("ed")),
    ]);
    let authority = asking(&server);
    let rsa = |alg, kid| signer(alg, Some(kid), RSA);
    for (key, expected) in [
        (rsa(TokenAlgorithm::Rs256, "no alg"), "good"),
        (rsa(TokenAlgorithm::Ps256, "ps"), "good"),
        (signer(TokenAlgorithm::EdDsa, Some("ed"), &ed.serialize_pem()), "good"),
        (signer(TokenAlgorithm::Es384, Some("no alg ec"), &es384.serialize_pem()), "good"),
        (rsa(TokenAlgorithm::Rs256, "ps"), "unknown_key"),
        (rsa(TokenAlgorithm::Rs512, "no alg"), "unknown_key"),
        (rsa(TokenAlgorithm::Rs256, "enc"), "unknown_key"),
        (rsa(TokenAlgorithm::Rs256, "ops"), "unknown_key"),
        (signer(TokenAlgorithm::EdDsa, Some("lies"), &ed.serialize_pem()), "unknown_key"),
        (signer(TokenAlgorithm::Hs256, Some("oct"), SECRET), "algorithm"),
        (signer(TokenAlgorithm::Hs256, Some("disguise"), SECRET), "algorithm"),
        (hs256(SECRET), "algorithm"),
    ] {
        assert_eq!(at(&authority, &key.sign(&good()).unwrap(), NOW).await, expected, "{key:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_from_the_start_is_asked_again_later() {
    let (server, issuer) = (KeyServer::new().await, Issuer::new(Some("a")));
    let authority = asking(&server);
    for now in [NOW, NOW + 1, NOW + PAUSE_MS - 1] {
        let error = authority.verify(&issuer.token(), now).await.unwrap_err();
        assert_eq!((error.code(), error.reason()), (skywave_proto::ErrorCode::Unavailable, "keys_unavailable"));
    }
    assert_eq!(server.asked(), 1, "nobody's impatience makes it more");
    // A secret needs no server.
    assert_eq!(at(&authority, &hs256(SECRET).sign(&good()).unwrap(), NOW).await, "algorithm");
    server.publishes(&[issuer.jwk()]);
    assert_eq!(at(&authority, &issuer.token(), NOW + PAUSE_MS).await, "good");
    assert_eq!(server.asked(), 2);

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = super::authority(json!({ "jwks_url": format!("http://{nobody}/") }));
    assert_eq!(at(&refused, &issuer.token(), NOW).await, "keys_unavailable");
}

#[tokio::test]
async fn a_server_that_goes_away_takes_nothing_with_it() {
    let (server, issuer) = (KeyServer::new().await, Issuer::new(Some("a")));
    let stranger = Issuer::new(Some("b"));
    server.publishes(&[issuer.jwk()]);
    let authority = asking(&server);
    assert_eq!(at(&authority, &issuer.token(), NOW).await, "good");
    let answers: [(&str, &str, Vec<u8>); 6] = [
        ("500 Internal Server Error", "", Vec::new()),
        ("200 OK", "", b"<html>".to_vec()),
        ("200 OK", "", b"{\"keys\":{}}".to_vec()),
        ("200 OK", "", json!({ "keys": [], "x": "y".repeat(256 << 10) }).to_string().into()),
        ("302 Found", "Location: /elsewhere\r\n", Vec::new()),
        ("204 No Content", "", Vec::new()),
    ];
    let mut now = NOW;
    for round in 0..=answers.len() {
        match answers.get(round) {
            Some((status, headers, body)) => server.says(status, headers, body.clone()),
            None => server.breaks(),
        }
        now += 300_000;
        assert_eq!(at(&authority, &issuer.token(), now).await, "good", "{round}");
        assert_eq!(server.asked(), round + 2);
        assert_eq!(at(&authority, &issuer.token(), now + PAUSE_MS - 1).await, "good");
        // It may be a new key: who can say now?
        assert_eq!(at(&authority, &stranger.token(), now + 1).await, "keys_unavailable", "{round}");
        assert_eq!(server.asked(), round + 2);
    }
}

#[tokio::test]
async fn a_key_that_was_replaced_is_found_and_one_that_was_withdrawn_is_forgotten() {
    let (server, old, new) = (KeyServer::new().await, Issuer::new(Some("a")), Issuer::new(Some("b")));
    server.publishes(&[old.jwk()]);
    let authority = asking(&server);
    assert_eq!(at(&authority, &old.token(), NOW).await, "good");
    server.publishes(&[old.jwk(), new.jwk()]);
    // Too soon after the last request.
    assert_eq!(at(&authority, &new.token(), NOW + PAUSE_MS - 1).await, "unknown_key");
    assert_eq!(server.asked(), 1);
    assert_eq!(at(&authority, &new.token(), NOW + PAUSE_MS).await, "good");
    assert_eq!(server.asked(), 2);
    assert_eq!(at(&authority, &old.token(), NOW + PAUSE_MS).await, "good");
    // Names that somebody makes up cost one request in a while.
    for number in 0..20 {
        let stranger = Issuer { pair: pair(TokenAlgorithm::Es256), kid: Some(["x", "y"][number % 2]) };
        assert_eq!(at(&authority, &stranger.token(), NOW + 3 * PAUSE_MS + number as u64).await, "unknown_key");
    }
    assert_eq!(server.asked(), 3);
    server.publishes(&[new.jwk()]);
    assert_eq!(at(&authority, &old.token(), NOW + 3 * PAUSE_MS + 299_999).await, "good");
    assert_eq!(at(&authority, &old.token(), NOW + 3 * PAUSE_MS + 300_000).await, "unknown_key");
    assert_eq!(at(&authority, &new.token(), NOW + 3 * PAUSE_MS + 300_000).await, "good");
    // An empty set withdraws all.
    server.publishes(&[]);
    assert_eq!(at(&authority, &new.token(), NOW + 3 * PAUSE_MS + 600_000).await, "unknown_key");
}

#[tokio::test]
async fn a_key_without_a_name_that_was_replaced_is_found_too() {
    let (server, old, new) = (KeyServer::new().await, Issuer::new(None), Issuer::new(None));
    server.publishes(&[old.jwk()]);
    let authority = asking(&server);
    assert_eq!(at(&authority, &old.token(), NOW).await, "good");
    server.publishes(&[new.jwk()]);
    assert_eq!(at(&authority, &new.token(), NOW + PAUSE_MS - 1).await, "signature");
    assert_eq!(server.asked(), 1);
    assert_eq!(at(&authority, &new.token(), NOW + PAUSE_MS).await, "good");
    assert_eq!(at(&authority, &old.token(), NOW + PAUSE_MS).await, "signature");
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn fifty_who_wait_make_one_request() {
    let (server, issuer) = (KeyServer::new().await, Issuer::new(Some("a")));
    server.publishes(&[issuer.jwk()]);
    server.holds();
    let (authority, token) = (asking(&server), issuer.token());
    let open = async {
        while server.asked() == 0 {
            tokio::task::yield_now().await;
        }
        // Who gives up takes the request of nobody.
        let impatient = tokio::time::timeout(Duration::from_millis(1), authority.verify(&token, NOW)).await;
        assert!(impatient.is_err());
        server.opens();
    };
    let (outcomes, ()) = tokio::join!(join_all((0..50).map(|_| authority.verify(&token, NOW))), open);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn the_first_who_asks_and_leaves_leaves_the_answer_to_the_rest() {
    let (server, issuer) = (KeyServer::new().await, Issuer::new(None));
    server.publishes(&[issuer.jwk()]);
    server.holds();
    let (authority, token) = (asking(&server), issuer.token());
    let first = async {
        while server.asked() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = authority.verify(&token, NOW) => panic!("nobody was answered"),
        () = first => {}
    }
    let (second, ()) = tokio::join!(authority.verify(&token, NOW), async { server.opens() });
    assert!(second.is_ok());
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn keys_of_the_configuration_and_of_a_server_go_together() {
    let (server, issuer) = (KeyServer::new().await, Issuer::new(Some("a")));
    let own = Issuer::new(None);
    server.publishes(&[issuer.jwk()]);
    let both = json!({
        "keys": [
            { "alg": "ES256", "public_key": own.pair.public_key_pem() },
            { "alg": "HS256", "secret": SECRET },
        ],
        "jwks_url": server.url(),
    });
    let authority = authority(both.clone());
    assert_eq!(at(&authority, &own.token(), NOW).await, "good");
    assert_eq!(at(&authority, &hs256(SECRET).sign(&good()).unwrap(), NOW).await, "good");
    assert_eq!(server.asked(), 0, "who needs no server asks none");
    assert_eq!(at(&authority, &issuer.token(), NOW).await, "good");
    // A reload keeps what was fetched; another address does not.
    authority.replace(&settings(both));
    server.breaks();
    assert_eq!(at(&authority, &issuer.token(), NOW + 1).await, "good");
    assert_eq!(server.asked(), 1);
    let other = KeyServer::new().await;
    other.publishes(&[]);
    authority.replace(&settings(json!({ "jwks_url": other.url() })));
    assert_eq!(at(&authority, &issuer.token(), NOW + 2).await, "unknown_key");
    assert_eq!((server.asked(), other.asked()), (1, 1));
    assert!(!format!("{authority:?}").contains("hunter2"));
}
