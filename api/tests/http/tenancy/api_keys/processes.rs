//! What ends a key reaches every process within a second, also if a message is lost.

use std::time::{Duration, Instant};

use common::db::PlatformScope;
use domain::tenancy::{api_keys::ApiKey, roles::Role};
use mongodb::bson::{DateTime, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::servers::Proxy;

use super::{make, path, plain};
use crate::{
    people::{People, Person},
    support::{Api, Client, Database, World, eventually},
};

const CURRENT: &str = "/api/tenant/current";

/// What ends a key, and the code with which it is refused then.
const ENDS: [(&str, &str); 4] = [
    ("revoked", "unauthenticated"),
    ("rotated", "unauthenticated"),
    ("suspended", "api_key_suspended"),
    ("shortened", "api_key_expired"),
];

/// Ends the key through this client.
async fn end(
    how: &str,
    client: &Client,
    world: &World,
    owner: &Person,
    key: &Value,
    member: &Person,
) {
    let path = path(key);
    let token = &owner.token;
    match how {
        "revoked" => drop(client.delete_as(token, &path).await.expect(StatusCode::NO_CONTENT)),
        "rotated" => {
            let body = json!({ "overlap_hours": 0 });
            let rotate = format!("{path}/rotate");
            client.post_body_as(token, &rotate, &body).await.expect(StatusCode::OK);
        }
        "suspended" => {
            let removal = format!("/api/tenant/users/{}", member.user);
            client.delete_as(token, &removal).await.expect(StatusCode::NO_CONTENT);
        }
        _ => {
            let soon = DateTime::from_millis(world.store.clock().now().timestamp_millis() + 300);
            let expires_at = common::clock::rfc3339(soon);
            let settings = super::settings(&json!({ "expires_at": expires_at }));
            client.put_as(token, &path, &settings).await.expect(StatusCode::OK);
            eventually("the time has come", async || {
                (world.store.clock().now() > soon).then_some(())
            })
            .await;
        }
    }
}

/// Uses the key until the process has it in its cache.
async fn warm(client: &Client, key: &str) {
    for _ in 0..3 {
        client.get_as(key, CURRENT).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn what_ends_a_key_reaches_three_processes_within_a_second() {
    let world = World::spawned(&[]).await;
    let (_second_api, second) = world.another_process().await;
    let (_third_api, third) = world.another_process().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    for (how, code) in ENDS {
        let bob = people.join(&ada, &format!("{how}@example.com"), Role::Admin).await;
        let key = make(&world, &bob, &json!({})).await;
        let text = plain(&key);
        for client in [&world.client, &second, &third] {
            warm(client, &text).await;
        }
        end(how, &second, &world, &ada, &key, &bob).await;
        let ended = Instant::now();
        for client in [&world.client, &second, &third] {
            let refused =
                client.expect_within_a_second(&text, CURRENT, StatusCode::UNAUTHORIZED).await;
            refused.expect_problem(StatusCode::UNAUTHORIZED, code);
        }
        assert!(ended.elapsed() < Duration::from_secs(1), "{how}: {:?}", ended.elapsed());
    }
}

#[tokio::test]
async fn a_key_ends_within_a_second_also_if_the_announcement_is_lost() {
    for (how, code) in ENDS {
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
        let behind_proxy = [("TENANTRY__REDIS__URL", url.as_str())];
        let world = World::on(database, &behind_proxy).await;
        let (_second_api, second): (Api, Client) = world.another_api_with(&behind_proxy).await;
        let (_third_api, third) = world.another_api().await;
        let people = People::of(&world).await;
        let ada = people.founder("ada@example.com").await;
        let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
        let key = make(&world, &bob, &json!({})).await;
        let text = plain(&key);
        for client in [&world.client, &second, &third] {
            warm(client, &text).await;
        }
        // From now on, messages to the first two processes are delayed, without an error.
        proxy.blackhole();
        end(how, &third, &world, &ada, &key, &bob).await;
        let ended = Instant::now();
        for client in [&world.client, &second, &third] {
            let refused =
                client.expect_within_a_second(&text, CURRENT, StatusCode::UNAUTHORIZED).await;
            refused.expect_problem(StatusCode::UNAUTHORIZED, code);
        }
        assert!(ended.elapsed() < Duration::from_millis(1_500), "{how}: {:?}", ended.elapsed());
        let row: ApiKey = world.store.records(PlatformScope).find(doc! {}).await.unwrap().unwrap();
        assert_eq!(json!(row.id), key["id"]);
    }
}
