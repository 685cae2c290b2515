//! The OpenAPI document is the whole truth, and can be read.

use std::collections::{BTreeMap, BTreeSet};

use common::{db::PlatformScope, id};
use domain::tenancy::{
    invitations::Invitation,
    roles::{Permission, Role},
    tenant_domains::TenantDomain,
};
use mongodb::bson::{DateTime, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    document::{DOCUMENT, Operation, differences, resolved},
    people::People,
    support::{Answer, World, run},
};

/// Described answers that are not compared yet. The list only gets shorter.
const NOT_COMPARED: &[&str] = &[
    "get /api/auth/mfa 200",
    "post /api/auth/email/cancel 200",
    "post /api/auth/email/change 202",
    "post /api/auth/email/confirm 200",
    "post /api/auth/mfa/passkeys 201",
    "post /api/auth/mfa/passkeys/enroll 200",
    "post /api/auth/mfa/recovery-codes 200",
    "post /api/auth/mfa/totp/confirm 200",
    "post /api/auth/mfa/totp/enroll 200",
    "post /api/auth/mfa/verify 200",
    "post /api/auth/passkeys/login 200",
    "post /api/auth/passkeys/options 200",
    "post /api/auth/reauthenticate 200",
];

#[tokio::test]
async fn the_document_in_the_repository_is_that_of_the_code() {
    let printed = run(&["openapi"], []).await;
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let committed = include_str!("../../openapi.json");
    let printed = String::from_utf8(printed.stdout).unwrap();
    let changed = differences(&DOCUMENT, &serde_json::from_str(&printed).unwrap());
    assert!(
        printed == committed,
        "api/openapi.json is not what the code says ({}). Write it anew with \
         `cargo run -p api -- openapi > /tmp/openapi.json && cp /tmp/openapi.json api/openapi.json` \
         and look at what changed:\n{changed}",
        if changed.is_empty() { "it is formatted otherwise" } else { "+ is the code" },
    );
}

#[tokio::test]
async fn every_operation_of_the_document_is_served_to_those_it_says() {
    let world = World::new().await;
    let served = world.client.get("/api/openapi.json").await.expect(StatusCode::OK).json();
    assert_eq!(served["openapi"], "3.1.0");
    let changed = differences(&DOCUMENT, &served);
    assert!(changed.is_empty(), "another document is served than printed:\n{changed}");
    for operation in Operation::all() {
        let request = world.client.request(operation.method.clone(), operation.path);
        let answer = Answer::of(request).await;
        assert!(
            ![StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&answer.status),
            "{operation} is not served: {answer:?}"
        );
        let code = serde_json::from_str::<Value>(&answer.body)
            .map(|problem| problem["code"].clone())
            .unwrap_or_default();
        assert_eq!(
            code == "unauthenticated",
            !operation.is_open(),
            "{operation} says {:?}, and answers: {answer:?}",
            operation.need()
        );
        assert!(operation.says["responses"]["default"].is_object(), "{operation} may be refused");
    }
}

#[tokio::test]
async fn bodies_are_read_as_the_document_describes_them() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    for operation in Operation::all() {
        let Some(schema) = operation.body_schema() else { continue };
        let send = async |body: Value| {
            let request = world.client.request(operation.method.clone(), operation.path);
            let answer = Answer::of(request.bearer_auth(&token).json(&body)).await;
            answer.field_errors().into_iter().collect::<BTreeSet<String>>()
        };
        let required = schema["required"].as_array().into_iter().flatten();
        let required: BTreeSet<String> =
            required.map(|name| format!("{}:required", name.as_str().unwrap())).collect();
        let missing = send(json!({})).await;
        assert_eq!(missing, required, "{operation}: a body without fields, against the document");
        let properties = schema["properties"].as_object().unwrap();
        let mistyped = properties.iter().map(|(name, says)| {
            (name.clone(), if is_object(says) { json!("x") } else { json!({}) })
        });
        let refused = send(Value::Object(mistyped.collect())).await;
        let expected: BTreeSet<String> =
            properties.keys().map(|name| format!("{name}:invalid_type")).collect();
        assert_eq!(refused, expected, "{operation}: fields of wrong types, against the document");
    }
}

/// What another specification describes is an object.
fn is_object(says: &'static Value) -> bool {
    let either = says["oneOf"].as_array().into_iter().flatten();
    either.chain([says]).map(resolved).any(|says| {
        says["type"] == "object"
            || says["type"].as_array().is_some_and(|types| types.contains(&json!("object")))
    })
}

#[tokio::test]
async fn answers_have_exactly_the_fields_that_the_document_lists() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let document = world.client.get("/api/openapi.json").await.json();
    let post = async |path: &str, body: Value| world.client.post(path, &body).await;
    let login = json!({ "email": "ada@example.com", "password": crate::support::PASSWORD, "token_delivery": "body" });
    let session = post("/api/auth/login", login).await;
    let refresh = json!({ "refresh_token": session.json()["refresh_token"] });
    let switch = json!({ "tenant_id": session.json()["tenant"]["id"] });
    let newcomer = world.register("new@example.com").await;
    let verify = json!({ "token": world.link_token("new@example.com").await });
    let address = json!({ "email": "new@example.com" });
    let answers = [
        ("Keys", "/.well-known/jwks.json", "get", world.client.get("/.well-known/jwks.json").await),
        ("Registered", "/api/auth/register", "post", newcomer),
        (
            "Asked again",
            "/api/auth/verify-email/resend",
            "post",
            post("/api/auth/verify-email/resend", address.clone()).await,
        ),
        (
            "Verified",
            "/api/auth/verify-email",
            "post",
            post("/api/auth/verify-email", verify).await,
        ),
        (
            "Forgot",
            "/api/auth/password/forgot",
            "post",
            post("/api/auth/password/forgot", address).await,
        ),
        ("Login", "/api/auth/login", "post", session),
        ("Refreshed", "/api/auth/refresh", "post", post("/api/auth/refresh", refresh).await),
        (
            "Switched",
            "/api/auth/switch-tenant",
            "post",
            world.client.post_body_as(&token, "/api/auth/switch-tenant", &switch).await,
        ),
        (
            "Sessions",
            "/api/auth/sessions",
            "get",
            world.client.get_as(&token, "/api/auth/sessions").await,
        ),
        ("Me", "/api/auth/me", "get", world.client.get_as(&token, "/api/auth/me").await),
        (
            "Tenant",
            "/api/tenant/current",
            "get",
            world.client.get_as(&token, "/api/tenant/current").await,
        ),
    ];
    let answers = answers.into_iter().chain(answers_about_members(&world).await);
    let mut compared = BTreeSet::new();
    for (what, path, method, answer) in answers {
        let status = answer.status.as_str().to_owned();
        let schema = &document["paths"][path][method]["responses"][&status]["content"]["application/json"]
            ["schema"];
        assert!(schema.is_object(), "{what} is not described: {answer:?}");
        fits(&document, schema, &answer.json(), what);
        compared.insert(format!("{method} {path} {status}"));
    }
    let described: BTreeSet<String> = Operation::all()
        .into_iter()
        .flat_map(|operation| described(&operation.method, operation.path, operation.says))
        .collect();
    let left: Vec<&String> = described.difference(&compared).collect();
    assert_eq!(left, NOT_COMPARED, "every other answer that is described is compared here");
    assert!(compared.is_subset(&described));
    let refused = world.client.post("/api/auth/login", &json!({})).await;
    fits(
        &document,
        &document["paths"]["/api/auth/login"]["post"]["responses"]["default"]["content"]["application/problem+json"]
            ["schema"],
        &refused.json(),
        "Problem",
    );
}

/// The answers of an operation that have fields.
fn described(method: &Method, path: &str, operation: &Value) -> Vec<String> {
    let responses = operation["responses"].as_object().unwrap().iter();
    let with_fields =
        responses.filter(|(_, response)| response["content"]["application/json"].is_object());
    with_fields
        .map(|(status, _)| format!("{} {path} {status}", method.as_str().to_lowercase()))
        .collect()
}

/// Each answer about members, roles and invitations, with something in it.
#[expect(clippy::too_many_lines, reason = "it is a list")]
async fn answers_about_members(
    world: &World,
) -> Vec<(&'static str, &'static str, &'static str, Answer)> {
    let people = People::of(world).await;
    let eve = people.founder("eve@example.com").await;
    let bob = people.join(&eve, "bob@example.com", Role::Viewer).await;
    let get = async |path: &str| world.client.get_as(&eve.token, path).await;
    let post =
        async |path: &str, body: Value| world.client.post_body_as(&eve.token, path, &body).await;
    let offered = post("/api/tenant/ownership-transfers", json!({ "user_id": bob.user })).await;
    let made =
        post("/api/tenant/roles", json!({ "name": "Support", "permissions": ["users:read"] }))
            .await;
    let role = format!("/api/tenant/roles/{}", made.json()["id"].as_str().unwrap());
    let invited =
        post("/api/tenant/users/invite", json!({ "email": "carl@example.com", "role": "viewer" }))
            .await;
    let invitation: id::InvitationId =
        invited.json()["invitation"]["id"].as_str().unwrap().parse().unwrap();
    let listed = post(
        "/api/tenant/invitations/bulk",
        json!({ "invitations": [{ "email": "dan@example.com", "role": "viewer" }] }),
    )
    .await;
    let list = format!("/api/tenant/invitations/bulk/{}", listed.json()["id"].as_str().unwrap());
    let resent = world
        .client
        .post_as(&eve.token, &format!("/api/tenant/invitations/{invitation}/resend"))
        .await;
    let invitation = world
        .store
        .records::<Invitation>(PlatformScope)
        .find(doc! { "_id": invitation })
        .await
        .unwrap()
        .unwrap();
    let token = invitation.link_token(&world.key).expose().to_owned();
    let accept = json!({ "token": token, "name": "Carl", "password": crate::support::PASSWORD });
    let linked =
        post("/api/tenant/invite-links", json!({ "role": "viewer", "domains": ["example.com"] }))
            .await;
    let url = linked.json()["url"].as_str().unwrap().to_owned();
    let by_link = url.rsplit_once("token=").unwrap().1;
    let join = json!({ "token": by_link, "email": "fred@example.com" });
    let domain = post("/api/tenant/domains", json!({ "domain": "example.com" })).await;
    let of_domain = format!("/api/tenant/domains/{}", domain.json()["id"].as_str().unwrap());
    let open = json!({ "auto_invite_role": "viewer" });
    let opened = world.client.put_as(&eve.token, &of_domain, &open).await;
    let verified = doc! { "$set": { "status": "verified", "held_as": "@example.com", "verified_at": DateTime::now() } };
    world.store.records::<TenantDomain>(PlatformScope).update(doc! {}, verified).await.unwrap();
    let fay = people.founder("fay@example.com").await;
    let ask = json!({ "tenant_id": eve.tenant });
    let change = json!({ "name": "Support", "permissions": [] });
    let rules = json!({
        "require_mfa": false,
        "session_idle_minutes": 30,
        "session_absolute_hours": 12,
        "password_min_length": 12,
        "allowed_email_domains": ["example.com"],
        "ip_allowlist": ["127.0.0.0/8"],
    });
    vec![
        ("Offer", "/api/tenant/ownership-transfers", "post", offered),
        (
            "Offers",
            "/api/tenant/ownership-transfers",
            "get",
            get("/api/tenant/ownership-transfers").await,
        ),
        ("Role", "/api/tenant/roles", "post", made),
        ("Roles", "/api/tenant/roles", "get", get("/api/tenant/roles").await),
        ("Same role", "/api/tenant/roles/{id}", "get", get(&role).await),
        (
            "Changed role",
            "/api/tenant/roles/{id}",
            "put",
            world.client.put_as(&eve.token, &role, &change).await,
        ),
        (
            "Changed rules",
            "/api/tenant/security",
            "put",
            world.client.put_as(&eve.token, "/api/tenant/security", &rules).await,
        ),
        ("Rules", "/api/tenant/security", "get", get("/api/tenant/security").await),
        ("Invited", "/api/tenant/users/invite", "post", invited),
        ("Resent", "/api/tenant/invitations/{id}/resend", "post", resent),
        ("Invitations", "/api/tenant/invitations", "get", get("/api/tenant/invitations").await),
        ("List", "/api/tenant/invitations/bulk", "post", listed),
        ("Same list", "/api/tenant/invitations/bulk/{id}", "get", get(&list).await),
        (
            "Preview",
            "/api/invitations/{token}",
            "get",
            world.client.get(&format!("/api/invitations/{token}")).await,
        ),
        (
            "Joined",
            "/api/invitations/accept",
            "post",
            world.client.post("/api/invitations/accept", &accept).await,
        ),
        ("Invite link", "/api/tenant/invite-links", "post", linked),
        ("Invite links", "/api/tenant/invite-links", "get", get("/api/tenant/invite-links").await),
        (
            "Link's preview",
            "/api/invite-links/{token}",
            "get",
            world.client.get(&format!("/api/invite-links/{by_link}")).await,
        ),
        (
            "Followed",
            "/api/invite-links/join",
            "post",
            world.client.post("/api/invite-links/join", &join).await,
        ),
        ("Domain", "/api/tenant/domains", "post", domain),
        ("Domains", "/api/tenant/domains", "get", get("/api/tenant/domains").await),
        ("Opened", "/api/tenant/domains/{id}", "put", opened),
        (
            "Looked for",
            "/api/tenant/domains/{id}/verify",
            "post",
            post(&format!("{of_domain}/verify"), json!({})).await,
        ),
        (
            "Joinable",
            "/api/auth/joinable-tenants",
            "get",
            world.client.get_as(&fay.token, "/api/auth/joinable-tenants").await,
        ),
        (
            "Asked",
            "/api/auth/join-tenant",
            "post",
            world.client.post_body_as(&fay.token, "/api/auth/join-tenant", &ask).await,
        ),
        ("Members", "/api/tenant/users", "get", get("/api/tenant/users").await),
        (
            "Member",
            "/api/tenant/users/{id}",
            "put",
            world
                .client
                .put_as(
                    &eve.token,
                    &format!("/api/tenant/users/{}", bob.user),
                    &json!({ "role": "member" }),
                )
                .await,
        ),
    ]
}

/// Checks that `value` has every field of `schema` and no other, all the way down.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document
            .pointer(reference.trim_start_matches('#'))
            .unwrap_or_else(|| panic!("{at}: {reference} is not there"));
        return fits(document, target, value, at);
    }
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{at}: {value}");
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object())
    {
        let (described, given): (BTreeSet<_>, BTreeSet<_>) =
            (properties.keys().collect(), fields.keys().collect());
        assert!(given.is_subset(&described), "{at}: {given:?} against {described:?}");
        let required = schema["required"].as_array().into_iter().flatten();
        let missing: Vec<&Value> =
            required.filter(|name| !fields.contains_key(name.as_str().unwrap())).collect();
        assert!(missing.is_empty(), "{at}: {missing:?}");
        for (name, field) in fields {
            fits(document, &properties[name], field, &format!("{at}.{name}"));
        }
    }
    if let Some(items) = value.as_array() {
        for item in items {
            fits(document, &schema["items"], item, at);
        }
    }
}

#[test]
fn every_operation_has_an_id_of_its_own() {
    let mut taken = BTreeMap::new();
    for operation in Operation::all() {
        let id = operation.says["operationId"].as_str().unwrap();
        if let Some(other) = taken.insert(id, operation.clone()) {
            panic!("{operation} and {other} are both called {id}: rename a handler or its module");
        }
    }
    assert!(taken.contains_key("invitations_list"), "ids are of the form module_handler");
}

#[test]
fn wherever_there_are_permissions_the_document_lists_all_that_there_are() {
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
    let all: Vec<&str> = Permission::ALL.iter().map(|permission| permission.as_str()).collect();
    let changed = differences(
        &schemas["Permission"],
        &json!({ "type": "string", "enum": all, "description": schemas["Permission"]["description"] }),
    );
    assert!(changed.is_empty(), "the schema Permission, against Permission::ALL:\n{changed}");
    let lists = schemas.iter().filter_map(|(name, schema)| {
        Some((name.as_str(), schema["properties"].get("permissions")?))
    });
    let lists: Vec<(&str, &Value)> = lists.collect();
    assert!(lists.len() >= 4, "only these list permissions: {lists:?}");
    for (name, list) in lists {
        assert_eq!(list["items"]["$ref"], "#/components/schemas/Permission", "in {name}");
    }
}

#[tokio::test]
async fn the_page_loads_what_it_needs_from_here_alone() {
    let world = World::new().await;
    let page = world.client.get("/api/docs/").await.expect(StatusCode::OK);
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'")
            && policy.contains("script-src 'self';")
            && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(!page.body.contains("//cdn") && !page.body.contains("https://"), "{}", page.body);
    let quoted = page.body.split('"').filter(|text| text.starts_with("./") || *text == "index.css");
    let assets: Vec<&str> = quoted.map(|text| text.trim_start_matches("./")).collect();
    assert!(assets.len() >= 5, "{assets:?}");
    for asset in assets {
        world.client.get(&format!("/api/docs/{asset}")).await.expect(StatusCode::OK);
    }
    let script = world.client.get("/api/docs/swagger-initializer.js").await.expect(StatusCode::OK);
    assert!(script.body.contains("/api/openapi.json"), "{}", script.body);
}
