//! Signing in and out, and reading the account of the caller.

use common::{db::PlatformScope, origin::Principal, revocations::Revoked};
use domain::{
    activity::{AuditContext, Event},
    people::{sessions::Session, users::User},
    tenancy::{
        memberships::Membership,
        roles::{Permission, Role},
        tenants::Tenant,
    },
};
use mongodb::bson::{Document, doc};
use reqwest::{Method, StatusCode, header::HeaderValue};
use serde_json::{Value, json};

use crate::support::{Answer, PASSWORD, World, eventually};

/// The session that signing in with these headers begins, as it is listed.
async fn session_of(world: &World, name: &'static str, value: &[u8]) -> Value {
    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    let request = world.client.request(Method::POST, "/api/auth/login").json(&login);
    let request = request.header(name, HeaderValue::from_bytes(value).unwrap());
    let login = Answer::of(request).await.expect(StatusCode::OK).json();
    let token = login["access_token"].as_str().unwrap();
    world.client.get_as(token, "/api/auth/me").await.expect(StatusCode::OK).json()["session"].take()
}

#[tokio::test]
async fn a_device_is_named_also_by_bytes_beyond_ascii() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    for (sent, kept) in [
        ("Mœzilla/5.0 (日本語)".as_bytes(), "Mœzilla/5.0 (日本語)"),
        (b"Mozilla/5.0 (\xe9t\xe9)", "Mozilla/5.0 (\u{fffd}t\u{fffd})"),
        ("Mozilla\u{9b}2J/5.0".as_bytes(), "Mozilla2J/5.0"),
    ] {
        assert_eq!(session_of(&world, "user-agent", sent).await["device"], kept);
    }
    let endless = "é".repeat(20_000);
    let device = session_of(&world, "user-agent", endless.as_bytes()).await["device"].take();
    assert_eq!(device.as_str().unwrap(), "é".repeat(200));
}

#[tokio::test]
async fn bytes_that_a_client_sends_do_not_hide_the_address_that_a_proxy_appends() {
    let world = World::with(&[("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1")]).await;
    world.make_account("ada@example.com").await;
    for forwarded in [b"192.0.2.7".as_slice(), b"\xff, 192.0.2.7", b"198.51.100.7, \xe9, 192.0.2.7"]
    {
        assert_eq!(session_of(&world, "x-forwarded-for", forwarded).await["ip"], "192.0.2.7");
    }
}

#[tokio::test]
async fn only_the_correct_password_reveals_that_the_email_is_not_verified() {
    let world = World::new().await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    world
        .login("ada@example.com", PASSWORD)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "email_not_verified");
    let wrong = world
        .login("ada@example.com", "wrong horse")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    let unknown = world
        .login("nobody@example.com", "wrong horse")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    assert_eq!(wrong.without_id(), unknown.without_id());
    assert_eq!(world.count::<Session>().await, 0);
}

#[tokio::test]
async fn after_verification_the_correct_password_starts_a_session() {
    let world = World::new().await;
    world.make_account("Ada@example.com").await;
    world
        .login("ada@example.com", "")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    world
        .login("ada@example.com", &format!("{PASSWORD} "))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    assert_eq!(world.count::<Session>().await, 0);

    let body = json!({ "email": "ADA@example.com", "password": PASSWORD, "remember_me": true, "token_delivery": "body" });
    let login = world.client.post("/api/auth/login", &body).await.expect(StatusCode::OK).json();
    assert_eq!(login["token_type"], "Bearer");
    assert_eq!(login["expires_in"], 900);
    assert_eq!(login["user"]["email"], "Ada@example.com");
    assert_eq!(login["tenant"]["slug"], "analytical-engines");
    assert_eq!(login["tenants"], json!([login["tenant"]]));
    assert!(login["refresh_token"].as_str().unwrap().starts_with("rt_"));

    let sessions: Vec<Session> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 2).await.unwrap();
    assert_eq!(sessions.len(), 1);
    let event = doc! { "action": "session.created", "targets": sessions[0].id, "actor": sessions[0].user_id, "tenant_id": sessions[0].tenant_id };
    assert_eq!(world.events(event).await, 1);
}

/// A client may put anything into `X-Request-Id` and `User-Agent`.
#[tokio::test]
async fn events_contain_nothing_that_identifies_a_person() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    let login = world.client.request(Method::POST, "/api/auth/login");
    let login = login
        .header("x-request-id", "ada.lovelace")
        .header("user-agent", "Phone of Ada")
        .json(&json!({ "email": "ada@example.com", "password": PASSWORD }));
    Answer::of(login).await.expect(StatusCode::OK);
    let created = doc! { "action": "session.created" };
    let event: Event = world.store.records(PlatformScope).find(created).await.unwrap().unwrap();
    assert_eq!(event.deed.job_id, None);
    let kept = world.store.records::<AuditContext>(PlatformScope);
    let context = kept.find(doc! { "_id": event.id }).await.unwrap().unwrap();
    assert_eq!(context.user_id.map(|user| Principal::User(user).into()), event.deed.actor);
    let texts = [
        context.ip.unwrap(),
        context.name.unwrap(),
        context.user_agent.unwrap(),
        context.request_id.unwrap(),
    ];
    assert_eq!(texts, ["127.0.0.1", "Ada Lovelace", "Phone of Ada", "ada.lovelace"]);
    let raw = world.raw().await;
    for collection in ["activity_events", "platform_events"] {
        let mut rows = raw.collection::<Document>(collection).find(doc! {}).await.unwrap();
        assert!(rows.advance().await.unwrap(), "{collection} has events");
        loop {
            let row = rows.deserialize_current().unwrap().to_string();
            for text in texts.iter().map(String::as_str).chain(["@example.com"]) {
                assert!(!row.contains(text), "{text}: {row}");
            }
            if !rows.advance().await.unwrap() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn personal_data_about_events_expires_also_without_a_user() {
    let world = World::new().await;
    let contexts = world.raw().await.collection::<Document>("audit_contexts");
    let mut indexes = contexts.list_indexes().await.unwrap();
    let mut expire_at = Vec::new();
    while indexes.advance().await.unwrap() {
        let index = indexes.deserialize_current().unwrap();
        if index.options.is_some_and(|options| options.expire_after.is_some()) {
            expire_at.push(index.keys);
        }
    }
    // `at` is required in every row.
    assert_eq!(expire_at, [doc! { "at": 1 }]);
}

#[tokio::test]
async fn registering_a_known_email_again_does_not_change_its_password() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    let body = json!({ "email": "ada@example.com", "password": "another password", "name": "Eve", "tenant_name": "Eve" });
    world.client.post("/api/auth/register", &body).await.expect(StatusCode::ACCEPTED);
    world
        .login("ada@example.com", "another password")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    world.login("ada@example.com", PASSWORD).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn passwords_of_any_characters_work_and_are_not_truncated() {
    let world = World::new().await;
    let password = "pass phrase ŵïth \u{0} spaces 🔑 and 'quotes\" ".repeat(4);
    let body = json!({ "email": "ada@example.com", "password": password, "name": "Ada", "tenant_name": "Engines" });
    world.client.post("/api/auth/register", &body).await.expect(StatusCode::ACCEPTED);
    let token = world.link_token("ada@example.com").await;
    world
        .client
        .post("/api/auth/verify-email", &json!({ "token": token }))
        .await
        .expect(StatusCode::OK);
    world.login("ada@example.com", &password).await.expect(StatusCode::OK);
    world
        .login("ada@example.com", password.trim_end())
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
}

#[tokio::test]
async fn a_user_signs_in_only_to_own_active_tenants() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    world.make_account("eve@example.com").await;
    let tenants: Vec<Tenant> =
        world.store.records(PlatformScope).list(doc! {}, doc! { "_id": 1 }, 2).await.unwrap();
    let login_to = async |tenant: &str| {
        let body = json!({ "email": "ada@example.com", "password": PASSWORD, "tenant_id": tenant });
        world.client.post("/api/auth/login", &body).await
    };
    let login = login_to(&tenants[0].id.to_string()).await.expect(StatusCode::OK).json();
    assert_eq!(login["tenant"]["id"], tenants[0].id.to_string());
    let foreign = login_to(&tenants[1].id.to_string())
        .await
        .expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    let absent = login_to("ten_0192a0b8c0de7000800000000000cafe")
        .await
        .expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    assert_eq!(foreign.without_id(), absent.without_id());
    login_to("usr_0192a0b8c0de7000800000000000cafe")
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
}

#[tokio::test]
async fn suspending_a_tenant_ends_its_sessions_and_sign_ins_at_once() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let suspend = doc! { "$set": { "status": "suspended" } };
    let tenants = world.store.records::<Tenant>(PlatformScope);
    let tenant = tenants.find_and_update(doc! {}, suspend).await.unwrap().unwrap();
    world.announce(Revoked::Tenant(tenant.id)).await;
    world
        .client
        .expect_refused_within_a_second(&token)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "tenant_suspended");
    world
        .login("ada@example.com", PASSWORD)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "tenant_suspended");
    world
        .login("ada@example.com", "wrong horse")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
}

#[tokio::test]
async fn members_of_a_suspended_tenant_can_sign_out() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    let body =
        json!({ "email": "ada@example.com", "password": PASSWORD, "token_delivery": "body" });
    let set_status = async |status: &str| {
        let tenants = world.store.records::<Tenant>(PlatformScope);
        tenants.update(doc! {}, doc! { "$set": { "status": status } }).await.unwrap();
    };
    for path in ["/api/auth/logout", "/api/auth/logout-all"] {
        for by_access_token in [true, false] {
            let login =
                world.client.post("/api/auth/login", &body).await.expect(StatusCode::OK).json();
            set_status("suspended").await;
            let request = world.client.request(Method::POST, path);
            let request = if by_access_token {
                request.bearer_auth(login["access_token"].as_str().unwrap())
            } else {
                request.json(&json!({ "refresh_token": login["refresh_token"] }))
            };
            Answer::of(request).await.expect(StatusCode::NO_CONTENT);
            let sessions = world.store.records::<Session>(PlatformScope);
            let live = sessions.find(doc! { "revoked_at": null }).await.unwrap();
            assert!(live.is_none(), "{path}");
            set_status("active").await;
        }
    }
}

#[tokio::test]
async fn removing_a_member_or_a_user_ends_their_sessions_at_once() {
    let world = World::new().await;
    let ada = world.signed_in("ada@example.com").await;
    let membership =
        world.store.records::<Membership>(PlatformScope).take(doc! {}).await.unwrap().unwrap();
    world.announce(Revoked::Member(membership.tenant_id, membership.user_id)).await;
    world
        .client
        .expect_refused_within_a_second(&ada)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    let eve = world.signed_in("eve@example.com").await;
    let user = world
        .store
        .records::<User>(PlatformScope)
        .take(doc! { "email_norm": "eve@example.com" })
        .await
        .unwrap()
        .unwrap();
    world.announce(Revoked::User(user.id)).await;
    world
        .client
        .expect_refused_within_a_second(&eve)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn signing_out_ends_only_that_session_on_every_process() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    let token = world.signed_in("ada@example.com").await;
    let other = world.login("ada@example.com", PASSWORD).await.json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    second.get_as(&token, "/api/auth/me").await.expect(StatusCode::OK);

    world.client.post_as(&token, "/api/auth/logout").await.expect(StatusCode::NO_CONTENT);

    for client in [&second, &world.client] {
        let refused = client
            .expect_refused_within_a_second(&token)
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
        assert_eq!(refused.header("www-authenticate"), "Bearer error=\"invalid_token\"");
        client.get_as(&other, "/api/auth/me").await.expect(StatusCode::OK);
    }
    world
        .client
        .post_as(&token, "/api/auth/logout")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    let revoked = doc! { "action": "session.revoked" };
    assert_eq!(world.events(revoked).await, 1);
}

#[tokio::test]
async fn me_returns_the_user_the_tenant_and_the_permissions() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let request = world.client.request(Method::GET, "/api/auth/me").bearer_auth(&token);
    let me = Answer::of(request).await.expect(StatusCode::OK).json();
    assert_eq!(me["user"]["name"], "Ada Lovelace");
    assert_eq!(me["tenant"]["name"], "Analytical Engines");
    assert_eq!(me["role"], "owner");
    assert_eq!(me["permissions"], json!(Role::Owner.permissions()));
    assert!(me["session"]["id"].as_str().unwrap().starts_with("ses_"));
    let text = me.to_string();
    assert!(!text.contains("password") && !text.contains("argon2"), "{text}");
}

#[tokio::test]
async fn the_current_tenant_is_returned_with_an_etag() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let tenant = world.client.get_as(&token, "/api/tenant/current").await.expect(StatusCode::OK);
    let shown = tenant.json();
    let mut names: Vec<&String> = shown.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(
        names,
        ["branding", "created_at", "id", "name", "plan", "settings", "slug", "status"]
    );
    assert_eq!(tenant.header("cache-control"), "no-store");
    assert_eq!((&shown["status"], &shown["plan"]), (&json!("active"), &json!("free")));

    let etag = tenant.header("etag").to_owned();
    let conditional = world
        .client
        .request(Method::GET, "/api/tenant/current")
        .bearer_auth(&token)
        .header("if-none-match", &etag);
    let unchanged =
        Answer::of(conditional.try_clone().unwrap()).await.expect(StatusCode::NOT_MODIFIED);
    assert_eq!((unchanged.body.as_str(), unchanged.header("etag")), ("", etag.as_str()));
    let rename = doc! { "$set": { "name": "Difference Engines" } };
    let renamed = world
        .store
        .records::<Tenant>(PlatformScope)
        .find_and_update(doc! {}, rename)
        .await
        .unwrap()
        .unwrap();
    world.announce(Revoked::Tenant(renamed.id)).await;
    let changed = eventually("the new name is shown", async || {
        let answer = Answer::of(conditional.try_clone().unwrap()).await;
        (answer.status == StatusCode::OK).then_some(answer)
    })
    .await;
    assert_ne!(changed.header("etag"), etag);
}

#[tokio::test]
async fn every_built_in_role_can_read_its_own_tenant_only() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    for role in ["owner", "admin", "member", "billing", "viewer"] {
        let change = doc! { "$set": { "role": role } };
        let membership = world
            .store
            .records::<Membership>(PlatformScope)
            .find_and_update(doc! {}, change)
            .await
            .unwrap()
            .unwrap();
        world.announce(Revoked::Member(membership.tenant_id, membership.user_id)).await;
        world.client.get_as(&token, "/api/tenant/current").await.expect(StatusCode::OK);
        let me = eventually("the role has changed", async || {
            let me =
                world.client.get_as(&token, "/api/auth/me").await.expect(StatusCode::OK).json();
            (me["role"] == role).then_some(me)
        })
        .await;
        assert!(me["permissions"].as_array().unwrap().contains(&json!(Permission::TenantRead)));
    }
    let stranger = world
        .client
        .get("/api/tenant/current")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    assert_eq!(stranger.header("www-authenticate"), "Bearer");
}
