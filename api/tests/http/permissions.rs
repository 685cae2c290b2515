//! Every route × every role × every kind of token. The requirements of each route are taken from
//! the document in the repository (`api/openapi.json`), where reviews show changes. The permissions
//! of each role are repeated here.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    crypto::PlainApiKey,
    id::{self, TenantId},
};
use domain::tenancy::{
    api_keys::Scope,
    roles::{Permission, Role},
};
use mongodb::bson::{DateTime, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::testing::Service;

use crate::{
    document::{Need, Operation, differences},
    people::{People, Person, absent},
    support::{Answer, PASSWORD, World, eventually},
    tenancy::api_keys,
};

/// The built-in roles that have each permission.
const HOLDERS: &[(&str, &[&str])] = &[
    ("tenant:read", &["owner", "admin", "member", "billing", "viewer"]),
    ("tenant:write", &["owner", "admin"]),
    ("tenant:delete", &["owner"]),
    ("tenant:transfer", &["owner"]),
    ("users:read", &["owner", "admin", "member", "viewer"]),
    ("users:invite", &["owner", "admin"]),
    ("users:write", &["owner", "admin"]),
    ("users:delete", &["owner", "admin"]),
    ("roles:read", &["owner", "admin"]),
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
    let (_, holders) = HOLDERS.iter().find(|(name, _)| *name == permission).unwrap_or_else(|| {
        panic!("add the roles with `{permission}` to HOLDERS (api/tests/http/permissions.rs)")
    });
    holders.contains(&role.as_str())
}

/// A valid body for an operation, so that it can only be rejected for missing permissions.
fn body(operation: &Operation) -> Option<Value> {
    let example = operation.example()?;
    Some(match (operation.method.as_str(), operation.path) {
        // A weak password, so that no password is changed.
        ("POST", "/api/auth/password/change") => {
            json!({ "current_password": PASSWORD, "new_password": "password" })
        }
        ("POST", "/api/auth/reauthenticate") => json!({ "password": PASSWORD }),
        ("PUT", "/api/tenant/security") => crate::tenancy::tenant_security::rules(&json!({})),
        _ if operation.is_open() => json!({}),
        _ => example,
    })
}

/// Calls an operation, with `id` in its path if required.
async fn send(world: &World, operation: &Operation, token: Option<&str>, id: &str) -> Answer {
    let path = operation.path.replace("{id}", id).replace("{token}", id);
    let mut request = world.client.request(operation.method.clone(), &path);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body(operation) {
        request = request.json(&body);
    }
    Answer::of(request).await
}

/// An id for an operation's path that does not exist.
fn nothing(operation: &Operation) -> &'static str {
    if operation.wants_id() { operation.absent_id() } else { "x" }
}

/// The prefix of an id, which shows its kind.
fn kind(id: &str) -> &str {
    id.split_once('_').map_or(id, |(kind, _)| kind)
}

/// One thing of each kind that a tenant has and routes can name.
struct Things(BTreeMap<String, String>);

impl Things {
    /// Creates them in the tenant of `owner`.
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
        let by_domain = json!({ "role": "viewer", "domains": ["canary.example"] });
        let role = json!({ "name": "Canary role", "permissions": [] });
        let passkey = absent::<id::Passkey>().to_string();
        let row = doc! { "_id": &passkey, "user_id": owner.user, "credential_id": "x", "name": "A phone", "created_at": DateTime::now() };
        world.raw().await.collection("passkeys").insert_one(row).await.unwrap();
        let me = world.client.get_as(&owner.token, "/api/auth/me").await.json();
        let ids = [
            passkey,
            id(&me["session"]),
            member.user.to_string(),
            id(&invited["invitation"]),
            id(&post("/api/tenant/invitations/bulk", json!({ "invitations": [line] })).await),
            id(&post("/api/tenant/invite-links", by_domain).await),
            id(&post("/api/tenant/domains", json!({ "domain": "canary.example" })).await),
            id(&post("/api/tenant/ownership-transfers", json!({ "user_id": member.user })).await),
            id(&post("/api/tenant/roles", role).await),
        ];
        let mut things = Self(ids.map(|id| (kind(&id).to_owned(), id)).into());
        things.make_the_rest(world, owner).await;
        things
    }

    /// Other fields are made of the document's examples.
    async fn make_the_rest(&mut self, world: &World, owner: &Person) {
        let operations = Operation::all();
        let is_missing = |operation: &&Operation| {
            operation.wants_id() && !self.0.contains_key(kind(operation.absent_id()))
        };
        let missing: BTreeSet<&str> = operations
            .iter()
            .filter(is_missing)
            .filter_map(|operation| operation.path.split_once("/{id}").map(|(list, _)| list))
            .collect();
        for list in missing {
            let make = operations
                .iter()
                .find(|make| make.method == Method::POST && make.path == list)
                .unwrap_or_else(|| {
                    panic!("make one of {list} in Things::of (api/tests/http/permissions.rs)")
                });
            let answer = send(world, make, Some(&owner.token), "").await;
            assert!(
                answer.status.is_success(),
                "make one of {list} in Things::of (api/tests/http/permissions.rs): {answer:?}"
            );
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            self.0.insert(kind(&id).to_owned(), id);
        }
    }

    /// The id for the path of an operation.
    fn id(&self, operation: &Operation) -> &str {
        &self.0[kind(operation.absent_id())]
    }

    fn of_kind(&self, kind: &str) -> &str {
        &self.0[kind]
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }
}

#[test]
fn the_document_states_the_permission_of_each_route() {
    for operation in Operation::all() {
        let described = operation.says["description"].as_str().unwrap_or_default();
        if let Need::Permission(permission) = operation.need() {
            let told = format!("permission `{permission}`");
            assert!(
                described.contains(&told),
                "{operation} does not mention the {told}: {described}"
            );
        } else {
            assert!(!described.contains("permission `"), "{operation} needs none: {described}");
        }
    }
}

#[test]
fn built_in_roles_have_exactly_the_expected_permissions() {
    let (known, written): (BTreeSet<&str>, BTreeSet<&str>) = (
        Permission::ALL.iter().map(|permission| permission.as_str()).collect(),
        HOLDERS.iter().map(|(name, _)| *name).collect(),
    );
    let lacking: Vec<_> = known.symmetric_difference(&written).collect();
    assert!(
        lacking.is_empty(),
        "HOLDERS (api/tests/http/permissions.rs) is not up to date: {lacking:?}"
    );
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
async fn without_a_valid_token_only_open_routes_are_served() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let expired = people.expired_token(&ada).await;
    let elsewhere = people.token(ada.user, absent()).await;
    let mut is_live = true;
    for operation in Operation::all() {
        for token in [None, Some(expired.as_str()), Some(elsewhere.as_str()), Some("rubbish")] {
            let answer = send(&world, &operation, token, nothing(&operation)).await;
            let what = format!("{operation} {token:?}: {answer:?}");
            assert!(!answer.status.is_server_error(), "{what}");
            let is_refused = answer.status == StatusCode::UNAUTHORIZED
                && answer.json()["code"] == "unauthenticated";
            // Accepting an invitation is open, but a token in the request must be valid.
            let heeds_tokens = !operation.is_open()
                || (token.is_some() && operation.path == "/api/invitations/accept");
            // A live session can always be ended, whatever has become of its tenant.
            let ends_session = ["sessions_logout", "sessions_logout_all"].contains(&operation.id());
            if ends_session && is_live && token == Some(elsewhere.as_str()) {
                assert_eq!(answer.status, StatusCode::NO_CONTENT, "{what}");
                is_live = false;
                continue;
            }
            assert_eq!(is_refused, heeds_tokens, "{what}");
        }
    }
}

#[tokio::test]
async fn routes_of_a_tenant_refuse_an_account_without_one_and_others_serve_it() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.loner("ada@example.com").await;
    let mut refusing = 0;
    for operation in Operation::all().into_iter().filter(|operation| !operation.is_open()) {
        // Some routes end sessions, so each call has its own.
        let token = people.token_without_tenant(ada.user).await;
        let answer = send(&world, &operation, Some(&token), nothing(&operation)).await;
        let of_tenant = operation.path.starts_with("/api/tenant/");
        let declared = operation.says["responses"]["403"].to_string().contains("\"no_tenant\"");
        assert_eq!(declared, of_tenant, "{operation}");
        if of_tenant {
            answer.expect_problem(StatusCode::FORBIDDEN, "no_tenant");
            refusing += 1;
        } else {
            let refusals = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
            assert!(!refusals.contains(&answer.status), "{operation}: {answer:?}");
            assert!(!answer.status.is_server_error(), "{operation}: {answer:?}");
        }
    }
    assert!(refusing >= 30, "{refusing}");
}

#[tokio::test]
async fn the_refresh_token_alone_is_accepted_only_where_the_document_states_it() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    let mut accepting = Vec::new();
    for operation in Operation::all().into_iter().filter(|operation| !operation.is_open()) {
        let login = world.login("ada@example.com", PASSWORD).await.expect(StatusCode::OK);
        let cookie = login.header("set-cookie").split(';').next().unwrap().to_owned();
        let path = operation.path.replace("{id}", nothing(&operation));
        let request = world.client.request(operation.method.clone(), &path);
        let answer = Answer::of(
            request.header("cookie", cookie).json(&body(&operation).unwrap_or_default()),
        )
        .await;
        if operation.need() == Need::Session {
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{operation}: {answer:?}");
            accepting.push(operation.id());
        } else {
            let refused = answer.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
            assert_eq!(refused.header("set-cookie"), "", "{operation}");
        }
    }
    let known = ["sessions_logout", "sessions_logout_all", "sessions_switch_tenant"];
    assert_eq!(accepting, known);
}

#[tokio::test]
async fn every_role_can_call_only_routes_of_its_permissions() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let operations = Operation::all();
    for role in Role::ALL {
        let person = people.join(&ada, &format!("{}@example.com", role.as_str()), *role).await;
        let leaver =
            people.join(&ada, &format!("leaving-{}@example.com", role.as_str()), *role).await;
        for operation in operations.iter().filter(|operation| !operation.is_open()) {
            // Some routes end sessions, so each call has its own.
            let caller = if operation.path == "/api/tenant/users/me" { &leaver } else { &person };
            let token = people.token(caller.user, caller.tenant).await;
            let answer = send(&world, operation, Some(&token), nothing(operation)).await;
            let what = format!("{role:?} {operation}: {answer:?}");
            match operation.need() {
                Need::Permission(permission) if !holds(*role, permission) => {
                    let refused = answer.expect_problem(StatusCode::FORBIDDEN, "forbidden").json();
                    let detail = refused["detail"].as_str().unwrap();
                    assert!(detail.contains(&format!("`{permission}`")), "{what}");
                }
                _ => {
                    assert!(
                        ![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&answer.status),
                        "{what}"
                    );
                    assert!(!answer.status.is_server_error(), "{what}");
                }
            }
        }
    }
}

/// The permissions that a key can have.
fn scopes() -> Vec<&'static str> {
    let all = Permission::ALL.iter().map(|permission| permission.as_str());
    all.filter(|permission| permission.parse::<Scope>().is_ok()).collect()
}

/// A key of `sponsor` with these scopes.
async fn key(world: &World, sponsor: &Person, scopes: &[&str]) -> String {
    let made = api_keys::make(world, sponsor, &json!({ "scopes": scopes })).await;
    made["key"].as_str().unwrap().to_owned()
}

/// Whether an operation is for people, because it is about their account, or requires that they
/// authenticated recently.
fn is_for_people(operation: &Operation) -> bool {
    let is_recent = operation.recent_authentication() == Some("always");
    !matches!(operation.need(), Need::Permission(_)) || is_recent
}

/// Whether a key with this scope has the permission.
fn implies(scope: &str, permission: &str) -> bool {
    let gives_roles = ["users:invite", "users:write", "roles:write"].contains(&scope);
    scope == permission || (permission == "roles:read" && gives_roles)
}

#[tokio::test]
async fn a_key_can_call_only_routes_of_its_scopes() {
    let world = World::with(&[("TENANTRY__MEMBERS__INVITATIONS_MAX", "1000")]).await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let operations = Operation::all();
    let scopes = scopes();
    assert_eq!(scopes.len(), Permission::ALL.len() - 5, "{scopes:?}");
    for scope in &scopes {
        let key = key(&world, &ada, &[scope]).await;
        for operation in operations.iter().filter(|operation| !operation.is_open()) {
            // Nobody is removed.
            let answer = send(&world, operation, Some(&key), nothing(operation)).await;
            let what = format!("{scope} {operation}: {answer:?}");
            match operation.need() {
                _ if is_for_people(operation) => {
                    answer.expect_problem(StatusCode::FORBIDDEN, "api_key_not_allowed");
                }
                Need::Permission(permission) if !implies(scope, permission) => {
                    let refused = answer.expect_problem(StatusCode::FORBIDDEN, "forbidden").json();
                    let detail = refused["detail"].as_str().unwrap();
                    assert!(detail.contains(&format!("`{permission}`")), "{what}");
                }
                _ => {
                    // The example gives a role beyond a single scope.
                    let is_too_high = answer.status == StatusCode::FORBIDDEN
                        && answer.json()["code"] == "role_too_high";
                    let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
                    assert!(is_too_high || !refused.contains(&answer.status), "{what}");
                    assert!(!answer.status.is_server_error(), "{what}");
                }
            }
        }
    }
    let unknown = PlainApiKey::generate(world.store.clock());
    for operation in operations.iter().filter(|operation| !operation.is_open()) {
        let answer = send(&world, operation, Some(unknown.expose()), nothing(operation)).await;
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        assert!(refused.contains(&answer.status), "{operation}: {answer:?}");
    }
}

#[tokio::test]
async fn a_key_finds_nothing_of_another_tenant() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let things = Things::of(&world, &people, &ada).await;
    let before = seen(&world, &people, &ada).await;
    let key = key(&world, &eve, &scopes()).await;
    let mut tried = 0;
    for operation in Operation::all() {
        let Need::Permission(permission) = operation.need() else { continue };
        if is_for_people(&operation) || permission.parse::<Scope>().is_err() {
            continue;
        }
        if operation.wants_id() {
            let foreign = send(&world, &operation, Some(&key), things.id(&operation)).await;
            let none = send(&world, &operation, Some(&key), operation.absent_id()).await;
            let what = format!("{operation}: {foreign:?} {none:?}");
            assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{what}");
            assert_eq!(foreign.without_id(), none.without_id(), "{what}");
        } else {
            let answer = send(&world, &operation, Some(&key), "").await;
            for secret in ["ada@", "Tenant of ADA", "Canary"].into_iter().chain(things.all()) {
                assert!(!answer.body.contains(secret), "{operation} reveals {secret}: {answer:?}");
            }
        }
        tried += 1;
    }
    assert!(tried >= 10, "{tried}");
    let after = seen(&world, &people, &ada).await;
    let changed = differences(&json!(before), &json!(after));
    assert!(changed.is_empty(), "data of the tenant has changed:\n{changed}");
}

/// Calls an operation with this body.
async fn send_body(
    world: &World,
    operation: &Operation,
    token: &str,
    id: &str,
    body: &Value,
) -> Answer {
    let path = operation.path.replace("{id}", id);
    let request = world.client.request(operation.method.clone(), &path).bearer_auth(token);
    Answer::of(request.json(body)).await
}

/// A valid body in which an operation gives this role, or these permissions, to somebody; none if
/// it gives neither.
fn body_giving(operation: &Operation, role: &str, permissions: &[&str]) -> Option<Value> {
    let mut body = operation.example_giving(role, permissions)?;
    if operation.path == "/api/tenant/invite-links" {
        body["domains"] = json!(["canary.example"]);
    }
    Some(body)
}

/// Otherwise a stolen session would be enough to sign in again as somebody with power.
#[tokio::test]
async fn power_is_given_only_after_recent_authentication_by_whichever_route() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let things = Things::of(&world, &people, &ada).await;
    let stale = people.stale_token(&ada).await;
    let keys = json!({ "name": "Keys", "permissions": ["tenant:read", "api_keys:write"] });
    let keys = world.client.post_body_as(&ada.token, "/api/tenant/roles", &keys).await.json();
    let keys = keys["id"].as_str().unwrap();
    let reauthenticate = |answer: Answer| {
        answer.expect_problem(StatusCode::FORBIDDEN, "reauthentication_required");
    };
    let refused = |answer: &Answer| {
        [StatusCode::FORBIDDEN, StatusCode::UNPROCESSABLE_ENTITY].contains(&answer.status)
    };
    let mut routes = Vec::new();
    for operation in Operation::all() {
        let id = if operation.wants_id() { things.id(&operation) } else { "" };
        for (role, permissions) in [("admin", &["roles:write"][..]), (keys, &["users:invite"])] {
            let Some(body) = body_giving(&operation, role, permissions) else { continue };
            reauthenticate(send_body(&world, &operation, &stale, id, &body).await);
            let fresh = send_body(&world, &operation, &ada.token, id, &body).await;
            assert!(!refused(&fresh), "{operation}: {fresh:?}");
            routes.push(format!("{} {operation}", operation.recent_authentication().unwrap()));
        }
        let harmless = body_giving(&operation, "viewer", &["usage:read"]);
        if let (Some(body), Some("conditional")) = (harmless, operation.recent_authentication()) {
            let answer = send_body(&world, &operation, &stale, id, &body).await;
            assert!(!refused(&answer), "{operation}: {answer:?}");
        }
    }
    routes.dedup();
    assert_eq!(
        routes,
        [
            "always PUT /api/tenant/domains/{id}",
            "conditional POST /api/tenant/invitations/bulk",
            "conditional POST /api/tenant/invite-links",
            "conditional POST /api/tenant/roles",
            "conditional PUT /api/tenant/roles/{id}",
            "conditional POST /api/tenant/users/invite",
            "conditional PUT /api/tenant/users/{id}",
        ],
        "every route that takes a role or permissions is among them"
    );
}

#[tokio::test]
async fn an_invitation_that_gives_power_is_resent_only_after_recent_authentication() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let stale = people.stale_token(&ada).await;
    for (role, status) in [
        ("owner", StatusCode::FORBIDDEN),
        ("admin", StatusCode::FORBIDDEN),
        ("viewer", StatusCode::OK),
    ] {
        let invite = json!({ "email": format!("{role}@example.com"), "role": role });
        let invited = world.client.post_body_as(&ada.token, "/api/tenant/users/invite", &invite);
        let invited = invited.await.expect(StatusCode::CREATED).json();
        let id = invited["invitation"]["id"].as_str().unwrap();
        let path = format!("/api/tenant/invitations/{id}/resend");
        let answer = world.client.post_as(&stale, &path).await.expect(status);
        if status == StatusCode::FORBIDDEN {
            answer.expect_problem(status, "reauthentication_required");
        }
        world.client.post_as(&ada.token, &path).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn routes_that_always_require_recent_authentication_refuse_a_stale_session() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let stale = people.stale_token(&ada).await;
    let always = |operation: &Operation| operation.recent_authentication() == Some("always");
    for operation in Operation::all().into_iter().filter(always) {
        let answer = send(&world, &operation, Some(&stale), nothing(&operation)).await;
        answer.expect_problem(StatusCode::FORBIDDEN, "reauthentication_required");
    }
}

#[tokio::test]
async fn an_id_of_another_tenant_is_not_found_and_changes_nothing() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let things = Things::of(&world, &people, &ada).await;
    let before = seen(&world, &people, &ada).await;
    let mut tried = 0;
    for operation in Operation::all().into_iter().filter(Operation::wants_id) {
        let token = people.token(eve.user, eve.tenant).await;
        let foreign = send(&world, &operation, Some(&token), things.id(&operation)).await;
        let none = send(&world, &operation, Some(&token), operation.absent_id()).await;
        let what = format!("{operation}: {foreign:?} {none:?}");
        assert_eq!(
            (foreign.status, none.status),
            (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND),
            "{what}"
        );
        assert_eq!(foreign.without_id(), none.without_id(), "{what}");
        let nonsense = send(&world, &operation, Some(&token), "..%2f..%00").await;
        assert_eq!(nonsense.without_id(), none.without_id(), "{what}");
        tried += 1;
    }
    assert!(tried >= 10, "{tried}");
    let after = seen(&world, &people, &ada).await;
    let changed = differences(&json!(before), &json!(after));
    assert!(changed.is_empty(), "data of the tenant has changed:\n{changed}");
}

/// Everything that the owner of a tenant can read.
async fn seen(world: &World, people: &People<'_>, owner: &Person) -> Vec<Value> {
    let token = people.token(owner.user, owner.tenant).await;
    let mut seen = Vec::new();
    for operation in Operation::all() {
        if operation.method == Method::GET
            && operation.path.starts_with("/api/tenant/")
            && !operation.wants_id()
        {
            let answer = send(world, &operation, Some(&token), "").await;
            seen.push(answer.expect(StatusCode::OK).json());
        }
    }
    seen
}

#[tokio::test]
async fn responses_contain_nothing_of_another_tenant() {
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
        format!("role={}", things.of_kind("rol")),
    ] {
        let answer = world
            .client
            .get_as(&eve.token, &format!("/api/tenant/users?{query}"))
            .await
            .expect(StatusCode::OK);
        assert!(secrets.iter().all(|secret| !answer.body.contains(*secret)), "{query}: {answer:?}");
    }
    for operation in Operation::all()
        .into_iter()
        .filter(|operation| !operation.is_open() && !operation.wants_id())
    {
        let token = people.token(eve.user, eve.tenant).await;
        let answer = send(&world, &operation, Some(&token), "").await;
        for secret in secrets.into_iter().chain(things.all()) {
            assert!(!answer.body.contains(secret), "{operation} reveals {secret}: {answer:?}");
        }
    }
}

/// Metrics have no label with data of a tenant.
#[tokio::test]
async fn metrics_contain_nothing_of_any_tenant() {
    let world = World::spawned(&[]).await;
    let worker = world.env.spawn_worker().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let things = Things::of(&world, &people, &ada).await;
    let (tenant, owner) = (ada.tenant.to_string(), ada.user.to_string());
    for operation in Operation::all() {
        let token = people.token(ada.user, ada.tenant).await;
        let id = if operation.wants_id() { things.id(&operation) } else { things.of_kind("inv") };
        send(&world, &operation, Some(&token), id).await;
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
    let of_api = metrics(world.api.process()).await;
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
async fn an_id_of_another_tenant_in_a_body_is_treated_as_unknown() {
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
            things.of_kind("usr").to_owned(),
            absent::<id::User>().to_string(),
        ),
        (
            Method::POST,
            "/api/tenant/users/invite".to_owned(),
            "role",
            things.of_kind("rol").to_owned(),
            absent::<id::CustomRole>().to_string(),
        ),
        (
            Method::PUT,
            format!("/api/tenant/users/{}", bob.user),
            "role",
            things.of_kind("rol").to_owned(),
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
async fn a_body_cannot_set_role_tenant_or_plan_unless_documented() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let mut tried = 0;
    for operation in Operation::all() {
        let Some(body) = body(&operation) else { continue };
        let known = &operation.body_schema().unwrap()["properties"];
        let others = [
            ("tenant_id", json!(ada.tenant)),
            ("role", json!("owner")),
            ("plan", json!("enterprise")),
            ("id", json!("x")),
        ];
        for (field, value) in others.into_iter().filter(|(field, _)| known.get(*field).is_none()) {
            let mut body = body.clone();
            body[field] = value;
            let path = operation.path.replace("{id}", nothing(&operation));
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
    // A tenant in a header is ignored.
    let eve = people.founder("eve@example.com").await;
    let request = world.client.request(Method::GET, "/api/tenant/current").bearer_auth(&eve.token);
    let current = Answer::of(request.header("x-tenant-id", ada.tenant.to_string()))
        .await
        .expect(StatusCode::OK)
        .json();
    let current: TenantId = current["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(current, eve.tenant);
}
