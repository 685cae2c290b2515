//! The OpenAPI document matches the code and can be read. The client of all tests checks every
//! response against it ([`crate::document::check`]).

use std::collections::{BTreeMap, BTreeSet};

use domain::tenancy::roles::Permission;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    document::{DOCUMENT, Need, Operation, differences, resolved},
    support::{Answer, World, run},
};

#[tokio::test]
async fn the_document_in_the_repository_matches_the_code() {
    let printed = run(&["openapi"], []).await;
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let committed = include_str!("../../openapi.json");
    let printed = String::from_utf8(printed.stdout).unwrap();
    let changed = differences(&DOCUMENT, &serde_json::from_str(&printed).unwrap());
    assert!(
        printed == committed,
        "api/openapi.json differs from the code ({}). Run `cargo xtask renew` and review the \
         difference:\n{changed}",
        if changed.is_empty() { "only its format differs" } else { "+ is the code" },
    );
}

#[tokio::test]
async fn every_documented_operation_is_served_to_the_documented_callers() {
    let world = World::new().await;
    let served = world.client.get("/api/openapi.json").await.expect(StatusCode::OK).json();
    assert_eq!(served["openapi"], "3.1.0");
    let changed = differences(&DOCUMENT, &served);
    assert!(changed.is_empty(), "the served document differs from the printed one:\n{changed}");
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
            "{operation} declares {:?}, and returns: {answer:?}",
            operation.need()
        );
    }
}

#[tokio::test]
async fn bodies_are_parsed_as_documented() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    for operation in Operation::all() {
        let Some(schema) = operation.body_schema() else { continue };
        let send = async |body: Value| {
            let request = world.client.request(operation.method.clone(), operation.path);
            // Signing out would end the session, and the body is read before the refresh token.
            let request = match operation.need() {
                Need::Session => request,
                _ => request.bearer_auth(&token),
            };
            let answer = Answer::of(request.json(&body)).await;
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

/// An object that another specification describes.
fn is_object(says: &'static Value) -> bool {
    let either = says["oneOf"].as_array().into_iter().flatten();
    either.chain([says]).map(resolved).any(|says| {
        says["type"] == "object"
            || says["type"].as_array().is_some_and(|types| types.contains(&json!("object")))
    })
}

#[test]
fn operation_ids_are_unique() {
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
fn the_document_lists_every_permission() {
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
    let all: Vec<&str> = Permission::ALL.iter().map(|permission| permission.as_str()).collect();
    let changed = differences(
        &schemas["Permission"],
        &json!({ "type": "string", "enum": all, "description": schemas["Permission"]["description"] }),
    );
    assert!(changed.is_empty(), "the schema Permission, against Permission::ALL:\n{changed}");
    let lists = schemas.iter().filter_map(|(name, schema)| {
        Some((name.as_str(), resolved(schema["properties"].get("permissions")?)))
    });
    let lists: Vec<(&str, &Value)> = lists.collect();
    assert!(lists.len() >= 4, "only these list permissions: {lists:?}");
    for (name, list) in lists {
        assert_eq!(list["items"]["$ref"], "#/components/schemas/Permission", "in {name}");
    }
}

#[tokio::test]
async fn the_documentation_page_loads_nothing_from_other_origins() {
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
