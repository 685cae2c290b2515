//! The contestants, how each is started, and how much work it gets.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;
use tokio::process::Command;

use super::{contestant::Running, install, server::Server};
use crate::build::example;

/// The example of the `jobs` crate that is two contestants.
const PROGRAM: &str = "bench_engine";

/// A contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(super) enum Contestant {
    /// Our engine, with all its guarantees.
    Ours,
    /// `BullMQ`, on Node.
    Bullmq,
    /// Sidekiq, on Ruby.
    Sidekiq,
    /// The Redis backend of apalis.
    ApalisRedis,
    /// A bare Redis stream: the upper limit.
    Raw,
}

impl Contestant {
    /// All contestants, in the order of the report.
    pub(super) const ALL: [Self; 5] =
        [Self::Ours, Self::Bullmq, Self::Sidekiq, Self::ApalisRedis, Self::Raw];

    /// Its name in the table.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Bullmq => "BullMQ",
            Self::Sidekiq => "Sidekiq",
            Self::ApalisRedis => "apalis-redis",
            Self::Raw => "raw stream",
        }
    }

    /// Whether its failure is a failure of our own code.
    pub(super) const fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::Raw)
    }

    /// Jobs of a drain: about as many as it processes in a second or two, and no more than it can
    /// handle.
    pub(super) const fn drained_jobs(self) -> u32 {
        match self {
            Self::Ours | Self::Raw => 50_000,
            Self::Bullmq | Self::Sidekiq => 10_000,
            Self::ApalisRedis => 5_000,
        }
    }

    /// Jobs of a drain, one at a time.
    pub(super) const fn drained_singly_jobs(self) -> u32 {
        match self {
            Self::Ours | Self::Raw => 20_000,
            Self::Bullmq | Self::Sidekiq | Self::ApalisRedis => 5_000,
        }
    }

    /// Jobs pushed in batches.
    pub(super) const fn pushed_jobs(self) -> u32 {
        match self {
            Self::Ours | Self::Raw => 100_000,
            Self::Bullmq | Self::Sidekiq | Self::ApalisRedis => 20_000,
        }
    }

    /// Why it does not get the large backlog, if so.
    pub(super) const fn cannot_hold_large(self) -> Option<&'static str> {
        match self {
            Self::Ours | Self::Raw => None,
            Self::Bullmq | Self::Sidekiq => Some("it would take minutes"),
            Self::ApalisRedis => Some("it drains nothing if 9 000 or more jobs are queued"),
        }
    }

    /// Installs and starts it. Also returns its versions. Fails if it cannot be installed; the
    /// message contains the reason.
    pub(super) async fn start(self, server: &Server) -> anyhow::Result<(Running, String)> {
        let mut command = match self {
            Self::Ours => engine("ours").await?,
            Self::Raw => engine("raw").await?,
            Self::Bullmq => install::bullmq().await?,
            Self::Sidekiq => install::sidekiq().await?,
            Self::ApalisRedis => install::apalis_redis().await?,
        };
        command.envs(server.env()?);
        Running::start(self, command, server.log(self.title())).await
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// The program with our own contestants, in release mode.
async fn engine(which: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(example(PROGRAM).await?);
    command.arg(which);
    Ok(command)
}
