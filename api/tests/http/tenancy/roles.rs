//! Custom roles of a tenant, and their effects.

use common::id::{self, RoleId};
use domain::tenancy::{
    custom_roles::CustomRole,
    roles::{Permission, Role},
};
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    people::{People, absent},
    support::{Answer, World, eventually},
};

const ROLES: &str = "/api/tenant/roles";

async fn make(world: &World, token: &str, name: &str, permissions: &[&str]) -> Answer {
    world
        .client
        .post_body_as(token, ROLES, &json!({ "name": name, "permissions": permissions }))
        .await
}

fn id_of(answer: &Answer) -> RoleId {
    answer.json()["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_custom_role_is_created_changed_and_deleted() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let made = make(&world, &ada.token, "Support", &["users:read", "tenant:read", "users:read"])
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(
        (&made.json()["permissions"], &made.json()["built_in"]),
        (&json!(["tenant:read", "users:read"]), &json!(false))
    );
    let path = format!("{ROLES}/{}", id_of(&made));

    for name in ["support", "SUPPORT", "owner", "Viewer", "Ｓupport", "Ｏwner"] {
        make(&world, &ada.token, name, &[])
            .await
            .expect_problem(StatusCode::CONFLICT, "role_name_taken");
    }
    let unknown = make(&world, &ada.token, "X", &["users:read", "users:*", "everything"]).await;
    let unknown = unknown.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
    assert_eq!(unknown.field_errors(), ["permissions:invalid_format"]);

    let body = json!({ "name": "Help desk", "permissions": ["tenant:read"] });
    let changed = world.client.put_as(&ada.token, &path, &body).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&changed["name"], &changed["permissions"]),
        (&json!("Help desk"), &json!(["tenant:read"]))
    );
    let listed = world.client.get_as(&ada.token, ROLES).await.expect(StatusCode::OK).json();
    let names: Vec<&Value> =
        listed["items"].as_array().unwrap().iter().map(|role| &role["name"]).collect();
    assert_eq!(names, ["Owner", "Admin", "Member", "Billing", "Viewer", "Help desk"]);

    world.client.delete_as(&ada.token, &path).await.expect(StatusCode::NO_CONTENT);
    world
        .client
        .delete_as(&ada.token, &path)
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    world
        .client
        .put_as(&ada.token, &path, &body)
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
}

/// A caller who may give roles can list them, and the list says which ones they may give.
#[tokio::test]
async fn the_list_says_which_roles_the_caller_may_give() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let inviter =
        make(&world, &ada.token, "Inviter", &["users:invite", "tenant:read", "usage:read"]);
    let inviter = id_of(&inviter.await.expect(StatusCode::CREATED));
    let reader = make(&world, &ada.token, "Reader", &["roles:read", "tenant:read", "usage:read"]);
    let reader = id_of(&reader.await.expect(StatusCode::CREATED));
    let assignable = async |token: &str| {
        let listed = world.client.get_as(token, ROLES).await.expect(StatusCode::OK).json();
        let items = listed["items"].as_array().unwrap().clone();
        let items = items.iter().filter(|role| role["assignable"] == true);
        items.map(|role| role["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["Owner", "Admin", "Member", "Billing", "Viewer", "Inviter", "Reader"];
    assert_eq!(assignable(&ada.token).await, all);
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    assert_eq!(assignable(&admin.token).await, all[1..]);
    let bob = people.join(&ada, "bob@example.com", inviter).await;
    assert_eq!(assignable(&bob.token).await, ["Inviter", "Reader"]);
    let eve = people.join(&ada, "eve@example.com", reader).await;
    assert_eq!(assignable(&eve.token).await, Vec::<String>::new(), "she may give none");
    let viewer = people.join(&ada, "viewer@example.com", Role::Viewer).await;
    let refused = world.client.get_as(&viewer.token, ROLES).await;
    refused.expect_problem(StatusCode::FORBIDDEN, "forbidden");
}

#[tokio::test]
async fn changes_of_a_role_apply_at_once_and_me_names_the_role() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let role = id_of(
        &make(&world, &ada.token, "Support", &["users:read"]).await.expect(StatusCode::CREATED),
    );
    let bob = people.join(&ada, "bob@example.com", role).await;
    let me = world.client.get_as(&bob.token, "/api/auth/me").await.expect(StatusCode::OK).json();
    assert_eq!((&me["role"], &me["permissions"]), (&json!(role), &json!(["users:read"])));
    assert_eq!(
        me["grants"],
        json!([{ "role": role, "name": "Support", "permissions": ["users:read"] }])
    );
    let members = "/api/tenant/users";
    world.client.get_as(&bob.token, members).await.expect(StatusCode::OK);
    let refused = world
        .client
        .get_as(&bob.token, "/api/tenant/current")
        .await
        .expect_problem(StatusCode::FORBIDDEN, "forbidden");
    assert!(refused.json()["detail"].as_str().unwrap().contains("tenant:read"));

    let body = json!({ "name": "Support", "permissions": ["tenant:read"] });
    world.client.put_as(&ada.token, &format!("{ROLES}/{role}"), &body).await.expect(StatusCode::OK);
    world.client.expect_within_a_second(&bob.token, members, StatusCode::FORBIDDEN).await;
    world.client.get_as(&bob.token, "/api/tenant/current").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_role_beyond_the_callers_own_cannot_be_created_or_changed() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    let high =
        make(&world, &ada.token, "Deleter", &["tenant:delete"]).await.expect(StatusCode::CREATED);
    make(&world, &admin.token, "Mine", &["tenant:delete"])
        .await
        .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    let path = format!("{ROLES}/{}", id_of(&high));
    let lower = json!({ "name": "Lower", "permissions": [] });
    world
        .client
        .put_as(&admin.token, &path, &lower)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    world
        .client
        .delete_as(&admin.token, &path)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    let own = id_of(
        &make(&world, &admin.token, "Keeper", &["roles:write", "tenant:read"])
            .await
            .expect(StatusCode::CREATED),
    );
    let keeper = people.join(&ada, "keeper@example.com", own).await;
    let more = json!({ "name": "Keeper", "permissions": ["roles:write", "users:delete"] });
    let own_path = format!("{ROLES}/{own}");
    world
        .client
        .put_as(&keeper.token, &own_path, &more)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
}

#[tokio::test]
async fn a_built_in_role_can_be_read_but_not_changed_or_deleted() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let viewer = people.join(&ada, "viewer@example.com", Role::Viewer).await;
    let before = world.client.get_as(&ada.token, ROLES).await.expect(StatusCode::OK).json();
    let body = json!({ "name": "Mine", "permissions": ["tenant:read"] });
    for role in Role::ALL {
        let path = format!("{ROLES}/{}", role.as_str());
        world.client.get_as(&ada.token, &path).await.expect(StatusCode::OK);
        for refused in [
            world.client.put_as(&ada.token, &path, &body).await,
            world.client.delete_as(&ada.token, &path).await,
        ] {
            refused.expect_problem(StatusCode::CONFLICT, "role_built_in");
        }
        // A caller without the permission for roles gets that error first.
        world
            .client
            .delete_as(&viewer.token, &path)
            .await
            .expect_problem(StatusCode::FORBIDDEN, "forbidden");
    }
    assert_eq!(world.client.get_as(&ada.token, ROLES).await.expect(StatusCode::OK).json(), before);
    world
        .client
        .delete_as(&ada.token, &format!("{ROLES}/root"))
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test]
async fn a_role_in_use_cannot_be_deleted_even_if_granted_concurrently() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Member).await;
    for round in 0..10 {
        let role = id_of(
            &make(&world, &ada.token, &format!("Role {round}"), &[])
                .await
                .expect(StatusCode::CREATED),
        );
        let (path, member) = (format!("{ROLES}/{role}"), format!("/api/tenant/users/{}", bob.user));
        let body = json!({ "role": role });
        let give = world.client.put_as(&ada.token, &member, &body);
        let (given, deleted) = tokio::join!(give, world.client.delete_as(&ada.token, &path));
        if given.status == StatusCode::OK {
            deleted.expect_problem(StatusCode::CONFLICT, "role_in_use");
            assert_eq!(people.role(&bob).await, Some(role.into()));
        } else {
            given.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "no_such_role");
            deleted.expect(StatusCode::NO_CONTENT);
        }
    }
}

#[tokio::test]
async fn concurrent_roles_do_not_exceed_the_limit() {
    let world = World::with(&[("TENANTRY__MEMBERS__CUSTOM_ROLES_MAX", "3")]).await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let (world, token) = (&world, &ada.token);
    let answers = join_all(
        (0..12).map(|n| async move { make(world, token, &format!("Role {n}"), &[]).await }),
    )
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count(), 3);
    let refused = answers.into_iter().filter(|answer| answer.status != StatusCode::CREATED);
    refused.for_each(|answer| drop(answer.expect_problem(StatusCode::CONFLICT, "too_many_roles")));
    assert_eq!(world.count::<CustomRole>().await, 3);
}

#[tokio::test]
async fn a_role_of_another_tenant_is_not_found() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let bob = people.join(&ada, "bob@example.com", Role::Member).await;
    let foreign = id_of(
        &make(&world, &eve.token, "Evil", &["users:delete"]).await.expect(StatusCode::CREATED),
    );
    let member = format!("/api/tenant/users/{}", bob.user);
    let give = async |role: RoleId| {
        let answer = world.client.put_as(&ada.token, &member, &json!({ "role": role })).await;
        answer.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "no_such_role").without_id()
    };
    assert_eq!(give(foreign).await, give(absent::<id::CustomRole>()).await);
    let listed = world.client.get_as(&ada.token, ROLES).await.expect(StatusCode::OK);
    assert!(!listed.body.contains("Evil") && !listed.body.contains(&foreign.to_string()));
}

#[tokio::test]
async fn a_stored_role_may_name_permissions_of_a_later_release() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let role = id_of(
        &make(&world, &ada.token, "Later", &["tenant:read"]).await.expect(StatusCode::CREATED),
    );
    let bob = people.join(&ada, "bob@example.com", role).await;
    let update = mongodb::bson::doc! { "$push": { "permissions": "moon:landing" } };
    world
        .store
        .records::<CustomRole>(common::db::PlatformScope)
        .update(mongodb::bson::doc! {}, update)
        .await
        .unwrap();
    let me = eventually("it is shown", async || {
        let me = world.client.get_as(&bob.token, "/api/auth/me").await;
        (me.status == StatusCode::OK).then(|| me.json())
    })
    .await;
    assert_eq!(me["permissions"], json!([Permission::TenantRead]));
}
