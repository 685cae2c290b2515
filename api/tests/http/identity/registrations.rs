//! Registering, and verifying the email address.

use std::time::Duration;

use common::{
    crypto::LinkToken, db::PlatformScope, id::RegistrationId, sealed_email::AddressDigest,
};
use domain::{
    identity::registrations::{Registration, ResendVerification, SendVerification},
    people::users::User,
    tenancy::{memberships::Membership, tenants::Tenant},
};
use futures::future::join_all;
use jobs::{outbox::OutboxRow, testing};
use mongodb::bson::{DateTime, doc};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{DEADLINE, PASSWORD, World};

#[tokio::test]
async fn a_person_registers_follows_the_link_and_signs_in() {
    let world = World::new().await;
    let _worker = world.env.spawn_worker().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    let mail = world
        .env
        .mail()
        .wait_for(|mail| mail.to.iter().any(|to| to.contains("ada@example.com")), DEADLINE)
        .await;
    let link = mail
        .text
        .split_whitespace()
        .find(|word| word.contains("/verify-email?token="))
        .expect("the mail has a link");
    let (base, token) = link.split_once("/verify-email?token=").unwrap();
    assert_eq!(base, world.config.app.public_url);

    world.client.get(&format!("/verify-email?token={token}")).await.expect(StatusCode::OK);
    world
        .login("ada@example.com", PASSWORD)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "email_not_verified");
    world
        .client
        .post("/api/auth/verify-email", &json!({ "token": token }))
        .await
        .expect(StatusCode::OK);
    world.login("ada@example.com", PASSWORD).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_email_with_an_account_gets_the_same_response_and_rows() {
    let world = World::new().await;
    world.make_account("known@example.com").await;
    let (registrations, staged) =
        (world.count::<Registration>().await, world.count::<OutboxRow>().await);

    let unknown = world.register("unknown@example.com").await.expect(StatusCode::ACCEPTED);
    let rows_of_unknown = (
        world.count::<Registration>().await - registrations,
        world.count::<OutboxRow>().await - staged,
    );
    let known = world.register("Known@Example.com").await.expect(StatusCode::ACCEPTED);
    let rows_of_both = (
        world.count::<Registration>().await - registrations,
        world.count::<OutboxRow>().await - staged,
    );

    assert_eq!(unknown.json(), json!({ "status": "verification_email_sent" }));
    assert_eq!(known.body, unknown.body);
    let names = |answer: &crate::support::Answer| {
        answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&known), names(&unknown));
    assert_eq!(rows_of_unknown, (1, 1));
    assert_eq!(rows_of_both, (2, 2));
    let mails = testing::staged::<SendVerification>(&world.store).await.unwrap();
    let registrations: Vec<Registration> =
        world.store.records(PlatformScope).list(doc! {}, doc! { "_id": 1 }, 10).await.unwrap();
    // The first belongs to the account that was created.
    let of_mails: Vec<_> = mails.iter().skip(1).map(|mail| mail.job.registration).collect();
    assert_eq!(
        of_mails,
        registrations.iter().map(|registration| registration.id).collect::<Vec<_>>()
    );
    assert_eq!(world.count::<User>().await, 1);
}

#[tokio::test]
async fn the_link_of_a_registration_with_a_known_email_changes_nothing() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    let token = world.link_token("ada@example.com").await;
    let refused = world.client.post("/api/auth/verify-email", &json!({ "token": token })).await;
    refused.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    assert_eq!((world.count::<User>().await, world.count::<Tenant>().await), (1, 1));
}

#[tokio::test]
async fn verifying_creates_the_user_the_tenant_its_ownership_and_an_event() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    assert_eq!(
        (world.count::<User>().await, world.count::<Tenant>().await),
        (0, 0),
        "an unverified email owns nothing"
    );
    let token = world.link_token("ada@example.com").await;
    let verified = world
        .client
        .post("/api/auth/verify-email", &json!({ "token": token }))
        .await
        .expect(StatusCode::OK);
    assert_eq!(verified.json(), json!({ "status": "verified" }));
    let rows = (
        world.count::<User>().await,
        world.count::<Tenant>().await,
        world.count::<Membership>().await,
    );
    assert_eq!(rows, (1, 1, 1));
    let events = world.events(doc! { "action": "tenant.created" }).await;
    assert_eq!(events, 1);
}

#[tokio::test]
async fn only_an_issued_token_works_and_only_once() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    let token = world.link_token("ada@example.com").await;
    let never_issued = LinkToken::issue::<common::id::Registration>(
        &world.key,
        RegistrationId::from_uuid(world.store.clock().uuid()),
    );
    let altered = format!("{}A", &token[..token.len() - 1]);
    for wrong in
        ["", "x", "é", &"x".repeat(5_000), never_issued.expose(), &format!("{token}x"), &altered]
    {
        if wrong != token {
            let refused =
                world.client.post("/api/auth/verify-email", &json!({ "token": wrong })).await;
            refused.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
        }
    }
    let verify =
        async || world.client.post("/api/auth/verify-email", &json!({ "token": token })).await;
    verify().await.expect(StatusCode::OK);
    verify().await.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
}

#[tokio::test]
async fn of_fifty_concurrent_uses_of_a_token_one_succeeds() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    let body = json!({ "token": world.link_token("ada@example.com").await });
    let answers =
        join_all((0..50).map(|_| world.client.post("/api/auth/verify-email", &body))).await;
    let (succeeded, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == StatusCode::OK);
    assert_eq!(succeeded.len(), 1);
    for answer in refused {
        answer.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    }
    assert_eq!((world.count::<User>().await, world.count::<Tenant>().await), (1, 1));
}

#[tokio::test]
async fn an_expired_token_is_rejected_before_its_row_is_removed() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    let token = world.link_token("ada@example.com").await;
    let a_moment_ago = DateTime::from_millis(world.store.clock().now().timestamp_millis() - 1);
    let expire = doc! { "$set": { "expires_at": a_moment_ago } };
    world.store.records::<Registration>(PlatformScope).update(doc! {}, expire).await.unwrap();
    let refused = world.client.post("/api/auth/verify-email", &json!({ "token": token })).await;
    refused.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
}

#[tokio::test]
async fn resending_looks_the_same_with_or_without_a_registration() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    for email in ["ada@example.com", "nobody@example.com"] {
        let answer = world
            .client
            .post("/api/auth/verify-email/resend", &json!({ "email": email }))
            .await
            .expect(StatusCode::ACCEPTED);
        assert_eq!(answer.json(), json!({ "status": "verification_email_sent" }));
        let staged = testing::staged::<ResendVerification>(&world.store).await.unwrap();
        let address = AddressDigest::of(&world.key, &email.parse().unwrap());
        assert_eq!(staged.last().unwrap().job, ResendVerification { address });
    }
    // The two requests, and the mail of the registration.
    assert_eq!(world.count::<OutboxRow>().await, 3);
}

#[tokio::test]
async fn registrations_by_a_stranger_do_not_suppress_the_mail_of_a_person() {
    let world = World::new().await;
    let register = async |name: &str, password: &str| {
        let body = json!({ "email": "ada@example.com", "password": password, "name": name, "tenant_name": format!("Tenant of {name}") });
        world.client.post("/api/auth/register", &body).await.expect(StatusCode::ACCEPTED);
    };
    let strangers = "an attackers set of words";
    register("Eve", strangers).await;
    register("Eve", strangers).await;
    register("Ada", PASSWORD).await;
    register("Eve", strangers).await;
    register("Eve", strangers).await;
    let at_once = [("TENANTRY__AUTH__RESEND_COOLDOWN", "1ms")];
    let _worker = world.env.spawn_worker_with(&at_once).await;
    let mail =
        world.env.mail().wait_for(|mail| mail.text.contains("\"Tenant of Ada\""), DEADLINE).await;
    assert_eq!(mail.to, ["ada@example.com"]);
    assert!(mail.text.contains("registered more than once"), "{}", mail.text);
    let (_, link) = mail.text.split_once("/verify-email?token=").expect("the mail has a link");
    let token = link.split_whitespace().next().unwrap();
    let body = json!({ "token": token });
    world.client.post("/api/auth/verify-email", &body).await.expect(StatusCode::OK);
    let login = world.login("ada@example.com", PASSWORD).await.expect(StatusCode::OK).json();
    assert_eq!(login["tenant"]["name"], "Tenant of Ada");
    world
        .login("ada@example.com", strangers)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
}

#[tokio::test]
async fn neither_the_database_nor_the_log_contains_a_usable_verification_token() {
    let world = World::spawned(&[]).await;
    world.register("canary-address@example.com").await.expect(StatusCode::ACCEPTED);
    let token = world.link_token("canary-address@example.com").await;
    let registration: Vec<Registration> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 1).await.unwrap();
    let stored = serde_json::to_string(&registration).unwrap();
    let staged: Vec<OutboxRow> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 10).await.unwrap();
    let staged = serde_json::to_string(&staged).unwrap();
    world.client.get(&format!("/verify-email?token={token}")).await.expect(StatusCode::OK);
    world
        .client
        .post("/api/auth/verify-email", &json!({ "token": token }))
        .await
        .expect(StatusCode::OK);
    world.api.process().terminate();
    world.api.process().wait(DEADLINE).await.unwrap();
    let log = world.api.process().log();
    for secret in [PASSWORD, token.as_str()] {
        assert!(!stored.contains(secret) && !staged.contains(secret) && !log.contains(secret));
    }
    for text in [&staged, &log] {
        assert!(!text.contains("canary-address"), "{text}");
    }
}

#[tokio::test]
async fn a_link_is_valid_for_a_day() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    let registrations: Vec<Registration> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 1).await.unwrap();
    let span_ms = registrations[0].expires_at.timestamp_millis()
        - registrations[0].created_at.timestamp_millis();
    assert_eq!(Duration::from_millis(span_ms.unsigned_abs()), Duration::from_hours(24));
}
