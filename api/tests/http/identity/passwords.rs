//! Resetting a password by an emailed link, changing it, and which passwords are accepted.

use std::time::Duration;

use common::{
    crypto::{Hasher, LinkToken, Password},
    db::PlatformScope,
    id::PasswordResetId,
};
use domain::{
    identity::{
        password_resets::{PasswordReset, SendPasswordReset},
        passwords::{ChangedBy, SendPasswordChanged},
        registrations::{Mailing, Registration},
        sign_in::{Attempt, SignInError},
    },
    people::{
        sessions::{Device, Lifetime, Session},
        users::User,
    },
    tenancy::{memberships::Membership, tenants::Tenant},
};
use futures::future::join_all;
use jobs::{Job, outbox::OutboxRow, testing};
use mongodb::bson::{DateTime, doc};
use reqwest::StatusCode;
use serde_json::json;

use crate::{
    pages::expect_page,
    support::{Answer, DEADLINE, PASSWORD, World},
};

const ADA: &str = "ada@example.com";
const NEW: &str = "a quite different set of words";
const FORGOT: &str = "/api/auth/password/forgot";
const RESET: &str = "/api/auth/password/reset";
const CHANGE: &str = "/api/auth/password/change";

async fn user(world: &World, email: &str) -> User {
    User::by_email(&world.store, &email.parse().unwrap())
        .await
        .unwrap()
        .expect("there is an account")
}

/// A link, as the worker creates it before it sends the mail.
async fn link_for(world: &World, email: &str) -> String {
    let prepare = domain::identity::password_resets::Prepare {
        key: &world.key,
        user: user(world, email).await.id,
        job: world.store.clock().id(),
        ttl: world.config.auth.password_reset_ttl,
        cooldown: Duration::ZERO,
    };
    let (mailing, reset) = world.commit(&prepare).await.unwrap();
    assert_eq!(mailing, Mailing::Granted);
    reset.unwrap().link_token(&world.key).expose().to_owned()
}

async fn reset(world: &World, token: &str, password: &str) -> Answer {
    world.client.post(RESET, &json!({ "token": token, "password": password })).await
}

async fn change(world: &World, token: &str, current: &str, new: &str) -> Answer {
    world
        .client
        .post_body_as(token, CHANGE, &json!({ "current_password": current, "new_password": new }))
        .await
}

async fn audited(world: &World, action: &str) -> u64 {
    world.events(doc! { "action": action }).await
}

#[tokio::test]
async fn a_user_resets_a_forgotten_password_and_signs_in() {
    let world = World::new().await;
    let _worker = world.env.spawn_worker().await;
    let token = world.signed_in(ADA).await;
    world
        .client
        .post(FORGOT, &json!({ "email": "ADA@example.com" }))
        .await
        .expect(StatusCode::ACCEPTED);
    let mail =
        world.env.mail().wait_for(|mail| mail.subject == "Set a new password", DEADLINE).await;
    assert_eq!(mail.to, [ADA]);
    let link = mail
        .text
        .split_whitespace()
        .find(|word| word.contains("/reset-password?token="))
        .expect("the mail has a link");
    let path = link.strip_prefix(&world.config.app.public_url).expect("it leads to our own origin");

    // Opening has no effect, however often: mail scanners open links too.
    for _ in 0..2 {
        let page = expect_page(world.client.get(path).await, StatusCode::OK, "Set a new password");
        assert!(
            page.body.contains("<form method=\"post\" action=\"/reset-password\">"),
            "{}",
            page.body
        );
    }
    let link_token = path.split_once("token=").unwrap().1;
    let weak = world
        .client
        .post_form("/reset-password", &format!("token={link_token}&password=password123"))
        .await;
    let weak = expect_page(weak, StatusCode::UNPROCESSABLE_ENTITY, "easy to guess");
    assert!(
        weak.body.contains(&format!("value=\"{link_token}\""))
            && !weak.body.contains("password123"),
        "{}",
        weak.body
    );
    let form = format!("token={link_token}&password={}", NEW.replace(' ', "+"));
    expect_page(
        world.client.post_form("/reset-password", &form).await,
        StatusCode::OK,
        "Your password has changed",
    );
    expect_page(
        world.client.post_form("/reset-password", &form).await,
        StatusCode::BAD_REQUEST,
        "The link is invalid or has expired",
    );

    world
        .client
        .expect_refused_within_a_second(&token)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    world
        .login(ADA, PASSWORD)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    world.login(ADA, NEW).await.expect(StatusCode::OK);
    let told = world
        .env
        .mail()
        .wait_for(|mail| mail.subject == "Your password was changed", DEADLINE)
        .await;
    assert!(told.to == [ADA] && !told.text.contains("token="), "{}", told.text);
}

#[tokio::test]
async fn a_page_without_a_usable_token_reports_it() {
    let world = World::new().await;
    for path in [
        "/reset-password",
        "/reset-password?token=",
        &format!("/reset-password?token={}", "x".repeat(300)),
    ] {
        expect_page(
            world.client.get(path).await,
            StatusCode::BAD_REQUEST,
            "The link is invalid or has expired",
        );
    }
    for form in ["", "token=x", "password=x", "token=x&password=a+quite+different+set+of+words"] {
        expect_page(
            world.client.post_form("/reset-password", form).await,
            StatusCode::BAD_REQUEST,
            "The link is invalid or has expired",
        );
    }
    let hostile = world.client.get("/reset-password?token=%22%3E%3Cscript%3E").await;
    assert!(
        expect_page(hostile, StatusCode::OK, "Set a new password")
            .body
            .contains("&quot;&gt;&lt;script&gt;")
    );
}

#[tokio::test]
async fn a_reset_request_looks_the_same_with_or_without_an_account() {
    let world = World::new().await;
    world.make_account(ADA).await;
    world.register("waiting@example.com").await.expect(StatusCode::ACCEPTED);
    let before = world.count::<OutboxRow>().await;
    let mut answers = Vec::new();
    for email in [ADA, "waiting@example.com", "nobody@example.com"] {
        let answer = world
            .client
            .post(FORGOT, &json!({ "email": email }))
            .await
            .expect(StatusCode::ACCEPTED);
        let staged = testing::staged::<SendPasswordReset>(&world.store).await.unwrap();
        let address = &staged.last().unwrap().job.address;
        let address = address.open(&world.key, SendPasswordReset::KIND).unwrap();
        assert_eq!(address.as_str(), email);
        let names: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
        answers.push((answer.body, names));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(world.count::<OutboxRow>().await - before, 3);
    assert_eq!(world.count::<PasswordReset>().await, 0, "a request creates no rows");
    let staged: Vec<OutboxRow> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 10).await.unwrap();
    assert!(!serde_json::to_string(&staged).unwrap().contains("example.com"));
}

#[tokio::test]
async fn a_used_expired_or_forged_link_is_rejected() {
    let world = World::new().await;
    world.make_account(ADA).await;
    let first = link_for(&world, ADA).await;
    let never_issued = PasswordResetId::from_uuid(world.store.clock().uuid());
    let never_issued = LinkToken::issue(&world.key, never_issued);
    world.register("eve@example.com").await.expect(StatusCode::ACCEPTED);
    let of_another_kind = world.link_token("eve@example.com").await;
    for wrong in
        ["", "x", &"x".repeat(5000), never_issued.expose(), &format!("{first}x"), &of_another_kind]
    {
        reset(&world, wrong, NEW).await.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    }
    reset(&world, &first, NEW).await.expect(StatusCode::NO_CONTENT);
    reset(&world, &first, NEW).await.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");

    let second = link_for(&world, ADA).await;
    let row: PasswordReset =
        world.store.records(PlatformScope).find(doc! {}).await.unwrap().unwrap();
    let span = row.expires_at.timestamp_millis() - row.created_at.timestamp_millis();
    assert_eq!(Duration::from_millis(span.unsigned_abs()), Duration::from_hours(1));
    assert!(
        !serde_json::to_string(&row).unwrap().contains(&second),
        "the database does not contain the token"
    );
    let a_moment_ago = DateTime::from_millis(world.store.clock().now().timestamp_millis() - 1);
    let expire = doc! { "$set": { "expires_at": a_moment_ago } };
    world.store.records::<PasswordReset>(PlatformScope).update(doc! {}, expire).await.unwrap();
    reset(&world, &second, NEW).await.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    world.login(ADA, NEW).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn of_fifty_concurrent_uses_of_a_link_one_succeeds() {
    let world = World::new().await;
    world.make_account(ADA).await;
    let token = link_for(&world, ADA).await;
    let passwords: Vec<String> = (0..50).map(|n| format!("{NEW} number {n}")).collect();
    let answers = join_all(passwords.iter().map(|password| reset(&world, &token, password))).await;
    let succeeded: Vec<usize> =
        (0..50).filter(|n| answers[*n].status == StatusCode::NO_CONTENT).collect();
    let [winner] = succeeded[..] else { panic!("{succeeded:?}") };
    for answer in answers.into_iter().filter(|answer| answer.status != StatusCode::NO_CONTENT) {
        answer.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    }
    world.login(ADA, &passwords[winner]).await.expect(StatusCode::OK);
    assert_eq!(audited(&world, "user.password_reset").await, 1);
    let told: Vec<ChangedBy> = testing::staged::<SendPasswordChanged>(&world.store)
        .await
        .unwrap()
        .into_iter()
        .map(|staged| staged.job.by)
        .collect();
    assert_eq!(told, [ChangedBy::Reset]);
}

#[tokio::test]
async fn resetting_ends_every_session_on_every_process() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    let first = world.signed_in(ADA).await;
    let body = json!({ "email": ADA, "password": PASSWORD, "token_delivery": "body" });
    let login = world.client.post("/api/auth/login", &body).await.expect(StatusCode::OK).json();
    for client in [&world.client, &second] {
        client.get_as(&first, "/api/auth/me").await.expect(StatusCode::OK);
    }
    let token = link_for(&world, ADA).await;
    reset(&world, &token, NEW).await.expect(StatusCode::NO_CONTENT);
    for client in [&world.client, &second] {
        client
            .expect_refused_within_a_second(&first)
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
        client.expect_refused_within_a_second(login["access_token"].as_str().unwrap()).await;
    }
    let refresh = json!({ "refresh_token": login["refresh_token"] });
    world
        .client
        .post("/api/auth/refresh", &refresh)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
}

#[tokio::test]
async fn a_sign_in_during_a_reset_starts_no_session() {
    let world = World::new().await;
    world.make_account(ADA).await;
    let (password, day) =
        (Password::presented(PASSWORD.to_owned()).unwrap(), Duration::from_hours(24));
    let (device, lifetime) = (Device::default(), Lifetime { absolute: day, idle: day });
    let attempt = Attempt {
        email: ADA.parse().unwrap(),
        password,
        tenant: None,
        device,
        remember: false,
        lifetime,
    };
    let hasher = Hasher::new(1, DEADLINE).unwrap();
    let admitted = attempt.check(&world.store, &hasher).await.unwrap();
    let token = link_for(&world, ADA).await;
    reset(&world, &token, NEW).await.expect(StatusCode::NO_CONTENT);
    let begun = world.commit(&admitted.begin).await;
    assert!(matches!(begun, Err(SignInError::InvalidCredentials)), "{begun:?}");
    assert_eq!(world.count::<Session>().await, 0);
}

#[tokio::test]
async fn a_weak_password_is_rejected_with_advice_and_the_link_stays_valid() {
    let world = World::new().await;
    world.make_account(ADA).await;
    let token = link_for(&world, ADA).await;
    // Made of the email address, the person, the tenant, or common words.
    for weak in ["ada@example.com", "lovelace1", "analyticalengines", "password123", "12345678901"]
    {
        let refused = reset(&world, &token, weak)
            .await
            .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "password_too_weak");
        assert_eq!(refused.field_errors(), ["password:password_too_weak"]);
        assert!(
            refused.json()["detail"].as_str().unwrap().contains("is easy to guess. "),
            "{refused:?}"
        );
        let body = json!({ "email": "eve@example.com", "password": weak, "name": "Ada Lovelace", "tenant_name": "Analytical Engines" });
        if weak != ADA {
            let refused = world.client.post("/api/auth/register", &body).await;
            refused.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "password_too_weak");
        }
    }
    for unfit in ["short", &"x".repeat(1_000_000)] {
        reset(&world, &token, unfit)
            .await
            .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
    }
    let long = "пароль ŵïth \u{0} 🔑 of many words ".repeat(20);
    reset(&world, &token, &long).await.expect(StatusCode::NO_CONTENT);
    world.login(ADA, &long).await.expect(StatusCode::OK);
    world
        .login(ADA, long.trim_end())
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
}

#[tokio::test]
async fn a_password_of_a_megabyte_is_rejected_before_it_is_hashed() {
    let world = World::spawned(&[]).await;
    let hashed = "tenantry_password_hash_duration_seconds_count";
    let before = world.metric(hashed).await;
    let megabyte = "x".repeat(1_000_000);
    for (path, body) in [
        ("/api/auth/login", json!({ "email": ADA, "password": megabyte })),
        (
            "/api/auth/register",
            json!({ "email": ADA, "password": megabyte, "name": "Ada", "tenant_name": "Engines" }),
        ),
        (RESET, json!({ "token": "x", "password": megabyte })),
    ] {
        world
            .client
            .post(path, &body)
            .await
            .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
    }
    assert!((world.metric(hashed).await - before).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_breached_password_is_rejected_by_every_route_that_sets_one() {
    // SHA-1 of "a quite different set of words", as published lists have them.
    const HASHES: &str = "0000000000000000000000000000000000000000:7\r\n4E3A5A2E0000000000000000000000000000000A:1\r\n";
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("hashes.txt"), folder.path().join("list"));
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, NEW.as_bytes());
    let hash =
        digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().concat();
    std::fs::write(&from, format!("{HASHES}{hash}:12\r\n")).unwrap();
    let args = [
        "breached-passwords",
        "build",
        "--from",
        from.to_str().unwrap(),
        "--to",
        to.to_str().unwrap(),
    ];
    let built = crate::support::run(&args, []).await;
    assert!(
        built.status.success()
            && String::from_utf8_lossy(&built.stdout).starts_with("3 passwords in "),
        "{built:?}"
    );

    let world =
        World::with(&[("TENANTRY__AUTH__BREACHED_PASSWORDS_LIST", to.to_str().unwrap())]).await;
    let session = world.signed_in(ADA).await;
    let token = link_for(&world, ADA).await;
    let register =
        json!({ "email": "eve@example.com", "password": NEW, "name": "Eve", "tenant_name": "Eve" });
    let refused = [
        world.client.post("/api/auth/register", &register).await,
        reset(&world, &token, NEW).await,
        change(&world, &session, PASSWORD, NEW).await,
    ];
    for answer in refused {
        let answer = answer.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "password_too_weak");
        assert!(answer.json()["detail"].as_str().unwrap().contains("stolen"), "{answer:?}");
    }
    reset(&world, &token, "another set of words, then").await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_invalid_list_of_breached_passwords_prevents_the_start() {
    let database = crate::support::Database::prepared().await;
    let nowhere = [("TENANTRY__AUTH__BREACHED_PASSWORDS_LIST", "/nowhere/at/all")];
    let ended = database.run(&[], &nowhere).await;
    assert!(!ended.status.success());
    assert!(
        String::from_utf8_lossy(&ended.stderr).contains("auth.breached_passwords_list"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn changing_the_password_requires_the_current_one_and_ends_all_other_sessions() {
    let world = World::new().await;
    let mine = world.signed_in(ADA).await;
    let other = world.login(ADA, PASSWORD).await.expect(StatusCode::OK).json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let link = link_for(&world, ADA).await;
    change(&world, &mine, "wrong horse", NEW)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    let weak = change(&world, &mine, PASSWORD, "lovelace1").await;
    let weak = weak.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "password_too_weak");
    assert_eq!(weak.field_errors(), ["new_password:password_too_weak"]);
    world.client.get_as(&other, "/api/auth/me").await.expect(StatusCode::OK);

    change(&world, &mine, PASSWORD, NEW).await.expect(StatusCode::NO_CONTENT);
    world
        .client
        .expect_refused_within_a_second(&other)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    world.client.get_as(&mine, "/api/auth/me").await.expect(StatusCode::OK);
    world
        .login(ADA, PASSWORD)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    world.login(ADA, NEW).await.expect(StatusCode::OK);
    reset(&world, &link, "yet another set of words")
        .await
        .expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    let told = testing::staged::<SendPasswordChanged>(&world.store).await.unwrap();
    assert_eq!(told.iter().map(|staged| staged.job.by).collect::<Vec<_>>(), [ChangedBy::Owner]);
    assert_eq!(audited(&world, "user.password_changed").await, 1);

    // At once, even if the caller was cached before.
    change(&world, &mine, PASSWORD, NEW)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    change(&world, &mine, NEW, PASSWORD).await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_attackers_password_does_not_open_the_account_that_the_victim_verified() {
    let world = World::new().await;
    let register = async |password: &str, name: &str| {
        let body = json!({ "email": ADA, "password": password, "name": name, "tenant_name": format!("{name}'s own") });
        world.client.post("/api/auth/register", &body).await.expect(StatusCode::ACCEPTED);
        world.link_token(ADA).await
    };
    // Before the victim and again afterwards: the newest link is the attacker's.
    let attackers_first = register("an attackers set of words", "Eve").await;
    let victims = register(PASSWORD, "Ada").await;
    let attackers_last = register("another attackers set of words", "Eve").await;

    world
        .client
        .post("/api/auth/verify-email", &json!({ "token": victims }))
        .await
        .expect(StatusCode::OK);

    for password in ["an attackers set of words", "another attackers set of words"] {
        world
            .login(ADA, password)
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    }
    let login = world.login(ADA, PASSWORD).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&login["user"]["name"], &login["tenant"]["name"]),
        (&json!("Ada"), &json!("Ada's own"))
    );
    for token in [attackers_first, attackers_last] {
        let refused = world.client.post("/api/auth/verify-email", &json!({ "token": token })).await;
        refused.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    }
    let rows = (
        world.count::<User>().await,
        world.count::<Tenant>().await,
        world.count::<Membership>().await,
    );
    assert_eq!(
        (rows, world.count::<Registration>().await),
        ((1, 1, 1), 0),
        "nothing of the attacker's is left"
    );
}

#[tokio::test]
async fn a_pending_registration_receives_no_password_reset_link() {
    let world = World::new().await;
    let worker = world.env.spawn_worker().await;
    world.register("waiting@example.com").await.expect(StatusCode::ACCEPTED);
    for email in ["waiting@example.com", "nobody@example.com"] {
        world.client.post(FORGOT, &json!({ "email": email })).await.expect(StatusCode::ACCEPTED);
    }
    world.until_nothing_is_due().await;
    let subjects: Vec<String> =
        world.env.mail().messages().into_iter().map(|mail| mail.subject).collect();
    assert_eq!(subjects, ["Confirm your email address"], "{}", worker.log_tail(20));
    assert_eq!(world.count::<PasswordReset>().await, 0);
}

/// The texts of the mails with a password reset link.
fn reset_mails(world: &World) -> Vec<String> {
    let mails = world.env.mail().messages().into_iter();
    mails.filter(|mail| mail.subject == "Set a new password").map(|mail| mail.text).collect()
}

#[tokio::test]
async fn reset_mails_are_a_cooldown_apart() {
    let world = World::new().await;
    world.make_account(ADA).await;
    let _worker = world.env.spawn_worker().await;
    for _ in 0..3 {
        world.client.post(FORGOT, &json!({ "email": ADA })).await.expect(StatusCode::ACCEPTED);
    }
    world.until_nothing_is_due().await;
    assert_eq!((reset_mails(&world).len(), world.count::<PasswordReset>().await), (1, 1));
}

#[tokio::test]
async fn a_strangers_request_does_not_revoke_the_link_that_the_owner_was_mailed() {
    let world = World::new().await;
    world.make_account(ADA).await;
    let at_once = [("TENANTRY__AUTH__RESEND_COOLDOWN", "1ms")];
    let _worker = world.env.spawn_worker_with(&at_once).await;
    let ask = async || {
        world.client.post(FORGOT, &json!({ "email": ADA })).await.expect(StatusCode::ACCEPTED);
        world.until_nothing_is_due().await;
        reset_mails(&world)
    };
    let owners = ask().await;
    let with_strangers = ask().await;
    assert_eq!((owners.len(), with_strangers.len()), (1, 2));
    assert!(with_strangers.iter().all(|mail| *mail == owners[0]), "the link is the same");
    let (_, link) = owners[0].split_once("/reset-password?token=").expect("the mail has a link");
    let token = link.split_whitespace().next().unwrap();
    reset(&world, token, NEW).await.expect(StatusCode::NO_CONTENT);
    reset(&world, token, NEW).await.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    world.login(ADA, NEW).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_hash_with_outdated_parameters_is_renewed_at_the_next_successful_sign_in() {
    // Test vector of the reference implementation: argon2id, 64 MiB, of "password".
    const OLD: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let world = World::new().await;
    world.make_account(ADA).await;
    let set = doc! { "$set": { "password_hash": OLD } };
    world.store.records::<User>(PlatformScope).update(doc! {}, set).await.unwrap();
    let stored = async || serde_json::to_value(user(&world, ADA).await.password_hash).unwrap();

    world
        .login(ADA, "wrong horse")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    assert_eq!(stored().await, OLD);
    world.login(ADA, "password").await.expect(StatusCode::OK);
    let renewed = stored().await;
    assert!(renewed.as_str().unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{renewed}");
    world.login(ADA, "password").await.expect(StatusCode::OK);
    assert_eq!(stored().await, renewed, "once is enough");
    world
        .login(ADA, PASSWORD)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
}

#[tokio::test]
async fn a_password_typed_on_another_keyboard_is_the_same() {
    let world = World::new().await;
    world.make_account(ADA).await;
    let link = link_for(&world, ADA).await;
    let (composed, decomposed) = ("Gr\u{fc}\u{df}e im Zug", "Gru\u{308}\u{df}e\u{a0}im Zug");
    reset(&world, &link, composed).await.expect(StatusCode::NO_CONTENT);
    world.login(ADA, decomposed).await.expect(StatusCode::OK);
    world.login(ADA, composed).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn neither_the_database_nor_the_log_contains_a_usable_reset_token() {
    let world = World::spawned(&[]).await;
    world.make_account("canary-address@example.com").await;
    let token = link_for(&world, "canary-address@example.com").await;
    world.client.get(&format!("/reset-password?token={token}")).await.expect(StatusCode::OK);
    world
        .client
        .post(FORGOT, &json!({ "email": "canary-address@example.com" }))
        .await
        .expect(StatusCode::ACCEPTED);
    reset(&world, &token, NEW).await.expect(StatusCode::NO_CONTENT);
    world.api.process().terminate();
    world.api.process().wait(DEADLINE).await.unwrap();
    let log = world.api.process().log();
    for secret in [NEW, token.as_str(), "canary-address"] {
        assert!(!log.contains(secret), "{log}");
    }
}
