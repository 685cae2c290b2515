//! The commands with which operators inspect and control queues, jobs and batches.

mod arguments;
mod batches;
mod control;
mod history;
mod jobs;
mod queues;
mod schedules;
mod text;

use std::borrow::Cow;

use ::jobs::{Jobs, Queue};
use anyhow::Context;
use common::{
    cli::{self, Output},
    clock::Clock,
    config::{Config, Smtp},
    db::Store,
    id::{JobId, TenantId},
    mail::Mailer,
    origin::Reason,
    telemetry,
};
use domain::{
    platform::job_control::{JobControl, RecordJobControl},
    tenancy::tenants::{Tenant, TenantRef},
};
use serde_json::json;

pub(crate) use self::{batches::BatchesCommand, jobs::JobsCommand, queues::QueuesCommand};
use crate::app::{App, registry};

/// A command line that is ambiguous or contradictory, or names what does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(Cow<'static, str>);

impl UsageError {
    fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self(text.into())
    }
}

/// What the commands work with.
struct Desk<'a> {
    config: &'a Config,
    jobs: Jobs,
    output: Output,
}

impl Desk<'_> {
    /// Records what the operator is about to do to a queue or to jobs of it.
    async fn record(
        &self,
        control: JobControl,
        queue: Queue,
        jobs: &[JobId],
        reason: Option<&Reason>,
    ) -> anyhow::Result<()> {
        let origin = cli::operator(reason.cloned());
        Ok(self.jobs.commit(&origin, &RecordJobControl { control, queue, jobs }).await?)
    }

    /// The id of the tenant that a filter names; its short name must exist.
    async fn tenant(&self, name: Option<&TenantRef>) -> anyhow::Result<Option<TenantId>> {
        match name {
            None => Ok(None),
            Some(TenantRef::Id(id)) => Ok(Some(*id)),
            Some(name) => Ok(Some(self.existing(name).await?)),
        }
    }

    /// Fails if a filter that matched nothing names a tenant that does not exist. Jobs of a tenant
    /// that no longer exists are found and can be controlled.
    async fn check_tenant(&self, tenant: Option<TenantId>, matches: usize) -> anyhow::Result<()> {
        if let Some(id) = tenant.filter(|_| matches == 0) {
            self.existing(&TenantRef::Id(id)).await?;
        }
        Ok(())
    }

    async fn existing(&self, name: &TenantRef) -> anyhow::Result<TenantId> {
        let tenant = Tenant::named(self.jobs.store(), name).await?;
        let tenant = tenant.with_context(|| {
            format!("there is no tenant {name}; run `api tenants find` to find it")
        })?;
        Ok(tenant.id)
    }

    /// Fails if a filter that matched nothing names a kind that does not exist. Jobs of a kind
    /// that this release no longer has are found and can be controlled.
    fn check_kind(&self, kind: Option<&str>, matches: usize) -> anyhow::Result<()> {
        let Some(kind) = kind.filter(|_| matches == 0) else { return Ok(()) };
        let kinds = registry(App::new(self.config, self.jobs.clone())?).kinds();
        if kinds.contains(&kind) {
            return Ok(());
        }
        let known = kinds.join(", ");
        Err(UsageError::new(format!("there is no kind `{kind}`; the kinds are {known}")).into())
    }
}

/// Shows or controls queues.
pub(crate) async fn queues(
    config: &Config,
    output: Output,
    command: Option<QueuesCommand>,
) -> anyhow::Result<()> {
    with_desk(config, output, async |desk| queues::run(desk, command.unwrap_or_default()).await)
        .await
}

/// Shows every schedule.
pub(crate) async fn schedules(config: &Config, output: Output) -> anyhow::Result<()> {
    with_store(config, async |store| schedules::run(&store, &config.maintenance, output).await)
        .await
}

/// Shows or controls jobs.
pub(crate) async fn jobs(
    config: &Config,
    output: Output,
    command: JobsCommand,
) -> anyhow::Result<()> {
    with_desk(config, output, async |desk| jobs::run(desk, command).await).await
}

/// Shows batches.
pub(crate) async fn batches(
    config: &Config,
    output: Output,
    command: BatchesCommand,
) -> anyhow::Result<()> {
    with_desk(config, output, async |desk| batches::run(desk, command).await).await
}

/// Connects to the mail server and logs in.
pub(crate) async fn check_mail(smtp: &Smtp, output: Output) -> anyhow::Result<()> {
    let server = format!("{}:{} (smtp.host, smtp.port)", smtp.host, smtp.port);
    let answers = Mailer::new(smtp)?.answers().await.with_context(|| server.clone())?;
    anyhow::ensure!(answers, "{server} closes the connection");
    let found = json!({ "host": smtp.host, "port": smtp.port, "accepts_mail": true });
    Ok(output.show(&found, [format!("{server} accepts mail")])?)
}

/// Logs actions to standard error, beside what is recorded.
async fn with_desk(
    config: &Config,
    output: Output,
    command: impl AsyncFnOnce(&Desk<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    telemetry::start_on_stderr(&config.telemetry).map_err(anyhow::Error::from_boxed)?;
    with_store(config, async |store| {
        let jobs = Jobs::start(store, &config.redis, &config.jobs).context("redis.url")?;
        command(&Desk { config, jobs, output }).await
    })
    .await
}

/// Checks the schema, and closes the store before the process ends, however the command ends.
async fn with_store(
    config: &Config,
    command: impl AsyncFnOnce(Store) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let store = Store::connect(&config.mongodb, Clock::system()).await.context("mongodb.uri")?;
    let ended = async {
        store.check_schema(domain::GENERATION).await?;
        command(store.clone()).await
    };
    let ended = ended.await;
    store.close().await;
    ended
}
