//! Refreshing sessions: concurrent refreshes keep one session, and reuse of an old token ends it.

use std::time::Duration;

use common::{db::PlatformScope, id::SessionId};
use domain::people::sessions::Session;
use jobs::outbox::OutboxRow;
use mongodb::bson::{DateTime, doc};
use reqwest::{Method, StatusCode, header::HeaderValue};
use serde_json::{Value, json};

use crate::support::{Answer, Client, PASSWORD, World, eventually};

const REFRESH: &str = "/api/auth/refresh";

async fn login_with_body_token(world: &World) -> Value {
    let body =
        json!({ "email": "ada@example.com", "password": PASSWORD, "token_delivery": "body" });
    world.client.post("/api/auth/login", &body).await.expect(StatusCode::OK).json()
}

async fn account(settings: &[(&str, &str)]) -> (World, Value) {
    let world = World::with(settings).await;
    world.make_account("ada@example.com").await;
    let login = login_with_body_token(&world).await;
    (world, login)
}

async fn refresh(client: &Client, token: &Value) -> Answer {
    client.post(REFRESH, &json!({ "refresh_token": token })).await
}

async fn session(world: &World) -> Session {
    world
        .store
        .records::<Session>(PlatformScope)
        .find_first(doc! {}, doc! { "_id": -1 })
        .await
        .unwrap()
        .unwrap()
}

/// Moves the past of the newest session back by this time.
pub(crate) async fn age(world: &World, by: Duration) {
    let session = session(world).await;
    age_session(world, session, by).await;
}

async fn age_of(world: &World, session: &Value, by: Duration) {
    let id: SessionId = session.as_str().unwrap().parse().unwrap();
    age_session(world, Session::by_id(&world.store, id).await.unwrap().unwrap(), by).await;
}

async fn age_session(world: &World, session: Session, by: Duration) {
    let before = |at: DateTime| {
        DateTime::from_millis(at.timestamp_millis() - i64::try_from(by.as_millis()).unwrap())
    };
    let superseded = mongodb::bson::serialize_to_document(&session).unwrap();
    let superseded =
        superseded.get_document("refresh").unwrap().get_array("superseded_at").unwrap();
    let superseded: Vec<DateTime> =
        superseded.iter().map(|at| before(*at.as_datetime().unwrap())).collect();
    let update = doc! { "$set": {
        "refresh.superseded_at": superseded,
        "last_seen_at": before(session.last_seen_at.unwrap()),
        "expires_at": before(session.expires_at),
    } };
    world
        .store
        .records::<Session>(PlatformScope)
        .update(doc! { "_id": session.id }, update)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refresh_token_is_valid_once_and_replaced_by_its_successor() {
    let (world, login) = account(&[]).await;
    assert!(
        login["session"]["refresh_in"].as_u64().unwrap() < login["expires_in"].as_u64().unwrap()
    );
    let next = refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK).json();
    assert_ne!(next["refresh_token"], login["refresh_token"]);
    assert_eq!(
        (&next["session"]["id"], &next["session"]["expires_at"]),
        (&login["session"]["id"], &login["session"]["expires_at"])
    );
    world
        .client
        .get_as(next["access_token"].as_str().unwrap(), "/api/auth/me")
        .await
        .expect(StatusCode::OK);
    refresh(&world.client, &next["refresh_token"]).await.expect(StatusCode::OK);
    assert_eq!(world.count::<Session>().await, 1);
}

#[tokio::test]
async fn a_client_that_lost_the_response_gets_the_same_successor() {
    let (world, login) = account(&[]).await;
    let first = refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK).json();
    let again = refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK).json();
    assert_eq!(first["refresh_token"], again["refresh_token"]);
    refresh(&world.client, &again["refresh_token"]).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_client_recovers_if_the_api_is_killed_before_it_responds() {
    let (world, login) = account(&[]).await;
    let (killed, client) = world.another_process().await;
    let token = login["refresh_token"].clone();
    let asking = tokio::spawn(async move {
        let request =
            client.request(Method::POST, REFRESH).json(&json!({ "refresh_token": token }));
        Answer::try_of(request).await
    });
    eventually("the token is rotated", async || {
        let generation = session(&world).await.refresh.unwrap().generation;
        (generation == 2).then_some(())
    })
    .await;
    killed.process().kill().await;
    // Whether or not the response arrived.
    let _ = asking.await.unwrap();
    let next = refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK).json();
    refresh(&world.client, &next["refresh_token"]).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn twenty_concurrent_refreshes_keep_the_session_signed_in() {
    let (world, login) = account(&[]).await;
    let (_second_api, second) = world.another_api().await;
    let clients = [&world.client, &second];
    let asking = (0..20).map(|n| refresh(clients[n % 2], &login["refresh_token"]));
    let answers = futures::future::join_all(asking).await;
    let tokens: std::collections::BTreeSet<String> = answers
        .into_iter()
        .map(|answer| answer.expect(StatusCode::OK).json()["refresh_token"].to_string())
        .collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(session(&world).await.refresh.unwrap().generation, 2);
    let next: Value = serde_json::from_str(tokens.first().unwrap()).unwrap();
    refresh(&world.client, &next).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_late_refresh_in_a_race_returns_refresh_raced_and_keeps_its_cookie() {
    let (world, login) = account(&[]).await;
    let next = refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK).json();
    refresh(&world.client, &next["refresh_token"]).await.expect(StatusCode::OK);
    let cookie = format!("refresh_token={}", login["refresh_token"].as_str().unwrap());
    let raced =
        Answer::of(world.client.request(Method::POST, REFRESH).header("cookie", cookie)).await;
    let raced = raced.expect_problem(StatusCode::CONFLICT, "refresh_raced");
    assert_eq!(raced.header("set-cookie"), "");
    assert!(session(&world).await.revoked_at.is_none());
}

#[tokio::test]
async fn a_superseded_token_after_the_grace_period_ends_the_session_and_notifies_the_user() {
    let (world, login) = account(&[]).await;
    let next = refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK).json();
    age(&world, Duration::from_secs(31)).await;
    refresh(&world.client, &login["refresh_token"])
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "token_reused");
    refresh(&world.client, &next["refresh_token"])
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    world.client.expect_refused_within_a_second(next["access_token"].as_str().unwrap()).await;
    let alarms = doc! { "kind": "session.send_reuse_alarm" };
    assert_eq!(world.store.records::<OutboxRow>(PlatformScope).count(alarms).await.unwrap(), 1);
    let event = doc! { "action": "session.reuse_detected" };
    assert_eq!(world.events(event).await, 1);
}

#[tokio::test]
async fn a_foreign_refresh_token_is_rejected_and_ends_no_session() {
    let (world, login) = account(&[]).await;
    let good = login["refresh_token"].as_str().unwrap();
    let mut forged = good.to_owned().into_bytes();
    let last = forged.len() - 3;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    for bad in [
        "",
        "rt_",
        "x",
        String::from_utf8(forged).unwrap().as_str(),
        &good[..40],
        login["access_token"].as_str().unwrap(),
    ] {
        refresh(&world.client, &json!(bad))
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    }
    world
        .client
        .post(REFRESH, &json!({ "refresh_token": { "$ne": null } }))
        .await
        .expect(StatusCode::UNPROCESSABLE_ENTITY);
    world
        .client
        .post(REFRESH, &json!({}))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_refresh_token_cannot_be_forged_from_the_database() {
    let (world, login) = account(&[]).await;
    let token = login["refresh_token"].as_str().unwrap();
    let row = mongodb::bson::serialize_to_document(&session(&world).await).unwrap().to_string();
    for length in [8, 16, 32] {
        assert!(!row.contains(&token[token.len() - length..]), "{row}");
    }
}

#[tokio::test]
async fn a_session_ends_when_idle_and_at_its_maximum_age() {
    let (world, login) = account(&[]).await;
    age(&world, Duration::from_secs(2 * 3600 + 1)).await;
    refresh(&world.client, &login["refresh_token"])
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");

    let busy = login_with_body_token(&world).await;
    let busy = refresh(&world.client, &busy["refresh_token"]).await.expect(StatusCode::OK).json();
    age(&world, Duration::from_hours(12)).await;
    let now = world.store.clock().now();
    world
        .store
        .records::<Session>(PlatformScope)
        .update_all(doc! {}, doc! { "$set": { "last_seen_at": now } })
        .await
        .unwrap();
    refresh(&world.client, &busy["refresh_token"])
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
}

#[tokio::test]
async fn browsers_receive_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    let login = async |remember: bool| {
        let body =
            json!({ "email": "ada@example.com", "password": PASSWORD, "remember_me": remember });
        world.client.post("/api/auth/login", &body).await.expect(StatusCode::OK)
    };
    let plain = login(false).await;
    assert_eq!(plain.json().get("refresh_token"), None);
    let cookie = plain.header("set-cookie").to_owned();
    for attribute in ["HttpOnly", "Secure", "SameSite=Strict", "Path=/api/auth"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(!cookie.contains("Max-Age"), "gone when the browser is closed: {cookie}");
    let remembered = login(true).await;
    assert!(remembered.header("set-cookie").contains("Max-Age=2591"), "{remembered:?}");

    let value = cookie.split(';').next().unwrap().to_owned();
    let request = |origin: Option<&str>| {
        let request = world.client.request(Method::POST, REFRESH).header("cookie", &value);
        match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        }
    };
    for origin in ["https://evil.example", "null"] {
        Answer::of(request(Some(origin)))
            .await
            .expect_problem(StatusCode::FORBIDDEN, "origin_refused");
    }
    let own = world.config.app.public_url.clone();
    let next = Answer::of(request(Some(&own))).await.expect(StatusCode::OK);
    assert!(next.header("set-cookie").starts_with("refresh_token=rt_"));
    let out = world
        .client
        .post_as(next.json()["access_token"].as_str().unwrap(), "/api/auth/logout")
        .await
        .expect(StatusCode::NO_CONTENT);
    assert!(
        out.header("set-cookie").starts_with("refresh_token=;")
            && out.header("set-cookie").contains("Max-Age=0"),
        "{out:?}"
    );
    let over = Answer::of(request(None))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    assert!(over.header("set-cookie").contains("Max-Age=0"), "{over:?}");
}

#[tokio::test]
async fn sessions_are_listed_and_ended_individually_or_all_at_once() {
    let world = World::new().await;
    let first = world.signed_in("ada@example.com").await;
    let second = login_with_body_token(&world).await;
    let eve = world.signed_in("eve@example.com").await;
    let listed =
        world.client.get_as(&first, "/api/auth/sessions").await.expect(StatusCode::OK).json();
    let current: Vec<bool> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["current"].as_bool().unwrap())
        .collect();
    assert_eq!(current, [false, true]);
    assert_eq!(listed["items"][0]["ip"], "127.0.0.1");

    let path = format!("/api/auth/sessions/{}", second["session"]["id"].as_str().unwrap());
    world.client.delete_as(&eve, &path).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
    world
        .client
        .delete_as(&eve, "/api/auth/sessions/x")
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    world.client.delete_as(&first, &path).await.expect(StatusCode::NO_CONTENT);
    world.client.expect_refused_within_a_second(second["access_token"].as_str().unwrap()).await;
    refresh(&world.client, &second["refresh_token"])
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    world.client.delete_as(&first, &path).await.expect_problem(StatusCode::NOT_FOUND, "not_found");

    let third = login_with_body_token(&world).await;
    world.client.post_as(&first, "/api/auth/logout-all").await.expect(StatusCode::NO_CONTENT);
    for token in [first.as_str(), third["access_token"].as_str().unwrap()] {
        world.client.expect_refused_within_a_second(token).await;
    }
    world.client.get_as(&eve, "/api/auth/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_session_switches_only_to_tenants_of_its_user() {
    use domain::{people::users::User, tenancy::tenants::Tenant};
    let (world, login) = account(&[]).await;
    world.make_account("eve@example.com").await;
    let tenants: Vec<Tenant> =
        world.store.records(PlatformScope).list(doc! {}, doc! { "_id": 1 }, 2).await.unwrap();
    let token = login["access_token"].as_str().unwrap();
    let switch = json!({ "tenant_id": tenants[1].id });
    world
        .client
        .post_body_as(token, "/api/auth/switch-tenant", &switch)
        .await
        .expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");

    let ada = world
        .store
        .records::<User>(PlatformScope)
        .find(doc! { "email_norm": "ada@example.com" })
        .await
        .unwrap()
        .unwrap();
    crate::people::join(&world, ada.id, tenants[1].id).await;
    let moved = world
        .client
        .post_body_as(token, "/api/auth/switch-tenant", &switch)
        .await
        .expect(StatusCode::OK)
        .json();
    assert_eq!(
        (&moved["tenant"]["id"], &moved["tenant"]["role"]),
        (&switch["tenant_id"], &json!("viewer"))
    );
    world
        .client
        .expect_refused_within_a_second(token)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    let next = refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK).json();
    assert_eq!(next["tenant"]["id"], switch["tenant_id"], "refreshing stays there");
}

fn cookie(login: &Value) -> String {
    format!("refresh_token={}", login["refresh_token"].as_str().unwrap())
}

async fn refresh_by(world: &World, cookies: &[u8]) -> Answer {
    let cookies = HeaderValue::from_bytes(cookies).unwrap();
    Answer::of(world.client.request(Method::POST, REFRESH).header("cookie", cookies)).await
}

#[tokio::test]
async fn a_cookie_of_another_application_does_not_hide_ours() {
    let (world, login) = account(&[]).await;
    for neighbour in ["utm=Undersøgelse".as_bytes(), b"bad=\xff\xfe", b"=;;,\"", b"refresh_token"]
    {
        let cookies = [neighbour, b"; ", cookie(&login).as_bytes()].concat();
        let answer = refresh_by(&world, &cookies).await;
        answer.expect(StatusCode::OK);
        let cookies = [cookie(&login).as_bytes(), b";", neighbour].concat();
        refresh_by(&world, &cookies).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn of_several_cookies_the_live_one_is_used_whatever_their_order() {
    let (world, old) = account(&[]).await;
    let login = refresh(&world.client, &old["refresh_token"]).await.expect(StatusCode::OK).json();
    let over = login_with_body_token(&world).await;
    world
        .client
        .post_as(over["access_token"].as_str().unwrap(), "/api/auth/logout")
        .await
        .expect(StatusCode::NO_CONTENT);
    age_of(&world, &login["session"]["id"], Duration::from_secs(31)).await;
    let planted = format!("refresh_token=rt_{}", "A".repeat(75));
    let mut live = login;
    for _ in 0..2 {
        for stale in [&cookie(&old), &cookie(&over), &planted, "refresh_token=nonsense"] {
            for cookies in
                [format!("{stale}; {}", cookie(&live)), format!("{}; {stale}", cookie(&live))]
            {
                let answer = refresh_by(&world, cookies.as_bytes()).await.expect(StatusCode::OK);
                let set = answer.header("set-cookie").to_owned();
                let token = set.split(';').next().unwrap().strip_prefix("refresh_token=").unwrap();
                live = json!({ "refresh_token": token });
            }
        }
    }
}

#[tokio::test]
async fn live_cookies_of_different_accounts_are_rejected_and_kept() {
    let (world, ada) = account(&[]).await;
    world.make_account("eve@example.com").await;
    let body =
        json!({ "email": "eve@example.com", "password": PASSWORD, "token_delivery": "body" });
    let eve = world.client.post("/api/auth/login", &body).await.expect(StatusCode::OK).json();
    let both = format!("{}; {}", cookie(&ada), cookie(&eve));
    let rejected = refresh_by(&world, both.as_bytes()).await;
    let rejected = rejected.expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    assert_eq!(rejected.header("set-cookie"), "");
    for login in [&ada, &eve] {
        refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK);
    }
}

/// Cookies that a page of a neighbouring host can set for the whole domain.
fn planted(count: usize) -> String {
    let planted = (0..count).map(|number| {
        let letter = char::from(b'A' + u8::try_from(number).unwrap());
        format!("refresh_token=rt_{}A; ", letter.to_string().repeat(74))
    });
    planted.collect()
}

#[tokio::test]
async fn planted_cookies_do_not_delete_the_live_one() {
    let (world, login) = account(&[]).await;
    let cookies = planted(8) + &cookie(&login);
    let rejected = refresh_by(&world, cookies.as_bytes()).await;
    let rejected = rejected.expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    assert_eq!(rejected.header("set-cookie"), "");
    let over = refresh_by(&world, planted(8).as_bytes()).await;
    let over = over.expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    assert!(over.header("set-cookie").contains("Max-Age=0"), "{over:?}");
    refresh_by(&world, cookie(&login).as_bytes()).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn on_https_planted_cookies_do_not_displace_the_live_one() {
    let (world, login) = account(&[("TENANTRY__APP__PUBLIC_URL", "https://app.example.com")]).await;
    let cookies = planted(9) + "__Secure-" + &cookie(&login);
    refresh_by(&world, cookies.as_bytes()).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_request_without_a_cookie_of_ours_clears_none() {
    let world = World::new().await;
    let rejected = refresh_by(&world, b"theme=dark").await;
    let rejected = rejected.expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    assert_eq!(rejected.header("set-cookie"), "");
}

#[tokio::test]
async fn on_https_the_cookie_is_secure_by_name_and_the_old_name_is_read() {
    let (world, login) = account(&[("TENANTRY__APP__PUBLIC_URL", "https://app.example.com")]).await;
    let next = refresh_by(&world, cookie(&login).as_bytes()).await.expect(StatusCode::OK);
    let set = next.header("set-cookie").to_owned();
    assert!(set.starts_with("__Secure-refresh_token=rt_"), "{set}");
    let both = format!("{}; {}", cookie(&login), set.split(';').next().unwrap());
    refresh_by(&world, both.as_bytes()).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn switching_by_a_replaced_refresh_token_ends_the_session() {
    let (world, login) = account(&[]).await;
    let next = refresh(&world.client, &login["refresh_token"]).await.expect(StatusCode::OK).json();
    age(&world, Duration::from_secs(31)).await;
    let stolen =
        json!({ "tenant_id": login["tenant"]["id"], "refresh_token": login["refresh_token"] });
    world
        .client
        .post("/api/auth/logout", &json!({ "refresh_token": login["refresh_token"] }))
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
    world
        .client
        .post("/api/auth/switch-tenant", &stolen)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "token_reused");
    refresh(&world.client, &next["refresh_token"])
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "refresh_token_invalid");
}

#[tokio::test]
async fn other_sites_cannot_sign_out_or_switch_by_the_cookie() {
    let (world, login) = account(&[]).await;
    let switch = json!({ "tenant_id": login["tenant"]["id"] });
    let paths = [("logout", json!({})), ("logout-all", json!({})), ("switch-tenant", switch)];
    for (path, body) in &paths {
        let request = world.client.request(Method::POST, &format!("/api/auth/{path}"));
        let request =
            request.header("cookie", cookie(&login)).header("origin", "https://evil.example");
        Answer::of(request.json(body))
            .await
            .expect_problem(StatusCode::FORBIDDEN, "origin_refused");
    }
    let own = world.config.app.public_url.clone();
    let request = world.client.request(Method::POST, "/api/auth/switch-tenant");
    let request = request.header("cookie", cookie(&login)).header("origin", own);
    let switched = Answer::of(request.json(&paths[2].1)).await.expect(StatusCode::OK);
    assert!(switched.header("set-cookie").starts_with("refresh_token=rt_"), "{switched:?}");
    assert_eq!(switched.json().get("refresh_token"), None);
}

#[tokio::test]
async fn a_client_that_refreshes_often_within_the_grace_is_not_taken_for_a_thief() {
    let (world, login) = account(&[]).await;
    let mut token = login["refresh_token"].clone();
    for _ in 0..12 {
        token = refresh(&world.client, &token).await.expect(StatusCode::OK).json()["refresh_token"]
            .clone();
    }
    refresh(&world.client, &login["refresh_token"])
        .await
        .expect_problem(StatusCode::CONFLICT, "refresh_raced");
    refresh(&world.client, &token).await.expect(StatusCode::OK);
    age(&world, Duration::from_secs(31)).await;
    refresh(&world.client, &login["refresh_token"])
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "token_reused");
}
