//! Limits on guessing passwords and requesting mails, which do not lock out the account's owner.

use common::{
    crypto::LinkToken,
    db::PlatformScope,
    id::{InvitationLinkId, PasswordResetId},
};
use domain::{
    identity::{
        password_resets::{Prepare, SendPasswordReset},
        registrations::ResendVerification,
        sign_in::{SendNewSignIn, SendThrottled},
    },
    people::{sessions::Session, users::User},
    tenancy::{invitations::Invitation, memberships::Membership},
};
use futures::future::join_all;
use jobs::testing;
use mongodb::bson::doc;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    pages::expect_page,
    people::{People, Person},
    support::{Answer, Database, PASSWORD, World, eventually},
};

const ADA: &str = "ada@example.com";
const WRONG: &str = "wrong horse";
const FORGOT: &str = "/api/auth/password/forgot";
const RESEND: &str = "/api/auth/verify-email/resend";

/// Failures allowed per account and network, per account, and per network.
const FEW: &[(&str, &str)] = &[
    ("TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT", "5"),
    ("TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT_MAX", "8"),
    ("TENANTRY__AUTH__LOGIN_FAILURES_PER_NETWORK", "12"),
];
/// The IP address of the tests is that of a trusted proxy, so that they can simulate any client.
const BEHIND_PROXY: &[(&str, &str)] = &[("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.0/8")];

/// Signs in as a client that is (or claims to be) at the IP address `address`.
async fn login_from(world: &World, address: &str, email: &str, password: &str) -> Answer {
    let request =
        world.client.request(Method::POST, "/api/auth/login").header("x-forwarded-for", address);
    Answer::of(request.json(&json!({ "email": email, "password": password }))).await
}

#[track_caller]
fn expect_throttled(answer: Answer) -> Answer {
    let answer = answer.expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=900).contains(&wait), "{answer:?}");
    answer
}

/// A stolen session allows no more guesses than the sign-in, on any route.
#[tokio::test]
async fn all_routes_that_check_a_password_share_one_count() {
    let world = World::with(FEW).await;
    let ada = world.signed_in(ADA).await;
    let ask = |password: &'static str| {
        let proof = json!({ "password": password });
        let change = json!({ "current_password": password, "new_password": "a quite different set of words" });
        [("/api/auth/reauthenticate", proof), ("/api/auth/password/change", change)]
    };
    for _ in 0..2 {
        for (path, body) in ask(WRONG) {
            world
                .client
                .post_body_as(&ada, path, &body)
                .await
                .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
        }
    }
    world.login(ADA, WRONG).await.expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    for (path, body) in ask(PASSWORD) {
        expect_throttled(world.client.post_body_as(&ada, path, &body).await);
    }
    expect_throttled(world.login(ADA, PASSWORD).await);
}

#[tokio::test]
async fn an_account_is_throttled_after_too_many_failures_until_its_owner_resets_the_password() {
    let world = World::new().await;
    world.make_account(ADA).await;
    let mut statuses = Vec::new();
    for _ in 0..101 {
        statuses.push(world.login(ADA, WRONG).await.status);
    }
    let let_through = usize::try_from(world.config.auth.login_failures_per_account).unwrap();
    let throttled_from =
        statuses.iter().position(|status| *status == StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(throttled_from, Some(let_through), "{statuses:?}");
    expect_throttled(world.login(ADA, PASSWORD).await);

    world.client.post(FORGOT, &json!({ "email": ADA })).await.expect(StatusCode::ACCEPTED);
    let link = link_for(&world, ADA).await;
    let reset = json!({ "token": link, "password": "a quite different set of words" });
    world.client.post("/api/auth/password/reset", &reset).await.expect(StatusCode::NO_CONTENT);
    world.login(ADA, "a quite different set of words").await.expect(StatusCode::OK);
}

async fn link_for(world: &World, email: &str) -> String {
    let user = User::by_email(&world.store, &email.parse().unwrap()).await.unwrap().unwrap();
    let (ttl, cooldown) = (world.config.auth.password_reset_ttl, std::time::Duration::ZERO);
    let prepare =
        Prepare { key: &world.key, user: user.id, job: world.store.clock().id(), ttl, cooldown };
    world.commit(&prepare).await.unwrap().1.unwrap().link_token(&world.key).expose().to_owned()
}

#[tokio::test]
async fn a_throttled_attempt_is_rejected_before_hashing_and_does_not_reveal_accounts() {
    let world = World::spawned(FEW).await;
    world.make_account(ADA).await;
    let mut refusals = Vec::new();
    for email in [ADA, "nobody@example.com"] {
        for _ in 0..5 {
            world
                .login(email, WRONG)
                .await
                .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
        }
        let hashed = "tenantry_password_hash_duration_seconds_count";
        let before = world.metric(hashed).await;
        refusals.push(expect_throttled(world.login(email, WRONG).await).without_id());
        assert!((world.metric(hashed).await - before).abs() < f64::EPSILON);
    }
    assert_eq!(refusals[0], refusals[1]);
    assert!(
        (world.metric("tenantry_auth_throttled_total{act=\"sign_in\"}").await - 2.0).abs()
            < f64::EPSILON
    );
}

#[tokio::test]
async fn one_password_tried_on_many_accounts_from_one_network_is_throttled() {
    let world = World::with(FEW).await;
    let mut statuses = Vec::new();
    for number in 0..30 {
        statuses.push(world.login(&format!("person{number}@example.com"), WRONG).await.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == StatusCode::UNAUTHORIZED).count(), 12);
    assert!(
        statuses[12..].iter().all(|status| *status == StatusCode::TOO_MANY_REQUESTS),
        "{statuses:?}"
    );
}

#[tokio::test]
async fn concurrent_guesses_get_no_more_attempts_than_sequential_ones() {
    let world = World::with(FEW).await;
    world.make_account(ADA).await;
    let (_second_api, second) = world.another_api_with(FEW).await;
    let clients = [&world.client, &second];
    let body = json!({ "email": ADA, "password": WRONG });
    let answers =
        join_all((0..40).map(|number| clients[number % 2].post("/api/auth/login", &body))).await;
    let let_through =
        answers.iter().filter(|answer| answer.status == StatusCode::UNAUTHORIZED).count();
    assert_eq!(let_through, 5);
    for answer in answers.into_iter().filter(|answer| answer.status != StatusCode::UNAUTHORIZED) {
        expect_throttled(answer);
    }
}

#[tokio::test]
async fn a_stranger_cannot_lock_the_owner_out_of_known_networks() {
    let world = World::with(&[FEW, BEHIND_PROXY].concat()).await;
    world.make_account(ADA).await;
    login_from(&world, "192.0.2.1", ADA, PASSWORD).await.expect(StatusCode::OK);
    for number in 0..20 {
        login_from(&world, &format!("198.51.100.{number}"), ADA, WRONG).await;
    }
    expect_throttled(login_from(&world, "198.51.100.99", ADA, PASSWORD).await);
    login_from(&world, "192.0.2.1", ADA, PASSWORD).await.expect(StatusCode::OK);
    // Someone else on that network has as many attempts as anyone, and no more.
    for _ in 0..5 {
        login_from(&world, "192.0.2.1", ADA, WRONG)
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    }
    expect_throttled(login_from(&world, "192.0.2.1", ADA, WRONG).await);
}

/// An owner on a journey signs in while strangers guess.
#[tokio::test]
async fn wrong_passwords_elsewhere_leave_each_network_one_attempt() {
    let world = World::with(&[FEW, BEHIND_PROXY].concat()).await;
    for email in [ADA, "nobody@example.com"] {
        if email == ADA {
            world.make_account(email).await;
        }
        for _ in 0..5 {
            login_from(&world, "198.51.100.1", email, WRONG).await.expect(StatusCode::UNAUTHORIZED);
        }
        expect_throttled(login_from(&world, "198.51.100.1", email, WRONG).await);
        login_from(&world, "198.51.100.2", email, WRONG).await.expect(StatusCode::UNAUTHORIZED);
        expect_throttled(login_from(&world, "198.51.100.2", email, WRONG).await);
    }
    login_from(&world, "203.0.113.1", ADA, PASSWORD).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn registering_a_victims_email_does_not_make_a_network_known() {
    let world = World::with(&[FEW, BEHIND_PROXY].concat()).await;
    let eves = json!({ "email": ADA, "password": "an attackers set of words", "name": "Eve", "tenant_name": "Eve" });
    world.client.post("/api/auth/register", &eves).await.expect(StatusCode::ACCEPTED);
    let waiting = login_from(&world, "198.51.100.7", ADA, "an attackers set of words").await;
    waiting.expect_problem(StatusCode::FORBIDDEN, "email_not_verified");
    world.make_account(ADA).await;
    for _ in 0..5 {
        login_from(&world, "198.51.100.8", ADA, WRONG).await.expect(StatusCode::UNAUTHORIZED);
    }
    login_from(&world, "198.51.100.7", ADA, WRONG).await.expect(StatusCode::UNAUTHORIZED);
    expect_throttled(login_from(&world, "198.51.100.7", ADA, WRONG).await);
}

#[tokio::test]
async fn a_spoofed_ip_address_does_not_bypass_the_throttle() {
    let few = &[("TENANTRY__AUTH__LOGIN_FAILURES_PER_NETWORK", "5")];
    let world = World::with(few).await;
    let guess = async |world: &World, number: u32, address: String| {
        login_from(world, &address, &format!("person{number}@example.com"), WRONG).await
    };
    for number in 0..5 {
        guess(&world, number, format!("192.0.2.{number}")).await.expect(StatusCode::UNAUTHORIZED);
    }
    expect_throttled(guess(&world, 6, "192.0.2.77".to_owned()).await);

    let world = World::with(&[few, BEHIND_PROXY].concat()).await;
    for number in 0..10 {
        // Entries that the client wrote precede the one that the proxy added.
        guess(&world, number, format!("203.0.113.{number}, 192.0.2.1")).await;
    }
    expect_throttled(guess(&world, 11, "203.0.113.99, 192.0.2.1".to_owned()).await);
    guess(&world, 12, "192.0.2.2".to_owned()).await.expect(StatusCode::UNAUTHORIZED);
    // A subscriber has all IP addresses of a /64.
    for number in 0..5 {
        guess(&world, number, format!("2001:db8:0:1::{number}"))
            .await
            .expect(StatusCode::UNAUTHORIZED);
    }
    expect_throttled(guess(&world, 13, "2001:db8:0:1:ffff::1".to_owned()).await);
    guess(&world, 14, "2001:db8:0:2::1".to_owned()).await.expect(StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn successful_sign_ins_do_not_count_and_the_window_ends() {
    let world = World::with(&[FEW, &[("TENANTRY__AUTH__THROTTLE_WINDOW", "1s")]].concat()).await;
    world.make_account(ADA).await;
    for _ in 0..15 {
        world.login(ADA, PASSWORD).await.expect(StatusCode::OK);
    }
    eventually("the account is throttled", async || {
        (world.login(ADA, WRONG).await.status == StatusCode::TOO_MANY_REQUESTS).then_some(())
    })
    .await;
    eventually("the window is over", async || {
        (world.login(ADA, PASSWORD).await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_owner_is_notified_once_and_no_mail_is_sent_without_an_account() {
    let world = World::with(&[FEW, &[("TENANTRY__AUTH__THROTTLE_WINDOW", "1s")]].concat()).await;
    let _worker = world.env.spawn_worker().await;
    world.make_account(ADA).await;
    for _ in 0..3 {
        for email in [ADA, "nobody@example.com"] {
            // Reset in each window.
            eventually("it is throttled", async || {
                (world.login(email, WRONG).await.status == StatusCode::TOO_MANY_REQUESTS)
                    .then_some(())
            })
            .await;
            eventually("the window is over", async || {
                (world.login(email, WRONG).await.status == StatusCode::UNAUTHORIZED).then_some(())
            })
            .await;
        }
    }
    eventually("every job finishes", async || {
        testing::staged::<SendThrottled>(&world.store).await.unwrap().is_empty().then_some(())
    })
    .await;
    let told: Vec<_> = world
        .env
        .mail()
        .messages()
        .into_iter()
        .filter(|mail| mail.subject.contains("failed sign-ins"))
        .collect();
    assert_eq!(told.iter().map(|mail| mail.to.clone()).collect::<Vec<_>>(), [[ADA]]);
}

/// Strangers cannot use up the requests of others, and cannot tell who has an account.
#[tokio::test]
async fn requested_mails_are_limited_by_mailbox_and_network_with_or_without_an_account() {
    let settings =
        [("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "3"), ("TENANTRY__AUTH__MAILS_PER_NETWORK", "10")];
    for path in [FORGOT, RESEND] {
        let world = World::with(&[&settings, BEHIND_PROXY].concat()).await;
        world.make_account(ADA).await;
        let ask = async |address: &str, email: &str| {
            let request =
                world.client.request(Method::POST, path).header("x-forwarded-for", address);
            Answer::of(request.json(&json!({ "email": email }))).await
        };
        let mut refusals = Vec::new();
        for email in [ADA, "nobody@example.com"] {
            for _ in 0..3 {
                ask("192.0.2.1", email).await.expect(StatusCode::ACCEPTED);
            }
            refusals.push(expect_throttled(ask("192.0.2.1", email).await).without_id());
            for number in 2..12 {
                ask(&format!("192.0.2.{number}"), email).await.expect(StatusCode::ACCEPTED);
            }
        }
        assert_eq!(refusals[0], refusals[1]);
        for number in 0..10 {
            ask("198.51.100.1", &format!("person{number}@example.com"))
                .await
                .expect(StatusCode::ACCEPTED);
        }
        expect_throttled(ask("198.51.100.1", "another@example.com").await);
    }
}

/// Wrong logins from everywhere, and as many requests as one network may make in the owner's name.
#[tokio::test]
async fn a_travelling_owner_can_always_request_a_reset() {
    let few_mails = &[("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "3")];
    let world = World::with(&[FEW, few_mails, BEHIND_PROXY].concat()).await;
    world.make_account(ADA).await;
    let forgot = async |address: &str| {
        let request = world.client.request(Method::POST, FORGOT).header("x-forwarded-for", address);
        Answer::of(request.json(&json!({ "email": ADA }))).await
    };
    for number in 0..8 {
        let network = format!("198.51.100.{number}");
        login_from(&world, &network, ADA, WRONG).await;
        for _ in 0..4 {
            forgot(&network).await;
        }
    }
    expect_throttled(login_from(&world, "203.0.113.1", ADA, PASSWORD).await);
    forgot("203.0.113.1").await.expect(StatusCode::ACCEPTED);
}

/// 20 registrations in the name of a person kept that person from registering.
#[tokio::test]
async fn a_stranger_cannot_use_up_the_registrations_of_a_person() {
    let few_mails = &[("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "3")];
    let world = World::with(&[few_mails, BEHIND_PROXY].concat()).await;
    let register = async |address: &str| {
        let body =
            json!({ "email": ADA, "password": PASSWORD, "name": "Ada", "tenant_name": "Ada" });
        let path = "/api/auth/register";
        let request = world.client.request(Method::POST, path).header("x-forwarded-for", address);
        Answer::of(request.json(&body)).await
    };
    for _ in 0..3 {
        register("198.51.100.1").await.expect(StatusCode::ACCEPTED);
    }
    expect_throttled(register("198.51.100.1").await);
    register("203.0.113.1").await.expect(StatusCode::ACCEPTED);
}

#[tokio::test]
async fn while_a_mail_is_queued_no_second_one_is() {
    let world = World::new().await;
    world.make_account(ADA).await;
    for email in [ADA, "nobody@example.com"] {
        for path in [FORGOT, RESEND] {
            for _ in 0..5 {
                let answer = world.client.post(path, &json!({ "email": email })).await;
                answer.expect(StatusCode::ACCEPTED);
            }
        }
    }
    eventually("the duplicates are dropped", async || {
        let forgot = testing::staged::<SendPasswordReset>(&world.store).await.unwrap().len();
        let resend = testing::staged::<ResendVerification>(&world.store).await.unwrap().len();
        ((forgot, resend) == (2, 2)).then_some(())
    })
    .await;
}

/// A subscriber may have a whole /48.
#[tokio::test]
async fn wider_ipv6_networks_have_higher_limits() {
    let few = &[("TENANTRY__AUTH__LOGIN_FAILURES_PER_NETWORK", "2")];
    let world = World::with(&[few, BEHIND_PROXY].concat()).await;
    let mut number = 0;
    let mut failures = async |count: u32, network: &dyn Fn(u32) -> String| {
        let mut statuses = Vec::new();
        for at in 0..count {
            number += 1;
            let email = format!("person{number}@example.com");
            statuses.push(login_from(&world, &network(at), &email, WRONG).await.status);
        }
        statuses.iter().filter(|status| **status == StatusCode::UNAUTHORIZED).count()
    };
    assert_eq!(failures(4, &|at| format!("2001:db8:1::{at}")).await, 2, "a /64");
    assert_eq!(failures(10, &|at| format!("2001:db8:1:{at:x}::1")).await, 6, "its /56");
    assert_eq!(
        failures(30, &|at| format!("2001:db8:1:{:x}::1", (at + 1) << 8)).await,
        24,
        "its /48"
    );
    assert_eq!(failures(1, &|_| "2001:db8:2::1".to_owned()).await, 1, "another");
}

/// Only guesses by others are slowed; what an account causes itself has one limit.
#[tokio::test]
async fn email_changes_of_an_account_are_limited_over_all_networks() {
    let few_mails = &[("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "3")];
    let world = World::with(&[few_mails, BEHIND_PROXY].concat()).await;
    let ada = world.signed_in(ADA).await;
    let change = async |number: u32| {
        let body = json!({ "new_email": format!("new{number}@example.com") });
        let request = world.client.request(Method::POST, "/api/auth/email/change");
        let request = request.header("x-forwarded-for", format!("192.0.2.{number}"));
        Answer::of(request.bearer_auth(&ada).json(&body)).await
    };
    for number in 0..3 {
        change(number).await.expect(StatusCode::ACCEPTED);
    }
    expect_throttled(change(3).await);
}

#[tokio::test]
async fn guessed_links_are_throttled() {
    let world = World::with(FEW).await;
    let made_up =
        LinkToken::issue(&world.key, PasswordResetId::from_uuid(world.store.clock().uuid()));
    let body = json!({ "token": made_up.expose(), "password": "a quite different set of words" });
    for _ in 0..12 {
        world
            .client
            .post("/api/auth/password/reset", &body)
            .await
            .expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    }
    expect_throttled(world.client.post("/api/auth/password/reset", &body).await);
}

/// The token of a new invitation to the tenant of `inviter`.
async fn invited(world: &World, inviter: &Person, email: &str) -> String {
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

/// Accepts as a client that is (or claims to be) at the IP address `address`.
async fn accept_from(world: &World, address: &str, token: &str, password: &str) -> Answer {
    let request = world
        .client
        .request(Method::POST, "/api/invitations/accept")
        .header("x-forwarded-for", address);
    Answer::of(request.json(&json!({ "token": token, "name": "Bob", "password": password }))).await
}

#[tokio::test]
async fn accepting_an_invitation_does_not_bypass_the_throttle_of_sign_ins() {
    let world = World::spawned(&[FEW, BEHIND_PROXY].concat()).await;
    let people = People::of(&world).await;
    // The attacker owns a tenant, and knows the link in the victim's mail.
    let (eve, bob) =
        (people.founder("eve@example.com").await, people.founder("bob@example.com").await);
    let token = invited(&world, &eve, "bob@example.com").await;
    login_from(&world, "192.0.2.1", "bob@example.com", PASSWORD).await.expect(StatusCode::OK);
    for number in 0..8 {
        let address = format!("198.51.100.{number}");
        let guess = match number % 2 {
            0 => login_from(&world, &address, "bob@example.com", WRONG).await,
            _ => accept_from(&world, &address, &token, WRONG).await,
        };
        guess.expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    }
    let hashed = "tenantry_password_hash_duration_seconds_count";
    let before = world.metric(hashed).await;
    expect_throttled(accept_from(&world, "198.51.100.99", &token, PASSWORD).await);
    expect_throttled(login_from(&world, "198.51.100.99", "bob@example.com", PASSWORD).await);
    let form = format!("token={token}&password={}", PASSWORD.replace(' ', "+"));
    let page = world.client.post_form("/invitations/accept", &form).await;
    expect_page(page, StatusCode::TOO_MANY_REQUESTS, "Too many attempts");
    assert!(
        (world.metric(hashed).await - before).abs() < f64::EPSILON,
        "a throttled attempt hashes nothing"
    );
    let told = testing::staged::<SendThrottled>(&world.store).await.unwrap();
    assert_eq!(told.len(), 1, "the owner is notified once");

    // From networks of earlier sign-ins the owner can join; signed in, from anywhere.
    accept_from(&world, "192.0.2.1", &token, PASSWORD).await.expect(StatusCode::OK);
    let token = invited(&world, &people.founder("carl@example.com").await, "bob@example.com").await;
    let joined = world
        .client
        .post_body_as(&bob.token, "/api/invitations/accept", &json!({ "token": token }))
        .await;
    joined.expect(StatusCode::OK);
    assert_eq!(
        world
            .store
            .records::<Membership>(PlatformScope)
            .count(doc! { "user_id": bob.user })
            .await
            .unwrap(),
        3
    );
}

#[tokio::test]
async fn concurrent_guesses_over_two_routes_get_no_more_attempts_than_over_one() {
    let world = World::with(FEW).await;
    let people = People::of(&world).await;
    people.founder("bob@example.com").await;
    let token = invited(&world, &people.founder("eve@example.com").await, "bob@example.com").await;
    let login = json!({ "email": "bob@example.com", "password": WRONG });
    let accept = json!({ "token": token, "password": WRONG });
    let routes = [("/api/auth/login", &login), ("/api/invitations/accept", &accept)];
    let answers = join_all(
        (0..40).map(|number| world.client.post(routes[number % 2].0, routes[number % 2].1)),
    )
    .await;
    assert_eq!(
        answers.iter().filter(|answer| answer.status == StatusCode::UNAUTHORIZED).count(),
        5
    );
    for answer in answers.into_iter().filter(|answer| answer.status != StatusCode::UNAUTHORIZED) {
        expect_throttled(answer);
    }
}

#[tokio::test]
async fn guesses_at_an_email_without_an_account_do_not_prevent_a_new_account() {
    let world = World::with(&[FEW, BEHIND_PROXY].concat()).await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    let token = invited(&world, &eve, "new@example.com").await;
    for number in 0..8 {
        login_from(&world, &format!("198.51.100.{number}"), "new@example.com", WRONG).await;
    }
    expect_throttled(login_from(&world, "198.51.100.9", "new@example.com", WRONG).await);
    accept_from(&world, "192.0.2.1", &token, PASSWORD).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn guessed_invitation_links_are_throttled_and_valid_ones_are_not_counted() {
    let world = World::with(&[FEW, BEHIND_PROXY].concat()).await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    let token = invited(&world, &eve, "new@example.com").await;
    let look = async |address: &str, token: &str| {
        let path = format!("/api/invitations/{token}");
        Answer::of(world.client.request(Method::GET, &path).header("x-forwarded-for", address))
            .await
    };
    for _ in 0..15 {
        look("192.0.2.1", &token).await.expect(StatusCode::OK);
    }
    let made_up =
        LinkToken::issue(&world.key, InvitationLinkId::from_uuid(world.store.clock().uuid()));
    for number in 0..12 {
        let tried = match number % 2 {
            0 => look("192.0.2.1", made_up.expose()).await,
            _ => accept_from(&world, "192.0.2.1", made_up.expose(), PASSWORD).await,
        };
        tried.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    }
    expect_throttled(look("192.0.2.1", made_up.expose()).await);
    expect_throttled(accept_from(&world, "192.0.2.1", made_up.expose(), PASSWORD).await);
    let page = world
        .client
        .request(Method::GET, &format!("/invitations/accept?token={}", made_up.expose()));
    let page = Answer::of(page.header("x-forwarded-for", "192.0.2.1")).await;
    expect_page(page, StatusCode::TOO_MANY_REQUESTS, "Too many attempts");
    look("192.0.2.2", &token).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn without_redis_each_process_counts_attempts_itself() {
    let world = World::spawned_on(Database::with_own_redis().await, FEW).await;
    world.make_account(ADA).await;
    world.env.redis().stop().await;
    // Correct ones do not count.
    for _ in 0..8 {
        world.login(ADA, PASSWORD).await.expect(StatusCode::OK);
    }
    for _ in 0..5 {
        world
            .login(ADA, WRONG)
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    }
    expect_throttled(world.login(ADA, PASSWORD).await);
    world.login("nobody@example.com", WRONG).await.expect(StatusCode::UNAUTHORIZED);
    assert!(world.metric("tenantry_auth_throttle_outages_total").await > 8.0);
    world.env.redis().start_again().await.unwrap();
    eventually("failures are counted again", async || {
        (world.login(ADA, WRONG).await.status == StatusCode::TOO_MANY_REQUESTS).then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_a_sign_in_from_a_new_device_or_network_sends_a_mail() {
    let world = World::with(BEHIND_PROXY).await;
    world.make_account(ADA).await;
    let login = async |device: &str, address: &str| {
        let request = world
            .client
            .request(Method::POST, "/api/auth/login")
            .header("x-forwarded-for", address);
        let request = request
            .header("user-agent", device)
            .json(&json!({ "email": ADA, "password": PASSWORD }));
        Answer::of(request).await.expect(StatusCode::OK);
        testing::staged::<SendNewSignIn>(&world.store).await.unwrap().len()
    };
    let (first, updated, other) =
        ("Mozilla/5.0 Firefox/130.0", "Mozilla/5.0 Firefox/131.0", "curl/8.0");
    assert_eq!(login(first, "192.0.2.1").await, 0, "no mail for the device that registered");
    assert_eq!(login(first, "192.0.2.1").await, 0);
    assert_eq!(login(updated, "192.0.2.1").await, 0);
    assert_eq!(login(other, "192.0.2.1").await, 1);
    assert_eq!(login(first, "198.51.100.1").await, 2);
    assert_eq!(
        login(other, "192.0.2.1").await + login(first, "198.51.100.1").await,
        4,
        "one mail each"
    );
    // Also if all its sessions have been removed.
    world.store.records::<Session>(PlatformScope).delete_all(doc! {}).await.unwrap();
    assert_eq!(login(first, "192.0.2.1").await, 2);

    let _worker = world.env.spawn_worker().await;
    login("Mozilla/5.0 <b>Evil</b>", "203.0.113.5").await;
    let told = |mail: &testkit::servers::Mail| mail.text.contains("203.0.113.5");
    let mail = world.env.mail().wait_for(told, crate::support::DEADLINE).await;
    assert_eq!(
        (mail.to, mail.subject.as_str()),
        (vec![ADA.to_owned()], "New sign-in to your account")
    );
    // Text of the client could mislead the reader of the mail.
    assert!(
        [&mail.html, &mail.text]
            .iter()
            .all(|part| part.contains("an unknown device") && !part.contains("Evil")),
        "{}",
        mail.html
    );
}
