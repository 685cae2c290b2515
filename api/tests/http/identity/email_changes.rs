//! Changing the email address of an account: both email addresses must confirm, and the responses
//! do not reveal who has an account.

use std::time::{Duration, Instant};

use common::{
    crypto::{Hasher, LinkToken, Password},
    db::PlatformScope,
    id::{EmailChangeId, OldAddressLinkId},
};
use domain::{
    identity::{
        email_changes::{EmailChange, SendEmailChangeLink, SendEmailChanged, SendEmailTaken, Side},
        password_resets::{PasswordReset, Prepare},
        registrations::Registration,
        sign_in::{Attempt, SignInError},
    },
    people::{
        sessions::{Device, Lifetime, Session},
        users::User,
    },
    tenancy::{invitations::Invitation, roles::Role},
};
use futures::future::join_all;
use jobs::{Job, outbox::OutboxRow, testing};
use mongodb::bson::{DateTime, Document, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::servers::Mail;

use crate::{
    pages::expect_page,
    people::{People, Person},
    support::{Answer, DEADLINE, PASSWORD, World},
};

const ADA: &str = "ada@example.com";
const NEW: &str = "ada@example.org";
const ASK: &str = "/api/auth/email/change";
const CONFIRM: &str = "/api/auth/email/confirm";
const CANCEL: &str = "/api/auth/email/cancel";

/// The links of a pending change.
struct Links {
    old: String,
    new: String,
}

async fn ask(world: &World, token: &str, email: &str) -> Answer {
    world.client.post_body_as(token, ASK, &json!({ "new_email": email })).await
}

async fn asked(world: &World, token: &str, email: &str) -> Links {
    let answer = ask(world, token, email).await.expect(StatusCode::ACCEPTED);
    assert_eq!(answer.json(), json!({ "status": "confirmation_sent" }));
    let newest = world
        .store
        .records::<EmailChange>(PlatformScope)
        .find_first(doc! {}, doc! { "_id": -1 })
        .await
        .unwrap()
        .unwrap();
    let link = |side| newest.link_token(&world.key, side).expose().to_owned();
    Links { old: link(Side::Old), new: link(Side::New) }
}

async fn follow(world: &World, path: &str, link: &str) -> Answer {
    world.client.post(path, &json!({ "token": link })).await
}

async fn confirm(world: &World, link: &str) -> Value {
    follow(world, CONFIRM, link).await.expect(StatusCode::OK).json()["status"].take()
}

async fn expect_void(world: &World, links: &[&String]) {
    for link in links {
        for path in [CONFIRM, CANCEL] {
            follow(world, path, link)
                .await
                .expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
        }
    }
}

async fn user(world: &World, email: &str) -> Option<User> {
    User::by_email(&world.store, &email.parse().unwrap()).await.unwrap()
}

async fn audited(world: &World, action: &str) -> u64 {
    world.events(doc! { "action": action }).await
}

async fn shown_email(world: &World, token: &str) -> Value {
    world.client.get_as(token, "/api/auth/me").await.expect(StatusCode::OK).json()["user"]["email"]
        .take()
}

/// A world with a signed-in account.
async fn signed_in() -> (World, String) {
    let world = World::new().await;
    let token = world.signed_in(ADA).await;
    (world, token)
}

async fn wait_for(world: &World, to: &str, subject: &str) -> Mail {
    world.env.mail().wait_for(|mail| mail.to == [to] && mail.subject == subject, DEADLINE).await
}

/// The path of the link in a mail.
fn path_of(world: &World, mail: &Mail) -> String {
    let link = mail
        .text
        .split_whitespace()
        .find(|word| word.contains("/change-email?token="))
        .expect("the mail has a link");
    link.strip_prefix(&world.config.app.public_url).expect("it leads to our own origin").to_owned()
}

#[tokio::test]
async fn a_user_changes_the_email_and_signs_in_with_the_new_one() {
    let (world, token) = signed_in().await;
    let worker = world.env.spawn_worker().await;
    ask(&world, &token, NEW).await.expect(StatusCode::ACCEPTED);
    let to_old =
        wait_for(&world, ADA, "Confirm or reject a new email address for your account").await;
    let to_new = wait_for(&world, NEW, "Confirm your new email address").await;
    assert!(
        to_old.text.contains(NEW) && !to_new.text.contains(ADA),
        "the mail to the new email does not contain the old one"
    );
    let (old, new) = (path_of(&world, &to_old), path_of(&world, &to_new));

    // Opening has no effect, however often: mail scanners open links too.
    for _ in 0..2 {
        let page = expect_page(world.client.get(&old).await, StatusCode::OK, "That was not me");
        assert!(
            page.body.contains("<form method=\"post\" action=\"/change-email\">"),
            "{}",
            page.body
        );
        let page =
            expect_page(world.client.get(&new).await, StatusCode::OK, "Confirm this email address");
        assert!(!page.body.contains("/change-email/cancel"), "{}", page.body);
    }
    let form = |path: &str| format!("token={}", path.split_once("token=").unwrap().1);
    expect_page(
        world.client.post_form("/change-email", &form(&old)).await,
        StatusCode::OK,
        "Confirmed",
    );
    expect_page(
        world.client.post_form("/change-email", &form(&old)).await,
        StatusCode::BAD_REQUEST,
        "The link is invalid or has expired",
    );
    world.login(ADA, PASSWORD).await.expect(StatusCode::OK);
    expect_page(
        world.client.post_form("/change-email", &form(&new)).await,
        StatusCode::OK,
        "Your email address has changed",
    );
    for path in [&old, &new] {
        expect_page(
            world.client.post_form("/change-email", &form(path)).await,
            StatusCode::BAD_REQUEST,
            "The link is invalid or has expired",
        );
    }

    world
        .login(ADA, PASSWORD)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    world.login(NEW, PASSWORD).await.expect(StatusCode::OK);
    for to in [ADA, NEW] {
        let told = wait_for(&world, to, "Your email address was changed").await;
        assert!(!told.text.contains("token="), "{}", told.text);
    }
    assert!(
        ["ada@", "token="].iter().all(|secret| !worker.log().contains(secret)),
        "{}",
        worker.log()
    );
}

#[tokio::test]
async fn both_emails_must_confirm_in_any_order() {
    for old_is_first in [true, false] {
        let (world, token) = signed_in().await;
        let links = asked(&world, &token, "Ada@Example.org").await;
        let (first, second) =
            if old_is_first { (&links.old, &links.new) } else { (&links.new, &links.old) };
        assert_eq!(confirm(&world, first).await, "confirmed");
        expect_void(&world, &[first]).await;
        assert_eq!(shown_email(&world, &token).await, ADA);
        assert!(user(&world, NEW).await.is_none());
        world.login(ADA, PASSWORD).await.expect(StatusCode::OK);

        assert_eq!(confirm(&world, second).await, "changed");
        expect_void(&world, &[first, second]).await;
        assert_eq!(shown_email(&world, &token).await, "Ada@Example.org");
        world
            .login(ADA, PASSWORD)
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
        world.login(NEW, PASSWORD).await.expect(StatusCode::OK);
        let counts = [
            audited(&world, "email_change.requested").await,
            audited(&world, "email_change.confirmed").await,
        ];
        assert_eq!((counts, audited(&world, "user.email_changed").await), ([1, 2], 1));
        assert_eq!(world.count::<EmailChange>().await, 0);
        let told = testing::staged::<SendEmailChanged>(&world.store).await.unwrap();
        let mut told: Vec<String> = told
            .iter()
            .map(|told| told.job.to.open(&world.key, SendEmailChanged::KIND).unwrap())
            .map(|address| address.as_str().to_owned())
            .collect();
        told.sort();
        assert_eq!(told, ["Ada@Example.org", ADA]);
    }
}

#[tokio::test]
async fn of_fifty_concurrent_uses_of_a_link_one_succeeds() {
    let (world, token) = signed_in().await;
    let links = asked(&world, &token, NEW).await;
    let at_once = async |links: Vec<&String>| {
        let answers = join_all(links.into_iter().map(|link| follow(&world, CONFIRM, link))).await;
        let (good, bad): (Vec<Answer>, Vec<Answer>) =
            answers.into_iter().partition(|answer| answer.status == StatusCode::OK);
        for answer in bad {
            answer.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
        }
        let mut statuses: Vec<String> = good
            .iter()
            .map(|answer| answer.json()["status"].as_str().unwrap().to_owned())
            .collect();
        statuses.sort();
        statuses
    };
    assert_eq!(at_once(vec![&links.old; 50]).await, ["confirmed"]);
    assert_eq!(at_once(vec![&links.new; 50]).await, ["changed"]);
    let links = asked(&world, &token, ADA).await;
    assert_eq!(
        at_once([vec![&links.old; 25], vec![&links.new; 25]].concat()).await,
        ["changed", "confirmed"]
    );
    assert_eq!(
        (audited(&world, "user.email_changed").await, shown_email(&world, &token).await),
        (2, json!(ADA))
    );
}

#[tokio::test]
async fn only_the_old_email_can_cancel_the_change() {
    let (world, token) = signed_in().await;
    let links = asked(&world, &token, NEW).await;
    follow(&world, CANCEL, &links.new)
        .await
        .expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    assert_eq!(confirm(&world, &links.new).await, "confirmed");
    let cancelled = follow(&world, CANCEL, &links.old).await.expect(StatusCode::OK);
    assert_eq!(cancelled.json(), json!({ "status": "cancelled" }));
    expect_void(&world, &[&links.old, &links.new]).await;
    assert_eq!(
        (audited(&world, "email_change.cancelled").await, shown_email(&world, &token).await),
        (1, json!(ADA))
    );

    let links = asked(&world, &token, NEW).await;
    for (link, status, words) in [
        (&links.new, StatusCode::BAD_REQUEST, "The link is invalid or has expired"),
        (&links.old, StatusCode::OK, "Your email address stays the same"),
        (&links.old, StatusCode::BAD_REQUEST, "The link is invalid or has expired"),
    ] {
        expect_page(
            world.client.post_form("/change-email/cancel", &format!("token={link}")).await,
            status,
            words,
        );
    }
    assert_eq!(world.count::<EmailChange>().await, 0);
}

#[tokio::test]
async fn a_superseded_expired_or_forged_link_is_rejected() {
    let (world, token) = signed_in().await;
    let first = asked(&world, &token, "first@example.org").await;
    assert_eq!(confirm(&world, &first.old).await, "confirmed");
    let second = asked(&world, &token, NEW).await;
    expect_void(&world, &[&first.old, &first.new]).await;

    world.register("eve@example.com").await.expect(StatusCode::ACCEPTED);
    let of_another_kind = world.link_token("eve@example.com").await;
    let made_up =
        LinkToken::issue(&world.key, OldAddressLinkId::from_uuid(world.store.clock().uuid()))
            .expose()
            .to_owned();
    for wrong in [
        String::new(),
        "x".to_owned(),
        "x".repeat(5_000),
        format!("{}x", second.old),
        of_another_kind,
        made_up,
    ] {
        expect_void(&world, &[&wrong]).await;
    }
    for path in [
        "/change-email",
        "/change-email?token=",
        "/change-email?token=x",
        &format!("/change-email?token={}", "x".repeat(300)),
    ] {
        expect_page(
            world.client.get(path).await,
            StatusCode::BAD_REQUEST,
            "The link is invalid or has expired",
        );
    }
    for form in ["", "token=x", "other=1"] {
        expect_page(
            world.client.post_form("/change-email", form).await,
            StatusCode::BAD_REQUEST,
            "The link is invalid or has expired",
        );
        expect_page(
            world.client.post_form("/change-email/cancel", form).await,
            StatusCode::BAD_REQUEST,
            "The link is invalid or has expired",
        );
    }

    let row: EmailChange = world.store.records(PlatformScope).find(doc! {}).await.unwrap().unwrap();
    let span = row.expires_at.timestamp_millis() - row.created_at.timestamp_millis();
    assert_eq!(Duration::from_millis(span.unsigned_abs()), Duration::from_hours(24));
    assert_eq!(confirm(&world, &second.old).await, "confirmed");
    let a_moment_ago = DateTime::from_millis(world.store.clock().now().timestamp_millis() - 1);
    let expire = doc! { "$set": { "expires_at": a_moment_ago } };
    world.store.records::<EmailChange>(PlatformScope).update(doc! {}, expire).await.unwrap();
    expect_void(&world, &[&second.old, &second.new]).await;
    assert_eq!(shown_email(&world, &token).await, ADA);
}

#[tokio::test]
async fn a_change_requires_another_valid_email_and_recent_authentication() {
    let (world, token) = signed_in().await;
    let errors = async |email: Value| {
        world.client.post_body_as(&token, ASK, &json!({ "new_email": email })).await.field_errors()
    };
    assert_eq!(errors(json!("nobody")).await, ["new_email:invalid_format"]);
    assert_eq!(errors(json!({ "$ne": null })).await, ["new_email:invalid_type"]);
    assert_eq!(errors(json!("ADA@example.com")).await, ["new_email:unchanged"]);
    crate::identity::mfa::grow_stale(&world, &token).await;
    ask(&world, &token, NEW)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "reauthentication_required");
    world
        .client
        .post_body_as(&token, "/api/auth/reauthenticate", &json!({ "password": PASSWORD }))
        .await
        .expect(StatusCode::OK);
    assert_eq!(errors(json!("ADA@example.com")).await, ["new_email:unchanged"]);
    let anybody = world.client.post(ASK, &json!({ "new_email": NEW })).await;
    anybody.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    assert_eq!(world.count::<EmailChange>().await, 0);
}

#[tokio::test]
async fn an_email_with_an_account_gets_the_same_response_and_its_owner_is_notified() {
    let (world, token) = signed_in().await;
    world.make_account("bob@example.com").await;
    let mut answers = Vec::new();
    for email in ["bob@example.com", "nobody@example.com"] {
        let (links, before) =
            (asked(&world, &token, email).await, world.count::<OutboxRow>().await);
        let answer = ask(&world, &token, email).await.expect(StatusCode::ACCEPTED);
        let names: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
        answers.push((answer.body, names, world.count::<OutboxRow>().await - before));
        expect_void(&world, &[&links.old]).await;
    }
    assert_eq!(answers[0], answers[1]);

    let _worker = world.env.spawn_worker().await;
    let carl = world.signed_in("carl@example.com").await;
    let links = asked(&world, &carl, "bob@example.com").await;
    wait_for(&world, "bob@example.com", "Someone tried to use your email address").await;
    wait_for(&world, "carl@example.com", "Confirm or reject a new email address for your account")
        .await;
    // The same as for any email address.
    assert_eq!(confirm(&world, &links.old).await, "confirmed");
    assert_eq!(shown_email(&world, &carl).await, "carl@example.com");
    let to_bob: Vec<Mail> = world
        .env
        .mail()
        .messages()
        .into_iter()
        .filter(|mail| mail.to == ["bob@example.com"])
        .collect();
    assert!(
        to_bob.iter().all(|mail| !mail.text.contains("/change-email")),
        "no link to his mailbox was created"
    );
}

#[tokio::test]
async fn a_request_takes_the_same_time_with_or_without_an_account() {
    const SAMPLES: usize = 40;
    let world = World::with(&[
        ("TENANTRY__AUTH__MAILS_PER_NETWORK", "100000"),
        ("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "100000"),
        ("TENANTRY__MAIL_BUDGET__NEW_TENANT", "1000"),
    ])
    .await;
    let token = world.signed_in(ADA).await;
    world.make_account("bob@example.com").await;
    let time = async |email: &str| {
        let begun = Instant::now();
        ask(&world, &token, email).await.expect(StatusCode::ACCEPTED);
        begun.elapsed().as_secs_f64()
    };
    // The third kind repeats the first: differences between the two are noise.
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for number in 0..SAMPLES {
        samples[0].push(time("bob@example.com").await);
        samples[1].push(time(&format!("nobody{number}@example.com")).await);
        samples[2].push(time("bob@example.com").await);
    }
    let [known, unknown, control] = samples.map(|mut samples| {
        samples.sort_by(f64::total_cmp);
        samples[SAMPLES / 2]
    });
    let noise = (known / control).max(control / known);
    let gap = (known / unknown).max(unknown / known);
    assert!(gap < 1.5 * noise, "known {known}, unknown {unknown}, known again {control}");
}

#[tokio::test]
async fn an_account_created_in_between_keeps_its_email_and_its_owner_is_notified() {
    let (world, token) = signed_in().await;
    for new_is_first in [true, false] {
        let email = format!("bob{new_is_first}@example.com");
        let links = asked(&world, &token, &email).await;
        world.make_account(&email).await;
        let (first, second) =
            if new_is_first { (&links.new, &links.old) } else { (&links.old, &links.new) };
        assert_eq!(confirm(&world, first).await, "confirmed");
        follow(&world, CONFIRM, second)
            .await
            .expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
        expect_void(&world, &[first, second]).await;
        let told = testing::staged::<SendEmailTaken>(&world.store).await.unwrap();
        assert_eq!(told.last().unwrap().job.owner, user(&world, &email).await.unwrap().id);
        world.login(&email, PASSWORD).await.expect(StatusCode::OK);
        assert_eq!(shown_email(&world, &token).await, ADA);
    }
    assert_eq!(
        (
            audited(&world, "email_change.refused").await,
            audited(&world, "user.email_changed").await
        ),
        (2, 0)
    );
}

#[tokio::test]
async fn of_many_concurrent_changes_to_one_email_one_succeeds() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let mut second = Vec::new();
    for number in 0..8 {
        let person = people.founder(&format!("p{number}@example.com")).await;
        let links = asked(&world, &person.token, NEW).await;
        assert_eq!(confirm(&world, &links.old).await, "confirmed");
        second.push(links.new);
    }
    // Meanwhile someone registers it.
    world.register(NEW).await.expect(StatusCode::ACCEPTED);
    let registered = world.link_token(NEW).await;
    let (answers, verified) = futures::join!(
        join_all(second.iter().map(|link| follow(&world, CONFIRM, link))),
        follow(&world, "/api/auth/verify-email", &registered)
    );
    let all: Vec<StatusCode> =
        answers.iter().chain([&verified]).map(|answer| answer.status).collect();
    assert_eq!(all.iter().filter(|status| **status == StatusCode::OK).count(), 1, "{all:?}");
    assert!(
        all.iter().all(|status| [StatusCode::OK, StatusCode::BAD_REQUEST].contains(status)),
        "{all:?}"
    );
    let owners =
        world.store.records::<User>(PlatformScope).count(doc! { "email_norm": NEW }).await.unwrap();
    assert_eq!(owners, 1);
}

#[tokio::test]
async fn all_other_sessions_end_on_every_process() {
    let (world, mine) = signed_in().await;
    let (_second_api, second) = world.another_api().await;
    let other = world
        .client
        .post(
            "/api/auth/login",
            &json!({ "email": ADA, "password": PASSWORD, "token_delivery": "body" }),
        )
        .await;
    let other = other.expect(StatusCode::OK).json();
    let other_token = other["access_token"].as_str().unwrap();
    for client in [&world.client, &second] {
        client.get_as(&mine, "/api/auth/me").await.expect(StatusCode::OK);
        client.get_as(other_token, "/api/auth/me").await.expect(StatusCode::OK);
    }
    let links = asked(&world, &mine, NEW).await;
    confirm(&world, &links.old).await;
    assert_eq!(confirm(&world, &links.new).await, "changed");
    for client in [&world.client, &second] {
        client
            .expect_refused_within_a_second(other_token)
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    let refresh = json!({ "refresh_token": other["refresh_token"] });
    world
        .client
        .post("/api/auth/refresh", &refresh)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    let begun = Instant::now();
    while second.get_as(&mine, "/api/auth/me").await.expect(StatusCode::OK).json()["user"]["email"]
        != NEW
    {
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "the other process still has the old address"
        );
    }
    assert_eq!(shown_email(&world, &mine).await, NEW);
}

#[tokio::test]
async fn a_sign_in_during_the_change_starts_no_session() {
    let (world, token) = signed_in().await;
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
    let admitted = attempt.check(&world.store, &Hasher::new(1, DEADLINE).unwrap()).await.unwrap();
    let links = asked(&world, &token, NEW).await;
    confirm(&world, &links.old).await;
    confirm(&world, &links.new).await;
    let before = world.count::<Session>().await;
    let begun = world.commit(&admitted.begin).await;
    assert!(matches!(begun, Err(SignInError::InvalidCredentials)), "{begun:?}");
    assert_eq!(world.count::<Session>().await, before);
}

/// A password reset link, as the worker creates it.
async fn reset_link(world: &World, user: &User) -> PasswordReset {
    let (job, ttl) = (world.store.clock().id(), world.config.auth.password_reset_ttl);
    let prepare = Prepare { key: &world.key, user: user.id, job, ttl, cooldown: Duration::ZERO };
    world.commit(&prepare).await.unwrap().1.unwrap()
}

#[tokio::test]
async fn the_change_revokes_earlier_links_and_a_new_password_revokes_the_change() {
    let (world, token) = signed_in().await;
    let ada = user(&world, ADA).await.unwrap();
    world.register(NEW).await.expect(StatusCode::ACCEPTED);
    let registration = world.link_token(NEW).await;
    let links = asked(&world, &token, NEW).await;
    let reset = reset_link(&world, &ada).await;
    confirm(&world, &links.old).await;
    confirm(&world, &links.new).await;
    assert_eq!((world.count::<PasswordReset>().await, world.count::<Registration>().await), (0, 0));
    let body = json!({ "token": reset.link_token(&world.key).expose(), "password": "a quite different set of words" });
    world
        .client
        .post("/api/auth/password/reset", &body)
        .await
        .expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    follow(&world, "/api/auth/verify-email", &registration)
        .await
        .expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    // Also a link that a job created for the old email address while the change was in progress.
    let late = PasswordReset { email_norm: Some(ADA.to_owned()), ..reset };
    world.store.records::<PasswordReset>(PlatformScope).put_all(&[late]).await.unwrap();
    world
        .client
        .post("/api/auth/password/reset", &body)
        .await
        .expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    world.login(NEW, PASSWORD).await.expect(StatusCode::OK);

    let links = asked(&world, &token, ADA).await;
    assert_eq!(confirm(&world, &links.new).await, "confirmed");
    let change =
        json!({ "current_password": PASSWORD, "new_password": "a quite different set of words" });
    world
        .client
        .post_body_as(&token, "/api/auth/password/change", &change)
        .await
        .expect(StatusCode::NO_CONTENT);
    expect_void(&world, &[&links.old, &links.new]).await;

    let links = asked(&world, &token, ADA).await;
    let reset = reset_link(&world, &ada).await;
    let body = json!({ "token": reset.link_token(&world.key).expose(), "password": PASSWORD });
    world.client.post("/api/auth/password/reset", &body).await.expect(StatusCode::NO_CONTENT);
    expect_void(&world, &[&links.old, &links.new]).await;
}

async fn invitation(world: &World, inviter: &Person, email: &str) -> String {
    let body = json!({ "email": email, "role": "viewer" });
    world
        .client
        .post_body_as(&inviter.token, "/api/tenant/users/invite", &body)
        .await
        .expect(StatusCode::CREATED);
    let found = world
        .store
        .records::<Invitation>(PlatformScope)
        .find(doc! { "email_norm": email })
        .await
        .unwrap();
    found.expect("the address is invited").link_token(&world.key).expose().to_owned()
}

#[tokio::test]
async fn an_invitation_stays_with_the_email_and_an_ownership_offer_with_the_person() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (eve, ada) = (people.founder("eve@example.com").await, people.founder(ADA).await);
    let (to_old, to_new) =
        (invitation(&world, &eve, ADA).await, invitation(&world, &eve, NEW).await);
    let colleague = people.join(&ada, "colleague@example.com", Role::Admin).await;
    let offer = json!({ "user_id": colleague.user });
    let offer = world
        .client
        .post_body_as(&ada.token, "/api/tenant/ownership-transfers", &offer)
        .await
        .expect(StatusCode::CREATED)
        .json();
    let offer = format!("/api/tenant/ownership-transfers/{}", offer["id"].as_str().unwrap());
    for (person, email) in [(&ada, NEW), (&colleague, "colleague@example.org")] {
        let links = asked(&world, &person.token, email).await;
        confirm(&world, &links.old).await;
        assert_eq!(confirm(&world, &links.new).await, "changed");
    }
    let accept = "/api/invitations/accept";
    let refused = world.client.post_body_as(&ada.token, accept, &json!({ "token": to_old })).await;
    refused.expect_problem(StatusCode::FORBIDDEN, "invitation_not_yours");
    world
        .client
        .post_body_as(&ada.token, accept, &json!({ "token": to_new }))
        .await
        .expect(StatusCode::OK);
    // The owner of the old mailbox may be someone else now.
    let newcomer = json!({ "token": to_old, "name": "New Comer", "password": PASSWORD });
    world.client.post(accept, &newcomer).await.expect(StatusCode::OK);
    assert_ne!(user(&world, ADA).await.unwrap().id, ada.user);

    let colleague_token = people.token(colleague.user, colleague.tenant).await;
    world
        .client
        .post_as(&colleague_token, &format!("{offer}/accept"))
        .await
        .expect(StatusCode::NO_CONTENT);
    assert_eq!(people.role(&colleague).await, Some(Role::Owner.into()));
}

/// Every row of the database, as text.
async fn dump(world: &World) -> String {
    let client = mongodb::Client::with_uri_str(world.env.mongodb_uri()).await.unwrap();
    let database = client.database(world.env.database());
    let mut rows = Vec::new();
    for name in database.list_collection_names().await.unwrap() {
        let answer: Document =
            database.run_command(doc! { "find": &name, "batchSize": 10_000 }).await.unwrap();
        rows.push(format!("{name}: {answer}"));
    }
    client.shutdown().await;
    rows.join("\n")
}

#[tokio::test]
async fn neither_the_database_nor_the_log_contains_the_token_of_a_link() {
    let world = World::spawned(&[]).await;
    let token = world.signed_in("canary-old@example.com").await;
    let links = asked(&world, &token, "canary-new@example.com").await;
    let early = dump(&world).await;
    assert!(
        early.contains("email_changes: ") && early.contains("canary-new"),
        "there is something to see: {early}"
    );
    confirm(&world, &links.old).await;
    let halfway = dump(&world).await;
    confirm(&world, &links.new).await;
    let late = dump(&world).await;
    let staged: Vec<OutboxRow> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 100).await.unwrap();
    assert!(!serde_json::to_string(&staged).unwrap().contains("canary"));
    world.api.process().terminate();
    world.api.process().wait(DEADLINE).await.unwrap();
    let log = world.api.process().log();
    for text in [&early, &halfway, &late, &log] {
        assert!(!text.contains(&links.old) && !text.contains(&links.new));
    }
    assert!(!log.contains("canary"), "{log}");
}

#[tokio::test]
async fn requested_mails_are_limited_and_a_cooldown_apart() {
    let settings =
        [("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "3"), ("TENANTRY__AUTH__MAILS_PER_NETWORK", "1000")];
    let world = World::with(&settings).await;
    let people = People::of(&world).await;
    let ada = people.founder(ADA).await;
    let mut changes: Vec<EmailChangeId> = Vec::new();
    for number in 0..3 {
        ask(&world, &ada.token, &format!("ada{number}@example.org"))
            .await
            .expect(StatusCode::ACCEPTED);
        changes.push(
            world
                .store
                .records::<EmailChange>(PlatformScope)
                .find(doc! {})
                .await
                .unwrap()
                .unwrap()
                .id,
        );
    }
    // One user for many email addresses, and many users for one.
    let refused = ask(&world, &ada.token, "another@example.org").await;
    refused.expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
    for number in 0..4 {
        let person = people.founder(&format!("p{number}@example.com")).await;
        let answer = ask(&world, &person.token, "victim@example.org").await;
        assert_eq!(
            answer.status,
            if number < 3 { StatusCode::ACCEPTED } else { StatusCode::TOO_MANY_REQUESTS }
        );
    }
    let staged = testing::staged::<SendEmailChangeLink>(&world.store).await.unwrap();
    let due = |change: EmailChangeId| {
        staged.iter().find(|staged| staged.job.change == change).unwrap().due_at.unwrap()
    };
    let apart = due(changes[1]).timestamp_millis() - due(changes[0]).timestamp_millis();
    assert_eq!(
        (Duration::from_millis(apart.unsigned_abs()), due(changes[2])),
        (Duration::from_mins(1), due(changes[1]))
    );
}

#[tokio::test]
async fn a_superseded_change_sends_no_mail() {
    let world = World::with(&[("TENANTRY__AUTH__RESEND_COOLDOWN", "1s")]).await;
    let token = world.signed_in(ADA).await;
    for number in 0..4 {
        ask(&world, &token, &format!("ada{number}@example.org")).await.expect(StatusCode::ACCEPTED);
    }
    let _worker = world.env.spawn_worker().await;
    wait_for(&world, "ada3@example.org", "Confirm your new email address").await;
    world.until_nothing_is_due().await;
    let to: Vec<String> = world
        .env
        .mail()
        .messages()
        .into_iter()
        .flat_map(|mail| mail.to)
        .filter(|to| to.ends_with("org"))
        .collect();
    assert_eq!(to, ["ada3@example.org"]);
}
