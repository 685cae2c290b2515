//! Every route of the OpenAPI document × every role × every kind of token, against a matrix that is
//! written down here once more: a route or a permission that is added must be added here, or these
//! tests fail.

use std::collections::BTreeSet;

use common::id::{self, TenantId};
use domain::tenancy::roles::{Permission, Role};
use mongodb::bson::{DateTime, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::testing::Service;

use crate::{
    people::{People, Person, absent},
    support::{Answer, PASSWORD, World, eventually},
};

const OPEN: &str = "open";
const SIGNED_IN: &str = "signed in";

/// What each route demands.
const ROUTES: &[(&str, &str, &str)] = &[
    ("get", "/.well-known/jwks.json", OPEN),
    ("post", "/api/auth/email/cancel", OPEN),
    ("post", "/api/auth/email/change", SIGNED_IN),
    ("post", "/api/auth/email/confirm", OPEN),
    ("post", "/api/auth/join-tenant", SIGNED_IN),
    ("get", "/api/auth/joinable-tenants", SIGNED_IN),
    ("post", "/api/auth/login", OPEN),
    ("post", "/api/auth/logout", SIGNED_IN),
    ("post", "/api/auth/logout-all", SIGNED_IN),
    ("get", "/api/auth/me", SIGNED_IN),
    ("get", "/api/auth/mfa", SIGNED_IN),
    ("post", "/api/auth/mfa/passkeys", SIGNED_IN),
    ("post", "/api/auth/mfa/passkeys/enroll", SIGNED_IN),
    ("delete", "/api/auth/mfa/passkeys/{id}", SIGNED_IN),
    ("post", "/api/auth/mfa/recovery-codes", SIGNED_IN),
    ("delete", "/api/auth/mfa/totp", SIGNED_IN),
    ("post", "/api/auth/mfa/totp/confirm", SIGNED_IN),
    ("post", "/api/auth/mfa/totp/enroll", SIGNED_IN),
    ("post", "/api/auth/mfa/verify", OPEN),
    ("post", "/api/auth/passkeys/login", OPEN),
    ("post", "/api/auth/passkeys/options", OPEN),
    ("post", "/api/auth/password/change", SIGNED_IN),
    ("post", "/api/auth/password/forgot", OPEN),
    ("post", "/api/auth/password/reset", OPEN),
    ("post", "/api/auth/reauthenticate", SIGNED_IN),
    ("post", "/api/auth/refresh", OPEN),
    ("post", "/api/auth/register", OPEN),
    ("get", "/api/auth/sessions", SIGNED_IN),
    ("delete", "/api/auth/sessions/{id}", SIGNED_IN),
    ("post", "/api/auth/switch-tenant", SIGNED_IN),
    ("post", "/api/auth/verify-email", OPEN),
    ("post", "/api/auth/verify-email/resend", OPEN),
    ("post", "/api/invitations/accept", OPEN),
    ("get", "/api/invitations/{token}", OPEN),
    ("post", "/api/invite-links/join", OPEN),
    ("get", "/api/invite-links/{token}", OPEN),
    ("get", "/api/tenant/current", "tenant:read"),
    ("get", "/api/tenant/domains", "security:write"),
    ("post", "/api/tenant/domains", "security:write"),
    ("delete", "/api/tenant/domains/{id}", "security:write"),
    ("put", "/api/tenant/domains/{id}", "security:write"),
    ("post", "/api/tenant/domains/{id}/verify", "security:write"),
    ("get", "/api/tenant/invitations", "users:invite"),
    ("post", "/api/tenant/invitations/bulk", "users:invite"),
    ("get", "/api/tenant/invitations/bulk/{id}", "users:invite"),
    ("delete", "/api/tenant/invitations/{id}", "users:invite"),
    ("post", "/api/tenant/invitations/{id}/resend", "users:invite"),
    ("get", "/api/tenant/invite-links", "users:invite"),
    ("post", "/api/tenant/invite-links", "users:invite"),
    ("delete", "/api/tenant/invite-links/{id}", "users:invite"),
    ("get", "/api/tenant/ownership-transfers", SIGNED_IN),
    ("post", "/api/tenant/ownership-transfers", "tenant:transfer"),
    ("delete", "/api/tenant/ownership-transfers/{id}", SIGNED_IN),
    ("post", "/api/tenant/ownership-transfers/{id}/accept", SIGNED_IN),
    ("get", "/api/tenant/roles", "roles:write"),
    ("post", "/api/tenant/roles", "roles:write"),
    ("delete", "/api/tenant/roles/{id}", "roles:write"),
    ("get", "/api/tenant/roles/{id}", "roles:write"),
    ("put", "/api/tenant/roles/{id}", "roles:write"),
    ("get", "/api/tenant/security", "security:write"),
    ("put", "/api/tenant/security", "security:write"),
    ("get", "/api/tenant/users", "users:read"),
    ("post", "/api/tenant/users/invite", "users:invite"),
    ("delete", "/api/tenant/users/me", SIGNED_IN),
    ("delete", "/api/tenant/users/{id}", "users:delete"),
    ("put", "/api/tenant/users/{id}", "users:write"),
];

/// Which built-in roles hold each permission.
const HOLDERS: &[(&str, &[&str])] = &[
    ("tenant:read", &["owner", "admin", "member", "billing", "viewer"]),
    ("tenant:write", &["owner", "admin"]),
    ("tenant:delete", &["owner"]),
    ("tenant:transfer", &["owner"]),
    ("users:read", &["owner", "admin", "member", "viewer"]),
    ("users:invite", &["owner", "admin"]),
    ("users:write", &["owner", "admin"]),
    ("users:delete", &["owner", "admin"]),
    ("roles:write", &["owner", "admin"]),
    ("activity:read", &["owner", "admin"]),
    ("security:write", &["owner", "admin"]),
    ("branding:write", &["owner", "admin"]),
    ("api_keys:write", &["owner", "admin"]),
    ("billing:read", &["owner", "admin", "billing"]),
    ("billing:write", &["owner", "admin", "billing"]),
    ("usage:read", &["owner", "admin", "member", "billing", "viewer"]),
    ("usage:write", &["owner", "admin"]),
];

fn holds(role: Role, permission: &str) -> bool {
    let (_, holders) = HOLDERS
        .iter()
        .find(|(name, _)| *name == permission)
        .unwrap_or_else(|| panic!("{permission} is not in the table"));
    holders.contains(&role.as_str())
}

/// One operation of the document.
#[derive(Debug, Clone)]
struct Operation {
    method: Method,
    path: String,
    says: Value,
}

impl Operation {
    async fn all(world: &World) -> Vec<Self> {
        let document = world.client.get("/api/openapi.json").await.expect(StatusCode::OK).json();
        let paths = document["paths"].as_object().unwrap().clone();
        let operations = paths.into_iter().flat_map(|(path, item)| {
            let item = item.as_object().unwrap().clone();
            item.into_iter().map(move |(method, says)| Self {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                says,
            })
        });
        operations.collect()
    }

    /// What the table says that it demands.
    fn need(&self) -> &'static str {
        let method = self.method.as_str().to_lowercase();
        let found = ROUTES.iter().find(|(given, path, _)| *given == method && *path == self.path);
        found
            .unwrap_or_else(|| {
                panic!("{method} {} is not classified: say in ROUTES what it demands", self.path)
            })
            .2
    }

    /// What it is sent: acceptable, so that nothing but rights refuses it.
    fn body(&self) -> Option<Value> {
        self.says.get("requestBody")?;
        let role = || json!({ "name": "Some role", "permissions": [] });
        Some(match (self.method.as_str(), self.path.as_str()) {
            // A weak one: nobody's password is to be another afterwards.
            ("POST", "/api/auth/password/change") => {
                json!({ "current_password": PASSWORD, "new_password": "password" })
            }
            ("POST", "/api/auth/email/change") => {
                json!({ "new_email": "somebody-else@example.com" })
            }
            ("POST", "/api/auth/mfa/passkeys") => {
                json!({ "ceremony": "x", "credential": {}, "name": "A phone" })
            }
            ("POST", "/api/auth/mfa/totp/confirm") => json!({ "code": "123456" }),
            ("POST", "/api/auth/reauthenticate") => json!({ "password": PASSWORD }),
            ("POST", "/api/tenant/domains") => json!({ "domain": "example.com" }),
            ("PUT", "/api/tenant/domains/{id}") => json!({ "auto_invite_role": "viewer" }),
            ("POST", "/api/auth/join-tenant" | "/api/auth/switch-tenant") => {
                json!({ "tenant_id": absent::<id::Tenant>() })
            }
            ("POST", "/api/tenant/invitations/bulk") => json!({ "invitations": [] }),
            ("POST", "/api/tenant/invite-links") => {
                json!({ "role": "viewer", "domains": ["example.com"] })
            }
            ("POST", "/api/tenant/ownership-transfers") => {
                json!({ "user_id": absent::<id::User>() })
            }
            ("POST", "/api/tenant/roles") | ("PUT", "/api/tenant/roles/{id}") => role(),
            ("PUT", "/api/tenant/security") => crate::tenancy::tenant_security::rules(&json!({})),
            ("POST", "/api/tenant/users/invite") => {
                json!({ "email": "somebody@example.com", "role": "viewer" })
            }
            ("PUT", "/api/tenant/users/{id}") => json!({ "role": "viewer" }),
            _ if self.need() == OPEN => json!({}),
            _ => panic!(
                "{} {}: say in Operation::body what is acceptable to it",
                self.method, self.path
            ),
        })
    }

    /// Sends it, with `id` where its path wants one.
    async fn send(&self, world: &World, token: Option<&str>, id: &str) -> Answer {
        let path = self.path.replace("{id}", id).replace("{token}", id);
        let mut request = world.client.request(self.method.clone(), &path);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = self.body() {
            request = request.json(&body);
        }
        Answer::of(request).await
    }

    /// An id that names nothing, of the kind that its path wants.
    fn absent_id(&self) -> String {
        match self
            .path
            .trim_end_matches("/accept")
            .trim_end_matches("/resend")
            .trim_end_matches("/verify")
        {
            "/api/auth/mfa/passkeys/{id}" => absent::<id::Passkey>().to_string(),
            "/api/auth/sessions/{id}" => absent::<id::Session>().to_string(),
            "/api/tenant/domains/{id}" => absent::<id::TenantDomain>().to_string(),
            "/api/tenant/invitations/bulk/{id}" => absent::<id::InvitationList>().to_string(),
            "/api/tenant/invitations/{id}" => absent::<id::Invitation>().to_string(),
            "/api/tenant/invite-links/{id}" => absent::<id::InviteLink>().to_string(),
            "/api/tenant/ownership-transfers/{id}" => absent::<id::OwnershipTransfer>().to_string(),
            "/api/tenant/roles/{id}" => absent::<id::CustomRole>().to_string(),
            "/api/tenant/users/{id}" => absent::<id::User>().to_string(),
            "/api/invitations/{token}" | "/api/invite-links/{token}" => "x".to_owned(),
            path => panic!("{path}: say in Operation::absent_id and Things::id what its id names"),
        }
    }

    fn wants_id(&self) -> bool {
        self.path.contains("{id}")
    }
}

/// What a tenant has that routes may name.
struct Things {
    passkey: String,
    session: String,
    list: String,
    invitation: String,
    link: String,
    domain: String,
    offer: String,
    role: String,
    member: String,
}

impl Things {
    /// Fills the tenant of `owner`.
    async fn of(world: &World, people: &People<'_>, owner: &Person) -> Self {
        let member = people.join(owner, "member@example.com", Role::Member).await;
        let post = async |path: &str, body: Value| {
            let answer = world.client.post_body_as(&owner.token, path, &body).await;
            assert!(answer.status.is_success(), "{answer:?}");
            answer.json()
        };
        let id = |answer: &Value| answer["id"].as_str().unwrap().to_owned();
        let invited = post(
            "/api/tenant/users/invite",
            json!({ "email": "invited@example.com", "role": "viewer" }),
        )
        .await;
        let line = json!({ "email": "listed@example.com", "role": "viewer" });
        let passkey = absent::<id::Passkey>().to_string();
        let row = doc! { "_id": &passkey, "user_id": owner.user, "credential_id": "x", "name": "A phone", "created_at": DateTime::now() };
        world.raw().await.collection("passkeys").insert_one(row).await.unwrap();
        Self {
            passkey,
            session:
                world.client.get_as(&owner.token, "/api/auth/me").await.json()["session"]["id"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            list: id(&post("/api/tenant/invitations/bulk", json!({ "invitations": [line] })).await),
            invitation: id(&invited["invitation"]),
            link: id(&post(
                "/api/tenant/invite-links",
                json!({ "role": "viewer", "domains": ["canary.example"] }),
            )
            .await),
            domain: id(&post("/api/tenant/domains", json!({ "domain": "canary.example" })).await),
            offer: id(
                &post("/api/tenant/ownership-transfers", json!({ "user_id": member.user })).await
            ),
            role: id(&post(
                "/api/tenant/roles",
                json!({ "name": "Canary role", "permissions": [] }),
            )
            .await),
            member: member.user.to_string(),
        }
    }

    /// The one that a path wants.
    fn id(&self, operation: &Operation) -> &str {
        let prefix = operation.absent_id();
        match prefix.split('_').next().unwrap() {
            "pky" => &self.passkey,
            "ses" => &self.session,
            "ivl" => &self.list,
            "inv" => &self.invitation,
            "ilk" => &self.link,
            "dom" => &self.domain,
            "otr" => &self.offer,
            "rol" => &self.role,
            "usr" => &self.member,
            other => panic!("{other}: there is none"),
        }
    }

    fn all(&self) -> [&str; 9] {
        [
            &self.passkey,
            &self.session,
            &self.list,
            &self.invitation,
            &self.link,
            &self.domain,
            &self.offer,
            &self.role,
            &self.member,
        ]
    }
}

#[tokio::test]
async fn every_route_is_classified_and_the_document_says_the_same() {
    let world = World::new().await;
    let operations = Operation::all(&world).await;
    assert_eq!(operations.len(), ROUTES.len(), "ROUTES lists what is not there");
    for operation in &operations {
        let need = operation.need();
        let is_open = operation.says["security"] == json!([{}]);
        let permission = operation.says.get("x-permission").and_then(Value::as_str);
        let said = permission.unwrap_or(if is_open { OPEN } else { SIGNED_IN });
        assert_eq!(said, need, "{} {}", operation.method, operation.path);
        let told = operation.says["description"]
            .as_str()
            .unwrap_or_default()
            .contains(&format!("permission `{need}`"));
        assert_eq!(told, permission.is_some(), "{} {}", operation.method, operation.path);
    }
}

#[test]
fn the_roles_hold_what_is_written_down() {
    let (known, written): (BTreeSet<&str>, BTreeSet<&str>) = (
        Permission::ALL.iter().map(|permission| permission.as_str()).collect(),
        HOLDERS.iter().map(|(name, _)| *name).collect(),
    );
    assert_eq!(known, written);
    for role in Role::ALL {
        for permission in Permission::ALL {
            assert_eq!(
                role.permissions().contains(*permission),
                holds(*role, permission.as_str()),
                "{role:?} {permission:?}"
            );
        }
    }
}

#[tokio::test]
async fn without_a_good_token_only_open_routes_answer() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let expired = people.expired_token(&ada).await;
    let elsewhere = people.token(ada.user, absent()).await;
    for operation in Operation::all(&world).await {
        let id = if operation.path.contains('{') { operation.absent_id() } else { String::new() };
        for token in [None, Some(expired.as_str()), Some(elsewhere.as_str()), Some("rubbish")] {
            let answer = operation.send(&world, token, &id).await;
            let what = format!("{} {} {token:?}: {answer:?}", operation.method, operation.path);
            assert!(!answer.status.is_server_error(), "{what}");
            let is_refused = answer.status == StatusCode::UNAUTHORIZED
                && answer.json()["code"] == "unauthenticated";
            // Accepting an invitation is open, and yet a token that is shown must be good.
            let heeds_tokens = operation.need() != OPEN
                || (token.is_some() && operation.path == "/api/invitations/accept");
            assert_eq!(is_refused, heeds_tokens, "{what}");
        }
    }
}

#[tokio::test]
async fn every_role_may_call_what_it_holds_the_permission_for_and_nothing_else() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let operations = Operation::all(&world).await;
    for role in Role::ALL {
        let person = people.join(&ada, &format!("{}@example.com", role.as_str()), *role).await;
        let leaver =
            people.join(&ada, &format!("leaving-{}@example.com", role.as_str()), *role).await;
        for operation in operations.iter().filter(|operation| operation.need() != OPEN) {
            let id = if operation.wants_id() { operation.absent_id() } else { String::new() };
            // Some routes end sessions, so each call has its own; whoever leaves makes no other.
            let caller = if operation.path == "/api/tenant/users/me" { &leaver } else { &person };
            let token = people.token(caller.user, caller.tenant).await;
            let answer = operation.send(&world, Some(&token), &id).await;
            let (what, need) = (
                format!("{role:?} {} {}: {answer:?}", operation.method, operation.path),
                operation.need(),
            );
            if need == SIGNED_IN || holds(*role, need) {
                assert!(
                    ![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&answer.status),
                    "{what}"
                );
                assert!(!answer.status.is_server_error(), "{what}");
            } else {
                let refused = answer.expect_problem(StatusCode::FORBIDDEN, "forbidden").json();
                assert!(
                    refused["detail"].as_str().unwrap().contains(&format!("`{need}`")),
                    "{what}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_id_of_another_tenant_is_answered_as_one_that_names_nothing_and_changes_nothing() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let things = Things::of(&world, &people, &ada).await;
    let before = seen(&world, &people, &ada).await;
    let mut tried = 0;
    for operation in Operation::all(&world).await.into_iter().filter(Operation::wants_id) {
        let token = people.token(eve.user, eve.tenant).await;
        let foreign = operation.send(&world, Some(&token), things.id(&operation)).await;
        let none = operation.send(&world, Some(&token), &operation.absent_id()).await;
        let what = format!("{} {}: {foreign:?} {none:?}", operation.method, operation.path);
        assert_eq!(
            (foreign.status, none.status),
            (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND),
            "{what}"
        );
        assert_eq!(foreign.without_id(), none.without_id(), "{what}");
        let nonsense = operation.send(&world, Some(&token), "..%2f..%00").await;
        assert_eq!(nonsense.without_id(), none.without_id(), "{what}");
        tried += 1;
    }
    assert!(tried >= 10, "{tried}");
    assert_eq!(seen(&world, &people, &ada).await, before);
}

/// Whatever a tenant's owner can see of it.
async fn seen(world: &World, people: &People<'_>, owner: &Person) -> Vec<Value> {
    let token = people.token(owner.user, owner.tenant).await;
    let mut seen = Vec::new();
    for operation in Operation::all(world).await {
        if operation.method == Method::GET
            && operation.path.starts_with("/api/tenant/")
            && !operation.wants_id()
        {
            seen.push(operation.send(world, Some(&token), "").await.expect(StatusCode::OK).json());
        }
    }
    seen
}

#[tokio::test]
async fn what_one_tenant_sees_tells_nothing_of_another() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let things = Things::of(&world, &people, &ada).await;
    let (tenant, owner) = (ada.tenant.to_string(), ada.user.to_string());
    let secrets = [
        &tenant,
        &owner,
        "ada@",
        "Tenant of ADA",
        "member@",
        "invited@",
        "listed@",
        "Canary",
        "canary.example",
    ];
    let own = serde_json::to_string(&seen(&world, &people, &ada).await).unwrap();
    assert!(
        own.contains("Canary role") && own.contains("invited@") && own.contains("canary.example"),
        "there is something to see: {own}"
    );
    let page = world
        .client
        .get_as(&ada.token, "/api/tenant/users?limit=1")
        .await
        .expect(StatusCode::OK)
        .json();
    let cursor = page["next_cursor"].as_str().unwrap();
    for query in [
        "q=ada".to_owned(),
        "q=example.com".to_owned(),
        format!("cursor={cursor}"),
        format!("role={}", things.role),
    ] {
        let answer = world
            .client
            .get_as(&eve.token, &format!("/api/tenant/users?{query}"))
            .await
            .expect(StatusCode::OK);
        assert!(secrets.iter().all(|secret| !answer.body.contains(*secret)), "{query}: {answer:?}");
    }
    for operation in Operation::all(&world)
        .await
        .into_iter()
        .filter(|operation| operation.need() != OPEN && !operation.wants_id())
    {
        let token = people.token(eve.user, eve.tenant).await;
        let answer = operation.send(&world, Some(&token), "").await;
        for secret in secrets.into_iter().chain(things.all()) {
            assert!(
                !answer.body.contains(secret),
                "{} {} tells {secret}: {answer:?}",
                operation.method,
                operation.path
            );
        }
    }
}

/// Row 17 of the attacks: a tenant's keys are in no metric, whatever was done with them.
#[tokio::test]
async fn metrics_tell_nothing_of_any_tenant() {
    let world = World::new().await;
    let worker = world.env.spawn_worker().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let things = Things::of(&world, &people, &ada).await;
    let (tenant, owner) = (ada.tenant.to_string(), ada.user.to_string());
    for operation in Operation::all(&world).await {
        let token = people.token(ada.user, ada.tenant).await;
        let id = if operation.wants_id() { things.id(&operation) } else { &things.invitation };
        operation.send(&world, Some(&token), id).await;
    }
    for path in [format!("/{tenant}"), format!("/api/tenant/{tenant}?tenant_id={tenant}")] {
        world.client.get_as(&ada.token, &path).await.expect(StatusCode::NOT_FOUND);
    }
    let metrics = async |service: &Service| {
        let answer = reqwest::get(format!("{}/metrics", service.internal_url())).await.unwrap();
        answer.text().await.unwrap()
    };
    let of_worker = eventually("the worker has done something for the tenant", async || {
        let told = metrics(&worker).await;
        told.contains("kind=\"invitation.send\",outcome=\"success\"").then_some(told)
    })
    .await;
    let of_api = metrics(&world.api).await;
    assert!(of_api.contains("route=\"/api/tenant/users/{id}\""), "{of_api}");
    let secrets = [
        &tenant,
        &owner,
        "ada@",
        "Tenant of ADA",
        "member@",
        "invited@",
        "listed@",
        "Canary",
        "canary.example",
    ];
    for told in [of_worker, of_api] {
        for secret in secrets.into_iter().chain(things.all()) {
            assert!(!told.contains(secret), "{secret} in {told}");
        }
    }
}

#[tokio::test]
async fn an_id_of_another_tenant_in_a_body_is_as_good_as_none() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let things = Things::of(&world, &people, &ada).await;
    let bob = people.join(&eve, "bob@example.com", Role::Member).await;
    let tries = [
        (
            Method::POST,
            "/api/auth/switch-tenant".to_owned(),
            "tenant_id",
            ada.tenant.to_string(),
            absent::<id::Tenant>().to_string(),
        ),
        (
            Method::POST,
            "/api/tenant/ownership-transfers".to_owned(),
            "user_id",
            things.member.clone(),
            absent::<id::User>().to_string(),
        ),
        (
            Method::POST,
            "/api/tenant/users/invite".to_owned(),
            "role",
            things.role.clone(),
            absent::<id::CustomRole>().to_string(),
        ),
        (
            Method::PUT,
            format!("/api/tenant/users/{}", bob.user),
            "role",
            things.role.clone(),
            absent::<id::CustomRole>().to_string(),
        ),
    ];
    for (method, path, field, foreign, none) in tries {
        let send = async |id: String| {
            let mut body = json!({ field: id });
            if path.ends_with("/invite") {
                body["email"] = json!("p@example.com");
            }
            let answer = Answer::of(
                world.client.request(method.clone(), &path).bearer_auth(&eve.token).json(&body),
            )
            .await;
            assert!(answer.status.is_client_error(), "{path}: {answer:?}");
            answer.without_id()
        };
        assert_eq!(send(foreign).await, send(none).await, "{path}");
    }
}

#[tokio::test]
async fn nobody_says_their_role_tenant_or_plan_where_it_is_not_asked_for() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let document = world.client.get("/api/openapi.json").await.json();
    let mut tried = 0;
    for operation in Operation::all(&world).await {
        let Some(body) = operation.body() else { continue };
        let schema = &operation.says["requestBody"]["content"]["application/json"]["schema"];
        let reference = schema["$ref"].as_str().or_else(|| {
            schema["oneOf"].as_array()?.iter().find_map(|either| either["$ref"].as_str())
        });
        let known =
            &document.pointer(reference.unwrap().trim_start_matches('#')).unwrap()["properties"];
        let id = if operation.path.contains('{') { operation.absent_id() } else { String::new() };
        let others = [
            ("tenant_id", json!(ada.tenant)),
            ("role", json!("owner")),
            ("plan", json!("enterprise")),
            ("id", json!("x")),
        ];
        for (field, value) in others.into_iter().filter(|(field, _)| known.get(*field).is_none()) {
            let mut body = body.clone();
            body[field] = value;
            let path = operation.path.replace("{id}", &id);
            let token = people.token(ada.user, ada.tenant).await;
            let refused = Answer::of(
                world
                    .client
                    .request(operation.method.clone(), &path)
                    .bearer_auth(&token)
                    .json(&body),
            )
            .await;
            let refused = refused.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "unknown_field");
            assert!(
                refused.field_errors().contains(&format!("{field}:unknown_field")),
                "{path}: {refused:?}"
            );
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried}");
    // A tenant that a header names is nobody's business either.
    let eve = people.founder("eve@example.com").await;
    let request = world.client.request(Method::GET, "/api/tenant/current").bearer_auth(&eve.token);
    let current = Answer::of(request.header("x-tenant-id", ada.tenant.to_string()))
        .await
        .expect(StatusCode::OK)
        .json();
    let current: TenantId = current["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(current, eve.tenant);
}
