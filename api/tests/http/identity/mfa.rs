//! Second factors: setting them up, presenting them, and attempts to get around them.

use std::time::Duration;

use common::{clock::rfc3339, db::PlatformScope};
use domain::{
    identity::mfa::{MfaChange, SendMfaChanged, challenges::SendCodesThrottled},
    people::{sessions::Session, users::User},
    tenancy::memberships::Membership,
};
use futures::future::join_all;
use jobs::testing;
use mongodb::bson::{Document, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::authenticator::App;

use crate::{
    pages,
    support::{Answer, Database, PASSWORD, UNTHROTTLED, World, eventually},
    tenancy::invitations,
};

const ADA: &str = "ada@example.com";
const ENROLL: &str = "/api/auth/mfa/totp/enroll";
const CONFIRM: &str = "/api/auth/mfa/totp/confirm";
const TOTP: &str = "/api/auth/mfa/totp";
const VERIFY: &str = "/api/auth/mfa/verify";
const REAUTHENTICATE: &str = "/api/auth/reauthenticate";

fn text(answer: &Answer, name: &str) -> String {
    answer.json()[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer:?}")).to_owned()
}

fn codes(answer: &Answer) -> Vec<String> {
    serde_json::from_value(answer.json()["recovery_codes"].clone()).unwrap()
}

/// A user with an authenticator app.
struct Enrolled {
    token: String,
    app: App,
    recovery_codes: Vec<String>,
}

impl Enrolled {
    /// A new account that sets one up. The code of the previous step confirmed it.
    async fn new(world: &World, email: &str) -> Self {
        let token = world.signed_in(email).await;
        let told = world.client.post_as(&token, ENROLL).await.expect(StatusCode::OK);
        let app = App::told(&text(&told, "secret"));
        let confirmed = world
            .client
            .post_body_as(&token, CONFIRM, &json!({ "code": app.code(-1) }))
            .await
            .expect(StatusCode::OK);
        Self { token, app, recovery_codes: codes(&confirmed) }
    }
}

/// The response to the password alone.
async fn mfa_token(world: &World, email: &str) -> String {
    let asked =
        world.login(email, PASSWORD).await.expect_problem(StatusCode::UNAUTHORIZED, "mfa_required");
    text(&asked, "mfa_token")
}

async fn verify(world: &World, mfa_token: &str, code: &str) -> Answer {
    world.client.post(VERIFY, &json!({ "mfa_token": mfa_token, "code": code })).await
}

async fn told(world: &World) -> Vec<MfaChange> {
    testing::staged::<SendMfaChanged>(&world.store)
        .await
        .unwrap()
        .into_iter()
        .map(|staged| staged.job.change)
        .collect()
}

/// Lets the recent authentication expire, and waits until the API has noticed.
pub(crate) async fn grow_stale(world: &World, token: &str) {
    let id = text_of_session(world, token).await;
    let long_ago = mongodb::bson::DateTime::from_millis(
        world.store.clock().now().timestamp_millis() - 3_600_000,
    );
    let update = doc! { "$set": { "authenticated_at": long_ago } };
    assert!(
        world
            .store
            .records::<Session>(PlatformScope)
            .update(doc! { "_id": &id }, update)
            .await
            .unwrap()
    );
    world.announce(common::revocations::Revoked::Session(id.parse().unwrap())).await;
    let told = rfc3339(long_ago);
    eventually("the session is stale", async || {
        let me = world.client.get_as(token, "/api/auth/me").await.expect(StatusCode::OK).json();
        (me["session"]["authenticated_at"] == told).then_some(())
    })
    .await;
}

async fn text_of_session(world: &World, token: &str) -> String {
    let me = world.client.get_as(token, "/api/auth/me").await.expect(StatusCode::OK);
    me.json()["session"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn signing_in_requires_the_authenticator_app_once_it_is_confirmed() {
    let world = World::spawned(&[]).await;
    let token = world.signed_in(ADA).await;
    let other = text(&world.login(ADA, PASSWORD).await.expect(StatusCode::OK), "access_token");
    let told_app = world.client.post_as(&token, ENROLL).await.expect(StatusCode::OK);
    assert_eq!(told_app.header("cache-control"), "no-store");
    let (secret, url, svg) =
        (text(&told_app, "secret"), text(&told_app, "otpauth_url"), text(&told_app, "qr_svg"));
    assert!(
        url.starts_with("otpauth://totp/Tenantry") && url.contains(&secret) && svg.contains("<svg"),
        "{told_app:?}"
    );
    // Not required before it is confirmed.
    world.login(ADA, PASSWORD).await.expect(StatusCode::OK);

    let app = App::told(&secret);
    let wrong = json!({ "code": "000000" });
    world
        .client
        .post_body_as(&token, CONFIRM, &wrong)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_code_invalid");
    let confirmed = world
        .client
        .post_body_as(&token, CONFIRM, &json!({ "code": app.code(-1) }))
        .await
        .expect(StatusCode::OK);
    assert_eq!(codes(&confirmed).len(), 10);
    // Sessions that began with the password alone have ended; the one that set it up continues.
    world.client.expect_refused_within_a_second(&other).await;
    world.client.get_as(&token, "/api/auth/me").await.expect(StatusCode::OK);
    assert_eq!(told(&world).await, [MfaChange::TotpAdded]);
    world
        .client
        .post_as(&token, ENROLL)
        .await
        .expect_problem(StatusCode::CONFLICT, "mfa_enrolled_already");

    let asked =
        world.login(ADA, PASSWORD).await.expect_problem(StatusCode::UNAUTHORIZED, "mfa_required");
    assert_eq!(asked.json()["methods"], json!(["totp", "recovery_code"]));
    assert_eq!(asked.header("set-cookie"), "");
    let mfa_token = text(&asked, "mfa_token");
    verify(&world, &mfa_token, "000000")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_code_invalid");
    let signed_in = verify(&world, &mfa_token, &app.code(0)).await.expect(StatusCode::OK);
    assert!(signed_in.header("set-cookie").starts_with("refresh_token="), "{signed_in:?}");
    world
        .client
        .get_as(&text(&signed_in, "access_token"), "/api/auth/me")
        .await
        .expect(StatusCode::OK);
    // The token of the sign-in is used up, and so is the code.
    verify(&world, &mfa_token, &app.code(1))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_token_invalid");
    let again = self::mfa_token(&world, ADA).await;
    verify(&world, &again, &app.code(0))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_code_invalid");

    let shown = async |outcome: &str| {
        world
            .metric(&format!(
                "tenantry_auth_second_factors_total{{method=\"code\",outcome=\"{outcome}\"}}"
            ))
            .await
    };
    assert_eq!((shown("accepted").await, shown("refused").await), (1.0, 2.0));
    let factors = world.client.get_as(&token, "/api/auth/mfa").await.expect(StatusCode::OK).json();
    assert!(
        factors["since"].is_string()
            && factors["totp_since"].is_string()
            && factors["recovery_codes_left"] == 10,
        "{factors}"
    );
    world.client.delete_as(&token, TOTP).await.expect(StatusCode::NO_CONTENT);
    world
        .client
        .delete_as(&token, TOTP)
        .await
        .expect_problem(StatusCode::CONFLICT, "mfa_not_enrolled");
    assert_eq!(told(&world).await, [MfaChange::TotpAdded, MfaChange::TotpRemoved]);
    world.login(ADA, PASSWORD).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_recovery_code_works_once() {
    let world = World::new().await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let code = &enrolled.recovery_codes[3];
    let sloppy = code.to_uppercase().replace('-', " ");
    verify(&world, &mfa_token(&world, ADA).await, &sloppy).await.expect(StatusCode::OK);
    verify(&world, &mfa_token(&world, ADA).await, code)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_code_invalid");
    assert_eq!(told(&world).await, [MfaChange::TotpAdded, MfaChange::RecoveryCodeUsed]);
    let left =
        world.client.get_as(&enrolled.token, "/api/auth/mfa").await.json()["recovery_codes_left"]
            .clone();
    assert_eq!(left, 9);
    let fresh = codes(
        &world
            .client
            .post_as(&enrolled.token, "/api/auth/mfa/recovery-codes")
            .await
            .expect(StatusCode::OK),
    );
    assert!(fresh.len() == 10 && !fresh.contains(code));
    let old = &enrolled.recovery_codes[0];
    verify(&world, &mfa_token(&world, ADA).await, old)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_code_invalid");
    verify(&world, &mfa_token(&world, ADA).await, &fresh[0]).await.expect(StatusCode::OK);
}

/// A code is valid once, even for concurrent requests.
#[tokio::test]
async fn of_fifty_concurrent_uses_of_a_code_one_starts_a_session() {
    let world = World::with(UNTHROTTLED).await;
    let enrolled = Enrolled::new(&world, ADA).await;
    for code in [enrolled.app.code(0), enrolled.recovery_codes[0].clone()] {
        // Half of them with one token, half with separate tokens.
        let shared = mfa_token(&world, ADA).await;
        let tokens = join_all((0..25).map(|_| mfa_token(&world, ADA))).await;
        let tries = tokens
            .iter()
            .chain(std::iter::repeat_n(&shared, 25))
            .map(|token| verify(&world, token, &code));
        let answers = join_all(tries).await;
        let begun = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
        assert_eq!(begun, 1, "{answers:?}");
        assert!(
            answers.iter().all(|answer| answer.status == StatusCode::OK
                || answer.status == StatusCode::UNAUTHORIZED),
            "{answers:?}"
        );
    }
}

#[tokio::test]
async fn guessing_codes_is_throttled() {
    let world = World::with(&[("TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT", "8")]).await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let token = mfa_token(&world, ADA).await;
    for _ in 0..5 {
        verify(&world, &token, "123456")
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "mfa_code_invalid");
    }
    // The password is required again, even with the right code.
    verify(&world, &token, &enrolled.app.code(0))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_token_invalid");
    // Repeating the password does not help for long.
    let token = mfa_token(&world, ADA).await;
    let answers = [
        verify(&world, &token, "123456").await,
        verify(&world, &token, "123456").await,
        verify(&world, &token, "123456").await,
    ];
    assert!(answers.iter().all(|answer| answer.status == StatusCode::UNAUTHORIZED), "{answers:?}");
    let refused = verify(&world, &token, &enrolled.app.code(0))
        .await
        .expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
    assert!(!refused.header("retry-after").is_empty());
}

const EIGHT_FAILURES: &[(&str, &str)] = &[("TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT", "8")];
const NEW_PASSWORD: &str = "a quite different set of words";

/// A person who knows the password presents eight wrong codes. Returns their last token.
async fn use_up_codes(world: &World, password: &str) -> String {
    use_up_codes_on("", world, password).await
}

/// As [`use_up_codes`], on a device of this name.
async fn use_up_codes_on(device: &str, world: &World, password: &str) -> String {
    let mut token = String::new();
    for wrong in [5, 3] {
        let login = world.client.request(Method::POST, "/api/auth/login");
        let login = login.header("user-agent", device);
        let asked = Answer::of(login.json(&json!({ "email": ADA, "password": password }))).await;
        let asked = asked.expect_problem(StatusCode::UNAUTHORIZED, "mfa_required");
        token = text(&asked, "mfa_token");
        for _ in 0..wrong {
            verify(world, &token, "123456")
                .await
                .expect_problem(StatusCode::UNAUTHORIZED, "mfa_code_invalid");
        }
    }
    token
}

/// A device is known once its user has presented a second factor there.
#[tokio::test]
async fn a_thief_of_the_password_cannot_use_up_the_codes_of_a_known_device() {
    let world = World::with(EIGHT_FAILURES).await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let home = mfa_token(&world, ADA).await;
    verify(&world, &home, &enrolled.app.code(0)).await.expect(StatusCode::OK);
    let thief = use_up_codes_on("Thief", &world, PASSWORD).await;
    verify(&world, &thief, &enrolled.recovery_codes[0])
        .await
        .expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
    let home = mfa_token(&world, ADA).await;
    verify(&world, &home, &enrolled.recovery_codes[0]).await.expect(StatusCode::OK);
    // The codes of the known device are limited too.
    let home = use_up_codes(&world, PASSWORD).await;
    verify(&world, &home, &enrolled.recovery_codes[1])
        .await
        .expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
    let mailed = testing::staged::<SendCodesThrottled>(&world.store).await.unwrap();
    assert_eq!(mailed.len(), 2, "one for each count");
}

/// The owner follows a link in a mail.
async fn reset_password(world: &World, new: &str) {
    let user = User::by_email(&world.store, &ADA.parse().unwrap()).await.unwrap().unwrap();
    let prepare = domain::identity::password_resets::Prepare {
        key: &world.key,
        user: user.id,
        job: world.store.clock().id(),
        ttl: Duration::from_hours(1),
        cooldown: Duration::ZERO,
    };
    let link = world.commit(&prepare).await.unwrap().1.unwrap().link_token(&world.key);
    let body = json!({ "token": link.expose(), "password": new });
    world.client.post("/api/auth/password/reset", &body).await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_owner_is_notified_when_codes_are_used_up() {
    let world = World::with(EIGHT_FAILURES).await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let mailed = async || testing::staged::<SendCodesThrottled>(&world.store).await.unwrap().len();
    assert_eq!(mailed().await, 0);
    let token = use_up_codes(&world, PASSWORD).await;
    assert_eq!(mailed().await, 1);
    for code in ["123456", &enrolled.app.code(0)] {
        verify(&world, &token, code)
            .await
            .expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
    }
    assert_eq!(mailed().await, 1, "once per window");
}

#[tokio::test]
async fn a_password_reset_ends_the_lockout_by_a_thief_of_the_password() {
    let world = World::with(EIGHT_FAILURES).await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let thief = use_up_codes(&world, PASSWORD).await;
    reset_password(&world, NEW_PASSWORD).await;
    // The thief's sign-in can use up no more codes.
    for _ in 0..8 {
        verify(&world, &thief, "123456")
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    }
    let asked = world.login(ADA, NEW_PASSWORD).await;
    let token = text(&asked, "mfa_token");
    verify(&world, &token, &enrolled.app.code(0)).await.expect(StatusCode::OK);
}

/// Otherwise, somebody who can read the owner's mail could guess without limit.
#[tokio::test]
async fn only_one_new_password_an_hour_ends_a_lockout() {
    let world = World::with(EIGHT_FAILURES).await;
    let enrolled = Enrolled::new(&world, ADA).await;
    use_up_codes(&world, PASSWORD).await;
    let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    world
        .client
        .post_body_as(&enrolled.token, "/api/auth/password/change", &body)
        .await
        .expect(StatusCode::NO_CONTENT);
    use_up_codes(&world, NEW_PASSWORD).await;
    reset_password(&world, PASSWORD).await;
    verify(&world, &mfa_token(&world, ADA).await, &enrolled.app.code(0))
        .await
        .expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
}

/// Counted in the transaction that judges the code, so neither an outage of Redis nor a race yields
/// more guesses.
#[tokio::test]
async fn concurrent_guesses_at_codes_are_limited_without_redis() {
    let settings = [
        ("TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT", "8"),
        ("TENANTRY__AUTH__LOGIN_FAILURES_PER_NETWORK", "1000"),
    ];
    let world = World::on(Database::with_own_redis().await, &settings).await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let tokens = join_all((0..6).map(|_| mfa_token(&world, ADA))).await;
    world.env.redis().stop().await;
    let guesses = tokens.iter().cycle().take(36).map(|token| verify(&world, token, "123456"));
    let answers = join_all(guesses).await;
    let judged = answers.iter().filter(|answer| answer.body.contains("mfa_code_invalid")).count();
    assert_eq!(judged, 8, "{answers:?}");
    for token in &tokens {
        let answer = verify(&world, token, &enrolled.app.code(0)).await;
        assert_ne!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let user = User::by_email(&world.store, &ADA.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(user.wrong_codes.map(|wrong| wrong.count), Some(8));
}

/// Five guesses a challenge, however many arrive at the same time.
#[tokio::test]
async fn concurrent_guesses_at_one_challenge_are_limited() {
    let world = World::with(UNTHROTTLED).await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let token = mfa_token(&world, ADA).await;
    let answers = join_all((0..20).map(|_| verify(&world, &token, "123456"))).await;
    let judged = answers.iter().filter(|answer| answer.body.contains("mfa_code_invalid")).count();
    assert_eq!(judged, 5, "{answers:?}");
    verify(&world, &token, &enrolled.app.code(0))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_token_invalid");
}

/// Invalid responses cannot be guesses, so they use up no attempts of the account.
#[tokio::test]
async fn invalid_passkey_responses_do_not_use_up_the_accounts_attempts() {
    let world = World::with(&[("TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT", "8")]).await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let rubbish = json!({ "ceremony": "x", "credential": { "id": "x" } });
    for _ in 0..9 {
        let refused = world.client.post_body_as(&enrolled.token, REAUTHENTICATE, &rubbish).await;
        assert!(
            refused.status.is_client_error() && refused.status != StatusCode::TOO_MANY_REQUESTS,
            "{refused:?}"
        );
    }
    let token = mfa_token(&world, ADA).await;
    verify(&world, &token, &enrolled.app.code(0)).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_removed_member_starts_no_session_and_keeps_the_code() {
    let world = World::new().await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let (token, code) = (mfa_token(&world, ADA).await, &enrolled.recovery_codes[0]);
    let membership: Membership =
        world.store.records(PlatformScope).take(doc! {}).await.unwrap().unwrap();
    verify(&world, &token, code).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    world.store.records::<Membership>(PlatformScope).insert(&membership).await.unwrap();
    verify(&world, &token, code).await.expect(StatusCode::OK);
}

/// A link in a mail replaces the password, but not the second factor.
#[tokio::test]
async fn a_password_reset_keeps_the_second_factor() {
    let world = World::new().await;
    let enrolled = Enrolled::new(&world, ADA).await;
    reset_password(&world, NEW_PASSWORD).await;
    world
        .client
        .expect_refused_within_a_second(&enrolled.token)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    let mailed = testing::staged::<domain::identity::passwords::SendPasswordChanged>(&world.store)
        .await
        .unwrap();
    assert_eq!(mailed.len(), 1);
    let asked = world
        .login(ADA, NEW_PASSWORD)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_required");
    verify(&world, &text(&asked, "mfa_token"), &enrolled.app.code(0)).await.expect(StatusCode::OK);
}

/// A sign-in that began with a password ends when the password changes.
#[tokio::test]
async fn a_new_password_ends_sign_ins_that_await_a_second_factor() {
    let world = World::new().await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let waiting = mfa_token(&world, ADA).await;
    let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    world
        .client
        .post_body_as(&enrolled.token, "/api/auth/password/change", &body)
        .await
        .expect(StatusCode::NO_CONTENT);
    verify(&world, &waiting, &enrolled.app.code(0))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
}

/// A stolen session alone cannot make sensitive changes.
#[tokio::test]
async fn sensitive_changes_require_recent_authentication() {
    let world = World::new().await;
    let token = world.signed_in(ADA).await;
    grow_stale(&world, &token).await;
    let refused =
        |answer: Answer| answer.expect_problem(StatusCode::FORBIDDEN, "reauthentication_required");
    refused(world.client.post_as(&token, ENROLL).await);
    refused(world.client.post_body_as(&token, CONFIRM, &json!({ "code": "123456" })).await);
    refused(world.client.delete_as(&token, TOTP).await);
    refused(world.client.post_as(&token, "/api/auth/mfa/recovery-codes").await);
    refused(world.client.post_as(&token, "/api/auth/mfa/passkeys/enroll").await);
    refused(
        world
            .client
            .delete_as(&token, "/api/auth/mfa/passkeys/pky_0192a0b8c0de7000800000000000cafe")
            .await,
    );

    // Nor can it add or remove owners.
    let (owner, line) =
        (json!({ "role": "owner" }), json!({ "email": "bob@example.com", "role": "owner" }));
    let me = world.client.get_as(&token, "/api/auth/me").await.json()["user"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let member = format!("/api/tenant/users/{me}");
    refused(world.client.put_as(&token, &member, &owner).await);
    refused(world.client.delete_as(&token, &member).await);
    refused(world.client.post_body_as(&token, "/api/tenant/users/invite", &line).await);
    refused(
        world
            .client
            .post_body_as(&token, "/api/tenant/invitations/bulk", &json!({ "invitations": [line] }))
            .await,
    );
    refused(
        world
            .client
            .post_body_as(&token, "/api/tenant/ownership-transfers", &json!({ "user_id": me }))
            .await,
    );
    let rules = world.client.get_as(&token, "/api/tenant/security").await.json();
    refused(world.client.put_as(&token, "/api/tenant/security", &rules).await);

    let wrong = json!({ "password": "not the password at all" });
    world
        .client
        .post_body_as(&token, REAUTHENTICATE, &wrong)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    refused(world.client.post_as(&token, ENROLL).await);
    world
        .client
        .post_body_as(&token, REAUTHENTICATE, &json!({}))
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
    let again = world
        .client
        .post_body_as(&token, REAUTHENTICATE, &json!({ "password": PASSWORD }))
        .await
        .expect(StatusCode::OK);
    assert_eq!(again.header("set-cookie"), "", "the session's refresh token stays");
    world.client.post_as(&token, ENROLL).await.expect(StatusCode::OK);
}

/// With a second factor, the password alone is not a reauthentication.
#[tokio::test]
async fn reauthentication_requires_the_second_factor() {
    let world = World::new().await;
    let enrolled = Enrolled::new(&world, ADA).await;
    grow_stale(&world, &enrolled.token).await;
    let change =
        json!({ "current_password": PASSWORD, "new_password": "a quite different set of words" });
    let refused =
        world.client.post_body_as(&enrolled.token, "/api/auth/password/change", &change).await;
    refused.expect_problem(StatusCode::FORBIDDEN, "reauthentication_required");

    let asked = world
        .client
        .post_body_as(&enrolled.token, REAUTHENTICATE, &json!({ "password": PASSWORD }))
        .await;
    let asked = asked.expect_problem(StatusCode::UNAUTHORIZED, "mfa_required");
    world
        .client
        .delete_as(&enrolled.token, TOTP)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "reauthentication_required");
    let proved = verify(&world, &text(&asked, "mfa_token"), &enrolled.app.code(0))
        .await
        .expect(StatusCode::OK);
    assert_eq!(proved.header("set-cookie"), "");
    let session = |answer: &Answer| answer.json()["session"]["id"].clone();
    assert_eq!(
        session(&proved),
        Value::String(text_of_session(&world, &enrolled.token).await),
        "the session continues"
    );
    world
        .client
        .post_body_as(&enrolled.token, "/api/auth/password/change", &change)
        .await
        .expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_invitation_does_not_bypass_the_second_factor() {
    let world = World::new().await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let owner = world.signed_in("owner@example.com").await;
    let invite = json!({ "email": ADA, "role": "member" });
    world
        .client
        .post_body_as(&owner, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    let link = invitations::link(&world, ADA).await;
    let accept = json!({ "token": link, "password": PASSWORD });
    world
        .client
        .post("/api/invitations/accept", &accept)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "mfa_required");
    let form = format!("token={link}&password={}", PASSWORD.replace(' ', "+"));
    let page = world.client.post_form("/invitations/accept", &form).await;
    pages::expect_page(page, StatusCode::UNAUTHORIZED, "A second factor is required");
    // Nothing has changed, and a user who is signed in with the second factor can join.
    world
        .client
        .post_body_as(&enrolled.token, "/api/invitations/accept", &json!({ "token": link }))
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn a_tenant_can_require_a_second_factor_of_its_members() {
    let world = World::new().await;
    let owner = Enrolled::new(&world, ADA).await;
    let invite = json!({ "email": "bob@example.com", "role": "admin" });
    world
        .client
        .post_body_as(&owner.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    let join = json!({ "token": invitations::link(&world, "bob@example.com").await, "name": "Bob", "password": PASSWORD });
    let bob = text(
        &world.client.post("/api/invitations/accept", &join).await.expect(StatusCode::OK),
        "access_token",
    );
    world.client.get_as(&bob, "/api/tenant/users").await.expect(StatusCode::OK);

    let mut rules = world
        .client
        .get_as(&owner.token, "/api/tenant/security")
        .await
        .expect(StatusCode::OK)
        .json();
    rules["require_mfa"] = true.into();
    world.client.put_as(&owner.token, "/api/tenant/security", &rules).await.expect(StatusCode::OK);
    let refused =
        world.client.expect_within_a_second(&bob, "/api/tenant/users", StatusCode::FORBIDDEN).await;
    refused.expect_problem(StatusCode::FORBIDDEN, "mfa_enrollment_required");
    rules["require_mfa"] = false.into();
    let off = world.client.put_as(&bob, "/api/tenant/security", &rules).await;
    off.expect_problem(StatusCode::FORBIDDEN, "mfa_enrollment_required");

    let secret = text(&world.client.post_as(&bob, ENROLL).await.expect(StatusCode::OK), "secret");
    let code = json!({ "code": App::told(&secret).code(0) });
    world.client.post_body_as(&bob, CONFIRM, &code).await.expect(StatusCode::OK);
    world.client.get_as(&bob, "/api/tenant/users").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_operator_restores_access_after_all_second_factors_are_lost() {
    let world = World::new().await;
    let enrolled = Enrolled::new(&world, ADA).await;
    let reset = || async {
        world.run(&["users", "reset-mfa", ADA, "--reason", "Their phone was stolen"], &[]).await
    };
    let done = reset().await;
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    world.client.expect_refused_within_a_second(&enrolled.token).await;
    world.login(ADA, PASSWORD).await.expect(StatusCode::OK);
    assert_eq!(told(&world).await, [MfaChange::TotpAdded, MfaChange::Reset]);
    let reset_by = doc! { "action": "mfa.reset", "actor": "operator" };
    assert_eq!(world.events(reset_by).await, 2, "of the platform, and of their tenant");
    let again = reset().await;
    let complaint = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && complaint.contains("has no second factor"), "{again:?}");
}

/// The contents of the database are not enough to pass as a second factor.
#[tokio::test]
async fn the_database_contains_no_secret_of_a_second_factor() {
    let world = World::new().await;
    let token = world.signed_in(ADA).await;
    let secret = text(&world.client.post_as(&token, ENROLL).await.expect(StatusCode::OK), "secret");
    let app = App::told(&secret);
    let confirmed = world
        .client
        .post_body_as(&token, CONFIRM, &json!({ "code": app.code(-1) }))
        .await
        .expect(StatusCode::OK);
    let waiting = mfa_token(&world, ADA).await;
    let mut secrets = codes(&confirmed);
    secrets.extend([secret, waiting]);
    let database = world.raw().await;
    for name in database.list_collection_names().await.unwrap() {
        let mut rows = database.collection::<Document>(&name).find(doc! {}).await.unwrap();
        while rows.advance().await.unwrap() {
            let row = rows.deserialize_current().unwrap().to_string();
            assert!(secrets.iter().all(|secret| !row.contains(secret.as_str())), "{name}: {row}");
        }
    }
    let audited = world.events(doc! { "action": "mfa.totp_added" }).await;
    assert_eq!(audited, 1);
}
