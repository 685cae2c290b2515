//! Domains of a tenant: verifying them by DNS, and inviting people by their email domain.

use common::{
    crypto::LinkToken,
    db::{Change, DbError, PlatformScope, TenantScope, Txn},
    id::{self, TenantDomainId},
};
use domain::tenancy::{
    invitations::Invitation, memberships::Membership, roles::Role, tenant_domains::TenantDomain,
    tenants::Tenant,
};
use futures::future::join_all;
use jobs::outbox::OutboxRow;
use mongodb::bson::{DateTime, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{servers::NameServer, testing::Service};

use crate::{
    people::{People, Person, absent},
    support::{Answer, DEADLINE, PASSWORD, World, eventually},
};

const DOMAINS: &str = "/api/tenant/domains";
const JOINABLE: &str = "/api/auth/joinable-tenants";
const JOIN: &str = "/api/auth/join-tenant";

/// An installation with a worker that uses the test's name server.
struct Dns {
    world: World,
    server: NameServer,
    _worker: Service,
}

impl Dns {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let (world, server) = (World::with(settings).await, NameServer::start().await.unwrap());
        let addr = server.addr().to_string();
        let of_worker = [
            settings,
            &[("TENANTRY__DNS__SERVERS", &addr), ("TENANTRY__JOBS__BACKOFF_BASE", "100ms")],
        ]
        .concat();
        let worker = world.env.spawn_worker_with(&of_worker).await;
        Self { world, server, _worker: worker }
    }

    async fn add(&self, person: &Person, domain: &str) -> Value {
        add(&self.world, person, domain).await.expect(StatusCode::CREATED).json()
    }

    /// Publishes the record of the domain.
    fn publish(&self, domain: &Value) {
        self.server.set(
            domain["record"]["name"].as_str().unwrap(),
            &[domain["record"]["value"].as_str().unwrap()],
        );
    }

    /// Requests a check of the domain and waits until it is done.
    async fn check(&self, person: &Person, domain: &Value) -> Value {
        let before = self.see(person, domain).await["checked_at"].clone();
        self.world
            .client
            .post_as(&person.token, &format!("{}/verify", path(domain)))
            .await
            .expect(StatusCode::ACCEPTED);
        eventually("the record was checked", async || {
            let now = self.see(person, domain).await;
            (now["checked_at"] != before).then_some(now)
        })
        .await
    }

    async fn see(&self, person: &Person, domain: &Value) -> Value {
        let listed =
            self.world.client.get_as(&person.token, DOMAINS).await.expect(StatusCode::OK).json();
        listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["id"] == domain["id"])
            .expect("it is listed")
            .clone()
    }

    /// A verified domain that invites people with the role `role`.
    async fn open(&self, person: &Person, domain: &str, role: &str) -> Value {
        let added = self.add(person, domain).await;
        self.publish(&added);
        assert_eq!(self.check(person, &added).await["status"], "verified");
        set(&self.world, person, &added, json!(role)).await.expect(StatusCode::OK).json()
    }

    async fn joinable(&self, person: &Person) -> Value {
        self.world.client.get_as(&person.token, JOINABLE).await.expect(StatusCode::OK).json()["items"].clone()
    }

    fn mails_to(&self, email: &str) -> usize {
        self.world.env.mail().messages().into_iter().filter(|mail| mail.to == [email]).count()
    }

    async fn members(&self, tenant: &Person) -> u64 {
        self.world
            .store
            .records::<Membership>(PlatformScope)
            .count(doc! { "tenant_id": tenant.tenant })
            .await
            .unwrap()
    }

    async fn join(&self, person: &Person, tenant: &Person) -> Answer {
        self.world
            .client
            .post_body_as(&person.token, JOIN, &json!({ "tenant_id": tenant.tenant }))
            .await
    }

    /// Moves the last check of the record, and its loss, back by this time.
    async fn let_pass(&self, domain: &Value, ms: i64) {
        let row = self.row(domain).await;
        let earlier = |at: DateTime| DateTime::from_millis(at.timestamp_millis() - ms);
        let update = doc! { "$set": {
            "checked_at": row.checked_at.map(earlier),
            "missing_since": row.missing_since.map(earlier),
            "unanswered_since": row.unanswered_since.map(earlier),
        } };
        self.world
            .store
            .records::<TenantDomain>(PlatformScope)
            .update(doc! { "_id": row.id }, update)
            .await
            .unwrap();
    }

    async fn row(&self, domain: &Value) -> TenantDomain {
        let id: TenantDomainId = domain["id"].as_str().unwrap().parse().unwrap();
        self.world
            .store
            .records::<TenantDomain>(PlatformScope)
            .find(doc! { "_id": id })
            .await
            .unwrap()
            .unwrap()
    }
}

async fn add(world: &World, person: &Person, domain: &str) -> Answer {
    world.client.post_body_as(&person.token, DOMAINS, &json!({ "domain": domain })).await
}

async fn set(world: &World, person: &Person, domain: &Value, role: Value) -> Answer {
    world.client.put_as(&person.token, &path(domain), &json!({ "auto_invite_role": role })).await
}

fn path(domain: &Value) -> String {
    format!("{DOMAINS}/{}", domain["id"].as_str().unwrap())
}

const DAY_MS: i64 = 86_400_000;

#[tokio::test]
async fn a_domain_is_verified_only_by_its_own_record() {
    let dns = Dns::new(&[]).await;
    let people = People::of(&dns.world).await;
    let (ada, eve) =
        (people.founder("ada@example.com").await, people.founder("eve@example.com").await);
    let added = dns.add(&ada, "Corp.Example").await;
    assert_eq!(
        (&added["domain"], &added["status"], &added["auto_invite_role"]),
        (&json!("corp.example"), &json!("pending"), &Value::Null)
    );
    assert_eq!(added["record"]["name"], "_tenantry.corp.example");
    let theirs = dns.add(&eve, "corp.example").await;
    assert_ne!(
        added["record"]["value"], theirs["record"]["value"],
        "each tenant publishes its own"
    );

    let name = "_tenantry.corp.example";
    let forged =
        format!("tenantry-verification={}", LinkToken::issue(&dns.world.key, ada.user).expose());
    let value = added["record"]["value"].as_str().unwrap();
    let (cut, longer) = (&value[..value.len() - 1], format!("{value}x"));
    for texts in [
        &[][..],
        &["v=spf1 -all", ""],
        &[&forged],
        &[cut],
        &[&longer],
        &[theirs["record"]["value"].as_str().unwrap()],
    ] {
        dns.server.set(name, texts);
        let checked = dns.check(&ada, &added).await;
        assert_eq!(
            (&checked["status"], &checked["verified_at"]),
            (&json!("record_missing"), &Value::Null),
            "{texts:?}"
        );
    }
    dns.server.set(name, &["v=spf1 -all", value]);
    let checked = dns.check(&ada, &added).await;
    assert_eq!(
        (&checked["status"], checked["verified_at"].is_string()),
        (&json!("verified"), true)
    );
    let verified = doc! { "action": "domain.verified", "tenant_id": ada.tenant };
    assert_eq!(dns.world.events(verified).await, 1);

    // Of two tenants that prove ownership, the first has the domain until it is released.
    dns.server.set(name, &[value, theirs["record"]["value"].as_str().unwrap()]);
    assert_eq!(dns.check(&eve, &theirs).await["status"], "held_by_another");
    assert_eq!(dns.check(&ada, &added).await["status"], "verified");
    dns.world.client.delete_as(&ada.token, &path(&added)).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(dns.check(&eve, &theirs).await["status"], "verified");
}

#[tokio::test]
async fn unresponsive_name_servers_are_reported_and_do_not_end_the_verification_at_once() {
    let dns = Dns::new(&[("TENANTRY__MEMBERS__DOMAIN_GRACE", "1d")]).await;
    let ada = People::of(&dns.world).await.founder("ada@example.com").await;
    let added = dns.add(&ada, "corp.example").await;
    dns.publish(&added);
    dns.server.fail(true);
    let checked = dns.check(&ada, &added).await;
    assert_eq!((&checked["status"], &checked["verified_at"]), (&json!("no_answer"), &Value::Null));
    dns.server.fail(false);
    assert_eq!(dns.check(&ada, &added).await["status"], "verified");
    // Without an answer, a domain stays verified for longer than without a record, but not forever.
    dns.server.fail(true);
    let missed = dns.check(&ada, &added).await;
    assert_eq!((&missed["status"], &missed["missing_since"]), (&json!("verified"), &Value::Null));
    assert!(missed["unanswered_since"].is_string(), "{missed}");
    dns.let_pass(&added, 3 * DAY_MS).await;
    assert_eq!(dns.check(&ada, &added).await["status"], "verified");
    dns.let_pass(&added, 2 * DAY_MS).await;
    assert_eq!(dns.check(&ada, &added).await["status"], "no_answer");
    // A name that nobody could own has no record.
    dns.server.fail(false);
    let odd = dns.add(&ada, "xn--a.example").await;
    assert_eq!(dns.check(&ada, &odd).await["status"], "record_missing");
}

#[tokio::test]
async fn an_account_without_a_tenant_joins_by_its_domain() {
    let dns = Dns::new(&[]).await;
    let people = People::of(&dns.world).await;
    let ada = people.founder("ada@example.com").await;
    dns.open(&ada, "corp.example", "viewer").await;
    let bob = people.loner("bob@corp.example").await;
    let client = &dns.world.client;
    let joinable = client.get_as(&bob.token, JOINABLE).await.expect(StatusCode::OK).json();
    assert_eq!(joinable["items"][0]["tenant_id"], json!(ada.tenant));
    let ask = json!({ "tenant_id": ada.tenant });
    client.post_body_as(&bob.token, JOIN, &ask).await.expect(StatusCode::ACCEPTED);
    eventually("the invitation was mailed", async || {
        (dns.mails_to("bob@corp.example") == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_domain_without_its_record_is_released_after_the_grace_period() {
    let dns = Dns::new(&[("TENANTRY__MEMBERS__DOMAIN_GRACE", "3d")]).await;
    let people = People::of(&dns.world).await;
    let (ada, bob) =
        (people.founder("ada@example.com").await, people.founder("bob@corp.example").await);
    let domain = dns.open(&ada, "corp.example", "viewer").await;
    dns.server.set("_tenantry.corp.example", &[]);
    let missed = dns.check(&ada, &domain).await;
    assert_eq!(
        (&missed["status"], missed["missing_since"].is_string()),
        (&json!("verified"), true)
    );
    assert_eq!(dns.joinable(&bob).await.as_array().unwrap().len(), 1);
    // The record returns and disappears again: the grace period starts again.
    dns.let_pass(&domain, 2 * DAY_MS).await;
    dns.publish(&domain);
    assert_eq!(dns.check(&ada, &domain).await["missing_since"], Value::Null);
    dns.server.set("_tenantry.corp.example", &[]);
    dns.check(&ada, &domain).await;
    dns.let_pass(&domain, 2 * DAY_MS).await;
    assert_eq!(dns.check(&ada, &domain).await["status"], "verified");
    dns.let_pass(&domain, 2 * DAY_MS).await;
    let lost = dns.check(&ada, &domain).await;
    assert_eq!((&lost["status"], &lost["verified_at"]), (&json!("record_missing"), &Value::Null));
    assert_eq!(dns.joinable(&bob).await, json!([]));
    dns.join(&bob, &ada).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    let event = doc! { "action": "domain.lost", "tenant_id": ada.tenant };
    assert_eq!(dns.world.events(event).await, 1);
}

/// Without a job for that moment, the tenant would hold the domain until the next daily check.
#[tokio::test]
async fn the_grace_period_of_a_domain_ends_on_time() {
    let dns = Dns::new(&[("TENANTRY__MEMBERS__DOMAIN_GRACE", "2s")]).await;
    let ada = People::of(&dns.world).await.founder("ada@example.com").await;
    let domain = dns.open(&ada, "corp.example", "viewer").await;
    dns.server.set("_tenantry.corp.example", &[]);
    dns.check(&ada, &domain).await;
    eventually("the domain is lost without another request", async || {
        (dns.see(&ada, &domain).await["status"] == "record_missing").then_some(())
    })
    .await;
}

#[tokio::test]
async fn registering_with_an_email_of_the_domain_sends_an_invitation() {
    let dns = Dns::new(&[]).await;
    let world = &dns.world;
    let ada = People::of(world).await.founder("ada@example.com").await;
    dns.open(&ada, "corp.example", "member").await;
    for (email, is_invited) in [
        ("other@sub.corp.example", false),
        ("foreign@example.org", false),
        ("new@Corp.Example", true),
    ] {
        world.register(email).await.expect(StatusCode::ACCEPTED);
        dns.world.until_nothing_is_due().await;
        assert_eq!(world.count::<Invitation>().await, 0, "{email}: not before it is verified");
        let verify = json!({ "token": world.link_token(email).await });
        world.client.post("/api/auth/verify-email", &verify).await.expect(StatusCode::OK);
        dns.world.until_nothing_is_due().await;
        assert_eq!(world.count::<Invitation>().await, u64::from(is_invited), "{email}");
        // The account may not have been created by the owner of the mailbox: the password alone is
        // not enough.
        let session = world.login(email, PASSWORD).await.expect(StatusCode::OK).json();
        assert_eq!(session["tenants"].as_array().unwrap().len(), 1, "{email}");
        if is_invited {
            let mail = world
                .env
                .mail()
                .wait_for(|mail| mail.subject == "You are invited to Tenantry", DEADLINE)
                .await;
            let token = mail
                .text
                .split("/invitations/accept?token=")
                .nth(1)
                .unwrap()
                .split_whitespace()
                .next()
                .unwrap();
            // The mailbox alone is not enough either.
            let wrong = json!({ "token": token, "password": "not the password" });
            world
                .client
                .post("/api/invitations/accept", &wrong)
                .await
                .expect_problem(StatusCode::UNAUTHORIZED, "invalid_credentials");
            let access = session["access_token"].as_str().unwrap();
            let joined = world
                .client
                .post_body_as(access, "/api/invitations/accept", &json!({ "token": token }))
                .await;
            assert_eq!(joined.expect(StatusCode::OK).json()["tenant"]["role"], "member");
        }
    }
    assert_eq!(dns.members(&ada).await, 2);
}

#[tokio::test]
async fn an_existing_user_sees_joinable_tenants_and_is_invited_once() {
    let dns = Dns::new(&[
        ("TENANTRY__AUTH__MAILS_PER_ACCOUNT", "5"),
        ("TENANTRY__AUTH__MAILS_PER_NETWORK", "100"),
    ])
    .await;
    let people = People::of(&dns.world).await;
    let (ada, bob, eve) = (
        people.founder("ada@example.com").await,
        people.founder("bob@corp.example").await,
        people.founder("eve@evil.example").await,
    );
    let domain = dns.open(&ada, "corp.example", "viewer").await;
    let open = json!([{ "tenant_id": ada.tenant, "tenant_name": "Tenant of ADA", "role": "viewer", "role_name": "Viewer" }]);
    assert_eq!(
        (dns.joinable(&bob).await, dns.joinable(&eve).await, dns.joinable(&ada).await),
        (open, json!([]), json!([]))
    );
    dns.join(&eve, &ada).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    dns.join(&bob, &eve).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    dns.join(&bob, &bob).await.expect_problem(StatusCode::CONFLICT, "already_member");
    let (dns, bob, ada) = (&dns, &bob, &ada);
    let answers = join_all((0..20).map(|_| dns.join(bob, ada))).await;
    let (asked, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == StatusCode::ACCEPTED);
    assert_eq!(asked.len(), 5);
    for answer in refused {
        answer.expect_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts");
    }
    dns.world.until_nothing_is_due().await;
    assert_eq!((dns.members(ada).await, dns.mails_to("bob@corp.example")), (1, 1));
    let token = crate::tenancy::invitations::link(&dns.world, "bob@corp.example").await;
    let joined = dns
        .world
        .client
        .post_body_as(&bob.token, "/api/invitations/accept", &json!({ "token": token }))
        .await;
    assert_eq!(joined.expect(StatusCode::OK).json()["tenant"]["role"], "viewer");
    assert_eq!(dns.joinable(bob).await, json!([]));
    dns.join(bob, ada).await.expect_problem(StatusCode::CONFLICT, "already_member");
    // Disabled again.
    set(&dns.world, ada, &domain, Value::Null).await.expect(StatusCode::OK);
    let carl = people.founder("carl@corp.example").await;
    assert_eq!(dns.joinable(&carl).await, json!([]));
    dns.join(&carl, ada).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
}

#[tokio::test]
async fn a_removed_member_is_not_invited_by_the_domain_again() {
    let dns = Dns::new(&[]).await;
    let people = People::of(&dns.world).await;
    let (ada, founder) =
        (people.founder("ada@example.com").await, people.founder("founder@corp.example").await);
    dns.open(&ada, "corp.example", "member").await;
    let carl = people.join(&ada, "carl@corp.example", Role::Viewer).await;
    dns.world
        .client
        .delete_as(&ada.token, &format!("/api/tenant/users/{}", carl.user))
        .await
        .expect(StatusCode::NO_CONTENT);
    dns.world.until_nothing_is_due().await;
    dns.world.env.mail().clear();
    // They have another tenant to sign in to.
    dns.world.commit(&Belong(carl.user, founder.tenant)).await.unwrap();
    let carl = Person {
        token: people.token(carl.user, founder.tenant).await,
        tenant: founder.tenant,
        ..carl
    };
    dns.join(&carl, &ada).await.expect(StatusCode::ACCEPTED);
    dns.world.until_nothing_is_due().await;
    assert_eq!((dns.world.count::<Invitation>().await, dns.mails_to("carl@corp.example")), (0, 0));
}

/// Makes a user a member of a tenant.
struct Belong(id::UserId, id::TenantId);

impl Change for Belong {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        Membership::create(txn, TenantScope::of_job(self.1), self.0, Role::Viewer).await.map(drop)
    }
}

#[tokio::test]
async fn automatic_invitations_respect_the_rules_and_the_choosers_permission() {
    let dns = Dns::new(&[]).await;
    let people = People::of(&dns.world).await;
    let (ada, bob) =
        (people.founder("ada@example.com").await, people.founder("bob@corp.example").await);
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    // Has no effect until the domain is verified.
    let added = dns.add(&ada, "corp.example").await;
    set(&dns.world, &ada, &added, json!("viewer")).await.expect(StatusCode::OK);
    dns.join(&bob, &ada).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    dns.publish(&added);
    dns.check(&ada, &added).await;
    let rules = async |some: Value| {
        let rules = crate::tenancy::tenant_security::rules(&some);
        dns.world
            .client
            .put_as(&ada.token, "/api/tenant/security", &rules)
            .await
            .expect(StatusCode::OK);
    };
    rules(json!({ "allowed_email_domains": ["example.com"] })).await;
    assert_eq!(dns.joinable(&bob).await, json!([]));
    dns.join(&bob, &ada).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    rules(json!({})).await;
    let status = async |status: &str| {
        let (of_it, update) = (doc! { "_id": ada.tenant }, doc! { "$set": { "status": status } });
        dns.world.store.records::<Tenant>(PlatformScope).update(of_it, update).await.unwrap();
    };
    status("suspended").await;
    assert_eq!(dns.joinable(&bob).await, json!([]));
    dns.join(&bob, &ada).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    status("active").await;
    // On behalf of an admin who has been demoted.
    set(&dns.world, &admin, &added, json!("admin")).await.expect(StatusCode::OK);
    assert_eq!(dns.joinable(&bob).await[0]["role"], "admin");
    let demote = json!({ "role": "viewer" });
    dns.world
        .client
        .put_as(&ada.token, &format!("/api/tenant/users/{}", admin.user), &demote)
        .await
        .expect(StatusCode::OK);
    assert_eq!(dns.joinable(&bob).await, json!([]));
    dns.join(&bob, &ada).await.expect_problem(StatusCode::NOT_FOUND, "tenant_not_found");
    dns.world.register("new@corp.example").await.expect(StatusCode::ACCEPTED);
    dns.world.until_nothing_is_due().await;
    let verify = json!({ "token": dns.world.link_token("new@corp.example").await });
    dns.world.client.post("/api/auth/verify-email", &verify).await.expect(StatusCode::OK);
    dns.world.until_nothing_is_due().await;
    assert_eq!(dns.world.count::<Invitation>().await, 0);
}

#[tokio::test]
async fn a_domain_cannot_invite_with_a_role_beyond_the_callers_own() {
    let dns = Dns::new(&[]).await;
    let people = People::of(&dns.world).await;
    let ada = people.founder("ada@example.com").await;
    let few =
        json!({ "name": "Guard", "permissions": ["security:write", "users:read", "users:invite"] });
    let role = dns
        .world
        .client
        .post_body_as(&ada.token, "/api/tenant/roles", &few)
        .await
        .expect(StatusCode::CREATED)
        .json();
    let guard: id::RoleId = role["id"].as_str().unwrap().parse().unwrap();
    let guard = people.join(&ada, "guard@example.com", guard).await;
    let admin = people.join(&ada, "admin@example.com", Role::Admin).await;
    let member = people.join(&ada, "member@example.com", Role::Member).await;
    let added = dns.add(&guard, "corp.example").await;
    add(&dns.world, &member, "corp2.example")
        .await
        .expect_problem(StatusCode::FORBIDDEN, "forbidden");
    for high in ["admin", "member", "viewer"] {
        set(&dns.world, &guard, &added, json!(high))
            .await
            .expect_problem(StatusCode::FORBIDDEN, "role_too_high");
    }
    for person in [&ada, &admin, &guard] {
        let refused = set(&dns.world, person, &added, json!("owner"))
            .await
            .expect(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.field_errors(), ["auto_invite_role:not_by_address"]);
    }
    let none = absent::<id::CustomRole>();
    set(&dns.world, &ada, &added, json!(none))
        .await
        .expect_problem(StatusCode::UNPROCESSABLE_ENTITY, "no_such_role");
    let refused = dns
        .world
        .client
        .put_as(&ada.token, &path(&added), &json!({}))
        .await
        .expect(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.field_errors(), ["auto_invite_role:required"]);
    set(&dns.world, &ada, &added, role["id"].clone()).await.expect(StatusCode::OK);
    dns.world
        .client
        .delete_as(&ada.token, &format!("/api/tenant/users/{}", guard.user))
        .await
        .expect(StatusCode::NO_CONTENT);
    let of_role = format!("/api/tenant/roles/{}", role["id"].as_str().unwrap());
    dns.world
        .client
        .delete_as(&ada.token, &of_role)
        .await
        .expect_problem(StatusCode::CONFLICT, "role_in_use");
    set(&dns.world, &admin, &added, Value::Null).await.expect(StatusCode::OK);
    dns.world.client.delete_as(&ada.token, &of_role).await.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_invalid_domain_is_rejected_and_the_limit_is_not_exceeded() {
    let dns = Dns::new(&[("TENANTRY__MEMBERS__DOMAINS_MAX", "3")]).await;
    let ada = People::of(&dns.world).await.founder("ada@example.com").await;
    for wrong in [
        "",
        "@corp.example",
        "*.corp.example",
        "corp example",
        "corp.example/x",
        "corp.example\nx",
        &"x".repeat(300),
    ] {
        let refused = add(&dns.world, &ada, wrong).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.field_errors(), ["domain:invalid_format"], "{wrong:?}");
    }
    let (world, ada) = (&dns.world, &ada);
    let same = join_all((0..5).map(|_| add(world, ada, "corp.example"))).await;
    assert_eq!(same.iter().filter(|answer| answer.status == StatusCode::CREATED).count(), 1);
    for answer in same.into_iter().filter(|answer| answer.status != StatusCode::CREATED) {
        answer.expect_problem(StatusCode::CONFLICT, "domain_added_already");
    }
    let more =
        join_all((0..5).map(|n| async move { add(world, ada, &format!("corp{n}.example")).await }))
            .await;
    assert_eq!(more.iter().filter(|answer| answer.status == StatusCode::CREATED).count(), 2);
    for answer in more.into_iter().filter(|answer| answer.status != StatusCode::CREATED) {
        answer.expect_problem(StatusCode::CONFLICT, "too_many_domains");
    }
}

#[tokio::test]
async fn concurrent_requests_for_a_check_run_one_check() {
    let (world, server) = (World::new().await, NameServer::start().await.unwrap());
    let ada = People::of(&world).await.founder("ada@example.com").await;
    let added = add(&world, &ada, "corp.example").await.expect(StatusCode::CREATED).json();
    server.set(
        added["record"]["name"].as_str().unwrap(),
        &[added["record"]["value"].as_str().unwrap()],
    );
    let verify = format!("{}/verify", path(&added));
    let answers = join_all((0..20).map(|_| world.client.post_as(&ada.token, &verify))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::ACCEPTED));
    // All are staged while no worker is running.
    eventually("the duplicates are dropped", async || {
        (world.count::<OutboxRow>().await == 1).then_some(())
    })
    .await;
    let _worker = world
        .env
        .spawn_worker_with(&[("TENANTRY__DNS__SERVERS", &server.addr().to_string())])
        .await;
    eventually("it is verified", async || {
        let listed = world.client.get_as(&ada.token, DOMAINS).await.expect(StatusCode::OK).json();
        (listed["items"][0]["status"] == "verified").then_some(())
    })
    .await;
}
