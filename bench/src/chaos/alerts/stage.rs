//! The product with its servers, and Prometheus and Alertmanager watching it.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use mongodb::bson::{DateTime, doc};
use programs::{Process, ProcessSpec, command::run_once, progress::step};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use testkit::servers::{Mail, MailCatcher};
use tokio::task::JoinSet;

use super::monitoring::{Alertmanager, Prometheus, Targets, Tools};
use crate::stack::{Ports, Servers};

/// Name of the database, and prefix of the keys.
const NAME: &str = "alerts";
/// The demo account.
const DEMO: (&str, &str) = ("test@example.com", "password123");
const PASSWORD: &str = "correct horse battery staple";
/// Timeout of a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Time between two requests of the traffic in the background, and between two sign-ins.
const REQUEST_PAUSE: Duration = Duration::from_millis(100);
const SIGN_IN_PAUSE: Duration = Duration::from_secs(1);
/// Maximum time until the canary has run.
const CANARY_WITHIN: Duration = Duration::from_mins(1);
/// Maximum time until a mail arrives, also after its worker was killed.
const MAILED_WITHIN: Duration = Duration::from_secs(30);
/// Ids of jobs that no release of ours enqueued.
const FORGED_JOB: &str = "job_0192a0b8c0de7000800000000000f00d";
const UNKNOWN_JOB: &str = "job_0192a0b8c0de7000800000000000cafe";
/// See `AUTH__REFRESH_GRACE` below.
const REFRESH_GRACE: Duration = Duration::from_secs(1);
/// Settings besides the defaults: clients choose their IP address, schedules, retries and timeouts
/// that the rules assume are shortened like the rules, and few mails are enough for a backlog.
const SETTINGS: &[(&str, &str)] = &[
    ("API__TRUSTED_PROXIES", "127.0.0.1"),
    ("AUTH__ACCESS_TOKEN_TTL", "1h"),
    ("AUTH__REFRESH_GRACE", "1s"),
    ("AUTH__RESEND_COOLDOWN", "1s"),
    ("RATE_LIMITS__NETWORK", "1000000"),
    ("RATE_LIMITS__USER", "1000000"),
    ("RATE_LIMITS__TENANT", "1000000"),
    ("JOBS__BACKOFF_MAX", "5s"),
    ("JOBS__LEASE", "5s"),
    ("MAINTENANCE__CANARY_SCHEDULE", "*/5 * * * * *"),
    ("QUEUES__EMAIL__CONCURRENCY", "2"),
    ("REDIS__TIMEOUT", "1s"),
    ("SMTP__TIMEOUT", "2s"),
    ("TELEMETRY__FILTER", "info"),
];

/// Everything that runs. Fields are dropped in order: the programs before the servers, and those
/// before their data.
pub(super) struct Stage {
    traffic: JoinSet<()>,
    pub(super) prometheus: Prometheus,
    pub(super) alertmanager: Alertmanager,
    pub(super) api: Process,
    pub(super) worker: Process,
    /// The mail server of the product.
    pub(super) mail: MailCatcher,
    pub(super) servers: Servers,
    client: Client,
    ports: Ports,
    env: Vec<(String, String)>,
    programs: std::path::PathBuf,
}

impl Stage {
    /// Starts everything and light traffic.
    pub(super) async fn start(programs: &Path, tools: &Tools, factor: u32) -> anyhow::Result<Self> {
        let (servers, ports) = (Servers::start().await?, Ports::free()?);
        let mut env = servers.env(NAME, ports);
        env.extend(
            SETTINGS.iter().map(|(name, value)| (format!("TENANTRY__{name}"), (*value).to_owned())),
        );
        let folder = servers.folder.path().to_owned();
        let mail = MailCatcher::start(Some(ports.smtp)).await?;
        let (api, worker) =
            step("starting the API and a worker", product(programs, &folder, &env, ports)).await?;
        let client = Client::builder().timeout(ANSWER_WITHIN).build()?;
        let watching = async {
            // Before the first run of the canary, it is late by decades.
            canary_ran(&client, ports.worker_internal).await?;
            let alertmanager = Alertmanager::start(tools.alertmanager(), &folder, factor).await?;
            let targets = Targets::new(ports.api_internal, ports.worker_internal, &alertmanager);
            let prometheus =
                Prometheus::start(tools.prometheus(), &folder, targets, factor).await?;
            prometheus.scraped().await?;
            Ok((prometheus, alertmanager))
        };
        let (prometheus, alertmanager) =
            step("starting Prometheus and Alertmanager", watching).await?;
        let mut stage = Self {
            traffic: JoinSet::new(),
            prometheus,
            alertmanager,
            api,
            worker,
            mail,
            servers,
            client,
            ports,
            env,
            programs: programs.to_owned(),
        };
        stage.begin_traffic().await?;
        Ok(stage)
    }

    /// Requests of a user who is signed in, and sign-ins, until the stage ends.
    async fn begin_traffic(&mut self) -> anyhow::Result<()> {
        let (status, session) = self.sign_in().await?;
        ensure!(status.is_success(), "the demo account cannot sign in: {status} {session}");
        let token = session["access_token"].as_str().context("a login returns a token")?.to_owned();
        let (client, url) = (self.client.clone(), self.url("/api/auth/me"));
        self.traffic.spawn(async move {
            loop {
                // The faults decide what it returns.
                let _ = client.get(&url).bearer_auth(&token).send().await;
                tokio::time::sleep(REQUEST_PAUSE).await;
            }
        });
        let (client, url) = (self.client.clone(), self.url("/api/auth/login"));
        self.traffic.spawn(async move {
            loop {
                let _ = client.post(&url).json(&demo()).send().await;
                tokio::time::sleep(SIGN_IN_PAUSE).await;
            }
        });
        // They come from another network, which is mailed to the user. That mail must not be among
        // those of a fault.
        self.mailed(DEMO.0, 1).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports.api)
    }

    async fn post(
        &self,
        path: &str,
        network: &str,
        body: Value,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let request = self.client.post(self.url(path)).header("X-Forwarded-For", network);
        let answer = request.json(&body).send().await?;
        Ok((answer.status(), answer.json().await.unwrap_or_default()))
    }

    async fn sign_in(&self) -> anyhow::Result<(StatusCode, Value)> {
        self.post("/api/auth/login", "192.0.2.1", demo()).await
    }

    /// Tries a password on an account that does not exist, from a network of its own.
    pub(super) async fn try_password(&self, number: u32) -> anyhow::Result<StatusCode> {
        let body =
            json!({ "email": format!("nobody-{number}@example.com"), "password": "Tr0ub4dor&3" });
        Ok(self.post("/api/auth/login", &address(number), body).await?.0)
    }

    /// Registers a new person, who is mailed.
    pub(super) async fn register(&self, email: &str) -> anyhow::Result<()> {
        let body = json!({ "email": email, "password": PASSWORD, "name": "Ada", "tenant_name": "Engines" });
        let (status, answer) = self.post("/api/auth/register", "192.0.2.2", body).await?;
        ensure!(status == StatusCode::ACCEPTED, "registering returned {status}: {answer}");
        Ok(())
    }

    /// Requests a password reset for the demo account from a network. It is mailed, unless that
    /// network has requested too many.
    pub(super) async fn forget_password(&self, network: &str) -> anyhow::Result<StatusCode> {
        let body = json!({ "email": DEMO.0 });
        Ok(self.post("/api/auth/password/forgot", network, body).await?.0)
    }

    /// Uses a refresh token again after its successor was issued.
    pub(super) async fn reuse_refresh_token(&self) -> anyhow::Result<()> {
        let (_, session) = self.sign_in().await?;
        let token = session["refresh_token"].as_str().context("a login returns a refresh token")?;
        let body = json!({ "refresh_token": token, "token_delivery": "body" });
        let path = "/api/auth/refresh";
        let (status, answer) = self.post(path, "192.0.2.1", body.clone()).await?;
        ensure!(status.is_success(), "refreshing returned {status}: {answer}");
        tokio::time::sleep(REFRESH_GRACE * 2).await;
        let (status, answer) = self.post(path, "192.0.2.1", body).await?;
        ensure!(status == StatusCode::UNAUTHORIZED, "reusing returned {status}: {answer}");
        Ok(())
    }

    /// Waits until a mail to `recipient` has arrived for the `times`th time.
    pub(super) async fn mailed(&self, recipient: &str, times: usize) -> anyhow::Result<()> {
        let arrived = async {
            let is_it = |mail: &Mail| mail.to == [recipient];
            while self.mail.messages().iter().filter(|mail| is_it(mail)).count() < times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let arrived = tokio::time::timeout(MAILED_WITHIN, arrived).await;
        arrived.with_context(|| format!("mail {times} to {recipient} has not arrived"))
    }

    /// Writes a job with a wrong signature to Redis.
    pub(super) async fn forge_job(&self) -> anyhow::Result<()> {
        let envelope = json!({
            "id": FORGED_JOB,
            "kind": "registration.send_verification",
            "enqueued_at": DateTime::now().timestamp_millis(),
            "mac": "forged",
            "payload": {},
        });
        let mut write = redis::cmd("XADD");
        write.arg(format!("{{{NAME}:email}}:stream")).arg("*").arg("e").arg(envelope.to_string());
        let mut redis = self.servers.redis.connection().await?;
        write.exec_async(&mut redis).await.context("writing a job to Redis")
    }

    /// Stages a job of a kind that no worker knows.
    pub(super) async fn stage_unknown_job(&self) -> anyhow::Result<()> {
        let row = doc! {
            "_id": UNKNOWN_JOB,
            "queue": "maintenance",
            "kind": "release.next",
            "version": 1,
            "tenant_id": null,
            "payload": "{}",
            "traceparent": null,
            "staged_at": DateTime::now(),
            "due_at": null,
            "handed_at": null,
            "dead_at": null,
        };
        let mongodb = mongodb::Client::with_uri_str(self.servers.mongod.uri()).await?;
        mongodb
            .database(NAME)
            .collection("outbox")
            .insert_one(row)
            .await
            .context("staging a job")?;
        Ok(())
    }

    /// Cancels the job of the unknown kind.
    pub(super) async fn cancel_unknown_job(&self) -> anyhow::Result<()> {
        self.operate(&["jobs", "cancel", UNKNOWN_JOB, "--reason", "a test of the alerts"]).await
    }

    /// Runs `worker` with these arguments, as an operator does.
    pub(super) async fn operate(&self, args: &[&str]) -> anyhow::Result<()> {
        let log = self.servers.folder.path().join("operator.log");
        run_once(&self.programs.join("worker"), args, &self.env, &log).await
    }

    /// Restarts the programs of the product one after the other.
    pub(super) async fn roll(&self) -> anyhow::Result<()> {
        for process in [&self.api, &self.worker] {
            process.stop().await;
            process.start_again().await?;
        }
        Ok(())
    }

    /// Stops everything: first the programs, then the servers.
    pub(super) async fn stop(self) {
        drop(self.traffic);
        self.prometheus.stop().await;
        self.alertmanager.stop().await;
        self.api.stop().await;
        self.worker.stop().await;
        self.mail.stop().await;
    }
}

fn demo() -> Value {
    json!({ "email": DEMO.0, "password": DEMO.1, "token_delivery": "body" })
}

/// An IP address of a network that no other number has.
fn address(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("10.{a}.{b}.{c}")
}

async fn product(
    programs: &Path,
    folder: &Path,
    env: &[(String, String)],
    ports: Ports,
) -> anyhow::Result<(Process, Process)> {
    let (api, worker) = (programs.join("api"), programs.join("worker"));
    for command in [&["migrate", "up"][..], &["seed-demo"]] {
        run_once(&api, command, env, &folder.join("prepare.log")).await?;
    }
    let spec = |name: &str, program: &Path, args: &[&str], port| {
        let log = folder.join(format!("{name}.log"));
        ProcessSpec::new(name, program, args, log, port).envs(env.to_vec())
    };
    tokio::try_join!(
        Process::start(spec("api", &api, &["serve"], ports.api_internal)),
        Process::start(spec("worker", &worker, &["run"], ports.worker_internal))
    )
}

/// Waits until a scheduled job has run.
async fn canary_ran(client: &Client, port: u16) -> anyhow::Result<()> {
    let never = "tenantry_jobs_canary_timestamp_seconds 0\n";
    let url = format!("http://127.0.0.1:{port}/metrics");
    let running = async {
        while client.get(&url).send().await?.text().await?.contains(never) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(CANARY_WITHIN, running).await.context("the canary has not run")?
}
