//! A revocation reaches every process within a second, even if a message is lost.

use std::time::{Duration, Instant};

use common::db::PlatformScope;
use domain::people::sessions::Session;
use mongodb::bson::doc;
use reqwest::StatusCode;
use testkit::servers::Proxy;

use crate::support::{Client, Database, World, eventually};

/// Whether the process caches callers, according to its metrics.
pub(crate) async fn keeps(world: &World, client: &Client, token: &str) {
    eventually("callers are cached", async || {
        let hits = async || world.metric("tenantry_api_identities_total{outcome=\"hit\"}").await;
        let before = hits().await;
        client.get_as(token, "/api/auth/me").await.expect(StatusCode::OK);
        (hits().await > before).then_some(())
    })
    .await;
}

async fn end_all_sessions_silently(world: &World) {
    let update = doc! { "$set": { "revoked_at": world.store.clock().now() } };
    world.store.records::<Session>(PlatformScope).update_all(doc! {}, update).await.unwrap();
}

#[tokio::test]
async fn without_redis_every_request_queries_the_database() {
    let world = World::spawned_on(Database::with_own_redis().await, &[]).await;
    let token = world.signed_in("ada@example.com").await;
    keeps(&world, &world.client, &token).await;
    world.env.redis().stop().await;
    let stopped = Instant::now();
    end_all_sessions_silently(&world).await;
    world.client.expect_refused_within_a_second(&token).await;
    assert!(stopped.elapsed() < Duration::from_secs(3));
    // The metric distinguishes this from callers who send few requests.
    assert!(world.metric("tenantry_api_identities_total{outcome=\"distrusted\"}").await > 0.0);
}

#[tokio::test]
async fn a_lost_message_is_noticed_within_a_second() {
    let database = Database::prepared().await;
    let redis: std::net::SocketAddr = database
        .env
        .redis_url()
        .trim_start_matches("redis://")
        .trim_end_matches('/')
        .parse()
        .unwrap();
    let proxy = Proxy::start(redis).await.unwrap();
    let url = format!("redis://{}", proxy.addr());
    let world = World::spawned_on(database, &[("TENANTRY__REDIS__URL", &url)]).await;
    let (_second_api, second) = world.another_api().await;
    let token = world.signed_in("ada@example.com").await;
    keeps(&world, &world.client, &token).await;
    // From now on all messages to the first process are delayed, without an error.
    proxy.blackhole();
    second.post_as(&token, "/api/auth/logout").await.expect(StatusCode::NO_CONTENT);
    world.client.expect_refused_within_a_second(&token).await;
}

#[tokio::test]
async fn repeated_requests_of_one_caller_cost_no_database_operation() {
    let world = World::spawned(&[]).await;
    let token = world.signed_in("ada@example.com").await;
    keeps(&world, &world.client, &token).await;
    let misses = async || world.metric("tenantry_api_identities_total{outcome=\"miss\"}").await;
    let before = misses().await;
    for _ in 0..100 {
        world.client.get_as(&token, "/api/auth/me").await.expect(StatusCode::OK);
    }
    assert!(misses().await - before <= 5.0, "{} of 100", misses().await - before);
}
