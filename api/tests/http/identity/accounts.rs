//! Accounts that belong to no tenant, and the name of an account.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{db::PlatformScope, revocations::Revoked};
use domain::{
    activity::{AuditContext, Event, PlatformEvent},
    identity::{
        accounts::{DisableUser, EnableUser},
        email_changes::{EmailChange, Side},
    },
    people::{sessions::Session, users::User},
    tenancy::{memberships::Membership, roles::Role},
};
use mongodb::bson::{Document, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::authenticator::App;

use super::refresh::age;
use crate::{
    people::People,
    support::{Answer, PASSWORD, World},
    tenancy::invitations,
};

const ADA: &str = "ada@example.com";
const ME: &str = "/api/auth/me";
const REFRESH: &str = "/api/auth/refresh";

/// Signs in with the password, and the refresh token in the body.
async fn login(world: &World, more: &Value) -> Answer {
    let mut body = json!({ "email": ADA, "password": PASSWORD, "token_delivery": "body" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.client.post("/api/auth/login", &body).await
}

async fn refresh(world: &World, token: &Value) -> Answer {
    world.client.post(REFRESH, &json!({ "refresh_token": token })).await
}

fn token(answer: &Value) -> &str {
    answer["access_token"].as_str().unwrap()
}

/// The claims of an access token.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// The actions of the platform's events about a user, in order. There must be none of a tenant.
async fn platform_events(world: &World) -> Vec<String> {
    assert_eq!(world.count::<Event>().await, 0, "no event belongs to a tenant");
    let events: Vec<PlatformEvent> = world
        .store
        .records(PlatformScope)
        .list(doc! {}, doc! { "at": 1, "_id": 1 }, 100)
        .await
        .unwrap();
    events.iter().map(|event| event.deed.action.to_string()).collect()
}

#[tokio::test]
async fn who_belongs_to_no_tenant_signs_in_without_one() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.loner(ADA).await;
    let signed_in = login(&world, &json!({})).await.expect(StatusCode::OK).json();
    assert_eq!((&signed_in["tenant"], &signed_in["tenants"]), (&Value::Null, &json!([])));
    let claims = claims(token(&signed_in));
    assert_eq!((claims.get("tid"), &claims["sub"]), (None, &json!(ada.user)), "{claims}");
    assert_eq!(platform_events(&world).await, ["session.created"]);

    let refreshed = refresh(&world, &signed_in["refresh_token"]).await.expect(StatusCode::OK);
    let refreshed = refreshed.json();
    assert_eq!((&refreshed["tenant"], &refreshed["tenants"]), (&Value::Null, &json!([])));
    let me = world.client.get_as(token(&refreshed), ME).await.expect(StatusCode::OK).json();
    let nothing = json!([]);
    assert_eq!(
        (&me["tenant"], &me["role"], &me["permissions"], &me["grants"]),
        (&Value::Null, &Value::Null, &nothing, &nothing)
    );
    assert_eq!(me["user"]["id"], json!(ada.user));
    assert_eq!(me["session"]["tenant_id"], Value::Null);
    let sessions = world.client.get_as(&ada.token, "/api/auth/sessions").await;
    let sessions = sessions.expect(StatusCode::OK).json();
    assert_eq!(sessions["items"].as_array().unwrap().len(), 2, "{sessions}");
    // The tenant that they ask for must be theirs.
    login(&world, &json!({ "tenant_id": "ten_0192a0b8c0de7000800000000000cafe" }))
        .await
        .expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    world
        .client
        .get_as(token(&refreshed), "/api/tenant/current")
        .await
        .expect_problem(StatusCode::FORBIDDEN, "no_tenant");

    world.client.post_as(&ada.token, "/api/auth/logout").await.expect(StatusCode::NO_CONTENT);
    let all = world.client.post_as(token(&refreshed), "/api/auth/logout-all").await;
    all.expect(StatusCode::NO_CONTENT);
    assert_eq!(
        platform_events(&world).await,
        ["session.created", "session.revoked", "session.all_revoked"]
    );
}

#[tokio::test]
async fn a_reused_refresh_token_ends_a_session_without_a_tenant() {
    let world = World::new().await;
    People::of(&world).await.loner(ADA).await;
    let signed_in = login(&world, &json!({})).await.expect(StatusCode::OK).json();
    refresh(&world, &signed_in["refresh_token"]).await.expect(StatusCode::OK);
    age(&world, Duration::from_secs(31)).await;
    refresh(&world, &signed_in["refresh_token"])
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "token_reused");
    world
        .client
        .get_as(token(&signed_in), ME)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    assert_eq!(platform_events(&world).await, ["session.created", "session.reuse_detected"]);
}

#[tokio::test]
async fn sessions_without_a_tenant_end_at_once_on_every_process() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    let people = People::of(&world).await;
    let ada = people.loner(ADA).await;
    let other = people.token_without_tenant(ada.user).await;
    for token in [&ada.token, &other] {
        second.get_as(token, ME).await.expect(StatusCode::OK);
    }
    let me = second.get_as(&other, ME).await.json();
    let ended = format!("/api/auth/sessions/{}", me["session"]["id"].as_str().unwrap());
    world.client.delete_as(&ada.token, &ended).await.expect(StatusCode::NO_CONTENT);
    second
        .expect_refused_within_a_second(&other)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    second.get_as(&ada.token, ME).await.expect(StatusCode::OK);

    world.commit(&DisableUser { user: ada.user }).await.unwrap();
    world.announce(Revoked::User(ada.user)).await;
    second
        .expect_refused_within_a_second(&ada.token)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    login(&world, &json!({})).await.expect_problem(StatusCode::FORBIDDEN, "account_disabled");
    world.commit(&EnableUser { user: ada.user }).await.unwrap();
    login(&world, &json!({})).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn who_leaves_or_is_removed_from_their_only_tenant_is_not_stranded() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let eve = people.founder("eve@example.com").await;
    let ada = people.join(&eve, ADA, Role::Member).await;
    let before = login(&world, &json!({})).await.expect(StatusCode::OK).json();
    let left = world.client.delete_as(&ada.token, "/api/tenant/users/me").await;
    left.expect(StatusCode::NO_CONTENT);
    for token in [ada.token.as_str(), token(&before)] {
        world
            .client
            .get_as(token, ME)
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    refresh(&world, &before["refresh_token"])
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    let after = login(&world, &json!({})).await.expect(StatusCode::OK).json();
    assert_eq!((&after["tenant"], &after["tenants"]), (&Value::Null, &json!([])));
    let made = json!({ "name": "Engines" });
    let made = world.client.post_body_as(token(&after), "/api/tenants", &made).await;
    let made = made.expect(StatusCode::CREATED).json();
    let again = login(&world, &json!({})).await.expect(StatusCode::OK).json();
    assert_eq!(again["tenant"], made);
    // A session that began before stays without a tenant until it is switched.
    let refreshed = refresh(&world, &after["refresh_token"]).await.expect(StatusCode::OK).json();
    assert_eq!((&refreshed["tenant"], &refreshed["tenants"]), (&Value::Null, &json!([made])));

    let bob = people.join(&eve, "bob@example.com", Role::Viewer).await;
    let path = format!("/api/tenant/users/{}", bob.user);
    world.client.delete_as(&eve.token, &path).await.expect(StatusCode::NO_CONTENT);
    let bobs = world.login("bob@example.com", PASSWORD).await.expect(StatusCode::OK).json();
    assert_eq!(bobs["tenant"], Value::Null);
}

#[tokio::test]
async fn a_session_without_a_tenant_switches_by_its_refresh_token_too() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.loner(ADA).await;
    let eve = people.founder("eve@example.com").await;
    let signed_in = login(&world, &json!({})).await.expect(StatusCode::OK).json();
    let switch = async |tenant: &Value| {
        let body = json!({ "tenant_id": tenant, "refresh_token": signed_in["refresh_token"] });
        world.client.post("/api/auth/switch-tenant", &body).await
    };
    switch(&json!(eve.tenant)).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    crate::people::join(&world, ada.user, eve.tenant).await;
    let switched = switch(&json!(eve.tenant)).await.expect(StatusCode::OK).json();
    assert_eq!(switched["tenant"]["id"], json!(eve.tenant));
    assert_eq!(claims(token(&switched))["tid"], json!(eve.tenant));
    // The token without a tenant is as good as one for another tenant.
    world
        .client
        .get_as(token(&signed_in), ME)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    let event = doc! { "action": "session.tenant_switched", "tenant_id": eve.tenant };
    assert_eq!(world.events(event).await, 1);
}

/// The token decides in which tenant a request acts, but only if the session says the same.
#[tokio::test]
async fn a_token_without_a_tenant_is_no_way_around_the_rules_of_the_sessions_tenant() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let eve = people.founder("eve@example.com").await;
    let session = doc! { "user_id": eve.user };
    let outside = people.token_without_tenant(eve.user).await;
    world.client.get_as(&outside, ME).await.expect(StatusCode::OK);
    let moved = doc! { "$set": { "tenant_id": eve.tenant.to_string() } };
    let sessions = world.store.records::<Session>(PlatformScope);
    sessions.update_all(session, moved).await.unwrap();
    // Another process has cached nothing.
    let (_second_api, second) = world.another_api().await;
    second.get_as(&outside, ME).await.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn an_account_without_a_tenant_accepts_an_invitation() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let eve = people.founder("eve@example.com").await;
    let ada = people.loner(ADA).await;
    let invite = json!({ "email": ADA, "role": "member" });
    let invited = world.client.post_body_as(&eve.token, "/api/tenant/users/invite", &invite).await;
    invited.expect(StatusCode::CREATED);
    let accept = json!({ "token": invitations::link(&world, ADA).await });
    let joined = world.client.post_body_as(&ada.token, "/api/invitations/accept", &accept).await;
    let joined = joined.expect(StatusCode::OK).json();
    assert_eq!(joined["tenant"]["id"], json!(eve.tenant));
    let current = world.client.get_as(token(&joined), "/api/tenant/current").await;
    current.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_account_without_a_tenant_sets_up_and_uses_a_second_factor() {
    let world = World::new().await;
    let ada = People::of(&world).await.loner(ADA).await;
    let post =
        async |path: &str, body: Value| world.client.post_body_as(&ada.token, path, &body).await;
    let enrolled = world.client.post_as(&ada.token, "/api/auth/mfa/totp/enroll").await;
    let app = App::told(enrolled.expect(StatusCode::OK).json()["secret"].as_str().unwrap());
    post("/api/auth/mfa/totp/confirm", json!({ "code": app.code(-1) }))
        .await
        .expect(StatusCode::OK);
    let asked = login(&world, &json!({})).await;
    let asked = asked.expect_problem(StatusCode::UNAUTHORIZED, "mfa_required").json();
    let verify = json!({ "mfa_token": asked["mfa_token"], "code": app.code(0) });
    let signed_in = world.client.post("/api/auth/mfa/verify", &verify).await;
    assert_eq!(signed_in.expect(StatusCode::OK).json()["tenant"], Value::Null);
    assert_eq!(platform_events(&world).await, ["mfa.totp_added", "session.created"]);
}

#[tokio::test]
async fn an_account_without_a_tenant_changes_password_and_email_address() {
    let world = World::new().await;
    let ada = People::of(&world).await.loner(ADA).await;
    let post =
        async |path: &str, body: Value| world.client.post_body_as(&ada.token, path, &body).await;
    let new_password = "a brass engine of many wheels";
    post("/api/auth/reauthenticate", json!({ "password": PASSWORD })).await.expect(StatusCode::OK);
    let change = json!({ "current_password": PASSWORD, "new_password": new_password });
    post("/api/auth/password/change", change).await.expect(StatusCode::NO_CONTENT);
    world.login(ADA, new_password).await.expect(StatusCode::OK);

    let ask = json!({ "new_email": "ada@example.org" });
    post("/api/auth/email/change", ask).await.expect(StatusCode::ACCEPTED);
    let change: EmailChange =
        world.store.records(PlatformScope).find(doc! {}).await.unwrap().unwrap();
    for (side, status) in [(Side::Old, "confirmed"), (Side::New, "changed")] {
        let link = json!({ "token": change.link_token(&world.key, side).expose() });
        let confirmed = world.client.post("/api/auth/email/confirm", &link).await;
        assert_eq!(confirmed.expect(StatusCode::OK).json()["status"], status);
    }
    world.login("ada@example.org", new_password).await.expect(StatusCode::OK);
    assert_eq!(
        platform_events(&world).await,
        [
            "session.reauthenticated",
            "user.password_changed",
            "session.created",
            "email_change.requested",
            "email_change.confirmed",
            "email_change.confirmed",
            "user.email_changed",
            "session.created",
        ]
    );
}

#[tokio::test]
async fn a_user_changes_their_name_everywhere_at_once() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    let people = People::of(&world).await;
    let ada = people.founder(ADA).await;
    let rename = async |token: &str, name: &str| {
        world.client.put_as(token, ME, &json!({ "name": name })).await
    };
    assert_eq!(second.get_as(&ada.token, ME).await.json()["user"]["name"], "ADA");
    let renamed = rename(&ada.token, "  Ada   King ").await.expect(StatusCode::OK).json();
    assert_eq!(renamed["user"]["name"], "Ada King");
    assert_eq!(renamed, world.client.get_as(&ada.token, ME).await.json());
    crate::support::eventually("the other process knows the name", async || {
        let me = second.get_as(&ada.token, ME).await.expect(StatusCode::OK).json();
        (me["user"]["name"] == "Ada King").then_some(())
    })
    .await;
    let members = world.client.get_as(&ada.token, "/api/tenant/users").await.json();
    assert_eq!(members["items"][0]["name"], "Ada King");
    // The same name again is no change.
    rename(&ada.token, "Ada King").await.expect(StatusCode::OK);
    let renaming =
        doc! { "action": "user.name_changed", "tenant_id": ada.tenant, "actor": ada.user };
    let event: Event = world.store.records(PlatformScope).find(renaming).await.unwrap().unwrap();
    assert_eq!(world.events(doc! { "action": "user.name_changed" }).await, 1);
    let row = mongodb::bson::serialize_to_document(&event).unwrap().to_string();
    assert!(!row.contains("King"), "names are kept apart from events: {row}");
    let context: AuditContext =
        world.store.records(PlatformScope).find(doc! { "_id": event.id }).await.unwrap().unwrap();
    let values = context.changes[0].values.as_ref().unwrap();
    assert_eq!((values.before.as_str(), values.after.as_str()), (Some("ADA"), Some("Ada King")));

    for name in ["", " ", "a\u{202e}b", "see https://evil.example", &"x".repeat(101)] {
        let refused = rename(&ada.token, name).await;
        refused.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
    }
    let loner = people.loner("eve@example.com").await;
    assert_eq!(
        rename(&loner.token, "Eve").await.expect(StatusCode::OK).json()["tenant"],
        Value::Null
    );
    let on_platform: Document = doc! { "action": "user.name_changed" };
    let on_platform = world.store.records::<PlatformEvent>(PlatformScope).count(on_platform).await;
    assert_eq!(on_platform.unwrap(), 1);
    let names: Vec<User> =
        world.store.records(PlatformScope).list(doc! {}, doc! { "_id": 1 }, 9).await.unwrap();
    assert_eq!(
        names.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(),
        ["Ada King", "Eve"]
    );
}

#[tokio::test]
async fn who_belongs_only_to_suspended_tenants_is_refused() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder(ADA).await;
    let suspended = doc! { "$set": { "status": "suspended" } };
    let tenants = world.store.records::<domain::tenancy::tenants::Tenant>(PlatformScope);
    assert!(tenants.update(doc! { "_id": ada.tenant }, suspended).await.unwrap());
    login(&world, &json!({})).await.expect_problem(StatusCode::FORBIDDEN, "tenant_suspended");
    let left = world.store.records::<Membership>(PlatformScope).take(doc! { "user_id": ada.user });
    left.await.unwrap().unwrap();
    login(&world, &json!({})).await.expect(StatusCode::OK);
}
