//! Operators' commands for accounts and tenants: effective everywhere within a second, with and
//! without Redis, and recorded.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use common::{
    db::PlatformScope,
    id::{self, EventId, JobId},
    origin::Principal,
    revocations::Revoked,
};
use domain::{
    activity::{Action, AuditContext, Deed, Delta, Event, PlatformEvent, Property},
    identity::{
        password_resets::{PasswordReset, Prepare, SendPasswordReset},
        registrations::{ResendVerification, SendVerification},
    },
    people::{sessions::Session, users::User},
    tenancy::{invitations::Invitation, memberships::Membership, roles::Role, tenants::Tenant},
};
use jobs::testing::Staged;
use mongodb::bson::{DateTime, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    people::{People, absent, join},
    support::{Answer, Database, PASSWORD, World, eventually},
};

const ADA: &str = "ada@example.com";
const BOB: &str = "bob@example.com";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Output of a command that succeeds without errors.
#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    text(&output.stdout)
}

/// Error output of a command that fails.
#[track_caller]
fn complaint(output: &Output, status: i32) -> String {
    assert!(output.status.code() == Some(status) && output.stdout.is_empty(), "{output:?}");
    text(&output.stderr)
}

/// Error output of a command that succeeds and finds nothing, in every form.
async fn nothing_found(world: &World, args: &[&str]) -> String {
    let as_json = world.run(&[args, &["--json"]].concat(), &[]).await;
    complaint(&as_json, 0);
    complaint(&world.run(args, &[]).await, 0)
}

async fn disable(world: &World, whom: &str) -> Output {
    world.run(&["users", "disable", whom, "--reason", "Their laptop was stolen"], &[]).await
}

async fn user(world: &World, email: &str) -> User {
    world
        .store
        .records::<User>(PlatformScope)
        .find(doc! { "email_norm": email })
        .await
        .unwrap()
        .unwrap()
}

async fn login(world: &World) -> Value {
    let body = json!({ "email": ADA, "password": PASSWORD, "token_delivery": "body" });
    world.client.post("/api/auth/login", &body).await.expect(StatusCode::OK).json()
}

fn token(login: &Value) -> &str {
    login["access_token"].as_str().unwrap()
}

fn expect_disabled(answer: Answer) {
    answer.expect_problem(StatusCode::FORBIDDEN, "account_disabled");
}

/// Prepared by an attacker before an operator disabled the account.
#[tokio::test]
async fn invitations_and_ownership_offers_of_a_disabled_user_are_not_valid() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder(ADA).await;
    let bob = people.join(&ada, BOB, Role::Admin).await;
    let invite = json!({ "email": "eve@example.com", "role": "owner" });
    world
        .client
        .post_body_as(&ada.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    let link = crate::tenancy::invitations::link(&world, "eve@example.com").await;
    let offer = json!({ "user_id": bob.user });
    let offered = world
        .client
        .post_body_as(&ada.token, "/api/tenant/ownership-transfers", &offer)
        .await
        .expect(StatusCode::CREATED);
    printed(&disable(&world, ADA).await);
    let accept = json!({ "token": link, "name": "Eve", "password": PASSWORD });
    world
        .client
        .post("/api/invitations/accept", &accept)
        .await
        .expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
    let path = format!(
        "/api/tenant/ownership-transfers/{}/accept",
        offered.json()["id"].as_str().unwrap()
    );
    world
        .client
        .post_as(&bob.token, &path)
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    assert_eq!(people.role(&bob).await, Some(Role::Admin.into()));
}

#[tokio::test]
async fn a_disabled_user_is_signed_out_everywhere_and_cannot_sign_in() {
    let world = World::new().await;
    world.make_account(ADA).await;
    let (_second_api, second) = world.another_api().await;
    let (laptop, phone) = (login(&world).await, login(&world).await);
    for client in [&world.client, &second] {
        client.get_as(token(&laptop), "/api/auth/me").await.expect(StatusCode::OK);
        client.get_as(token(&phone), "/api/auth/me").await.expect(StatusCode::OK);
    }
    let told = printed(&disable(&world, "Ada@Example.com").await);
    let ada = user(&world, ADA).await;
    assert_eq!(told, format!("{} is disabled and signed out everywhere\n", ada.id));
    for client in [&world.client, &second] {
        for login in [&laptop, &phone] {
            let refused = client.expect_refused_within_a_second(token(login)).await;
            refused.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
        }
    }
    let refresh = json!({ "refresh_token": laptop["refresh_token"] });
    world
        .client
        .post("/api/auth/refresh", &refresh)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    world
        .login(ADA, "another password")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    expect_disabled(world.login(ADA, PASSWORD).await);
    let live = world
        .store
        .records::<Session>(PlatformScope)
        .count(doc! { "user_id": ada.id, "revoked_at": null })
        .await
        .unwrap();
    assert_eq!(live, 0);
}

#[tokio::test]
async fn a_session_of_a_disabled_user_is_rejected() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder(ADA).await;
    printed(&disable(&world, ADA).await);
    let made = people.token(ada.user, ada.tenant).await;
    world
        .client
        .get_as(&made, "/api/auth/me")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn a_sign_in_during_disabling_starts_no_session() {
    let world = World::with(crate::support::UNTHROTTLED).await;
    world.make_account(ADA).await;
    let attempts = futures::future::join_all((0..12).map(|_| world.login(ADA, PASSWORD)));
    let (answers, disabled) = tokio::join!(attempts, disable(&world, ADA));
    printed(&disabled);
    for answer in answers {
        if answer.status == StatusCode::OK {
            world.client.expect_refused_within_a_second(token(&answer.json())).await;
        } else {
            expect_disabled(answer);
        }
    }
    let live = world
        .store
        .records::<Session>(PlatformScope)
        .count(doc! { "revoked_at": null })
        .await
        .unwrap();
    assert_eq!(live, 0);
}

#[tokio::test]
async fn neither_a_new_password_nor_an_invitation_enables_an_account() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) = (people.founder(ADA).await, people.founder("eve@example.com").await);
    let invite = json!({ "email": ADA, "role": "viewer" });
    world
        .client
        .post_body_as(&eve.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    printed(&disable(&world, &ada.user.to_string()).await);

    // The response to requests for mails is the same for every account.
    let asked = async |email: &str| {
        let answer =
            world.client.post("/api/auth/password/forgot", &json!({ "email": email })).await;
        answer.expect(StatusCode::ACCEPTED).json()
    };
    assert_eq!(asked(ADA).await, asked("nobody@example.com").await);
    let (ttl, cooldown) = (Duration::from_hours(1), Duration::ZERO);
    let prepare =
        Prepare { key: &world.key, user: ada.user, job: world.store.clock().id(), ttl, cooldown };
    let reset: PasswordReset = world.commit(&prepare).await.unwrap().1.unwrap();
    let another = "k7!vq-Zr2#mXw9&";
    let body = json!({ "token": reset.link_token(&world.key).expose(), "password": another });
    let reset =
        world.client.post("/api/auth/password/reset", &body).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(reset.header("set-cookie"), "");
    expect_disabled(world.login(ADA, another).await);

    let invitation: Invitation =
        world.store.records(PlatformScope).find(doc! {}).await.unwrap().unwrap();
    let link = invitation.link_token(&world.key).expose().to_owned();
    let accept = async |password: &str| {
        world
            .client
            .post(
                "/api/invitations/accept",
                &json!({ "token": link, "name": "Ada", "password": password }),
            )
            .await
    };
    accept(PASSWORD).await.expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    expect_disabled(accept(another).await);
    let form = format!("token={link}&password={}", "k7%21vq-Zr2%23mXw9%26");
    world.client.post_form("/invitations/accept", &form).await.expect(StatusCode::FORBIDDEN);
    assert_eq!(
        world
            .store
            .records::<Membership>(PlatformScope)
            .count(doc! { "user_id": ada.user })
            .await
            .unwrap(),
        1
    );
    assert!(user(&world, ADA).await.disabled_at.is_some());

    let enabled = printed(&world.run(&["users", "enable", ADA, "--reason", "Found"], &[]).await);
    assert_eq!(enabled, format!("{} can sign in again\n", ada.user));
    accept(another).await.expect(StatusCode::OK);
    world.login(ADA, another).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_operators_actions_are_recorded_with_operator_and_reason() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder(ADA).await;
    printed(&disable(&world, ADA).await);
    assert_eq!(printed(&disable(&world, ADA).await), format!("{} is already disabled\n", ada.user));
    printed(&world.run(&["users", "enable", ADA], &[]).await);
    assert_eq!(
        printed(&world.run(&["users", "enable", ADA], &[]).await),
        format!("{} is not disabled\n", ada.user)
    );
    let filter = doc! { "targets": ada.user.to_string(), "action": { "$in": ["user.disabled", "user.enabled"] } };
    let events: Vec<PlatformEvent> =
        world.store.records(PlatformScope).list(filter, doc! { "_id": 1 }, 10).await.unwrap();
    let deeds: Vec<&Deed> = events.iter().map(|event| &event.deed).collect();
    let actions: Vec<Action> = deeds.iter().filter_map(|deed| deed.action.known()).collect();
    assert_eq!(
        actions,
        [Action::UserDisabled, Action::UserEnabled],
        "commands without effect record no event"
    );
    assert!(deeds.iter().all(|deed| deed.actor == Some(Principal::Operator.into())));
    let reasons = [
        reason_of_operator(&world, events[0].id).await,
        reason_of_operator(&world, events[1].id).await,
    ];
    assert_eq!(reasons, [Some("Their laptop was stolen".to_owned()), None]);
}

/// The reason in the context of the event, which also names the operating-system user.
async fn reason_of_operator(world: &World, event: EventId) -> Option<String> {
    let contexts = world.store.records::<AuditContext>(PlatformScope);
    let context = contexts.find(doc! { "_id": event }).await.unwrap().unwrap();
    assert!(context.name.is_some_and(|name| !name.is_empty()));
    context.reason.map(|reason| reason.to_string())
}

#[tokio::test]
async fn what_an_operator_does_to_a_person_is_an_event_of_each_of_their_tenants() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) = (people.founder(ADA).await, people.founder("eve@example.com").await);
    join(&world, ada.user, eve.tenant).await;
    let second_factor = doc! { "$set": { "second_factor_since": DateTime::now() } };
    let users = world.store.records::<User>(PlatformScope);
    users.update(doc! { "_id": ada.user }, second_factor).await.unwrap();
    printed(&disable(&world, ADA).await);
    printed(&world.run(&["users", "enable", ADA], &[]).await);
    printed(&world.run(&["users", "reset-mfa", ADA, "--reason", "Lost"], &[]).await);
    for tenant in [ada.tenant, eve.tenant] {
        let filter = doc! { "tenant_id": tenant, "targets": ada.user.to_string() };
        let events: Vec<Event> =
            world.store.records(PlatformScope).list(filter, doc! { "_id": 1 }, 10).await.unwrap();
        let deeds =
            events.iter().map(|event| (event.deed.action.clone(), event.deed.actor.clone()));
        let operator = || Some(Principal::Operator.into());
        assert_eq!(
            deeds.collect::<Vec<_>>(),
            [
                (Action::UserDisabled.into(), operator()),
                (Action::UserEnabled.into(), operator()),
                (Action::MfaReset.into(), operator())
            ]
        );
        assert_eq!(reason_of_operator(&world, events[2].id).await.as_deref(), Some("Lost"));
    }
}

#[tokio::test]
async fn invalid_commands_are_rejected_and_change_nothing() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder(ADA).await;
    for whom in ["nobody@example.com", absent::<id::User>().to_string().as_str()] {
        let refused = world.run(&["users", "disable", whom, "--reason", "x"], &[]).await;
        assert!(complaint(&refused, 1).contains("api users find"));
    }
    let long = "x".repeat(501);
    let tenant = ada.tenant.to_string();
    for args in [
        &["users", "disable", ADA][..],
        &["users", "disable", ADA, "--reason", " "],
        &["users", "disable", ADA, "--reason", "two\nlines"],
        &["users", "disable", ADA, "--reason", &long],
        &["users", "disable", "ada", "--reason", "x"],
        &["users", "disable", &tenant, "--reason", "x"],
        &["users", "enable", ""],
        &["users", "find"],
    ] {
        assert!(!complaint(&world.run(args, &[]).await, 2).is_empty());
    }
    for nothing in ["", " "] {
        complaint(&world.run(&["users", "find", nothing], &[]).await, 1);
    }
    for nobody in ["bo", "@example.com", ".*", absent::<id::User>().to_string().as_str()] {
        let told = nothing_found(&world, &["users", "find", nobody]).await;
        assert!(told.contains("no account has this id"), "{told}");
    }
    world.client.get_as(&ada.token, "/api/auth/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_operator_removes_an_ip_allowlist_that_locks_out_all_members() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    let people = People::of(&world).await;
    let (ada, eve) = (people.founder(ADA).await, people.founder("eve@example.com").await);
    let bob = people.join(&eve, "bob@example.com", Role::Admin).await;
    let elsewhere = json!({ "ip_allowlist": ["192.0.2.0/24"], "password_min_length": 12 });
    let update =
        doc! { "$set": { "security": mongodb::bson::serialize_to_bson(&elsewhere).unwrap() } };
    for tenant in [ada.tenant, eve.tenant] {
        world
            .store
            .records::<Tenant>(PlatformScope)
            .update(doc! { "_id": tenant }, update.clone())
            .await
            .unwrap();
        world.announce(Revoked::Tenant(tenant)).await;
    }
    for client in [&world.client, &second] {
        let refused =
            client.expect_within_a_second(&ada.token, "/api/auth/me", StatusCode::FORBIDDEN).await;
        refused.expect_problem(StatusCode::FORBIDDEN, "ip_not_allowed");
    }
    world.login(&bob.email, PASSWORD).await.expect_problem(StatusCode::FORBIDDEN, "ip_not_allowed");

    let allow = async |tenant: &str| {
        world
            .run(&["tenants", "allow-all-addresses", tenant, "--reason", "Their office moved"], &[])
            .await
    };
    assert_eq!(
        printed(&allow("tenant-of-ada").await),
        format!("{} can be accessed from any IP address now\n", ada.tenant)
    );
    for client in [&world.client, &second] {
        client.expect_within_a_second(&ada.token, "/api/auth/me", StatusCode::OK).await;
    }
    world.login(ADA, PASSWORD).await.expect(StatusCode::OK);
    let rules =
        world.client.get_as(&ada.token, "/api/tenant/security").await.expect(StatusCode::OK).json();
    assert_eq!(
        rules,
        crate::tenancy::tenant_security::rules(&json!({ "password_min_length": 12 })),
        "the other rules stay"
    );
    world.login(&bob.email, PASSWORD).await.expect_problem(StatusCode::FORBIDDEN, "ip_not_allowed");

    assert_eq!(
        printed(&allow(&ada.tenant.to_string()).await),
        format!("{} has no IP allowlist\n", ada.tenant)
    );
    let filter = doc! { "action": "tenant.all_addresses_allowed" };
    let of_tenant: Vec<Event> =
        world.store.records(PlatformScope).list(filter.clone(), doc! {}, 10).await.unwrap();
    let of_platform: Vec<PlatformEvent> =
        world.store.records(PlatformScope).list(filter, doc! {}, 10).await.unwrap();
    assert_eq!(
        (of_tenant.len(), of_platform.len()),
        (1, 1),
        "commands without effect record no event"
    );
    assert_eq!(of_tenant[0].tenant_id, ada.tenant);
    for deed in [&of_tenant[0].deed, &of_platform[0].deed] {
        assert_eq!(deed.targets, [ada.tenant.to_string()]);
        assert_eq!(deed.changes, [Delta { property: Property::IpAllowlist.into(), values: None }]);
        assert_eq!(deed.actor, Some(Principal::Operator.into()));
    }
    for event in [of_tenant[0].id, of_platform[0].id] {
        assert_eq!(reason_of_operator(&world, event).await.as_deref(), Some("Their office moved"));
    }
}

#[tokio::test]
async fn removing_an_ip_allowlist_requires_an_existing_tenant_and_a_reason() {
    let world = World::new().await;
    for tenant in ["nobodys", absent::<id::Tenant>().to_string().as_str()] {
        let refused =
            world.run(&["tenants", "allow-all-addresses", tenant, "--reason", "x"], &[]).await;
        assert!(complaint(&refused, 1).contains("api tenants find"));
    }
    for args in [
        &["demo"][..],
        &["demo", "--reason", " "],
        &["Demo", "--reason", "x"],
        &["", "--reason", "x"],
        &["--reason", "x"],
    ] {
        let args = [&["tenants", "allow-all-addresses"], args].concat();
        assert!(!complaint(&world.run(&args, &[]).await, 2).is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn users_are_found_by_id_email_or_its_beginning() {
    let world = World::new().await;
    let people = People::of(&world).await;
    world.make_account(ADA).await;
    login(&world).await;
    login(&world).await;
    let ada = user(&world, ADA).await;
    let adam = people.founder("adam@example.com").await;
    let bob = people.join(&adam, BOB, Role::Admin).await;
    people.founder("ada@example.com.example").await;
    printed(&disable(&world, BOB).await);
    let find = async |text: &str| {
        let found = printed(&world.run(&["users", "find", text], &[]).await);
        found
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect::<Vec<Vec<String>>>()
    };
    for text in [ada.id.to_string().as_str(), ADA, " ADA@example.COM "] {
        let found = find(text).await;
        assert_eq!(found.len(), 1, "{found:?}");
        let (id, at) = (ada.id.to_string(), rfc3339(&user(&world, ADA).await));
        let expected = [
            id.as_str(),
            ADA,
            "active",
            "no",
            "2",
            at.as_str(),
            "analytical-engines:owner",
            "-",
            "Ada",
            "Lovelace",
        ];
        assert_eq!(found[0], expected);
    }
    let found = find(BOB).await;
    assert_eq!(
        found[0],
        [
            bob.user.to_string().as_str(),
            BOB,
            "disabled",
            "no",
            "0",
            "-",
            "tenant-of-adam:admin",
            "-",
            "BOB"
        ]
    );
    let addresses: Vec<String> = find("AD").await.into_iter().map(|line| line[1].clone()).collect();
    assert_eq!(addresses, [ADA, "ada@example.com.example", "adam@example.com"]);
    for n in 0..50 {
        people.join(&adam, &format!("many{n}@example.com"), Role::Viewer).await;
    }
    assert_eq!(find("many").await.len(), 50);
    people.join(&adam, "many50@example.com", Role::Viewer).await;
    let more = world.run(&["users", "find", "many"], &[]).await;
    assert_eq!((text(&more.stdout).lines().count(), more.status.code()), (51, Some(0)));
    assert!(text(&more.stderr).contains("there are more"), "{more:?}");
}

fn rfc3339(user: &User) -> String {
    common::clock::rfc3339(user.last_sign_in_at.unwrap())
}

#[tokio::test]
async fn without_redis_disabling_reports_it_and_takes_effect_at_once() {
    let world = World::on(Database::with_own_redis().await, &[]).await;
    world.make_account(ADA).await;
    let ada = login(&world).await;
    world.client.get_as(token(&ada), "/api/auth/me").await.expect(StatusCode::OK);
    world.env.redis().stop().await;
    let disabled = disable(&world, ADA).await;
    assert!(
        disabled.status.success() && text(&disabled.stdout).contains("is disabled"),
        "{disabled:?}"
    );
    assert!(text(&disabled.stderr).contains("Redis"), "{disabled:?}");
    world
        .client
        .expect_refused_within_a_second(token(&ada))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn disabling_without_redis_for_the_operator_takes_effect_within_half_a_minute() {
    let world = World::spawned(&[]).await;
    world.make_account(ADA).await;
    let ada = login(&world).await;
    let hits = async || world.metric("tenantry_api_identities_total{outcome=\"hit\"}").await;
    eventually("callers are cached", async || {
        let before = hits().await;
        world.client.get_as(token(&ada), "/api/auth/me").await.expect(StatusCode::OK);
        (hits().await > before).then_some(())
    })
    .await;
    let begun = Instant::now();
    let elsewhere = [("TENANTRY__REDIS__URL", "redis://127.0.0.1:1")];
    let disabled = world.run(&["users", "disable", ADA, "--reason", "test"], &elsewhere).await;
    assert!(
        disabled.status.success() && text(&disabled.stderr).contains("within 30s"),
        "{disabled:?}"
    );
    eventually("it is refused", async || {
        let answer = world.client.get_as(token(&ada), "/api/auth/me").await;
        (answer.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(35), "{:?}", begun.elapsed());
}

/// The JSON objects that a command prints, one per line.
async fn objects(world: &World, args: &[&str]) -> Vec<Value> {
    let output = world.run(&[args, &["--json"]].concat(), &[]).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_operator_ends_the_sessions_of_a_user() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    world.make_account(ADA).await;
    let ada = user(&world, ADA).await.id;
    let logins = [login(&world).await, login(&world).await];
    for login in &logins {
        second.get_as(token(login), "/api/auth/me").await.expect(StatusCode::OK);
    }
    let end = ["sessions", "end", ADA, "--reason", "Their laptop was stolen"];
    assert_eq!(printed(&world.run(&end, &[]).await), format!("{ada} is signed out everywhere\n"));
    for login in &logins {
        for client in [&world.client, &second] {
            client
                .expect_refused_within_a_second(token(login))
                .await
                .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
        }
        let body = json!({ "refresh_token": login["refresh_token"] });
        world.client.post("/api/auth/refresh", &body).await.expect(StatusCode::UNAUTHORIZED);
    }
    assert_eq!(
        printed(&world.run(&["sessions", "end", &ada.to_string(), "--reason", "x"], &[]).await),
        format!("{ada} has no session\n")
    );
    login(&world).await;

    let filter = doc! { "targets": ada.to_string(), "action": "session.all_revoked" };
    let of_tenant: Vec<Event> =
        world.store.records(PlatformScope).list(filter.clone(), doc! {}, 10).await.unwrap();
    let of_platform: Vec<PlatformEvent> =
        world.store.records(PlatformScope).list(filter, doc! {}, 10).await.unwrap();
    assert_eq!((of_tenant.len(), of_platform.len()), (1, 1));
    for event in [of_tenant[0].id, of_platform[0].id] {
        let reason = reason_of_operator(&world, event).await;
        assert_eq!(reason.as_deref(), Some("Their laptop was stolen"));
    }
    complaint(&world.run(&["sessions", "end", ADA], &[]).await, 2);
    let nobody = ["sessions", "end", "nobody@example.com", "--reason", "x"];
    assert!(complaint(&world.run(&nobody, &[]).await, 1).contains("api users find"));
}

#[tokio::test]
async fn a_tenant_is_suspended_and_activated_within_a_second() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    let people = People::of(&world).await;
    let (ada, eve) = (people.founder(ADA).await, people.founder("eve@example.com").await);
    for client in [&world.client, &second] {
        client.get_as(&ada.token, "/api/auth/me").await.expect(StatusCode::OK);
    }
    let suspend = ["tenants", "suspend", "tenant-of-ada", "--reason", "Unpaid"];
    assert_eq!(printed(&world.run(&suspend, &[]).await), format!("{} is suspended\n", ada.tenant));
    for client in [&world.client, &second] {
        let refused =
            client.expect_within_a_second(&ada.token, "/api/auth/me", StatusCode::FORBIDDEN).await;
        refused.expect_problem(StatusCode::FORBIDDEN, "tenant_suspended");
    }
    world.login(ADA, PASSWORD).await.expect_problem(StatusCode::FORBIDDEN, "tenant_suspended");
    world.client.get_as(&eve.token, "/api/auth/me").await.expect(StatusCode::OK);
    assert_eq!(
        printed(&world.run(&suspend, &[]).await),
        format!("{} is already suspended\n", ada.tenant)
    );

    let activate = ["tenants", "activate", &ada.tenant.to_string()];
    assert_eq!(printed(&world.run(&activate, &[]).await), format!("{} is active\n", ada.tenant));
    for client in [&world.client, &second] {
        client.expect_within_a_second(&ada.token, "/api/auth/me", StatusCode::OK).await;
    }
    let listed =
        objects(&world, &["audit", "list", "--tenant", "tenant-of-ada", "--actor", "operator"])
            .await;
    let shown: Vec<_> = listed
        .iter()
        .map(|event| (event["action"].as_str().unwrap(), event["reason"].as_str()))
        .collect();
    assert_eq!(shown, [("tenant.activated", None), ("tenant.suspended", Some("Unpaid"))]);
    complaint(&world.run(&["tenants", "suspend", "tenant-of-ada"], &[]).await, 2);
    let nobody = ["tenants", "suspend", "nobodys", "--reason", "x"];
    assert!(complaint(&world.run(&nobody, &[]).await, 1).contains("api tenants find"));
}

#[tokio::test]
async fn tenants_are_found_by_id_or_a_part_of_their_name() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder(ADA).await;
    people.join(&ada, BOB, Role::Viewer).await;
    people.founder("eve.b@example.com").await;
    let find = async |text: &str| -> Vec<String> {
        let found = objects(&world, &["tenants", "find", text]).await;
        found.iter().map(|tenant| tenant["slug"].as_str().unwrap().to_owned()).collect()
    };
    let id = ada.tenant.to_string();
    for text in [id.as_str(), "tenant-of-ada", "OF ADA", " f ad "] {
        assert_eq!(find(text).await, ["tenant-of-ada"], "{text:?}");
    }
    assert_eq!(find("tenant").await.len(), 2);
    let shown = printed(&world.run(&["tenants", "find", "ada"], &[]).await);
    let row: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], [id.as_str(), "tenant-of-ada", "active", "2"]);
    for nothing in ["", " "] {
        complaint(&world.run(&["tenants", "find", nothing], &[]).await, 1);
    }
    for nobody in [".*", "a.a", "$", absent::<id::Tenant>().to_string().as_str()] {
        let told = nothing_found(&world, &["tenants", "find", nobody]).await;
        assert!(told.contains("no tenant has this id"), "{told}");
    }
}

#[tokio::test]
async fn events_are_filtered_and_listed_page_by_page() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) = (people.founder(ADA).await, people.founder("eve@example.com").await);
    world.login(ADA, PASSWORD).await.expect(StatusCode::OK);
    for whom in [ADA, "eve@example.com"] {
        printed(&disable(&world, whom).await);
    }
    let ids = async |args: &[&str]| -> Vec<String> {
        let events = objects(&world, &[&["audit", "list"], args].concat()).await;
        events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    };
    let disabled = ["--action", "user.disabled"];
    let both = ids(&disabled).await;
    assert_eq!(both.len(), 2);
    assert_eq!(ids(&[&disabled[..], &["--actor", "operator"]].concat()).await, both);
    assert_eq!(ids(&[&disabled[..], &["--since", "1h"]].concat()).await, both);
    for none in [["--actor", "system"], ["--since", "2099-01-01T00:00:00Z"]] {
        assert!(ids(&[&disabled[..], &none].concat()).await.is_empty(), "{none:?}");
    }
    let theirs = ids(&[&disabled[..], &["--tenant", &eve.tenant.to_string()]].concat()).await;
    assert!(theirs.len() == 1 && !both.contains(&theirs[0]), "events of a tenant are its own");
    let of_ada = ["--tenant", "tenant-of-ada", "--action", "session.created", "--actor"];
    let by_id = ids(&[&of_ada[..], &[&ada.user.to_string()]].concat()).await;
    assert_eq!(by_id.len(), 1);
    assert_eq!(ids(&[&of_ada[..], &[ADA]].concat()).await, by_id);
    assert!(ids(&[&of_ada[..], &["eve@example.com"]].concat()).await.is_empty());

    // The command for the next page is printed; the last one says no more.
    let args = ["audit", "list", "--action", "user.disabled", "--limit", "1"];
    let page = world.run(&args, &[]).await;
    let (shown, next) = (text(&page.stdout), text(&page.stderr));
    assert!(shown.contains(&both[0]) && shown.contains("Their laptop was stolen"), "{shown}");
    let next = next.trim_end().split_once("there may be more: api ").unwrap().1;
    let page = world.run(&next.split(' ').collect::<Vec<_>>(), &[]).await;
    assert!(text(&page.stdout).contains(&both[1]), "{page:?}");
    let next = text(&page.stderr);
    let next = next.trim_end().split_once("there may be more: api ").unwrap().1;
    let page = world.run(&next.split(' ').collect::<Vec<_>>(), &[]).await;
    assert!(
        page.stdout.is_empty() && text(&page.stderr).contains("no event of the platform"),
        "{page:?}"
    );

    let typo = ["audit", "list", "--action", "user.disable"];
    let told = complaint(&world.run(&typo, &[]).await, 2);
    assert!(told.contains("user.disabled") && told.contains("queue.paused"), "{told}");
    for (args, status) in [
        (["--actor", "ada"], 2),
        (["--since", "yesterday"], 2),
        (["--actor", "nobody@example.com"], 1),
        (["--tenant", "nobodys"], 1),
        (["--after", &absent::<id::Event>().to_string()], 1),
    ] {
        complaint(&world.run(&[&["audit", "list"], &args[..]].concat(), &[]).await, status);
    }
}

/// An operator sees who guesses, and where from, without seeing IP addresses or email addresses.
#[tokio::test]
async fn the_counts_of_attempts_are_listed_under_pseudonyms() {
    let world = World::new().await;
    let nothing = world.run(&["throttles", "list"], &[]).await;
    assert!(nothing.status.success() && nothing.stdout.is_empty(), "{nothing:?}");
    assert!(text(&nothing.stderr).contains("no attempts are counted"), "{nothing:?}");
    for (email, guesses) in [(ADA, 3), (BOB, 1)] {
        for _ in 0..guesses {
            world.login(email, "wrong horse").await.expect(StatusCode::UNAUTHORIZED);
        }
    }
    let counts = objects(&world, &["throttles", "list"]).await;
    let shown = |counts: &[Value]| -> Vec<(String, u64)> {
        let name = |count: &Value| count["of"].as_str().unwrap().to_owned();
        counts.iter().map(|count| (name(count), count["attempts"].as_u64().unwrap())).collect()
    };
    let mut all = shown(&counts);
    all.sort();
    let of = |name: &str, attempts| (name.to_owned(), attempts);
    assert_eq!(
        all,
        [of("account", 1), of("account", 3), of("network", 4), of("pair", 1), of("pair", 3)]
    );
    assert_eq!(shown(&counts)[0], of("network", 4), "the highest first");
    let here = objects(&world, &["throttles", "list", "--network", "127.0.0.1"]).await;
    assert_eq!(shown(&here), [of("network", 4)]);
    let ada = objects(&world, &["throttles", "list", "--account", ADA]).await;
    assert_eq!(shown(&ada), [of("account", 3)]);
    let table = printed(&world.run(&["throttles", "list", "--limit", "1"], &[]).await);
    assert!(table.contains("sign_in") && !table.contains("127.0.0.1"), "{table}");
    assert_eq!(table.lines().count(), 2, "{table}");
}

#[tokio::test]
async fn pending_registrations_of_an_address_are_found() {
    let world = World::new().await;
    let body = json!({
        "email": "Ada@example.com", "name": "Ada", "tenant_name": "Engines", "password": PASSWORD,
    });
    for _ in 0..2 {
        world.client.post("/api/auth/register", &body).await.expect(StatusCode::ACCEPTED);
    }
    let found = objects(&world, &["registrations", "find", ADA]).await;
    assert_eq!(found.len(), 2);
    for registration in &found {
        assert_eq!(registration["state"], "pending");
        assert_eq!(registration["mailed_at"], Value::Null);
        assert_eq!(registration["tenant_name"], "Engines");
    }
    let shown = printed(&world.run(&["registrations", "find", ADA], &[]).await);
    assert!(shown.lines().count() == 3 && shown.contains("Ada@example.com"), "{shown}");
    let told = nothing_found(&world, &["registrations", "find", "nobody@example.com"]).await;
    assert!(told.contains("api users find"), "{told}");
    complaint(&world.run(&["registrations", "find", "ada"], &[]).await, 2);
}

/// From a complaint to the jobs of the mails, whether or not they were sent.
#[tokio::test]
async fn the_jobs_of_the_mails_of_a_registration_and_of_an_account_are_named() {
    let world = World::new().await;
    let body = json!({
        "email": "Eve@example.com", "name": "Eve", "tenant_name": "Engines", "password": PASSWORD,
    });
    world.client.post("/api/auth/register", &body).await.expect(StatusCode::ACCEPTED);
    let again = json!({ "email": "eve@example.com" });
    world.client.post("/api/auth/verify-email/resend", &again).await.expect(StatusCode::ACCEPTED);
    let first = only(&jobs::testing::staged::<SendVerification>(&world.store).await.unwrap());
    let second = only(&jobs::testing::staged::<ResendVerification>(&world.store).await.unwrap());
    let named = async |args: &[&str]| -> Vec<String> {
        let found = objects(&world, args).await;
        let jobs = found[0]["jobs"].as_array().unwrap();
        jobs.iter().map(|job| job.as_str().unwrap().to_owned()).collect()
    };
    let eve = ["registrations", "find", "eve@example.com"];
    assert_eq!(named(&eve).await, [first.to_string(), second.to_string()]);
    let shown = printed(&world.run(&eve, &[]).await);
    assert!(shown.contains(&format!("{first},{second}")), "{shown}");
    // The first job stays known when it has finished.
    let outbox = world.store.records::<jobs::outbox::OutboxRow>(PlatformScope);
    outbox.delete_all(doc! {}).await.unwrap();
    assert_eq!(named(&eve).await, [first.to_string()]);

    world.make_account(ADA).await;
    let outbox = world.store.records::<jobs::outbox::OutboxRow>(PlatformScope);
    outbox.delete_all(doc! {}).await.unwrap();
    assert!(named(&["users", "find", ADA]).await.is_empty());
    let forgotten = json!({ "email": ADA });
    world.client.post("/api/auth/password/forgot", &forgotten).await.expect(StatusCode::ACCEPTED);
    let reset = only(&jobs::testing::staged::<SendPasswordReset>(&world.store).await.unwrap());
    assert_eq!(named(&["users", "find", ADA]).await, [reset.to_string()]);
}

#[track_caller]
fn only<J>(staged: &[Staged<J>]) -> JobId {
    assert_eq!(staged.len(), 1);
    staged[0].id
}

/// As after a rollback, or while a deployment is in progress.
#[tokio::test]
async fn events_of_a_newer_release_are_shown_by_their_names() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder(ADA).await;
    printed(&disable(&world, ADA).await);
    let newer = doc! { "$set": {
        "action": "user.merged",
        "actor": "bot_0192a0b8c0de7000800000000000cafe",
        "changes": [{ "property": "sign_in_methods", "before": "one", "after": "two" }],
    } };
    let events = world.store.records::<PlatformEvent>(PlatformScope);
    assert!(events.update(doc! { "action": "user.disabled" }, newer).await.unwrap());
    printed(&world.run(&["users", "enable", ADA], &[]).await);
    let listed = objects(&world, &["audit", "list", "--limit", "2"]).await;
    let shown = ["action", "actor"].map(|field| [&listed[0][field], &listed[1][field]]);
    assert_eq!(
        shown,
        [["user.enabled", "user.merged"], ["operator", "bot_0192a0b8c0de7000800000000000cafe"]]
    );
    let change = json!([{ "property": "sign_in_methods", "before": "one", "after": "two" }]);
    assert_eq!(listed[1]["changes"], change);
    let lines = printed(&world.run(&["audit", "list", "--since", "1h"], &[]).await);
    assert!(lines.contains("user.merged") && lines.contains("bot_0192"), "{lines}");
    assert!(lines.contains(&ada.user.to_string()), "{lines}");
}

#[tokio::test]
async fn every_result_of_an_operators_command_is_available_as_json() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder(ADA).await;
    let tenant = ada.tenant.to_string();
    let reason = ["--reason", "test"];
    let fields = async |args: &[&str]| -> Vec<String> {
        let printed = objects(&world, args).await;
        let first = printed.first().unwrap_or_else(|| panic!("{args:?} printed nothing"));
        let mut names: Vec<String> = first.as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        names
    };
    let account = [
        "email",
        "has_second_factor",
        "id",
        "jobs",
        "last_sign_in_at",
        "name",
        "sessions",
        "state",
        "tenants",
    ];
    assert_eq!(fields(&["users", "find", ADA]).await, account);
    for command in ["disable", "enable"] {
        let args = [&["users", command, ADA], &reason[..]].concat();
        assert_eq!(fields(&args).await, ["changed", "disabled", "user"]);
    }
    assert_eq!(fields(&[&["sessions", "end", ADA], &reason[..]].concat()).await, ["ended", "user"]);
    assert_eq!(
        fields(&["tenants", "find", "ada"]).await,
        ["created_at", "id", "members", "name", "plan", "slug", "status"]
    );
    for command in ["suspend", "activate"] {
        let args = [&["tenants", command, &tenant], &reason[..]].concat();
        assert_eq!(fields(&args).await, ["changed", "status", "tenant"]);
    }
    assert_eq!(
        fields(&[&["tenants", "allow-all-addresses", &tenant], &reason[..]].concat()).await,
        ["changed", "tenant"]
    );
    assert_eq!(
        fields(&["tenants", "mail-budget", &tenant]).await,
        ["accepted_invitations", "created_at", "limit", "sent_today", "set_by_operator", "tenant",]
    );
    assert_eq!(
        fields(&[&["tenants", "set-mail-budget", &tenant, "7"], &reason[..]].concat()).await,
        ["changed", "mails_per_day", "tenant"]
    );
    assert_eq!(
        fields(&["audit", "list"]).await,
        [
            "action",
            "actor",
            "at",
            "changes",
            "id",
            "impersonator",
            "ip",
            "job",
            "name",
            "reason",
            "request_id",
            "targets",
            "tenant",
            "user_agent",
        ]
    );
    let key = ["created_at", "key", "retires_at", "signs_from", "state"];
    assert_eq!(fields(&["keys", "list"]).await, key);
    assert_eq!(fields(&[&["keys", "rotate"], &reason[..]].concat()).await, ["key", "signs_from"]);
    let pending = objects(&world, &["keys", "list"]).await.pop().unwrap();
    let revoke = ["keys", "revoke", pending["key"].as_str().unwrap()];
    assert_eq!(fields(&[&revoke, &reason[..]].concat()).await, ["active", "revoked"]);
    assert_eq!(
        fields(&["migrate", "status"]).await,
        ["database", "pending_changes", "processes", "release"]
    );
    assert_eq!(fields(&["--check-config"]).await, ["from", "key", "value"]);
}

#[tokio::test]
async fn a_closed_pipe_ends_a_command_quietly() {
    let world = World::new().await;
    People::of(&world).await.founder(ADA).await;
    printed(&disable(&world, ADA).await);
    for args in [
        &["users", "find", ADA][..],
        &["audit", "list", "--json"],
        &["migrate", "status"],
        &["users", "enable", ADA],
        &["openapi"],
        &["--check-config"],
    ] {
        let (status, errors) = world.run_unread(args).await;
        assert!(status.success(), "{args:?}: {errors}");
        assert!(errors.is_empty(), "{args:?}: {errors}");
    }
}

#[tokio::test]
async fn an_api_key_is_found_and_revoked_within_a_second() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder(ADA).await;
    let key = crate::tenancy::api_keys::make(&world, &ada, &json!({})).await;
    let (text, id) = (key["key"].as_str().unwrap(), key["id"].as_str().unwrap());
    let current = "/api/tenant/current";
    world.client.get_as(text, current).await.expect(StatusCode::OK);
    for name in [id, &text[..7]] {
        let found = objects(&world, &["api-keys", "find", name]).await;
        assert_eq!(found.len(), 1, "{found:?}");
        let told = &found[0];
        assert_eq!((&told["id"], &told["tenant"]), (&json!(id), &json!(ada.tenant)));
        assert_eq!((&told["status"], &told["name"]), (&json!("active"), &json!("Nightly backup")));
        assert_eq!(told["shown_as"], format!("{}…{}", &text[..7], &text[37..]));
    }
    let revoke = ["api-keys", "revoke", id, "--reason", "Ticket 4711"];
    assert_eq!(printed(&world.run(&revoke, &[]).await), format!("{id} is revoked\n"));
    let refused =
        world.client.expect_within_a_second(text, current, StatusCode::UNAUTHORIZED).await;
    refused.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    assert_eq!(printed(&world.run(&revoke, &[]).await), format!("{id} is already revoked\n"));
    let listed = objects(&world, &["audit", "list", "--tenant", "tenant-of-ada"]).await;
    let revoked = listed.iter().find(|event| event["action"] == "api_key.revoked").unwrap();
    assert_eq!(revoked["reason"], "Ticket 4711");
    let found = objects(&world, &["api-keys", "find", id]).await;
    assert_eq!(found[0]["status"], "revoked");
    let absent = crate::people::absent::<common::id::ApiKey>().to_string();
    let nobody = ["api-keys", "revoke", &absent, "--reason", "x"];
    assert!(complaint(&world.run(&nobody, &[]).await, 1).contains("api api-keys find"));
    complaint(&world.run(&["api-keys", "revoke", id], &[]).await, 2);
    complaint(&world.run(&["api-keys", "find", "tk_none"], &[]).await, 1);
}
