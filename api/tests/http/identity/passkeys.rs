//! Passkeys: adding one, signing in with it, using it as a second factor, and what is rejected. The
//! authenticator is software that implements the real protocol.

use domain::identity::mfa::SendMfaChanged;
use futures::future::join_all;
use jobs::testing;
use mongodb::bson::doc;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::authenticator::{Device, ORIGIN};

use crate::support::{Answer, PASSWORD, World};

const ADA: &str = "ada@example.com";
const ENROLL: &str = "/api/auth/mfa/passkeys/enroll";
const PASSKEYS: &str = "/api/auth/mfa/passkeys";
const OPTIONS: &str = "/api/auth/passkeys/options";
const LOGIN: &str = "/api/auth/passkeys/login";
const VERIFY: &str = "/api/auth/mfa/verify";
const REAUTHENTICATE: &str = "/api/auth/reauthenticate";

async fn world() -> World {
    World::with(&[("TENANTRY__APP__PUBLIC_URL", ORIGIN)]).await
}

fn text(answer: &Answer, name: &str) -> String {
    answer.json()[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer:?}")).to_owned()
}

/// Adds the passkey of `device` and returns the response.
async fn add(world: &World, token: &str, device: &mut Device) -> Answer {
    let begun = world.client.post_as(token, ENROLL).await.expect(StatusCode::OK).json();
    let credential = device.create(&begun["public_key"]).await;
    let body =
        json!({ "ceremony": begun["ceremony"], "credential": credential, "name": "My phone" });
    world.client.post_body_as(token, PASSKEYS, &body).await
}

/// The body of a sign-in with `device`.
async fn using(world: &World, device: &mut Device) -> Value {
    let begun = world.client.post(OPTIONS, &json!({})).await.expect(StatusCode::OK).json();
    json!({ "ceremony": begun["ceremony"], "credential": device.get(&begun["public_key"]).await })
}

fn not_added(answer: Answer) {
    answer.expect_problem(StatusCode::BAD_REQUEST, "passkey_ceremony_invalid");
}

fn refused(answer: Answer) {
    answer.expect_problem(StatusCode::UNAUTHORIZED, "passkey_invalid");
}

#[tokio::test]
async fn a_passkey_signs_in_without_an_email_or_a_password() {
    let world = world().await;
    let token = world.signed_in(ADA).await;
    let mut device = Device::at(ORIGIN);
    let added = add(&world, &token, &mut device).await.expect(StatusCode::CREATED).json();
    assert!(
        added["passkey"]["name"] == "My phone"
            && added["recovery_codes"].as_array().unwrap().len() == 10,
        "{added}"
    );
    let begun = world.client.post(OPTIONS, &json!({})).await.expect(StatusCode::OK).json();
    assert_eq!(begun["public_key"]["allowCredentials"], json!([]), "the options reveal no user");
    assert_eq!(begun["public_key"]["userVerification"], "required");
    for _ in 0..2 {
        let body = using(&world, &mut device).await;
        let signed_in = world.client.post(LOGIN, &body).await.expect(StatusCode::OK);
        assert!(
            signed_in.header("set-cookie").starts_with("__Secure-refresh_token="),
            "{signed_in:?}"
        );
        let me = world
            .client
            .get_as(&text(&signed_in, "access_token"), "/api/auth/me")
            .await
            .expect(StatusCode::OK)
            .json();
        assert_eq!(me["user"]["email"], ADA);
        // Each response of an authenticator is valid once.
        refused(world.client.post(LOGIN, &body).await);
    }
    let factors = world.client.get_as(&token, "/api/auth/mfa").await.expect(StatusCode::OK).json();
    assert!(factors["passkeys"][0]["last_used_at"].is_string(), "{factors}");
    // It is a second factor as well: the password alone is no longer enough.
    world.login(ADA, PASSWORD).await.expect_problem(StatusCode::UNAUTHORIZED, "mfa_required");
}

#[tokio::test]
async fn a_passkey_is_a_second_factor_beside_the_password() {
    let world = world().await;
    let token = world.signed_in(ADA).await;
    let mut device = Device::at(ORIGIN);
    add(&world, &token, &mut device).await.expect(StatusCode::CREATED);
    let asked =
        world.login(ADA, PASSWORD).await.expect_problem(StatusCode::UNAUTHORIZED, "mfa_required");
    assert_eq!(asked.json()["methods"], json!(["passkey", "recovery_code"]));
    let credential = device.get(&asked.json()["public_key"]).await;
    let body = json!({ "mfa_token": text(&asked, "mfa_token"), "credential": credential });
    world.client.post(VERIFY, &body).await.expect(StatusCode::OK);
    world
        .client
        .post(VERIFY, &body)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_token_invalid");

    // A credential that was created for another sign-in is not accepted.
    let asked =
        world.login(ADA, PASSWORD).await.expect_problem(StatusCode::UNAUTHORIZED, "mfa_required");
    let body = json!({ "mfa_token": text(&asked, "mfa_token"), "credential": credential });
    refused(world.client.post(VERIFY, &body).await);
}

#[tokio::test]
async fn a_passkey_reauthenticates() {
    let world = world().await;
    let token = world.signed_in(ADA).await;
    let (mut device, mut others) = (Device::at(ORIGIN), Device::at(ORIGIN));
    add(&world, &token, &mut device).await.expect(StatusCode::CREATED);
    let other = world.signed_in("eve@example.com").await;
    add(&world, &other, &mut others).await.expect(StatusCode::CREATED);
    refused(
        world.client.post_body_as(&token, REAUTHENTICATE, &using(&world, &mut others).await).await,
    );
    world
        .client
        .post_body_as(&token, REAUTHENTICATE, &using(&world, &mut device).await)
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn of_fifty_concurrent_uses_of_a_credential_one_starts_a_session() {
    let world = world().await;
    let token = world.signed_in(ADA).await;
    let mut device = Device::at(ORIGIN);
    add(&world, &token, &mut device).await.expect(StatusCode::CREATED);
    let body = using(&world, &mut device).await;
    let answers = join_all((0..50).map(|_| world.client.post(LOGIN, &body))).await;
    let begun = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(begun, 1, "{answers:?}");
}

/// A copy is detected once both were used, because their counters differ.
#[tokio::test]
async fn a_copied_passkey_is_rejected() {
    let world = world().await;
    let token = world.signed_in(ADA).await;
    let mut device = Device::at(ORIGIN);
    add(&world, &token, &mut device).await.expect(StatusCode::CREATED);
    let mut copy = device.copied();
    for _ in 0..2 {
        world.client.post(LOGIN, &using(&world, &mut device).await).await.expect(StatusCode::OK);
    }
    refused(world.client.post(LOGIN, &using(&world, &mut copy).await).await);
}

#[tokio::test]
async fn a_credential_is_valid_only_for_its_ceremony_and_account() {
    let world = world().await;
    let (token, eve) = (world.signed_in(ADA).await, world.signed_in("eve@example.com").await);
    let mut device = Device::at(ORIGIN);

    // The ceremony of another user, of another kind, or none.
    let begun = world.client.post_as(&eve, ENROLL).await.expect(StatusCode::OK).json();
    let credential = device.create(&begun["public_key"]).await;
    let using_one = world.client.post(OPTIONS, &json!({})).await.expect(StatusCode::OK).json();
    for ceremony in [&begun["ceremony"], &using_one["ceremony"], &json!("x"), &json!("")] {
        let body = json!({ "ceremony": ceremony, "credential": credential, "name": "My phone" });
        not_added(world.client.post_body_as(&token, PASSKEYS, &body).await);
    }
    // The page of another website.
    let mut elsewhere = Device::at("https://evil.app.example.com");
    let begun = world.client.post_as(&token, ENROLL).await.expect(StatusCode::OK).json();
    let credential = elsewhere.create(&begun["public_key"]).await;
    let body =
        json!({ "ceremony": begun["ceremony"], "credential": credential, "name": "My phone" });
    not_added(world.client.post_body_as(&token, PASSKEYS, &body).await);
    // A passkey that was never added.
    let mut unknown = Device::at(ORIGIN);
    let begun = world.client.post_as(&token, ENROLL).await.expect(StatusCode::OK).json();
    unknown.create(&begun["public_key"]).await;
    refused(world.client.post(LOGIN, &using(&world, &mut unknown).await).await);
    // A credential that was altered.
    add(&world, &token, &mut device).await.expect(StatusCode::CREATED);
    let mut altered = using(&world, &mut device).await;
    let signature = altered["credential"]["response"]["signature"].as_str().unwrap();
    let flipped = if signature.starts_with("MEU") {
        signature.replacen("MEU", "MEQ", 1)
    } else {
        signature.replacen("ME", "MF", 1)
    };
    altered["credential"]["response"]["signature"] = flipped.into();
    refused(world.client.post(LOGIN, &altered).await);

    for body in [
        json!({}),
        json!({ "ceremony": "x" }),
        json!({ "ceremony": "x", "credential": {} }),
        json!({ "ceremony": 7, "credential": [] }),
    ] {
        world
            .client
            .post(LOGIN, &body)
            .await
            .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
    }
}

#[tokio::test]
async fn a_removed_passkey_is_rejected_and_users_remove_only_their_own() {
    let world = world().await;
    let (token, eve) = (world.signed_in(ADA).await, world.signed_in("eve@example.com").await);
    let mut device = Device::at(ORIGIN);
    let added = add(&world, &token, &mut device).await.expect(StatusCode::CREATED).json();
    let path = format!("{PASSKEYS}/{}", added["passkey"]["id"].as_str().unwrap());
    world.client.delete_as(&eve, &path).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
    let early = using(&world, &mut device).await;
    world.client.delete_as(&token, &path).await.expect(StatusCode::NO_CONTENT);
    world.client.delete_as(&token, &path).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
    refused(world.client.post(LOGIN, &early).await);
    // It was the only second factor: the password is enough again.
    world.login(ADA, PASSWORD).await.expect(StatusCode::OK);
    assert_eq!(testing::staged::<SendMfaChanged>(&world.store).await.unwrap().len(), 2);
    let audited = world.events(doc! { "action": { "$regex": "^mfa\\.passkey_" } }).await;
    assert_eq!(audited, 2);
}

#[tokio::test]
async fn without_a_domain_there_are_no_passkeys() {
    let world = World::new().await;
    let token = world.signed_in(ADA).await;
    world
        .client
        .post_as(&token, ENROLL)
        .await
        .expect_problem(StatusCode::CONFLICT, "passkeys_unavailable");
    world
        .client
        .post(OPTIONS, &json!({}))
        .await
        .expect_problem(StatusCode::CONFLICT, "passkeys_unavailable");
}
