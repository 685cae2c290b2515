//! What an operator sees and does of queues, jobs and batches, from a shell.

mod batches;
mod history;
mod jobs;
mod queues;
mod schedules;
mod text;

use std::io::{self, Write};

use ::jobs::Jobs;
use anyhow::Context;
use common::{ambient::Ambient, config::Config, db::Store, telemetry};

pub(crate) use self::{batches::BatchesCommand, jobs::JobsCommand, queues::QueuesCommand};

/// A command that leaves open what is meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unclear(&'static str);

/// Shows or steers queues.
pub(crate) async fn queues(config: &Config, command: Option<QueuesCommand>) -> anyhow::Result<()> {
    queues::run(&connect(config).await?, command.unwrap_or_default()).await
}

/// Shows every schedule.
pub(crate) async fn schedules(config: &Config) -> anyhow::Result<()> {
    schedules::run(&Store::connect(&config.mongodb, Ambient::system()).await?).await
}

/// Shows or steers jobs.
pub(crate) async fn jobs(config: &Config, command: JobsCommand) -> anyhow::Result<()> {
    jobs::run(&connect(config).await?, command).await
}

/// Shows batches.
pub(crate) async fn batches(config: &Config, command: BatchesCommand) -> anyhow::Result<()> {
    batches::run(&connect(config).await?, command).await
}

/// What is done is logged on standard error, so that it can be kept.
async fn connect(config: &Config) -> anyhow::Result<Jobs> {
    telemetry::start_on_stderr(&config.telemetry).map_err(anyhow::Error::from_boxed)?;
    let store = Store::connect(&config.mongodb, Ambient::system()).await.context("mongodb.uri")?;
    Jobs::start(store, &config.redis, &config.jobs).context("redis.url")
}

/// One line of the answer.
fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
