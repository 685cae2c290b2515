//! Forged, foreign and expired access tokens are rejected, and none makes the API send a request.

use std::net::Ipv4Addr;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::db::{Data, PlatformScope, Record};
use domain::{
    identity::signing_keys::{Issuer, SigningKey},
    people::sessions::Session,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mongodb::bson::{Binary, DateTime, doc};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    identity::revocation::keeps,
    support::{Answer, World},
};

/// A signing key as stored.
#[derive(Serialize, Deserialize)]
struct StoredKey {
    #[serde(rename = "_id")]
    id: String,
    sealed_private: Binary,
    public: Binary,
}

impl Record for StoredKey {
    const COLLECTION: &'static str = "signing_keys";
    const DATA: Data = Data::of_platform();
}

/// An attacker with the real signing key, who can sign any claims.
struct Forger {
    key: EncodingKey,
    public: Vec<u8>,
    kid: String,
    claims: Value,
}

impl Forger {
    async fn with_claims_of(world: &World, token: &str) -> Self {
        let stored: Vec<StoredKey> =
            world.store.records(PlatformScope).list(doc! {}, doc! { "_id": -1 }, 1).await.unwrap();
        let private = world.key.open("signing-key", &stored[0].sealed_private.bytes).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        Self {
            key: EncodingKey::from_ed_der(&private),
            public: stored[0].public.bytes.clone(),
            kid: stored[0].id.clone(),
            claims: serde_json::from_slice(&claims).unwrap(),
        }
    }

    fn header(&self, algorithm: Algorithm) -> Header {
        let mut header = Header::new(algorithm);
        (header.kid, header.typ) = (Some(self.kid.clone()), Some("at+jwt".to_owned()));
        header
    }

    /// The claims with one replaced, or removed if `value` is null.
    fn claims_with(&self, name: &str, value: &Value) -> Value {
        let mut claims = self.claims.clone();
        match value {
            Value::Null => {
                claims.as_object_mut().unwrap().remove(name).map(drop).unwrap_or_default();
            }
            value => claims[name] = value.clone(),
        }
        claims
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).unwrap()
    }
}

async fn refused(world: &World, what: &str, token: &str) {
    let answer = world.client.get_as(token, "/api/auth/me").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}: {answer:?}");
    let answer = answer.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    assert!(answer.header("www-authenticate").starts_with("Bearer"), "{what}");
}

#[tokio::test]
async fn only_our_algorithm_and_our_keys_are_accepted() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let forger = Forger::with_claims_of(&world, &token).await;
    let (head, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    // The attacker's unchanged claims are accepted, so each token below is rejected for its one
    // flaw.
    let honest = forger.sign(&forger.header(Algorithm::EdDSA), &forger.claims);
    world.client.get_as(&honest, "/api/auth/me").await.expect(StatusCode::OK);

    let encoded = |header: Value| URL_SAFE_NO_PAD.encode(header.to_string());
    for name in ["none", "None", "NONE"] {
        let header = encoded(json!({ "alg": name, "typ": "at+jwt", "kid": forger.kid }));
        refused(&world, "alg none", &format!("{header}.{claims}.")).await;
        refused(&world, "alg none with a signature", &format!("{header}.{claims}.{signature}"))
            .await;
    }
    for secret in [forger.public.clone(), URL_SAFE_NO_PAD.encode(&forger.public).into_bytes()] {
        let confused = jsonwebtoken::encode(
            &forger.header(Algorithm::HS256),
            &forger.claims,
            &EncodingKey::from_secret(&secret),
        )
        .unwrap();
        refused(&world, "HS256 with the public key", &confused).await;
    }
    let pair = Ed25519KeyPair::generate().unwrap();
    let private = pair.to_pkcs8v1().unwrap();
    let own_key = EncodingKey::from_ed_der(private.as_ref());
    let borrowed =
        jsonwebtoken::encode(&forger.header(Algorithm::EdDSA), &forger.claims, &own_key).unwrap();
    refused(&world, "our kid, another key", &borrowed).await;
    let public = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let jwk = encoded(json!({
        "alg": "EdDSA", "typ": "at+jwt", "kid": forger.kid,
        "jwk": { "kty": "OKP", "crv": "Ed25519", "x": public },
        "jku": "http://127.0.0.1:1/jwks.json", "x5u": "http://127.0.0.1:1/cert",
    }));
    let message = format!("{jwk}.{claims}");
    let own_signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()).as_ref());
    refused(&world, "a key of the token's own", &format!("{message}.{own_signature}")).await;
    refused(
        &world,
        "a changed claim",
        &format!(
            "{head}.{}.{signature}",
            URL_SAFE_NO_PAD.encode(forger.claims_with("x", &json!(1)).to_string())
        ),
    )
    .await;
}

#[tokio::test]
async fn an_unknown_or_hostile_kid_is_rejected() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let forger = Forger::with_claims_of(&world, &token).await;
    for kid in [
        "",
        "../../etc/passwd",
        "' || '1'=='1",
        "sig_0192a0b8c0de7000800000000000cafe",
        "{\"$ne\":null}",
        &"x".repeat(4_000),
    ] {
        let mut header = forger.header(Algorithm::EdDSA);
        header.kid = Some(kid.to_owned());
        refused(&world, kid, &forger.sign(&header, &forger.claims)).await;
    }
    let mut header = forger.header(Algorithm::EdDSA);
    header.kid = None;
    refused(&world, "no kid", &forger.sign(&header, &forger.claims)).await;
}

/// A key would be fetched before the response, so a connection from the API would be waiting here.
#[tokio::test]
async fn a_key_url_in_a_token_is_not_fetched() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let forger = Forger::with_claims_of(&world, &token).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    let pair = Ed25519KeyPair::generate().unwrap();
    let signed = |header: &Value, claims: &Value| {
        let message =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()).as_ref());
        format!("{message}.{signature}")
    };
    for algorithm in ["EdDSA", "Ed25519", "RS256", "PS256", "ES256", "HS256", "none", "", "\u{0}"] {
        for (name, value) in [
            ("jku", json!(url)),
            ("x5u", json!(url)),
            ("kid", json!(url)),
            ("jwk", json!({ "url": url })),
            ("crit", json!(["x"])),
        ] {
            let mut header = json!({ "alg": algorithm, "typ": "at+jwt", "kid": forger.kid });
            header[name] = value;
            refused(&world, &format!("{algorithm} with {name}"), &signed(&header, &forger.claims))
                .await;
        }
    }
    let header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": forger.kid });
    for name in ["iss", "jku", "sub"] {
        refused(&world, name, &signed(&header, &forger.claims_with(name, &json!(url)))).await;
    }
    let own = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (_, first) = listener.accept().await.unwrap();
    assert_eq!(first, own.local_addr().unwrap(), "the API connected first");
}

#[tokio::test]
async fn a_token_with_another_type_audience_issuer_or_time_is_rejected() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let forger = Forger::with_claims_of(&world, &token).await;
    let header = forger.header(Algorithm::EdDSA);
    let now = world.store.clock().now().timestamp_millis() / 1_000;
    let flaws = [
        ("aud", json!("tenantry-admin")),
        ("aud", json!(["other"])),
        ("aud", Value::Null),
        ("iss", json!("https://evil.example")),
        ("iss", Value::Null),
        ("exp", json!(now - 1)),
        ("exp", Value::Null),
        ("exp", json!("never")),
        ("iat", json!(now + 3_600)),
        ("nbf", json!(now + 3_600)),
        ("sub", json!("usr_0192a0b8c0de7000800000000000cafe")),
        ("sub", json!({ "$ne": null })),
        ("sid", json!("ses_0192a0b8c0de7000800000000000cafe")),
        ("sid", Value::Null),
        ("tid", json!("ten_0192a0b8c0de7000800000000000cafe")),
        ("tid", json!("usr_0192a0b8c0de7000800000000000cafe")),
    ];
    for (name, value) in flaws {
        refused(
            &world,
            &format!("{name} = {value}"),
            &forger.sign(&header, &forger.claims_with(name, &value)),
        )
        .await;
    }
    for typ in [Some("JWT"), Some("refresh+jwt"), None] {
        let mut header = forger.header(Algorithm::EdDSA);
        header.typ = typ.map(str::to_owned);
        refused(&world, "another typ", &forger.sign(&header, &forger.claims)).await;
    }
}

#[tokio::test]
async fn a_token_for_another_tenant_than_its_session_is_rejected() {
    let world = World::new().await;
    let ada = world.signed_in("ada@example.com").await;
    let eve = world.signed_in("eve@example.com").await;
    let forger = Forger::with_claims_of(&world, &ada).await;
    let eves = Forger::with_claims_of(&world, &eve).await;
    for name in ["sub", "sid", "tid"] {
        let claims = forger.claims_with(name, &eves.claims[name]);
        refused(&world, name, &forger.sign(&forger.header(Algorithm::EdDSA), &claims)).await;
    }
}

/// Isolation of tenants in the cache.
#[tokio::test]
async fn a_cached_caller_is_not_accepted_in_another_tenant() {
    let world = World::spawned(&[]).await;
    let ada = world.signed_in("ada@example.com").await;
    let eve = world.signed_in("eve@example.com").await;
    for token in [&ada, &eve] {
        keeps(&world, &world.client, token).await;
    }
    let forger = Forger::with_claims_of(&world, &ada).await;
    let eves = Forger::with_claims_of(&world, &eve).await;
    for name in ["sub", "sid", "tid"] {
        let claims = forger.claims_with(name, &eves.claims[name]);
        refused(&world, name, &forger.sign(&forger.header(Algorithm::EdDSA), &claims)).await;
    }
    for (token, forger) in [(&ada, &forger), (&eve, &eves)] {
        let me = world.client.get_as(token, "/api/auth/me").await.expect(StatusCode::OK).json();
        assert_eq!(
            (&me["tenant"]["id"], &me["user"]["id"]),
            (&forger.claims["tid"], &forger.claims["sub"])
        );
    }
}

#[tokio::test]
async fn a_valid_token_of_an_ended_session_is_rejected() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let a_moment_ago = DateTime::from_millis(world.store.clock().now().timestamp_millis() - 1);
    let expire = doc! { "$set": { "expires_at": a_moment_ago } };
    world.store.records::<Session>(PlatformScope).update(doc! {}, expire).await.unwrap();
    refused(&world, "expired session", &token).await;
}

#[tokio::test]
async fn anything_but_a_bearer_token_is_rejected() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let with = |values: &[&str]| {
        let request = world.client.request(Method::GET, "/api/auth/me");
        values.iter().fold(request, |request, value| request.header("authorization", *value))
    };
    let good = format!("Bearer {token}");
    for values in [
        vec!["Bearer"],
        vec!["Bearer "],
        vec!["Basic dGVzdDp0ZXN0"],
        vec![token.as_str()],
        vec![good.as_str(), good.as_str()],
    ] {
        Answer::of(with(&values)).await.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        Answer::of(with(&[&format!("{scheme} {token}")])).await.expect(StatusCode::OK);
    }
    let in_query = world.client.get(&format!("/api/auth/me?access_token={token}")).await;
    in_query.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn a_key_created_by_another_process_is_loaded_when_a_token_names_it() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let forger = Forger::with_claims_of(&world, &token).await;
    let id = |name: &str| forger.claims[name].as_str().unwrap().to_owned();
    // A newer key, as a rotation would create it: one of ours under another name.
    let stored: Vec<StoredKey> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 1).await.unwrap();
    let mut newer = mongodb::bson::serialize_to_document(&stored[0]).unwrap();
    newer.insert("_id", world.store.clock().id::<common::id::SigningKey>());
    newer.insert("created_at", world.store.clock().now());
    newer.insert("activates_at", world.store.clock().now());
    let newer: SigningKey = mongodb::bson::deserialize_from_document(newer).unwrap();
    world.store.records::<SigningKey>(PlatformScope).insert(&newer).await.unwrap();

    let keys = SigningKey::all(&world.store).await.unwrap();
    let now = world.store.clock().now();
    let issuer = Issuer::new(
        &keys,
        &world.key,
        &world.config.app.public_url,
        world.config.auth.access_token_ttl,
        now,
    )
    .unwrap();
    let rotated = issuer
        .issue(
            now,
            id("sub").parse().unwrap(),
            Some(id("tid").parse().unwrap()),
            id("sid").parse().unwrap(),
        )
        .unwrap();
    crate::support::eventually("the new key is found", async || {
        (world.client.get_as(&rotated, "/api/auth/me").await.status == StatusCode::OK).then_some(())
    })
    .await;
    world.client.get_as(&token, "/api/auth/me").await.expect(StatusCode::OK);
    let jwks = world.client.get("/.well-known/jwks.json").await.expect(StatusCode::OK).json();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn only_the_public_parts_of_keys_are_published() {
    let world = World::new().await;
    let answer = world.client.get("/.well-known/jwks.json").await.expect(StatusCode::OK);
    assert_eq!(answer.header("cache-control"), "public, max-age=300");
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    let mut names: Vec<&String> = keys[0].as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x"], "no private part");
}
