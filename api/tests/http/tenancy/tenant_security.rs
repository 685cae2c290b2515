//! Security rules of a tenant: each applies at once, in that tenant only.

use std::time::Duration;

use common::{
    db::PlatformScope,
    id::{TenantId, UserId},
};
use domain::{
    activity::{AuditContext, Delta, Event, Property, Values},
    identity::password_resets::{PasswordReset, Prepare},
    people::{sessions::Session, users::User},
    tenancy::{invitations::Invitation, memberships::Membership, roles::Role, tenants::Tenant},
};
use mongodb::bson::{Bson, DateTime, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    people::{People, Person, absent, join},
    support::{Answer, Client, PASSWORD, World, eventually},
};

const SECURITY: &str = "/api/tenant/security";
const ME: &str = "/api/auth/me";
const PROXIED: &[(&str, &str)] = &[("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1")];
const INSIDE: &str = "192.0.2.7";
const OUTSIDE: &str = "198.51.100.7";

/// Only these rules.
pub(crate) fn rules(some: &Value) -> Value {
    let mut rules = json!({
        "require_mfa": false,
        "session_idle_minutes": null,
        "session_absolute_hours": null,
        "password_min_length": null,
        "allowed_email_domains": [],
        "ip_allowlist": [],
    });
    rules.as_object_mut().unwrap().extend(some.as_object().unwrap().clone());
    rules
}

async fn put(world: &World, token: &str, some: &Value) -> Answer {
    world.client.put_as(token, SECURITY, &rules(some)).await
}

async fn set(world: &World, person: &Person, some: Value) {
    put(world, &person.token, &some).await.expect(StatusCode::OK);
}

async fn founded() -> (World, Person) {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    (world, ada)
}

async fn tenant(world: &World, id: TenantId) -> Tenant {
    world.store.records::<Tenant>(PlatformScope).find(doc! { "_id": id }).await.unwrap().unwrap()
}

/// A request as a trusted proxy forwards it.
fn from(client: &Client, address: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
    client.request(method, path).header("x-forwarded-for", address)
}

async fn get_from(client: &Client, address: &str, token: &str) -> Answer {
    Answer::of(from(client, address, Method::GET, ME).bearer_auth(token)).await
}

async fn post_from(world: &World, address: &str, path: &str, body: &Value) -> Answer {
    Answer::of(from(&world.client, address, Method::POST, path).json(body)).await
}

fn expect_elsewhere(answer: Answer) -> Answer {
    answer.expect_problem(StatusCode::FORBIDDEN, "ip_not_allowed")
}

/// As if they had set one up, without the ceremony.
async fn give_second_factor(world: &World, person: &Person) {
    let update = doc! { "$set": { "second_factor_since": world.store.clock().now() } };
    assert!(
        world
            .store
            .records::<User>(PlatformScope)
            .update(doc! { "_id": person.user }, update)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn the_rules_are_read_replaced_as_a_whole_and_recorded() {
    let (world, ada) = founded().await;
    let none = world.client.get_as(&ada.token, SECURITY).await.expect(StatusCode::OK);
    assert_eq!(none.json(), rules(&json!({})));
    let all = json!({
        "require_mfa": true,
        "session_idle_minutes": 15,
        "session_absolute_hours": 8,
        "password_min_length": 14,
        "allowed_email_domains": ["Example.com", "example.org", "example.com"],
        "ip_allowlist": ["127.0.0.1", "::ffff:10.1.2.3/104", "2001:DB8::7/32"],
    });
    put(&world, &ada.token, &all)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "mfa_enrollment_required");
    give_second_factor(&world, &ada).await;
    let replaced = put(&world, &ada.token, &all).await.expect(StatusCode::OK);
    let mut kept = all.clone();
    kept["allowed_email_domains"] = json!(["example.com", "example.org"]);
    kept["ip_allowlist"] = json!(["127.0.0.1/32", "10.0.0.0/8", "2001:db8::/32"]);
    assert_eq!(replaced.json(), kept);
    let seen = world.client.get_as(&ada.token, SECURITY).await.expect(StatusCode::OK);
    assert_eq!((seen.json(), seen.header("etag")), (kept, replaced.header("etag")));
    assert!(tenant(&world, ada.tenant).await.security.require_mfa);
    let known = world
        .client
        .request(Method::GET, SECURITY)
        .bearer_auth(&ada.token)
        .header("if-none-match", seen.header("etag"));
    let known = Answer::of(known).await.expect(StatusCode::NOT_MODIFIED);
    assert_eq!((known.body.as_str(), known.header("etag")), ("", seen.header("etag")));
    set(&world, &ada, json!({})).await;
    assert_eq!(world.client.get_as(&ada.token, SECURITY).await.header("etag"), none.header("etag"));
    let event = doc! { "action": "tenant.security_changed", "tenant_id": ada.tenant, "actor": ada.user, "targets": ada.tenant.to_string() };
    assert_eq!(world.events(event).await, 2);
}

#[tokio::test]
async fn an_event_names_changed_ip_ranges_and_domains_without_their_values() {
    let (world, ada) = founded().await;
    let some = json!({
        "password_min_length": 14,
        "allowed_email_domains": ["lovelace.example"],
        "ip_allowlist": ["127.0.0.1"],
    });
    set(&world, &ada, some).await;
    let filter = doc! { "action": "tenant.security_changed", "tenant_id": ada.tenant };
    let event: Event = world.store.records(PlatformScope).find(filter).await.unwrap().unwrap();
    let length = Values { before: Bson::Null, after: Bson::Int64(14) };
    let changed = |property: Property, values| Delta { property: property.into(), values };
    assert_eq!(
        event.deed.changes,
        [
            changed(Property::PasswordMinLength, Some(length)),
            changed(Property::AllowedEmailDomains, None),
            changed(Property::IpAllowlist, None),
        ]
    );
    let contexts = world.store.records::<AuditContext>(PlatformScope);
    let context = contexts.find(doc! { "_id": event.id }).await.unwrap().unwrap();
    let values = |before: &[&str], after: &[&str]| {
        let array = |items: &[&str]| Bson::from(items.to_vec());
        Some(Values { before: array(before), after: array(after) })
    };
    assert_eq!(
        context.changes,
        [
            changed(Property::AllowedEmailDomains, values(&[], &["lovelace.example"])),
            changed(Property::IpAllowlist, values(&[], &["127.0.0.1/32"])),
        ]
    );
}

#[tokio::test]
async fn values_out_of_bounds_are_rejected_for_each_field() {
    let (world, ada) = founded().await;
    let refused = async |some: Value| {
        let refused = put(&world, &ada.token, &some).await;
        refused.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed").field_errors()
    };
    for (field, bad) in [
        ("session_idle_minutes", json!([4, 43_201, -1])),
        ("session_absolute_hours", json!([0, 8_761])),
    ] {
        for value in bad.as_array().unwrap() {
            assert_eq!(
                refused(json!({ field: value })).await,
                [format!("{field}:out_of_range")],
                "{value}"
            );
        }
    }
    assert_eq!(
        refused(json!({ "password_min_length": 65 })).await,
        ["password_min_length:out_of_range"]
    );
    assert_eq!(
        refused(json!({ "password_min_length": 7 })).await,
        ["password_min_length:out_of_range"]
    );
    for value in [json!(10.5), json!("10"), json!(1e30), json!(u64::MAX)] {
        assert_eq!(
            refused(json!({ "session_idle_minutes": value })).await,
            ["session_idle_minutes:invalid_type"]
        );
    }
    for domain in ["@example.com", "example", "*.example.com", "bücher.example", ""] {
        assert_eq!(
            refused(json!({ "allowed_email_domains": ["fine.example", domain] })).await,
            ["allowed_email_domains:invalid_format"]
        );
    }
    for range in ["10.0.0.0/33", "everywhere", "10.0.0.0-10.0.0.9", ""] {
        assert_eq!(
            refused(json!({ "ip_allowlist": ["127.0.0.1", range] })).await,
            ["ip_allowlist:invalid_format"]
        );
    }
    let many: Vec<String> = (0..101).map(|n| format!("127.0.0.{n}")).collect();
    assert_eq!(refused(json!({ "ip_allowlist": many })).await, ["ip_allowlist:too_long"]);
    let domains: Vec<String> = (0..101).map(|n| format!("d{n}.example")).collect();
    assert_eq!(
        refused(json!({ "allowed_email_domains": domains })).await,
        ["allowed_email_domains:too_long"]
    );
    let both = refused(json!({ "require_mfa": null, "password_min_length": 1 })).await;
    assert_eq!(both, ["require_mfa:required", "password_min_length:out_of_range"]);
    // A field that is left out would be reset.
    let partial = world.client.put_as(&ada.token, SECURITY, &json!({ "require_mfa": true })).await;
    assert_eq!(
        partial
            .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed")
            .field_errors()
            .len(),
        5
    );
    assert_eq!(world.client.get_as(&ada.token, SECURITY).await.json(), rules(&json!({})));
}

#[tokio::test]
async fn a_member_without_the_permission_cannot_read_or_change_the_rules() {
    let (world, ada) = founded().await;
    let people = People::of(&world).await;
    for role in [Role::Member, Role::Billing, Role::Viewer] {
        let person = people.join(&ada, &format!("{}@example.com", role.as_str()), role).await;
        world
            .client
            .get_as(&person.token, SECURITY)
            .await
            .expect_problem(StatusCode::FORBIDDEN, "forbidden");
        put(&world, &person.token, &json!({}))
            .await
            .expect_problem(StatusCode::FORBIDDEN, "forbidden");
    }
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    set(&world, &admin, json!({ "password_min_length": 12 })).await;
}

#[tokio::test]
async fn a_change_based_on_an_old_state_is_rejected_and_can_be_repeated() {
    let (world, ada) = founded().await;
    let bob = People::of(&world).await.join(&ada, "bob@example.com", Role::Admin).await;
    let put_if = async |person: &Person, etag: &str, some: Value| {
        let request = world
            .client
            .request(Method::PUT, SECURITY)
            .bearer_auth(&person.token)
            .header("if-match", etag);
        Answer::of(request.json(&rules(&some))).await
    };
    let seen = world.client.get_as(&ada.token, SECURITY).await.header("etag").to_owned();
    let changed =
        put_if(&bob, &seen, json!({ "password_min_length": 12 })).await.expect(StatusCode::OK);
    let lost = put_if(&ada, &seen, json!({ "session_idle_minutes": 60 })).await;
    lost.expect_problem(StatusCode::PRECONDITION_FAILED, "precondition_failed");
    assert_eq!(
        world.client.get_as(&ada.token, SECURITY).await.json(),
        rules(&json!({ "password_min_length": 12 }))
    );
    let both = json!({ "password_min_length": 12, "session_idle_minutes": 60 });
    let made = put_if(&ada, changed.header("etag"), both.clone()).await.expect(StatusCode::OK);
    // Of many concurrent changes based on one state, one succeeds.
    let etag = made.header("etag");
    let racing =
        (12..20).map(|length| put_if(&ada, etag, json!({ "password_min_length": length })));
    let answers = futures::future::join_all(racing).await;
    assert_eq!(
        answers.iter().filter(|answer| answer.status == StatusCode::OK).count(),
        1,
        "{answers:?}"
    );
    for refused in answers.into_iter().filter(|answer| answer.status != StatusCode::OK) {
        refused.expect_problem(StatusCode::PRECONDITION_FAILED, "precondition_failed");
    }
    put_if(&ada, "*", both).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_role_change_requires_the_state_that_was_read() {
    let (world, ada) = founded().await;
    let body = |name: &str| json!({ "name": name, "permissions": ["users:read"] });
    let made = world
        .client
        .post_body_as(&ada.token, "/api/tenant/roles", &body("Support"))
        .await
        .expect(StatusCode::CREATED);
    let path = format!("/api/tenant/roles/{}", made.json()["id"].as_str().unwrap());
    let seen = world.client.get_as(&ada.token, &path).await.expect(StatusCode::OK);
    assert_eq!((seen.json(), seen.header("etag")), (made.json(), made.header("etag")));
    let put_if = async |etag: &str, name: &str| {
        let request = world
            .client
            .request(Method::PUT, &path)
            .bearer_auth(&ada.token)
            .header("if-match", etag);
        Answer::of(request.json(&body(name))).await
    };
    let changed = put_if(made.header("etag"), "Help").await.expect(StatusCode::OK);
    put_if(made.header("etag"), "Desk")
        .await
        .expect_problem(StatusCode::PRECONDITION_FAILED, "precondition_failed");
    assert_eq!(world.client.get_as(&ada.token, &path).await.json(), changed.json());
    put_if(changed.header("etag"), "Desk").await.expect(StatusCode::OK);
    world.client.put_as(&ada.token, &path, &body("Anything")).await.expect(StatusCode::OK);
    let built_in = world
        .client
        .get_as(&ada.token, "/api/tenant/roles/viewer")
        .await
        .expect(StatusCode::OK)
        .json();
    assert_eq!((&built_in["name"], &built_in["built_in"]), (&json!("Viewer"), &json!(true)));
}

/// A signed-in user, and the founder of their tenant.
async fn signed_in(world: &World) -> (Person, Value) {
    let people = People::of(world).await;
    let ada = people.founder("ada@example.com").await;
    people.join(&ada, "bob@example.com", Role::Viewer).await;
    let login =
        json!({ "email": "bob@example.com", "password": PASSWORD, "token_delivery": "body" });
    (ada, world.client.post("/api/auth/login", &login).await.expect(StatusCode::OK).json())
}

fn token(login: &Value) -> &str {
    login["access_token"].as_str().unwrap()
}

async fn refresh(world: &World, login: &Value) -> Answer {
    world
        .client
        .post("/api/auth/refresh", &json!({ "refresh_token": login["refresh_token"] }))
        .await
}

/// Moves the start and the last use of the session back by this time.
async fn age(world: &World, login: &Value, begun: Duration, unused: Duration) {
    let id = login["session"]["id"].as_str().unwrap();
    let now = world.store.clock().now().timestamp_millis();
    let ago = |by: Duration| DateTime::from_millis(now - i64::try_from(by.as_millis()).unwrap());
    let update = doc! { "$set": { "created_at": ago(begun), "last_seen_at": ago(unused) } };
    world.store.records::<Session>(PlatformScope).update(doc! { "_id": id }, update).await.unwrap();
}

#[tokio::test]
async fn a_session_idle_for_longer_than_the_tenant_allows_ends_everywhere() {
    let world = World::new().await;
    let (ada, bob) = signed_in(&world).await;
    let (_second_api, second) = world.another_api().await;
    age(&world, &bob, Duration::from_mins(20), Duration::from_mins(20)).await;
    for client in [&world.client, &second] {
        client.get_as(token(&bob), ME).await.expect(StatusCode::OK);
    }
    // The use of a moment ago may be stored in the meantime.
    age(&world, &bob, Duration::from_mins(20), Duration::from_mins(20)).await;
    set(&world, &ada, json!({ "session_idle_minutes": 15 })).await;
    for client in [&world.client, &second] {
        client
            .expect_refused_within_a_second(token(&bob))
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    refresh(&world, &bob).await.expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
}

#[tokio::test]
async fn a_session_older_than_the_tenant_allows_ends_at_once() {
    let world = World::new().await;
    let (ada, bob) = signed_in(&world).await;
    age(&world, &bob, Duration::from_mins(90), Duration::ZERO).await;
    world.client.get_as(token(&bob), ME).await.expect(StatusCode::OK);
    set(&world, &ada, json!({ "session_absolute_hours": 2 })).await;
    let me = world.client.get_as(token(&bob), ME).await.expect(StatusCode::OK).json();
    let next = refresh(&world, &bob).await.expect(StatusCode::OK).json();
    set(&world, &ada, json!({ "session_absolute_hours": 1 })).await;
    world
        .client
        .expect_refused_within_a_second(token(&next))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    refresh(&world, &next).await.expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    // Earlier responses were correct when they were sent.
    assert_eq!(me["session"]["expires_at"], next["session"]["expires_at"]);
}

fn seconds_between(from: &Value, to: &Value) -> i64 {
    let read = |value: &Value| {
        DateTime::parse_rfc3339_str(value.as_str().unwrap()).unwrap().timestamp_millis()
    };
    (read(to) - read(from)) / 1000
}

#[tokio::test]
async fn responses_state_the_end_of_the_session_under_the_tenants_rules() {
    let world = World::new().await;
    let (ada, _) = signed_in(&world).await;
    set(&world, &ada, json!({ "session_idle_minutes": 10, "session_absolute_hours": 1 })).await;
    let login = json!({ "email": "bob@example.com", "password": PASSWORD, "remember_me": true });
    let login = world.client.post("/api/auth/login", &login).await.expect(StatusCode::OK);
    let max_age =
        login.header("set-cookie").split("Max-Age=").nth(1).unwrap().split(';').next().unwrap();
    assert!((3_500..=3_600).contains(&max_age.parse::<u32>().unwrap()), "{login:?}");
    let bob = login.json();
    assert_eq!(bob["session"]["refresh_in"], 480, "before the idle limit of ten minutes");
    let me = world.client.get_as(token(&bob), ME).await.expect(StatusCode::OK).json();
    let listed =
        world.client.get_as(token(&bob), "/api/auth/sessions").await.expect(StatusCode::OK).json();
    for session in [&me["session"], &listed["items"][0]] {
        assert_eq!(
            seconds_between(&session["created_at"], &session["expires_at"]),
            3_600,
            "{session}"
        );
        assert_eq!(
            seconds_between(&session["last_seen_at"], &session["idle_expires_at"]),
            600,
            "{session}"
        );
    }
    assert_eq!(bob["session"]["expires_at"], me["session"]["expires_at"]);
    // Rules that are looser than the limits of the session have no effect.
    set(&world, &ada, json!({ "session_idle_minutes": 43_200, "session_absolute_hours": 8_760 }))
        .await;
    let plain = world.login("bob@example.com", PASSWORD).await.expect(StatusCode::OK).json();
    let me = world.client.get_as(token(&plain), ME).await.expect(StatusCode::OK).json();
    assert_eq!(
        seconds_between(&me["session"]["created_at"], &me["session"]["expires_at"]),
        12 * 3_600
    );
}

fn user(login: &Value) -> UserId {
    login["user"]["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_session_follows_the_rules_of_its_current_tenant() {
    let world = World::new().await;
    let (ada, bob) = signed_in(&world).await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    join(&world, user(&bob), eve.tenant).await;
    set(&world, &eve, json!({ "session_absolute_hours": 2, "session_idle_minutes": 10 })).await;
    age(&world, &bob, Duration::from_mins(90), Duration::from_mins(30)).await;
    let switch = async |login: &Value, tenant: TenantId| {
        world
            .client
            .post_body_as(token(login), "/api/auth/switch-tenant", &json!({ "tenant_id": tenant }))
            .await
    };
    // Unused for half an hour, which its tenant allows; switching counts as use.
    let there = switch(&bob, eve.tenant).await.expect(StatusCode::OK).json();
    let me = world.client.get_as(token(&there), ME).await.expect(StatusCode::OK).json();
    assert_eq!(
        seconds_between(&me["session"]["created_at"], &me["session"]["expires_at"]),
        2 * 3_600
    );
    let back = switch(&there, ada.tenant).await.expect(StatusCode::OK).json();
    let me = world.client.get_as(token(&back), ME).await.expect(StatusCode::OK).json();
    assert_eq!(
        seconds_between(&me["session"]["last_seen_at"], &me["session"]["idle_expires_at"]),
        2 * 3_600
    );
    set(&world, &eve, json!({ "session_absolute_hours": 1 })).await;
    switch(&back, eve.tenant).await.expect_problem(StatusCode::FORBIDDEN, "session_too_old");
    world.client.get_as(token(&back), ME).await.expect(StatusCode::OK);
    refresh(&world, &bob).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn every_process_allows_access_only_from_the_tenants_ip_addresses() {
    let world = World::with(PROXIED).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let (_second_api, second) = world.another_api_with(PROXIED).await;
    for client in [&world.client, &second] {
        get_from(client, OUTSIDE, &ada.token).await.expect(StatusCode::OK);
    }
    let put = from(&world.client, INSIDE, Method::PUT, SECURITY).bearer_auth(&ada.token);
    Answer::of(put.json(&rules(&json!({ "ip_allowlist": ["192.0.2.0/24", "2001:db8::/32"] }))))
        .await
        .expect(StatusCode::OK);
    let begun = std::time::Instant::now();
    eventually("the second process applies the change", async || {
        let answer = get_from(&second, OUTSIDE, &ada.token).await;
        (answer.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    for client in [&world.client, &second] {
        for address in
            [OUTSIDE, "2001:db9::1", "::1", "nonsense", "203.0.113.7:4711", "192.0.2.9:port"]
        {
            expect_elsewhere(get_from(client, address, &ada.token).await);
        }
        for address in
            [INSIDE, "2001:db8::1", "::ffff:192.0.2.9", "192.0.2.9:4711", "[2001:db8::1]:443"]
        {
            get_from(client, address, &ada.token).await.expect(StatusCode::OK);
        }
        // Only the last entry comes from the proxy.
        expect_elsewhere(get_from(client, &format!("{INSIDE}, {OUTSIDE}"), &ada.token).await);
    }
}

/// An administrator who allows only their own IP address does not lock out the owner.
#[tokio::test]
async fn owners_reach_the_security_settings_from_any_ip_address_and_nothing_else() {
    let world = World::with(PROXIED).await;
    let (ada, bob) = signed_in(&world).await;
    world
        .store
        .records::<Membership>(PlatformScope)
        .update(doc! { "user_id": user(&bob) }, doc! { "$set": { "role": "admin" } })
        .await
        .unwrap();
    world.announce(common::revocations::Revoked::Tenant(ada.tenant)).await;
    let put = from(&world.client, INSIDE, Method::PUT, SECURITY).bearer_auth(&ada.token);
    Answer::of(put.json(&rules(&json!({ "ip_allowlist": ["192.0.2.0/24"] }))))
        .await
        .expect(StatusCode::OK);

    let login = json!({ "email": ada.email, "password": PASSWORD, "token_delivery": "body" });
    let owner = post_from(&world, OUTSIDE, "/api/auth/login", &login).await.expect(StatusCode::OK);
    let refresh = json!({ "refresh_token": owner.json()["refresh_token"] });
    let owner =
        post_from(&world, OUTSIDE, "/api/auth/refresh", &refresh).await.expect(StatusCode::OK);
    let owner = owner.json();
    let as_owner =
        |method, path| from(&world.client, OUTSIDE, method, path).bearer_auth(token(&owner));
    for path in [ME, "/api/tenant/users"] {
        expect_elsewhere(Answer::of(as_owner(Method::GET, path)).await);
    }
    expect_elsewhere(get_from(&world.client, OUTSIDE, token(&bob)).await);
    let admin = from(&world.client, OUTSIDE, Method::GET, SECURITY).bearer_auth(token(&bob));
    expect_elsewhere(Answer::of(admin).await);

    let seen = Answer::of(as_owner(Method::GET, SECURITY)).await.expect(StatusCode::OK).json();
    assert_eq!(seen["ip_allowlist"], json!(["192.0.2.0/24"]));
    let proof = as_owner(Method::POST, "/api/auth/reauthenticate");
    Answer::of(proof.json(&json!({ "password": PASSWORD }))).await.expect(StatusCode::OK);
    let put = as_owner(Method::PUT, SECURITY).json(&rules(&json!({})));
    Answer::of(put).await.expect(StatusCode::OK);
    Answer::of(as_owner(Method::GET, ME)).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn without_a_trusted_proxy_forwarded_ip_addresses_are_ignored() {
    let (world, ada) = founded().await;
    set(&world, &ada, json!({ "ip_allowlist": ["127.0.0.1"] })).await;
    get_from(&world.client, OUTSIDE, &ada.token).await.expect(StatusCode::OK);
    let update = doc! { "$set": { "security.ip_allowlist": ["192.0.2.0/24"] } };
    world
        .store
        .records::<Tenant>(PlatformScope)
        .update(doc! { "_id": ada.tenant }, update)
        .await
        .unwrap();
    world.announce(common::revocations::Revoked::Tenant(ada.tenant)).await;
    world.client.expect_within_a_second(&ada.token, ME, StatusCode::FORBIDDEN).await;
    expect_elsewhere(get_from(&world.client, INSIDE, &ada.token).await);
}

#[tokio::test]
async fn a_change_that_locks_out_its_caller_is_rejected() {
    let (world, ada) = founded().await;
    for list in [json!(["192.0.2.0/24"]), json!(["::1", "10.0.0.0/8"]), json!(["127.0.0.2"])] {
        let refused = put(&world, &ada.token, &json!({ "ip_allowlist": list })).await;
        let refused = refused.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
        assert_eq!(refused.field_errors(), ["ip_allowlist:excludes_yourself"]);
    }
    assert_eq!(
        world.client.get_as(&ada.token, SECURITY).await.expect(StatusCode::OK).json(),
        rules(&json!({}))
    );
    set(&world, &ada, json!({ "ip_allowlist": ["192.0.2.0/24", "127.0.0.0/8"] })).await;
    world.client.get_as(&ada.token, ME).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn sign_ins_refreshes_and_switches_from_other_ip_addresses_are_rejected_without_loss() {
    let world = World::with(PROXIED).await;
    let (ada, bob) = signed_in(&world).await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    let put = from(&world.client, INSIDE, Method::PUT, SECURITY).bearer_auth(&ada.token);
    Answer::of(put.json(&rules(&json!({ "ip_allowlist": ["192.0.2.0/24"] }))))
        .await
        .expect(StatusCode::OK);

    let cookie = format!("refresh_token={}", bob["refresh_token"].as_str().unwrap());
    let by_cookie = |address: &str| {
        from(&world.client, address, Method::POST, "/api/auth/refresh").header("cookie", &cookie)
    };
    for _ in 0..3 {
        let refused = expect_elsewhere(Answer::of(by_cookie(OUTSIDE)).await);
        assert_eq!(refused.header("set-cookie"), "", "the cookie is kept");
    }
    let session: Session = world
        .store
        .records(PlatformScope)
        .find(doc! { "_id": bob["session"]["id"].as_str().unwrap() })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(session.refresh.unwrap().generation, 1, "and the token is not used up");
    Answer::of(by_cookie(INSIDE)).await.expect(StatusCode::OK);

    let login = json!({ "email": "bob@example.com", "password": PASSWORD });
    expect_elsewhere(post_from(&world, OUTSIDE, "/api/auth/login", &login).await);
    let wrong = json!({ "email": "bob@example.com", "password": "another password" });
    post_from(&world, OUTSIDE, "/api/auth/login", &wrong)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    post_from(&world, INSIDE, "/api/auth/login", &login).await.expect(StatusCode::OK);

    let invite = from(&world.client, INSIDE, Method::POST, "/api/tenant/users/invite")
        .bearer_auth(&ada.token);
    let invite = invite.json(&json!({ "email": "carl@example.com", "role": "viewer" }));
    Answer::of(invite).await.expect(StatusCode::CREATED);
    let accept = json!({ "token": link(&world, "carl@example.com").await, "name": "Carl", "password": PASSWORD });
    expect_elsewhere(post_from(&world, OUTSIDE, "/api/invitations/accept", &accept).await);
    post_from(&world, INSIDE, "/api/invitations/accept", &accept).await.expect(StatusCode::OK);

    // A member of another tenant signs in to that one, and stays there.
    join(&world, user(&bob), eve.tenant).await;
    let elsewhere =
        post_from(&world, OUTSIDE, "/api/auth/login", &login).await.expect(StatusCode::OK).json();
    assert_eq!(elsewhere["tenant"]["id"], json!(eve.tenant));
    let switch = async |address: &str| {
        let request = from(&world.client, address, Method::POST, "/api/auth/switch-tenant")
            .bearer_auth(token(&elsewhere));
        Answer::of(request.json(&json!({ "tenant_id": ada.tenant }))).await
    };
    expect_elsewhere(switch(OUTSIDE).await);
    get_from(&world.client, OUTSIDE, token(&elsewhere)).await.expect(StatusCode::OK);
    let here = switch(INSIDE).await.expect(StatusCode::OK).json();

    // The list does not lock anyone in: from outside, users can switch to another tenant and sign
    // out.
    get_from(&world.client, OUTSIDE, token(&here))
        .await
        .expect_problem(StatusCode::FORBIDDEN, "ip_not_allowed");
    let leave = from(&world.client, OUTSIDE, Method::POST, "/api/auth/switch-tenant")
        .bearer_auth(token(&here));
    Answer::of(leave.json(&json!({ "tenant_id": eve.tenant }))).await.expect(StatusCode::OK);
    let here =
        post_from(&world, INSIDE, "/api/auth/login", &login).await.expect(StatusCode::OK).json();
    for path in ["/api/auth/logout", "/api/auth/logout-all"] {
        let here = post_from(&world, INSIDE, "/api/auth/login", &login)
            .await
            .expect(StatusCode::OK)
            .json();
        let sign_out = from(&world.client, OUTSIDE, Method::POST, path).bearer_auth(token(&here));
        Answer::of(sign_out).await.expect(StatusCode::NO_CONTENT);
        get_from(&world.client, INSIDE, token(&here))
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    get_from(&world.client, INSIDE, token(&here))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

/// The access token expires within minutes, and from outside it cannot be refreshed.
#[tokio::test]
async fn members_sign_out_and_switch_from_anywhere_with_the_refresh_token_alone() {
    let world = World::with(PROXIED).await;
    let (ada, bob) = signed_in(&world).await;
    let people = People::of(&world).await;
    let eve = people.founder("eve@example.com").await;
    join(&world, user(&bob), eve.tenant).await;
    let put = from(&world.client, INSIDE, Method::PUT, SECURITY).bearer_auth(&ada.token);
    Answer::of(put.json(&rules(&json!({ "ip_allowlist": ["192.0.2.0/24"] }))))
        .await
        .expect(StatusCode::OK);
    let login = json!({ "email": "bob@example.com", "password": PASSWORD, "tenant_id": ada.tenant, "token_delivery": "body" });
    let sign_in = async || {
        post_from(&world, INSIDE, "/api/auth/login", &login).await.expect(StatusCode::OK).json()
    };
    let outside = |path: &str| {
        from(&world.client, OUTSIDE, Method::POST, path).bearer_auth("an expired access token")
    };
    for path in ["/api/auth/logout", "/api/auth/logout-all"] {
        for by_cookie in [true, false] {
            let here = sign_in().await;
            let refresh = here["refresh_token"].as_str().unwrap();
            let request = if by_cookie {
                outside(path).header("cookie", format!("refresh_token={refresh}"))
            } else {
                outside(path).json(&json!({ "refresh_token": refresh }))
            };
            let done = Answer::of(request).await.expect(StatusCode::NO_CONTENT);
            assert!(done.header("set-cookie").contains("Max-Age=0"), "{done:?}");
            get_from(&world.client, INSIDE, token(&here))
                .await
                .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
        }
    }

    let here = sign_in().await;
    let refresh = here["refresh_token"].as_str().unwrap().to_owned();
    let switch = |tenant: TenantId, refresh: &str| {
        let body = json!({ "tenant_id": tenant, "refresh_token": refresh });
        Answer::of(outside("/api/auth/switch-tenant").json(&body))
    };
    // A rejected switch leaves everything as it was.
    expect_elsewhere(switch(ada.tenant, &refresh).await);
    switch(absent(), &refresh).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    let there = switch(eve.tenant, &refresh).await.expect(StatusCode::OK).json();
    assert_eq!(there["tenant"]["id"], json!(eve.tenant));
    get_from(&world.client, OUTSIDE, token(&there)).await.expect(StatusCode::OK);
    let next = there["refresh_token"].as_str().unwrap();
    assert_ne!(next, refresh, "the token was exchanged");
    let again = post_from(&world, OUTSIDE, "/api/auth/refresh", &json!({ "refresh_token": next }))
        .await
        .expect(StatusCode::OK)
        .json();
    assert_eq!(again["tenant"]["id"], json!(eve.tenant));
}

#[tokio::test]
async fn new_passwords_must_satisfy_the_strictest_tenant_of_the_user() {
    let world = World::new().await;
    let (ada, bob) = signed_in(&world).await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    join(&world, user(&bob), eve.tenant).await;
    set(&world, &ada, json!({ "password_min_length": 12 })).await;
    set(&world, &eve, json!({ "password_min_length": 16 })).await;
    let (fifteen, sixteen) = ("k7!vq-Zr2#mXw9&", "k7!vq-Zr2#mXw9&é");
    let too_short = |answer: Answer, field: &str| {
        let refused = answer.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
        assert_eq!(refused.field_errors(), [format!("{field}:too_short")]);
        assert!(refused.body.contains("at least 16 characters"), "{refused:?}");
    };

    let change = async |new: &str| {
        let body = json!({ "current_password": PASSWORD, "new_password": new });
        world.client.post_body_as(token(&bob), "/api/auth/password/change", &body).await
    };
    too_short(change(fifteen).await, "new_password");
    change(sixteen).await.expect(StatusCode::NO_CONTENT);

    let (ttl, cooldown) = (Duration::from_hours(1), Duration::ZERO);
    let prepare =
        Prepare { key: &world.key, user: user(&bob), job: world.store.clock().id(), ttl, cooldown };
    let reset: PasswordReset = world.commit(&prepare).await.unwrap().1.unwrap();
    let mailed = reset.link_token(&world.key).expose().to_owned();
    let reset = async |new: &str| {
        world
            .client
            .post("/api/auth/password/reset", &json!({ "token": mailed, "password": new }))
            .await
    };
    too_short(reset(fifteen).await, "password");
    reset(sixteen).await.expect(StatusCode::NO_CONTENT);

    let invite = json!({ "email": "carl@example.com", "role": "viewer" });
    world
        .client
        .post_body_as(&eve.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    let invited = link(&world, "carl@example.com").await;
    let accept = async |password: &str| {
        let body = json!({ "token": invited, "name": "Carl", "password": password });
        world.client.post("/api/invitations/accept", &body).await
    };
    too_short(accept(fifteen).await, "password");
    accept(sixteen).await.expect(StatusCode::OK);

    // Existing passwords remain valid, and users of other tenants are not affected.
    let dan = People::of(&world).await.founder("dan@example.com").await;
    let body = json!({ "current_password": PASSWORD, "new_password": "k7!vq-Zr2" });
    world
        .client
        .post_body_as(&dan.token, "/api/auth/password/change", &body)
        .await
        .expect(StatusCode::NO_CONTENT);
    world.login("eve@example.com", PASSWORD).await.expect(StatusCode::OK);
}

/// The token in the latest mail to the email address.
async fn link(world: &World, email: &str) -> String {
    let found = world
        .store
        .records::<Invitation>(PlatformScope)
        .find(doc! { "email_norm": email })
        .await
        .unwrap();
    found.expect("the address is invited").link_token(&world.key).expose().to_owned()
}

#[tokio::test]
async fn only_emails_at_the_allowed_domains_are_invited_and_join() {
    let (world, ada) = founded().await;
    let invite = async |email: &str| {
        let body = json!({ "email": email, "role": "viewer" });
        world.client.post_body_as(&ada.token, "/api/tenant/users/invite", &body).await
    };
    let early = invite("early@elsewhere.example").await.expect(StatusCode::CREATED).json();
    set(&world, &ada, json!({ "allowed_email_domains": ["example.com", "example.org"] })).await;

    for email in ["bob@elsewhere.example", "bob@sub.example.com", "bob@notexample.com"] {
        let refused = invite(email)
            .await
            .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "email_domain_not_allowed");
        assert_eq!(refused.field_errors(), ["email:email_domain_not_allowed"]);
    }
    invite("bob@EXAMPLE.com").await.expect(StatusCode::CREATED);
    // The link of an earlier invitation is not sent either.
    let _worker = world.env.spawn_worker().await;
    world.until_nothing_is_due().await;
    let mailed: Vec<Vec<String>> =
        world.env.mail().messages().into_iter().map(|mail| mail.to).collect();
    assert_eq!(mailed, [["bob@EXAMPLE.com"]]);

    let path =
        format!("/api/tenant/invitations/{}/resend", early["invitation"]["id"].as_str().unwrap());
    let resent = world.client.post_as(&ada.token, &path).await;
    resent.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "email_domain_not_allowed");

    // A person who was invited before cannot join, unless the rule changes.
    let token = link(&world, "early@elsewhere.example").await;
    let body = json!({ "token": token, "name": "Early", "password": PASSWORD });
    let accept = async || world.client.post("/api/invitations/accept", &body).await;
    accept().await.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "email_domain_not_allowed");
    set(&world, &ada, json!({ "allowed_email_domains": ["elsewhere.example"] })).await;
    accept().await.expect(StatusCode::OK);
    // Existing members remain.
    world.client.get_as(&ada.token, ME).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn each_line_of_a_list_is_checked_against_the_allowed_domains() {
    let (world, ada) = founded().await;
    set(&world, &ada, json!({ "allowed_email_domains": ["example.com"] })).await;
    let lines = json!({ "invitations": [
        { "email": "bob@example.com", "role": "viewer" },
        { "email": "carl@elsewhere.example", "role": "viewer" },
    ] });
    let bulk = "/api/tenant/invitations/bulk";
    let given = world
        .client
        .post_body_as(&ada.token, bulk, &lines)
        .await
        .expect(StatusCode::ACCEPTED)
        .json();
    let path = format!("{bulk}/{}", given["id"].as_str().unwrap());
    let _worker = world.env.spawn_worker().await;
    let done = eventually("the list is complete", async || {
        let list = world.client.get_as(&ada.token, &path).await.expect(StatusCode::OK).json();
        list["completed_at"].is_string().then_some(list)
    })
    .await;
    let statuses: Vec<&Value> =
        done["items"].as_array().unwrap().iter().map(|line| &line["status"]).collect();
    assert_eq!(statuses, ["invited", "email_domain_not_allowed"]);
    assert_eq!(world.count::<Invitation>().await, 1);
}

#[tokio::test]
async fn the_rules_of_one_tenant_do_not_affect_another() {
    let world = World::with(PROXIED).await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let strict = json!({
        "require_mfa": true,
        "session_idle_minutes": 5,
        "session_absolute_hours": 1,
        "password_min_length": 64,
        "allowed_email_domains": ["example.org"],
        "ip_allowlist": ["192.0.2.0/24"],
    });
    give_second_factor(&world, &ada).await;
    let put = from(&world.client, INSIDE, Method::PUT, SECURITY).bearer_auth(&ada.token);
    Answer::of(put.json(&rules(&strict))).await.expect(StatusCode::OK);
    let theirs = get_from(&world.client, OUTSIDE, &eve.token).await.expect(StatusCode::OK).json();
    assert_eq!(
        seconds_between(&theirs["session"]["created_at"], &theirs["session"]["expires_at"]),
        2 * 3_600
    );
    assert_eq!(world.client.get_as(&eve.token, SECURITY).await.json(), rules(&json!({})));
    let invite = json!({ "email": "bob@example.com", "role": "viewer" });
    world
        .client
        .post_body_as(&eve.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    set(&world, &eve, json!({ "require_mfa": false })).await;
    assert!(
        tenant(&world, ada.tenant).await.security.require_mfa
            && !tenant(&world, eve.tenant).await.security.require_mfa
    );
}
