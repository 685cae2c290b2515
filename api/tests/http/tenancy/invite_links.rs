//! Invite links: creating them, and requesting an invitation with one.

use std::time::Duration;

use common::{crypto::LinkToken, db::PlatformScope, id};
use domain::{
    people::users::User,
    tenancy::{
        invitations::Invitation,
        invite_links::{InviteByLink, InviteLink},
        roles::Role,
        tenants::Tenant,
    },
};
use futures::future::join_all;
use jobs::{outbox::OutboxRow, testing};
use mongodb::bson::{DateTime, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    pages::expect_page,
    people::{People, Person, absent},
    support::{Answer, DEADLINE, PASSWORD, World},
    tenancy::invitations::link as invitation_link,
};

const LINKS: &str = "/api/tenant/invite-links";
const JOIN: &str = "/api/invite-links/join";
const NEWCOMER: &str = "new@example.com";

async fn founded(settings: &[(&str, &str)]) -> (World, Person) {
    founded_in(World::with(settings).await).await
}

async fn founded_in(world: World) -> (World, Person) {
    let ada = People::of(&world).await.founder("ada@example.com").await;
    (world, ada)
}

async fn ask(world: &World, maker: &Person, role: &str, domains: &[&str]) -> Answer {
    world
        .client
        .post_body_as(&maker.token, LINKS, &json!({ "role": role, "domains": domains }))
        .await
}

/// A link of `maker` for example.com.
async fn make(world: &World, maker: &Person, role: &str) -> Value {
    ask(world, maker, role, &["example.com"]).await.expect(StatusCode::CREATED).json()
}

fn token(link: &Value) -> String {
    link["url"].as_str().unwrap().split("/invite-links/join?token=").nth(1).unwrap().to_owned()
}

async fn join(world: &World, token: &str, email: &str) -> Answer {
    world.client.post(JOIN, &json!({ "token": token, "email": email })).await
}

async fn preview(world: &World, token: &str) -> Answer {
    world.client.get(&format!("/api/invite-links/{token}")).await
}

async fn invitations(world: &World) -> Vec<Invitation> {
    world
        .store
        .records::<Invitation>(PlatformScope)
        .list(doc! {}, doc! { "_id": 1 }, 100)
        .await
        .unwrap()
}

fn expect_invalid(answer: Answer) {
    answer.expect_problem(StatusCode::BAD_REQUEST, "token_invalid");
}

#[tokio::test]
async fn following_a_link_sends_an_invitation_that_can_be_accepted() {
    let (world, ada) = founded(&[]).await;
    let made = make(&world, &ada, "member").await;
    assert_eq!(
        (&made["role_name"], &made["domains"], &made["created_by"]),
        (&json!("Member"), &json!(["example.com"]), &json!(ada.user))
    );
    let listed = world.client.get_as(&ada.token, LINKS).await.expect(StatusCode::OK).json();
    assert_eq!(listed["items"], json!([made]), "the link can be looked up again");
    let token = token(&made);
    let seen = preview(&world, &token).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&seen["tenant_name"], &seen["role"], &seen["domains"]),
        (&json!("Tenant of ADA"), &json!("member"), &json!(["example.com"]))
    );
    assert!(seen.get("created_by").is_none(), "the preview does not name the creator");

    let _worker = world.env.spawn_worker().await;
    let sent = join(&world, &token, "New@EXAMPLE.com").await.expect(StatusCode::ACCEPTED).json();
    assert_eq!(sent, json!({ "status": "invitation_email_sent" }));
    let mail = world
        .env
        .mail()
        .wait_for(|mail| mail.to == ["New@example.com"] || mail.to == ["New@EXAMPLE.com"], DEADLINE)
        .await;
    assert_eq!(mail.subject, "You are invited to Tenantry");
    let body = json!({ "token": invitation_link(&world, NEWCOMER).await, "name": "New", "password": PASSWORD });
    let joined =
        world.client.post("/api/invitations/accept", &body).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&joined["tenant"]["id"], &joined["tenant"]["role"]),
        (&json!(ada.tenant), &json!("member"))
    );
    let audited = async |action: &str| {
        let event = doc! { "action": action, "tenant_id": ada.tenant, "actor": ada.user };
        world.events(event).await
    };
    assert_eq!((audited("invite_link.created").await, audited("invitation.created").await), (1, 1));
}

/// The link does not reveal who is a member or has been invited.
#[tokio::test]
async fn the_response_does_not_reveal_who_is_a_member() {
    let at_once = &[("TENANTRY__AUTH__RESEND_COOLDOWN", "1ms")];
    let (world, ada) = founded(at_once).await;
    let people = People::of(&world).await;
    people.join(&ada, "member@example.com", Role::Member).await;
    people.founder("elsewhere@example.com").await;
    let invite = json!({ "email": "invited@example.com", "role": "admin" });
    world
        .client
        .post_body_as(&ada.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    let before = invitation_link(&world, "invited@example.com").await;
    let link = token(&make(&world, &ada, "viewer").await);
    let worker = world.env.spawn_worker_with(at_once).await;
    world.until_nothing_is_due().await;
    world.env.mail().clear();
    for email in ["member@example.com", "elsewhere@example.com", "invited@example.com", NEWCOMER] {
        let answer = join(&world, &link, email).await.expect(StatusCode::ACCEPTED);
        assert_eq!(answer.json(), json!({ "status": "invitation_email_sent" }));
    }
    world.until_nothing_is_due().await;
    let subject = |email: &str| {
        let to: Vec<String> = world
            .env
            .mail()
            .messages()
            .into_iter()
            .filter(|mail| mail.to == [email])
            .map(|mail| mail.subject)
            .collect();
        to.join(", ")
    };
    assert_eq!(subject("member@example.com"), "You are already a member of Tenant of ADA");
    for email in ["elsewhere@example.com", "invited@example.com", NEWCOMER] {
        assert_eq!(subject(email), "You are invited to Tenantry");
    }
    // An existing invitation keeps its role, and its link remains valid.
    assert_eq!(invitation_link(&world, "invited@example.com").await, before);
    let roles: Vec<String> = invitations(&world)
        .await
        .into_iter()
        .map(|invitation| invitation.role.to_string())
        .collect();
    assert_eq!(roles, ["admin", "viewer", "viewer"]);
    let told = reqwest::get(format!("{}/metrics", worker.internal_url()))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for (outcome, count) in [("already_member", 1), ("invited_before", 1), ("invited", 2)] {
        let counted =
            format!("tenantry_invite_links_followed_total{{outcome=\"{outcome}\"}} {count}");
        assert!(told.contains(&counted), "{counted}: {told}");
    }
}

#[tokio::test]
async fn a_link_invites_only_emails_at_its_domains() {
    let (world, ada) = founded(&[]).await;
    let link = token(
        &ask(&world, &ada, "viewer", &["Example.com", "example.org"])
            .await
            .expect(StatusCode::CREATED)
            .json(),
    );
    for foreign in
        ["eve@evil.com", "eve@sub.example.com", "eve@example.com.evil.com", "eve@notexample.com"]
    {
        let refused = join(&world, &link, foreign)
            .await
            .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "email_domain_not_allowed");
        assert_eq!(refused.field_errors(), ["email:email_domain_not_allowed"]);
    }
    for nobody in
        ["", "ada", "ada@", "a@example.com, b@example.com", "a@example.com\r\nBcc: b@example.org"]
    {
        let refused = join(&world, &link, nobody).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.field_errors(), ["email:invalid_format"]);
    }
    let injected = json!({ "token": link, "email": { "$ne": null } });
    world
        .client
        .post(JOIN, &injected)
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed");
    let more = json!({ "token": link, "email": NEWCOMER, "role": "owner" });
    world
        .client
        .post(JOIN, &more)
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "unknown_field");
    assert_eq!(world.count::<OutboxRow>().await, 0);
    // The rules of the tenant take precedence.
    join(&world, &link, "new@example.org").await.expect(StatusCode::ACCEPTED);
    join(&world, &link, NEWCOMER).await.expect(StatusCode::ACCEPTED);
    let rules = crate::tenancy::tenant_security::rules(
        &json!({ "allowed_email_domains": ["example.org"] }),
    );
    world.client.put_as(&ada.token, "/api/tenant/security", &rules).await.expect(StatusCode::OK);
    let _worker = world.env.spawn_worker().await;
    world.until_nothing_is_due().await;
    let invited: Vec<String> =
        invitations(&world).await.into_iter().map(|invitation| invitation.email_norm).collect();
    assert_eq!(invited, ["new@example.org"]);
    join(&world, &link, "late@example.com")
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "email_domain_not_allowed");
    ask(&world, &ada, "viewer", &["example.org", "example.com"])
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "email_domain_not_allowed");
    ask(&world, &ada, "viewer", &["example.org"]).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_link_beyond_the_callers_role_cannot_be_created_or_deleted() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let few = json!({ "name": "Inviter", "permissions": ["users:invite", "users:read"] });
    let role = world
        .client
        .post_body_as(&ada.token, "/api/tenant/roles", &few)
        .await
        .expect(StatusCode::CREATED)
        .json();
    let role: id::RoleId = role["id"].as_str().unwrap().parse().unwrap();
    let inviter = people.join(&ada, "inviter@example.com", role).await;
    let member = people.join(&ada, "member@example.com", Role::Member).await;
    ask(&world, &member, "viewer", &["example.com"])
        .await
        .expect_problem(StatusCode::FORBIDDEN, "forbidden");
    for high in ["admin", "member", "viewer"] {
        ask(&world, &inviter, high, &["example.com"])
            .await
            .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    }
    for maker in [&ada, &inviter] {
        let refused = ask(&world, maker, "owner", &["example.com"])
            .await
            .expect(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.field_errors(), ["role:not_by_link"]);
    }
    let none = absent::<id::CustomRole>().to_string();
    ask(&world, &ada, &none, &["example.com"])
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "no_such_role");
    let own = make(&world, &inviter, &role.to_string()).await;
    let high = make(&world, &ada, "admin").await;
    // A caller who may not invite people with the role does not see the link.
    let listed = world.client.get_as(&inviter.token, LINKS).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&listed["items"][0]["url"], &listed["items"][1]["url"]),
        (&own["url"], &Value::Null)
    );
    assert!(own["url"].is_string() && high["url"].is_string());
    let path = |link: &Value| format!("{LINKS}/{}", link["id"].as_str().unwrap());
    world
        .client
        .delete_as(&inviter.token, &path(&high))
        .await
        .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    preview(&world, &token(&high)).await.expect(StatusCode::OK);
    let role = format!("/api/tenant/roles/{role}");
    world.client.delete_as(&inviter.token, &path(&own)).await.expect(StatusCode::NO_CONTENT);
    // A role that a link grants is in use.
    let by_link = make(&world, &ada, own["role"].as_str().unwrap()).await;
    people.join(&ada, "other@example.com", Role::Viewer).await;
    let removed =
        world.client.delete_as(&ada.token, &format!("/api/tenant/users/{}", inviter.user)).await;
    removed.expect(StatusCode::NO_CONTENT);
    world
        .client
        .delete_as(&ada.token, &role)
        .await
        .expect_problem(StatusCode::CONFLICT, "role_in_use");
    world.client.delete_as(&ada.token, &path(&by_link)).await.expect(StatusCode::NO_CONTENT);
    world.client.delete_as(&ada.token, &role).await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_invalid_link_is_rejected() {
    let (world, ada) = founded(&[]).await;
    let many: Vec<String> = (0..21).map(|n| format!("d{n}.example.com")).collect();
    for (body, errors) in [
        (json!({}), vec!["role:required", "domains:required"]),
        (json!({ "role": "viewer", "domains": [] }), vec!["domains:too_short"]),
        (json!({ "role": "viewer", "domains": many }), vec!["domains:too_long"]),
        (json!({ "role": "viewer", "domains": "example.com" }), vec!["domains:invalid_type"]),
        (json!({ "role": "viewer", "domains": ["@example.com"] }), vec!["domains:invalid_format"]),
        (json!({ "role": "viewer", "domains": ["*"] }), vec!["domains:invalid_format"]),
        (json!({ "role": "root", "domains": ["example.com"] }), vec!["role:invalid_format"]),
        (
            json!({ "role": "viewer", "domains": ["example.com"], "tenant_id": "x" }),
            vec!["tenant_id:unknown_field"],
        ),
    ] {
        let refused = world
            .client
            .post_body_as(&ada.token, LINKS, &body)
            .await
            .expect(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.field_errors(), errors);
    }
    assert_eq!(world.count::<InviteLink>().await, 0);
}

#[tokio::test]
async fn a_link_is_not_valid_if_deleted_expired_or_its_creator_may_not_invite() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    let (deleted, made) =
        (make(&world, &ada, "viewer").await, make(&world, &admin, "viewer").await);
    let path = format!("{LINKS}/{}", deleted["id"].as_str().unwrap());
    // Requests from before the deletion have no effect either.
    join(&world, &token(&deleted), "early@example.com").await.expect(StatusCode::ACCEPTED);
    join(&world, &token(&made), "early@example.com").await.expect(StatusCode::ACCEPTED);
    world.client.delete_as(&ada.token, &path).await.expect(StatusCode::NO_CONTENT);
    world
        .client
        .delete_as(&ada.token, &path)
        .await
        .expect_problem(StatusCode::NOT_FOUND, "not_found");
    let demote = json!({ "role": "member" });
    world
        .client
        .put_as(&ada.token, &format!("/api/tenant/users/{}", admin.user), &demote)
        .await
        .expect(StatusCode::OK);
    for invalid in [token(&deleted), token(&made)] {
        expect_invalid(preview(&world, &invalid).await);
        expect_invalid(join(&world, &invalid, NEWCOMER).await);
    }
    let _worker = world.env.spawn_worker().await;
    world.until_nothing_is_due().await;
    assert_eq!(world.count::<Invitation>().await, 0);

    let expired = make(&world, &ada, "viewer").await;
    let now = world.store.clock().now().timestamp_millis();
    let expire = doc! { "$set": { "expires_at": DateTime::from_millis(now - 1) } };
    let of_it = doc! { "_id": expired["id"].as_str().unwrap() };
    world.store.records::<InviteLink>(PlatformScope).update(of_it, expire).await.unwrap();
    expect_invalid(join(&world, &token(&expired), NEWCOMER).await);
    let listed = world.client.get_as(&ada.token, LINKS).await.expect(StatusCode::OK).json();
    let invalid = listed["items"].as_array().unwrap();
    assert_eq!(
        invalid.iter().map(|link| (&link["id"], &link["status"])).collect::<Vec<_>>(),
        [(&made["id"], &json!("void"))]
    );
    let suspended = make(&world, &ada, "viewer").await;
    assert_eq!(suspended["status"], "good");
    world
        .store
        .records::<Tenant>(PlatformScope)
        .update(doc! {}, doc! { "$set": { "status": "suspended" } })
        .await
        .unwrap();
    expect_invalid(preview(&world, &token(&suspended)).await);
    expect_invalid(join(&world, &token(&suspended), NEWCOMER).await);
    let id: id::InviteLinkId = made["id"].as_str().unwrap().parse().unwrap();
    let user_token = LinkToken::issue(&world.key, ada.user);
    for forged in [
        "",
        "x",
        &id.to_string(),
        &token(&made).replace(&token(&made)[..4], "AAAA"),
        user_token.expose(),
    ] {
        expect_invalid(join(&world, forged, NEWCOMER).await);
    }
}

#[tokio::test]
async fn concurrent_links_do_not_exceed_the_limit() {
    let (world, ada) = founded(&[
        ("TENANTRY__MEMBERS__INVITE_LINKS_MAX", "3"),
        ("TENANTRY__MEMBERS__INVITE_LINK_TTL", "2h"),
    ])
    .await;
    let (world, ada) = (&world, &ada);
    let answers = join_all((0..10).map(|_| ask(world, ada, "viewer", &["example.com"]))).await;
    let (made, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == StatusCode::CREATED);
    assert_eq!((made.len(), refused.len()), (3, 7));
    for answer in refused {
        answer.expect_problem(StatusCode::CONFLICT, "too_many_invite_links");
    }
    let link =
        world.store.records::<InviteLink>(PlatformScope).find(doc! {}).await.unwrap().unwrap();
    let good_for = link.expires_at.timestamp_millis() - link.created_at.timestamp_millis();
    assert_eq!(Duration::from_millis(good_for.unsigned_abs()), Duration::from_hours(2));
}

#[tokio::test]
async fn many_concurrent_requests_create_one_invitation_and_one_mail() {
    let (world, ada) = founded(&[
        ("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "5"),
        ("TENANTRY__AUTH__MAILS_PER_NETWORK", "100"),
    ])
    .await;
    let link = token(&make(&world, &ada, "viewer").await);
    let _worker = world.env.spawn_worker().await;
    let (world, link) = (&world, link.as_str());
    let answers = join_all((0..20).map(|_| join(world, link, NEWCOMER))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::ACCEPTED).count(), 5);
    let refused = answers.into_iter().filter(|answer| answer.status != StatusCode::ACCEPTED);
    refused.for_each(|answer| {
        drop(answer.expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts"));
    });
    world.until_nothing_is_due().await;
    assert_eq!(world.count::<Invitation>().await, 1);
    assert_eq!(
        world.env.mail().messages().into_iter().filter(|mail| mail.to == [NEWCOMER]).count(),
        1
    );
    // An invitation by a member is not subject to the cooldown of links.
    let invite = json!({ "email": NEWCOMER, "role": "member" });
    world
        .client
        .post_body_as(&ada.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
}

/// Otherwise removed or demoted members could leave and rejoin with the role of the link.
#[tokio::test]
async fn a_former_member_can_rejoin_only_by_a_personal_invitation() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let (bob, eve) = (
        people.join(&ada, "bob@example.com", Role::Viewer).await,
        people.join(&ada, "eve@example.com", Role::Viewer).await,
    );
    let link = token(&make(&world, &ada, "member").await);
    // Invitations from before the membership do not work again.
    let stale = stale_invitation(&world, &ada, &bob).await;
    world
        .client
        .delete_as(&ada.token, &format!("/api/tenant/users/{}", bob.user))
        .await
        .expect(StatusCode::NO_CONTENT);
    world.client.delete_as(&eve.token, "/api/tenant/users/me").await.expect(StatusCode::NO_CONTENT);
    let accept = json!({ "token": stale.link_token(&world.key).expose(), "password": PASSWORD });
    expect_invalid(world.client.post("/api/invitations/accept", &accept).await);
    let _worker = world.env.spawn_worker().await;
    world.until_nothing_is_due().await;
    world.env.mail().clear();
    for email in ["bob@example.com", "eve@example.com"] {
        join(&world, &link, email).await.expect(StatusCode::ACCEPTED);
    }
    world.until_nothing_is_due().await;
    assert_eq!((world.count::<Invitation>().await, world.env.mail().messages().len()), (0, 0));
    let invite = json!({ "email": "bob@example.com", "role": "viewer" });
    world
        .client
        .post_body_as(&ada.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    let body =
        json!({ "token": invitation_link(&world, "bob@example.com").await, "password": PASSWORD });
    world.client.post("/api/invitations/accept", &body).await.expect(StatusCode::OK);
    assert_eq!(people.role(&bob).await, Some(Role::Viewer.into()));
}

/// An invitation of someone who is a member now.
async fn stale_invitation(world: &World, ada: &Person, bob: &Person) -> Invitation {
    let invite = json!({ "email": "stale@example.com", "role": "admin" });
    world
        .client
        .post_body_as(&ada.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    let records = || world.store.records::<Invitation>(PlatformScope);
    let theirs = doc! { "$set": { "email": &bob.email, "email_norm": &bob.email } };
    records()
        .find_and_update(doc! { "email_norm": "stale@example.com" }, theirs)
        .await
        .unwrap()
        .unwrap()
}

/// Nor with another account: the email address that they had is known too.
#[tokio::test]
async fn a_removed_member_with_a_changed_email_cannot_rejoin_by_a_link() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let bob = people.join(&ada, "bob@example.com", Role::Viewer).await;
    let link = token(&make(&world, &ada, "member").await);
    world
        .client
        .delete_as(&ada.token, &format!("/api/tenant/users/{}", bob.user))
        .await
        .expect(StatusCode::NO_CONTENT);
    let moved = doc! { "$set": { "email": "bob@example.org", "email_norm": "bob@example.org" } };
    world
        .store
        .records::<User>(PlatformScope)
        .update(doc! { "_id": bob.user }, moved)
        .await
        .unwrap();
    let _worker = world.env.spawn_worker().await;
    join(&world, &link, "bob@example.com").await.expect(StatusCode::ACCEPTED);
    world.until_nothing_is_due().await;
    assert_eq!(world.count::<Invitation>().await, 0);
}

/// Invitations by links leave room for personal ones.
#[tokio::test]
async fn links_use_at_most_half_of_the_pending_invitations() {
    let limit = [("TENANTRY__MEMBERS__INVITATIONS_MAX", "4")];
    let (world, ada) = founded(&limit).await;
    let link = token(&make(&world, &ada, "viewer").await);
    let _worker = world.env.spawn_worker_with(&limit).await;
    for n in 0..4 {
        join(&world, &link, &format!("p{n}@example.com")).await.expect(StatusCode::ACCEPTED);
    }
    world.until_nothing_is_due().await;
    assert_eq!(world.count::<Invitation>().await, 2);
    for (n, expected) in
        [(5, StatusCode::CREATED), (6, StatusCode::CREATED), (7, StatusCode::CONFLICT)]
    {
        let invite = json!({ "email": format!("p{n}@example.com"), "role": "viewer" });
        world
            .client
            .post_body_as(&ada.token, "/api/tenant/users/invite", &invite)
            .await
            .expect(expected);
    }
}

/// If an operator suspends the tenant after the request, no invitation is sent.
#[tokio::test]
async fn a_request_before_the_tenant_was_suspended_sends_no_invitation() {
    let (world, ada) = founded(&[]).await;
    let link = token(&make(&world, &ada, "viewer").await);
    join(&world, &link, NEWCOMER).await.expect(StatusCode::ACCEPTED);
    world
        .store
        .records::<Tenant>(PlatformScope)
        .update(doc! {}, doc! { "$set": { "status": "suspended" } })
        .await
        .unwrap();
    let _worker = world.env.spawn_worker().await;
    world.until_nothing_is_due().await;
    assert_eq!((world.count::<Invitation>().await, world.env.mail().messages().len()), (0, 0));
}

/// The inviter has lost the permission, but the creator of the link has it.
#[tokio::test]
async fn an_invitation_that_is_not_valid_does_not_block_a_new_one() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    let invite = json!({ "email": NEWCOMER, "role": "admin" });
    world
        .client
        .post_body_as(&admin.token, "/api/tenant/users/invite", &invite)
        .await
        .expect(StatusCode::CREATED);
    let invalid = invitation_link(&world, NEWCOMER).await;
    let demote = json!({ "role": "member" });
    world
        .client
        .put_as(&ada.token, &format!("/api/tenant/users/{}", admin.user), &demote)
        .await
        .expect(StatusCode::OK);
    let link = token(&make(&world, &ada, "viewer").await);
    let _worker = world.env.spawn_worker().await;
    join(&world, &link, NEWCOMER).await.expect(StatusCode::ACCEPTED);
    world.until_nothing_is_due().await;
    assert_ne!(invitation_link(&world, NEWCOMER).await, invalid);
    assert_eq!(invitations(&world).await[0].role, Role::Viewer.into());
    world.env.mail().wait_for(|mail| mail.to == [NEWCOMER], DEADLINE).await;
}

#[tokio::test]
async fn neither_jobs_nor_logs_contain_the_email_or_the_token() {
    let (world, ada) = founded_in(World::spawned(&[]).await).await;
    let link = token(&make(&world, &ada, "viewer").await);
    join(&world, &link, "canary-address@example.com").await.expect(StatusCode::ACCEPTED);
    world.client.get(&format!("/invite-links/join?token={link}")).await.expect(StatusCode::OK);
    assert_eq!(
        testing::staged::<InviteByLink>(&world.store).await.unwrap()[0].tenant,
        Some(ada.tenant)
    );
    let rows: Vec<OutboxRow> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 10).await.unwrap();
    let links: Vec<InviteLink> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 10).await.unwrap();
    world.api.process().terminate();
    world.api.process().wait(DEADLINE).await.unwrap();
    for text in [
        serde_json::to_string(&rows).unwrap(),
        serde_json::to_string(&links).unwrap(),
        world.api.process().log(),
    ] {
        assert!(!text.contains(&link) && !text.contains("canary-address"), "{text}");
    }
}

#[tokio::test]
async fn the_link_opens_a_page_with_a_form_for_the_email() {
    let (world, ada) = founded(&[]).await;
    let made = make(&world, &ada, "member").await;
    let (link, page) = (token(&made), "/invite-links/join");
    let shown = world.client.get(&format!("{page}?token={link}")).await;
    let shown = expect_page(shown, StatusCode::OK, "Join Tenant of ADA");
    assert!(
        shown.body.contains("example.com") && shown.body.contains("name=\"email\""),
        "{}",
        shown.body
    );
    assert_eq!(world.count::<OutboxRow>().await, 0, "opening the page sends no mail");
    for wrong in ["eve%40evil.com", "nobody", ""] {
        let refused = world.client.post_form(page, &format!("token={link}&email={wrong}")).await;
        let refused = expect_page(refused, StatusCode::UNPROCESSABLE_ENTITY, "Join Tenant of ADA");
        assert!(refused.body.contains("role=\"alert\""), "{}", refused.body);
    }
    let without = world.client.post_form(page, &format!("token={link}")).await;
    expect_page(without, StatusCode::UNPROCESSABLE_ENTITY, "must be an email address");
    let sent = world.client.post_form(page, &format!("token={link}&email=new%40example.com")).await;
    expect_page(sent, StatusCode::OK, "Check your email");
    assert_eq!(world.count::<OutboxRow>().await, 1);
    let path = format!("{LINKS}/{}", made["id"].as_str().unwrap());
    world.client.delete_as(&ada.token, &path).await.expect(StatusCode::NO_CONTENT);
    for invalid in [link.as_str(), "x", ""] {
        let late = world.client.get(&format!("{page}?token={invalid}")).await;
        expect_page(late, StatusCode::BAD_REQUEST, "The link is invalid or has expired");
        let late =
            world.client.post_form(page, &format!("token={invalid}&email=new%40example.com")).await;
        expect_page(late, StatusCode::BAD_REQUEST, "The link is invalid or has expired");
    }
}
