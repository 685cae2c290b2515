//! Creating tenants, and listing those of a user.

use common::{
    db::{Change, DbError, PlatformScope, TenantScope, Txn},
    id::{TenantId, UserId},
};
use domain::tenancy::{
    memberships::Membership,
    roles::Role,
    tenants::{Tenant, TenantStatus},
};
use futures::future::join_all;
use mongodb::bson::doc;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    people::People,
    support::{Answer, PASSWORD, World},
};

const TENANTS: &str = "/api/tenants";

async fn create(world: &World, token: &str, body: &Value) -> Answer {
    world.client.post_body_as(token, TENANTS, body).await
}

/// The ids of the items of a page.
fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    items.map(|tenant| tenant["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_user_creates_a_tenant_and_switches_to_it() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.loner("ada@example.com").await;
    let created = create(&world, &ada.token, &json!({ "name": "Difference Engines" })).await;
    let created = created.expect(StatusCode::CREATED).json();
    assert_eq!(
        (&created["slug"], &created["status"], &created["role"]),
        (&json!("difference-engines"), &json!("active"), &json!("owner"))
    );
    let event =
        doc! { "action": "tenant.created", "actor": ada.user, "tenant_id": created["id"].as_str() };
    assert_eq!(world.events(event).await, 1);

    let me = world.client.get_as(&ada.token, "/api/auth/me").await.expect(StatusCode::OK).json();
    assert_eq!(me["tenant"], Value::Null, "the session stays where it was");
    let listed = world.client.get_as(&ada.token, TENANTS).await.expect(StatusCode::OK).json();
    assert_eq!(listed["items"], json!([created]));

    let switch = json!({ "tenant_id": created["id"] });
    let switched = world.client.post_body_as(&ada.token, "/api/auth/switch-tenant", &switch).await;
    let switched = switched.expect(StatusCode::OK).json();
    assert_eq!((&switched["tenant"], &switched["tenants"]), (&created, &json!([created])));
    let token = switched["access_token"].as_str().unwrap();
    let current = world.client.get_as(token, "/api/tenant/current").await;
    assert_eq!(current.expect(StatusCode::OK).json()["id"], created["id"]);
    world
        .client
        .get_as(&ada.token, "/api/auth/me")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn a_slug_is_unique_and_well_formed() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) = (people.loner("ada@example.com").await, people.loner("eve@example.com").await);
    let named = |slug: &str| json!({ "name": "Engines", "slug": slug });
    let made = create(&world, &ada.token, &named("analytical")).await.expect(StatusCode::CREATED);
    assert_eq!(made.json()["slug"], "analytical");
    create(&world, &eve.token, &named("analytical"))
        .await
        .expect_problem(StatusCode::CONFLICT, "slug_taken");
    assert_eq!(world.count::<Tenant>().await, 1);
    for slug in ["", "-a", "a-", "a--b", "Demo", "a b", "ä", "a.b", "a/b", &"a".repeat(64)] {
        let refused = create(&world, &eve.token, &named(slug)).await;
        let refused = refused.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
        assert_eq!(refused.field_errors(), ["slug:invalid_format"], "{slug}");
    }
    create(&world, &eve.token, &named(&"a".repeat(63))).await.expect(StatusCode::CREATED);
    // A slug that is only suggested yields to those that are taken.
    for slug in ["engines", "engines-2"] {
        let made = create(&world, &eve.token, &json!({ "name": "Engines" })).await;
        assert_eq!(made.expect(StatusCode::CREATED).json()["slug"], slug);
    }
}

#[tokio::test]
async fn requests_in_parallel_create_no_more_tenants_than_a_user_may_own() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.loner("ada@example.com").await, people.founder("eve@example.com").await);
    // Only what they own counts.
    crate::people::join(&world, ada.user, eve.tenant).await;
    // Of sessions and with names of their own: nothing but the user is common to them.
    let mut requests = Vec::new();
    for number in 0..20 {
        let body = json!({ "name": format!("Engines {number}") });
        requests.push((people.token_without_tenant(ada.user).await, body));
    }
    let answers = requests.iter().map(|(token, body)| create(&world, token, body));
    let answers = join_all(answers).await;
    let (made, refused): (Vec<Answer>, Vec<Answer>) =
        answers.into_iter().partition(|answer| answer.status == StatusCode::CREATED);
    assert_eq!((made.len(), refused.len()), (10, 10), "{refused:?}");
    for answer in refused {
        answer.expect_problem(StatusCode::CONFLICT, "too_many_tenants");
    }
    let owned = doc! { "user_id": ada.user, "role": "owner" };
    let owned = world.store.records::<Membership>(PlatformScope).count(owned).await.unwrap();
    assert_eq!(owned, 10);
    // The limit is each user's own, and a tenant that was handed over no longer counts.
    let body = json!({ "name": "Engines" });
    create(&world, &eve.token, &body).await.expect(StatusCode::CREATED);
    let handed_over = doc! { "$set": { "role": "admin" } };
    let memberships = world.store.records::<Membership>(PlatformScope);
    let theirs = doc! { "user_id": ada.user, "role": "owner" };
    assert!(memberships.update(theirs, handed_over).await.unwrap());
    create(&world, &ada.token, &body).await.expect(StatusCode::CREATED);
    create(&world, &ada.token, &body)
        .await
        .expect_problem(StatusCode::CONFLICT, "too_many_tenants");
}

#[tokio::test]
async fn an_operator_sets_how_many_tenants_a_user_may_own() {
    let world = World::with(&[("TENANTRY__MEMBERS__TENANTS_OWNED_MAX", "1")]).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    create(&world, &ada.token, &json!({ "name": "Engines" }))
        .await
        .expect_problem(StatusCode::CONFLICT, "too_many_tenants");
}

/// Makes a user a viewer of further tenants.
struct JoinMany(UserId, usize);

impl Change for JoinMany {
    type Output = Vec<TenantId>;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Vec<TenantId>, DbError> {
        let mut joined = Vec::new();
        for number in 0..self.1 {
            let (name, slug) = (format!("Tenant {number}"), format!("many-{number}"));
            let slug = slug.parse().unwrap();
            let tenant = Tenant::create(txn, &name.parse().unwrap(), Some(&slug)).await?;
            let scope = TenantScope::of_job(tenant.id);
            Membership::create(txn, scope, self.0, Role::Viewer).await?;
            joined.push(tenant.id);
        }
        Ok(joined)
    }
}

#[tokio::test]
async fn a_user_lists_and_uses_more_than_a_hundred_tenants() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.loner("ada@example.com").await, people.founder("eve@example.com").await);
    let joined = world.commit(&JoinMany(ada.user, 103)).await.unwrap();
    let joined: Vec<String> = joined.iter().map(ToString::to_string).collect();

    let page = async |query: &str| {
        let answer = world.client.get_as(&ada.token, &format!("{TENANTS}?{query}")).await;
        answer.expect(StatusCode::OK).json()
    };
    let first = page("limit=100").await;
    assert_eq!(ids(&first), joined[..100]);
    // A tenant joined meanwhile moves no page.
    crate::people::join(&world, ada.user, eve.tenant).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = page(&format!("limit=100&cursor={cursor}")).await;
    assert_eq!(ids(&rest), [&joined[100..], &[eve.tenant.to_string()]].concat());
    assert_eq!(rest["next_cursor"], Value::Null);
    assert_eq!(ids(&page("").await).len(), 25);
    // A cursor says only where to continue: it shows nothing of another user.
    let others = world.client.get_as(&eve.token, &format!("{TENANTS}?cursor={cursor}")).await;
    assert!(!others.body.contains("many-"), "{others:?}");

    let login = world.login("ada@example.com", PASSWORD).await.expect(StatusCode::OK).json();
    let shown: Vec<&str> =
        login["tenants"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(shown, joined[..100], "the answer to a sign-in is bounded");
    let beyond = json!(joined[102]);
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "tenant_id": beyond, "token_delivery": "body" });
    let login = world.client.post("/api/auth/login", &body).await.expect(StatusCode::OK).json();
    assert_eq!(login["tenant"]["id"], beyond);
    let refresh = json!({ "refresh_token": login["refresh_token"] });
    let refreshed = world.client.post("/api/auth/refresh", &refresh).await.expect(StatusCode::OK);
    assert_eq!(refreshed.json()["tenant"]["id"], beyond);
    let switch = json!({ "tenant_id": joined[101] });
    let switched = world.client.post_body_as(&ada.token, "/api/auth/switch-tenant", &switch).await;
    assert_eq!(switched.expect(StatusCode::OK).json()["tenant"]["id"], joined[101]);
}

#[tokio::test]
async fn a_suspended_tenant_is_listed_as_such() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    crate::people::join(&world, ada.user, eve.tenant).await;
    let suspended = doc! { "$set": { "status": TenantStatus::Suspended.name() } };
    let tenants = world.store.records::<Tenant>(PlatformScope);
    assert!(tenants.update(doc! { "_id": eve.tenant }, suspended).await.unwrap());
    let listed = world.client.get_as(&ada.token, TENANTS).await.expect(StatusCode::OK).json();
    let statuses: Vec<&Value> =
        listed["items"].as_array().unwrap().iter().map(|tenant| &tenant["status"]).collect();
    assert_eq!(statuses, ["active", "suspended"]);
}
