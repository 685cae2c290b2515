//! Requests with an `Idempotency-Key`.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use common::{
    crypto::MasterKey,
    db::{Change, DbError, PlatformScope, TenantScope, Txn},
    telemetry::metrics,
};
use domain::{
    access::idempotency::{
        Asked, Claim, Earlier, IdempotencyKey, Once, OnceError, Reply, Sender, Success, UsedKey,
    },
    tenancy::{
        actor::{Acting, Credentials},
        custom_roles::CustomRole,
        invitation_lists::InvitationList,
        invite_links::InviteLink,
        permitted::{Denied, Permitted},
        roles::{Permission, Role},
        tenant_security::sessions_of,
        tenants::Tenant,
    },
};
use futures::{StreamExt, TryStreamExt, stream::FuturesUnordered};
use mongodb::bson::{Binary, DateTime, Document, RawDocumentBuf, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{
    servers::Proxy,
    testing::{Service, TestEnv},
};
use tokio::sync::Notify;

use crate::{
    document::{Need, Operation},
    people::{People, Person, join},
    support::{Answer, Client, DEADLINE, Database, World, eventually},
};

const LINKS: &str = "/api/tenant/invite-links";
const ROLES: &str = "/api/tenant/roles";
/// How many requests are interrupted by killing their process.
const MOMENTS: u32 = 8;

const KEYS: &str = "/api/tenant/api-keys";

/// Operations that create or change something without a key, each for a reason.
const WITHOUT_KEY: &[(&str, &str)] = &[
    ("/api/invite-links/join", "anyone may call it, and mails to one address are a cooldown apart"),
    ("/api/invitations/accept", "the token in the body can be used once"),
    ("/api/public/api-keys/revoke", "anyone may call it, and a key can be ended only once"),
];

fn link() -> Value {
    json!({ "role": "viewer", "domains": ["example.com"] })
}

fn role(name: &str) -> Value {
    json!({ "name": name, "permissions": ["users:read"] })
}

/// Sends a request with a key.
async fn send(client: &Client, token: &str, path: &str, key: &str, body: &Value) -> Answer {
    let request = client.request(Method::POST, path).bearer_auth(token);
    Answer::of(request.header("idempotency-key", key).json(body)).await
}

/// As [`send`], and repeats the request after a response that asks for it: while the first request is
/// in progress, or while the database does not respond in time.
async fn retry(client: &Client, token: &str, path: &str, key: &str, body: &Value) -> Answer {
    let answered = async || {
        let answer = send(client, token, path, key, body).await;
        match answer.status {
            StatusCode::CONFLICT => {
                let refused = answer.expect_problem(StatusCode::CONFLICT, "request_in_progress");
                assert_eq!(refused.header("retry-after"), "1");
                None
            }
            StatusCode::SERVICE_UNAVAILABLE => None,
            _ => Some(answer),
        }
    };
    eventually("the first request ends", answered).await
}

#[track_caller]
fn expect_replay(answer: &Answer, first: &Answer) {
    assert_eq!(answer.header("idempotent-replayed"), "true", "{answer:?}");
    assert_eq!(first.header("idempotent-replayed"), "", "{first:?}");
    assert_eq!((answer.status, &answer.body), (first.status, &first.body));
    for name in ["content-type", "etag", "cache-control", "x-content-type-options"] {
        assert_eq!(answer.header(name), first.header(name), "{name}");
    }
}

#[test]
fn every_post_of_a_caller_supports_keys_or_is_an_exception() {
    let mut exceptions: BTreeSet<&str> = WITHOUT_KEY.iter().map(|(path, _)| *path).collect();
    let posts = Operation::all().into_iter().filter(|operation| operation.method == Method::POST);
    let mut supported = 0;
    for operation in posts.filter(|operation| !operation.path.starts_with("/api/auth/")) {
        if supports_keys(&operation) {
            supported += 1;
            assert_ne!(operation.need(), Need::Nothing, "{operation} has no caller");
            let codes = operation.says["responses"].to_string();
            for code in ["idempotency_key_invalid", "idempotency_key_reused", "request_in_progress"]
            {
                assert!(codes.contains(code), "{operation} does not declare {code}");
            }
        } else {
            assert!(
                exceptions.remove(operation.path),
                "{operation} ignores Idempotency-Key: take `Idempotency` and commit with \
                 `commit_once`, or add it to WITHOUT_KEY (api/tests/http/access/idempotency.rs) \
                 with the reason"
            );
        }
    }
    assert!(exceptions.is_empty(), "no operations, or they support keys: {exceptions:?}");
    assert!(supported >= 10, "{supported}");
}

fn supports_keys(operation: &Operation) -> bool {
    let parameters = operation.says["parameters"].as_array().into_iter().flatten();
    parameters.into_iter().any(|parameter| parameter["name"] == "Idempotency-Key")
}

/// Sends a valid request to each operation that supports keys, three times: the second and the third
/// have no effect.
#[tokio::test]
async fn each_operation_replays_its_response() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    let invite = json!({ "email": "eve@example.com", "role": "viewer" });
    let line = json!({ "email": "fay@example.com", "role": "viewer" });
    let made = |path: &'static str, body: Value| {
        let (world, ada) = (&world, &ada);
        async move { replayed(world, ada, path, path.to_owned(), &body).await }
    };
    let mut done = vec![
        made("/api/tenant/users/invite", invite).await,
        made("/api/tenant/invitations/bulk", json!({ "invitations": [line] })).await,
        made(LINKS, link()).await,
        made(ROLES, role("Support")).await,
        made("/api/tenants", json!({ "name": "Difference Engines" })).await,
        made("/api/tenant/domains", json!({ "domain": "example.org" })).await,
        made("/api/tenant/ownership-transfers", json!({ "user_id": bob.user })).await,
        made(KEYS, json!({ "name": "CI", "scopes": ["tenant:read"] })).await,
    ];
    let id = |done: &[(&str, Answer)], path: &str, pointer: &str| {
        let (_, answer) = done.iter().find(|(made, _)| *made == path).unwrap();
        answer.json().pointer(pointer).unwrap().as_str().unwrap().to_owned()
    };
    for (path, list, pointer, caller) in [
        ("/api/tenant/invitations/{id}/resend", "/api/tenant/users/invite", "/invitation/id", &ada),
        ("/api/tenant/domains/{id}/verify", "/api/tenant/domains", "/id", &ada),
        ("/api/tenant/api-keys/{id}/rotate", KEYS, "/id", &ada),
        ("/api/tenant/api-keys/{id}/adopt", KEYS, "/id", &ada),
        (
            "/api/tenant/ownership-transfers/{id}/accept",
            "/api/tenant/ownership-transfers",
            "/id",
            &bob,
        ),
    ] {
        let at = path.replace("{id}", &id(&done, list, pointer));
        done.push(replayed(&world, caller, path, at, &json!({})).await);
    }
    let done: BTreeSet<&str> = done.iter().map(|(path, _)| *path).collect();
    for operation in Operation::all().into_iter().filter(supports_keys) {
        assert!(
            done.contains(operation.path),
            "{operation}: send it in api/tests/http/access/idempotency.rs"
        );
    }
}

async fn replayed(
    world: &World,
    caller: &Person,
    path: &'static str,
    at: String,
    body: &Value,
) -> (&'static str, Answer) {
    let first = send(&world.client, &caller.token, &at, "a-key", body).await;
    assert!(first.status.is_success(), "{path}: {first:?}");
    let events = world.events(doc! {}).await;
    for _ in 0..2 {
        let again = send(&world.client, &caller.token, &at, "a-key", body).await;
        expect_replay(&again, &first);
    }
    assert_eq!(world.events(doc! {}).await, events, "{path}");
    // For the next operation, the key is free again.
    world.store.records::<UsedKey>(PlatformScope).delete_all(doc! {}).await.unwrap();
    (path, first)
}

#[tokio::test]
async fn a_key_belongs_to_one_request() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let first = send(&world.client, &ada.token, ROLES, "k-1", &role("One")).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    let quoted = send(&world.client, &ada.token, ROLES, "\"k-1\"", &role("One")).await;
    expect_replay(&quoted, &first);
    let reused = async |path: &str, body: &Value| {
        let answer = send(&world.client, &ada.token, path, "k-1", body).await;
        answer.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused");
    };
    reused(ROLES, &role("Two")).await;
    reused(ROLES, &json!({})).await;
    reused(LINKS, &role("One")).await;
    assert_eq!(world.count::<CustomRole>().await, 1);
    expect_replay(&send(&world.client, &ada.token, ROLES, "k-1", &role("One")).await, &first);
}

#[tokio::test]
async fn an_invalid_key_is_refused() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let post = || world.client.request(Method::POST, ROLES).bearer_auth(&ada.token);
    let long = "x".repeat(256);
    for key in ["", "a b", "\"", "\"\"", long.as_str()] {
        let answer = Answer::of(post().header("idempotency-key", key).json(&role("One"))).await;
        answer.expect_problem(StatusCode::BAD_REQUEST, "idempotency_key_invalid");
    }
    let twice = post().header("idempotency-key", "a").header("idempotency-key", "a");
    let answer = Answer::of(twice.json(&role("One"))).await;
    answer.expect_problem(StatusCode::BAD_REQUEST, "idempotency_key_invalid");
    assert_eq!(world.count::<CustomRole>().await, 0);
}

#[tokio::test]
async fn a_refusal_is_worked_out_again() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let taken = send(&world.client, &ada.token, ROLES, "first", &role("One")).await;
    let refused = send(&world.client, &ada.token, ROLES, "second", &role("One")).await;
    refused.expect_problem(StatusCode::CONFLICT, "role_name_taken");
    assert_eq!(world.count::<UsedKey>().await, 1, "only the success is stored");
    let path = format!("{ROLES}/{}", taken.json()["id"].as_str().unwrap());
    world.client.delete_as(&ada.token, &path).await.expect(StatusCode::NO_CONTENT);
    let made = send(&world.client, &ada.token, ROLES, "second", &role("One")).await;
    assert_eq!((made.status, made.header("idempotent-replayed")), (StatusCode::CREATED, ""));
    // The deleted role does not come back.
    let replay = send(&world.client, &ada.token, ROLES, "first", &role("One")).await;
    expect_replay(&replay, &taken);
    assert_eq!(world.count::<CustomRole>().await, 1);
}

#[tokio::test]
async fn keys_of_different_senders_are_independent() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    join(&world, ada.user, eve.tenant).await;
    let invitations = "/api/tenant/invitations/bulk";
    let mut bodies = BTreeSet::new();
    for token in [&ada.token, &eve.token, &bob.token] {
        let made = send(&world.client, token, LINKS, "shared", &link()).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        assert_eq!(made.header("idempotent-replayed"), "");
        bodies.insert(made.body);
    }
    assert_eq!(bodies.len(), 3);
    // One user in two tenants: what the key is for in one is not answered in the other.
    let made = send(&world.client, &ada.token, LINKS, "two", &link()).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let elsewhere = people.token(ada.user, eve.tenant).await;
    let refused = send(&world.client, &elsewhere, LINKS, "two", &link()).await;
    refused.expect_problem(StatusCode::FORBIDDEN, "forbidden");
    let promoted = doc! { "$set": { "role": "admin" } };
    let membership = doc! { "user_id": ada.user, "tenant_id": eve.tenant };
    let memberships = world.raw().await.collection::<Document>("memberships");
    memberships.update_one(membership, promoted).await.unwrap();
    let elsewhere = people.token(ada.user, eve.tenant).await;
    let other = send(&world.client, &elsewhere, LINKS, "two", &link()).await;
    assert_eq!((other.status, other.header("idempotent-replayed")), (StatusCode::CREATED, ""));
    assert_ne!(other.body, made.body);
    let other = send(&world.client, &elsewhere, invitations, "two", &json!({})).await;
    other.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused");
}

#[tokio::test]
async fn a_replay_requires_what_the_request_requires() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    let made = send(&world.client, &bob.token, LINKS, "k", &link()).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let bobs = format!("/api/tenant/users/{}", bob.user);
    let viewer = json!({ "role": "viewer" });
    world.client.put_as(&ada.token, &bobs, &viewer).await.expect(StatusCode::OK);
    eventually("the demotion is known", async || {
        let refused = send(&world.client, &bob.token, LINKS, "k", &link()).await;
        (refused.status == StatusCode::FORBIDDEN && !refused.body.contains("token=")).then_some(())
    })
    .await;
    let unknown = send(&world.client, "x", LINKS, "k", &link()).await;
    unknown.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn a_replay_counts_as_no_attempt() {
    let world = World::with(&[("TENANTRY__AUTH__MAILS_PER_NETWORK", "1")]).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let invite = json!({ "email": "eve@example.com", "role": "viewer" });
    let path = "/api/tenant/users/invite";
    let first = send(&world.client, &ada.token, path, "k", &invite).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    for _ in 0..3 {
        expect_replay(&send(&world.client, &ada.token, path, "k", &invite).await, &first);
    }
    let second = send(&world.client, &ada.token, path, "l", &invite).await;
    second.expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
}

#[tokio::test]
async fn an_expired_key_is_free_again() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let first = send(&world.client, &ada.token, LINKS, "k", &link()).await;
    let used = world.store.records::<UsedKey>(PlatformScope);
    // MongoDB removes expired rows up to a minute late.
    let late = doc! { "$set": { "expires_at": DateTime::now() } };
    assert!(used.update(doc! {}, late).await.unwrap());
    let second = send(&world.client, &ada.token, LINKS, "k", &link()).await;
    assert_eq!((second.status, second.header("idempotent-replayed")), (StatusCode::CREATED, ""));
    assert_ne!(second.body, first.body);
    expect_replay(&send(&world.client, &ada.token, LINKS, "k", &link()).await, &second);
    assert_eq!(world.count::<InviteLink>().await, 2);
}

#[tokio::test]
async fn many_parallel_requests_with_one_key_have_one_effect_and_one_response() {
    let world = World::new().await;
    let (_other, client) = world.another_api().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let body = link();
    let requests = (0..100).map(|n| {
        let client = if n % 2 == 0 { &world.client } else { &client };
        retry(client, &ada.token, LINKS, "one", &body)
    });
    let answers: Vec<Answer> = requests.collect::<FuturesUnordered<_>>().collect::<Vec<_>>().await;
    let bodies: BTreeSet<&str> = answers.iter().map(|answer| answer.body.as_str()).collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(answers.iter().all(|answer| answer.status == StatusCode::CREATED));
    let firsts = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_empty());
    assert_eq!(firsts.count(), 1);
    assert_eq!(world.count::<InviteLink>().await, 1);
    assert_eq!(world.events(doc! { "action": "invite_link.created" }).await, 1);
}

/// The lines of a list, each of which has this email address.
fn lines(email: impl Fn(usize) -> String) -> Value {
    let line = |n| json!({ "email": email(n), "role": "viewer" });
    json!({ "invitations": (0..1_000).map(line).collect::<Vec<_>>() })
}

#[tokio::test]
async fn a_list_of_a_thousand_lines_is_replayed() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let path = "/api/tenant/invitations/bulk";
    let body = lines(|n| format!("somebody.with.a.long.name.{n}@example.com"));
    let first = send(&world.client, &ada.token, path, "k", &body).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{first:?}");
    assert!(first.body.len() > 64 * 1024, "{}", first.body.len());
    expect_replay(&send(&world.client, &ada.token, path, "k", &body).await, &first);
    let stored = world.raw().await.collection::<Document>("idempotency_keys");
    let row = stored.find_one(doc! {}).await.unwrap().unwrap();
    let Binary { bytes, .. } = row
        .get("reply")
        .and_then(|reply| match reply {
            mongodb::bson::Bson::Binary(binary) => Some(binary.clone()),
            _ => None,
        })
        .unwrap();
    assert!(bytes.len() <= 64 * 1024, "{}", bytes.len());
}

#[tokio::test]
async fn a_response_that_is_too_large_to_keep_is_not_made_again() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let path = "/api/tenant/invitations/bulk";
    let clock = world.store.clock();
    // Text that cannot be compressed.
    let noise = || clock.random::<50>().map(|byte| char::from(b'a' + byte % 26));
    let label = || noise().iter().collect::<String>();
    let body = lines(|_| format!("{}@{}.{}.example.com", label(), label(), label()));
    let first = send(&world.client, &ada.token, path, "k", &body).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{first:?}");
    for _ in 0..2 {
        let again = send(&world.client, &ada.token, path, "k", &body).await;
        again.expect_problem(StatusCode::CONFLICT, "response_not_kept");
    }
    assert_eq!(world.count::<InvitationList>().await, 1);
}

/// A response contains secrets that are shown once, and the key opens it.
#[tokio::test]
async fn the_database_reveals_neither_responses_nor_keys() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let key = "canary-of-a-key-8e03978e";
    let made = send(&world.client, &ada.token, LINKS, key, &link()).await;
    let url = made.json()["url"].as_str().unwrap().to_owned();
    let (_, token) = url.split_once("token=").unwrap();
    expect_replay(&send(&world.client, &ada.token, LINKS, key, &link()).await, &made);
    let database = world.raw().await;
    let mut found = 0;
    for name in database.list_collection_names().await.unwrap() {
        let rows = database.collection::<RawDocumentBuf>(&name).find(doc! {}).await.unwrap();
        for row in rows.try_collect::<Vec<_>>().await.unwrap() {
            found += 1;
            let bytes = row.as_bytes();
            let has = |part: &str| bytes.windows(part.len()).any(|at| at == part.as_bytes());
            assert!(!has(token) && !has(key) && !has("canary-of-a-key"), "{name}: {row:?}");
        }
    }
    assert!(found > 5, "{found}");
    assert_eq!(world.count::<UsedKey>().await, 1);
}

/// The claim of the request that [`send`] sends.
fn claim(world: &World, sender: &Person, path: &str, key: &str, body: &Value) -> Claim {
    let master: &MasterKey = &world.key;
    let key: IdempotencyKey = key.parse().unwrap();
    let body = serde_json::to_vec(body).unwrap();
    let asked = Asked { method: "POST", path, query: "", body: &body };
    let sender = Sender { principal: sender.user.into(), tenant: Some(sender.tenant) };
    Claim::new(master, sender, &key, asked, Duration::from_hours(1))
}

/// Writes the tenant's row, then waits.
struct Waiting<'a> {
    scope: TenantScope,
    begun: &'a Notify,
    end: &'a Notify,
}

impl Change for Waiting<'_> {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let (tenant, now) = (doc! { "_id": self.scope.tenant_id() }, txn.clock().now());
        let written = doc! { "$set": { "written_at": now } };
        assert!(txn.records::<Tenant>(self.scope).update(tenant, written).await?);
        self.begun.notify_one();
        self.end.notified().await;
        Ok(())
    }
}

fn kept() -> Reply {
    Reply::new(Success::Created)
        .with_header("content-type", "application/json")
        .with_body(b"{\"kept\":true}".to_vec())
}

#[tokio::test]
async fn a_request_in_progress_refuses_the_same_one_at_once() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let (begun, end) = (Notify::new(), Notify::new());
    let waiting = Waiting { scope: TenantScope::of_job(ada.tenant), begun: &begun, end: &end };
    let body = json!({ "anything": 1 });
    let claim = claim(&world, &ada, "/api/tenant/domains", "k", &body);
    let once = Once { claim: &claim, change: &waiting, reply: |()| Ok(kept()) };
    let committing = world.commit(&once);
    let asking = async {
        begun.notified().await;
        let retries = metrics::DB_TRANSACTION_RETRIES.get();
        let path = "/api/tenant/domains";
        let valid = json!({ "domain": "example.org" });
        let refused = send(&world.client, &ada.token, path, "k", &valid).await;
        refused.expect_problem(StatusCode::CONFLICT, "request_in_progress");
        assert_eq!(metrics::DB_TRANSACTION_RETRIES.get(), retries, "it is not retried");
        end.notify_one();
    };
    let (reply, ()) = tokio::join!(committing, asking);
    assert_eq!(reply.unwrap(), kept());
    assert_eq!(claim.earlier(&world.store).await.unwrap(), Some(Earlier::Replied(kept())));
    let again = Waiting { ..waiting };
    let once = Once { claim: &claim, change: &again, reply: |()| Ok(kept()) };
    assert!(matches!(world.commit(&once).await, Err(OnceError::Seen)));
}

/// A conflict about anything but the key says nothing about the request, so it is retried.
#[tokio::test]
async fn other_conflicts_are_retried() {
    let world = World::new().await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let (begun, end) = (Notify::new(), Notify::new());
    let waiting = Waiting { scope: TenantScope::of_job(ada.tenant), begun: &begun, end: &end };
    let asking = async {
        begun.notified().await;
        let retries = metrics::DB_TRANSACTION_RETRIES.get();
        let body = link();
        let sending = send(&world.client, &ada.token, LINKS, "k", &body);
        let releasing = async {
            eventually("the change was retried", async || {
                (metrics::DB_TRANSACTION_RETRIES.get() > retries).then_some(())
            })
            .await;
            end.notify_one();
        };
        let (made, ()) = tokio::join!(sending, releasing);
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    };
    let (waited, ()) = tokio::join!(world.commit(&waiting), asking);
    waited.unwrap();
    assert_eq!(world.count::<InviteLink>().await, 1);
}

/// A tenant is created once, also if the user has been signed in to it since.
#[tokio::test]
async fn a_request_of_an_account_is_the_same_in_every_tenant() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let body = json!({ "name": "Difference Engines" });
    let first = send(&world.client, &ada.token, "/api/tenants", "k", &body).await;
    let made = first.json()["id"].as_str().unwrap().parse().unwrap();
    let there = people.token(ada.user, made).await;
    let again = send(&world.client, &there, "/api/tenants", "k", &body).await;
    expect_replay(&again, &first);
}

/// A change whose caller may not make it any more leaves no key behind.
#[tokio::test]
async fn a_denied_change_leaves_no_key() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let session = sessions_of(&world.store, ada.user).await.unwrap()[0].id;
    let scope = TenantScope::of_job(ada.tenant);
    let claim = claim(&world, &ada, LINKS, "k", &link());
    let (begun, end) = (Notify::new(), Notify::new());
    let waiting = Waiting { scope, begun: &begun, end: &end };
    let acting = |user| {
        let by = Credentials::Session { session, user, tenant: Some(ada.tenant) };
        Acting { by, needs: Some((Permission::UsersInvite, scope)), change: &waiting }
    };
    let bob = acting(people.join(&ada, "bob@example.com", Role::Viewer).await.user);
    let once = Once { claim: &claim, change: &Permitted(bob), reply: |()| Ok(kept()) };
    let denied = world.commit(&once).await;
    assert!(matches!(denied, Err(OnceError::Change(Denied::SignedOut))), "{denied:?}");
    let memberships = world.raw().await.collection::<Document>("memberships");
    let demoted = doc! { "$set": { "role": "viewer" } };
    memberships.update_one(doc! { "user_id": ada.user }, demoted).await.unwrap();
    let once = Once { claim: &claim, change: &Permitted(acting(ada.user)), reply: |()| Ok(kept()) };
    let denied = world.commit(&once).await;
    assert!(matches!(denied, Err(OnceError::Change(Denied::Forbidden(_)))), "{denied:?}");
    assert_eq!(world.count::<UsedKey>().await, 0);
}

/// An API in a process of its own, whose commands to the database are slow once it has started.
struct Victim {
    api: Service,
    client: Client,
    proxy: Proxy,
}

impl Victim {
    async fn of(world: &World) -> Self {
        let port = world.env.mongod().port();
        let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.unwrap();
        let uri = format!("mongodb://{}/?directConnection=true", proxy.addr());
        let api = world.env.spawn_api_with(&[("TENANTRY__MONGODB__URI", uri.as_str())]).await;
        let client = Client::at(api.url());
        proxy.delay(Duration::from_millis(10));
        Self { api, client, proxy }
    }
}

/// Requests are interrupted at different moments by killing their process. Whatever had happened by
/// then, a retry elsewhere has the effect once, or returns the response of the killed process.
#[tokio::test]
async fn a_killed_process_leaves_the_effect_and_the_response_or_neither() {
    let database = Database::empty(TestEnv::private().await).await;
    database.store.migrate(&domain::schema()).await.unwrap();
    let mongod = mongodb::Client::with_uri_str(database.env.mongodb_uri()).await.unwrap();
    // A transaction whose process has died ends after this many seconds instead of 60.
    let lifetime = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 1 };
    mongod.database("admin").run_command(lifetime).await.unwrap();
    let world = World::on(database, &[]).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let mut victim = Victim::of(&world).await;
    let begun = Instant::now();
    let first = send(&victim.client, &ada.token, LINKS, "unharmed", &link()).await;
    let took = begun.elapsed();
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    let (mut replayed, mut made, mut waited) = (0, 0, 0);
    for moment in 1..=MOMENTS {
        let key = format!("killed-{moment}");
        let post = victim.client.request(Method::POST, LINKS).bearer_auth(&ada.token);
        let post = post.header("idempotency-key", &key).json(&link()).send();
        // The last one is killed when its response has arrived.
        let patience = if moment == MOMENTS { DEADLINE } else { took * moment / 4 };
        let interrupted = tokio::time::timeout(patience, post).await;
        victim.api.kill().await;
        victim.proxy.cut().await;
        drop(interrupted);
        let before = world.count::<InviteLink>().await;
        let probe = send(&world.client, &ada.token, LINKS, &key, &link()).await;
        waited += u32::from(probe.status == StatusCode::CONFLICT);
        let answer = match probe.status {
            StatusCode::CONFLICT => retry(&world.client, &ada.token, LINKS, &key, &link()).await,
            _ => probe,
        };
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        let after = world.count::<InviteLink>().await;
        if answer.header("idempotent-replayed").is_empty() {
            made += 1;
        } else {
            replayed += 1;
            assert_eq!(after, before);
        }
        assert_eq!(after, u64::from(moment) + 1, "one link for each key");
        let again = send(&world.client, &ada.token, LINKS, &key, &link()).await;
        assert_eq!((again.status, &again.body), (StatusCode::CREATED, &answer.body));
        victim = Victim::of(&world).await;
    }
    println!("{made} made again, {waited} of them after a while; {replayed} replayed");
    assert!(made > 0, "no request was interrupted before its commit");
    assert!(replayed > 0, "no response was replayed");
}
