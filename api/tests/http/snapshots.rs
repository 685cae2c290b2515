//! Snapshots of whole responses, so that reviews show every change for clients. Ids, times and
//! tokens are redacted. After an intended change, `cargo xtask renew` rewrites the files in
//! `snapshots/`.

use std::collections::BTreeSet;

use domain::tenancy::roles::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    document::Operation,
    people::{People, Person},
    support::{Answer, World},
};

/// Values that differ between runs, and their replacements in snapshots.
const REDACTED: &[(&str, &str)] = &[
    (r"\b([a-z]{2,5})_[0-9a-f]{32}\b", "${1}_[id]"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[time]"),
    (r#""request_id": "[0-9a-f]{32}""#, r#""request_id": "[request id]""#),
    (r#""access_token": "[^"]+""#, r#""access_token": "[token]""#),
    (r"(token=|invite-links/|tenantry-verification=)[\w-]{20,}", "$1[token]"),
    (r#""(kid|x|y|n)": "[\w-]+""#, r#""$1": "[key]""#),
    (r#""prefix": "tk_\w+""#, r#""prefix": "[prefix]""#),
    (r#""last_four": "\w+""#, r#""last_four": "[last four]""#),
    (r"http://127\.0\.0\.1:\d+", "[origin]"),
];

fn snapshot(name: &str, answer: &Answer) {
    let body: Value = if answer.body.is_empty() { Value::Null } else { answer.json() };
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, replacement) in REDACTED {
        settings.add_filter(pattern, *replacement);
    }
    settings.bind(|| {
        let text = format!("{}\n{body:#}", answer.status);
        insta::assert_snapshot!(name, text);
    });
}

/// Creates something to read for every route.
async fn furnished(world: &World) -> (Person, [String; 3]) {
    let people = People::of(world).await;
    let ada = people.founder("ada@example.com").await;
    people.join(&ada, "bob@example.com", Role::Viewer).await;
    let post =
        async |path: &str, body: Value| world.client.post_body_as(&ada.token, path, &body).await;
    let role = json!({ "name": "Support", "permissions": ["users:read", "tenant:read"] });
    let role = post("/api/tenant/roles", role).await.expect(StatusCode::CREATED).json();
    let invitation = json!({ "email": "carl@example.com", "role": "member" });
    post("/api/tenant/users/invite", invitation).await.expect(StatusCode::CREATED);
    let link = json!({ "role": "member", "domains": ["example.com"] });
    post("/api/tenant/invite-links", link).await.expect(StatusCode::CREATED);
    let domain = json!({ "domain": "example.com" });
    post("/api/tenant/domains", domain).await.expect(StatusCode::CREATED);
    let list = json!({ "invitations": [{ "email": "dora@example.com", "role": "viewer" }] });
    let list = post("/api/tenant/invitations/bulk", list).await.expect(StatusCode::ACCEPTED).json();
    let key = crate::tenancy::api_keys::make(world, &ada, &json!({})).await;
    let ids = [&role, &list, &key].map(|thing| thing["id"].as_str().unwrap().to_owned());
    (ada, ids)
}

/// Reads of links, which have snapshots in their own tests.
const BY_LINK: [&str; 2] = ["joining_preview", "invite_links_preview"];

#[tokio::test]
async fn every_readable_resource_matches_its_snapshot() {
    let world = World::new().await;
    let (ada, [role, list, key]) = furnished(&world).await;
    let mut seen = BTreeSet::new();
    for operation in Operation::all().iter().filter(|operation| operation.method == Method::GET) {
        let name = operation.id();
        if BY_LINK.contains(&name) {
            continue;
        }
        let id = match name {
            "roles_see" => &role,
            "api_keys_see" | "api_keys_usage" => &key,
            _ => &list,
        };
        let path = operation.path.replace("{id}", id);
        let answer = world.client.get_as(&ada.token, &path).await;
        assert_eq!(answer.status, StatusCode::OK, "let `furnished` create what {path} reads");
        snapshot(name, &answer);
        seen.insert(name);
    }
    assert!(seen.len() >= 15, "{seen:?}");
}
