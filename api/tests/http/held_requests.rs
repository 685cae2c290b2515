//! Requests that were accepted while their caller was signed in, and completed after the sign-out.
//! They must have no effect.

use common::db::TenantScope;
use domain::{
    identity::sign_out::EndSession,
    tenancy::{
        actor::{Acted, Acting, Credentials},
        roles::{Permission, Role},
        tenant_security::sessions_of,
    },
};
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    people::{People, absent},
    support::{PASSWORD, World, eventually},
    tenancy::invitations,
};

/// A request without its last byte.
struct Held {
    stream: TcpStream,
    last: u8,
}

impl Held {
    async fn begin(world: &World, method: &str, path: &str, token: &str, body: &Value) -> Self {
        let body = body.to_string();
        let (most, last) = body.as_bytes().split_at(body.len() - 1);
        let address = world.api.url().trim_start_matches("http://").to_owned();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[head.as_bytes(), most].concat()).await.unwrap();
        Self { stream, last: last[0] }
    }

    /// The status code and the rest of the response.
    async fn finish(mut self) -> (u16, String) {
        self.stream.write_all(&[self.last]).await.unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).await.unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }
}

/// Waits until this many requests are in progress.
async fn in_work(world: &World, count: usize) {
    eventually("all requests are in progress", async || {
        let now = world.metric("tenantry_http_requests_in_flight").await;
        (now >= f64::from(u32::try_from(count).unwrap())).then_some(())
    })
    .await;
}

/// Begins requests, each a method, a path and a body, and waits until all are in progress.
async fn begin_all(world: &World, token: &str, requests: &[(&str, &str, Value)]) -> Vec<Held> {
    let begun =
        requests.iter().map(|(method, path, body)| Held::begin(world, method, path, token, body));
    let held = join_all(begun).await;
    in_work(world, requests.len()).await;
    held
}

#[tokio::test]
async fn a_request_that_began_before_the_sign_out_changes_nothing_after_it() {
    let world = World::spawned(&[]).await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Member).await;
    let rules =
        world.client.get_as(&ada.token, "/api/tenant/security").await.expect(StatusCode::OK).json();
    let member = format!("/api/tenant/users/{}", bob.user);
    let requests = [
        ("POST", "/api/tenant/roles", json!({ "name": "A role", "permissions": [] })),
        (
            "POST",
            "/api/tenant/users/invite",
            json!({ "email": "eve@example.com", "role": "owner" }),
        ),
        ("PUT", "/api/tenant/security", rules),
        ("PUT", member.as_str(), json!({ "role": "owner" })),
        ("POST", "/api/tenant/ownership-transfers", json!({ "user_id": bob.user })),
        ("POST", "/api/auth/email/change", json!({ "new_email": "eve@example.com" })),
        (
            "POST",
            "/api/auth/password/change",
            json!({ "current_password": PASSWORD, "new_password": "a quite different set of words" }),
        ),
        ("POST", "/api/auth/reauthenticate", json!({ "password": PASSWORD })),
        ("POST", "/api/auth/switch-tenant", json!({ "tenant_id": ada.tenant })),
        (
            "POST",
            "/api/tenant/invitations/bulk",
            json!({ "invitations": [{ "email": "eve@example.com", "role": "admin" }] }),
        ),
    ];
    let held = begin_all(&world, &ada.token, &requests).await;
    world.client.post_as(&ada.token, "/api/auth/logout").await.expect(StatusCode::NO_CONTENT);
    for (held, request) in held.into_iter().zip(requests) {
        let (status, answer) = held.finish().await;
        assert_eq!(status, 401, "{request:?}: {answer}");
    }
    assert_eq!(people.role(&bob).await, Some(Role::Member.into()));
    assert_eq!(world.count::<domain::tenancy::invitations::Invitation>().await, 0);
    world.login("ada@example.com", PASSWORD).await.expect(StatusCode::OK);
}

/// The body of a request may take seconds, in which the caller's role changes.
#[tokio::test]
async fn held_requests_of_a_demoted_admin_are_forbidden() {
    let world = World::spawned(&[]).await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    let carl = people.join(&ada, "carl@example.com", Role::Viewer).await;
    let rules =
        world.client.get_as(&ada.token, "/api/tenant/security").await.expect(StatusCode::OK).json();
    let member = format!("/api/tenant/users/{}", carl.user);
    let requests = [
        ("POST", "/api/tenant/roles", json!({ "name": "A role", "permissions": [] })),
        (
            "POST",
            "/api/tenant/users/invite",
            json!({ "email": "eve@example.com", "role": "viewer" }),
        ),
        ("PUT", "/api/tenant/security", rules),
        ("PUT", member.as_str(), json!({ "role": "member" })),
        (
            "POST",
            "/api/tenant/invitations/bulk",
            json!({ "invitations": [{ "email": "eve@example.com", "role": "viewer" }] }),
        ),
        (
            "POST",
            "/api/tenant/invite-links",
            json!({ "role": "viewer", "domains": ["example.com"] }),
        ),
        ("POST", "/api/tenant/domains", json!({ "domain": "example.com" })),
    ];
    let held = begin_all(&world, &bob.token, &requests).await;
    let bobs = format!("/api/tenant/users/{}", bob.user);
    world
        .client
        .put_as(&ada.token, &bobs, &json!({ "role": "viewer" }))
        .await
        .expect(StatusCode::OK);
    for (held, request) in held.into_iter().zip(requests) {
        let (status, answer) = held.finish().await;
        assert_eq!(status, 403, "{request:?}: {answer}");
    }
    assert_eq!(people.role(&carl).await, Some(Role::Viewer.into()));
    assert_eq!(world.count::<domain::tenancy::invitations::Invitation>().await, 0);
}

/// Between the check of a request and its change, the caller may sign out or get another role.
#[tokio::test]
async fn a_change_reads_the_session_and_the_permission_again() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    let session = sessions_of(&world.store, bob.user).await.unwrap()[0].id;
    let scope = TenantScope::of_job(bob.tenant);
    let change = EndSession { session: absent(), user: bob.user, scope: Some(scope) };
    let acting = Acting {
        by: Credentials::Session { session, user: bob.user, tenant: Some(bob.tenant) },
        needs: Some((Permission::UsersInvite, scope)),
        change: &change,
    };
    let acted = async || world.commit(&acting).await.unwrap();
    assert!(matches!(acted().await, Acted::Done(false)));
    let bobs = format!("/api/tenant/users/{}", bob.user);
    world
        .client
        .put_as(&ada.token, &bobs, &json!({ "role": "viewer" }))
        .await
        .expect(StatusCode::OK);
    assert!(matches!(acted().await, Acted::Forbidden(Permission::UsersInvite)));
    world.client.post_as(&bob.token, "/api/auth/logout").await.expect(StatusCode::NO_CONTENT);
    assert!(matches!(acted().await, Acted::SignedOut));
}

/// A session that began with the password alone must not get around the second factor that its
/// owner sets up meanwhile.
#[tokio::test]
async fn accepting_an_invitation_with_an_ended_session_starts_no_session() {
    let world = World::spawned(&[]).await;
    let people = People::of(&world).await;
    let (ada, owner) =
        (people.founder("ada@example.com").await, people.founder("owner@example.com").await);
    let invite = json!({ "email": "ada@example.com", "role": "member" });
    world
        .client
        .post_body_as(&owner.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    let accept = json!({ "token": invitations::link(&world, "ada@example.com").await, "token_delivery": "body" });
    let held = Held::begin(&world, "POST", "/api/invitations/accept", &ada.token, &accept).await;
    in_work(&world, 1).await;
    let other = people.token(ada.user, ada.tenant).await;
    world.client.post_as(&other, "/api/auth/logout-all").await.expect(StatusCode::NO_CONTENT);
    let (status, answer) = held.finish().await;
    assert_eq!(status, 401, "{answer}");
    let live = sessions_of(&world.store, ada.user).await.unwrap();
    assert!(live.is_empty(), "{live:?}");
}
