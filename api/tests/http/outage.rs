//! While the database is unavailable, requests are rejected quickly; afterwards everything works
//! again.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use testkit::testing::TestEnv;

use crate::support::{Database, PASSWORD, World, eventually};

/// Enough time to notice the outage on a busy machine, and much less than the timeout of a request.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// Upper bound of "at once" on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_hanging_database_causes_503_at_once_until_it_recovers() {
    let database = Database::empty(TestEnv::private().await).await;
    database.store.migrate(&domain::schema()).await.unwrap();
    let world = World::on(database, &[]).await;
    let token = world.signed_in("ada@example.com").await;

    world.env.mongod().pause();
    let begun = Instant::now();
    let waiting = world.client.get_as(&token, "/api/auth/me").await;
    let waiting = waiting.expect_problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
    assert_eq!(waiting.header("retry-after"), "2");
    assert!(begun.elapsed() < NOTICED_WITHIN, "{:?}", begun.elapsed());

    let body = json!({ "email": "eve@example.com", "password": PASSWORD, "name": "Eve", "tenant_name": "Eve" });
    for path in ["/api/auth/register", "/api/auth/login"] {
        let begun = Instant::now();
        let refused = world
            .client
            .post(path, &body)
            .await
            .expect_problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        assert!(!refused.body.to_lowercase().contains("mongo"), "no cause leaks: {}", refused.body);
    }
    let page = world
        .client
        .post_form("/verify-email", "token=x")
        .await
        .expect(StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.body.contains("<h1>") && page.header("retry-after") == "2", "{page:?}");
    world.client.get("/verify-email?token=x").await.expect(StatusCode::OK);
    world.client.get("/.well-known/jwks.json").await.expect(StatusCode::OK);
    assert!(!world.api.is_ready().await);

    world.env.mongod().resume();
    eventually("the API serves again", async || {
        (world.client.get_as(&token, "/api/auth/me").await.status == StatusCode::OK).then_some(())
    })
    .await;
    eventually("the API is ready again", async || world.api.is_ready().await.then_some(())).await;
}

#[tokio::test]
async fn a_process_that_starts_before_its_database_waits_for_it() {
    let database = Database::empty(TestEnv::private().await).await;
    database.store.migrate(&domain::schema()).await.unwrap();
    database.env.mongod().kill().await;
    let api = database.env.launch_api_with(&[("TENANTRY__MONGODB__TIMEOUT", "500ms")]);
    eventually("it logs that it waits", async || {
        api.log().contains("waiting_for_database").then_some(())
    })
    .await;
    assert!(!api.is_ready().await && api.status().is_none());
    database.env.mongod().start_again().await.unwrap();
    api.ready().await.unwrap();
}
