//! Inviting people, and joining by a link.

use std::time::Duration;

use common::{crypto::LinkToken, db::PlatformScope, id};
use domain::{
    identity::{registrations::Registration, sign_in::SendNewSignIn},
    people::{sessions::Session, users::User},
    tenancy::{
        invitation_lists::InvitationList,
        invitations::{Invitation, SendInvitation, SendInvitationReminder},
        memberships::Membership,
        roles::Role,
        tenants::Tenant,
    },
};
use futures::future::join_all;
use jobs::{outbox::OutboxRow, testing};
use mongodb::bson::{DateTime, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    pages::expect_page,
    people::{People, Person, absent},
    support::{Answer, DEADLINE, PASSWORD, World, eventually},
};

const INVITE: &str = "/api/tenant/users/invite";
const INVITATIONS: &str = "/api/tenant/invitations";
const ACCEPT: &str = "/api/invitations/accept";
const NEWCOMER: &str = "new@example.com";

async fn invite(world: &World, inviter: &Person, email: &str, role: &str) -> Answer {
    world
        .client
        .post_body_as(&inviter.token, INVITE, &json!({ "email": email, "role": role }))
        .await
}

/// The token in the latest mail to the email address.
pub(crate) async fn link(world: &World, email: &str) -> String {
    let found = world
        .store
        .records::<Invitation>(PlatformScope)
        .find(doc! { "email_norm": email.to_lowercase() })
        .await
        .unwrap();
    found.expect("the address is invited").link_token(&world.key).expose().to_owned()
}

async fn invited(world: &World, inviter: &Person, email: &str, role: &str) -> String {
    invite(world, inviter, email, role).await.expect(StatusCode::CREATED);
    link(world, email).await
}

async fn accept(world: &World, token: &str) -> Answer {
    world
        .client
        .post(ACCEPT, &json!({ "token": token, "name": "New Comer", "password": PASSWORD }))
        .await
}

async fn accept_as(world: &World, person: &Person, token: &str) -> Answer {
    world.client.post_body_as(&person.token, ACCEPT, &json!({ "token": token })).await
}

fn expect_invalid(answer: Answer) {
    answer.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
}

/// A tenant with its founder.
async fn founded(settings: &[(&str, &str)]) -> (World, Person) {
    founded_in(World::with(settings).await).await
}

async fn founded_in(world: World) -> (World, Person) {
    let ada = People::of(&world).await.founder("ada@example.com").await;
    (world, ada)
}

#[tokio::test]
async fn a_new_person_previews_an_invitation_and_joins_with_a_new_account() {
    let (world, ada) = founded(&[]).await;
    let sent =
        invite(&world, &ada, "New@example.com", "member").await.expect(StatusCode::CREATED).json();
    assert_eq!(
        (&sent["invitation"]["email"], &sent["invitation"]["role_name"]),
        (&json!("New@example.com"), &json!("Member"))
    );
    let token = link(&world, NEWCOMER).await;
    // A registration of the email address is pending too; the link proves the mailbox, and ends it.
    world.register(NEWCOMER).await.expect(StatusCode::ACCEPTED);
    let preview =
        world.client.get(&format!("/api/invitations/{token}")).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&preview["tenant_name"], &preview["inviter"]),
        (&json!("Tenant of ADA"), &json!("ADA"))
    );
    assert_eq!(
        (&preview["email"], &preview["role"], &preview["has_account"]),
        (&json!("New@example.com"), &json!("member"), &json!(false))
    );

    let joined = accept(&world, &token).await.expect(StatusCode::OK);
    assert!(joined.header("set-cookie").starts_with("refresh_token=rt_"), "{joined:?}");
    let joined = joined.json();
    assert_eq!(
        (&joined["tenant"]["id"], &joined["tenant"]["role"]),
        (&json!(ada.tenant), &json!("member"))
    );
    let me = world
        .client
        .get_as(joined["access_token"].as_str().unwrap(), "/api/auth/me")
        .await
        .expect(StatusCode::OK)
        .json();
    assert_eq!((&me["user"]["name"], &me["role"]), (&json!("New Comer"), &json!("member")));
    world.login(NEWCOMER, PASSWORD).await.expect(StatusCode::OK);
    assert_eq!(
        (
            world.count::<Invitation>().await,
            world.count::<Registration>().await,
            world.count::<Tenant>().await
        ),
        (0, 0, 1)
    );
    let event = doc! { "action": "member.joined", "tenant_id": ada.tenant };
    assert_eq!(world.events(event).await, 1);
}

#[tokio::test]
async fn missing_fields_are_reported_and_the_link_stays_valid() {
    let (world, ada) = founded(&[]).await;
    let token = invited(&world, &ada, NEWCOMER, "viewer").await;
    let send = async |body: Value| {
        let refused = world
            .client
            .post(ACCEPT, &body)
            .await
            .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
        refused.field_errors()
    };
    assert_eq!(send(json!({ "token": token })).await, ["name:required", "password:required"]);
    assert_eq!(send(json!({ "token": token, "name": "New" })).await, ["password:required"]);
    assert_eq!(
        send(json!({ "token": token, "name": "New", "password": "short" })).await,
        ["password:too_short"]
    );
    assert_eq!(
        send(json!({ "token": token, "name": " ", "password": PASSWORD })).await,
        ["name:invalid_format"]
    );
    let more = json!({ "token": token, "name": "New", "password": PASSWORD, "role": "owner" });
    world
        .client
        .post(ACCEPT, &more)
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "unknown_field");
    accept(&world, &token).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_existing_account_joins_only_signed_in_or_with_its_password() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    people.founder("bob@example.com").await;
    let token = invited(&world, &ada, "BOB@example.com", "admin").await;
    assert_eq!(
        world.client.get(&format!("/api/invitations/{token}")).await.json()["has_account"],
        json!(true)
    );
    let wrong = json!({ "token": token, "name": "Bob", "password": "another password" });
    world
        .client
        .post(ACCEPT, &wrong)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
    let refused = world
        .client
        .post(ACCEPT, &json!({ "token": token }))
        .await
        .expect(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.field_errors(), ["password:required"]);
    let body = json!({ "token": token, "password": PASSWORD, "token_delivery": "body" });
    let joined = world.client.post(ACCEPT, &body).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&joined["tenant"]["id"], joined["tenants"].as_array().unwrap().len()),
        (&json!(ada.tenant), 2)
    );
    assert!(joined["refresh_token"].as_str().unwrap().starts_with("rt_"));
    assert_eq!((&joined["user"]["name"], world.count::<User>().await), (&json!("BOB"), 2));

    let eve = people.founder("eve@example.com").await;
    let token = invited(&world, &ada, "eve@example.com", "viewer").await;
    let joined = accept_as(&world, &eve, &token).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&joined["tenant"]["id"], &joined["tenant"]["role"]),
        (&json!(ada.tenant), &json!("viewer"))
    );
    world.client.get_as(&eve.token, "/api/auth/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn an_invitation_cannot_be_accepted_by_another_account() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let eve = people.founder("eve@example.com").await;
    let token = invited(&world, &ada, "bob@example.com", "admin").await;
    accept_as(&world, &eve, &token)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "invitation_not_yours");
    let stale = people.expired_token(&eve).await;
    let body = json!({ "token": token, "name": "Bob", "password": PASSWORD });
    world
        .client
        .post_body_as(&stale, ACCEPT, &body)
        .await
        .expect_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    assert_eq!((world.count::<Invitation>().await, world.count::<Membership>().await), (1, 2));
    accept(&world, &token).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn inviting_requires_the_permission_and_the_permissions_of_the_role() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    let member = people.join(&ada, "member@example.com", Role::Member).await;
    invite(&world, &member, NEWCOMER, "owner")
        .await
        .expect_problem(StatusCode::FORBIDDEN, "forbidden");
    invite(&world, &admin, NEWCOMER, "owner")
        .await
        .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    let few = json!({ "name": "Inviter", "permissions": ["users:invite", "users:read"] });
    let role = world
        .client
        .post_body_as(&ada.token, "/api/tenant/roles", &few)
        .await
        .expect(StatusCode::CREATED)
        .json();
    let role: id::RoleId = role["id"].as_str().unwrap().parse().unwrap();
    let inviter = people.join(&ada, "inviter@example.com", role).await;
    for high in ["owner", "admin", "member", "billing", "viewer"] {
        invite(&world, &inviter, NEWCOMER, high)
            .await
            .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    }
    invite(&world, &inviter, NEWCOMER, &role.to_string()).await.expect(StatusCode::CREATED);
    let path = format!("/api/tenant/roles/{role}");
    world
        .client
        .delete_as(&ada.token, &path)
        .await
        .expect_problem(StatusCode::CONFLICT, "role_in_use");
    for nobody in ["root", "", "rol_1", "usr_0192a0b8c0de7000800000000000cafe"] {
        let refused =
            invite(&world, &ada, NEWCOMER, nobody).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.field_errors(), ["role:invalid_format"]);
    }
    let none = absent::<id::CustomRole>().to_string();
    invite(&world, &ada, NEWCOMER, &none)
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "no_such_role");
    invite(&world, &ada, &member.email, "viewer")
        .await
        .expect_problem(StatusCode::CONFLICT, "already_member");
}

#[tokio::test]
async fn an_invitation_is_not_valid_while_its_inviter_may_not_grant_the_role() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    let token = invited(&world, &admin, NEWCOMER, "admin").await;
    let removed =
        world.client.delete_as(&ada.token, &format!("/api/tenant/users/{}", admin.user)).await;
    removed.expect(StatusCode::NO_CONTENT);
    expect_invalid(world.client.get(&format!("/api/invitations/{token}")).await);
    expect_invalid(accept(&world, &token).await);
    assert_eq!(world.count::<User>().await, 2, "no account was created");
    // Someone with the permission sends it again.
    let listed = world.client.get_as(&ada.token, INVITATIONS).await.expect(StatusCode::OK).json();
    let path = format!("{INVITATIONS}/{}/resend", listed["items"][0]["id"].as_str().unwrap());
    world.client.post_as(&ada.token, &path).await.expect(StatusCode::OK);
    expect_invalid(accept(&world, &token).await);
    let token = link(&world, NEWCOMER).await;
    accept(&world, &token).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn fifty_concurrent_acceptances_create_one_membership() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let bob = people.founder("bob@example.com").await;
    let token = invited(&world, &ada, "bob@example.com", "member").await;
    let (world, bob, token) = (&world, &bob, token.as_str());
    let answers = join_all((0..50).map(|_| accept_as(world, bob, token))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::OK).count(), 1);
    answers.into_iter().filter(|answer| answer.status != StatusCode::OK).for_each(expect_invalid);
    assert_eq!(
        world
            .store
            .records::<Membership>(PlatformScope)
            .count(doc! { "tenant_id": ada.tenant })
            .await
            .unwrap(),
        2
    );

    let token = invited(world, &ada, NEWCOMER, "member").await;
    let before = world.count::<Session>().await;
    let answers = join_all((0..50).map(|_| accept(world, &token))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::OK).count(), 1);
    assert_eq!((world.count::<User>().await, world.count::<Session>().await), (3, before + 1));
}

#[tokio::test]
async fn a_replaced_used_expired_or_cancelled_link_is_rejected() {
    let (world, ada) = founded(&[]).await;
    let first = invited(&world, &ada, NEWCOMER, "viewer").await;
    let second = invited(&world, &ada, NEWCOMER, "member").await;
    let listed = world.client.get_as(&ada.token, INVITATIONS).await.expect(StatusCode::OK).json();
    assert_eq!(
        (listed["items"].as_array().unwrap().len(), &listed["items"][0]["role"]),
        (1, &json!("member"))
    );
    let path = format!("{INVITATIONS}/{}", listed["items"][0]["id"].as_str().unwrap());
    world.client.post_as(&ada.token, &format!("{path}/resend")).await.expect(StatusCode::OK);
    let third = link(&world, NEWCOMER).await;
    for invalid in [&first, &second] {
        expect_invalid(accept(&world, invalid).await);
        expect_invalid(world.client.get(&format!("/api/invitations/{invalid}")).await);
    }
    let set = async |at: i64| {
        let expire = doc! { "$set": { "expires_at": DateTime::from_millis(at) } };
        world.store.records::<Invitation>(PlatformScope).update(doc! {}, expire).await.unwrap();
    };
    let now = world.store.clock().now().timestamp_millis();
    set(now - 1).await;
    expect_invalid(accept(&world, &third).await);
    assert_eq!(world.client.get_as(&ada.token, INVITATIONS).await.json()["items"], json!([]));
    world
        .client
        .post_as(&ada.token, &format!("{path}/resend"))
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    set(now + 60_000).await;
    accept(&world, &third).await.expect(StatusCode::OK);
    expect_invalid(accept(&world, &third).await);

    let token = invited(&world, &ada, "other@example.com", "viewer").await;
    let listed = world.client.get_as(&ada.token, INVITATIONS).await.expect(StatusCode::OK).json();
    let path = format!("{INVITATIONS}/{}", listed["items"][0]["id"].as_str().unwrap());
    world.client.delete_as(&ada.token, &path).await.expect(StatusCode::NO_CONTENT);
    world
        .client
        .delete_as(&ada.token, &path)
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    expect_invalid(accept(&world, &token).await);
    for forged in [
        "",
        "x",
        &token.replace(&token[..4], "AAAA"),
        LinkToken::issue(&world.key, ada.user).expose(),
    ] {
        expect_invalid(accept(&world, forged).await);
    }
}

#[tokio::test]
async fn concurrent_invitations_do_not_exceed_the_limit() {
    let (world, ada) = founded(&[("TENANTRY__MEMBERS__INVITATIONS_MAX", "5")]).await;
    let (world, ada) = (&world, &ada);
    let answers =
        join_all((0..20).map(|n| async move {
            invite(world, ada, &format!("p{n}@example.com"), "viewer").await
        }))
        .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count(), 5);
    let refused = answers.into_iter().filter(|answer| answer.status != StatusCode::CREATED);
    refused.for_each(|answer| {
        drop(answer.expect_problem(StatusCode::CONFLICT, "too_many_invitations"));
    });
    let listed = world.client.get_as(&ada.token, INVITATIONS).await.json();
    let again = listed["items"][0]["email"].as_str().unwrap();
    invite(world, ada, again, "member").await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn invitations_are_listed_in_pages() {
    let (world, ada) = founded(&[]).await;
    for n in 0..3 {
        invite(&world, &ada, &format!("p{n}@example.com"), "viewer")
            .await
            .expect(StatusCode::CREATED);
    }
    let first = world
        .client
        .get_as(&ada.token, &format!("{INVITATIONS}?limit=2"))
        .await
        .expect(StatusCode::OK)
        .json();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let next = format!("{INVITATIONS}?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = world.client.get_as(&ada.token, &next).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&second["items"][0]["email"], &second["next_cursor"]),
        (&json!("p2@example.com"), &Value::Null)
    );
}

#[tokio::test]
async fn jobs_of_invitations_carry_ids_and_the_link_is_only_in_the_mail() {
    let (world, ada) = founded_in(World::spawned(&[]).await).await;
    let token = invited(&world, &ada, "canary-address@example.com", "viewer").await;
    let invitation =
        world.store.records::<Invitation>(PlatformScope).find(doc! {}).await.unwrap().unwrap();
    let sent = testing::staged::<SendInvitation>(&world.store).await.unwrap();
    assert_eq!((sent[0].tenant, &sent[0].job.link), (Some(ada.tenant), &invitation.link));
    let reminder = testing::staged::<SendInvitationReminder>(&world.store).await.unwrap();
    let ahead =
        invitation.expires_at.timestamp_millis() - reminder[0].due_at.unwrap().timestamp_millis();
    assert_eq!(Duration::from_millis(ahead.unsigned_abs()), Duration::from_hours(24));

    let rows: Vec<OutboxRow> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 10).await.unwrap();
    let (staged, stored) =
        (serde_json::to_string(&rows).unwrap(), serde_json::to_string(&invitation).unwrap());
    world.client.get(&format!("/api/invitations/{token}")).await.expect(StatusCode::OK);
    world.client.get(&format!("/invitations/accept?token={token}")).await.expect(StatusCode::OK);
    accept(&world, &token).await.expect(StatusCode::OK);
    world.api.process().terminate();
    world.api.process().wait(DEADLINE).await.unwrap();
    let log = world.api.process().log();
    for text in [&staged, &stored, &log] {
        assert!(!text.contains(&token) && !text.contains(PASSWORD));
    }
    assert!(
        !staged.contains("canary-address") && !log.contains("canary-address"),
        "{staged} {log}"
    );
}

#[tokio::test]
async fn an_invitation_of_another_tenant_is_not_found() {
    let (world, ada) = founded(&[]).await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    let token = invited(&world, &ada, NEWCOMER, "viewer").await;
    let listed = world.client.get_as(&ada.token, INVITATIONS).await.expect(StatusCode::OK).json();
    let id = listed["items"][0]["id"].as_str().unwrap();
    let none = absent::<id::Invitation>().to_string();
    for suffix in ["", "/resend"] {
        let tried = async |id: &str| {
            let path = format!("{INVITATIONS}/{id}{suffix}");
            let answer = if suffix.is_empty() {
                world.client.delete_as(&eve.token, &path).await
            } else {
                world.client.post_as(&eve.token, &path).await
            };
            answer.expect_problem(StatusCode::NOT_FOUND, "not_found").without_id()
        };
        assert_eq!(tried(id).await, tried(&none).await);
        assert_eq!(tried("inv_1").await, tried(&none).await);
    }
    assert_eq!(world.client.get_as(&eve.token, INVITATIONS).await.json()["items"], json!([]));
    // Each tenant has its own invitation for the same email address.
    invited(&world, &eve, NEWCOMER, "viewer").await;
    accept(&world, &token).await.expect(StatusCode::OK);
    assert_eq!(world.count::<Invitation>().await, 1);
}

#[tokio::test]
async fn a_suspended_tenant_cannot_be_joined() {
    let (world, ada) = founded(&[]).await;
    let token = invited(&world, &ada, NEWCOMER, "viewer").await;
    let suspend = doc! { "$set": { "status": "suspended" } };
    world.store.records::<Tenant>(PlatformScope).update(doc! {}, suspend).await.unwrap();
    accept(&world, &token).await.expect_problem(StatusCode::FORBIDDEN, "tenant_suspended");
    assert_eq!((world.count::<Invitation>().await, world.count::<User>().await), (1, 1));
}

#[tokio::test]
async fn a_list_is_processed_with_a_result_for_each_line() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    let eve = people.founder("eve@example.com").await;
    let mut lines = vec![
        ("p0@example.com", "member"),
        ("not an address", "member"),
        ("P0@example.com", "viewer"),
        ("p1@example.com", "owner"),
        ("p2@example.com", "rol_0192a0b8c0de7000800000000000cafe"),
        ("p3@example.com", "root"),
        ("ada@example.com", "member"),
    ];
    let many: Vec<String> = (0..70).map(|n| format!("many{n}@example.com")).collect();
    lines.extend(many.iter().map(|email| (email.as_str(), "viewer")));
    let body: Vec<Value> =
        lines.iter().map(|(email, role)| json!({ "email": email, "role": role })).collect();
    let path = format!("{INVITATIONS}/bulk");
    let given = world
        .client
        .post_body_as(&admin.token, &path, &json!({ "invitations": body }))
        .await
        .expect(StatusCode::ACCEPTED)
        .json();
    assert_eq!(
        (&given["total"], &given["done"], &given["items"][0]["status"]),
        (&json!(lines.len()), &json!(2), &json!("pending")),
        "invalid lines are decided at once"
    );
    let path = format!("{path}/{}", given["id"].as_str().unwrap());
    let settings = [
        ("TENANTRY__MEMBERS__INVITATIONS_MAX", "60"),
        ("TENANTRY__MAIL_BUDGET__NEW_TENANT", "1000"),
    ];
    let _worker = world.env.spawn_worker_with(&settings).await;
    let done = eventually("the list is complete", async || {
        let list = world.client.get_as(&admin.token, &path).await.expect(StatusCode::OK).json();
        list["completed_at"].is_string().then_some(list)
    })
    .await;
    let status = |at: usize| done["items"][at]["status"].as_str().unwrap();
    let first: Vec<&str> = (0..7).map(status).collect();
    let expected = [
        "invited",
        "invalid_email",
        "duplicate",
        "role_too_high",
        "no_such_role",
        "no_such_role",
        "already_member",
    ];
    assert_eq!(first, expected);
    let rest: Vec<&str> = (7..lines.len()).map(status).collect();
    assert_eq!(rest.iter().filter(|status| **status == "invited").count(), 59);
    assert_eq!(rest.iter().filter(|status| **status == "too_many_invitations").count(), 11);
    assert_eq!((&done["done"], world.count::<Invitation>().await), (&json!(lines.len()), 60));
    assert!(done["items"][0]["invitation_id"].as_str().unwrap().starts_with("inv_"));
    world.env.mail().wait_for(|mail| mail.to == ["many0@example.com"], DEADLINE).await;
    world.client.get_as(&eve.token, &path).await.expect_problem(StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test]
async fn an_invalid_list_is_rejected_as_a_whole() {
    let (world, ada) = founded(&[]).await;
    let path = format!("{INVITATIONS}/bulk");
    let line = json!({ "email": "p@example.com", "role": "viewer" });
    let many = vec![line.clone(); 1_001];
    for (body, errors) in [
        (json!({}), vec!["invitations:required"]),
        (json!({ "invitations": many }), vec!["invitations:too_long"]),
        (
            json!({ "invitations": [line, {}] }),
            vec!["invitations[1].email:required", "invitations[1].role:required"],
        ),
        (json!({ "invitations": ["p@example.com"] }), vec!["invitations:invalid_type"]),
        (
            json!({ "invitations": [{ "email": { "$ne": null }, "role": "viewer" }] }),
            vec!["invitations[0].email:invalid_type"],
        ),
        (
            json!({ "invitations": [{ "email": "p@example.com", "role": "viewer", "tenant_id": "x" }] }),
            vec!["invitations[0].tenant_id:unknown_field"],
        ),
    ] {
        let refused = world
            .client
            .post_body_as(&ada.token, &path, &body)
            .await
            .expect(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.field_errors(), errors);
    }
    assert_eq!(world.count::<InvitationList>().await, 0);
}

#[tokio::test]
async fn the_mailed_link_opens_a_page_with_a_form_that_joins_once() {
    let (world, ada) = founded(&[]).await;
    let worker = world.env.spawn_worker().await;
    invite(&world, &ada, NEWCOMER, "member").await.expect(StatusCode::CREATED);
    let mail = world.env.mail().wait_for(|mail| mail.to == [NEWCOMER], DEADLINE).await;
    assert_eq!(mail.subject, "You are invited to Tenantry");
    let token = mail
        .text
        .split("/invitations/accept?token=")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    for _ in 0..2 {
        let page = world.client.get(&format!("/invitations/accept?token={token}")).await;
        let page = expect_page(page, StatusCode::OK, "Join Tenant of ADA");
        assert!(page.body.contains("name=\"name\""), "{}", page.body);
    }
    let form = format!("token={token}&name=New+Comer&password=short");
    let refused = world.client.post_form("/invitations/accept", &form).await;
    expect_page(
        refused,
        StatusCode::UNPROCESSABLE_ENTITY,
        "The password must have at least 8 characters.",
    );
    let form = format!("token={token}&name=New+Comer&password={}", PASSWORD.replace(' ', "+"));
    let joined = world.client.post_form("/invitations/accept", &form).await;
    expect_page(joined, StatusCode::OK, "You have joined Tenant of ADA");
    let again = world.client.post_form("/invitations/accept", &form).await;
    expect_page(again, StatusCode::BAD_REQUEST, "The link is invalid or has expired");
    let late = world.client.get(&format!("/invitations/accept?token={token}")).await;
    expect_page(late, StatusCode::BAD_REQUEST, "The link is invalid or has expired");
    world.login(NEWCOMER, PASSWORD).await.expect(StatusCode::OK);
    assert!(!worker.log().contains(token) && !worker.log().contains(NEWCOMER), "{}", worker.log());
}

#[tokio::test]
async fn only_pending_invitations_are_reminded() {
    let (world, ada) = founded(&[
        ("TENANTRY__MEMBERS__INVITATION_TTL", "1h"),
        ("TENANTRY__MEMBERS__INVITATION_REMINDER", "3598s"),
    ])
    .await;
    for email in ["early@example.com", "late@example.com"] {
        invite(&world, &ada, email, "viewer").await.expect(StatusCode::CREATED);
    }
    let token = link(&world, "early@example.com").await;
    accept(&world, &token).await.expect(StatusCode::OK);
    let _worker = world.env.spawn_worker().await;
    let subject = "Your invitation to Tenantry expires soon";
    world
        .env
        .mail()
        .wait_for(|mail| mail.subject == subject && mail.to == ["late@example.com"], DEADLINE)
        .await;
    world.until_nothing_is_due().await;
    let mails = world.env.mail().messages();
    assert!(!mails.iter().any(|mail| mail.to == ["early@example.com"]), "{mails:?}");
}

/// An invitation that the caller could not grant must not be replaced or cancelled by the caller.
#[tokio::test]
async fn an_invitation_beyond_the_callers_role_cannot_be_replaced_or_cancelled() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    let invite = async |person: &Person, role: &str| {
        let body = json!({ "email": "eve@example.com", "role": role });
        world.client.post_body_as(&person.token, "/api/tenant/users/invite", &body).await
    };
    let given = invite(&ada, "owner").await.expect(StatusCode::CREATED).json();
    let link = link(&world, "eve@example.com").await;
    invite(&bob, "viewer").await.expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    let path = format!("/api/tenant/invitations/{}", given["invitation"]["id"].as_str().unwrap());
    world
        .client
        .delete_as(&bob.token, &path)
        .await
        .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    world.client.get(&format!("/api/invitations/{link}")).await.expect(StatusCode::OK);
}

/// Accepting is not an authentication: the new session is as old as the previous one, and ends with
/// it.
#[tokio::test]
async fn a_session_from_an_invitation_keeps_authentication_time_and_expiry() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let owner = people.founder("owner@example.com").await;
    let before = world.signed_in("ada@example.com").await;
    let me = world.client.get_as(&before, "/api/auth/me").await.expect(StatusCode::OK).json();
    let body = json!({ "email": "ada@example.com", "role": "member" });
    world
        .client
        .post_body_as(&owner.token, "/api/tenant/users/invite", &body)
        .await
        .expect(StatusCode::CREATED);
    let accept = json!({ "token": link(&world, "ada@example.com").await, "remember_me": true });
    let joined = world
        .client
        .post_body_as(&before, "/api/invitations/accept", &accept)
        .await
        .expect(StatusCode::OK)
        .json();
    let after = world
        .client
        .get_as(joined["access_token"].as_str().unwrap(), "/api/auth/me")
        .await
        .expect(StatusCode::OK)
        .json();
    for time in ["authenticated_at", "expires_at"] {
        assert_eq!(after["session"][time], me["session"][time], "{time}");
    }
    let user = me["user"]["id"].as_str().unwrap().parse().unwrap();
    let sessions = domain::tenancy::tenant_security::sessions_of(&world.store, user).await.unwrap();
    let idle: Vec<Option<i64>> = sessions.iter().map(|session| session.idle_ms).collect();
    assert_eq!(idle, [Some(2 * 60 * 60 * 1_000); 2], "not that of a remembered session");
    assert!(sessions.iter().all(|session| !session.remembered));
}

#[tokio::test]
async fn accepting_with_the_password_from_a_new_device_sends_a_mail() {
    let world = World::new().await;
    let people = People::of(&world).await;
    let owner = people.founder("owner@example.com").await;
    world.signed_in("ada@example.com").await;
    let token = invited(&world, &owner, "ada@example.com", "member").await;
    let from = |device: &str, path: &str, body: Value| {
        let request = world.client.request(Method::POST, path);
        Answer::of(request.header("user-agent", device).json(&body))
    };
    let mails = async || testing::staged::<SendNewSignIn>(&world.store).await.unwrap().len();
    assert_eq!(mails().await, 0);
    let body = json!({ "token": token, "password": PASSWORD });
    from("A stolen phone", ACCEPT, body).await.expect(StatusCode::OK);
    assert_eq!(mails().await, 1);
    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    from("A stolen phone", "/api/auth/login", login).await.expect(StatusCode::OK);
    assert_eq!(mails().await, 1, "the device is known now");
}
