//! A new stack for one measurement: real servers in a temporary folder, release builds of our
//! programs, and logs with errors only, so that logging is not measured.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use programs::{Process, ProcessSpec, Wiring, command::run_once, free_port, progress::step};
use tempfile::TempDir;
use testkit::servers::{Inbox, Mail, MailCatcher, Mongod, Redis};

/// Maximum number of mails; the oldest are deleted first.
const MAILS_MAX: usize = 1_000;
const MAIL_WITHIN: Duration = Duration::from_secs(30);

/// MongoDB and Redis. Fields are dropped in order: the programs before their data.
pub(super) struct Servers {
    pub(super) mongod: Mongod,
    pub(super) redis: Redis,
    pub(super) folder: TempDir,
}

impl Servers {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("tenantry-bench-").tempdir()?;
        let (mongod, redis) = (folder.path().join("mongod"), folder.path().join("redis"));
        let starting =
            async { tokio::try_join!(Mongod::start(&mongod, None), Redis::start(&redis, None)) };
        let (mongod, redis) = step("starting MongoDB and Redis", starting).await?;
        Ok(Self { mongod, redis, folder })
    }

    /// Environment variables of our programs; `name` is their database and key prefix.
    pub(super) fn env(&self, name: &str, ports: Ports) -> Vec<(String, String)> {
        let wiring = Wiring {
            public_url: format!("http://127.0.0.1:{}", ports.api),
            api_port: ports.api,
            api_internal_port: ports.api_internal,
            worker_internal_port: ports.worker_internal,
            mongodb_uri: self.mongod.uri(),
            database: name.to_owned(),
            redis_url: self.redis.url(),
            key_prefix: name.to_owned(),
            smtp_port: ports.smtp,
        };
        let mut env = wiring.env();
        env.push(("TENANTRY__TELEMETRY__FILTER".to_owned(), "warn".to_owned()));
        // All requests come from one network.
        env.push(("TENANTRY__AUTH__MAILS_PER_NETWORK".to_owned(), "1000000".to_owned()));
        // Requests are counted, and none is refused.
        for policy in ["NETWORK", "USER", "KEY", "TENANT"] {
            env.push((format!("TENANTRY__RATE_LIMITS__{policy}"), "1000000".to_owned()));
        }
        env
    }
}

/// The ports of our programs and of the mail catcher.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) api: u16,
    pub(super) api_internal: u16,
    pub(super) worker_internal: u16,
    pub(super) smtp: u16,
}

impl Ports {
    pub(super) fn free() -> anyhow::Result<Self> {
        Ok(Self {
            api: free_port()?,
            api_internal: free_port()?,
            worker_internal: free_port()?,
            smtp: free_port()?,
        })
    }
}

/// The whole product.
pub(super) struct Stack {
    api: Process,
    worker: Process,
    mail: MailCatcher,
    inbox: Arc<Inbox>,
    ports: Ports,
    servers: Servers,
}

impl Stack {
    pub(super) async fn start(programs: &Path) -> anyhow::Result<Self> {
        Self::start_with(programs, &[]).await
    }

    /// As `start`, with further environment variables.
    pub(super) async fn start_with(
        programs: &Path,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let (servers, ports) = (Servers::start().await?, Ports::free()?);
        let (mut env, logs) = (servers.env("bench", ports), servers.folder.path().to_owned());
        env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let inbox = Arc::new(Inbox::new(MAILS_MAX));
        let mail = MailCatcher::start_with(ports.smtp, Arc::clone(&inbox)).await?;
        let starting = async {
            let api = programs.join("api");
            run_once(&api, &["migrate", "up"], &env, &logs.join("migrate.log")).await?;
            let api =
                ProcessSpec::new("api", api, &["serve"], logs.join("api.log"), ports.api_internal)
                    .envs(env.clone());
            let worker = programs.join("worker");
            let worker = ProcessSpec::new(
                "worker",
                worker,
                &["run"],
                logs.join("worker.log"),
                ports.worker_internal,
            )
            .envs(env);
            tokio::try_join!(Process::start(api), Process::start(worker))
        };
        let (api, worker) = step("starting the API and a worker", starting).await?;
        Ok(Self { api, worker, mail, inbox, ports, servers })
    }

    /// URL for clients.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.api)
    }

    /// The value of the API's metric with this name and labels.
    pub(super) async fn api_metric(&self, series: &str) -> anyhow::Result<f64> {
        let text = reqwest::get(format!("http://127.0.0.1:{}/metrics", self.ports.api_internal))
            .await?
            .text()
            .await?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value
            .with_context(|| format!("the API has no metric {series}"))?
            .parse()
            .context("metrics are numbers")
    }

    /// The versions of the servers.
    pub(super) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The next mail that `wanted` accepts.
    pub(super) async fn mail(&self, wanted: impl Fn(&Mail) -> bool) -> anyhow::Result<Arc<Mail>> {
        let mail = tokio::time::timeout(MAIL_WITHIN, self.inbox.wait_for(wanted)).await;
        mail.with_context(|| {
            format!(
                "no mail arrived within {MAIL_WITHIN:?}; the log of the worker:\n{}",
                self.worker.log_tail(20)
            )
        })
    }

    /// The end of the log of the API.
    pub(super) fn api_log(&self) -> String {
        self.api.log_tail(20)
    }

    /// Stops everything: first the programs, then the servers.
    pub(super) async fn stop(self) {
        self.api.stop().await;
        self.worker.stop().await;
        self.mail.stop().await;
    }
}
