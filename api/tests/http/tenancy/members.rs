//! Members of a tenant: listing, changing and removing them, and transferring ownership.

use common::{db::PlatformScope, id};
use domain::{
    people::sessions::Session,
    tenancy::{
        members::{SendRemoved, SendRoleChanged},
        memberships::Membership,
        ownership::OwnershipTransfer,
        roles::Role,
    },
};
use jobs::{outbox::OutboxRow, testing};
use mongodb::bson::{DateTime, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::servers::Mail;

use crate::{
    people::{People, Person, absent, join},
    support::{Answer, DEADLINE, PASSWORD, World, eventually},
};

const MEMBERS: &str = "/api/tenant/users";
const TRANSFERS: &str = "/api/tenant/ownership-transfers";

async fn give(world: &World, actor: &Person, member: &Person, role: &str) -> Answer {
    world
        .client
        .put_as(&actor.token, &format!("{MEMBERS}/{}", member.user), &json!({ "role": role }))
        .await
}

async fn remove(world: &World, actor: &Person, member: &Person) -> Answer {
    world.client.delete_as(&actor.token, &format!("{MEMBERS}/{}", member.user)).await
}

async fn leave(world: &World, person: &Person) -> Answer {
    world.client.delete_as(&person.token, &format!("{MEMBERS}/me")).await
}

fn emails(page: &Value) -> Vec<String> {
    page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["email"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn members_are_listed_in_pages_and_found_by_name_email_and_role() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    people.founder("eve@example.com").await;
    for (email, role) in [
        ("bob@example.com", Role::Member),
        ("carl@example.org", Role::Viewer),
        ("b.ob2@example.org", Role::Member),
    ] {
        people.join(&ada, email, role).await;
    }
    let list = async |query: &str| {
        world
            .client
            .get_as(&ada.token, &format!("{MEMBERS}{query}"))
            .await
            .expect(StatusCode::OK)
            .json()
    };
    let all = list("").await;
    assert_eq!(
        emails(&all),
        ["ada@example.com", "bob@example.com", "carl@example.org", "b.ob2@example.org"]
    );
    assert_eq!(
        (&all["next_cursor"], &all["items"][0]["role_name"]),
        (&Value::Null, &json!("Owner"))
    );
    assert_eq!(emails(&list("?q=EXAMPLE.ORG").await), ["carl@example.org", "b.ob2@example.org"]);
    assert_eq!(emails(&list("?q=bOb&role=member&status=active").await), ["bob@example.com"]);
    assert_eq!(emails(&list("?q=.*").await), [""; 0], "patterns are searched for literally");

    let mut found = Vec::new();
    let mut query = "?limit=1".to_owned();
    loop {
        let page = list(&query).await;
        found.extend(emails(&page));
        // A member who joins meanwhile does not move others to another page.
        if found.len() == 2 {
            people.join(&ada, "late@example.com", Role::Viewer).await;
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=1&cursor={cursor}");
    }
    assert_eq!(
        found,
        [
            "ada@example.com",
            "bob@example.com",
            "carl@example.org",
            "b.ob2@example.org",
            "late@example.com"
        ]
    );
}

#[tokio::test]
async fn an_invalid_query_is_rejected() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    for (query, field) in [
        ("limit=0", "limit:out_of_range"),
        ("limit=1e9", "limit:out_of_range"),
        ("limit=101", "limit:out_of_range"),
        ("cursor=x", "cursor:invalid_format"),
        ("cursor=dXNyX3g", "cursor:invalid_format"),
        ("role=root", "role:invalid_format"),
        ("status=dead", "status:invalid_format"),
        ("tenant_id=ten_0192a0b8c0de7000800000000000cafe", "tenant_id:unknown_field"),
        ("q[$regex]=.*", "q[$regex]:unknown_field"),
    ] {
        let refused = world.client.get_as(&ada.token, &format!("{MEMBERS}?{query}")).await;
        assert_eq!(refused.expect(StatusCode::UNPROCESSABLE_ENTITY).field_errors(), [field]);
    }
    // An unknown parameter is reported for the query only.
    let unknown = world.client.get_as(&ada.token, &format!("{MEMBERS}?limit=0&sort=name")).await;
    let unknown = unknown.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "unknown_field");
    assert_eq!(unknown.field_errors(), ["limit:out_of_range", "sort:unknown_field"]);
    assert_eq!(unknown.json()["detail"], "The query has unknown parameters: sort. Remove them.");
    assert_eq!(unknown.json()["errors"][1]["message"], "is not a known parameter");
    assert!(!unknown.body.contains("body"), "{unknown:?}");
    world
        .client
        .get_as(&ada.token, &format!("{MEMBERS}?q=a&q=b"))
        .await
        .expect_problem(StatusCode::BAD_REQUEST, "bad_request");
}

#[tokio::test]
async fn a_demoted_member_loses_permissions_at_the_next_request_on_every_process() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    let roles = "/api/tenant/roles";
    for client in [&world.client, &second] {
        client.get_as(&bob.token, roles).await.expect(StatusCode::OK);
    }
    let changed = give(&world, &ada, &bob, "viewer").await.expect(StatusCode::OK).json();
    assert_eq!((&changed["role"], &changed["role_name"]), (&json!("viewer"), &json!("Viewer")));
    // The process that made the change applies it at once.
    world.client.get_as(&bob.token, roles).await.expect_problem(StatusCode::FORBIDDEN, "forbidden");
    second.expect_within_a_second(&bob.token, roles, StatusCode::FORBIDDEN).await;
    let membership = world
        .store
        .records::<Membership>(PlatformScope)
        .find(doc! { "user_id": bob.user })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(membership.version, 2);
    let event = doc! { "action": "member.role_changed", "actor": ada.user, "targets": bob.user, "tenant_id": ada.tenant };
    assert_eq!(world.events(event).await, 1);
}

/// Makes a user a member of another tenant too, and returns their token there.
async fn belong(world: &World, people: &People<'_>, person: &Person, other: &Person) -> String {
    join(world, person.user, other.tenant).await;
    people.token(person.user, other.tenant).await
}

#[tokio::test]
async fn a_removed_member_loses_only_this_tenant_at_once() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let bob = people.join(&ada, "bob@example.com", Role::Member).await;
    let there = belong(&world, &people, &bob, &eve).await;
    world.client.get_as(&bob.token, "/api/auth/me").await.expect(StatusCode::OK);
    remove(&world, &ada, &bob).await.expect(StatusCode::NO_CONTENT);
    world
        .client
        .get_as(&bob.token, "/api/auth/me")
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    world.client.get_as(&there, "/api/auth/me").await.expect(StatusCode::OK);
    remove(&world, &ada, &bob).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
    let live = doc! { "user_id": bob.user, "tenant_id": ada.tenant, "revoked_at": null };
    assert_eq!(world.store.records::<Session>(PlatformScope).count(live).await.unwrap(), 0);
    assert_eq!(people.role(&bob).await, None);
}

#[tokio::test]
async fn a_member_who_leaves_loses_only_this_tenant_on_every_process() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let bob = people.join(&ada, "bob@example.com", Role::Billing).await;
    let (there, phone) =
        (belong(&world, &people, &bob, &eve).await, people.token(bob.user, ada.tenant).await);
    world
        .client
        .post_body_as(&ada.token, TRANSFERS, &json!({ "user_id": bob.user }))
        .await
        .expect(StatusCode::CREATED);
    for client in [&world.client, &second] {
        client.get_as(&phone, "/api/auth/me").await.expect(StatusCode::OK);
    }
    let left = leave(&world, &bob).await.expect(StatusCode::NO_CONTENT);
    assert!(left.header("set-cookie").starts_with("refresh_token=;"), "{left:?}");
    for token in [&bob.token, &phone] {
        world
            .client
            .get_as(token, "/api/auth/me")
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
        second
            .expect_refused_within_a_second(token)
            .await
            .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    leave(&world, &bob).await.expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    world.client.get_as(&there, "/api/auth/me").await.expect(StatusCode::OK);
    assert_eq!((people.role(&bob).await, world.count::<OwnershipTransfer>().await), (None, 0));
    let live = doc! { "user_id": bob.user, "tenant_id": ada.tenant, "revoked_at": null };
    assert_eq!(world.store.records::<Session>(PlatformScope).count(live).await.unwrap(), 0);
    let event = doc! { "action": "member.left", "actor": bob.user, "targets": bob.user, "tenant_id": ada.tenant };
    assert_eq!(world.events(event).await, 1);
}

#[tokio::test]
async fn an_owner_needs_recent_authentication_to_leave() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let (eve, bob) = (
        people.join(&ada, "eve@example.com", Role::Owner).await,
        people.join(&ada, "bob@example.com", Role::Member).await,
    );
    let stale = doc! { "$set": { "authenticated_at": DateTime::from_millis(0) } };
    for person in [&eve, &bob] {
        world
            .store
            .records::<Session>(PlatformScope)
            .update(doc! { "user_id": person.user }, stale.clone())
            .await
            .unwrap();
    }
    leave(&world, &eve).await.expect_problem(StatusCode::FORBIDDEN, "reauthentication_required");
    leave(&world, &bob).await.expect(StatusCode::NO_CONTENT);
    let fresh = people.token(eve.user, eve.tenant).await;
    world.client.delete_as(&fresh, &format!("{MEMBERS}/me")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(people.count(ada.tenant, Role::Owner).await, 1);
}

#[tokio::test]
async fn role_changes_and_removals_send_a_mail() {
    let world = World::with(&[("TENANTRY__AUTH__RESEND_COOLDOWN", "1s")]).await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let (bob, carl) = (
        people.join(&ada, "bob@example.com", Role::Viewer).await,
        people.join(&ada, "carl@example.com", Role::Viewer).await,
    );
    let support = json!({ "name": "Support", "permissions": ["users:read"] });
    let support = world
        .client
        .post_body_as(&ada.token, "/api/tenant/roles", &support)
        .await
        .expect(StatusCode::CREATED)
        .json();
    for _ in 0..2 {
        give(&world, &ada, &bob, support["id"].as_str().unwrap()).await.expect(StatusCode::OK);
    }
    remove(&world, &ada, &carl).await.expect(StatusCode::NO_CONTENT);
    give(&world, &ada, &ada, "admin").await.expect_problem(StatusCode::CONFLICT, "last_owner");
    remove(&world, &ada, &ada).await.expect_problem(StatusCode::CONFLICT, "last_owner");
    let changed = testing::staged::<SendRoleChanged>(&world.store).await.unwrap();
    assert_eq!(
        changed.iter().map(|staged| staged.job.user).collect::<Vec<_>>(),
        [bob.user],
        "an unchanged role sends no mail"
    );
    let removed = testing::staged::<SendRemoved>(&world.store).await.unwrap();
    assert_eq!(
        removed.iter().map(|staged| (staged.tenant, staged.job.user)).collect::<Vec<_>>(),
        [(Some(ada.tenant), carl.user)]
    );
    let _worker = world.env.spawn_worker().await;
    for (person, subject) in [
        (&bob, "Your role in Tenant of ADA was changed"),
        (&carl, "You were removed from Tenant of ADA"),
    ] {
        let told =
            world.env.mail().wait_for(|mail| mail.to == [person.email.as_str()], DEADLINE).await;
        assert_eq!(
            (told.subject.as_str(), told.text.contains("Support")),
            (subject, person.user == bob.user),
            "{}",
            told.text
        );
    }
}

/// Repeated changes of mind do not fill the member's inbox.
#[tokio::test]
async fn repeated_role_changes_send_one_mail_with_the_latest_role() {
    let world = World::with(&[("TENANTRY__AUTH__RESEND_COOLDOWN", "3s")]).await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Viewer).await;
    for role in ["member", "billing"].into_iter().cycle().take(20).chain(["admin"]) {
        give(&world, &ada, &bob, role).await.expect(StatusCode::OK);
    }
    eventually("the duplicates are dropped", async || {
        (world.count::<OutboxRow>().await == 1).then_some(())
    })
    .await;
    let staged = testing::staged::<SendRoleChanged>(&world.store).await.unwrap();
    assert!(staged[0].due_at.is_some(), "the mail is delayed");
    let _worker = world.env.spawn_worker().await;
    let told = world.env.mail().wait_for(|mail| mail.to == ["bob@example.com"], DEADLINE).await;
    assert!(told.text.contains("Admin"), "{}", told.text);
    world.until_nothing_is_due().await;
    assert_eq!(world.env.mail().messages().len(), 1);
}

#[tokio::test]
async fn members_cannot_set_higher_roles_or_change_higher_members() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    let member = people.join(&ada, "member@example.com", Role::Member).await;
    for (who, role) in [(&member, "owner"), (&admin, "owner"), (&ada, "admin"), (&ada, "viewer")] {
        give(&world, &admin, who, role)
            .await
            .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    }
    remove(&world, &admin, &ada).await.expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    give(&world, &member, &member, "admin")
        .await
        .expect_problem(StatusCode::FORBIDDEN, "forbidden");
    give(&world, &admin, &member, "admin").await.expect(StatusCode::OK);
    assert_eq!(people.role(&ada).await, Some(Role::Owner.into()));
}

#[tokio::test]
async fn the_last_owner_cannot_be_removed_demoted_or_leave() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    people.join(&ada, "admin@example.com", Role::Admin).await;
    give(&world, &ada, &ada, "admin").await.expect_problem(StatusCode::CONFLICT, "last_owner");
    remove(&world, &ada, &ada).await.expect_problem(StatusCode::CONFLICT, "last_owner");
    leave(&world, &ada).await.expect_problem(StatusCode::CONFLICT, "last_owner");
    give(&world, &ada, &ada, "owner").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn one_owner_remains_if_two_remove_or_demote_each_other() {
    let world = World::new().await;
    let people = People::of(&world).await;
    for round in 0..15 {
        let ada = people.founder(&format!("ada{round}@example.com")).await;
        let eve = people.join(&ada, &format!("eve{round}@example.com"), Role::Owner).await;
        let (first, second) = match round % 3 {
            0 => tokio::join!(remove(&world, &ada, &eve), remove(&world, &eve, &ada)),
            1 => {
                tokio::join!(give(&world, &ada, &eve, "viewer"), give(&world, &eve, &ada, "viewer"))
            }
            _ => tokio::join!(give(&world, &ada, &ada, "admin"), remove(&world, &eve, &eve)),
        };
        assert!(people.count(ada.tenant, Role::Owner).await >= 1, "{first:?} {second:?}");
        let refused = [&first, &second].into_iter().filter(|answer| !answer.status.is_success());
        assert_eq!(refused.count(), 1, "{first:?} {second:?}");
    }
}

#[tokio::test]
async fn one_owner_remains_if_two_leave_at_once() {
    let world = World::new().await;
    let people = People::of(&world).await;
    for round in 0..15 {
        let ada = people.founder(&format!("ada{round}@example.com")).await;
        let eve = people.join(&ada, &format!("eve{round}@example.com"), Role::Owner).await;
        let (first, second) = match round % 3 {
            0 => tokio::join!(leave(&world, &ada), leave(&world, &eve)),
            1 => tokio::join!(leave(&world, &ada), remove(&world, &eve, &eve)),
            _ => tokio::join!(give(&world, &ada, &ada, "admin"), leave(&world, &eve)),
        };
        assert_eq!(people.count(ada.tenant, Role::Owner).await, 1, "{first:?} {second:?}");
        let (refused, left) =
            if first.status.is_success() { (second, first) } else { (first, second) };
        assert!(left.status.is_success(), "{left:?}");
        refused.expect_problem(StatusCode::CONFLICT, "last_owner");
    }
}

/// Neither by signing in nor by switching from another tenant.
#[tokio::test]
async fn no_session_remains_in_a_tenant_after_leaving_it() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    for round in 0..12 {
        let bob = people.join(&ada, &format!("bob{round}@example.com"), Role::Member).await;
        let there = belong(&world, &people, &bob, &eve).await;
        let enter = async {
            if round % 2 == 0 {
                world
                    .client
                    .post_body_as(
                        &there,
                        "/api/auth/switch-tenant",
                        &json!({ "tenant_id": ada.tenant }),
                    )
                    .await
            } else {
                let login =
                    json!({ "email": bob.email, "password": PASSWORD, "tenant_id": ada.tenant });
                world.client.post("/api/auth/login", &login).await
            }
        };
        let (left, entered) = tokio::join!(leave(&world, &bob), enter);
        left.expect(StatusCode::NO_CONTENT);
        assert!([StatusCode::OK, StatusCode::NOT_FOUND].contains(&entered.status), "{entered:?}");
        let live = doc! { "user_id": bob.user, "tenant_id": ada.tenant, "revoked_at": null };
        assert_eq!(
            world.store.records::<Session>(PlatformScope).count(live).await.unwrap(),
            0,
            "{entered:?}"
        );
    }
}

#[tokio::test]
async fn becoming_an_owner_ends_pending_offers_of_ownership() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let eve = people.join(&ada, "eve@example.com", Role::Owner).await;
    let bob = people.join(&ada, "bob@example.com", Role::Member).await;
    let offer = async |from: &Person| {
        let offered = world
            .client
            .post_body_as(&from.token, TRANSFERS, &json!({ "user_id": bob.user }))
            .await
            .expect(StatusCode::CREATED);
        format!("{TRANSFERS}/{}/accept", offered.json()["id"].as_str().unwrap())
    };
    let (first, second) = (offer(&ada).await, offer(&eve).await);
    world.client.post_as(&bob.token, &first).await.expect(StatusCode::NO_CONTENT);
    world
        .client
        .post_as(&bob.token, &second)
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    assert_eq!(people.count(ada.tenant, Role::Owner).await, 2);
}

#[tokio::test]
async fn mails_about_offers_of_ownership_are_limited() {
    let world = World::with(&[("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "2")]).await;
    let people = People::of(&world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let bob = people.join(&ada, "bob@example.com", Role::Member).await;
    let offer = async |from: &Person| {
        world.client.post_body_as(&from.token, TRANSFERS, &json!({ "user_id": bob.user })).await
    };
    // Offers in another tenant do not count towards the limit.
    for _ in 0..2 {
        offer(&eve).await.expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "no_such_member");
    }
    for _ in 0..2 {
        offer(&ada).await.expect(StatusCode::CREATED);
    }
    offer(&ada).await.expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
}

#[tokio::test]
async fn ownership_is_transferred_only_by_acceptance() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Viewer).await;
    let carl = people.join(&ada, "carl@example.com", Role::Admin).await;
    let offer = async |to: &Person| {
        world.client.post_body_as(&ada.token, TRANSFERS, &json!({ "user_id": to.user })).await
    };
    let first =
        offer(&carl).await.expect(StatusCode::CREATED).json()["id"].as_str().unwrap().to_owned();
    let second =
        offer(&bob).await.expect(StatusCode::CREATED).json()["id"].as_str().unwrap().to_owned();
    let accept = async |who: &Person, id: &str| {
        world.client.post_as(&who.token, &format!("{TRANSFERS}/{id}/accept")).await
    };
    accept(&carl, &first).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
    accept(&carl, &second).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
    accept(&ada, &second).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
    assert_eq!(people.count(ada.tenant, Role::Owner).await, 1);
    let _worker = world.env.spawn_worker().await;
    let mail = world.env.mail().wait_for(|mail| mail.to == ["bob@example.com"], DEADLINE).await;
    assert_eq!(mail.subject, "ADA offers you ownership of Tenant of ADA");
    let seen = async |who: &Person| {
        world.client.get_as(&who.token, TRANSFERS).await.expect(StatusCode::OK).json()
    };
    assert_eq!(
        (
            seen(&ada).await["items"].as_array().unwrap().len(),
            seen(&carl).await["items"].as_array().unwrap().len()
        ),
        (1, 0)
    );
    assert_eq!(seen(&bob).await["items"][0]["id"], second);

    accept(&bob, &second).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(
        (people.role(&bob).await, people.role(&ada).await),
        (Some(Role::Owner.into()), Some(Role::Admin.into()))
    );
    accept(&bob, &second).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
    let me = world.client.get_as(&bob.token, "/api/auth/me").await.expect(StatusCode::OK).json();
    assert_eq!(me["role"], "owner");
    for (person, subject) in
        [(&ada, "BOB now owns Tenant of ADA"), (&bob, "You now own Tenant of ADA")]
    {
        let told = |mail: &Mail| mail.to == [person.email.as_str()] && mail.subject == subject;
        world.env.mail().wait_for(told, DEADLINE).await;
    }
    offer(&carl).await.expect_problem(StatusCode::FORBIDDEN, "forbidden");
}

#[tokio::test]
async fn an_offer_of_ownership_can_be_cancelled_declined_or_expire() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Member).await;
    let carl = people.join(&ada, "carl@example.com", Role::Admin).await;
    let offer = async |to: id::UserId| {
        world.client.post_body_as(&ada.token, TRANSFERS, &json!({ "user_id": to })).await
    };
    let made = async || {
        let offered = offer(bob.user).await.expect(StatusCode::CREATED).json();
        format!("{TRANSFERS}/{}", offered["id"].as_str().unwrap())
    };
    let path = made().await;
    world
        .client
        .delete_as(&carl.token, &path)
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    world.client.delete_as(&bob.token, &path).await.expect(StatusCode::NO_CONTENT);
    let path = made().await;
    world.client.delete_as(&ada.token, &path).await.expect(StatusCode::NO_CONTENT);
    world
        .client
        .post_as(&bob.token, &format!("{path}/accept"))
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    let path = made().await;
    let a_moment_ago = DateTime::from_millis(world.store.clock().now().timestamp_millis() - 1);
    let expire = doc! { "$set": { "expires_at": a_moment_ago } };
    world.store.records::<OwnershipTransfer>(PlatformScope).update(doc! {}, expire).await.unwrap();
    world
        .client
        .post_as(&bob.token, &format!("{path}/accept"))
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");

    let stranger = people.founder("eve@example.com").await;
    let foreign = offer(stranger.user)
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "no_such_member")
        .without_id();
    let nobody = offer(absent())
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "no_such_member")
        .without_id();
    assert_eq!(foreign, nobody);
    offer(ada.user).await.expect_problem(StatusCode::CONFLICT, "owner_already");
    // An owner cannot accept another offer.
    let path = made().await;
    give(&world, &ada, &bob, "owner").await.expect(StatusCode::OK);
    world
        .client
        .post_as(&bob.token, &format!("{path}/accept"))
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    give(&world, &ada, &bob, "member").await.expect(StatusCode::OK);
    // An offer ends when its recipient is removed.
    let path = made().await;
    remove(&world, &ada, &bob).await.expect(StatusCode::NO_CONTENT);
    world
        .client
        .post_as(&bob.token, &format!("{path}/accept"))
        .await
        .expect(StatusCode::UNAUTHORIZED);
    assert_eq!(world.count::<OwnershipTransfer>().await, 0);
}
