//! The product's central path under faults: the mail arrives, whatever is stopped, killed or wiped
//! between the request and the mail.
use std::time::Duration;

use common::db::{PlatformScope, Store};
use jobs::outbox::OutboxRow;
use mongodb::bson::doc;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::{
    servers::{Mail, Proxy, Reply},
    testing::{Service, TestEnv, program},
};

use crate::support::{prepared, store};

/// Upper bound for every wait in a test, even on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);
const ANN: &str = "ann@example.com";

/// Short intervals for tests, in the same proportions as in production.
const QUICK: &[(&str, &str)] = &[
    ("TENANTRY__JOBS__LEASE", "1500ms"),
    ("TENANTRY__JOBS__RELAY_INTERVAL", "200ms"),
    ("TENANTRY__JOBS__RECONCILE_INTERVAL", "500ms"),
    ("TENANTRY__JOBS__BACKOFF_BASE", "100ms"),
    ("TENANTRY__JOBS__BACKOFF_MAX", "1s"),
    ("TENANTRY__REDIS__TIMEOUT", "1s"),
    ("TENANTRY__SMTP__TIMEOUT", "2s"),
];

struct World {
    env: TestEnv,
    store: Store,
    client: reqwest::Client,
}

impl World {
    async fn new() -> Self {
        Self::on(prepared().await).await
    }

    async fn with_own_redis() -> Self {
        Self::on(prepared().await.with_own_redis().await).await
    }

    async fn on(env: TestEnv) -> Self {
        let store = store(&env).await;
        Self { env, store, client: reqwest::Client::new() }
    }

    async fn worker(&self) -> Service {
        self.env.spawn_worker_with(QUICK).await
    }

    async fn post(&self, api: &Service, path: &str, body: Value) -> (StatusCode, Value) {
        let answer =
            self.client.post(format!("{}{path}", api.url())).json(&body).send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn register(&self, api: &Service, email: &str) {
        let body = json!({ "email": email, "password": "correct horse battery", "name": "Ann", "tenant_name": "Acme" });
        let answer = self.post(api, "/api/auth/register", body).await;
        assert_eq!(answer, (StatusCode::ACCEPTED, json!({ "status": "verification_email_sent" })));
    }

    async fn mail_to(&self, email: &str) -> Mail {
        self.env.mail().wait_for(|mail| mail.to.iter().any(|to| to == email), DEADLINE).await
    }

    async fn verify(&self, api: &Service, mail: &Mail) {
        let token = mail
            .text
            .split("/verify-email?token=")
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap();
        let (status, answer) =
            self.post(api, "/api/auth/verify-email", json!({ "token": token })).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({ "status": "verified" })));
    }

    /// Waits until every job has finished, except those due in the future.
    async fn until_nothing_is_due(&self) {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        let begun = tokio::time::Instant::now();
        loop {
            looks.tick().await;
            let due = jobs::testing::due(&self.store).await.unwrap();
            if due.is_empty() {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "still due after {DEADLINE:?}: {due:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mail_has_both_parts_a_stable_id_and_no_injected_markup() {
    let world = World::new().await;
    let (api, _worker) = (world.env.spawn_api_with(QUICK).await, world.worker().await);
    let body = json!({ "email": ANN, "password": "correct horse battery", "name": "<b>Ann</b>", "tenant_name": "A & \"B\" {{ link }}" });
    assert_eq!(world.post(&api, "/api/auth/register", body).await.0, StatusCode::ACCEPTED);
    let mail = world.mail_to(ANN).await;
    assert_eq!(mail.subject, "Confirm your email address");
    assert!(
        mail.text.contains("Hello <b>Ann</b>") && mail.text.contains("A & \"B\" {{ link }}"),
        "{}",
        mail.text
    );
    assert!(mail.html.contains("&lt;b&gt;Ann") && !mail.html.contains("<b>Ann"), "{}", mail.html);
    assert!(mail.header("Message-ID").unwrap().contains("job_"), "{:?}", mail.headers);
    assert_eq!(mail.header("Auto-Submitted"), Some("auto-generated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_a_known_email_answers_the_same_and_notifies_its_owner() {
    let world = World::new().await;
    let (api, _worker) = (world.env.spawn_api_with(QUICK).await, world.worker().await);
    world.register(&api, ANN).await;
    world.verify(&api, &world.mail_to(ANN).await).await;
    world.register(&api, "ANN@example.com").await;
    let told = world
        .env
        .mail()
        .wait_for(|mail| mail.subject == "You already have an account", DEADLINE)
        .await;
    assert_eq!(told.to, [ANN]);
    assert!(!told.text.contains("token="), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn requesting_again_at_once_sends_no_second_mail_and_answers_the_same() {
    let world = World::new().await;
    let (api, _worker) = (world.env.spawn_api_with(QUICK).await, world.worker().await);
    world.register(&api, ANN).await;
    world.mail_to(ANN).await;
    world.until_nothing_is_due().await;
    for email in [ANN, "stranger@example.com"] {
        let (status, answer) =
            world.post(&api, "/api/auth/verify-email/resend", json!({ "email": email })).await;
        assert_eq!(
            (status, answer),
            (StatusCode::ACCEPTED, json!({ "status": "verification_email_sent" }))
        );
    }
    world.until_nothing_is_due().await;
    assert_eq!(world.env.mail().messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requesting_again_after_the_cooldown_sends_the_same_link() {
    let world = World::new().await;
    let settings = [QUICK, &[("TENANTRY__AUTH__RESEND_COOLDOWN", "1ms")]].concat();
    let (api, _worker) =
        (world.env.spawn_api_with(&settings).await, world.env.spawn_worker_with(&settings).await);
    world.register(&api, ANN).await;
    let first = world.mail_to(ANN).await;
    world.until_nothing_is_due().await;
    world.post(&api, "/api/auth/verify-email/resend", json!({ "email": ANN })).await;
    world.until_nothing_is_due().await;
    let mails = world.env.mail().messages();
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].text, first.text);
    world.verify(&api, &mails[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_works_without_redis_and_the_mail_arrives_when_it_is_back() {
    let world = World::with_own_redis().await;
    let (api, worker) = (world.env.spawn_api_with(QUICK).await, world.worker().await);
    world.env.redis().stop().await;
    world.register(&api, ANN).await;
    world.env.redis().start_again().await.unwrap();
    world.mail_to(ANN).await;
    assert_eq!(worker.status(), None, "the worker keeps running: {}", worker.log_tail(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_killed_between_commit_and_enqueueing_loses_no_mail() {
    let world = World::new().await;
    let redis =
        world.env.redis_url().trim_start_matches("redis://").trim_end_matches('/').parse().unwrap();
    let proxy = Proxy::start(redis).await.unwrap();
    // The API's connection to Redis drops everything, so committed jobs cannot be enqueued.
    proxy.blackhole();
    let through_proxy = format!("redis://{}", proxy.addr());
    let settings = [QUICK, &[("TENANTRY__REDIS__URL", through_proxy.as_str())]].concat();
    let api = world.env.spawn_api_with(&settings).await;
    world.register(&api, ANN).await;
    api.kill().await;
    assert_eq!(world.store.records::<OutboxRow>(PlatformScope).count(doc! {}).await.unwrap(), 1);
    let _worker = world.worker().await;
    world.mail_to(ANN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_sending_is_replaced_and_both_mails_have_one_id() {
    let world = World::new().await;
    let (api, first) = (world.env.spawn_api_with(QUICK).await, world.worker().await);
    // The server accepts the mail without answering, so the worker cannot know that it arrived.
    world.env.mail().reply(Reply::Hold);
    world.register(&api, ANN).await;
    let sent = world.mail_to(ANN).await;
    first.kill().await;
    world.env.mail().reply(Reply::Accept);
    let _second = world.worker().await;
    world.until_nothing_is_due().await;
    let mails = world.env.mail().messages();
    assert!(mails.len() >= 2, "the mail was sent again");
    assert!(mails.iter().all(|mail| mail.header("Message-ID") == sent.header("Message-ID")));
    world.verify(&api, &mails[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_is_retried_until_the_mail_server_is_back() {
    let world = World::new().await;
    let (api, worker) = (world.env.spawn_api_with(QUICK).await, world.worker().await);
    world.env.mail().stop().await;
    world.register(&api, ANN).await;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let failed_twice = async {
        while worker.log().matches("job_retried").count() < 2 {
            looks.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, failed_twice).await.expect("sending is retried");
    world.env.mail().start_again().await.unwrap();
    world.mail_to(ANN).await;
    world.until_nothing_is_due().await;
    assert_eq!(world.env.mail().messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanently_rejected_mail_becomes_a_dead_letter_that_can_be_retried() {
    let world = World::new().await;
    let (api, worker) = (world.env.spawn_api_with(QUICK).await, world.worker().await);
    world.env.mail().reply(Reply::Refuse(550));
    world.register(&api, ANN).await;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let dead = async {
        while world
            .store
            .records::<OutboxRow>(PlatformScope)
            .count(doc! { "dead_at": { "$ne": null } })
            .await
            .unwrap()
            == 0
        {
            looks.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, dead).await.expect("it is dead");
    assert!(!worker.log().contains("job_retried"));

    // The operator inspects it, fixes the cause, and retries it.
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(program("worker"));
        let ran = command.args(args).env_clear().envs(world.env.config_env()).output().unwrap();
        assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    assert!(run(&["jobs", "list"]).contains("registration.send_verification"));
    assert!(
        run(&["jobs", "retry", "--error", "550", "--dry-run"]).contains("1 job would be retried")
    );
    world.env.mail().reply(Reply::Accept);
    assert!(run(&["jobs", "retry", "--error", "550"]).contains("1 job will be retried"));
    world.mail_to(ANN).await;
    world.until_nothing_is_due().await;
    assert!(run(&["jobs", "list"]).is_empty());
    assert!(run(&["queues"]).contains("email"));
    assert!(!worker.log().contains(ANN), "email addresses are not logged: {}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complaint_leads_to_the_job_of_the_mail() {
    const REQUEST: &str = "complaint-4711";
    let world = World::new().await;
    let (api, _worker) = (world.env.spawn_api_with(QUICK).await, world.worker().await);
    world.env.mail().reply(Reply::Refuse(550));
    world.register(&api, "somebody.else@example.com").await;
    let body = json!({ "email": ANN, "password": "correct horse battery", "name": "Ann", "tenant_name": "Acme" });
    let register = world.client.post(format!("{}/api/auth/register", api.url())).json(&body);
    let answer = register.header("x-request-id", REQUEST).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);

    let lines = |program_name: &str, args: &[&str]| -> Vec<Value> {
        let mut command = std::process::Command::new(program(program_name));
        let command = command.args(args).arg("--json").env_clear().envs(world.env.config_env());
        let ran = command.output().unwrap();
        assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        let output = String::from_utf8(ran.stdout).unwrap();
        output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let by_request = async {
        loop {
            let found = lines("worker", &["jobs", "list", "--request", REQUEST]);
            if found.iter().any(|job| job["state"] == "dead") {
                return found;
            }
            looks.tick().await;
        }
    };
    let by_request = tokio::time::timeout(DEADLINE, by_request).await.expect("it is dead");
    assert_eq!(by_request.len(), 1, "only the jobs of the request: {by_request:?}");
    let by_address = lines("api", &["registrations", "find", ANN]);
    assert_eq!(by_address[0]["jobs"], json!([by_request[0]["id"]]));
    let shown = lines("worker", &["jobs", "show", by_request[0]["id"].as_str().unwrap()]);
    assert!(shown[0]["error"].as_str().unwrap().contains("550"), "{shown:?}");
    assert!(lines("worker", &["jobs", "list", "--request", "another"]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_mails_survive_a_flush_and_restart_of_redis_with_the_same_worker() {
    let world = World::with_own_redis().await;
    let api = world.env.spawn_api_with(QUICK).await;
    let people: Vec<String> = (0..5).map(|n| format!("person{n}@example.com")).collect();
    for person in &people {
        world.register(&api, person).await;
    }
    let client = redis::Client::open(world.env.redis_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    let worker = world.worker().await;
    for person in &people {
        world.mail_to(person).await;
    }
    for round in 0..3 {
        world.env.redis().stop().await;
        world.env.redis().start_again().await.unwrap();
        let person = format!("later{round}@example.com");
        world.register(&api, &person).await;
        world.mail_to(&person).await;
    }
    assert_eq!(worker.status(), None, "the worker keeps running: {}", worker.log_tail(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_drains_and_exits_0() {
    let world = World::new().await;
    let (api, worker) = (world.env.spawn_api_with(QUICK).await, world.worker().await);
    for n in 0..10 {
        world.register(&api, &format!("person{n}@example.com")).await;
    }
    let status = worker.stop_within(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}: {}", worker.log_tail(20));
    let _next = world.worker().await;
    world.until_nothing_is_due().await;
    assert_eq!(world.env.mail().messages().len(), 10);
}
