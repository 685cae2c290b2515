//! Limits on the mails that a tenant sends to people who are not its members.

use common::db::PlatformScope;
use domain::{
    activity::{Event, PlatformEvent},
    identity::email_changes::EmailChange,
    tenancy::{
        invitation_lists::InvitationList,
        invitations::{Invitation, SendInvitation},
        roles::Role,
    },
};
use jobs::testing;
use mongodb::bson::doc;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    people::{People, Person},
    support::{Answer, PASSWORD, World, eventually},
    tenancy::invitations::link,
};

const INVITE: &str = "/api/tenant/users/invite";
const INVITATIONS: &str = "/api/tenant/invitations";
const BULK: &str = "/api/tenant/invitations/bulk";
const DAY_SECONDS: u64 = 86_400;

/// A tenant that may send three mails on its first day.
const THREE: &[(&str, &str)] = &[("TENANTRY__MAIL_BUDGET__NEW_TENANT", "3")];

async fn invite(world: &World, person: &Person, email: &str) -> Answer {
    let body = json!({ "email": email, "role": "viewer" });
    world.client.post_body_as(&person.token, INVITE, &body).await
}

fn id_of(answer: &Answer) -> String {
    let sent = answer.json();
    sent["invitation"]["id"].as_str().unwrap().to_owned()
}

async fn resend(world: &World, person: &Person, invitation: &str) -> Answer {
    world.client.post_as(&person.token, &format!("{INVITATIONS}/{invitation}/resend")).await
}

fn lines(emails: impl IntoIterator<Item = String>) -> Value {
    let lines = emails.into_iter().map(|email| json!({ "email": email, "role": "viewer" }));
    json!({ "invitations": lines.collect::<Vec<_>>() })
}

async fn submit(world: &World, person: &Person, body: &Value) -> Answer {
    world.client.post_body_as(&person.token, BULK, body).await
}

#[track_caller]
fn expect_exhausted(answer: Answer) {
    let refused = answer.expect_problem(StatusCode::TOO_MANY_REQUESTS, "mail_budget_exhausted");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=DAY_SECONDS).contains(&wait), "{refused:?}");
}

/// Statuses of the lines of a list, once it is complete.
async fn completed(world: &World, person: &Person, list: &Value) -> Vec<String> {
    let path = format!("{BULK}/{}", list["id"].as_str().unwrap());
    let list = eventually("the list is complete", async || {
        let list = world.client.get_as(&person.token, &path).await.expect(StatusCode::OK).json();
        list["completed_at"].is_string().then_some(list)
    })
    .await;
    let statuses = list["items"].as_array().unwrap().iter();
    statuses.map(|line| line["status"].as_str().unwrap().to_owned()).collect()
}

/// Inviting, resending and inviting again after cancelling is how one address got 84 mails.
#[tokio::test]
async fn every_invitation_of_a_tenant_counts_towards_its_daily_limit() {
    let world = World::with(THREE).await;
    let people = People::of(&world).await;
    let (eve, bob) =
        (people.founder("eve@example.com").await, people.founder("bob@example.com").await);
    let victim = "victim@example.com";
    let invitation = id_of(&invite(&world, &eve, victim).await.expect(StatusCode::CREATED));
    resend(&world, &eve, &invitation).await.expect(StatusCode::OK);
    let path = format!("{INVITATIONS}/{invitation}");
    world.client.delete_as(&eve.token, &path).await.expect(StatusCode::NO_CONTENT);
    let again = id_of(&invite(&world, &eve, victim).await.expect(StatusCode::CREATED));
    expect_exhausted(resend(&world, &eve, &again).await);
    expect_exhausted(invite(&world, &eve, victim).await);
    expect_exhausted(invite(&world, &eve, "another@example.com").await);
    expect_exhausted(submit(&world, &eve, &lines(["p@example.com".to_owned()])).await);
    assert_eq!(testing::staged::<SendInvitation>(&world.store).await.unwrap().len(), 3);
    assert_eq!((world.count::<Invitation>().await, world.count::<InvitationList>().await), (1, 0));
    // Each tenant has its own limit.
    invite(&world, &bob, victim).await.expect(StatusCode::CREATED);
}

/// One request sent 500 mails.
/// The link to the new email address is a mail to somebody who is not a member.
#[tokio::test]
async fn changes_of_email_addresses_count_towards_the_daily_limit() {
    let world = World::with(THREE).await;
    let people = People::of(&world).await;
    let eve = people.founder("eve@example.com").await;
    let change = async |number: u32| {
        let body = json!({ "new_email": format!("victim{number}@example.com") });
        world.client.post_body_as(&eve.token, "/api/auth/email/change", &body).await
    };
    for number in 0..2 {
        change(number).await.expect(StatusCode::ACCEPTED);
    }
    invite(&world, &eve, "victim@example.com").await.expect(StatusCode::CREATED);
    expect_exhausted(change(3).await);
    let pending = world.store.records::<EmailChange>(PlatformScope).find(doc! {}).await.unwrap();
    assert_eq!(pending.unwrap().new.email.as_str(), "victim1@example.com", "it is still valid");
}

#[tokio::test]
async fn a_list_invites_no_more_people_than_the_daily_limit_allows() {
    let world = World::with(THREE).await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    let list = lines((0..60).map(|number| format!("p{number}@example.com")));
    let list = submit(&world, &eve, &list).await.expect(StatusCode::ACCEPTED).json();
    let _worker = world.env.spawn_worker_with(THREE).await;
    let statuses = completed(&world, &eve, &list).await;
    let count = |status: &str| statuses.iter().filter(|found| *found == status).count();
    assert_eq!((count("invited"), count("mail_budget_exhausted")), (3, 57), "{statuses:?}");
    world.until_nothing_is_due().await;
    assert_eq!(world.env.mail().messages().len(), 3);
    assert_eq!(world.count::<Invitation>().await, 3);
}

#[tokio::test]
async fn concurrent_invitations_do_not_exceed_the_daily_limit() {
    let world = World::with(THREE).await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    let (world, eve) = (&world, &eve);
    let invited = (0..12).map(async |number| {
        invite(world, eve, &format!("p{number}@example.com")).await.status == StatusCode::CREATED
    });
    let invited = futures::future::join_all(invited).await;
    assert_eq!(invited.iter().filter(|is_invited| **is_invited).count(), 3);
}

/// Anyone with an invite link can cause mails, which must not use up those of the members.
#[tokio::test]
async fn people_who_follow_an_invite_link_leave_half_of_the_limit_to_members() {
    let four = &[("TENANTRY__MAIL_BUDGET__NEW_TENANT", "4")];
    let world = World::with(four).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let body = json!({ "role": "viewer", "domains": ["example.com"] });
    let made = world.client.post_body_as(&ada.token, "/api/tenant/invite-links", &body).await;
    let url = made.expect(StatusCode::CREATED).json()["url"].as_str().unwrap().to_owned();
    let token = url.split("token=").nth(1).unwrap();
    let _worker = world.env.spawn_worker_with(four).await;
    for number in 0..4 {
        let join = json!({ "token": token, "email": format!("p{number}@example.com") });
        let answer = world.client.post("/api/invite-links/join", &join).await;
        answer.expect(StatusCode::ACCEPTED);
    }
    world.until_nothing_is_due().await;
    assert_eq!(world.env.mail().messages().len(), 2);
    for number in 0..2 {
        let email = format!("member{number}@example.com");
        invite(&world, &ada, &email).await.expect(StatusCode::CREATED);
    }
    expect_exhausted(invite(&world, &ada, "another@example.com").await);
}

#[tokio::test]
async fn a_reminder_counts_towards_the_daily_limit_too() {
    let settings = [
        ("TENANTRY__MAIL_BUDGET__NEW_TENANT", "3"),
        ("TENANTRY__MEMBERS__INVITATION_TTL", "1h"),
        ("TENANTRY__MEMBERS__INVITATION_REMINDER", "3599s"),
    ];
    let world = World::with(&settings).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    for number in 0..2 {
        let email = format!("p{number}@example.com");
        invite(&world, &ada, &email).await.expect(StatusCode::CREATED);
    }
    let _worker = world.env.spawn_worker_with(&settings).await;
    eventually("the invitations and one reminder are sent", async || {
        (world.env.mail().messages().len() == 3).then_some(())
    })
    .await;
    eventually("the other reminder is over", async || {
        (world.count::<jobs::outbox::OutboxRow>().await == 0).then_some(())
    })
    .await;
    assert_eq!(world.env.mail().messages().len(), 3);
    expect_exhausted(invite(&world, &ada, "another@example.com").await);
}

#[tokio::test]
async fn an_operator_sees_and_lifts_the_daily_limit() {
    let world = World::with(THREE).await;
    let people = People::of(&world).await;
    let ada = people.founder("ada@example.com").await;
    for number in 0..3 {
        let email = format!("p{number}@example.com");
        invite(&world, &ada, &email).await.expect(StatusCode::CREATED);
    }
    let accept = json!({ "token": link(&world, "p0@example.com").await, "name": "New", "password": PASSWORD });
    world.client.post("/api/invitations/accept", &accept).await.expect(StatusCode::OK);
    let tenant = ada.tenant.to_string();
    let show = async || {
        let output = world.run(&["tenants", "mail-budget", &tenant], THREE).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let set = async |mails: &str| {
        let args = ["tenants", "set-mail-budget", &tenant, mails, "--reason", "A known customer"];
        world.run(&args, THREE).await
    };
    let seen = show().await;
    for line in ["sent today            3 of 3", "accepted invitations  1", "age and accepted"] {
        assert!(seen.contains(line), "{seen}");
    }
    expect_exhausted(invite(&world, &ada, "more@example.com").await);
    assert!(set("4").await.status.success());
    assert!(show().await.contains("3 of 4"));
    invite(&world, &ada, "more@example.com").await.expect(StatusCode::CREATED);
    expect_exhausted(invite(&world, &ada, "evenmore@example.com").await);
    assert!(set("default").await.status.success());
    assert!(show().await.contains("4 of 3"));
    for wrong in ["", "-1", "all", "1000001"] {
        assert_eq!(set(wrong).await.status.code(), Some(2), "{wrong}");
    }
    let filter = doc! { "action": "tenant.mail_budget_set" };
    let of_tenant: Vec<Event> = world
        .store
        .records(PlatformScope)
        .list(filter.clone(), doc! { "_id": 1 }, 10)
        .await
        .unwrap();
    let of_platform: Vec<PlatformEvent> =
        world.store.records(PlatformScope).list(filter, doc! {}, 10).await.unwrap();
    assert_eq!((of_tenant.len(), of_platform.len()), (2, 2));
    let values = of_tenant[0].deed.changes[0].values.as_ref().unwrap();
    assert_eq!(values.after, 4_i64.into());
    assert_eq!(people.role(&ada).await, Some(Role::Owner.into()));
}

/// Counted before the change is committed, over all tenants.
#[tokio::test]
async fn invitations_from_one_network_are_limited_over_all_tenants() {
    let world = World::with(&[("TENANTRY__AUTH__MAILS_PER_NETWORK", "10")]).await;
    let people = People::of(&world).await;
    let (eve, bob) =
        (people.founder("eve@example.com").await, people.founder("bob@example.com").await);
    // A list counts as its lines, but not as more than half of the limit.
    let three = lines((0..3).map(|number| format!("p{number}@example.com")));
    submit(&world, &eve, &three).await.expect(StatusCode::ACCEPTED);
    let many = lines((0..30).map(|number| format!("q{number}@example.com")));
    submit(&world, &eve, &many).await.expect(StatusCode::ACCEPTED);
    let invitation =
        id_of(&invite(&world, &bob, "one@example.com").await.expect(StatusCode::CREATED));
    resend(&world, &bob, &invitation).await.expect(StatusCode::OK);
    for refused in [
        invite(&world, &bob, "two@example.com").await,
        resend(&world, &bob, &invitation).await,
        submit(&world, &eve, &three).await,
    ] {
        refused.expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
    }
}

/// 20 invitations by one tenant kept another from inviting the person.
#[tokio::test]
async fn invitations_by_one_tenant_do_not_keep_another_from_inviting_the_person() {
    let settings = [("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "2")];
    let world = World::with(&settings).await;
    let people = People::of(&world).await;
    let (eve, bob) =
        (people.founder("eve@example.com").await, people.founder("bob@example.com").await);
    for _ in 0..20 {
        invite(&world, &eve, "victim@example.com").await.expect(StatusCode::CREATED);
    }
    invite(&world, &bob, "victim@example.com").await.expect(StatusCode::CREATED);
}

/// 40 lists of 1,000 lines of rubbish took 20 MB for 30 days.
#[tokio::test]
async fn lists_in_progress_and_stored_lines_are_limited() {
    let settings = [
        ("TENANTRY__MEMBERS__INVITATION_LISTS_OPEN_MAX", "2"),
        ("TENANTRY__MEMBERS__INVITATION_LIST_LINES_MAX", "10"),
    ];
    let world = World::with(&settings).await;
    let people = People::of(&world).await;
    let (eve, bob) =
        (people.founder("eve@example.com").await, people.founder("bob@example.com").await);
    let list = |from: u32, count: u32| {
        lines((from..from + count).map(|number| format!("p{number}@example.com")))
    };
    let too_many =
        |answer: Answer| answer.expect_problem(StatusCode::CONFLICT, "too_many_invitation_lists");
    too_many(submit(&world, &eve, &list(0, 11)).await);
    let first = submit(&world, &eve, &list(0, 6)).await.expect(StatusCode::ACCEPTED).json();
    too_many(submit(&world, &eve, &list(10, 5)).await);
    let second = submit(&world, &eve, &list(10, 4)).await.expect(StatusCode::ACCEPTED).json();
    too_many(submit(&world, &eve, &list(20, 1)).await);
    submit(&world, &bob, &list(0, 1)).await.expect(StatusCode::ACCEPTED);
    let _worker = world.env.spawn_worker().await;
    for list in [&first, &second] {
        completed(&world, &eve, list).await;
    }
    // It replaces the oldest completed lists.
    let third = submit(&world, &eve, &list(20, 5)).await.expect(StatusCode::ACCEPTED).json();
    let status = async |list: &Value| {
        let path = format!("{BULK}/{}", list["id"].as_str().unwrap());
        world.client.get_as(&eve.token, &path).await.status
    };
    assert_eq!(
        [status(&first).await, status(&second).await, status(&third).await],
        [StatusCode::NOT_FOUND, StatusCode::OK, StatusCode::OK]
    );
}

#[tokio::test]
async fn only_the_beginning_of_invalid_lines_is_stored() {
    let world = World::new().await;
    let eve = People::of(&world).await.founder("eve@example.com").await;
    let junk = "x".repeat(900);
    let line = json!({ "email": junk, "role": junk });
    let list = json!({ "invitations": vec![line; 500] });
    let list = submit(&world, &eve, &list).await.expect(StatusCode::ACCEPTED).json();
    assert_eq!(list["done"], json!(500), "nothing is left to process");
    assert_eq!(list["items"][0]["status"], json!("invalid_email"));
    let found = world.store.records::<InvitationList>(PlatformScope).find(doc! {}).await.unwrap();
    let bytes = mongodb::bson::serialize_to_vec(&found.unwrap()).unwrap().len();
    assert!(bytes < 500 * 200, "{bytes}");
    let _worker = world.env.spawn_worker().await;
    completed(&world, &eve, &list).await;
    world.until_nothing_is_due().await;
    assert_eq!(world.env.mail().messages().len(), 0);
}
