//! What all responses have in common: request ids, problem details, headers, paths and methods.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Answer, World};

#[tokio::test]
async fn a_valid_request_id_is_echoed_and_any_other_replaced() {
    let world = World::new().await;
    let answer_to = async |id: &str| {
        let request =
            world.client.request(Method::GET, "/.well-known/jwks.json").header("x-request-id", id);
        Answer::of(request).await.expect(StatusCode::OK).header("x-request-id").to_owned()
    };
    let longest = "x".repeat(128);
    for sane in ["abc", "req-1.2_3", &longest] {
        assert_eq!(answer_to(sane).await, sane);
    }
    for insane in ["a b", "<script>", "a/b", &"x".repeat(129)] {
        let id = answer_to(insane).await;
        assert!(id != insane && id.len() == 32, "{insane} became {id}");
    }
    let (first, second) = (world.client.get("/nope").await, world.client.get("/nope").await);
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
}

#[tokio::test]
async fn the_log_line_of_a_request_has_its_route_and_ids_and_no_secret() {
    let world = World::spawned(&[]).await;
    let request = world
        .client
        .request(Method::GET, "/verify-email?token=canary-token")
        .header("x-request-id", "find-me");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    Answer::of(request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")))
        .await
        .expect(StatusCode::OK);
    let line = crate::support::eventually("the log line", async || {
        world
            .api
            .process()
            .log()
            .lines()
            .find(|line| line.contains("find-me") && line.contains("request_answered"))
            .map(str::to_owned)
    })
    .await;
    for part in [
        "\"route\":\"/verify-email\"",
        "\"method\":\"GET\"",
        "\"status\":200",
        "\"duration_us\":",
        trace,
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(!world.api.process().log().contains("canary-token"));
}

#[tokio::test]
async fn requests_are_counted_by_route_template() {
    let world = World::spawned(&[]).await;
    world.client.get("/verify-email?token=x").await.expect(StatusCode::OK);
    world.client.get("/no/such/path/4711").await.expect(StatusCode::NOT_FOUND);
    let odd = Method::from_bytes(b"BREW").unwrap();
    Answer::of(world.client.request(odd, "/api/auth/me"))
        .await
        .expect(StatusCode::METHOD_NOT_ALLOWED);
    let metrics = reqwest::get(format!("{}/metrics", world.api.process().internal_url()))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for series in [
        "tenantry_http_requests_total{method=\"GET\",route=\"/verify-email\",status=\"200\"} 1",
        "tenantry_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "tenantry_http_requests_total{method=\"other\",route=\"/api/auth/me\",status=\"405\"} 1",
        "tenantry_http_request_duration_seconds_count{method=\"GET\",route=\"/verify-email\"} 1",
        "tenantry_http_requests_in_flight 0",
    ] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
    assert!(!metrics.contains("4711"));
}

#[tokio::test]
async fn an_unknown_path_returns_a_problem() {
    let world = World::new().await;
    for path in [
        "/",
        "/nope",
        "/api",
        "/api/",
        "/api/auth/login/",
        "/api/docs/nope.js",
        "/metrics",
        "/health/ready",
        "//",
        "/%00",
        "/api/auth/../auth/me",
    ] {
        let answer = world.client.get(path).await;
        let expected =
            if path.contains("..") { StatusCode::UNAUTHORIZED } else { StatusCode::NOT_FOUND };
        let code = if path.contains("..") { "unauthenticated" } else { "not_found" };
        answer.expect_problem(expected, code);
    }
}

#[tokio::test]
async fn an_unsupported_method_returns_a_problem_with_the_allowed_methods() {
    let world = World::new().await;
    for (method, path, allow) in [
        (Method::GET, "/api/auth/register", "POST"),
        (Method::DELETE, "/api/auth/login", "POST"),
        (Method::POST, "/api/auth/me", "GET,HEAD,PUT"),
        (Method::PUT, "/verify-email", "GET,HEAD,POST"),
        (Method::TRACE, "/api/auth/me", "GET,HEAD,PUT"),
        (Method::TRACE, "/nope", ""),
        (Method::OPTIONS, "/api/auth/login", "POST"),
    ] {
        let answer = Answer::of(world.client.request(method.clone(), path)).await;
        let answer = if path == "/verify-email" {
            answer.expect(StatusCode::METHOD_NOT_ALLOWED)
        } else {
            answer.expect_problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
        };
        let mut allowed: Vec<&str> = answer.header("allow").split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{method} {path}");
    }
}

#[tokio::test]
async fn a_trace_request_is_not_echoed() {
    let world = World::new().await;
    let request = world
        .client
        .request(Method::TRACE, "/api/auth/me")
        .header("authorization", "Bearer canary");
    let answer = Answer::of(request).await.expect(StatusCode::METHOD_NOT_ALLOWED);
    assert!(!answer.body.contains("canary"), "{answer:?}");
}

#[tokio::test]
async fn responses_forbid_caching_sniffing_and_framing() {
    let world = World::new().await;
    let refused = world
        .client
        .post("/api/auth/login", &json!({}))
        .await
        .expect(StatusCode::UNPROCESSABLE_ENTITY);
    let unmatched = world.client.get("/api/nope").await.expect(StatusCode::NOT_FOUND);
    for answer in [refused, unmatched] {
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(
            answer.header("content-security-policy"),
            "default-src 'none'; frame-ancestors 'none'"
        );
        assert_eq!(answer.header("strict-transport-security"), "", "not over plain http");
        assert_eq!(answer.header("server"), "", "no Server header");
        assert_eq!(answer.header("access-control-allow-origin"), "", "no CORS header");
    }
}

#[tokio::test]
async fn an_https_installation_sends_strict_transport_security() {
    let world = World::with(&[("TENANTRY__APP__PUBLIC_URL", "https://app.example.com")]).await;
    let answer = world.client.get("/verify-email?token=x").await.expect(StatusCode::OK);
    assert_eq!(answer.header("strict-transport-security"), "max-age=63072000");
    let (_api, wider) = world
        .another_api_with(&[
            ("TENANTRY__APP__PUBLIC_URL", "https://app.example.com"),
            ("TENANTRY__API__HSTS_INCLUDE_SUBDOMAINS", "true"),
        ])
        .await;
    let answer = wider.get("/.well-known/jwks.json").await;
    let hsts = answer.header("strict-transport-security");
    assert_eq!(hsts, "max-age=63072000; includeSubDomains");
}

#[tokio::test]
async fn a_forged_host_changes_nothing() {
    let world = World::new().await;
    let request = world.client.request(Method::GET, "/api/docs").header("host", "evil.example");
    let answer = Answer::of(request).await.expect(StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), "/api/docs/");
}
