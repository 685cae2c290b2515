//! Rate limits of requests: the buckets that a request takes from, and the headers of the response.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    people::People,
    support::{Answer, Client, Database, PASSWORD, World, eventually},
};

const ADA: &str = "ada@example.com";
const ME: &str = "/api/auth/me";
/// Needs the database and no principal.
const OPEN: &str = "/api/invite-links/nothing";

/// The IP address of the tests is that of a trusted proxy, so that they can simulate any client.
const BEHIND_PROXY: (&str, &str) = ("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.0/8");
const USER: &str = "TENANTRY__RATE_LIMITS__USER";
const TENANT: &str = "TENANTRY__RATE_LIMITS__TENANT";
const NETWORK: &str = "TENANTRY__RATE_LIMITS__NETWORK";
/// On a busy machine, Redis may take longer to count a request than the default allows.
const PATIENT: (&str, &str) = ("TENANTRY__RATE_LIMITS__PATIENCE", "60s");

#[track_caller]
fn expect_limited(answer: Answer, policies: &[&str]) -> Answer {
    let answer = answer.expect_problem(StatusCode::TOO_MANY_REQUESTS, "rate_limited");
    assert_eq!(answer.json()["violated_policies"], json!(policies));
    answer
}

/// `r` and `t` of a policy.
#[track_caller]
fn standing(answer: &Answer, policy: &str) -> (u64, u64) {
    let header = answer.header("ratelimit");
    let list = header.split(", ").find(|item| item.starts_with(&format!("\"{policy}\";")));
    let list = list.unwrap_or_else(|| panic!("no {policy} in {header}"));
    let number = |name: &str| {
        let part = list.split(';').find_map(|part| part.strip_prefix(&format!("{name}=")));
        part.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name}: {list}"))
    };
    (number("r"), number("t"))
}

/// How many of `count` concurrent requests with `token` to each of the `clients` were let through,
/// and how many more may have been because requests were added meanwhile.
async fn burst(clients: &[&Client], token: &str, count: usize, quota: u64) -> (u64, u64) {
    let started = Instant::now();
    let asking = clients.iter().flat_map(|client| (0..count).map(|_| client.get_as(token, ME)));
    let answers = join_all(asking).await;
    let through = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let interval = Duration::from_mins(1).as_millis() / u128::from(quota);
    let added = started.elapsed().as_millis() / interval + 1;
    (through.try_into().unwrap(), added.try_into().unwrap())
}

#[tokio::test]
async fn every_limited_answer_says_how_its_principal_stands() {
    let world = World::with(&[PATIENT]).await;
    let unknown = world.client.get(OPEN).await;
    assert_eq!(unknown.header("ratelimit-policy"), r#""network";q=600;w=60"#);
    assert_eq!(unknown.header("ratelimit"), r#""network";r=599;t=1"#);
    let refused = world.client.get_as("forged", ME).await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(standing(&refused, "network"), (598, 1), "an invalid token is that of nobody");

    let token = world.signed_in(ADA).await;
    let known = world.client.get_as(&token, ME).await.expect(StatusCode::OK);
    assert_eq!(known.header("ratelimit-policy"), r#""user";q=1200;w=60, "tenant";q=6000;w=60"#);
    assert_eq!(known.header("ratelimit"), r#""user";r=1199;t=1, "tenant";r=5999;t=1"#);
    let invalid = world.client.get_as(&token, "/api/tenant/users?nonsense=1").await;
    assert_eq!(standing(&invalid, "user"), (1198, 1), "refusals of the handler count as well");

    let keys = world.client.get("/.well-known/jwks.json").await;
    assert!(keys.headers.get("ratelimit").is_none(), "served from memory to any number of clients");
}

#[tokio::test]
async fn a_user_beyond_the_limit_is_refused_and_others_are_not() {
    let world = World::spawned(&[PATIENT, (USER, "5")]).await;
    let people = People::of(&world).await;
    let (ada, eve) = (people.founder(ADA).await, people.founder("eve@example.com").await);
    let (through, added) = burst(&[&world.client], &ada.token, 20, 5).await;
    assert!((5..=5 + added).contains(&through), "{through} were let through");
    let refused = expect_limited(world.client.get_as(&ada.token, ME).await, &["user"]);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    let (left, next) = standing(&refused, "user");
    assert_eq!(left, 0);
    assert!(next <= wait && (1..=12).contains(&wait), "{refused:?}");
    world.client.get_as(&eve.token, ME).await.expect(StatusCode::OK);
    let metric = world.metric("tenantry_rate_limited_total{policy=\"user\"}").await;
    assert!(metric >= 15.0 - f64::from(u32::try_from(added).unwrap()), "{metric}");
}

/// unkeyed/unkey#1995: a request that one limit refused was counted by the other.
#[tokio::test]
async fn a_request_takes_from_all_buckets_or_from_none() {
    let world = World::with(&[PATIENT, (USER, "3"), (TENANT, "1000")]).await;
    let token = world.signed_in(ADA).await;
    let (through, _) = burst(&[&world.client], &token, 30, 3).await;
    let refused = expect_limited(world.client.get_as(&token, ME).await, &["user"]);
    let (left, _) = standing(&refused, "tenant");
    assert!(left >= 1000 - through, "{left} are left after {through} requests");

    let world = World::with(&[PATIENT, (USER, "1000"), (TENANT, "3")]).await;
    let token = world.signed_in(ADA).await;
    let (through, _) = burst(&[&world.client], &token, 30, 3).await;
    let refused = expect_limited(world.client.get_as(&token, ME).await, &["tenant"]);
    let (left, _) = standing(&refused, "user");
    assert!(left >= 1000 - through, "{left} are left after {through} requests");
}

#[tokio::test]
async fn several_processes_share_the_limits() {
    let world = World::with(&[PATIENT, (USER, "6")]).await;
    let token = world.signed_in(ADA).await;
    let (_second, other) = world.another_api_with(&[PATIENT, (USER, "6")]).await;
    let (_third, third) = world.another_api_with(&[PATIENT, (USER, "6")]).await;
    let (through, added) = burst(&[&world.client, &other, &third], &token, 15, 6).await;
    assert!((6..=6 + added).contains(&through), "{through} were let through");
}

#[tokio::test]
async fn a_flood_of_one_tenant_refuses_nobody_in_another() {
    let world = World::with(&[PATIENT, (TENANT, "4")]).await;
    let people = People::of(&world).await;
    let (ada, eve) = (people.founder(ADA).await, people.founder("eve@example.com").await);
    burst(&[&world.client], &ada.token, 30, 4).await;
    expect_limited(world.client.get_as(&ada.token, ME).await, &["tenant"]);
    let (through, _) = burst(&[&world.client], &eve.token, 4, 4).await;
    assert_eq!(through, 4);
}

#[tokio::test]
async fn the_networks_of_an_ipv6_subscriber_count_together() {
    let world = World::with(&[PATIENT, BEHIND_PROXY, (NETWORK, "2")]).await;
    let ask = async |address: &str| {
        let request = world.client.request(Method::GET, OPEN).header("x-forwarded-for", address);
        Answer::of(request).await
    };
    let started = Instant::now();
    let mut through = 0;
    // Each /64 is used once, the /56 has four times its limit.
    for network in 0..20 {
        let answer = ask(&format!("2001:db8:0:{network:x}::1")).await;
        through += u128::from(answer.status != StatusCode::TOO_MANY_REQUESTS);
    }
    let added = started.elapsed().as_millis() / 7_500 + 1;
    assert!((8..=8 + added).contains(&through), "{through} were let through");
    let other = ask("192.0.2.1").await;
    assert_eq!(standing(&other, "network").0, 1, "another network is not affected");
}

#[tokio::test]
async fn zero_is_no_limit() {
    let world = World::with(&[PATIENT, (USER, "0"), (TENANT, "0"), (NETWORK, "0")]).await;
    let token = world.signed_in(ADA).await;
    for answer in [world.client.get_as(&token, ME).await, world.client.get(OPEN).await] {
        assert!(answer.headers.get("ratelimit").is_none(), "{answer:?}");
        assert!(answer.headers.get("ratelimit-policy").is_none(), "{answer:?}");
    }
}

#[tokio::test]
async fn without_redis_requests_are_let_through_and_counted() {
    let world = World::spawned_on(Database::with_own_redis().await, &[PATIENT, (USER, "2")]).await;
    world.make_account(ADA).await;
    let token =
        world.login(ADA, PASSWORD).await.json()["access_token"].as_str().unwrap().to_owned();
    world.env.redis().stop().await;
    for _ in 0..6 {
        let answer = world.client.get_as(&token, ME).await.expect(StatusCode::OK);
        assert!(answer.headers.get("ratelimit").is_none(), "nothing is known");
    }
    assert!(world.metric("tenantry_rate_limit_outages_total").await >= 6.0);
    world.env.redis().start_again().await.unwrap();
    eventually("requests are limited again", async || {
        (world.client.get_as(&token, ME).await.status == StatusCode::TOO_MANY_REQUESTS)
            .then_some(())
    })
    .await;
}
