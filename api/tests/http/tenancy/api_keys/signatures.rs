//! Keys whose requests must be signed.

use common::{crypto::SigningSecret, revocations::Revoked};
use domain::access::signed_requests::{Signature, Signed};
use futures::future::join_all;
use mongodb::bson::DateTime;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{founded, make, path, plain};
use crate::{
    people::{People, Person},
    support::{Answer, Client, Database, World},
};

const CURRENT: &str = "/api/tenant/current";
const INVITE: &str = "/api/tenant/users/invite";
const SCOPES: [&str; 4] = ["tenant:read", "users:read", "usage:read", "users:invite"];

/// A key that must sign.
struct Signer {
    key: String,
    secret: SigningSecret,
}

impl Signer {
    fn of(key: &Value) -> Self {
        let secret = SigningSecret::from(key["signing_secret"].as_str().unwrap());
        Self { key: plain(key), secret }
    }

    async fn make(world: &World, maker: &Person) -> (Value, Self) {
        let key = make(world, maker, &json!({ "require_signature": true, "scopes": SCOPES })).await;
        let signer = Self::of(&key);
        (key, signer)
    }

    /// The header for a request at this many seconds from now.
    fn sign(&self, method: &Method, target: &str, body: &str, seconds: i64) -> String {
        let now = DateTime::from_millis(DateTime::now().timestamp_millis() + seconds * 1000);
        let signed = Signed { method: method.as_str(), target, body: body.as_bytes() };
        Signature::make(&self.secret, signed, now).header()
    }

    async fn send(
        &self,
        client: &Client,
        method: Method,
        target: &str,
        body: &str,
        signature: Option<&str>,
    ) -> Answer {
        let request = client.request(method, target).bearer_auth(&self.key);
        let request = signature
            .into_iter()
            .fold(request, |request, signature| request.header("x-signature", signature));
        let request = request.header("content-type", "application/json");
        Answer::of(request.body(body.to_owned())).await
    }
}

fn invitation(number: usize) -> String {
    json!({ "email": format!("p{number}@example.com"), "role": "viewer" }).to_string()
}

fn expect_invalid(answer: Answer) {
    answer.expect_problem(StatusCode::UNAUTHORIZED, "signature_invalid");
}

fn expect_replayed(answer: Answer) {
    answer.expect_problem(StatusCode::UNAUTHORIZED, "signature_replayed");
}

#[tokio::test]
async fn a_signed_request_is_accepted_once() {
    let (world, ada) = founded(&[]).await;
    let (_, signer) = Signer::make(&world, &ada).await;
    let body = invitation(1);
    let signature = signer.sign(&Method::POST, INVITE, &body, 0);
    let send = async |client: &Client| {
        signer.send(client, Method::POST, INVITE, &body, Some(&signature)).await
    };
    send(&world.client).await.expect(StatusCode::CREATED);
    expect_replayed(send(&world.client).await);
    // On no other process either.
    let (_other, client) = world.another_api().await;
    expect_replayed(send(&client).await);
    // Reading may be repeated.
    let signature = signer.sign(&Method::GET, CURRENT, "", 0);
    for _ in 0..3 {
        let answer = signer.send(&world.client, Method::GET, CURRENT, "", Some(&signature)).await;
        answer.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn of_parallel_repetitions_one_is_accepted() {
    let (world, ada) = founded(&[]).await;
    let (_, signer) = Signer::make(&world, &ada).await;
    let (_other, client) = world.another_api().await;
    let body = invitation(1);
    let signature = signer.sign(&Method::POST, INVITE, &body, 0);
    let sent = (0..20).map(|number| {
        let client = if number % 2 == 0 { &world.client } else { &client };
        signer.send(client, Method::POST, INVITE, &body, Some(&signature))
    });
    let answers = join_all(sent).await;
    let accepted = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!(accepted, 1, "{answers:?}");
}

#[tokio::test]
async fn an_altered_unsigned_or_old_request_is_refused() {
    let (world, ada) = founded(&[]).await;
    let (key, signer) = Signer::make(&world, &ada).await;
    let (_, other) = Signer::make(&world, &ada).await;
    let body = invitation(1);
    let good = signer.sign(&Method::POST, INVITE, &body, 0);
    let send = async |method: Method, target: &str, body: &str, signature: Option<&str>| {
        signer.send(&world.client, method, target, body, signature).await
    };
    expect_invalid(send(Method::POST, INVITE, &body, None).await);
    expect_invalid(send(Method::POST, INVITE, &invitation(2), Some(&good)).await);
    let one = signer.sign(&Method::GET, "/api/tenant/users?q=a", "", 0);
    expect_invalid(send(Method::GET, "/api/tenant/users?q=b", "", Some(&one)).await);
    expect_invalid(send(Method::GET, "/api/tenant/users", "", Some(&one)).await);
    send(Method::GET, "/api/tenant/users?q=a", "", Some(&one)).await.expect(StatusCode::OK);
    expect_invalid(send(Method::POST, INVITE, "", Some(&good)).await);
    expect_invalid(send(Method::GET, CURRENT, "", Some(&good)).await);
    expect_invalid(send(Method::GET, CURRENT, "", None).await);
    let foreign = other.sign(&Method::POST, INVITE, &body, 0);
    expect_invalid(send(Method::POST, INVITE, &body, Some(&foreign)).await);
    for seconds in [-330, 330] {
        let old = signer.sign(&Method::POST, INVITE, &body, seconds);
        expect_invalid(send(Method::POST, INVITE, &body, Some(&old)).await);
    }
    for malformed in ["", "t=1", "x", &good.to_uppercase(), &format!("{good},{good}")] {
        expect_invalid(send(Method::POST, INVITE, &body, Some(malformed)).await);
    }
    let request = world.client.request(Method::POST, INVITE).bearer_auth(&signer.key);
    let twice = request.header("x-signature", &good).header("x-signature", &good);
    let twice = twice.header("content-type", "application/json").body(body.clone());
    expect_invalid(Answer::of(twice).await);
    // None of these used the signature up, and clocks may differ by minutes.
    send(Method::POST, INVITE, &body, Some(&good)).await.expect(StatusCode::CREATED);
    for (number, seconds) in [(3, -240), (4, 240)] {
        let body = invitation(number);
        let signature = signer.sign(&Method::POST, INVITE, &body, seconds);
        send(Method::POST, INVITE, &body, Some(&signature)).await.expect(StatusCode::CREATED);
    }
    // The signature does not replace the key.
    let request = world.client.request(Method::GET, CURRENT);
    let signature = signer.sign(&Method::GET, CURRENT, "", 0);
    let request = request.header("x-signature", signature);
    Answer::of(request).await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(key["require_signature"], true);
}

/// During a rotation, each secret signs with its own signing secret.
#[tokio::test]
async fn the_signing_secret_is_rotated_with_the_key() {
    let (world, ada) = founded(&[]).await;
    let (key, before) = Signer::make(&world, &ada).await;
    let rotate = format!("{}/rotate", path(&key));
    let rotated = world.client.post_body_as(&ada.token, &rotate, &json!({})).await;
    let after = Signer::of(&rotated.expect(StatusCode::OK).json());
    let mixed = Signer { key: before.key.clone(), secret: after.secret.clone() };
    for (signer, is_valid) in [(&before, true), (&after, true), (&mixed, false)] {
        let signature = signer.sign(&Method::GET, CURRENT, "", 0);
        let answer = signer.send(&world.client, Method::GET, CURRENT, "", Some(&signature)).await;
        if is_valid {
            answer.expect(StatusCode::OK);
        } else {
            expect_invalid(answer);
        }
    }
}

#[tokio::test]
async fn without_redis_changes_of_such_keys_are_refused() {
    let world = World::on(Database::with_own_redis().await, &[]).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let (_, signer) = Signer::make(&world, &ada).await;
    let plain_key = plain(&make(&world, &ada, &json!({ "scopes": SCOPES })).await);
    world.env.redis().stop().await;
    let body = invitation(1);
    let signature = signer.sign(&Method::POST, INVITE, &body, 0);
    let refused = signer.send(&world.client, Method::POST, INVITE, &body, Some(&signature)).await;
    refused.expect_problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
    // Reading needs no memory, and other keys none at all.
    let signature = signer.sign(&Method::GET, CURRENT, "", 0);
    signer
        .send(&world.client, Method::GET, CURRENT, "", Some(&signature))
        .await
        .expect(StatusCode::OK);
    world.client.get_as(&plain_key, CURRENT).await.expect(StatusCode::OK);
}

/// A signing secret of another key's row is of no use.
#[tokio::test]
async fn a_moved_signing_secret_does_not_open() {
    let (world, ada) = founded(&[]).await;
    let (one, signer) = Signer::make(&world, &ada).await;
    let (two, _) = Signer::make(&world, &ada).await;
    let rows = world.raw().await.collection::<mongodb::bson::Document>("api_keys");
    let find = |key: &Value| mongodb::bson::doc! { "_id": key["id"].as_str().unwrap() };
    let foreign = rows.find_one(find(&two)).await.unwrap().unwrap();
    let foreign = foreign.get_array("secrets").unwrap()[0].as_document().unwrap();
    let moved = mongodb::bson::doc! { "$set": { "secrets.0.signing": foreign.get("signing") } };
    rows.update_one(find(&one), moved).await.unwrap();
    world.announce(Revoked::ApiKey(one["id"].as_str().unwrap().parse().unwrap())).await;
    let signature = signer.sign(&Method::GET, CURRENT, "", 0);
    let answer = signer.send(&world.client, Method::GET, CURRENT, "", Some(&signature)).await;
    answer.expect_problem(StatusCode::UNAUTHORIZED, "signature_invalid");
}
