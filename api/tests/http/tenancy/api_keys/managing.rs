//! Creating, changing, rotating, adopting and revoking keys.

use common::{
    crypto::PlainApiKey,
    db::{PlatformScope, TenantScope},
    id,
};
use domain::tenancy::{
    api_keys::{
        ApiKey, EndLeakedApiKeys,
        usage::{Counts, Used, hour_of},
    },
    roles::Role,
};
use futures::future::join_all;
use jobs::testing;
use mongodb::bson::{DateTime, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{KEYS, ask, founded, in_hours, make, path, plain, settings};
use crate::{
    people::{People, Person, absent},
    support::{Answer, World},
};

async fn see(world: &World, person: &Person, key: &Value) -> Answer {
    world.client.get_as(&person.token, &path(key)).await
}

async fn change(world: &World, token: &str, key: &Value, others: &Value) -> Answer {
    world.client.put_as(token, &path(key), &settings(others)).await
}

async fn rotate(world: &World, token: &str, key: &Value, body: &Value) -> Answer {
    world.client.post_body_as(token, &format!("{}/rotate", path(key)), body).await
}

/// The stored row as MongoDB has it.
async fn stored(world: &World, key: &Value) -> mongodb::bson::Document {
    let rows = world.raw().await.collection::<mongodb::bson::Document>("api_keys");
    rows.find_one(doc! { "_id": key["id"].as_str().unwrap() }).await.unwrap().unwrap()
}

fn expect_too_high(answer: Answer) {
    answer.expect_problem(StatusCode::FORBIDDEN, "role_too_high");
}

#[tokio::test]
async fn a_key_is_shown_once_and_stored_as_a_hash() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({ "rate_limit": 30, "require_signature": true })).await;
    let (text, signing) = (plain(&key), key["signing_secret"].as_str().unwrap());
    let parsed = PlainApiKey::parse(&text).unwrap();
    assert_eq!((&key["prefix"], &key["last_four"]), (&json!(&text[..7]), &json!(&text[37..])));
    assert!(signing.starts_with("tks_") && signing.len() == 47, "{signing}");
    for (field, value) in [
        ("status", json!("active")),
        ("sponsor", json!(ada.user)),
        ("created_by", json!(ada.user)),
        ("rate_limit", json!(30)),
        ("scopes", json!(["tenant:read", "users:read"])),
        ("last_used_at", Value::Null),
        ("previous", Value::Null),
    ] {
        assert_eq!(key[field], value, "{field}");
    }

    let seen = see(&world, &ada, &key).await.expect(StatusCode::OK);
    let listed = world.client.get_as(&ada.token, KEYS).await.expect(StatusCode::OK);
    assert_eq!(listed.json()["items"], json!([seen.json()]));
    let row = stored(&world, &key).await;
    let found = ApiKey::by_hash(&world.store, &parsed.hash()).await.unwrap().unwrap();
    assert_eq!(json!(found.id), key["id"], "it is found by its hash");
    for told in [seen.body, listed.body, row.to_string(), format!("{found:?}")] {
        assert!(!told.contains(&text[7..37]) && !told.contains(&signing[4..]), "{told}");
    }
    assert_eq!(world.events(doc! { "action": "api_key.created", "actor": ada.user }).await, 1);
}

#[tokio::test]
async fn scopes_never_go_beyond_those_of_the_creator() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let role = json!({ "name": "Keys", "permissions": ["api_keys:write", "users:read"] });
    let role = world.client.post_body_as(&ada.token, "/api/tenant/roles", &role).await.json();
    let role: common::id::RoleId = role["id"].as_str().unwrap().parse().unwrap();
    let bob = people.join(&ada, "bob@example.com", role).await;

    expect_too_high(ask(&world, &bob, &json!({ "scopes": ["users:read", "billing:read"] })).await);
    let own = make(&world, &bob, &json!({ "scopes": ["users:read"] })).await;
    expect_too_high(change(&world, &bob.token, &own, &json!({ "scopes": ["usage:read"] })).await);
    // Neither may he touch a stronger key, whose new secret would give him more than he has.
    let strong = make(&world, &ada, &json!({ "scopes": ["users:read", "billing:read"] })).await;
    expect_too_high(rotate(&world, &bob.token, &strong, &json!({})).await);
    expect_too_high(
        change(&world, &bob.token, &strong, &json!({ "scopes": ["users:read"] })).await,
    );
    let adopt = format!("{}/adopt", path(&strong));
    expect_too_high(world.client.post_as(&bob.token, &adopt).await);
    // But he may end it.
    world.client.delete_as(&bob.token, &path(&strong)).await.expect(StatusCode::NO_CONTENT);

    for never in
        ["tenant:delete", "tenant:transfer", "security:write", "roles:write", "api_keys:write"]
    {
        let scopes = json!({ "scopes": ["users:read", never] });
        for refused in
            [ask(&world, &ada, &scopes).await, change(&world, &ada.token, &own, &scopes).await]
        {
            let refused =
                refused.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
            assert_eq!(refused.field_errors(), ["scopes:invalid_format"], "{never}");
        }
    }
}

#[tokio::test]
async fn invalid_settings_are_refused_by_field() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({})).await;
    for (field, value, code) in [
        ("name", json!(""), "invalid_format"),
        ("name", json!("see https://evil.example"), "invalid_format"),
        ("scopes", json!([]), "too_short"),
        ("scopes", json!(["moon:landing"]), "invalid_format"),
        ("expires_at", json!("tomorrow"), "invalid_format"),
        ("expires_at", json!(in_hours(&world, -1)), "out_of_range"),
        ("rate_limit", json!(0), "out_of_range"),
        ("rate_limit", json!(1_000_001), "out_of_range"),
        ("rate_limit", json!(1.5), "invalid_type"),
        ("rate_limit", json!("9"), "invalid_type"),
        ("ip_allowlist", json!(["10.0.0.0/33"]), "invalid_format"),
        ("require_signature", json!("yes"), "invalid_type"),
    ] {
        let body = json!({ field: value });
        for refused in
            [ask(&world, &ada, &body).await, change(&world, &ada.token, &key, &body).await]
        {
            let refused =
                refused.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
            assert_eq!(refused.field_errors(), [format!("{field}:{code}")], "{body}");
        }
    }
    for hours in [json!(-1), json!(169), json!("24")] {
        rotate(&world, &ada.token, &key, &json!({ "overlap_hours": hours }))
            .await
            .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
    }
}

#[tokio::test]
async fn parallel_creations_cannot_exceed_the_limit() {
    let (world, ada) = founded(&[("TENANTRY__API_KEYS__MAX", "3")]).await;
    let nothing = json!({});
    let answers = join_all((0..8).map(|_| ask(&world, &ada, &nothing))).await;
    let created: Vec<&Answer> =
        answers.iter().filter(|answer| answer.status == StatusCode::CREATED).collect();
    assert_eq!(created.len(), 3, "{answers:?}");
    ask(&world, &ada, &json!({})).await.expect_problem(StatusCode::CONFLICT, "too_many_api_keys");
    let key = created[0].json();
    world.client.delete_as(&ada.token, &path(&key)).await.expect(StatusCode::NO_CONTENT);
    make(&world, &ada, &json!({})).await;
}

#[tokio::test]
async fn a_revoked_key_is_gone() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({})).await;
    world.client.delete_as(&ada.token, &path(&key)).await.expect(StatusCode::NO_CONTENT);
    for answer in [
        see(&world, &ada, &key).await,
        world.client.delete_as(&ada.token, &path(&key)).await,
        change(&world, &ada.token, &key, &json!({})).await,
        rotate(&world, &ada.token, &key, &json!({})).await,
        world.client.post_as(&ada.token, &format!("{}/adopt", path(&key))).await,
        world.client.get_as(&ada.token, &format!("{}/usage", path(&key))).await,
    ] {
        answer.expect_problem(StatusCode::NOT_FOUND, "not_found");
    }
    let listed = world.client.get_as(&ada.token, KEYS).await.json();
    assert_eq!(listed["items"], json!([]));
    assert_eq!(world.events(doc! { "action": "api_key.revoked", "actor": ada.user }).await, 1);
}

#[tokio::test]
async fn lists_have_pages() {
    let (world, ada) = founded(&[]).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(make(&world, &ada, &json!({})).await["id"].clone());
    }
    let page = world.client.get_as(&ada.token, &format!("{KEYS}?limit=2")).await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let last =
        world.client.get_as(&ada.token, &format!("{KEYS}?limit=2&cursor={cursor}")).await.json();
    let ids = |page: &Value| -> Vec<Value> {
        page["items"].as_array().unwrap().iter().map(|key| key["id"].clone()).collect()
    };
    assert_eq!([ids(&page), ids(&last)].concat(), made);
    assert_eq!(last["next_cursor"], Value::Null);
}

#[tokio::test]
async fn a_change_does_not_overwrite_one_that_the_caller_has_not_seen() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({})).await;
    let seen = see(&world, &ada, &key).await;
    let etag = seen.header("etag").to_owned();
    // Using a key does not change its settings.
    ApiKey::used(&world.store, &[key["id"].as_str().unwrap().parse().unwrap()]).await.unwrap();
    let used = see(&world, &ada, &key).await;
    assert_eq!(used.header("etag"), etag);
    assert!(used.json()["last_used_at"].is_string());

    let put = async |body: Value| {
        let request = world.client.request(reqwest::Method::PUT, &path(&key));
        let request = request.bearer_auth(&ada.token).header("if-match", &etag);
        Answer::of(request.json(&settings(&body))).await
    };
    let changed = put(json!({ "name": "Weekly backup" })).await.expect(StatusCode::OK);
    assert_eq!(changed.json()["name"], "Weekly backup");
    assert_ne!(changed.header("etag"), etag);
    assert!(changed.json().get("key").is_none() && changed.json().get("signing_secret").is_none());
    put(json!({ "name": "Monthly backup" }))
        .await
        .expect_problem(StatusCode::PRECONDITION_FAILED, "precondition_failed");
}

/// Otherwise a stolen session would be enough to make a stolen key more useful.
#[tokio::test]
async fn widening_a_key_requires_recent_authentication() {
    let (world, ada) = founded(&[]).await;
    let stale = People::of(&world).await.stale_token(&ada).await;
    let narrow = json!({
        "expires_at": in_hours(&world, 48),
        "ip_allowlist": ["192.0.2.0/24"],
        "require_signature": true,
    });
    let key = make(&world, &ada, &narrow).await;
    let with = |field: &str, value: Value| {
        let mut body = narrow.clone();
        body[field] = value;
        body
    };
    for wider in [
        with("scopes", json!(["tenant:read", "users:read", "usage:read"])),
        with("expires_at", json!(in_hours(&world, 49))),
        with("expires_at", Value::Null),
        with("ip_allowlist", json!([])),
        with("ip_allowlist", json!(["192.0.2.0/24", "10.0.0.0/8"])),
        with("ip_allowlist", json!(["192.0.0.0/16"])),
        with("require_signature", json!(false)),
    ] {
        let refused = change(&world, &stale, &key, &wider).await;
        refused.expect_problem(StatusCode::FORBIDDEN, "reauthentication_required");
    }
    for narrower in [
        with("scopes", json!(["users:read"])),
        with("name", json!("Another name")),
        with("expires_at", json!(in_hours(&world, 47))),
        with("ip_allowlist", json!(["192.0.2.7"])),
        with("rate_limit", json!(5)),
    ] {
        let fresh = make(&world, &ada, &narrow).await;
        change(&world, &stale, &fresh, &narrower).await.expect(StatusCode::OK);
    }
    change(&world, &ada.token, &key, &with("ip_allowlist", json!([]))).await.expect(StatusCode::OK);
    for path in [path(&key) + "/rotate", path(&key) + "/adopt", KEYS.to_owned()] {
        let refused = world.client.post_body_as(&stale, &path, &settings(&json!({}))).await;
        refused.expect_problem(StatusCode::FORBIDDEN, "reauthentication_required");
    }
}

#[tokio::test]
async fn rotation_keeps_everything_but_the_secret() {
    let (world, ada) = founded(&[]).await;
    let expires_at = in_hours(&world, 10);
    let body = json!({ "expires_at": expires_at, "rate_limit": 7, "require_signature": true });
    let key = make(&world, &ada, &body).await;
    let rotated = rotate(&world, &ada.token, &key, &json!({})).await.expect(StatusCode::OK).json();
    for field in
        ["id", "name", "scopes", "expires_at", "rate_limit", "sponsor", "created_at", "status"]
    {
        assert_eq!(rotated[field], key[field], "{field}");
    }
    assert_ne!(rotated["key"], key["key"]);
    assert_ne!(rotated["signing_secret"], key["signing_secret"]);
    let previous = &rotated["previous"];
    assert_eq!(previous["last_four"], key["last_four"]);
    assert_eq!(previous["expires_at"], key["expires_at"], "not after the key itself");

    // Both secrets find the key, and a third rotation ends the first.
    let find = async |key: &Value| {
        let hash = PlainApiKey::parse(&plain(key)).unwrap().hash();
        let found = ApiKey::by_hash(&world.store, &hash).await.unwrap();
        found.is_some_and(|found| found.check(&hash, DateTime::now()).is_ok())
    };
    assert!(find(&key).await && find(&rotated).await);
    let third = rotate(&world, &ada.token, &key, &json!({ "overlap_hours": 1 })).await.json();
    assert!(!find(&key).await && find(&rotated).await && find(&third).await);
    let fourth = rotate(&world, &ada.token, &key, &json!({ "overlap_hours": 0 })).await.json();
    assert!(!find(&rotated).await && !find(&third).await && find(&fourth).await);
    assert_eq!(fourth["previous"], Value::Null);
    assert_eq!(world.events(doc! { "action": "api_key.rotated" }).await, 3);
}

/// A short expiry that is then extended must not bring a replaced secret back to life.
#[tokio::test]
async fn a_replaced_secret_ends_with_the_earliest_expiry_of_its_key() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({})).await;
    rotate(&world, &ada.token, &key, &json!({ "overlap_hours": 24 })).await.expect(StatusCode::OK);
    let soon = in_hours(&world, 1);
    for expires_at in [json!(soon), json!(in_hours(&world, 48)), Value::Null] {
        let body = json!({ "expires_at": expires_at });
        let changed = change(&world, &ada.token, &key, &body).await.expect(StatusCode::OK).json();
        assert_eq!(changed["previous"]["expires_at"], json!(soon), "{changed}");
    }
}

#[tokio::test]
async fn signatures_can_be_required_later() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({})).await;
    assert!(key.get("signing_secret").is_none());
    let signed = json!({ "require_signature": true });
    let changed = change(&world, &ada.token, &key, &signed).await.expect(StatusCode::OK).json();
    assert!(changed["signing_secret"].as_str().unwrap().starts_with("tks_"));
    let again = change(&world, &ada.token, &key, &signed).await.expect(StatusCode::OK).json();
    assert!(again.get("signing_secret").is_none(), "it stays the same");
    let ended = change(&world, &ada.token, &key, &json!({})).await.expect(StatusCode::OK);
    assert!(ended.json().get("signing_secret").is_none());
    let row = stored(&world, &key).await;
    let signing = row.get_array("secrets").unwrap()[0].as_document().unwrap().get("signing");
    assert_eq!(signing, Some(&mongodb::bson::Bson::Null));
}

#[tokio::test]
async fn usage_has_a_point_for_every_hour() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({})).await;
    let hour = hour_of(world.store.clock().now());
    let counts = Counts { success: 3, client_error: 2, rate_limited: 1, server_error: 4 };
    let used = Used {
        tenant: ada.tenant,
        key: key["id"].as_str().unwrap().parse().unwrap(),
        hour,
        counts,
    };
    // Two processes add to one row.
    for _ in 0..2 {
        let mut batch = vec![used];
        Used::write(&world.store, &mut batch).await.unwrap();
        assert_eq!(batch, []);
    }
    let usage = async |query: &str| {
        world.client.get_as(&ada.token, &format!("{}/usage{query}", path(&key))).await
    };
    let points = usage("").await.expect(StatusCode::OK).json()["points"].clone();
    let points = points.as_array().unwrap();
    assert_eq!(points.len(), 25, "the current hour and the 24 before it");
    let last = &points[24];
    assert_eq!(last["hour"], common::clock::rfc3339(hour));
    let shown = ["success", "client_error", "rate_limited", "server_error"].map(|of| &last[of]);
    assert_eq!(shown, [&json!(6), &json!(4), &json!(2), &json!(8)]);
    assert_eq!(points[23]["success"], 0);
    let all = usage("?from=2020-01-01T00:00:00Z").await.expect(StatusCode::OK).json();
    assert_eq!(all["points"].as_array().unwrap().len(), 90 * 24 + 1);
    let now = common::clock::rfc3339(world.store.clock().now());
    for (query, code) in [
        (format!("?from={now}&to=2020-01-01T00:00:00Z"), "validation_failed"),
        ("?from=yesterday".to_owned(), "validation_failed"),
        ("?hours=3".to_owned(), "unknown_field"),
    ] {
        usage(&query).await.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, code);
    }
}

#[tokio::test]
async fn reports_of_leaked_keys_are_answered_alike() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({})).await;
    let unknown = PlainApiKey::generate(world.store.clock());
    let report = async |keys: Value| {
        let body = json!({ "api_keys": keys });
        world.client.post("/api/public/api-keys/revoke", &body).await
    };
    let staged = async || testing::staged::<EndLeakedApiKeys>(&world.store).await.unwrap().len();
    for (keys, stages) in [
        (json!([plain(&key)]), 1),
        (json!([unknown.expose()]), 1),
        (json!(["tk_nonsense", "x", ""]), 0),
        (json!([format!("{}x", plain(&key))]), 0),
    ] {
        let before = staged().await;
        let answer = report(keys).await.expect(StatusCode::ACCEPTED);
        assert_eq!(answer.json(), json!({ "status": "accepted" }));
        // Only what has the form of a key is looked up.
        assert_eq!(staged().await - before, stages);
    }
    for bad in [json!([]), json!("tk_"), json!(vec!["x"; 101])] {
        report(bad).await.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
    }
    let rows = world.raw().await.collection::<mongodb::bson::Document>("jobs_outbox");
    let rows = rows.find_one(doc! { "kind": "api_key.end_leaked" }).await.unwrap();
    assert!(!format!("{rows:?}").contains(&plain(&key)), "{rows:?}");
}

#[tokio::test]
async fn reports_are_throttled_by_network() {
    let (world, _) = founded(&[("TENANTRY__AUTH__MAILS_PER_NETWORK", "2")]).await;
    let report = async || {
        let body = json!({ "api_keys": ["x"] });
        world.client.post("/api/public/api-keys/revoke", &body).await
    };
    for _ in 0..2 {
        report().await.expect(StatusCode::ACCEPTED);
    }
    report().await.expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
}

#[tokio::test]
async fn only_members_with_the_permission_see_keys() {
    let (world, ada) = founded(&[]).await;
    let key = make(&world, &ada, &json!({})).await;
    let people = People::of(&world).await;
    let bob = people.join(&ada, "bob@example.com", Role::Member).await;
    see(&world, &bob, &key).await.expect_problem(StatusCode::FORBIDDEN, "forbidden");
    let eve = people.founder("eve@example.com").await;
    see(&world, &eve, &key).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
    let none = format!("{KEYS}/{}", absent::<id::ApiKey>());
    world.client.get_as(&ada.token, &none).await.expect(StatusCode::NOT_FOUND);
    let scope = TenantScope::of_job(eve.tenant);
    assert!(world.store.records::<ApiKey>(scope).find(doc! {}).await.unwrap().is_none());
    assert_eq!(world.store.records::<ApiKey>(PlatformScope).count(doc! {}).await.unwrap(), 1);
}
