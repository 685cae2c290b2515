//! The log lines of requests.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, World};

const ROLES: &str = "/api/tenant/roles";

/// The `request_answered` line of the request with this id.
fn line_of(world: &World, request: &str) -> Value {
    let log = world.api.process().log_tail(1_000);
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut lines = lines.filter(|line| {
        line["message"] == "request_answered" && line["span"]["request_id"] == request
    });
    lines.next().unwrap_or_else(|| panic!("no line of {request}: {log}"))
}

#[tokio::test]
async fn the_line_of_a_refused_request_says_who_was_refused_and_why() {
    let world = World::spawned(&[("TENANTRY__TELEMETRY__FORMAT", "json")]).await;
    let token = world.signed_in("ada@example.com").await;
    let me = world.client.get_as(&token, "/api/auth/me").await.expect(StatusCode::OK).json();
    let ask = async |id: &str, token: Option<&str>, body: Value| {
        let request = world.client.request(Method::POST, ROLES).header("x-request-id", id);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        Answer::of(request.json(&body)).await
    };
    let role = json!({ "name": "Guide", "permissions": ["tenant:read"] });
    ask("made", Some(&token), role).await.expect(StatusCode::CREATED);
    ask("invalid", Some(&token), json!({})).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
    ask("nobody", None, json!({})).await.expect(StatusCode::UNAUTHORIZED);

    let (made, invalid, nobody) =
        (line_of(&world, "made"), line_of(&world, "invalid"), line_of(&world, "nobody"));
    assert_eq!((&made["code"], &made["network"]), (&Value::Null, &Value::Null), "{made}");
    assert_eq!(
        (&invalid["code"], &nobody["code"]),
        (&json!("validation_failed"), &json!("unauthenticated"))
    );
    for line in [&made, &invalid] {
        assert_eq!((&line["user"], &line["tenant"]), (&me["user"]["id"], &me["tenant"]["id"]));
    }
    assert_eq!(nobody["user"], Value::Null);
    let network = invalid["network"].as_str().unwrap();
    assert!(network.len() == 12 && nobody["network"] == network, "{invalid}{nobody}");
    assert!(!world.api.process().log_tail(1_000).contains("ada@example.com"));
}
