//! `worker queues`, `worker jobs` and `worker batches` against a running worker.
use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use common::{
    clock::Clock,
    crypto::{Hasher, Password},
    db::{Change, DbError, PlatformScope, Txn},
    id::{BatchId, JobId, RegistrationId, TenantId},
    name::Name,
    origin::{Origin, Principal},
};
use domain::{
    activity::{Recorded, TrailFilter},
    identity::registrations::{NewRegistration, Register, SendVerification},
    queues,
    tenancy::tenants::Tenant,
};
use jobs::{
    Jobs,
    batches::{BatchError, NewBatch},
    history::HistoryEntry,
};
use mongodb::bson::doc;
use serde_json::Value;
use testkit::testing::TestEnv;

use crate::support::{config, prepared, store};

const DEADLINE: Duration = Duration::from_mins(1);
const KIND: &str = "registration.send_verification";

/// Mails of one kind to one email address are an hour apart.
/// Attempts are so far apart that no second one comes by itself.
const PATIENT: &[(&str, &str)] =
    &[("TENANTRY__JOBS__BACKOFF_BASE", "7d"), ("TENANTRY__JOBS__BACKOFF_MAX", "7d")];

const KEPT: &[(&str, &str)] = &[("TENANTRY__JOBS__HISTORY_TTL", "1h")];

/// An operator's shell beside an installation.
struct Shell {
    env: TestEnv,
    settings: &'static [(&'static str, &'static str)],
    jobs: Jobs,
}

impl Shell {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &'static [(&'static str, &'static str)]) -> Self {
        let env = prepared().await;
        let (config, store) = (config(&env), store(&env).await);
        let jobs = Jobs::start(store, &config.redis, &config.jobs).unwrap();
        Self { env, settings, jobs }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command
            .args(args)
            .env_clear()
            .envs(self.env.config_env())
            .envs(self.settings.iter().copied());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panicked"), "{args:?}: {errors}");
        output
    }

    /// Output of a command, which must succeed.
    fn output(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The JSON objects that a command prints, one per line.
    fn json_lines(&self, args: &[&str]) -> Vec<Value> {
        self.output(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Exit code and error output of a command, which must fail.
    fn refused(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Output and error output of a command, which must succeed.
    fn both(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {errors}");
        (String::from_utf8(output.stdout).unwrap(), errors)
    }

    /// Registers, and waits until the mail has failed once because its recipient is refused.
    /// Returns the id of its job.
    async fn failed_job(&self) -> String {
        let config = config(&self.env);
        let hasher = Hasher::new(1, DEADLINE).unwrap();
        let password = Password::chosen("k7!vq-Zr2#mXw9&".to_owned()).unwrap();
        let new = NewRegistration {
            email: "ada@example.com".parse().unwrap(),
            name: "Ada".parse().unwrap(),
            tenant_name: "Engines".parse().unwrap(),
            password_hash: hasher.hash(password).await.unwrap(),
        };
        let register =
            Register { key: &config.auth.master_key, new, ttl: Duration::from_hours(24) };
        self.env.mail().refuse("ada@example.com", 451);
        self.jobs.commit(&Origin::system(), &register).await.unwrap();
        let failed = ["jobs", "list", "--state", "delayed", "--error", "451", "--json"];
        self.until(&failed, |listed| !listed.is_empty()).await;
        self.json_lines(&failed)[0]["id"].as_str().unwrap().to_owned()
    }

    /// Action, reason and targets of every event of an operator, newest first.
    async fn recorded_actions(&self) -> Vec<(&'static str, Option<String>, Vec<String>)> {
        let filter = TrailFilter { actor: Some(Principal::Operator), ..TrailFilter::default() };
        let events = Recorded::on_platform(self.jobs.store(), &filter, 100).await.unwrap();
        let event = |event: Recorded| {
            let context = event.context.unwrap();
            assert!(context.name.is_some_and(|name| !name.is_empty()));
            let reason = context.reason.map(|reason| reason.to_string());
            (event.deed.action.known().unwrap().name(), reason, event.deed.targets)
        };
        events.into_iter().map(event).collect()
    }

    /// Enqueues a job whose registration does not exist: it runs and finds nothing to do.
    async fn enqueue(&self, delay: Duration) -> String {
        let registration: RegistrationId = Clock::system().id();
        self.jobs
            .enqueue_unstaged_in(None, &SendVerification { registration }, delay)
            .await
            .unwrap()
            .to_string()
    }

    /// Enqueues a job of a tenant, due in an hour.
    async fn enqueue_for(&self, tenant: TenantId) -> String {
        let job = SendVerification { registration: Clock::system().id() };
        let hour = Duration::from_hours(1);
        self.jobs.enqueue_unstaged_in(Some(tenant), &job, hour).await.unwrap().to_string()
    }

    /// Creates a tenant.
    async fn tenant(&self, name: &str) -> TenantId {
        let name = name.parse().unwrap();
        self.jobs.commit(&Origin::system(), &NewTenant(name)).await.unwrap()
    }

    /// Writes progress as the job's handler would.
    async fn write_progress(&self, job: &str, record: &str) {
        let mut redis = redis::Client::open(self.env.redis_url())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let key = format!("{}:progress:{job}", self.env.key_prefix());
        let _: () = redis::cmd("SET").arg(key).arg(record).query_async(&mut redis).await.unwrap();
    }

    /// Adds bytes to the queue that no release would write.
    async fn enqueue_poison(&self) {
        let mut redis = redis::Client::open(self.env.redis_url())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let stream = format!("{{{}:email}}:stream", self.env.key_prefix());
        let bytes = "\u{1b}[2Jgarbage\nof two lines";
        let _: String = redis::cmd("XADD")
            .arg(stream)
            .arg("*")
            .arg("e")
            .arg(bytes)
            .query_async(&mut redis)
            .await
            .unwrap();
    }

    /// Waits until the output of a command matches.
    async fn until(&self, args: &[&str], wanted: impl Fn(&str) -> bool) {
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        let waiting = async {
            while !wanted(&self.output(args)) {
                looks.tick().await;
            }
        };
        assert!(
            tokio::time::timeout(DEADLINE, waiting).await.is_ok(),
            "{args:?} prints {}",
            self.output(args)
        );
    }
}

/// Creates a tenant with this name.
struct NewTenant(Name);

impl Change for NewTenant {
    type Output = TenantId;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<TenantId, DbError> {
        Ok(Tenant::create(txn, &self.0, None).await?.id)
    }
}

/// Stages a batch of this many jobs without a registration.
struct StageBatch(usize);

impl Change for StageBatch {
    type Output = BatchId;
    type Error = BatchError;

    async fn apply(&self, txn: &mut Txn) -> Result<BatchId, BatchError> {
        let nothing = SendVerification { registration: txn.clock().id() };
        let mut batch = NewBatch::new(txn.clock(), None);
        for _ in 0..self.0 {
            batch.add(&nothing)?;
        }
        batch.stage(txn, &nothing).await
    }
}

fn stats(shell: &Shell) -> Value {
    serde_json::from_str(&shell.output(&["queues", "stats", "email", "--json"])).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pauses_inspects_and_resumes_a_queue() {
    let shell = Shell::new().await;
    let worker = shell.env.spawn_worker().await;
    assert!(
        shell
            .output(&["queues"])
            .lines()
            .any(|line| line.starts_with("email ") && line.ends_with("active"))
    );
    let paused = shell.output(&["queues", "pause", "email", "--reason", "the mail server moves"]);
    assert_eq!(paused, "email is paused: the mail server moves\n");
    assert!(shell.output(&["queues"]).contains("paused since 2"));
    let again = shell.run(&["queues", "pause", "email", "--reason", "another"]);
    let (told, logged) =
        (String::from_utf8(again.stdout).unwrap(), String::from_utf8(again.stderr).unwrap());
    assert!(
        told.starts_with("email has been paused since 2") && told.contains(": the mail server"),
        "{told}"
    );
    assert!(
        again.status.success()
            && logged.contains("queue_already_paused")
            && !logged.contains("queue_pause_requested"),
        "{logged}"
    );
    for reason in ["", " ", "the mail server\u{1b}[31m moves"] {
        let (code, told) = shell.refused(&["queues", "pause", "maintenance", "--reason", reason]);
        assert!(code == 2 && told.contains("visible characters"), "{told}");
    }
    let (code, told) = shell.refused(&["queues", "pause", "mail", "--reason", "x"]);
    assert!(code == 2 && told.contains("possible values: email, maintenance"), "{told}");
    assert!(
        shell
            .output(&["queues", "pause", "--help"])
            .contains("possible values: email, maintenance")
    );
    let metrics = format!("{}/metrics", worker.internal_url());
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let shut = async {
        while !reqwest::get(&metrics)
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains("tenantry_jobs_paused{queue=\"email\"} 1")
        {
            looks.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, shut).await.expect("the worker notices the pause");
    let shown = reqwest::get(&metrics).await.unwrap().text().await.unwrap();
    assert!(shown.contains("tenantry_jobs_duplicates_total{queue=\"maintenance\"} 0"), "{shown}");

    let job = shell.enqueue(Duration::ZERO).await;
    let listed = shell.output(&["jobs", "list", "--state", "ready"]);
    assert!(
        listed.lines().count() == 1 && listed.contains(&job) && listed.contains(KIND),
        "{listed}"
    );
    assert_eq!(
        (stats(&shell)["ready"].as_u64(), stats(&shell)["queue"].as_str()),
        (Some(1), Some("email"))
    );
    let shown = shell.output(&["jobs", "show", &job]);
    assert!(
        shown.contains("state     ready since 2")
            && shown.contains("payload   {\"registration\":\"reg_"),
        "{shown}"
    );
    // Only `show` prints payloads.
    assert!(!shell.output(&["jobs", "list", "--state", "ready", "--json"]).contains("reg_"));

    assert_eq!(shell.output(&["queues", "resume", "email"]), "email is resumed\n");
    shell.until(&["jobs", "list", "--state", "ready", "--state", "running"], str::is_empty).await;
    assert_eq!(shell.output(&["queues", "resume", "email"]), "email was not paused\n");
    let email = || vec!["email".to_owned()];
    assert_eq!(
        shell.recorded_actions().await,
        [
            ("queue.resumed", None, email()),
            ("queue.paused", Some("the mail server moves".to_owned()), email()),
        ],
        "commands without effect record no event"
    );
    let stats = shell.output(&["queues", "stats", "email"]);
    assert!(stats.starts_with("email      active\n") && stats.contains("\nconsumer   "), "{stats}");
    let (code, told) = shell.refused(&["jobs", "show", &job]);
    assert!(
        code == 1 && told.contains("it has ended") && told.contains("the history is off"),
        "{told}"
    );
    assert!(worker.stop_within(DEADLINE).await.success(), "{}", worker.log_tail(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_retried_cancelled_and_deleted_without_naming_their_queue() {
    let shell = Shell::new().await;
    let worker = shell.env.spawn_worker().await;
    let hour = Duration::from_hours(1);
    let (delayed, cancelled) = (shell.enqueue(hour).await, shell.enqueue(hour).await);
    let by_filter = shell.enqueue(hour).await;

    assert!(
        shell
            .output(&["jobs", "run-now", &delayed, "--dry-run"])
            .ends_with("1 job would run now\n")
    );
    assert!(shell.output(&["jobs", "show", &delayed]).contains("state     delayed, due 2"));
    assert_eq!(
        shell.output(&["jobs", "run-now", &delayed, "--reason", "Asked for"]),
        "1 job will run now\n"
    );
    let nobody: JobId = Clock::system().id();
    let (code, told) =
        shell.refused(&["jobs", "cancel", &cancelled, &nobody.to_string(), "--reason", "Obsolete"]);
    assert!(
        code == 1
            && told.contains("not found")
            && told.contains("1 of the given jobs could not be cancelled"),
        "{told}"
    );
    assert!(told.contains("removed"), "cancelling is logged: {told}");
    assert!(
        shell
            .output(&[
                "jobs",
                "cancel",
                "--kind",
                KIND,
                "--older-than",
                "1h",
                "--reason",
                "Obsolete"
            ])
            .starts_with("0 jobs will not run")
    );
    let dry = shell.output(&["jobs", "cancel", "--kind", KIND, "--state", "delayed", "--dry-run"]);
    assert!(dry.contains(&by_filter) && !dry.contains(&cancelled), "{dry}");
    assert!(
        shell
            .output(&["jobs", "cancel", "--kind", KIND, "--reason", "Obsolete"])
            .starts_with("1 job will not run")
    );
    shell
        .until(
            &["jobs", "list", "--state", "delayed", "--state", "ready", "--state", "running"],
            str::is_empty,
        )
        .await;

    shell.enqueue_poison().await;
    shell.until(&["jobs", "list"], |said| said.lines().count() == 1).await;
    let listed = shell.output(&["jobs", "list"]);
    assert!(listed.contains("email  dead") && !listed.contains('\u{1b}'), "{listed}");
    let retried = shell.run(&["jobs", "retry", "--all"]);
    assert!(String::from_utf8(retried.stdout).unwrap().starts_with("0 jobs will"));
    assert!(
        !String::from_utf8(retried.stderr).unwrap().contains("dead_letters_replayed"),
        "nothing was replayed"
    );
    assert!(
        shell
            .output(&["jobs", "delete", "--all", "--dry-run"])
            .ends_with("1 dead letter would be deleted\n")
    );
    let deleted = shell.run(&["jobs", "delete", "--all", "--reason", "Not ours"]);
    assert_eq!(String::from_utf8(deleted.stdout).unwrap(), "1 dead letter deleted\n");
    assert!(
        String::from_utf8(deleted.stderr).unwrap().contains("dead_letter_deleted"),
        "deletion is logged"
    );
    assert!(shell.output(&["jobs", "list"]).is_empty());
    let reason = |text: &str| Some(text.to_owned());
    let email = || "email".to_owned();
    assert_eq!(
        shell.recorded_actions().await,
        [
            ("job.deleted", reason("Not ours"), vec![email()]),
            ("job.cancelled", reason("Obsolete"), vec![email(), by_filter]),
            ("job.cancelled", reason("Obsolete"), vec![email(), cancelled]),
            ("job.run_now", reason("Asked for"), vec![email(), delayed]),
        ]
    );
    assert!(worker.stop_within(DEADLINE).await.success(), "{}", worker.log_tail(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_selections_and_missing_reasons_are_refused() {
    let shell = Shell::new().await;
    let job = shell.enqueue(Duration::from_hours(1)).await;
    for args in [
        &["jobs", "delete", "--reason", "x"][..],
        &["jobs", "delete", "--all"],
        &["jobs", "retry"],
        &["jobs", "cancel", "--reason", "x"],
        &["jobs", "cancel", "--all"],
        &["jobs", "run-now", "--reason", "x"],
        &["jobs", "run-now", &job],
        &["jobs", "show", "usr_1"],
        &["jobs", "list", "--limit", "0"],
    ] {
        assert_eq!(shell.refused(args).0, 2, "{args:?}");
    }
    for command in ["retry", "cancel", "delete"] {
        for filter in [&["--kind", "other.kind"][..], &["--all"], &["--queue", "email"]] {
            let named = ["jobs", command, &job, "--reason", "x"];
            let (code, told) = shell.refused(&[&named, filter].concat());
            assert!(code == 2 && told.contains("not both"), "{command} {filter:?}: {told}");
        }
    }
    let stateful = ["jobs", "cancel", &job, "--state", "ready", "--reason", "x"];
    assert_eq!(shell.refused(&stateful).0, 2);
    assert!(shell.output(&["jobs", "show", &job]).contains("state     delayed, due 2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_jobs_that_failed_are_retried() {
    let shell = Shell::new().await;
    let worker = shell.env.spawn_worker_with(PATIENT).await;
    let scheduled = shell.enqueue(Duration::from_hours(1)).await;
    let failed = shell.failed_job().await;
    let numbers = stats(&shell);
    assert_eq!(
        ["delayed", "due", "retrying", "scheduled"].map(|name| numbers[name].as_u64()),
        [Some(2), Some(0), Some(1), Some(1)],
        "{numbers}"
    );

    let retry = ["jobs", "retry", "--state", "delayed", "--kind", KIND];
    let (would, alone) = shell.both(&[&retry[..], &["--dry-run"]].concat());
    assert!(would.contains(&failed) && would.ends_with("1 job would be retried\n"), "{would}");
    assert!(!would.contains(&scheduled), "{would}");
    assert!(alone.contains("1 scheduled job was left alone; see `worker jobs run-now`"), "{alone}");
    let (did, alone) = shell.both(&[&retry[..], &["--reason", "The mail server is up"]].concat());
    assert_eq!(did, "1 job will be retried\n");
    assert!(alone.contains("1 scheduled job was left alone"), "{alone}");
    let (code, told) = shell.refused(&["jobs", "retry", &scheduled]);
    assert!(code == 1 && told.contains(&format!("`worker jobs run-now {scheduled}`")), "{told}");
    let attempted = ["jobs", "list", "--state", "delayed", "--error", "451"];
    shell.until(&attempted, |listed| listed.contains("attempt=3")).await;
    assert!(shell.output(&["jobs", "show", &scheduled]).contains("state     delayed, due 2"));
    assert_eq!(shell.output(&["jobs", "retry", &failed]), "1 job will be retried\n");

    let targets = || vec!["email".to_owned(), failed.clone()];
    assert_eq!(
        shell.recorded_actions().await,
        [
            ("job.retried", None, targets()),
            ("job.retried", Some("The mail server is up".to_owned()), targets()),
        ]
    );
    assert!(worker.stop_within(DEADLINE).await.success(), "{}", worker.log_tail(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_ends_a_command_quietly() {
    let shell = Shell::new().await;
    for args in [
        &["queues"][..],
        &["queues", "--json"],
        &["schedules"],
        &["jobs", "list"],
        &["queues", "resume", "email"],
        &["--check-config"],
        &["--help"],
    ] {
        let mut ended = shell.command(args);
        let mut ended = ended.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(ended.stdout.take());
        let output = ended.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {errors}");
        for word in ["panicked", "pipe", "worker:"] {
            assert!(!errors.contains(word), "{args:?}: {errors}");
        }
        // Neither does it matter to whom it would explain something.
        let mut ended = shell.command(args);
        let mut ended = ended.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(ended.stderr.take());
        assert!(ended.wait().unwrap().success(), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_name_what_exists() {
    let shell = Shell::new().await;
    let typo = "registration.send_verificaton";
    for args in [
        &["jobs", "list"][..],
        &["jobs", "list", "--state", "ready"],
        &["jobs", "history"],
        &["jobs", "retry"],
        &["jobs", "retry", "--state", "delayed"],
        &["jobs", "cancel", "--reason", "x"],
        &["jobs", "delete", "--reason", "x"],
    ] {
        let (code, told) = shell.refused(&[args, &["--kind", typo]].concat());
        assert!(code == 2 && told.contains(&format!("there is no kind `{typo}`")), "{told}");
        assert!(told.contains(KIND), "{args:?}: {told}");
        let (code, told) = shell.refused(&[args, &["--queue", "emails"]].concat());
        assert!(code == 2 && told.contains("email, maintenance"), "{args:?}: {told}");
        let output = shell.run(&[args, &["--kind", KIND]].concat());
        assert!(output.status.success(), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_named_by_id_or_short_name_and_must_exist() {
    let shell = Shell::with(KEPT).await;
    let tenant = shell.tenant("Engines").await;
    let job = shell.enqueue_for(tenant).await;
    shell.enqueue(Duration::from_hours(1)).await;
    let list = ["jobs", "list", "--state", "delayed", "--tenant"];
    for name in [tenant.to_string().as_str(), "engines"] {
        let listed = shell.output(&[&list[..], &[name]].concat());
        assert!(listed.lines().count() == 1 && listed.contains(&job), "{listed}");
    }
    let other = shell.tenant("Other").await.to_string();
    let nobody: TenantId = Clock::system().id();
    for args in [
        &["jobs", "list"][..],
        &["jobs", "history"],
        &["jobs", "retry"],
        &["jobs", "cancel", "--reason", "x"],
        &["jobs", "delete", "--reason", "x"],
    ] {
        for name in [nobody.to_string().as_str(), "nobodys"] {
            let (code, told) = shell.refused(&[args, &["--tenant", name]].concat());
            assert!(code == 1 && told.contains("`api tenants find`"), "{args:?}: {told}");
        }
        assert_eq!(shell.refused(&[args, &["--tenant", "No Body"]].concat()).0, 2, "{args:?}");
        shell.both(&[args, &["--tenant", &other]].concat());
    }
    // Jobs of a tenant that is gone can be controlled.
    let gone = shell.enqueue_for(nobody).await;
    let listed = shell.output(&[&list[..], &[&nobody.to_string()]].concat());
    assert!(listed.contains(&gone), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_jobs_is_continued_page_by_page() {
    let shell = Shell::new().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(shell.enqueue(Duration::from_hours(1)).await);
    }
    for _ in 0..2 {
        jobs.push(shell.enqueue(Duration::ZERO).await);
    }
    let first = [
        "jobs",
        "list",
        "--state",
        "delayed",
        "--state",
        "ready",
        "--kind",
        KIND,
        "--older-than",
        "1ms",
        "--limit",
        "2",
    ];
    for form in [&[][..], &["--json"]] {
        let mut args: Vec<String> =
            [&first, form].concat().into_iter().map(str::to_owned).collect();
        let mut seen = Vec::new();
        loop {
            let args_now: Vec<&str> = args.iter().map(String::as_str).collect();
            let (page, told) = shell.both(&args_now);
            let listed = jobs.iter().filter(|job| page.contains(*job)).cloned();
            let listed: Vec<String> = listed.collect();
            assert_eq!(page.lines().count(), listed.len(), "{page}");
            seen.extend(listed);
            let Some((_, next)) = told.split_once("there may be more: worker ") else { break };
            args = next.split_whitespace().map(str::to_owned).collect();
            assert_eq!(args.contains(&"--json".to_owned()), !form.is_empty(), "{next}");
        }
        assert_eq!(seen, jobs, "{form:?}");
    }
    let nobody: JobId = Clock::system().id();
    for (state, after) in [("delayed", nobody.to_string()), ("dead", jobs[0].clone())] {
        let args = ["jobs", "list", "--state", state, "--after", &after];
        let (code, told) = shell.refused(&args);
        assert!(code == 1 && told.contains("start again without --after"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_named_twice_is_one_job() {
    let shell = Shell::new().await;
    let worker = shell.env.spawn_worker_with(PATIENT).await;
    let (failed, waiting) =
        (shell.failed_job().await, shell.enqueue(Duration::from_hours(1)).await);
    for (command, job, wanted) in [
        ("retry", &failed, "1 job would be retried"),
        ("run-now", &failed, "1 job would run now"),
        ("cancel", &waiting, "1 job would be cancelled"),
    ] {
        let shown = shell.output(&["jobs", command, job, job, "--dry-run"]);
        assert!(shown.matches(job.as_str()).count() == 1 && shown.contains(wanted), "{shown}");
    }
    let delete = ["jobs", "delete", &waiting, &waiting, "--reason", "x"];
    let (_, told) = shell.refused(&delete);
    assert!(told.contains("1 of the given jobs could not be deleted"), "{told}");
    assert!(worker.stop_within(DEADLINE).await.success(), "{}", worker.log_tail(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_result_says_so_beside_the_output() {
    let shell = Shell::new().await;
    let kept = Shell { settings: KEPT, ..Shell::new().await };
    for (shell, args, wanted) in [
        (&shell, &["jobs", "list"][..], "there are no dead jobs"),
        (
            &shell,
            &["jobs", "list", "--state", "ready", "--state", "held", "--kind", KIND],
            "there are no ready or held jobs that match",
        ),
        (&shell, &["jobs", "history"], "the history is off"),
        (&kept, &["jobs", "history"], "no history entry matches"),
        (&shell, &["batches", "list"], "there are no batches"),
    ] {
        for args in [args.to_vec(), [args, &["--json"]].concat()] {
            let (output, told) = shell.both(&args);
            assert!(output.is_empty() && told.contains(wanted), "{args:?}: {output}{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_result_is_available_as_json() {
    let shell = Shell::new().await;
    let hour = Duration::from_hours(1);
    let (job, other) = (shell.enqueue(hour).await, shell.enqueue(hour).await);
    let batch = shell.jobs.commit(&Origin::system(), &StageBatch(0)).await.unwrap().to_string();
    let reason = ["--reason", "test", "--json"];
    let fields = |args: &[&str]| -> Vec<String> {
        let printed = shell.json_lines(args);
        let first = printed.first().unwrap_or_else(|| panic!("{args:?} printed nothing"));
        let mut names: Vec<String> = first.as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        names
    };
    let queue = [
        "dead",
        "delayed",
        "due",
        "held",
        "oldest_ms",
        "paused",
        "queue",
        "ready",
        "retrying",
        "running",
        "scheduled",
    ];
    assert_eq!(fields(&["queues", "--json"]), queue);
    assert_eq!(fields(&["--json", "queues", "list"]), queue);
    let changed = ["changed", "paused", "queue"];
    assert_eq!(fields(&[&["queues", "pause", "email"], &reason[..]].concat()), changed);
    assert_eq!(fields(&[&["queues", "resume", "email"], &reason[..]].concat()), changed);
    let stats = fields(&["queues", "stats", "email", "--json"]);
    assert!(stats.contains(&"consumers".to_owned()) && stats.contains(&"outbox".to_owned()));
    assert_eq!(
        fields(&["schedules", "--json"]),
        ["cron", "last_tick", "missed_ticks", "next_tick", "schedule"]
    );
    let listed = fields(&["jobs", "list", "--state", "delayed", "--json"]);
    assert!(listed.contains(&"id".to_owned()) && listed.contains(&"until".to_owned()));
    assert!(fields(&["jobs", "show", &job, "--json"]).contains(&"payload".to_owned()));
    assert_eq!(fields(&["jobs", "run-now", &job, "--dry-run", "--json"]), listed);
    assert_eq!(fields(&[&["jobs", "run-now", &job], &reason[..]].concat()), ["refused", "run_now"]);
    assert_eq!(
        fields(&[&["jobs", "cancel", &other], &reason[..]].concat()),
        ["ended", "refused", "removed", "stop_requested"]
    );
    assert_eq!(
        fields(&["jobs", "retry", "--all", "--json"]),
        ["left_alone", "refused", "retried", "unreadable"]
    );
    assert_eq!(
        fields(&[&["jobs", "delete", "--all"], &reason[..]].concat()),
        ["deleted", "refused"]
    );
    let batches = fields(&["batches", "list", "--json"]);
    assert_eq!(fields(&["batches", "show", &batch, "--json"]), batches);
    assert_eq!(fields(&["--check-config", "--json"]), ["from", "key", "value"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_jobs_is_listed_and_shown_if_kept() {
    let shell = Shell::with(KEPT).await;
    // The worker's schedules enqueue here, and their jobs would be in the history.
    shell.jobs.pause(queues::MAINTENANCE, "the test counts entries").await.unwrap();
    let worker = shell.env.spawn_worker_with(KEPT).await;
    let (done, cancelled) =
        (shell.enqueue(Duration::ZERO).await, shell.enqueue(Duration::from_hours(1)).await);
    shell.until(&["jobs", "history"], |said| said.lines().count() == 1).await;
    assert!(
        shell
            .output(&["jobs", "cancel", &cancelled, "--reason", "Obsolete"])
            .starts_with("1 job will not run")
    );
    let listed = shell.output(&["jobs", "history"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(
        lines.len() == 2
            && lines[0].contains(&format!("{cancelled}  email  cancelled  {KIND}  attempts=0")),
        "{listed}"
    );
    assert!(
        lines[1].contains(&format!("{done}  email  success  {KIND}  attempts=1  took ")),
        "{listed}"
    );

    let ids = |args: &[&str]| -> Vec<String> {
        let entries = shell.json_lines(&[&["jobs", "history", "--json"], args].concat());
        entries.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        ids(&["--outcome", "cancelled", "--queue", "email", "--kind", KIND]),
        [cancelled.as_str()]
    );
    assert_eq!(ids(&["--limit", "1"]), [cancelled.as_str()]);
    // The last one continues the list, even if both ended in the same millisecond.
    let same = doc! { "$set": { "finished_at": Clock::system().now() } };
    shell
        .jobs
        .store()
        .records::<HistoryEntry>(PlatformScope)
        .update_all(doc! {}, same)
        .await
        .unwrap();
    let page = shell.run(&["jobs", "history", "--kind", KIND, "--limit", "1"]);
    let (page, next) =
        (String::from_utf8(page.stdout).unwrap(), String::from_utf8(page.stderr).unwrap());
    let next = next.trim_end().split_once("worker ").unwrap().1;
    assert!(
        page.contains(&cancelled)
            && next == format!("jobs history --kind {KIND} --limit 1 --after {cancelled}"),
        "{page}{next}"
    );
    assert!(shell.output(&next.split(' ').collect::<Vec<_>>()).contains(&done));
    assert!(ids(&["--after", &done]).is_empty());
    for args in [["--queue", "maintenance"], ["--older-than", "1h"], ["--outcome", "dead"]] {
        assert!(ids(&args).is_empty(), "{args:?}");
    }
    assert_eq!(ids(&[&done, &done]), [done.as_str()]);
    let nobody: JobId = Clock::system().id();
    let (code, told) =
        shell.refused(&["jobs", "history", &done, &nobody.to_string(), &nobody.to_string()]);
    assert!(
        code == 1
            && told.matches(&format!("{nobody} has no matching history entry")).count() == 1
            && !told.contains(&done),
        "{told}"
    );
    assert_eq!(shell.refused(&["jobs", "history", "--after", &nobody.to_string()]).0, 1);
    for args in [["--outcome", "lost"], ["--after", "yesterday"], ["--limit", "0"]] {
        assert_eq!(shell.refused(&[&["jobs", "history"], &args[..]].concat()).0, 2, "{args:?}");
    }

    let shown = shell.output(&["jobs", "show", &done]);
    assert!(
        shown.contains("state     ended 2")
            && shown.contains(": success\n")
            && shown.contains("attempts  1\n"),
        "{shown}"
    );
    let shown: Value =
        serde_json::from_str(&shell.output(&["jobs", "show", &cancelled, "--json"])).unwrap();
    assert_eq!(
        (shown["outcome"].as_str(), shown["attempts"].as_u64()),
        (Some("cancelled"), Some(0))
    );
    let (ended, enqueued) =
        (shown["finished_at"].as_str().unwrap(), shown["enqueued_at"].as_str().unwrap());
    assert!(ended.ends_with('Z') && ended > enqueued, "{shown}");
    assert_eq!(shell.refused(&["jobs", "show", &nobody.to_string()]).0, 1);
    assert!(worker.stop_within(DEADLINE).await.success(), "{}", worker.log_tail(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_reported_once_and_nothing_else_is_printed() {
    let shell = Shell::with(&[("TENANTRY__REDIS__URL", "redis://127.0.0.1:1")]).await;
    let output = shell.run(&["queues"]);
    let told = String::from_utf8(output.stderr).unwrap();
    let last = told.lines().last().unwrap();
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{told}");
    assert!(
        last.starts_with("worker: Redis: ") && last.to_lowercase().matches("refused").count() == 1,
        "{last}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_shown_with_its_progress() {
    let shell = Shell::new().await;
    let job = shell.enqueue(Duration::from_hours(1)).await;
    assert!(!shell.output(&["jobs", "show", &job]).contains("progress"));
    shell
        .write_progress(
            &job,
            r#"{"attempt":2,"done":4,"total":10,"note":"\u001b[2Juploading","at":0}"#,
        )
        .await;
    let shown = shell.output(&["jobs", "show", &job]);
    assert!(
        shown.contains(
            "progress  4 of 10  \u{fffd}[2Juploading  (attempt 2, 1970-01-01T00:00:00.000Z)\n"
        ),
        "{shown}"
    );
    let shown: Value =
        serde_json::from_str(&shell.output(&["jobs", "show", &job, "--json"])).unwrap();
    assert_eq!(
        (shown["state"].as_str(), shown["progress"]["done"].as_u64()),
        (Some("delayed"), Some(4))
    );
    assert!(shown["payload"]["registration"].is_string(), "{shown}");
    assert!(shown["until"].as_str() > shown["enqueued_at"].as_str(), "{shown}");
    assert_eq!(shown["progress"]["at"].as_str(), Some("1970-01-01T00:00:00.000Z"));
    // Progress written by another release does not prevent showing the job.
    shell.write_progress(&job, "{}").await;
    assert!(shell.output(&["jobs", "show", &job]).contains("state     delayed, due 2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_listed_and_shown() {
    let shell = Shell::new().await;
    let complete = shell.jobs.commit(&Origin::system(), &StageBatch(0)).await.unwrap().to_string();
    let batch = shell.jobs.commit(&Origin::system(), &StageBatch(3)).await.unwrap().to_string();
    let listed = shell.output(&["batches", "list"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(
        lines.len() == 2
            && lines[0]
                .contains(&format!("{batch}  0 of 3 done  dead=0  in progress  then {KIND}")),
        "{listed}"
    );
    assert!(
        lines[1].contains(&format!("{complete}  0 of 0 done  dead=0  complete since 2")),
        "{listed}"
    );
    assert_eq!(
        shell.json_lines(&["batches", "list", "--limit", "1", "--json"])[0]["id"],
        Value::from(batch.as_str())
    );
    let shown = shell.output(&["batches", "show", &batch]);
    assert!(
        shown.contains("state     in progress\n")
            && shown.contains(&format!("follow-up {KIND}  job_")),
        "{shown}"
    );

    let worker = shell.env.spawn_worker().await;
    shell
        .until(&["batches", "show", &batch], |said| said.contains("state     complete since 2"))
        .await;
    let shown: Value =
        serde_json::from_str(&shell.output(&["batches", "show", &batch, "--json"])).unwrap();
    assert_eq!(
        (shown["total"].as_i64(), shown["done"].as_i64(), shown["dead"].as_i64()),
        (Some(3), Some(3), Some(0))
    );
    let nobody: BatchId = Clock::system().id();
    let (code, told) = shell.refused(&["batches", "show", &nobody.to_string()]);
    assert!(code == 1 && told.contains("not found"), "{told}");
    assert_eq!(shell.refused(&["batches", "show", "job_1"]).0, 2);
    assert!(worker.stop_within(DEADLINE).await.success(), "{}", worker.log_tail(20));
}
