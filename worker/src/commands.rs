//! The commands with which operators inspect and control queues, jobs and batches.

mod arguments;
mod batches;
mod history;
mod jobs;
mod queues;
mod schedules;
mod text;
use std::io::{self, Write};

use ::jobs::Jobs;
use anyhow::Context;
use common::{
    clock::Clock,
    config::{Config, Smtp},
    db::Store,
    mail::Mailer,
    telemetry,
};

pub(crate) use self::{batches::BatchesCommand, jobs::JobsCommand, queues::QueuesCommand};

/// A command line that is ambiguous or contradictory.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(&'static str);

/// Shows or controls queues.
pub(crate) async fn queues(config: &Config, command: Option<QueuesCommand>) -> anyhow::Result<()> {
    with_jobs(config, async |jobs| queues::run(jobs, command.unwrap_or_default()).await).await
}

/// Shows every schedule.
pub(crate) async fn schedules(config: &Config) -> anyhow::Result<()> {
    with_store(config, async |store| schedules::run(&store, &config.maintenance).await).await
}

/// Shows or controls jobs.
pub(crate) async fn jobs(config: &Config, command: JobsCommand) -> anyhow::Result<()> {
    with_jobs(config, async |jobs| jobs::run(jobs, command).await).await
}

/// Shows batches.
pub(crate) async fn batches(config: &Config, command: BatchesCommand) -> anyhow::Result<()> {
    with_jobs(config, async |jobs| batches::run(jobs, command).await).await
}

/// Connects to the mail server and logs in.
pub(crate) async fn check_mail(smtp: &Smtp) -> anyhow::Result<()> {
    let server = format!("{}:{} (smtp.host, smtp.port)", smtp.host, smtp.port);
    let answers = Mailer::new(smtp)?.answers().await.with_context(|| server.clone())?;
    anyhow::ensure!(answers, "{server} closes the connection");
    Ok(say(&format!("{server} accepts mail"))?)
}

/// Logs actions to standard error, so that they can be recorded.
async fn with_jobs(
    config: &Config,
    command: impl AsyncFnOnce(&Jobs) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    telemetry::start_on_stderr(&config.telemetry).map_err(anyhow::Error::from_boxed)?;
    with_store(config, async |store| {
        let jobs = Jobs::start(store, &config.redis, &config.jobs).context("redis.url")?;
        command(&jobs).await
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

/// Prints a line of output.
fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
