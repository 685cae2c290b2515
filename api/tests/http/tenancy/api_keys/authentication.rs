//! Requests with a key: what is accepted, what is refused, and what it costs.

use std::time::Duration;

use common::{crypto::PlainApiKey, db::PlatformScope, origin::Principal};
use domain::{
    activity::Event,
    identity::accounts::DisableUser,
    tenancy::{api_keys::ApiKey, roles::Role, suspension::SetTenantStatus, tenants::TenantStatus},
};
use mongodb::bson::{DateTime, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{founded, in_hours, make, path, plain};
use crate::{
    people::{People, Person},
    support::{Answer, World, eventually},
};

const CURRENT: &str = "/api/tenant/current";
const USERS: &str = "/api/tenant/users";
const INVITE: &str = "/api/tenant/users/invite";

async fn get(world: &World, key: &Value) -> Answer {
    world.client.get_as(&plain(key), CURRENT).await
}

fn expect_unknown(answer: Answer) {
    answer.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn a_key_acts_in_its_tenant_within_its_scopes() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({ "scopes": ["tenant:read", "users:invite"] })).await;
    let current = get(&world, &key).await.expect(StatusCode::OK).json();
    assert_eq!(current["id"], json!(ada.tenant));
    let refused = world.client.get_as(&plain(&key), USERS).await;
    let refused = refused.expect_problem(StatusCode::FORBIDDEN, "forbidden").json();
    assert!(refused["detail"].as_str().unwrap().contains("`users:read`"), "{refused}");

    // Its changes carry its name.
    let invite = json!({ "email": "bob@example.com", "role": "viewer" });
    let scopes = json!({ "scopes": ["tenant:read", "users:read", "usage:read", "users:invite"] });
    let able = make(&world, &ada, &scopes).await;
    let invited = world.client.post_body_as(&plain(&able), INVITE, &invite).await;
    let invited = invited.expect(StatusCode::CREATED).json();
    assert_eq!(invited["invitation"]["invited_by"], able["id"]);
    let event = doc! { "action": "invitation.created" };
    let event: Event = world.store.records(PlatformScope).find(event).await.unwrap().unwrap();
    let id = able["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(event.deed.actor, Some(Principal::ApiKey(id).into()));
    // A role beyond its scopes is beyond its reach.
    let invite = json!({ "email": "eve@example.com", "role": "billing" });
    let refused = world.client.post_body_as(&plain(&able), INVITE, &invite).await;
    refused.expect_problem(StatusCode::FORBIDDEN, "role_too_high");
}

/// The invited person is mailed, and the mail names the sponsor.
#[tokio::test]
async fn a_key_invites_on_behalf_of_its_sponsor() {
    let (world, ada) = founded(&[]).await;
    let scopes = json!({ "scopes": ["tenant:read", "users:read", "usage:read", "users:invite"] });
    let key = make(&world, &ada, &scopes).await;
    let _worker = world.env.spawn_worker().await;
    let invite = json!({ "email": "bob@example.com", "role": "viewer" });
    world.client.post_body_as(&plain(&key), INVITE, &invite).await.expect(StatusCode::CREATED);
    let mail = world
        .env
        .mail()
        .wait_for(|mail| mail.to == ["bob@example.com"], crate::support::DEADLINE)
        .await;
    assert!(mail.text.contains("ADA"), "{}", mail.text);
    // Without the key, nobody vouches for the invitation any more.
    let token = crate::tenancy::invitations::link(&world, "bob@example.com").await;
    let preview = format!("/api/invitations/{token}");
    world.client.get(&preview).await.expect(StatusCode::OK);
    world.client.delete_as(&ada.token, &path(&key)).await.expect(StatusCode::NO_CONTENT);
    world.client.get(&preview).await.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
}

#[tokio::test]
async fn a_key_is_accepted_in_the_authorization_header_only() {
    let (world, ada) = founded(&[]).await;
    let key = plain(&make(&world, &ada, &json!({})).await);
    for query in ["api_key", "key", "token", "access_token"] {
        let request = world.client.request(Method::GET, &format!("{CURRENT}?{query}={key}"));
        assert_eq!(Answer::of(request).await.status, StatusCode::UNAUTHORIZED, "{query}");
    }
    for (header, value) in [
        ("x-api-key", key.clone()),
        ("cookie", format!("api_key={key}")),
        ("authorization", key.clone()),
        ("authorization", format!("Basic {key}")),
        ("authorization", format!("Token {key}")),
        ("authorization", format!("Bearer {key}, Bearer {key}")),
    ] {
        let request = world.client.request(Method::GET, CURRENT).header(header, value);
        assert_eq!(Answer::of(request).await.status, StatusCode::UNAUTHORIZED, "{header}");
    }
    let twice = world.client.request(Method::GET, CURRENT).bearer_auth(&key).bearer_auth(&key);
    assert_eq!(Answer::of(twice).await.status, StatusCode::UNAUTHORIZED);
    world.client.get_as(&key, CURRENT).await.expect(StatusCode::OK);
}

/// Not even to find out whether it exists.
#[tokio::test]
async fn a_text_that_cannot_be_a_key_never_reaches_the_store() {
    let world = World::spawned(&[]).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let key = plain(&make(&world, &ada, &json!({})).await);
    let lookups = async || {
        let series =
            "tenantry_db_command_duration_seconds_count{collection=\"api_keys\",command=\"find\"}";
        world.metric(series).await
    };
    let outcome = async |outcome: &str| {
        world
            .metric(&format!("tenantry_api_key_authentications_total{{outcome=\"{outcome}\"}}"))
            .await
    };
    let before = lookups().await;
    let mut tried = 0.0;
    for at in 3..key.len() {
        let mut typed = key.clone().into_bytes();
        typed[at] = if typed[at] == b'a' { b'b' } else { b'a' };
        expect_unknown(world.client.get_as(str::from_utf8(&typed).unwrap(), CURRENT).await);
        expect_unknown(world.client.get_as(&key[..at], CURRENT).await);
        tried += 2.0;
    }
    for odd in [format!("{key}0"), key.to_lowercase(), format!("tk_{}", "x".repeat(1_000))] {
        expect_unknown(world.client.get_as(&odd, CURRENT).await);
        tried += 1.0;
    }
    let is_equal = |one: f64, other: f64| (one - other).abs() < 0.5;
    assert!(is_equal(lookups().await, before), "nothing was looked up");
    assert!(is_equal(outcome("malformed").await, tried));
    let unknown = PlainApiKey::generate(world.store.clock());
    expect_unknown(world.client.get_as(unknown.expose(), CURRENT).await);
    assert!(is_equal(lookups().await, before + 1.0) && is_equal(outcome("unknown").await, 1.0));
}

#[tokio::test]
async fn requests_of_a_key_cost_no_database_operation() {
    let world = World::spawned(&[]).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let key = plain(&make(&world, &ada, &json!({})).await);
    let hits = async || world.metric("tenantry_api_identities_total{outcome=\"hit\"}").await;
    eventually("the key is cached", async || {
        let before = hits().await;
        world.client.get_as(&key, CURRENT).await.expect(StatusCode::OK);
        (hits().await > before).then_some(())
    })
    .await;
    let finds = async || {
        let mut all = 0.0;
        for collection in ["api_keys", "users", "memberships", "tenants", "sessions"] {
            let series = format!(
                "tenantry_db_command_duration_seconds_count{{collection=\"{collection}\",command=\"find\"}}"
            );
            all += world.metric(&series).await;
        }
        all
    };
    let before = finds().await;
    for _ in 0..100 {
        world.client.get_as(&key, CURRENT).await.expect(StatusCode::OK);
    }
    // The cache may be distrusted for a moment on a busy machine; it holds five rows of a key.
    assert!(finds().await - before <= 20.0, "{} for 100 requests", finds().await - before);
}

#[tokio::test]
async fn keys_do_not_work_where_people_are_required() {
    let (world, ada) = founded(&[]).await;
    let key = plain(&make(&world, &ada, &json!({})).await);
    let unknown = PlainApiKey::generate(world.store.clock());
    for (method, path) in [
        (Method::GET, "/api/auth/me"),
        (Method::GET, "/api/auth/sessions"),
        (Method::POST, "/api/auth/mfa/totp/enroll"),
        (Method::POST, "/api/auth/logout"),
        (Method::POST, "/api/auth/logout-all"),
        (Method::POST, "/api/auth/reauthenticate"),
        (Method::DELETE, "/api/tenant/users/me"),
        (Method::POST, super::KEYS),
    ] {
        // Whether or not it exists.
        for key in [key.as_str(), unknown.expose(), "tk_rubbish"] {
            let request = world.client.request(method.clone(), path).bearer_auth(key);
            let refused = Answer::of(request.json(&json!({}))).await;
            refused.expect_problem(StatusCode::FORBIDDEN, "api_key_not_allowed");
        }
    }
}

#[tokio::test]
async fn a_key_is_as_good_as_its_sponsor() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    let key =
        make(&world, &bob, &json!({ "scopes": ["tenant:read", "activity:read", "users:invite"] }))
            .await;
    let text = plain(&key);
    let invitations = "/api/tenant/invitations";
    world.client.get_as(&text, invitations).await.expect(StatusCode::OK);
    let role = async |role: &str| {
        let path = format!("{USERS}/{}", bob.user);
        world
            .client
            .put_as(&ada.token, &path, &json!({ "role": role }))
            .await
            .expect(StatusCode::OK);
    };
    role("member").await;
    world
        .client
        .get_as(&text, invitations)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "forbidden");
    world.client.get_as(&text, CURRENT).await.expect(StatusCode::OK);
    role("admin").await;
    world.client.get_as(&text, invitations).await.expect(StatusCode::OK);

    // The tenant requires a second factor, which he lacks.
    let tenants = world.raw().await.collection::<mongodb::bson::Document>("tenants");
    let require = |required: bool| doc! { "$set": { "security.require_mfa": required } };
    let tenant = || doc! { "_id": ada.tenant.to_string() };
    tenants.update_one(tenant(), require(true)).await.unwrap();
    world.announce(common::revocations::Revoked::Tenant(ada.tenant)).await;
    let refused = world.client.expect_within_a_second(&text, CURRENT, StatusCode::FORBIDDEN).await;
    refused.expect_problem(StatusCode::FORBIDDEN, "mfa_enrollment_required");
    tenants.update_one(tenant(), require(false)).await.unwrap();
    world.announce(common::revocations::Revoked::Tenant(ada.tenant)).await;
    world.client.expect_within_a_second(&text, CURRENT, StatusCode::OK).await;

    world.commit(&DisableUser { user: bob.user }).await.unwrap();
    world.announce(common::revocations::Revoked::User(bob.user)).await;
    let refused =
        world.client.expect_within_a_second(&text, CURRENT, StatusCode::UNAUTHORIZED).await;
    refused.expect_problem(StatusCode::UNAUTHORIZED, "api_key_suspended");
}

/// A key that outlived the suspension of its row would be refused even so.
#[tokio::test]
async fn a_key_without_a_sponsor_is_suspended_whatever_its_row_says() {
    let (world, ada) = founded(&[]).await;
    let bob = People::of(&world).await.join(&ada, "bob@example.com", Role::Admin).await;
    let key = make(&world, &bob, &json!({})).await;
    let memberships = world.raw().await.collection::<mongodb::bson::Document>("memberships");
    memberships.delete_one(doc! { "user_id": bob.user.to_string() }).await.unwrap();
    get(&world, &key).await.expect_problem(StatusCode::UNAUTHORIZED, "api_key_suspended");
}

#[tokio::test]
async fn a_key_of_a_suspended_tenant_is_refused() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({})).await;
    let suspend = SetTenantStatus { tenant: ada.tenant, status: TenantStatus::Suspended };
    world.commit(&suspend).await.unwrap();
    get(&world, &key).await.expect_problem(StatusCode::FORBIDDEN, "tenant_suspended");
}

#[tokio::test]
async fn addresses_are_limited_by_the_key_and_by_the_tenant() {
    let (world, ada) = founded(&[("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1/32")]).await;
    let key = make(&world, &ada, &json!({ "ip_allowlist": ["192.0.2.0/24"] })).await;
    let from = async |address: &str| {
        let request = world.client.request(Method::GET, CURRENT).bearer_auth(plain(&key));
        Answer::of(request.header("x-forwarded-for", address)).await
    };
    from("192.0.2.7").await.expect(StatusCode::OK);
    for address in ["192.0.3.7", "2001:db8::1"] {
        from(address).await.expect_problem(StatusCode::FORBIDDEN, "ip_not_allowed");
    }
    // It may change from one request to the next, also of a cached key.
    from("192.0.2.8").await.expect(StatusCode::OK);
    let tenants = world.raw().await.collection::<mongodb::bson::Document>("tenants");
    let allow = doc! { "$set": { "security.ip_allowlist": ["192.0.2.8"] } };
    tenants.update_one(doc! { "_id": ada.tenant.to_string() }, allow).await.unwrap();
    world.announce(common::revocations::Revoked::Tenant(ada.tenant)).await;
    eventually("the tenant's list applies", async || {
        let answer = from("192.0.2.7").await;
        (answer.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    from("192.0.2.8").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_expired_key_says_so() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({ "expires_at": in_hours(&world, 1) })).await;
    get(&world, &key).await.expect(StatusCode::OK);
    let passed = doc! { "$set": { "expires_at": DateTime::from_millis(1) } };
    let rows = world.store.records::<ApiKey>(PlatformScope);
    assert!(rows.update(doc! {}, passed).await.unwrap());
    let id = key["id"].as_str().unwrap().parse().unwrap();
    world.announce(common::revocations::Revoked::ApiKey(id)).await;
    let refused =
        world.client.expect_within_a_second(&plain(&key), CURRENT, StatusCode::UNAUTHORIZED).await;
    refused.expect_problem(StatusCode::UNAUTHORIZED, "api_key_expired");
    let seen = world.client.get_as(&ada.token, &path(&key)).await.json();
    assert_eq!(seen["status"], "expired");
}

/// A program must not be able to make somebody powerful, whatever its scopes.
#[tokio::test]
async fn a_key_never_gives_power() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let bob = people.join(&ada, "bob@example.com", Role::Viewer).await;
    let inviter = json!({ "name": "Inviter", "permissions": ["users:invite"] });
    let inviter = world.client.post_body_as(&ada.token, "/api/tenant/roles", &inviter).await.json();
    let scopes = json!({ "scopes": [
        "tenant:read", "users:read", "users:invite", "users:write", "users:delete", "usage:read",
    ] });
    let key = plain(&make(&world, &ada, &scopes).await);
    let too_high = |answer: Answer| {
        answer.expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    };
    let member = format!("{USERS}/{}", bob.user);
    for role in [&json!("admin"), &json!("owner"), &inviter["id"]] {
        let invite = json!({ "email": "eve@example.com", "role": role });
        too_high(world.client.post_body_as(&key, INVITE, &invite).await);
        too_high(world.client.put_as(&key, &member, &json!({ "role": role })).await);
    }
    let link = json!({ "role": inviter["id"], "domains": ["example.com"] });
    too_high(world.client.post_body_as(&key, "/api/tenant/invite-links", &link).await);
    let member_role = json!({ "role": "member" });
    world.client.put_as(&key, &member, &member_role).await.expect(StatusCode::OK);
    let owner = format!("{USERS}/{}", ada.user);
    too_high(world.client.delete_as(&key, &owner).await);
    world.client.delete_as(&key, &member).await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn use_is_recorded_without_a_write_per_request() {
    let world = World::spawned(&[]).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let key = make(&world, &ada, &json!({})).await;
    for _ in 0..5 {
        get(&world, &key).await.expect(StatusCode::OK);
    }
    for _ in 0..3 {
        let refused = world.client.get_as(&plain(&key), "/api/tenant/invitations").await;
        refused.expect(StatusCode::FORBIDDEN);
    }
    let updates = async || {
        let series = "tenantry_db_command_duration_seconds_count{collection=\"api_key_usage\",command=\"update\"}";
        world.metric(series).await
    };
    assert!(updates().await <= 1.0, "{}", updates().await);
    // A process stores what is left when it stops.
    world.api.process().stop().await;
    let row = world.raw().await.collection::<mongodb::bson::Document>("api_key_usage");
    let row = row.find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(row.get_i64("success").unwrap(), 5, "{row}");
    assert_eq!(row.get_i64("client_error").unwrap(), 3, "{row}");
    let key: ApiKey = world.store.records(PlatformScope).find(doc! {}).await.unwrap().unwrap();
    let used = key.last_used_at.unwrap();
    let now = world.store.clock().now().timestamp_millis();
    assert!(now - used.timestamp_millis() < 60_000, "{used}");
}

/// As with sessions, a key may be revoked between the check of a request and its change.
#[tokio::test]
async fn a_change_reads_the_key_and_its_scopes_again() {
    use common::db::TenantScope;
    use domain::tenancy::{
        actor::{Acted, Acting, Actor, Credentials},
        invite_links::DeleteInviteLink,
        roles::Permission,
    };
    let (world, ada) = founded(&[]).await;
    let scopes = json!({ "scopes": ["users:invite"] });
    let key = make(&world, &ada, &scopes).await;
    let id = key["id"].as_str().unwrap().parse().unwrap();
    let scope = TenantScope::of_job(ada.tenant);
    let actor = Actor::on_behalf_of(scope, Principal::ApiKey(id));
    let change = DeleteInviteLink { actor, link: crate::people::absent() };
    let by = Credentials::Key { key: id, scope };
    let acting = |permission| Acting { by, needs: Some((permission, scope)), change: &change };
    // The change itself finds nothing to delete: it was reached.
    assert!(world.commit(&acting(Permission::UsersInvite)).await.is_err());
    let acted = world.commit(&acting(Permission::UsersRead)).await.unwrap();
    assert!(matches!(acted, Acted::Forbidden(Permission::UsersRead)));
    let other: Person = People::of(&world).await.founder("eve@example.com").await;
    let elsewhere = TenantScope::of_job(other.tenant);
    let by = Credentials::Key { key: id, scope: elsewhere };
    let foreign = Acting { by, needs: Some((Permission::UsersInvite, elsewhere)), change: &change };
    assert!(matches!(world.commit(&foreign).await.unwrap(), Acted::SignedOut));
    world.client.delete_as(&ada.token, &path(&key)).await.expect(StatusCode::NO_CONTENT);
    let acted = world.commit(&acting(Permission::UsersInvite)).await.unwrap();
    assert!(matches!(acted, Acted::SignedOut));
}

/// The time of a refusal does not depend on what is stored.
#[tokio::test]
async fn refused_changes_of_a_cached_key_fail_within_its_lifetime() {
    let (world, ada) = founded(&[]).await;
    let soon = DateTime::from_millis(world.store.clock().now().timestamp_millis() + 1_500);
    let key = make(&world, &ada, &json!({ "expires_at": common::clock::rfc3339(soon) })).await;
    get(&world, &key).await.expect(StatusCode::OK);
    // Cached, and nobody announces that time passes.
    let refused = eventually("it expires", async || {
        let answer = get(&world, &key).await;
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    refused.expect_problem(StatusCode::UNAUTHORIZED, "api_key_expired");
    let late = world.store.clock().now().timestamp_millis() - soon.timestamp_millis();
    assert!(late < i64::try_from(Duration::from_secs(1).as_millis()).unwrap(), "{late} ms late");
}
